//! The program over a Redis Cluster whose master dies twice under load: what it decides is what an undisturbed run decides.

use std::collections::BTreeMap;

use interdict_features::decision::DecisionRecord;
use uuid::Uuid;

use crate::crash::{simulated, source};
use crate::place::{Place, Process};
use crate::redis_cluster::RedisCluster;
use crate::topics::at_redis;

const NAMESPACE: &str = "cards";

/// Pieces in which changes are fed; the master dies behind some.
const PIECES: usize = 9;
const DIES_BEHIND: [usize; 2] = [2, 5];

/// The decisions in Parquet, each once, without clocks.
fn decisions(place: &Place) -> BTreeMap<Uuid, DecisionRecord> {
    let mut decisions = BTreeMap::new();
    for entry in interdict_monitor::log::read(&place.path("decisions")).unwrap() {
        let record = entry.unwrap().record;
        let earlier = decisions.insert(record.decision_id, record.without_clocks());
        assert!(earlier.is_none(), "one decision stands in Parquet twice: {earlier:?}");
    }
    decisions
}

/// Starts the process again where it has ended because its store went back, as an init system would.
fn revived(place: &Place, mut process: Process) -> Process {
    if process.works(std::time::Duration::from_millis(50)) {
        return process;
    }
    let (_, log) = process.end();
    assert!(log.contains("went back from commit"), "{log}");
    place.start("run")
}

#[test]
fn a_master_that_dies_costs_no_decision_and_makes_none_twice() {
    let mut cluster = RedisCluster::start();
    let changes = simulated();
    let calm = Place::new(&format!("namespace = \"{NAMESPACE}\"\n{}", source(false)));
    calm.write("live.jsonl", &changes);
    calm.run("run --until-end");
    let expected = calm.remains();
    assert!(expected.decisions.len() > 1_000);

    // One node is named, which holds the namespace or does not; what the log has must outlive its master.
    let holder = cluster.owner(NAMESPACE).unwrap();
    let config = |follow| {
        let config = at_redis(&cluster.url((holder + 1) % 3), &source(follow));
        format!(
            "namespace = \"{NAMESPACE}\"\n{}",
            config.replacen("wait = \"2s\"\n", "wait = \"2s\"\nreplicas = 1\n", 1)
        )
    };
    let place = Place::new(&config(true));
    let to_the_end = config(false);
    place.write("live.jsonl", "");
    let mut process = place.start("run");
    process.wait_for("running");
    let mut fed = 0;
    for piece in 1..=PIECES {
        let end = changes.len() * piece / PIECES;
        place.append("live.jsonl", &changes.as_bytes()[fed..end]);
        fed = end;
        if DIES_BEHIND.contains(&piece) {
            cluster.fail_over(NAMESPACE);
        }
        process = revived(&place, process);
    }
    process.terminate();
    let (_, log) = process.end();
    place.write("interdict.toml", to_the_end);
    let log = log + &place.run("run --until-end");
    let found = decisions(&place);
    for (id, record) in &expected.decisions {
        assert_eq!(found.get(id), Some(record), "decision {id}\n{log}");
    }
    assert_eq!(found.len(), expected.decisions.len());
    assert_eq!(place.letters(), expected.letters);
    let stored =
        cluster.nodes[cluster.owner(NAMESPACE).unwrap()].say(&["HGET", &format!("{{{NAMESPACE}}}:meta"), "decisions"]);
    assert_eq!(stored, expected.decisions.len().to_string(), "records in the store");
}
