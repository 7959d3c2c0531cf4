//! The engine's thread: one micro-batch at a time, from changes to stored decisions.
//!
//! Order of every micro-batch: apply and read, judge, store the decisions with their effects, answer. States, row records and offsets
//! leave in one commit: with the decisions where few changes are unstored, else at the latest after the checkpoint interval.
//!
//! Invariants:
//! - A decision is answered as stored only after its claim was committed; one that acts is on disk by then.
//! - Offsets move only together with the states of everything up to them, and after their dead letters are on disk.
//! - A crash between a decision and its checkpoint replays the event; the stored decision is found and holds. It is not judged
//!   anew: the lists know more by then than they did when it was.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, EntityRef, ListKind};
use interdict_features::engine::Evaluate;
use interdict_ingest::pipeline::Pipeline;
use interdict_ingest::source::Delivery;
use interdict_ingest::source::stop::Stop;
use interdict_store::port::{ClaimOutcome, Commit, Committed, Durability, ListWrite, LogName, Offset, Query, Store};
use tokio::sync::{Notify, mpsc, oneshot};

use super::archiving::Archives;
use super::charge::Charge;
use super::clock;
use super::commands::Command;
use super::input_log::{self, Entry};
use super::judging::Judging;
use super::letters::{self, Letters};
use super::patience::{RETRY, patiently};
use super::promises::Promises;
use super::reached::Reached;
use super::sources::{Confirms, JudgedSources, ToldToStop};
use super::stats::Stats;

/// How often sources that forget what was confirmed are told what is on disk: it costs a flush of the disk.
const CONFIRM: Duration = Duration::from_secs(1);

/// The shortest time between two checkpoints: what is idle for a moment is not yet at rest.
const IDLE_CHECKPOINT: Duration = Duration::from_millis(10);

/// The most changes one checkpoint leaves behind: while it is written nothing is decided.
const CHECKPOINT_CHANGES: usize = 16_384;

/// The most unstored changes that leave with the decisions on them. Few cost less in one commit than in two; of many, those of a later
/// micro-batch touch the same keys, which are then written once.
const CARRIED_CHANGES: usize = 512;

/// How often list entries that ended are removed. They bind nobody from the moment they end.
const LIST_SWEEP: Duration = Duration::from_secs(60);

/// What a source's reader hands over.
#[derive(Debug)]
pub(crate) enum Intake {
    /// Records to be applied.
    Delivery {
        source: Arc<str>,
        delivery: Delivery,
        /// When it was read.
        read: Instant,
    },
    /// A source knows its identity and asks after which positions it goes on.
    Attach {
        source: Arc<str>,
        incarnation: Option<String>,
        /// Those that are read here.
        #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only over a Redis are sources shared"))]
        partitions: Vec<u32>,
        /// Those of them that another process may still believe to read.
        #[cfg_attr(not(feature = "redis"), expect(dead_code, reason = "only over a Redis are sources shared"))]
        new: Vec<u32>,
        reply: oneshot::Sender<anyhow::Result<Vec<Offset>>>,
    },
    /// Partitions are to be read elsewhere: what was taken of them is to be stored first.
    Release { source: Arc<str>, partitions: Vec<u32>, reply: oneshot::Sender<()> },
    /// The source has ended.
    Ended,
    /// The source failed for good.
    Failed(anyhow::Error),
}

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// Every source is at its end.
    Sources,
    /// It was told to.
    Stopped,
}

/// What is applied when decisions are committed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Applied {
    /// Everything up to the positions that were noted, and nothing else: it may be stored.
    WithPosition,
    /// Part of a delivery, whose position is noted with its end.
    InPart,
}

/// A commit under way that stores everything applied.
struct Checkpoint {
    start: Instant,
    confirms: bool,
}

/// The engine's thread.
#[derive(Debug)]
pub(crate) struct Core<S> {
    pub(crate) namespace: String,
    pub(crate) pipeline: Pipeline<S>,
    pub(crate) judging: Judging,
    pub(crate) store: Arc<S>,
    pub(crate) letters: Letters,
    pub(crate) stats: Arc<Stats>,
    /// Notified when the outbox has new entries.
    pub(crate) outbox: Arc<Notify>,
    /// Notified when the decision log has new entries.
    pub(crate) logged: Arc<Notify>,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) last_checkpoint: Instant,
    /// Position of the next entry of the input log.
    pub(crate) next_input: u64,
    pub(crate) judged_sources: JudgedSources,
    /// Sources that forget what was confirmed.
    pub(crate) confirms: Confirms,
    /// What every source delivers, in Parquet.
    pub(crate) archives: Archives,
    /// Nothing was stored since the sources were last told what is on disk.
    pub(crate) is_confirmed: bool,
    /// When they were.
    pub(crate) last_confirm: Instant,
    /// Source and stream of which a judged event without stored decision was met: nothing behind it is a replay.
    pub(crate) past_replay: HashSet<(Arc<str>, usize)>,
    /// What callers of open requests were told.
    pub(crate) promises: Arc<Promises>,
    /// Told when the process is to end.
    pub(crate) stop: Stop,
    /// When ended list entries were last removed.
    pub(crate) last_list_sweep: Instant,
    /// Whether other processes may be at work on the store.
    pub(crate) charge: Charge,
    /// Which databases were reached.
    pub(crate) reached: Reached,
    /// Sources that are taken up once a slot is held.
    pub(crate) attaching: Vec<Intake>,
}

/// Answers a source that is not to begin any more: charge of the store, which may come with it, stays where it is.
fn turn_away(given: Intake) {
    if let Intake::Attach { reply, .. } = given {
        let _reader_stopped = reply.send(Err(ToldToStop.into()));
    }
}

impl<S: Store> Core<S> {
    /// Works until every source has ended (when `ends_with_sources`) or both channels are closed, then makes a last checkpoint. `begun` is
    /// called once it works, or waits for a slot.
    pub(crate) async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut intake: mpsc::Receiver<Intake>,
        mut open_sources: usize,
        ends_with_sources: bool,
        begun: impl FnOnce(),
    ) -> anyhow::Result<End> {
        if self.charge.is_sole() {
            self.replay_input().await?;
        } else if !self.reached.awaits_slot() {
            self.catch_up().await?;
        }
        begun();
        let end = loop {
            if self.stop.is_stopped() {
                // Their readers wait for an answer before they end.
                self.attaching.drain(..).for_each(turn_away);
            }
            if ends_with_sources && open_sources == 0 && commands.is_empty() {
                break End::Sources;
            }
            let due = self.last_checkpoint + self.checkpoint_interval;
            let due_idle = self.last_checkpoint + self.checkpoint_interval.min(IDLE_CHECKPOINT);
            let due_confirm = self.last_confirm + CONFIRM;
            let is_ending = commands.is_closed() && intake.is_closed();
            let is_held = self.hold().await?;
            if is_held && self.stop.is_stopped() && commands.is_closed() && commands.is_empty() {
                break End::Stopped;
            }
            let due_sweep = self.last_list_sweep + RETRY;
            tokio::select! {
                biased;
                Some(command) = commands.recv() => {
                    self.take_commands(command, &mut commands).await?;
                    // However many callers there are, the sources get their turn.
                    if !self.judging.lists.is_full() && let Ok(given) = intake.try_recv() {
                        open_sources -= self.take_intake(given).await?;
                    }
                }
                Some(given) = intake.recv(), if !is_held => open_sources -= self.take_intake(given).await?,
                () = tokio::time::sleep_until(due_idle.into()), if self.pipeline.is_ahead() => self.checkpoint().await?,
                // At the end nobody waits for a confirmation: what was not confirmed is read again.
                () = tokio::time::sleep_until(due_confirm.into()), if !self.is_confirmed && !is_ending => self.checkpoint().await?,
                () = tokio::time::sleep_until(due_sweep.into()), if is_held => {}
                else => break End::Stopped,
            }
            // While there is work it goes first, up to a bound on the time and on the size of what is left behind.
            let is_large = self.pipeline.unstored() >= CHECKPOINT_CHANGES || self.pipeline.is_full();
            let is_due = clock::instant() >= due || is_large;
            if self.pipeline.is_ahead() && is_due {
                self.checkpoint().await?;
            }
        };
        self.checkpoint().await?;
        Ok(end)
    }

    /// Whether the lists are full, once what has ended is removed: what is not decided then could block somebody whom memory cannot hold.
    /// Sources wait, requests that are not decided yet are turned away, and entries can be removed.
    async fn hold(&mut self) -> anyhow::Result<bool> {
        if self.charge.is_open() {
            // Until charge is taken another process keeps the lists.
            return Ok(false);
        }
        if self.judging.lists.is_full() && clock::instant() >= self.last_list_sweep + RETRY {
            self.last_list_sweep = clock::instant();
            let lists = self.judging.lists.expire(clock::now());
            if !lists.is_empty() {
                self.commit(Commit { lists, ..Commit::default() }).await?;
            }
        }
        let (was_held, is_held) = (self.stats.has_full_lists(), self.judging.lists.is_full());
        self.stats.lists(&self.judging.lists);
        if is_held && !was_held {
            tracing::error!(error = %self.judging.lists.full(), "the lists are full; intake waits");
        } else if was_held && !is_held {
            tracing::info!(entries = self.judging.lists.len(), "the lists have room again; intake goes on");
        }
        Ok(is_held)
    }

    /// Applies what the input log holds beyond the stored states.
    pub(super) async fn replay_input(&mut self) -> anyhow::Result<()> {
        let told = "the store does not answer; what it holds of requests and labels is read later";
        let attach = async || self.pipeline.attach(input_log::SOURCE, Some("input-log")).await;
        let stored = patiently(&self.stop, told, attach).await?;
        let mut position = position_of(&stored, 0).map_or(0, |applied| applied + 1);
        loop {
            let read = async || self.store.read_log(LogName::INPUT, position, 1_000).await;
            let entries = patiently(&self.stop, told, read).await?;
            if entries.is_empty() {
                break;
            }
            for (at, bytes) in entries {
                let entry: Entry = serde_json::from_slice(&bytes).context("the input log")?;
                // What a scorer wrote it applied in the same commit.
                if !entry.is_applied() {
                    let batch = entry.to_batch(self.pipeline.definitions(), at)?;
                    // Its decision was stored with it; here it only builds state.
                    self.apply(&batch, Evaluate::Nothing).await?;
                }
                self.pipeline.advance(input_log::SOURCE, 0, at);
                position = at + 1;
            }
            self.checkpoint().await?;
        }
        // Entries at the end may have been trimmed.
        let end = patiently(&self.stop, told, async || self.store.log_next(LogName::INPUT).await).await?;
        self.next_input = position.max(end);
        Ok(())
    }

    /// Tells a source's reader where it goes on.
    async fn attach(&mut self, given: Intake) -> anyhow::Result<()> {
        let Intake::Attach { source, incarnation, reply, .. } = given else { return Ok(()) };
        self.catch_up().await?;
        let positions = self.pipeline.attach(&source, incarnation.as_deref()).await;
        let _reader_stopped = reply.send(positions.map_err(Into::into));
        Ok(())
    }

    /// Takes what a source's reader gave; how many sources ended with it.
    async fn take_intake(&mut self, given: Intake) -> anyhow::Result<usize> {
        match given {
            Intake::Delivery { source, delivery, read } => {
                self.take(&source, delivery, read).await?;
                Ok(0)
            }
            Intake::Attach { .. } if self.stop.is_stopped() => {
                turn_away(given);
                Ok(0)
            }
            Intake::Attach { ref source, .. } if self.reached.awaits_slot() && !self.reached.is_database(source) => {
                self.attaching.push(given);
                Ok(0)
            }
            Intake::Attach { .. } => {
                let waiting = std::mem::take(&mut self.attaching);
                for given in std::iter::once(given).chain(waiting) {
                    self.attach(given).await?;
                }
                Ok(0)
            }
            Intake::Release { source, partitions, reply } => {
                self.store_all().await?;
                self.pipeline.let_go(&source, &partitions);
                let _reader_stopped = reply.send(());
                Ok(0)
            }
            Intake::Ended => Ok(1),
            Intake::Failed(error) => {
                self.checkpoint().await?;
                Err(error)
            }
        }
    }

    /// Commits claims; what acts is on disk when this returns.
    pub(super) async fn commit_decisions(&mut self, mut commit: Commit, applied: Applied) -> anyhow::Result<Committed> {
        let acts = commit.claims.iter().any(|claim| !claim.intents.is_empty() || !claim.lists.is_empty());
        let has_intents = commit.claims.iter().any(|claim| !claim.intents.is_empty());
        if acts {
            commit.durability = Durability::Power;
        }
        let carries = applied == Applied::WithPosition && self.pipeline.unstored() <= CARRIED_CHANGES;
        let checkpoint = if carries { Some(self.begin_checkpoint(&mut commit)?) } else { None };
        let committed = self.commit(commit).await?;
        if let Some(checkpoint) = checkpoint {
            self.end_checkpoint(checkpoint);
        }
        if has_intents {
            self.outbox.notify_one();
        }
        self.logged.notify_one();
        Ok(committed)
    }

    /// Counts a decision that was stored, or takes back what one did to the lists that came second.
    pub(super) async fn settle_claim(&mut self, record: &DecisionRecord, outcome: &ClaimOutcome) -> anyhow::Result<()> {
        match outcome {
            ClaimOutcome::Claimed { .. } => {
                self.stats.count_decision(record, clock::now());
                Ok(())
            }
            ClaimOutcome::Existing(_) => self.restore_lists(&record.entities).await,
        }
    }

    /// Makes the automatic blocks of `entities` in memory those of the store.
    pub(super) async fn restore_lists(&mut self, entities: &[EntityRef]) -> anyhow::Result<()> {
        let query = Query { lists: entities.to_vec(), ..Query::default() };
        let told = "the store does not answer; intake waits";
        let stored = patiently(&self.stop, told, async || self.store.fetch(&query).await).await?.lists;
        for (entity, entries) in entities.iter().zip(stored) {
            let automatic = entries.into_iter().find(|entry| entry.list == ListKind::AutomaticBlock);
            let list = ListKind::AutomaticBlock;
            let write = automatic.map_or_else(|| ListWrite::Remove { list, entity: entity.clone() }, ListWrite::Set);
            self.judging.lists.apply(write);
        }
        Ok(())
    }

    /// Applies a batch, again and again where the store fails for a while.
    pub(super) async fn apply(&mut self, batch: &ChangeBatch, evaluate: Evaluate) -> anyhow::Result<()> {
        let told = "the store does not answer; intake waits";
        patiently(&self.stop, told, async || self.pipeline.apply(batch, evaluate).await.map(drop)).await
    }

    /// Makes a commit, again and again where the store fails for a while: what it was filled with counts as written.
    pub(super) async fn commit(&self, commit: Commit) -> anyhow::Result<Committed> {
        let told = "the store does not take a commit; intake waits";
        self.charge.commit(&*self.store, &self.stop, told, commit).await
    }

    /// Writes states, row records and offsets.
    pub(crate) async fn checkpoint(&mut self) -> anyhow::Result<()> {
        if !self.pipeline.is_ahead() && (self.is_confirmed || !self.is_confirmation_due(clock::instant())) {
            self.last_checkpoint = clock::instant();
            return Ok(());
        }
        let mut commit = Commit::default();
        let checkpoint = self.begin_checkpoint(&mut commit)?;
        self.commit(commit).await?;
        self.end_checkpoint(checkpoint);
        Ok(())
    }

    /// Adds everything that is not stored to `commit`, which is to be made next.
    fn begin_checkpoint(&mut self, commit: &mut Commit) -> anyhow::Result<Checkpoint> {
        let start = clock::instant();
        let confirms = self.is_confirmation_due(start);
        if confirms {
            commit.durability = Durability::Power;
        }
        self.letters.flush()?;
        self.pipeline.fill(commit);
        self.letters.fill(commit);
        if start - self.last_list_sweep > LIST_SWEEP {
            self.last_list_sweep = start;
            commit.lists.extend(self.judging.lists.expire(clock::now()));
        }
        Ok(Checkpoint { start, confirms })
    }

    /// Notes that the commit of `checkpoint` went through.
    fn end_checkpoint(&mut self, Checkpoint { start, confirms }: Checkpoint) {
        self.last_checkpoint = start;
        self.pipeline.stored();
        self.archives.stored(|source| self.pipeline.stored_positions(source).next().map(|(_only, position)| position));
        if confirms {
            self.last_confirm = start;
            let stored = |source: &str| {
                let positions = self.pipeline.stored_positions(source);
                positions
                    .filter_map(|(at, position)| Some((at, self.archives.confirmable(source, position)?)))
                    .collect()
            };
            self.confirms.stored(start, stored);
        }
        let is_told = confirms && self.confirms.are_done() && !self.archives.are_behind();
        self.is_confirmed = self.confirms.is_empty() || is_told;
        let engine = self.pipeline.engine();
        self.stats.checkpoint(clock::instant() - start, engine.keys(), self.pipeline.memory_bytes());
    }

    fn is_confirmation_due(&self, now: Instant) -> bool {
        !self.confirms.is_empty() && now - self.last_confirm >= CONFIRM
    }

    /// Counts what was ignored and buries what state refused.
    pub(super) fn note_outcomes(&mut self, source: &str, batch: &ChangeBatch) -> anyhow::Result<()> {
        self.stats.count_late(self.pipeline.late());
        let output = self.pipeline.output();
        self.stats.count_outcomes(&output.outcomes);
        let letters = letters::refused(source, batch, output)?;
        self.letters.bury(&letters)
    }
}

/// Where a partition stands; `None` at its beginning.
pub(super) fn position_of(offsets: &[Offset], partition: u32) -> Option<u64> {
    offsets.iter().find(|offset| offset.partition == partition).map(|offset| offset.position)
}
