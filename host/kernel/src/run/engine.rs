//! What the kernel asks of whatever runs components.
//!
//! The kernel decides what runs, where in the order it stands, what it reads and what becomes of
//! its writes; an engine only turns one call into reads, writes and a result. The Wasm runtime is
//! one engine, the models that judge the fold in tests are others.

use lattice_format::{
    Call, CallId, ComponentId, DeviceKey, IntentionId, Lane, Limits, StoreId, Time,
};

use crate::outcome::TrapKind;
use crate::run::Run;

/// Something that is wrong with this host, never with the guest: it never becomes an outcome.
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
    /// Reading or writing this node's files failed.
    #[error("storage: {0}")]
    Storage(String),
    /// The component does not have the shape that its use needs, though it was installed.
    #[error("the component {component} cannot be used: {reason}")]
    Unusable {
        /// The component.
        component: ComponentId,
        /// What is wrong with it.
        reason: String,
    },
}

/// How one call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEnd {
    /// It returned; canonical CBOR of its result (`null` when it has none).
    Ok(Vec<u8>),
    /// It returned `err(…)`, or the host refused it; canonical CBOR of the error.
    Refused(Vec<u8>),
    /// It trapped. The instance must not be entered again.
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

/// One fixed question to a governance component. It sees no clock, no arguments, no app state.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Question {
    /// May `author` call this function?
    Authorize {
        /// The calling device.
        author: DeviceKey,
        /// The lane called into.
        lane: Lane,
        /// Full id of the interface, without version.
        interface: String,
        /// The function.
        function: String,
    },
    /// Which limits and numbers are in effect?
    InEffect,
    /// Which revocations cut this author off, and what do they keep?
    Cuts(DeviceKey),
    /// Who is or was a member?
    Members,
    /// Which stores are children of this one?
    Children,
    /// The last checkpoint.
    Checkpoint,
}

/// The answer to a [`Question`], in the same order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// To [`Question::Authorize`].
    Authorize(bool),
    /// To [`Question::InEffect`].
    InEffect(InEffect),
    /// To [`Question::Cuts`].
    Cuts(Vec<Cut>),
    /// To [`Question::Members`], by rank.
    Members(Vec<Member>),
    /// To [`Question::Children`].
    Children(Vec<Child>),
    /// To [`Question::Checkpoint`].
    Checkpoint(Option<Checkpoint>),
}

/// Limits and numbers in effect.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct InEffect {
    /// The most bytes of bodies that one author may add, all chains together.
    pub quota_bytes: Option<u64>,
    /// Hashed with the store id into the gossip topic; changes when a member is revoked.
    pub topic_salt: Vec<u8>,
    /// Number of the body key in use; 0 is plain.
    pub key_number: u32,
}

/// One revocation of an author.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// The call that revoked.
    pub revocation: CallId,
    /// Intentions of the author that count nevertheless, with their `prev`-ancestors.
    pub kept: Vec<IntentionId>,
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
    /// As people and the parameters of a genesis have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::Writer => "writer",
            Self::Reader => "reader",
        }
    }
}

/// Whether a member still is one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MemberStatus {
    /// A member.
    Active,
    /// Cut off by another member.
    Revoked,
    /// Left by itself.
    Resigned,
}

/// A device that is or was a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its key.
    pub device: DeviceKey,
    /// What people call it.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// 0 for the founder; lower ranks outrank higher ones.
    pub rank: u32,
    /// Whether it still is a member.
    pub status: MemberStatus,
}

/// A child store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// Its id.
    pub store: StoreId,
    /// What the parent calls it.
    pub name: String,
}

/// A point below which nothing changes any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// Everything at or below this time is final.
    pub time: Time,
}

/// Why a question has no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// The governance component trapped: the same on every replica.
    #[error("the governance component trapped ({0})")]
    Trapped(TrapKind),
    /// This host could not run it.
    #[error(transparent)]
    Host(#[from] HostFault),
}

/// Runs components.
pub trait Engine: Send + Sync {
    /// Whether it runs components by that determinism profile. Stores that name another one stand still.
    fn serves(&self, profile: u32) -> bool;

    /// Whether `component` can be run here, now.
    ///
    /// # Errors
    /// The fault that keeps it from running.
    fn ready(&self, component: &ComponentId) -> Result<(), HostFault>;

    /// A fresh instance for one intention or query. It owns `run` until [`Instance::finish`].
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

/// In the place of an engine that does not serve the profile of a store: there, nothing runs.
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
    /// Runs one call. `fuel` is what is left of the transaction's budget, and is decreased.
    ///
    /// A function that does not exist, or arguments that do not fit, are a refusal by the host:
    /// [`crate::outcome::HostRefusal`].
    ///
    /// # Errors
    /// A fault of the host; never an outcome.
    fn call(&mut self, kind: CallKind, call: &Call, fuel: &mut u64) -> Result<CallEnd, HostFault>;

    /// The run whose reads and writes this instance makes.
    fn run_mut(&mut self) -> &mut Run;

    /// Drops the instance and gives its run back.
    fn finish(self: Box<Self>) -> Run;
}
