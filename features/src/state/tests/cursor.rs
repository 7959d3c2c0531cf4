//! Running sums against a state that has none: whatever came before, both read the same bits.

use std::sync::Arc;

use crate::change::{TextArena, Version};
use crate::config::ConfigFile;
use crate::definition::Definitions;
use crate::engine::Plan;
use crate::state::{AsOf, LabelValue, LabelWord, Program, Readout, Scratch, Slot, State};
use crate::time::Timestamp;
use crate::value::NULL;

const SECOND: i64 = 1_000_000;
const NOON: i64 = 1_700_000_000 * SECOND;

/// Only running sums; running sums beside others; with a delay; labels; defaults.
const GROUPS: &str = r#"
[time]
slack = "10s"
[stream.payments]
id = "id"
time = "at"
label = "fraud"
columns = { id = "int64", at = "timestamp", customer = "int64", amount = "decimal(2)", online = "bool", fraud = "bool" }
[entity.customer]
key = "customer"
[[group]]
name = "plain"
entity = "customer"
windows = ["5s", "20s", "60s"]
features = { n = "count()", sum = "sum(amount)", mean = "mean(amount)", online = "share(online)" }
[[group]]
name = "risk"
entity = "customer"
delay = "10s"
windows = ["5s", "20s", "60s"]
features = { n = "count()", fraud = "share(label)" }
[[group]]
name = "labels"
entity = "customer"
windows = ["5s", "20s"]
features = { n = "count()", fraud = "share(label)", sum = { is = "sum(amount)", default = 0 } }
[[group]]
name = "mixed"
entity = "customer"
windows = ["5s", "20s", "60s"]
features = { n = "count()", mean = "mean(amount)", most = "max(amount)", since = "time_since_last()", fraud = "share(label)" }
"#;

struct Dice(u64);

impl Dice {
    fn below(&mut self, end: i64) -> i64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        i64::try_from((mixed ^ (mixed >> 31)) >> 2).unwrap() % end
    }
}

fn plan() -> Arc<Plan> {
    let file = ConfigFile::parse("test.toml", GROUPS).unwrap();
    let definitions = Definitions::read(&file, None);
    assert!(file.problem_count() == 0 && definitions.is_some(), "{:?}", file.finish());
    Arc::new(Plan::compile(Arc::new(definitions.unwrap())))
}

impl Dice {
    /// An instant now or before.
    fn time(&mut self, now: i64) -> i64 {
        match self.below(4) {
            0 | 1 => now,
            2 => now - self.below(20) * SECOND,
            _ => now - self.below(90) * SECOND / 2,
        }
    }
}

/// An event as a test keeps it.
#[derive(Clone, Debug)]
struct Event {
    time: i64,
    id: u64,
    first: Version,
    labels: Vec<LabelWord>,
    words: Vec<i64>,
}

impl Event {
    fn thrown(dice: &mut Dice, program: &Program, now: i64, step: u64) -> Self {
        let words = [
            if dice.below(9) == 0 { NULL } else { dice.below(1 << 40) - (1 << 39) },
            [0, 1, NULL][usize::try_from(dice.below(3)).unwrap()],
        ];
        let major = if dice.below(4) == 0 { step } else { 1_000 + step };
        let first = Version { major, minor: u32::try_from(dice.below(2)).unwrap() };
        let (time, labels) = (dice.time(now), labels(dice, now));
        Self { time, id: step, first, labels, words: words[..program.raw_words()].to_vec() }
    }

    fn slot<'a>(&'a self, texts: &'a TextArena) -> Slot<'a> {
        Slot { time: self.time, id: self.id, first: self.first, labels: &self.labels, words: &self.words, texts }
    }
}

fn labels(dice: &mut Dice, now: i64) -> Vec<LabelWord> {
    let value = |n: i64| [LabelValue::Fraud, LabelValue::Genuine, LabelValue::Withdrawn][usize::try_from(n).unwrap()];
    match dice.below(8) {
        0 => vec![LabelWord::new(value(dice.below(3)), None)],
        1 | 2 => {
            vec![LabelWord::new(value(dice.below(3)), Some(Timestamp::from_micros(now - dice.below(30) * SECOND)))]
        }
        3 => vec![LabelWord::new(value(dice.below(3)), Some(Timestamp::from_micros(now + dice.below(30) * SECOND)))],
        4 if dice.below(6) == 0 => vec![
            LabelWord::new(LabelValue::Genuine, Some(Timestamp::from_micros(now - 5 * SECOND))),
            LabelWord::new(LabelValue::Fraud, Some(Timestamp::from_micros(now + dice.below(9) * SECOND))),
        ],
        _ => Vec::new(),
    }
}

fn read(plan: &Plan, group: usize, state: &State, as_of: AsOf) -> Vec<Readout> {
    let program = &plan.programs[group];
    let mut out = vec![Readout::default(); program.width()];
    state.read(program, as_of, &mut Scratch::default(), &mut out);
    out
}

fn fresh(plan: &Plan, group: usize, state: &State) -> State {
    State::decode(&plan.programs[group], &Plan::encode(&plan.programs[group], state)).unwrap()
}

fn check(plan: &Plan, group: usize, state: &State, as_of: AsOf, what: &str) {
    let expected = read(plan, group, &fresh(plan, group, state), as_of);
    assert_eq!(read(plan, group, state, as_of), expected, "{what} of group {group} as of {as_of:?}");
}

/// A read that leaves running sums behind.
fn check_on(plan: &Plan, group: usize, state: &mut State, as_of: AsOf) {
    let expected = read(plan, group, &fresh(plan, group, state), as_of);
    let program = &plan.programs[group];
    let mut out = vec![Readout::default(); program.width()];
    state.read_on(program, as_of, &mut Scratch::default(), &mut out);
    assert_eq!(out, expected, "a read of group {group} as of {as_of:?}");
}

/// A read with an event that is not there yet.
fn check_with(plan: &Plan, group: usize, state: &State, slot: &Slot<'_>, as_of: AsOf) {
    let program = &plan.programs[group];
    let mut out = vec![Readout::default(); program.width()];
    state.read_with(program, slot, as_of, &mut Scratch::default(), &mut out);
    let mut copy = fresh(plan, group, state);
    copy.insert(program, slot);
    assert_eq!(out, read(plan, group, &fresh(plan, group, &copy), as_of), "a read of group {group} with {slot:?}");
}

fn as_of(dice: &mut Dice, now: i64, newest: Option<&Event>) -> AsOf {
    let version = match newest {
        Some(event) if dice.below(2) == 0 => event.first,
        _ => Version::MAX,
    };
    let time = match dice.below(3) {
        0 => newest.map_or(now, |event| event.time),
        1 => dice.time(now),
        _ => now,
    };
    AsOf { time, version, subject: newest.filter(|event| event.first == version).map(|event| event.id) }
}

/// Events that a settled state and its copy take, in any order of time, with reads in between at any instant.
#[test]
fn running_sums_give_what_a_walk_gives() {
    let plan = plan();
    let texts = TextArena::default();
    let mut tiled = 0;
    for seed in 0..400 {
        let mut dice = Dice(seed);
        let group = usize::try_from(dice.below(4)).unwrap();
        let program = &plan.programs[group];
        let is_hot = dice.below(4) == 0;
        let (mut state, mut events): (State, Vec<Event>) = (State::default(), Vec::new());
        let mut was_tiled = false;
        let mut now = NOON;
        let mut last = AsOf::instant(NOON);
        for step in 0..if is_hot { 900 } else { 300_u64 } {
            now += [0, 0, 1, SECOND / 2, SECOND, 7 * SECOND]
                [usize::try_from(dice.below(if is_hot { 3 } else { 6 })).unwrap()];
            match dice.below(10) {
                0..=4 => {
                    let event = Event::thrown(&mut dice, program, now, step);
                    if dice.below(4) == 0 {
                        check_with(&plan, group, &state, &event.slot(&texts), last);
                    }
                    state.insert(program, &event.slot(&texts));
                    events.push(event);
                }
                5 if !events.is_empty() => {
                    let at = usize::try_from(dice.below(i64::try_from(events.len()).unwrap())).unwrap();
                    let event = events.swap_remove(at);
                    state.remove(program, &event.slot(&texts));
                }
                6 if !events.is_empty() => {
                    let at = usize::try_from(dice.below(i64::try_from(events.len()).unwrap())).unwrap();
                    let mut event = events[at].clone();
                    event.labels = labels(&mut dice, now);
                    state.relabel(program, &events[at].slot(&texts), &event.slot(&texts));
                    events[at] = event;
                }
                7 if dice.below(12) == 0 => state = fresh(&plan, group, &state),
                8 => {
                    last = as_of(&mut dice, now, events.last());
                    check_on(&plan, group, &mut state, last);
                }
                _ => {
                    last = as_of(&mut dice, now, events.last());
                    state.settle(program, last);
                }
            }
            was_tiled |= state.is_tiled();
            check(&plan, group, &state, last, &format!("seed {seed}, step {step}: the settled read"));
            check(&plan, group, &state, AsOf::instant(dice.time(now)), "another read");
        }
        tiled += u32::from(was_tiled);
    }
    assert!(tiled > 20, "tiles were met in {tiled} of 400 runs");
}

/// Events that fall behind the retention leave the sums; that they are there is no reason to walk through all others again.
#[test]
fn running_sums_outlive_what_is_forgotten() {
    let plan = plan();
    let texts = TextArena::default();
    for group in 0..4 {
        let program = &plan.programs[group];
        let mut state = State::default();
        let mut forgot = 0;
        for step in 0..200_u64 {
            // Now and then a gap in which several events pass the retention, or all of them.
            let time =
                NOON + i64::try_from(step).unwrap() * 9 * SECOND + i64::try_from(step / 40).unwrap() * 80 * SECOND;
            let words = [i64::try_from(step).unwrap() << 20, 1];
            let words = &words[..program.raw_words()];
            let first = Version::new(step + 1);
            let before = (state.raw_events(), AsOf { time: time - 9 * SECOND, version: first, subject: None });
            state.settle(program, before.1);
            state.insert(program, &Slot { time, id: step, first, labels: &[], words, texts: &texts });
            let is_forgetful = before.0 > 0 && state.raw_events() <= before.0;
            forgot += u32::from(is_forgetful);
            if before.0 > 0 {
                assert!(state.is_settled(program, before.1), "group {group}, event {step}");
                check(&plan, group, &state, before.1, "the read before");
            }
            check_on(&plan, group, &mut state, AsOf { time, version: first, subject: Some(step) });
        }
        assert!(forgot > 100, "group {group} forgot {forgot} times");
    }
}
