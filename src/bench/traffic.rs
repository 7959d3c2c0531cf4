//! What benches run on: the handbook's definitions and simulated payments.

use std::sync::Arc;

use anyhow::Context as _;
use arrow_array::{ArrayRef, BooleanArray, Decimal128Array, Int64Array, RecordBatch, TimestampMicrosecondArray};
use arrow_schema::{DataType, Field, Schema, TimeUnit};
use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::config::ConfigFile;
use interdict_features::definition::Definitions;
use interdict_features::engine::Plan;

use crate::simulate::generator::{Config, Generator, Length, Transaction};

/// Changes applied at a time, as a source that is behind hands them over.
pub(super) const BATCH_ROWS: usize = 8_192;

/// Whether row records are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Rows {
    Append,
    Records,
}

/// The groups of DESIGN section 4 with these windows.
pub(super) fn definitions(rows: Rows, windows: &[&str]) -> anyhow::Result<Arc<Plan>> {
    let quoted: Vec<String> = windows.iter().map(|window| format!("\"{window}\"")).collect();
    let windows = quoted.join(", ");
    let source = format!(
        r#"
[stream.transactions]
id = "transaction_id"
time = "tx_datetime"
partition_by = "customer_id"
label = "is_fraud"
judge = "insert"
columns = {{ transaction_id = "int64", tx_datetime = "timestamp", customer_id = "int64", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }}
[entity.customer]
key = "customer_id"
[entity.terminal]
key = "terminal_id"
[[group]]
name = "customer_spend"
entity = "customer"
windows = [{windows}]
features = {{ tx_count = "count()", amount_avg = "mean(amount)" }}
[[group]]
name = "terminal_risk"
entity = "terminal"
delay = "7d"
windows = [{windows}]
features = {{ tx_count = "count()", fraud_ratio = "share(label)" }}
"#
    );
    let file = ConfigFile::parse("bench", &source)?;
    let definitions = Definitions::read(&file, None);
    file.finish()?;
    let mut definitions = definitions.context("the bench's definitions are sound")?;
    if rows == Rows::Append {
        // Labels come with their rows here, so that no record is needed to find them: a configuration cannot promise that.
        let mut stream = (*definitions.streams[0]).clone();
        stream.append_only = true;
        definitions.streams[0] = Arc::new(stream);
    }
    Ok(Arc::new(Plan::compile(Arc::new(definitions))))
}

/// Simulated payments of the handbook's population, labels known at once.
pub(super) fn batches(plan: &Plan, events: usize, change: impl Fn(&mut Transaction)) -> Vec<ChangeBatch> {
    let stream = &plan.definitions.streams[0];
    let config = Config { seed: 1, length: Length::Transactions(events as u64), ..Config::default() };
    let mut batches = Vec::with_capacity(events / BATCH_ROWS + 1);
    let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
    for (position, mut transaction) in (1..).zip(Generator::new(config)) {
        change(&mut transaction);
        let mut row = batch.begin();
        row.set_cell(0, transaction.id);
        row.set_cell(1, transaction.time_micros);
        row.set_cell(2, transaction.customer);
        row.set_cell(3, transaction.terminal);
        row.set_cell(4, transaction.amount_minor);
        row.set_cell(5, i64::from(transaction.is_fraud()));
        row.finish(Change { op: Op::Insert, version: Version::new(position), arrival: None, position });
        if batch.len() == BATCH_ROWS {
            batches.push(std::mem::replace(&mut batch, ChangeBatch::new(Arc::clone(stream), 0)));
        }
    }
    if !batch.is_empty() {
        batches.push(batch);
    }
    batches
}

/// The columns of a history file.
pub(super) fn schema() -> Schema {
    Schema::new(vec![
        Field::new("transaction_id", DataType::Int64, false),
        Field::new("tx_datetime", DataType::Timestamp(TimeUnit::Microsecond, None), false),
        Field::new("customer_id", DataType::Int64, false),
        Field::new("terminal_id", DataType::Int64, false),
        Field::new("amount", DataType::Decimal128(18, 2), false),
        Field::new("is_fraud", DataType::Boolean, true),
    ])
}

/// A batch as rows of a history file.
pub(super) fn record_batch(schema: &Arc<Schema>, batch: &ChangeBatch) -> anyhow::Result<RecordBatch> {
    let cells = |column: usize| batch.iter().map(move |(_, row)| row.cells[column]);
    let amounts = Decimal128Array::from_iter_values(cells(4).map(i128::from)).with_precision_and_scale(18, 2)?;
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(cells(0))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(cells(1))),
        Arc::new(Int64Array::from_iter_values(cells(2))),
        Arc::new(Int64Array::from_iter_values(cells(3))),
        Arc::new(amounts),
        Arc::new(cells(5).map(|cell| Some(cell == 1)).collect::<BooleanArray>()),
    ];
    Ok(RecordBatch::try_new(Arc::clone(schema), columns)?)
}
