//! The outbox worker: takes unfinished intents from the store, runs them, and writes what came of them.
//!
//! The store is the truth: what is held here is a copy that a restart rebuilds, tries made before it apart. Every
//! intent that is in the outbox is held, so that one receiver that is down keeps no other from its turn.
//!
//! Invariants:
//! - At most `concurrency` requests are under way per action, at most one per (decision, action).
//! - An intent is forgotten only after its result is committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_store::error::{Class, StoreError};
use interdict_store::port::{Commit, Durability, Finished, Intent, Store};
use reqwest::StatusCode;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::metrics::Metrics;
use super::queue::{Held, Queue};
use super::webhook::{SendError, Webhook, WebhookError, client};
use crate::policy::{ActionKind, Policy};
use crate::retry::{Backoff, Next};

/// What bounds a delivery.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Requests under way at once to one receiver.
    pub concurrency: usize,
    /// Intents held at once: the capacity of the outbox.
    pub intents: usize,
    /// How a store that fails for a while is tried again.
    pub store: Backoff,
}

impl Default for Limits {
    /// Four requests, 10,000 intents of about 1 KiB each.
    fn default() -> Self {
        let store = Backoff { max: Duration::from_secs(30), ..Backoff::default() };
        Self { concurrency: 4, intents: 10_000, store }
    }
}

/// The time and chance that a delivery needs, handed in by the shell.
pub trait Surroundings: Send + Sync + 'static {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// A number from 0 to 1 that spreads tries.
    fn jitter(&self) -> f64;
}

/// Why a delivery ended before it was told to.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeliveryError {
    /// The store failed for good.
    #[error("the outbox cannot go on: {0}")]
    Store(#[from] StoreError),
}

/// What came of an action, as it is appended under its decision (JSON).
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ActionResult {
    /// The action.
    pub action: String,
    /// Done, or given up.
    pub status: ActionStatus,
    /// Tries made since this process started.
    pub tries: u32,
    /// What the last try came to.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The two ends of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// The receiver has it.
    Done,
    /// It will not be tried again; a person must look.
    DeadLetter,
}

/// The receivers of a policy's outgoing actions, ready to be sent to.
#[derive(Clone, Debug, Default)]
pub struct Receivers(HashMap<String, Receiver>);

#[derive(Clone, Debug)]
struct Receiver {
    webhook: Webhook,
    backoff: Backoff,
}

impl Receivers {
    /// Reads the secrets of the webhooks of `policy`. `environment` gives the values of variables.
    ///
    /// # Errors
    /// As [`WebhookError`] says; the process should not start then.
    pub fn open(policy: &Policy, environment: &dyn Fn(&str) -> Option<String>) -> Result<Self, WebhookError> {
        let client = client()?;
        let mut receivers = HashMap::new();
        for action in &policy.actions {
            if let ActionKind::Webhook(config) = &action.kind {
                let webhook = Webhook::open(&action.name, config, &client, environment)?;
                receivers.insert(action.name.clone(), Receiver { webhook, backoff: config.backoff });
            }
        }
        Ok(Self(receivers))
    }
}

/// The id of an effect: what its receiver knows it by.
#[must_use]
pub fn effect_id(decision: Uuid, action: &str) -> String {
    format!("{decision}:{action}")
}

/// Runs the actions of one outbox. One per store: two would send everything twice.
#[derive(Debug)]
pub struct Delivery<S, E> {
    store: Arc<S>,
    receivers: Receivers,
    limits: Limits,
    surroundings: Arc<E>,
    metrics: Metrics,
    queue: Queue,
    under_way: JoinSet<Tried>,
    /// The outbox held more than fits here.
    is_partial: bool,
}

/// What one try came to.
#[derive(Debug)]
struct Tried {
    held: Held,
    result: Result<StatusCode, Failure>,
}

#[derive(Debug)]
struct Failure {
    class: Class,
    wish: Option<Duration>,
    reason: String,
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self { class: error.class(), wish: error.retry_after(), reason: error.to_string() }
    }
}

impl<S: Store, E: Surroundings> Delivery<S, E> {
    /// A worker for the outbox of `store`.
    #[must_use]
    pub fn new(store: Arc<S>, receivers: Receivers, limits: Limits, surroundings: E, metrics: Metrics) -> Self {
        Self {
            store,
            receivers,
            limits,
            surroundings: Arc::new(surroundings),
            metrics,
            queue: Queue::new(limits.concurrency),
            under_way: JoinSet::new(),
            is_partial: false,
        }
    }

    /// Works until `stop`; then lets the requests under way end (each within its timeout) and commits what came of
    /// them. `wake` is notified after every commit that brought intents. Dropping the future leaves everything in the
    /// outbox: it is sent again under the same ids. Poll it on a thread that may block where the store does its work
    /// inside its futures (the embedded one does).
    ///
    /// # Errors
    /// [`DeliveryError`], when the store failed for good; the process must stop then.
    pub async fn run(mut self, wake: Arc<Notify>, stop: CancellationToken) -> Result<(), DeliveryError> {
        self.refill(&stop).await?;
        while !stop.is_cancelled() {
            self.start();
            let due = self.queue.next_due();
            tokio::select! {
                () = stop.cancelled() => break,
                () = wake.notified() => self.refill(&stop).await?,
                Some(tried) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    self.conclude(tried, &stop).await?;
                }
                () = until(due) => {}
            }
        }
        while let Some(tried) = self.under_way.join_next().await {
            self.conclude(tried, &stop).await?;
        }
        Ok(())
    }

    /// Starts what is due and has room.
    fn start(&mut self) {
        while let Some(held) = self.queue.take_due(Instant::now()) {
            let receiver = self.receivers.0.get(&held.intent.action).cloned();
            let surroundings = Arc::clone(&self.surroundings);
            self.under_way.spawn(async move {
                let id = effect_id(held.intent.decision, &held.intent.action);
                let result = match receiver {
                    Some(receiver) => {
                        let sent = receiver.webhook.send(&id, &held.intent.payload, surroundings.now());
                        sent.await.map_err(Failure::from)
                    }
                    None => Err(Failure {
                        class: Class::Rejected,
                        wish: None,
                        reason: "the configuration has no such action any more".to_owned(),
                    }),
                };
                Tried { held, result }
            });
        }
    }

    /// Commits the results that are there, and puts back what is to be tried again.
    async fn conclude(
        &mut self,
        first: Result<Tried, JoinError>,
        stop: &CancellationToken,
    ) -> Result<(), DeliveryError> {
        let mut finished = Vec::new();
        let mut next = Some(first);
        while let Some(tried) = next {
            match tried {
                Ok(tried) => finished.extend(self.judge(tried)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
            next = self.under_way.try_join_next();
        }
        if finished.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = finished.iter().map(|it| (it.decision, it.action.clone())).collect();
        let commit = Commit { finished, durability: Durability::Process, ..Commit::default() };
        let store = Arc::clone(&self.store);
        if self.insist(stop, || store.commit(commit.clone())).await?.is_some() {
            for key in &keys {
                self.queue.forget(key);
            }
        }
        self.metrics.outbox_intents.set(count(self.queue.len()));
        if self.is_partial {
            self.refill(stop).await?;
        }
        Ok(())
    }

    fn judge(&mut self, tried: Tried) -> Option<Finished> {
        let Tried { mut held, result } = tried;
        held.tries = held.tries.saturating_add(1);
        let now = self.surroundings.now();
        let failure = match result {
            Ok(status) => return Some(self.finish(&held, ActionStatus::Done, format!("answered {status}"), now)),
            Err(failure) => failure,
        };
        let backoff = self.receivers.0.get(&held.intent.action).map_or_else(Backoff::default, |it| it.backoff);
        let age = Duration::from_micros(u64::try_from(now.since(held.intent.created).micros()).unwrap_or(0));
        let jitter = self.surroundings.jitter();
        match backoff.next(failure.class, held.tries, age, jitter, failure.wish) {
            Next::Again(wait) => {
                self.metrics.count_retry(&held.intent.action);
                tracing::debug!(decision = %held.intent.decision, action = held.intent.action, tries = held.tries,
                    reason = failure.reason, "action failed and will be tried again");
                self.queue.put_back(held, Instant::now() + wait);
                None
            }
            Next::GiveUp | Next::Stop => Some(self.finish(&held, ActionStatus::DeadLetter, failure.reason, now)),
        }
    }

    fn finish(&mut self, held: &Held, status: ActionStatus, reason: String, at: Timestamp) -> Finished {
        let Intent { decision, action, .. } = &*held.intent;
        if status == ActionStatus::DeadLetter {
            tracing::error!(%decision, action, tries = held.tries, reason,
                "action given up: see to its receiver, then run it by hand");
        }
        self.metrics.count_end(action, status);
        self.queue.settle(action);
        let result = ActionResult { action: action.clone(), status, tries: held.tries, reason, at };
        let result = serde_json::to_string(&result).expect("a result of texts and numbers is JSON");
        Finished { decision: *decision, action: action.clone(), result }
    }

    /// Takes in what the outbox holds and is not held yet.
    async fn refill(&mut self, stop: &CancellationToken) -> Result<(), DeliveryError> {
        let limit = self.limits.intents;
        let store = Arc::clone(&self.store);
        let Some(intents) = self.insist(stop, || store.outbox(limit)).await? else { return Ok(()) };
        self.is_partial = intents.len() >= limit;
        let now = Instant::now();
        for intent in intents {
            self.queue.add(intent, now);
        }
        self.metrics.outbox_intents.set(count(self.queue.len()));
        Ok(())
    }

    /// Calls the store until it answers; `None` when told to stop meanwhile.
    async fn insist<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        stop: &CancellationToken,
        call: impl Fn() -> F,
    ) -> Result<Option<T>, DeliveryError> {
        let mut failures = 0_u32;
        loop {
            let error = match call().await {
                Ok(answer) => return Ok(Some(answer)),
                Err(error) => error,
            };
            failures = failures.saturating_add(1);
            let jitter = self.surroundings.jitter();
            let Next::Again(wait) = self.limits.store.next(error.class(), failures, Duration::ZERO, jitter, None)
            else {
                return Err(error.into());
            };
            tracing::warn!(%error, "the store does not take the outbox's results, trying again");
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = tokio::time::sleep(wait) => {}
            }
        }
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

fn count(length: usize) -> i64 {
    i64::try_from(length).unwrap_or(i64::MAX)
}
