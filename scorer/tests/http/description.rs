//! `/openapi.json` against its checked-in copy and against the routes.

use interdict_scorer::http::openapi::document;
use reqwest::Method;
use serde_json::Value;

use crate::rig::{Rig, send};

/// Every route with its methods. A new route is added here and to the description.
const ROUTES: [(&str, &[&str]); 10] = [
    ("/v1/decisions", &["post"]),
    ("/v1/decisions/{id}", &["get"]),
    ("/v1/entities/{entity}", &["post"]),
    ("/v1/labels", &["post"]),
    ("/v1/blocks", &["delete", "get", "post"]),
    ("/v1/models", &["get"]),
    ("/health/live", &["get"]),
    ("/health/ready", &["get"]),
    ("/metrics", &["get"]),
    ("/openapi.json", &["get"]),
];

#[test]
fn the_checked_in_description_is_the_one_served() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
    let generated = document();
    let stored = std::fs::read(path).unwrap_or_default();
    if stored != generated {
        let new = std::env::temp_dir().join("openapi.json");
        std::fs::write(&new, &generated).unwrap();
        panic!(
            "docs/openapi.json is not what the code describes; look at the change and copy {} over it",
            new.display()
        );
    }
}

#[tokio::test]
async fn the_description_names_every_route_and_no_other() {
    let rig = Rig::start().await;
    let description = rig.get("/openapi.json").await.ok();
    let described: Vec<(String, Vec<String>)> = description["paths"]
        .as_object()
        .unwrap()
        .iter()
        .map(|(path, item)| (path.clone(), item.as_object().unwrap().keys().cloned().collect()))
        .collect();
    for (path, methods) in &described {
        for method in ["get", "post", "put", "patch", "delete"] {
            let method_name = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap();
            let status = send(rig.request(method_name, path)).await.status.as_u16();
            let is_described = methods.iter().any(|described| described == method);
            assert_eq!(status != 405, is_described, "{method} {path}: {status}");
        }
    }
    let mut expected: Vec<(String, Vec<String>)> = ROUTES
        .iter()
        .map(|(path, methods)| ((*path).to_owned(), methods.iter().map(|method| (*method).to_owned()).collect()))
        .collect();
    expected.sort();
    let mut described = described;
    for (_, methods) in &mut described {
        methods.sort();
    }
    described.sort();
    assert_eq!(described, expected);
}

#[test]
fn every_reference_in_the_description_resolves() {
    fn check(value: &Value, root: &Value) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(reference)) = members.get("$ref") {
                    let pointer = reference.trim_start_matches('#');
                    assert!(root.pointer(pointer).is_some(), "{reference}");
                }
                members.values().for_each(|value| check(value, root));
            }
            Value::Array(items) => items.iter().for_each(|value| check(value, root)),
            _ => {}
        }
    }
    let root: Value = serde_json::from_slice(&document()).unwrap();
    check(&root, &root);
}
