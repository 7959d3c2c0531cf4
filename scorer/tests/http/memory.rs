//! A backend in memory: decisions claimed once per event id, idempotency keys per caller, lists, labels.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome, RecordedFeature, SeenPosition, decision_id};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use interdict_features::vector::{Flags, Reading};
use interdict_scorer::http::backend::{
    Accepted, Answer, AsOf, Backend, BackendError, BlockRemove, BlockSet, Budget, DecideRequest, Decided, EntityAnswer,
    EntityRead, LabelRequest, ListsPage, ListsRead, ModelEntry, NotReady, Removal,
};
use interdict_store::port::{ListEntry, StoredDecision};
use tokio::sync::Semaphore;
use uuid::Uuid;

/// How decisions and reads behave.
#[derive(Clone, Copy, Default)]
pub(crate) enum Behaviour {
    #[default]
    Answer,
    /// Wait for a permit of [`Memory::release`].
    Hold,
    Panic,
    /// Say of every event that it is not one to be judged.
    JudgeNothing,
    Fail(fn() -> BackendError),
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) behaviour: Behaviour,
    pub(crate) decisions: BTreeMap<Uuid, DecisionRecord>,
    pub(crate) appended: HashMap<Uuid, Vec<String>>,
    pub(crate) keys: HashMap<(Arc<str>, String), [u8; 32]>,
    pub(crate) requests: Vec<DecideRequest>,
    pub(crate) reads: Vec<EntityRead>,
    pub(crate) labels: Vec<LabelRequest>,
    pub(crate) lists: Vec<ListEntry>,
    pub(crate) removals: Vec<BlockRemove>,
    pub(crate) not_ready: Vec<NotReady>,
}

pub(crate) struct Memory {
    state: Mutex<State>,
    /// A permit for every call that began.
    pub(crate) entered: Semaphore,
    /// Permits for held calls to go on.
    pub(crate) release: Semaphore,
}

impl Default for Memory {
    fn default() -> Self {
        Self { state: Mutex::default(), entered: Semaphore::new(0), release: Semaphore::new(0) }
    }
}

impl Memory {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.state().behaviour = behaviour;
    }

    /// Waits until `calls` more calls have begun.
    pub(crate) async fn wait_entered(&self, calls: u32) {
        self.entered.acquire_many(calls).await.unwrap().forget();
    }

    async fn enter(&self) -> Result<(), BackendError> {
        self.entered.add_permits(1);
        let behaviour = self.state().behaviour;
        match behaviour {
            Behaviour::Answer | Behaviour::JudgeNothing => Ok(()),
            Behaviour::Hold => {
                self.release.acquire().await.unwrap().forget();
                Ok(())
            }
            Behaviour::Panic => panic!("as the test asked"),
            Behaviour::Fail(failure) => Err(failure()),
        }
    }
}

#[derive(Clone)]
pub(crate) struct Handle(pub(crate) Arc<Memory>);

fn record_of(request: &DecideRequest) -> DecisionRecord {
    let row = request.batch.row(0);
    let stream = request.batch.stream();
    DecisionRecord {
        decision_id: decision_id("test", &stream.name, &request.event_id, 0),
        idempotency_key: request.idempotency_key.clone(),
        stream: stream.name.clone(),
        event_id: request.event_id.clone(),
        judgement: 0,
        position: SeenPosition { partition: "requests/0".to_owned(), position: 0 },
        event_time: row.time(),
        arrival_time: Some(request.budget.received),
        decide_time: request.budget.received,
        as_of: BTreeMap::new(),
        entities: Vec::new(),
        outcome: Outcome::Review,
        score: None,
        thresholds: None,
        rules: Vec::new(),
        models: Vec::new(),
        features: Vec::new(),
        event: (0..stream.columns.len()).map(|i| (stream.columns[i].name.clone(), row.value(i))).collect(),
        seen: Vec::new(),
        list_hits: Vec::new(),
        reasons: Vec::new(),
        decided_by: DecidedBy::Default,
        deadline_micros: None,
        left_micros: None,
        degraded: Vec::new(),
        actions: Vec::new(),
        arm: None,
        late: false,
    }
}

impl Backend for Handle {
    async fn decide(&self, request: DecideRequest) -> Result<Decided, BackendError> {
        self.0.enter().await?;
        let mut state = self.0.state();
        if matches!(state.behaviour, Behaviour::JudgeNothing) {
            return Ok(Decided::NotJudged);
        }
        if let Some(key) = &request.idempotency_key {
            let key = (Arc::clone(&request.caller.name), key.clone());
            if *state.keys.entry(key).or_insert(request.body_hash) != request.body_hash {
                return Err(BackendError::IdempotencyKeyReused);
            }
        }
        let record = record_of(&request);
        let replayed = state.decisions.contains_key(&record.decision_id);
        let record = state.decisions.entry(record.decision_id).or_insert(record).clone();
        state.requests.push(request);
        Ok(Decided::Judged(Box::new(Answer { record, unlogged: false, replayed })))
    }

    async fn read(&self, read: EntityRead) -> Result<EntityAnswer, BackendError> {
        self.0.enter().await?;
        let mut state = self.0.state();
        let is_known = read.key.first() == Some(&Value::Int(7));
        let as_of = match read.as_of {
            AsOf::Now => read.budget.received,
            AsOf::At(instant) => instant,
        };
        let flags = if is_known { Flags::NONE } else { Flags::NO_STATE };
        let reading = Reading { value: Value::Int(i64::from(is_known)), flags, edge_events: 0 };
        let features = vec![RecordedFeature { name: "customer_spend.tx_count_1d".into(), reading }];
        let lists = state.lists.iter().filter(|entry| entry.entity == read.reference).cloned().collect();
        let decisions = state.decisions.values().map(|record| Bytes::from(serde_json::to_vec(record).unwrap()));
        let decisions = decisions.take(read.decisions_max).collect();
        state.reads.push(read);
        Ok(EntityAnswer { is_known, as_of, features, lists, decisions })
    }

    async fn decision(&self, id: Uuid, _budget: Budget) -> Result<StoredDecision, BackendError> {
        self.0.enter().await?;
        let state = self.0.state();
        let record = state.decisions.get(&id).ok_or(BackendError::NotFound { what: "decision" })?;
        let appended = state.appended.get(&id).cloned().unwrap_or_default();
        Ok(StoredDecision { record: serde_json::to_vec(record).unwrap().into(), appended })
    }

    async fn label(&self, label: LabelRequest) -> Result<Accepted, BackendError> {
        self.0.enter().await?;
        let mut state = self.0.state();
        state.labels.push(label);
        Ok(Accepted { position: u64::try_from(state.labels.len()).unwrap() - 1 })
    }

    async fn blocks(&self, read: ListsRead) -> Result<ListsPage, BackendError> {
        self.0.enter().await?;
        let mut all = self.0.state().lists.clone();
        all.sort_by(|a, b| (a.list, &a.entity).cmp(&(b.list, &b.entity)));
        Ok(read.page_of(all))
    }

    async fn set_block(&self, set: BlockSet) -> Result<(), BackendError> {
        self.0.enter().await?;
        let mut state = self.0.state();
        state.lists.retain(|entry| (entry.list, &entry.entity) != (set.entry.list, &set.entry.entity));
        state.lists.push(set.entry);
        Ok(())
    }

    async fn remove_block(&self, remove: BlockRemove) -> Result<Removal, BackendError> {
        self.0.enter().await?;
        let mut state = self.0.state();
        let before = state.lists.len();
        state.lists.retain(|entry| (entry.list, &entry.entity) != (remove.list, &remove.entity));
        let removal = if state.lists.len() < before { Removal::Removed } else { Removal::Absent };
        state.removals.push(remove);
        Ok(removal)
    }

    async fn models(&self, _budget: Budget) -> Result<Vec<ModelEntry>, BackendError> {
        self.0.enter().await?;
        Ok(vec![ModelEntry {
            name: "handbook".to_owned(),
            version: "1".to_owned(),
            bundle_hash: "ab".repeat(32),
            registered: Timestamp::from_micros(0),
            aliases: vec!["champion".to_owned()],
            role: Some("champion".to_owned()),
            refused: None,
        }])
    }

    async fn ready(&self) -> Vec<NotReady> {
        let reasons = self.0.state().not_ready.clone();
        std::future::ready(reasons).await
    }
}
