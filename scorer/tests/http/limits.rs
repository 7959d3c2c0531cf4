//! Requests at once, deadlines, connections that dawdle, and shutdown.

use std::time::Duration;

use interdict_scorer::http::config::HttpSettings;
use interdict_scorer::http::keys::Keyring;
use interdict_scorer::http::server::Drained;
use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::memory::Behaviour;
use crate::rig::{Reply, Rig, event, loopback, send};

fn decide(rig: &Rig, id: i64) -> tokio::task::JoinHandle<Reply> {
    tokio::spawn(send(rig.request(Method::POST, "/v1/decisions").json(&event(id))))
}

#[tokio::test]
async fn requests_over_the_limit_are_shed_and_the_others_answered() {
    let settings = HttpSettings { requests_max: 2, ..loopback() };
    let rig = Rig::with(settings, Keyring::default()).await;
    rig.memory.behave(Behaviour::Hold);
    let held = [decide(&rig, 1), decide(&rig, 2)];
    rig.memory.wait_entered(2).await;
    let more: Vec<_> = (3..20).map(|id| decide(&rig, id)).collect();
    for request in more {
        let reply = request.await.unwrap();
        reply.error(503, "overloaded");
        assert_eq!(reply.headers["retry-after"], "1");
    }
    rig.get("/v1/models").await.error(503, "overloaded");
    rig.get("/health/live").await.ok();
    rig.get("/health/ready").await.ok();
    assert!(rig.get("/metrics").await.text.contains("interdict_scorer_http_shed_total 18"));
    rig.memory.release.add_permits(2);
    for request in held {
        request.await.unwrap().ok();
    }
    rig.memory.behave(Behaviour::Answer);
    rig.post("/v1/decisions", &event(3)).await.ok();
}

#[tokio::test]
async fn a_deadline_is_measured_from_receipt_and_kept_by_the_edge_at_last() {
    let rig = Rig::start().await;
    let with_deadline =
        |id, millis: &str| rig.request(Method::POST, "/v1/decisions").header("x-deadline-ms", millis).json(&event(id));
    rig.memory.behave(Behaviour::Hold);
    send(with_deadline(1, "300")).await.error(503, "deadline");
    rig.memory.behave(Behaviour::Answer);
    send(with_deadline(2, "60000")).await.ok();
    rig.post("/v1/decisions", &event(3)).await.ok();
    {
        let state = rig.memory.state();
        let times: Vec<Duration> =
            state.requests.iter().map(|request| request.budget.deadline - request.budget.start).collect();
        assert_eq!(times, [Duration::from_secs(60), loopback().deadline]);
    }
    assert!(rig.get("/metrics").await.text.contains("interdict_scorer_http_late_total 1"));
}

#[tokio::test]
async fn a_client_that_leaves_is_counted() {
    let rig = Rig::start().await;
    rig.memory.behave(Behaviour::Hold);
    let leaving = decide(&rig, 1);
    rig.memory.wait_entered(1).await;
    leaving.abort();
    rig.memory.behave(Behaviour::Answer);
    let line = "requests_total{route=\"/v1/decisions\",method=\"POST\",status=\"dropped\"} 1";
    for _attempt in 0..1000 {
        if rig.get("/metrics").await.text.contains(line) {
            return;
        }
    }
    panic!("never counted");
}

#[tokio::test]
async fn a_head_that_dawdles_or_swells_ends_the_connection() {
    let settings = HttpSettings { header_time: Duration::from_millis(500), ..loopback() };
    let rig = Rig::with(settings, Keyring::default()).await;
    for head in ["", "GET /health/live HTTP/1.1\r\nHost: loc"] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
    }
    let many: String = (0..65).map(|i| format!("h{i}: 1\r\n")).collect();
    let long = format!("h: {}\r\n", "x".repeat(20_000));
    for headers in [many, long] {
        let mut stream = TcpStream::connect(rig.address).await.unwrap();
        let head = format!("GET /health/live HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = vec![0; 12];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(answer, b"HTTP/1.1 431");
    }
}

#[tokio::test]
async fn connections_over_the_limit_wait_their_turn() {
    let settings = HttpSettings { connections_max: 1, ..loopback() };
    let rig = Rig::with(settings, Keyring::default()).await;
    let head = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut answer = vec![0; 15];
    let mut first = TcpStream::connect(rig.address).await.unwrap();
    first.write_all(head).await.unwrap();
    first.read_exact(&mut answer).await.unwrap();
    let mut second = TcpStream::connect(rig.address).await.unwrap();
    second.write_all(head).await.unwrap();
    assert!(second.try_read(&mut answer).is_err(), "no answer while the first is open");
    drop(first);
    second.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
}

#[tokio::test]
async fn shutdown_lets_requests_in_flight_finish() {
    let rig = Rig::start().await;
    rig.memory.behave(Behaviour::Hold);
    let held = decide(&rig, 1);
    rig.memory.wait_entered(1).await;
    rig.shutdown.cancel();
    while TcpStream::connect(rig.address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    rig.memory.release.add_permits(1);
    assert_eq!(held.await.unwrap().ok()["decision"]["event_id"], json!("1"));
    assert_eq!(rig.serving.await.unwrap(), Drained { cut_off: 0 });
}

#[tokio::test]
async fn shutdown_cuts_off_what_outlasts_the_drain_time() {
    let settings = HttpSettings { drain_time: Duration::from_millis(50), ..loopback() };
    let rig = Rig::with(settings, Keyring::default()).await;
    rig.memory.behave(Behaviour::Hold);
    let request = rig.request(Method::POST, "/v1/decisions").json(&event(1));
    let held = tokio::spawn(request.send());
    rig.memory.wait_entered(1).await;
    rig.shutdown.cancel();
    assert_eq!(rig.serving.await.unwrap(), Drained { cut_off: 1 });
    assert!(held.await.unwrap().is_err());
}
