//! Decisions on their way from the store's log to the monitor.
//!
//! A Redis that fails over may lose its newest commits. Positions of the log are given anew then, to other decisions or to the same ones in
//! another order, so a place in the log alone does not say where the monitor stands.
//!
//! Another monitor may have worked before, or be at work by mistake, with this folder or one of its own: the store knows how far decisions are
//! written ([`Written`]).
//!
//! Invariants:
//! - What is read is taken only while the decision before it is stored under its id as it was taken. A fail-over loses the newest commits
//!   and no others, so everything before that decision is as it was.
//! - Nothing is published before that holds of the newest decision taken, and before it is on the store's disk.
//! - What the store lost is forgotten as far as Parquet does not have it; else the monitor ends: nobody can take it out of Parquet.
//! - A batch is published only once the store has noted those before, and it counts from when the store notes it: what another folder had
//!   noted first is taken out here, and what nobody had noted is noted by whoever opens the folder next, or written by whoever does not.
//! - The store's log forgets only what it has noted.

use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::decision::DecisionRecord;
use interdict_monitor::error::MonitorError;
use interdict_monitor::log::Entry;
use interdict_monitor::monitor::{Monitor, MonitorState};
use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use interdict_store::port::{Commit, Durability, LogName, OffsetMove, Query, Store as _};
use tokio::runtime::Handle;

use super::super::clock;
use super::written::Written;

/// Decisions taken from the log at once: what a store reads at one instant.
pub(super) const LOG_STEP: usize = 500;

/// When decisions are published.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Publish {
    WhenDue,
    All,
}

/// Whether the store holds the newest decision that was taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Standing {
    Held,
    Lost,
    /// The store does not say.
    Unknown,
}

/// What came of a commit that other monitors may refuse.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Made {
    Done,
    /// What is written is not what was known.
    Fenced,
    /// The store does not say.
    Unknown,
}

/// A monitor and the store that it is filled from. For a thread that may block.
pub(super) struct Taking {
    monitor: Monitor,
    store: Arc<OnlineStore>,
    runtime: Handle,
    /// The newest decision that was taken.
    last: Option<Entry>,
    /// How far decisions are written; unknown at first, and once a commit was refused.
    written: Option<Written>,
}

impl Taking {
    /// A monitor that goes on behind what Parquet holds, in its folder or another one.
    ///
    /// # Errors
    /// The store does not hold what Parquet does.
    pub(super) async fn open(monitor: Monitor, store: Arc<OnlineStore>) -> anyhow::Result<Self> {
        let last = monitor.last_durable()?;
        let taking = Self { monitor, store, runtime: Handle::current(), last, written: None };
        match taking.standing(taking.last.as_ref()).await? {
            Standing::Lost => Err(taking.ahead()),
            Standing::Held | Standing::Unknown => Ok(taking),
        }
    }

    pub(super) fn state(&self) -> MonitorState {
        self.monitor.state()
    }

    /// Has the store's log forget what it need not keep for Parquet or anybody else, before `position`.
    pub(super) fn trim(&self, position: u64) -> anyhow::Result<()> {
        put_off(self.runtime.block_on(self.store.trim_log(LogName::DECISIONS, position))).map(Option::unwrap_or_default)
    }

    /// Hands the next decisions to the monitor; how many it took.
    pub(super) fn take(&mut self) -> anyhow::Result<usize> {
        if self.written.is_none() && !self.settle()? {
            return Ok(0);
        }
        let read = self.store.read_log(LogName::DECISIONS, self.monitor.next_position(), LOG_STEP);
        let entries = put_off(self.runtime.block_on(read))?.unwrap_or_default();
        if entries.is_empty() || !self.stands()? {
            return Ok(0);
        }
        for (taken, (position, bytes)) in entries.iter().enumerate() {
            let record: DecisionRecord = serde_json::from_slice(bytes).context("a record in the decision log")?;
            let now = clock::now();
            if self.monitor.is_due(now) && !self.may_publish()? {
                return Ok(taken);
            }
            if settled(self.monitor.observe(*position, &record, now))?.is_none() {
                return Ok(taken);
            }
            self.last = Some(Entry { position: *position, record });
        }
        Ok(entries.len())
    }

    /// Does what is due in the monitor; up to where decisions are in Parquet and the store knows it, if it says so.
    pub(super) fn publish(&mut self, publish: Publish) -> anyhow::Result<Option<u64>> {
        let now = clock::now();
        let publishes = publish == Publish::All || self.monitor.is_due(now);
        if publishes && !self.may_publish()? {
            return Ok(None);
        }
        let done = settled(if publish == Publish::All { self.monitor.flush(now) } else { self.monitor.tick(now) })?;
        Ok(if done.is_some() && self.tell()? { self.written.as_ref().map(Written::next) } else { None })
    }

    /// Puts on the store's disk what Parquet is about to hold; whether it is there, and in no other folder.
    fn may_publish(&mut self) -> anyhow::Result<bool> {
        if !self.tell()? {
            return Ok(false);
        }
        let Some(written) = &self.written else { return Ok(false) };
        Ok(self.commit(written.fence(), Durability::Power)? == Made::Done && self.stands()?)
    }

    /// Has the store note what is published; whether it has noted all of it. Where it refuses, what is so is found out before anything else
    /// is done.
    fn tell(&mut self) -> anyhow::Result<bool> {
        let Some(written) = self.written.clone() else { return self.settle() };
        let log = self.monitor.log();
        let Some(last) = log.durable().checked_sub(1).filter(|_| log.noted() < log.durable()) else { return Ok(true) };
        let Some(written) = self.note(&written, last)? else { return Ok(false) };
        self.written = Some(written);
        Ok(true)
    }

    /// Has the store note that this folder holds what is behind `written` up to `last`; what is written by then, if it has.
    fn note(&mut self, written: &Written, last: u64) -> anyhow::Result<Option<Written>> {
        if self.commit(written.up_to(last), Durability::Process)? != Made::Done {
            return Ok(None);
        }
        self.monitor.note(last + 1);
        Ok(Some(written.moved(last)))
    }

    /// Makes a commit that is refused once what is written is not what was known.
    fn commit(&mut self, offsets: Vec<OffsetMove>, durability: Durability) -> anyhow::Result<Made> {
        match self.runtime.block_on(self.store.commit(Commit { offsets, durability, ..Commit::default() })) {
            Err(StoreError::Fenced { .. }) => {
                self.written = None;
                Ok(Made::Fenced)
            }
            committed => Ok(put_off(committed)?.map_or(Made::Unknown, |_| Made::Done)),
        }
    }

    /// Brings the folder and what the store knows of it and of others together; whether they are.
    fn settle(&mut self) -> anyhow::Result<bool> {
        let read = Written::read(&*self.store, self.monitor.log().folder());
        let Some(mut written) = put_off(self.runtime.block_on(read))? else { return Ok(false) };
        let durable = self.monitor.log().durable();
        self.monitor.note(written.next_of_folder().min(durable));
        let noted = self.monitor.log().noted();
        if written.next() <= noted && written.next() < durable {
            // Nobody has noted anything else, and the store has not heard of it, or has forgotten it.
            let last = self.monitor.last_durable()?;
            match self.runtime.block_on(self.standing(last.as_ref()))? {
                Standing::Lost => return Err(self.ahead()),
                Standing::Unknown => return Ok(false),
                Standing::Held => {}
            }
            let end = last.map_or(durable, |last| last.position + 1);
            if end > written.next() {
                let Some(moved) = self.note(&written, end - 1)? else { return Ok(false) };
                written = moved;
            }
        }
        if written.next() != durable || self.monitor.log().noted() < durable {
            let (taken, next) = (self.monitor.next_position(), written.next());
            if settled(self.monitor.go_on_at(next))?.is_none() {
                return Ok(false);
            }
            self.last = None;
            tracing::warn!(
                noted,
                durable,
                taken,
                next,
                "decisions are in another folder; this one goes on behind them"
            );
        }
        self.written = Some(written);
        Ok(true)
    }

    /// Whether what was taken is what the store holds. Where the store has lost it, the monitor stands where it agrees with it by then.
    fn stands(&mut self) -> anyhow::Result<bool> {
        let standing = self.runtime.block_on(self.standing(self.last.as_ref()))?;
        if standing != Standing::Lost {
            return Ok(standing == Standing::Held);
        }
        let taken = self.monitor.next_position();
        if settled(self.monitor.rewind())?.is_none() {
            return Ok(false);
        }
        self.last = self.monitor.last_durable()?;
        let durable = self.monitor.next_position();
        tracing::warn!(taken, durable, "the store has lost decisions that were taken from it; they are taken anew");
        match self.runtime.block_on(self.standing(self.last.as_ref()))? {
            Standing::Lost => Err(self.ahead()),
            Standing::Held | Standing::Unknown => Ok(false),
        }
    }

    /// Whether the store holds `last` as it was taken.
    async fn standing(&self, last: Option<&Entry>) -> anyhow::Result<Standing> {
        let Some(last) = last else { return Ok(Standing::Held) };
        let query = Query { decisions: vec![last.record.decision_id], ..Query::default() };
        let Some(fetched) = put_off(self.store.fetch(&query).await)? else { return Ok(Standing::Unknown) };
        if let Some(stored) = fetched.decisions.into_iter().next().flatten() {
            let stored: DecisionRecord = serde_json::from_slice(&stored).context("a stored decision")?;
            return Ok(if stored == last.record { Standing::Held } else { Standing::Lost });
        }
        // It is lost, or was kept no longer: then its place in the log is trimmed, and numbering goes on behind it.
        let end = put_off(self.store.log_next(LogName::DECISIONS).await)?;
        let place = put_off(self.store.read_log(LogName::DECISIONS, last.position, 1).await)?;
        let (Some(end), Some(place)) = (end, place) else { return Ok(Standing::Unknown) };
        let is_taken = place.first().is_some_and(|(position, _)| *position == last.position);
        Ok(if end <= last.position || is_taken { Standing::Lost } else { Standing::Held })
    }

    /// Parquet holds what the store has not.
    fn ahead(&self) -> anyhow::Error {
        let logged = self.monitor.next_position();
        anyhow::anyhow!(
            "the decision log in Parquet holds decisions up to position {logged} that the store does not have, or has made anew: an older store stands beside a newer log, or a Redis has lost its last moments; restore store and log of one moment together, or move the folder of [monitor] log_dir away so that a new log is begun"
        )
    }
}

/// What the store gave, or nothing while it fails: the decisions stay in its log, and it is asked again at the next tick.
fn put_off<T>(result: Result<T, StoreError>) -> anyhow::Result<Option<T>> {
    match result {
        Err(error) if error.class() == Class::Transient => {
            tracing::error!(%error, "the store's decision log is not to be had; it is tried again");
            Ok(None)
        }
        result => Ok(Some(result?)),
    }
}

/// A failure that may pass is logged and tried again at the next tick.
fn settled<T>(done: Result<T, MonitorError>) -> anyhow::Result<Option<T>> {
    match done {
        Ok(done) => Ok(Some(done)),
        Err(error) if error.class() == interdict_monitor::error::Class::Transient => {
            tracing::error!(%error, "the decision log cannot be written; it is tried again");
            Ok(None)
        }
        Err(error) => Err(error.into()),
    }
}
