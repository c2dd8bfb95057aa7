//! What attacks may not do to an honest node: fill its memory or its disk, void what it wrote, or set its clock.

use std::collections::BTreeMap;

use lattice_format::{DeviceKey, Lane, VerifiedHeader};
use lattice_kernel::limits::{
    FLOATING_BYTES_MAX, FLOATING_MAX, PARKED_BYTES_MAX, PARKED_MAX, VOID_BYTES_PER_AUTHOR,
};
use lattice_kernel::run::engine::{Answer, AskError, Question};
use lattice_kernel::sync::limits::WINDOW_BYTES;
use lattice_kernel::{LocalSeq, StorageError};

use crate::limits::START_MS;
use crate::world::World;
use crate::world::node::NodeId;
use crate::world::trace::short;

/// Bytes of bodies that an author may have here without effect, beyond those that had one when they came. A batch is
/// judged by what is kept when it arrives, so one of a whole window may come on top of what is allowed.
const VOID_BYTES_MAX: u64 = VOID_BYTES_PER_AUTHOR + WINDOW_BYTES;

/// What is known of the entries of hostile members on a node.
#[derive(Debug, Default)]
pub(crate) struct Witnessed {
    looked: u64,
    /// Bytes of bodies that counted when they were looked at, by author.
    counted: BTreeMap<DeviceKey, u64>,
}

impl World {
    /// What a node holds beyond its bounds, if anything.
    pub(crate) fn exceeds(&mut self, id: NodeId) -> Option<String> {
        let store = self.nodes[id.index()].store()?;
        let (floating, parked) = store.waiting_counts();
        let (floating_bytes, parked_bytes) = store.waiting_bytes();
        if floating > FLOATING_MAX || parked > PARKED_MAX {
            return Some(format!(
                "{id} keeps {floating} floating and {parked} parked entries"
            ));
        }
        if floating_bytes > FLOATING_BYTES_MAX || parked_bytes > PARKED_BYTES_MAX {
            return Some(format!(
                "{id} keeps {floating_bytes} bytes of floating and {parked_bytes} of parked entries"
            ));
        }
        let streams = self.nodes[id.index()].streams.len();
        if streams >= self.nodes.len() {
            return Some(format!("{id} has {streams} streams"));
        }
        let hostile: Vec<DeviceKey> = self.hostile().collect();
        if hostile.is_empty() || !self.nodes[id.index()].is_honest() {
            return None;
        }
        // Its disk fails; the writer takes care of that.
        self.void_bytes(id, &hostile).unwrap_or(None)
    }

    fn hostile(&self) -> impl Iterator<Item = DeviceKey> + '_ {
        let hostile = self.nodes.iter().filter(|n| n.hostile);
        hostile.map(|n| n.device)
    }

    /// The bytes without effect that a node keeps of a hostile author, if they are too many.
    fn void_bytes(
        &mut self,
        id: NodeId,
        hostile: &[DeviceKey],
    ) -> Result<Option<String>, StorageError> {
        let node = &mut self.nodes[id.index()];
        let Some(store) = node.writer.as_ref().and_then(|w| w.store()) else {
            return Ok(None);
        };
        let snapshot = store.published();
        let summary = snapshot.summary();
        if summary.pending == 0 {
            while node.witnessed.looked < summary.count {
                let entry = snapshot.entry_at(LocalSeq(node.witnessed.looked))?;
                node.witnessed.looked += 1;
                let Some(header) = entry.map(|entry| entry.header) else {
                    continue;
                };
                if hostile.contains(&header.author) && !snapshot.is_void(&header.id())? {
                    let counted = node.witnessed.counted.entry(header.author).or_default();
                    *counted += u64::from(header.body.len);
                }
            }
        }
        for author in hostile {
            let (entries, bytes) = store.void_kept(author)?;
            let counted = node.witnessed.counted.get(author).copied().unwrap_or(0);
            if bytes > counted + VOID_BYTES_MAX {
                return Ok(Some(format!(
                    "{id} keeps {entries} void entries of one author with {bytes} bytes, of which {counted} had an effect"
                )));
            }
        }
        Ok(None)
    }

    /// What an honest node has signed: by a clock that was never ahead, nothing is dated ahead, and what may change
    /// governance follows all that the node has applied.
    pub(crate) fn check_signed(&mut self, id: NodeId, written: &[VerifiedHeader]) {
        if !self.nodes[id.index()].is_honest() {
            return;
        }
        for header in written {
            let wrong = self.dated_ahead(id, header);
            if let Some(text) = wrong {
                self.violate(text);
            }
        }
        let last = written.last().filter(|h| h.lane == Lane::System);
        if let Some(header) = last
            && let Ok(Some(text)) = self.passes_over(id, header)
        {
            self.violate(text);
        }
    }

    fn dated_ahead(&self, id: NodeId, header: &VerifiedHeader) -> Option<String> {
        let node = &self.nodes[id.index()];
        let drift_ms = node.store()?.published().genesis().drift_ms;
        let founded_ms = node.store()?.published().genesis_time().wall_ms;
        let shown_ms = self.clock(id).max(node.shown_ms).max(founded_ms);
        // Members correct a clock by the drift, and entries may lie as far ahead again.
        let most_ms = shown_ms + 2 * drift_ms;
        (header.time.wall_ms > most_ms).then(|| {
            format!(
                "{id} has dated {} by {} ms, and its clock never showed more than {}",
                short(&header.id().0),
                header.time.wall_ms - START_MS,
                shown_ms - START_MS
            )
        })
    }

    /// Entries that the node had run and that its change of governance does not follow.
    fn passes_over(
        &self,
        id: NodeId,
        header: &VerifiedHeader,
    ) -> Result<Option<String>, StorageError> {
        let node = &self.nodes[id.index()];
        let Some(snapshot) = node.store().map(|s| s.published()) else {
            return Ok(None);
        };
        let own = header.id();
        let Some(local) = snapshot.local_of(&own)? else {
            return Ok(None);
        };
        if node.due_before {
            return Ok(None);
        }
        for tip in snapshot.tips()? {
            if tip.local >= local || snapshot.is_void(&tip.id)? {
                continue;
            }
            let Some(entry) = snapshot.entry_at(tip.local)? else {
                continue;
            };
            // What lies too far ahead is not followed.
            if entry.header.time < header.time && !snapshot.in_past_or_same(&tip.id, &own)? {
                return Ok(Some(format!(
                    "{id} changes governance in {} and has not named {}",
                    short(&own.0),
                    short(&tip.id.0)
                )));
            }
        }
        Ok(None)
    }

    /// What an honest node wrote is void only if governance cuts its device off.
    pub(crate) fn check_rights(&self, id: NodeId) -> Result<(), String> {
        let node = &self.nodes[id.index()];
        let Some(snapshot) = self.snapshot(id).filter(|_| !node.restored) else {
            return Ok(());
        };
        let unreadable = |error: StorageError| error.to_string();
        let mut cut = None;
        for entry in &node.acknowledged {
            let Some(stored) = snapshot.entry(entry).map_err(unreadable)? else {
                continue;
            };
            let own = stored.header.author == node.device;
            if !own || !snapshot.is_void(entry).map_err(unreadable)? {
                continue;
            }
            if !snapshot.is_cut_off(entry).map_err(unreadable)? {
                let text = "is void and not cut off";
                return Err(format!("{} of {id} {text}", short(&entry.0)));
            }
            let cut = cut.get_or_insert_with(|| snapshot.ask(&Question::Cuts(node.device)));
            if matches!(cut, Ok(Answer::Cuts(cuts)) if cuts.is_empty()) {
                let text = "is cut off, and governance has no cut of its author";
                return Err(format!("{} of {id} {text}", short(&entry.0)));
            }
            if let Err(AskError::Host(fault)) = cut {
                return Err(fault.to_string());
            }
        }
        Ok(())
    }
}
