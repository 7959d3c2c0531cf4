//! The monitor as one value: log, drift and alerts, driven by one thread.
//!
//! The caller's blocking thread hands over decisions ([`Monitor::observe`]) and calls [`Monitor::tick`] every second
//! or so; the [`Courier`] runs as an async task. Neither waits for the other.
//!
//! After a crash the caller goes on at [`Monitor::next_position`]; the drift window that was filling is lost and fills
//! anew, an open episode is not.

#[cfg(test)]
mod tests;

use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;

use crate::alert::courier::{Courier, Dispatch};
use crate::alert::event::{AlertEvent, Episode};
use crate::alert::outbox::{DeliveryCounts, Outbox};
use crate::config::MonitorConfig;
use crate::drift::detector::{Detector, DriftCounts, Firing, Transition};
use crate::drift::reference::Reference;
use crate::drift::verdict::Batch;
use crate::error::MonitorError;
use crate::log::{Entry, LogCounts, LogWriter, Pushed};
use crate::metrics::Metrics;

/// The file of waiting alerts, in the log's folder.
const OUTBOX: &str = "_alerts.json";

/// Logs decisions, watches them for drift, and tells of it.
#[derive(Debug)]
pub struct Monitor {
    log: LogWriter,
    detector: Option<Detector>,
    outbox: Outbox,
    dispatch: Dispatch,
    metrics: Metrics,
}

/// What the monitor has seen, for a terminal or a status page.
#[derive(Clone, Debug)]
pub struct MonitorState {
    /// The position before which every decision is in Parquet.
    pub durable: u64,
    /// Decisions taken and not yet durable.
    pub unflushed_rows: usize,
    /// Rows and files written since the start.
    pub log: LogCounts,
    /// Batches and rows judged since the start.
    pub drift: DriftCounts,
    /// Rows of the drift window that is filling, and how many fill it.
    pub filling: (usize, usize),
    /// The last batch: psi, ks and verdict per column.
    pub last: Option<Batch>,
    /// The open episode.
    pub episode: Option<Episode>,
    /// What became of alert deliveries since the start.
    pub deliveries: DeliveryCounts,
    /// Alert deliveries that wait.
    pub alerts_pending: usize,
}

impl Monitor {
    /// Opens log and outbox in the configured folder and makes the courier of the alerts. Without a reference drift
    /// is not watched.
    ///
    /// # Errors
    /// As [`LogWriter::open`] and [`Outbox::open`]; Fatal when the client for webhooks cannot be made.
    pub fn open(
        config: MonitorConfig,
        reference: Option<Reference>,
        metrics: Metrics,
    ) -> Result<(Self, Courier), MonitorError> {
        let (log, _next) = LogWriter::open(&config.log_dir, config.log)?;
        let outbox = Outbox::open(&config.log_dir.join(OUTBOX), config.webhooks)?;
        let firing = if outbox.episode().is_some() { Firing::Yes } else { Firing::No };
        let detector = reference.map(|reference| Detector::new(reference, config.drift, firing));
        let (courier, dispatch) = Courier::new()?;
        let monitor = Self { log, detector, outbox, dispatch, metrics };
        monitor.metrics.firing(firing == Firing::Yes);
        Ok((monitor, courier))
    }

    /// The position of the next decision to hand over: every one before it is durable or taken.
    #[must_use]
    pub fn next_position(&self) -> u64 {
        self.log.next_position()
    }

    /// Whether the next call of [`Self::observe`] or [`Self::tick`] at `now` may publish decisions: what was handed over must survive
    /// whatever Parquet does, so the caller makes the store durable first.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.log.is_due(now)
    }

    /// Takes one decision from the store's log; positions ascend. One that was taken before is passed over.
    ///
    /// # Errors
    /// The decision was not taken: Transient when earlier ones cannot be written, hand it over again later. See
    /// [`LogWriter::push`].
    pub fn observe(&mut self, position: u64, record: &DecisionRecord, now: Timestamp) -> Result<(), MonitorError> {
        let pushed = self.log.push(position, record, now).inspect_err(|_| self.metrics.log_failed())?;
        let is_judged = self.outbox.judged().is_some_and(|judged| position <= judged);
        if pushed == Pushed::Repeated || is_judged {
            return Ok(());
        }
        let batches = self.batches();
        let transition = self.detector.as_mut().and_then(|detector| detector.observe(position, record, now));
        self.after_drift(batches, transition, now);
        Ok(())
    }

    /// Does what is due: writes the log, judges drift, saves and sends alerts. Returns the position before which
    /// every decision is durable, which the store's log may forget.
    ///
    /// # Errors
    /// The first failure, after everything else that is due was tried. Transient: nothing is lost, the next tick
    /// tries again.
    pub fn tick(&mut self, now: Timestamp) -> Result<u64, MonitorError> {
        let batches = self.batches();
        let transition = self.detector.as_mut().and_then(|detector| detector.tick(now));
        self.after_drift(batches, transition, now);
        if let Some(detector) = &self.detector {
            self.metrics.drift(detector.counts());
            self.metrics.watching(now);
        }
        let alerts = self.move_alerts(now);
        let durable = self.log.tick(now);
        self.settle_log(durable, now).and_then(|durable| alerts.map(|()| durable))
    }

    /// Writes everything taken so far, before a shutdown. Returns the durable position.
    ///
    /// # Errors
    /// As [`LogWriter::flush`].
    pub fn flush(&mut self, now: Timestamp) -> Result<u64, MonitorError> {
        let durable = self.log.flush();
        let alerts = self.outbox.save();
        self.settle_log(durable, now).and_then(|durable| alerts.map(|()| durable))
    }

    /// Forgets every decision that was taken and is not durable, and the drift window that was filling: the store has lost them. Goes on at
    /// [`Self::next_position`].
    ///
    /// # Errors
    /// As [`LogWriter::rewind`].
    pub fn rewind(&mut self) -> Result<(), MonitorError> {
        if let Some(detector) = &mut self.detector {
            detector.clear();
        }
        self.log.rewind().inspect_err(|_| self.metrics.log_failed())
    }

    /// Goes on at `position`: another folder holds what lies before it and the store has not noted as this one's. That and every decision
    /// that was taken is forgotten, with the drift window that was filling.
    ///
    /// # Errors
    /// As [`LogWriter::go_on_at`].
    pub fn go_on_at(&mut self, position: u64) -> Result<(), MonitorError> {
        if let Some(detector) = &mut self.detector {
            detector.clear();
        }
        self.log.go_on_at(position).inspect_err(|_| self.metrics.log_failed())
    }

    /// The newest decision that is durable here.
    ///
    /// # Errors
    /// As [`crate::log::last`].
    pub fn last_durable(&self) -> Result<Option<Entry>, MonitorError> {
        crate::log::last(self.log.dir())
    }

    /// The log in the folder.
    #[must_use]
    pub fn log(&self) -> &LogWriter {
        &self.log
    }

    /// As [`LogWriter::note`].
    pub fn note(&mut self, position: u64) {
        self.log.note(position);
    }

    /// What the monitor has seen.
    #[must_use]
    pub fn state(&self) -> MonitorState {
        let detector = self.detector.as_ref();
        MonitorState {
            durable: self.log.durable(),
            unflushed_rows: self.log.unflushed_rows(),
            log: self.log.counts(),
            drift: detector.map(Detector::counts).unwrap_or_default(),
            filling: detector.map_or((0, 0), |own| (own.filling().0, own.options().rows_max)),
            last: detector.and_then(Detector::last).cloned(),
            episode: self.outbox.episode().cloned(),
            deliveries: self.outbox.counts(),
            alerts_pending: self.outbox.pending(),
        }
    }

    fn batches(&self) -> u64 {
        self.detector.as_ref().map_or(0, |detector| detector.counts().batches)
    }

    fn settle_log(&self, durable: Result<u64, MonitorError>, now: Timestamp) -> Result<u64, MonitorError> {
        if durable.is_err() {
            self.metrics.log_failed();
        }
        let flushed = (durable.is_ok() && self.log.unflushed_rows() == 0).then_some(now);
        self.metrics.log(self.log.counts(), self.log.unflushed_rows(), flushed);
        durable
    }

    fn after_drift(&mut self, batches_before: u64, transition: Option<Transition>, now: Timestamp) {
        let Some(detector) = &self.detector else {
            return;
        };
        if detector.counts().batches == batches_before {
            return;
        }
        self.metrics.drift(detector.counts());
        let Some(batch) = detector.last() else {
            return;
        };
        self.metrics.batch(batch, now);
        if let Some(transition) = transition {
            let reference = detector.reference();
            let begin = || Episode::begin(&reference.model, &reference.version, batch, now);
            let episode = self.outbox.episode().cloned().unwrap_or_else(begin);
            let event = AlertEvent::new(&episode, transition, detector, batch, now);
            let alert_id = episode.alert_id.clone();
            let columns = batch.drifted().len();
            let is_firing = transition == Transition::Firing;
            self.outbox.add(&event, is_firing.then_some(episode), batch.span.last_position, now);
            self.metrics.firing(is_firing);
            if is_firing {
                tracing::error!(alert_id, columns, "drift is confirmed");
            } else {
                tracing::info!(alert_id, "drift is over");
            }
        }
    }

    fn move_alerts(&mut self, now: Timestamp) -> Result<(), MonitorError> {
        while let Ok(report) = self.dispatch.reports.try_recv() {
            self.outbox.settle(&report, now);
        }
        let saved = self.outbox.save();
        for delivery in self.outbox.due(now) {
            if let Err(refused) = self.dispatch.deliveries.try_send(delivery) {
                use tokio::sync::mpsc::error::TrySendError;
                let (TrySendError::Full(delivery) | TrySendError::Closed(delivery)) = refused;
                self.outbox.hand_back(&delivery);
            }
        }
        self.metrics.alerts(self.outbox.counts(), self.outbox.pending());
        saved
    }
}
