use std::sync::Arc;

use arrow_array::builder::{ListBuilder, StringBuilder};
use arrow_array::types::Int32Type;
use arrow_array::{
    ArrayRef, BinaryArray, BooleanArray, Date32Array, Date64Array, Decimal128Array, Decimal256Array, DictionaryArray,
    FixedSizeBinaryArray, Float32Array, Float64Array, Int8Array, Int32Array, Int64Array, LargeStringArray, RecordBatch,
    StringArray, StringViewArray, TimestampMicrosecondArray, TimestampMillisecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt32Array, UInt64Array,
};
use arrow_buffer::i256;
use interdict_features::change::Version;
use interdict_features::definition::Column;
use interdict_features::time::Timestamp;
use interdict_features::value::ColumnType;
use interdict_store::error::Class;
use parquet::arrow::ArrowWriter;
use parquet::file::properties::WriterProperties;

use proptest::prelude::*;

use super::*;
use crate::fixture::{cards, shown, transactions};

/// Writes columns to a file in groups of `group_rows`.
fn write(path: &Path, columns: Vec<(&str, ArrayRef)>, group_rows: usize) {
    let batch = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(name, array)| (name, array, true)));
    let batch = batch.unwrap();
    let properties = WriterProperties::builder().set_max_row_group_row_count(Some(group_rows)).build();
    let mut writer = ArrowWriter::try_new(File::create(path).unwrap(), batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The columns of the fixture's transactions, `count` rows.
fn rows(count: i64) -> Vec<(&'static str, ArrayRef)> {
    let all = || 1..=count;
    vec![
        ("ignored", Arc::new(StringArray::from_iter_values(all().map(|_| "x")))),
        ("amount", Arc::new(decimals(all().map(|row| i128::from(row) * 100), 18, 2))),
        ("id", Arc::new(Int64Array::from_iter_values(all()))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(all()).with_timezone("UTC"))),
        ("customer", Arc::new(StringArray::from_iter_values(all().map(|row| format!("c{row}"))))),
        ("is_fraud", Arc::new(BooleanArray::from_iter(all().map(|row| (row % 3 != 0).then_some(row % 2 == 0))))),
        ("score", Arc::new(Float64Array::from_iter_values(all().map(|_| 0.5)))),
    ]
}

fn decimals(values: impl Iterator<Item = i128>, precision: u8, scale: i8) -> Decimal128Array {
    Decimal128Array::from_iter_values(values).with_precision_and_scale(precision, scale).unwrap()
}

fn replaced(mut columns: Vec<(&'static str, ArrayRef)>, name: &str, array: ArrayRef) -> Vec<(&'static str, ArrayRef)> {
    let at = columns.iter().position(|(column, _)| *column == name).unwrap();
    columns[at].1 = array;
    columns
}

#[test]
fn a_group_is_read_as_snapshot_rows_counted_through() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    write(&path, rows(7), 3);
    let file = HistoryFile::open(&path, transactions()).unwrap();
    assert_eq!((file.row_groups(), file.rows(), file.group_rows(2)), (3, 7, 1));
    let (batch, dead) = file.read_group(1).unwrap();
    assert!(dead.is_empty());
    let shown: Vec<_> = batch.iter().map(|(change, row)| (change.position, change.version, shown(&row))).collect();
    assert_eq!(
        shown,
        [
            (4, Version::new(4), "4|4|'c4'|400|1|0.5".to_owned()),
            (5, Version::new(5), "5|5|'c5'|500|0|0.5".to_owned()),
            (6, Version::new(6), "6|6|'c6'|600|-|0.5".to_owned()),
        ]
    );
    assert!(batch.iter().all(|(change, _)| change.op == Op::Snapshot && change.arrival.is_none()));
}

#[test]
fn threads_read_groups_of_one_file() {
    fn shared<T: Send + Sync>(_: &T) {}
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    write(&path, rows(20_000), 5_000);
    let file = HistoryFile::open(&path, transactions()).unwrap();
    shared(&file);
    let read = |group: usize| file.read_group(group).unwrap().0;
    let batches: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|group| scope.spawn(move || read(group))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let ids: Vec<_> = batches.iter().flat_map(|batch| batch.iter().map(|(_, row)| row.cells[0])).collect();
    assert_eq!(ids, (1..=20_000).collect::<Vec<_>>());
}

/// The cells that one array becomes in a column of type `kind`, dead letters as their reason's code.
fn converted(kind: &str, array: &ArrayRef) -> Vec<String> {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, sensitive: false };
    let columns = vec![column("id", ColumnType::Int), column("x", ColumnType::parse(kind).unwrap())];
    let stream = Arc::new(Stream::of_columns("s", columns, 0, None));
    let ids = Int64Array::from_iter_values(1..=i64::try_from(array.len()).unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("x.parquet");
    write(&path, vec![("id", Arc::new(ids)), ("x", Arc::clone(array))], 1000);
    let (batch, dead) = HistoryFile::open(&path, stream).unwrap().read_group(0).unwrap();
    let mut found: Vec<_> = batch
        .iter()
        .map(|(change, row)| (change.position, shown(&row).split_once('|').unwrap().1.to_owned()))
        .chain(dead.iter().map(|letter| (letter.position, letter.reason.code().to_owned())))
        .collect();
    found.sort();
    found.into_iter().map(|(_, shown)| shown).collect()
}

#[test]
fn every_type_that_fits_is_exact_or_a_dead_letter() {
    let dictionary: DictionaryArray<Int32Type> = [Some("a"), None, Some("a")].into_iter().collect();
    let uuid = FixedSizeBinaryArray::try_from_iter([[0x67_u8; 16]].iter()).unwrap();
    let wide = Decimal256Array::from_iter_values([i256::from_i128(150), i256::MAX]).with_precision_and_scale(76, 2);
    let cases: Vec<(&str, ArrayRef, Vec<&str>)> = vec![
        ("int64", Arc::new(Int8Array::from(vec![Some(-1), None])), vec!["-1", "-"]),
        ("int64", Arc::new(Int32Array::from(vec![7])), vec!["7"]),
        ("int64", Arc::new(UInt32Array::from(vec![u32::MAX])), vec!["4294967295"]),
        ("int64", Arc::new(UInt64Array::from(vec![7, u64::MAX])), vec!["7", "out_of_range"]),
        ("int64", Arc::new(Int64Array::from(vec![i64::MIN, i64::MIN + 1])), vec!["out_of_range", "out_of_range"]),
        ("int64", Arc::new(Float64Array::from(vec![3.0, 3.5, f64::NAN])), vec!["3", "inexact", "not_finite"]),
        ("int64", Arc::new(decimals([700, 750].into_iter(), 18, 2)), vec!["7", "inexact"]),
        ("decimal(2)", Arc::new(decimals([150, -1].into_iter(), 18, 2)), vec!["150", "-1"]),
        ("decimal(2)", Arc::new(decimals([1500, 1505].into_iter(), 18, 3)), vec!["150", "inexact"]),
        ("decimal(2)", Arc::new(decimals([i128::from(i64::MAX)].into_iter(), 38, 0)), vec!["out_of_range"]),
        ("decimal(2)", Arc::new(wide.unwrap()), vec!["150", "out_of_range"]),
        (
            "decimal(2)",
            Arc::new(Float64Array::from(vec![1.5, 0.07, 1.005, f64::INFINITY, 1e17])),
            vec!["150", "7", "inexact", "not_finite", "out_of_range"],
        ),
        ("decimal(2)", Arc::new(Float32Array::from(vec![0.07, 0.071, f32::NAN])), vec!["7", "inexact", "not_finite"]),
        ("decimal(2)", Arc::new(Int32Array::from(vec![3])), vec!["300"]),
        ("double", Arc::new(Float32Array::from(vec![0.5, f32::INFINITY])), vec!["0.5", "not_finite"]),
        ("double", Arc::new(Int64Array::from(vec![7, (1 << 53) + 1])), vec!["7", "inexact"]),
        ("double", Arc::new(decimals([10].into_iter(), 18, 2)), vec!["0.1"]),
        ("bool", Arc::new(Int64Array::from(vec![Some(0), Some(1), Some(2), None])), vec!["0", "1", "wrong_type", "-"]),
        ("string", Arc::new(LargeStringArray::from(vec![Some("a"), None, Some("")])), vec!["'a'", "-", "''"]),
        (
            "string",
            Arc::new(StringViewArray::from(vec!["a longer text than fits inline"])),
            vec!["'a longer text than fits inline'"],
        ),
        ("string", Arc::new(dictionary), vec!["'a'", "-", "'a'"]),
        ("string", Arc::new(BinaryArray::from(vec![b"a".as_slice(), b"\xff"])), vec!["'a'", "not_utf8"]),
        ("string", Arc::new(StringArray::from(vec!["k".repeat(1 << 20)])), vec!["text_too_long"]),
        ("uuid", Arc::new(uuid), vec!["'67676767-6767-6767-6767-676767676767'"]),
        (
            "uuid",
            Arc::new(StringArray::from(vec!["67676767676767676767676767676767", "x"])),
            vec!["'67676767-6767-6767-6767-676767676767'", "wrong_type"],
        ),
        ("timestamp", Arc::new(TimestampSecondArray::from(vec![31, i64::MAX])), vec!["31000000", "out_of_range"]),
        ("timestamp", Arc::new(TimestampMillisecondArray::from(vec![31])), vec!["31000"]),
        ("timestamp", Arc::new(TimestampNanosecondArray::from(vec![31_999])), vec!["31"]),
        ("timestamp", Arc::new(TimestampMicrosecondArray::from(vec![31]).with_timezone("+02:00")), vec!["31"]),
        ("timestamp", Arc::new(Date32Array::from(vec![1])), vec!["86400000000"]),
        ("timestamp", Arc::new(Date64Array::from(vec![86_400_000])), vec!["86400000000"]),
        ("timestamp", Arc::new(StringArray::from(vec!["1970-01-02", "soon"])), vec!["86400000000", "wrong_type"]),
    ];
    for (kind, array, expected) in cases {
        let found = array.data_type().to_string();
        assert_eq!(converted(kind, &array), expected, "{found} as {kind}");
    }
}

#[test]
fn timestamps_without_zone_are_wall_clocks_of_the_stream() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut stream = Stream::clone(&transactions());
    stream.zone = jiff::tz::TimeZone::get("Europe/Berlin").unwrap();
    for (zone, expected) in [(None, -3_600_000_000 + 31_000_000), (Some("UTC"), 31_000_000)] {
        let times = TimestampMicrosecondArray::from(vec![31_000_000]).with_timezone_opt(zone);
        write(&path, replaced(rows(1), "at", Arc::new(times)), 10);
        let (batch, _) = HistoryFile::open(&path, Arc::new(stream.clone())).unwrap().read_group(0).unwrap();
        assert_eq!(batch.row(0).cells[1], expected);
    }
}

#[test]
fn null_ids_and_times_are_dead_letters() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let columns = replaced(rows(3), "id", Arc::new(Int64Array::from(vec![Some(1), None, Some(3)])));
    let times = TimestampMicrosecondArray::from(vec![Some(1), Some(2), None]);
    write(&path, replaced(columns, "at", Arc::new(times)), 10);
    let (batch, dead) = HistoryFile::open(&path, transactions()).unwrap().read_group(0).unwrap();
    assert_eq!(batch.len(), 1);
    let found: Vec<_> = dead.iter().map(|letter| (letter.position, letter.reason.code())).collect();
    assert_eq!(found, [(2, "null_id"), (3, "null_time")]);
    assert!(dead[0].detail.contains("'id'"));
}

#[test]
fn positions_and_operations_are_taken_from_their_columns() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut columns = rows(5);
    columns[3].1 = Arc::new(TimestampMicrosecondArray::from(vec![Some(1), Some(2), None, Some(4), Some(5)]));
    columns.push(("_position", Arc::new(UInt64Array::from(vec![Some(70), Some(71), Some(72), None, Some(74)]))));
    columns.push(("_position_row", Arc::new(Int32Array::from(vec![1, 2, 3, 4, -5]))));
    columns.push(("_op", Arc::new(StringArray::from(vec![Some("update"), None, Some("d"), Some("c"), Some("c")]))));
    write(&path, columns, 10);
    let (batch, dead) = HistoryFile::open(&path, transactions()).unwrap().read_group(0).unwrap();
    let found: Vec<_> = batch.iter().map(|(c, _)| (c.position, c.op, c.version.major, c.version.minor)).collect();
    assert_eq!(found, [(1, Op::Update, 70, 1), (2, Op::Snapshot, 71, 2), (3, Op::Delete, 72, 3)]);
    let codes: Vec<_> = dead.iter().map(|letter| letter.reason.code()).collect();
    assert_eq!(codes, ["version_mismatch", "version_mismatch"]);
}

#[test]
fn only_an_update_leaves_columns_unsent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut unsent = ListBuilder::new(StringBuilder::new());
    for names in [Some("customer"), Some("customer"), Some("nobody's"), None] {
        unsent.append_option(names.map(|name| [Some(name)]));
    }
    let mut columns = rows(4);
    columns.push(("_op", Arc::new(StringArray::from(vec!["update", "insert", "insert", "delete"]))));
    columns.push(("_unchanged", Arc::new(unsent.finish())));
    let arrivals = TimestampMicrosecondArray::from(vec![Some(9), Some(9), None, Some(i64::MAX)]);
    columns.push(("_arrival", Arc::new(arrivals.with_timezone("UTC"))));
    write(&path, columns, 10);
    let (batch, dead) = HistoryFile::open(&path, transactions()).unwrap().read_group(0).unwrap();
    let found: Vec<_> = batch.iter().map(|(change, row)| (change.op, change.arrival, row.text(2).is_some())).collect();
    let at = |micros| Some(Timestamp::from_micros(micros));
    assert_eq!(found, [(Op::Update, at(9), false), (Op::Insert, None, true), (Op::Delete, None, true)]);
    assert_eq!(dead.iter().map(|letter| letter.reason.code()).collect::<Vec<_>>(), ["unavailable_value"]);
}

#[test]
fn a_folder_of_partitions_is_read_in_order_of_the_files_names() {
    let folder = tempfile::tempdir().unwrap();
    for (day, name) in [("date=2025-01-02", "a"), ("date=2025-01-01", "b"), ("other", "c"), ("date=x", "_d.tmp")] {
        std::fs::create_dir_all(folder.path().join(day)).unwrap();
        write(&folder.path().join(day).join(format!("{name}.parquet")), rows(2), 10);
    }
    std::fs::rename(folder.path().join("date=x/_d.tmp.parquet"), folder.path().join("date=x/_d.tmp")).unwrap();
    let history = History::open(folder.path(), &transactions()).unwrap();
    let names: Vec<_> = history.files().iter().map(|file| file.path().file_name().unwrap().to_owned()).collect();
    assert_eq!(names, ["a.parquet", "b.parquet"]);
}

#[test]
fn sensitive_columns_are_masked() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let mut columns: Vec<_> = rows(1).into_iter().filter(|(name, _)| ["id", "at"].contains(name)).collect();
    columns.push(("card", Arc::new(StringArray::from(vec!["4111111111111111"]))));
    write(&path, columns, 10);
    let (batch, _) = HistoryFile::open(&path, cards()).unwrap().read_group(0).unwrap();
    assert_eq!(batch.row(0).text(2), Some(cards().mask("4111111111111111").as_str()));
}

#[test]
fn wrong_files_say_what_to_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    let error = |path: &Path| HistoryFile::open(path, transactions()).unwrap_err();

    let found = error(&path);
    assert!(matches!(found, SourceError::Io { .. }) && found.class() == Class::Fatal);

    write(&path, rows(3).into_iter().filter(|(name, _)| *name != "amount").collect(), 10);
    let found = error(&path).to_string();
    assert!(
        found.contains("no column 'amount'") && found.contains("decimal(2)") && found.contains("customer"),
        "{found}"
    );

    write(&path, replaced(rows(3), "customer", Arc::new(Int64Array::from(vec![1, 2, 3]))), 10);
    let found = error(&path).to_string();
    assert!(
        found.contains("'customer'") && found.contains("Int64") && found.contains("customer = \"int64\""),
        "{found}"
    );

    std::fs::write(&path, b"id,at\n1,2\n").unwrap();
    assert!(error(&path).to_string().contains("no complete Parquet file"));

    write(&path, rows(100), 10);
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    assert!(error(&path).to_string().contains("its end is missing"));
}

#[test]
fn a_damaged_group_is_named_and_the_others_are_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.parquet");
    write(&path, rows(9), 3);
    let mut bytes = std::fs::read(&path).unwrap();
    let file = HistoryFile::open(&path, transactions()).unwrap();
    for chunk in file.metadata.metadata().row_group(1).columns() {
        let (start, length) = chunk.byte_range();
        let range = usize::try_from(start).unwrap()..usize::try_from(start + length).unwrap();
        bytes[range].fill(0xff);
    }
    std::fs::write(&path, &bytes).unwrap();
    let file = HistoryFile::open(&path, transactions()).unwrap();
    assert_eq!(file.read_group(0).unwrap().0.len(), 3);
    assert_eq!(file.read_group(2).unwrap().0.len(), 3);
    let error = file.read_group(1).unwrap_err();
    let text = error.to_string();
    assert!(text.contains("row group 1") && text.contains("the 3 rows before it") && text.contains("row 3"), "{text}");
}

#[test]
fn folders_and_patterns_are_read_in_order_of_name() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["2018-05.parquet", "2018-04.parquet", "2019-01.parquet", "note.txt"] {
        write(&folder.path().join(name), rows(5), 2);
    }
    let open = |name: &str| History::open(&folder.path().join(name), &transactions());
    let all = open("").unwrap();
    let names: Vec<_> = all.files().iter().map(|file| file.path().file_stem().unwrap().to_owned()).collect();
    assert_eq!(names, ["2018-04", "2018-05", "2019-01"]);
    assert_eq!((all.rows(), all.row_groups()), (15, 9));
    let positions: Vec<_> = (0..9)
        .flat_map(|group| all.read_group(group).unwrap().0.iter().map(|(c, _)| c.position).collect::<Vec<_>>())
        .collect();
    assert_eq!(positions, (1..=15).collect::<Vec<_>>());
    assert_eq!(open("2018-*.parquet").unwrap().rows(), 10);
    assert_eq!(open("2018-0?.parquet").unwrap().rows(), 10);
    assert_eq!(open("2018-04.parquet").unwrap().rows(), 5);
    assert!(matches!(open("2020-*.parquet").unwrap_err(), SourceError::NoFiles { .. }));
}

proptest! {
    #[test]
    fn damaged_bytes_give_errors_or_every_row(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("t.parquet");
        write(&path, rows(9), 3);
        let mut bytes = std::fs::read(&path).unwrap();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        std::fs::write(&path, &bytes).unwrap();
        if let Ok(file) = HistoryFile::open(&path, transactions()) {
            for group in 0..file.row_groups() {
                if let Ok((batch, dead)) = file.read_group(group) {
                    prop_assert_eq!((batch.len() + dead.len()) as u64, file.group_rows(group));
                }
            }
        }
    }
}
