//! One way of taking in the same deliveries: an engine, what feeds it, and what its checkpoints wrote.

use std::collections::HashMap;
use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::config::ConfigFile;
use interdict_features::definition::Definitions;
use interdict_features::engine::{Engine, Evaluate, Key, Output, OwnedKey, Plan};
use interdict_features::state::{AsOf, Readout, Scratch};
use interdict_features::time::Timestamp;
use interdict_features::value::NULL;

use super::history::{Delivery, Payment, What};
use super::twin::Entity;

/// Stream and label stream, as the definitions number them.
const TRANSACTIONS: usize = 0;
const CHARGEBACKS: usize = 1;

/// Compiled definitions.
pub(super) fn plan(toml: &str) -> Arc<Plan> {
    let file = ConfigFile::parse("parity.toml", toml).unwrap();
    let definitions = Definitions::read(&file, None);
    file.finish().unwrap();
    Arc::new(Plan::compile(Arc::new(definitions.unwrap())))
}

/// A vector as the engine moves it, and the instants it was read as of.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Vector {
    pub(super) as_of: Vec<i64>,
    pub(super) readouts: Vec<Readout>,
}

/// What was read for one delivery, by its index.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Read {
    pub(super) index: usize,
    pub(super) judgement: Option<u32>,
    pub(super) vector: Vector,
}

type States = HashMap<(usize, Box<[u8]>), Vec<Option<Vec<u8>>>>;

/// What checkpoints wrote.
#[derive(Default)]
struct Kept {
    rows: HashMap<Box<[u8]>, Vec<u8>>,
    states: States,
}

pub(super) struct Side {
    pub(super) engine: Engine,
    kept: Kept,
    output: Output,
}

impl Side {
    pub(super) fn new(plan: &Arc<Plan>, shards: usize) -> Self {
        Self { engine: Engine::new(Arc::clone(plan), shards), kept: Kept::default(), output: Output::default() }
    }

    /// Applies deliveries of one stream as one batch; `reads` takes what was read.
    pub(super) fn batch(&mut self, deliveries: &[(usize, Delivery)], evaluate: Evaluate, mut reads: impl FnMut(Read)) {
        let Some((_, first)) = deliveries.first() else { return };
        let plan = Arc::clone(self.engine.plan());
        let batch = batch(&plan, first.is_report(), deliveries.iter().map(|(_, delivery)| delivery));
        self.process(&plan, &batch, evaluate);
        for (at, (index, _)) in deliveries.iter().enumerate() {
            if let Some(place) = self.output.vectors[at] {
                reads(Read { index: *index, judgement: self.output.judgements[at], vector: self.vector(&plan, place) });
            }
        }
    }

    /// The vector of a request for this row.
    pub(super) fn request(&mut self, payment: &Payment, received: i64) -> Vector {
        let plan = Arc::clone(self.engine.plan());
        let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[TRANSACTIONS]), 0);
        let change = Change {
            op: Op::Request,
            version: Version::REQUEST,
            arrival: Some(Timestamp::from_micros(received)),
            position: 0,
        };
        push(&mut batch, &Payment { label: None, ..*payment }, change);
        self.process(&plan, &batch, Evaluate::Judged);
        self.vector(&plan, self.output.vectors[0].expect("a request for a row that is not known is judged"))
    }

    fn process(&mut self, plan: &Plan, batch: &ChangeBatch, evaluate: Evaluate) {
        for (stream, id) in self.engine.wanted_rows(batch) {
            let bytes = self.kept.rows.get(&id.as_key().to_bytes()).map(Vec::as_slice);
            self.engine.load_row(stream, &id, bytes);
        }
        for (entity, key) in self.engine.wanted_states(batch).unwrap() {
            self.load(plan, entity, &key);
        }
        self.engine.process(batch, evaluate, &mut self.output).unwrap();
    }

    fn vector(&self, plan: &Plan, place: u32) -> Vector {
        let entities = plan.definitions.entities.len();
        let from = place as usize * entities;
        Vector {
            as_of: self.output.as_of[from..from + entities].to_vec(),
            readouts: self.output.vector(place).to_vec(),
        }
    }

    fn load(&mut self, plan: &Plan, entity: usize, key: &OwnedKey) {
        let groups = plan.entity_groups[entity].len();
        let none = vec![None; groups];
        let kept = self.kept.states.get(&(entity, key.as_key().to_bytes())).unwrap_or(&none);
        let bytes: Vec<Option<&[u8]>> = kept.iter().map(Option::as_deref).collect();
        self.engine.load_states(entity, key, &bytes).unwrap();
    }

    /// Writes a checkpoint and forgets what is in memory.
    pub(super) fn forget(&mut self) {
        let plan = Arc::clone(self.engine.plan());
        let kept = &mut self.kept;
        self.engine.checkpoint(
            |image| {
                let groups = &plan.entity_groups[image.entity];
                let place = groups.iter().position(|group| *group == image.group).unwrap();
                let states = kept.states.entry((image.entity, image.key));
                states.or_insert_with(|| vec![None; groups.len()])[place] = image.bytes;
            },
            |image| drop(kept.rows.insert(image.id, image.bytes)),
        );
        self.engine.evict();
    }

    /// The bytes of every state there is, by place of the entity and key.
    pub(super) fn states(&mut self) -> HashMap<(usize, i64), Vec<u8>> {
        self.forget();
        let key = |bytes: &[u8]| i64::from_be_bytes(bytes.try_into().expect("keys are integers")) ^ i64::MIN;
        let states = self.kept.states.iter();
        states.filter_map(|((entity, bytes), groups)| Some(((*entity, key(bytes)), groups[0].clone()?))).collect()
    }

    /// Reads every group of a key.
    pub(super) fn read(&mut self, entity: Entity, key: i64, as_of: AsOf) -> Vec<Readout> {
        let place = match entity {
            Entity::Customer => 0,
            Entity::Terminal => 1,
        };
        if !self.engine.holds(place, &Key::Int(key)) {
            let plan = Arc::clone(self.engine.plan());
            self.load(&plan, place, &OwnedKey::Int(key));
        }
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        self.engine.read(place, &Key::Int(key), &[0], as_of, &mut scratch, &mut out);
        out
    }
}

/// A batch of one stream.
pub(super) fn batch<'d>(plan: &Plan, is_report: bool, deliveries: impl Iterator<Item = &'d Delivery>) -> ChangeBatch {
    let stream = if is_report { CHARGEBACKS } else { TRANSACTIONS };
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[stream]), 0);
    for delivery in deliveries {
        let change = |op| Change {
            op,
            version: Version::new(delivery.lsn),
            arrival: Some(Timestamp::from_micros(delivery.commit)),
            position: delivery.position,
        };
        match delivery.what {
            What::Row(op, payment) => push(&mut batch, &payment, change(op)),
            What::Report { id, value, reported } => {
                let mut row = batch.begin();
                row.set_cell(0, id);
                row.set_cell(1, value.map_or(NULL, i64::from));
                row.set_cell(2, reported);
                row.finish(change(Op::Insert));
            }
        }
    }
    batch
}

fn push(batch: &mut ChangeBatch, payment: &Payment, change: Change) {
    let mut row = batch.begin();
    row.set_cell(0, payment.id);
    if change.op != Op::Delete {
        row.set_cell(1, payment.time);
        row.set_cell(2, payment.customer);
        row.set_cell(3, payment.terminal);
        row.set_cell(4, payment.cents);
        row.set_cell(5, payment.label.map_or(NULL, i64::from));
    }
    row.finish(change);
}
