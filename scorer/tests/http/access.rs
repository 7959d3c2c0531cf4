//! Keys, roles, hosts, addresses and TLS.

use std::sync::Arc;

use interdict_scorer::http::config::{HttpSettings, MetricsAccess, TlsFiles};
use interdict_scorer::http::keys::Keyring;
use interdict_scorer::http::server::StartError;
use reqwest::Method;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::memory::Memory;
use crate::rig::{Rig, bind, event, loopback, send};

/// One key per role, each named as its role and with `key-ROLE` as its text.
fn keys() -> Keyring {
    let text: String = ["decide", "read", "label", "admin"]
        .iter()
        .map(|role| {
            let digest: String = Sha256::digest(format!("key-{role}")).iter().map(|b| format!("{b:02x}")).collect();
            format!("[[key]]\nname = \"{role}\"\nsha256 = \"{digest}\"\nroles = [\"{role}\"]\n")
        })
        .collect();
    Keyring::parse("keys.toml", &text).unwrap()
}

#[tokio::test]
async fn every_route_asks_for_its_role() {
    let rig = Rig::with(loopback(), keys()).await;
    let made = rig.request(Method::POST, "/v1/decisions").bearer_auth("key-decide").json(&event(1));
    let id = send(made).await.ok()["decision"]["decision_id"].as_str().unwrap().to_owned();
    let block = json!({"list": "allow", "entity": "customer", "key": 1, "reason": "r"});
    let routes: [(Method, String, Value, &str); 9] = [
        (Method::POST, "/v1/decisions".to_owned(), event(1), "decide"),
        (Method::GET, format!("/v1/decisions/{id}"), Value::Null, "read"),
        (Method::POST, "/v1/entities/customer".to_owned(), json!({"key": 1}), "read"),
        (Method::POST, "/v1/labels".to_owned(), json!({"id": 1, "value": "fraud"}), "label"),
        (Method::GET, "/v1/blocks".to_owned(), Value::Null, "read"),
        (Method::POST, "/v1/blocks".to_owned(), block.clone(), "admin"),
        (Method::DELETE, "/v1/blocks".to_owned(), block, "admin"),
        (Method::GET, "/v1/models".to_owned(), Value::Null, "read"),
        (Method::GET, "/metrics".to_owned(), Value::Null, "read"),
    ];
    for (method, path, mut body, needed) in routes {
        if method == Method::DELETE {
            body.as_object_mut().unwrap().remove("expires");
        }
        let request = || {
            let request = rig.request(method.clone(), &path);
            if body.is_null() { request } else { request.json(&body) }
        };
        let reply = send(request()).await;
        reply.error(401, "unauthenticated");
        assert_eq!(reply.headers["www-authenticate"], "Bearer");
        send(request().bearer_auth("key-unknown")).await.error(401, "unauthenticated");
        send(request().basic_auth("key-admin", Some("key-admin"))).await.error(401, "unauthenticated");
        let twice = request().bearer_auth(format!("key-{needed}")).header("authorization", "Bearer x");
        send(twice).await.error(401, "unauthenticated");
        for role in ["decide", "read", "label", "admin"] {
            let reply = send(request().bearer_auth(format!("key-{role}"))).await;
            if role == needed {
                assert!(reply.status.is_success(), "{method} {path} {role}: {reply:?}");
            } else {
                reply.error(403, "forbidden");
            }
        }
    }
    for path in ["/health/live", "/health/ready", "/openapi.json"] {
        rig.get(path).await.ok();
    }
    assert_eq!(rig.memory.state().lists.len(), 0);
    assert_eq!(&*rig.memory.state().removals[0].caller.name, "admin");
}

#[tokio::test]
async fn a_request_that_may_not_is_refused_before_its_body_is_judged() {
    let rig = Rig::with(loopback(), keys()).await;
    rig.post_raw("/v1/decisions", "{").await.error(401, "unauthenticated");
    let metrics = send(rig.request(Method::GET, "/metrics").bearer_auth("key-read")).await;
    assert!(metrics.text.contains("interdict_scorer_http_unauthenticated_total 1"));
}

#[tokio::test]
async fn metrics_can_be_left_open() {
    let settings = HttpSettings { metrics: MetricsAccess::Open, ..loopback() };
    let rig = Rig::with(settings, keys()).await;
    assert_eq!(rig.get("/metrics").await.status, 200);
}

#[tokio::test]
async fn without_keys_only_this_machine_by_its_own_name_is_answered() {
    let rig = Rig::start().await;
    for (host, is_answered) in [
        ("localhost", true),
        ("LOCALHOST:8080", true),
        ("127.0.0.1:1", true),
        ("[::1]:8080", true),
        ("evil.example", false),
        ("localhost.evil.example:8080", false),
        ("10.0.0.1", false),
    ] {
        let reply = send(rig.request(Method::GET, "/v1/models").header("host", host)).await;
        if is_answered {
            reply.ok();
        } else {
            reply.error(403, "host_not_allowed");
        }
    }
}

#[tokio::test]
async fn another_address_is_not_bound_without_keys() {
    let settings = HttpSettings { bind: "0.0.0.0:0".parse().unwrap(), ..loopback() };
    let refused = bind(settings.clone(), Keyring::default(), Arc::new(Memory::default())).await.unwrap_err();
    assert!(matches!(refused, StartError::KeysRequired { .. }));
    assert!(refused.to_string().contains("keys_file"));
    bind(settings, keys(), Arc::new(Memory::default())).await.unwrap();
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let settings = HttpSettings { bind: taken.local_addr().unwrap(), ..loopback() };
    let refused = bind(settings, Keyring::default(), Arc::new(Memory::default())).await.unwrap_err();
    assert!(matches!(refused, StartError::Bind { .. }), "{refused}");
}

#[tokio::test]
async fn tls_is_spoken_where_configured() {
    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let files = TlsFiles { certificate: folder.path().join("cert.pem"), key: folder.path().join("key.pem") };
    let settings = HttpSettings { tls: Some(files.clone()), ..loopback() };
    let try_bind = || bind(settings.clone(), Keyring::default(), Arc::new(Memory::default()));
    assert!(matches!(try_bind().await.unwrap_err(), StartError::TlsFile { .. }));
    std::fs::write(&files.certificate, made.cert.pem()).unwrap();
    std::fs::write(&files.key, "no key").unwrap();
    assert!(matches!(try_bind().await.unwrap_err(), StartError::TlsFile { .. }));
    let other = rcgen::KeyPair::generate().unwrap();
    std::fs::write(&files.key, other.serialize_pem()).unwrap();
    assert!(matches!(try_bind().await.unwrap_err(), StartError::Tls(_)));
    std::fs::write(&files.key, made.signing_key.serialize_pem()).unwrap();

    let rig = Rig::with(settings, Keyring::default()).await;
    let root = reqwest::Certificate::from_pem(made.cert.pem().as_bytes()).unwrap();
    let client = reqwest::Client::builder().tls_certs_only([root]).build().unwrap();
    let url = format!("https://localhost:{}/v1/decisions", rig.address.port());
    send(client.post(url).json(&event(1))).await.ok();
    let plain = rig.request(Method::GET, "/health/live").send().await;
    assert!(plain.is_err(), "plain HTTP is not answered");
}
