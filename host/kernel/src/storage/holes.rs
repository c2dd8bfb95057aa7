//! Holes: intervals of keys where a scan found nothing, which the next scan skips.
//!
//! A row that is removed stays in the overlay until the next flush, because it hides a row on disk. A queue leaves
//! thousands of those at its head. And a run at an early slot passes whatever was written above the slot. A scan that
//! had to pass many such rows remembers the interval, so that each is passed once and not by every scan.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use imbl::OrdMap;

type Key = Arc<[u8]>;

/// The number of removed rows in sequence from which on a scan remembers the interval. Looking one up costs about
/// as much as passing so many.
const REMEMBERED_FROM: usize = 32;

/// The holes of one state of the rows: disjoint intervals, from a key (inclusive) to a key (exclusive).
///
/// Clones share what their scans find. Before the rows change, [`Holes::fill`] or [`Holes::part`] separates their holes
/// from those of the clones, whose rows stay as they are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Holes(Arc<Mutex<OrdMap<Key, Key>>>);

impl Holes {
    /// Separates these holes from their clones.
    pub(crate) fn part(&mut self) -> &mut OrdMap<Key, Key> {
        if Arc::get_mut(&mut self.0).is_none() {
            let holes = self.lock().clone();
            self.0 = Arc::new(Mutex::new(holes));
        }
        Arc::get_mut(&mut self.0)
            .expect("separated just above")
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, OrdMap<Key, Key>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A row is put at `key`: what lies before and behind it stays a hole.
    pub(crate) fn fill(&mut self, key: &[u8]) {
        let holes = self.part();
        let Some((from, to)) = around(holes, key) else {
            return;
        };
        if from[..] == *key {
            holes.remove(&from);
        } else {
            holes.insert(from, key.into());
        }
        let behind = just_behind(key);
        if *behind < *to {
            holes.insert(behind.into(), to);
        }
    }

    /// Remembers that there is no row from `from` (inclusive) to `to` (exclusive).
    fn found(&self, from: &[u8], to: &[u8]) {
        let mut holes = self.lock();
        let mut hole: (Key, Key) = (from.into(), to.into());
        // Holes that touch the new one become part of it.
        while let Some((start, end)) = up_to(&holes, &hole.1)
            && end >= hole.0
        {
            holes.remove(&start);
            hole = (hole.0.min(start), hole.1.max(end));
        }
        holes.insert(hole.0, hole.1);
    }

    /// The hole that a scan in this direction meets at `key` or behind it.
    pub(crate) fn next(&self, key: &[u8], reverse: bool) -> Option<(Key, Key)> {
        let holes = self.lock();
        let next = match reverse {
            true => holes.get_prev(key),
            false => match around(&holes, key) {
                Some(hole) => return Some(hole),
                None => holes.get_next(key),
            },
        };
        next.map(|(from, to)| (from.clone(), to.clone()))
    }
}

/// The interval since the last row that a scan visited.
pub(crate) struct Gap {
    reverse: bool,
    /// Where the interval begins for the scan: a key that belongs to it, or in reverse the first one that does not.
    edge: Option<Vec<u8>>,
    /// The removed rows that the scan passed there itself.
    passed: usize,
}

impl Gap {
    pub(crate) fn new(reverse: bool) -> Self {
        Self {
            reverse,
            edge: None,
            passed: 0,
        }
    }

    /// The scan passes a removed row.
    pub(crate) fn pass(&mut self, key: &[u8]) {
        self.passed += 1;
        if self.edge.is_none() {
            self.edge = Some(match self.reverse {
                true => just_behind(key),
                false => key.to_vec(),
            });
        }
    }

    /// The scan skips a hole, which holds the row that it passed last.
    pub(crate) fn skip(&mut self, from: &[u8], to: &[u8]) {
        let Some(edge) = &mut self.edge else {
            return;
        };
        match self.reverse {
            true if *to > edge[..] => *edge = to.to_vec(),
            false if *from < edge[..] => *edge = from.to_vec(),
            _ => {}
        }
    }

    /// The scan meets a row.
    pub(crate) fn close(&mut self, key: &[u8], holes: &Holes) {
        if self.edge.is_some() {
            match self.reverse {
                true => self.close_at(&just_behind(key), holes),
                false => self.close_at(key, holes),
            }
        }
    }

    /// The scan ends, or meets a row, at `bound`.
    pub(crate) fn close_at(&mut self, bound: &[u8], holes: &Holes) {
        if let Some(edge) = self.edge.take()
            && self.passed >= REMEMBERED_FROM
        {
            match self.reverse {
                true => holes.found(bound, &edge),
                false => holes.found(&edge, bound),
            }
        }
        self.passed = 0;
    }
}

/// The hole that holds `key`.
fn around(holes: &OrdMap<Key, Key>, key: &[u8]) -> Option<(Key, Key)> {
    up_to(holes, key).filter(|(_, to)| *key < **to)
}

/// The last hole that begins at `key` or before it.
fn up_to(holes: &OrdMap<Key, Key>, key: &[u8]) -> Option<(Key, Key)> {
    let (from, to) = holes.get_prev(key)?;
    Some((from.clone(), to.clone()))
}

/// The first key above `key`.
fn just_behind(key: &[u8]) -> Vec<u8> {
    [key, &[0]].concat()
}
