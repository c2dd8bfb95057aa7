//! The clock of a machine: the system's, and as many seconds ahead of it as torture says.
//!
//! Namespaces of time leave the wall clock alone, so a library that is loaded into the program adds the seconds.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// Source of the library that is loaded into programs.
const SOURCE: &str = include_str!("clock.c");

/// Compiles the library into a directory.
///
/// # Errors
///
/// When the C compiler fails.
pub(super) fn build(directory: &Path) -> Result<PathBuf> {
    let (source, library) = (directory.join("clock.c"), directory.join("clock.so"));
    fs::write(&source, SOURCE).context("the source of the clock")?;
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]);
    shell::run(cc.arg(&library).arg(&source).arg("-ldl")).context("the clock does not build")?;
    Ok(library)
}

/// The clock of one machine.
#[derive(Debug)]
pub(super) struct Clock {
    library: PathBuf,
    file: PathBuf,
}

impl Clock {
    /// A clock that is right, whose seconds ahead stand in `file`.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn new(library: &Path, file: PathBuf) -> Result<Clock> {
        fs::write(&file, 0i64.to_ne_bytes()).context("the file of a clock")?;
        Ok(Clock {
            library: library.to_path_buf(),
            file,
        })
    }

    /// Sets the clock so many seconds ahead of the system's, or behind it.
    ///
    /// # Errors
    ///
    /// When the file cannot be written.
    pub(super) fn set(&self, ahead_s: i64) -> Result<()> {
        // In place: programs have the file mapped.
        let mut file = File::options().write(true).open(&self.file)?;
        file.write_all(&ahead_s.to_ne_bytes())?;
        Ok(())
    }

    /// Gives a program this clock.
    pub(super) fn wind<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command
            .env("LD_PRELOAD", &self.library)
            .env("TORTURE_CLOCK", &self.file)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_for_the_programs_that_have_it_and_for_no_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let library = build(dir.path()).expect("cc compiles it");
        let clock = Clock::new(&library, dir.path().join("ahead")).expect("written");
        let year = |command: &mut Command| {
            let said = shell::read(command.args(["-u", "+%Y"])).expect("date tells it");
            said.trim().parse::<i64>().expect("a year")
        };
        let now = year(&mut Command::new("date"));
        assert_eq!(year(clock.wind(&mut Command::new("date"))), now);
        clock.set(20 * 366 * 86_400).expect("set");
        assert!(year(clock.wind(&mut Command::new("date"))) >= now + 20);
        assert_eq!(year(&mut Command::new("date")), now);
    }
}
