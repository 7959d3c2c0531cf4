//! Intents that wait for their turn, in a lane per action: a receiver that hangs holds up its own lane only.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use interdict_store::port::Intent;
use tokio::time::Instant;
use uuid::Uuid;

/// An intent with the tries it has had.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) intent: Arc<Intent>,
    pub(super) tries: u32,
}

#[derive(Debug, Default)]
struct Lane {
    /// By due time, then order of arrival.
    waiting: BTreeMap<(Instant, u64), Held>,
    under_way: usize,
}

/// All intents held: waiting, under way, or with a result not yet committed.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: HashMap<String, Lane>,
    known: HashSet<(Uuid, String)>,
    concurrency: usize,
    arrivals: u64,
}

impl Queue {
    pub(super) fn new(concurrency: usize) -> Self {
        Self { lanes: HashMap::new(), known: HashSet::new(), concurrency: concurrency.max(1), arrivals: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    /// Adds an intent that is due now, unless it is held already.
    pub(super) fn add(&mut self, intent: Intent, now: Instant) {
        if self.known.insert((intent.decision, intent.action.clone())) {
            self.wait(Held { intent: Arc::new(intent), tries: 0 }, now);
        }
    }

    /// The next intent that is due and whose lane has room; it counts as under way until it is put back or settled.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Held> {
        let concurrency = self.concurrency;
        let open = self.lanes.values_mut().filter(|lane| lane.under_way < concurrency);
        let lane = open
            .filter(|lane| lane.waiting.keys().next().is_some_and(|(due, _)| *due <= now))
            .min_by_key(|lane| lane.waiting.keys().next().copied())?;
        let (_, held) = lane.waiting.pop_first()?;
        lane.under_way += 1;
        Some(held)
    }

    /// When the next intent of a lane with room is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let open = self.lanes.values().filter(|lane| lane.under_way < self.concurrency);
        open.filter_map(|lane| lane.waiting.keys().next()).map(|(due, _)| *due).min()
    }

    /// Takes an intent back that was under way.
    pub(super) fn put_back(&mut self, held: Held, due: Instant) {
        self.settle(&held.intent.action);
        self.wait(held, due);
    }

    /// Frees the place of an intent that was under way.
    pub(super) fn settle(&mut self, action: &str) {
        if let Some(lane) = self.lanes.get_mut(action) {
            lane.under_way = lane.under_way.saturating_sub(1);
        }
    }

    /// Lets go of an intent whose result is committed.
    pub(super) fn forget(&mut self, key: &(Uuid, String)) {
        self.known.remove(key);
    }

    fn wait(&mut self, held: Held, due: Instant) {
        self.arrivals += 1;
        let lane = self.lanes.entry(held.intent.action.clone()).or_default();
        lane.waiting.insert((due, self.arrivals), held);
    }
}
