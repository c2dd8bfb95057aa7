//! The blobs of a node, in a directory.
//!
//! ```text
//! index.redb        blobs-1       blob (32) → size (u64)
//!                   provenance-1  store (32) blob (32) → ()
//! <2 hex>/<hex>           the bytes
//! <2 hex>/<hex>.bao       pairs of hashes above groups of 16 KiB, in pre-order
//! partial/<hex>-<store>.* blobs that are partly here, see partial.rs
//! ```
//!
//! Files come first. They get their names when they are complete and on the disk. A blob exists once the index has
//! its row. A crash between the two leaves files without a row, which the next arrival of the same bytes replaces.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bao_tree::io::EncodeError;
use bao_tree::io::outboard::{PreOrderMemOutboard, PreOrderOutboard};
use bao_tree::io::sync::encode_ranges_validated;
use bao_tree::{BaoTree, BlockSize, ChunkNum, ChunkRanges};
use lattice_format::{BlobId, StoreId};
use redb::{ReadableTable, TableDefinition};

use crate::storage::machine::{Unopened, machine_remedy};
use crate::storage::node_file::{NodeFile, NodeFileError};

use super::limits::{BLOB_BYTES_MAX, GROUP_CHUNKS_LOG, PIECE_BYTES, READ_BYTES_MAX};

const BLOBS: TableDefinition<'static, [u8; 32], u64> = TableDefinition::new("blobs-1");
const PROVENANCE: TableDefinition<'static, [u8; 64], ()> = TableDefinition::new("provenance-1");

/// Memory that redb may use for pages of the index, in bytes.
const INDEX_CACHE_BYTES: usize = 1024 * 1024;

pub(super) const GROUP: BlockSize = BlockSize::from_chunk_log(GROUP_CHUNKS_LOG);

/// Why blobs cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum BlobError {
    /// The file system refused.
    #[error("{}: {source}; {}", path.display(), machine_remedy(source))]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// What the file system said.
        source: io::Error,
    },
    /// The index cannot be read or written.
    #[error("{}: {text}", path.display())]
    Index {
        /// The file of the index.
        path: PathBuf,
        /// What the database said.
        text: String,
    },
    /// The index cannot be opened.
    #[error("{}: {source}", path.display())]
    Unopened {
        /// The file of the index.
        path: PathBuf,
        /// Why.
        source: Unopened,
    },
    /// The blob is larger than allowed.
    #[error("a blob of {size} bytes exceeds {max}")]
    TooLarge {
        /// The blob's size in bytes.
        size: u64,
        /// The most bytes allowed.
        max: u64,
    },
    /// The bytes on the disk were not those of the blob and were removed. The blob can be fetched again.
    #[error("the file of blob {0} was damaged and is gone; it can be fetched again")]
    Damaged(BlobId),
}

/// The blobs of one node. All methods take `&self` and may be called from several threads.
#[derive(Debug)]
pub struct BlobStore {
    dir: PathBuf,
    index: NodeFile,
    /// Held while files are put in place or removed, and the index with them.
    files: Mutex<()>,
}

impl BlobStore {
    /// Opens the blobs under `dir`, which is created when it is missing.
    ///
    /// # Errors
    /// When the directory cannot be made, or the index is damaged or held by another process.
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, BlobError> {
        let dir = dir.into();
        let partial = dir.join("partial");
        fs::create_dir_all(&partial).map_err(|source| BlobError::Io {
            path: partial,
            source,
        })?;
        let path = dir.join("index.redb");
        let index = NodeFile::open(&path, INDEX_CACHE_BYTES)
            .map_err(|source| BlobError::Unopened { path, source })?;
        let store = Self {
            dir,
            index,
            files: Mutex::new(()),
        };
        // A full disk takes no transaction, not even an empty one.
        let has_tables = store.read_index(|txn| {
            txn.open_table(BLOBS)?;
            txn.open_table(PROVENANCE)?;
            Ok(())
        });
        if has_tables.is_err() {
            store.write(|txn| {
                txn.open_table(BLOBS)?;
                txn.open_table(PROVENANCE)?;
                Ok(())
            })?;
        }
        Ok(store)
    }

    /// Whether the blob is here in the scope of the store.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn has(&self, store: StoreId, blob: BlobId) -> Result<bool, BlobError> {
        Ok(self.size(store, blob)?.is_some())
    }

    /// The blob's size in bytes, if the blob is here in the scope of the store.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn size(&self, store: StoreId, blob: BlobId) -> Result<Option<u64>, BlobError> {
        self.read_index(|txn| {
            let scoped = txn.open_table(PROVENANCE)?.get(row(store, blob))?.is_some();
            let size = txn.open_table(BLOBS)?.get(blob.0)?.map(|size| size.value());
            Ok(size.filter(|_| scoped))
        })
    }

    /// The blobs of the store behind `after`, by id and with their sizes in bytes: at most `limit`.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn list(
        &self,
        store: StoreId,
        after: Option<BlobId>,
        limit: usize,
    ) -> Result<Vec<(BlobId, u64)>, BlobError> {
        let from = row(store, after.unwrap_or(BlobId([0; 32])));
        let to = row(store, BlobId([0xff; 32]));
        self.read_index(|txn| {
            let blobs = txn.open_table(BLOBS)?;
            let mut out = Vec::new();
            for entry in txn.open_table(PROVENANCE)?.range(from..=to)? {
                if out.len() == limit {
                    break;
                }
                let key = entry?.0.value();
                let blob = BlobId::from_slice(&key[32..]).expect("the second half of 64 bytes");
                if Some(blob) != after
                    && let Some(size) = blobs.get(blob.0)?
                {
                    out.push((blob, size.value()));
                }
            }
            Ok(out)
        })
    }

    /// Keeps bytes that were made or given in the store, and returns their id. Durable when this returns.
    ///
    /// # Errors
    /// When the bytes are too large, or the disk refuses.
    pub fn insert(&self, store: StoreId, bytes: &[u8]) -> Result<BlobId, BlobError> {
        let size = bytes.len() as u64;
        if size > BLOB_BYTES_MAX {
            return Err(BlobError::TooLarge {
                size,
                max: BLOB_BYTES_MAX,
            });
        }
        let outboard = PreOrderMemOutboard::create(bytes, GROUP);
        let blob = BlobId(*outboard.root.as_bytes());
        let lock = self.lock();
        if self.size_anywhere(blob)? != Some(size) || !self.file(blob).exists() {
            let (data, proof) = (
                self.partial(blob, store, "new"),
                self.partial(blob, store, "newbao"),
            );
            for (path, content) in [(&data, bytes), (&proof, outboard.data.as_slice())] {
                let result = File::create(path).and_then(|mut file| {
                    file.write_all(content)?;
                    file.sync_all()
                });
                result.map_err(at(path))?;
            }
            self.place(blob, &data, &proof)?;
        }
        drop(lock);
        self.record(store, blob, size)?;
        Ok(blob)
    }

    /// The bytes of a blob that is here in the scope of the store, checked against its hash.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] when the bytes do not have the hash, [`BlobError::TooLarge`] above [`READ_BYTES_MAX`],
    /// and when the disk fails.
    pub fn read(&self, store: StoreId, blob: BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        let Some(size) = self.size(store, blob)? else {
            return Ok(None);
        };
        if size > READ_BYTES_MAX {
            return Err(BlobError::TooLarge {
                size,
                max: READ_BYTES_MAX,
            });
        }
        let path = self.file(blob);
        match fs::read(&path) {
            Ok(bytes) if blake3::hash(&bytes).as_bytes() == &blob.0 => Ok(Some(bytes)),
            Ok(_) => Err(self.damaged(blob)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Err(self.damaged(blob)?),
            Err(source) => Err(BlobError::Io { path, source }),
        }
    }

    /// The bytes of a blob that is here in the scope of any store, checked against its hash: for what the node itself
    /// has lost. `None` when it is not here, or is damaged.
    ///
    /// # Errors
    /// [`BlobError::TooLarge`] above [`READ_BYTES_MAX`], and when the disk fails.
    pub fn read_anywhere(&self, blob: BlobId) -> Result<Option<Vec<u8>>, BlobError> {
        match self.size_anywhere(blob)? {
            None => return Ok(None),
            Some(size) if size > READ_BYTES_MAX => {
                return Err(BlobError::TooLarge {
                    size,
                    max: READ_BYTES_MAX,
                });
            }
            Some(_) => {}
        }
        let path = self.file(blob);
        match fs::read(&path) {
            Ok(bytes) => {
                let is_whole = blake3::hash(&bytes).as_bytes() == &blob.0;
                Ok(Some(bytes).filter(|_| is_whole))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(BlobError::Io { path, source }),
        }
    }

    /// Forgets that the blob belongs to the store. The bytes are removed with the last store that has them.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn forget(&self, store: StoreId, blob: BlobId) -> Result<(), BlobError> {
        let _lock = self.lock();
        let last = self.write(|txn| {
            let mut provenance = txn.open_table(PROVENANCE)?;
            provenance.remove(row(store, blob))?;
            for entry in provenance.iter()? {
                if entry?.0.value()[32..] == blob.0 {
                    return Ok(false);
                }
            }
            drop(provenance);
            txn.open_table(BLOBS)?.remove(blob.0)?;
            Ok(true)
        })?;
        if last {
            self.remove_files(blob)?;
        }
        Ok(())
    }

    /// The blob's size in bytes, and one piece with the hashes that prove it, as bao encodes them. `None` when the
    /// blob is not here in the scope of the store, or has no such piece.
    ///
    /// # Errors
    /// [`BlobError::Damaged`] when the bytes on the disk are wrong, and when the disk fails.
    pub(super) fn piece(
        &self,
        store: StoreId,
        blob: BlobId,
        piece: Option<u64>,
    ) -> Result<Option<(u64, Vec<u8>)>, BlobError> {
        let Some(size) = self.size(store, blob)? else {
            return Ok(None);
        };
        let piece = piece.unwrap_or(pieces(size) - 1);
        if piece >= pieces(size) {
            return Ok(None);
        }
        let (data, proof) = (self.file(blob), self.proof(blob));
        let (Some(data_file), Some(proof_file)) = (open(&data)?, open(&proof)?) else {
            return Err(self.damaged(blob)?);
        };
        let outboard = PreOrderOutboard {
            root: root(blob),
            tree: BaoTree::new(size, GROUP),
            data: proof_file,
        };
        let mut encoded = Vec::new();
        let ranges = ranges(size, piece);
        match encode_ranges_validated(&data_file, &outboard, &ranges, &mut encoded) {
            Ok(()) => Ok(Some((size, encoded))),
            Err(EncodeError::Io(error)) if error.kind() != io::ErrorKind::UnexpectedEof => {
                Err(BlobError::Io {
                    path: data,
                    source: error,
                })
            }
            // The file is cut short, or its hashes are not those that the id stands for.
            Err(_) => Err(self.damaged(blob)?),
        }
    }

    /// Puts a complete blob in its place. Both files must be on the disk already.
    pub(super) fn complete(
        &self,
        store: StoreId,
        blob: BlobId,
        size: u64,
        data: &Path,
        proof: &Path,
    ) -> Result<(), BlobError> {
        let lock = self.lock();
        self.place(blob, data, proof)?;
        drop(lock);
        self.record(store, blob, size)
    }

    /// The path of a file of a blob that is partly here, for one store.
    pub(super) fn partial(&self, blob: BlobId, store: StoreId, extension: &str) -> PathBuf {
        // The store is part of the name, because pieces that one store has received are not another store's.
        let scope = &store.to_string()[..32];
        self.dir
            .join("partial")
            .join(format!("{blob}-{scope}.{extension}"))
    }

    fn place(&self, blob: BlobId, data: &Path, proof: &Path) -> Result<(), BlobError> {
        let (to, to_proof) = (self.file(blob), self.proof(blob));
        let dir = to.parent().expect("a blob lies in a directory of its own");
        fs::create_dir_all(dir).map_err(at(dir))?;
        // The proof gets its name first, because bytes without a proof could not be served.
        fs::rename(proof, &to_proof).map_err(at(&to_proof))?;
        fs::rename(data, &to).map_err(at(&to))?;
        for dir in [dir, self.dir.as_path()] {
            File::open(dir)
                .and_then(|dir| dir.sync_all())
                .map_err(at(dir))?;
        }
        Ok(())
    }

    fn record(&self, store: StoreId, blob: BlobId, size: u64) -> Result<(), BlobError> {
        self.write(|txn| {
            txn.open_table(BLOBS)?.insert(blob.0, size)?;
            txn.open_table(PROVENANCE)?.insert(row(store, blob), ())?;
            Ok(())
        })
    }

    /// Takes a damaged blob out of use, so that it is fetched again in each store that has it.
    fn damaged(&self, blob: BlobId) -> Result<BlobError, BlobError> {
        let _lock = self.lock();
        self.write(|txn| {
            txn.open_table(BLOBS)?.remove(blob.0)?;
            Ok(())
        })?;
        self.remove_files(blob)?;
        Ok(BlobError::Damaged(blob))
    }

    fn remove_files(&self, blob: BlobId) -> Result<(), BlobError> {
        for path in [self.file(blob), self.proof(blob)] {
            remove(&path)?;
        }
        Ok(())
    }

    fn size_anywhere(&self, blob: BlobId) -> Result<Option<u64>, BlobError> {
        self.read_index(|txn| Ok(txn.open_table(BLOBS)?.get(blob.0)?.map(|size| size.value())))
    }

    fn file(&self, blob: BlobId) -> PathBuf {
        let name = blob.to_string();
        self.dir.join(&name[..2]).join(name)
    }

    fn proof(&self, blob: BlobId) -> PathBuf {
        self.file(blob).with_extension("bao")
    }

    fn lock(&self) -> MutexGuard<'_, ()> {
        // The lock guards no data in memory, so a panic elsewhere leaves nothing half done.
        self.files.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_index<T>(
        &self,
        read: impl Fn(&redb::ReadTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, BlobError> {
        self.index
            .read(|txn| Ok::<_, NodeFileError>(read(txn)?))
            .map_err(|error| self.index_error(&error))
    }

    fn write<T>(
        &self,
        write: impl Fn(&redb::WriteTransaction) -> Result<T, redb::Error>,
    ) -> Result<T, BlobError> {
        self.index
            .write(|txn| Ok::<_, NodeFileError>(write(txn)?))
            .map_err(|error| self.index_error(&error))
    }

    fn index_error(&self, error: &NodeFileError) -> BlobError {
        BlobError::Index {
            path: self.dir.join("index.redb"),
            text: error.to_string(),
        }
    }
}

fn row(store: StoreId, blob: BlobId) -> [u8; 64] {
    let mut row = [0; 64];
    row[..32].copy_from_slice(&store.0);
    row[32..].copy_from_slice(&blob.0);
    row
}

pub(super) fn root(blob: BlobId) -> blake3::Hash {
    blake3::Hash::from_bytes(blob.0)
}

/// How many pieces a blob has. An empty blob has one.
pub(super) fn pieces(size: u64) -> u64 {
    size.div_ceil(PIECE_BYTES).max(1)
}

/// The chunks of one piece. The last piece has no upper end, so that its proof covers the size as well.
pub(super) fn ranges(size: u64, piece: u64) -> ChunkRanges {
    let start = ChunkNum::full_chunks(piece * PIECE_BYTES);
    if piece + 1 == pieces(size) {
        ChunkRanges::from(start..)
    } else {
        ChunkRanges::from(start..ChunkNum::full_chunks((piece + 1) * PIECE_BYTES))
    }
}

/// Opens a file to read it; `None` when it is not there. A file that the system refuses to open may be whole.
fn open(path: &Path) -> Result<Option<File>, BlobError> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path)(error)),
    }
}

pub(super) fn at(path: &Path) -> impl Fn(io::Error) -> BlobError + '_ {
    |source| BlobError::Io {
        path: path.to_owned(),
        source,
    }
}

pub(super) fn remove(path: &Path) -> Result<(), BlobError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(path)(error)),
        _ => Ok(()),
    }
}
