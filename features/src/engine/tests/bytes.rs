//! The bytes of states: round trips, sizes, and what damage does.

use std::sync::Arc;

use crate::change::{Op, TextArena, Version};
use crate::engine::{Evaluate, Plan};
use crate::fixture::HANDBOOK;
use crate::state::{AsOf, LabelValue, LabelWord, Program, Readout, Scratch, Slot, State, StateError};
use crate::time::Timestamp;
use crate::vector::Flags;

use super::hot::{HOT, at, hot_terminal};
use super::world::{Cell, Delivery, Dice, NOON, SECOND, Shell, plan};

fn read_all(plan: &Plan, state: &State, instant: i64) -> Vec<Readout> {
    let mut out = vec![Readout::default(); plan.programs[0].width()];
    state.read(&plan.programs[0], AsOf::instant(instant), &mut Scratch::default(), &mut out);
    out
}

#[test]
fn a_customer_of_60_events_in_30_days_takes_at_most_1200_bytes() {
    let plan = plan(HANDBOOK);
    let mut sizes = Vec::new();
    for seed in 0..50 {
        let mut dice = Dice(seed);
        let mut shell = Shell::new(&plan, 1, Evaluate::Nothing);
        let mut times: Vec<i64> = (0..60).map(|_| NOON + dice.below(30 * 86_400) * SECOND).collect();
        times.sort_unstable();
        let mut id = 1_000_000;
        let changes: Vec<Delivery> = times
            .into_iter()
            .map(|time| {
                id += 1 + dice.below(5_000);
                let cells = [id, time, 7, dice.below(10_000), dice.below(50_000), 0].map(Cell::Word).to_vec();
                let version = Version::new(u64::try_from(id).unwrap() * 300);
                Delivery { stream: 0, op: Op::Insert, version, arrival: None, cells }
            })
            .collect();
        shell.all(&changes);
        let states = shell.states();
        sizes.push(states.iter().find(|((entity, ..), _)| *entity == 0).unwrap().1.len());
    }
    sizes.sort_unstable();
    let median = sizes[sizes.len() / 2];
    println!("median of a customer's state: {median} bytes");
    assert!(median <= 1_200, "{median}");
}

#[test]
fn raw_events_at_their_widest_take_at_most_8_kib() {
    let plan = plan(HOT);
    let program = &plan.programs[0];
    let mut dice = Dice(3);
    let mut state = State::default();
    let mut texts = TextArena::default();
    let text = texts.push("twenty bytes of text");
    let mut most = 0;
    for n in 0.. {
        let reported = |value| LabelWord::new(value, Some(Timestamp::from_micros(NOON + 40 * 86_400 * SECOND + n)));
        let labels = [reported(LabelValue::Fraud), reported(LabelValue::Genuine)];
        let words = [i64::MAX - dice.below(1 << 40), dice.roll().cast_signed() >> 2, text, 1];
        let words = &words[..program.raw_words()];
        let first = Version { major: dice.roll() >> 8, minor: u32::MAX };
        let labels = if n % 3 == 0 { &labels[..] } else { &labels[..1] };
        state.insert(
            program,
            &Slot { time: NOON + n * 7_654_321, id: dice.roll(), first, labels, words, texts: &texts },
        );
        if state.is_tiled() {
            break;
        }
        most = most.max(Plan::encode(program, &state).len());
    }
    println!("widest raw state: {most} bytes");
    assert!(most <= 8 * 1024 + 128, "{most}");
}

#[test]
fn encoding_survives_a_round_trip() {
    let plan = plan(HOT);
    for events in [1, 20, 150, 400, 5_000] {
        let mut shell = hot_terminal(&plan, events, 9);
        for ((_, _, group), bytes) in shell.states() {
            let program = &plan.programs[group];
            let state = State::decode(program, &bytes).unwrap();
            assert_eq!(Plan::encode(program, &state), bytes, "{events} events in {group}");
            assert!(bytes.len() <= program.tiled_bytes_max() + 8 * 1024 + 128);
        }
    }
}

#[test]
fn damaged_bytes_are_refused() {
    let plan = plan(HOT);
    let mut dice = Dice(11);
    for events in [3, 100, 3_000] {
        let mut shell = hot_terminal(&plan, events, 5);
        let bytes = shell.states().into_iter().find(|((.., group), _)| *group == 0).unwrap().1;
        let program = &plan.programs[0];
        for _ in 0..3_000 {
            let mut damaged = bytes.clone();
            match dice.below(3) {
                0 => damaged.truncate(usize::try_from(dice.below(i64::try_from(bytes.len()).unwrap())).unwrap()),
                1 => damaged.extend(dice.roll().to_le_bytes()),
                _ => {
                    for _ in 0..=dice.below(3) {
                        let at = usize::try_from(dice.below(i64::try_from(bytes.len()).unwrap())).unwrap();
                        damaged[at] ^= 1 << dice.below(8);
                    }
                }
            }
            if damaged != bytes {
                assert!(State::decode(program, &damaged).is_err());
            }
        }
    }
}

/// A writer with other ideas than ours, whose checksum is right: what is taken for a state can be read and added to.
#[test]
fn impossible_contents_cause_no_panic() {
    let plan = plan(HOT);
    let program = &plan.programs[0];
    let mut dice = Dice(17);
    let mut taken = 0;
    for events in [3, 100, 3_000] {
        let mut shell = hot_terminal(&plan, events, 5);
        let bytes = shell.states().into_iter().find(|((.., group), _)| *group == 0).unwrap().1;
        for _ in 0..2_000 {
            let mut forged = bytes[..bytes.len() - 4].to_vec();
            for _ in 0..=dice.below(3) {
                let place = usize::try_from(dice.below(i64::try_from(forged.len().min(400)).unwrap())).unwrap();
                let place =
                    if dice.one_in(2) { place } else { usize::try_from(dice.roll() % forged.len() as u64).unwrap() };
                forged[place] = if dice.one_in(2) { 0xff } else { dice.roll().to_le_bytes()[0] };
            }
            let sum = crate::bytes::checksum(&forged);
            forged.extend(sum.to_le_bytes());
            let Ok(mut state) = State::decode(program, &forged) else { continue };
            taken += 1;
            read_all(&plan, &state, at(events));
            read_all(&plan, &state, Timestamp::MAX.micros());
            let texts = TextArena::default();
            let words = [100, 100, crate::value::NULL, 1];
            let slot = Slot {
                time: at(events),
                id: 1,
                first: Version::new(1),
                labels: &[],
                words: &words[..program.raw_words()],
                texts: &texts,
            };
            state.insert(program, &slot);
            state.remove(program, &slot);
            let again = Plan::encode(program, &state);
            assert!(State::decode(program, &again).is_ok() || state.is_tiled());
        }
    }
    println!("{taken} forged states were taken");
}

#[test]
fn a_newer_format_and_other_columns_are_named() {
    let plan = plan(HOT);
    let mut shell = hot_terminal(&plan, 3, 1);
    let bytes = shell.states().into_iter().find(|((.., group), _)| *group == 0).unwrap().1;
    let mut newer = bytes.clone();
    newer[0] = 3;
    assert_eq!(State::decode(&plan.programs[0], &newer).err(), Some(StateError::Format(3)));
    assert_eq!(State::decode(&plan.programs[1], &bytes).err(), Some(StateError::Columns));
    let _same: Arc<Plan> = plan;
}

/// One event of the handbook's customer.
fn spent(program: &Program, state: &mut State, day: i64, op: Op) {
    let texts = TextArena::default();
    let words = [100];
    let id = day.unsigned_abs();
    let slot = Slot {
        time: NOON + day * 86_400 * SECOND,
        id,
        first: Version::new(id),
        labels: &[],
        words: &words[..program.raw_words()],
        texts: &texts,
    };
    if op == Op::Delete {
        state.remove(program, &slot);
    } else {
        state.insert(program, &slot);
    }
}

/// Days 1 to 3, and a payment on day 33 that pushed day 1 and 2 out of the retention before it was deleted.
fn pushed_out(program: &Program) -> State {
    let mut state = State::default();
    [1, 2, 3, 33].into_iter().for_each(|day| spent(program, &mut state, day, Op::Insert));
    spent(program, &mut state, 33, Op::Delete);
    state
}

#[test]
fn a_window_is_truncated_though_the_event_that_pushed_others_out_is_gone() {
    let plan = plan(HANDBOOK);
    let program = &plan.programs[0];
    let state = pushed_out(program);
    let again = State::decode(program, &Plan::encode(program, &state)).unwrap();
    for state in [&state, &again] {
        let readouts = read_all(&plan, state, NOON + 4 * 86_400 * SECOND);
        let counts: Vec<(i64, bool)> =
            readouts[..3].iter().map(|readout| (readout.bits, readout.flags.has(Flags::TRUNCATED))).collect();
        // Of one day, nothing; of seven and thirty, day 3 and what is not known any more.
        assert_eq!(counts, [(0, false), (1, true), (1, true)]);
    }
    // What came too late for the event that is gone is missing as well.
    let mut state = State::default();
    [33, 2].into_iter().for_each(|day| spent(program, &mut state, day, Op::Insert));
    spent(program, &mut state, 33, Op::Delete);
    assert!(!state.is_empty());
    let truncated = |day: i64| read_all(&plan, &state, NOON + day * 86_400 * SECOND)[0].flags.has(Flags::TRUNCATED);
    assert!(truncated(2) && !truncated(3));
}

#[test]
fn the_format_before_is_read() {
    let plan = plan(HANDBOOK);
    let program = &plan.programs[0];
    let mut state = State::default();
    [1, 2, 3].into_iter().for_each(|day| spent(program, &mut state, day, Op::Insert));
    let bytes = Plan::encode(program, &state);
    let mut before = bytes.clone();
    before[0] = 1;
    let content = before.len() - 4;
    let sum = crate::bytes::checksum(&before[..content]).to_le_bytes();
    before[content..].copy_from_slice(&sum);
    assert_eq!(Plan::encode(program, &State::decode(program, &before).unwrap()), bytes);
}
