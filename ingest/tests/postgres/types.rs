//! Values of every type, through the snapshot and through the stream.

use std::sync::Arc;

use interdict_features::definition::Stream;
use interdict_ingest::source::config::postgres::PostgresConfig;

use crate::rig::{Puller, World, stream};

const COLUMNS: [(&str, &str, &str); 14] = [
    ("id", "uuid", ""),
    ("at", "timestamp", "'2026-01-01 00:00:01.5'"),
    ("d", "timestamp", "'2026-01-02'"),
    ("i2", "int64", "-32768"),
    ("i4", "int64", "-2147483648"),
    ("i8", "int64", "9223372036854775807"),
    ("f4", "double", "0.1"),
    ("f8", "double", "1e15"),
    ("n", "decimal(3)", "1234567.1230000"),
    ("dom", "decimal(1)", "-0.5"),
    ("v", "string", "''"),
    ("c", "string", "'ab'"),
    ("e", "string", "'blue'"),
    ("b", "bool", "false"),
];

const TABLE: &str = "CREATE DOMAIN money2 AS numeric; CREATE TYPE colour AS ENUM ('red', 'blue');
    CREATE TABLE t (id uuid PRIMARY KEY, at timestamp, d date, i2 int2, i4 int4, i8 int8, f4 float4, f8 float8, n numeric, dom money2,
                    v varchar(9), c char(4), e colour, b bool);";

/// What no cell holds, and why.
const BAD: [(&str, &str, &str); 13] = [
    ("n", "'NaN'", "not_finite"),
    ("n", "'Infinity'", "not_finite"),
    ("n", "0.0001", "inexact"),
    ("n", "1e30", "out_of_range"),
    ("n", "123456789012345678901234567890123456789012345.5", "out_of_range"),
    ("dom", "0.55", "inexact"),
    ("f8", "'NaN'", "not_finite"),
    ("f4", "'-Infinity'", "not_finite"),
    ("at", "'infinity'", "out_of_range"),
    ("at", "'0044-03-15 BC'", "out_of_range"),
    ("d", "'12000-01-01'", "out_of_range"),
    ("at", "null", "null_time"),
    ("i8", "-9223372036854775808", "out_of_range"),
];

/// The rows that are right, without their ids' first part.
const EXPECTED: [&str; 2] = [
    "-0000-0000-0000-000000000001|1767225601500000|1767312000000000|-32768|-2147483648|9223372036854775807|0.1|1000000000000000|1234567123|-5||ab  |blue|0",
    "-0000-0000-0000-000000000002|1767225601500000|-|-|-|-|-|-|-|-|-|-|-|-",
];

fn row(first: &str, n: usize, edits: &[(&str, &str)]) -> String {
    let value = |(name, _, value): &(&str, &str, &str)| match edits.iter().find(|(edited, _)| edited == name) {
        Some((_, edited)) => (*edited).to_owned(),
        None if *name == "id" => format!("'{first}-0000-0000-0000-{n:012}'"),
        None => (*value).to_owned(),
    };
    format!("INSERT INTO t VALUES ({});", COLUMNS.iter().map(value).collect::<Vec<_>>().join(","))
}

fn rows(first: &str) -> String {
    let nulls: Vec<(&str, &str)> = COLUMNS[2..].iter().map(|(name, ..)| (*name, "null")).collect();
    let bad = BAD.iter().enumerate().map(|(n, (column, value, _))| row(first, 100 + n, &[(column, value)]));
    row(first, 1, &[]) + &row(first, 2, &nulls) + &bad.collect::<String>()
}

fn source(world: &World) -> (PostgresConfig, Vec<Arc<Stream>>) {
    let columns = COLUMNS.map(|(name, kind, _)| (name, kind));
    let mut config = world.config();
    config.tables.truncate(1);
    (config.tables[0].stream, config.tables[0].table) = ("t".to_owned(), "t".to_owned());
    (config, vec![Arc::new(stream(0, "t", &columns, Some(1)))])
}

#[test]
fn every_type_becomes_its_cell_or_a_dead_letter() {
    let world = World::with("types", TABLE);
    let (config, streams) = source(&world);
    let reasons = BAD.map(|(_, _, reason)| reason);
    // Once by the snapshot, once by the stream: the same text through the same code.
    world.sql(&rows("0000000A"));
    let mut puller = Puller::open(&config, &streams);
    assert_eq!(puller.rows(15), EXPECTED.map(|row| format!("= t 0000000a{row}")));
    assert_eq!(puller.dead_reasons(), reasons);
    assert!(puller.dead.iter().all(|letter| letter.row.is_none() && letter.stream.as_deref() == Some("t")));

    (puller.seen, puller.dead) = (Vec::new(), Vec::new());
    let settings = "SET datestyle = 'German'; SET timezone = 'Asia/Tokyo'; SET extra_float_digits = -5;";
    world.sql(&format!("{settings} BEGIN; DELETE FROM t; {} COMMIT", rows("0000000B")));
    let shown = puller.rows(30);
    let inserted: Vec<&String> = shown.iter().filter(|row| row.starts_with('+')).collect();
    let expected = EXPECTED.map(|row| format!("+ t 0000000b{row}"));
    assert_eq!(inserted, expected.iter().collect::<Vec<_>>());
    assert_eq!(puller.dead_reasons(), reasons);
    let letter = &puller.dead[0];
    assert_eq!(letter.row, Some(18), "15 deletes and two rows stand before it");
    let detail = &letter.detail;
    assert!(
        detail.starts_with("row 18 of the transaction that committed at ") && detail.contains("public.t"),
        "{detail}"
    );
    assert!(!detail.contains("NaN"), "a letter holds no value");
}

#[test]
fn a_database_of_another_encoding_sends_utf_8() {
    let world = World::new("latin");
    world
        .server
        .sql("postgres", "CREATE DATABASE latin9 ENCODING 'LATIN9' TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'");
    world.server.sql("latin9", crate::rig::TABLES);
    world
        .server
        .sql("latin9", "INSERT INTO transactions VALUES (1, '2026-01-01Z', U&'caf\\00e9 \\20ac', 1, null, null)");
    let mut config = world.config();
    config.address.database = "latin9".to_owned();
    let mut puller = Puller::open(&config, &crate::rig::streams());
    puller.rows(1);
    world.server.sql("latin9", "INSERT INTO transactions SELECT 2, at, customer, 1, null, null FROM transactions");
    puller.rows(2);
    assert!(puller.seen.iter().all(|seen| seen.cells[2] == "café €"), "{:?}", puller.shown());
}
