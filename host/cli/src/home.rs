//! The home: the directory in which a node keeps its files.

use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::failure::{Class, Failure, Result};

/// The home that a command works with: the one that was given, else `$LATTICE_HOME`, else `lattice` in the XDG
/// data directory. The path is absolute, and need not exist.
pub(crate) fn resolve(given: Option<&Path>) -> Result<PathBuf> {
    let chosen = choose(given, |name| env::var_os(name)).ok_or_else(|| {
        Failure::new(
            Class::Unreachable,
            "no home: neither $LATTICE_HOME, $XDG_DATA_HOME nor $HOME is set",
        )
        .hint("give --home DIR")
    })?;
    std::path::absolute(&chosen).map_err(|error| {
        Failure::new(
            Class::Unreachable,
            format!("cannot use the home {chosen:?}: {error}"),
        )
    })
}

fn choose(given: Option<&Path>, variable: impl Fn(&str) -> Option<OsString>) -> Option<PathBuf> {
    // An empty variable counts as not set, as the XDG specification has it.
    let set = |name| variable(name).filter(|value| !value.is_empty());
    if let Some(given) = given {
        return Some(given.to_owned());
    }
    if let Some(home) = set("LATTICE_HOME") {
        return Some(home.into());
    }
    // The XDG specification says that relative paths are ignored.
    let data = set("XDG_DATA_HOME")
        .map(PathBuf::from)
        .filter(|data| data.is_absolute())
        .or_else(|| set("HOME").map(|home| Path::new(&home).join(".local/share")))?;
    Some(data.join("lattice"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(given: Option<&str>, variables: &[(&str, &str)], expected: Option<&str>) {
        let chosen = choose(given.map(Path::new), |name| {
            variables
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, value)| value.into())
        });
        assert_eq!(chosen, expected.map(PathBuf::from));
    }

    #[test]
    fn the_nearest_word_decides() {
        let all = [
            ("LATTICE_HOME", "/l"),
            ("XDG_DATA_HOME", "/x"),
            ("HOME", "/h"),
        ];
        check(Some("/g"), &all, Some("/g"));
        check(None, &all, Some("/l"));
        check(None, &all[1..], Some("/x/lattice"));
        check(None, &all[2..], Some("/h/.local/share/lattice"));
        check(None, &[], None);
    }

    #[test]
    fn empty_and_relative_variables_do_not_count() {
        check(
            None,
            &[("LATTICE_HOME", ""), ("XDG_DATA_HOME", "x"), ("HOME", "/h")],
            Some("/h/.local/share/lattice"),
        );
    }
}
