//! A table that is truncated while it is read: what came of its rows is gone, and comes back after no crash.

use std::collections::BTreeMap;
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::audit::assert_all_equal;
use crate::place::{DEFINITIONS, Place, text};

const KILLS: usize = 12;

fn config(follow: bool) -> String {
    let definitions = DEFINITIONS.replace("judge = \"insert\"", "judge = \"insert\"\non_truncate = \"clear\"");
    format!(
        "{definitions}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = {follow}\n[engine]\ncheckpoint = \"20ms\"\n"
    )
}

/// The truncation that commits right behind a change.
fn truncation(line: &str) -> String {
    let mut change: Value = serde_json::from_str(line).unwrap();
    let envelope = if change["payload"].is_object() { &mut change["payload"] } else { &mut change };
    (envelope["op"], envelope["before"], envelope["after"]) = (json!("t"), Value::Null, Value::Null);
    let lsn = envelope["source"]["lsn"].as_u64().unwrap();
    envelope["source"]["lsn"] = json!(lsn + 1);
    format!("{change}\n")
}

/// Changes in order of their commits, two thirds of them with truncations in between, and where the last one stands.
fn simulated() -> (String, usize) {
    let place = Place::new("");
    place.run(
        "simulate --seed 9 --customers 400 --terminals 40 --days 2 --label-delay 2h --label-spread 1h --format debezium \
         --disorder 0.1 --updates 0.1 --deletes 0.05 --output whole.jsonl",
    );
    let changes = text(&place.path("whole.jsonl"));
    let lines: Vec<&str> = changes.split_inclusive('\n').collect();
    let (mut all, mut last) = (String::new(), 0);
    for (at, line) in lines.iter().enumerate() {
        all.push_str(line);
        let third = lines.len() / 3;
        if at == third || at == 2 * third {
            last = all.len();
            all.push_str(&truncation(line));
            // A replay delivers it again.
            all.push_str(&truncation(line));
        }
    }
    (all, last)
}

fn by_event(place: &Place) -> BTreeMap<String, DecisionRecord> {
    place.decisions(&place.store()).into_values().map(|record| (record.event_id.clone(), record)).collect()
}

#[test]
fn what_came_of_the_rows_of_a_truncated_table_is_gone_also_after_crashes() {
    let (changes, last) = simulated();
    let calm = Place::new(&config(false));
    calm.write("live.jsonl", &changes);
    calm.run("run --until-end");
    let expected = by_event(&calm);
    assert!(expected.len() > 1_000, "{} decisions", expected.len());
    assert_eq!(assert_all_equal(&calm), expected.len() as u64);

    // What comes behind the truncation is judged as if nothing had ever come before it.
    let fresh = Place::new(&config(false));
    fresh.write("live.jsonl", &changes[last..]);
    fresh.run("run --until-end");
    let behind = by_event(&fresh);
    assert!(behind.len() > 300, "{} decisions", behind.len());
    for (event, record) in &behind {
        let found = &expected[event];
        assert_eq!(found.features, record.features, "{event}");
    }

    let place = Place::new(&config(true));
    let mut chance = ChaCha8Rng::seed_from_u64(30);
    let mut fed = 0;
    for kill in 1..=KILLS {
        let mut process = place.start("run");
        let end = changes.len() * kill / KILLS;
        place.append("live.jsonl", &changes.as_bytes()[fed..end]);
        fed = end;
        process.work(Duration::from_micros(chance.random_range(20_000..200_000)));
        process.kill();
    }
    place.write("interdict.toml", config(false));
    place.run("run --until-end");
    assert_eq!(by_event(&place), expected);
    assert_eq!(place.store().lists_now().unwrap().len(), calm.store().lists_now().unwrap().len());
}

#[test]
fn a_truncation_stops_where_nothing_is_said_of_it() {
    let place = Place::new(&config(false).replace("on_truncate = \"clear\"\n", ""));
    let (changes, _) = simulated();
    place.write("live.jsonl", &changes);
    let said = place.fail("run --until-end");
    assert!(said.contains("on_truncate = \"clear\""), "{said}");
}
