use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::change::{Change, ChangeBatch, Op, Version};
use crate::definition::Column;

fn stream(kind: &str) -> Arc<Stream> {
    let column = Column { name: "x".to_owned(), kind: ColumnType::parse(kind).unwrap(), sensitive: false };
    Arc::new(Stream::of_columns("s", vec![column], 0, None))
}

/// The cell that `set` leaves in a column of type `kind`; texts in quotes.
fn cell_of(kind: &str, set: impl FnOnce(&mut RowWriter<'_>) -> Result<(), CellError>) -> Result<String, CellError> {
    let mut batch = ChangeBatch::new(stream(kind), 0);
    let mut writer = batch.begin();
    set(&mut writer)?;
    writer.finish(Change { op: Op::Insert, version: Version::new(1), arrival: None, position: 1 });
    let row = batch.row(0);
    Ok(match row.text(0) {
        _ if row.cells[0] == NULL => "null".to_owned(),
        Some(text) if row.stream.columns[0].kind.is_text() => format!("'{text}'"),
        _ => row.cells[0].to_string(),
    })
}

fn raw(kind: &str, json: &str) -> Result<String, CellError> {
    cell_of(kind, |writer| set_raw_json(writer, 0, json, None))
}

#[test]
fn json_values_become_exact_cells_or_errors() {
    use CellError::{Inexact, NotFinite, NotUtf8, OutOfRange, WrongType};
    let cases: &[(&str, &str, Result<&str, CellError>)] = &[
        ("int64", "12", Ok("12")),
        ("int64", "-9223372036854775806", Ok("-9223372036854775806")),
        ("int64", "-9223372036854775808", Err(OutOfRange)),
        ("int64", "9223372036854775808", Err(OutOfRange)),
        ("int64", "12.0", Ok("12")),
        ("int64", "1e3", Ok("1000")),
        ("int64", "1e-2147483648", Err(OutOfRange)),
        ("int64", "12.5", Err(Inexact)),
        ("int64", "\"12\"", Ok("12")),
        ("int64", "\"twelve\"", Err(WrongType)),
        ("int64", "true", Err(WrongType)),
        ("int64", "[1]", Err(WrongType)),
        ("int64", "null", Ok("null")),
        ("decimal(2)", "12.34", Ok("1234")),
        ("decimal(2)", "\"12.34\"", Ok("1234")),
        ("decimal(2)", "12", Ok("1200")),
        ("decimal(2)", "90071992547409.93", Ok("9007199254740993")),
        ("decimal(2)", "0.005", Err(Inexact)),
        ("decimal(2)", "\"NaN\"", Err(NotFinite)),
        ("decimal(2)", "\"-Infinity\"", Err(NotFinite)),
        ("decimal(2)", "1e300", Err(OutOfRange)),
        ("double", "0.1", Ok("4591870180066957722")),
        ("double", "-0.0", Ok("0")),
        ("double", "1e999", Err(NotFinite)),
        ("double", "\"NaN\"", Err(NotFinite)),
        ("bool", "true", Ok("1")),
        ("bool", "\"f\"", Ok("0")),
        ("bool", "1", Ok("1")),
        ("bool", "2", Err(WrongType)),
        ("bool", "\"yes\"", Err(WrongType)),
        ("timestamp", "\"2018-04-01T00:00:31Z\"", Ok("1522540831000000")),
        ("timestamp", "\"2018-04-01 00:00:31\"", Ok("1522540831000000")),
        ("timestamp", "1522540831", Err(WrongType)),
        ("timestamp", "\"soon\"", Err(WrongType)),
        ("string", "\"a\\u00e9\"", Ok("'a\u{e9}'")),
        ("string", "\"\\ud800\"", Err(NotUtf8)),
        ("string", "7", Err(WrongType)),
        ("string", "null", Ok("null")),
        ("uuid", "\"67E55044-10B1-426F-9247-BB680E5FE0C8\"", Ok("'67e55044-10b1-426f-9247-bb680e5fe0c8'")),
        ("uuid", "\"67E5\"", Err(WrongType)),
    ];
    for (kind, json, expected) in cases {
        assert_eq!(raw(kind, json).as_deref(), expected.as_ref().copied(), "{kind} {json}");
    }
}

#[test]
fn a_megabyte_of_text_is_refused() {
    let long = format!("\"{}\"", "k".repeat(1 << 20));
    assert_eq!(raw("string", &long), Err(CellError::TooLong));
}

#[test]
fn parsed_json_gives_the_cells_of_its_text() {
    for (kind, json) in [
        ("int64", "12"),
        ("int64", "12.0"),
        ("decimal(2)", "12.34"),
        ("decimal(2)", "0.005"),
        ("decimal(2)", "\"1.5\""),
        ("double", "0.1"),
        ("bool", "false"),
        ("string", "\"a\""),
        ("string", "{}"),
        ("timestamp", "\"2018-04-01T00:00:31Z\""),
    ] {
        let value: Value = serde_json::from_str(json).unwrap();
        assert_eq!(cell_of(kind, |writer| set_json(writer, 0, &value)), raw(kind, json), "{kind} {json}");
    }
}

#[test]
fn numbers_are_times_only_in_a_named_unit() {
    let cases = [
        (TimeUnit::Seconds, "1522540831", Ok("1522540831000000")),
        (TimeUnit::Millis, "1522540831000", Ok("1522540831000000")),
        (TimeUnit::Micros, "1522540831000001", Ok("1522540831000001")),
        (TimeUnit::Nanos, "-1", Ok("-1")),
        (TimeUnit::Days, "17622", Ok("1522540800000000")),
        (TimeUnit::Micros, "9223372036825200000", Err(CellError::OutOfRange)),
        (TimeUnit::Millis, "-9223372036832400000", Err(CellError::OutOfRange)),
    ];
    for (unit, text, expected) in cases {
        let json = cell_of("timestamp", |writer| set_raw_json(writer, 0, text, Some(unit)));
        let field = cell_of("timestamp", |writer| set_text_value(writer, 0, text, Some(unit)));
        assert_eq!(json.as_deref(), expected.as_ref().copied(), "{unit:?} {text}");
        assert_eq!(json, field);
    }
}

#[test]
fn wall_clocks_are_taken_in_the_streams_zone() {
    let zone = TimeZone::get("Europe/Berlin").unwrap();
    assert_eq!(wall_clock_cell(1_522_540_831_000_000, &zone), Ok(1_522_533_631_000_000));
    assert_eq!(wall_clock_cell(1_522_540_831_000_000, &TimeZone::UTC), Ok(1_522_540_831_000_000));
    assert_eq!(wall_clock_cell(i64::MAX, &zone), Err(CellError::OutOfRange));
}

#[test]
fn an_empty_field_is_null() {
    for kind in ["int64", "double", "bool", "string", "uuid", "timestamp", "decimal(2)"] {
        assert_eq!(cell_of(kind, |writer| set_text_value(writer, 0, "", None)).as_deref(), Ok("null"));
    }
}

#[test]
fn columns_are_found_in_any_order() {
    let column = |name: &str| Column { name: name.to_owned(), kind: ColumnType::Int, sensitive: false };
    let stream = Stream::of_columns("s", vec![column("a"), column("b"), column("c")], 0, None);
    let mut finder = ColumnFinder::new(&stream);
    for (name, index) in [("a", Some(0)), ("b", Some(1)), ("c", Some(2)), ("c", Some(2)), ("b", Some(1)), ("d", None)] {
        assert_eq!(finder.find(name), index, "{name}");
    }
}

#[test]
fn a_block_keeps_the_rows_that_have_a_change() {
    let mut batch = ChangeBatch::new(stream("int64"), 0);
    let mut block = batch.begin_block(4);
    for (row, cell) in block.column_mut(0).enumerate() {
        *cell = i64::try_from(row).unwrap() * 10;
    }
    block.finish(|row| {
        let position = row as u64;
        (row % 2 == 1).then_some(Change { op: Op::Snapshot, version: Version::new(position), arrival: None, position })
    });
    let kept: Vec<_> = batch.iter().map(|(change, row)| (change.position, row.cells[0])).collect();
    assert_eq!(kept, [(1, 10), (3, 30)]);
    let _left_unfinished = batch.begin_block(100);
    assert_eq!(batch.iter().count(), 2);
}

#[test]
fn a_double_that_two_decimals_read_as_is_refused() {
    for (text, expected) in [
        ("35382281128920.84", Ok("3538228112892084")),
        ("-35382281128920.84", Ok("-3538228112892084")),
        ("80000000000000.01", Err(CellError::OutOfRange)),
        ("90071992547409.93", Err(CellError::OutOfRange)),
    ] {
        let value: Value = serde_json::from_str(text).unwrap();
        let cell = cell_of("decimal(2)", |writer| set_json(writer, 0, &value));
        assert_eq!(cell.as_deref(), expected.as_ref().copied(), "{text}");
    }
}

proptest! {
    #[test]
    fn every_decimal_comes_back_from_text_and_number(minor in -(1_i64 << 52)..(1_i64 << 52)) {
        let text = format!("{}{}.{:02}", if minor < 0 { "-" } else { "" }, minor.abs() / 100, minor.abs() % 100);
        let expected = Ok(minor.to_string());
        prop_assert_eq!(&raw("decimal(2)", &text), &expected);
        prop_assert_eq!(&raw("decimal(2)", &format!("\"{text}\"")), &expected);
        prop_assert_eq!(&cell_of("decimal(2)", |writer| set_text_value(writer, 0, &text, None)), &expected);
        let value: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(&cell_of("decimal(2)", |writer| set_json(writer, 0, &value)), &expected);
    }

    #[test]
    fn no_text_panics(text in ".{0,40}", json in "[-+0-9.eE\"\\\\a-zA-Z{}\\[\\]]{0,20}") {
        for kind in ["int64", "double", "bool", "string", "uuid", "timestamp", "decimal(12)"] {
            for unit in [None, Some(TimeUnit::Days), Some(TimeUnit::Nanos)] {
                let _either = cell_of(kind, |writer| set_text_value(writer, 0, &text, unit));
                let _either = cell_of(kind, |writer| set_raw_json(writer, 0, &json, unit));
            }
        }
    }
}
