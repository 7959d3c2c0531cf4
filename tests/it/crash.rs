//! kill -9 at random moments: what is there afterwards is what an undisturbed run leaves behind.

use std::time::Duration;

use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::place::{DEFINITIONS, Place, text};

const KILLS: usize = 50;

pub(crate) fn source(follow: bool) -> String {
    format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\nfollow = {follow}\n[engine]\ncheckpoint = \"20ms\"\n"
    )
}

/// Late, shuffled, duplicate, corrected and deleted rows, and labels two hours after their transaction.
pub(crate) fn simulated() -> String {
    let place = Place::new("");
    place.run(
        "simulate --seed 7 --customers 500 --terminals 60 --days 2 --label-delay 2h --label-spread 1h --format debezium \
         --disorder 0.1 --shuffle 0.05 --duplicates 0.1 --updates 0.1 --deletes 0.05 --tombstones --output whole.jsonl",
    );
    text(&place.path("whole.jsonl"))
}

#[test]
fn fifty_kills_leave_what_an_undisturbed_run_leaves() {
    let changes = simulated();
    let lines: Vec<&str> = changes.split_inclusive('\n').collect();
    assert!(lines.len() > 2_000, "{} changes", lines.len());
    let calm = Place::new(&source(false));
    calm.write("live.jsonl", &changes);
    calm.run("run --until-end");
    let expected = calm.remains();
    assert!(!expected.lists.is_empty() && expected.decisions.len() > 1_000 && expected.letters.is_empty());

    let place = Place::new(&source(true));
    let mut chance = ChaCha8Rng::seed_from_u64(20);
    let mut fed = 0;
    let pieces = KILLS * 3;
    for kill in 0..KILLS {
        let mut process = place.start("run");
        for piece in 1..=3 {
            // A writer's buffer ends anywhere, in the middle of a line as well.
            let end = changes.len() * (kill * 3 + piece) / pieces;
            place.append("live.jsonl", &changes.as_bytes()[fed..end]);
            fed = end;
            process.work(Duration::from_micros(chance.random_range(0..120_000)));
        }
        process.kill();
    }
    assert_eq!(fed, changes.len());
    place.write("interdict.toml", source(false));
    place.run("run --until-end");
    place.remains().assert_equals(&expected);

    let log = place.run("run --until-end");
    assert!(log.contains("events=0"), "everything was applied before: {log}");
    place.remains().assert_equals(&expected);
}

/// Between two checkpoints thousands of decisions are stored whose events come again: their blocks are on the lists by then.
#[test]
fn a_backlog_is_read_again_over_its_own_decisions() {
    let config = source(false).replace("\"20ms\"", "\"30s\"");
    let calm = Place::new(&config);
    calm.run(
        "simulate --seed 8 --customers 6000 --days 2 --label-delay 2h --label-spread 1h --format debezium \
         --disorder 0.1 --duplicates 0.1 --output live.jsonl",
    );
    calm.run("run");
    let expected = calm.remains();
    assert!(expected.lists.len() > 50, "{} blocked", expected.lists.len());

    let mut chance = ChaCha8Rng::seed_from_u64(21);
    let place = Place::new(&config);
    place.write("live.jsonl", text(&calm.path("live.jsonl")));
    let mut repeated = 0;
    for _ in 0..20 {
        let mut process = place.start("run");
        process.wait_for("running");
        let time = Duration::from_millis(chance.random_range(50..350));
        if !process.works(time) {
            break;
        }
        process.kill();
        repeated += usize::from(!place.store().lists_now().unwrap().is_empty());
    }
    assert!(repeated > 0, "no kill fell behind a decision");
    place.run("run");
    place.remains().assert_equals(&expected);
}
