use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use interdict_features::config::ConfigFile;
use interdict_features::decode::TimeUnit;
use interdict_features::definition::LabelsOf;
use proptest::prelude::*;

use super::config::{AtEnd, DecimalText, Missing, Reading, SourceKind};
use super::*;
use crate::fixture::{cards, chargebacks, shown, transactions};

fn config(path: &Path, format: Format, at_end: AtEnd) -> FileConfig {
    let stream = (format != Format::Debezium).then(|| "transactions".to_owned());
    FileConfig { input: Input::Path(path.to_owned()), format, stream, at_end, reading: Reading::default() }
}

fn open(config: &FileConfig) -> FileSource {
    FileSource::open("payments", config, &[transactions(), chargebacks()], Stop::default()).unwrap()
}

/// Everything from `source`, by position; checks that every record is accounted for.
fn drain(source: &mut FileSource, records_max: usize) -> BTreeMap<u64, String> {
    let mut found = BTreeMap::new();
    while let Some(delivery) = source.next(records_max).unwrap() {
        collect(&delivery, &mut found);
    }
    found
}

fn collect(delivery: &Delivery, found: &mut BTreeMap<u64, String>) {
    let rows: usize = delivery.batches.iter().map(ChangeBatch::len).sum();
    assert_eq!((rows + delivery.dead.len()) as u64 + delivery.skipped, delivery.records);
    for batch in &delivery.batches {
        let positions: Vec<_> = batch.iter().map(|(change, _)| change.position).collect();
        assert!(positions.is_sorted());
        for (change, row) in batch.iter() {
            found.insert(change.position, format!("{} {:?} {}", row.stream.name, change.version, shown(&row)));
        }
    }
    for letter in &delivery.dead {
        assert_eq!(letter.source, "payments");
        found.insert(letter.position, format!("{} {:?}", letter.reason.code(), letter.payload));
    }
    assert!(found.last_key_value().is_none_or(|(last, _)| *last <= delivery.position));
}

fn json_row(id: u64) -> String {
    format!(r#"{{"id":{id},"at":"2018-04-01","customer":"c{id}","amount":{id}.25,"is_fraud":null,"score":0.5}}"#)
}

fn debezium_row(id: u64) -> String {
    if id.is_multiple_of(3) {
        return format!(
            r#"{{"op":"u","after":{{"id":{id},"is_fraud":true}},"source":{{"schema":"risk","table":"chargebacks","lsn":{id}}}}}"#
        );
    }
    format!(r#"{{"op":"c","after":{},"source":{{"schema":"public","table":"transactions","lsn":{id}}}}}"#, json_row(id))
}

fn csv_row(id: u64) -> String {
    format!("{id},2018-04-01,c{id},{id}.25,,0.5")
}

const HEADER: &str = "id,at,customer,amount,is_fraud,score\n";

/// A file of `count` records with bad, blank and CRLF lines among them.
fn write_text(path: &Path, format: Format, count: u64) {
    let mut text = if format == Format::Csv { HEADER.to_owned() } else { String::new() };
    for id in 1..=count {
        let row = match format {
            Format::Csv => csv_row(id),
            Format::Debezium => debezium_row(id),
            _ => json_row(id),
        };
        match id % 7 {
            2 => text.push('\n'),
            4 => text.push_str("{\"broken\n"),
            5 => text.push_str(&format!("{row}\r\n")),
            _ => text.push_str(&format!("{row}\n")),
        }
    }
    std::fs::write(path, text).unwrap();
}

fn write_parquet(path: &Path, count: u64) {
    use arrow_array::{ArrayRef, BooleanArray, Float64Array, Int64Array, StringArray, TimestampMicrosecondArray};
    let ids = || 1..=i64::try_from(count).unwrap();
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("id", Arc::new(Int64Array::from_iter(ids().map(|id| (id % 5 != 0).then_some(id))))),
        ("at", Arc::new(TimestampMicrosecondArray::from_iter_values(ids()))),
        ("customer", Arc::new(StringArray::from_iter_values(ids().map(|id| format!("c{id}"))))),
        ("amount", Arc::new(Float64Array::from_iter_values(ids().map(|_| 1.25)))),
        ("is_fraud", Arc::new(BooleanArray::from_iter(ids().map(|_| Some(false))))),
        ("score", Arc::new(Float64Array::from_iter_values(ids().map(|_| 0.5)))),
    ];
    let batch = arrow_array::RecordBatch::try_from_iter(columns).unwrap();
    let properties =
        parquet::file::properties::WriterProperties::builder().set_max_row_group_row_count(Some(4)).build();
    let file = std::fs::File::create(path).unwrap();
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), Some(properties)).unwrap();
    writer.write(&batch).unwrap();
    writer.close().unwrap();
}

/// The first change settles whether versions are LSNs; a reader that goes on behind it knows.
#[test]
fn where_versions_come_from_is_known_after_any_position() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mixed");
    let without = debezium_row(1).replace(",\"lsn\":1", "");
    std::fs::write(&path, format!("\n{without}\n{}\n{}\n", debezium_row(2), debezium_row(4))).unwrap();
    let config = config(&path, Format::Debezium, AtEnd::Stop);
    let whole = drain(&mut open(&config), 100);
    for position in 0..=4 {
        let mut source = open(&config);
        source.resume(position).unwrap();
        let rest: BTreeMap<u64, String> = whole.range(position + 1..).map(|(at, row)| (*at, row.clone())).collect();
        assert_eq!(drain(&mut source, 100), rest, "after {position}");
    }
}

#[test]
fn reading_goes_on_after_every_position_with_the_same_records() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("records");
    for format in [Format::Parquet, Format::Csv, Format::Json, Format::Debezium] {
        const COUNT: u64 = 23;
        if format == Format::Parquet {
            write_parquet(&path, COUNT)
        } else {
            write_text(&path, format, COUNT)
        }
        let config = config(&path, format, AtEnd::Stop);
        let whole = drain(&mut open(&config), 1000);
        assert!(whole.len() > 15, "{format:?}: {whole:?}");
        for records_max in [1, 3, 1000] {
            assert_eq!(drain(&mut open(&config), records_max), whole, "{format:?}");
        }
        for position in 0..=COUNT {
            let mut source = open(&config);
            source.resume(position).unwrap();
            let mut rest = whole.clone();
            rest.retain(|at, _| *at > position);
            assert_eq!(drain(&mut source, 2), rest, "{format:?} after {position}");
        }
        let error = open(&config).resume(COUNT + 1).unwrap_err();
        assert!(matches!(error, SourceError::PositionBeyondEnd { records: COUNT, .. }), "{error}");
    }
}

#[test]
fn several_parquet_files_are_one_source() {
    let folder = tempfile::tempdir().unwrap();
    write_parquet(&folder.path().join("a.parquet"), 6);
    write_parquet(&folder.path().join("b.parquet"), 6);
    let config = config(folder.path(), Format::Parquet, AtEnd::Stop);
    let whole = drain(&mut open(&config), 5);
    assert_eq!(whole.len(), 12);
    for position in 0..=12 {
        let mut source = open(&config);
        source.resume(position).unwrap();
        assert_eq!(drain(&mut source, 100).len() as u64, 12 - position);
    }
}

#[test]
fn tables_of_one_file_come_as_runs_in_the_order_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("changes");
    std::fs::write(&path, (1..=6).map(|id| debezium_row(id) + "\n").collect::<String>()).unwrap();
    let delivery = open(&config(&path, Format::Debezium, AtEnd::Stop)).next(100).unwrap().unwrap();
    let found: Vec<_> = delivery.batches.iter().map(|batch| (batch.stream().name.clone(), batch.len())).collect();
    let run = |stream: &str, len| (stream.to_owned(), len);
    let expected = [run("transactions", 2), run("chargebacks", 1), run("transactions", 2), run("chargebacks", 1)];
    assert_eq!(found, expected);
    assert_eq!(delivery.position, 6);
}

#[test]
fn a_line_past_its_bound_is_one_dead_letter() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    for length in [lines::LINE_BYTES_MAX - 1, lines::LINE_BYTES_MAX + 1, 3 * lines::LINE_BYTES_MAX + 17] {
        let text = format!("{}\n{}\n{}\n{}", json_row(1), "x".repeat(length), json_row(3), "y".repeat(length));
        std::fs::write(&path, text).unwrap();
        let found = drain(&mut open(&config(&path, Format::Json, AtEnd::Stop)), 100);
        assert_eq!(found.len(), 4);
        let code = if length > lines::LINE_BYTES_MAX { "line_too_long" } else { "bad_json" };
        for (position, letter) in [(2, 'x'), (4, 'y')] {
            let expected = format!("{code} Some(\"{}", String::from(letter).repeat(1024));
            assert!(found[&position].starts_with(&expected), "{}", &found[&position][..40]);
            assert!(found[&position].len() < 1100);
        }
        assert!(found[&3].starts_with("transactions"));
    }
}

#[test]
fn letters_of_sensitive_streams_hold_no_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("lines");
    std::fs::write(&path, "{\"card\":\"4111\"\n").unwrap();
    let config = FileConfig { stream: Some("cards".to_owned()), ..config(&path, Format::Json, AtEnd::Stop) };
    let mut source = FileSource::open("payments", &config, &[cards()], Stop::default()).unwrap();
    let delivery = source.next(10).unwrap().unwrap();
    assert_eq!(delivery.dead[0].payload, None);
    assert!(delivery.dead[0].detail.contains("sensitive"));
}

fn append(path: &Path, text: &str) {
    OpenOptions::new().create(true).append(true).open(path).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn a_growing_file_is_followed_line_by_line() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing");
    append(&path, &json_row(1));
    let stop = Stop::default();
    let config = config(&path, Format::Json, AtEnd::Follow);
    let mut source = FileSource::open("payments", &config, &[transactions()], stop.clone()).unwrap();
    let mut found = BTreeMap::new();
    let mut next = |source: &mut FileSource| {
        let delivery = source.next(100).unwrap().unwrap();
        collect(&delivery, &mut found);
        delivery.position
    };
    append(&path, &format!("\n{}\n{}", json_row(2), &json_row(3)[..10]));
    assert_eq!(next(&mut source), 2, "half a line waits for its end");
    append(&path, &format!("{}\n", &json_row(3)[10..]));
    assert_eq!(next(&mut source), 3);
    let writer = std::thread::spawn({
        let path = path.clone();
        move || append(&path, &format!("{}\n", json_row(4)))
    });
    assert_eq!(next(&mut source), 4, "a call waits until there is a line");
    writer.join().unwrap();
    let stopper = std::thread::spawn(move || stop.stop());
    assert!(source.next(100).unwrap().is_none());
    stopper.join().unwrap();
    assert!(found.values().all(|row| row.starts_with("transactions")));
}

#[test]
fn a_followed_file_that_was_cut_or_replaced_is_reported() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("growing");
    let config = config(&path, Format::Json, AtEnd::Follow);
    append(&path, &format!("{}\n", json_row(1)));
    let mut source = open(&config);
    source.next(100).unwrap().unwrap();
    std::fs::write(&path, "").unwrap();
    assert!(matches!(source.next(100).unwrap_err(), SourceError::Truncated { bytes: 0, .. }));

    append(&path, &format!("{}\n", json_row(1)));
    let mut source = open(&config);
    source.next(100).unwrap().unwrap();
    append(&path, &json_row(2));
    std::fs::rename(&path, folder.path().join("growing.1")).unwrap();
    append(&path, &format!("{}\n", json_row(9)));
    assert_eq!(source.next(100).unwrap().unwrap().position, 2, "the old file's last line is delivered first");
    assert!(matches!(source.next(100).unwrap_err(), SourceError::Rotated { records: 2, .. }));
}

#[test]
fn an_incarnation_is_its_first_record() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a");
    let copy = folder.path().join("b");
    for format in [Format::Parquet, Format::Csv, Format::Json] {
        if format == Format::Parquet {
            write_parquet(&path, 9)
        } else {
            write_text(&path, format, 9)
        }
        std::fs::copy(&path, &copy).unwrap();
        let of = |path: &Path| open(&config(path, format, AtEnd::Stop)).incarnation().unwrap();
        assert!(of(&path).is_some());
        assert_eq!(of(&path), of(&copy));
        if format == Format::Parquet {
            write_parquet(&copy, 10);
        } else {
            append(&path, "more\n");
            assert_eq!(of(&path), of(&copy), "a file may grow");
            let text = std::fs::read_to_string(&copy).unwrap().replacen("c1", "c2", 1);
            std::fs::write(&copy, text).unwrap();
        }
        assert_ne!(of(&path), of(&copy));
    }
    std::fs::write(&path, "").unwrap();
    assert_eq!(open(&config(&path, Format::Json, AtEnd::Stop)).incarnation().unwrap(), None);
}

#[test]
fn a_missing_file_or_stream_is_reported() {
    let nowhere = config(Path::new("/nowhere/at/all"), Format::Json, AtEnd::Stop);
    let streams = [transactions(), chargebacks()];
    let open = |config: &FileConfig| FileSource::open("payments", config, &streams, Stop::default()).unwrap_err();
    assert!(open(&nowhere).to_string().contains("/nowhere/at/all"));
    let unnamed = FileConfig { stream: None, ..nowhere };
    assert!(matches!(open(&unnamed), SourceError::UnknownStream { .. }));
}

#[test]
fn standard_input_has_no_offset() {
    let config = FileConfig { input: Input::Stdin, ..config(Path::new(""), Format::Json, AtEnd::Stop) };
    let mut source = open(&config);
    assert_eq!(source.incarnation().unwrap(), None);
    source.resume(0).unwrap();
    assert!(matches!(source.resume(3).unwrap_err(), SourceError::NoResume { position: 3 }));
}

#[test]
fn two_streams_of_one_table_are_a_mistake() {
    let mut twin = Stream::clone(&chargebacks());
    twin.name = "twin".to_owned();
    let text = "[source]\ntype = \"file\"\npath = \"f\"\nformat = \"debezium\"\n";
    let check = |text: &str| {
        let file = ConfigFile::parse("interdict.toml", text).unwrap();
        let sources = config::read(&file, &[chargebacks(), Arc::new(twin.clone())]);
        (sources.len(), file.finish().map_err(|problems| problems.0.len()))
    };
    assert_eq!(check(text), (0, Err(1)));
    assert_eq!(check(&format!("{text}stream = \"twin\"\n")), (1, Ok(())));
}

/// What the configuration says, or its problems.
fn read_config(text: &str) -> Result<Vec<config::SourceConfig>, Vec<String>> {
    read_config_of(text, &[transactions(), chargebacks()])
}

fn read_config_of(text: &str, streams: &[Arc<Stream>]) -> Result<Vec<config::SourceConfig>, Vec<String>> {
    let file = ConfigFile::parse("interdict.toml", text).unwrap();
    let sources = config::read(&file, streams);
    match file.finish() {
        Ok(()) => Ok(sources),
        Err(problems) => Err(problems.0.iter().map(|p| format!("{}: {}", p.line, p.message)).collect()),
    }
}

#[test]
fn two_plain_sources_of_one_stream_must_say_that_their_rows_differ() {
    let source = |name: &str, format: &str, more: &str| {
        format!(
            "[[source]]\nname = \"{name}\"\ntype = \"file\"\npath = \"f\"\nformat = \"{format}\"\nstream = {more}\n"
        )
    };
    let check = |formats: [&str; 2], more: [&str; 2], is_fine: bool| {
        let text = source("a", formats[0], more[0]) + &source("b", formats[1], more[1]);
        let read = read_config(&text);
        assert_eq!(read.is_ok(), is_fine, "{text}: {read:?}");
        if let Err(problems) = read {
            assert!(problems.len() == 1 && problems[0].contains("numbered apart"), "{problems:?}");
        }
    };
    let (rows, disjoint) = ("\"transactions\"", "\"transactions\"\ndisjoint = true");
    check(["csv", "csv"], [rows, rows], false);
    check(["parquet", "json"], [rows, rows], false);
    check(["csv", "json"], [rows, disjoint], true);
    check(["csv", "json"], [disjoint, rows], true);
    check(["csv", "debezium"], [rows, rows], true);
    check(["csv", "csv"], [rows, "\"chargebacks\""], true);
}

#[test]
fn a_stream_that_a_lost_slot_may_clear_has_one_source() {
    let database = |more: &str| {
        format!(
            "[[source]]\nname = \"bank\"\ntype = \"postgres\"\nurl = \"postgres://capture@localhost/shop\"\n\
             tables = {{ transactions = \"t\", chargebacks = \"c\" }}\n{more}"
        )
    };
    let file = |format: &str, more: &str| {
        format!("[[source]]\nname = \"file\"\ntype = \"file\"\npath = \"f\"\nformat = \"{format}\"\n{more}")
    };
    let mut labels = Stream::clone(&chargebacks());
    labels.labels = Some(LabelsOf { stream: 0, value: 1 });
    let streams = [transactions(), labels.into()];
    let (snapshot, transactions) = ("on_lost_slot = \"snapshot\"\n", "stream = \"transactions\"\n");
    let check = |text: String, is_fine: bool| {
        let read = read_config_of(&text, &streams);
        assert_eq!(read.is_ok(), is_fine, "{text}: {read:?}");
        if let Err(problems) = read {
            assert!(problems.len() == 1 && problems[0].contains("is fed by 'file' too"), "{problems:?}");
        }
    };
    check(database(snapshot) + &file("csv", transactions), false);
    check(database(snapshot) + &file("debezium", ""), false);
    check(database("") + &file("csv", transactions), true);
    // Labels of another source stay whatever becomes of the slot.
    check(database(snapshot) + &file("csv", "stream = \"chargebacks\"\n"), true);
    check(database(snapshot), true);
}

#[test]
fn a_source_section_is_read() {
    let text = r#"
[source]
type = "file"
path = "changes.jsonl"
format = "debezium"
follow = true
rows = "snapshot"
decimals = "precise"
missing = "null"
time_unit = { at = "us" }
"#;
    let expected = FileConfig {
        input: Input::Path(PathBuf::from("changes.jsonl")),
        format: Format::Debezium,
        stream: None,
        at_end: AtEnd::Follow,
        reading: Reading {
            rows_as: interdict_features::change::Op::Snapshot,
            time_units: config::TimeUnits { default: None, columns: vec![("at".to_owned(), TimeUnit::Micros)] },
            decimals: DecimalText::Precise,
            missing: Missing::Null,
        },
    };
    let sources = read_config(text).unwrap();
    assert_eq!(sources, [config::SourceConfig { name: "source".to_owned(), kind: SourceKind::File(expected) }]);
    assert_eq!(read_config("").unwrap(), []);
}

#[test]
fn several_sources_have_names() {
    let text = r#"
[[source]]
name = "history"
type = "file"
path = "t.parquet"
format = "parquet"
stream = "transactions"
[[source]]
name = "live"
type = "stdin"
format = "json"
stream = "chargebacks"
time_unit = "ms"
"#;
    let sources = read_config(text).unwrap();
    let names: Vec<_> = sources.iter().map(|source| source.name.as_str()).collect();
    assert_eq!(names, ["history", "live"]);
}

#[test]
fn every_mistake_is_reported_at_once() {
    let text = r#"
[[source]]
type = "tape"
format = "parquet"
[[source]]
name = "a"
type = "stdin"
path = "x"
format = "parquet"
stream = "transaction"
follow = "yes"
rows = "new"
speed = 3
time_unit = { at = "minutes", customer = "ms" }
decimals = "precise"
[[source]]
name = "b"
type = "file"
format = "csv"
[[source]]
name = "b"
type = "file"
path = "y"
format = "parquet"
stream = "transactions"
follow = true
"#;
    let problems = read_config(text).unwrap_err();
    let lines: Vec<usize> = problems.iter().map(|p| p.split(':').next().unwrap().parse().unwrap()).collect();
    assert_eq!(lines, [2, 2, 3, 8, 9, 10, 11, 12, 13, 14, 14, 15, 16, 16, 21, 26], "{problems:#?}");
}

proptest! {
    #[test]
    fn any_bytes_in_a_file_are_accounted_for(
        pieces in prop::collection::vec(prop_oneof![
            prop::collection::vec(any::<u8>(), 0..60),
            Just(b"\n".to_vec()),
            Just(b"\"".to_vec()),
            (1_u64..9).prop_map(|id| format!("{}\n", json_row(id)).into_bytes()),
            (1_u64..9).prop_map(|id| format!("{}\n", debezium_row(id)).into_bytes()),
            (1_u64..9).prop_map(|id| format!("{}\n", csv_row(id)).into_bytes()),
        ], 0..30),
    ) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("any");
        let body = pieces.concat();
        for format in [Format::Csv, Format::Json, Format::Debezium] {
            let mut bytes = if format == Format::Csv { HEADER.as_bytes().to_vec() } else { Vec::new() };
            bytes.extend_from_slice(&body);
            std::fs::write(&path, &bytes).unwrap();
            let mut source = open(&config(&path, format, AtEnd::Stop));
            let (mut records, mut found) = (0, BTreeMap::new());
            while let Some(delivery) = source.next(7).unwrap() {
                collect(&delivery, &mut found);
                records += delivery.records;
            }
            let breaks = body.iter().filter(|byte| **byte == b'\n').count() as u64;
            let last = u64::from(!body.is_empty() && !body.ends_with(b"\n"));
            prop_assert_eq!(records, breaks + last);
        }
        std::fs::write(&path, &body).unwrap();
        let opened = FileSource::open("payments", &config(&path, Format::Parquet, AtEnd::Stop), &[transactions()], Stop::default());
        prop_assert!(opened.is_err(), "these bytes are no Parquet");
    }
}

const POSTGRES: &str = "[source]\ntype = \"postgres\"\nurl = \"postgres://capture@db.example.com/shop\"\n";

#[test]
fn a_postgres_source_is_read() {
    use config::password::PasswordSource;
    use config::postgres::{Creation, HeartbeatMessage, OnLostSlot, TlsMode};
    let text = format!(
        "{POSTGRES}password_file = \"secret\"\ntables = {{ transactions = \"shop.payments\", chargebacks = \"chargebacks\" }}\ntls_ca = \"ca.pem\"\ncreate = false\non_lost_slot = \"snapshot\"\nslot_wait = \"30s\"\nheartbeat = \"5s\"\nheartbeat_message = true\nrenamed = {{ transactions = {{ amt = \"amount\" }} }}\ndropped = {{ transactions = [\"note\"] }}\n"
    );
    let sources = read_config(&text).unwrap();
    let SourceKind::Postgres(read) = sources[0].kind.clone() else { panic!("{sources:?}") };
    let read = read.located(Path::new("/etc/interdict"));
    assert_eq!(
        (read.address.host.as_str(), read.address.port, read.address.user.as_str()),
        ("db.example.com", 5432, "capture")
    );
    assert_eq!(
        (read.address.database.as_str(), read.publication.as_str(), read.slot.as_str()),
        ("shop", "interdict", "interdict")
    );
    assert_eq!(read.password, PasswordSource::File("/etc/interdict/secret".into()));
    assert_eq!((read.tls.mode, read.tls.ca), (TlsMode::VerifyFull, Some("/etc/interdict/ca.pem".into())));
    let tables: Vec<_> =
        read.tables.iter().map(|table| format!("{} {}.{}", table.stream, table.schema, table.table)).collect();
    assert_eq!(tables, ["transactions shop.payments", "chargebacks public.chargebacks"]);
    let before = &read.tables[0].before;
    assert_eq!(
        (&before.renamed, &before.dropped),
        (&vec![("amt".to_owned(), "amount".to_owned())], &vec!["note".to_owned()])
    );
    assert_eq!((read.creation, read.heartbeat_message), (Creation::Forbidden, HeartbeatMessage::Written));
    assert_eq!(read.on_lost_slot, OnLostSlot::Snapshot);
    assert_eq!(
        (read.slot_wait, read.heartbeat),
        (Some(std::time::Duration::from_secs(30)), std::time::Duration::from_secs(5))
    );
}

#[test]
fn mistakes_of_a_postgres_source_are_told() {
    let tables = "tables = { transactions = \"t\" }\n";
    let section = "[source]\ntype = \"postgres\"\n";
    for (text, expected) in [
        (POSTGRES.to_owned(), "has no 'tables'"),
        (format!("{section}{tables}"), "has no 'url'"),
        (format!("{section}host = \"h\"\nuser = \"u\"\n{tables}"), "has no 'database'"),
        (format!("{section}url = \"postgres://u:geheim@h/d\"\n{tables}"), "holds a password"),
        (format!("{section}url = \"postgres://u@h:no/d\"\n{tables}"), "no valid port"),
        (format!("{section}url = \"mysql://u@h/d\"\n{tables}"), "does not begin with postgres://"),
        (format!("{section}url = \"postgres://u@10.0.0.1/d\"\n{tables}"), "IP address"),
        (format!("{POSTGRES}password = \"geheim\"\n{tables}"), "does not belong into the configuration"),
        (format!("{POSTGRES}port = 5433\n{tables}"), "given twice"),
        (format!("{POSTGRES}slot = \"My-Slot\"\n{tables}"), "is no name for a slot"),
        (format!("{POSTGRES}heartbeat = \"1ms\"\n{tables}"), "at least 100ms"),
        (format!("{POSTGRES}format = \"csv\"\n{tables}"), "unknown key 'format'"),
        (format!("{POSTGRES}tables = {{ transaction = \"t\" }}\n"), "no stream is called 'transaction'"),
        (
            format!("{POSTGRES}{tables}renamed = {{ chargebacks = {{ a = \"id\" }} }}\n"),
            "names none for the stream 'chargebacks'",
        ),
        (format!("{POSTGRES}{tables}renamed = {{ transactions = {{ amount = \"amt\" }} }}\n"), "has no column 'amt'"),
        (
            format!("{POSTGRES}{tables}dropped = {{ chargebacks = [\"a\"] }}\n"),
            "names none for the stream 'chargebacks'",
        ),
        (format!("{POSTGRES}tables = {{ transactions = \"t\", chargebacks = \"public.t\" }}\n"), "feeds two streams"),
    ] {
        let problems = read_config(&text).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{expected}: {problems:?}");
        assert!(!problems.concat().contains("geheim"));
    }
    let mut appended = Stream::clone(&transactions());
    appended.append_only = true;
    let file = ConfigFile::parse("interdict.toml", &format!("{POSTGRES}{tables}")).unwrap();
    assert!(config::read(&file, &[Arc::new(appended)]).is_empty());
    assert!(file.finish().unwrap_err().0[0].message.contains("append_only"));
}
