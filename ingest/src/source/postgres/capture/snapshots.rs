//! The part of the course before changes come: the first snapshot, and the one that takes the place of what a lost slot held.

use std::sync::Arc;

use interdict_features::change::Op;
use interdict_features::time::Timestamp;

use crate::clock::wall_clock;
use crate::source::Delivery;
use crate::source::config::postgres::{Creation, OnLostSlot};

use super::super::changes::Lsn;
use super::super::connection::Control;
use super::super::error::PostgresError;
use super::super::recovery::{Gap, Taking};
use super::super::slot::{Gate, Session, drop_lost, log_end, look, make};
use super::super::snapshot::Snapshot;
use super::{Capture, Phase, or_stop};

impl Capture {
    /// The slot no longer holds what comes behind the position: a snapshot takes its place, if that is wanted.
    pub(super) async fn lose(&mut self, control: &Control, lost: PostgresError) -> Result<(), PostgresError> {
        let is_lost = matches!(
            lost,
            PostgresError::SlotLost { .. } | PostgresError::SlotMoved { .. } | PostgresError::Later { .. }
        );
        if !is_lost || self.server.config().on_lost_slot == OnLostSlot::Stop {
            return Err(lost);
        }
        let (after, end) = (self.changes.position(), log_end(control).await?);
        if end < after {
            return Err(PostgresError::Restored { server: end, position: after });
        }
        tracing::warn!(
            slot = self.server.config().slot,
            after = %Lsn(after),
            why = %lost.told(),
            "changes were lost; a snapshot takes their place, and what committed meanwhile is judged late"
        );
        self.metrics.lost_slots.inc();
        self.metrics.lost.set(wall_clock().since(Timestamp::from_micros(0)).seconds());
        (self.phase, self.gap, self.floor) = (Phase::Fresh, Some(Gap { after }), u64::MAX);
        Ok(())
    }

    pub(super) async fn begin_snapshot(&mut self) -> Result<(), PostgresError> {
        let Some(link) = &self.link else { return Ok(()) };
        if link.session.is_none() {
            let control = Arc::clone(&link.control);
            let Some(session) = self.make_and_hold(&control).await? else { return Ok(()) };
            if let Some(link) = &mut self.link {
                link.session = Some(session);
            }
            self.metrics.owner.set(1);
        }
        let Some(link) = &self.link else { return Ok(()) };
        tracing::info!("taking a snapshot of the tables; this waits for transactions that are under way");
        let tables = self.changes.catalog().tables();
        let taken = or_stop(&self.stop, Snapshot::take(&self.server, tables, &link.checked.tables, self.gap)).await;
        let Some(snapshot) = taken.transpose()? else { return Ok(()) };
        if let Some(Gap { after }) = self.gap {
            let (bytes, lsn) = (snapshot.lsn - after, snapshot.lsn);
            tracing::warn!(after = %Lsn(after), snapshot = %Lsn(lsn), bytes, "nothing was captured of the log in between");
            self.floor = lsn;
        }
        self.phase = Phase::Snapshot(Box::new(snapshot));
        Ok(())
    }

    /// Makes the slot where it is missing and takes hold of it; `None` once stopped.
    async fn make_and_hold(&self, control: &Control) -> Result<Option<Session>, PostgresError> {
        let config = self.server.config();
        let mut state = look(control, &self.server).await?;
        if state.as_ref().is_some_and(|state| state.is_lost) {
            if config.on_lost_slot == OnLostSlot::Stop || config.creation == Creation::Forbidden {
                let position = self.gap.map_or(0, |gap| gap.after);
                let (slot, why) = (config.slot.clone(), "was invalidated by the server");
                return Err(PostgresError::SlotLost { slot, why, position });
            }
            drop_lost(control, &self.server).await?;
            state = look(control, &self.server).await?;
        }
        if state.is_none() {
            if config.creation == Creation::Forbidden {
                return Err(PostgresError::NoSlot { slot: config.slot.clone() });
            }
            let slot = &config.slot;
            tracing::info!(slot, "making the replication slot; this waits for transactions that are under way");
            if or_stop(&self.stop, make(control, &self.server)).await.transpose()?.is_none() {
                return Ok(None);
            }
        }
        let gate = Gate::open(&self.server, 0, self.confirmed()).await?;
        let session = gate.hold().await.map_err(|error| match error {
            // It was free, or not there, when the engine was asked for its position.
            PostgresError::SlotTaken { slot } => PostgresError::TakenMeanwhile { slot },
            other => other,
        });
        session.map(Some)
    }

    pub(super) async fn read_snapshot(&mut self) -> Result<Option<Delivery>, PostgresError> {
        let Phase::Snapshot(snapshot) = &mut self.phase else { return Ok(None) };
        let (place, begins) = ((snapshot.taking, snapshot.lsn), snapshot.begins());
        let Some(read) = or_stop(&self.stop, snapshot.next()).await.transpose()? else { return Ok(None) };
        let Some((table, rows)) = read else {
            self.end_snapshot(place);
            return Ok(Some(self.changes.take()));
        };
        if let Some(table) = begins {
            self.changes.snapshot_mark(table, place, Op::Lost);
        }
        let columns = self.changes.catalog().tables()[table].stream.columns.len();
        for row in &rows {
            self.changes.snapshot_row(table, place, (0..columns).map(|column| row.get(column)));
        }
        Ok((self.changes.records() > 0).then(|| self.changes.take()))
    }

    fn end_snapshot(&mut self, (taking, lsn): (Taking, u64)) {
        tracing::info!(lsn = %Lsn(lsn), "the snapshot is read; changes follow");
        for table in 0..self.changes.catalog().tables().len() {
            self.changes.snapshot_mark(table, (taking, lsn), Op::Settled);
        }
        self.changes.go_on_after(lsn);
        (self.phase, self.gap) = (Phase::Streaming, None);
    }
}
