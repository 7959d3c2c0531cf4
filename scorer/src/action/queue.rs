//! Intents that wait for their turn, in a lane per action: a receiver that hangs holds up its own lane only.
//!
//! Invariant: of the intents of one action on one account at most one waits or is under way; the others stand behind it
//! in their order, and in nobody else's way.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use interdict_features::time::Timestamp;
use interdict_store::port::Intent;
use tokio::time::Instant;
use uuid::Uuid;

/// An intent with the tries it has had.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) intent: Arc<Intent>,
    pub(super) tries: u32,
    /// Whose order it keeps.
    account: Option<String>,
}

#[derive(Debug, Default)]
struct Lane {
    /// By due time, then order of arrival.
    waiting: BTreeMap<(Instant, u64), Held>,
    /// By account of which an intent is waiting or under way: those that come after it.
    followers: HashMap<String, VecDeque<Held>>,
    under_way: usize,
    concurrency: usize,
}

impl Lane {
    fn has_room(&self) -> bool {
        self.under_way < self.concurrency
    }
}

/// All intents held: waiting, under way, or with a result not yet committed.
#[derive(Debug)]
pub(super) struct Queue {
    lanes: HashMap<String, Lane>,
    known: HashMap<String, HashSet<Uuid>>,
    held: usize,
    /// How many of the intents held came into being when.
    ages: BTreeMap<Timestamp, usize>,
    concurrency: usize,
    bounds: HashMap<String, usize>,
    arrivals: u64,
}

impl Queue {
    /// Lanes of `concurrency` intents under way, or as `bounds` says of an action.
    pub(super) fn new(concurrency: usize, bounds: HashMap<String, usize>) -> Self {
        Self {
            lanes: HashMap::new(),
            known: HashMap::new(),
            held: 0,
            ages: BTreeMap::new(),
            concurrency,
            bounds,
            arrivals: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.held
    }

    /// When the oldest intent held came into being.
    pub(super) fn oldest(&self) -> Option<Timestamp> {
        self.ages.keys().next().copied()
    }

    pub(super) fn holds(&self, decision: Uuid, action: &str) -> bool {
        self.known.get(action).is_some_and(|known| known.contains(&decision))
    }

    /// Adds an intent that is due now, or after those of its account that are held; unless it is held already.
    pub(super) fn add(&mut self, intent: Intent, account: Option<String>, now: Instant) {
        if !self.known.entry(intent.action.clone()).or_default().insert(intent.decision) {
            return;
        }
        self.held += 1;
        *self.ages.entry(intent.created).or_default() += 1;
        let held = Held { intent: Arc::new(intent), tries: 0, account };
        let lane = self.lane(&held.intent.action);
        if let Some(account) = &held.account {
            if let Some(followers) = lane.followers.get_mut(account) {
                followers.push_back(held);
                return;
            }
            lane.followers.insert(account.clone(), VecDeque::new());
        }
        self.wait(held, now);
    }

    /// The next intent that is due and whose lane has room; it counts as under way until it is put back or settled.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Held> {
        let open = self.lanes.values_mut().filter(|lane| lane.has_room());
        let lane = open
            .filter(|lane| lane.waiting.keys().next().is_some_and(|(due, _)| *due <= now))
            .min_by_key(|lane| lane.waiting.keys().next().copied())?;
        let (_, held) = lane.waiting.pop_first()?;
        lane.under_way += 1;
        Some(held)
    }

    /// When the next intent of a lane with room is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        let open = self.lanes.values().filter(|lane| lane.has_room());
        open.filter_map(|lane| lane.waiting.keys().next()).map(|(due, _)| *due).min()
    }

    /// Takes an intent back that was under way.
    pub(super) fn put_back(&mut self, held: Held, due: Instant) {
        let lane = self.lane(&held.intent.action);
        lane.under_way = lane.under_way.saturating_sub(1);
        self.wait(held, due);
    }

    /// Frees the place of an intent that was under way, for the next one of its account.
    pub(super) fn settle(&mut self, held: &Held, now: Instant) {
        let lane = self.lane(&held.intent.action);
        lane.under_way = lane.under_way.saturating_sub(1);
        let Some(account) = &held.account else { return };
        match lane.followers.get_mut(account).and_then(VecDeque::pop_front) {
            Some(next) => self.wait(next, now),
            None => drop(lane.followers.remove(account)),
        }
    }

    /// Lets go of an intent whose result is committed.
    pub(super) fn forget(&mut self, intent: &Intent) {
        if !self.known.get_mut(&intent.action).is_some_and(|known| known.remove(&intent.decision)) {
            return;
        }
        self.held -= 1;
        if let Some(count) = self.ages.get_mut(&intent.created) {
            *count -= 1;
            if *count == 0 {
                self.ages.remove(&intent.created);
            }
        }
    }

    fn lane(&mut self, action: &str) -> &mut Lane {
        let concurrency = self.bounds.get(action).copied().unwrap_or(self.concurrency).max(1);
        self.lanes.entry(action.to_owned()).or_insert_with(|| Lane { concurrency, ..Lane::default() })
    }

    fn wait(&mut self, held: Held, due: Instant) {
        self.arrivals += 1;
        let at = (due, self.arrivals);
        self.lane(&held.intent.action).waiting.insert(at, held);
    }
}
