//! What nodes announce of each other.

use redis::Value;

use super::*;
use crate::redis::failure::DatabaseError;
use crate::redis::node::Node;

fn node(url: &str) -> Node {
    let config = RedisConfig::new("cards", &[url]).unwrap();
    let config = RedisConfig { user: Some("scorer".to_owned()), ..config };
    Node::configured(&config, &config.servers[0]).unwrap()
}

#[test]
fn an_announced_node_is_reached_as_the_one_that_announced_it() {
    let cases = [
        ("redis://one:7000", "10.0.0.2:7001", Some("10.0.0.2:7001")),
        ("redis://one:7000", "two.example:7001", Some("two.example:7001")),
        ("redis://one:7000", "fd00::2:7001", Some("fd00::2:7001")),
        ("redis://one:7000", ":7001", Some("one:7001")),
        ("rediss://one:7000", ":7001", Some("one:7001")),
        ("unix:///socket", ":7001", Some("127.0.0.1:7001")),
        ("unix:///socket", "10.0.0.2:7001", Some("10.0.0.2:7001")),
        ("redis://one:7000", "?:7001", None),
        ("redis://one:7000", "two:no port", None),
        ("redis://one:7000", "nothing", None),
    ];
    for (url, place, expected) in cases {
        let (asked, announced) = (node(url), node(url).announced(place));
        let Some(expected) = expected else {
            assert!(matches!(announced, Err(DatabaseError::Unnamed { .. })), "{place}: {announced:?}");
            continue;
        };
        let announced = announced.unwrap();
        assert_eq!(announced.address, expected, "{url} {place}");
        let infos = [&asked, &announced].map(|node| node.client.get_connection_info());
        assert_eq!(infos[1].redis_settings().username(), Some("scorer"));
        let has_tls = infos.map(|info| matches!(info.addr(), redis::ConnectionAddr::TcpTls { insecure: false, .. }));
        assert_eq!(has_tls[0], has_tls[1], "{url} {place}");
    }
}

#[test]
fn nodes_of_a_cluster_are_remembered_once_each() {
    let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let entry = |host: Value, port: i64, names: Vec<Value>| {
        Value::Array(vec![host, Value::Int(port), text("id"), Value::Array(names)])
    };
    let range = |nodes: Vec<Value>| Value::Array([vec![Value::Int(0), Value::Int(99)], nodes].concat());
    let two = || entry(text("two"), 7000, vec![]);
    let slots = Value::Array(vec![
        range(vec![entry(text(""), 7000, vec![]), two()]),
        range(vec![two(), entry(Value::Nil, 7001, vec![])]),
        range(vec![entry(text("?"), 7002, vec![text("ip"), text("10.0.0.4")]), entry(text("?"), 7003, vec![])]),
        range(vec![Value::Int(7), entry(text("five"), -1, vec![])]),
        Value::Okay,
    ]);
    let addresses = |slots: &Value| {
        let nodes = node("redis://one:7000").neighbours(slots);
        nodes.into_iter().map(|node| node.address).collect::<Vec<_>>()
    };
    assert_eq!(addresses(&slots), ["two:7000", "one:7001", "10.0.0.4:7002"]);
    assert_eq!(addresses(&Value::Nil), [] as [&str; 0]);
    let many = (0..1000).map(|port| entry(text("two"), port, vec![])).collect();
    assert_eq!(addresses(&Value::Array(vec![range(many)])).len(), 32);
}
