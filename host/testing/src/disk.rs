//! A disk that loses what was not synced: the storage behind redb in tests of crashes and in the simulator.
//!
//! It keeps the image of the last sync and a journal of what was written since. When its power
//! fails, nothing works any more; what is found afterwards is the synced image with none, some or
//! all of the journal applied, the last write perhaps torn.

use std::borrow::Cow;
use std::io::{Error, ErrorKind};
use std::ops::Range;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use lattice_kernel::{StorageError, StoreFile};
use redb::{Database, StorageBackend};

use crate::dice::Dice;

/// Memory that redb may use for pages of the derived state, in bytes.
pub(crate) const STATE_CACHE_BYTES: usize = 832 * 1024;

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

    pub(crate) fn use_up(&self) -> Result<(), Error> {
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
    /// The same of whole pages, from that page on, which images share.
    Pages(usize, Vec<Option<Page>>),
    Len(u64),
}

impl Change {
    fn of(offset: u64, data: &[u8]) -> Self {
        match data.as_chunks::<PAGE>() {
            (pages, []) if offset.is_multiple_of(PAGE as u64) => {
                let pages = pages.iter().map(page).collect();
                Self::Pages(offset as usize / PAGE, pages)
            }
            _ => Self::Write(offset, data.to_vec()),
        }
    }

    fn apply(&self, image: &mut Image) {
        match self {
            Self::Write(offset, data) => image.write(*offset as usize, data),
            Self::Pages(first, pages) => image.put(*first, pages),
            Self::Len(len) => image.resize(*len as usize),
        }
    }

    /// Where it begins, and the bytes, of a write.
    fn written(&self) -> Option<(usize, Cow<'_, [u8]>)> {
        match self {
            Self::Write(offset, data) => Some((*offset as usize, data.into())),
            Self::Pages(first, pages) => {
                let bytes = pages.iter().flat_map(|page| whole(page.as_ref()));
                Some((first * PAGE, bytes.collect::<Vec<_>>().into()))
            }
            Self::Len(_) => None,
        }
    }

    /// The pages that it touches, of a write.
    fn touched(&self) -> Range<usize> {
        match self {
            Self::Write(offset, data) => {
                let offset = *offset as usize;
                offset / PAGE..(offset + data.len()).div_ceil(PAGE)
            }
            Self::Pages(first, pages) => *first..first + pages.len(),
            Self::Len(_) => 0..0,
        }
    }
}

const PAGE: usize = 4096;

/// Bytes of a page that are looked at together.
const PIECE: usize = 16;

/// A page without the zeros at its end: a page of a tree is seldom full, and nodes by the thousand have hundreds
/// of pages each.
type Page = Arc<[u8]>;

fn page(bytes: &[u8; PAGE]) -> Option<Page> {
    let (pieces, _) = bytes.as_chunks::<PIECE>();
    let used = pieces.iter().rposition(|piece| *piece != [0; PIECE])? + 1;
    Some(Arc::from(pieces[..used].as_flattened()))
}

/// The whole of a page.
fn whole(page: Option<&Page>) -> [u8; PAGE] {
    let mut out = [0; PAGE];
    if let Some(page) = page {
        out[..page.len()].copy_from_slice(page);
    }
    out
}

/// What a disk holds, in pages that images share until one of them is written. Pages of zeros take no memory.
#[derive(Clone, Debug, Default)]
struct Image {
    len: usize,
    pages: Vec<Option<Page>>,
}

impl Image {
    fn of(bytes: &[u8]) -> Self {
        let mut image = Self::default();
        image.write(0, bytes);
        image
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![0; self.len];
        self.read(0, &mut out);
        out
    }

    /// Whether all of it is there.
    fn read(&self, offset: usize, out: &mut [u8]) -> bool {
        let end = offset.checked_add(out.len());
        if end.is_none_or(|end| end > self.len) {
            return false;
        }
        for (page, at, part) in parts(offset, out.len()) {
            let out = &mut out[part];
            let stored = self.pages[page].as_deref().unwrap_or_default();
            let stored = stored.get(at..).unwrap_or_default();
            let (used, zeros) = out.split_at_mut(stored.len().min(out.len()));
            used.copy_from_slice(&stored[..used.len()]);
            zeros.fill(0);
        }
        true
    }

    fn write(&mut self, offset: usize, data: &[u8]) {
        if self.len < offset + data.len() {
            self.resize(offset + data.len());
        }
        for (number, at, part) in parts(offset, data.len()) {
            let (data, stored) = (&data[part], &mut self.pages[number]);
            *stored = match data.first_chunk() {
                Some(all) => page(all),
                None => {
                    let mut copy = whole(stored.as_ref());
                    copy[at..at + data.len()].copy_from_slice(data);
                    page(&copy)
                }
            };
        }
    }

    fn put(&mut self, first: usize, pages: &[Option<Page>]) {
        let end = first + pages.len();
        if self.len < end * PAGE {
            self.resize(end * PAGE);
        }
        for (own, page) in self.pages[first..end].iter_mut().zip(pages) {
            own.clone_from(page);
        }
    }

    fn resize(&mut self, len: usize) {
        let old = std::mem::replace(&mut self.len, len);
        self.pages.resize(len.div_ceil(PAGE), None);
        // What is cut off reads as zeros if the disk grows again.
        if len < old
            && !len.is_multiple_of(PAGE)
            && let Some(last) = self.pages.last_mut()
        {
            let mut copy = whole(last.as_ref());
            copy[len % PAGE..].fill(0);
            *last = page(&copy);
        }
    }
}

/// The pages of a range of bytes: the page's number, where in it the range begins, and which part of the range
/// it holds.
fn parts(offset: usize, len: usize) -> impl Iterator<Item = (usize, usize, Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (page, at) = ((offset + done) / PAGE, (offset + done) % PAGE);
        let part = done..len.min(done + PAGE - at);
        done = part.end;
        (!part.is_empty()).then_some((page, at, part))
    })
}

#[derive(Debug, Default)]
struct Medium {
    synced: Image,
    journal: Vec<Change>,
    live: Image,
}

/// The room that disks share.
#[derive(Debug, Default)]
pub(crate) struct Space {
    /// The most bytes that fit.
    pub(crate) room: Option<u64>,
    /// The lengths of all disks.
    pub(crate) used: u64,
}

impl Space {
    /// Whether a disk may be that long, or written up to there.
    fn has_room(&self, own: usize, len: u64) -> bool {
        let others = self.used - own as u64;
        self.room.is_none_or(|room| others + len <= room)
    }
}

impl Medium {
    /// What was written is there after a failure of the power as well.
    fn sync(&mut self) {
        let journal = std::mem::take(&mut self.journal);
        let resized = journal.iter().any(|c| matches!(c, Change::Len(_)));
        if resized || self.synced.len != self.live.len {
            self.synced.clone_from(&self.live);
            return;
        }
        for page in journal.iter().flat_map(Change::touched) {
            self.synced.pages[page].clone_from(&self.live.pages[page]);
        }
    }
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
    space: Arc<Mutex<Space>>,
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
        Self::in_space(Image::of(&image), Arc::default(), power)
    }

    /// A disk that holds `image`, all of it synced, and shares the room of others.
    pub(crate) fn sharing(image: &[u8], space: &Arc<Mutex<Space>>, power: &Power) -> Self {
        Self::in_space(Image::of(image), space.clone(), power)
    }

    fn in_space(image: Image, space: Arc<Mutex<Space>>, power: &Power) -> Self {
        space.lock().expect("no panic while it is held").used += image.len as u64;
        Self {
            medium: Arc::new(Mutex::new(Medium {
                synced: image.clone(),
                live: image,
                ..Medium::default()
            })),
            space,
            power: power.clone(),
            reads: Power::steady(),
        }
    }

    /// A disk of its own with what this one holds now. They fail together.
    pub(crate) fn fork(&self) -> Self {
        let image = self.lock().live.clone();
        let mut fork = Self::in_space(image, Arc::default(), &self.power);
        fork.reads = self.reads.clone();
        fork
    }

    /// Gives its room back: nothing names it any more.
    pub(crate) fn removed(&self) {
        let medium = self.lock();
        self.space().used -= medium.live.len as u64;
    }

    fn space(&self) -> MutexGuard<'_, Space> {
        self.space.lock().expect("no panic while it is held")
    }

    /// Opens a database on this disk.
    ///
    /// # Errors
    /// When the disk fails, or what it holds is no database.
    pub fn database(&self) -> Result<Database, StorageError> {
        self.open(STATE_CACHE_BYTES)
    }

    /// The same with so much memory for its pages.
    pub(crate) fn open(&self, cache_bytes: usize) -> Result<Database, StorageError> {
        Database::builder()
            .set_cache_size(cache_bytes)
            .create_with_backend(self.clone())
            .map_err(|error| StorageError::unopened(StoreFile::State, error))
    }

    fn lock(&self) -> MutexGuard<'_, Medium> {
        self.medium.lock().expect("no panic while it is held")
    }

    /// Nothing more than that many bytes fits; `None` for all that comes.
    pub fn set_room(&self, room: Option<u64>) {
        self.space().room = room;
    }

    /// How many bytes fit, if there is a bound.
    pub fn room(&self) -> Option<u64> {
        self.space().room
    }

    /// Changes what a process sees, if there is room for a disk up to `end`.
    fn change(&self, change: Change, end: u64) -> Result<(), Error> {
        let mut medium = self.lock();
        let (before, mut space) = (medium.live.len, self.space());
        if !space.has_room(before, end) {
            return Err(Error::from(ErrorKind::StorageFull));
        }
        change.apply(&mut medium.live);
        space.used = space.used - before as u64 + medium.live.len as u64;
        medium.journal.push(change);
        Ok(())
    }

    /// How many bytes a process sees that is alive.
    pub(crate) fn live_len(&self) -> u64 {
        self.lock().live.len as u64
    }

    /// What a process sees that is alive.
    pub fn live(&self) -> Vec<u8> {
        self.lock().live.to_bytes()
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
                change.apply(&mut image);
            } else if survives == Survives::Torn
                && index == prefix
                && let Some((offset, data)) = change.written()
            {
                let len = dice.below(data.len() as u64) as usize;
                image.write(offset, &data[..len]);
            }
        }
        image.to_bytes()
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> Result<u64, Error> {
        if self.power.failed() {
            return Err(Error::other("the power failed"));
        }
        Ok(self.lock().live.len as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), Error> {
        if self.power.failed() {
            return Err(Error::other("the power failed"));
        }
        let failed = |_| Error::other("the read failed");
        self.reads.use_up().map_err(failed)?;
        match self.lock().live.read(offset as usize, out) {
            true => Ok(()),
            false => Err(Error::from(ErrorKind::UnexpectedEof)),
        }
    }

    fn set_len(&self, len: u64) -> Result<(), Error> {
        self.power.use_up()?;
        self.change(Change::Len(len), len)
    }

    fn sync_data(&self) -> Result<(), Error> {
        self.power.use_up()?;
        self.lock().sync();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), Error> {
        self.power.use_up()?;
        self.change(Change::of(offset, data), offset + data.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize, usize, u8),
        Resize(usize),
        Sync,
    }

    fn step() -> impl Strategy<Value = Step> {
        let place = || prop_oneof![0usize..20_000, (0usize..5).prop_map(|page| page * PAGE)];
        let len = || prop_oneof![0usize..10_000, (0usize..3).prop_map(|pages| pages * PAGE)];
        prop_oneof![
            4 => (place(), len(), 1u8..).prop_map(|(at, len, byte)| Step::Write(at, len, byte)),
            1 => place().prop_map(Step::Resize),
            2 => Just(Step::Sync),
        ]
    }

    #[test]
    fn of_a_torn_write_of_whole_pages_a_beginning_is_found() {
        let (len, mut between) = (2 * PAGE, 0);
        for seed in 0..50 {
            let disk = Disk::new(&Power::steady());
            disk.write(0, &vec![1; len]).expect("there is room");
            disk.sync_data().expect("there is power");
            disk.write(0, &vec![2; len]).expect("there is room");
            let found = disk.after_crash(Survives::Torn, &mut Dice(seed));
            let torn = found.iter().position(|byte| *byte == 1).unwrap_or(len);
            assert_eq!(found.len(), len);
            assert!(found[torn..].iter().all(|byte| *byte == 1));
            between += usize::from(torn % PAGE != 0);
            assert_eq!(disk.live(), vec![2; len]);
        }
        assert!(between > 10);
    }

    proptest! {
        #[test]
        fn a_disk_of_shared_pages_reads_as_plain_bytes(
            steps in proptest::collection::vec(step(), 1..30),
            at in 0usize..20_000, len in 0usize..9_000,
        ) {
            let disk = Disk::new(&Power::steady());
            let (mut live, mut synced) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Write(at, len, byte) => {
                        disk.write(at as u64, &vec![byte; len]).expect("there is room");
                        live.resize(live.len().max(at + len), 0);
                        live[at..at + len].fill(byte);
                    }
                    Step::Resize(len) => {
                        disk.set_len(len as u64).expect("there is room");
                        live.resize(len, 0);
                    }
                    Step::Sync => {
                        disk.sync_data().expect("there is power");
                        synced.clone_from(&live);
                    }
                }
                let found = |survives| disk.after_crash(survives, &mut Dice(1));
                prop_assert_eq!(&disk.live(), &live);
                prop_assert_eq!(&found(Survives::Nothing), &synced);
                prop_assert_eq!(&found(Survives::All), &live);
                let mut out = vec![1; len];
                let read = disk.read(at as u64, &mut out).is_ok();
                prop_assert_eq!(read.then_some(&out[..]), live.get(at..at + len));
            }
        }
    }

    #[test]
    fn pages_take_no_memory_for_the_zeros_at_their_end() {
        let disk = Disk::new(&Power::steady());
        let held = || {
            let medium = disk.lock();
            let pages = medium.live.pages.iter();
            pages
                .map(|page| page.as_ref().map(|page| page.len()))
                .collect::<Vec<_>>()
        };
        let mut bytes = vec![0; 3 * PAGE];
        bytes[..100].fill(1);
        bytes[3 * PAGE - 1] = 1;
        disk.write(0, &bytes).expect("there is room");
        assert_eq!(held(), [Some(112), None, Some(PAGE)]);
        disk.write(50, &[0; 50]).expect("there is room");
        disk.write(PAGE as u64 + 1, &[1]).expect("there is room");
        disk.set_len(3 * PAGE as u64 - 1).expect("there is room");
        assert_eq!(held(), [Some(64), Some(PIECE), None]);
    }
}
