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
//!
//! Where the disk can only be read, socket and lock may be elsewhere, see `runtime_files`.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions, TryLockError};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use ed25519_dalek::SigningKey;
use lattice_format::StoreId;
use lattice_kernel::{Files, Unopened, machine_remedy};

use crate::limits::LOCK_POLL;
use crate::node::clock;
use crate::node::runtime_files::{self, SOCKET_NAME};

/// The longest path of a socket that a system takes is told by the type of its address alone.
pub(crate) fn check_socket_path(path: &Path) -> Result<(), OpenError> {
    match SocketAddr::from_pathname(path) {
        Ok(_) => Ok(()),
        Err(error) => Err(OpenError::SocketPath {
            path: path.to_owned(),
            len: path.as_os_str().len(),
            error,
        }),
    }
}

/// What to do about a home that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Make it.
    Make,
    /// Refuse: whoever only reads makes nothing.
    Refuse,
}

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
    /// There is none, and what is asked for makes none.
    #[error("there is no home at {home}; `lattice store create`, `lattice store join` and `lattice daemon` make one, and --home names another", home = home.display())]
    Missing {
        /// Where it would be.
        home: PathBuf,
    },
    /// It has stores, and not the key of the device that they belong to.
    #[error("{path} is gone, and {stores} stores here belong to its device; put it back from a backup, or begin as a new device with another --home", path = path.display())]
    KeyMissing {
        /// The key file.
        path: PathBuf,
        /// How many stores there are.
        stores: usize,
    },
    /// The path of its socket is longer than systems take.
    #[error("a daemon cannot listen at {path}: the path has {len} bytes ({error}); give a shorter --home", path = path.display())]
    SocketPath {
        /// The socket.
        path: PathBuf,
        /// The length of its path in bytes.
        len: usize,
        /// What the system says.
        error: io::Error,
    },
    /// A file or directory of the home cannot be used.
    #[error("{path}: {error}; {remedy}", path = path.display(), remedy = machine_remedy(error))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// The error of the system.
        error: io::Error,
    },
    /// Others can read the secret key.
    #[error("{path} has the mode {mode:04o}, and others may have read the key; make it 0600 with `chmod 600 {path}`, or begin as a new device with another --home", path = path.display())]
    KeyMode {
        /// The key file.
        path: PathBuf,
        /// The permissions of the key file.
        mode: u32,
    },
    /// The key file does not hold a key.
    #[error("{path} has {len} bytes, and a key has 32; put it back from a backup, or begin as a new device with another --home", path = path.display())]
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
    #[error("cannot listen at {path}: {error}; {remedy}", path = path.display(), remedy = machine_remedy(error))]
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
    /// Where a daemon serves the API, once it does.
    served: OnceLock<PathBuf>,
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

/// Whether nothing of a home is at a path. A file that the system does not tell of may be there.
pub(crate) fn is_missing(path: &Path) -> bool {
    ["identity.key", "node.redb", "stores"]
        .iter()
        .all(|name| matches!(path.join(name).try_exists(), Ok(false)))
}

/// The lock of a home that has none and can only be read.
fn lock_elsewhere(home: &Path) -> io::Result<File> {
    let open = |path: &Path| {
        OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
    };
    Ok(runtime_files::elsewhere(home, "lock", open)?.1)
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
    /// Opens a home. Waits as long as `patience` for a process that has it open. Blocks.
    ///
    /// # Errors
    /// See [`OpenError`].
    pub(crate) fn open(
        path: &Path,
        patience: Duration,
        missing: Missing,
    ) -> Result<Self, OpenError> {
        if missing == Missing::Refuse && is_missing(path) {
            return Err(OpenError::Missing {
                home: path.to_owned(),
            });
        }
        make_private(path)?;
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path);
        let mut lock = match lock {
            // It can be locked all the same, or another one in its place.
            Err(error) if runtime_files::takes_nothing(&error) => File::open(&lock_path)
                .or_else(|_| lock_elsewhere(path))
                .map_err(|_| io_error(&lock_path)(error))?,
            lock => lock.map_err(io_error(&lock_path))?,
        };
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
        // For those who find it locked. It is locked whether or not the number fits on the disk.
        if let Err(error) = lock
            .set_len(0)
            .and_then(|()| writeln!(lock, "{}", std::process::id()))
        {
            tracing::debug!("{}: {error}", lock_path.display());
        }
        for directory in ["stores", "blobs", "components"] {
            make_private(&path.join(directory))?;
        }
        Ok(Self {
            path: path.to_owned(),
            lock,
            released: AtomicBool::new(false),
            served: OnceLock::new(),
        })
    }

    /// The directory of the home.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The device's key, which is made at the first call, unless there are stores already.
    ///
    /// # Errors
    /// When others could have read it, it cannot be read or written, or it is gone.
    pub(crate) fn identity(&self) -> Result<SigningKey, OpenError> {
        let path = self.path.join("identity.key");
        match File::open(&path) {
            Ok(mut file) => {
                let found = file.metadata().map_err(io_error(&path))?;
                if found.is_dir() {
                    return Err(io_error(&path)(io::ErrorKind::IsADirectory.into()));
                }
                let mode = found.permissions().mode() & 0o777;
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
                let stores = self.stores_of_a_device()?;
                if stores > 0 {
                    return Err(OpenError::KeyMissing { path, stores });
                }
                let key = clock::key_pair();
                write_durably(&path, key.as_bytes(), 0o600).map_err(io_error(&path))?;
                Ok(key)
            }
            Err(error) => Err(io_error(&path)(error)),
        }
    }

    /// How many directories hold a store, or may hold one.
    fn stores_of_a_device(&self) -> Result<usize, OpenError> {
        let directories = self
            .store_directories()
            .map_err(io_error(&self.path.join("stores")))?;
        let is_store = |directory: &&PathBuf| {
            let name = directory.file_name().and_then(|name| name.to_str());
            name.is_some_and(|name| name.parse::<StoreId>().is_ok())
                && !matches!(Files::are_in(directory), Ok(false))
        };
        Ok(directories.iter().filter(is_store).count())
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

    /// The API's socket: where it is served, else where it would be.
    pub(crate) fn socket(&self) -> PathBuf {
        let served = self.served.get().cloned();
        served.unwrap_or_else(|| self.path.join(SOCKET_NAME))
    }

    /// Notes where the API is served.
    pub(crate) fn set_socket(&self, path: PathBuf) {
        let _ = self.served.set(path);
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
        let home = Home::open(&path, Duration::ZERO, Missing::Make).unwrap();
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
    fn a_home_that_is_missing_is_made_by_whom_it_is_for_alone() {
        let dir = tempfile::tempdir().unwrap();
        for path in [dir.path().join("none"), dir.path().to_owned()] {
            let refused = Home::open(&path, Duration::ZERO, Missing::Refuse);
            assert!(
                matches!(refused, Err(OpenError::Missing { .. })),
                "{refused:?}"
            );
            assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        }
        drop(Home::open(dir.path(), Duration::ZERO, Missing::Make).unwrap());
        Home::open(dir.path(), Duration::ZERO, Missing::Refuse).unwrap();
    }

    #[test]
    fn a_home_with_stores_gets_no_other_key() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Duration::ZERO, Missing::Make).unwrap();
        home.identity().unwrap();
        let key = dir.path().join("identity.key");
        let aside = dir.path().join("aside");
        fs::rename(&key, &aside).unwrap();
        let store = home.store(&StoreId([7; 32]));
        fs::create_dir_all(store.join("log")).unwrap();
        let gone = home.identity().unwrap_err();
        assert!(
            matches!(gone, OpenError::KeyMissing { stores: 1, .. }),
            "{gone}"
        );
        assert!(!key.exists());
        // What the error says to do.
        fs::rename(&aside, &key).unwrap();
        home.identity().unwrap();
    }

    #[test]
    fn a_second_process_is_told_who_has_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Duration::ZERO, Missing::Make).unwrap();
        match Home::open(dir.path(), Duration::ZERO, Missing::Make) {
            Err(OpenError::Locked { pid, .. }) => assert_eq!(pid, Some(std::process::id())),
            other => panic!("{other:?}"),
        }
        drop(home);
        Home::open(dir.path(), Duration::ZERO, Missing::Make).unwrap();
    }

    #[test]
    fn a_key_that_others_can_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let home = Home::open(dir.path(), Duration::ZERO, Missing::Make).unwrap();
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
