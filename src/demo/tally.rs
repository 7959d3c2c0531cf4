//! Decisions counted against the simulated truth.
//!
//! A fraud is caught when its payment was blocked or sent to review, missed when it was approved. A genuine payment of an account that is
//! blocked already is counted apart, by what the account was blocked for.
//!
//! Invariant: every payment handed over waits here until its decision is stored, and is then counted once. What waits is bounded by what
//! the engine takes at once.

use std::collections::{HashMap, VecDeque};
use std::time::Instant;

use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome};

use crate::simulate::generator::{Scenario, Transaction};

use super::latency::{Latencies, Percentiles};

/// Blocked accounts that are shown.
const SHOWN: usize = 5;
const ACCOUNT: &str = "customer";

/// Everything counted so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pending: HashMap<i64, Pending>,
    blocked: HashMap<i64, Cause>,
    counts: Counts,
    shown: VecDeque<Blocked>,
    latencies: Latencies,
    recent: [Latencies; 2],
    newest: Option<Payment>,
    newest_blocked: Option<Payment>,
}

/// What an account was blocked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Cause {
    Fraud,
    Mistake,
}

#[derive(Clone, Copy, Debug)]
struct Pending {
    payment: Payment,
    due: Instant,
}

/// The truth about a payment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Payment {
    pub(super) customer: i64,
    pub(super) terminal: i64,
    pub(super) amount_minor: i64,
    pub(super) time_micros: i64,
    scenario: Option<Scenario>,
}

/// Payments, and their amounts in minor units.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Sum {
    pub(super) payments: u64,
    pub(super) minor: i64,
}

/// What became of the frauds of one scenario.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Fates {
    pub(super) blocked: Sum,
    pub(super) reviewed: Sum,
    pub(super) missed: Sum,
}

/// What became of genuine payments that were not approved.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Genuine {
    /// Blocked for what they are: false blocks.
    pub(super) blocked: Sum,
    pub(super) reviewed: Sum,
    /// Stopped because the account was blocked for a fraud.
    pub(super) stopped_after_fraud: Sum,
    /// Stopped because the account was blocked by mistake.
    pub(super) stopped_by_mistake: Sum,
}

/// All counts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Counts {
    /// By outcome: approved, reviewed, blocked.
    pub(super) outcomes: [u64; 3],
    /// In the order of [`Scenario::ALL`].
    pub(super) frauds: [Fates; Scenario::ALL.len()],
    pub(super) genuine: Genuine,
    pub(super) accounts_blocked: u64,
    /// Decisions on what was no payment of the simulation: asked for over HTTP.
    pub(super) requests: u64,
}

/// A blocked account as it is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Blocked {
    pub(super) account: String,
    /// Stable code of the reason.
    pub(super) reason: String,
}

impl Payment {
    /// A genuine payment for tests of what shows it.
    #[cfg(test)]
    pub(super) fn sample(customer: i64, terminal: i64, time_micros: i64) -> Self {
        Self { customer, terminal, amount_minor: 1_000, time_micros, scenario: None }
    }
}

impl Sum {
    fn add(&mut self, payment: &Payment) {
        self.payments += 1;
        self.minor += payment.amount_minor;
    }

    fn and(self, other: Self) -> Self {
        Self { payments: self.payments + other.payments, minor: self.minor + other.minor }
    }
}

impl Fates {
    pub(super) fn caught(&self) -> Sum {
        self.blocked.and(self.reviewed)
    }

    fn and(self, other: &Self) -> Self {
        Self {
            blocked: self.blocked.and(other.blocked),
            reviewed: self.reviewed.and(other.reviewed),
            missed: self.missed.and(other.missed),
        }
    }
}

impl Counts {
    pub(super) fn decided(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// The frauds of all scenarios.
    pub(super) fn all_frauds(&self) -> Fates {
        self.frauds.iter().fold(Fates::default(), Fates::and)
    }
}

impl Tally {
    /// Notes live payments and when each is due, before they are handed over.
    pub(super) fn handed(&mut self, payments: impl IntoIterator<Item = (Transaction, Instant)>) {
        for (transaction, due) in payments {
            let payment = Payment {
                customer: transaction.customer,
                terminal: transaction.terminal,
                amount_minor: transaction.amount_minor,
                time_micros: transaction.time_micros,
                scenario: transaction.scenario,
            };
            self.newest = Some(payment);
            self.pending.insert(transaction.id, Pending { payment, due });
        }
    }

    /// Counts a decision that was stored at `at`.
    pub(super) fn decided(&mut self, record: &DecisionRecord, at: Instant) {
        for intent in record.actions.iter().filter(|intent| intent.target.entity == ACCOUNT) {
            self.counts.accounts_blocked += 1;
            if self.shown.len() == SHOWN {
                self.shown.pop_front();
            }
            self.shown.push_back(Blocked { account: intent.target.key.clone(), reason: reason(record) });
        }
        let id: Option<i64> = record.event_id.parse().ok();
        let Some(Pending { payment, due }) = id.and_then(|id| self.pending.remove(&id)) else {
            self.counts.requests += 1;
            return;
        };
        let took = at.saturating_duration_since(due);
        self.latencies.add(took);
        self.recent[0].add(took);
        self.counts.outcomes[place(record.outcome)] += 1;
        match payment.scenario {
            Some(scenario) => self.count_fraud(&payment, scenario, record.outcome),
            None => self.count_genuine(&payment, record),
        }
        if record.actions.iter().any(|intent| intent.target.entity == ACCOUNT) {
            let cause = if payment.scenario.is_some() { Cause::Fraud } else { Cause::Mistake };
            self.blocked.insert(payment.customer, cause);
            self.newest_blocked = Some(payment);
        }
    }

    fn count_fraud(&mut self, payment: &Payment, scenario: Scenario, outcome: Outcome) {
        let fates = &mut self.counts.frauds[usize::from(scenario.number()) - 1];
        match outcome {
            Outcome::Approve => fates.missed.add(payment),
            Outcome::Review => fates.reviewed.add(payment),
            Outcome::Block => fates.blocked.add(payment),
        }
    }

    fn count_genuine(&mut self, payment: &Payment, record: &DecisionRecord) {
        let is_listed = record.decided_by == DecidedBy::List;
        let genuine = &mut self.counts.genuine;
        match (record.outcome, is_listed, self.blocked.get(&payment.customer)) {
            (Outcome::Approve, ..) => {}
            (Outcome::Review, ..) => genuine.reviewed.add(payment),
            (Outcome::Block, true, Some(Cause::Fraud)) => genuine.stopped_after_fraud.add(payment),
            // A block that was set by hand, or by an earlier run, is not known to have had a cause.
            (Outcome::Block, true, _) => genuine.stopped_by_mistake.add(payment),
            (Outcome::Block, false, _) => genuine.blocked.add(payment),
        }
    }

    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// The accounts blocked last, the newest last.
    pub(super) fn shown(&self) -> impl Iterator<Item = &Blocked> {
        self.shown.iter()
    }

    /// Payments without a decision yet.
    pub(super) fn undecided(&self) -> usize {
        self.pending.len()
    }

    /// The simulated time of the newest payment, microseconds.
    pub(super) fn simulated_micros(&self) -> Option<i64> {
        self.newest.map(|payment| payment.time_micros)
    }

    /// A payment to try requests with: the newest that blocked its account, else the newest.
    pub(super) fn example(&self) -> Option<Payment> {
        self.newest_blocked.or(self.newest)
    }

    /// Of all decisions: from when the payment was due to its stored decision.
    pub(super) fn percentiles(&self) -> Percentiles {
        self.latencies.percentiles_with(None)
    }

    /// The same of the decisions since the last rotation but one.
    pub(super) fn recent_percentiles(&self) -> Percentiles {
        self.recent[0].percentiles_with(Some(&self.recent[1]))
    }

    pub(super) fn rotate(&mut self) {
        self.recent.swap(0, 1);
        self.recent[0].clear();
    }
}

fn place(outcome: Outcome) -> usize {
    match outcome {
        Outcome::Approve => 0,
        Outcome::Review => 1,
        Outcome::Block => 2,
    }
}

/// The first reason's code, with the score where that is the reason.
fn reason(record: &DecisionRecord) -> String {
    let code = record.reasons.first().map_or("no reason", |reason| reason.code.as_str());
    match record.score {
        Some(score) if record.decided_by == DecidedBy::Model => format!("{code} {score:.2}"),
        _ => code.to_owned(),
    }
}

#[cfg(test)]
mod tests;
