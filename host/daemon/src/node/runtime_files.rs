//! Files that live as long as a daemon: the socket of its API, and the lock of a home that has none. They lie in the home or,
//! where nothing can be written there, in a directory of this user alone.
//!
//! There a home is known by the numbers that the system has for its directory, so all paths to it lead to one file. Who
//! looks for a socket looks in all places: a process of a service has other settings than one of a session. A place
//! that anybody else may write to is no place.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

/// The name of the API's socket in a home.
pub const SOCKET_NAME: &str = "lattice.sock";

/// All places where the socket of a home's daemon may be, in the order in which to look.
pub fn sockets(home: &Path) -> Vec<PathBuf> {
    let elsewhere = bases().into_iter().filter(|base| is_private(base));
    let name = name(home, "sock").ok();
    let elsewhere = elsewhere.filter_map(|base| Some(base.join(name.as_ref()?)));
    [home.join(SOCKET_NAME)]
        .into_iter()
        .chain(elsewhere)
        .collect()
}

/// A path for a file of a home elsewhere: the first for which `make` can make the file.
///
/// # Errors
/// The last error, when no place takes the file.
pub(crate) fn elsewhere<T>(
    home: &Path,
    kind: &str,
    mut make: impl FnMut(&Path) -> io::Result<T>,
) -> io::Result<(PathBuf, T)> {
    let name = name(home, kind)?;
    let mut last = io::Error::from(io::ErrorKind::ReadOnlyFilesystem);
    for base in bases() {
        let made = match DirBuilder::new().mode(0o700).create(&base) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ if !is_private(&base) => Err(io::ErrorKind::PermissionDenied.into()),
            _ => make(&base.join(&name)).map(|made| (base.join(&name), made)),
        };
        match made {
            Ok(made) => return Ok(made),
            Err(error) => last = error,
        }
    }
    Err(last)
}

/// Removes sockets elsewhere that daemons of a home left when they were killed, and directories that hold nothing more. The caller holds the lock of the home.
pub(crate) fn remove_left(home: &Path) {
    for path in sockets(home).into_iter().skip(1) {
        let _ = fs::remove_file(path);
    }
    // One that holds something stays.
    for base in bases().iter().filter(|base| is_private(base)) {
        let _ = fs::remove_dir(base);
    }
}

/// Whether a home cannot take a file although nothing is wrong with it.
pub(crate) fn takes_nothing(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ReadOnlyFilesystem
            | io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
    )
}

/// Directories of this user: below that of the session, that which the system makes for sessions, and /tmp.
fn bases() -> Vec<PathBuf> {
    let user = rustix::process::geteuid().as_raw();
    let session = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
    let session = session.filter(|path| path.is_absolute());
    let mut bases: Vec<PathBuf> = session
        .into_iter()
        .chain([format!("/run/user/{user}").into(), "/tmp".into()])
        .map(|base| base.join(format!("lattice-{user}")))
        .collect();
    bases.dedup();
    bases
}

/// Whether only this user can change what is in a directory.
fn is_private(directory: &Path) -> bool {
    fs::symlink_metadata(directory).is_ok_and(|found| {
        found.is_dir()
            && found.uid() == rustix::process::geteuid().as_raw()
            && found.mode() & 0o077 == 0
    })
}

fn name(home: &Path, kind: &str) -> io::Result<String> {
    let found = fs::metadata(home)?;
    Ok(format!("{:x}-{:x}.{kind}", found.dev(), found.ino()))
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn all_paths_to_a_home_lead_to_one_file_elsewhere_and_another_home_has_another() {
        let dir = tempfile::tempdir().unwrap();
        let (home, other) = (dir.path().join("home"), dir.path().join("other"));
        for home in [&home, &other] {
            fs::create_dir(home).unwrap();
        }
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&home, &link).unwrap();
        let (path, ()) = elsewhere(&home, "sock", |path| fs::write(path, b"")).unwrap();
        assert!(sockets(&home)[1..].contains(&path));
        assert_eq!(sockets(&link)[1..], sockets(&home)[1..]);
        assert!(!sockets(&other).contains(&path));
        remove_left(&link);
        assert!(!path.exists());
    }

    #[test]
    fn a_directory_that_others_may_write_to_is_no_place() {
        let dir = tempfile::tempdir().unwrap();
        let mode = |mode| {
            fs::set_permissions(dir.path(), fs::Permissions::from_mode(mode)).unwrap();
            is_private(dir.path())
        };
        assert!(mode(0o700));
        assert!(!mode(0o770) && !mode(0o777) && !mode(0o750));
        assert!(mode(0o700));
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path(), &link).unwrap();
        assert!(!is_private(&link), "a link may be anybody's");
    }
}
