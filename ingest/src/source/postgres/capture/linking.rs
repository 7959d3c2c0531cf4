//! The connections of a capture: made, held, and made again.

use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::Class;

use super::super::check::check;
use super::super::error::PostgresError;
use super::super::slot::{Gate, look};
use super::super::watch::Watch;
use super::{Capture, Link, Phase, Wait, or_stop};

/// How long a server that was never reached is tried.
const FIRST_REACH: Duration = Duration::from_secs(30);
/// The first and the longest wait before a connection is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a standby asks for the slot.
const STANDBY: Duration = Duration::from_millis(500);

impl Capture {
    /// Whether the server still answers. One that shuts down ends the connection for questions and waits for the session to let go.
    pub(super) fn is_linked(&self) -> bool {
        self.link.as_ref().is_some_and(|link| !link.control.is_closed() && !link.watch.has_ended())
    }

    /// Drops the connections; the server lets go of the slot.
    pub(super) fn unlink(&mut self) {
        if let Some(link) = self.link.take() {
            self.was_missing |= link.watch.saw_one_missing();
            self.metrics.owner.set(0);
        }
        self.changes.reconnected();
        if matches!(self.phase, Phase::Snapshot(_)) {
            self.phase = Phase::Fresh;
        }
    }

    /// Connects until it succeeds, a person must mend something, or the process is to stop.
    pub(super) async fn link_up(&mut self) -> Result<Wait, PostgresError> {
        let is_first = self.identity.is_none();
        let (mut tried, mut stood_by) = (Duration::ZERO, Duration::ZERO);
        loop {
            let stop = self.stop.clone();
            let linked = or_stop(&stop, self.link_once()).await;
            let error = match linked {
                None => return Ok(Wait::Stopped),
                Some(Ok(link)) => {
                    self.metrics.owner.set(i64::from(link.session.is_some()));
                    self.handle.linked();
                    if !is_first {
                        self.metrics.reconnects.inc();
                    }
                    self.link = Some(link);
                    return Ok(Wait::Over);
                }
                Some(Err(error)) => error,
            };
            let pause = match &error {
                PostgresError::SlotTaken { slot } => {
                    self.handle.stand_by();
                    // What was measured last is another one's matter now.
                    self.metrics.lag_bytes.set(0);
                    self.metrics.lag_seconds.set(0.0);
                    if stood_by.is_zero() {
                        tracing::info!(slot, "another process reads from the slot; standing by for it");
                    }
                    if self.server.config().slot_wait.is_some_and(|wait| stood_by >= wait) {
                        return Err(error);
                    }
                    stood_by += STANDBY;
                    STANDBY
                }
                _ if error.class() != Class::Transient || matches!(error, PostgresError::TakenMeanwhile { .. }) => {
                    return Err(error);
                }
                _ if is_first && stood_by.is_zero() && tried >= FIRST_REACH => return Err(error),
                _ => {
                    tracing::warn!(%error, "not connected; trying again");
                    let pause = self.pause().max(BACKOFF.0);
                    tried += pause;
                    pause
                }
            };
            if self.stop.wait(pause) {
                return Ok(Wait::Stopped);
            }
        }
    }

    /// Connects once: questions, checks, identity, and hold of the slot where there is one.
    async fn link_once(&mut self) -> Result<Link, PostgresError> {
        let control = Arc::new(self.server.connect().await?);
        let checked = check(&control, &self.server, self.changes.catalog().tables()).await?;
        let state = look(&control, &self.server).await?;
        let is_streaming = matches!(self.phase, Phase::Streaming);
        // What a session before this one delivered need not be read again; the first one is not told yet.
        let start = if is_streaming { self.changes.position() } else { 0 };
        let mut gate = Gate::open(&self.server, start, self.confirmed()).await?;
        let config = self.server.config();
        let cluster = gate.identify().await?;
        let identity =
            format!("postgres/{cluster}/database-{}/{}/{}", checked.database, config.slot, config.publication);
        if let Some(was) = self.identity.as_ref().filter(|was| **was != identity) {
            return Err(PostgresError::OtherDatabase { was: was.clone(), now: identity });
        }
        if is_streaming && let Err(error) = self.held_at(state.clone(), start) {
            self.lose(&control, self.moved(error)).await?;
        }
        let back = checked.came_back(self.changes.catalog().tables(), &self.found, self.was_missing);
        let back = back.map(|table| self.later(table));
        if let Some(later) = back.filter(|_| matches!(self.phase, Phase::Streaming)) {
            self.lose(&control, later).await?;
        }
        let session = match &state {
            Some(state) if !state.is_lost => Some(gate.hold().await?),
            _ => None,
        };
        if matches!(self.phase, Phase::Streaming) {
            // Between the look and the hold another process may have had the slot.
            let state = look(&control, &self.server).await?;
            self.held_at(state, start).map_err(|error| self.moved(error))?;
        }
        if self.identity.replace(identity).is_none() {
            checked.warn_of_partitions(self.changes.catalog().tables());
        }
        self.changes.know_tables(checked.tables.clone());
        self.found.clone_from(&checked.tables);
        self.was_missing = false;
        let watch =
            Watch::start(Arc::clone(&control), &self.server, &checked, self.handle.clone(), self.metrics.clone());
        Ok(Link { control, watch, checked, session })
    }

    /// While this process runs, only another reader moves the slot beyond what this one delivered.
    pub(super) fn moved(&self, error: PostgresError) -> PostgresError {
        match error {
            PostgresError::SlotMoved { slot, .. } => PostgresError::TakenMeanwhile { slot },
            other => other,
        }
    }

    /// What is to be waited before the next connection: nothing at first.
    pub(super) fn pause(&mut self) -> Duration {
        let pause = self.backoff;
        self.backoff = (pause * 2).clamp(BACKOFF.0, BACKOFF.1);
        pause
    }
}
