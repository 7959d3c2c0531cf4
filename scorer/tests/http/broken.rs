//! Requests that are malformed, wrong, huge or hostile, and a backend that fails.

use std::time::Duration;

use interdict_scorer::http::backend::{BackendError, FieldProblem};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::memory::Behaviour;
use crate::rig::{Rig, event, loopback, send};
use interdict_scorer::http::config::HttpSettings;
use interdict_scorer::http::keys::Keyring;

#[tokio::test]
async fn every_wrong_column_is_told_at_once_and_no_value_is_shown() {
    let rig = Rig::start().await;
    let body = r#"{"strem": 1, "event": {"transaction_id": 1, "tx_datetime": "soon-secret", "customer_id": "secret",
        "amount": 1.234, "amoun": "secret", "terminal_id": {"secret": 1}, "card": 17, "is_fraud": true,
        "terminal_id": "t"}}"#;
    let reply = rig.post_raw("/v1/decisions", body).await;
    let expected = [
        "event.amoun: unknown; did you mean 'amount'?",
        "event.amount: more decimal places than the column declares; expected a number or a string with at most 2 decimal places",
        "event.card: wrong type; expected a string of 1024 bytes at most",
        "event.customer_id: wrong type; expected an integer",
        "event.is_fraud: must be null: labels are reported to /v1/labels",
        "event.terminal_id: given twice",
        "event.terminal_id: wrong type; expected a string of 1024 bytes at most",
        "event.tx_datetime: wrong type; expected an RFC 3339 time as a string",
        "strem: unknown; did you mean 'stream'?",
    ];
    assert_eq!(reply.error(422, "invalid_request"), expected);
    assert!(!reply.text.contains("secret"), "{}", reply.text);
    assert!(rig.memory.state().requests.is_empty());
}

#[tokio::test]
async fn an_event_without_a_stable_id_is_refused() {
    let rig = Rig::start().await;
    let time = "2026-11-20T10:00:00Z";
    for event in [json!({"tx_datetime": time}), json!({"transaction_id": null, "tx_datetime": time})] {
        let details = rig.post("/v1/decisions", &json!({"event": event})).await.error(422, "unstable_event_id");
        assert_eq!(details, ["event.transaction_id: required: the event's id"]);
    }
    let details = rig.post("/v1/decisions", &json!({"event": {"amount": 1}})).await.error(422, "unstable_event_id");
    assert_eq!(
        details,
        ["event.transaction_id: required: the event's id", "event.tx_datetime: required: the event's time"]
    );
    let details =
        rig.post("/v1/decisions", &json!({"event": {"transaction_id": 1}})).await.error(422, "invalid_request");
    assert_eq!(details, ["event.tx_datetime: required: the event's time"]);
}

#[tokio::test]
async fn wrong_fields_of_every_route_are_told() {
    let rig = Rig::start().await;
    let cases: [(Method, &str, Value, &[&str]); 9] = [
        (Method::POST, "/v1/decisions", json!({}), &["event: required"]),
        (Method::POST, "/v1/decisions", json!({"stream": "logins", "event": []}), &["event", "stream"]),
        (
            Method::POST,
            "/v1/entities/customer",
            json!({"as_of": "soon", "decisions": 101}),
            &["as_of", "decisions", "key"],
        ),
        (Method::POST, "/v1/entities/pair", json!({"key": 7}), &["key: the key is made of: customer_id, terminal_id"]),
        (Method::POST, "/v1/entities/customer", json!({"key": null}), &["key: customer_id: must not be null"]),
        (Method::POST, "/v1/entities/card", json!({"shown_key": "4111"}), &["shown_key: card: must be the 32 hex"]),
        (
            Method::POST,
            "/v1/labels",
            json!({"stream": "logins", "value": "maybe", "reported_at": "2999-01-01T00:00:00Z"}),
            &["id: required", "reported_at: lies in the future", "stream", "value"],
        ),
        (
            Method::POST,
            "/v1/blocks",
            json!({"list": "automatic_block", "entity": "customer", "key": 1, "reason": "r".repeat(513),
                "expires": "2000-01-01T00:00:00Z"}),
            &["expires: lies in the past", "reason"],
        ),
        (Method::DELETE, "/v1/blocks", json!({"list": "x", "entity": "y", "key": 1}), &["entity", "list", "reason"]),
    ];
    for (method, path, body, expected) in cases {
        let details = send(rig.request(method, path).json(&body)).await.error(422, "invalid_request");
        assert_eq!(details.len(), expected.len(), "{body}: {details:?}");
        for (detail, start) in details.iter().zip(expected) {
            assert!(detail.starts_with(start), "{body}: {detail} for {start}");
        }
    }
    let details = rig.get("/v1/blocks?list=x&entity=y&after=z&limit=0&foo").await.error(400, "invalid_query");
    assert_eq!(details.len(), 5, "{details:?}");
    let automatic = json!({"list": "automatic_block", "entity": "customer", "key": 1, "reason": "r"});
    let details = rig.post("/v1/blocks", &automatic).await.error(422, "invalid_request");
    assert_eq!(details, ["list: automatic blocks come from decisions; set manual_block"]);
}

#[tokio::test]
async fn bodies_that_are_no_json_object_are_refused() {
    let rig = Rig::start().await;
    let cases: [(&[u8], &str); 8] = [
        (b"", "invalid_json"),
        (b"{", "invalid_json"),
        (b"[]", "invalid_json"),
        (b"\"text\"", "invalid_json"),
        (b"{\"event\": {\"amount\": NaN}}", "invalid_json"),
        (b"{\"event\": {}} {}", "invalid_json"),
        (b"{\"event\": \"\xff\"}", "not_utf8"),
        (b"\xfe\xff{}", "not_utf8"),
    ];
    for (body, code) in cases {
        rig.post_raw("/v1/decisions", body).await.error(400, code);
    }
    let reply = send(rig.request(Method::POST, "/v1/decisions").body("{}")).await;
    reply.error(415, "unsupported_media_type");
    let reply = send(rig.request(Method::POST, "/v1/decisions").header("content-type", "text/plain").body("{}")).await;
    reply.error(415, "unsupported_media_type");
}

#[tokio::test]
async fn nesting_and_numbers_beyond_reason_are_wrong_fields() {
    let rig = Rig::start().await;
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    let huge = "9".repeat(400);
    for value in [deep.as_str(), huge.as_str(), "1e999", "\"\\ud800\""] {
        let body = format!(
            "{{\"event\": {{\"transaction_id\": 1, \"tx_datetime\": \"2026-11-20T10:00:00Z\", \"terminal_id\": {value}}}}}"
        );
        let reply = rig.post_raw("/v1/decisions", body).await;
        assert!(reply.status.is_client_error(), "{reply:?}");
        reply.json();
    }
    let body = format!("{{\"event\": {deep}}}");
    assert_eq!(rig.post_raw("/v1/decisions", body).await.error(422, "invalid_request"), ["event: must be an object"]);
    let key = format!("{{\"key\": {deep}}}");
    rig.post_raw("/v1/entities/customer", key).await.error(422, "invalid_request");
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused_announced_or_not() {
    let rig = Rig::start().await;
    let large = format!("{{\"key\": \"{}\"}}", "k".repeat(1 << 20));
    rig.post_raw("/v1/entities/card", large.clone()).await.error(413, "body_too_large");
    let within = format!("{{\"key\": \"{}\"}}", "k".repeat(60_000));
    let details = rig.post_raw("/v1/entities/card", within).await.error(422, "invalid_request");
    assert_eq!(details, ["key: card: text longer than 1024 bytes; expected a string of 1024 bytes at most"]);

    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = "POST /v1/labels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    stream.write_all(chunk.as_bytes()).await.unwrap();
    stream.write_all(b"1\r\nx\r\n").await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
}

#[tokio::test]
async fn a_client_that_sends_all_before_he_reads_gets_his_answer() {
    let rig = Rig::with(loopback(), Keyring::default()).await;
    let chunk = vec![b'x'; 64 << 10];
    let length = 64 * chunk.len();
    for (headers, status) in [
        ("Content-Type: application/json\r\n", "413"),
        ("Content-Type: text/plain\r\n", "415"),
        ("Content-Type: application/json\r\nHost: elsewhere\r\n", "403"),
    ] {
        let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
        let host = if headers.contains("Host") { "" } else { "Host: localhost\r\n" };
        let head = format!("POST /v1/labels HTTP/1.1\r\n{host}{headers}Content-Length: {length}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        for _ in 0..64 {
            // The answer is there long before the end; each piece goes out by itself, as from a slow client.
            stream.write_all(&chunk).await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let answer = String::from_utf8(answer).unwrap();
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{answer}");
    }
}

#[tokio::test]
async fn a_client_that_never_ends_is_cut_off() {
    let rig = Rig::start().await;
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = "POST /v1/labels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 1000000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = vec![b'x'; 1 << 20];
    let mut sent = 0;
    while stream.write_all(&chunk).await.is_ok() {
        sent += 1;
        assert!(sent < 1_000, "more is taken than the bound and what the kernel holds");
    }
}

#[tokio::test]
async fn an_event_that_is_not_judged_is_no_error() {
    let rig = Rig::start().await;
    rig.memory.behave(Behaviour::JudgeNothing);
    let answer = rig.post("/v1/decisions", &event(1)).await.ok();
    assert_eq!(answer, json!({"judged": false, "decision": null, "unlogged": false, "replayed": false}));
    rig.memory.behave(Behaviour::Answer);
    assert_eq!(rig.post("/v1/decisions", &event(1)).await.ok()["judged"], true);
}

#[tokio::test]
async fn a_body_that_stalls_is_given_up_by_the_deadline() {
    let settings = HttpSettings { request_time: Duration::from_millis(50), ..loopback() };
    let rig = Rig::with(settings, Keyring::default()).await;
    let mut stream = tokio::net::TcpStream::connect(rig.address).await.unwrap();
    let head = "POST /v1/labels HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
        Content-Length: 10\r\n\r\n{";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 408");
}

#[tokio::test]
async fn wrong_headers_are_told() {
    let rig = Rig::start().await;
    for deadline in ["0", "60001", "-1", "+5", "1.5", "", "soon", "99999999999999999999"] {
        let request = rig.request(Method::POST, "/v1/decisions").header("x-deadline-ms", deadline).json(&event(1));
        send(request).await.error(400, "invalid_header");
    }
    let twice = rig.request(Method::POST, "/v1/decisions").header("x-deadline-ms", "5").header("x-deadline-ms", "6");
    send(twice.json(&event(1))).await.error(400, "invalid_header");
    let long = "k".repeat(256);
    for key in ["", "a b", long.as_str()] {
        let request = rig.request(Method::POST, "/v1/decisions").header("idempotency-key", key).json(&event(1));
        send(request).await.error(400, "invalid_header");
    }
    for (sent, is_kept) in [("abc-1", true), ("a b", false), (long.as_str(), false)] {
        let reply = send(rig.request(Method::GET, "/health/live").header("x-request-id", sent)).await;
        assert_eq!(reply.headers["x-request-id"] == sent, is_kept, "{sent}");
    }
}

#[tokio::test]
async fn unknown_routes_and_methods_have_our_shape() {
    let rig = Rig::start().await;
    rig.get("/").await.error(404, "no_such_route");
    rig.get("/v1/decisions/1/2").await.error(404, "no_such_route");
    let reply = rig.get("/v1/decisions").await;
    reply.error(405, "method_not_allowed");
    assert_eq!(reply.headers["allow"], "POST");
    let reply = send(rig.request(Method::PATCH, "/v1/blocks")).await;
    reply.error(405, "method_not_allowed");
    assert_eq!(reply.headers["allow"], "GET,HEAD,POST,DELETE");
}

/// What fails, then status, code and header `Retry-After` of the answer.
type Failure = (fn() -> BackendError, u16, &'static str, Option<&'static str>);

#[tokio::test]
async fn every_failure_of_the_backend_has_its_status_and_no_inside() {
    fn secret() -> Box<dyn std::error::Error + Send + Sync> {
        "secret host db-17".into()
    }
    let cases: [Failure; 9] = [
        (
            || BackendError::Overloaded { what: "the queue", retry_after: Duration::from_millis(2500) },
            503,
            "overloaded",
            Some("3"),
        ),
        (|| BackendError::NotFound { what: "thing" }, 404, "not_found", None),
        (
            || BackendError::Invalid(vec![FieldProblem { field: "f".to_owned(), problem: "p".to_owned() }]),
            422,
            "invalid_request",
            None,
        ),
        (|| BackendError::Unavailable { what: "the store", source: Some(secret()) }, 503, "unavailable", Some("1")),
        (|| BackendError::Unavailable { what: "the store", source: None }, 503, "unavailable", Some("1")),
        (|| BackendError::DeadlineBeforeDeciding, 503, "deadline", None),
        (|| BackendError::UnstableId, 422, "unstable_event_id", None),
        (|| BackendError::IdempotencyKeyReused, 422, "idempotency_key_reused", None),
        (|| BackendError::Internal(secret()), 500, "internal", None),
    ];
    let rig = Rig::start().await;
    for (failure, status, code, retry_after) in cases {
        rig.memory.behave(Behaviour::Fail(failure));
        let reply = rig.post("/v1/decisions", &event(1)).await;
        let details = reply.error(status, code);
        assert_eq!(details.len(), usize::from(code == "invalid_request"));
        assert_eq!(reply.headers.get("retry-after").map(|value| value.to_str().unwrap()), retry_after, "{code}");
        assert!(!reply.text.contains("secret"), "{}", reply.text);
    }
}

#[tokio::test]
async fn a_panic_is_one_answer_and_the_edge_goes_on() {
    let rig = Rig::start().await;
    rig.memory.behave(Behaviour::Panic);
    let reply = rig.post("/v1/decisions", &event(1)).await;
    reply.error(500, "internal");
    assert!(!reply.text.contains("as the test asked"));
    rig.memory.behave(Behaviour::Answer);
    rig.post("/v1/decisions", &event(1)).await.ok();
    assert!(rig.get("/metrics").await.text.contains("interdict_scorer_http_panics_total 1"));
}
