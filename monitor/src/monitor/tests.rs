use interdict_features::time::Span;
use interdict_features::value::Value;
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::alert::Webhook;
use crate::alert::signature::{Secret, signature};
use crate::alert::tests::receiver;
use crate::drift::verdict::DriftOptions;
use crate::log::{LogOptions, read};
use crate::records::{MODEL, VERSION, feature, record};

const NOW: Timestamp = Timestamp::from_micros(1_614_265_330_000_000);

fn reference() -> Reference {
    let values = (0..1_000).map(|i| Some(f64::from(i))).collect();
    Reference::from_columns(MODEL, VERSION, vec![("g__f_1d".into(), values)])
}

fn secret() -> Secret {
    Secret::parse("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap()
}

fn config(dir: &std::path::Path, url: Option<&str>) -> MonitorConfig {
    let mut config = MonitorConfig::at(dir);
    config.log = LogOptions { rows_max: 150, ..LogOptions::default() };
    config.drift = DriftOptions { rows_max: 100, rows_min: 50, ..DriftOptions::default() };
    let webhook = |url: &str| Webhook { url: url.parse().unwrap(), secrets: [secret()].into() };
    config.webhooks = url.map(webhook).into_iter().collect();
    config
}

fn decision(index: u64, shift: i64) -> DecisionRecord {
    let mut one = record(index);
    let value = i64::try_from(index * 37 % 1_000).unwrap() + shift;
    one.features = vec![feature("g.f_1d", Value::Int(value))];
    one
}

fn scrape(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    text
}

/// Ticks until `is_done`; every tick gives the courier a turn.
async fn tick_until(monitor: &mut Monitor, now: Timestamp, is_done: impl Fn(&MonitorState) -> bool) {
    let wait = async {
        while !is_done(&monitor.state()) {
            monitor.tick(now).unwrap();
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), wait).await.expect("the alert is delivered");
}

#[tokio::test]
async fn an_episode_is_told_once_when_it_fires_and_once_when_it_ends() {
    let dir = tempfile::tempdir().unwrap();
    let (url, mut received) = receiver(vec!["500 Oops".into(), "200 OK".into()]).await;
    let mut registry = Registry::default();
    let (mut monitor, courier) =
        Monitor::open(config(dir.path(), Some(&url)), Some(reference()), Metrics::register(&mut registry)).unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(courier.run(stop.clone()));
    for index in 0..700 {
        let shift = if (200..500).contains(&index) { 500 } else { 0 };
        monitor.observe(index, &decision(index, shift), NOW).unwrap();
        if index == 450 {
            assert!(monitor.state().episode.is_some());
            assert!(scrape(&registry).contains("interdict_monitor_drift_firing 1"));
        }
    }
    tick_until(&mut monitor, NOW, |state| state.deliveries.retried == 1).await;
    let later = NOW.plus(Span::HOUR);
    for index in 700..900 {
        monitor.observe(index, &decision(index, 0), later).unwrap();
    }
    tick_until(&mut monitor, later, |state| state.alerts_pending == 0).await;
    let state = monitor.state();
    assert_eq!((state.deliveries.taken, state.deliveries.retried, state.episode), (2, 1, None));
    let mut bodies = Vec::new();
    for _ in 0..3 {
        let request = received.recv().await.unwrap();
        let (id, time) = (request.header("webhook-id"), request.header("webhook-timestamp").parse().unwrap());
        assert_eq!(request.header("webhook-signature"), signature(&[secret()], id, time, &request.body));
        bodies.push(serde_json::from_str::<serde_json::Value>(&request.body).unwrap());
    }
    assert!(received.try_recv().is_err());
    bodies.sort_by_key(|body| body["data"]["seq"].as_u64());
    bodies.dedup();
    let types: Vec<_> = bodies.iter().map(|body| body["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["com.interdict.drift.firing", "com.interdict.drift.resolved"]);
    assert_eq!(bodies[0]["data"]["alert_id"], bodies[1]["data"]["alert_id"]);
    assert_eq!(bodies[0]["data"]["columns"][0]["feature"], "g__f_1d");
    assert_eq!(bodies[0]["data"]["window"]["last_position"], 399);
    let text = scrape(&registry);
    for line in [
        "interdict_monitor_drift_batches_total 9",
        "interdict_monitor_drift_psi{feature=\"g__f_1d\"} ",
        "interdict_monitor_drift_ks_distance{feature=\"g__f_1d\"} ",
        "interdict_monitor_drift_firing 0",
        "interdict_monitor_alert_deliveries_total{outcome=\"taken\"} 2",
        "interdict_monitor_alert_outbox_pending 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    stop.cancel();
    task.await.unwrap();
}

#[test]
fn a_restart_keeps_the_episode_and_tells_nothing_twice() {
    let dir = tempfile::tempdir().unwrap();
    let open = || Monitor::open(config(dir.path(), Some("http://127.0.0.1:9/")), Some(reference()), Metrics::default());
    let (mut monitor, _courier) = open().unwrap();
    for index in 0..420 {
        monitor.observe(index, &decision(index, if index >= 200 { 500 } else { 0 }), NOW).unwrap();
    }
    let episode = monitor.state().episode.unwrap();
    monitor.outbox.save().unwrap();
    // The process dies: the last 120 decisions were taken, not flushed.
    drop(monitor);
    let (mut monitor, _courier) = open().unwrap();
    assert_eq!(monitor.next_position(), 300);
    for index in monitor.next_position()..700 {
        monitor.observe(index, &decision(index, 500), NOW).unwrap();
    }
    let state = monitor.state();
    assert_eq!((state.episode, state.alerts_pending), (Some(episode), 1));
    assert_eq!(state.drift.rows, 300, "decisions up to position 399 were judged before");
    monitor.flush(NOW).unwrap();
    let positions: Vec<_> = read(dir.path()).unwrap().map(|entry| entry.unwrap().position).collect();
    assert_eq!(positions, (0..700).collect::<Vec<_>>());
}

#[test]
fn without_a_reference_decisions_are_logged_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut registry = Registry::default();
    let (mut monitor, _courier) =
        Monitor::open(config(dir.path(), None), None, Metrics::register(&mut registry)).unwrap();
    for index in 0..160 {
        monitor.observe(index, &record(index), NOW).unwrap();
    }
    assert_eq!((monitor.state().durable, monitor.state().unflushed_rows), (150, 10));
    assert_eq!(monitor.tick(NOW.plus(Span::HOUR)).unwrap(), 160);
    let text = scrape(&registry);
    for line in [
        "interdict_monitor_log_rows_total 160",
        "interdict_monitor_log_unflushed_rows 0",
        "interdict_monitor_log_last_flush_timestamp_seconds 1614268930.0",
        "interdict_monitor_log_failures_total 0",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
}

#[test]
fn decisions_of_another_model_or_of_none_and_without_features_are_no_drift() {
    let dir = tempfile::tempdir().unwrap();
    let (mut monitor, _courier) =
        Monitor::open(config(dir.path(), None), Some(reference()), Metrics::default()).unwrap();
    for index in 0..200 {
        let mut other = decision(index, 500);
        match index % 3 {
            0 => other.models[0].version = "2".into(),
            1 => other.features.clear(),
            // Another judged stream, whose events rules alone decide.
            _ => other.models.clear(),
        }
        monitor.observe(index, &other, NOW).unwrap();
    }
    let drift = monitor.state().drift;
    assert_eq!((drift.batches, drift.rows, drift.skipped), (0, 0, 200));
}
