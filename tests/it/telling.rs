//! The topic action on the mock cluster of Kafka's client: whoever reads the topic is told of every block, in order, whatever the broker does.

use std::collections::BTreeSet;

use interdict_features::decision::decision_id;

use crate::captured::metric;
use crate::kafka::Kafka;
use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::program::interdict;

#[test]
fn a_topic_is_told_of_blocks_once_it_is_there() {
    let kafka = Kafka::start();
    let brokers = kafka.brokers();
    // Whoever is on a list is not told of again.
    let (definitions, rest) = DEFINITIONS.split_once("[[action]]").unwrap();
    let (_, store) = rest.split_once("[store]").unwrap();
    let place = Place::new(&format!(
        "{definitions}[store]{store}\n[[rule]]\nid = \"huge\"\nwhen = \"amount > 1000.0\"\noutcome = \"block\"\nreason = \"huge\"\ncondemns = \"customer\"\n\
         [[action]]\nname = \"tell\"\non = \"block\"\nentity = \"customer\"\ntype = \"topic\"\nsink = \"cases\"\ncolumns = [\"amount\"]\nretry_first = \"100ms\"\nretry_max = \"200ms\"\n\
         [[sink]]\nname = \"cases\"\nwhat = \"actions\"\ntype = \"kafka\"\nbrokers = \"{brokers}\"\ntopic = \"cases\"\n\
         [source]\nname = \"payments\"\ntype = \"file\"\npath = \"live.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\nfollow = true\n\
         [http]\nbind = \"127.0.0.1:0\"\n"
    ));
    let huge =
        |n: i64| debezium("c", n.cast_unsigned(), &row(n, n, n % 3, if n % 4 == 0 { "1.00" } else { "2000.00" }));
    place.write("live.jsonl", (1..=8).map(huge).collect::<String>());
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    // Nobody made the topic yet: what is to be told waits, also for the next process.
    caller.until(|caller| (metric(caller, "interdict_scorer_action_retries_total", "") >= 1.0).then_some(()));
    process.kill();
    kafka.create("cases", 1);
    place.append("live.jsonl", (9..=12).map(huge).collect::<String>());
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    let last = decision_id("default", "transactions", "12", 0);
    caller.until(|caller| (caller.get(&format!("/v1/decisions/{last}")).0 == 200).then_some(()));
    caller.until(|caller| (metric(caller, "interdict_scorer_outbox_intents", "") < 0.5).then_some(()));
    process.stop();

    let blocked: Vec<i64> = (1..=12).filter(|n| n % 4 != 0).collect();
    let told = kafka.read("cases");
    let effects: BTreeSet<&str> = told.iter().map(|(_, headers, _)| headers["effect_id"].as_str()).collect();
    assert_eq!(effects.len(), blocked.len(), "{effects:?}");
    for n in &blocked {
        let id = decision_id("default", "transactions", &n.to_string(), 0);
        assert!(effects.contains(format!("{id}:tell").as_str()), "payment {n}");
    }
    for (key, headers, body) in &told {
        let data = &body["data"];
        assert_eq!((data["target"]["key"].as_str(), data["action"].as_str()), (Some(key.as_str()), Some("tell")));
        assert_eq!(headers["effect_id"], format!("{}:tell", data["decision_id"].as_str().unwrap()));
        assert_eq!(
            (body["type"].as_str(), data["columns"]["amount"].as_f64()),
            (Some("interdict.decision.block"), Some(2000.0))
        );
    }
    // Of one account in the order of its decisions.
    for customer in ["0", "1", "2"] {
        let events: Vec<i64> = told
            .iter()
            .filter(|(key, ..)| key == customer)
            .map(|(_, _, body)| body["data"]["event_id"].as_str().unwrap().parse().unwrap())
            .collect();
        assert!(events.is_sorted(), "{events:?}");
    }
}

#[test]
fn an_action_on_a_sink_that_is_none_of_actions_is_refused() {
    let place = Place::new(&format!(
        "{DEFINITIONS}\n[[action]]\nname = \"tell\"\non = \"block\"\nentity = \"customer\"\ntype = \"topic\"\nsink = \"casse\"\n\
         [[sink]]\nname = \"cases\"\nwhat = \"actions\"\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"cases\"\n\
         [[sink]]\nname = \"casse\"\nwhat = \"decisions\"\ntype = \"kafka\"\nbrokers = \"localhost:9092\"\ntopic = \"log\"\n"
    ));
    let ran = interdict(&place.path("."), &["check", "--config", "interdict.toml"]);
    let said = ran.stdout + &ran.stderr;
    assert_eq!(ran.code, 1, "{said}");
    assert!(said.contains("no sink of actions is called 'casse'") && said.contains("'cases'"), "{said}");
}
