//! The engine behind the HTTP edge: a bounded queue to the engine's thread, reads of the store beside it, and the deadline.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::decision::{DecisionRecord, RecordedFeature, SeenPosition, decision_id};
use interdict_features::engine::{OwnedKey, Plan};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use interdict_scorer::http::backend::{
    Accepted, Answer, AsOf, Backend, BackendError, BlockRemove, BlockSet, Budget, DecideRequest, Decided, EntityAnswer,
    EntityRead, LabelRequest, ListsPage, ListsRead, ModelEntry, NotReady, Removal,
};
use interdict_scorer::judge::Judge;
use interdict_scorer::lists::Lists;
use interdict_scorer::subject::Context;
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
use interdict_store::port::{ListEntry, Query, Store as _, StoredDecision};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout_at};
use uuid::Uuid;

use super::clock;
use super::commands::{Asked, Command, KeyRead, Reply};
use super::input_log;
use super::known::{KeyUse, Known};
use super::promises::{Promise, Promises, Refusal};
use super::reached::Reached;
use super::stats::Stats;

/// Commands that wait for the engine's thread at most; beyond it a caller is told to come back.
pub(crate) const QUEUE: usize = 1_024;
/// Kept of a deadline for the way back to the caller.
const MARGIN: Duration = Duration::from_millis(2);
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Per entity of a request, its entries on all lists.
type Listed = Vec<Vec<ListEntry>>;

/// Whether the engine works.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Health {
    Starting,
    /// Another process does what this one is for.
    #[cfg(feature = "redis")]
    StandingBy,
    Working,
    Ended,
}

/// What the edge asks: the engine behind it, whichever store it has.
#[derive(Clone, Debug)]
pub(crate) struct Desk {
    pub(crate) namespace: String,
    pub(crate) commands: mpsc::Sender<Command>,
    pub(crate) store: Arc<OnlineStore>,
    pub(crate) plan: Arc<Plan>,
    /// Per stream.
    pub(crate) judges: Vec<Option<Arc<Judge>>>,
    pub(crate) promises: Arc<Promises>,
    pub(crate) stats: Arc<Stats>,
    pub(crate) health: watch::Receiver<Health>,
    pub(crate) reached: Reached,
    pub(crate) model: Option<ModelEntry>,
}

impl Desk {
    /// Hands a command to the engine's thread and waits for its answer until the deadline.
    async fn ask<T>(&self, budget: Budget, command: impl FnOnce(Reply<T>) -> Command) -> Result<T, BackendError> {
        let (reply, answer) = oneshot::channel();
        self.submit(command(reply))?;
        match timeout_at(budget.deadline, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_ended)) => Err(unavailable("the engine")),
            Err(_elapsed) => Err(BackendError::DeadlineBeforeDeciding),
        }
    }

    /// Refuses while another process is in charge of the store: it knows of nothing that was not stored before.
    fn may_change(&self) -> Result<(), BackendError> {
        if self.reached.awaits_slot() {
            return Err(unavailable("this process, which stands by for the replication slot of its database,"));
        }
        Ok(())
    }

    fn submit(&self, command: Command) -> Result<(), BackendError> {
        self.commands.try_send(command).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => {
                BackendError::Overloaded { what: "the engine's queue", retry_after: RETRY_AFTER }
            }
            mpsc::error::TrySendError::Closed(_) => unavailable("the engine"),
        })
    }

    /// Reads the store on a thread that may block.
    async fn store<T: Send + 'static>(
        &self,
        read: impl AsyncFnOnce(&OnlineStore) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, BackendError> {
        let (store, runtime) = (Arc::clone(&self.store), Handle::current());
        let done = tokio::task::spawn_blocking(move || runtime.block_on(read(&store))).await;
        let failed = |source| BackendError::Unavailable { what: "the store", source: Some(source) };
        done.map_err(|error| failed(Box::new(error)))?.map_err(|error| failed(Box::new(error)))
    }

    /// The record of a request whose deadline came before the engine decided it: what the lists say, or the policy's default.
    fn by_default(&self, judge: &Judge, request: &DecideRequest, listed: Listed) -> DecisionRecord {
        let row = request.batch.row(0);
        let deadline = request.budget.deadline.saturating_duration_since(request.budget.start);
        let position = SeenPosition { partition: format!("{}/0", input_log::SOURCE), position: 0 };
        let context = Context {
            event_time: row.time(),
            arrival_time: Some(request.budget.received),
            idempotency_key: request.idempotency_key.clone(),
            deadline_micros: u64::try_from(deadline.as_micros()).ok(),
            left_micros: Some(0),
            ..Context::at(request.event_id.clone(), position)
        };
        let entities = super::judging::entities(&self.plan, row);
        let now = clock::now();
        let hits = Lists::new(usize::MAX, listed.into_iter().flatten()).hits(&entities, now);
        judge.not_judged(&context, Some(&row), &entities, hits, "the deadline came before the decision", now)
    }

    /// What the store knows of a request that the engine has not come to.
    async fn known_of(&self, request: DecideRequest, decision: Uuid) -> Result<(Known, Listed), BackendError> {
        let lists = super::judging::entities(&self.plan, request.batch.row(0));
        let query = Query { lists, ..Known::query(&request, decision) };
        let fetched = self.store(async move |store| store.fetch(&query).await).await?;
        let known = Known::of(&fetched, &request).map_err(|error| BackendError::Internal(Box::new(error)))?;
        Ok((known, fetched.lists))
    }

    /// The answer to a request that the engine has not come to: what is stored, what is settled, or the policy's default.
    fn without_engine(
        &self,
        judge: &Judge,
        request: &DecideRequest,
        promise: &Promise,
        (known, listed): (Known, Listed),
    ) -> Result<Decided, BackendError> {
        if known.key == KeyUse::Other && promise.refuse(Refusal::KeyReused).is_none() {
            return Refusal::KeyReused.answer();
        }
        if let Some(record) = known.record {
            return Ok(Decided::Judged(Box::new(Answer { record, unlogged: false, replayed: true })));
        }
        match promise.tell(|| self.by_default(judge, request, listed)) {
            Ok(record) => {
                self.stats.count_unlogged();
                Ok(Decided::Judged(Box::new(Answer { record, unlogged: true, replayed: false })))
            }
            Err(refusal) => refusal.answer(),
        }
    }
}

fn unavailable(what: &'static str) -> BackendError {
    BackendError::Unavailable { what, source: None }
}

impl Backend for Desk {
    async fn decide(&self, request: DecideRequest) -> Result<Decided, BackendError> {
        let stream = request.batch.stream();
        let judge = self.judges[stream.index].clone();
        let judge = judge.ok_or(BackendError::NotFound { what: "judged stream of this name" })?;
        self.may_change()?;
        let id = decision_id(&self.namespace, &stream.name, &request.event_id, 0);
        let promise = Arc::new(self.promises.open(id));
        let Budget { start, deadline, .. } = request.budget;
        let (reply, mut answer) = oneshot::channel();
        let asked = Asked { request: request.clone(), promise: Arc::clone(&promise), reply };
        self.submit(Command::Decide(Box::new(asked)))?;
        if let Ok(answered) = timeout_at(start + (deadline - start) / 2, &mut answer).await {
            return answered.unwrap_or_else(|_ended| Err(unavailable("the engine")));
        }
        // The engine is behind: what is stored is looked up meanwhile, in time for the answer at the deadline.
        let mut lookup = pin!(self.known_of(request.clone(), id));
        let mut known = None;
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => return answered.unwrap_or_else(|_ended| Err(unavailable("the engine"))),
                () = sleep_until(deadline - MARGIN) => break,
                found = &mut lookup, if known.is_none() => {
                    let is_settled = found.as_ref().is_ok_and(|(known, _)| known.is_settled());
                    known = Some(found);
                    if is_settled {
                        break;
                    }
                }
            }
        }
        let known = match known {
            Some(known) => known,
            None => timeout_at(deadline, lookup).await.map_err(|_elapsed| BackendError::DeadlineBeforeDeciding)?,
        };
        if self.reached.awaits_charge() {
            // What it would be told now may never be stored.
            return Err(unavailable("this process, which is taking charge of its store,"));
        }
        self.without_engine(&judge, &request, &promise, known?)
    }

    async fn read(&self, read: EntityRead) -> Result<EntityAnswer, BackendError> {
        let as_of = match read.as_of {
            AsOf::Now => read.budget.received,
            AsOf::At(instant) => instant,
        };
        let key = engine_key(&read.key).ok_or(BackendError::NotFound { what: "key" })?;
        let wanted = KeyRead { entity: read.entity, key, as_of: as_of.micros() };
        let known = self.ask(read.budget, |reply| Command::Read { read: wanted, reply }).await?;
        let (reference, limit) = (read.reference.clone(), read.decisions_max);
        let (decisions, lists) = self
            .store(async move |store| {
                let decisions = store.recent_decisions(&reference, limit).await?;
                let query = Query { lists: vec![reference], ..Query::default() };
                Ok((decisions, store.fetch(&query).await?.lists))
            })
            .await?;
        let definitions = &self.plan.definitions;
        let names = self.plan.entity_groups[read.entity].iter().flat_map(|&group| {
            let first = definitions.groups[group].first_feature;
            definitions.features[first..first + self.plan.programs[group].width()].iter()
        });
        let features = names
            .zip(&known.readouts)
            .map(|(name, readout)| RecordedFeature { name: name.name.clone(), reading: readout.reading(&known.texts) });
        let binds = |entry: &ListEntry| entry.expires.is_none_or(|end| end > read.budget.received);
        Ok(EntityAnswer {
            is_known: known.is_known,
            as_of,
            features: features.collect(),
            lists: lists.into_iter().flatten().filter(binds).collect(),
            decisions,
        })
    }

    async fn decision(&self, id: Uuid, _budget: Budget) -> Result<StoredDecision, BackendError> {
        let found = self.store(async move |store| store.decision(id).await).await?;
        found.ok_or(BackendError::NotFound { what: "decision" })
    }

    async fn label(&self, label: LabelRequest) -> Result<Accepted, BackendError> {
        let budget = label.budget;
        self.may_change()?;
        self.ask(budget, |reply| Command::Label { request: Box::new(label), reply }).await
    }

    async fn blocks(&self, read: ListsRead) -> Result<ListsPage, BackendError> {
        let all = self.store(async |store| store.lists().await).await?;
        Ok(read.page_of(all))
    }

    async fn set_block(&self, set: BlockSet) -> Result<(), BackendError> {
        let budget = set.budget;
        self.may_change()?;
        self.ask(budget, |reply| Command::SetBlock { set: Box::new(set), reply }).await
    }

    async fn remove_block(&self, remove: BlockRemove) -> Result<Removal, BackendError> {
        let budget = remove.budget;
        self.may_change()?;
        self.ask(budget, |reply| Command::RemoveBlock { remove: Box::new(remove), reply }).await
    }

    async fn models(&self, _budget: Budget) -> Result<Vec<ModelEntry>, BackendError> {
        Ok(self.model.iter().cloned().collect())
    }

    async fn ready(&self) -> Vec<NotReady> {
        let not_ready = |code, message: &str| vec![NotReady { code, message: message.to_owned() }];
        match *self.health.borrow() {
            Health::Working if self.stats.has_full_lists() => {
                not_ready("lists_full", "the block and allow lists are full, and intake waits; see the log")
            }
            Health::Working => {
                let missing = self.reached.missing().map(|source| NotReady {
                    code: "source_not_reached",
                    message: format!("source '{source}' is not reached yet, or another process reads it; see the log"),
                });
                missing.collect()
            }
            Health::Starting => not_ready("starting", "the engine is reading its state"),
            #[cfg(feature = "redis")]
            Health::StandingBy => {
                not_ready("standing_by", "another process does this one's work, which goes on here when that one ends")
            }
            Health::Ended => not_ready("engine_ended", "the engine has ended; see the log, then restart the process"),
        }
    }
}

/// The key as the engine takes it: the same bytes as [`interdict_features::engine::key_of`] makes of a row.
fn engine_key(parts: &[Value]) -> Option<OwnedKey> {
    let ordered = |value: i64| (value.cast_unsigned() ^ (1 << 63)).to_be_bytes();
    match parts {
        [Value::Int(value)] => Some(OwnedKey::Int(*value)),
        [Value::Text(text)] => Some(OwnedKey::Bytes(text.as_bytes().into())),
        parts => {
            let mut bytes = Vec::new();
            for part in parts {
                match part {
                    Value::Int(value) => bytes.extend(ordered(*value)),
                    Value::Text(text) => interdict_features::engine::put_key_text(&mut bytes, text),
                    Value::Null | Value::Bool(_) | Value::Double(_) => return None,
                }
            }
            Some(OwnedKey::Bytes(bytes.into()))
        }
    }
}

/// What `/v1/models` says of the model in force.
pub(crate) fn model_entry(active: &interdict_scorer::activation::Active, now: Timestamp) -> ModelEntry {
    ModelEntry {
        name: active.manifest.name.clone(),
        version: active.manifest.version.clone(),
        bundle_hash: active.hash.to_string(),
        registered: now,
        aliases: vec!["champion".to_owned()],
        role: Some("champion".to_owned()),
        refused: None,
    }
}
