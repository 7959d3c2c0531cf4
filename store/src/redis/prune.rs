//! Removes the states of a group that its owner no longer needs, page by page, beside whoever reads and writes.
//!
//! Invariant: a state goes only while it is the one that was judged: what is written in between has another stamp.

use super::link::Lane;
use super::walk::{Step, Walk};
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;

/// Keys looked at by one script: their values travel, so there are fewer than in a sweep.
const STEP_KEYS: usize = 100;

impl RedisStore {
    /// [`crate::port::Store::prune`].
    pub(super) async fn prune_group(
        &self,
        entity: &str,
        group: u64,
        is_stale: &(dyn Fn(&[u8]) -> bool + Sync),
    ) -> Result<u64, StoreError> {
        let pattern = self.layout.group_pattern(entity, group);
        let keys = STEP_KEYS.to_string();
        let mut walk = Walk::new();
        let mut removed = 0;
        loop {
            let arguments = [walk.cursor(), pattern.as_slice(), keys.as_bytes()];
            let question = scripts::PRUNE_PAGE.question(&self.layout, &[], &arguments);
            let (answers, session) = self.link.ask_with_session(Lane::Write, &question).await?;
            let mut words = answer::list("prune", answer::only("prune", answers)?)?.into_iter();
            let step = walk.step(session, words.next().unwrap_or_default())?;
            let mut stale: Vec<Vec<u8>> = Vec::new();
            while let (Some(key), Some(value)) = (words.next(), words.next()) {
                let Some(value) = answer::bytes("prune", value)? else { continue };
                let (stamp, state) = layout::perishable(value)?;
                if is_stale(&state) {
                    stale.extend([answer::some_bytes("prune", key)?, layout::stamp_bytes(stamp)]);
                }
            }
            if !stale.is_empty() {
                let stale: Vec<&[u8]> = stale.iter().map(Vec::as_slice).collect();
                let question = scripts::PRUNE_DROP.question(&self.layout, &[], &stale);
                let went = answer::only("prune", self.link.ask(Lane::Write, &question).await?)?;
                removed += answer::position("prune", &went)?;
            }
            if step == Step::End {
                return Ok(removed);
            }
        }
    }
}
