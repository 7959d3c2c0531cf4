//! The outbox worker: takes unfinished intents from the store, runs them, and writes what came of them.
//!
//! The store is the truth: what is held here is a copy that a restart rebuilds, tries made before it apart. Every
//! intent that is in the outbox is held, so that one receiver that is down keeps no other from its turn.
//!
//! Invariants:
//! - At most `concurrency` tries are under way per action, at most one per (decision, action), and for databases at most
//!   one per account, in the order of the outbox.
//! - An intent is forgotten only after its result is committed.
//! - Nothing is carried out that the configured replicas do not have: a fail-over would take the decision and leave the act.

use std::sync::Arc;
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_store::error::{Class, StoreError};
use interdict_store::port::{Append, Commit, Durability, Finished, Intent, LogName, OutboxPlace, Replicated, Store};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::act::Act;
use super::metrics::{End, Metrics};
use super::queue::{Held, Queue};
use super::receiver::{Ended, Failure, Receivers};
use crate::retry::{Backoff, Next};

/// How often the age of what waits is shown while nothing else happens.
const LOOK: Duration = Duration::from_secs(1);

/// How often the whole outbox is read, and not only what has entered it since the last look. A store that lost its last moments in a
/// fail-over may give places anew that were seen; and what waits may be large.
const WHOLE: Duration = Duration::from_secs(30);

/// How long to wait before replicas that are behind are asked again.
const REPLICAS: Duration = Duration::from_secs(1);

/// What bounds a delivery.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Limits {
    /// Requests under way at once to one webhook; a database has a bound of its own.
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
    /// How it ended.
    pub status: ActionStatus,
    /// Tries made since this process started.
    pub tries: u32,
    /// What the last try came to.
    pub reason: String,
    /// When.
    pub at: Timestamp,
}

/// The ends of an action.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActionStatus {
    /// The receiver has it.
    Done,
    /// It was not run: a later act on the same account came first.
    Superseded,
    /// It will not be tried again; a person must look.
    DeadLetter,
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
    receivers: Arc<Receivers>,
    limits: Limits,
    surroundings: Arc<E>,
    metrics: Metrics,
    queue: Queue,
    under_way: JoinSet<Tried>,
    /// The outbox held more than fits here.
    is_partial: bool,
    /// Everything up to this place of the outbox was taken in; `None`: nothing yet.
    seen: Option<OutboxPlace>,
    /// When the whole outbox was read last.
    whole: Option<Instant>,
    /// When what the replicas do not have yet is asked for again.
    owed: Option<Instant>,
}

/// What one try came to.
#[derive(Debug)]
struct Tried {
    held: Held,
    result: Result<Ended, Failure>,
}

impl<S: Store, E: Surroundings> Delivery<S, E> {
    /// A worker for the outbox of `store`.
    #[must_use]
    pub fn new(
        store: Arc<S>,
        receivers: impl Into<Arc<Receivers>>,
        limits: Limits,
        surroundings: E,
        metrics: Metrics,
    ) -> Self {
        let receivers = receivers.into();
        let queue = Queue::new(limits.concurrency, receivers.concurrency());
        receivers.actions().for_each(|action| metrics.begin(action));
        Self {
            store,
            receivers,
            limits,
            surroundings: Arc::new(surroundings),
            metrics,
            queue,
            under_way: JoinSet::new(),
            is_partial: false,
            seen: None,
            whole: None,
            owed: None,
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
        let ended = self.work(&wake, &stop).await;
        // Whoever carries on shows what waits.
        self.metrics.rest();
        ended
    }

    async fn work(&mut self, wake: &Notify, stop: &CancellationToken) -> Result<(), DeliveryError> {
        self.refill(stop).await?;
        while !stop.is_cancelled() {
            self.start();
            let due = self.queue.next_due();
            let look = (self.queue.len() > 0).then(|| Instant::now() + LOOK);
            tokio::select! {
                () = stop.cancelled() => break,
                () = wake.notified() => self.refill(stop).await?,
                Some(tried) = self.under_way.join_next(), if !self.under_way.is_empty() => {
                    self.conclude(tried, stop).await?;
                }
                () = until(due) => {}
                () = until(self.owed) => self.refill(stop).await?,
                () = until(look) => self.show_queue(),
            }
        }
        while let Some(tried) = self.under_way.join_next().await {
            self.conclude(tried, stop).await?;
        }
        Ok(())
    }

    /// Starts what is due and has room.
    fn start(&mut self) {
        while let Some(held) = self.queue.take_due(Instant::now()) {
            let receivers = Arc::clone(&self.receivers);
            let surroundings = Arc::clone(&self.surroundings);
            self.under_way.spawn(async move {
                let result = receivers.run(&held.intent, surroundings.now()).await;
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
        let mut ends = Vec::new();
        let mut next = Some(first);
        while let Some(tried) = next {
            match tried {
                Ok(tried) => ends.extend(self.judge(tried)),
                Err(error) => std::panic::resume_unwind(error.into_panic()),
            }
            next = self.under_way.try_join_next();
        }
        if ends.is_empty() {
            return Ok(());
        }
        let mut commit = Commit { durability: Durability::Process, ..Commit::default() };
        for (intent, result) in &ends {
            let text = serde_json::to_string(result).expect("a result of texts and numbers is JSON");
            commit.appends.extend(told_of_act(intent, result));
            let (decision, action) = (intent.decision, intent.action.clone());
            commit.finished.push(Finished { decision, action, result: text });
        }
        let store = Arc::clone(&self.store);
        if self.insist(stop, || store.commit(commit.clone())).await?.is_some() {
            for (intent, _) in &ends {
                self.queue.forget(intent);
            }
        }
        self.show_queue();
        if self.is_partial {
            self.refill(stop).await?;
        }
        Ok(())
    }

    fn judge(&mut self, tried: Tried) -> Option<(Arc<Intent>, ActionResult)> {
        let Tried { mut held, result } = tried;
        held.tries = held.tries.saturating_add(1);
        let now = self.surroundings.now();
        let failure = match result {
            Ok(Ended::Done(reason)) => return Some(self.finish(&held, End::Done, reason, now)),
            Ok(Ended::Superseded(reason)) => return Some(self.finish(&held, End::Superseded, reason, now)),
            Err(failure) => failure,
        };
        let backoff = self.receivers.backoff(&held.intent.action);
        let age = age(&held.intent, now);
        let jitter = self.surroundings.jitter();
        match backoff.next(failure.class, held.tries, age, jitter, failure.wish) {
            Next::Again(wait) => {
                self.metrics.count_retry(&held.intent.action);
                tracing::debug!(decision = %held.intent.decision, action = held.intent.action, tries = held.tries,
                    reason = failure.reason, "action failed and will be tried again");
                self.queue.put_back(held, Instant::now() + wait);
                None
            }
            Next::GiveUp | Next::Stop => {
                let end = if failure.class == Class::Transient { End::GivenUp } else { End::Rejected };
                Some(self.finish(&held, end, failure.reason, now))
            }
        }
    }

    fn finish(&mut self, held: &Held, end: End, reason: String, at: Timestamp) -> (Arc<Intent>, ActionResult) {
        let Intent { decision, action, .. } = &*held.intent;
        let status = match end {
            End::Done => ActionStatus::Done,
            End::Superseded => ActionStatus::Superseded,
            End::Rejected | End::GivenUp => ActionStatus::DeadLetter,
        };
        if status == ActionStatus::DeadLetter {
            tracing::error!(%decision, action, tries = held.tries, reason,
                "action given up: see to its receiver, then run it by hand");
        }
        self.metrics.count_end(action, end, age(&held.intent, at));
        if end == End::Done
            && let Some(committed) = self.receivers.committed_at(&held.intent)
        {
            self.metrics.blocked(action, elapsed(committed, at));
        }
        self.queue.settle(held, Instant::now());
        let result = ActionResult { action: action.clone(), status, tries: held.tries, reason, at };
        (Arc::clone(&held.intent), result)
    }

    fn show_queue(&self) {
        self.metrics.outbox_intents.set(count(self.queue.len()));
        let now = self.surroundings.now();
        let age = self.queue.oldest().map_or(0.0, |oldest| now.since(oldest).seconds().max(0.0));
        self.metrics.outbox_oldest_seconds.set(age);
    }

    /// Takes in what the outbox holds and is not held yet, once the replicas have it.
    async fn refill(&mut self, stop: &CancellationToken) -> Result<(), DeliveryError> {
        let now = Instant::now();
        let room = self.limits.intents.saturating_sub(self.queue.len());
        self.is_partial = room == 0;
        if self.is_partial || self.owed.is_some_and(|due| now < due) {
            return Ok(());
        }
        let is_whole = self.whole.is_none_or(|whole| now - whole >= WHOLE);
        let (behind, limit) = if is_whole { (None, self.limits.intents) } else { (self.seen.clone(), room) };
        let store = Arc::clone(&self.store);
        let Some(entries) = self.insist(stop, || store.outbox(behind.as_ref(), limit)).await? else { return Ok(()) };
        let is_new = |(_, intent): &(OutboxPlace, Intent)| !self.queue.holds(intent.decision, &intent.action);
        let mut entries = entries;
        if entries.iter().any(is_new) {
            match self.replicated().await? {
                None => return Ok(()),
                Some(Replicated::Nobody) => {}
                // Whoever confirmed may have taken the store over from the one that was read, and lack what that one held.
                Some(Replicated::Confirmed) => {
                    let Some(there) = self.insist(stop, || store.outbox(behind.as_ref(), limit)).await? else {
                        return Ok(());
                    };
                    entries.retain(|entry| there.contains(entry));
                }
            }
        }
        self.is_partial = entries.len() >= limit;
        self.whole = if is_whole { Some(now) } else { self.whole };
        for (place, intent) in entries {
            if self.queue.len() >= self.limits.intents {
                self.is_partial = true;
                break;
            }
            let account = self.receivers.account(&intent);
            self.queue.add(intent, account, now);
            self.seen = self.seen.take().max(Some(place));
        }
        self.show_queue();
        Ok(())
    }

    /// Whether the replicas have what was read: nobody acts before. `None`: not yet, it is read again a moment later.
    async fn replicated(&mut self) -> Result<Option<Replicated>, DeliveryError> {
        self.owed = None;
        let error = match self.store.replicated().await {
            Ok(replicated) => return Ok(Some(replicated)),
            Err(error) if error.class() == Class::Transient => error,
            Err(error) => return Err(error.into()),
        };
        tracing::warn!(%error, "actions wait for the replicas of the store");
        self.owed = Some(Instant::now() + REPLICAS);
        Ok(None)
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

/// What the audit log is told of an act by hand, which has no decision to stand under.
fn told_of_act(intent: &Intent, result: &ActionResult) -> Option<Append> {
    let act = Act::read(&intent.payload).ok().filter(|act| act.decision.is_none())?;
    let told = serde_json::json!({
        "act": "action_result", "id": act.id, "kind": act.kind, "entity": act.target, "at": act.decided_at, "result": result,
    });
    Some(Append { log: LogName::AUDIT, bytes: told.to_string().into() })
}

fn age(intent: &Intent, now: Timestamp) -> Duration {
    elapsed(intent.created, now)
}

/// Never negative, whatever the clocks.
fn elapsed(from: Timestamp, to: Timestamp) -> Duration {
    Duration::from_micros(u64::try_from(to.since(from).micros()).unwrap_or(0))
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
