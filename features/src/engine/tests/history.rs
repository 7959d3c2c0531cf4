//! Whole histories of changes, in any order and with repetitions, against a recomputation from the changes delivered so far.

use proptest::prelude::*;

use crate::change::{Op, Version};
use crate::engine::{Evaluate, OwnedKey, Plan, key_of};
use crate::value::Value;
use crate::vector::{Flags, Reading};

use super::model::{Event, events};
use super::oracle::{Expected, Instant, members, read};
use super::world::{
    ACCOUNTS, ALL, Answer, CHARGEBACKS, Cell, Cut, Delivery, Dice, LOGINS, NOON, PAYMENTS, SECOND, Shell, plan, word,
};

const COUNTRIES: [&str; 4] = ["DE", "FR", "é", ""];

fn maybe(dice: &mut Dice, cell: impl FnOnce(&mut Dice) -> Cell) -> Cell {
    if dice.one_in(6) { Cell::Null } else { cell(dice) }
}

fn time(dice: &mut Dice) -> Cell {
    // Few seconds, so that times tie, and windows' edges are met exactly.
    Cell::Word(NOON + dice.below(150) * SECOND + if dice.one_in(4) { dice.below(SECOND) } else { 0 })
}

fn country(dice: &mut Dice) -> Cell {
    Cell::text(COUNTRIES[usize::try_from(dice.below(4)).unwrap()])
}

fn customer(dice: &mut Dice) -> Cell {
    maybe(dice, |dice| Cell::Word(dice.below(3) - 1))
}

fn payment(dice: &mut Dice, id: i64, op: Op) -> Vec<Cell> {
    let label = |dice: &mut Dice| if dice.one_in(3) { Cell::Word(dice.below(2)) } else { Cell::Null };
    vec![
        Cell::Word(id),
        time(dice),
        customer(dice),
        maybe(dice, |dice| Cell::text(["a", "b"][usize::try_from(dice.below(2)).unwrap()])),
        maybe(dice, |dice| Cell::Word(dice.below(20_000) - 2_000)),
        maybe(dice, |dice| Cell::double((dice.below(2_000) - 1_000) as f64 / 7.0 + 1e6)),
        maybe(dice, |dice| Cell::Word(dice.below(5))),
        maybe(dice, country),
        maybe(dice, |dice| Cell::Word(dice.below(2))),
        maybe(dice, time),
        maybe(dice, |dice| Cell::double(dice.below(120) as f64 - 60.0)),
        maybe(dice, |dice| Cell::double(dice.below(300) as f64 - 150.0)),
        if op == Op::Request { Cell::Null } else { label(dice) },
    ]
}

/// The whole life of some rows, in order of versions.
pub(super) fn lives(dice: &mut Dice, rows: i64) -> Vec<Delivery> {
    let mut all = Vec::new();
    let mut version = 0;
    let mut next = |dice: &mut Dice| {
        version += 1 + u64::from(dice.one_in(3));
        Version { major: version / 3, minor: u32::try_from(version % 3).unwrap() + 1 }
    };
    for id in 0..rows {
        let arrival = |dice: &mut Dice| Some(NOON + 150 * SECOND + dice.below(100 * SECOND));
        let mut add = |dice: &mut Dice, stream, op, cells| {
            let version = if op == Op::Request { Version::REQUEST } else { next(dice) };
            all.push(Delivery { stream, op, version, arrival: arrival(dice), cells });
        };
        match dice.below(10) {
            0 => {
                let cells = vec![Cell::Word(id), time(dice), customer(dice), maybe(dice, country)];
                add(dice, LOGINS, Op::Insert, cells);
                continue;
            }
            1 => {
                let status = maybe(dice, country);
                let cells = vec![Cell::Word(id), time(dice), customer(dice), status, Cell::Word(dice.below(999))];
                add(dice, ACCOUNTS, Op::Insert, cells);
                continue;
            }
            2 => {
                let cells = payment(dice, id, Op::Request);
                add(dice, PAYMENTS, Op::Request, cells);
                if dice.one_in(2) {
                    continue;
                }
            }
            _ => {}
        }
        let op = if dice.one_in(8) { Op::Snapshot } else { Op::Insert };
        let cells = payment(dice, id, op);
        add(dice, PAYMENTS, op, cells);
        for _ in 0..dice.below(5) {
            match dice.below(6) {
                0 => {
                    let mut cells = vec![Cell::Null; 13];
                    cells[0] = Cell::Word(id);
                    add(dice, PAYMENTS, Op::Delete, cells);
                    if dice.one_in(2) {
                        let cells = payment(dice, id, Op::Insert);
                        add(dice, PAYMENTS, Op::Insert, cells);
                    } else {
                        break;
                    }
                }
                1 | 2 => {
                    let label = maybe(dice, |dice| Cell::Word(dice.below(2)));
                    let reported = Cell::Word(NOON + dice.below(300) * SECOND);
                    add(dice, CHARGEBACKS, Op::Insert, vec![Cell::Word(id), label, reported]);
                }
                _ => {
                    let mut cells = payment(dice, id, Op::Update);
                    for cell in &mut cells[1..] {
                        if dice.one_in(3) {
                            *cell = Cell::Unchanged;
                        }
                    }
                    add(dice, PAYMENTS, Op::Update, cells);
                }
            }
        }
    }
    all
}

/// Some order of `lives` with some of them twice.
fn delivery(dice: &mut Dice, lives: &[Delivery]) -> Vec<Delivery> {
    let mut order = lives.to_vec();
    for change in lives {
        if dice.one_in(3) {
            order.push(change.clone());
        }
    }
    dice.shuffle(&mut order);
    order
}

pub(super) fn is_expected(expected: &Expected, found: &Reading) -> bool {
    let same = match (&expected.value, &found.value) {
        (Value::Double(a), Value::Double(b)) => (a - b).abs() <= expected.tolerance,
        (a, b) => a == b,
    };
    same && expected.flags == found.flags && found.edge_events == 0
}

/// What the vector of payment `id` should be, once `delivered` is all that there is.
fn expected_vector(plan: &Plan, events: &[Event], id: i64) -> Vec<Expected> {
    let definitions = &plan.definitions;
    let subject = events.iter().find(|event| (event.stream, event.id) == (PAYMENTS, id)).unwrap();
    let stream = &definitions.streams[PAYMENTS];
    let row = subject.row(stream);
    let mut vector = Vec::new();
    for (index, group) in definitions.groups.iter().enumerate() {
        let key: Vec<usize> = match group.stream {
            PAYMENTS => group.key.clone(),
            _ => definitions.entities[group.entity].key.iter().map(|name| stream.column(name).unwrap()).collect(),
        };
        let mut buffer = Vec::new();
        let Some(key) = key_of(row, &key, &mut buffer).map(OwnedKey::from) else {
            let nobody = Instant { time: subject.time, subject: None };
            vector.extend(
                read(plan, index, &[], nobody)
                    .into_iter()
                    .map(|expected| Expected { flags: Flags::NO_KEY, ..expected }),
            );
            continue;
        };
        let of = |group: usize| members(plan, group, &key, events);
        let newest = plan.entity_groups[group.entity].iter().flat_map(|group| of(*group)).map(|event| event.time).max();
        let at = match newest {
            Some(newest) if newest > subject.time && newest - subject.time <= definitions.disorder.micros() => {
                Instant { time: newest, subject: Some((PAYMENTS, id, Version::MAX)) }
            }
            _ => Instant { time: subject.time, subject: Some((PAYMENTS, id, subject.first)) },
        };
        vector.extend(read(plan, index, &of(index), at));
    }
    vector
}

/// The vector of an answer equals the oracle's on all that was there.
pub(super) fn check_answer(plan: &Plan, delivery: &Delivery, answer: &Answer, delivered: &[Delivery]) {
    let Some(vector) = &answer.vector else { return };
    let id = word(&delivery.cells[0]);
    let mut known = events(plan, delivered);
    let is_own = |event: &Event| (event.stream, event.id) == (PAYMENTS, id);
    if !known.iter().any(is_own) {
        // Judged behind its delete: as it came, as if it were all that is known of its row.
        known.extend(events(plan, std::slice::from_ref(delivery)).into_iter().filter(is_own));
    }
    let expected = expected_vector(plan, &known, id);
    for ((name, expected), found) in plan.definitions.features.iter().zip(&expected).zip(vector) {
        assert!(
            is_expected(expected, found),
            "{} of {id} after {delivered:#?}: {expected:?}, not {found:?}",
            name.name
        );
    }
    let subject = known.iter().find(|event| (event.stream, event.id) == (PAYMENTS, id)).unwrap();
    let mean = plan.definitions.feature("spend.mean_amount_2m").unwrap();
    let amount = subject.row(&plan.definitions.streams[PAYMENTS]).cells[4];
    if let (Value::Double(mean), true) = (&vector[mean].value, amount > 0) {
        assert_eq!(vector.last().unwrap().value, Value::Double(amount as f64 / 100.0 / mean));
    }
}

fn check_history(seed: u64, rows: i64, shards: usize) {
    let plan = plan(ALL);
    let mut dice = Dice(seed);
    let lives = lives(&mut dice, rows);
    let deliveries = delivery(&mut dice, &lives);
    let mut shell = Shell::new(&plan, shards, Evaluate::Judged);
    let answers = shell.deliver(&deliveries, |_| match dice.below(6) {
        0 => Cut::Memory,
        1 | 2 => Cut::Batch,
        _ => Cut::Nowhere,
    });
    for (at, answer) in answers.iter().enumerate() {
        check_answer(&plan, &deliveries[at], answer, &deliveries[..=at]);
    }
    let last = events(&plan, &deliveries);
    check_reads(&plan, &mut shell, &last, &mut dice);
}

/// Reads of any instant equal the oracle's on all events.
pub(super) fn check_reads(plan: &Plan, shell: &mut Shell, events: &[Event], dice: &mut Dice) {
    use crate::engine::Key;
    use crate::state::{AsOf, Scratch};
    let keys = [(0, Key::Int(-1)), (0, Key::Int(0)), (0, Key::Int(1)), (1, Key::Bytes(b"a")), (1, Key::Bytes(b"b"))];
    for (entity, key) in keys {
        let owned = OwnedKey::from(key);
        shell.hold(entity, &owned);
        for (place, &group) in plan.entity_groups[entity].iter().enumerate() {
            let instant = NOON + dice.below(300) * SECOND - 20 * SECOND;
            let members = members(plan, group, &owned, events);
            let expected = read(plan, group, &members, Instant { time: instant, subject: None });
            let (mut scratch, mut out) = (Scratch::default(), Vec::new());
            shell.engine.read(entity, &key, &[place], AsOf::instant(instant), &mut scratch, &mut out);
            for ((expected, found), at) in expected.iter().zip(&out).zip(0..) {
                let found = found.reading(scratch.texts());
                assert!(
                    is_expected(expected, &found),
                    "{group} {at} of {key:?} at {instant}: {expected:?}, not {found:?}"
                );
            }
            assert_eq!(expected.len(), out.len());
        }
    }
}

fn check_order(seed: u64, rows: i64) {
    let plan = plan(ALL);
    let mut dice = Dice(seed);
    let lives = lives(&mut dice, rows);
    let mut in_order = Shell::new(&plan, 1, Evaluate::Nothing);
    in_order.all(&lives);
    let expected = in_order.states();
    for _ in 0..3 {
        let order = delivery(&mut dice, &lives);
        let mut shell = Shell::new(&plan, usize::try_from(1 + dice.below(4)).unwrap(), Evaluate::Judged);
        shell.deliver(&order, |_| match dice.below(8) {
            0 => Cut::Memory,
            1 => Cut::Batch,
            _ => Cut::Nowhere,
        });
        assert_eq!(shell.states(), expected, "after {order:#?}");
    }
}

fn check_shards(seed: u64, rows: i64) {
    let plan = plan(ALL);
    let mut dice = Dice(seed);
    let lives = lives(&mut dice, rows);
    let order = delivery(&mut dice, &lives);
    let mut one = Shell::new(&plan, 1, Evaluate::Everything);
    let expected = one.deliver(&order, |_| Cut::Batch);
    let images = one.engine.images();
    for shards in 1..=4 {
        let mut shell = Shell::new(&plan, shards, Evaluate::Everything);
        let answers = shell.deliver(&order, |_| if dice.one_in(5) { Cut::Batch } else { Cut::Nowhere });
        assert_eq!(answers, expected);
        assert_eq!(shell.engine.images(), images);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn judged_vectors_equal_a_recount(seed in any::<u64>(), rows in 1..25_i64, shards in 1..4_usize) {
        check_history(seed, rows, shards);
    }

    #[test]
    fn any_order_and_repetition_gives_the_same_states(seed in any::<u64>(), rows in 1..30_i64) {
        check_order(seed, rows);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, ..ProptestConfig::default() })]

    #[test]
    fn shards_and_batches_change_nothing(seed in any::<u64>(), rows in 100..250_i64) {
        check_shards(seed, rows);
    }
}
