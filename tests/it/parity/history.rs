//! The simulator's payments as a table lives them: late, corrected, moved to other keys, deleted, inserted again, labelled in every
//! way a label can come, and delivered twice and out of order. Everything follows from a seed.

use interdict_features::change::Op;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const MINUTE: i64 = 60_000_000;
const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

/// One version of a payment's row.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) struct Payment {
    pub(crate) id: i64,
    pub(crate) time: i64,
    pub(crate) customer: i64,
    pub(crate) terminal: i64,
    pub(crate) cents: i64,
    pub(crate) label: Option<bool>,
}

/// What a change says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(crate) enum What {
    /// A version of the row: insert, update or delete (then only the id counts).
    Row(Op, Payment),
    /// A report of the label stream.
    Report { id: i64, value: Option<bool>, reported: i64 },
}

impl What {
    /// Whether a row came to be.
    pub(crate) const fn is_insert(&self) -> bool {
        matches!(self, Self::Row(Op::Insert, _))
    }
}

/// One change as it is delivered.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Delivery {
    pub(super) what: What,
    /// Orders versions: the place of its commit.
    pub(super) lsn: u64,
    pub(super) commit: i64,
    /// Where in its own partition it was delivered, from 1.
    pub(super) position: u64,
}

impl Delivery {
    pub(super) fn is_report(&self) -> bool {
        matches!(self.what, What::Report { .. })
    }

    pub(super) fn id(&self) -> i64 {
        match self.what {
            What::Row(_, payment) => payment.id,
            What::Report { id, .. } => id,
        }
    }
}

/// What happens to a row after its insert.
#[derive(Clone, Copy)]
enum Event {
    Amount,
    Terminal,
    Customer,
    Time,
    OwnLabel(bool),
    Delete,
    Insert,
}

struct Life<'a> {
    chance: &'a mut ChaCha8Rng,
    commits: &'a mut Vec<(i64, What)>,
    payment: Payment,
}

impl Life<'_> {
    fn hits(&mut self, share: f64) -> bool {
        self.chance.random_bool(share)
    }

    fn within(&mut self, most: i64) -> i64 {
        self.chance.random_range(1..=most)
    }

    fn live(mut self, is_fraud: bool) {
        let late = match self.chance.random_range(0..100) {
            0..2 => self.within(4 * DAY),
            2..10 => self.within(10 * MINUTE),
            _ => self.chance.random_range(0..2_000_000),
        };
        let inserted = self.payment.time + late;
        let mut events: Vec<(i64, Event)> = Vec::new();
        let mut plan = |life: &mut Self, share: f64, most: i64, event: Event| {
            if life.hits(share) {
                events.push((inserted + life.within(most), event));
            }
        };
        plan(&mut self, 0.06, 6 * HOUR, Event::Amount);
        plan(&mut self, 0.02, 12 * HOUR, Event::Terminal);
        plan(&mut self, 0.01, DAY, Event::Customer);
        plan(&mut self, 0.005, HOUR, Event::Time);
        if self.hits(0.02) {
            let deleted = inserted + self.within(3 * DAY);
            events.push((deleted, Event::Delete));
            if self.hits(0.5) {
                events.push((deleted + self.within(6 * HOUR), Event::Insert));
            }
        }
        self.labels(is_fraud, inserted, &mut events);
        events.sort_by_key(|(at, _)| *at);
        self.commits.push((inserted, What::Row(Op::Insert, self.payment)));
        let mut is_live = true;
        for (at, event) in events {
            if is_live != matches!(event, Event::Insert) {
                is_live = !matches!(event, Event::Delete);
                self.commit(at, event);
            }
        }
    }

    fn commit(&mut self, at: i64, event: Event) {
        let op = match event {
            Event::Amount => {
                self.payment.cents += self.within(2_000);
                Op::Update
            }
            Event::Terminal => {
                self.payment.terminal += 1;
                Op::Update
            }
            Event::Customer => {
                self.payment.customer += 1;
                Op::Update
            }
            Event::Time => {
                self.payment.time -= self.within(HOUR);
                Op::Update
            }
            Event::OwnLabel(label) => {
                self.payment.label = Some(label);
                Op::Update
            }
            Event::Delete => Op::Delete,
            Event::Insert => {
                self.payment.label = None;
                Op::Insert
            }
        };
        self.commits.push((at, What::Row(op, self.payment)));
    }

    /// Reports come about a week later, some flip, some are repeated, some come before the row.
    fn labels(&mut self, is_fraud: bool, inserted: i64, events: &mut Vec<(i64, Event)>) {
        if !is_fraud && !self.hits(0.03) {
            return;
        }
        let mut at = inserted + 6 * DAY + self.within(2 * DAY);
        let mut label = is_fraud || self.hits(0.5);
        if self.hits(0.05) {
            at = inserted - self.within(DAY);
        }
        for _ in 0..if self.hits(0.2) { 3 } else { 1 } {
            if self.hits(0.3) && at > inserted {
                events.push((at, Event::OwnLabel(label)));
            } else {
                let value = (!self.hits(0.02)).then_some(label);
                let reported = at - self.within(HOUR);
                self.commits.push((at, What::Report { id: self.payment.id, value, reported }));
            }
            at += self.within(3 * DAY);
            label ^= self.hits(0.7);
        }
    }
}

/// Every change of these payments, in order of commit: that is the order of versions.
pub(crate) fn commits(payments: &[(Payment, bool)], seed: u64) -> Vec<(i64, What)> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed);
    let mut commits = Vec::with_capacity(payments.len() * 3 / 2);
    for &(payment, is_fraud) in payments {
        Life { chance: &mut chance, commits: &mut commits, payment }.live(is_fraud);
    }
    commits.sort_by_key(|(at, _)| *at);
    commits
}

/// The changes of these payments in order of delivery.
pub(super) fn deliveries(payments: &[(Payment, bool)], seed: u64) -> Vec<Delivery> {
    let mut chance = ChaCha8Rng::seed_from_u64(seed ^ 0x5eed);
    let mut due = Vec::with_capacity(payments.len() * 3 / 2);
    for (lsn, (commit, what)) in (1_u64..).zip(commits(payments, seed)) {
        let mut at = commit;
        if chance.random_bool(0.03) {
            at += chance.random_range(1..=10 * MINUTE);
        }
        let delivery = Delivery { what, lsn, commit, position: 0 };
        due.push((at, delivery));
        if chance.random_bool(0.05) {
            due.push((at + chance.random_range(1..=2 * DAY), delivery));
        }
    }
    due.sort_by_key(|(at, _)| *at);
    let (mut rows, mut reports) = (0, 0);
    let place = |(_, mut delivery): (i64, Delivery)| {
        let position = if delivery.is_report() { &mut reports } else { &mut rows };
        *position += 1;
        delivery.position = *position;
        delivery
    };
    due.into_iter().map(place).collect()
}
