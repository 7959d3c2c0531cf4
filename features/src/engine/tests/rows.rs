//! Row records: what a few changes of one row leave, whatever their order, and which of them are judged.

use crate::change::{Op, Version};
use crate::config::ConfigFile;
use crate::definition::Definitions;
use crate::engine::{Evaluate, Key, Outcome, Refused, Unwritten};
use crate::row::Ignored;
use crate::state::{AsOf, Scratch};
use crate::time::Timestamp;
use crate::value::Value;
use crate::vector::Flags;

use super::world::{Answer, Cell, Cut, Delivery, NOON, SECOND, Shell, plan};

const PLAIN: &str = r#"
[time]
disorder = "0s"
slack = "1m"
[stream.orders]
id = "id"
time = "at"
label = "fraud"
columns = { id = "int64", at = "timestamp", who = "int64", status = "string", amount = "int64", note = "string", fraud = "bool" }
OPTIONS
[stream.reports]
labels = "orders"
id = "id"
value = "fraud"
time = "at"
columns = { id = "int64", at = "timestamp", fraud = "bool" }
[entity.who]
key = "who"
[[group]]
name = "g"
entity = "who"
stream = "orders"
windows = ["1h"]
features = { n = "count()", sum = "sum(amount)", first = "first(status)", fraud = "share(label)" }
[[derived]]
stream = "orders"
features = { noted = "note == 'x'" }
"#;

const OK: Outcome = Outcome::Applied;
const AGAIN: Outcome = Outcome::Ignored(Ignored::Duplicate);
const OLD: Outcome = Outcome::Ignored(Ignored::Outdated);

fn shell(options: &str) -> Shell {
    Shell::new(&plan(&PLAIN.replace("OPTIONS", options)), 1, Evaluate::Judged)
}

/// A change of order 1: version, status and amount; `None` is unchanged.
fn order(op: Op, version: u64, status: Option<&str>, amount: Option<i64>) -> Delivery {
    let some = |cell: Option<Cell>| cell.unwrap_or(Cell::Unchanged);
    let cells = vec![
        Cell::Word(1),
        Cell::Word(NOON),
        Cell::Word(7),
        some(status.map(Cell::text)),
        some(amount.map(Cell::Word)),
        Cell::text("x"),
        Cell::Null,
    ];
    Delivery { stream: 0, op, version: Version::new(version), arrival: Some(NOON + SECOND), cells }
}

fn insert(version: u64, amount: i64) -> Delivery {
    order(Op::Insert, version, Some("new"), Some(amount))
}

fn fraud(mut change: Delivery, fraud: Option<bool>, arrival: i64) -> Delivery {
    change.cells[6] = fraud.map_or(Cell::Null, |fraud| Cell::Word(i64::from(fraud)));
    change.arrival = Some(NOON + arrival * SECOND);
    change
}

fn values(shell: &mut Shell, seconds: i64) -> Vec<Value> {
    let key = Key::Int(7);
    shell.hold(0, &key.into());
    let (mut scratch, mut out) = (Scratch::default(), Vec::new());
    shell.engine.read(0, &key, &[0], AsOf::instant(NOON + seconds * SECOND), &mut scratch, &mut out);
    out.iter().map(|readout| readout.reading(scratch.texts()).value).collect()
}

fn outcomes(answers: &[Answer]) -> Vec<(Outcome, Option<u32>)> {
    answers.iter().map(|answer| (answer.outcome, answer.judgement)).collect()
}

#[test]
fn a_report_far_beyond_its_arrival_is_refused() {
    let report = |at: i64, arrival: Option<i64>, version| Delivery {
        stream: 1,
        op: Op::Insert,
        version: Version::new(version),
        arrival: arrival.map(|at| NOON + at * SECOND),
        cells: vec![Cell::Word(1), Cell::Word(NOON + at * SECOND), Cell::Word(1)],
    };
    let month = 30 * 86_400;
    let mut shell = shell("");
    let answers =
        shell.all(&[insert(5, 1), report(month, Some(10), 1), report(20, Some(10), 2), report(month, None, 3)]);
    let future = Outcome::Refused(Refused::Future);
    // A file tells no arrival: what it says is all there is.
    assert_eq!(outcomes(&answers)[1..], [(future, None), (OK, None), (OK, None)]);
    assert_eq!(values(&mut shell, 20)[3], Value::Double(1.0));
}

/// Delivers changes one by one; they come to these outcomes and judgements, and leave a sum of amounts.
fn check(options: &str, changes: &[Delivery], expected: &[(Outcome, Option<u32>)], sum: Option<i64>) {
    let mut shell = shell(options);
    let answers = shell.all(changes);
    assert_eq!(outcomes(&answers), expected, "{options} {changes:#?}");
    assert_eq!(values(&mut shell, 0)[1], sum.map_or(Value::Null, Value::Int), "{options} {changes:#?}");
}

#[test]
fn versions_of_a_row() {
    let update = |version, amount| order(Op::Update, version, Some("paid"), Some(amount));
    let delete = |version| order(Op::Delete, version, None, None);
    let snapshot = |version, amount| order(Op::Snapshot, version, Some("new"), Some(amount));
    let request = |amount| Delivery { version: Version::REQUEST, ..order(Op::Request, 0, Some("new"), Some(amount)) };
    let (none, first) = (None, Some(0));
    check("", &[insert(5, 10), insert(5, 10), update(6, 20)], &[(OK, first), (AGAIN, none), (OK, none)], Some(20));
    // The update overtook its insert: the insert is judged, by the row as it is.
    check("", &[update(6, 20), insert(5, 10), insert(5, 10)], &[(OK, none), (OLD, first), (OLD, none)], Some(20));
    check("", &[delete(6), insert(5, 10)], &[(OK, none), (OLD, first)], None);
    check("", &[insert(5, 10), delete(6), insert(7, 30)], &[(OK, first), (OK, none), (OK, Some(1))], Some(30));
    check(
        "",
        &[insert(5, 10), delete(6), insert(7, 30), delete(6)],
        &[(OK, first), (OK, none), (OK, Some(1)), (OLD, none)],
        Some(30),
    );
    // The delete overtook its insert: the insert is judged as it came, and leaves nothing.
    check(
        "",
        &[delete(6), insert(5, 10), insert(5, 10), insert(7, 30)],
        &[(OK, none), (OLD, first), (OLD, none), (OK, Some(1))],
        Some(30),
    );
    check("", &[snapshot(9, 90), delete(10), insert(5, 10)], &[(OK, none), (OK, none), (OLD, none)], None);
    check("", &[snapshot(9, 90), insert(5, 10), update(10, 11)], &[(OK, none), (OLD, none), (OK, none)], Some(11));
    check("", &[request(1), insert(5, 10), request(1)], &[(OK, first), (OK, none), (OLD, none)], Some(10));
    check("", &[insert(5, 10), request(1)], &[(OK, first), (OLD, none)], Some(10));
    check("on_unmatched = \"drop\"", &[request(1)], &[(OK, first)], None);
    check("on_unmatched = \"drop\"", &[request(1), insert(5, 10)], &[(OK, first), (OK, first)], Some(10));
    let ignored = Outcome::Ignored(Ignored::DeleteIgnored);
    check("on_delete = \"ignore\"", &[insert(5, 10), delete(6)], &[(OK, first), (ignored, none)], Some(10));
}

#[test]
fn a_row_is_judged_when_its_condition_first_holds() {
    let judge = "judge = \"before.status != 'paid' && after.status == 'paid'\"";
    let update = |version, status| order(Op::Update, version, Some(status), None);
    let (none, first) = (None, Some(0));
    check(
        judge,
        &[insert(5, 10), update(6, "paid"), update(7, "new"), update(8, "paid"), update(6, "paid")],
        &[(OK, none), (OK, first), (OK, none), (OK, none), (OLD, none)],
        Some(10),
    );
    let always = "judge = \"after.amount > 5\"";
    check(always, &[insert(5, 10), insert(5, 10)], &[(OK, first), (AGAIN, none)], Some(10));
    let snapshot = Delivery { op: Op::Snapshot, ..insert(9, 10) };
    // An outdated version of a row that history brought: judged once, and counted once.
    check(always, &[snapshot, insert(5, 3), insert(5, 3)], &[(OK, none), (OLD, first), (OLD, none)], Some(10));
}

#[test]
fn a_row_that_comes_again_or_was_refused_is_judged_when_its_condition_holds() {
    let judge = "judge = \"after.status == 'paid'\"";
    let update = |version, status| order(Op::Update, version, Some(status), None);
    let paid = |version| order(Op::Insert, version, Some("paid"), Some(10));
    let delete = |version| order(Op::Delete, version, None, None);
    let (none, first) = (None, Some(0));
    check(judge, &[paid(5), delete(6), paid(7)], &[(OK, first), (OK, none), (OK, Some(1))], Some(10));
    check(
        judge,
        &[paid(5), delete(6), insert(7, 3), update(8, "paid"), update(9, "paid"), paid(7)],
        &[(OK, first), (OK, none), (OK, none), (OK, Some(1)), (OK, none), (OLD, none)],
        Some(3),
    );
    // The delete overtook a version that is to be judged: it is judged as it came, once.
    check(
        judge,
        &[delete(7), insert(4, 3), paid(5), paid(5), update(6, "paid")],
        &[(OK, none), (OLD, none), (OLD, first), (OLD, none), (OLD, none)],
        None,
    );
    // What is outdated is no row that comes again.
    check(judge, &[paid(5), delete(7), paid(6)], &[(OK, first), (OK, none), (OLD, none)], None);
    let future = |version| {
        let mut future = paid(version);
        future.cells[1] = Cell::Word(NOON + 86_400 * 30 * SECOND);
        future
    };
    let refused = |judgement| (Outcome::Refused(Refused::Future), judgement);
    check(
        judge,
        &[future(5), future(6), paid(7), paid(7), update(8, "paid")],
        &[refused(first), refused(none), (OK, Some(1)), (AGAIN, none), (OK, none)],
        Some(10),
    );
    check(judge, &[future(5), insert(6, 3), update(7, "paid")], &[refused(first), (OK, none), (OK, Some(1))], Some(3));
}

#[test]
fn a_column_has_the_newest_value_sent_in_any_order() {
    let update = |version, status, amount| order(Op::Update, version, status, amount);
    let changes = [
        insert(5, 10),
        update(6, Some("held"), None),
        update(7, None, Some(30)),
        update(8, None, None),
        update(9, Some("paid"), None),
    ];
    let mut order: Vec<usize> = (0..5).collect();
    let mut states = None;
    for turn in 0..120_usize {
        // Every permutation, by its number.
        let mut left = order.clone();
        let mut rest = turn;
        let permuted: Vec<Delivery> = (1..=5)
            .rev()
            .map(|choices| {
                let at = rest % choices;
                rest /= choices;
                changes[left.remove(at)].clone()
            })
            .collect();
        let mut shell = shell("");
        shell.all(&permuted);
        assert_eq!(values(&mut shell, 0)[1..3], [Value::Int(30), Value::Text("paid".into())], "{permuted:#?}");
        let found = shell.states();
        assert_eq!(*states.get_or_insert(found.clone()), found);
    }
    order.clear();
}

#[test]
fn an_insert_judged_late_sees_the_columns_that_only_derived_features_use() {
    let mut shell = shell("");
    let answers = shell.all(&[order(Op::Update, 6, None, None), insert(5, 10)]);
    assert_eq!(answers[1].vector.as_ref().unwrap().last().unwrap().value, Value::Bool(true));
}

/// Label known from a second on; the share of frauds before and after.
fn check_label(changes: &[Delivery], known: &[(i64, f64)]) {
    let mut shell = shell("");
    let mut backwards: Vec<Delivery> = changes.to_vec();
    shell.all(changes);
    for &(second, share) in known {
        assert_eq!(values(&mut shell, second)[3], Value::Double(share), "at {second} after {changes:#?}");
    }
    backwards.reverse();
    let mut reversed = self::shell("");
    reversed.all(&backwards);
    reversed.all(changes);
    assert_eq!(reversed.states(), shell.states(), "{changes:#?}");
}

#[test]
fn labels_count_from_their_report_on() {
    let update = |version| order(Op::Update, version, None, None);
    let report = |fraud, at: i64, version| Delivery {
        stream: 1,
        op: Op::Insert,
        version: Version::new(version),
        arrival: None,
        cells: vec![Cell::Word(1), Cell::Word(NOON + at * SECOND), Cell::Word(fraud)],
    };
    check_label(&[insert(5, 1), fraud(update(6), Some(true), 20)], &[(19, 0.0), (20, 1.0)]);
    check_label(&[insert(5, 1), fraud(update(6), Some(true), 20), fraud(update(7), None, 30)], &[(29, 1.0), (30, 0.0)]);
    // Another snapshot does not make an old report known at once.
    let again = fraud(Delivery { op: Op::Snapshot, ..insert(9, 1) }, Some(true), 50);
    check_label(&[insert(5, 1), fraud(update(6), Some(true), 20), again], &[(19, 0.0), (20, 1.0)]);
    // Labels of a deleted row do not come back with it.
    let delete = order(Op::Delete, 7, None, None);
    check_label(&[insert(5, 1), fraud(update(6), Some(true), 20), delete, insert(8, 1)], &[(20, 0.0), (60, 0.0)]);
    // Two sources of reports may use the same versions.
    check_label(&[insert(5, 1), report(1, 20, 1), report(0, 30, 1)], &[(19, 0.0), (20, 1.0), (30, 0.0)]);
}

#[test]
fn many_updates_do_not_move_a_report() {
    let mut changes = vec![insert(5, 1), fraud(order(Op::Update, 6, None, None), None, 10)];
    changes.extend((7..40).map(|version| {
        fraud(order(Op::Update, version, None, Some(1)), Some(true), 20 + i64::try_from(version).unwrap())
    }));
    let mut shell = shell("");
    shell.all(&changes);
    shell.all(&changes);
    assert_eq!(values(&mut shell, 26)[3], Value::Double(0.0));
    assert_eq!(values(&mut shell, 27)[3], Value::Double(1.0));
}

#[test]
fn what_state_cannot_take_is_refused() {
    let mut no_time = insert(5, 1);
    no_time.cells[1] = Cell::Null;
    let mut future = insert(6, 1);
    future.cells[1] = Cell::Word(NOON + 86_400 * 30 * SECOND);
    let mut no_id = insert(7, 1);
    no_id.cells[0] = Cell::Null;
    let refused = |why, judged: bool| (Outcome::Refused(why), judged.then_some(0));
    check(
        "",
        &[no_time.clone(), future, no_id],
        &[refused(Refused::NoTime, true), refused(Refused::Future, false), refused(Refused::NoId, false)],
        None,
    );
    // While it is refused it is judged once; the version that is taken is another row to be judged, whatever came of it before.
    let future = |version| {
        let mut future = insert(version, 1);
        future.cells[1] = Cell::Word(NOON + 86_400 * 30 * SECOND);
        future
    };
    let again = refused(Refused::Future, false);
    check(
        "",
        &[future(6), future(6), future(7), insert(8, 3), insert(8, 3), future(6)],
        &[refused(Refused::Future, true), again, again, (OK, Some(1)), (AGAIN, None), again],
        Some(3),
    );
    check("", &[insert(8, 3), future(6)], &[(OK, Some(0)), again], Some(3));
    // An update that cannot be applied asks for no decision of its own.
    let update = Delivery { op: Op::Update, ..no_time };
    check("", &[insert(4, 2), update], &[(OK, Some(0)), refused(Refused::NoTime, false)], Some(2));
    // An update without the time waits for the version that has it.
    let mut timeless = order(Op::Update, 6, None, Some(20));
    timeless.cells[1] = Cell::Unchanged;
    check("", &[timeless, insert(5, 10)], &[refused(Refused::NoTime, false), (OLD, Some(0))], Some(20));
}

#[test]
fn append_only_streams_take_rows_once_and_no_changes() {
    let toml = PLAIN.replace("OPTIONS", "append_only = true").replace("label = \"fraud\"\n", "");
    let toml = toml.replace(", fraud = \"share(label)\"", "");
    let toml = format!(
        "{}[entity.who]{}",
        toml.split("[stream.reports]").next().unwrap(),
        toml.split("[entity.who]").nth(1).unwrap()
    );
    let mut shell = Shell::new(&plan(&toml), 1, Evaluate::Judged);
    let request = Delivery { version: Version::REQUEST, ..order(Op::Request, 0, Some("new"), Some(1)) };
    let update = order(Op::Update, 6, None, Some(5));
    let answers = shell.all(&[request, insert(5, 10), insert(5, 10), update]);
    let refused = Outcome::Refused(Refused::AppendOnly);
    assert_eq!(outcomes(&answers), [(OK, Some(0)), (OK, Some(0)), (OK, Some(0)), (refused, None)]);
    let vector = answers[0].vector.as_ref().unwrap();
    assert_eq!(vector[0].value, Value::Int(1), "the request counts itself");
    assert_eq!(values(&mut shell, 0)[..2], [Value::Int(1), Value::Int(10)]);
}

#[test]
fn what_is_not_carried_out_is_not_accepted() {
    for (options, message) in [
        ("on_truncate = \"forget\"", "write one of: stop, clear, ignore"),
        ("append_only = true\non_unmatched = \"keep\"", "keeps unmatched requests"),
    ] {
        let file = ConfigFile::parse("test.toml", &PLAIN.replace("OPTIONS", options)).unwrap();
        let _partial = Definitions::read(&file, None);
        let problems = file.finish().unwrap_err().to_string();
        assert!(problems.contains(message), "{problems}");
    }
}

#[test]
fn a_key_put_together_from_two_versions_is_loaded() {
    let toml = PLAIN.replace("OPTIONS", "").replace("key = \"who\"", "key = [\"who\", \"status\"]");
    let mut shell = Shell::new(&plan(&toml), 1, Evaluate::Nothing);
    let keyed = |op, id, version, who, status: Option<&str>| {
        let mut change = order(op, version, status, Some(1));
        change.cells[0] = Cell::Word(id);
        change.cells[2] = who;
        change
    };
    shell.all(&[keyed(Op::Insert, 1, 1, Cell::Word(8), Some("b")), keyed(Op::Insert, 2, 1, Cell::Word(7), Some("a"))]);
    shell.forget();
    // The second row moves to the key of the first, half of which each version names.
    shell.all(&[keyed(Op::Update, 2, 2, Cell::Word(8), None), keyed(Op::Update, 2, 3, Cell::Unchanged, Some("b"))]);
    shell.forget();
    let mut fresh = Shell::new(&plan(&toml), 1, Evaluate::Nothing);
    fresh.all(&[keyed(Op::Insert, 1, 1, Cell::Word(8), Some("b")), keyed(Op::Insert, 2, 1, Cell::Word(8), Some("b"))]);
    assert_eq!(shell.states(), fresh.states());
}

#[test]
fn a_tombstone_has_a_time_to_expire_by() {
    let newest = |changes: &[Delivery], is_forgetful: bool| {
        let mut shell = shell("");
        shell.deliver(changes, |at| if is_forgetful && at < changes.len() { Cut::Memory } else { Cut::Batch });
        let mut newest = Vec::new();
        shell.engine.checkpoint(|_state| {}, |row| newest.push(row.newest.map(Timestamp::micros)));
        newest
    };
    let at = |mut change: Delivery, arrival: Option<i64>| {
        change.arrival = arrival;
        change
    };
    let mut delete = at(order(Op::Delete, 9, None, None), None);
    for column in 1..delete.cells.len() {
        delete.cells[column] = Cell::Null;
    }
    for is_forgetful in [false, true] {
        let of_file = [at(insert(5, 1), None), delete.clone()];
        assert_eq!(newest(&of_file, is_forgetful), [Some(NOON)], "as its row");
        let known = [at(insert(5, 1), None), at(delete.clone(), Some(NOON + SECOND))];
        assert_eq!(newest(&known, is_forgetful), [Some(NOON + SECOND)], "as its row or as it was deleted");
    }
    assert_eq!(newest(&[at(delete.clone(), Some(NOON))], false), [Some(NOON)], "of a row that was never seen");
    assert_eq!(newest(&[delete], false), [None], "nothing is known of it");
}

#[test]
fn what_is_unwritten_is_counted_until_it_is_written() {
    let mut shell = shell("");
    assert_eq!(shell.engine.unwritten(), Unwritten::default());
    let row = |id: Cell| {
        let mut change = insert(1, 1);
        change.cells[0] = id;
        change
    };
    shell.deliver(&[row(Cell::Word(1)), row(Cell::Word(2)), row(Cell::Word(3))], |_| Cut::Batch);
    let unwritten = shell.engine.unwritten();
    let (mut states, mut rows, mut bytes) = (0, 0, 0);
    shell.engine.checkpoint(
        |_state| states += 1,
        |row| {
            rows += 1;
            bytes += row.bytes.len();
        },
    );
    assert_eq!((rows, unwritten.records), (3, states + rows));
    assert!(unwritten.bytes > bytes, "{unwritten:?}");
    assert_eq!(shell.engine.unwritten(), Unwritten::default());
}

/// The request lies behind the instant at which an event that its group does not take was judged.
#[test]
fn a_request_counts_itself_behind_an_event_its_group_does_not_take() {
    let grouped = PLAIN.replace("disorder = \"0s\"", "disorder = \"2s\"").replace("OPTIONS", "on_unmatched = \"drop\"")
        + "[[group]]\nname = \"large\"\nentity = \"who\"\nstream = \"orders\"\nwindows = [\"1h\"]\nwhere = \"amount > 100\"\nfeatures = { n = \"count()\" }\n";
    let mut shell = Shell::new(&plan(&grouped), 1, Evaluate::Judged);
    let paid = |op, id: i64, at: i64, amount: i64| {
        let mut order = order(op, u64::try_from(id).unwrap(), Some("new"), Some(amount));
        (order.cells[0], order.cells[1]) = (Cell::Word(id), Cell::Word(at));
        order.arrival = Some(at);
        if op == Op::Request {
            order.version = Version::REQUEST;
        }
        order
    };
    let answers = shell.all(&[
        paid(Op::Insert, 1, NOON, 200),
        paid(Op::Insert, 2, NOON + 10 * SECOND, 1),
        paid(Op::Insert, 3, NOON + 9 * SECOND, 1),
        paid(Op::Request, 4, NOON + 9 * SECOND + SECOND / 2, 500),
    ]);
    let plan = std::sync::Arc::clone(shell.engine.plan());
    let large = plan.definitions.features.iter().position(|feature| &*feature.name == "large.n_1h").unwrap();
    let counts: Vec<Value> =
        answers.iter().map(|answer| answer.vector.as_ref().unwrap()[large].value.clone()).collect();
    assert_eq!(counts, [1, 1, 1, 2].map(Value::Int));
}

#[test]
fn what_is_forgotten_takes_no_memory() {
    let mut shell = shell("");
    shell.all(&[insert(5, 1)]);
    assert!(shell.engine.memory_bytes() > 0);
    shell.forget();
    assert_eq!(shell.engine.memory_bytes(), 0);
}

#[test]
fn a_table_says_where_the_row_that_held_may_have_given_way() {
    let table = "[[group]]\nname = \"latest\"\nentity = \"who\"\nstream = \"orders\"\nkind = \"table\"\nfeatures = { amount = \"amount\" }\n";
    let toml = PLAIN.replace("OPTIONS", "").replace("[[derived]]", &format!("{table}[[derived]]"));
    let mut shell = Shell::new(&plan(&toml), 1, Evaluate::Judged);
    let limit = |id: i64| {
        let mut row = insert(u64::try_from(id).unwrap(), id * 10);
        row.cells[0] = Cell::Word(id);
        row.cells[1] = Cell::Word(NOON + id * SECOND);
        row
    };
    let read = |shell: &mut Shell, second: i64| {
        let key = Key::Int(7);
        shell.hold(0, &key.into());
        let (mut scratch, mut out) = (Scratch::default(), Vec::new());
        shell.engine.read(0, &key, &[1], AsOf::instant(NOON + second * SECOND), &mut scratch, &mut out);
        let reading = out[0].reading(scratch.texts());
        (reading.value, reading.flags.has(Flags::TRUNCATED))
    };
    shell.all(&(1..=8).map(limit).collect::<Vec<_>>());
    assert_eq!(read(&mut shell, 0), (Value::Null, false));
    assert_eq!(read(&mut shell, 1), (Value::Int(10), false));
    shell.all(&[limit(9)]);
    shell.forget();
    assert_eq!(read(&mut shell, 1), (Value::Null, true));
    assert_eq!(read(&mut shell, 2), (Value::Int(20), false));
    assert_eq!(read(&mut shell, 9), (Value::Int(90), false));
}
