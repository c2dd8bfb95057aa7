//! The interface between the kernel and an engine that runs components.
//!
//! The kernel decides which calls run and at which positions of the order, what they read, and what becomes of their
//! writes. An engine only turns one call into reads, writes and a result. The Wasm runtime is one engine. The models
//! by which tests judge the fold are others.

use lattice_format::{Call, CallId, ComponentId, DeviceKey, IntentionId, Lane, Limits, StoreId};

use crate::outcome::TrapKind;
use crate::run::Run;
use crate::storage::error::StorageError;

/// A fault of this host, not of the guest. Other hosts do not share it, so it never becomes an outcome.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostFault {
    /// The component's bytes or compiled code are not on this node.
    #[error("the component {0} is not on this node")]
    MissingCode(ComponentId),
    /// The engine cannot honour the determinism profile of the store.
    #[error("this version cannot run the determinism profile {0}; update Lattice")]
    Profile(u32),
    /// Memory or an instance slot ran out.
    #[error("out of {0} on this node")]
    Exhausted(String),
    /// A file of the store failed or is damaged.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// The components that this node keeps could not be read or written.
    #[error("components: {0}")]
    Components(String),
    /// The component does not have the shape that its use needs, though it was installed.
    #[error("the component {component} cannot be used: {reason}")]
    Unusable {
        /// The component.
        component: ComponentId,
        /// What is wrong with the component.
        reason: String,
    },
}

/// How one call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// The function returned; canonical CBOR of its result (`null` when it has none).
    Ok(Vec<u8>),
    /// The function returned `err(…)`, or the host refused the call; canonical CBOR of the error.
    Refused(Vec<u8>),
    /// The guest trapped. Its instance must not be entered again.
    Trapped(TrapKind),
}

/// Which of a component's functions a call may reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// Functions of interfaces named `commands`.
    Command,
    /// Functions of interfaces named `queries`.
    Query,
    /// `lattice:store/lifecycle` `init`, in a genesis alone.
    Init,
}

/// One fixed question to a governance component. While it answers, the component sees no clock, no arguments and no
/// app state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// May `author` call this function?
    Authorize {
        /// The calling device.
        author: DeviceKey,
        /// The lane called into.
        lane: Lane,
        /// The full id of the interface, without its version.
        interface: String,
        /// The function.
        function: String,
    },
    /// Which limits and numbers are in effect?
    InEffect,
    /// How many bytes may this author write in this lane?
    Quota {
        /// The author of the entry.
        author: DeviceKey,
        /// The entry's lane.
        lane: Lane,
    },
    /// Which revocations cut this author off, and what do they keep?
    Cuts(DeviceKey),
    /// Which devices did this call admit?
    Admitted(CallId),
    /// What is known of the member with this key?
    Member(DeviceKey),
    /// Who is or was a member? By rank, a page.
    Members {
        /// The rank before the first one asked for; `None` for the first page.
        after: Option<Vec<u8>>,
        /// The most members of the page.
        limit: u32,
    },
    /// Which stores are children of this one? By id, a page.
    Children {
        /// The id before the first one asked for; `None` for the first page.
        after: Option<StoreId>,
        /// The most children of the page.
        limit: u32,
    },
}

/// The answer to a [`Question`], in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The answer to [`Question::Authorize`].
    Authorize(bool),
    /// The answer to [`Question::InEffect`].
    InEffect(InEffect),
    /// The answer to [`Question::Quota`]: bytes of the author's entries, or `None` for no bound.
    Quota(Option<u64>),
    /// The answer to [`Question::Cuts`].
    Cuts(Vec<Cut>),
    /// The answer to [`Question::Admitted`].
    Admitted(Vec<DeviceKey>),
    /// The answer to [`Question::Member`]. Boxed, because it is much larger than other answers.
    Member(Option<Box<Member>>),
    /// The answer to [`Question::Members`], by rank.
    Members(Vec<Member>),
    /// The answer to [`Question::Children`].
    Children(Vec<Child>),
}

/// Limits and numbers in effect.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InEffect {
    /// Bytes that are hashed with the store's id into the gossip topic. They change when a member is revoked.
    pub topic_salt: Vec<u8>,
    /// Number of the body key in use; 0 is plain.
    pub key_number: u32,
}

/// One revocation of an author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The call by which the author was revoked.
    pub revocation: CallId,
    /// Entries of the author that count nevertheless.
    pub kept: Kept,
}

/// What a revocation keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Every entry in the revocation's causal past.
    Seen,
    /// These intentions, as far as they lie in the revocation's causal past, with their `prev`-ancestors.
    Ids(Vec<IntentionId>),
}

/// What a member may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// Everything.
    Admin,
    /// Reads and writes.
    Writer,
    /// Reads.
    Reader,
}

impl Role {
    /// Every role, the one with most rights first.
    pub const ALL: [Self; 3] = [Self::Admin, Self::Writer, Self::Reader];

    /// The role's name, as people write it and as the parameters of a genesis hold it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }
}

/// Whether a device still is a member, or how it ceased to be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStatus {
    /// A member.
    Active,
    /// Another member cut the device off.
    Revoked,
    /// The device left by itself.
    Resigned,
}

/// A device that is or was a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// The device's key.
    pub device: DeviceKey,
    /// What people call the device.
    pub name: String,
    /// What the device may do.
    pub role: Role,
    /// The member's rank, compared as bytes. A smaller rank outranks a larger one.
    pub rank: Vec<u8>,
    /// Whether the device still is a member.
    pub status: MemberStatus,
}

/// A child store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The child's id.
    pub store: StoreId,
    /// What the parent calls the child.
    pub name: String,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The governance component trapped, as it does on every replica.
    #[error("the governance component trapped ({0})")]
    Trapped(TrapKind),
    /// This host could not run the governance component.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// Runs components.
pub trait Engine: Send + Sync {
    /// Whether the engine can run components by `profile`, a determinism profile. A store whose profile is not served
    /// stands still.
    fn serves(&self, profile: u32) -> bool;

    /// Checks that `component` can run on this node now.
    ///
    /// # Errors
    /// The fault that keeps it from running.
    fn ready(&self, component: &ComponentId) -> Result<(), HostFault>;

    /// Makes a fresh instance for one intention or query. The instance owns `run` until [`Instance::finish`].
    ///
    /// # Errors
    /// Gives the run back with the fault. Instantiation is not charged.
    #[expect(
        clippy::result_large_err,
        reason = "the run goes back to its owner; a box would cost every success too"
    )]
    fn instantiate(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)>;

    /// Puts one question to a governance component, in a query-mode run.
    fn ask(
        &self,
        component: &ComponentId,
        limits: &Limits,
        run: Run,
        question: &Question,
    ) -> (Run, Result<Answer, AskError>);
}

/// An engine that runs nothing. It takes the place of the node's engine in a store whose profile that engine does not
/// serve.
pub(crate) struct Unserved(pub(crate) u32);

impl Engine for Unserved {
    fn serves(&self, _: u32) -> bool {
        false
    }

    fn ready(&self, _: &ComponentId) -> Result<(), HostFault> {
        Err(HostFault::Profile(self.0))
    }

    fn instantiate(
        &self,
        _: &ComponentId,
        _: &Limits,
        run: Run,
    ) -> Result<Box<dyn Instance>, (Run, HostFault)> {
        Err((run, HostFault::Profile(self.0)))
    }

    fn ask(
        &self,
        _: &ComponentId,
        _: &Limits,
        run: Run,
        _: &Question,
    ) -> (Run, Result<Answer, AskError>) {
        (run, Err(HostFault::Profile(self.0).into()))
    }
}

/// One instance of a component, with its memory.
pub trait Instance: Send {
    /// Runs one call. `fuel` is what is left of the transaction's budget, and the call decreases it.
    ///
    /// The host refuses a call of a function that does not exist, and arguments that do not fit:
    /// [`crate::outcome::HostRefusal`].
    ///
    /// # Errors
    /// A fault of the host; never an outcome.
    fn call(&mut self, kind: CallKind, call: &Call, fuel: &mut u64) -> Result<CallEnd, HostFault>;

    /// The fuel of all starts of the component in this instance so far. Calls are not charged for it.
    fn start_fuel(&self) -> u64;

    /// The run whose reads and writes this instance makes.
    fn run_mut(&mut self) -> &mut Run;

    /// Drops the instance and gives its run back.
    fn finish(self: Box<Self>) -> Run;
}
