//! The capture's course: attach, snapshot, stream, and again from the connection on when it is lost.

mod linking;
mod snapshots;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::Class;
use pgwire_replication::ReplicationEvent;

use crate::source::Delivery;
use crate::source::stop::Stop;

use super::changes::{Broken, Changes};
use super::check::{Checked, Found, check_columns, gone, published};
use super::connection::{Control, Server};
use super::error::PostgresError;
use super::metrics::SourceMetrics;
use super::progress::PostgresHandle;
use super::recovery::Gap;
use super::slot::{Session, SlotState, look};
use super::snapshot::Snapshot;
use super::table::{Lacking, Table, Unfit};
use super::watch::Watch;

/// How often a call that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(25);
/// Columns that a message names at most.
const FOUND_MAX: usize = 32;

/// Where the capture is.
#[derive(Debug)]
enum Phase {
    /// Nothing is stored yet, or changes were lost: a snapshot comes first.
    Fresh,
    /// The snapshot is being read.
    Snapshot(Box<Snapshot>),
    /// Changes come.
    Streaming,
}

/// What stands while the server answers.
#[derive(Debug)]
struct Link {
    control: Arc<Control>,
    watch: Watch,
    checked: Checked,
    session: Option<Session>,
}

/// One capture.
#[derive(Debug)]
pub(super) struct Capture {
    server: Server,
    changes: Changes,
    handle: PostgresHandle,
    metrics: SourceMetrics,
    stop: Stop,
    phase: Phase,
    /// What the snapshot that is to be taken, or is being read, takes the place of.
    gap: Option<Gap>,
    /// Nothing before it is told to the server: the slot was made behind what was lost, and some servers would let it go back.
    floor: u64,
    link: Option<Link>,
    identity: Option<String>,
    /// What the tables were when the last connection was made.
    found: Vec<Found>,
    /// A table was seen to be missing in the publication since then.
    was_missing: bool,
    /// The heartbeat of the last idle position.
    beat: u64,
    /// How long is waited before the next connection: it grows until something was delivered again.
    backoff: Duration,
}

/// Whether the wait may go on.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    Over,
    Stopped,
}

/// What a wait for the next event came to.
enum Heard {
    Event(Result<ReplicationEvent, PostgresError>),
    /// Nothing is queued.
    Nothing,
    /// Nothing came for a while.
    Silence,
}

impl Capture {
    pub(super) fn new(server: Server, changes: Changes, metrics: SourceMetrics, stop: Stop) -> Self {
        Self {
            server,
            changes,
            handle: PostgresHandle::default(),
            metrics,
            stop,
            phase: Phase::Fresh,
            gap: None,
            floor: 0,
            link: None,
            identity: None,
            found: Vec::new(),
            was_missing: false,
            beat: 0,
            backoff: Duration::ZERO,
        }
    }

    pub(super) fn handle(&self) -> &PostgresHandle {
        &self.handle
    }

    /// Connects and takes hold of the slot, waiting for it as standby; the identity of the database.
    pub(super) async fn attach(&mut self) -> Result<Option<String>, PostgresError> {
        match self.link_up().await? {
            Wait::Over => Ok(self.identity.clone()),
            Wait::Stopped => Ok(None),
        }
    }

    /// Goes on after `position`, the lower of what is stored and archived; `stored` is what is stored.
    pub(super) async fn resume(&mut self, position: u64, stored: u64) -> Result<(), PostgresError> {
        if position == 0 {
            return Ok(());
        }
        let (control, state) = loop {
            let link = self.link.as_ref();
            let control = link.map(|link| Arc::clone(&link.control)).ok_or_else(|| self.not_attached())?;
            match look(&control, &self.server).await {
                Err(error) if error.class() == Class::Transient => {
                    tracing::warn!(%error, "the capture is interrupted before it begins; it connects again");
                    self.unlink();
                    if self.link_up().await? == Wait::Stopped {
                        return Ok(());
                    }
                }
                looked => break (control, looked?),
            }
        };
        if let Err(error) = self.held_at(state.clone(), position) {
            // A slot that holds what the store lacks is not lost, whatever the archive lacks.
            let Err(lost) = self.held_at(state, stored) else { return Err(error) };
            self.changes.go_on_after(stored);
            return self.lose(&control, lost).await;
        }
        self.changes.go_on_after(position);
        let tables = self.changes.catalog().tables();
        let later = self.link.as_ref().and_then(|link| link.checked.came_later(tables)).map(|table| self.later(table));
        if let Some(later) = later {
            return self.lose(&control, later).await;
        }
        self.phase = Phase::Streaming;
        Ok(())
    }

    fn later(&self, table: &Table) -> PostgresError {
        let (publication, table) = (self.server.config().publication.clone(), table.to_string());
        PostgresError::Later { publication, table, position: self.changes.position() }
    }

    fn not_attached(&self) -> PostgresError {
        self.server.peer.unreachable("nothing is connected yet")
    }

    /// Checks that the slot still holds every change after `position`.
    fn held_at(&self, state: Option<SlotState>, position: u64) -> Result<SlotState, PostgresError> {
        let slot = self.server.config().slot.clone();
        let Some(state) = state else { return Err(PostgresError::SlotLost { slot, why: "is gone", position }) };
        if state.server < position {
            return Err(PostgresError::Restored { server: state.server, position });
        }
        if state.is_lost {
            return Err(PostgresError::SlotLost { slot, why: "was invalidated by the server", position });
        }
        if state.confirmed > position {
            return Err(PostgresError::SlotMoved { slot, confirmed: state.confirmed, position });
        }
        Ok(state)
    }

    /// The next changes.
    pub(super) async fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, PostgresError> {
        loop {
            if self.stop.is_stopped() {
                return Ok(None);
            }
            if !self.is_linked() {
                self.unlink();
                let pause = self.pause();
                if self.stop.wait(pause) || self.link_up().await? == Wait::Stopped {
                    return Ok(None);
                }
            }
            let advanced = match self.phase {
                Phase::Fresh => self.begin_snapshot().await.map(|()| None),
                Phase::Snapshot(_) => self.read_snapshot().await,
                Phase::Streaming => self.read_stream(records_max).await,
            };
            match advanced {
                Ok(Some(delivery)) => return Ok(Some(self.hand_over(delivery))),
                Ok(None) => {}
                Err(error) => {
                    self.unlink();
                    let is_passing =
                        error.class() == Class::Transient && !matches!(error, PostgresError::TakenMeanwhile { .. });
                    if is_passing {
                        tracing::warn!(%error, "the capture is interrupted; it goes on by itself");
                    }
                    if self.changes.records() > 0 {
                        // What came before the failure is delivered; a failure that does not pass shows again.
                        let delivery = self.changes.take();
                        return Ok(Some(self.hand_over(delivery)));
                    }
                    if !is_passing {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn hand_over(&mut self, delivery: Delivery) -> Delivery {
        if delivery.records > 0 {
            self.backoff = Duration::ZERO;
        }
        let rows: usize = delivery.batches.iter().map(interdict_features::change::ChangeBatch::len).sum();
        self.metrics.rows.inc_by(rows as u64);
        self.metrics.dead.inc_by(delivery.dead.len() as u64);
        self.metrics.lacking.inc_by(self.changes.take_lacking());
        delivery
    }

    /// What the server is told to be durable; 0: nothing.
    fn confirmed(&self) -> u64 {
        Some(self.handle.confirmed()).filter(|confirmed| *confirmed >= self.floor).unwrap_or_default()
    }

    async fn read_stream(&mut self, records_max: usize) -> Result<Option<Delivery>, PostgresError> {
        let Some(mut session) = self.link.as_mut().and_then(|link| link.session.take()) else {
            return Err(self.server.peer.unreachable("no session"));
        };
        let read = self.read_session(&mut session, records_max).await;
        if let Some(link) = &mut self.link {
            link.session = Some(session);
        }
        read
    }

    async fn read_session(
        &mut self,
        session: &mut Session,
        records_max: usize,
    ) -> Result<Option<Delivery>, PostgresError> {
        loop {
            session.confirm(self.confirmed());
            let records = self.changes.records();
            let is_full = records >= records_max as u64;
            // What other tables commit must not hold back what is there, nor the position: there may never be a silence.
            let is_due = self.handle.beats() != self.beat && !self.changes.is_within_transaction();
            if is_full || (is_due && records > 0) {
                return Ok(Some(self.changes.take()));
            }
            if self.stop.is_stopped() {
                return Ok(None);
            }
            if is_due {
                return Ok(self.idle());
            }
            // A server that shuts down keeps the session busy with questions whether it is there.
            if !self.is_linked() {
                return Err(self.server.peer.unreachable("the server no longer answers"));
            }
            // Within a transaction the rest is on its way: it has committed before its first row was sent.
            let may_wait = records == 0 || self.changes.is_within_transaction();
            match hear(session, may_wait).await {
                Heard::Event(event) => {
                    if let Some(relation) = self.take_event(event?)? {
                        self.settle_relation(&relation).await?;
                        return Ok(None);
                    }
                }
                Heard::Nothing => return Ok(Some(self.changes.take())),
                Heard::Silence => return Ok(self.idle()),
            }
        }
    }

    /// An idle position, once per heartbeat.
    fn idle(&mut self) -> Option<Delivery> {
        let beat = self.handle.beats();
        if beat == self.beat {
            return None;
        }
        self.beat = beat;
        self.changes.take_idle().then(|| self.changes.take())
    }

    /// Decodes an event; gives back a relation that lacks a declared column.
    fn take_event(&mut self, event: ReplicationEvent) -> Result<Option<bytes::Bytes>, PostgresError> {
        match event {
            ReplicationEvent::Begin { final_lsn, commit_time_micros, .. } => {
                self.changes.begin(final_lsn.as_u64(), commit_time_micros);
            }
            ReplicationEvent::XLogData { data, .. } => match self.changes.frame(&data, Lacking::Mistake) {
                Ok(()) => {}
                Err(Broken::Table(Unfit::Missing { .. } | Unfit::Renamed { .. })) => return Ok(Some(data)),
                Err(broken) => return Err(self.broken(broken)),
            },
            ReplicationEvent::Commit { end_lsn, .. } => {
                if let Some(committed) = self.changes.commit(end_lsn.as_u64()) {
                    self.metrics.transactions.inc();
                    self.handle.delivered(end_lsn.as_u64(), committed);
                }
            }
            ReplicationEvent::KeepAlive { wal_end, .. } => self.changes.read_up_to(wal_end.as_u64()),
            ReplicationEvent::Message { .. } | ReplicationEvent::StoppedAt { .. } => {}
        }
        Ok(None)
    }

    /// A relation lacks a declared column or has another name: its rows are from before the table got it, or it is gone. Where they have a
    /// column in its place that is gone now, it may be the same one under its old name.
    async fn settle_relation(&mut self, frame: &[u8]) -> Result<(), PostgresError> {
        let link = self.link.as_ref().map(|link| (Arc::clone(&link.control), link.checked.version));
        let (control, version) = link.ok_or_else(|| self.not_attached())?;
        for lacking in [Lacking::Mistake, Lacking::ColumnMistake] {
            let Err(broken) = self.changes.frame(frame, lacking) else { return Ok(()) };
            let Broken::Table(Unfit::Missing { table, .. } | Unfit::Renamed { table, .. }) = &broken else {
                return Err(self.broken(broken));
            };
            let table = &self.changes.catalog().tables()[*table];
            match check_columns(&control, table).await {
                Err(_) if matches!(broken, Broken::Table(Unfit::Renamed { .. })) => return Err(self.broken(broken)),
                checked => checked?,
            }
            // The table may have the column all along: the publication leaves it out.
            published(&control, &self.server, table, version).await?;
            if let Broken::Table(Unfit::Missing { column, found, .. }) = &broken {
                let gone = gone(&control, table, found).await?;
                if !gone.is_empty() {
                    let (stream, column) = (table.stream.name.clone(), column.clone());
                    return Err(PostgresError::ColumnBefore { table: table.to_string(), stream, column, gone });
                }
            }
        }
        tracing::warn!("rows come from before their table was as it is now; what they lack is null in them");
        self.changes.frame(frame, Lacking::Null).map_err(|broken| self.broken(broken))
    }

    fn broken(&self, broken: Broken) -> PostgresError {
        let tables = self.changes.catalog().tables();
        match broken {
            Broken::Frame(malformed) => malformed.into(),
            Broken::Table(Unfit::Renamed { table, now }) => {
                PostgresError::Renamed { table: tables[table].to_string(), now }
            }
            Broken::Table(Unfit::Missing { table, column, found }) => PostgresError::MissingColumn {
                table: tables[table].to_string(),
                stream: tables[table].stream.name.clone(),
                column,
                found: found.into_iter().take(FOUND_MAX).collect(),
            },
            Broken::Table(Unfit::Type { table, column, kind, declared }) => PostgresError::ColumnType {
                table: tables[table].to_string(),
                stream: tables[table].stream.name.clone(),
                column,
                found: format!("of another type now (type id {kind})"),
                declared,
            },
        }
    }
}

/// The next event; waits for it when it may.
async fn hear(session: &mut Session, may_wait: bool) -> Heard {
    let event = tokio::task::coop::unconstrained(session.next());
    if may_wait {
        tokio::select! {
            biased;
            event = event => Heard::Event(event),
            () = tokio::time::sleep(LOOK) => Heard::Silence,
        }
    } else {
        tokio::select! {
            biased;
            event = event => Heard::Event(event),
            () = std::future::ready(()) => Heard::Nothing,
        }
    }
}

/// The outcome of `future`, or `None` once stopped.
async fn or_stop<T>(stop: &Stop, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    loop {
        tokio::select! {
            biased;
            done = &mut future => return Some(done),
            () = tokio::time::sleep(LOOK) => {
                if stop.is_stopped() {
                    return None;
                }
            }
        }
    }
}
