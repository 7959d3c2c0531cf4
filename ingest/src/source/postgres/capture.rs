//! The capture's course: attach, snapshot, stream, and again from the connection on when it is lost.

mod link;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::Class;
use pgwire_replication::ReplicationEvent;

use crate::source::Delivery;
use crate::source::config::postgres::Creation;
use crate::source::stop::Stop;

use super::changes::{Broken, Changes};
use super::check::check_columns;
use super::connection::Server;
use super::error::PostgresError;
use super::metrics::SourceMetrics;
use super::progress::PostgresHandle;
use super::slot::{Gate, Session, SlotState, look, make};
use super::snapshot::Snapshot;
use super::table::{Lacking, Unfit};

use link::{Link, Wait};

/// How often a call that waits looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(25);
/// Where the capture is.
#[derive(Debug)]
enum Phase {
    /// Nothing is stored yet: a snapshot comes first.
    Fresh,
    /// The snapshot is being read.
    Snapshot(Box<Snapshot>),
    /// Changes come.
    Streaming,
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
    link: Option<Link>,
    identity: Option<String>,
    /// The heartbeat of the last idle position.
    beat: u64,
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
        let handle = PostgresHandle::default();
        Self { server, changes, handle, metrics, stop, phase: Phase::Fresh, link: None, identity: None, beat: 0 }
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

    /// Goes on after a stored position.
    pub(super) async fn resume(&mut self, position: u64) -> Result<(), PostgresError> {
        if position == 0 {
            return Ok(());
        }
        let state = loop {
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
                looked => break looked?,
            }
        };
        self.held_at(state, position)?;
        self.changes.go_on_after(position);
        self.phase = Phase::Streaming;
        Ok(())
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
                if self.link_up().await? == Wait::Stopped {
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
                    if self.changes.records() > 0 {
                        // What came before the failure is delivered; the failure shows again.
                        let delivery = self.changes.take();
                        return Ok(Some(self.hand_over(delivery)));
                    }
                    if error.class() != Class::Transient || matches!(error, PostgresError::TakenMeanwhile { .. }) {
                        return Err(error);
                    }
                    tracing::warn!(%error, "the capture is interrupted; it goes on by itself");
                }
            }
        }
    }

    fn hand_over(&self, delivery: Delivery) -> Delivery {
        let rows: usize = delivery.batches.iter().map(interdict_features::change::ChangeBatch::len).sum();
        self.metrics.rows.inc_by(rows as u64);
        self.metrics.dead.inc_by(delivery.dead.len() as u64);
        delivery
    }

    async fn begin_snapshot(&mut self) -> Result<(), PostgresError> {
        let Some(link) = &mut self.link else { return Ok(()) };
        let slot = &self.server.config().slot;
        if link.session.is_none() {
            let state = look(&link.control, &self.server).await?;
            if state.as_ref().is_some_and(|state| state.is_lost) {
                let (slot, why) = (slot.clone(), "was invalidated by the server");
                return Err(PostgresError::SlotLost { slot, why, position: 0 });
            }
            if state.is_none() {
                if self.server.config().creation == Creation::Forbidden {
                    return Err(PostgresError::NoSlot { slot: slot.clone() });
                }
                tracing::info!(slot, "making the replication slot; this waits for transactions that are under way");
                if or_stop(&self.stop, make(&link.control, &self.server)).await.transpose()?.is_none() {
                    return Ok(());
                }
            }
            let gate = Gate::open(&self.server, 0, self.handle.confirmed()).await?;
            link.session = Some(gate.hold().await.map_err(|error| match error {
                // It was free, or not there, when the engine was asked for its position.
                PostgresError::SlotTaken { slot } => PostgresError::TakenMeanwhile { slot },
                other => other,
            })?);
            self.metrics.owner.set(1);
        }
        tracing::info!("taking a snapshot of the tables; this waits for transactions that are under way");
        let tables = self.changes.catalog().tables();
        let taken = or_stop(&self.stop, Snapshot::take(&self.server, tables, &link.checked.tables)).await;
        if let Some(snapshot) = taken.transpose()? {
            self.phase = Phase::Snapshot(Box::new(snapshot));
        }
        Ok(())
    }

    async fn read_snapshot(&mut self) -> Result<Option<Delivery>, PostgresError> {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return Ok(None) };
        let (table, lsn) = (snapshot.table, snapshot.lsn);
        let Some(rows) = or_stop(&self.stop, snapshot.next()).await.transpose()? else { return Ok(None) };
        let Some(rows) = rows else {
            tracing::info!(lsn = %super::changes::Lsn(lsn), "the snapshot is read; changes follow");
            self.changes.go_on_after(lsn);
            self.phase = Phase::Streaming;
            return Ok(Some(self.changes.take()));
        };
        let columns = self.changes.catalog().tables()[table].stream.columns.len();
        for row in &rows {
            self.changes.snapshot_row(table, lsn, (0..columns).map(|column| row.get(column)));
        }
        Ok((!rows.is_empty()).then(|| self.changes.take()))
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
            let records = self.changes.records();
            let is_full = records >= records_max as u64;
            if is_full {
                return Ok(Some(self.changes.take()));
            }
            // Events that bring no rows may come without end (messages of others, the questions of a server that shuts down).
            if !self.is_linked() {
                return Err(self.server.peer.unreachable("the server no longer answers"));
            }
            if records == 0 {
                if self.stop.is_stopped() {
                    return Ok(None);
                }
                session.confirm(self.handle.confirmed());
                if let Some(idle) = self.idle() {
                    return Ok(Some(idle));
                }
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
                Heard::Silence => return Ok(None),
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

    /// A relation lacks a declared column or has another name: its rows are from before the table got it, or it is gone.
    async fn settle_relation(&mut self, frame: &[u8]) -> Result<(), PostgresError> {
        let control = self.link.as_ref().map(|link| Arc::clone(&link.control));
        let control = control.ok_or_else(|| self.not_attached())?;
        if let Err(broken) = self.changes.frame(frame, Lacking::Mistake) {
            let Broken::Table(Unfit::Missing { table, .. } | Unfit::Renamed { table, .. }) = &broken else {
                return Err(self.broken(broken));
            };
            match check_columns(&control, &self.changes.catalog().tables()[*table]).await {
                Err(_) if matches!(broken, Broken::Table(Unfit::Renamed { .. })) => return Err(self.broken(broken)),
                checked => checked?,
            }
        }
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
                found,
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
