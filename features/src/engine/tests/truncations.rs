//! Truncations that clear their stream, against a recomputation from what they left (DESIGN 3.13).

use proptest::prelude::*;

use crate::change::{Op, Version};
use crate::engine::{Evaluate, Outcome};
use crate::row::Ignored;
use crate::value::Value;

use super::history::{check_answer, check_reads, lives};
use super::model::events;
use super::world::{
    ACCOUNTS, ALL, Answer, CHARGEBACKS, Cell, Cut, Delivery, Dice, LOGINS, NOON, PAYMENTS, SECOND, Shell, plan,
};

const STREAMS: [usize; 3] = [PAYMENTS, LOGINS, ACCOUNTS];

/// The world of all aggregations, in which three tables are cleared.
fn cleared() -> String {
    let mut toml = ALL.to_owned();
    for stream in ["payments", "logins", "accounts"] {
        let head = format!("[stream.{stream}]\n");
        toml = toml.replace(&head, &format!("{head}on_truncate = \"clear\"\n"));
    }
    toml
}

fn truncation(stream: usize, version: Version) -> Delivery {
    Delivery { stream, op: Op::Truncate, version, arrival: Some(NOON), cells: Vec::new() }
}

/// Some truncations among `lives`, everything in an order in which no change comes before an older truncation of its stream. Changes may
/// come late, also behind truncations that took them, and anything may come twice.
fn delivery(dice: &mut Dice, mut lives: Vec<Delivery>) -> Vec<Delivery> {
    let last = lives.iter().map(|change| change.version).max().unwrap_or_default().major + 1;
    for _ in 0..dice.below(4) {
        let at = u64::try_from(dice.below(i64::try_from(last).unwrap())).unwrap();
        lives.push(truncation(STREAMS[usize::try_from(dice.below(3)).unwrap()], Version::new(at)));
    }
    // Where in the order each comes: behind what is older, and some of it later still.
    let mut places: Vec<(u64, u64, Delivery)> = Vec::new();
    for change in lives {
        let own = if change.op == Op::Request { dice.roll() % last } else { change.version.major };
        for copy in 0..=u64::from(dice.one_in(3)) {
            let is_in_time = change.op == Op::Truncate && copy == 0;
            let late = if dice.one_in(4) && !is_in_time { dice.roll() % last } else { 0 };
            let tie = if change.op == Op::Truncate { 0 } else { 1 + dice.roll() % 1_000 };
            places.push((own.max(late), tie, change.clone()));
        }
    }
    places.sort_by_key(|(place, tie, _)| (*place, *tie));
    places.into_iter().map(|(_, _, change)| change).collect()
}

/// What of `delivered` no truncation took, and what came of each truncation.
fn left(delivered: &[Delivery]) -> (Vec<Delivery>, Vec<(usize, Outcome)>) {
    let mut newest = [Version::default(); 4];
    let (mut left, mut outcomes): (Vec<Delivery>, Vec<(usize, Outcome)>) = Default::default();
    for (at, change) in delivered.iter().enumerate() {
        let stream = change.stream;
        let cleared = newest[stream];
        if change.op != Op::Truncate {
            if change.op == Op::Request || change.version >= cleared {
                left.push(change.clone());
            }
        } else if change.version > cleared {
            newest[stream] = change.version;
            left.retain(|known| known.stream != stream || known.version > change.version);
            outcomes.push((at, Outcome::Applied));
        } else {
            let why = if change.version == cleared { Ignored::Duplicate } else { Ignored::Outdated };
            outcomes.push((at, Outcome::Ignored(why)));
        }
    }
    (left, outcomes)
}

fn check_truncations(seed: u64, rows: i64, shards: usize) {
    let plan = plan(&cleared());
    let mut dice = Dice(seed);
    let lives = lives(&mut dice, rows);
    let deliveries = delivery(&mut dice, lives);
    let mut shell = Shell::new(&plan, shards, Evaluate::Judged);
    let answers = shell.deliver(&deliveries, |_| match dice.below(6) {
        0 => Cut::Memory,
        1 | 2 => Cut::Batch,
        _ => Cut::Nowhere,
    });
    for (at, answer) in answers.iter().enumerate() {
        check_answer(&plan, &deliveries[at], answer, &left(&deliveries[..=at]).0);
    }
    let (left, outcomes) = left(&deliveries);
    for (at, outcome) in outcomes {
        assert_eq!(answers[at].outcome, outcome, "{at} of {deliveries:#?}");
    }
    check_reads(&plan, &mut shell, &events(&plan, &left), &mut dice);
    // Delivered once more, everything that a truncation took stays away.
    let again: Vec<Delivery> = deliveries.iter().filter(|change| change.op != Op::Request).cloned().collect();
    shell.deliver(&again, |_| if dice.one_in(4) { Cut::Memory } else { Cut::Nowhere });
    check_reads(&plan, &mut shell, &events(&plan, &left), &mut dice);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn a_truncation_leaves_what_is_newer(seed in any::<u64>(), rows in 1..25_i64, shards in 1..4_usize) {
        check_truncations(seed, rows, shards);
    }
}

/// Payment `id` of customer 1 at `version`, worth 10.
fn payment(op: Op, id: i64, version: u64) -> Delivery {
    let mut cells = vec![Cell::Null; 13];
    let set = [Cell::Word(id), Cell::Word(NOON), Cell::Word(1), Cell::text("a"), Cell::Word(1_000)];
    cells.splice(..set.len(), set);
    Delivery { stream: PAYMENTS, op, version: Version::new(version), arrival: Some(NOON), cells }
}

fn share(answer: &Answer, place: usize) -> Value {
    answer.vector.as_ref().expect("it is judged")[place].value.clone()
}

#[test]
fn a_row_that_comes_again_is_another_one_with_the_labels_reported_for_it() {
    let plan = plan(&cleared());
    let place = |name| plan.definitions.feature(name).unwrap();
    let (count, fraud) = (place("spend.n_2m"), place("spend.fraud_2m"));
    let report = Delivery {
        stream: CHARGEBACKS,
        cells: vec![Cell::Word(7), Cell::Word(1), Cell::Word(NOON - SECOND)],
        ..payment(Op::Insert, 7, 3)
    };
    let mut own_label = payment(Op::Snapshot, 8, 2);
    own_label.cells[12] = Cell::Word(1);
    let first = payment(Op::Insert, 7, 1);
    let mut shell = Shell::new(&plan, 2, Evaluate::Judged);
    let answers = shell.all(&[first, own_label, report, payment(Op::Insert, 9, 4)]);
    assert_eq!((share(&answers[3], count), share(&answers[3], fraud)), (Value::Int(3), Value::Double(2.0 / 3.0)));
    let late = payment(Op::Insert, 10, 4);
    let answers = shell.all(&[
        truncation(PAYMENTS, Version::new(5)),
        late,
        payment(Op::Insert, 8, 6),
        payment(Op::Insert, 7, 7),
        payment(Op::Request, 11, 0),
    ]);
    assert_eq!(answers[1].outcome, Outcome::Ignored(Ignored::Outdated));
    assert_eq!(answers[1].judgement, None);
    assert_eq!(answers[2].judgement, Some(0), "a snapshot was not judged before");
    assert_eq!((share(&answers[2], count), share(&answers[2], fraud)), (Value::Int(1), Value::Double(0.0)));
    assert_eq!(answers[3].judgement, Some(1), "a decision of its own, not that of the row before");
    assert_eq!((share(&answers[3], count), share(&answers[3], fraud)), (Value::Int(2), Value::Double(0.5)));
    assert_eq!(share(&answers[4], count), Value::Int(3), "a request has the lowest version and comes after it");
}

#[test]
fn a_truncation_behind_newer_changes_stops() {
    let mut shell = Shell::new(&plan(&cleared()), 1, Evaluate::Judged);
    shell.all(&[payment(Op::Insert, 1, 4), payment(Op::Insert, 2, 6)]);
    shell.forget();
    shell.forget();
    let answers = shell.all(&[truncation(PAYMENTS, Version::new(5)), truncation(CHARGEBACKS, Version::new(9))]);
    assert_eq!(answers[0].outcome, Outcome::Truncated, "what is newer cannot be told from what it takes");
    assert_eq!(answers[1].outcome, Outcome::Truncated, "that of its labels is not that of a table");
    assert_eq!(shell.all(&[payment(Op::Insert, 3, 7)])[0].outcome, Outcome::Applied);
}

#[test]
fn append_only_streams_are_cleared_too() {
    let toml = cleared().replace("[stream.logins]\n", "[stream.logins]\nappend_only = true\n");
    let plan = plan(&toml);
    let count = plan.definitions.feature("logins.n_20s").unwrap();
    let login = |id: i64, version| Delivery {
        stream: LOGINS,
        cells: vec![Cell::Word(id), Cell::Word(NOON), Cell::Word(1), Cell::text("DE")],
        ..payment(Op::Insert, id, version)
    };
    let mut shell = Shell::new(&plan, 1, Evaluate::Judged);
    let answers = shell.all(&[login(1, 1), login(2, 2), payment(Op::Insert, 1, 1)]);
    assert_eq!(share(&answers[2], count), Value::Int(2));
    let answers =
        shell.all(&[truncation(LOGINS, Version::new(3)), login(2, 2), login(3, 4), payment(Op::Insert, 2, 2)]);
    assert_eq!(answers[1].outcome, Outcome::Ignored(Ignored::Outdated));
    assert_eq!(share(&answers[3], count), Value::Int(1));
    let spend = plan.definitions.feature("spend.n_2m").unwrap();
    assert_eq!(share(&answers[3], spend), Value::Int(2), "the states that other streams feed stay");
}

#[test]
fn what_could_not_be_read_holds_no_truncation_up() {
    let mut shell = Shell::new(&plan(&cleared()), 1, Evaluate::Judged);
    let unread = Delivery {
        stream: PAYMENTS,
        op: Op::Insert,
        version: Version::MAX,
        arrival: None,
        cells: std::iter::once(Cell::Word(7)).chain((1..13).map(|_| Cell::Null)).collect(),
    };
    assert_eq!(shell.all(&[unread])[0].judgement, Some(0));
    assert_eq!(shell.all(&[truncation(PAYMENTS, Version::new(20))])[0].outcome, Outcome::Applied);
}
