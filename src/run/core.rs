//! The engine's thread: one micro-batch at a time, from changes to stored decisions.
//!
//! Order of every micro-batch: apply and read, judge, store the decisions with their effects, answer; then, at the latest
//! after the checkpoint interval and at once when nothing waits, states, row records and offsets in one commit.
//!
//! Invariants:
//! - A decision is answered as stored only after its claim was committed; one that acts is on disk by then.
//! - Offsets move only together with the states of everything up to them, and after their dead letters are on disk.
//! - A crash between a decision and its checkpoint replays the event; the stored decision is found and holds, and the lists stay as the
//!   store has them.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, decision_id};
use interdict_features::engine::{Evaluate, Outcome, Refused};
use interdict_features::state::AsOf;
use interdict_ingest::dead_letter::file::DeadLetterFile;
use interdict_ingest::dead_letter::{DeadLetter, DeadReason};
use interdict_ingest::pipeline::Pipeline;
use interdict_ingest::source::Delivery;
use interdict_scorer::http::backend::{
    Accepted, Answer, BackendError, BlockRemove, BlockSet, DecideRequest, Label, LabelRequest, Removal,
};
use interdict_store::error::Class;
use interdict_store::port::{
    Append, ClaimOutcome, Commit, Committed, Durability, ListWrite, LogName, Note, OffsetMove, Query, RowKey, RowWrite, Store,
};
use tokio::sync::{Notify, mpsc};

use super::clock;
use super::commands::{Command, KeyAnswer, KeyRead, Reply, Slot};
use super::input_log::{self, Entry};
use super::judging::{Circumstances, Judged, Judging, RequestFacts};
use super::stats::Stats;

/// Commands worked off between two looks at the sources.
const COMMANDS_MAX: usize = 64;
/// How long a key of an idempotent request is remembered.
const IDEMPOTENCY: interdict_features::time::Span = interdict_features::time::Span::DAY;
/// How long to wait before a commit that failed for a while is made again.
const RETRY: Duration = Duration::from_millis(500);
/// Row records of this name hold idempotency keys.
const IDEMPOTENCY_STREAM: &str = "http:idempotency";

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

/// The engine's thread.
#[derive(Debug)]
pub(crate) struct Core<S> {
    pub(crate) namespace: String,
    pub(crate) pipeline: Pipeline<S>,
    pub(crate) judging: Judging,
    pub(crate) store: Arc<S>,
    pub(crate) dead: DeadLetterFile,
    pub(crate) stats: Arc<Stats>,
    /// Notified when the outbox has new entries.
    pub(crate) outbox: Arc<Notify>,
    /// Notified when the decision log has new entries.
    pub(crate) logged: Arc<Notify>,
    pub(crate) checkpoint_interval: Duration,
    pub(crate) last_checkpoint: Instant,
    /// Position of the next entry of the input log.
    pub(crate) next_input: u64,
    /// Dead letters were written since the file was flushed.
    pub(crate) has_unflushed_letters: bool,
    /// Per source that can be taken up again: up to which position its decisions are stored.
    pub(crate) horizons: HashMap<Arc<str>, Option<u64>>,
}

/// A request on its way to an answer.
struct Pending {
    slot: Arc<Slot>,
    reply: Reply<Answer>,
    record: DecisionRecord,
    /// Its claim's place in the commit; `None` when the decision was stored before.
    claim: Option<usize>,
    start: Instant,
}

impl<S: Store> Core<S> {
    /// Takes up a source where the store left it; see [`Pipeline::attach`].
    pub(crate) async fn attach(&mut self, source: &str, incarnation: Option<&str>) -> anyhow::Result<Option<u64>> {
        let position = self.pipeline.attach(source, incarnation).await?;
        if let Some(incarnation) = incarnation {
            let decided = self.store.offsets(&decided_source(source), incarnation).await?;
            self.horizons.insert(Arc::from(source), decided.first().map(|offset| offset.position));
        }
        Ok(position)
    }

    /// Works until every source has ended (when `ends_with_sources`) or both channels are closed, then makes a last checkpoint.
    pub(crate) async fn run(
        &mut self,
        mut commands: mpsc::Receiver<Command>,
        mut intake: mpsc::Receiver<Intake>,
        mut open_sources: usize,
        ends_with_sources: bool,
    ) -> anyhow::Result<End> {
        self.replay_input().await?;
        let end = loop {
            if ends_with_sources && open_sources == 0 && commands.is_empty() {
                break End::Sources;
            }
            let due = self.last_checkpoint + self.checkpoint_interval;
            tokio::select! {
                biased;
                Some(command) = commands.recv() => self.take_commands(command, &mut commands).await?,
                Some(given) = intake.recv() => match given {
                    Intake::Delivery { source, delivery, read } => self.take(&source, delivery, read).await?,
                    Intake::Ended => open_sources -= 1,
                    Intake::Failed(error) => {
                        self.checkpoint().await?;
                        return Err(error);
                    }
                },
                () = tokio::time::sleep_until(due.into()), if self.pipeline.is_ahead() => self.checkpoint().await?,
                else => break End::Stopped,
            }
            let is_idle = commands.is_empty() && intake.is_empty();
            if self.pipeline.is_ahead() && (is_idle || clock::instant() >= due) {
                self.checkpoint().await?;
            }
        };
        self.checkpoint().await?;
        Ok(end)
    }

    /// Applies what the input log holds beyond the stored states.
    async fn replay_input(&mut self) -> anyhow::Result<()> {
        let from = self.pipeline.attach(input_log::SOURCE, Some("input-log")).await?;
        let mut position = from.map_or(0, |applied| applied + 1);
        loop {
            let entries = self.store.read_log(LogName::INPUT, position, 1_000).await?;
            if entries.is_empty() {
                break;
            }
            for (at, bytes) in entries {
                let entry: Entry = serde_json::from_slice(&bytes).context("the input log")?;
                let batch = entry.to_batch(self.pipeline.definitions(), at)?;
                // Its decision was stored with it; here it only builds state.
                self.pipeline.apply(&batch, Evaluate::Nothing).await?;
                self.pipeline.advance(input_log::SOURCE, 0, at);
                position = at + 1;
            }
        }
        self.next_input = position;
        Ok(())
    }

    /// Applies and judges what a source delivered.
    pub(crate) async fn take(&mut self, source: &Arc<str>, delivery: Delivery, read: Instant) -> anyhow::Result<()> {
        self.bury(&delivery.dead)?;
        for batch in &delivery.batches {
            self.pipeline.apply(batch, Evaluate::Judged).await?;
            self.note_outcomes(source, batch)?;
            let decided = self.decided_before(source, batch).await?;
            let seen = self.pipeline.seen();
            let circumstances =
                Circumstances { source, seen: &seen, now: clock::now(), request: None, decided: &decided };
            let judged = self.judging.judge(batch, self.pipeline.output(), &circumstances)?;
            if !judged.is_empty() {
                let count = judged.len();
                let last = batch.get(batch.len() - 1).0.position;
                self.store_decisions(source, last, judged).await?;
                self.stats.decided(clock::instant() - read, count);
            }
        }
        self.stats.count_events(delivery.records);
        self.pipeline.advance(source, 0, delivery.position);
        Ok(())
    }

    /// Which changes of `batch` were decided before a crash: only where the source is read again up to where decisions were stored.
    /// Their list entries are what the store says now: one that was removed since stays removed.
    async fn decided_before(&mut self, source: &Arc<str>, batch: &ChangeBatch) -> anyhow::Result<HashSet<usize>> {
        let mut decided = HashSet::new();
        let horizon = self.horizons.get(source).copied().flatten();
        let output = self.pipeline.output();
        let mut asked = Vec::new();
        for (index, judgement) in output.judgements.iter().enumerate() {
            let (change, row) = batch.get(index);
            if let (Some(judgement), Some(event_id)) = (judgement, row.event_id())
                && horizon.is_some_and(|horizon| change.position <= horizon)
            {
                asked.push((index, decision_id(&self.namespace, &batch.stream().name, &event_id, *judgement)));
            }
        }
        if asked.is_empty() {
            return Ok(decided);
        }
        let query = Query { decisions: asked.iter().map(|(_, id)| *id).collect(), ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        let stored = asked.iter().zip(&fetched.decisions).filter(|(_, record)| record.is_some());
        decided.extend(stored.map(|((index, _), _)| *index));
        Ok(decided)
    }

    async fn store_decisions(&mut self, source: &Arc<str>, last: u64, judged: Vec<Judged>) -> anyhow::Result<()> {
        let mut commit = Commit::default();
        if let Some(horizon) = self.horizons.get_mut(source)
            && horizon.is_none_or(|horizon| last > horizon)
        {
            let moved = OffsetMove { source: decided_source(source), partition: 0, from: *horizon, to: last };
            *horizon = Some(last);
            commit.offsets.push(moved);
        }
        let mut records = Vec::with_capacity(judged.len());
        for judged in judged {
            commit.claims.push(judged.claim);
            records.push(judged.record);
        }
        let committed = self.commit_decisions(commit).await?;
        for (record, outcome) in records.iter().zip(&committed.claims) {
            self.settle_claim(record, outcome).await?;
        }
        Ok(())
    }

    /// Commits claims; what acts is on disk when this returns.
    async fn commit_decisions(&mut self, mut commit: Commit) -> anyhow::Result<Committed> {
        let acts = commit.claims.iter().any(|claim| !claim.intents.is_empty() || !claim.lists.is_empty());
        let has_intents = commit.claims.iter().any(|claim| !claim.intents.is_empty());
        commit.durability = if acts { Durability::Power } else { Durability::Process };
        let committed = self.commit(commit).await?;
        if has_intents {
            self.outbox.notify_one();
        }
        self.logged.notify_one();
        Ok(committed)
    }

    /// Counts a decision that was stored, or takes back what one did that came second: its entities' entries are what the store says.
    async fn settle_claim(&mut self, record: &DecisionRecord, outcome: &ClaimOutcome) -> anyhow::Result<()> {
        if let ClaimOutcome::Claimed { .. } = outcome {
            self.stats.count_decision(record);
            return Ok(());
        }
        if record.actions.is_empty() {
            return Ok(());
        }
        let targets = record.actions.iter().map(|intent| intent.target.clone()).collect();
        let query = Query { lists: targets, ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        for (entity, entries) in query.lists.iter().zip(fetched.lists) {
            self.judging.lists.withdraw(entity, record.decision_id);
            for entry in entries {
                self.judging.lists.set(entry)?;
            }
        }
        Ok(())
    }

    /// Makes a commit, again and again where the store fails for a while: what it was filled with counts as written.
    async fn commit(&self, commit: Commit) -> anyhow::Result<Committed> {
        loop {
            match self.store.commit(commit.clone()).await {
                Ok(committed) => return Ok(committed),
                Err(error) if error.class() == Class::Transient => {
                    tracing::error!(%error, "the store does not take a commit; intake waits");
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Writes states, row records and offsets.
    pub(crate) async fn checkpoint(&mut self) -> anyhow::Result<()> {
        let start = clock::instant();
        self.last_checkpoint = start;
        if !self.pipeline.is_ahead() {
            return Ok(());
        }
        if self.has_unflushed_letters {
            self.dead.flush()?;
            self.has_unflushed_letters = false;
        }
        let mut commit = Commit::default();
        self.pipeline.fill(&mut commit);
        self.commit(commit).await?;
        self.pipeline.stored();
        let engine = self.pipeline.engine();
        self.stats.checkpoint(clock::instant() - start, engine.keys(), engine.memory_bytes());
        Ok(())
    }

    /// Counts what was ignored and buries what state refused.
    fn note_outcomes(&mut self, source: &str, batch: &ChangeBatch) -> anyhow::Result<()> {
        let mut letters = Vec::new();
        for (index, outcome) in self.pipeline.output().outcomes.iter().enumerate() {
            match outcome {
                Outcome::Applied => {}
                Outcome::Ignored(reason) => self.stats.count_ignored(reason),
                Outcome::Refused(refused) => letters.push(letter(source, batch, index, *refused)),
                Outcome::Truncated => anyhow::bail!(
                    "the table of stream '{}' was truncated at position {} of {source}; set on_truncate = \"ignore\" to go on, or fill a new namespace",
                    batch.stream().name,
                    batch.get(index).0.position
                ),
            }
        }
        self.bury(&letters)
    }

    fn bury(&mut self, letters: &[DeadLetter]) -> anyhow::Result<()> {
        if letters.is_empty() {
            return Ok(());
        }
        self.dead.write(letters)?;
        self.has_unflushed_letters = true;
        for letter in letters {
            self.stats.count_dead(letter.reason.code(), 1);
            tracing::debug!(position = letter.position, reason = letter.reason.code(), "dead letter");
        }
        Ok(())
    }

    /// Works off one command and those that wait behind it: one commit for all decisions among them.
    async fn take_commands(&mut self, first: Command, commands: &mut mpsc::Receiver<Command>) -> anyhow::Result<()> {
        let mut commit = Commit::default();
        let mut pending = Vec::new();
        let mut next = Some(first);
        for _ in 0..COMMANDS_MAX {
            let Some(command) = next.take().or_else(|| commands.try_recv().ok()) else { break };
            match command {
                Command::Decide { request, slot, reply } => self.decide(*request, slot, reply, &mut commit, &mut pending).await?,
                Command::Read { read, reply } => {
                    let answer = self.read(&read).await?;
                    let _caller_left = reply.send(Ok(answer));
                }
                Command::Label { request, reply } => {
                    let accepted = self.label(*request).await?;
                    let _caller_left = reply.send(accepted);
                }
                Command::SetBlock { set, reply } => {
                    let done = self.set_block(*set).await?;
                    let _caller_left = reply.send(done);
                }
                Command::RemoveBlock { remove, reply } => {
                    let done = self.remove_block(*remove).await?;
                    let _caller_left = reply.send(done);
                }
            }
        }
        self.answer(commit, pending).await
    }

    async fn decide(
        &mut self,
        request: DecideRequest,
        slot: Arc<Slot>,
        reply: Reply<Answer>,
        commit: &mut Commit,
        pending: &mut Vec<Pending>,
    ) -> anyhow::Result<()> {
        if let Some(refused) = self.check_idempotency(&request, commit).await? {
            let _caller_left = reply.send(Err(refused));
            return Ok(());
        }
        let position = self.next_input;
        let mut batch = ChangeBatch::new(Arc::clone(request.batch.stream()), 0);
        batch.push_row(request.batch.row(0), input_log::request_change(request.budget.received, position));
        self.pipeline.apply(&batch, Evaluate::Judged).await?;
        self.note_outcomes(input_log::SOURCE, &batch)?;
        let seen = self.pipeline.seen();
        let now = clock::instant();
        let deadline = request.budget.deadline.into_std();
        let start = request.budget.start.into_std();
        let left = i64::try_from(deadline.saturating_duration_since(now).as_micros()).unwrap_or(i64::MAX);
        let over = i64::try_from(now.saturating_duration_since(deadline).as_micros()).unwrap_or(i64::MAX);
        let facts = RequestFacts {
            idempotency_key: request.idempotency_key.as_deref(),
            deadline_micros: u64::try_from((deadline - start).as_micros()).unwrap_or(u64::MAX),
            left_micros: left - over,
        };
        let decided = HashSet::new();
        let circumstances = Circumstances {
            source: input_log::SOURCE,
            seen: &seen,
            now: clock::now(),
            request: Some(facts),
            decided: &decided,
        };
        let judged = self.judging.judge(&batch, self.pipeline.output(), &circumstances)?;
        let Some(judged) = judged.into_iter().next() else {
            return self.replay_decision(&request, reply).await;
        };
        let record = slot.settle(judged.record);
        let claim = match self.judging.judge_of(batch.stream().index) {
            Some(judge) => judge.claim(&record)?,
            None => judged.claim,
        };
        commit.claims.push(claim);
        commit.appends.push(append(LogName::INPUT, &Entry::of_request(&request.batch, request.budget.received))?);
        self.next_input += 1;
        self.pipeline.advance(input_log::SOURCE, 0, position);
        self.stats.count_events(1);
        pending.push(Pending { slot, reply, record, claim: Some(commit.claims.len() - 1), start });
        Ok(())
    }

    /// Remembers the caller's key with this request, or says that it was used for another one.
    async fn check_idempotency(
        &self,
        request: &DecideRequest,
        commit: &mut Commit,
    ) -> anyhow::Result<Option<BackendError>> {
        let Some(key) = &request.idempotency_key else { return Ok(None) };
        let id = format!("{}\n{key}", request.caller.name).into_bytes().into_boxed_slice();
        let row = RowKey { stream: Arc::from(IDEMPOTENCY_STREAM), id };
        let same = |bytes: &[u8]| bytes == request.body_hash;
        if let Some(waiting) = commit.rows.iter().find(|write| write.key == row) {
            let is_same = waiting.bytes.as_deref().is_some_and(same);
            return Ok((!is_same).then_some(BackendError::IdempotencyKeyReused));
        }
        let fetched = self.store.fetch(&Query { rows: vec![row.clone()], ..Query::default() }).await?;
        match fetched.rows.first().and_then(Option::as_deref) {
            Some(bytes) if !same(bytes) => Ok(Some(BackendError::IdempotencyKeyReused)),
            Some(_) => Ok(None),
            None => {
                let bytes = Some(Bytes::copy_from_slice(&request.body_hash));
                let expires = Some(request.budget.received.plus(IDEMPOTENCY));
                commit.rows.push(RowWrite { key: row, bytes, expires });
                Ok(None)
            }
        }
    }

    /// Hands out the decision that exists for the event.
    async fn replay_decision(&mut self, request: &DecideRequest, reply: Reply<Answer>) -> anyhow::Result<()> {
        let id = decision_id(&self.namespace, &request.batch.stream().name, &request.event_id, 0);
        let answer = match self.store.decision(id).await? {
            Some(stored) => {
                let record = serde_json::from_slice(&stored.record).context("a stored decision")?;
                Ok(Answer { record, unlogged: false, replayed: true })
            }
            None => Err(BackendError::InProgress),
        };
        let _caller_left = reply.send(answer);
        Ok(())
    }

    /// Commits the decisions of a round of commands and answers them.
    async fn answer(&mut self, commit: Commit, pending: Vec<Pending>) -> anyhow::Result<()> {
        if pending.is_empty() {
            return Ok(());
        }
        let committed = self.commit_decisions(commit).await?;
        for pending in pending {
            let outcome = pending.claim.map(|claim| &committed.claims[claim]);
            let answer = match outcome {
                Some(outcome @ ClaimOutcome::Existing(earlier)) => {
                    self.settle_claim(&pending.record, outcome).await?;
                    let record = serde_json::from_slice(earlier).context("a stored decision")?;
                    Answer { record, unlogged: false, replayed: true }
                }
                _ => {
                    self.stats.count_decision(&pending.record);
                    let record = pending.slot.decided().unwrap_or(pending.record);
                    Answer { record, unlogged: false, replayed: false }
                }
            };
            self.stats.decided(clock::instant() - pending.start, 1);
            let _caller_left = pending.reply.send(Ok(answer));
        }
        Ok(())
    }

    async fn read(&mut self, read: &KeyRead) -> anyhow::Result<KeyAnswer> {
        let groups: Vec<usize> = (0..self.pipeline.engine().plan().entity_groups[read.entity].len()).collect();
        let (is_known, readouts) =
            self.pipeline.read(read.entity, &read.key, &groups, AsOf::instant(read.as_of)).await?;
        Ok(KeyAnswer { is_known, readouts, texts: self.pipeline.texts().to_vec() })
    }

    async fn label(&mut self, request: LabelRequest) -> anyhow::Result<Result<Accepted, BackendError>> {
        let stream = Arc::clone(&self.pipeline.definitions().streams[request.stream]);
        let value = match request.label {
            Label::Fraud => Some(true),
            Label::Genuine => Some(false),
            Label::Unknown => None,
        };
        let position = self.next_input;
        let Some(batch) = input_log::label_batch(&stream, &request.id, value, request.reported_at, position) else {
            return Ok(Err(BackendError::NotFound { what: "event" }));
        };
        let entry = Entry::Label {
            stream: stream.name.clone(),
            id: request.id,
            value,
            reported: request.reported_at,
            author: request.caller.name.to_string(),
        };
        let note = Note {
            decision: decision_id(&self.namespace, &stream.name, &request.event_id, 0),
            text: serde_json::to_string(&serde_json::json!({
                "kind": "label", "value": value, "reported_at": request.reported_at,
            }))?,
        };
        let commit = Commit { appends: vec![append(LogName::INPUT, &entry)?], notes: vec![note], ..Commit::default() };
        self.commit(commit).await?;
        self.next_input += 1;
        self.pipeline.apply(&batch, Evaluate::Nothing).await?;
        self.pipeline.advance(input_log::SOURCE, 0, position);
        Ok(Ok(Accepted { position }))
    }

    async fn set_block(&mut self, set: BlockSet) -> anyhow::Result<Result<(), BackendError>> {
        if let Err(full) = self.judging.lists.set(set.entry.clone()) {
            tracing::error!(%full, "a list entry was refused");
            return Ok(Err(BackendError::Overloaded { what: "the list", retry_after: Duration::from_secs(60) }));
        }
        let audit = serde_json::json!({ "act": "set_list_entry", "entry": set.entry, "author": *set.caller.name });
        let commit = Commit {
            lists: vec![ListWrite::Set(set.entry)],
            appends: vec![append(LogName::AUDIT, &audit)?],
            durability: Durability::Power,
            ..Commit::default()
        };
        self.commit(commit).await?;
        Ok(Ok(()))
    }

    async fn remove_block(&mut self, remove: BlockRemove) -> anyhow::Result<Result<Removal, BackendError>> {
        let is_there = self.judging.lists.of(&remove.entity).any(|entry| entry.list == remove.list);
        if !is_there {
            return Ok(Ok(Removal::Absent));
        }
        let write = ListWrite::Remove { list: remove.list, entity: remove.entity.clone() };
        self.judging.lists.apply(write.clone())?;
        let audit = serde_json::json!({
            "act": "remove_list_entry", "list": remove.list, "entity": remove.entity,
            "reason": remove.reason, "author": *remove.caller.name, "at": remove.budget.received,
        });
        let commit = Commit {
            lists: vec![write],
            appends: vec![append(LogName::AUDIT, &audit)?],
            durability: Durability::Power,
            ..Commit::default()
        };
        self.commit(commit).await?;
        Ok(Ok(Removal::Removed))
    }
}

/// The name under which it is kept how far a source's decisions are stored.
fn decided_source(source: &str) -> String {
    format!("decided:{source}")
}

fn append(log: LogName, entry: &impl serde::Serialize) -> Result<Append, serde_json::Error> {
    Ok(Append { log, bytes: serde_json::to_vec(entry)?.into() })
}

fn letter(source: &str, batch: &ChangeBatch, index: usize, refused: Refused) -> DeadLetter {
    let (reason, detail) = match refused {
        Refused::NoId => (DeadReason::NullId, "the event has no id"),
        Refused::NoTime => (DeadReason::NullTime, "the event has no time"),
        Refused::Future => (DeadReason::FutureTime, "the event's time lies too far beyond its arrival"),
        Refused::AppendOnly => (DeadReason::Refused, "the stream is append_only, and this is no new row"),
        Refused::TooLate => (DeadReason::Refused, "the event is older than what is remembered of its entities"),
    };
    let (change, row) = batch.get(index);
    let is_sensitive = row.stream.columns.iter().any(|column| column.sensitive);
    DeadLetter {
        source: source.to_owned(),
        partition: batch.partition(),
        position: change.position,
        reason,
        detail: detail.to_owned(),
        payload: if is_sensitive { None } else { row.event_id() },
    }
}
