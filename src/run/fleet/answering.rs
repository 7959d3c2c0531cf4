//! What comes over HTTP to a scorer: decided, applied and stored on one thread, in rounds, beside other scorers and the ingestors.
//!
//! A round reads what all its requests need in one round trip, applies and judges them in their order, and makes one commit of it: states,
//! row records, decisions, entries of the input log. Where another process has written anything of it meanwhile, the round is done again on
//! what is there by then; what a caller may have been told holds.
//!
//! Invariants:
//! - A request is applied in the commit that stores its decision: whoever reads the entity behind it sees it.
//! - This process alone moves its own partition of the source `input`; its entries in the log say where they stand in it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, EntityRef, decision_id};
use interdict_features::definition::Judge as Judged;
use interdict_features::engine::{Evaluate, Outcome, Plan};
use interdict_features::state::AsOf;
use interdict_features::time::{Span, Timestamp};
use interdict_ingest::pipeline::Pipeline;
use interdict_ingest::source::stop::Stop;
use interdict_scorer::http::backend::{
    Accepted, Answer, BackendError, BlockRemove, BlockSet, DecideRequest, Decided, Label, LabelRequest, Removal,
};
use interdict_scorer::lists::Lists;
use interdict_store::port::{
    ClaimOutcome, Commit, Committed, Durability, Fetched, ListEntry, LogName, Note, Offset, OffsetMove,
};
use tokio::sync::{Notify, mpsc};

use super::super::blocks;
use super::super::clock;
use super::super::commands::{Asked, Command, KeyAnswer, KeyRead, Reply};
use super::super::deciding::{append, request_facts};
use super::super::input_log::{self, Entry};
use super::super::judging::{Circumstances, Judging, entities};
use super::super::known::{KeyUse, Known};
use super::super::letters::{self, Letters};
use super::super::patience::{self, patiently, wait_to_retry};
use super::super::promises::{Promise, Refusal};
use super::super::stats::Stats;
use super::charges;
use super::room::Room;
use super::stats::FleetStats;
use super::tracked::{Beside, Tracked};

/// Requests of one commit at most.
const ROUND: usize = 64;

/// Answers what comes over HTTP.
pub(super) struct Answering {
    pub(super) namespace: String,
    pub(super) plan: Arc<Plan>,
    pub(super) pipeline: Pipeline<Tracked>,
    pub(super) tracked: Arc<Tracked>,
    pub(super) judging: Judging,
    pub(super) letters: Letters,
    /// Whether sinks are to have what becomes a dead letter.
    pub(super) sinks_letters: bool,
    pub(super) stats: Arc<Stats>,
    pub(super) fleet: Arc<FleetStats>,
    pub(super) outbox: Arc<Notify>,
    pub(super) logged: Arc<Notify>,
    pub(super) stop: Stop,
    pub(super) room: Arc<Room>,
    /// What every commit names.
    pub(super) charge: OffsetMove,
    /// This process's partition of the source `input`.
    pub(super) slot: u32,
    /// Its next position there.
    pub(super) next: u64,
}

/// A request on its way to an answer.
struct Pending {
    promise: Arc<Promise>,
    reply: Reply<Decided>,
    came: Came,
    start: Instant,
}

/// What came of a request.
enum Came {
    /// A record to be claimed. Claims are in the order of requests.
    Judged(Box<DecisionRecord>),
    /// The record that was there.
    Stored(Box<DecisionRecord>),
    /// It is not one to be judged.
    NotJudged,
    /// It is refused.
    Refused(Refusal),
}

/// What a round came to.
#[derive(Default)]
struct Round {
    commit: Commit,
    came: Vec<Came>,
    letters: Vec<interdict_ingest::dead_letter::DeadLetter>,
    next: u64,
}

impl Answering {
    /// Works until nobody sends commands any more.
    pub(super) async fn run(&mut self, mut commands: mpsc::Receiver<Command>) -> anyhow::Result<()> {
        self.pipeline.take_up(input_log::SOURCE, &self.own_offset());
        let mut held = None;
        loop {
            let first = match held.take() {
                Some(command) => Some(command),
                None => commands.recv().await,
            };
            let Some(first) = first else { return Ok(()) };
            let mut asked = Vec::new();
            let mut ids = HashSet::new();
            let mut next = Some(first);
            while let Some(command) = next.take() {
                match command {
                    Command::Decide(request) if asked.len() < ROUND && ids.insert(request.promise.id()) => {
                        asked.push(*request);
                        next = commands.try_recv().ok();
                    }
                    other => held = Some(other),
                }
            }
            if asked.is_empty() {
                let Some(command) = held.take() else { continue };
                self.take(command).await?;
            } else {
                self.decide(asked).await?;
            }
        }
    }

    fn own_offset(&self) -> Vec<Offset> {
        let stored = self.next.checked_sub(1);
        stored.map(|position| Offset { partition: self.slot, position }).into_iter().collect()
    }

    async fn take(&mut self, command: Command) -> anyhow::Result<()> {
        match command {
            Command::Decide(asked) => self.decide(vec![*asked]).await?,
            Command::Read { read, reply } => {
                let _caller_left = reply.send(self.read(&read).await);
            }
            Command::Label { request, reply } => {
                let _caller_left = reply.send(self.label(&request).await?);
            }
            Command::SetBlock { set, reply } => {
                let _caller_left = reply.send(self.set_block(*set).await?);
            }
            Command::RemoveBlock { remove, reply } => {
                let _caller_left = reply.send(self.remove_block(*remove).await?);
            }
        }
        Ok(())
    }

    /// Decides one round of requests, each for another event.
    async fn decide(&mut self, asked: Vec<Asked>) -> anyhow::Result<()> {
        let (round, committed) = loop {
            let round = match self.round(&asked).await {
                Err(error) if super::is_passing(&error) => {
                    tracing::error!(error = crate::told::told(&error), "the store does not answer; requests wait");
                    wait_to_retry(&self.stop)?;
                    asked.iter().for_each(|asked| asked.promise.withdraw());
                    continue;
                }
                round => round?,
            };
            self.letters.keep(&round.letters)?;
            self.letters.flush()?;
            match self.commit(&round.commit).await? {
                Some(committed) => break (round, committed),
                None => self.fleet.count_conflict(),
            }
            asked.iter().for_each(|asked| asked.promise.withdraw());
        };
        self.pipeline.stored();
        self.pipeline.forget();
        self.letters.count(&round.letters);
        self.next = round.next;
        self.stats.count_events(u64::try_from(asked.len()).unwrap_or(0));
        if round.commit.claims.iter().any(|claim| !claim.intents.is_empty()) {
            self.outbox.notify_one();
        }
        self.logged.notify_one();
        if round.commit.claims.iter().any(|claim| !claim.lists.is_empty()) {
            self.room.glance().await;
        }
        let mut outcomes = committed.claims.iter();
        for (Asked { promise, reply, request }, came) in asked.into_iter().zip(round.came) {
            let start = request.budget.start.into_std();
            let answered = self.answer(Pending { promise, reply, came, start }, &mut outcomes);
            answered?;
        }
        Ok(())
    }

    fn answer<'a>(
        &self,
        pending: Pending,
        outcomes: &mut impl Iterator<Item = &'a ClaimOutcome>,
    ) -> anyhow::Result<()> {
        let Pending { promise, reply, came, start } = pending;
        let answer = match came {
            Came::Refused(refusal) => refusal.answer(),
            Came::NotJudged => Ok(Decided::NotJudged),
            Came::Stored(record) => Ok(decided(*record, true)),
            Came::Judged(record) => {
                let outcome = outcomes.next().context("a claim without an outcome")?;
                self.stats.decided(clock::instant() - start, 1);
                Ok(match outcome {
                    ClaimOutcome::Claimed { .. } => {
                        self.stats.count_decision(&record, clock::now());
                        decided(*record, false)
                    }
                    ClaimOutcome::Existing(earlier) => {
                        decided(serde_json::from_slice(earlier).context("a stored decision")?, true)
                    }
                })
            }
        };
        let _caller_left = reply.send(answer);
        drop(promise);
        Ok(())
    }

    /// Applies and judges requests on what the store holds now.
    async fn round(&mut self, asked: &[Asked]) -> anyhow::Result<Round> {
        self.pipeline.rewind();
        let (beside, mut lists) = self.prefetch(asked).await?;
        // Places are the requests' own, so that a round that is done again gives each its place again.
        let mut round = Round { next: self.next + asked.len() as u64, ..Round::default() };
        let mut keys: HashSet<Vec<u8>> = HashSet::new();
        for ((place, asked), stored) in (self.next..).zip(asked).zip(beside.decisions) {
            let key_row = Known::key_row(&asked.request);
            let fetched = Fetched {
                rows: key_row.iter().map(|key| self.tracked.row(key)).collect(),
                decisions: vec![stored],
                ..Fetched::default()
            };
            let mut known = Known::of(&fetched, &asked.request).context("a stored decision")?;
            if let KeyUse::New(write) = &known.key
                && !keys.insert(write.key.id.to_vec())
            {
                // Another request of this round has the key, for another event.
                known.key = KeyUse::Other;
            }
            let came = self.came((asked, place), known, &mut lists, &mut round).await?;
            round.came.push(came);
        }
        self.pipeline.fill(&mut round.commit);
        self.tracked.expect(&mut round.commit);
        Ok(round)
    }

    /// Reads what the requests need in one round trip, and the lists their entities are on.
    async fn prefetch(&mut self, asked: &[Asked]) -> anyhow::Result<(Beside, Lists)> {
        let mut query = self.pipeline.wants(asked.iter().map(|asked| &asked.request.batch))?;
        query.rows.extend(asked.iter().filter_map(|asked| Known::key_row(&asked.request)));
        query.decisions = asked.iter().map(|asked| asked.promise.id()).collect();
        let mut listed: Vec<EntityRef> =
            asked.iter().flat_map(|asked| entities(&self.plan, asked.request.batch.row(0))).collect();
        listed.sort_unstable();
        listed.dedup();
        query.lists = listed;
        let told = "the store does not answer; requests wait";
        let read = async || {
            self.tracked.begin();
            self.tracked.prefetch(&query).await
        };
        let mut beside = patiently(&self.stop, told, read).await?;
        let lists = Lists::new(usize::MAX, std::mem::take(&mut beside.lists));
        Ok((beside, lists))
    }

    /// What comes of one request; its part of the commit joins the round's.
    async fn came(
        &mut self,
        (asked, position): (&Asked, u64),
        known: Known,
        lists: &mut Lists,
        round: &mut Round,
    ) -> anyhow::Result<Came> {
        let Asked { request, promise, .. } = asked;
        if known.key == KeyUse::Other && (known.record.is_some() || promise.refuse(Refusal::KeyReused).is_none()) {
            return Ok(Came::Refused(Refusal::KeyReused));
        }
        if known.record.is_none() && self.room.is_full() && promise.refuse(Refusal::ListsFull).is_none() {
            return Ok(Came::Refused(Refusal::ListsFull));
        }
        if let KeyUse::New(write) = known.key {
            round.commit.rows.push(write);
        }
        if let Some(record) = known.record {
            return Ok(Came::Stored(Box::new(record)));
        }
        let mut batch = ChangeBatch::new(Arc::clone(request.batch.stream()), self.slot);
        batch.push_row(request.batch.row(0), input_log::request_change(request.budget.received, position));
        self.pipeline.apply(&batch, Evaluate::Judged).await?;
        let is_applied = matches!(self.pipeline.output().outcomes.first(), Some(Outcome::Applied));
        let mut refused = letters::refused(input_log::SOURCE, &batch, self.pipeline.output())?;
        if self.sinks_letters {
            round.commit.appends.append(&mut letters::appends(&refused)?);
        }
        round.letters.append(&mut refused);
        let judged = self.judge(request, &batch, lists)?;
        let record = match judged {
            Some(record) => Some(promise.settle(record)),
            // Whatever is inserted is judged: it waits for a scorer.
            None if matches!(batch.stream().judge, Some(Judged::Insert)) => promise.refuse(Refusal::UnderWay),
            None => promise.refuse(Refusal::NotJudged),
        };
        if record.is_some() || is_applied {
            let entry = Entry::of_request(&request.batch, request.budget.received).at(self.slot, position);
            round.commit.appends.push(append(LogName::INPUT, &entry)?);
            self.pipeline.advance(input_log::SOURCE, self.slot, position);
        }
        let Some(record) = record else {
            let is_insert = matches!(batch.stream().judge, Some(Judged::Insert));
            return Ok(if is_insert { Came::Refused(Refusal::UnderWay) } else { Came::NotJudged });
        };
        let judge = self.judging.judge_of(batch.stream().index).context("a request for a stream that is not judged")?;
        let mut claim = judge.claim(&record)?;
        lists.date(&mut claim.lists);
        for entry in &claim.lists {
            lists.put(entry.clone());
        }
        round.commit.claims.push(claim);
        if round.commit.claims.iter().any(|claim| !claim.intents.is_empty() || !claim.lists.is_empty()) {
            round.commit.durability = Durability::Power;
        }
        Ok(Came::Judged(Box::new(record)))
    }

    fn judge(
        &mut self,
        request: &DecideRequest,
        batch: &ChangeBatch,
        lists: &mut Lists,
    ) -> anyhow::Result<Option<DecisionRecord>> {
        let seen = super::seen(self.tracked.positions(), self.pipeline.seen());
        let circumstances = Circumstances {
            source: input_log::SOURCE,
            seen: &seen,
            now: clock::now(),
            request: Some(request_facts(request)),
            decided: &[],
        };
        std::mem::swap(&mut self.judging.lists, lists);
        let judged = self.judging.judge(batch, self.pipeline.output(), &circumstances);
        std::mem::swap(&mut self.judging.lists, lists);
        Ok(judged?.into_iter().next().map(|judged| judged.record))
    }

    /// Makes a commit; `None` when another process has written what it rests on.
    async fn commit(&self, commit: &Commit) -> anyhow::Result<Option<Committed>> {
        if *commit == Commit::default() {
            return Ok(Some(Committed::default()));
        }
        let mut commit = commit.clone();
        commit.offsets.insert(0, self.charge.clone());
        let told = "the store does not take a commit; requests wait";
        patience::commit(self.tracked.store(), &self.stop, told, &commit).await.map_err(charges::told)
    }

    async fn read(&mut self, read: &KeyRead) -> Result<KeyAnswer, BackendError> {
        self.pipeline.rewind();
        self.tracked.begin();
        let groups: Vec<usize> = (0..self.plan.entity_groups[read.entity].len()).collect();
        let wanted = self.pipeline.wants_key(read.entity, &read.key);
        let found = match self.tracked.prefetch(&wanted).await {
            Ok(_beside) => self.pipeline.read(read.entity, &read.key, &groups, AsOf::instant(read.as_of)).await,
            Err(error) => Err(error.into()),
        };
        let unavailable = |source: interdict_ingest::pipeline::PipelineError| BackendError::Unavailable {
            what: "the store",
            source: Some(Box::new(source)),
        };
        let (is_known, readouts) = found.map_err(unavailable)?;
        Ok(KeyAnswer { is_known, readouts, texts: self.pipeline.texts().to_vec() })
    }

    async fn label(&mut self, request: &LabelRequest) -> anyhow::Result<Result<Accepted, BackendError>> {
        let stream = Arc::clone(&self.plan.definitions.streams[request.stream]);
        let value = match request.label {
            Label::Fraud => Some(true),
            Label::Genuine => Some(false),
            Label::Unknown => None,
        };
        let position = self.next;
        let version = input_log::label_version_at(request.budget.received, self.slot);
        let Some(batch) = input_log::label_batch(&stream, &request.id, value, request.reported_at, version, position)
        else {
            return Ok(Err(BackendError::NotFound { what: "event" }));
        };
        let entry = Entry::Label {
            stream: stream.name.clone(),
            id: request.id.clone(),
            value,
            reported: request.reported_at,
            author: request.caller.name.to_string(),
            received: Some(request.budget.received),
            place: None,
        };
        let entry = entry.at(self.slot, position);
        let note = Note {
            decision: decision_id(&self.namespace, &stream.name, &request.event_id, 0),
            text: serde_json::to_string(&serde_json::json!({
                "kind": "label", "value": value, "reported_at": request.reported_at,
            }))?,
        };
        loop {
            self.pipeline.rewind();
            self.tracked.begin();
            match self.pipeline.apply(&batch, Evaluate::Nothing).await.map(drop).map_err(anyhow::Error::from) {
                Err(error) if super::is_passing(&error) => {
                    tracing::error!(error = crate::told::told(&error), "the store does not answer; a label waits");
                    wait_to_retry(&self.stop)?;
                    continue;
                }
                applied => applied?,
            }
            self.pipeline.advance(input_log::SOURCE, self.slot, position);
            let mut commit = Commit {
                appends: vec![append(LogName::INPUT, &entry)?],
                notes: vec![note.clone()],
                ..Commit::default()
            };
            self.pipeline.fill(&mut commit);
            self.tracked.expect(&mut commit);
            if self.commit(&commit).await?.is_some() {
                break;
            }
            self.fleet.count_conflict();
        }
        self.pipeline.stored();
        self.pipeline.forget();
        self.next += 1;
        Ok(Ok(Accepted { position }))
    }

    async fn set_block(&mut self, set: BlockSet) -> anyhow::Result<Result<(), BackendError>> {
        let told = "the store does not answer; an act of a person waits";
        let is_full = patiently(&self.stop, told, async || self.room.look().await).await?;
        let fill = |entries: Vec<ListEntry>, now| {
            if is_full && !entries.iter().any(|entry| entry.list == set.entry.list) {
                return Ok::<_, serde_json::Error>((Err(blocks::full(&self.room.full)), None));
            }
            Ok((Ok(()), Some(blocks::setting(&self.judging, &set, now)?)))
        };
        self.act(&set.entry.entity, fill).await
    }

    async fn remove_block(&mut self, remove: BlockRemove) -> anyhow::Result<Result<Removal, BackendError>> {
        let fill = |entries: Vec<ListEntry>, now| blocks::removing(&self.judging, &remove, &entries, now);
        Ok(Ok(self.act(&remove.entity, fill).await?))
    }

    /// Does what a person wants done to an entity, on what its lists hold by then: another person may be at it in another process.
    async fn act<T>(
        &self,
        entity: &EntityRef,
        fill: impl Fn(Vec<ListEntry>, Timestamp) -> serde_json::Result<(T, Option<Commit>)>,
    ) -> anyhow::Result<T> {
        let told = "the store does not answer; an act of a person waits";
        loop {
            let read = patiently(&self.stop, told, async || self.tracked.store().entries(entity).await);
            let (entries, listed) = read.await?;
            // Later than what was done before, whatever the clocks of the processes say.
            let before = entries.iter().map(|entry| entry.created).max().max(listed.unblocked());
            let after = before.map(|before| before.plus(Span::from_micros(1)));
            let now = clock::now();
            let (done, commit) = fill(entries, after.map_or(now, |after| after.max(now)))?;
            let Some(mut commit) = commit else { return Ok(done) };
            commit.listed.push(listed);
            if self.commit(&commit).await?.is_none() {
                self.fleet.count_conflict();
                continue;
            }
            if !commit.intents.is_empty() {
                self.outbox.notify_one();
            }
            return Ok(done);
        }
    }
}

fn decided(record: DecisionRecord, replayed: bool) -> Decided {
    Decided::Judged(Box::new(Answer { record, unlogged: false, replayed }))
}
