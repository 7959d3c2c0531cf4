//! Single promises of the contract on rows, labels, order and absence, each by the smallest example (DESIGN 3.9, 3.10, 3.12).

use crate::change::{Op, Version};
use crate::engine::{Evaluate, Outcome, Refused};
use crate::value::Value;
use crate::vector::{Flags, Reading};

use super::world::{Answer, Cell, Cut, Delivery, NOON, SECOND, Shell, plan};

const PLAIN: &str = r#"
[time]
disorder = "0s"
slack = "1m"
[stream.orders]
id = "id"
time = "at"
label = "fraud"
columns = { id = "int64", at = "timestamp", who = "int64", shop = "string", status = "string", amount = "int64", fraud = "bool" }
[stream.reports]
labels = "orders"
id = "id"
value = "fraud"
TIME
columns = { id = "int64", fraud = "bool", at = "timestamp" }
[entity.who]
key = "who"
[entity.shop]
key = "shop"
[entity.both]
key = ["who", "shop"]
[[group]]
name = "who"
entity = "who"
stream = "orders"
windows = ["1h"]
features = { n = "count()", first = "first(status)", last = "last(status)", large = "share(amount > 50)", most = "max(amount)" }
[[group]]
name = "shop"
entity = "shop"
stream = "orders"
windows = ["1h"]
features = { n = "count()", fraud = "share(label)" }
[[group]]
name = "both"
entity = "both"
stream = "orders"
windows = ["1h"]
features = { n = "count()" }
"#;

const FEATURES: [&str; 8] =
    ["who.n", "who.first", "who.last", "who.large", "who.most", "shop.n", "shop.fraud", "both.n"];

/// Reports have a time of their own.
const TIMED: &str = "time = \"at\"";
/// They have none.
const UNTIMED: &str = "";

fn world(time: &str) -> Shell {
    let plan = plan(&PLAIN.replace("TIME", time));
    let names: Vec<&str> = plan.definitions.features.iter().map(|named| named.name.trim_end_matches("_1h")).collect();
    assert_eq!(names, FEATURES);
    Shell::new(&plan, 1, Evaluate::Everything)
}

fn insert(id: i64, second: i64, status: &str) -> Delivery {
    let cells = vec![
        Cell::Word(id),
        Cell::Word(NOON + second * SECOND),
        Cell::Word(7),
        Cell::text("x"),
        Cell::text(status),
        Cell::Word(10),
        Cell::Null,
    ];
    Delivery {
        stream: 0,
        op: Op::Insert,
        version: Version::new(id.unsigned_abs()),
        arrival: Some(NOON + second * SECOND),
        cells,
    }
}

fn with(mut delivery: Delivery, column: usize, cell: Cell) -> Delivery {
    delivery.cells[column] = cell;
    delivery
}

fn update(delivery: Delivery, version: u64, second: i64) -> Delivery {
    Delivery { op: Op::Update, version: Version::new(version), arrival: Some(NOON + second * SECOND), ..delivery }
}

/// A report on order `id`; `at` is its own time, `arrival` when it was received, both seconds.
fn report(id: i64, fraud: bool, at: Option<i64>, arrival: Option<i64>) -> Delivery {
    let time = at.map_or(Cell::Null, |at| Cell::Word(NOON + at * SECOND));
    Delivery {
        stream: 1,
        op: Op::Insert,
        version: Version::new(1),
        arrival: arrival.map(|at| NOON + at * SECOND),
        cells: vec![Cell::Word(id), Cell::Word(i64::from(fraud)), time],
    }
}

/// What the last delivery read, by name of the feature.
fn last(shell: &mut Shell, deliveries: &[Delivery]) -> impl Fn(&str) -> Reading + use<> {
    let vector = shell.all(deliveries).pop().and_then(|answer: Answer| answer.vector).expect("it was evaluated");
    move |name| vector[FEATURES.iter().position(|known| *known == name).expect("a feature")].clone()
}

fn text(value: &str) -> Value {
    Value::Text(value.into())
}

#[test]
fn a_null_key_skips_the_groups_of_its_entity_only() {
    let mut shell = world(TIMED);
    let no_shop = with(insert(2, 1, "b"), 3, Cell::Null);
    let read = last(&mut shell, &[insert(1, 0, "a"), no_shop]);
    assert_eq!((read("who.n").value, read("who.n").flags), (Value::Int(2), Flags::NONE));
    for (feature, value) in [("shop.n", Value::Int(0)), ("shop.fraud", Value::Null), ("both.n", Value::Int(0))] {
        assert_eq!((read(feature).value, read(feature).flags), (value, Flags::NO_KEY), "{feature}");
    }
    // It did not count anywhere under a key of strangers, and the key that comes later takes it in.
    let read = last(&mut shell, &[insert(3, 2, "c")]);
    assert_eq!((read("who.n").value, read("shop.n").value, read("both.n").value), ints([3, 2, 2]));
    let read = last(&mut shell, &[update(insert(2, 1, "b"), 9, 3), insert(4, 4, "d")]);
    assert_eq!((read("who.n").value, read("shop.n").value, read("both.n").value), ints([4, 4, 4]));
    let read = last(&mut shell, &[update(with(insert(2, 1, "b"), 3, Cell::Null), 10, 5), insert(5, 5, "e")]);
    assert_eq!((read("who.n").value, read("shop.n").value, read("both.n").value), ints([5, 4, 4]));
}

fn ints(values: [i64; 3]) -> (Value, Value, Value) {
    let [a, b, c] = values.map(Value::Int);
    (a, b, c)
}

#[test]
fn a_null_id_or_time_is_refused() {
    let mut shell = world(TIMED);
    let broken = [with(insert(1, 0, "a"), 0, Cell::Null), with(insert(2, 0, "a"), 1, Cell::Null)];
    let outcomes: Vec<Outcome> = shell.all(&broken).iter().map(|answer| answer.outcome).collect();
    assert_eq!(outcomes, [Outcome::Refused(Refused::NoId), Outcome::Refused(Refused::NoTime)]);
    assert!(shell.states().is_empty());
}

#[test]
fn a_null_condition_counts_in_the_denominator_only() {
    let mut shell = world(TIMED);
    let amount = |id, cell| with(insert(id, id, "a"), 5, cell);
    let read = last(&mut shell, &[amount(1, Cell::Word(51)), amount(2, Cell::Null), amount(3, Cell::Null)]);
    assert_eq!((read("who.large").value, read("who.most").value), (Value::Double(1.0 / 3.0), Value::Int(51)));
    // A label that is not known is no fraud, and counts.
    assert_eq!(read("shop.fraud").value, Value::Double(0.0));
}

#[test]
fn nothing_known_null_and_empty_are_different_answers() {
    let mut shell = world(TIMED);
    let read = last(&mut shell, &[with(insert(1, 0, "a"), 5, Cell::Null)]);
    assert_eq!((read("who.most").value, read("who.most").flags), (Value::Null, Flags::NONE), "null in the row");
    let lone = with(insert(2, 1, "b"), 2, Cell::Null);
    let read = last(&mut shell, &[lone]);
    assert_eq!((read("who.most").value, read("who.most").flags), (Value::Null, Flags::NO_KEY), "no key");
    // An order two hours later has pushed the first out: a late one of the same time reads a window that is not held any more.
    shell.all(&[insert(3, 7_200, "c")]);
    let read = last(&mut shell, &[insert(4, 3_590, "d")]);
    assert_eq!((read("who.n").value, read("who.n").flags), (Value::Int(1), Flags::TRUNCATED), "too old");
}

#[test]
fn equal_times_keep_the_order_of_first_versions_after_an_update() {
    let orders = [insert(1, 0, "a"), insert(2, 0, "b")];
    let mut shell = world(TIMED);
    shell.all(&orders);
    let read = last(&mut shell, &[update(insert(1, 0, "A"), 9, 1), insert(3, 0, "c")]);
    assert_eq!((read("who.first").value, read("who.last").value), (text("A"), text("c")));
    // The updated order is read as of its own place: it does not see what came after it at the same time.
    let read = last(&mut shell, &[update(insert(1, 0, "again"), 10, 2)]);
    assert_eq!((read("who.n").value, read("who.last").value), (Value::Int(1), text("again")));
    // Whatever the order of delivery, and whether or not memory was dropped in between.
    let expected = shell.states();
    let mut all = vec![update(insert(1, 0, "again"), 10, 2), insert(3, 0, "c"), update(insert(1, 0, "A"), 9, 1)];
    all.extend(orders);
    let mut other = world(TIMED);
    other.deliver(&all, |_| Cut::Memory);
    assert_eq!(other.states(), expected);
}

/// The share of frauds that an order of `second` reads after `before` and the order that they are about.
fn share_after(time: &str, before: Delivery, second: i64) -> Value {
    let mut shell = world(time);
    assert_eq!(shell.all(&[before])[0].outcome, Outcome::Applied);
    shell.forget();
    let read = last(&mut shell, &[insert(1, 0, "a"), insert(2, second, "b")]);
    read("shop.fraud").value
}

#[test]
fn a_label_may_come_before_its_transaction() {
    // With a time of its own it counts from then on.
    let reported = report(1, true, Some(30), None);
    assert_eq!(share_after(TIMED, reported.clone(), 29), Value::Double(0.0));
    assert_eq!(share_after(TIMED, reported, 30), Value::Double(0.5));
    // Without one, from when it was received.
    let received = report(1, true, None, Some(30));
    assert_eq!(share_after(UNTIMED, received.clone(), 29), Value::Double(0.0));
    assert_eq!(share_after(UNTIMED, received, 30), Value::Double(0.5));
    // Without any it counts as known at once: the order it is about counts for itself.
    assert_eq!(share_after(UNTIMED, report(1, true, None, None), 0), Value::Double(0.5));
    let mut shell = world(UNTIMED);
    let read = last(&mut shell, &[report(1, true, None, None), insert(1, 0, "a")]);
    assert_eq!(read("shop.fraud").value, Value::Double(1.0));
}

#[test]
fn a_version_that_repeats_its_label_says_nothing_new() {
    let mut shell = world(TIMED);
    // The row's own label is null all the time: a correction does not withdraw what a chargeback said.
    let read = last(
        &mut shell,
        &[insert(1, 0, "a"), report(1, true, Some(10), None), update(insert(1, 0, "b"), 9, 20), insert(2, 30, "c")],
    );
    assert_eq!(read("shop.fraud").value, Value::Double(0.5));
    // Fraud by the row, genuine by a report, corrected with the row's label as it was: still genuine. Then withdrawn by the row.
    let fraud = |version, second| with(update(insert(3, 0, "d"), version, second), 6, Cell::Word(1));
    let mut shell = world(TIMED);
    let changes = [insert(3, 0, "d"), fraud(10, 40), report(3, false, Some(50), None), fraud(11, 60)];
    let shares = |shell: &mut Shell, id, second| last(shell, &[insert(id, second, "e")])("shop.fraud").value;
    shell.all(&changes);
    assert_eq!(shares(&mut shell, 20, 45), Value::Double(0.5));
    assert_eq!(shares(&mut shell, 21, 70), Value::Double(0.0));
    let read = last(&mut shell, &[fraud(12, 80), update(insert(3, 0, "d"), 13, 90), insert(22, 95, "f")]);
    assert_eq!(read("shop.fraud").value, Value::Double(0.0));
}

#[test]
fn a_report_that_is_deleted_counts_until_then() {
    let taken_back = Delivery { op: Op::Delete, version: Version::new(2), ..report(1, true, Some(10), Some(40)) };
    let mut shell = world(TIMED);
    shell.all(&[insert(1, 0, "a"), report(1, true, Some(10), None), taken_back]);
    assert_eq!(last(&mut shell, &[insert(2, 30, "b")])("shop.fraud").value, Value::Double(0.5));
    assert_eq!(last(&mut shell, &[insert(3, 50, "c")])("shop.fraud").value, Value::Double(0.0));
}
