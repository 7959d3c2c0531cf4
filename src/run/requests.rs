//! What comes over HTTP, worked off on the engine's thread.
//!
//! Invariants:
//! - Decisions of one round are claimed, with their entries of the input log, in one commit; only then are they answered.
//! - Whatever else is asked waits until that commit is made, so that entries of the input log stand where they were applied.

use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use bytes::Bytes;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, EntityRef, decision_id};
use interdict_features::engine::{Evaluate, Outcome};
use interdict_features::state::AsOf;
use interdict_scorer::http::backend::{Accepted, Answer, BackendError, DecideRequest, Label, LabelRequest};
use interdict_store::port::{Append, ClaimOutcome, Commit, LogName, Note, Query, RowKey, RowWrite, Store};
use tokio::sync::mpsc;

use super::clock;
use super::commands::{Command, KeyAnswer, KeyRead, Reply, Slot};
use super::core::Core;
use super::input_log::{self, Entry};
use super::judging::{Circumstances, RequestFacts};

/// Commands worked off between two looks at the sources.
const COMMANDS_MAX: usize = 64;
/// How long a key of an idempotent request is remembered.
const IDEMPOTENCY: interdict_features::time::Span = interdict_features::time::Span::DAY;
/// Row records of this name hold idempotency keys.
const IDEMPOTENCY_STREAM: &str = "http:idempotency";

/// Decisions that wait for one commit.
#[derive(Default)]
struct Round {
    commit: Commit,
    pending: Vec<Pending>,
}

/// A request on its way to an answer; its claim stands at the same place in the commit.
struct Pending {
    slot: Arc<Slot>,
    reply: Reply<Answer>,
    record: DecisionRecord,
    /// Place in the input log where its entry must come to stand.
    position: u64,
    start: Instant,
}

impl<S: Store> Core<S> {
    /// Works off one command and those that wait behind it: one commit for all decisions among them.
    pub(super) async fn take_commands(
        &mut self,
        first: Command,
        commands: &mut mpsc::Receiver<Command>,
    ) -> anyhow::Result<()> {
        let mut round = Round::default();
        let mut next = Some(first);
        for _ in 0..COMMANDS_MAX {
            let Some(command) = next.take().or_else(|| commands.try_recv().ok()) else { break };
            let command = match command {
                Command::Decide { request, slot, reply } => {
                    self.decide(*request, slot, reply, &mut round).await?;
                    continue;
                }
                other => other,
            };
            self.answer(&mut round).await?;
            self.take_command(command).await?;
        }
        self.answer(&mut round).await
    }

    async fn take_command(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Decide { request, slot, reply } => {
                let mut round = Round::default();
                self.decide(*request, slot, reply, &mut round).await?;
                self.answer(&mut round).await?;
            }
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
        Ok(())
    }

    async fn decide(
        &mut self,
        request: DecideRequest,
        slot: Arc<Slot>,
        reply: Reply<Answer>,
        round: &mut Round,
    ) -> anyhow::Result<()> {
        if let Some(refused) = self.check_idempotency(&request, &mut round.commit).await? {
            let _caller_left = reply.send(Err(refused));
            return Ok(());
        }
        let position = self.next_input;
        let mut batch = ChangeBatch::new(Arc::clone(request.batch.stream()), 0);
        batch.push_row(request.batch.row(0), input_log::request_change(request.budget.received, position));
        self.pipeline.apply(&batch, Evaluate::Judged).await?;
        self.note_outcomes(input_log::SOURCE, &batch)?;
        let seen = self.pipeline.seen();
        let facts = request_facts(&request);
        let circumstances = Circumstances {
            source: input_log::SOURCE,
            seen: &seen,
            now: clock::now(),
            request: Some(facts),
            decided: &[],
        };
        let judged = self.judging.judge(&batch, self.pipeline.output(), &circumstances)?;
        let Some(judged) = judged.into_iter().next() else {
            self.answer(round).await?;
            self.log_unjudged(&request, position).await?;
            return self.replay_decision(&request, reply).await;
        };
        let own_lists = judged.claim.lists;
        let record = slot.settle(judged.record);
        let claim = match self.judging.judge_of(batch.stream().index) {
            Some(judge) => judge.claim(&record)?,
            None => anyhow::bail!("a request for a stream that is not judged"),
        };
        let is_default_first = claim.lists != own_lists;
        round.commit.claims.push(claim);
        let entry = Entry::of_request(&request.batch, request.budget.received);
        round.commit.appends.push(append(LogName::INPUT, &entry)?);
        self.next_input += 1;
        self.pipeline.advance(input_log::SOURCE, 0, position);
        self.stats.count_events(1);
        round.pending.push(Pending { slot, reply, record, position, start: request.budget.start.into_std() });
        if is_default_first {
            // The deadline's default came first: what the engine would have blocked must not bind the next event.
            self.answer(round).await?;
            let entities: Vec<EntityRef> = own_lists.into_iter().map(|entry| entry.entity).collect();
            self.restore_lists(&entities).await?;
        }
        Ok(())
    }

    /// Logs a request that is not to be judged and yet changed state: unlogged it would be lost in a crash, or live on without its entry.
    async fn log_unjudged(&mut self, request: &DecideRequest, position: u64) -> anyhow::Result<()> {
        if !matches!(self.pipeline.output().outcomes.first(), Some(Outcome::Applied)) {
            return Ok(());
        }
        let entry = Entry::of_request(&request.batch, request.budget.received);
        let committed =
            self.commit(Commit { appends: vec![append(LogName::INPUT, &entry)?], ..Commit::default() }).await?;
        let stands = committed.appended.first() == Some(&position);
        anyhow::ensure!(stands, "another writer appends to the input log; only one process may use this store");
        self.next_input += 1;
        self.pipeline.advance(input_log::SOURCE, 0, position);
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

    /// Commits the decisions of a round and answers them.
    async fn answer(&mut self, round: &mut Round) -> anyhow::Result<()> {
        let Round { commit, pending } = std::mem::take(round);
        if pending.is_empty() {
            return Ok(());
        }
        let committed = self.commit_decisions(commit).await?;
        let stands = pending.iter().zip(&committed.appended).all(|(pending, position)| pending.position == *position);
        anyhow::ensure!(stands, "another writer appends to the input log; only one process may use this store");
        for (pending, outcome) in pending.into_iter().zip(&committed.claims) {
            self.settle_claim(&pending.record, outcome).await?;
            let answer = match outcome {
                ClaimOutcome::Existing(earlier) => {
                    let record = serde_json::from_slice(earlier).context("a stored decision")?;
                    Answer { record, unlogged: false, replayed: true }
                }
                ClaimOutcome::Claimed { .. } => {
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
}

pub(super) fn append(log: LogName, entry: &impl serde::Serialize) -> Result<Append, serde_json::Error> {
    Ok(Append { log, bytes: serde_json::to_vec(entry)?.into() })
}

/// The caller's key and deadline as the record names them.
fn request_facts(request: &DecideRequest) -> RequestFacts<'_> {
    let now = clock::instant();
    let deadline = request.budget.deadline.into_std();
    let start = request.budget.start.into_std();
    let left = i64::try_from(deadline.saturating_duration_since(now).as_micros()).unwrap_or(i64::MAX);
    let over = i64::try_from(now.saturating_duration_since(deadline).as_micros()).unwrap_or(i64::MAX);
    RequestFacts {
        idempotency_key: request.idempotency_key.as_deref(),
        deadline_micros: u64::try_from((deadline - start).as_micros()).unwrap_or(u64::MAX),
        left_micros: left - over,
    }
}
