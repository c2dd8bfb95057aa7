//! The home of a node: a directory that one process at a time has open.
//!
//! ```text
//! identity.key     the device's secret key, 32 bytes, 0600
//! lock             locked while a process has the home open; holds its process id
//! node.redb        what the node knows beside its stores, see `records`
//! stores/<id>/     log/ and state.redb of one store
//! blobs/           content by hash, in the scope of stores
//! components/      components and their compiled code
//! lattice.sock     the API, 0600, while a daemon runs
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lattice_format::StoreId;
use lattice_kernel::{Unopened, machine_remedy};

use crate::limits::LOCK_POLL;
use crate::node::clock;

/// The name of the API's socket in a home.
pub const SOCKET_NAME: &str = "lattice.sock";

/// Why a home cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has the home open.
    #[error("{home} is locked by {}", match pid { Some(pid) => format!("process {pid}"), None => "another process".into() }, home = home.display())]
    Locked {
        /// The home.
        home: PathBuf,
        /// The id of the process, if the lock file has it.
        pid: Option<u32>,
    },
    /// A file or directory of it cannot be used.
    #[error("{path}: {error}; {remedy}", path = path.display(), remedy = machine_remedy(error))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Others can read the secret key.
    #[error("{path} has the mode {mode:04o}, and others may have read the key; make it 0600, or remove it to become a new device", path = path.display())]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// The permissions of the key file.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("{path} has {len} bytes, and a key has 32; restore it from a backup, or remove it to become a new device", path = path.display())]
    KeyLength {
        /// The key file.
        path: PathBuf,
        /// The length of the key file, in bytes.
        len: usize,
    },
    /// A file of the home is damaged, or newer than this version.
    #[error("{path}: {reason}", path = path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Another process has a file of it open, without the lock.
    #[error("another process has {path} open, but not the lock of the home, whose file may have been removed meanwhile; end that process first", path = path.display())]
    InUse {
        /// The file.
        path: PathBuf,
    },
    /// The runtime for components does not start.
    #[error("the component runtime does not start: {0}")]
    Runtime(String),
    /// The network does not start.
    #[error("the network does not start: {0}")]
    Network(String),
    /// The socket cannot be served.
    #[error("cannot listen at {path}: {error}", path = path.display())]
    Socket {
        /// The socket.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
}

/// An open home. The lock is held until this is dropped.
#[derive(Debug)]
pub(crate) struct Home {
    path: PathBuf,
    lock: File,
    released: AtomicBool,
}

impl OpenError {
    /// A redb file that does not open, with what helps if it is damaged.
    pub(crate) fn unopened(path: &Path, error: Unopened, if_damaged: &str) -> Self {
        let path = path.to_owned();
        match error {
            Unopened::InUse => Self::InUse { path },
            Unopened::Damaged(_) => Self::Unreadable {
                path,
                reason: format!("{error}; while no daemon runs, {if_damaged}"),
            },
            Unopened::Refused { .. } => Self::Unreadable {
                path,
                reason: error.to_string(),
            },
        }
    }
}

fn io_error(path: &Path) -> impl FnOnce(io::Error) -> OpenError + '_ {
    move |error| OpenError::Io {
        path: path.to_owned(),
        error,
    }
}

/// Creates a directory, and those above it, with access for the owner alone.
fn make_private(path: &Path) -> Result<(), OpenError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(io_error(path))
}

impl Home {
    /// Opens a home, which is created if it does not exist. Waits up to `patience` for another process that has it
    /// open. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(path: &Path, patience: Duration) -> Result<Self, OpenError> {
        make_private(path)?;
        let lock_path = path.join("lock");
        let mut lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io_error(&lock_path))?;
        let deadline = Instant::now() + patience;
        loop {
            match lock.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(io_error(&lock_path)(error)),
            }
            if Instant::now() >= deadline {
                let mut text = String::new();
                let pid = match lock.read_to_string(&mut text) {
                    Ok(_) => text.trim().parse().ok(),
                    Err(_) => None,
                };
                return Err(OpenError::Locked {
                    home: path.to_owned(),
                    pid,
                });
            }
            std::thread::sleep(LOCK_POLL);
        }
        lock.set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
            .map_err(io_error(&lock_path))?;
        for directory in ["stores", "blobs", "components"] {
            make_private(&path.join(directory))?;
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
            released: AtomicBool::new(false),
        })
    }

    /// The directory of the home.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The device's secret key, which is created if there is none.
    ///
    /// # Errors
    /// When others can read the key file, it does not hold a key, or it cannot be read or written.
    pub(crate) fn identity(&self) -> Result<SigningKey, OpenError> {
        let path = self.path.join("identity.key");
        match File::open(&path) {
            Ok(mut file) => {
                let mode = file
                    .metadata()
                    .map_err(io_error(&path))?
                    .permissions()
                    .mode()
                    & 0o777;
                if mode & 0o077 != 0 {
                    return Err(OpenError::KeyMode { path, mode });
                }
                let mut bytes = Vec::new();
                Read::by_ref(&mut file)
                    .take(64)
                    .read_to_end(&mut bytes)
                    .map_err(io_error(&path))?;
                match <[u8; 32]>::try_from(bytes) {
                    Ok(secret) => Ok(SigningKey::from_bytes(&secret)),
                    Err(bytes) => Err(OpenError::KeyLength {
                        path,
                        len: bytes.len(),
                    }),
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let key = clock::key_pair();
                write_durably(&path, key.as_bytes(), 0o600).map_err(io_error(&path))?;
                Ok(key)
            }
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// The file of the node's records.
    pub(crate) fn records(&self) -> PathBuf {
        self.path.join("node.redb")
    }

    /// The directory of one store.
    pub(crate) fn store(&self, id: &StoreId) -> PathBuf {
        self.path.join("stores").join(hex::encode(id.as_bytes()))
    }

    /// The directories of all stores, whether the node knows them or not.
    ///
    /// # Errors
    /// When the directory cannot be read.
    pub(crate) fn store_directories(&self) -> io::Result<Vec<PathBuf>> {
        fs::read_dir(self.path.join("stores"))?
            .map(|entry| Ok(entry?.path()))
            .collect()
    }

    /// The directory for content by hash.
    pub(crate) fn blobs(&self) -> PathBuf {
        self.path.join("blobs")
    }

    /// The directory for components and their compiled code.
    pub(crate) fn components(&self) -> PathBuf {
        self.path.join("components")
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.path.join(SOCKET_NAME)
    }

    /// The permissions of the home directory.
    ///
    /// # Errors
    /// When the system does not tell them.
    pub(crate) fn mode(&self) -> io::Result<u32> {
        Ok(fs::metadata(&self.path)?.permissions().mode() & 0o777)
    }
}

impl Home {
    /// Releases the lock before the home is dropped.
    pub(crate) fn release(&self) {
        // The process id is removed, because the process will be gone. The file stays: if it were removed, two
        // processes could each lock a file of this name.
        if !self.released.swap(true, Ordering::Relaxed) {
            let _ = self.lock.set_len(0);
            let _ = self.lock.unlock();
        }
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.release();
    }
}

/// Writes a file atomically and durably: after a crash it is there as a whole, or is not there.
///
/// # Errors
/// When the system fails. Unless the sync of the directory failed, the file is not there then.
pub(crate) fn write_durably(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let parent = path
        .parent()
        .ok_or_else(|| io::Error::other("a file has a directory"))?;
    let mut temporary = path.as_os_str().to_owned();
    temporary.push(format!(".{:016x}.part", rand::random::<u64>()));
    let temporary = PathBuf::from(temporary);
    let written = (|| {
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&temporary)?;
        // The umask may have removed bits of the mode.
        file.set_permissions(Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(parent)?.sync_all()
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_home_is_private_and_keeps_its_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/home");
        let home = Home::open(&path, Duration::ZERO).unwrap();
        assert_eq!(home.mode().unwrap(), 0o700);
        let key = home.identity().unwrap();
        assert_eq!(home.identity().unwrap().as_bytes(), key.as_bytes());
        let mode = fs::metadata(path.join("identity.key"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_second_process_is_told_who_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Duration::ZERO).unwrap();
        match Home::open(dir.path(), Duration::ZERO) {
            Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(home);
        Home::open(dir.path(), Duration::ZERO).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Duration::ZERO).unwrap();
        home.identity().unwrap();
        let path = dir.path().join("identity.key");
        fs::set_permissions(&path, Permissions::from_mode(0o640)).unwrap();
        let error = home.identity().unwrap_err();
        assert!(error.to_string().contains("0640"), "{error}");
        fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, b"short").unwrap();
        assert!(matches!(
            home.identity(),
            Err(OpenError::KeyLength { len: 5, .. })
        ));
    }
}
