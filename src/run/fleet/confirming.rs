//! When those that take what sources deliver tell them how far it is stored.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::super::archiving::Archives;
use super::super::clock;
use super::super::core::Intake;
use super::super::sources::Confirms;

/// How often sources that forget what was confirmed are told what is stored.
const CONFIRM: Duration = Duration::from_secs(1);

/// What is to be confirmed, and when.
#[derive(Debug)]
pub(super) struct Confirming {
    confirms: Confirms,
    archives: Archives,
    last: Instant,
    is_done: bool,
}

impl Confirming {
    pub(super) fn new(confirms: Confirms, archives: Archives) -> Self {
        Self { confirms, archives, last: clock::instant(), is_done: true }
    }

    /// What comes next; `None` when a confirmation is due, or nothing will come any more.
    pub(super) async fn next(&self, intake: &mut mpsc::Receiver<Intake>) -> Option<Intake> {
        if self.is_done {
            return intake.recv().await;
        }
        let due = self.last + CONFIRM;
        tokio::time::timeout_at(due.into(), intake.recv()).await.unwrap_or_default()
    }

    /// Whether what is stored at `now` is to be confirmed, and thus must outlive a power failure.
    pub(super) fn is_due(&self, now: Instant) -> bool {
        !self.confirms.is_empty() && now - self.last >= CONFIRM
    }

    /// Whether something that was stored before waits to be confirmed at `now`.
    pub(super) fn is_owed(&self, now: Instant) -> bool {
        !self.is_done && now - self.last >= CONFIRM
    }

    /// Notes that something was stored; `position` says how far a source is.
    pub(super) fn stored(&mut self, position: impl Fn(&str) -> Option<u64>) {
        self.archives.stored(position);
        self.is_done = self.confirms.is_empty();
    }

    /// Tells every source up to which `positions` everything is stored and archived.
    pub(super) fn tell(&mut self, now: Instant, positions: impl Fn(&str) -> Vec<(u32, u64)>) {
        self.last = now;
        let archives = &self.archives;
        let confirmable = |source: &str| {
            let stored = positions(source).into_iter();
            stored.filter_map(|(at, position)| Some((at, archives.confirmable(source, position)?))).collect()
        };
        self.confirms.stored(now, confirmable);
        self.is_done = self.confirms.are_done() && !self.archives.are_behind();
    }
}
