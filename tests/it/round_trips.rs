//! What a decision asks of its Redis, by the server's own statistics: one question for everything that it reads, and one commit.

use crate::place::{Caller, DEFINITIONS, Place};
use crate::redis_server::RedisServer;
use crate::requests::event;
use crate::topics::over_redis;

const REQUESTS: u64 = 60;
/// What a process asks beside its requests meanwhile at most: a lease is renewed, somebody looks for what has expired.
const BESIDE: u64 = 3;

/// No monitor, which reads decisions back, and leases that need no renewal while this takes.
fn place(redis: &RedisServer) -> Place {
    let (definitions, _) = DEFINITIONS.split_once("[monitor]").unwrap();
    let config = format!(
        "{definitions}\n[source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\n\
         time_unit = \"us\"\nfollow = true\n[http]\nbind = \"127.0.0.1:0\"\ndeadline = \"20s\"\n"
    );
    let place = Place::new(&over_redis(redis, &config).replace("lease = \"1s\"", "lease = \"5m\""));
    place.write("live.jsonl", "");
    place
}

/// Calls of a command since the statistics began.
fn calls(redis: &RedisServer, command: &str) -> u64 {
    let statistics = redis.say(&["INFO", "commandstats"]);
    let line = statistics.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

/// What so many decisions cost.
#[derive(Debug)]
struct Cost {
    /// Questions for records: no script reads by MGET.
    reads: u64,
    /// Those of them that ask at one instant how far every source was applied.
    snapshots: u64,
    commits: u64,
    /// Entries of logs: the decision and the input.
    entries: u64,
}

/// Asks for decisions on payments from `first`, one of each customer, one after the other.
fn asked(redis: &RedisServer, caller: &Caller, first: i64) -> Cost {
    let commits = || redis.say(&["HGET", "{default}:meta", "sequence"]).parse::<u64>().unwrap();
    let before = commits();
    redis.say(&["CONFIG", "RESETSTAT"]);
    for at in 0..i64::try_from(REQUESTS).unwrap() {
        // Every seventh customer: they pay at terminal 0, of which something is known.
        let (status, answer) = caller.post("/v1/decisions", &event(first + at, at, (1 + at) * 7, "5.00"));
        assert_eq!((status, &answer["unlogged"]), (200, &false.into()), "{answer}");
    }
    let [reads, snapshots, entries] = ["mget", "exec", "xadd"].map(|command| calls(redis, command));
    Cost { reads, snapshots, commits: commits() - before, entries }
}

fn is_about(found: u64, expected: u64) -> bool {
    (expected..=expected + BESIDE).contains(&found)
}

#[test]
fn one_process_asks_once_for_a_decision_and_once_more_where_nothing_is_stored_of_a_key() {
    let redis = RedisServer::start();
    let place = place(&redis);
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    caller.post("/v1/decisions", &event(1, 0, 0, "5.00"));
    let new = asked(&redis, &caller, 1_000);
    assert!(is_about(new.reads, 2 * REQUESTS) && is_about(new.commits, REQUESTS), "{new:?}");
    process.stop();

    // It begins with nothing in memory: every customer is brought from the store.
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    caller.post("/v1/decisions", &event(2, 0, 0, "5.00"));
    let known = asked(&redis, &caller, 2_000);
    assert!(is_about(known.reads, REQUESTS) && is_about(known.commits, REQUESTS), "{known:?}");
    // What is in memory is not asked for; what is stored of the event is.
    let held = asked(&redis, &caller, 3_000);
    assert!(is_about(held.reads, REQUESTS) && is_about(held.commits, REQUESTS), "{held:?}");
}

#[test]
fn a_scorer_asks_once_for_a_decision_whatever_is_stored() {
    let redis = RedisServer::start();
    let place = place(&redis);
    let mut process = place.start("run --role scorer");
    let caller = Caller::new(&process.address());
    caller.post("/v1/decisions", &event(1, 0, 0, "5.00"));
    for first in [1_000, 2_000, 3_000] {
        let cost = asked(&redis, &caller, first);
        assert!(is_about(cost.reads, REQUESTS) && is_about(cost.commits, REQUESTS), "{cost:?}");
        assert_eq!((cost.snapshots, cost.entries), (REQUESTS, 2 * REQUESTS), "{cost:?}");
    }
}
