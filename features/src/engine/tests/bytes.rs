//! The bytes of states: round trips, sizes, and what damage does.

use std::sync::Arc;

use crate::change::{Op, TextArena, Version};
use crate::engine::{Evaluate, Plan};
use crate::state::{AsOf, LabelValue, LabelWord, Readout, Scratch, Slot, State, StateError};
use crate::time::Timestamp;

use super::hot::{HOT, at, hot_terminal};
use super::world::{Cell, Delivery, Dice, NOON, SECOND, Shell, plan};

/// The first groups of the contract's example.
const EXAMPLE: &str = r#"
[stream.transactions]
id = "transaction_id"
time = "tx_datetime"
label = "is_fraud"
columns = { transaction_id = "int64", tx_datetime = "timestamp", customer_id = "int64", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }
[entity.customer]
key = "customer_id"
[entity.terminal]
key = "terminal_id"
[[group]]
name = "customer_spend"
entity = "customer"
windows = ["1d", "7d", "30d"]
features = { tx_count = "count()", amount_avg = "mean(amount)" }
[[group]]
name = "terminal_risk"
entity = "terminal"
delay = "7d"
windows = ["1d", "7d", "30d"]
features = { tx_count = "count()", fraud_ratio = "share(label)" }
"#;

fn read_all(plan: &Plan, state: &State, instant: i64) -> Vec<Readout> {
    let mut out = vec![Readout::default(); plan.programs[0].width()];
    state.read(&plan.programs[0], AsOf::instant(instant), &mut Scratch::default(), &mut out);
    out
}

#[test]
fn a_customer_of_60_events_in_30_days_takes_at_most_1200_bytes() {
    let plan = plan(EXAMPLE);
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
    newer[0] = 2;
    assert_eq!(State::decode(&plan.programs[0], &newer).err(), Some(StateError::Format(2)));
    assert_eq!(State::decode(&plan.programs[1], &bytes).err(), Some(StateError::Columns));
    let _same: Arc<Plan> = plan;
}
