//! The replication slot, and the session that holds it.
//!
//! Invariants:
//! - One session at a time reads from a slot: PostgreSQL sees to it. Whoever holds it is the owner, others stand by.
//! - The server hears of nothing as durable but what [`super::progress::PostgresHandle::confirm`] was told.

use pgwire_replication::{Lsn as WireLsn, ReplicationClient, ReplicationEvent};

use super::connection::{CONNECT, Control, Server, literal};
use super::error::PostgresError;
use super::peer::REPLICATE;

/// What the server says of a slot.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct SlotState {
    /// Up to where it was confirmed.
    pub(super) confirmed: u64,
    /// The end of the server's log.
    pub(super) server: u64,
    /// Log that it needs was removed.
    pub(super) is_lost: bool,
}

/// Looks at the configured slot; `None` when there is none.
pub(super) async fn look(control: &Control, server: &Server) -> Result<Option<SlotState>, PostgresError> {
    let slot = &server.config().slot;
    let sql = format!(
        "SELECT slot_type, coalesce(plugin, ''), coalesce(database, ''), \
           coalesce(confirmed_flush_lsn - '0/0'::pg_lsn, 0), coalesce(wal_status, ''), \
           CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn, \
           database = current_database() \
         FROM pg_replication_slots WHERE slot_name = {}",
        literal(slot)
    );
    let rows = control.ask("look at the slot", &sql).await?;
    let Some(row) = rows.first() else { return Ok(None) };
    let found = match (row.text(0), row.text(1)) {
        ("logical", "pgoutput") if row.is_true(6) => None,
        ("logical", "pgoutput") => Some(format!("one of database '{}'", row.text(2))),
        ("logical", plugin) => Some(format!("one of output plugin '{plugin}'")),
        _ => Some("a physical one".to_owned()),
    };
    if let Some(found) = found {
        return Err(PostgresError::ForeignSlot { slot: slot.clone(), found });
    }
    let is_lost = row.text(4) == "lost";
    Ok(Some(SlotState { confirmed: row.number(3), server: row.number(5), is_lost }))
}

/// The end of the server's log.
pub(super) async fn log_end(control: &Control) -> Result<u64, PostgresError> {
    let sql = "SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END - '0/0'::pg_lsn";
    let rows = control.ask("look at the end of its log", sql).await?;
    Ok(rows.first().map_or(0, |row| row.number(0)))
}

/// Drops the slot if the server has invalidated it.
pub(super) async fn drop_lost(control: &Control, server: &Server) -> Result<(), PostgresError> {
    let slot = &server.config().slot;
    // One that another process has made meanwhile stays.
    let sql = format!(
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots \
         WHERE slot_name = {} AND wal_status = 'lost' AND NOT active",
        literal(slot)
    );
    match control.ask("drop the lost slot", &sql).await {
        // Another process dropped it at the same time.
        Err(PostgresError::Server { code, .. }) if code == "42704" => Ok(()),
        dropped => dropped.map(drop),
    }
}

/// Makes the slot. Waits for every transaction that is under way.
pub(super) async fn make(control: &Control, server: &Server) -> Result<(), PostgresError> {
    let slot = &server.config().slot;
    let sql = format!("SELECT pg_create_logical_replication_slot({}, 'pgoutput')", literal(slot));
    match control.run("make the slot", &sql).await {
        // Another process made it at the same time; it is looked at next.
        Err(PostgresError::Server { code, .. }) if code == "42710" => Ok(()),
        Err(PostgresError::Server { code, why, .. }) if code == "42501" => {
            Err(PostgresError::NoReplicationRight { user: server.config().address.user.clone(), why })
        }
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(slot, "made the replication slot");
            Ok(())
        }
    }
}

/// An authenticated replication connection that does not read yet.
pub(super) struct Gate {
    client: ReplicationClient,
    server: Server,
}

impl Gate {
    /// Opens a replication connection that will read from `start` and calls `confirmed` durable.
    pub(super) async fn open(server: &Server, start: u64, confirmed: u64) -> Result<Self, PostgresError> {
        let client = ReplicationClient::connect_gated(server.replication(start, confirmed)).await;
        let client = client.map_err(|error| server.peer.of_replication(REPLICATE, &error))?;
        Ok(Self { client, server: server.clone() })
    }

    /// The identity of the cluster that answers: its identifier and timeline.
    pub(super) async fn identify(&mut self) -> Result<String, PostgresError> {
        let peer = self.server.peer.clone();
        match tokio::time::timeout(CONNECT, self.client.identify_system()).await {
            Ok(Ok(system)) => Ok(format!("{}/timeline-{}", system.system_id, system.timeline)),
            Ok(Err(error)) => Err(peer.of_replication(REPLICATE, &error)),
            Err(_elapsed) => Err(peer.unreachable("no answer within 10 s")),
        }
    }

    /// Runs a replication command.
    pub(super) async fn command(&mut self, sql: &str) -> Result<Vec<String>, PostgresError> {
        let rows = self.client.simple_query(sql).await;
        let rows = rows.map_err(|error| self.server.peer.of_replication(REPLICATE, &error))?;
        let text = |cell: &Option<bytes::Bytes>| {
            cell.as_ref().map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default()
        };
        Ok(rows.first().map(|row| row.iter().map(text).collect()).unwrap_or_default())
    }

    /// Takes hold of the slot and begins to read.
    pub(super) async fn hold(mut self) -> Result<Session, PostgresError> {
        let peer = &self.server.peer;
        let started = match self.client.start().await {
            // The server answers once it has found the place in its log to read from, which may take a while.
            Ok(()) => self.client.wait_started().await,
            Err(error) => Err(error),
        };
        match started {
            Ok(()) => Ok(Session { client: self.client, server: self.server }),
            Err(error) => match peer.of_replication(REPLICATE, &error) {
                PostgresError::Server { code, .. } if code == "55006" => {
                    Err(PostgresError::SlotTaken { slot: self.server.config().slot.clone() })
                }
                error => Err(error),
            },
        }
    }
}

/// A replication connection that holds the slot.
pub(super) struct Session {
    client: ReplicationClient,
    server: Server,
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Session {
    /// Tells the server that everything up to `position` is durable.
    pub(super) fn confirm(&self, position: u64) {
        self.client.update_applied_lsn(WireLsn(position));
    }

    /// The next event. A call that is dropped loses none; of a connection that ends meanwhile it may lose the reason.
    pub(super) async fn next(&mut self) -> Result<ReplicationEvent, PostgresError> {
        let peer = &self.server.peer;
        match self.client.recv().await {
            Ok(Some(event)) => Ok(event),
            Ok(None) => Err(peer.unreachable("the server ended the replication")),
            Err(error) => match peer.of_replication(REPLICATE, &error) {
                PostgresError::Server { code, why, .. } if code == "42704" && why.contains("publication") => {
                    let config = self.server.config();
                    let (publication, slot) = (config.publication.clone(), config.slot.clone());
                    Err(PostgresError::YoungPublication { publication, slot, why })
                }
                error => Err(error),
            },
        }
    }
}
