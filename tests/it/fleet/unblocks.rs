//! What an analyst let go stays so, whatever dies, comes back without its last moments and is read again.

use serde_json::{Value, json};

use super::Fleet;
use super::lost_tail::pay;

const CUSTOMER: i64 = 5;
const ACCOUNT: &str = "SELECT status, blocks FROM accounts WHERE id = 5";
const LEDGER: &str =
    "SELECT decision_id, action, entity_key, kind, decided_at, outcome FROM interdict_ledger ORDER BY 1";

impl Fleet {
    /// kill -9 of every process and of the Redis.
    fn kill_all(&mut self) {
        (0..self.processes.len()).for_each(|place| self.kill(place));
        self.redis.kill();
    }

    /// The automatic blocks, about which both scorers agree.
    fn blocked(&self) -> Vec<Value> {
        let lists = [0, 1].map(|scorer| {
            let (status, answer) = self.ready(scorer).get("/v1/blocks?list=automatic_block");
            assert_eq!(status, 200, "{answer}");
            answer["entries"].as_array().unwrap().clone()
        });
        assert_eq!(lists[0], lists[1]);
        lists[0].iter().map(|entry| entry["entity"]["key"].clone()).collect()
    }

    fn let_go(&self) {
        let body =
            json!({ "list": "automatic_block", "entity": "customer", "key": CUSTOMER, "reason": "talked to them" });
        let (status, answer) = self.ready(0).send("DELETE", "/v1/blocks", &[], &body);
        assert_eq!((status, &answer["removed"]), (200, &json!(true)), "{answer}");
    }
}

#[test]
fn an_analysts_unblock_stays_whatever_dies_and_is_read_again() {
    let mut fleet = Fleet::open("freed");
    // However long this takes, the database keeps what the copy lacks.
    let config = std::fs::read_to_string(fleet.place.path("interdict.toml")).unwrap();
    let window = "wait = \"2s\"\n";
    fleet.place.write("interdict.toml", config.replacen(window, &format!("{window}replay_window = \"30m\"\n"), 1));
    fleet.begin(0);
    fleet.stored_snapshot("freed");
    fleet.begin_all();
    pay(&fleet, 2_000..=2_010);
    fleet.decided("freed", 2_010);
    fleet.settle("freed");
    let before = fleet.redis.copy();

    fleet.condemn(CUSTOMER);
    fleet.await_block(CUSTOMER);
    fleet.settle("freed");
    assert_eq!(fleet.blocked(), [json!("5")]);
    fleet.let_go();
    fleet.wait_until("the unblock", |fleet| fleet.bank.ask(ACCOUNT) == "active|1");
    fleet.settle("freed");
    let ledger = fleet.bank.ask(LEDGER);
    assert_eq!(
        fleet.bank.ask("SELECT string_agg(kind, ' ' ORDER BY decided_at) FROM interdict_ledger"),
        "block unblock"
    );

    // With its append-only file.
    fleet.kill_all();
    fleet.redis.begin();
    fleet.begin_all();
    pay(&fleet, 3_000..=3_010);
    fleet.decided("freed", 3_010);
    fleet.settle("freed");
    assert_eq!((fleet.bank.ask(ACCOUNT).as_str(), fleet.bank.ask(LEDGER)), ("active|1", ledger.clone()));
    assert_eq!(fleet.blocked(), [] as [Value; 0]);

    // As it was before anybody was blocked: the payments are read and judged again, and condemn again.
    fleet.kill_all();
    fleet.redis.restore(&before);
    fleet.redis.begin();
    // It answers nothing else while it loads.
    while fleet.redis.say(&["PING"]) != "PONG" {
        fleet.wait(std::time::Duration::from_millis(20));
    }
    assert_eq!(fleet.decisions("freed"), 11);
    fleet.begin_all();
    fleet.decided("freed", 3_010);
    fleet.settle("freed");
    assert_eq!(fleet.decisions("freed"), 30);
    assert_eq!((fleet.bank.ask(ACCOUNT).as_str(), fleet.bank.ask(LEDGER)), ("active|1", ledger));
    // That server had nothing else than its memory of what the analyst did: the list blocks again, until somebody takes it back again.
    assert_eq!(fleet.blocked(), [json!("5")]);
    fleet.let_go();
    fleet.settle("freed");
    assert_eq!((fleet.bank.ask(ACCOUNT).as_str(), fleet.blocked()), ("active|1", Vec::new()));
}
