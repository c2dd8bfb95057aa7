//! The settings of a measurement: programs, directories, durations and counts.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use tempfile::TempDir;

/// The options of a measurement.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) lattice: PathBuf,
    /// The directory with the built components.
    pub(crate) plugins: PathBuf,
    /// Where homes and raw files are made; `None` for the system's temporary directory.
    pub(crate) place: Option<PathBuf>,
    /// Where a large store is filled before it is copied; `None` for `place`.
    pub(crate) fill_place: Option<PathBuf>,
    /// How often each figure is measured.
    pub(crate) runs: usize,
    /// How long each configuration of a run is loaded, all turns together.
    pub(crate) load: Duration,
    /// Entries of the stores that are joined and opened.
    pub(crate) entries: u64,
}

impl Settings {
    /// A new empty directory, removed when it is dropped.
    ///
    /// # Errors
    /// When it cannot be made.
    pub(crate) fn directory(&self) -> Result<TempDir> {
        let mut builder = tempfile::Builder::new();
        // The prefix is short, because the path of a socket has 107 bytes at most.
        builder.prefix("lb-");
        match &self.place {
            None => builder.tempdir(),
            Some(place) => builder.tempdir_in(place),
        }
        .context("cannot make a directory")
    }

    /// Prints a line of progress to standard error.
    pub(crate) fn say(&self, text: &str) {
        eprintln!("    {text}");
    }
}
