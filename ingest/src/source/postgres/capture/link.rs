//! The connections of a capture: made, checked, lost and made again; the slot is held by one of them.

use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::Class;

use super::super::check::{Checked, check};
use super::super::connection::Control;
use super::super::error::PostgresError;
use super::super::slot::{Gate, Session, look};
use super::super::watch::Watch;
use super::{Capture, Phase, or_stop};

/// How long a server that was never reached is tried.
const FIRST_REACH: Duration = Duration::from_secs(30);
/// The first and the longest wait before a connection is tried again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How often a standby asks for the slot.
const STANDBY: Duration = Duration::from_millis(500);

/// What stands while the server answers.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) control: Arc<Control>,
    pub(super) watch: Watch,
    pub(super) checked: Checked,
    pub(super) session: Option<Session>,
}

/// Whether the wait may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Wait {
    Over,
    Stopped,
}

impl Capture {
    /// Whether the server still answers. One that shuts down ends the connection for questions and waits for the session to let go.
    pub(super) fn is_linked(&self) -> bool {
        self.link.as_ref().is_some_and(|link| !link.control.is_closed() && !link.watch.has_ended())
    }

    /// Drops the connections; the server lets go of the slot.
    pub(super) fn unlink(&mut self) {
        if self.link.take().is_some() {
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
        let (mut backoff, mut tried, mut stood_by) = (BACKOFF.0, Duration::ZERO, Duration::ZERO);
        loop {
            let stop = self.stop.clone();
            let linked = or_stop(&stop, self.link_once()).await;
            let error = match linked {
                None => return Ok(Wait::Stopped),
                Some(Ok(link)) => {
                    self.metrics.owner.set(i64::from(link.session.is_some()));
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
                    tried += backoff;
                    let pause = backoff;
                    backoff = (backoff * 2).min(BACKOFF.1);
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
        let mut gate = Gate::open(&self.server, start, self.handle.confirmed()).await?;
        let config = self.server.config();
        let cluster = gate.identify().await?;
        let identity =
            format!("postgres/{cluster}/database-{}/{}/{}", checked.database, config.slot, config.publication);
        if let Some(was) = self.identity.as_ref().filter(|was| **was != identity) {
            return Err(PostgresError::OtherDatabase { was: was.clone(), now: identity });
        }
        let state =
            if is_streaming { Some(self.held_at(state, start).map_err(|error| self.moved(error))?) } else { state };
        let session = match &state {
            Some(state) if !state.is_lost => Some(gate.hold().await?),
            _ => None,
        };
        if is_streaming {
            // Between the look and the hold another process may have had the slot.
            let state = look(&control, &self.server).await?;
            self.held_at(state, start).map_err(|error| self.moved(error))?;
        }
        self.identity = Some(identity);
        self.changes.know_tables(checked.tables.iter().map(|table| table.id).collect());
        let watch = Watch::start(
            Arc::clone(&control),
            &self.server,
            self.changes.catalog().tables(),
            self.handle.clone(),
            self.metrics.clone(),
        );
        Ok(Link { control, watch, checked, session })
    }

    /// While this process runs, only another reader moves the slot beyond what this one delivered.
    pub(super) fn moved(&self, error: PostgresError) -> PostgresError {
        match error {
            PostgresError::SlotMoved { slot, .. } => PostgresError::TakenMeanwhile { slot },
            other => other,
        }
    }
}
