//! What each route hands to the backend and makes of its answer.

use interdict_features::change::{Op, Version};
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::Timestamp;
use interdict_features::value::Value as Cell;
use interdict_scorer::http::backend::{AsOf, Label, NotReady};
use reqwest::Method;
use serde_json::{Value, json};

use crate::rig::{Rig, definitions, event, send};

#[tokio::test]
async fn an_event_is_decided_once_however_often_it_is_sent() {
    let rig = Rig::start().await;
    let first = rig.post("/v1/decisions", &event(1)).await.ok();
    assert_eq!(first["replayed"], false);
    assert_eq!(first["unlogged"], false);
    assert_eq!(first["decision"]["event_id"], "1");
    assert_eq!(first["decision"]["event"]["amount"], 12.5);
    assert!(!first.to_string().contains("4111111111111111"), "sensitive columns are masked at the edge");
    let second = rig.post("/v1/decisions", &event(1)).await.ok();
    assert_eq!(second["replayed"], true);
    assert_eq!(second["decision"], first["decision"]);

    let state = rig.memory.state();
    let (change, row) = state.requests[0].batch.get(0);
    assert_eq!((change.op, change.version), (Op::Request, Version::REQUEST));
    assert_eq!(change.arrival, Some(state.requests[0].budget.received));
    assert_eq!(row.cells[4], 1250, "money is exact");
    assert_eq!(&*state.requests[0].caller.name, "local");
}

#[tokio::test]
async fn a_decision_is_read_with_what_was_appended() {
    let rig = Rig::start().await;
    let made = rig.post("/v1/decisions", &event(1)).await.ok();
    let id: uuid::Uuid = made["decision"]["decision_id"].as_str().unwrap().parse().unwrap();
    rig.memory.state().appended.insert(id, vec![r#"{"action":"block_account","result":"done"}"#.to_owned()]);
    let read = rig.get(&format!("/v1/decisions/{id}")).await.ok();
    assert_eq!(read["decision"], made["decision"]);
    assert_eq!(read["appended"], json!([{"action": "block_account", "result": "done"}]));
    rig.get(&format!("/v1/decisions/{}", uuid::Uuid::nil())).await.error(404, "not_found");
    rig.get("/v1/decisions/12").await.error(400, "invalid_id");
}

#[tokio::test]
async fn an_idempotency_key_belongs_to_one_event_however_it_is_written() {
    let rig = Rig::start().await;
    let with_key = |body: &'static str| {
        rig.request(Method::POST, "/v1/decisions")
            .header("idempotency-key", "k-1")
            .header("content-type", "application/json")
            .body(body)
    };
    let body = r#"{"event": {"transaction_id": 5, "tx_datetime": "2026-11-20T10:00:00Z", "amount": 12.5}}"#;
    let same = r#"{"event":{"amount":"12.50","tx_datetime":"2026-11-20 11:00:00+01","transaction_id":5,"card":null}}"#;
    let other = r#"{"event": {"transaction_id": 5, "tx_datetime": "2026-11-20T10:00:00Z", "amount": 12.51}}"#;
    let first = send(with_key(body)).await.ok();
    assert_eq!(first["decision"]["idempotency_key"], "k-1");
    assert_eq!(send(with_key(same)).await.ok()["replayed"], true);
    send(with_key(other)).await.error(422, "idempotency_key_reused");
}

#[tokio::test]
async fn every_form_of_a_key_reads_the_same_entity() {
    let rig = Rig::start().await;
    let stream = definitions().streams[0].clone();
    let mask = stream.mask("4111");
    let cases = [
        ("customer", json!({"key": 7}), vec![Cell::Int(7)], "7".to_owned()),
        ("customer", json!({"key": [7]}), vec![Cell::Int(7)], "7".to_owned()),
        ("customer", json!({"key": "7"}), vec![Cell::Int(7)], "7".to_owned()),
        ("customer", json!({"shown_key": "7"}), vec![Cell::Int(7)], "7".to_owned()),
        ("pair", json!({"key": [7, "a"]}), vec![Cell::Int(7), Cell::Text("a".into())], "7|a".to_owned()),
        (
            "pair",
            json!({"key": {"terminal_id": "a", "customer_id": 7}}),
            vec![Cell::Int(7), Cell::Text("a".into())],
            "7|a".to_owned(),
        ),
        ("pair", json!({"shown_key": "7|a"}), vec![Cell::Int(7), Cell::Text("a".into())], "7|a".to_owned()),
        ("card", json!({"key": "4111"}), vec![Cell::Text(mask.as_str().into())], mask.clone()),
        ("card", json!({"shown_key": mask}), vec![Cell::Text(mask.as_str().into())], mask.clone()),
    ];
    for (entity, body, values, shown) in cases {
        let answer = rig.post(&format!("/v1/entities/{entity}"), &body).await.ok();
        assert_eq!(answer["entity"], entity, "{body}");
        assert_eq!(answer["key"], shown, "{body}");
        assert_eq!(answer["known"], entity != "card", "{body}");
        assert_eq!(rig.memory.state().reads.last().unwrap().key, values, "{body}");
    }
}

#[tokio::test]
async fn a_read_says_what_it_knows_and_as_of_when() {
    let rig = Rig::start().await;
    rig.post("/v1/decisions", &event(1)).await.ok();
    rig.post("/v1/decisions", &event(2)).await.ok();
    let body = json!({"key": 7, "as_of": "2026-01-02T03:04:05Z", "decisions": 1});
    let answer = rig.post("/v1/entities/customer", &body).await.ok();
    assert_eq!(answer["as_of"], "2026-01-02T03:04:05Z");
    assert_eq!(answer["decisions"].as_array().unwrap().len(), 1);
    assert_eq!(answer["features"], json!([{"name": "customer_spend.tx_count_1d", "value": 1}]));
    assert_eq!(answer["state"], "none");
    let unknown = rig.post("/v1/entities/customer", &json!({"key": 8, "as_of": "now"})).await.ok();
    assert_eq!(unknown["known"], false);
    assert_eq!(unknown["features"], json!([{"name": "customer_spend.tx_count_1d", "value": 0, "flags": 2}]));
    assert_eq!(rig.memory.state().reads.last().unwrap().as_of, AsOf::Now);
    rig.post("/v1/entities/planet", &json!({"key": 8})).await.error(404, "not_found");
}

#[tokio::test]
async fn labels_are_typed_and_accepted() {
    let rig = Rig::start().await;
    let cases = [
        (json!({"id": 5, "value": "fraud", "reported_at": "2026-01-01T00:00:00Z"}), Label::Fraud),
        (json!({"stream": "transactions", "id": "5", "value": "genuine"}), Label::Genuine),
        (json!({"id": 5, "value": null}), Label::Unknown),
    ];
    for (position, (body, label)) in cases.iter().enumerate() {
        let reply = rig.post("/v1/labels", body).await;
        assert_eq!(reply.status, 202);
        assert_eq!(reply.json(), json!({"position": position}));
        let state = rig.memory.state();
        let sent = state.labels.last().unwrap();
        assert_eq!((sent.label, &sent.id, sent.event_id.as_str(), sent.stream), (*label, &Cell::Int(5), "5", 0));
    }
    let state = rig.memory.state();
    assert_eq!(state.labels[0].reported_at, "2026-01-01T00:00:00Z".parse_utc());
    assert_eq!(state.labels[1].reported_at, state.labels[1].budget.received);
}

trait ParseUtc {
    fn parse_utc(&self) -> Timestamp;
}

impl ParseUtc for str {
    fn parse_utc(&self) -> Timestamp {
        serde_json::from_value(Value::from(self)).unwrap()
    }
}

#[tokio::test]
async fn an_entity_that_no_judged_event_names_is_put_on_no_list() {
    let rig = Rig::start().await;
    let entry = |list: &str| json!({"list": list, "entity": "login", "key": uuid::Uuid::nil(), "reason": "mule"});
    for list in ["manual_block", "allow"] {
        let details = rig.post("/v1/blocks", &entry(list)).await.error(422, "invalid_request");
        assert_eq!(details.len(), 1);
        assert!(details[0].starts_with("entity: no judged event has its key (login_id)"), "{details:?}");
    }
    assert_eq!(rig.get("/v1/blocks").await.ok()["entries"], json!([]));
    // What came there before can be taken off.
    assert_eq!(rig.delete("/v1/blocks", &entry("allow")).await.ok(), json!({"removed": false}));
}

#[tokio::test]
async fn lists_are_kept_by_hand_with_author_reason_and_expiry() {
    let rig = Rig::start().await;
    let block = json!({"list": "manual_block", "entity": "customer", "key": 7, "reason": "mule"});
    let entry = rig.post("/v1/blocks", &block).await.ok()["entry"].clone();
    assert_eq!(entry["entity"], json!({"entity": "customer", "key": "7"}));
    assert_eq!((&entry["author"], &entry["reason"]), (&json!("local"), &json!("mule")));
    assert!(entry.get("expires").is_none());
    let allow = json!({
        "list": "allow", "entity": "card", "key": "4111", "reason": "vip", "expires": "2999-01-01T00:00:00Z",
    });
    let allowed = rig.post("/v1/blocks", &allow).await.ok()["entry"].clone();
    assert_eq!(allowed["expires"], "2999-01-01T00:00:00Z");
    assert_ne!(allowed["entity"]["key"], "4111", "a sensitive key is masked");
    assert_eq!(rig.post("/v1/entities/customer", &json!({"key": 7})).await.ok()["state"], "blocked");
    assert_eq!(rig.post("/v1/entities/card", &json!({"key": "4111"})).await.ok()["state"], "allowed");

    assert_eq!(rig.get("/v1/blocks").await.ok(), json!({"entries": [entry, allowed]}));
    assert_eq!(rig.get("/v1/blocks?list=allow").await.ok()["entries"], json!([allowed]));
    assert_eq!(rig.get("/v1/blocks?entity=customer").await.ok()["entries"], json!([entry]));
    let page = rig.get("/v1/blocks?limit=1").await.ok();
    assert_eq!(page["entries"], json!([entry]));
    let next = page["next"].as_str().unwrap();
    assert_eq!(rig.get(&format!("/v1/blocks?limit=1&after={next}")).await.ok(), json!({"entries": [allowed]}));

    let shown = allowed["entity"]["key"].as_str().unwrap();
    let unblock = json!({"list": "allow", "entity": "card", "shown_key": shown, "reason": "left"});
    assert_eq!(rig.delete("/v1/blocks", &unblock).await.ok(), json!({"removed": true}));
    assert_eq!(rig.delete("/v1/blocks", &unblock).await.ok(), json!({"removed": false}));
    let state = rig.memory.state();
    let removal = &state.removals[0];
    assert_eq!((removal.list, removal.reason.as_str(), &*removal.caller.name), (ListKind::Allow, "left", "local"));
    assert_eq!(removal.entity, EntityRef { entity: "card".to_owned(), key: shown.to_owned() });
}

#[tokio::test]
async fn operations_answer() {
    let rig = Rig::start().await;
    assert_eq!(rig.get("/health/live").await.ok(), json!({"live": true}));
    assert_eq!(rig.get("/health/ready").await.ok(), json!({"ready": true, "reasons": []}));
    let reason = NotReady { code: "model_missing", message: "no model is active".to_owned() };
    rig.memory.state().not_ready.push(reason);
    let not_ready = rig.get("/health/ready").await;
    assert_eq!(not_ready.status, 503);
    let expected = json!({"ready": false, "reasons": [{"code": "model_missing", "message": "no model is active"}]});
    assert_eq!(not_ready.json(), expected);
    let models = rig.get("/v1/models").await.ok();
    assert_eq!(models["models"][0]["name"], "handbook");
    assert_eq!(models["models"][0]["aliases"], json!(["champion"]));

    rig.get(&format!("/v1/decisions/{}", uuid::Uuid::nil())).await.error(404, "not_found");
    rig.get("/nowhere/secret-4711").await.error(404, "no_such_route");
    let metrics = rig.get("/metrics").await;
    assert!(metrics.headers["content-type"].to_str().unwrap().starts_with("application/openmetrics-text"));
    for line in [
        "interdict_scorer_http_requests_total{route=\"/v1/decisions/{id}\",method=\"GET\",status=\"4xx\"} 1",
        "interdict_scorer_http_requests_total{route=\"unmatched\",method=\"GET\",status=\"4xx\"} 1",
        "interdict_scorer_http_requests_total{route=\"/health/ready\",method=\"GET\",status=\"5xx\"} 1",
        "interdict_scorer_http_request_duration_seconds_count{route=\"/v1/models\"} 1",
        "interdict_scorer_http_in_flight_requests 1",
        "interdict_scorer_http_shed_total 0",
        "interdict_scorer_http_connections 1",
    ] {
        assert!(metrics.text.contains(line), "{line} in {}", metrics.text);
    }
    assert!(!metrics.text.contains("4711"));
}
