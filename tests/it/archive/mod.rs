//! The archive of a running program: after kills at any moment its files hold every change that came, each once and in order.

pub(crate) mod captured;
mod file;

use std::path::{Path, PathBuf};

use arrow_array::Array as _;
use arrow_array::cast::AsArray as _;
use arrow_array::types::{Decimal128Type, Int64Type, UInt32Type, UInt64Type};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

/// An archived change of a payment or of a report on one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(crate) struct Archived {
    pub(crate) major: u64,
    pub(crate) minor: u32,
    pub(crate) delivered: u64,
    pub(crate) op: String,
    pub(crate) id: Option<i64>,
    pub(crate) cents: Option<i128>,
}

/// Every change of a stream in the source's order, read by nothing of ours. Each file is in this order itself.
pub(crate) fn archived(dir: &Path, source: &str, stream: &str) -> Vec<Archived> {
    let stream = dir.join(format!("source={source}/stream={stream}"));
    let mut files: Vec<PathBuf> = Vec::new();
    for day in std::fs::read_dir(stream).into_iter().flatten() {
        let day = day.unwrap().path();
        assert!(day.file_name().unwrap().to_str().unwrap().starts_with("date="), "{}", day.display());
        files.extend(std::fs::read_dir(day).unwrap().map(|file| file.unwrap().path()));
    }
    files.sort_by_key(|path| path.file_name().unwrap().to_owned());
    let place = |row: &Archived| (row.delivered, row.minor);
    let read_in_order = |file: &PathBuf| {
        let rows = read(file);
        assert!(rows.is_sorted_by_key(place), "{}", file.display());
        rows
    };
    let mut rows: Vec<Archived> = files.iter().flat_map(read_in_order).collect();
    // Days overlap where what came is not in order of time.
    rows.sort_by_key(place);
    rows
}

fn read(file: &Path) -> Vec<Archived> {
    let opened = std::fs::File::open(file).unwrap();
    let reader = ParquetRecordBatchReaderBuilder::try_new(opened).unwrap();
    let facts = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
    assert!(facts.iter().any(|fact| fact.key == "interdict.format"), "{facts:?}");
    let mut rows = Vec::new();
    for batch in reader.build().unwrap() {
        let batch = batch.unwrap();
        let column = |name: &str| batch.column_by_name(name).unwrap();
        let ids = column("transaction_id").as_primitive::<Int64Type>();
        let amounts = batch.column_by_name("amount").map(|amounts| amounts.as_primitive::<Decimal128Type>());
        for row in 0..batch.num_rows() {
            rows.push(Archived {
                major: column("_position").as_primitive::<UInt64Type>().value(row),
                minor: column("_position_row").as_primitive::<UInt32Type>().value(row),
                delivered: column("_delivered").as_primitive::<UInt64Type>().value(row),
                op: column("_op").as_string::<i32>().value(row).to_owned(),
                id: ids.is_valid(row).then(|| ids.value(row)),
                cents: amounts.filter(|amounts| amounts.is_valid(row)).map(|amounts| amounts.value(row)),
            });
        }
    }
    rows
}

/// Up to which position a source is archived.
pub(crate) fn position(dir: &Path, source: &str) -> u64 {
    let manifest = std::fs::read(dir.join(format!("source={source}/_manifest.json")));
    manifest
        .map_or(0, |bytes| serde_json::from_slice::<serde_json::Value>(&bytes).unwrap()["position"].as_u64().unwrap())
}
