//! How many list entries there are, and the removal of those that ended: they bind nobody any more, and would be read and kept for ever.
//!
//! Invariant: an entry that was renewed since it was read stays.

use interdict_features::time::Timestamp;

use super::link::Lane;
use super::walk::{Step, Walk};
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;
use crate::port::ListEntry;

impl RedisStore {
    /// Entries of all lists, those that ended and were not removed yet included.
    ///
    /// # Errors
    /// [`StoreError::Database`].
    pub async fn list_entries(&self) -> Result<u64, StoreError> {
        let mut question = redis::pipe();
        question.cmd("HLEN").arg(self.layout.lists());
        let answered = answer::only("list entries", self.link.ask(Lane::Read, &question).await?)?;
        answer::position("list entries", &answered)
    }

    /// Removes the list entries that ended by `now`; how many. Entries that come or go meanwhile may be passed over.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn forget_ended(&self, now: Timestamp) -> Result<u64, StoreError> {
        let mut walk = Walk::new();
        let mut removed = 0;
        loop {
            let (step, page) = self.page(&self.layout.lists(), &mut walk).await?;
            let mut ended: Vec<&[u8]> = Vec::new();
            for (field, json) in &page {
                let entry: ListEntry = layout::from_json("list entry", json)?;
                if entry.expires.is_some_and(|end| end <= now) {
                    ended.extend([field.as_slice(), json.as_slice()]);
                }
            }
            if !ended.is_empty() {
                let question = scripts::ENDED.question(&self.layout, &[self.layout.lists()], &ended);
                let answered = answer::only("ended entries", self.link.ask(Lane::Write, &question).await?)?;
                removed += answer::position("ended entries", &answered)?;
            }
            if step == Step::End {
                return Ok(removed);
            }
        }
    }
}
