//! A disk that loses what was not synced: the storage behind redb in the tests of crashes.
//!
//! It keeps the image of the last sync and a journal of what was written since. When its power
//! fails, nothing works any more; what is found afterwards is the synced image with none, some or
//! all of the journal applied, the last write perhaps torn.

use std::io::{Error, ErrorKind};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

/// Numbers that a seed determines (SplitMix64: Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.roll() % n.max(1)
    }
}

/// How many more writes and syncs succeed; shared by disks that fail together.
#[derive(Clone, Debug)]
pub(crate) struct Power(Arc<AtomicI64>);

impl Power {
    /// Power that never fails.
    pub(crate) fn steady() -> Self {
        Self(Arc::new(AtomicI64::new(i64::MAX)))
    }

    /// Fails at the write or sync after that many.
    pub(crate) fn fail_after(&self, operations: u64) {
        self.0.store(operations as i64, Ordering::SeqCst);
    }

    pub(crate) fn failed(&self) -> bool {
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
pub(crate) enum Survives {
    Nothing,
    Prefix,
    Subset,
    /// A prefix, and a part of the write after it.
    Torn,
    All,
}

pub(crate) const SURVIVALS: [Survives; 5] = [
    Survives::Nothing,
    Survives::Prefix,
    Survives::Subset,
    Survives::Torn,
    Survives::All,
];

/// One disk. Clones are the same disk.
#[derive(Clone, Debug)]
pub(crate) struct Disk {
    medium: Arc<Mutex<Medium>>,
    power: Power,
    /// How many more reads succeed.
    pub(crate) reads: Power,
}

impl Disk {
    pub(crate) fn new(power: &Power) -> Self {
        Self::with_image(Vec::new(), power)
    }

    pub(crate) fn with_image(image: Vec<u8>, power: &Power) -> Self {
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

    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().unwrap()
    }

    /// Nothing more than that many bytes fits; `None` for all that comes.
    pub(crate) fn set_room(&self, room: Option<u64>) {
        self.lock().room = room;
    }

    /// What a process sees that is alive.
    pub(crate) fn live(&self) -> Vec<u8> {
        self.lock().live.clone()
    }

    /// What is found after the power failed now.
    pub(crate) fn after_crash(&self, survives: Survives, dice: &mut Dice) -> Vec<u8> {
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
        self.reads.use_up()?;
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
        let mut medium = self.lock();
        medium.synced = medium.live.clone();
        medium.journal.clear();
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
