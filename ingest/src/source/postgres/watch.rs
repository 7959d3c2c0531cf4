//! Looks after a capture at every heartbeat: measures the slot's lag and sees that the server still answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use interdict_features::time::Timestamp;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::source::config::postgres::HeartbeatMessage;

use super::check::Checked;
use super::connection::{Control, Row, Server, literal};
use super::error::PostgresError;
use super::metrics::SourceMetrics;
use super::progress::PostgresHandle;

/// The task that asks; it ends by itself when the server no longer answers or the publication was altered: the capture
/// connects anew then, and finds out.
#[derive(Debug)]
pub(super) struct Watch {
    task: JoinHandle<()>,
    /// A table was not in the publication.
    is_missing: Arc<AtomicBool>,
}

impl Watch {
    pub(super) fn start(
        control: Arc<Control>,
        server: &Server,
        checked: &Checked,
        handle: PostgresHandle,
        metrics: SourceMetrics,
    ) -> Self {
        let mut beat = tokio::time::interval(server.config().heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let sql = question(server, &checked.question);
        let (standing, tables) = (checked.standing.clone(), checked.tables.len() as u64);
        let is_missing = Arc::new(AtomicBool::new(false));
        let missing = Arc::clone(&is_missing);
        let task = tokio::spawn(async move {
            loop {
                beat.tick().await;
                match control.ask("measure the slot's lag", &sql).await {
                    Ok(rows) => {
                        note(&rows, &handle, &metrics);
                        if let Some(row) = rows.first().filter(|row| row.text(0) != standing) {
                            missing.store(row.number(1) < tables, Ordering::Release);
                            tracing::warn!("the publication was altered; the capture connects anew");
                            break;
                        }
                    }
                    Err(PostgresError::Server { code, why, .. }) => {
                        tracing::warn!(code, why, "the slot's lag cannot be measured");
                    }
                    Err(error) => {
                        tracing::warn!(%error, "the server no longer answers");
                        break;
                    }
                }
                handle.beat();
            }
        });
        Self { task, is_missing }
    }

    /// Whether a table had left the publication when it was found altered.
    pub(super) fn saw_one_missing(&self) -> bool {
        self.is_missing.load(Ordering::Acquire)
    }

    /// Whether the capture is to connect anew.
    pub(super) fn has_ended(&self) -> bool {
        self.task.is_finished()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn question(server: &Server, published: &str) -> String {
    let slot = literal(&server.config().slot);
    let lag = format!(
        "SELECT greatest(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_lsn() END \
           - confirmed_flush_lsn, 0)::bigint, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint \
         FROM pg_replication_slots WHERE slot_name = {slot}"
    );
    match server.config().heartbeat_message {
        HeartbeatMessage::Silent => format!("{published}; {lag}"),
        HeartbeatMessage::Written => {
            format!("{published}; SELECT pg_logical_emit_message(false, 'interdict', {slot}); {lag}")
        }
    }
}

fn note(rows: &[Row], handle: &PostgresHandle, metrics: &SourceMetrics) {
    // Before the slot is made there is nothing to measure.
    let Some(row) = rows.last().filter(|_| rows.len() > 1) else { return };
    metrics.lag_bytes.set(i64::try_from(row.number(0)).unwrap_or(i64::MAX));
    let now = i64::try_from(row.number(1)).unwrap_or_default();
    metrics.lag_seconds.set(handle.lag(Timestamp::from_micros(now)).seconds());
}
