//! Removes what expired by the clock of the streams.
//!
//! Every state and row record carries its expiry in its head, and a sweep walks over all keys of the namespace once per
//! day of that clock. The server's own times to live would run on while a source stands still, and an index of what
//! expires would cost about as much memory as small row records do; the walk costs the server some 3 us per key and day.
//!
//! Three marks in `meta` keep sweeps of several processes apart from writes: `sweep`, the day of the newest sweep that
//! began; `swept`, the day of the newest one that ended; `late`, set by a commit that writes something which a sweep
//! that began would have removed, so that the next one walks again.

use interdict_features::time::Timestamp;

use super::link::Lane;
use super::walk::{Step, Walk};
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;

/// Keys looked at by one script: the server does nothing else for about a millisecond.
const STEP_KEYS: usize = 300;

impl RedisStore {
    /// [`crate::port::Store::expire`].
    pub(super) async fn sweep(&self, now: Timestamp) -> Result<u64, StoreError> {
        let day = layout::day(now).to_string();
        let meta = [self.layout.meta()];
        let question = scripts::SWEEP_BEGIN.question(&self.layout, &meta, &[day.as_bytes()]);
        let begun = answer::only("sweep", self.link.ask(Lane::Write, &question).await?)?;
        if answer::number("sweep", &begun)? == 0 {
            return Ok(0);
        }
        let pattern = self.layout.perishable_pattern();
        let (keys, instant) = (STEP_KEYS.to_string(), now.micros().to_string());
        let mut walk = Walk::new();
        let mut removed = 0;
        loop {
            let arguments = [walk.cursor(), pattern.as_bytes(), keys.as_bytes(), instant.as_bytes()];
            let question = scripts::SWEEP_STEP.question(&self.layout, &[], &arguments);
            let (answers, session) = self.link.ask_with_session(Lane::Write, &question).await?;
            let mut words = answer::list("sweep", answer::only("sweep", answers)?)?.into_iter();
            let step = walk.step(session, words.next().unwrap_or_default())?;
            removed += answer::position("sweep", &words.next().unwrap_or_default())?;
            if step == Step::End {
                break;
            }
        }
        let question = scripts::SWEEP_END.question(&self.layout, &meta, &[day.as_bytes()]);
        self.link.ask(Lane::Write, &question).await?;
        Ok(removed)
    }
}
