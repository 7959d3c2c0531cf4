//! The ingestor: applies streams to rows and states in Redis, beside others that do the same, and leaves what is to be judged to scorers.
//!
//! One micro-batch is one commit: rows, states, offsets and the work it makes. Where another process has written anything of it since it
//! was read, nothing is written, and it is applied again on what is there by then.
//!
//! Invariants:
//! - What the store holds is the outcome of the changes up to its offsets, of all of them and of no others, however many ingestors there are.
//! - Of a topic's partition nothing is stored but under charge of it, which whoever reads it later has taken.
//! - Every event that is to be judged leaves one piece of work, in the commit that moves the offset past it.
//! - A micro-batch of several deliveries that is too large for one commit is applied in parts, each with its own offsets.
//! - Dead letters are on disk before the offsets move past them, and in the log for sinks with the commit that moves them.

use std::sync::Arc;
use std::time::Instant;

use interdict_features::change::ChangeBatch;
use interdict_features::engine::{Evaluate, Outcome, Plan};
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::pipeline::Pipeline;
use interdict_ingest::source::Delivery;
use interdict_ingest::source::stop::Stop;
use interdict_store::error::{ONE_COMMIT, StoreError};
use interdict_store::port::{Commit, Durability, Offset, Query};
use tokio::sync::mpsc;

use super::super::clock;
use super::super::core::{End, Intake};
use super::super::judging::{Circumstances, case, places};
use super::super::letters::{self, Letters};
use super::super::patience::{self, patiently, wait_to_retry};
use super::super::sources::JudgedSources;
use super::super::stats::Stats;
use super::super::unread::{self, Step, Unread};
use super::charges::{self, Charges};
use super::confirming::Confirming;
use super::stats::FleetStats;
use super::tracked::Tracked;
use super::work::Work;

/// Records applied in one commit at most, if more wait: a delivery is never split.
pub(super) const RECORDS: u64 = 4_096;

/// One of several that apply streams.
pub(super) struct Ingestor {
    pub(super) plan: Arc<Plan>,
    pub(super) pipeline: Pipeline<Tracked>,
    pub(super) tracked: Arc<Tracked>,
    pub(super) letters: Letters,
    /// Whether sinks are to have what becomes a dead letter.
    pub(super) sinks_letters: bool,
    pub(super) stats: Arc<Stats>,
    pub(super) fleet: Arc<FleetStats>,
    pub(super) judged_sources: JudgedSources,
    pub(super) confirming: Confirming,
    pub(super) charges: Charges,
    pub(super) stop: Stop,
    /// As [`RECORDS`]; fewer for a while once the store found a commit of them too large.
    pub(super) records_max: u64,
}

/// What a source handed over, and when.
pub(super) struct Given {
    source: Arc<str>,
    delivery: Delivery,
}

/// What one application of a micro-batch came to.
#[derive(Default)]
struct Applied {
    commit: Commit,
    refused: Vec<DeadLetter>,
    outcomes: Vec<Outcome>,
    late: u64,
}

impl Ingestor {
    /// Works until every source has ended (when `ends_with_sources`) or was told to stop.
    pub(super) async fn run(
        &mut self,
        mut intake: mpsc::Receiver<Intake>,
        mut open_sources: usize,
        ends_with_sources: bool,
    ) -> anyhow::Result<End> {
        let mut waiting = None;
        loop {
            if ends_with_sources && open_sources == 0 {
                return Ok(End::Sources);
            }
            let given = match waiting.take() {
                Some(given) => Some(given),
                None => self.confirming.next(&mut intake).await,
            };
            match given {
                None if intake.is_closed() => return Ok(End::Stopped),
                None => self.confirm().await?,
                Some(Intake::Delivery { source, delivery, read }) => {
                    let mut batch = vec![Given { source, delivery }];
                    waiting = more(&mut batch, &mut intake, self.records_max);
                    self.take(&batch).await?;
                    self.fleet.applied(clock::instant() - read);
                }
                Some(Intake::Attach { source, incarnation, partitions, new, reply }) => {
                    let positions = self.attach(&source, incarnation.as_deref(), &new).await;
                    let positions = positions.map(|positions| self.keep(&source, &partitions, positions));
                    let _reader_stopped = reply.send(positions);
                }
                // Every delivery was stored when it was taken.
                Some(Intake::Release { source, partitions, reply }) => {
                    self.pipeline.let_go(&source, &partitions);
                    self.charges.let_go(&source, &partitions);
                    let _reader_stopped = reply.send(());
                }
                Some(Intake::Ended) => open_sources -= 1,
                Some(Intake::Failed(error)) => return Err(error),
            }
        }
    }

    /// Where a source goes on, once this process is in charge of its `new` partitions: their positions stand still from then on.
    async fn attach(
        &mut self,
        source: &Arc<str>,
        incarnation: Option<&str>,
        new: &[u32],
    ) -> anyhow::Result<Vec<Offset>> {
        self.charges.take(self.tracked.store(), &self.stop, source, new).await?;
        loop {
            match self.pipeline.attach(source, incarnation).await.map_err(anyhow::Error::from) {
                Err(error) if super::is_passing(&error) => {
                    tracing::error!(error = crate::told::told(&error), "the store does not answer; a source waits");
                    wait_to_retry(&self.stop)?;
                }
                positions => return positions,
            }
        }
    }

    /// Lets go of the partitions that others read: how far those are, the store knows better.
    fn keep(&mut self, source: &str, own: &[u32], mut positions: Vec<Offset>) -> Vec<Offset> {
        let others = positions.extract_if(.., |offset| !own.contains(&offset.partition));
        let others: Vec<u32> = others.map(|offset| offset.partition).collect();
        self.pipeline.let_go(source, &others);
        positions
    }

    /// Applies and stores what sources delivered, in as many commits as it takes.
    async fn take(&mut self, batch: &[Given]) -> anyhow::Result<()> {
        for given in batch {
            self.letters.keep(&given.delivery.dead)?;
        }
        let (mut rest, mut count) = (batch, batch.len());
        while !rest.is_empty() {
            let (part, behind) = rest.split_at(count.min(rest.len()));
            match self.take_together(part).await {
                Err(error) if is_too_large(&error) && part.len() > 1 => {
                    count = part.len() / 2;
                    self.records_max = (records(part) / 2).max(1);
                    tracing::warn!(
                        error = crate::told::told(&error),
                        records = self.records_max,
                        "what was taken at once is too large for one commit; it is stored in parts, and less is taken for a while"
                    );
                }
                Err(error) if is_too_large(&error) => {
                    return Err(error.context("one delivery touches more than one commit of the store takes: fewer groups for its entities make it smaller"));
                }
                taken => {
                    taken?;
                    rest = behind;
                    self.records_max = (self.records_max + self.records_max / 16 + 1).min(RECORDS);
                }
            }
        }
        Ok(())
    }

    /// Applies and stores deliveries in one commit.
    async fn take_together(&mut self, batch: &[Given]) -> anyhow::Result<()> {
        let start = clock::instant();
        let confirms = self.confirming.is_due(start);
        let applied = loop {
            let mut applied = match self.applied(batch).await {
                Err(error) if super::is_passing(&error) => {
                    tracing::error!(error = crate::told::told(&error), "the store does not answer; intake waits");
                    wait_to_retry(&self.stop)?;
                    continue;
                }
                applied => applied?,
            };
            applied.commit.durability = if confirms { Durability::Power } else { Durability::Process };
            self.letters.keep(&applied.refused)?;
            self.letters.flush()?;
            if self.commit(&applied.commit).await? {
                break applied;
            }
            self.fleet.count_conflict();
        };
        self.pipeline.stored();
        self.confirming
            .stored(|source| self.pipeline.stored_positions(source).next().map(|(_only, position)| position));
        self.pipeline.forget();
        self.note(batch, &applied, start);
        if confirms {
            self.tell_confirmed(start);
        }
        Ok(())
    }

    /// Counts what was stored: what was applied in vain before it counts for nothing.
    fn note(&self, batch: &[Given], applied: &Applied, start: Instant) {
        batch.iter().for_each(|given| self.letters.count(&given.delivery.dead));
        self.letters.count(&applied.refused);
        self.stats.count_events(records(batch));
        self.stats.count_outcomes(&applied.outcomes);
        self.stats.count_late(applied.late);
        for Given { source, delivery } in batch {
            let changes = delivery.batches.iter().flat_map(ChangeBatch::iter);
            if let Some(arrival) = changes.filter_map(|(change, _)| change.arrival).max() {
                self.stats.lag(source, arrival, clock::now());
            }
        }
        self.stats.checkpoint(clock::instant() - start, 0, self.pipeline.memory_bytes());
        self.fleet.left_work(applied.commit.work.len());
    }

    /// Applies a micro-batch to what the store holds now.
    async fn applied(&mut self, batch: &[Given]) -> anyhow::Result<Applied> {
        self.pipeline.rewind();
        self.tracked.begin();
        let plan = Arc::clone(&self.plan);
        let judged = &self.judged_sources;
        let steps = batch.iter().map(|given| unread::steps(&plan.definitions, judged, &given.source, &given.delivery));
        let steps: Vec<Vec<Step<'_>>> = steps.collect();
        let wanted = self.pipeline.wants(steps.iter().flatten().filter_map(Step::changes))?;
        self.read(&wanted).await?;
        let mut applied = Applied::default();
        for (Given { source, delivery }, steps) in batch.iter().zip(&steps) {
            if self.sinks_letters {
                applied.commit.appends.append(&mut letters::appends(&delivery.dead)?);
            }
            for step in steps {
                match step {
                    Step::Changes(changes) => self.apply(source, changes, &mut applied).await?,
                    Step::Unread(unread) => self.leave_unread(unread, &mut applied.commit).await?,
                }
            }
            self.pipeline.advance(source, delivery.partition, delivery.position);
        }
        self.pipeline.fill(&mut applied.commit);
        // The first to be looked at: what else does not fit follows from it.
        let taken = batch.iter().map(|given| (&given.source, given.delivery.partition));
        applied.commit.offsets.splice(..0, self.charges.of(taken));
        self.tracked.expect(&mut applied.commit);
        Ok(applied)
    }

    async fn apply(&mut self, source: &str, changes: &ChangeBatch, applied: &mut Applied) -> anyhow::Result<()> {
        self.pipeline.apply(changes, Evaluate::Judged).await?;
        let mut refused = letters::refused(source, changes, self.pipeline.output())?;
        if self.sinks_letters {
            applied.commit.appends.append(&mut letters::appends(&refused)?);
        }
        applied.refused.append(&mut refused);
        applied.outcomes.extend_from_slice(&self.pipeline.output().outcomes);
        applied.late += self.pipeline.late();
        self.leave_work(source, changes, &mut applied.commit)
    }

    /// Adds a piece of work for every record that became no change and is to be judged.
    async fn leave_unread(&mut self, unread: &Unread<'_>, commit: &mut Commit) -> anyhow::Result<()> {
        if let Some(rows) = unread.rows() {
            self.pipeline.apply(rows, Evaluate::Nothing).await?;
        }
        for letter in unread.judged(&self.plan, self.pipeline.output()) {
            let stream = self.plan.definitions.streams[unread.stream].name.clone();
            commit.work.push(Work::Undecodable { stream, letter: letter.clone() }.encode()?);
        }
        Ok(())
    }

    /// Reads what a micro-batch needs, again and again where the store fails for a while.
    async fn read(&self, wanted: &Query) -> anyhow::Result<()> {
        let told = "the store does not answer; intake waits";
        patiently(&self.stop, told, async || self.tracked.prefetch(wanted).await.map(drop)).await
    }

    /// Adds a piece of work for every event of `changes` that is to be judged.
    fn leave_work(&self, source: &str, changes: &ChangeBatch, commit: &mut Commit) -> anyhow::Result<()> {
        if changes.stream().judge.is_none() {
            return Ok(());
        }
        let output = self.pipeline.output();
        let changes = output.judged(changes);
        let seen = super::seen(self.tracked.positions(), self.pipeline.seen());
        let circumstances = Circumstances { source, seen: &seen, now: clock::now(), request: None, decided: &[] };
        for change in places(&self.plan, changes, output, &[]) {
            let case = case(&self.plan, changes, output, &circumstances, change);
            commit.work.push(Work::of_case(changes, case).encode()?);
        }
        Ok(())
    }

    /// Makes a commit; false when another process has written what it rests on.
    async fn commit(&self, commit: &Commit) -> anyhow::Result<bool> {
        let told = "the store does not take a commit; intake waits";
        let committed = patience::commit(self.tracked.store(), &self.stop, told, commit).await;
        Ok(committed.map_err(charges::told)?.is_some())
    }

    /// Tells sources what is stored when nothing else does.
    async fn confirm(&mut self) -> anyhow::Result<()> {
        let now = clock::instant();
        if !self.confirming.is_owed(now) {
            return Ok(());
        }
        // Only if the store still holds what it held: one that went back must not have what it lost confirmed.
        let mut offsets = self.charges.all();
        offsets.append(&mut self.pipeline.held());
        let commit = Commit { durability: Durability::Power, offsets, ..Commit::default() };
        if self.commit(&commit).await? {
            self.tell_confirmed(now);
        }
        Ok(())
    }

    fn tell_confirmed(&mut self, now: Instant) {
        self.confirming.tell(now, |source| self.pipeline.stored_positions(source).collect());
    }
}

fn records(batch: &[Given]) -> u64 {
    batch.iter().map(|given| given.delivery.records).sum()
}

/// Whether the store refuses a commit for its size.
fn is_too_large(error: &anyhow::Error) -> bool {
    let refusal = error.downcast_ref();
    matches!(refusal, Some(StoreError::TooLarge { what, .. } | StoreError::Invalid { what, .. }) if *what == ONE_COMMIT)
}

/// Takes what else was delivered, as far as one commit takes it: `records_max`; what comes next if it is no delivery, or one too many.
fn more(batch: &mut Vec<Given>, intake: &mut mpsc::Receiver<Intake>, records_max: u64) -> Option<Intake> {
    let mut records = records(batch);
    loop {
        match intake.try_recv().ok()? {
            Intake::Delivery { source, delivery, .. } if records + delivery.records <= records_max => {
                records += delivery.records;
                batch.push(Given { source, delivery });
            }
            other => return Some(other),
        }
    }
}
