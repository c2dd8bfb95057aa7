//! A directory of simulated disks: the segments of a log in tests of crashes and in the simulator.
//!
//! A file whose name was not synced may be gone after a crash, whatever of its content was.

use std::collections::BTreeMap;
use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use lattice_kernel::{Files, JournalFile, LogFiles, ReadSegment, StorageError};
use redb::{Database, DatabaseError, StorageBackend};

use crate::dice::Dice;
use crate::disk::{Disk, Power, Space, Survives};

/// Bytes of rows after which a segment is full on a disk of tests: some small entries. One that was closed and is
/// opened again always is, since its file is longer.
const SMALL_SEGMENT_BYTES: u64 = 4 * 1024;

/// Memory that redb may use for pages of a segment, in bytes. The end of the log, which is what is read of it most, is
/// kept decoded as well.
const CACHE_BYTES: usize = 192 * 1024;

/// The name of a file: the number of a segment, if it has one yet.
type Name = Option<u64>;

/// The name of the journal: a number that no segment gets.
const JOURNAL: Name = Some(u64::MAX);

/// What the files of a log hold.
#[derive(Clone, Debug, Default)]
pub struct LogImage(
    /// By the number of the segment; without one for a file that has none yet, and `u64::MAX` for the journal.
    pub BTreeMap<Option<u64>, Vec<u8>>,
);

impl LogImage {
    /// The numbers of the segments, ascending.
    pub fn segments(&self) -> impl Iterator<Item = u64> + '_ {
        let names = self.0.keys().filter(|name| **name != JOURNAL);
        names.copied().flatten()
    }

    /// The names that the files have in a directory, with their bytes.
    ///
    /// # Panics
    /// When a file has no number.
    pub fn files(&self) -> impl Iterator<Item = (String, &[u8])> + '_ {
        self.0.iter().map(|(name, bytes)| {
            let name = match *name {
                JOURNAL => "journal".to_owned(),
                number => format!("{:016x}.redb", number.expect("a file with a number")),
            };
            (name, &bytes[..])
        })
    }
}

/// A change of the directory that is not synced: names and the files that they get, or none. It is found done
/// after a crash, or not.
type Change = Vec<(Name, Option<Disk>)>;

#[derive(Debug, Default)]
struct Directory {
    synced: BTreeMap<Name, Disk>,
    journal: Vec<Change>,
    live: BTreeMap<Name, Disk>,
}

fn apply(change: &Change, files: &mut BTreeMap<Name, Disk>) {
    for (name, file) in change {
        match file {
            Some(file) => files.insert(*name, file.clone()),
            None => files.remove(name),
        };
    }
}

impl Directory {
    fn change(&mut self, change: Change) {
        apply(&change, &mut self.live);
        self.journal.push(change);
    }

    fn sync(&mut self) {
        self.synced.clone_from(&self.live);
        self.journal.clear();
    }
}

/// The disk of a log. Clones are the same disk.
#[derive(Clone, Debug)]
pub struct LogDisk {
    directory: Arc<Mutex<Directory>>,
    space: Arc<Mutex<Space>>,
    power: Power,
    /// How many more reads succeed; they fail alone.
    pub reads: Power,
    /// Bytes of rows after which a segment is full.
    pub segment_bytes: u64,
    /// Memory for pages of a segment, in bytes.
    pub cache_bytes: usize,
}

impl LogDisk {
    /// An empty disk.
    pub fn new(power: &Power) -> Self {
        Self::with_image(LogImage::default(), power)
    }

    /// A disk that holds `image`, all of it synced.
    pub fn with_image(image: LogImage, power: &Power) -> Self {
        let space = Arc::default();
        let file = |(name, bytes): (Name, Vec<u8>)| (name, Disk::sharing(&bytes, &space, power));
        let live: BTreeMap<_, _> = image.0.into_iter().map(file).collect();
        Self {
            directory: Arc::new(Mutex::new(Directory {
                synced: live.clone(),
                journal: Vec::new(),
                live,
            })),
            space,
            power: power.clone(),
            reads: Power::steady(),
            segment_bytes: SMALL_SEGMENT_BYTES,
            cache_bytes: CACHE_BYTES,
        }
    }

    /// Nothing more than that many bytes fits, of all files; `None` for all that comes.
    pub fn set_room(&self, room: Option<u64>) {
        self.space.lock().expect("no panic while it is held").room = room;
    }

    /// How many bytes fit, if there is a bound.
    pub fn room(&self) -> Option<u64> {
        self.space.lock().expect("no panic while it is held").room
    }

    /// How long all files are together.
    pub fn used(&self) -> u64 {
        self.space.lock().expect("no panic while it is held").used
    }

    /// What a process sees that is alive.
    pub fn live(&self) -> LogImage {
        let directory = self.lock();
        let files = directory.live.iter();
        LogImage(files.map(|(name, file)| (*name, file.live())).collect())
    }

    /// What is found after the power failed now.
    pub fn after_crash(&self, survives: Survives, dice: &mut Dice) -> LogImage {
        let directory = self.lock();
        let mut found = directory.synced.clone();
        let prefix = dice.below(directory.journal.len() as u64 + 1) as usize;
        for (index, change) in directory.journal.iter().enumerate() {
            let done = match survives {
                Survives::Nothing => false,
                Survives::Prefix | Survives::Torn => index < prefix,
                Survives::Subset => dice.below(2) == 0,
                Survives::All => true,
            };
            if done {
                apply(change, &mut found);
            }
        }
        let mut after = |(name, file): (Name, Disk)| (name, file.after_crash(survives, dice));
        LogImage(found.into_iter().map(&mut after).collect())
    }

    fn lock(&self) -> MutexGuard<'_, Directory> {
        self.directory.lock().expect("no panic while it is held")
    }

    fn look(&self) -> Result<MutexGuard<'_, Directory>, Error> {
        match self.power.failed() {
            true => Err(Error::other("the power failed")),
            false => Ok(self.lock()),
        }
    }

    fn file(&self, first: u64) -> Result<Disk, Error> {
        let mut file = self.look()?.live.get(&Some(first)).cloned();
        if let Some(file) = &mut file {
            file.reads = self.reads.clone();
        }
        file.ok_or_else(|| ErrorKind::NotFound.into())
    }

    /// Removes a file, unsynced.
    fn forget(&self, name: Name) -> Result<(), Error> {
        let file = self.look()?.live.get(&name).cloned();
        if let Some(file) = file {
            self.power.use_up()?;
            file.removed();
            self.lock().change(vec![(name, None)]);
        }
        Ok(())
    }

    fn sync(&self) -> Result<(), Error> {
        self.power.use_up()?;
        self.lock().sync();
        Ok(())
    }
}

/// The journal as a disk of its own.
#[derive(Debug)]
struct JournalDisk(Disk);

impl JournalFile for JournalDisk {
    fn write(&mut self, at: u64, bytes: &[u8]) -> Result<(), Error> {
        StorageBackend::write(&self.0, at, bytes)?;
        self.0.sync_data()
    }
}

impl LogFiles for LogDisk {
    fn list(&self) -> Result<Vec<u64>, Error> {
        self.forget(None)?;
        let segments = self.look()?;
        let segments = segments.live.keys().filter(|name| **name != JOURNAL);
        Ok(segments.copied().flatten().collect())
    }

    fn make(&self) -> Result<Database, DatabaseError> {
        self.forget(None)?;
        self.power.use_up()?;
        let mut file = Disk::sharing(&[], &self.space, &self.power);
        file.reads = self.reads.clone();
        self.lock().change(vec![(None, Some(file.clone()))]);
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder.create_with_backend(file)
    }

    fn name(&self, first: u64) -> Result<(), Error> {
        let unnamed = self.look()?.live.get(&None).cloned();
        let file = unnamed.ok_or(ErrorKind::NotFound)?;
        self.power.use_up()?;
        self.lock()
            .change(vec![(None, None), (Some(first), Some(file))]);
        self.sync()
    }

    fn open(&self, first: u64) -> Result<Database, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder.create_with_backend(self.file(first)?)
    }

    fn open_to_read(&self, first: u64) -> Result<ReadSegment, DatabaseError> {
        let mut builder = Database::builder();
        builder.set_cache_size(self.cache_bytes);
        builder.set_repair_callback(|repair| repair.abort());
        // redb opens no backend but a file to read it alone. What it writes when it closes goes nowhere.
        Ok(Box::new(
            builder.create_with_backend(self.file(first)?.fork())?,
        ))
    }

    fn bytes(&self, first: u64) -> Result<u64, Error> {
        Ok(self.file(first)?.live_len())
    }

    fn read_journal(&self) -> Result<Vec<u8>, Error> {
        let file = self.look()?.live.get(&JOURNAL).cloned();
        let Some(file) = file else {
            return Ok(Vec::new());
        };
        let mut bytes = vec![0; file.live_len() as usize];
        file.read(0, &mut bytes)?;
        Ok(bytes)
    }

    fn open_journal(&self, len: usize) -> Result<Option<Box<dyn JournalFile>>, Error> {
        let file = self.look()?.live.get(&JOURNAL).cloned();
        let file = match file {
            Some(file) => file,
            None => {
                self.power.use_up()?;
                let file = Disk::sharing(&[], &self.space, &self.power);
                self.lock().change(vec![(JOURNAL, Some(file.clone()))]);
                file
            }
        };
        if file.live_len() < len as u64 {
            file.set_len(len as u64)?;
            file.sync_data()?;
            self.sync()?;
        }
        Ok(Some(Box::new(JournalDisk(file))))
    }

    fn remove(&self, first: u64) -> Result<(), Error> {
        self.forget(Some(first))?;
        self.sync()
    }
}

/// The files of a store on two disks.
///
/// # Errors
/// When the disk of the derived state fails, or what it holds is no database.
pub fn files(log: &LogDisk, state: &Disk) -> Result<Files, StorageError> {
    Ok(on(log, state.database()?))
}

/// The same, and nothing of them is kept in memory.
///
/// # Errors
/// As for [`files`].
pub fn uncached_files(log: &LogDisk, state: &Disk) -> Result<Files, StorageError> {
    let log = LogDisk {
        cache_bytes: 0,
        ..log.clone()
    };
    Ok(on(&log, state.open(0)?))
}

/// What [`Files::in_dir`] does on two disks: derived state that is damaged is made anew, on the empty disk
/// that comes back in its place.
///
/// # Errors
/// When a disk fails.
pub fn repaired(log: &LogDisk, state: &Disk, power: &Power) -> Result<(Files, Disk), StorageError> {
    match state.database() {
        Ok(db) => Ok((on(log, db), state.clone())),
        Err(error) if !error.is_damage() => Err(error),
        Err(_) => {
            let fresh = Disk::new(power);
            let db = fresh.database()?;
            Ok((on(log, db), fresh))
        }
    }
}

fn on(log: &LogDisk, state: Database) -> Files {
    Files::from_parts(Box::new(log.clone()), log.segment_bytes, state)
}
