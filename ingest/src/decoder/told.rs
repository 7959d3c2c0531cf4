//! What a fault still tells of its record: stream, row, operation and version.

use interdict_features::definition::Stream;

use super::*;
use crate::fixture::{cards, chargebacks, transactions};
use crate::republish::secret_of;

/// `stream id op version` of a letter, `-` for what it does not tell.
fn told(decoder: &mut LineDecoder, line: &str) -> String {
    let fault = decoder.decode(line.as_bytes(), 4).expect_err(line);
    let reason = fault.reason.code();
    let letter = decoder.letter("bank", 4, fault, line.as_bytes());
    let or_none = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let op = letter.op.map(|op| serde_json::to_string(&op).unwrap().replace('"', ""));
    let version = letter.version.map(|version| format!("{}.{}", version.major, version.minor));
    format!("{reason}: {} {} {} {}", or_none(letter.stream), or_none(letter.id), or_none(op), or_none(version))
}

fn check(decoder: &mut LineDecoder, cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        assert_eq!(told(decoder, line), *expected, "{line}");
    }
}

const ROW: &str = r#""id":1,"at":"2018-04-01T00:00:31Z","customer":"c","amount":1.50,"is_fraud":null,"score":0.5"#;

fn with(from: &str, to: &str) -> String {
    assert!(ROW.contains(from));
    format!("{{{}}}", ROW.replace(from, to))
}

fn change(op: &str, table: &str, after: &str) -> String {
    format!(r#"{{"op":"{op}","before":null,"after":{after},"source":{{"table":"{table}","lsn":900}}}}"#)
}

#[test]
fn a_plain_record_tells_its_row_where_its_id_can_be_read() {
    let mut decoder = LineDecoder::json(transactions(), &Reading::default());
    check(
        &mut decoder,
        &[
            (&with("1.50", "1.505"), "inexact: - 1 insert -"),
            (&with("\"amount\":1.50,", ""), "missing_column: - 1 insert -"),
            (&with("\"2018-04-01T00:00:31Z\"", "null"), "null_time: - 1 insert -"),
            (&with("\"id\":1", "\"id\":null"), "null_id: - - insert -"),
            (&with("\"id\":1", "\"id\":\"x\""), "wrong_type: - - insert -"),
            (&with("0.5", "0.5,\"id\":2"), "duplicate_column: - - insert -"),
            (&with("0.5", "0.5,\"customer\":\"d\""), "duplicate_column: - 1 insert -"),
            (r#"{"amount":"much","id":7}"#, "wrong_type: - 7 insert -"),
            (r#"{"id":7,"amount":"much","_op":"update"}"#, "wrong_type: - 7 update -"),
            (r#"{"id":7,"_op":"update"}"#, "missing_column: - 7 update -"),
            (r#"{"id":7,"_op":"upsert"}"#, "unknown_op: - 7 - -"),
            // An id that is cut off is another one.
            (r#"{"amount":1,"id":12"#, "bad_json: - - - -"),
        ],
    );
}

#[test]
fn a_csv_record_tells_its_row() {
    let mut decoder = LineDecoder::csv(transactions(), &Reading::default());
    decoder.set_header(Path::new("f"), b"at,customer,amount,is_fraud,score,id").unwrap();
    check(
        &mut decoder,
        &[
            ("2018-04-01,c,1.505,t,0.5,1", "inexact: - 1 insert -"),
            ("2018-04-01,c,1.5,t,0.5,x", "wrong_type: - - insert -"),
            (",c,1.5,t,0.5,1", "null_time: - 1 insert -"),
            ("2018-04-01,c", "field_count: - - - -"),
        ],
    );
}

#[test]
fn an_envelope_tells_its_stream_wherever_its_table_can_be_read() {
    let mut decoder = LineDecoder::debezium(&[transactions(), chargebacks(), cards()], &Reading::default());
    let own = |op: &str, after: &str| change(op, "transactions", after);
    let schema = |row: &str| format!(r#"{{"schema":7,"payload":{}}}"#, own("c", row));
    let key = |row: &str| format!(r#"{{"key":{{"schema":7,"payload":}},"value":{}}}"#, own("c", row));
    check(
        &mut decoder,
        &[
            (&own("c", &with("1.50", "\"AJY=\"")), "decimal_mode_unknown: transactions 1 insert -"),
            (&own("u", &with("\"amount\":1.50,", "")), "missing_column: transactions 1 update -"),
            (&own("r", &with("1.50", "\"a lot\"")), "wrong_type: transactions 1 snapshot -"),
            (&own("c", "null"), "row_missing: transactions - insert -"),
            (&own("d", "null"), "row_missing: transactions - delete -"),
            (&own("x", &with("1.50", "1.50")), "unknown_op: transactions - - -"),
            (&schema(&with("1.50", "1.50")), "bad_json: transactions - insert -"),
            (&change("c", "chargebacks", r#"{"id":"x","is_fraud":true}"#), "wrong_type: chargebacks - insert -"),
            (&change("c", "logins", "{}"), "unknown_table: - - insert -"),
            (r#"{"op":"c","after":{"id":1}}"#, "unknown_table: - - insert -"),
            (&key(&with("1.50", "1.50")), "bad_json: - - - -"),
            (&own("c", "{\"id\":1")[..20], "bad_json: - - - -"),
        ],
    );
    decoder.decode(own("c", &with("1.50", "1.50")).as_bytes(), 1).unwrap();
    let plain = own("c", &with("1.50", "1.50")).replace(",\"lsn\":900", "");
    assert_eq!(told(&mut decoder, &plain), "version_mismatch: transactions - insert -");
}

/// An envelope as this program republishes it.
fn republished(stream: &Stream, secret: Option<&str>, after: &str) -> String {
    let secret = secret.map(|secret| format!(",\"secret\":\"{secret}\"")).unwrap_or_default();
    format!(
        r#"{{"op":"c","after":{after},"source":{{"connector":"interdict","table":"{}","lsn":900{secret}}},"transaction":{{"total_order":3}}}}"#,
        stream.name
    )
}

#[test]
fn a_republished_record_tells_its_version_and_a_hashed_id_of_another_secret_is_none() {
    let mut hashed = Stream::clone(&cards());
    hashed.name = "hashed".to_owned();
    hashed.index = 1;
    hashed.id = 2;
    let streams = [cards(), Arc::new(hashed)];
    let mut decoder = LineDecoder::debezium(&streams, &Reading::default());
    let row = r#"{"id":1,"at":"2018-04-01","card":"00ff"}"#;
    let secret = secret_of(&streams[0]).unwrap();
    let broken = row.replace("2018", "year");
    check(
        &mut decoder,
        &[
            (&republished(&streams[0], Some("another"), row), "wrong_secret: cards 1 insert 900.3"),
            (&republished(&streams[0], None, &broken), "wrong_secret: cards 1 insert 900.3"),
            (&republished(&streams[0], Some(&secret), &broken), "wrong_type: cards 1 insert 900.3"),
            (&republished(&streams[1], Some("another"), row), "wrong_secret: hashed - insert 900.3"),
            (&republished(&streams[1], Some(&secret), &broken), "wrong_type: hashed 00ff insert 900.3"),
        ],
    );
}
