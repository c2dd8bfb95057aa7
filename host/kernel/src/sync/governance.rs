//! Who is a member of a store, as the shells keep it beside the store: for access, dialling and lists.
//!
//! The list is read from the governance component in pages, by rank, and each page is kept with the reads that it rests
//! on. After a change only those pages are asked for again that the changed cells touch, so that a change of one among
//! many members costs no list of them all.

use std::sync::Arc;

use imbl::OrdMap;
use lattice_format::{DeviceKey, Lane};

use super::limits::{MEMBERS_PAGE, STALE_CELLS_MAX};
use super::peer::Access;
use crate::fold::core::Changes;
use crate::run::engine::{Answer, AskError, Member, Question};
use crate::state::cell::Cell;
use crate::state::reads::Reads;
use crate::store::snapshot::Snapshot;

/// Members of a store and the gossip salt, as of the end of the system lane. Clones share what they hold.
#[derive(Clone, Debug, Default)]
pub struct Governance {
    /// By the rank before the first of the page, which is empty for the first page.
    pages: OrdMap<Vec<u8>, Arc<Page>>,
    devices: OrdMap<DeviceKey, Arc<Member>>,
    topic_salt: Vec<u8>,
    /// What the salt rests on.
    salt_reads: Arc<Reads>,
}

/// Members from one rank to another.
#[derive(Debug)]
struct Page {
    members: Vec<Arc<Member>>,
    reads: Reads,
}

/// What changed in the system lane since a [`Governance`] was read.
#[derive(Clone, Debug, Default)]
pub struct Stale {
    cells: Vec<Cell>,
    all: bool,
}

impl Stale {
    /// Everything may have changed.
    pub fn all() -> Self {
        Self {
            cells: Vec::new(),
            all: true,
        }
    }

    /// Notes what a commit changed. Returns whether governance may answer otherwise than before.
    pub fn note(&mut self, changes: &Changes) -> bool {
        let cells = changes.cells.iter().filter(|c| c.lane() == Lane::System);
        self.cells.extend(cells.cloned());
        if changes.all || self.cells.len() > STALE_CELLS_MAX {
            *self = Self::all();
        }
        self.is_stale()
    }

    /// Whether anything may have changed.
    pub fn is_stale(&self) -> bool {
        self.all || !self.cells.is_empty()
    }

    fn touches(&self, reads: &Reads) -> bool {
        self.all || self.cells.iter().any(|cell| reads.touches(cell))
    }
}

impl Governance {
    /// Asks the governance component of a store for everything.
    ///
    /// # Errors
    /// When the component cannot be asked.
    pub fn read(snapshot: &Snapshot) -> Result<Self, AskError> {
        Self::default().refreshed_by(snapshot, &Stale::all(), MEMBERS_PAGE)
    }

    /// A list of members that were not read from a store.
    pub fn of(members: Vec<Member>, topic_salt: Vec<u8>) -> Self {
        let members: Vec<Arc<Member>> = members.into_iter().map(Arc::new).collect();
        let devices = members.iter().map(|m| (m.device, m.clone())).collect();
        let reads = Reads::default();
        Self {
            pages: OrdMap::unit(Vec::new(), Arc::new(Page { members, reads })),
            devices,
            topic_salt,
            salt_reads: Arc::default(),
        }
    }

    /// The same list after changes.
    ///
    /// # Errors
    /// When the component cannot be asked.
    pub fn refreshed(&self, snapshot: &Snapshot, stale: &Stale) -> Result<Self, AskError> {
        self.refreshed_by(snapshot, stale, MEMBERS_PAGE)
    }

    fn refreshed_by(
        &self,
        snapshot: &Snapshot,
        stale: &Stale,
        page_rows: u32,
    ) -> Result<Self, AskError> {
        let mut next = self.clone();
        if stale.touches(&self.salt_reads) {
            let (answer, reads) = snapshot.ask_tracked(&Question::InEffect)?;
            let Answer::InEffect(in_effect) = answer else {
                unreachable!("what is in effect was asked, the answer is {answer:?}");
            };
            (next.topic_salt, next.salt_reads) = (in_effect.topic_salt, Arc::new(reads));
        }
        let mut bounds: Vec<Vec<u8>> = self.pages.keys().cloned().collect();
        if bounds.is_empty() {
            bounds.push(Vec::new());
        }
        let mut read = Vec::new();
        for (at, start) in bounds.iter().enumerate() {
            let old = self.pages.get(start);
            if old.is_some_and(|page| !stale.touches(&page.reads)) {
                continue;
            }
            // A device can move from one page to another, so all leave before any comes.
            for member in old.iter().flat_map(|page| &page.members) {
                next.devices.remove(&member.device);
            }
            read.extend(pages(snapshot, start, bounds.get(at + 1), page_rows)?);
        }
        for (start, page) in read {
            for member in &page.members {
                next.devices.insert(member.device, member.clone());
            }
            next.pages.insert(start, Arc::new(page));
        }
        Ok(next)
    }

    /// The salt from which the gossip topic is derived, together with the store's id.
    pub fn topic_salt(&self) -> &[u8] {
        &self.topic_salt
    }

    /// Everyone who ever was a member, by rank.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        let pages = self.pages.values();
        pages.flat_map(|page| page.members.iter().map(|member| &**member))
    }

    /// The member with this device, present or past.
    pub fn member(&self, device: &DeviceKey) -> Option<&Member> {
        self.devices.get(device).map(|member| &**member)
    }

    /// How many ever were members.
    pub fn count(&self) -> usize {
        self.devices.len()
    }

    /// What a peer may have of the store.
    pub fn access(&self, peer: &DeviceKey) -> Access {
        Access::of(self.member(peer))
    }

    /// Whether both tell the same, whatever it rests on.
    pub fn is_same(&self, other: &Self) -> bool {
        self.topic_salt == other.topic_salt
            && (self.devices.ptr_eq(&other.devices) || self.members().eq(other.members()))
    }
}

/// Asks for the members after the rank `start` up to the rank `end`, or to the last, in pages.
fn pages(
    snapshot: &Snapshot,
    start: &[u8],
    end: Option<&Vec<u8>>,
    limit: u32,
) -> Result<Vec<(Vec<u8>, Page)>, AskError> {
    let mut out = Vec::new();
    let mut start = start.to_vec();
    loop {
        let after = Some(start.clone()).filter(|rank| !rank.is_empty());
        let (answer, reads) = snapshot.ask_tracked(&Question::Members { after, limit })?;
        let Answer::Members(found) = answer else {
            unreachable!("members were asked, the answer is {answer:?}");
        };
        let is_full = found.len() >= limit as usize;
        let within = |member: &Member| end.is_none_or(|end| member.rank <= *end);
        let passes_end = found.iter().any(|member| !within(member));
        // A component that does not go on by rank would be asked for ever.
        let last = found.last().map(|member| member.rank.clone());
        let last = last.filter(|last| *last > start);
        let members = found.into_iter().filter(within).map(Arc::new).collect();
        out.push((start, Page { members, reads }));
        match last {
            Some(last) if is_full && !passes_end && Some(&last) != end => start = last,
            _ => return Ok(out),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use lattice_format::{Call, ChainId};
    use proptest::prelude::*;

    use super::*;
    use crate::run::engine::Role;
    use crate::testing::{self, device};

    const NOW: u64 = 1_000_000;

    proptest! {
        /// A list that follows changes is the list that is read anew.
        #[test]
        fn what_is_refreshed_is_what_is_read(
            acts in proptest::collection::vec((0u8..3, 1u8..30, 0u64..40), 1..40),
        ) {
            let mut store = testing::found(0, NOW);
            let mut kept = Governance::read(&store.snapshot()).unwrap();
            let mut stale = Stale::all();
            for (at, (act, whom, back)) in acts.into_iter().enumerate() {
                let whom = device(whom);
                let call: Call = match act {
                    0 => testing::admit(whom, Role::Writer),
                    1 => testing::revoke(whom, &[]),
                    _ => testing::set_role(whom, Role::Reader),
                };
                // Clocks differ, so that ranks come before others.
                let now = NOW + 100 + at as u64 - back;
                let _ = store.call(Lane::System, vec![call], now, ChainId(1));
                store.commit(now).unwrap();
                stale.note(&store.take_changes());
                if at % 3 > 0 {
                    let snapshot = store.snapshot();
                    kept = kept.refreshed_by(&snapshot, &stale, 4).unwrap();
                    stale = Stale::default();
                    let read = Governance::read(&snapshot).unwrap();
                    prop_assert!(kept.is_same(&read));
                    prop_assert_eq!(kept.count(), read.count());
                    for member in read.members() {
                        prop_assert_eq!(kept.member(&member.device), Some(member));
                    }
                }
            }
        }
    }

    #[test]
    fn a_change_asks_for_the_pages_that_it_touches_alone() {
        let mut store = testing::found(0, NOW);
        for n in 1..40 {
            let call = testing::admit(device(n), Role::Writer);
            store
                .call(Lane::System, vec![call], NOW, ChainId(1))
                .unwrap();
            store.commit(NOW).unwrap();
        }
        store.take_changes();
        let all = Governance::default();
        let before = all
            .refreshed_by(&store.snapshot(), &Stale::all(), 4)
            .unwrap();
        let call = testing::set_role(device(9), Role::Reader);
        store
            .call(Lane::System, vec![call], NOW, ChainId(1))
            .unwrap();
        store.commit(NOW).unwrap();
        let mut stale = Stale::default();
        assert!(stale.note(&store.take_changes()));
        let after = before.refreshed_by(&store.snapshot(), &stale, 4).unwrap();
        let shared = before.pages.values().zip(after.pages.values());
        let anew = shared.filter(|(a, b)| !Arc::ptr_eq(a, b)).count();
        // Ten full pages, and one after them that would have the next member.
        assert_eq!((before.pages.len(), anew), (11, 1));
        assert_eq!(after.member(&device(9)).unwrap().role, Role::Reader);
        assert!(!after.is_same(&before) && before.is_same(&before.clone()));
    }

    #[test]
    fn a_page_has_so_many_members() {
        let mut store = testing::found(0, NOW);
        let mut admit = |from: u32, to: u32| {
            for n in from..to {
                let mut device = device(0);
                device.0[..4].copy_from_slice(&n.to_be_bytes());
                let call = vec![testing::admit(device, Role::Writer)];
                store.call(Lane::System, call, NOW, ChainId(1)).unwrap();
            }
            store.commit(NOW).unwrap();
            Governance::read(&store.snapshot()).unwrap()
        };
        let pages = |governance: &Governance| {
            let pages = governance.pages.values();
            pages.map(|page| page.members.len()).collect::<Vec<_>>()
        };
        let full = MEMBERS_PAGE as usize;
        // The founder is one of them.
        assert_eq!(pages(&admit(1, MEMBERS_PAGE - 1)), [full - 1]);
        assert_eq!(pages(&admit(MEMBERS_PAGE, MEMBERS_PAGE + 2)), [full, 1]);
    }

    #[test]
    fn too_many_changes_make_everything_stale() {
        let mut stale = Stale::default();
        let cells = |count| Changes {
            cells: vec![Cell::new(Lane::System, crate::state::cell::Space::Bytes, b"k"); count],
            ..Changes::default()
        };
        assert!(stale.note(&cells(STALE_CELLS_MAX)) && !stale.all);
        assert!(stale.note(&cells(1)) && stale.all && stale.cells.is_empty());
        assert!(!Stale::default().is_stale());
        let app = Changes {
            cells: vec![Cell::new(Lane::App, crate::state::cell::Space::Bytes, b"k")],
            ..Changes::default()
        };
        assert!(!Stale::default().note(&app));
    }
}
