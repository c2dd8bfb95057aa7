//! Entries that hold no call and gather heads, so that the next entry has all of them in its past.

use lattice_format::{ChainId, IntentionId, Lane, VerifiedHeader};

use crate::fold::core::{Effects, malformed};
use crate::graph::live_heads;
use crate::graph::slot::Slot;
use crate::limits::HEADS_NAMED_MAX;
use crate::storage::error::StorageError;
use crate::storage::keys::LocalSeq;
use crate::store::Store;
use crate::store::ahead::Ceiling;
use crate::store::call_end::CallError;

impl Store {
    /// Whether more live heads are applied here than an entry names.
    pub(crate) fn has_more_heads(&mut self) -> Result<bool, StorageError> {
        let tip = self.own_tip()?.map_or(LocalSeq(0), |(local, _)| local);
        let core = &mut self.core;
        let cache = &mut core.cache;
        live_heads::exceed(
            &mut cache.live_heads,
            &core.rows,
            &cache.heads,
            tip,
            HEADS_NAMED_MAX,
        )
    }

    /// Signs and inserts an entry that holds no call, and names as many live heads as it can. The next entry then has
    /// these in its past.
    pub(crate) fn gather(
        &mut self,
        now_ms: u64,
        chain: ChainId,
        grant: IntentionId,
    ) -> Result<(), CallError> {
        let header = self.next_header(Lane::System, now_ms, chain, grant, Ceiling::None)?;
        let header = VerifiedHeader::sign(header, &self.key)
            .expect("this file makes headers as verification wants them");
        let body = header
            .check_body(Vec::new())
            .expect("the header is that of an entry without a body");
        let (within, judged) = self.core.judge_quota(&header, Slot::MAX)?;
        assert!(within, "only a device without a quota gathers");
        let local = self.insert(&header, Some(&body), now_ms, Vec::new())?;
        let slot = Slot::of(header.position());
        let install = || -> Result<(), StorageError> {
            self.core.note_live(local)?;
            let mut effects = Effects {
                outcomes: vec![malformed()],
                ..Effects::default()
            };
            effects.judged(judged);
            self.core
                .account(Lane::System, &header, local, &mut effects);
            self.core.install(Lane::System, slot, local, effects)
        };
        if let Err(error) = install() {
            // The entry is in the batch and has no effects, so the next commit must go back.
            let error = CallError::from(error);
            self.unsigned = Some(error.clone());
            return Err(error);
        }
        Ok(())
    }
}
