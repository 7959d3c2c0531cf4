use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use interdict_features::decode::TimeUnit;
use interdict_features::time::Timestamp;
use proptest::prelude::*;

use super::*;
use crate::fixture::{cards, chargebacks, shown, transactions};
use crate::source::config::{DecimalText, Missing, TimeUnits};

/// What one line became: `stream op major.minor cells`, `skipped` or the reason's code.
fn outcome(decoder: &mut LineDecoder, line: &[u8], position: u64) -> String {
    match decoder.decode(line, position) {
        Ok(Outcome::Skipped) => "skipped".to_owned(),
        Err(fault) => {
            assert!(decoder.take_batches().is_empty(), "a fault leaves no row");
            fault.reason.code().to_owned()
        }
        Ok(Outcome::Row) => {
            let batches = decoder.take_batches();
            assert_eq!((batches.len(), batches[0].len()), (1, 1));
            let (change, row) = batches[0].get(0);
            assert_eq!(change.position, position);
            let op = serde_json::to_string(&change.op).unwrap();
            let (major, minor) = (change.version.major, change.version.minor);
            format!("{} {} {major}.{minor} {}", row.stream.name, op.trim_matches('"'), shown(&row))
        }
    }
}

fn check(decoder: &mut LineDecoder, cases: &[(&str, &str)]) {
    for (position, (line, expected)) in cases.iter().enumerate() {
        assert_eq!(outcome(decoder, line.as_bytes(), position as u64 + 1), *expected, "{line}");
    }
}

const ROW: &str = r#""id":1,"at":"2018-04-01T00:00:31Z","customer":"c","amount":1.50,"is_fraud":null,"score":0.5"#;

#[test]
fn plain_json_rows() {
    let mut decoder = LineDecoder::json(transactions(), &Reading::default());
    let bomb = format!("{{\"id\":{}1{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let long = format!("{{{}}}", ROW.replace("\"c\"", &format!("\"{}\"", "k".repeat(1 << 20))));
    check(
        &mut decoder,
        &[
            (&format!("{{{ROW}}}"), "transactions insert 1.0 1|1522540831000000|'c'|150|-|0.5"),
            (
                &format!("{{{ROW},\"other\":{{\"deep\":[1]}}}}"),
                "transactions insert 2.0 1|1522540831000000|'c'|150|-|0.5",
            ),
            (&format!("{{{ROW},\"_op\":\"update\"}}"), "transactions update 3.0 1|1522540831000000|'c'|150|-|0.5"),
            (r#"{"id":1,"_op":"delete"}"#, "transactions delete 4.0 1|-|-|-|-|-"),
            (r#"{"_op":"delete"}"#, "missing_column"),
            (&format!("{{{ROW},\"_op\":\"upsert\"}}"), "unknown_op"),
            ("   ", "skipped"),
            ("{", "bad_json"),
            ("[1]", "bad_json"),
            (&format!("{{{ROW}}} x"), "bad_json"),
            (&format!("{{{ROW},\"id\":2}}"), "duplicate_column"),
            (&format!("{{{}}}", ROW.replace("\"id\":1", "\"id\":null")), "null_id"),
            (&format!("{{{}}}", ROW.replace("\"2018-04-01T00:00:31Z\"", "null")), "null_time"),
            (&format!("{{{}}}", ROW.replace("\"2018-04-01T00:00:31Z\"", "1522540831")), "time_unit_unknown"),
            (&format!("{{{}}}", ROW.replace("1.50", "1.505")), "inexact"),
            (&format!("{{{}}}", ROW.replace("1.50", "NaN")), "bad_json"),
            (&format!("{{{}}}", ROW.replace("1.50", "\"NaN\"")), "not_finite"),
            (&format!("{{{}}}", ROW.replace("1.50", "{}")), "wrong_type"),
            (&format!("{{{}}}", ROW.replace("0.5", "1e999")), "not_finite"),
            (&format!("{{{}}}", ROW.replace("\"amount\":1.50,", "")), "missing_column"),
            (&bomb, "wrong_type"),
            (&long, "text_too_long"),
        ],
    );
    assert_eq!(outcome(&mut decoder, b"{\"id\":\xff}", 1), "not_utf8");
}

#[test]
fn absent_columns_are_null_where_configured() {
    let reading = Reading { missing: Missing::Null, ..Reading::default() };
    check(
        &mut LineDecoder::json(transactions(), &reading),
        &[
            (r#"{"id":1,"at":"2018-04-01"}"#, "transactions insert 1.0 1|1522540800000000|-|-|-|-"),
            (r#"{"id":1}"#, "null_time"),
            (r#"{"at":"2018-04-01"}"#, "null_id"),
        ],
    );
}

#[test]
fn csv_rows() {
    let mut decoder = LineDecoder::csv(transactions(), &Reading::default());
    decoder.set_header(Path::new("f"), b"\xef\xbb\xbfamount,id,at,\"customer\",extra,is_fraud,score").unwrap();
    check(
        &mut decoder,
        &[
            ("1.5,1,2018-04-01 00:00:31,c,x,t,0.5", "transactions insert 1.0 1|1522540831000000|'c'|150|1|0.5"),
            (",1,2018-04-01,,,,", "transactions insert 2.0 1|1522540800000000|-|-|-|-"),
            ("1,1,2018-04-01,\"a,\"\"b\"\"\",x,f,1", "transactions insert 3.0 1|1522540800000000|'a,\"b\"'|100|0|1"),
            ("", "skipped"),
            ("1,1", "field_count"),
            ("1.5,1,2018-04-01 00:00:31,c,x,t,0.5,more", "field_count"),
            ("1.5,1,2018-04-01 00:00:31,\"c,x,t,0.5", "unclosed_quote"),
            (
                "1.5,1,2018-04-01 00:00:31,5\" pipe,x,t,0.5",
                "transactions insert 8.0 1|1522540831000000|'5\" pipe'|150|1|0.5",
            ),
            ("1.5,,2018-04-01 00:00:31,c,x,t,0.5", "null_id"),
            ("1.5,1,,c,x,t,0.5", "null_time"),
            ("1.5,1,1522540831,c,x,t,0.5", "time_unit_unknown"),
            ("NaN,1,2018-04-01,c,x,t,0.5", "not_finite"),
            ("1.555,1,2018-04-01,c,x,t,0.5", "inexact"),
            ("1.5,1,2018-04-01,c,x,maybe,0.5", "wrong_type"),
            ("1.5,1,2018-04-01,c,x,t,inf", "not_finite"),
        ],
    );
    assert_eq!(outcome(&mut decoder, ",".repeat(5000).as_bytes(), 1), "field_count");
    assert_eq!(outcome(&mut decoder, b"1,1,2018-04-01,a\rb,x,t,1", 1), "field_count");
}

#[test]
fn csv_headers_are_checked() {
    for (header, expected) in [
        ("id,at,customer,amount,is_fraud", "has no column 'score'"),
        ("id,at,customer,amount,is_fraud,score,id", "names 'id' twice"),
        ("\"id", "ends inside a quoted field"),
    ] {
        let mut decoder = LineDecoder::csv(transactions(), &Reading::default());
        let error = decoder.set_header(Path::new("f.csv"), header.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
}

/// A line of the transactions table without schema.
fn change(op: &str, before: &str, after: &str) -> String {
    format!(
        r#"{{"before":{before},"after":{after},"source":{{"table":"transactions","schema":"public","lsn":900,"ts_ms":5}},"op":"{op}","ts_ms":6,"transaction":{{"id":"1:2","total_order":"3"}}}}"#
    )
}

#[test]
fn debezium_operations() {
    let streams = [transactions(), chargebacks()];
    let mut decoder = LineDecoder::debezium(&streams, &Reading::default());
    let row = format!("{{{ROW}}}");
    let cells = "1|1522540831000000|'c'|150|-|0.5";
    let keyed = format!(r#"{{"key":{{"id":9}},"value":{}}}"#, change("d", "null", "null"));
    let chargeback =
        r#"{"op":"c","after":{"id":4,"is_fraud":true},"source":{"schema":"risk","table":"chargebacks","lsn":901}}"#;
    check(
        &mut decoder,
        &[
            (&change("c", "null", &row), &format!("transactions insert 900.3 {cells}")),
            (&change("u", &row, &row), &format!("transactions update 900.3 {cells}")),
            (&change("r", "null", &row), &format!("transactions snapshot 900.3 {cells}")),
            (&change("d", "{\"id\":7,\"amount\":0}", "null"), "transactions delete 900.3 7|-|-|-|-|-"),
            (&keyed, "transactions delete 900.3 9|-|-|-|-|-"),
            (&change("t", "null", "null"), "transactions truncate 900.3 -|-|-|-|-|-"),
            (&change("m", "null", "null"), "skipped"),
            ("null", "skipped"),
            (r#"{"key":{"id":1},"value":null}"#, "skipped"),
            (r#"{"schema":null,"payload":null}"#, "skipped"),
            (r#"{"ts_ms":1}"#, "skipped"),
            (r#"{"status":"BEGIN","id":"1:2","event_count":null,"ts_ms":1}"#, "skipped"),
            (chargeback, "chargebacks insert 901.0 4|1"),
            (&chargeback.replace("\"risk\"", "\"public\""), "unknown_table"),
            (&change("c", "null", &row).replace("\"transactions\"", "\"audit\""), "unknown_table"),
            (&change("x", "null", &row), "unknown_op"),
            (&change("c", "null", "null"), "row_missing"),
            (&change("d", "null", "null"), "row_missing"),
            (&change("d", "{\"id\":null}", "null"), "row_missing"),
            (&format!("{{{ROW}}}"), "bad_json"),
            ("{\"payload\":{\"value\":{\"payload\":{\"op\":\"c\"}}}}", "bad_json"),
            (&change("c", "null", &row).replace("\"lsn\":900,", ""), "version_mismatch"),
        ],
    );
}

#[test]
fn a_change_of_key_is_a_delete_and_a_create() {
    let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
    let row = format!("{{{}}}", ROW.replace("\"id\":1", "\"id\":2"));
    check(
        &mut decoder,
        &[
            (&change("d", "{\"id\":1}", "null"), "transactions delete 900.3 1|-|-|-|-|-"),
            ("", "skipped"),
            (&change("c", "null", &row), "transactions insert 900.3 2|1522540831000000|'c'|150|-|0.5"),
        ],
    );
}

#[test]
fn versions_come_from_the_lsn_the_sequence_or_the_record() {
    let row = format!("{{{ROW}}}");
    let with = |source: &str| format!(r#"{{"op":"c","after":{row},"source":{source}}}"#);
    for (source, expected) in [
        (r#"{"lsn":"77"}"#, "77.0"),
        (r#"{"lsn":null,"sequence":"[\"5\",\"78\"]"}"#, "78.0"),
        (r#"{"sequence":"[null,\"79\"]"}"#, "79.0"),
        (r#"{"sequence":"[null,null]"}"#, "12.0"),
        (r#"{"snapshot":"first"}"#, "12.0"),
        (r#"{"snapshot":true}"#, "12.0"),
        ("null", "12.0"),
    ] {
        let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
        let found = outcome(&mut decoder, with(source).as_bytes(), 12);
        assert_eq!(found, format!("transactions insert {expected} 1|1522540831000000|'c'|150|-|0.5"), "{source}");
    }
}

#[test]
fn the_arrival_is_the_change_in_the_database() {
    let row = format!("{{{ROW}}}");
    for (source, expected) in [
        (r#"{"ts_ms":5,"ts_us":5123}"#, Some(5123)),
        (r#"{"ts_ms":"5"}"#, Some(5000)),
        (r#"{"ts_ms":0}"#, None),
        (r#"{"ts_ms":9223372036854775807}"#, None),
        ("{}", None),
    ] {
        let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
        let line = format!(r#"{{"op":"c","after":{row},"source":{source}}}"#);
        decoder.decode(line.as_bytes(), 1).unwrap();
        let arrival = decoder.take_batches()[0].get(0).0.arrival;
        assert_eq!(arrival, expected.map(Timestamp::from_micros), "{source}");
    }
}

#[test]
fn values_not_sent_stay_unchanged_in_an_update_only() {
    let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
    let row = format!("{{{}}}", ROW.replace("\"c\"", "\"__debezium_unavailable_value\""));
    check(
        &mut decoder,
        &[
            (&change("u", "null", &row), "transactions update 900.3 1|1522540831000000|~|150|-|0.5"),
            (&change("c", "null", &row), "unavailable_value"),
        ],
    );
}

fn field(name: &str, semantic: &str, parameters: &str) -> String {
    format!(r#"{{"type":"x","optional":true,"field":"{name}","name":{semantic},"parameters":{parameters}}}"#)
}

/// A line with its schema: `at` and `amount` encoded as the semantic names say.
fn with_schema(time: &str, decimal: &str, scale: &str, at: &str, amount: &str) -> String {
    let fields = [
        field("id", "null", "{}"),
        field("at", time, "{}"),
        field("customer", "null", "{}"),
        field("amount", decimal, &format!("{{\"scale\":\"{scale}\"}}")),
        field("is_fraud", "null", "{}"),
        field("score", "null", "{}"),
    ];
    let schema = format!(
        r#"{{"type":"struct","fields":[{{"type":"struct","field":"after","fields":[{}]}}]}}"#,
        fields.join(",")
    );
    let row = format!(r#"{{"id":1,"at":{at},"customer":"c","amount":{amount},"is_fraud":null,"score":0.5}}"#);
    format!(r#"{{"schema":{schema},"payload":{}}}"#, change("c", "null", &row))
}

const DECIMAL: &str = "\"org.apache.kafka.connect.data.Decimal\"";
const MICROS: &str = "\"io.debezium.time.MicroTimestamp\"";

#[test]
fn schemas_name_units_and_scales() {
    let row = |at: &str, amount: &str| format!("transactions insert 900.3 1|{at}|'c'|{amount}|-|0.5");
    let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
    let zoned = "\"io.debezium.time.ZonedTimestamp\"";
    check(
        &mut decoder,
        &[
            (&with_schema(MICROS, DECIMAL, "2", "31", "\"AJY=\""), &row("31", "150")),
            (&with_schema("\"io.debezium.time.Timestamp\"", DECIMAL, "2", "31", "\"/2o=\""), &row("31000", "-150")),
            (&with_schema("\"io.debezium.time.NanoTimestamp\"", DECIMAL, "4", "31000", "\"Opg=\""), &row("31", "150")),
            (&with_schema("\"io.debezium.time.Date\"", DECIMAL, "0", "1", "\"Ag==\""), &row("86400000000", "200")),
            (&with_schema(zoned, DECIMAL, "2", "\"1970-01-01T00:00:31+01:00\"", "1.5"), &row("-3569000000", "150")),
            (&with_schema(MICROS, "null", "", "31", "\"1.50\""), &row("31", "150")),
            (&with_schema(MICROS, "null", "", "31", "1.50"), &row("31", "150")),
            (&with_schema(MICROS, "null", "", "31", r#"{"scale":3,"value":"Bdw="}"#), &row("31", "150")),
            (&with_schema(MICROS, DECIMAL, "3", "31", "\"AJY=\""), &row("31", "15")),
            (&with_schema(MICROS, DECIMAL, "4", "31", "\"AJY=\""), "inexact"),
            (&with_schema(MICROS, DECIMAL, "2", "31", "\"?\""), "wrong_type"),
            (&with_schema(MICROS, DECIMAL, "2", "31", "\"\""), "wrong_type"),
            (&with_schema(MICROS, DECIMAL, "2", "31", &format!("\"{}\"", STANDARD.encode([1; 17]))), "out_of_range"),
            (&with_schema(MICROS, "null", "", "31", "\"NaN\""), "not_finite"),
            (&with_schema(MICROS, DECIMAL, "2", "9223372036825200000", "\"AJY=\""), "out_of_range"),
            (&with_schema(MICROS, DECIMAL, "2", "-9223372036832400000", "\"AJY=\""), "out_of_range"),
            (&with_schema("null", DECIMAL, "2", "31", "\"AJY=\""), "time_unit_unknown"),
            (&with_schema(zoned, DECIMAL, "2", "\"infinity\"", "\"AJY=\""), "wrong_type"),
        ],
    );
}

#[test]
fn without_schema_the_configuration_names_units_and_modes() {
    let row = |at: &str, amount: &str| {
        format!(r#"{{"id":1,"at":{at},"customer":"c","amount":{amount},"is_fraud":null,"score":0.5}}"#)
    };
    let mut digits = LineDecoder::debezium(&[transactions()], &Reading::default());
    check(
        &mut digits,
        &[
            (&change("c", "null", &row("31", "1")), "time_unit_unknown"),
            (&change("c", "null", &row("\"2018-04-01\"", "\"AJY=\"")), "decimal_mode_unknown"),
            (
                &change("c", "null", &row("\"2018-04-01\"", "\"1234\"")),
                "transactions insert 900.3 1|1522540800000000|'c'|123400|-|0.5",
            ),
        ],
    );
    let units = TimeUnits { default: Some(TimeUnit::Micros), columns: vec![("at".to_owned(), TimeUnit::Millis)] };
    let reading = Reading { time_units: units, decimals: DecimalText::Precise, ..Reading::default() };
    let mut precise = LineDecoder::debezium(&[transactions()], &reading);
    check(
        &mut precise,
        &[
            (&change("c", "null", &row("31", "\"AJY=\"")), "transactions insert 900.3 1|31000|'c'|150|-|0.5"),
            (&change("c", "null", &row("31", "\"1.50\"")), "wrong_type"),
            (&change("c", "null", &row("31", "1.5")), "transactions insert 900.3 1|31000|'c'|150|-|0.5"),
        ],
    );
}

#[test]
fn no_fault_tells_a_value() {
    let mut decoder = LineDecoder::json(cards(), &Reading::default());
    for line in [
        r#"{"id":1,"at":"2018-04-01","card":4111111111111111}"#,
        r#"{"id":"4111111111111111x","at":"2018-04-01","card":"c"}"#,
        r#"{"id":1,"at":"4111111111111111","card":"c"}"#,
        r#"{"id":1,"at":"2018-04-01","card":"4111111111111111"#,
        r#""4111111111111111""#,
    ] {
        let fault = decoder.decode(line.as_bytes(), 1).unwrap_err();
        let letter = decoder.letter("cards", 1, fault, line.as_bytes());
        assert!(!letter.detail.contains("4111"), "{}", letter.detail);
        assert!(letter.payload.is_none());
    }
    decoder.decode(br#"{"id":1,"at":"2018-04-01","card":"4111111111111111"}"#, 1).unwrap();
    let batches = decoder.take_batches();
    assert_eq!(batches[0].row(0).text(2), Some(cards().mask("4111111111111111").as_str()));
}

fn decoders() -> Vec<LineDecoder> {
    let streams = [transactions(), chargebacks()];
    let mut csv = LineDecoder::csv(transactions(), &Reading::default());
    csv.set_header(Path::new("f"), b"id,at,customer,amount,is_fraud,score").unwrap();
    vec![
        csv,
        LineDecoder::json(transactions(), &Reading::default()),
        LineDecoder::debezium(&streams, &Reading::default()),
    ]
}

fn account_for(lines: &[Vec<u8>]) {
    for mut decoder in decoders() {
        let (mut dead, mut skipped) = (0, 0);
        for (position, line) in lines.iter().enumerate() {
            match decoder.decode(line, position as u64 + 1) {
                Ok(Outcome::Row) => {}
                Ok(Outcome::Skipped) => skipped += 1,
                Err(_) => dead += 1,
            }
        }
        let rows: usize = decoder.take_batches().iter().map(ChangeBatch::len).sum();
        assert_eq!(rows + dead + skipped, lines.len());
    }
}

/// A valid line with some bytes changed, cut or doubled.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let row = format!("{{{ROW}}}");
    let seeds = vec![
        row.clone(),
        change("c", "null", &row),
        with_schema(MICROS, DECIMAL, "2", "31", "\"AJY=\""),
        "1,2018-04-01,c,1.5,t,0.5".to_owned(),
    ];
    let edits = prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..4);
    (prop::sample::select(seeds), edits).prop_map(|(seed, edits)| {
        let mut line = seed.into_bytes();
        for (at, byte, edit) in edits {
            let at = at.index(line.len().max(1));
            match edit {
                0 if at < line.len() => line[at] = byte,
                1 => line.truncate(at),
                2 => line.insert(at, byte),
                _ => line.extend_from_within(at..),
            }
        }
        line
    })
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_accounted_for(lines in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        account_for(&lines);
    }

    #[test]
    fn broken_records_are_accounted_for(lines in prop::collection::vec(mutated(), 0..20)) {
        account_for(&lines);
    }

    #[test]
    fn every_debezium_mode_gives_the_same_cells(minor in -(1_i64 << 50)..(1_i64 << 50), millis in -62_135_596_800_000_i64..253_402_300_799_999) {
        let text = format!("{}{}.{:02}", if minor < 0 { "-" } else { "" }, minor.abs() / 100, minor.abs() % 100);
        let encoded = STANDARD.encode(minor.to_be_bytes());
        let micros = millis * 1000;
        let expected = format!("transactions insert 900.3 1|{micros}|'c'|{minor}|-|0.5");
        let iso = format!("\"{}\"", Timestamp::from_micros(micros));
        let times = [
            (MICROS, micros.to_string()),
            ("\"io.debezium.time.Timestamp\"", millis.to_string()),
            ("\"io.debezium.time.ZonedTimestamp\"", iso),
        ];
        let variable = format!(r#"{{"scale":2,"value":"{encoded}"}}"#);
        let amounts = [(DECIMAL, format!("\"{encoded}\"")), ("null", text.clone()), ("null", format!("\"{text}\"")), ("null", variable)];
        let mut decoder = LineDecoder::debezium(&[transactions()], &Reading::default());
        for (time, at) in &times {
            for (decimal, amount) in &amounts {
                let line = with_schema(time, decimal, "2", at, amount);
                prop_assert_eq!(&outcome(&mut decoder, line.as_bytes(), 1), &expected);
            }
        }
    }
}
