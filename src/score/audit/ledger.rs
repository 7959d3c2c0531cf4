//! What the decision log says, as far as it is needed to make every decision again.
//!
//! Invariant: of a record stay its place, what it was given from outside and a fingerprint, not the record: a log of millions fits.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::Context as _;
use interdict_features::decision::{DecisionRecord, ListHit, SeenPosition};
use serde_json::Value;
use uuid::Uuid;

/// What a model has a part in: not compared where another one is in force.
const OF_THE_MODEL: [&str; 9] =
    ["outcome", "score", "thresholds", "rules", "models", "reasons", "decided_by", "degraded", "actions"];

/// Whether the model that judged is the one in force.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Model {
    Same,
    Other,
}

/// One logged decision.
#[derive(Debug)]
pub(super) struct Logged {
    pub(super) id: Uuid,
    /// Its place in the decision log.
    pub(super) log_position: u64,
    /// Index in [`Ledger::partitions`].
    pub(super) partition: usize,
    /// Where the judged change stands in its partition.
    pub(super) position: u64,
    /// How far the other partitions were applied: index in [`Ledger::others`].
    pub(super) others: usize,
    pub(super) model: Model,
    /// Of everything that is compared.
    pub(super) fingerprint: Uuid,
    /// List entries met: a person may have set them, so they are given, not made.
    pub(super) hits: Box<[ListHit]>,
    pub(super) idempotency_key: Option<Box<str>>,
    /// The record of what could not be read as a row.
    pub(super) is_undecodable: bool,
}

/// The whole log, in order of its positions.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    pub(super) records: u64,
    /// `source/partition` of everything that decisions saw.
    pub(super) partitions: Vec<String>,
    /// Positions of partitions, each list once.
    pub(super) others: Vec<Vec<(usize, u64)>>,
    pub(super) logged: Vec<Logged>,
    /// Made by the deadline, before the engine had a position.
    pub(super) by_deadline: u64,
}

impl Ledger {
    /// Reads the log in `folder`. `models` is the hash of the model in force, per stream that has one.
    pub(super) fn read(folder: &Path, models: &BTreeMap<String, String>) -> anyhow::Result<Self> {
        let mut ledger = Self::default();
        let mut known = Known::default();
        for entry in interdict_monitor::log::read(folder)? {
            let entry = entry?;
            ledger.records += 1;
            ledger.take(entry.position, entry.record, models, &mut known)?;
        }
        ledger.logged.sort_by_key(|logged| logged.log_position);
        Ok(ledger)
    }

    fn take(
        &mut self,
        log_position: u64,
        record: DecisionRecord,
        models: &BTreeMap<String, String>,
        known: &mut Known,
    ) -> anyhow::Result<()> {
        if record.seen.is_empty() {
            self.by_deadline += 1;
            return Ok(());
        }
        let partition = known.partition(&mut self.partitions, &record.position.partition);
        let is_other = |seen: &&SeenPosition| seen.partition != record.position.partition;
        let seen = record.seen.iter().filter(is_other);
        let others = seen.map(|seen| (known.partition(&mut self.partitions, &seen.partition), seen.position)).collect();
        let others = known.others(&mut self.others, others);
        let in_force = models.get(&record.stream);
        let is_same = record.models.iter().all(|model| Some(&model.bundle_hash) == in_force);
        let model = if is_same { Model::Same } else { Model::Other };
        self.logged.push(Logged {
            id: record.decision_id,
            log_position,
            partition,
            position: record.position.position,
            others,
            model,
            hits: record.list_hits.clone().into(),
            idempotency_key: record.idempotency_key.as_deref().map(Box::from),
            is_undecodable: record.event.is_empty(),
            fingerprint: fingerprint(&compared(record, model)?)?,
        });
        Ok(())
    }
}

/// Where names and lists stand that were met before.
#[derive(Default)]
struct Known {
    partitions: HashMap<String, usize>,
    others: HashMap<Vec<(usize, u64)>, usize>,
}

impl Known {
    fn partition(&mut self, partitions: &mut Vec<String>, name: &str) -> usize {
        if let Some(&index) = self.partitions.get(name) {
            return index;
        }
        partitions.push(name.to_owned());
        self.partitions.insert(name.to_owned(), partitions.len() - 1);
        partitions.len() - 1
    }

    fn others(&mut self, all: &mut Vec<Vec<(usize, u64)>>, others: Vec<(usize, u64)>) -> usize {
        *self.others.entry(others).or_insert_with_key(|others| {
            all.push(others.clone());
            all.len() - 1
        })
    }
}

/// What of a record is compared, as JSON: everything but clocks, and what comes of the model where another one judged.
pub(super) fn compared(record: DecisionRecord, model: Model) -> anyhow::Result<Value> {
    let mut value =
        serde_json::to_value(record.without_clocks()).context("a decision record cannot be written as JSON")?;
    if let (Model::Other, Some(fields)) = (model, value.as_object_mut()) {
        fields.retain(|field, _| !OF_THE_MODEL.contains(&field.as_str()));
    }
    Ok(value)
}

/// Two values with one fingerprint are the same, bit for bit.
pub(super) fn fingerprint(compared: &Value) -> anyhow::Result<Uuid> {
    let bytes = serde_json::to_vec(compared).context("a decision record cannot be written as JSON")?;
    Ok(Uuid::new_v5(&Uuid::NAMESPACE_OID, &bytes))
}
