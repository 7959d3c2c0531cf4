//! What the engine should read, by definition: every row recomputed from all changes known of it, every window counted from a plain
//! list. Nothing of the engine's own code is in it.

use std::collections::HashMap;

use interdict_features::change::Op;

use super::history::{DAY, Delivery, Payment, What};

const HOUR: i64 = 3_600_000_000;
const SECOND: i64 = 1_000_000;
/// The definitions' windows, delay of the terminals, slack and disorder.
const WINDOWS: [i64; 3] = [DAY, 7 * DAY, 30 * DAY];
const DELAY: i64 = 7 * DAY;
const SLACK: i64 = HOUR;
const DISORDER: i64 = SECOND;

/// What both twin and engine evaluate; the order of [`FEATURES`] follows from it.
pub(crate) const DEFINITIONS: &str = r#"
[stream.transactions]
id = "transaction_id"
time = "tx_datetime"
partition_by = "customer_id"
label = "is_fraud"
judge = "insert"
columns = { transaction_id = "int64", tx_datetime = "timestamp", customer_id = "int64", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }

[stream.chargebacks]
labels = "transactions"
id = "transaction_id"
value = "is_fraud"
time = "reported_at"
columns = { transaction_id = "int64", is_fraud = "bool", reported_at = "timestamp" }

[entity.customer]
key = "customer_id"
[entity.terminal]
key = "terminal_id"

[[group]]
name = "customer_spend"
entity = "customer"
windows = ["1d", "7d", "30d"]
[group.features]
count = "count()"
mean = "mean(amount)"
sum = "sum(amount)"
max = "max(amount)"
last = "last(terminal_id)"
gap = "time_since_last()"
large = "share(amount > 100.0)"

[[group]]
name = "terminal_risk"
entity = "terminal"
delay = "7d"
windows = ["1d", "7d", "30d"]
features = { count = "count()", fraud = "share(label)" }

[[derived]]
features = { is_weekend = "weekday(tx_datetime) >= 5", is_night = "hour(tx_datetime) <= 6", amount_vs_avg = "amount / customer_spend.mean_30d" }
"#;

/// The features in their order.
pub(super) fn names() -> Vec<String> {
    let spend = ["count", "mean", "sum", "max", "last", "gap", "large"].map(|name| format!("customer_spend.{name}"));
    let risk = ["count", "fraud"].map(|name| format!("terminal_risk.{name}"));
    let windowed =
        spend.iter().chain(&risk).flat_map(|name| ["1d", "7d", "30d"].map(|window| format!("{name}_{window}")));
    windowed.chain(["is_weekend", "is_night", "amount_vs_avg"].map(str::to_owned)).collect()
}

/// Which history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Entity {
    Customer,
    Terminal,
}

impl Entity {
    pub(super) const ALL: [Self; 2] = [Self::Customer, Self::Terminal];

    const fn delay(self) -> i64 {
        match self {
            Self::Customer => 0,
            Self::Terminal => DELAY,
        }
    }

    const fn retention(self) -> i64 {
        self.delay() + WINDOWS[2] + SLACK
    }

    pub(super) const fn key(self, payment: &Payment) -> i64 {
        match self {
            Self::Customer => payment.customer,
            Self::Terminal => payment.terminal,
        }
    }
}

/// One value: its bits, and whether the window reaches behind what is retained.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Expected {
    pub(super) bits: Option<u64>,
    pub(super) is_truncated: bool,
    /// The window reaches behind what was retained when the newest event ever was there, which may be gone again.
    pub(super) was_dropped: bool,
}

/// When something is read, and for which event with which place among equal times.
#[derive(Clone, Copy, PartialEq, Debug)]
pub(super) struct Instant {
    pub(super) time: i64,
    pub(super) subject: Option<(i64, u64)>,
}

#[derive(Clone, Debug)]
struct Event {
    time: i64,
    first: u64,
    payment: Payment,
    labels: Option<Reports>,
}

/// Report time (`i64::MIN`: known at once) and label, in order.
type Reports = Box<[(i64, Option<bool>)]>;

impl Event {
    fn order(&self) -> (i64, u64, i64) {
        (self.time, self.first, self.payment.id)
    }

    fn is_fraud(&self, instant: i64) -> bool {
        let known = self.labels.iter().flat_map(|labels| labels.iter());
        known.take_while(|(reported, _)| *reported <= instant).last().is_some_and(|(_, label)| *label == Some(true))
    }
}

#[derive(Default, Debug)]
struct History {
    events: Vec<Event>,
    /// The newest event time there ever was.
    newest_ever: i64,
}

/// Everything delivered so far.
#[derive(Default, Debug)]
pub(super) struct Twin {
    /// By id, as the simulator numbers its payments.
    rows: Vec<Vec<Delivery>>,
    events: Vec<Option<Event>>,
    customers: HashMap<i64, History>,
    terminals: HashMap<i64, History>,
}

impl Twin {
    /// What is known of the rows of a customer: for a failing test to show.
    pub(super) fn told(&self, customer: i64, from: i64) -> String {
        let events = self.customers.get(&customer).map_or(&[][..], |history| &history.events);
        let recent = events.iter().filter(|event| event.time > from);
        recent.map(|event| format!("{event:?} of {:?}\n", self.rows[event.payment.id as usize])).collect()
    }

    /// Whether a change of this row was delivered.
    pub(super) fn knows(&self, id: i64) -> bool {
        self.rows.get(id as usize).is_some_and(|changes| changes.iter().any(|change| !change.is_report()))
    }

    /// The row as it stands, and its place among equal times.
    pub(super) fn row(&self, id: i64) -> Option<(Payment, u64)> {
        self.events.get(id as usize)?.as_ref().map(|event| (event.payment, event.first))
    }

    /// All rows as they stand.
    pub(super) fn rows(&self) -> impl Iterator<Item = (Payment, u64)> {
        self.events.iter().flatten().map(|event| (event.payment, event.first))
    }

    pub(super) fn keys(&self, entity: Entity) -> impl Iterator<Item = i64> {
        self.of(entity).keys().copied()
    }

    pub(super) fn apply(&mut self, delivery: &Delivery) {
        let id = delivery.id() as usize;
        if self.rows.len() <= id {
            self.rows.resize(id + 1, Vec::new());
            self.events.resize(id + 1, None);
        }
        let changes = &mut self.rows[id];
        let is_known = |change: &Delivery| change.lsn == delivery.lsn && change.is_report() == delivery.is_report();
        if changes.iter().any(is_known) {
            return;
        }
        changes.push(*delivery);
        let new = settle(changes);
        if let Some(old) = self.events[id].take() {
            self.each(&old.payment, |history| {
                let at = history.events.binary_search_by_key(&old.order(), Event::order).unwrap();
                history.events.remove(at);
            });
        }
        if let Some(new) = new {
            self.each(&new.payment, |history| {
                let at = history.events.binary_search_by_key(&new.order(), Event::order).unwrap_err();
                history.events.insert(at, new.clone());
                history.newest_ever = history.newest_ever.max(new.time);
            });
            self.events[id] = Some(new);
        }
    }

    fn each(&mut self, payment: &Payment, mut change: impl FnMut(&mut History)) {
        change(self.customers.entry(payment.customer).or_default());
        change(self.terminals.entry(payment.terminal).or_default());
    }

    fn of(&self, entity: Entity) -> &HashMap<i64, History> {
        match entity {
            Entity::Customer => &self.customers,
            Entity::Terminal => &self.terminals,
        }
    }

    /// The instant at which a decision on this row reads an entity.
    pub(super) fn instant(&self, entity: Entity, payment: &Payment, first: u64) -> Instant {
        let history = self.of(entity).get(&entity.key(payment));
        let newest = history.and_then(|history| history.events.last()).map(|event| event.time);
        match newest {
            Some(newest) if newest > payment.time && newest - payment.time <= DISORDER => {
                Instant { time: newest, subject: Some((payment.id, u64::MAX)) }
            }
            _ => Instant { time: payment.time, subject: Some((payment.id, first)) },
        }
    }

    /// The vector that a decision on this row sees, with the instants of its reads.
    pub(super) fn vector(&self, payment: &Payment, first: u64, out: &mut Vec<Expected>) -> [i64; 2] {
        out.clear();
        let instants = Entity::ALL.map(|entity| {
            let instant = self.instant(entity, payment, first);
            self.read(entity, entity.key(payment), instant, out);
            instant.time
        });
        derive(payment, out);
        instants
    }

    /// The vector that a decision sees on a row that is gone again by now: as if it were there, and nowhere else.
    pub(super) fn vector_of_gone(&mut self, payment: Payment, first: u64, out: &mut Vec<Expected>) -> [i64; 2] {
        let event = Event { time: payment.time, first, payment, labels: None };
        self.each(&payment, |history| {
            let at = history.events.binary_search_by_key(&event.order(), Event::order).unwrap_err();
            history.events.insert(at, event.clone());
        });
        let as_of = self.vector(&payment, first, out);
        self.each(&payment, |history| history.events.retain(|other| other.payment.id != payment.id));
        as_of
    }

    /// The vector of a row read at its own time, with everything that is known by now: what a history is evaluated to.
    pub(super) fn at_its_time(&self, payment: &Payment, first: u64, out: &mut Vec<Expected>) {
        out.clear();
        for entity in Entity::ALL {
            let instant = Instant { time: payment.time, subject: Some((payment.id, first)) };
            self.read(entity, entity.key(payment), instant, out);
        }
        derive(payment, out);
    }

    /// Every windowed feature of a key, feature by feature.
    pub(super) fn read(&self, entity: Entity, key: i64, at: Instant, out: &mut Vec<Expected>) {
        let none = History::default();
        let history = self.of(entity).get(&key).unwrap_or(&none);
        let upper = at.time - entity.delay();
        let is_seen = |event: &&Event| match at.subject {
            Some((id, first)) if entity.delay() == 0 && event.time == upper => {
                event.first <= first || event.payment.id == id
            }
            _ => true,
        };
        let end = history.events.partition_point(|event| event.time <= upper);
        let from = history.events[..end].partition_point(|event| event.time <= upper - WINDOWS[2]);
        let widest: Vec<&Event> = history.events[from..end].iter().filter(is_seen).collect();
        let newest = history.events.last().map_or(i64::MIN, |event| event.time - entity.retention());
        let windows = WINDOWS.map(|window| {
            let lower = upper - window;
            let within = &widest[widest.partition_point(|event| event.time <= lower)..];
            (within, lower < newest, lower < history.newest_ever - entity.retention())
        });
        let mut push = |value: &dyn Fn(&[&Event]) -> Option<u64>| {
            out.extend(windows.iter().map(|&(within, is_truncated, was_dropped)| Expected {
                bits: value(within),
                is_truncated,
                was_dropped,
            }));
        };
        push(&|within| Some(within.len() as u64));
        match entity {
            Entity::Customer => spend(upper, at, push),
            Entity::Terminal => push(&|within| share(within, |event| event.is_fraud(at.time))),
        }
    }
}

fn spend(upper: i64, at: Instant, mut push: impl FnMut(&dyn Fn(&[&Event]) -> Option<u64>)) {
    let double = |value: f64| Some(value.to_bits());
    let sum = |within: &[&Event]| within.iter().map(|event| i128::from(event.payment.cents)).sum::<i128>() as f64;
    push(&|within| if within.is_empty() { None } else { double(sum(within) / (within.len() as f64 * 100.0)) });
    push(&|within| if within.is_empty() { None } else { double(sum(within) / 100.0) });
    push(&|within| within.iter().map(|event| event.payment.cents).max().and_then(|cents| double(cents as f64 / 100.0)));
    push(&|within| within.last().map(|event| event.payment.terminal.cast_unsigned()));
    push(&|within| {
        let other = |event: &&&Event| at.subject.is_none_or(|(id, _)| id != event.payment.id);
        within.iter().rfind(other).and_then(|event| double((upper - event.time) as f64 / 1e6))
    });
    push(&|within| share(within, |event| event.payment.cents > 10_000));
}

fn share(within: &[&Event], holds: impl Fn(&Event) -> bool) -> Option<u64> {
    let count = within.iter().filter(|event| holds(event)).count();
    (!within.is_empty()).then(|| (count as f64 / within.len() as f64).to_bits())
}

fn derive(payment: &Payment, out: &mut Vec<Expected>) {
    let known = |bits: u64| Expected { bits: Some(bits), ..Expected::default() };
    let weekday = (payment.time.div_euclid(DAY) + 3).rem_euclid(7);
    let hour = payment.time.rem_euclid(DAY) / HOUR;
    let mean = out[5];
    out.push(known(u64::from(weekday >= 5)));
    out.push(known(u64::from(hour <= 6)));
    let ratio = |mean: u64| (payment.cents as f64 / 100.0) / f64::from_bits(mean);
    out.push(Expected { bits: mean.bits.map(ratio).filter(|ratio| ratio.is_finite()).map(f64::to_bits), ..mean });
}

/// The event that these changes of one row leave, in whatever order they came.
fn settle(changes: &[Delivery]) -> Option<Event> {
    let mut versions: Vec<(&Delivery, Op, Payment)> = Vec::new();
    let mut reports: Vec<(i64, u64, Option<bool>)> = Vec::new();
    for change in changes {
        match change.what {
            What::Row(op, payment) => versions.push((change, op, payment)),
            What::Report { value, reported, .. } => reports.push((reported, change.lsn, value)),
        }
    }
    versions.sort_by_key(|(change, ..)| change.lsn);
    reports.sort_unstable();
    let (_, op, payment) = *versions.last()?;
    if op == Op::Delete {
        return None;
    }
    let first = versions.iter().find(|(_, op, _)| *op != Op::Delete)?.0.lsn;
    let base = versions.iter().rposition(|(_, op, _)| matches!(op, Op::Insert | Op::Delete)).unwrap_or(0);
    let (mut labels, mut own, mut floor) = (Vec::new(), None, i64::MIN);
    for (change, op, payment) in versions[base..].iter().filter(|(_, op, _)| *op != Op::Delete) {
        // A version that repeats the label of the one before says nothing new.
        if payment.label != own {
            own = payment.label;
            if *op == Op::Update {
                floor = floor.max(change.commit);
            }
            labels.push((floor, own));
        }
    }
    labels.extend(reports.into_iter().map(|(reported, _, value)| (reported, value)));
    labels.sort_by_key(|(reported, _)| *reported);
    let labels = (!labels.is_empty()).then(|| labels.into_boxed_slice());
    Some(Event { time: payment.time, first, payment, labels })
}
