//! The columnar evaluation against the engine: another order of work, the same bits.

use std::sync::Arc;

use proptest::prelude::*;

use super::route::cell;
use super::{Column, Events, Features, SettleError};
use crate::change::{Change, ChangeBatch, Op, Version};
use crate::config::ConfigFile;
use crate::definition::Definitions;
use crate::engine::{Engine, Evaluate, Output, Plan, Refused, event_key, key_of};
use crate::state::{AsOf, Scratch};
use crate::time::Timestamp;
use crate::value::NULL;
use crate::vector::Flags;

const DEFINITIONS: &str = r#"
[stream.payments]
id = "id"
time = "at"
label = "is_fraud"
label_time = "reported_at"
judge = "insert"
on_truncate = "clear"
columns = { id = "int64", at = "timestamp", customer = "int64", device = "string", amount = "decimal(2)", is_fraud = "bool", reported_at = "timestamp" }
[stream.chargebacks]
labels = "payments"
id = "id"
value = "is_fraud"
time = "reported_at"
columns = { id = "int64", is_fraud = "bool", reported_at = "timestamp" }
[entity.customer]
key = "customer"
[entity.device]
key = "device"
[[group]]
name = "spend"
entity = "customer"
stream = "payments"
windows = ["10s", "1m", "1d"]
features = { n = "count()", mean = "mean(amount)", most = "max(amount)", device = "last(device)", kinds = "distinct_count(device)", gap = "time_since_last()", lowest = { is = "min(amount)", default = -1.0 } }
[[group]]
name = "large"
entity = "customer"
stream = "payments"
windows = ["1m"]
where = "amount > 5.0"
features = { n = "count()", spread = "stddev(amount)" }
[[group]]
name = "risk"
entity = "device"
stream = "payments"
delay = "5s"
windows = ["1m", "1h"]
features = { n = "count()", fraud = "share(label)" }
[[derived]]
stream = "payments"
features = { ratio = "amount / spend.mean_1d", again = "spend.device_1m == device", late = "hour(at) >= 12" }
"#;

fn plan() -> Plan {
    plan_of(DEFINITIONS)
}

fn plan_of(toml: &str) -> Plan {
    let file = ConfigFile::parse("test", toml).unwrap();
    let definitions = Definitions::read(&file, None);
    file.finish().unwrap();
    Plan::compile(Arc::new(definitions.unwrap()))
}

/// One row of the generated history.
#[derive(Clone, Debug)]
struct Payment {
    id: i64,
    second: i64,
    customer: Option<i64>,
    device: Option<u8>,
    amount: i64,
    label: Option<bool>,
    reported: Option<i64>,
    op: Op,
    /// The first column that an update does not send; it sends none behind it but the id.
    unsent: Option<usize>,
    /// Its version, where that is not its place in the history.
    version: Option<u64>,
    /// Behind its second.
    micros: i64,
}

fn payment(ids: i64) -> impl Strategy<Value = Payment> {
    let op = prop_oneof![8 => Just(Op::Snapshot), 2 => Just(Op::Insert), 3 => Just(Op::Update), 1 => Just(Op::Delete), 1 => Just(Op::Truncate)];
    let keys = (0..ids, 0_i64..90, prop::option::weighted(0.9, 0_i64..3), prop::option::weighted(0.9, 0_u8..4));
    let label = (prop::option::of(any::<bool>()), prop::option::of(0_i64..120));
    let values = (0_i64..2_000, prop::option::of(1_usize..7));
    (keys, values, label, op).prop_map(|((id, second, customer, device), (amount, unsent), (label, reported), op)| {
        Payment {
            id,
            second,
            customer,
            device,
            amount,
            label,
            reported,
            op,
            unsent: unsent.filter(|_| op == Op::Update),
            version: None,
            micros: 0,
        }
    })
}

/// Changes, then what a snapshot holds behind a loss, again and again.
fn lost(parts: Vec<(Vec<Payment>, Vec<Payment>)>) -> Vec<Payment> {
    let mut all: Vec<Payment> = Vec::new();
    for (changes, mut held) in parts {
        all.extend(changes);
        held.sort_by_key(|payment| payment.id);
        held.dedup_by_key(|payment| payment.id);
        let version = Some(all.len() as u64 + 1);
        let Some(any) = held.first().cloned() else { continue };
        all.push(Payment { op: Op::Lost, version, ..any.clone() });
        all.extend(held.into_iter().map(|held| Payment { op: Op::Recovered, unsent: None, version, ..held }));
        all.push(Payment { op: Op::Settled, version, ..any });
    }
    // Rows of one snapshot have one version: nothing but their times orders them.
    all.iter_mut().for_each(|payment| payment.micros = payment.id);
    all
}

const BASE: i64 = 1_522_540_800_000_000;

fn batches(plan: &Plan, payments: &[Payment], rows: usize) -> Vec<ChangeBatch> {
    let stream = &plan.definitions.streams[0];
    let mut batches = Vec::new();
    let mut position = 0;
    for payments in payments.chunks(rows) {
        let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
        for payment in payments {
            position += 1;
            let mut row = batch.begin();
            row.set_cell(0, payment.id);
            row.set_cell(1, BASE + payment.second * 1_000_000 + payment.micros);
            row.set_cell(2, payment.customer.unwrap_or(NULL));
            if let Some(device) = payment.device {
                row.set_text(3, &format!("device-{device}")).unwrap();
            }
            row.set_cell(4, payment.amount);
            row.set_cell(5, payment.label.map_or(NULL, i64::from));
            row.set_cell(6, payment.reported.map_or(NULL, |second| BASE + second * 1_000_000));
            (payment.unsent.unwrap_or(7)..7).for_each(|column| row.set_unchanged(column));
            let version = Version::new(payment.version.unwrap_or(position));
            row.finish(Change { op: payment.op, version, arrival: None, position });
        }
        batches.push(batch);
    }
    batches
}

/// Every event with its features as cells, null and absent alike, texts spelled out.
fn evaluated(plan: &Plan, events: &Events) -> Vec<((usize, usize), Vec<String>)> {
    let features = Features::evaluate(plan, events);
    let mut rows = Vec::new();
    for (at, chunk) in events.chunks().iter().enumerate() {
        let columns = features.chunk(at);
        let live = (chunk.from..chunk.to).filter(|&row| events.is_event(chunk.batch, row));
        for (place, row) in live.enumerate() {
            rows.push(((chunk.batch, row), columns.iter().map(|column| shown(column, place)).collect()));
        }
    }
    rows
}

fn shown(column: &Column, at: usize) -> String {
    match &column.reading(at).value {
        crate::value::Value::Double(value) => format!("{:016x}", value.to_bits()),
        value => format!("{value:?}"),
    }
}

/// What the engine reads for one event after everything was applied: windowed features only.
fn read_back(plan: &Plan, engine: &Engine, events: &Events, (batch, row): (usize, usize)) -> Vec<Option<String>> {
    let cells = events.batches()[batch].row(row);
    let mut shown = vec![None; plan.definitions.features.len()];
    let mut buffer = Vec::new();
    for route in &plan.streams[0].routes {
        let Some(key) = key_of(cells, &route.key, &mut buffer) else { continue };
        let time = cells.time().unwrap().micros();
        let as_of = AsOf { time, version: events.position(batch, row), subject: Some(event_key(cells)) };
        let (mut scratch, mut readouts) = (Scratch::default(), Vec::new());
        engine.read(route.entity, &key, &route.reads, as_of, &mut scratch, &mut readouts);
        let mut readouts = readouts.iter();
        for &place in &route.reads {
            let group = plan.entity_groups[route.entity][place];
            let first = plan.definitions.groups[group].first_feature;
            for shown in &mut shown[first..first + plan.programs[group].width()] {
                let readout = readouts.next().unwrap();
                *shown = Some(match readout.reading(scratch.texts()).value {
                    crate::value::Value::Double(value) => format!("{:016x}", value.to_bits()),
                    value => format!("{value:?}"),
                });
            }
        }
    }
    shown
}

fn check_settled(payments: &[Payment], rows: usize) {
    let plan = plan();
    let mut engine = Engine::new(Arc::new(plan.clone()), 2);
    let mut output = Output::default();
    for batch in batches(&plan, payments, 7) {
        batch.parts().for_each(|part| engine.process(&part, Evaluate::Nothing, &mut output).unwrap());
    }
    let events = Events::settle(&plan, 0, batches(&plan, payments, rows), &[]).unwrap();
    for (place, features) in evaluated(&plan, &events) {
        for (feature, expected) in read_back(&plan, &engine, &events, place).into_iter().enumerate() {
            if let Some(expected) = expected {
                let name = &plan.definitions.features[feature].name;
                assert_eq!(features[feature], expected, "{name} of row {place:?} of {payments:#?}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Rows in any order, ids again and again, deletes, updates that send some columns only, late and changing labels, truncations: the
    /// columns are what an engine that saw everything reads as of each event.
    #[test]
    fn settled_history_reads_as_the_engine_does(payments in prop::collection::vec(payment(40), 1..120), rows in 1_usize..50) {
        check_settled(&payments, rows);
    }

    /// The same where changes were lost on the way.
    #[test]
    fn a_history_with_lost_changes_reads_as_the_engine_does(
        parts in prop::collection::vec((prop::collection::vec(payment(12), 0..25), prop::collection::vec(payment(12), 0..12)), 1..4),
        rows in 1_usize..50,
    ) {
        check_settled(&lost(parts), rows);
    }

    /// Each id once, in order: the columns are what the engine evaluates as the events pass, derived features included.
    #[test]
    fn ordered_history_evaluates_as_the_stream_does(payments in prop::collection::vec(payment(1), 1..150), shards in 1_usize..4) {
        let plan = plan();
        let mut payments = payments;
        payments.sort_by_key(|payment| payment.second);
        for (id, payment) in (0..).zip(&mut payments) {
            payment.id = id;
            payment.op = Op::Insert;
            payment.unsent = None;
        }
        let mut engine = Engine::new(Arc::new(plan.clone()), shards);
        let (mut output, mut expected) = (Output::default(), Vec::new());
        for batch in batches(&plan, &payments, 64) {
            engine.process(&batch, Evaluate::Everything, &mut output).unwrap();
            for row in 0..batch.len() {
                let readings: Vec<_> = output.readings(output.vectors[row].unwrap()).collect();
                expected.push(readings);
            }
        }
        let events = Events::settle(&plan, 0, batches(&plan, &payments, 64), &[]).unwrap();
        let features = Features::evaluate(&plan, &events);
        let mut expected = expected.iter();
        for (at, chunk) in events.chunks().iter().enumerate() {
            let columns = features.chunk(at);
            for place in 0..chunk.to - chunk.from {
                let expected = expected.next().unwrap();
                for (column, reading) in columns.iter().zip(expected) {
                    let own = column.reading(place);
                    prop_assert_eq!(&own.value, &reading.value);
                    let absent = |flags: Flags| flags.has(Flags::NO_STATE) || flags.has(Flags::NO_KEY);
                    if own.value == crate::value::Value::Null {
                        prop_assert_eq!(absent(own.flags), absent(reading.flags));
                    }
                }
            }
        }
    }
}

#[test]
fn an_event_has_the_same_features_whatever_comes_after() {
    let plan = plan();
    let payments: Vec<Payment> = (0..200)
        .map(|id| Payment {
            id,
            second: id / 3,
            customer: Some(id % 2),
            device: Some(u8::try_from(id % 3).unwrap()),
            amount: id * 7 % 1_000,
            label: Some(id % 5 == 0),
            reported: Some(id / 3 + 10),
            op: Op::Snapshot,
            unsent: None,
            version: None,
            micros: 0,
        })
        .collect();
    let all = Events::settle(&plan, 0, batches(&plan, &payments, 50), &[]).unwrap();
    let some = Events::settle(&plan, 0, batches(&plan, &payments[..90], 50), &[]).unwrap();
    let (all, some) = (evaluated(&plan, &all), evaluated(&plan, &some));
    assert_eq!(all[..90], some[..]);
}

#[test]
fn labels_of_their_own_stream_find_their_event() {
    let plan = plan();
    let payment = |id, second| Payment {
        id,
        second,
        customer: Some(1),
        device: Some(1),
        amount: 100,
        label: None,
        reported: None,
        op: Op::Snapshot,
        unsent: None,
        version: None,
        micros: 0,
    };
    let rows = batches(&plan, &[payment(1, 0), payment(2, 30), payment(3, 50)], 10);
    let mut labels = ChangeBatch::new(Arc::clone(&plan.definitions.streams[1]), 0);
    for (position, id) in [(1, 1), (2, 99)] {
        let mut row = labels.begin();
        row.set_cell(0, id);
        row.set_cell(1, 1);
        row.set_cell(2, BASE + 40_000_000);
        row.finish(Change { op: Op::Snapshot, version: Version::new(position), arrival: None, position });
    }
    let events = Events::settle(&plan, 0, rows, &[labels]).unwrap();
    assert_eq!((events.settled().labelled, events.settled().unmatched_labels), (1, 1));
    let place = plan.definitions.feature("risk.fraud_1m").unwrap();
    let shares: Vec<String> =
        evaluated(&plan, &events).into_iter().map(|(_, features)| features[place].clone()).collect();
    let double = |value: f64| format!("{:016x}", value.to_bits());
    assert_eq!(shares, ["Null".to_owned(), double(0.0), double(0.5)]);
}

/// Reports of payment 1, one a change: operation, second of the report, second of its arrival.
fn reports(plan: &Plan, changes: &[(Op, i64, i64)]) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[1]), 0);
    for (position, &(op, reported, arrival)) in (1..).zip(changes) {
        let mut row = batch.begin();
        row.set_cell(0, 1);
        row.set_cell(1, 1);
        row.set_cell(2, BASE + reported * 1_000_000);
        let arrival = Some(Timestamp::from_micros(BASE + arrival * 1_000_000));
        row.finish(Change { op, version: Version::new(position), arrival, position });
    }
    batch
}

/// A history of three payments and these reports reads as an engine that saw both does.
#[track_caller]
fn check_reports(toml: &str, changes: &[(Op, i64, i64)]) {
    let plan = plan_of(toml);
    let payment = |id: i64| Payment {
        id,
        second: id * 20,
        customer: Some(1),
        device: Some(1),
        amount: 100,
        label: None,
        reported: None,
        op: Op::Snapshot,
        unsent: None,
        version: None,
        micros: 0,
    };
    let rows = || batches(&plan, &[payment(1), payment(2), payment(3), payment(4)], 10);
    let labels = reports(&plan, changes);
    let mut engine = Engine::new(Arc::new(plan.clone()), 1);
    let mut output = Output::default();
    for batch in rows().iter().chain([&labels]) {
        engine.process(batch, Evaluate::Nothing, &mut output).unwrap();
    }
    let events = Events::settle(&plan, 0, rows(), &[labels]).unwrap();
    for (place, features) in evaluated(&plan, &events) {
        for (feature, expected) in read_back(&plan, &engine, &events, place).into_iter().enumerate() {
            let name = &plan.definitions.features[feature].name;
            assert!(expected.is_none_or(|expected| expected == features[feature]), "{name} of row {place:?}");
        }
    }
}

#[test]
fn reports_that_are_taken_back_or_refused_count_as_in_the_stream() {
    let taken_back = [(Op::Insert, 30, 30), (Op::Delete, 30, 55)];
    check_reports(DEFINITIONS, &taken_back);
    let ignoring = DEFINITIONS.replace("labels = \"payments\"", "labels = \"payments\"\non_delete = \"ignore\"");
    check_reports(&ignoring, &taken_back);
    let month = 30 * 86_400;
    check_reports(DEFINITIONS, &[(Op::Insert, month, 30), (Op::Insert, 50, 50)]);
}

#[test]
fn rows_that_the_stream_refuses_are_no_events() {
    let plan = plan();
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[0]), 0);
    for (position, (id, second, op)) in
        (1..).zip([(1, 10, Op::Insert), (2, 40_000, Op::Insert), (3, 20, Op::Update), (1, 50_000, Op::Update)])
    {
        let mut row = batch.begin();
        row.set_cell(0, id);
        row.set_cell(1, BASE + second * 1_000_000);
        row.set_cell(2, 7);
        if id == 3 {
            row.set_unchanged(1);
        }
        let arrival = Some(Timestamp::from_micros(BASE + 20 * 1_000_000));
        row.finish(Change { op, version: Version::new(position), arrival, position });
    }
    let events = Events::settle(&plan, 0, vec![batch], &[]).unwrap();
    let refused: Vec<(usize, Refused)> = events.refused().iter().map(|refused| (refused.row, refused.why)).collect();
    assert_eq!(refused, [(1, Refused::Future), (3, Refused::Future), (2, Refused::NoTime)]);
    assert_eq!(events.settled().refused, 3);
    let live: Vec<usize> = (0..4).filter(|row| events.is_event(0, *row)).collect();
    assert_eq!(live, [0]);
}

#[test]
fn a_history_that_says_all_rows_are_gone_is_refused() {
    let plan = plan_of(&DEFINITIONS.replace("on_truncate = \"clear\"\n", ""));
    let mut rows = batches(&plan, &[], 10);
    let mut batch = ChangeBatch::new(Arc::clone(&plan.definitions.streams[0]), 0);
    batch.begin().finish(Change { op: Op::Truncate, version: Version::new(7), arrival: None, position: 7 });
    rows.push(batch);
    assert_eq!(Events::settle(&plan, 0, rows, &[]).unwrap_err(), SettleError::Truncated { position: 7 });
}

#[test]
fn nothing_in_nothing_out() {
    let plan = plan();
    let events = Events::settle(&plan, 0, Vec::new(), &[]).unwrap();
    assert!(evaluated(&plan, &events).is_empty());
    assert_eq!(cell(&crate::state::Readout::int(3), crate::expression::Type::Double), 3.0_f64.to_bits().cast_signed());
}
