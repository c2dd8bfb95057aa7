//! Entries from peers: verified, admitted, and witnessed after everything that they name.

use std::collections::{HashMap, VecDeque};

use lattice_format::{DeviceKey, Header, IntentionId, SignedHeader, VerifiedHeader, VerifyError};

use crate::fold::core::{Core, Stopped};
use crate::graph::admit::{self, Admission};
use crate::graph::pending::{Arrival, FloatReason};
use crate::graph::slot::Slot;
use crate::graph::void::Kept;
use crate::mutant::{self, Mutant};
use crate::storage::error::StorageError;
use crate::store::Store;
use crate::store::verification::VerifyBatch;

/// A fault of the peer that sent a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blame {
    /// The intention; `None` when its header does not verify.
    pub id: Option<IntentionId>,
    /// What is wrong with the intention.
    pub reason: String,
}

/// The result of receiving a batch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Received {
    /// Entries that are new in the log.
    pub witnessed: Vec<IntentionId>,
    /// The number of entries that were in the log, waiting or dropped before.
    pub known: usize,
    /// The number of entries that float now.
    pub floating: usize,
    /// The number of entries that are parked now.
    pub parked: usize,
    /// The number of entries that were dropped because too many wait. Ask for them again later.
    pub no_room: usize,
    /// Void entries that were left out, because as many of their authors' are kept as is allowed. Whoever counts them
    /// offers them again.
    pub left_out: Vec<IntentionId>,
    /// Ids that floating entries name and this store does not have. They are to be asked for.
    pub missing: Vec<IntentionId>,
    /// Entries of which only the header is here. Their bodies are to be asked for.
    pub bodies_missing: Vec<IntentionId>,
    /// The faults of the sender.
    pub blame: Vec<Blame>,
}

impl Store {
    /// Verifies, admits and witnesses the entries that a peer sent, and marks their runs as due: call [`Store::settle`]
    /// afterwards. Everything witnessed is durable when this returns.
    ///
    /// # Errors
    /// When the disk fails. Nothing of the batch is kept then.
    ///
    /// # Panics
    /// When `verifier` does not return one result for each header.
    pub fn receive(
        &mut self,
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        now_ms: u64,
        verifier: impl VerifyBatch,
    ) -> Result<Received, StorageError> {
        self.core.log.check_writable()?;
        self.commit_calls(now_ms)?;
        let mut received = Received::default();
        let taken = self
            .verify(from, entries, verifier, &mut received)
            .and_then(|arrivals| self.admit_all(arrivals, now_ms, &mut received));
        if let Err(error) = taken {
            self.roll_back();
            return Err(error);
        }
        self.core.progress.settled &= self.pending.is_empty();
        self.commit_batch(now_ms)?;
        received.missing = self.waiting.missing();
        // Entries that are parked publish no view.
        self.published.parked = self.waiting.parked_by_peer();
        received.bodies_missing = self.waiting.bodies_missing();
        Ok(received)
    }

    fn verify(
        &mut self,
        from: DeviceKey,
        entries: Vec<(SignedHeader, Option<Vec<u8>>)>,
        verifier: impl VerifyBatch,
        received: &mut Received,
    ) -> Result<VecDeque<Arrival>, StorageError> {
        let mut unknown = Vec::new();
        let mut bodies = Vec::new();
        for (signed, body) in entries {
            let id = Header::id_of(&signed.bytes);
            let known = self.core.local_of(&id)?.is_some();
            let waits =
                self.waiting.contains(&id) && !(body.is_some() && self.waiting.lacks_body(&id));
            if known || waits || self.waiting.was_dropped(&id) {
                received.known += 1;
            } else {
                unknown.push(signed);
                bodies.push(body);
            }
        }
        let mut arrivals = VecDeque::new();
        let results = verifier.verify_batch(unknown.clone());
        assert_eq!(results.len(), unknown.len(), "one result for each header");
        for ((result, signed), body) in results.into_iter().zip(unknown).zip(bodies) {
            let header = match result {
                Ok(header) => header,
                Err(VerifyError::Signature { .. })
                    if mutant::active(Mutant::SignatureUnchecked) =>
                {
                    match VerifiedHeader::from_trusted_storage(signed) {
                        Ok(header) => header,
                        Err(_) => continue,
                    }
                }
                Err(error @ VerifyError::UnknownFormat { .. }) => {
                    if self
                        .waiting
                        .float_unknown(&signed.bytes, from, error.to_string())
                    {
                        received.floating += 1;
                    } else {
                        received.no_room += 1;
                    }
                    continue;
                }
                Err(error) => {
                    received.blame.push(Blame {
                        id: None,
                        reason: error.to_string(),
                    });
                    continue;
                }
            };
            let body = match body.map(|bytes| header.check_body(bytes)) {
                None => None,
                Some(Ok(body)) => Some(body),
                Some(Err(error)) => {
                    // The header may be sound and is kept. The body can come from another peer.
                    received.blame.push(Blame {
                        id: Some(header.id()),
                        reason: error.to_string(),
                    });
                    None
                }
            };
            arrivals.push_back(Arrival { header, body, from });
        }
        Ok(arrivals)
    }

    /// Admits the entries of `queue`, and floating entries that waited for one of them.
    pub(crate) fn admit_all(
        &mut self,
        mut queue: VecDeque<Arrival>,
        now_ms: u64,
        received: &mut Received,
    ) -> Result<(), StorageError> {
        let mut refused = HashMap::new();
        while let Some(arrival) = queue.pop_front() {
            let id = arrival.header.id();
            if self.core.local_of(&id)?.is_some() {
                continue;
            }
            if self.is_left_out(&arrival.header, &mut refused)? {
                self.waiting.take(&id);
                received.left_out.push(id);
                continue;
            }
            let core = &mut self.core;
            match admit::admit(&core.rows, &mut core.cache, &core.info, &arrival.header)? {
                Admission::Never(error) => {
                    received.blame.push(Blame {
                        id: Some(id),
                        reason: error.to_string(),
                    });
                    self.waiting.drop_for_ever(id);
                }
                Admission::Missing(missing) => {
                    if missing.iter().any(|name| self.waiting.was_dropped(name)) {
                        self.waiting.drop_for_ever(id);
                        received.blame.push(Blame {
                            id: Some(id),
                            reason: "it names an entry that can never be admitted".into(),
                        });
                    } else {
                        self.float(arrival, FloatReason::Missing(missing), received);
                    }
                }
                Admission::NotUnderstood(reason) => {
                    self.float(arrival, FloatReason::NotUnderstood(reason.into()), received);
                }
                Admission::Admitted => {
                    let horizon = self.horizon_ms(now_ms);
                    let wall_ms = arrival.header.time.wall_ms;
                    if wall_ms > horizon {
                        let not_before = wall_ms - self.core.info.genesis.drift_ms;
                        if self.waiting.park(arrival, not_before) {
                            received.parked += 1;
                        } else {
                            received.no_room += 1;
                        }
                    } else if arrival.body.is_none() {
                        self.float(arrival, FloatReason::BodyMissing, received);
                    } else {
                        self.waiting.take(&id);
                        self.insert(&arrival.header, arrival.body.as_ref(), now_ms, Vec::new())?;
                        self.due(&arrival.header)?;
                        received.witnessed.push(id);
                        queue.extend(self.waiting.woken_by(&id));
                    }
                }
            }
        }
        Ok(())
    }

    /// Whether an entry is left out: it would be void, as many void entries of its author are kept as is allowed,
    /// and no entry that waits here and could count needs it. What is needed has a bound too, because what needs it may
    /// never be complete.
    ///
    /// `known` holds what was found of entries that wait, for those that came in the same batch.
    ///
    /// An entry that is void now can count later, when its revocation is itself cut off or a quota is raised. Then peers
    /// that have it offer it, and it comes in.
    fn is_left_out(
        &mut self,
        header: &VerifiedHeader,
        known: &mut HashMap<IntentionId, bool>,
    ) -> Result<bool, StorageError> {
        let core = &mut self.core;
        if !core.cache.any_void
            || header.author == self.author
            || mutant::active(Mutant::VoidEntriesKept)
        {
            return Ok(false);
        }
        if would_be_void(core, header, u64::from(header.body.len))? != Some(true) {
            return Ok(false);
        }
        let kept = Kept::of(&core.rows, &header.author)?;
        if kept.is_beyond_need(u64::from(header.body.len)) {
            return Ok(true);
        }
        // Of a waiting entry it must be known that it could count: else each costs its author no more than a name.
        let refused = |waiter: &VerifiedHeader| {
            let id = waiter.id();
            if let Some(refused) = known.get(&id) {
                return Ok(*refused);
            }
            let refused = would_be_void(core, waiter, 0)? != Some(false);
            known.insert(id, refused);
            Ok(refused)
        };
        let is_needed = self.waiting.is_needed(&header.id(), refused)?;
        Ok(!is_needed)
    }

    fn float(&mut self, arrival: Arrival, reason: FloatReason, received: &mut Received) {
        if self.waiting.float(arrival, reason) {
            received.floating += 1;
        } else {
            received.no_room += 1;
        }
    }
}

/// Whether an entry would be void and one too many of its author's, with `bytes` more of bodies; `None` if its grant
/// decides that and is unknown.
fn would_be_void(
    core: &mut Core,
    header: &VerifiedHeader,
    bytes: u64,
) -> Result<Option<bool>, StorageError> {
    if !Kept::of(&core.rows, &header.author)?.is_full(bytes) {
        return Ok(Some(false));
    }
    match core.would_be_cut_off(header)? {
        Some(false) => {}
        decided => return Ok(decided),
    }
    match core.judge_quota(header, Slot::of(header.position())) {
        Ok((within, _)) => Ok(Some(!within)),
        Err(Stopped::Storage(error)) => Err(error),
        // While governance cannot be asked, nobody is known to be over a quota.
        Err(Stopped::Fault(_)) => Ok(Some(false)),
    }
}
