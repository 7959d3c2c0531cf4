//! A first sight against the record that the same change leaves.

use proptest::prelude::*;

use super::FirstSight;
use crate::change::{Change, ChangeBatch, Op, Version};
use crate::config::ConfigFile;
use crate::definition::{Definitions, Stream};
use crate::row::{Cleared, RowRecord};
use crate::time::Timestamp;
use std::sync::Arc;

const STREAM: &str = r#"
[stream.payments]
id = "id"
time = "at"
label = "fraud"
label_time = "reported"
columns = { id = "int64", at = "timestamp", customer = "string", amount = "decimal(2)", weight = "double", fraud = "bool", reported = "timestamp" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1d"]
features = { n = "count()", sum = "sum(amount)" }
"#;

fn stream() -> Arc<Stream> {
    let file = ConfigFile::parse("test.toml", STREAM).unwrap();
    let definitions = Definitions::read(&file, None);
    assert!(file.problem_count() == 0, "{:?}", file.finish());
    Arc::clone(&definitions.unwrap().streams[0])
}

/// What a row brings; a column is null or not sent where its value is `None` or `Some(None)`.
type Sent<T> = Option<Option<T>>;

fn sent<T: Clone + std::fmt::Debug>(value: impl Strategy<Value = T>) -> impl Strategy<Value = Sent<T>> {
    prop_oneof![8 => value.prop_map(|value| Some(Some(value))), 2 => Just(Some(None)), 1 => Just(None)]
}

proptest! {
    #[test]
    fn gives_the_bytes_and_the_label_of_the_record(
        op in prop::sample::select(vec![Op::Insert, Op::Insert, Op::Snapshot, Op::Update, Op::Delete, Op::Request]),
        (major, minor) in (0..3_u64, 0..3_u32),
        arrival in prop::option::of(0..1_000_000_000_000_i64),
        words in prop::collection::vec(sent(0..1_i64 << 40), 4),
        fraud in sent(any::<bool>()),
        customer in sent("[a-z]{0,40}"),
        judgements in 0..300_u32,
        needed in prop::sample::subsequence(vec![0_usize, 1, 2, 3, 4, 5, 6], 1..=7),
    ) {
        let stream = stream();
        let mut batch = ChangeBatch::new(Arc::clone(&stream), 0);
        let mut row = batch.begin();
        row.set_cell(0, 7);
        for (column, word) in [1, 3, 4, 6].into_iter().zip(words) {
            match word {
                Some(Some(word)) => row.set_cell(column, word),
                Some(None) => {}
                None => row.set_unchanged(column),
            }
        }
        match fraud {
            Some(Some(fraud)) => row.set_cell(5, i64::from(fraud)),
            Some(None) => {}
            None => row.set_unchanged(5),
        }
        match &customer {
            Some(Some(text)) => row.set_text(2, text).unwrap(),
            Some(None) => {}
            None => row.set_unchanged(2),
        }
        let arrival = arrival.map(Timestamp::from_micros);
        row.finish(Change { op, version: Version { major, minor }, arrival, position: 0 });
        let (change, row) = batch.get(0);
        let Some(first) = FirstSight::of(change, row) else {
            prop_assert!(op != Op::Insert || row.time().is_none() || row.cells.contains(&crate::value::UNCHANGED));
            return Ok(());
        };
        let mut record = RowRecord::default();
        record.reset(&stream);
        let cleared = Version::new(u64::from(judgements % 2));
        record.settle(&stream, Cleared { at: cleared, gone: cleared });
        prop_assert_eq!(record.apply(change, row), Ok(()));
        record.judgements = judgements;
        let (mut expected, mut bytes, mut labels) = (Vec::new(), Vec::new(), Vec::new());
        record.encode(&stream, &needed, &mut expected);
        first.encode(&needed, judgements, cleared, &mut bytes);
        prop_assert_eq!(bytes, expected);
        record.labels(&mut labels);
        prop_assert_eq!(first.label().into_iter().collect::<Vec<_>>(), labels);
        prop_assert_eq!(first.newest(), record.newest(&stream));
    }
}
