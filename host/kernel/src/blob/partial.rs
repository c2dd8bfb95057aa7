//! A blob that is partly here: its bytes, its hashes, and which pieces are there.
//!
//! ```text
//! <blob>-<store>.data    the bytes, with holes
//! <blob>-<store>.bao     the hashes, with holes
//! <blob>-<store>.have    size (u64, big endian), then one byte a piece: 1 when it is there
//! ```
//!
//! No file is synced before the end. After a crash, `.have` may note pieces whose bytes were lost, so all bytes are
//! hashed once more before they become a blob.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;

use bao_tree::BaoTree;
use bao_tree::io::DecodeError;
use bao_tree::io::outboard::PreOrderOutboard;
use bao_tree::io::sync::{WriteAt, decode_ranges};
use lattice_format::{BlobId, StoreId};

use super::store::{BlobError, BlobStore, GROUP, at, pieces, ranges, remove, root};

#[derive(Debug)]
pub(super) struct Partial {
    store: StoreId,
    blob: BlobId,
    size: u64,
    data_path: PathBuf,
    have_path: PathBuf,
    data: File,
    outboard: PreOrderOutboard<File>,
    have_file: File,
    have: Vec<bool>,
}

/// Whether received bytes are what they should be: one piece of a blob, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Good,
    Wrong,
}

impl Partial {
    /// Opens what an earlier fetch of the same blob in the same store left, if anything.
    pub(super) fn resume(
        blobs: &BlobStore,
        store: StoreId,
        blob: BlobId,
        bytes_max: u64,
    ) -> Result<Option<Self>, BlobError> {
        let path = blobs.partial(blob, store, "have");
        let mut bytes = Vec::new();
        let max = 8 + pieces(bytes_max);
        match File::open(&path) {
            Ok(file) => file
                .take(max + 1)
                .read_to_end(&mut bytes)
                .map_err(at(&path))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        let size = bytes.first_chunk().map(|size| u64::from_be_bytes(*size));
        match size {
            Some(size) if size <= bytes_max && bytes.len() as u64 == 8 + pieces(size) => {
                let mut partial = Self::open(blobs, store, blob, size)?;
                partial.have = bytes[8..].iter().map(|byte| *byte == 1).collect();
                Ok(Some(partial))
            }
            // The file was written halfway, or for a larger limit. The blob begins anew.
            _ => {
                for extension in ["have", "data", "bao"] {
                    remove(&blobs.partial(blob, store, extension))?;
                }
                Ok(None)
            }
        }
    }

    /// Makes the files of a blob whose size is proven.
    pub(super) fn create(
        blobs: &BlobStore,
        store: StoreId,
        blob: BlobId,
        size: u64,
    ) -> Result<Self, BlobError> {
        for extension in ["have", "data", "bao"] {
            remove(&blobs.partial(blob, store, extension))?;
        }
        let mut partial = Self::open(blobs, store, blob, size)?;
        let mut bytes = size.to_be_bytes().to_vec();
        bytes.resize(8 + partial.have.len(), 0);
        partial
            .have_file
            .write_all(&bytes)
            .map_err(at(&partial.have_path))?;
        partial.data.set_len(size).map_err(at(&partial.data_path))?;
        Ok(partial)
    }

    fn open(blobs: &BlobStore, store: StoreId, blob: BlobId, size: u64) -> Result<Self, BlobError> {
        let open = |extension| {
            let path = blobs.partial(blob, store, extension);
            let file = OpenOptions::new()
                .read(true)
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(at(&path))?;
            Ok((path, file))
        };
        let (data_path, data) = open("data")?;
        let (have_path, have_file) = open("have")?;
        let (_, proof) = open("bao")?;
        Ok(Self {
            store,
            blob,
            size,
            data_path,
            have_path,
            data,
            outboard: PreOrderOutboard {
                root: root(blob),
                tree: BaoTree::new(size, GROUP),
                data: proof,
            },
            have_file,
            have: vec![false; pieces(size) as usize],
        })
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    /// For each piece, whether it is there.
    pub(super) fn have(&self) -> &[bool] {
        &self.have
    }

    /// Checks a piece and writes it.
    pub(super) fn take(&mut self, piece: u64, encoded: &[u8]) -> Result<Taken, BlobError> {
        let mut rest = encoded;
        let ranges = ranges(self.size, piece);
        match decode_ranges(&mut rest, &ranges, &mut self.data, &mut self.outboard) {
            Ok(()) if rest.is_empty() => {}
            Err(DecodeError::Io(error)) => return Err(at(&self.data_path)(error)),
            _ => return Ok(Taken::Wrong),
        }
        self.have_file
            .write_all_at(8 + piece, &[1])
            .map_err(at(&self.have_path))?;
        self.have[piece as usize] = true;
        Ok(Taken::Good)
    }

    /// Turns the files into a blob, if all bytes are right. If not, all pieces count as missing again.
    pub(super) fn finish(&mut self, blobs: &BlobStore) -> Result<Taken, BlobError> {
        let path = &self.data_path;
        let mut file = File::open(path).map_err(at(path))?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match file.read(&mut buffer).map_err(at(path))? {
                0 => break,
                len => hasher.update(&buffer[..len]),
            };
        }
        if hasher.finalize() != root(self.blob) {
            *self = Self::create(blobs, self.store, self.blob, self.size)?;
            return Ok(Taken::Wrong);
        }
        let proof = blobs.partial(self.blob, self.store, "bao");
        self.data.sync_all().map_err(at(path))?;
        self.outboard.data.sync_all().map_err(at(&proof))?;
        blobs.complete(self.store, self.blob, self.size, path, &proof)?;
        remove(&self.have_path)?;
        Ok(Taken::Good)
    }

    /// Whether `encoded` is the last piece of a blob of `size` bytes, which proves that size.
    pub(super) fn proves_size(blob: BlobId, size: u64, encoded: &[u8]) -> bool {
        let mut rest = encoded;
        let ranges = ranges(size, pieces(size) - 1);
        let items = bao_tree::io::sync::DecodeResponseIter::new(
            root(blob),
            BaoTree::new(size, GROUP),
            &mut rest,
            &ranges,
        );
        let right = items.into_iter().all(|item| item.is_ok());
        right && rest.is_empty()
    }
}
