//! Topologies: who is connected with whom.

use std::collections::BTreeSet;

use lattice_testing::Dice;

use crate::world::node::NodeId;

/// Who is connected with whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Topology {
    /// Everybody with everybody.
    Full,
    /// Everybody with the first.
    Star,
    /// Each with the next.
    Ring,
    /// Each with the next and so many others.
    Random(u16),
}

/// The neighbours of each of `count` nodes.
pub(crate) fn neighbours(count: u16, topology: Topology, dice: &mut Dice) -> Vec<Vec<NodeId>> {
    let mut links = vec![BTreeSet::new(); usize::from(count)];
    let mut link = |a: u16, b: u16| {
        if a != b {
            links[usize::from(a)].insert(NodeId(b));
            links[usize::from(b)].insert(NodeId(a));
        }
    };
    for a in 0..count {
        match topology {
            Topology::Full => (0..a).for_each(|b| link(a, b)),
            Topology::Star => link(a, 0),
            Topology::Ring => link(a, (a + 1) % count),
            Topology::Random(others) => {
                link(a, (a + 1) % count);
                for _ in 0..others {
                    link(a, dice.below(u64::from(count)) as u16);
                }
            }
        }
    }
    links.into_iter().map(|l| l.into_iter().collect()).collect()
}
