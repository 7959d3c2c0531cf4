//! The columns of a decision in Parquet, and the builder that turns records into them.
//!
//! Flat and typed for queries; `record` holds the complete record as JSON, from which audit recomputes bit for bit
//! (doubles are written in the shortest form that reads back to the same bits). Every feature is a DOUBLE column
//! `f__group__feature_window`, null where it is missing or text; features that are text stand in the list
//! `text_features`. So the columns follow from the definitions alone and have one type in all files; after a change
//! of definitions readers unite files by name.

use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, ListBuilder, StringBuilder, StructBuilder, TimestampMicrosecondBuilder,
    UInt32Builder, UInt64Builder,
};
use arrow_array::{ArrayRef, RecordBatch};
use arrow_schema::ArrowError;
use arrow_schema::{DataType, Field, Fields, Schema, TimeUnit};
use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome};
use interdict_features::value::Value;

use super::partition::champion;

pub(crate) const POSITION: &str = "log_position";
pub(crate) const RECORD: &str = "record";

fn utc() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

fn instants() -> TimestampMicrosecondBuilder {
    TimestampMicrosecondBuilder::new().with_timezone("UTC")
}

fn pairs(first: &str, second: &str, second_type: DataType) -> ListBuilder<StructBuilder> {
    let fields = Fields::from(vec![Field::new(first, DataType::Utf8, true), Field::new(second, second_type, true)]);
    ListBuilder::new(StructBuilder::from_fields(fields, 0))
}

/// The value columns of one feature.
#[derive(Debug)]
struct FeatureColumn {
    name: Arc<str>,
    numbers: Float64Builder,
}

/// Rows of one file under construction.
#[derive(Debug)]
pub(crate) struct Rows {
    rows: usize,
    bytes: usize,
    first: u64,
    last: u64,
    position: UInt64Builder,
    ids: [StringBuilder; 3],
    judgement: UInt32Builder,
    source: StringBuilder,
    source_position: UInt64Builder,
    times: [TimestampMicrosecondBuilder; 3],
    outcome: StringBuilder,
    decided_by: StringBuilder,
    numbers: [Float64Builder; 3],
    model: [StringBuilder; 3],
    entities: ListBuilder<StructBuilder>,
    as_of: ListBuilder<StructBuilder>,
    lists: [ListBuilder<StringBuilder>; 4],
    late: BooleanBuilder,
    features: Vec<FeatureColumn>,
    text_features: ListBuilder<StructBuilder>,
    record: StringBuilder,
}

const IDS: [&str; 3] = ["decision_id", "stream", "event_id"];
const TIMES: [&str; 3] = ["event_time", "arrival_time", "decide_time"];
const NUMBERS: [&str; 3] = ["score", "threshold_review", "threshold_block"];
const MODEL: [&str; 3] = ["model_name", "model_version", "model_hash"];
const LISTS: [&str; 4] = ["rules_hit", "reasons", "degraded", "actions"];

impl Rows {
    /// No rows yet, with the feature columns of `record`.
    pub(crate) fn like(record: &DecisionRecord) -> Self {
        let column = |name: &Arc<str>| FeatureColumn { name: Arc::clone(name), numbers: Float64Builder::new() };
        Self {
            rows: 0,
            bytes: 0,
            first: 0,
            last: 0,
            position: UInt64Builder::new(),
            ids: std::array::from_fn(|_| StringBuilder::new()),
            judgement: UInt32Builder::new(),
            source: StringBuilder::new(),
            source_position: UInt64Builder::new(),
            times: std::array::from_fn(|_| instants()),
            outcome: StringBuilder::new(),
            decided_by: StringBuilder::new(),
            numbers: std::array::from_fn(|_| Float64Builder::new()),
            model: std::array::from_fn(|_| StringBuilder::new()),
            entities: pairs("entity", "key", DataType::Utf8),
            as_of: pairs("entity", "time", utc()),
            lists: std::array::from_fn(|_| ListBuilder::new(StringBuilder::new())),
            late: BooleanBuilder::new(),
            features: record.features.iter().map(|feature| column(&feature.name)).collect(),
            text_features: pairs("feature", "value", DataType::Utf8),
            record: StringBuilder::new(),
        }
    }

    /// Whether `record` has these feature columns, or none at all (an event that could not be evaluated).
    pub(crate) fn fits(&self, record: &DecisionRecord) -> bool {
        record.features.is_empty()
            || (record.features.len() == self.features.len()
                && record.features.iter().zip(&self.features).all(|(feature, column)| feature.name == column.name))
    }

    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Bytes of the JSON held, the greater part of the memory.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// First and last position held.
    pub(crate) fn span(&self) -> (u64, u64) {
        (self.first, self.last)
    }

    /// Adds a row. `json` is the record as JSON; [`Self::fits`] must hold.
    pub(crate) fn push(&mut self, position: u64, record: &DecisionRecord, json: &str) {
        if self.rows == 0 {
            self.first = position;
        }
        self.last = position;
        self.position.append_value(position);
        self.push_identity(record);
        self.push_judgement(record);
        self.push_lists(record);
        self.push_features(record);
        self.record.append_value(json);
        self.bytes += json.len();
        self.rows += 1;
    }

    fn push_identity(&mut self, record: &DecisionRecord) {
        self.ids[0].append_value(record.decision_id.to_string());
        self.ids[1].append_value(&record.stream);
        self.ids[2].append_value(&record.event_id);
        self.judgement.append_value(record.judgement);
        self.source.append_value(&record.position.partition);
        self.source_position.append_value(record.position.position);
        let times = [record.event_time, record.arrival_time, Some(record.decide_time)];
        for (builder, time) in self.times.iter_mut().zip(times) {
            builder.append_option(time.map(|time| time.micros()));
        }
        self.late.append_value(record.late);
    }

    fn push_judgement(&mut self, record: &DecisionRecord) {
        self.outcome.append_value(outcome_text(record.outcome));
        self.decided_by.append_value(decided_by_text(record.decided_by));
        let thresholds = record.thresholds;
        let numbers = [record.score, thresholds.map(|both| both.review), thresholds.map(|both| both.block)];
        for (builder, number) in self.numbers.iter_mut().zip(numbers) {
            builder.append_option(number);
        }
        let model = champion(record);
        let texts =
            [model.map(|model| &model.name), model.map(|model| &model.version), model.map(|model| &model.bundle_hash)];
        for (builder, text) in self.model.iter_mut().zip(texts) {
            builder.append_option(text);
        }
    }

    fn push_lists(&mut self, record: &DecisionRecord) {
        for entity in &record.entities {
            append_pair::<StringBuilder>(&mut self.entities, &entity.entity, |keys| keys.append_value(&entity.key));
        }
        self.entities.append(true);
        for (entity, time) in &record.as_of {
            append_pair::<TimestampMicrosecondBuilder>(&mut self.as_of, entity, |times| {
                times.append_value(time.micros());
            });
        }
        self.as_of.append(true);
        let [rules, reasons, degraded, actions] = &mut self.lists;
        append_texts(rules, record.rules.iter().filter(|rule| rule.hit).map(|rule| rule.id.as_str()));
        append_texts(reasons, record.reasons.iter().map(|reason| reason.code.as_str()));
        append_texts(degraded, record.degraded.iter().map(String::as_str));
        append_texts(actions, record.actions.iter().map(|intent| intent.action.as_str()));
    }

    fn push_features(&mut self, record: &DecisionRecord) {
        for (index, column) in self.features.iter_mut().enumerate() {
            let value = record.features.get(index).map(|feature| &feature.reading.value);
            if let Some(Value::Text(text)) = value {
                let texts = &mut self.text_features;
                append_pair::<StringBuilder>(texts, &column.name, |values| values.append_value(text));
            }
            column.numbers.append_option(value.and_then(Value::number));
        }
        self.text_features.append(true);
    }

    /// The rows as one Arrow batch.
    pub(crate) fn finish(self) -> Result<RecordBatch, ArrowError> {
        let mut columns = Columns::default();
        let mut own = self;
        columns.add(POSITION, Arc::new(own.position.finish()));
        columns.add_all(IDS, own.ids.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.add("judgement", Arc::new(own.judgement.finish()));
        columns.add("source_partition", Arc::new(own.source.finish()));
        columns.add("source_position", Arc::new(own.source_position.finish()));
        columns.add_all(TIMES, own.times.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.add("outcome", Arc::new(own.outcome.finish()));
        columns.add("decided_by", Arc::new(own.decided_by.finish()));
        columns.add_all(NUMBERS, own.numbers.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.add_all(MODEL, own.model.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.add("entities", Arc::new(own.entities.finish()));
        columns.add("as_of", Arc::new(own.as_of.finish()));
        columns.add_all(LISTS, own.lists.each_mut().map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.add("late", Arc::new(own.late.finish()));
        for mut feature in own.features {
            let flat = flat_name(&feature.name);
            columns.add_unique(format!("f__{flat}"), Arc::new(feature.numbers.finish()));
        }
        columns.add("text_features", Arc::new(own.text_features.finish()));
        columns.add(RECORD, Arc::new(own.record.finish()));
        RecordBatch::try_new(Arc::new(Schema::new(columns.fields)), columns.arrays)
    }
}

#[derive(Default)]
struct Columns {
    fields: Vec<Field>,
    arrays: Vec<ArrayRef>,
}

impl Columns {
    fn add(&mut self, name: &str, array: ArrayRef) {
        self.fields.push(Field::new(name, array.data_type().clone(), true));
        self.arrays.push(array);
    }

    fn add_all<const N: usize>(&mut self, names: [&str; N], arrays: [ArrayRef; N]) {
        for (name, array) in names.into_iter().zip(arrays) {
            self.add(name, array);
        }
    }

    /// Two features whose names flatten to one (`a.b` and `a__b`) keep a column each.
    fn add_unique(&mut self, mut name: String, array: ArrayRef) {
        while self.fields.iter().any(|field| *field.name() == name) {
            name.push('_');
        }
        self.add(&name, array);
    }
}

fn append_texts<'t>(list: &mut ListBuilder<StringBuilder>, texts: impl Iterator<Item = &'t str>) {
    for text in texts {
        list.values().append_value(text);
    }
    list.append(true);
}

fn append_pair<B: arrow_array::builder::ArrayBuilder>(
    list: &mut ListBuilder<StructBuilder>,
    first: &str,
    second: impl FnOnce(&mut B),
) {
    let pair = list.values();
    pair.field_builder::<StringBuilder>(0).expect("pairs() makes the first field text").append_value(first);
    second(pair.field_builder::<B>(1).expect("pairs() makes the second field of this type"));
    pair.append(true);
}

/// A feature's name as a column: `customer_spend.tx_count_7d` is `customer_spend__tx_count_7d`.
fn flat_name(name: &str) -> String {
    name.replace('.', "__")
}

fn outcome_text(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Approve => "approve",
        Outcome::Review => "review",
        Outcome::Block => "block",
    }
}

fn decided_by_text(decided_by: DecidedBy) -> &'static str {
    match decided_by {
        DecidedBy::Model => "model",
        DecidedBy::FastModel => "fast_model",
        DecidedBy::Rules => "rules",
        DecidedBy::List => "list",
        DecidedBy::Default => "default",
    }
}
