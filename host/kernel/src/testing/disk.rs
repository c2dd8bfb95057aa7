//! A disk that loses what was not synced: the storage behind redb in tests of crashes and in the simulator.
//!
//! It keeps the image of the last sync and a journal of what was written since. When its power
//! fails, nothing works any more; what is found afterwards is the synced image with none, some or
//! all of the journal applied, the last write perhaps torn.

use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::{Database, StorageBackend};

use crate::Files;
use crate::rows::StorageError;

/// Memory that redb may use for pages of one database, in bytes.
const CACHE_BYTES: usize = 64 * 1024;

/// Numbers that a seed determines (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Dice(
    /// The seed, and afterwards how far it has come.
    pub u64,
);

impl Dice {
    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }

    /// Whether something of that many in a thousand happens.
    pub fn per_mille(&mut self, chance: u64) -> bool {
        self.below(1000) < chance
    }

    /// A generator of its own, which this one seeds.
    pub fn split(&mut self) -> Self {
        Self(self.roll())
    }
}

/// How many more operations succeed; shared by disks that fail together.
#[derive(Clone, Debug)]
pub struct Power(Arc<AtomicI64>);

impl Power {
    /// Power that never fails.
    pub fn steady() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }

    /// Fails at the operation after that many.
    pub fn fail_after(&self, operations: u64) {
        self.0.store(operations as i64, Ordering::SeqCst);
    }

    /// Whether it has failed.
    pub fn failed(&self) -> bool {
        self.0.load(Ordering::SeqCst) < 0
    }

    fn use_up(&self) -> Result<(), Error> {
        match self.0.fetch_sub(1, Ordering::SeqCst) {
            1.. => Ok(()),
            _ => {
                self.0.store(-1, Ordering::SeqCst);
                Err(Error::other("the power failed"))
            }
        }
    }
}

/// The files of a store on two disks.
///
/// # Errors
/// When a disk fails, or what it holds is no database.
pub fn files(log: &Disk, state: &Disk) -> Result<Files, StorageError> {
    Ok(Files::from_databases(log.database()?, state.database()?))
}

/// What [`Files::in_dir`] does on two disks: derived state that is damaged is made anew, on the empty disk
/// that comes back in its place.
///
/// # Errors
/// When the log does not open.
pub fn repaired(log: &Disk, state: &Disk, power: &Power) -> Result<(Files, Disk), StorageError> {
    let log = log.database()?;
    match state.database() {
        Ok(db) => Ok((Files::from_databases(log, db), state.clone())),
        Err(_) => {
            let fresh = Disk::new(power);
            let db = fresh.database()?;
            Ok((Files::from_databases(log, db), fresh))
        }
    }
}

#[derive(Clone, Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Len(u64),
}

fn apply(image: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let at = *offset as usize;
            if image.len() < at + data.len() {
                image.resize(at + data.len(), 0);
            }
            image[at..at + data.len()].copy_from_slice(data);
        }
        Change::Len(len) => image.resize(*len as usize, 0),
    }
}

#[derive(Debug, Default)]
struct Medium {
    synced: Vec<u8>,
    journal: Vec<Change>,
    live: Vec<u8>,
    /// The most bytes that fit.
    room: Option<u64>,
}

/// What of the journal is found after a crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Survives {
    /// Nothing of it.
    Nothing,
    /// What was written first.
    Prefix,
    /// Any of it: the drive writes in an order of its own.
    Subset,
    /// A prefix, and a part of the write after it.
    Torn,
    /// All of it.
    All,
}

/// Every way in which a disk comes through a crash.
pub const SURVIVALS: [Survives; 5] = [
    Survives::Nothing,
    Survives::Prefix,
    Survives::Subset,
    Survives::Torn,
    Survives::All,
];

/// One disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct Disk {
    medium: Arc<Mutex<Medium>>,
    power: Power,
    /// How many more reads succeed; they fail alone.
    pub reads: Power,
}

impl Disk {
    /// An empty disk.
    pub fn new(power: &Power) -> Self {
        Self::with_image(Vec::new(), power)
    }

    /// A disk that holds `image`, all of it synced.
    pub fn with_image(image: Vec<u8>, power: &Power) -> Self {
        Self {
            medium: Arc::new(Mutex::new(Medium {
                synced: image.clone(),
                live: image,
                ..Medium::default()
            })),
            power: power.clone(),
            reads: Power::steady(),
        }
    }

    /// Opens a database on this disk.
    ///
    /// # Errors
    /// When the disk fails, or what it holds is no database.
    pub fn database(&self) -> Result<Database, StorageError> {
        Ok(Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(self.clone())?)
    }

    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().expect("no panic while it is held")
    }

    /// Nothing more than that many bytes fits; `None` for all that comes.
    pub fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// How many bytes fit, if there is a bound.
    pub fn room(&self) -> Option<u64> {
        self.lock().room
    }

    /// What a process sees that is alive.
    pub fn live(&self) -> Vec<u8> {
        self.lock().live.clone()
    }

    /// What is found after the power failed now.
    pub fn after_crash(&self, survives: Survives, dice: &mut Dice) -> Vec<u8> {
        let medium = self.lock();
        let mut image = medium.synced.clone();
        let journal = &medium.journal;
        let prefix = dice.below(journal.len() as u64 + 1) as usize;
        for (index, change) in journal.iter().enumerate() {
            let whole = match survives {
                Survives::Nothing => false,
                Survives::Prefix | Survives::Torn => index < prefix,
                Survives::Subset => dice.below(2) == 0,
                Survives::All => true,
            };
            if whole {
                apply(&mut image, change);
            } else if survives == Survives::Torn
                && index == prefix
                && let Change::Write(offset, data) = change
            {
                let len = dice.below(data.len() as u64) as usize;
                apply(&mut image, &Change::Write(*offset, data[..len].to_vec()));
            }
        }
        image
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        if self.power.failed() {
            return Err(Error::other("the power failed"));
        }
        Ok(self.lock().live.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        if self.power.failed() {
            return Err(Error::other("the power failed"));
        }
        let failed = |_| Error::other("the read failed");
        self.reads.use_up().map_err(failed)?;
        let medium = self.lock();
        let at = offset as usize;
        let data = at
            .checked_add(out.len())
            .and_then(|end| medium.live.get(at..end))
            .ok_or_else(|| Error::from(ErrorKind::UnexpectedEof))?;
        out.copy_from_slice(data);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.power.use_up()?;
        let mut medium = self.lock();
        if medium.room.is_some_and(|room| len > room) {
            return Err(Error::from(ErrorKind::StorageFull));
        }
        let change = Change::Len(len);
        apply(&mut medium.live, &change);
        medium.journal.push(change);
        Ok(())
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.power.use_up()?;
        let mut guard = self.lock();
        let medium = &mut *guard;
        for change in medium.journal.drain(..) {
            apply(&mut medium.synced, &change);
        }
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.power.use_up()?;
        let mut medium = self.lock();
        let end = offset + data.len() as u64;
        if medium.room.is_some_and(|room| end > room) {
            return Err(Error::from(ErrorKind::StorageFull));
        }
        let change = Change::Write(offset, data.to_vec());
        apply(&mut medium.live, &change);
        medium.journal.push(change);
        Ok(())
    }
}
