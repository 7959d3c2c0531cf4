//! Changes that were lost and the snapshot in their place, against a recomputation from what was seen (DESIGN 3.15).

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use crate::change::{Op, Version};
use crate::engine::{Evaluate, Outcome, Refused};
use crate::row::Ignored;
use crate::value::Value;

use super::history::{check_reads, lives};
use super::model::events;
use super::world::{
    ACCOUNTS, ALL, Answer, CHARGEBACKS, Cell, Cut, Delivery, Dice, LOGINS, NOON, PAYMENTS, SECOND, Shell, plan, word,
};

/// Streams of rows, in the order in which a snapshot reads them behind the labels.
const ROWS: [usize; 3] = [LOGINS, ACCOUNTS, PAYMENTS];

/// The rows of a database, by stream and id.
type Tables = BTreeMap<(usize, i64), Vec<Cell>>;

fn place(change: &Delivery) -> (usize, i64) {
    (change.stream, word(&change.cells[0]))
}

/// Makes a change in the database.
fn commit(tables: &mut Tables, change: &Delivery) {
    if change.op == Op::Delete {
        tables.remove(&place(change));
        return;
    }
    let row = tables.entry(place(change)).or_insert_with(|| vec![Cell::Null; change.cells.len()]);
    for (cell, new) in row.iter_mut().zip(&change.cells).filter(|(_, new)| **new != Cell::Unchanged) {
        *cell = new.clone();
    }
}

/// When every snapshot is taken: before every commit of [`lives`] that says when it was, for those come in any order.
const TAKEN: i64 = NOON + 150 * SECOND;

fn mark(op: Op, stream: usize, lsn: u64) -> Delivery {
    Delivery { stream, op, version: Version::new(lsn), arrival: Some(TAKEN), cells: Vec::new() }
}

/// Everything that a snapshot of `tables` delivers but for its end.
fn snapshot(dice: &mut Dice, tables: &Tables, lsn: u64) -> Vec<Delivery> {
    let mut rows = |stream: usize| {
        let of_stream = tables.iter().filter(|((of, _), _)| *of == stream);
        let row = |(_, cells): (_, &Vec<Cell>)| Delivery { cells: cells.clone(), ..mark(Op::Recovered, stream, lsn) };
        let mut rows: Vec<Delivery> = of_stream.map(row).collect();
        dice.shuffle(&mut rows);
        rows
    };
    let mut all = rows(CHARGEBACKS);
    for stream in ROWS {
        all.push(mark(Op::Lost, stream, lsn));
        all.extend(rows(stream));
    }
    all
}

/// What was seen so far, as changes that would have left the same.
#[derive(Default)]
struct Twin {
    seen: Vec<Delivery>,
    /// Rows that are there as far as was seen.
    known: BTreeSet<(usize, i64)>,
    judged: BTreeMap<i64, u32>,
}

impl Twin {
    fn take(&mut self, change: &Delivery, answer: &Answer) {
        if change.cells.is_empty() || change.stream == CHARGEBACKS {
            if change.stream == CHARGEBACKS {
                self.seen.push(Delivery { op: Op::Insert, ..change.clone() });
            }
            return;
        }
        let at = place(change);
        let is_known = self.known.contains(&at);
        let judged = self.judged.entry(at.1).or_default();
        if change.op == Op::Recovered {
            let is_due = change.stream == PAYMENTS && !is_known;
            assert_eq!(answer.judgement, is_due.then_some(*judged), "{change:#?}");
            if !is_known {
                let mut insert = Delivery { op: Op::Insert, ..change.clone() };
                // A label of a row that was never seen without it is reported no later than the snapshot, and nobody knows when.
                if change.stream == PAYMENTS {
                    insert.cells[12] = Cell::Null;
                }
                self.seen.push(insert);
            }
            self.seen.push(Delivery { op: Op::Update, ..change.clone() });
        } else {
            assert!(answer.judgement.is_none_or(|n| n == *judged), "{change:#?}");
            self.seen.push(change.clone());
        }
        *judged += u32::from(answer.judgement.is_some());
        if change.op == Op::Delete {
            self.known.remove(&at)
        } else {
            self.known.insert(at)
        };
    }

    /// The snapshot of `tables` is whole: what it did not hold is gone.
    fn settle(&mut self, tables: &Tables) {
        let gone = |at: &(usize, i64)| !tables.contains_key(at);
        self.seen.retain(|change| change.stream == CHARGEBACKS || !gone(&place(change)));
        self.known.retain(|at| !gone(at));
    }
}

/// Lives in one order, each row's own kept; the change at `n` stands at place `100 n + 100` of the log.
fn interleaved(dice: &mut Dice, rows: i64) -> Vec<Delivery> {
    let mut by_row: BTreeMap<i64, Vec<Delivery>> = BTreeMap::new();
    // Requests have no place in the log, and go with what is lost.
    for change in lives(dice, rows).into_iter().filter(|change| change.op != Op::Request) {
        by_row.entry(word(&change.cells[0])).or_default().push(change);
    }
    let mut left: Vec<Vec<Delivery>> =
        by_row.into_values().map(|changes| changes.into_iter().rev().collect()).collect();
    let mut all = Vec::new();
    while !left.is_empty() {
        let row = usize::try_from(dice.below(i64::try_from(left.len()).unwrap())).unwrap();
        all.extend(left[row].pop());
        left.retain(|changes| !changes.is_empty());
    }
    for (at, change) in (1..).zip(&mut all) {
        change.version = Version { major: 100 * at, minor: 1 };
    }
    all
}

struct World {
    shell: Shell,
    twin: Twin,
    dice: Dice,
}

impl World {
    fn deliver(&mut self, changes: &[Delivery]) {
        let dice = &mut self.dice;
        let cut = |_| match dice.below(6) {
            0 => Cut::Memory,
            1 | 2 => Cut::Batch,
            _ => Cut::Nowhere,
        };
        let answers = self.shell.deliver(changes, cut);
        for (change, answer) in changes.iter().zip(&answers) {
            self.twin.take(change, answer);
        }
    }

    fn some_of(&mut self, from: usize, to: usize) -> usize {
        from + usize::try_from(self.dice.below(i64::try_from(to - from).unwrap() + 1)).unwrap()
    }
}

fn check_losses(seed: u64, rows: i64, shards: usize) {
    let plan = plan(ALL);
    let mut dice = Dice(seed);
    let all = interleaved(&mut dice, rows);
    let shell = Shell::new(&plan, shards, Evaluate::Judged);
    let mut world = World { shell, twin: Twin::default(), dice };
    let mut tables = Tables::new();
    let (mut at, mut snapshots) = (0, 0);
    for _gap in 0..world.dice.below(3) {
        let from = world.some_of(at, all.len());
        world.deliver(&all[at..from]);
        all[at..from].iter().for_each(|change| commit(&mut tables, change));
        at = from;
        let cut_off = usize::from(world.dice.one_in(2));
        for is_cut_off in [true, false].into_iter().skip(1 - cut_off) {
            let to = world.some_of(at, all.len());
            all[at..to].iter().for_each(|change| commit(&mut tables, change));
            at = to;
            // Behind the change before, and before the next one.
            snapshots += 1;
            let lsn = 100 * u64::try_from(at).unwrap() + snapshots;
            let snapshot = snapshot(&mut world.dice, &tables, lsn);
            if is_cut_off {
                let part = world.some_of(0, snapshot.len());
                world.deliver(&snapshot[..part]);
                continue;
            }
            world.deliver(&snapshot);
            ROWS.iter().for_each(|stream| world.deliver(&[mark(Op::Settled, *stream, lsn)]));
            world.twin.settle(&tables);
        }
        let events = events(&plan, &world.twin.seen);
        check_reads(&plan, &mut world.shell, &events, &mut world.dice);
    }
    world.deliver(&all[at..]);
    let events = events(&plan, &world.twin.seen);
    check_reads(&plan, &mut world.shell, &events, &mut world.dice);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn what_is_there_is_what_the_snapshot_held(seed in any::<u64>(), rows in 1..25_i64, shards in 1..4_usize) {
        check_losses(seed, rows, shards);
    }
}

/// Payment `id` of customer 1 at `version`, `second` seconds behind noon, worth 10.
fn payment(op: Op, id: i64, version: u64, second: i64) -> Delivery {
    let mut cells = vec![Cell::Null; 13];
    let set = [Cell::Word(id), Cell::Word(NOON + second * SECOND), Cell::Word(1), Cell::text("a"), Cell::Word(1_000)];
    cells.splice(..set.len(), set);
    Delivery { stream: PAYMENTS, op, version: Version::new(version), arrival: Some(NOON + 60 * SECOND), cells }
}

fn judged(answers: &[Answer]) -> Vec<Option<u32>> {
    answers.iter().map(|answer| answer.judgement).collect()
}

#[test]
fn what_was_gone_before_the_loss_is_judged_again_and_what_was_there_is_not() {
    let toml = ALL.replace("[stream.payments]\n", "[stream.payments]\non_truncate = \"clear\"\n");
    let plan = plan(&toml);
    let mut shell = Shell::new(&plan, 2, Evaluate::Judged);
    let before = [
        payment(Op::Insert, 1, 10, 0),
        payment(Op::Snapshot, 2, 10, 0),
        mark(Op::Truncate, PAYMENTS, 11),
        payment(Op::Insert, 3, 12, 1),
        payment(Op::Snapshot, 4, 12, 1),
        payment(Op::Insert, 5, 13, 1),
        payment(Op::Delete, 5, 14, 1),
        payment(Op::Snapshot, 6, 13, 1),
        payment(Op::Delete, 6, 14, 1),
        // Too far ahead, and decided by default.
        payment(Op::Insert, 7, 15, 1_000_000),
    ];
    let answers = shell.deliver(&before, |_| Cut::Batch);
    assert_eq!(answers[9].outcome, Outcome::Refused(Refused::Future));
    let snapshot: Vec<Delivery> = [mark(Op::Lost, PAYMENTS, 20)]
        .into_iter()
        .chain((1..=8).map(|id| payment(Op::Recovered, id, 20, 2)))
        .chain([mark(Op::Settled, PAYMENTS, 20)])
        .collect();
    let answers = shell.deliver(&snapshot, |at| if at % 2 == 0 { Cut::Memory } else { Cut::Nowhere });
    // 1 and 2 went with the truncation, 5 and 6 were deleted, 7 was refused, 8 is new; 2 and 6 had been history.
    let expected = [None, Some(1), Some(0), None, None, Some(1), Some(0), Some(1), Some(0), None];
    assert_eq!(judged(&answers), expected);
    assert_eq!((answers[0].outcome, answers[9].outcome), (Outcome::Applied, Outcome::Applied));
    let again = shell.deliver(&snapshot, |_| Cut::Memory);
    assert_eq!(judged(&again), [None; 10], "all of it once more");
    assert!(again.iter().all(|answer| answer.outcome == Outcome::Ignored(Ignored::Duplicate)), "{again:?}");
}

#[test]
fn a_snapshot_that_is_cut_off_settles_nothing() {
    let plan = plan(ALL);
    let count = plan.definitions.feature("spend.n_2m").unwrap();
    let mut shell = Shell::new(&plan, 2, Evaluate::Judged);
    shell.all(&[payment(Op::Insert, 1, 10, 0), payment(Op::Insert, 2, 11, 0), payment(Op::Insert, 3, 12, 0)]);
    let recovered = |id, lsn, second| payment(Op::Recovered, id, lsn, second);
    let cut_off = [mark(Op::Lost, PAYMENTS, 20), recovered(1, 20, 0), recovered(4, 20, 5)];
    assert_eq!(judged(&shell.deliver(&cut_off, |_| Cut::Memory)), [None, None, Some(0)]);
    // 3 went meanwhile, 5 came.
    let whole = [
        mark(Op::Lost, PAYMENTS, 30),
        recovered(1, 30, 0),
        recovered(2, 30, 0),
        recovered(4, 30, 5),
        recovered(5, 30, 6),
        mark(Op::Settled, PAYMENTS, 30),
    ];
    let answers = shell.deliver(&whole, |_| Cut::Memory);
    assert_eq!(judged(&answers), [None, None, None, None, Some(0), None]);
    assert_eq!(answers[4].vector.as_ref().unwrap()[count].value, Value::Int(4));
    let later = shell.deliver(&[payment(Op::Insert, 3, 40, 7), payment(Op::Update, 2, 41, 7)], |_| Cut::Memory);
    assert_eq!(judged(&later), [Some(1), None], "3 is another one now");
    assert_eq!(later[0].vector.as_ref().unwrap()[count].value, Value::Int(5));
}

#[test]
fn a_condition_that_came_to_hold_meanwhile_is_judged_late() {
    let condition = "[stream.payments]\njudge = \"after.amount > 50.0\"\n";
    let plan = plan(&ALL.replace("[stream.payments]\n", condition));
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    let worth = |change: Delivery, amount: i64| {
        let mut cells = change.cells.clone();
        cells[4] = Cell::Word(amount);
        Delivery { cells, ..change }
    };
    let before = [
        worth(payment(Op::Insert, 1, 10, 0), 100),
        worth(payment(Op::Insert, 2, 10, 0), 9_000),
        worth(payment(Op::Snapshot, 3, 10, 0), 9_000),
        worth(payment(Op::Snapshot, 4, 10, 0), 9_000),
    ];
    assert_eq!(judged(&shell.all(&before)), [None, Some(0), None, None]);
    let recovered = |id, amount| worth(payment(Op::Recovered, id, 20, 0), amount);
    let snapshot = [
        mark(Op::Lost, PAYMENTS, 20),
        recovered(1, 6_000),
        recovered(2, 6_000),
        recovered(3, 9_000),
        recovered(4, 8_000),
        recovered(5, 6_000),
        recovered(6, 100),
        mark(Op::Settled, PAYMENTS, 20),
    ];
    // 3 is as it was when it was history; 4 is not, and would have been judged by its update.
    let expected = [None, Some(0), None, None, Some(0), Some(0), None, None];
    assert_eq!(judged(&shell.deliver(&snapshot, |_| Cut::Memory)), expected);
}

#[test]
fn labels_count_from_when_they_were_known() {
    let plan = plan(ALL);
    let fraud = plan.definitions.feature("spend.fraud_2m").unwrap();
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    let labelled = |change: Delivery, fraud: bool| {
        let mut cells = change.cells.clone();
        cells[12] = Cell::Word(i64::from(fraud));
        Delivery { cells, ..change }
    };
    let report = |op, id, version, second: i64| Delivery {
        cells: vec![Cell::Word(id), Cell::Word(1), Cell::Word(NOON + second * SECOND)],
        stream: CHARGEBACKS,
        ..payment(op, id, version, 0)
    };
    let at = |change: Delivery, second: i64| Delivery { arrival: Some(NOON + second * SECOND), ..change };
    shell.all(&[payment(Op::Insert, 1, 10, 0), payment(Op::Insert, 2, 10, 0)]);
    shell.all(&[at(labelled(payment(Op::Update, 1, 11, 0), true), 10)]);
    // Reported in time and before its payment, while nothing was captured: 4. The snapshot is taken at second 60.
    let snapshot = [
        report(Op::Recovered, 4, 20, 20),
        mark(Op::Lost, PAYMENTS, 20),
        labelled(payment(Op::Recovered, 1, 20, 0), true),
        labelled(payment(Op::Recovered, 2, 20, 0), true),
        labelled(payment(Op::Recovered, 3, 20, 0), true),
        payment(Op::Recovered, 4, 20, 0),
        mark(Op::Settled, PAYMENTS, 20),
        report(Op::Recovered, 4, 20, 20),
    ];
    let answers = shell.deliver(&snapshot, |_| Cut::Memory);
    assert_eq!(judged(&answers), [None, None, None, None, Some(0), Some(0), None, None]);
    assert_eq!(answers[7].outcome, Outcome::Ignored(Ignored::Duplicate));
    for (second, expected) in [(5, 0.0), (15, 1.0), (25, 2.0), (59, 2.0), (61, 4.0)] {
        let answer = shell.all(&[payment(Op::Insert, 100 + second, 100 + u64::try_from(second).unwrap(), second)]);
        let Value::Double(share) = answer[0].vector.as_ref().unwrap()[fraud].value else { panic!("{second}") };
        let events = f64::from(i32::try_from(judged_so_far(second)).unwrap());
        assert!((share * events - expected).abs() < 1e-9, "{second}: {share} of {events}");
    }
}

/// How many payments the window holds in the test above at its second `second`: four and one for each look so far.
fn judged_so_far(second: i64) -> usize {
    4 + [5, 15, 25, 59, 61].iter().filter(|look| **look <= second).count()
}

#[test]
fn where_deletes_are_ignored_nothing_goes_and_what_did_not_change_is_left_alone() {
    let toml = ALL.replace("[stream.payments]\n", "[stream.payments]\non_delete = \"ignore\"\n");
    let plan = plan(&toml);
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    shell.all(&[payment(Op::Insert, 1, 10, 0), payment(Op::Insert, 2, 11, 0)]);
    let states = shell.states();
    let snapshot = [mark(Op::Lost, PAYMENTS, 20), payment(Op::Recovered, 1, 20, 0), mark(Op::Settled, PAYMENTS, 20)];
    let answers = shell.deliver(&snapshot, |_| Cut::Memory);
    let ignored = Outcome::Ignored(Ignored::DeleteIgnored);
    assert_eq!(answers.iter().map(|it| it.outcome).collect::<Vec<_>>(), [ignored, Outcome::Applied, ignored]);
    assert_eq!(shell.states(), states);
    let moved = shell.all(&[payment(Op::Recovered, 2, 21, 7), payment(Op::Recovered, 3, 21, 7)]);
    assert_eq!(judged(&moved), [None, Some(0)]);
    let count = plan.definitions.feature("spend.n_2m").unwrap();
    assert_eq!(moved[1].vector.as_ref().unwrap()[count].value, Value::Int(3));
}

#[test]
fn a_loss_behind_a_newer_change_is_left_to_a_person() {
    let toml = ALL.replace("[stream.payments]\n", "[stream.payments]\non_truncate = \"clear\"\n");
    let mut shell = Shell::new(&plan(&toml), 1, Evaluate::Judged);
    shell.all(&[payment(Op::Insert, 1, 30, 0)]);
    assert_eq!(shell.all(&[mark(Op::Lost, PAYMENTS, 20)])[0].outcome, Outcome::Truncated);
    assert_eq!(shell.all(&[mark(Op::Settled, PAYMENTS, 20)])[0].outcome, Outcome::Ignored(Ignored::Outdated));
}

#[test]
fn a_request_that_was_decided_keeps_its_decision_whenever_its_row_comes() {
    let plan = plan(ALL);
    let request = |id| Delivery { version: Version::REQUEST, ..payment(Op::Request, id, 0, 0) };
    let loss = |lsn, ids: &[i64]| {
        let rows = ids.iter().map(|id| payment(Op::Recovered, *id, lsn, 0));
        let marks = [Op::Lost, Op::Settled].map(|op| mark(op, PAYMENTS, lsn));
        let [lost, settled] = marks;
        std::iter::once(lost).chain(rows).chain([settled]).collect::<Vec<_>>()
    };
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    assert_eq!(judged(&shell.all(&[request(1), request(2), request(3)])), [Some(0); 3]);
    // In the gap, behind it, and behind the next one.
    assert_eq!(judged(&shell.deliver(&loss(20, &[1]), |_| Cut::Memory)), [None; 3]);
    assert_eq!(judged(&shell.all(&[payment(Op::Insert, 2, 30, 0)])), [None]);
    assert_eq!(judged(&shell.deliver(&loss(40, &[1, 2, 3]), |_| Cut::Memory)), [None; 5]);
    // One that was there and is gone is another one when it comes again.
    assert_eq!(judged(&shell.deliver(&loss(50, &[2, 3]), |_| Cut::Memory)), [None; 4]);
    assert_eq!(judged(&shell.all(&[payment(Op::Insert, 1, 60, 0)])), [Some(1)]);
}

#[test]
fn a_known_row_that_cannot_be_read_any_more_stays_as_it_was() {
    let plan = plan(ALL);
    let count = plan.definitions.feature("spend.n_2m").unwrap();
    let mut shell = Shell::new(&plan, 2, Evaluate::Judged);
    let unread = |id| {
        let mut cells = vec![Cell::Null; payment(Op::Recovered, id, 20, 0).cells.len()];
        cells[0] = Cell::Word(id);
        Delivery { cells, version: Version::MAX, ..payment(Op::Recovered, id, 20, 0) }
    };
    shell.all(&[payment(Op::Insert, 1, 10, 0), payment(Op::Insert, 2, 11, 0)]);
    let snapshot = [mark(Op::Lost, PAYMENTS, 20), unread(1), unread(3), unread(3), mark(Op::Settled, PAYMENTS, 20)];
    let answers = shell.deliver(&snapshot, |_| Cut::Memory);
    assert_eq!(judged(&answers), [None, None, Some(0), None, None]);
    let answer = &shell.all(&[payment(Op::Insert, 4, 30, 1)])[0];
    assert_eq!(answer.vector.as_ref().unwrap()[count].value, Value::Int(2), "1 is there, 2 is gone");
    // The version that can be read at last is a change of what was judged before.
    assert_eq!(judged(&shell.all(&[payment(Op::Update, 1, 31, 0)])), [None]);
}

#[test]
fn a_label_that_did_not_change_does_not_outdo_what_a_person_said_since() {
    let plan = plan(&ALL.replace("time = \"reported\"\n", ""));
    let fraud = plan.definitions.feature("spend.fraud_2m").unwrap();
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    let report = |op, version, fraud: bool, second: i64| Delivery {
        cells: vec![Cell::Word(1), Cell::Word(i64::from(fraud)), Cell::Word(NOON)],
        stream: CHARGEBACKS,
        arrival: Some(NOON + second * SECOND),
        ..payment(op, 1, version, 0)
    };
    shell.all(&[payment(Op::Insert, 1, 10, 0), report(Op::Insert, 11, true, 1)]);
    shell.all(&[report(Op::Insert, 1 << 63, false, 2)]);
    let again = shell.all(&[report(Op::Recovered, 20, true, 60)]);
    assert_eq!(again[0].outcome, Outcome::Ignored(Ignored::Duplicate));
    let answer = &shell.all(&[payment(Op::Insert, 2, 30, 61)])[0];
    assert_eq!(answer.vector.as_ref().unwrap()[fraud].value, Value::Double(0.0));
}
