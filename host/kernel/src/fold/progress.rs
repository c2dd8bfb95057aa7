//! How far a store has come: one value beside the rows. It is saved with the rows, and a commit that fails goes back
//! to it as a whole.

use lattice_format::{ChainId, IntentionId, Position, StoreId, Time};

use crate::fold::due::DueRuns;
use crate::graph::order;
use crate::graph::slot::Slot;
use crate::state::versions::{RangeLengths, Roots};
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::storage::rows::{Rows, RowsView};

const ROOTS: &[u8] = b"Mroots";
const LENGTHS: &[u8] = b"Mlengths";
const INDEXED: &[u8] = b"Mindexed";
const LAST_TIME: &[u8] = b"Mlast-time";
const WITNESS: &[u8] = b"Mwitness";
const OWN_CHAIN: &[u8] = b"Mown-chain";
const VOID: &[u8] = b"Mvoid";
const FORKS: &[u8] = b"Mforks";

/// How far a store has come.
#[derive(Clone, Debug)]
pub(crate) struct Progress {
    /// The number of the next entry.
    pub(crate) next: LocalSeq,
    /// The latest time among all entries.
    pub(crate) last_time: Time,
    /// The chain that this device writes; `None` until it has started one here.
    pub(crate) chain: Option<ChainId>,
    /// The end of the witness chain.
    pub(crate) witness: [u8; 32],
    /// Entries since the last signed link of the witness chain.
    pub(crate) witnessed_since: u64,
    /// Entries since the rows were last written.
    pub(crate) unflushed: u64,
    pub(crate) roots: Roots,
    /// Branches that left a chain that there was.
    pub(crate) forks: u64,
    /// Entries that are void, by what ran last.
    pub(crate) void: u64,
    pub(crate) lengths: RangeLengths,
    pub(crate) due: DueRuns,
    /// The last slot of each lane where anything has run. No run has read above it, so changes there make nothing
    /// stale.
    pub(crate) last_run: [Slot; 2],
    /// Whether nothing is due.
    pub(crate) settled: bool,
}

impl Progress {
    /// The progress of a store before its first entry.
    pub(crate) fn start(store: StoreId) -> Self {
        Self {
            next: LocalSeq(0),
            last_time: Time::default(),
            chain: None,
            witness: store.0,
            witnessed_since: 0,
            unflushed: 0,
            roots: Roots::default(),
            forks: 0,
            void: 0,
            lengths: RangeLengths::default(),
            due: DueRuns::default(),
            last_run: [Slot::MIN; 2],
            settled: true,
        }
    }

    /// Reads the progress that was saved when the rows were last written.
    pub(crate) fn load(rows: &RowsView, store: StoreId) -> Result<Self, StorageError> {
        let number = |name: &[u8]| -> Result<Option<u64>, StorageError> {
            Ok(rows
                .get(name)?
                .and_then(|row| Some(u64::from_be_bytes((*row).try_into().ok()?))))
        };
        let start = Self::start(store);
        let next = LocalSeq(number(INDEXED)?.unwrap_or(0));
        Ok(Self {
            next,
            last_time: rows
                .get(LAST_TIME)?
                .and_then(|row| Position::from_slice(&row))
                .map_or(start.last_time, |position| position.time),
            chain: number(OWN_CHAIN)?.map(ChainId),
            witness: rows
                .get(WITNESS)?
                .and_then(|row| (*row).try_into().ok())
                .unwrap_or(start.witness),
            roots: match rows.get(ROOTS)? {
                None => start.roots,
                Some(row) => Roots::from_slice(&row).ok_or_else(|| StorageError::row(ROOTS))?,
            },
            forks: number(FORKS)?.unwrap_or(0),
            void: number(VOID)?.unwrap_or(0),
            lengths: rows
                .get(LENGTHS)?
                .map_or(start.lengths, |row| RangeLengths::from_slice(&row)),
            due: DueRuns::load(rows, next.0)?,
            // The slots of past runs are not saved. No run reads above the last entry, so its slot is safe for both
            // lanes.
            last_run: [order::last(rows)?; 2],
            ..start
        })
    }

    /// Writes the progress among the rows that it describes.
    pub(crate) fn save(&self, rows: &mut Rows) {
        self.due.save(rows);
        rows.put(ROOTS, self.roots.to_bytes());
        rows.put(LENGTHS, self.lengths.to_bytes());
        rows.put(FORKS, self.forks.to_be_bytes());
        rows.put(VOID, self.void.to_be_bytes());
        rows.put(INDEXED, self.next.0.to_be_bytes());
        rows.put(WITNESS, self.witness);
        if let Some(chain) = self.chain {
            rows.put(OWN_CHAIN, chain.0.to_be_bytes());
        }
        let last = Position {
            time: self.last_time,
            id: IntentionId([0; 32]),
        };
        rows.put(LAST_TIME, last.to_bytes());
    }
}
