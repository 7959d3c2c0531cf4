//! One process over a Redis that is away for longer than a call waits: everything waits, and goes on by itself.

use serde_json::json;

use crate::place::debezium;
use crate::redis_server::RedisServer;
use crate::requests::{config, counted, event, serving};
use crate::topics::over_redis;

#[test]
fn a_store_that_is_away_is_waited_for() {
    let mut redis = RedisServer::start();
    let config = over_redis(&redis, &config("")).replace("wait = \"2s\"", "wait = \"100ms\"");
    let (place, mut process, caller) = serving(&config);

    redis.kill();
    place.append("live.jsonl", debezium("c", 2, &crate::place::row(2, 10, 1, "11.00")));
    process.wait_for("intake waits");
    assert_eq!(caller.post("/v1/entities/customer", &json!({ "key": 77 })).0, 503);
    redis.begin();
    // A read that meets the server on its way up is turned away.
    caller.until(|caller| (caller.post("/v1/entities/customer", &json!({ "key": 1 })).0 == 200).then_some(()));
    caller.until(|caller| (counted(caller, 1, "1d") == json!(2)).then_some(()));

    redis.kill();
    let other = caller.apart();
    let asking = std::thread::spawn(move || other.post("/v1/decisions", &event(3, 20, 1, "12.00")));
    process.wait_for("requests wait");
    redis.begin();
    let (status, answer) = asking.join().unwrap();
    assert_eq!((status, &answer["decision"]["outcome"]), (200, &json!("approve")), "{answer}");
    assert_eq!(counted(&caller, 1, "1d"), json!(3));
    process.terminate();
    let (status, log) = process.end();
    assert!(status.success(), "{log}");
}
