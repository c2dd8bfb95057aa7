//! One thing that is done to a world: a call, a change of membership, a fault, an attack.

use std::collections::BTreeSet;
use std::fmt;

use lattice_format::Call;
use lattice_kernel::run::engine::Role;

use crate::world::Weather;
use crate::world::attack::Attack;
use crate::world::node::NodeId;

/// What a revocation keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Nothing.
    Nothing,
    /// Everything that its device has seen.
    Seen,
}

/// One thing that is done, at a time in milliseconds since the plan began.
#[derive(Clone, Debug)]
pub struct Step {
    /// When.
    pub at_ms: u64,
    /// What.
    pub act: Act,
}

/// Which operations of a disk return errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fails {
    /// Writes and syncs, and once one has failed, everything.
    Writes,
    /// Reads alone.
    Reads,
}

/// What is done.
#[derive(Clone, Debug)]
pub enum Act {
    /// Somebody calls the app on a node, some calls as one transaction.
    Call {
        /// The node.
        by: NodeId,
        /// The calls.
        calls: Vec<Call>,
    },
    /// A node makes another one a member, gives it a role, or admits it again.
    Admit {
        /// Who does it.
        by: NodeId,
        /// Whom.
        whom: NodeId,
        /// As what.
        role: Role,
    },
    /// An admin makes an invite.
    Invite {
        /// Who makes it.
        by: NodeId,
        /// What it makes of whoever claims it.
        role: Role,
        /// How many may claim it.
        uses: u32,
        /// For how long, in milliseconds by the clocks of whom claims are brought to.
        lasts_ms: u64,
    },
    /// Somebody brings its claim of the last invite to a member, whose node admits it.
    Claim {
        /// Who claims.
        whom: NodeId,
        /// The member.
        via: NodeId,
    },
    /// An admin makes a child of the store, with the members that it sees, on the same machines.
    Child {
        /// Who makes it.
        by: NodeId,
    },
    /// The same, but in the child store, if there is one.
    InChild(Box<Act>),
    /// A node revokes another one.
    Revoke {
        /// Who does it.
        by: NodeId,
        /// Whom.
        whom: NodeId,
        /// What stays of the second's entries.
        keep: Keep,
    },
    /// A node gives up its rights.
    Resign {
        /// Who does it.
        by: NodeId,
    },
    /// The machine fails now, or after so many more effects of its sessions.
    Crash {
        /// The machine.
        node: NodeId,
        /// Effects that it still carries out.
        after: u64,
    },
    /// The power fails at a write or sync.
    CutPower {
        /// The machine.
        node: NodeId,
        /// Writes and syncs that still succeed.
        after: u64,
    },
    /// The disk returns errors, from some operation on; the store is opened again afterwards.
    BreakDisk {
        /// The machine.
        node: NodeId,
        /// What fails.
        fails: Fails,
        /// Operations of these that still succeed.
        after: u64,
    },
    /// The disk of the log is full for a while.
    Fill {
        /// The machine.
        node: NodeId,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// The disk is slow for a while.
    Slow {
        /// The machine.
        node: NodeId,
        /// What each commit takes, in milliseconds.
        disk_ms: u64,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// The machine sleeps.
    Sleep {
        /// The machine.
        node: NodeId,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// The machine's clock is wrong from now on.
    Skew {
        /// The machine.
        node: NodeId,
        /// Its clock less the true time, in milliseconds.
        ms: i64,
    },
    /// The machine has another address: its streams are silent.
    Move {
        /// The machine.
        node: NodeId,
    },
    /// Packets between a group and the others do not pass for a while.
    Partition {
        /// The group.
        group: BTreeSet<NodeId>,
        /// Only those out of the group are lost.
        one_way: bool,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// Packets travel otherwise for a while.
    Storm {
        /// How.
        weather: Weather,
        /// For how long, in milliseconds.
        ms: u64,
    },
    /// The disks are copied.
    Backup {
        /// The machine.
        node: NodeId,
    },
    /// The copy is put back: if the node wrote in between, it forks its own chain.
    Restore {
        /// The machine.
        node: NodeId,
    },
    /// From now on the node sends other bytes than its sessions say.
    Lie {
        /// The node.
        node: NodeId,
    },
    /// A node is given entries that a liar made up.
    Forge {
        /// Who gets them.
        to: NodeId,
        /// In whose name.
        by: NodeId,
        /// Which kind of nonsense.
        kind: u64,
    },
    /// From now on nothing is asked of the node: somebody attacks with it.
    Turn {
        /// The node.
        node: NodeId,
    },
    /// The node is nobody's: it dials, holds streams without a word or asks without a right to.
    Estrange {
        /// The node.
        node: NodeId,
    },
    /// An admin bounds the bytes that each admin and writer may write.
    Bound {
        /// The admin.
        by: NodeId,
        /// The bytes.
        bytes: u64,
    },
    /// Somebody brings a claim of an invite that never was to a member.
    FalseClaim {
        /// Who claims.
        whom: NodeId,
        /// The member.
        via: NodeId,
    },
    /// A hostile member signs entries of its own and pushes them through its sessions.
    Attack {
        /// The member.
        by: NodeId,
        /// Another hostile member, whose key it has as well.
        with: NodeId,
        /// What it signs.
        attack: Attack,
        /// How many entries, or how much in one.
        count: u32,
    },
    /// A node throws its derived state away.
    Rebuild {
        /// The node.
        node: NodeId,
    },
    /// A node is compared with a fold from nothing, if nothing is due there.
    Judge {
        /// The node.
        node: NodeId,
    },
}

impl Act {
    /// Whether it concerns one store, and not the machine.
    pub(crate) fn is_of_a_store(&self) -> bool {
        match self {
            Self::Call { .. }
            | Self::Admit { .. }
            | Self::Revoke { .. }
            | Self::Resign { .. }
            | Self::Crash { .. }
            | Self::CutPower { .. }
            | Self::BreakDisk { .. }
            | Self::Forge { .. }
            | Self::Attack { .. }
            | Self::Rebuild { .. }
            | Self::Judge { .. } => true,
            Self::Invite { .. }
            | Self::Claim { .. }
            | Self::Child { .. }
            | Self::InChild(_)
            | Self::Fill { .. }
            | Self::Slow { .. }
            | Self::Sleep { .. }
            | Self::Skew { .. }
            | Self::Move { .. }
            | Self::Partition { .. }
            | Self::Storm { .. }
            | Self::Backup { .. }
            | Self::Restore { .. }
            | Self::Turn { .. }
            | Self::Estrange { .. }
            | Self::Bound { .. }
            | Self::FalseClaim { .. }
            | Self::Lie { .. } => false,
        }
    }

    /// The same in the child store, if that is meant.
    pub(crate) fn of(self, in_child: bool) -> Self {
        match in_child {
            true => Self::InChild(Box::new(self)),
            false => self,
        }
    }

    /// The nodes that it names.
    pub fn nodes(&self) -> Vec<NodeId> {
        match self {
            Self::Call { by, .. }
            | Self::Resign { by }
            | Self::Invite { by, .. }
            | Self::Bound { by, .. }
            | Self::Child { by } => vec![*by],
            Self::Claim { whom, via } | Self::FalseClaim { whom, via } => vec![*whom, *via],
            Self::Attack { by, with, .. } => vec![*by, *with],
            Self::InChild(act) => act.nodes(),
            Self::Admit { by, whom, .. } | Self::Revoke { by, whom, .. } => vec![*by, *whom],
            Self::Forge { to, by, .. } => vec![*to, *by],
            Self::Partition { group, .. } => group.iter().copied().collect(),
            Self::Storm { .. } => Vec::new(),
            Self::Crash { node, .. }
            | Self::CutPower { node, .. }
            | Self::BreakDisk { node, .. }
            | Self::Fill { node, .. }
            | Self::Slow { node, .. }
            | Self::Sleep { node, .. }
            | Self::Skew { node, .. }
            | Self::Move { node }
            | Self::Backup { node }
            | Self::Restore { node }
            | Self::Lie { node }
            | Self::Turn { node }
            | Self::Estrange { node }
            | Self::Rebuild { node }
            | Self::Judge { node } => vec![*node],
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:>9} {:?}", self.at_ms, self.act)
    }
}
