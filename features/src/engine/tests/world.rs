//! A small world with every aggregation in it, a source of changes, and a caller that keeps what checkpoints write.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::change::{Change, ChangeBatch, Op, Version};
use crate::config::ConfigFile;
use crate::definition::Definitions;
use crate::engine::{Engine, Evaluate, Outcome, Output, OwnedKey, Plan};
use crate::time::Timestamp;
use crate::value::{NULL, UNCHANGED, double_cell};
use crate::vector::Reading;

pub(super) const PAYMENTS: usize = 0;
pub(super) const CHARGEBACKS: usize = 1;
pub(super) const LOGINS: usize = 2;
pub(super) const ACCOUNTS: usize = 3;
/// The time around which everything happens.
pub(super) const NOON: i64 = 1_700_000_000_000_000;
pub(super) const SECOND: i64 = 1_000_000;

pub(super) const ALL: &str = r#"
[time]
disorder = "2s"
slack = "1h"

[stream.payments]
id = "id"
time = "at"
label = "fraud"
columns = { id = "int64", at = "timestamp", customer = "int64", terminal = "string", amount = "decimal(2)", weight = "double", items = "int64", country = "string", online = "bool", seen = "timestamp", lat = "double", lon = "double", fraud = "bool" }

[stream.chargebacks]
labels = "payments"
id = "id"
value = "fraud"
time = "reported"
columns = { id = "int64", fraud = "bool", reported = "timestamp" }

[stream.logins]
id = "login"
time = "at"
judge = "none"
columns = { login = "int64", at = "timestamp", customer = "int64", country = "string" }

[stream.accounts]
id = "account"
time = "changed"
judge = "none"
columns = { account = "int64", changed = "timestamp", customer = "int64", status = "string", credit = "decimal(2)" }

[entity.customer]
key = "customer"
[entity.terminal]
key = "terminal"

[[group]]
name = "spend"
entity = "customer"
stream = "payments"
windows = ["3s", "20s", "2m"]
[group.features]
n = "count()"
n_default = { is = "count()", default = 7 }
sum_amount = "sum(amount)"
sum_items = { is = "sum(items)", default = 0 }
sum_weight = "sum(weight)"
mean_amount = { is = "mean(amount)", default = 1.5 }
mean_items = "mean(items)"
mean_weight = "mean(weight)"
min_amount = "min(amount)"
min_weight = "min(weight)"
max_items = "max(items)"
max_double = "max(weight * 2.0)"
sd_amount = "stddev(amount)"
sd_weight = "stddev(weight)"
sd_items = "stddev(items)"
first_country = "first(country)"
last_country = "last(country)"
first_online = "first(online)"
last_seen = "last(seen)"
last_weight = "last(weight)"
countries = "distinct_count(country)"
weights = { is = "distinct_count(weight)", default = 3 }
median = "quantile(amount, 0.5)"
p90 = "quantile(weight, 0.9)"
top_country = "most_frequent(country)"
top_items = "most_frequent(items)"
top_weight = "most_frequent(weight)"
since_last = "time_since_last()"
since_first = "time_since_first()"
fraud = "share(label)"
online = "share(online)"
large = "share(amount > 50.0)"
decayed = "decayed_count('5s')"
decayed_amount = "decayed_sum(amount, '5s')"
speed = "travel_speed(lat, lon)"

[[group]]
name = "risk"
entity = "terminal"
stream = "payments"
delay = "10s"
windows = ["3s", "1m"]
[group.features]
n = "count()"
fraud = "share(label)"
since_last = "time_since_last()"
last_country = "last(country)"
decayed = { is = "decayed_count('5s')", default = -1 }

[[group]]
name = "large"
entity = "customer"
stream = "payments"
where = "amount > 50.0 && online"
windows = ["1m"]
features = { n = "count()", top = "most_frequent(country)", fraud = "share(label)" }

[[group]]
name = "logins"
entity = "customer"
stream = "logins"
windows = ["20s"]
features = { n = "count()", since = "time_since_last()", countries = "distinct_count(country)" }

[[group]]
name = "account"
entity = "customer"
stream = "accounts"
kind = "table"
features = { status = "status", credit = "credit * 2.0", changed = "changed" }

[[derived]]
stream = "payments"
features = { ratio = "amount / spend.mean_amount_2m" }
"#;

/// Compiled definitions.
pub(super) fn plan(toml: &str) -> Arc<Plan> {
    let file = ConfigFile::parse("test.toml", toml).unwrap();
    let definitions = Definitions::read(&file, None);
    assert!(file.problem_count() == 0 && definitions.is_some(), "{:?}", file.finish());
    Arc::new(Plan::compile(Arc::new(definitions.unwrap())))
}

/// A cell as a source sends it.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Cell {
    Null,
    Unchanged,
    Word(i64),
    Text(String),
}

impl Cell {
    pub(super) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    pub(super) fn double(value: f64) -> Self {
        Self::Word(double_cell(value).unwrap())
    }
}

/// One change as a source delivers it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Delivery {
    pub(super) stream: usize,
    pub(super) op: Op,
    pub(super) version: Version,
    pub(super) arrival: Option<i64>,
    pub(super) cells: Vec<Cell>,
}

/// What came of one delivery.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Answer {
    pub(super) outcome: Outcome,
    pub(super) judgement: Option<u32>,
    pub(super) vector: Option<Vec<Reading>>,
    pub(super) as_of: Vec<i64>,
}

/// Bytes by entity, key and group.
pub(super) type States = BTreeMap<(usize, Box<[u8]>, usize), Vec<u8>>;

/// What checkpoints wrote.
#[derive(Default)]
struct Kept {
    rows: BTreeMap<(usize, Box<[u8]>), Vec<u8>>,
    states: States,
    marks: BTreeMap<usize, Vec<u8>>,
}

/// An engine with its caller.
pub(super) struct Shell {
    pub(super) engine: Engine,
    kept: Kept,
    evaluate: Evaluate,
    shards: usize,
    forgotten: usize,
}

impl Shell {
    pub(super) fn new(plan: &Arc<Plan>, shards: usize, evaluate: Evaluate) -> Self {
        let engine = Engine::new(Arc::clone(plan), shards);
        Self { engine, kept: Kept::default(), evaluate, shards, forgotten: 0 }
    }

    /// Delivers changes in batches whose ends `is_end` names (a batch has one stream in any case); what it also names as an end of
    /// memory is written and forgotten.
    pub(super) fn deliver(&mut self, deliveries: &[Delivery], mut cut: impl FnMut(usize) -> Cut) -> Vec<Answer> {
        let mut answers = Vec::new();
        let mut from = 0;
        for to in 1..=deliveries.len() {
            let ends = to == deliveries.len() || deliveries[to].stream != deliveries[from].stream;
            let cut = cut(to);
            if ends || cut != Cut::Nowhere {
                answers.extend(self.batch(&deliveries[from..to]));
                from = to;
            }
            if cut == Cut::Memory {
                self.forget();
            }
        }
        answers
    }

    pub(super) fn all(&mut self, deliveries: &[Delivery]) -> Vec<Answer> {
        self.deliver(deliveries, |_| Cut::Nowhere)
    }

    fn batch(&mut self, deliveries: &[Delivery]) -> Vec<Answer> {
        let plan = Arc::clone(self.engine.plan());
        let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[deliveries[0].stream]), 0);
        for (position, delivery) in (0_u64..).zip(deliveries) {
            let mut row = batch.begin();
            for (column, cell) in delivery.cells.iter().enumerate() {
                match cell {
                    Cell::Null => {}
                    Cell::Unchanged => row.set_unchanged(column),
                    Cell::Word(word) => row.set_cell(column, *word),
                    Cell::Text(text) => row.set_text(column, text).unwrap(),
                }
            }
            let arrival = delivery.arrival.map(Timestamp::from_micros);
            row.finish(Change { op: delivery.op, version: delivery.version, arrival, position });
        }
        batch.parts().flat_map(|part| self.part(&plan, &part)).collect()
    }

    fn part(&mut self, plan: &Plan, batch: &ChangeBatch) -> Vec<Answer> {
        for (stream, id) in self.engine.wanted_rows(batch) {
            let bytes = self.kept.rows.get(&(stream, id.as_key().to_bytes())).map(Vec::as_slice);
            self.engine.load_row(stream, &id, bytes);
        }
        for (entity, key) in self.engine.wanted_states(batch).unwrap() {
            self.load(plan, entity, &key);
        }
        let mut output = Output::default();
        self.engine.process(batch, self.evaluate, &mut output).unwrap();
        let entities = plan.definitions.entities.len();
        let answer = |change: usize| Answer {
            outcome: output.outcomes[change],
            judgement: output.judgements[change],
            vector: output.vectors[change].map(|place| output.readings(place).collect()),
            as_of: output.vectors[change].map_or_else(Vec::new, |place| {
                output.as_of[place as usize * entities..(place as usize + 1) * entities].to_vec()
            }),
        };
        (0..batch.len()).map(answer).collect()
    }

    fn load(&mut self, plan: &Plan, entity: usize, key: &OwnedKey) {
        let bytes: Vec<Option<&[u8]>> = plan.entity_groups[entity]
            .iter()
            .map(|group| self.kept.states.get(&(entity, key.as_key().to_bytes(), *group)).map(Vec::as_slice))
            .collect();
        self.engine.load_states(entity, key, &bytes).unwrap();
    }

    /// Brings the states of a key into memory.
    pub(super) fn hold(&mut self, entity: usize, key: &OwnedKey) {
        let plan = Arc::clone(self.engine.plan());
        if !self.engine.holds(entity, &key.as_key()) {
            self.load(&plan, entity, key);
        }
    }

    /// Writes a checkpoint and forgets what is in memory; every second time in a new process.
    pub(super) fn forget(&mut self) {
        let kept = &mut self.kept;
        self.engine.checkpoint(
            |image| {
                let place = (image.entity, image.key, image.group);
                match image.bytes {
                    Some(bytes) => drop(kept.states.insert(place, bytes)),
                    None => drop(kept.states.remove(&place)),
                }
            },
            |image| drop(kept.rows.insert((image.stream, image.id), image.bytes)),
        );
        self.kept.marks.extend(self.engine.marks());
        self.engine.evict();
        self.forgotten += 1;
        if self.forgotten.is_multiple_of(2) {
            self.engine = Engine::new(Arc::clone(self.engine.plan()), self.shards);
            let streams: Vec<usize> = self.engine.marked_streams().collect();
            for stream in streams {
                self.engine.load_mark(stream, self.kept.marks.get(&stream).map(Vec::as_slice)).unwrap();
            }
        }
    }

    /// The bytes of every state, on disk or in memory.
    pub(super) fn states(&mut self) -> States {
        self.forget();
        self.kept.states.clone()
    }
}

/// What happens after a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Cut {
    /// Nothing.
    Nowhere,
    /// Its batch ends.
    Batch,
    /// Its batch ends, a checkpoint is written and memory is forgotten.
    Memory,
}

/// A small source of randomness (SplitMix64).
#[derive(Clone)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, end: i64) -> i64 {
        i64::try_from(self.roll() % u64::try_from(end).unwrap()).unwrap()
    }

    pub(super) fn one_in(&mut self, n: i64) -> bool {
        self.below(n) == 0
    }

    pub(super) fn shuffle<T>(&mut self, items: &mut [T]) {
        for at in (1..items.len()).rev() {
            items.swap(at, usize::try_from(self.below(i64::try_from(at + 1).unwrap())).unwrap());
        }
    }
}

pub(super) fn word(cell: &Cell) -> i64 {
    match cell {
        Cell::Null | Cell::Text(_) => NULL,
        Cell::Unchanged => UNCHANGED,
        Cell::Word(word) => *word,
    }
}
