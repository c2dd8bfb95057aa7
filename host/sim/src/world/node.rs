//! One machine: its key, its clock, its disks, and the node that runs on it or does not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use ed25519_dalek::SigningKey;
use lattice_format::{Call, ChainId, DeviceKey, IntentionId, Lane, SignedHeader};
use lattice_kernel::clock::Clocks;
use lattice_kernel::limits::SEGMENT_BYTES;
use lattice_kernel::sync::{Dial, Governance};
use lattice_kernel::{SetAside, Store};
use lattice_testing::disk::{Disk, Power};
use lattice_testing::log_disk::{LogDisk, LogImage};
use lattice_testing::verified::RememberingVerifier;

use crate::check::bounds::Witnessed;
use crate::net::gossip::Membership;
use crate::net::stream::{Side, StreamId};
use crate::world::attack::Rights;
use crate::world::queue::Event;

/// Bytes of rows after which a segment of a log is full on every other node: most histories have several there. The
/// nodes between them have segments of the size that daemons use, and so a single one.
const SMALL_SEGMENT_BYTES: u64 = 48 * 1024;

/// A node's place in its world.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub u16);

impl NodeId {
    /// The place of the node in lists of all nodes.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "n{}", self.0)
    }
}

/// Entries as they travel.
pub(crate) type Entries = Vec<(SignedHeader, Option<Vec<u8>>)>;

/// Entries of a peer; the session that they came through gets the answer.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) from: DeviceKey,
    pub(crate) entries: Entries,
    pub(crate) via: Option<(StreamId, Side)>,
}

/// How entries came: through which session, if any, and how many.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Via {
    pub(crate) session: Option<(StreamId, Side)>,
    pub(crate) sent: u64,
}

/// The kernel's writer, as nodes here have it.
pub(crate) type Writer = lattice_kernel::writer::Writer<(), Via, RememberingVerifier>;

/// What a writer is given here.
pub(crate) type Given = lattice_kernel::writer::Input<(), Via, RememberingVerifier>;

/// What waits for the writer.
#[derive(Debug)]
pub(crate) enum Job {
    /// A call by somebody on this node.
    Call { lane: Lane, calls: Vec<Call> },
    /// Entries of a peer.
    Receive(Delivery),
    /// A read of the store failed: the writer looks whether the disk failed.
    ReadFailed,
    /// Start another chain below the end of this device's.
    RestartChain,
    /// Drop the state and fold the log again.
    Rebuild,
}

/// Whether the machine runs.
#[derive(Clone, Debug)]
pub(crate) enum Machine {
    On,
    /// It sleeps; what happens to it meanwhile happens when it wakes.
    Asleep(Vec<Event>),
    /// It is off.
    Off,
}

/// The disks of a machine and the power that they share.
#[derive(Clone, Debug)]
pub(crate) struct Disks {
    pub(crate) log: LogDisk,
    pub(crate) state: Disk,
    pub(crate) power: Power,
    /// How many more reads succeed, of both.
    pub(crate) reads: Power,
}

impl Disks {
    /// Empty disks, with segments of that size.
    fn empty(segment_bytes: u64) -> Self {
        Self::with_images(LogImage::default(), Vec::new(), segment_bytes)
    }

    /// Disks like these with nothing on them.
    pub(crate) fn emptied(&self) -> Self {
        Self::empty(self.log.segment_bytes)
    }

    /// Disks like these with what was found on them.
    pub(crate) fn holding(&self, log: LogImage, state: Vec<u8>) -> Self {
        Self::with_images(log, state, self.log.segment_bytes)
    }

    fn with_images(log: LogImage, state: Vec<u8>, segment_bytes: u64) -> Self {
        let (power, reads) = (Power::steady(), Power::steady());
        let mut log = LogDisk::with_image(log, &power);
        log.reads = reads.clone();
        log.segment_bytes = segment_bytes;
        let mut state = Disk::with_image(state, &power);
        state.reads = reads.clone();
        Self {
            log,
            state,
            power,
            reads,
        }
    }
}

/// When a peer is dialled.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Dialling {
    /// The kernel's value, which decides that.
    pub(crate) tries: Dial,
    pub(crate) under_way: bool,
}

/// One machine with its node.
#[derive(Debug)]
pub(crate) struct Node {
    pub(crate) key: SigningKey,
    pub(crate) device: DeviceKey,
    pub(crate) disks: Disks,
    /// `None` while it is off, or has not joined.
    pub(crate) writer: Option<Writer>,
    /// It holds the genesis on disk.
    pub(crate) founded: bool,
    pub(crate) power: Machine,
    pub(crate) life: u64,
    /// Its clock less the true time, in milliseconds.
    pub(crate) skew_ms: i64,
    /// Counts changes of its address. A stream ends when the address of either end changes.
    pub(crate) address: u64,
    pub(crate) jobs: VecDeque<Job>,
    /// When the writer's next turn is, if one is to come, and its number: earlier ones do not happen.
    pub(crate) turn_at_ms: Option<u64>,
    pub(crate) turn: u64,
    /// Runs of the writer that are counted already.
    pub(crate) runs: u64,
    /// Added to each job's time, in milliseconds.
    pub(crate) disk_ms: u64,
    /// Effects that are still carried out before the machine fails.
    pub(crate) fuse: Option<u64>,
    /// The next failure of its disk is one of its power.
    pub(crate) dies_with_disk: bool,
    pub(crate) streams: BTreeMap<NodeId, (StreamId, Side)>,
    pub(crate) dials: BTreeMap<NodeId, Dialling>,
    /// Whom it dials.
    pub(crate) neighbours: Vec<NodeId>,
    /// Its topic and neighbours.
    pub(crate) gossip: Membership,
    /// Who is and was a member; read anew when the system lane changes.
    pub(crate) members: Option<Arc<Governance>>,
    /// What it knows of the clocks of its peers.
    pub(crate) clocks: Clocks,
    /// The chain that it does not continue, since its end lay too far ahead.
    pub(crate) aside: Arc<Mutex<Option<SetAside>>>,
    /// Peers that served the join, until governance is known here.
    pub(crate) trusted: BTreeSet<NodeId>,
    /// Entries whose callers were answered.
    pub(crate) acknowledged: Vec<IntentionId>,
    pub(crate) chains: u64,
    /// A copy of the disks, to be put back.
    pub(crate) backup: Option<(LogImage, Vec<u8>)>,
    /// Its disks were put back to an earlier day, so what it told since is forgotten.
    pub(crate) restored: bool,
    /// Sends other bytes than its sessions say.
    pub(crate) liar: bool,
    /// Somebody attacks with it: nothing is asked of it.
    pub(crate) hostile: bool,
    /// It has no right to anything, and dials all the same.
    pub(crate) stranger: bool,
    /// What a hostile member knows of its admissions.
    pub(crate) rights: Rights,
    /// What is known of the entries of hostile members here.
    pub(crate) witnessed: Witnessed,
    /// Whether runs were due when its writer was given its last job.
    pub(crate) due_before: bool,
    /// The latest time that its clock has shown before it was last set.
    pub(crate) shown_ms: u64,
    /// What it sent, for a liar to repeat.
    pub(crate) sent: Option<bytes::Bytes>,
    /// What callers were told, newest last, for scenarios.
    pub(crate) last_told: Option<lattice_kernel::Outcome>,
}

impl Node {
    pub(crate) fn new(number: u16, neighbours: Vec<NodeId>) -> Self {
        let mut seed = [7; 32];
        seed[..2].copy_from_slice(&number.to_be_bytes());
        let mut node = Self::with_key(SigningKey::from_bytes(&seed), neighbours);
        if !number.is_multiple_of(2) {
            node.disks = Disks::empty(SEGMENT_BYTES);
        }
        node
    }

    pub(crate) fn with_key(key: SigningKey, neighbours: Vec<NodeId>) -> Self {
        Self {
            device: DeviceKey(key.verifying_key().to_bytes()),
            key,
            disks: Disks::empty(SMALL_SEGMENT_BYTES),
            writer: None,
            founded: false,
            power: Machine::On,
            life: 0,
            skew_ms: 0,
            address: 0,
            jobs: VecDeque::new(),
            turn_at_ms: None,
            turn: 0,
            runs: 0,
            disk_ms: 1,
            fuse: None,
            dies_with_disk: false,
            streams: BTreeMap::new(),
            dials: BTreeMap::new(),
            neighbours,
            gossip: Membership::default(),
            members: None,
            clocks: Clocks::default(),
            aside: Arc::default(),
            trusted: BTreeSet::new(),
            acknowledged: Vec::new(),
            chains: 0,
            backup: None,
            restored: false,
            liar: false,
            hostile: false,
            stranger: false,
            rights: Rights::default(),
            witnessed: Witnessed::default(),
            due_before: false,
            shown_ms: 0,
            sent: None,
            last_told: None,
        }
    }

    /// Its store; `None` while it is off, has not joined, or its disk has failed.
    pub(crate) fn store(&self) -> Option<&Store> {
        self.writer.as_ref()?.store()
    }

    /// When it dials a peer; at once, if it knows of no reason to wait.
    pub(crate) fn dialling(&mut self, peer: NodeId, now_ms: u64) -> &mut Dialling {
        self.dials.entry(peer).or_insert(Dialling {
            tries: Dial::new(now_ms),
            under_way: false,
        })
    }

    /// Whether it keeps to the rules, as far as its machine lets it.
    pub(crate) fn is_honest(&self) -> bool {
        !self.liar && !self.hostile
    }

    /// Whether the machine runs and is awake.
    pub(crate) fn is_on(&self) -> bool {
        matches!(self.power, Machine::On)
    }

    /// A fresh chain: unlike any that this device had, also before a restart.
    pub(crate) fn fresh_chain(&mut self, number: NodeId) -> ChainId {
        self.chains += 1;
        ChainId((u64::from(number.0) + 1) << 32 | self.chains)
    }
}
