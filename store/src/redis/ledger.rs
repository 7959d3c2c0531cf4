//! Which commits of this process are on their way or in doubt, so that one whose answer was lost can be made again.
//!
//! Every commit carries a number of this process, its token. The server keeps the answer under the token until the
//! commit is settled; a commit that comes again under its token is answered from there. A token that is settled is
//! refused: what an old connection still holds comes too late to be made a second time. Every commit says which tokens
//! are settled: all below the lowest one that is made for the first time, but for those in doubt, which it names. So one
//! in doubt that nobody makes again keeps its own answer at the server and no other.
//!
//! Invariants:
//! - A token is settled once its answer is known, or once nobody can ask about it any more. It stays settled, so of two
//!   things said the later one holds, in whichever order they arrive: each has a number, its turn.
//! - At most [`DOUBTS_MAX`] commits are in doubt; of more, the oldest can no longer be asked about.

use std::collections::{BTreeSet, VecDeque};
use std::fmt::Write as _;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, MutexGuard, PoisonError};

use uuid::Uuid;

use super::encode::Body;

/// Commits that may be in doubt: one per caller is usual.
const DOUBTS_MAX: usize = 64;

/// The commits of this process.
pub(super) struct Ledger {
    writer: Uuid,
    hashers: [RandomState; 2],
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    next: u64,
    /// On their way for the first time.
    flying: BTreeSet<u64>,
    /// On their way after they were in doubt.
    again: BTreeSet<u64>,
    doubts: VecDeque<Doubt>,
    known: u64,
    /// How often it was said which are settled.
    turn: u64,
}

struct Doubt {
    token: u64,
    /// Compared first: few commits are worth a fingerprint.
    size: (usize, usize),
    fingerprint: u128,
}

/// A commit on its way. Dropped before it is settled, it is in doubt.
pub(super) struct Flight<'a> {
    ledger: &'a Ledger,
    body: &'a Body,
    token: Option<u64>,
    was_in_doubt: bool,
}

/// What a commit says of itself and of those before it.
#[derive(PartialEq, Eq, Debug)]
pub(super) struct Standing {
    pub(super) token: u64,
    /// Later ones say more.
    pub(super) turn: u64,
    /// The tokens below are settled.
    pub(super) low: u64,
    /// But for these, each between commas.
    pub(super) kept: String,
    /// Number of the newest commit in the database that this process knows of.
    pub(super) known: u64,
}

impl Ledger {
    pub(super) fn new() -> Self {
        let state = Mutex::new(State { next: 1, ..State::default() });
        Self { writer: Uuid::new_v4(), hashers: [RandomState::new(), RandomState::new()], state }
    }

    /// This process's name among the writers.
    pub(super) fn writer(&self) -> Uuid {
        self.writer
    }

    /// Begins a commit: under its old token if it is one that is in doubt.
    pub(super) fn begin<'a>(&'a self, body: &'a Body) -> Flight<'a> {
        let mut state = self.state();
        let doubted = if state.doubts.iter().any(|doubt| doubt.size == body.size()) {
            let fingerprint = self.fingerprint(body);
            state.doubts.iter().position(|doubt| doubt.size == body.size() && doubt.fingerprint == fingerprint)
        } else {
            None
        };
        let doubted = doubted.and_then(|at| state.doubts.remove(at));
        let token = doubted.as_ref().map_or(state.next, |doubt| doubt.token);
        if doubted.is_some() {
            state.again.insert(token);
        } else {
            state.next += 1;
            state.flying.insert(token);
        }
        Flight { ledger: self, body, token: Some(token), was_in_doubt: doubted.is_some() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change under the lock is complete before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn fingerprint(&self, body: &Body) -> u128 {
        let [low, high] = &self.hashers;
        u128::from(high.hash_one(body)) << 64 | u128::from(low.hash_one(body))
    }
}

impl State {
    /// A commit is no longer on its way.
    fn ends(&mut self, token: u64) {
        self.flying.remove(&token);
        self.again.remove(&token);
    }
}

impl Flight<'_> {
    /// Whether it may stand in the database already.
    pub(super) fn was_in_doubt(&self) -> bool {
        self.was_in_doubt
    }

    /// What the commit says when it is sent now.
    pub(super) fn standing(&self) -> Standing {
        let mut state = self.ledger.state();
        state.turn += 1;
        let token = self.token.expect("a flight is settled by value");
        let low = state.flying.first().copied().unwrap_or(state.next);
        let unsettled = state.doubts.iter().map(|doubt| doubt.token).chain(state.again.iter().copied());
        let mut kept = String::new();
        for token in unsettled.filter(|token| *token < low) {
            let comma = if kept.is_empty() { "," } else { "" };
            write!(kept, "{comma}{token},").expect("a text takes every text");
        }
        Standing { token, turn: state.turn, low, kept, known: state.known }
    }

    /// The commit is in the database, under this number.
    pub(super) fn landed(mut self, sequence: u64) {
        self.settle(sequence);
    }

    /// Nothing of the commit was made, nor will be.
    pub(super) fn refused(mut self) {
        self.settle(0);
    }

    fn settle(&mut self, sequence: u64) {
        if let Some(token) = self.token.take() {
            let mut state = self.ledger.state();
            state.ends(token);
            state.known = state.known.max(sequence);
        }
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        let Some(token) = self.token.take() else { return };
        let fingerprint = self.ledger.fingerprint(self.body);
        let mut state = self.ledger.state();
        state.ends(token);
        if state.doubts.len() == DOUBTS_MAX {
            state.doubts.pop_front();
        }
        state.doubts.push_back(Doubt { token, size: self.body.size(), fingerprint });
    }
}
