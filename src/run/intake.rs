//! What sources deliver: applied, judged and stored on the engine's thread.
//!
//! Invariants:
//! - A decision that is stored since before a crash is not made anew, nor is one that a caller was told: that one is stored here.
//! - Every record of a judged stream gets a decision, if only by default (DESIGN 3.15).

use std::sync::Arc;
use std::time::Instant;

use interdict_features::change::{ChangeBatch, Op};
use interdict_features::decision::{DecisionRecord, EntityRef, SeenPosition, decision_id};
use interdict_features::definition::{OnUnmatched, Stream};
use interdict_features::engine::{Evaluate, Outcome};
use interdict_ingest::source::Delivery;
use interdict_scorer::judge::Judge;
use interdict_store::port::{Claim, Commit, Query, Store};
use uuid::Uuid;

use super::clock;
use super::core::{Applied, Core};
use super::judging::{Circumstances, Judged, undecodable};
use super::patience::patiently;
use super::unread::{self, Step, Unread};

/// What is about to be stored.
#[derive(Default)]
struct Settled {
    judged: Vec<Judged>,
    /// What callers were told.
    told: Vec<Judged>,
}

/// A batch that was applied and is to be judged.
struct Met<'a> {
    source: &'a str,
    batch: &'a ChangeBatch,
    /// Places in it of what was decided before.
    decided: &'a [usize],
    /// How far every partition was applied before it.
    seen: &'a [SeenPosition],
    applied: Applied,
}

impl<S: Store> Core<S> {
    /// Applies and judges what a source delivered.
    pub(crate) async fn take(&mut self, source: &Arc<str>, delivery: Delivery, read: Instant) -> anyhow::Result<()> {
        self.letters.bury(&delivery.dead)?;
        let steps = unread::steps(self.pipeline.definitions(), &self.judged_sources, source, &delivery);
        let mut steps = steps.into_iter().peekable();
        while let Some(step) = steps.next() {
            match step {
                Step::Unread(unread) => self.decide_unread(&unread).await?,
                Step::Changes(batch) => {
                    let end = steps.peek().is_none().then_some((delivery.partition, delivery.position));
                    self.take_changes(source, &batch, end, read).await?;
                }
            }
        }
        self.stats.count_events(delivery.records);
        self.pipeline.advance(source, delivery.partition, delivery.position);
        Ok(())
    }

    /// Applies and judges changes; `end` is where their delivery ends, if it ends with them.
    async fn take_changes(
        &mut self,
        source: &Arc<str>,
        batch: &ChangeBatch,
        end: Option<(u32, u64)>,
        read: Instant,
    ) -> anyhow::Result<()> {
        self.apply(batch, Evaluate::Judged).await?;
        self.note_outcomes(source, batch)?;
        self.tell_truncation(source, batch);
        let decided = self.decided_before(source, batch).await?;
        let seen = self.pipeline.seen();
        let mut applied = Applied::InPart;
        if let Some((partition, position)) = end {
            self.pipeline.advance(source, partition, position);
            applied = Applied::WithPosition;
        }
        let count = self.judge(&Met { source, batch, decided: &decided, seen: &seen, applied }).await?;
        self.stats.decided(clock::instant() - read, count);
        if let Some(arrival) = batch.iter().filter_map(|(change, _)| change.arrival).max() {
            self.stats.lag(source, arrival, clock::now());
        }
        Ok(())
    }

    /// Says that a stream was cleared: a person should know why its features begin anew.
    fn tell_truncation(&self, source: &str, batch: &ChangeBatch) {
        let is_applied = self.pipeline.output().outcomes.first() == Some(&Outcome::Applied);
        if batch.get(0).0.op == Op::Truncate && is_applied {
            let (stream, position) = (&batch.stream().name, batch.get(0).0.position);
            tracing::warn!(source, %stream, position, "the table was truncated; its rows and states are forgotten");
        }
    }

    /// Judges and stores what a batch brought; how many decisions there are.
    async fn judge(&mut self, met: &Met<'_>) -> anyhow::Result<usize> {
        let &Met { source, batch, decided, seen, applied } = met;
        let Some(judge) = self.judging.judge_of(batch.stream().index).cloned() else { return Ok(0) };
        loop {
            let mut settled = Settled::default();
            let mut decided = decided.to_vec();
            for (change, record) in self.told(batch, &decided) {
                decided.push(change);
                settled.told.push(as_told(&judge, record)?);
            }
            decided.sort_unstable();
            let circumstances = Circumstances { source, seen, now: clock::now(), request: None, decided: &decided };
            settled.judged = self.judging.judge(batch, self.pipeline.output(), &circumstances)?;
            if let Some(count) = self.store(settled, applied).await? {
                return Ok(count);
            }
        }
    }

    /// Records that cannot be judged for want of a row get the policy's default all the same.
    async fn decide_unread(&mut self, unread: &Unread<'_>) -> anyhow::Result<()> {
        if let Some(rows) = unread.rows() {
            self.apply(rows, Evaluate::Nothing).await?;
        }
        let Some(judge) = self.judging.judge_of(unread.stream).cloned() else { return Ok(()) };
        let letters = unread.judged(self.pipeline.engine().plan(), self.pipeline.output());
        loop {
            let mut settled = Settled::default();
            for letter in &letters {
                let judged = undecodable(&judge, letter, clock::now())?;
                match self.promises.told(judged.record.decision_id) {
                    Some(record) => settled.told.push(as_told(&judge, record)?),
                    None => settled.judged.push(judged),
                }
            }
            if self.store(settled, Applied::InPart).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// The changes of `batch` whose decision is stored since before a crash, as places in it. Empty once the source is past its replay.
    async fn decided_before(&mut self, source: &Arc<str>, batch: &ChangeBatch) -> anyhow::Result<Vec<usize>> {
        let stream = batch.stream();
        let lane = (Arc::clone(source), stream.index);
        // Recovered rows come in another order with every attempt, and may be those that came as changes before a crash.
        let is_recovered = batch.iter().any(|(change, _)| change.op == Op::Recovered);
        let is_past = self.past_replay.contains(&lane) && self.remembers_requests(stream) && !is_recovered;
        if stream.judge.is_none() || is_past {
            return Ok(Vec::new());
        }
        let judged: Vec<(usize, Uuid)> = self.to_judge(batch).collect();
        let query = Query { decisions: judged.iter().map(|(_, id)| *id).collect(), ..Query::default() };
        let told = "the store does not answer; intake waits";
        let stored = patiently(&self.stop, told, async || self.store.fetch(&query).await).await?.decisions;
        if stored.iter().any(Option::is_none) && !is_recovered {
            self.past_replay.insert(lane);
        }
        Ok(judged.iter().zip(&stored).filter(|(_, stored)| stored.is_some()).map(|((change, _), _)| *change).collect())
    }

    /// What callers were told under the ids of changes in `batch`, with their places in it.
    fn told(&self, batch: &ChangeBatch, decided: &[usize]) -> Vec<(usize, DecisionRecord)> {
        if self.promises.is_empty() {
            return Vec::new();
        }
        let open = self.to_judge(batch).filter(|(change, _)| !decided.contains(change));
        open.filter_map(|(change, id)| Some((change, self.promises.told(id)?))).collect()
    }

    /// Places in `batch` of what is to be judged, and the ids of the decisions.
    fn to_judge<'a>(&'a self, batch: &'a ChangeBatch) -> impl Iterator<Item = (usize, Uuid)> + 'a {
        self.pipeline.output().judgements.iter().enumerate().filter_map(|(change, judgement)| {
            let event = batch.row(change).event_id().unwrap_or_default();
            judgement.map(|n| (change, decision_id(&self.namespace, &batch.stream().name, &event, n)))
        })
    }

    /// Whether a row record tells that a row was decided when it was requested. Where none does, only the stored decision tells, and the
    /// list entries of a second judgement must not bind the events behind it.
    fn remembers_requests(&self, stream: &Stream) -> bool {
        let keeps_records = self.pipeline.engine().plan().streams[stream.index].keeps_records;
        keeps_records && stream.on_unmatched != OnUnmatched::Drop
    }

    /// Stores decisions; how many. `None` when a caller was told a default instead of one of them while they were made: nothing is stored,
    /// the lists are as before, and they are to be made again around what he was told.
    async fn store(&mut self, Settled { judged, told }: Settled, applied: Applied) -> anyhow::Result<Option<usize>> {
        let already_told = told.len();
        let all = judged.into_iter().chain(told).map(|Judged { record, claim }| (record, claim));
        let (records, claims): (Vec<DecisionRecord>, Vec<Claim>) = all.unzip();
        if records.is_empty() {
            return Ok(Some(0));
        }
        let records = Arc::new(records);
        let promises = Arc::clone(&self.promises);
        let Some(_until_stored) = promises.announce(&records, already_told) else {
            let entries = claims.into_iter().flat_map(|claim| claim.lists);
            let blocked: Vec<EntityRef> = entries.map(|entry| entry.entity).collect();
            self.restore_lists(&blocked).await?;
            return Ok(None);
        };
        let committed = self.commit_decisions(Commit { claims, ..Commit::default() }, applied).await?;
        for (record, outcome) in records.iter().zip(&committed.claims) {
            self.settle_claim(record, outcome).await?;
        }
        Ok(Some(records.len()))
    }
}

/// What a caller was told, as it is to be stored.
fn as_told(judge: &Judge, record: DecisionRecord) -> anyhow::Result<Judged> {
    let claim = judge.claim(&record)?;
    Ok(Judged { record, claim })
}
