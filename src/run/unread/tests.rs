use interdict_features::config::ConfigFile;
use interdict_ingest::dead_letter::DeadReason;

use super::*;

const DEFINITIONS: &str = r#"
[stream.payments]
id = "id"
time = "at"
columns = { id = "int64", at = "timestamp" }

[stream.logins]
id = "name"
time = "at"
judge = "insert"
columns = { name = "string", at = "timestamp" }

[entity.payment]
key = "id"
[[group]]
name = "payment"
entity = "payment"
stream = "payments"
windows = ["1d"]
features = { tx_count = "count()" }
"#;

fn definitions() -> Definitions {
    let file = ConfigFile::parse("interdict.toml", DEFINITIONS).unwrap();
    Definitions::read(&file, None).unwrap()
}

fn letter(position: u64, stream: &str, id: Option<&str>) -> DeadLetter {
    DeadLetter {
        source: "bank".to_owned(),
        partition: 0,
        position,
        row: None,
        stream: Some(stream.to_owned()),
        id: id.map(str::to_owned),
        version: None,
        op: Some(Op::Insert),
        reason: DeadReason::Inexact,
        detail: String::new(),
        payload: None,
    }
}

fn batch(definitions: &Definitions, rows: &[(u64, i64)]) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(definitions.stream("payments").unwrap()), 0);
    for &(position, id) in rows {
        let mut row = batch.begin();
        row.set_cell(0, id);
        row.set_cell(1, 5);
        row.finish(Change { op: Op::Insert, version: Version::new(position), arrival: None, position });
    }
    batch
}

fn delivery(batches: Vec<ChangeBatch>, dead: Vec<DeadLetter>) -> Delivery {
    Delivery { batches, dead, skipped: 0, records: 0, partition: 0, position: 9, left: Vec::new() }
}

fn shown(changes: &ChangeBatch) -> String {
    let row = |(change, row): (&Change, interdict_features::change::Row<'_>)| {
        let is_empty = if row.time().is_none() { "?" } else { "" };
        format!("{}:{}{is_empty}", change.position, row.event_id().unwrap())
    };
    changes.iter().map(row).collect::<Vec<_>>().join(" ")
}

fn check(batches: Vec<ChangeBatch>, dead: Vec<DeadLetter>, expected: &[&str], in_order_as: &[&str]) {
    let definitions = definitions();
    let delivery = delivery(batches, dead);
    let judged_sources = JudgedSources::default();
    let text = |step: &Step<'_>| match step {
        Step::Changes(changes) => shown(changes),
        Step::Unread(unread) => match unread.rows() {
            Some(rows) => shown(rows),
            None => unread.letters.iter().map(|letter| format!("{}!", letter.position)).collect::<Vec<_>>().join(" "),
        },
    };
    let steps = steps(&definitions, &judged_sources, "bank", &delivery);
    assert_eq!(steps.iter().map(text).collect::<Vec<_>>(), expected);
    let all = in_order(&definitions, &judged_sources, "bank", &delivery);
    assert_eq!(all.iter().map(shown).collect::<Vec<_>>(), in_order_as);
}

#[test]
fn records_come_first_unless_their_rows_change_beside_them() {
    let definitions = definitions();
    let rows = |rows: &[(u64, i64)]| vec![batch(&definitions, rows)];
    check(rows(&[(1, 1), (2, 2)]), Vec::new(), &["1:1 2:2"], &["1:1 2:2"]);
    let strangers = vec![letter(2, "payments", Some("7")), letter(4, "payments", Some("8"))];
    check(rows(&[(1, 1), (3, 2)]), strangers, &["2:7? 4:8?", "1:1 3:2"], &["1:1", "2:7?", "3:2", "4:8?"]);
    let same = vec![letter(2, "payments", Some("1")), letter(4, "payments", Some("2"))];
    check(rows(&[(1, 1), (3, 2)]), same, &["1:1", "2:1?", "3:2", "4:2?"], &["1:1", "2:1?", "3:2", "4:2?"]);
    let before = vec![letter(1, "payments", Some("2"))];
    check(rows(&[(2, 1), (3, 2)]), before, &["1:2?", "2:1 3:2"], &["1:2?", "2:1 3:2"]);
    let only = vec![letter(1, "payments", Some("2"))];
    check(Vec::new(), only, &["1:2?"], &["1:2?"]);
}

#[test]
fn records_of_other_streams_and_without_an_id_stand_apart() {
    let definitions = definitions();
    let dead = vec![
        letter(1, "logins", Some("ann")),
        letter(2, "payments", None),
        letter(3, "payments", Some("no number")),
        letter(4, "logins", Some("bob")),
        letter(5, "payments", None),
        DeadLetter { op: Some(Op::Delete), ..letter(6, "payments", Some("9")) },
        DeadLetter { reason: DeadReason::UnknownTable, ..letter(7, "payments", Some("9")) },
        letter(8, "strangers", Some("9")),
    ];
    check(
        vec![batch(&definitions, &[(9, 1)])],
        dead,
        &["2! 3! 5!", "1:ann? 4:bob?", "9:1"],
        &["1:ann?", "4:bob?", "9:1"],
    );
}
