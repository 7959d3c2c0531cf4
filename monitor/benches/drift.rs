//! Drift of one batch. Budget: 30 features x 500 rows against a reference of 10,000 in at most 1 ms and 64 MiB.
//!
//! Prints the mean and the worst time of a batch: feeding 500 records, then sorting and both tests of 31 columns.

#![expect(clippy::print_stdout, reason = "a bench prints")]
#![expect(clippy::disallowed_methods, reason = "a bench measures")]
#![expect(clippy::unwrap_used, reason = "a bench may panic")]

use std::time::{Duration, Instant};

use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;
use interdict_monitor::drift::detector::{Detector, Firing};
use interdict_monitor::drift::reference::Reference;
use interdict_monitor::drift::verdict::DriftOptions;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

const FEATURES: usize = 30;
const ROWS: usize = 500;
const REFERENCE_ROWS: usize = 10_000;
const BATCHES: usize = 200;

/// A third each of continuous values, counts and amounts that are mostly zero.
fn draw(index: usize, random: &mut ChaCha8Rng) -> f64 {
    let value: f64 = random.random();
    match index % 3 {
        0 => value.ln(),
        1 => (value * 30.0).floor(),
        _ => (value - 0.7).max(0.0),
    }
}

fn record(random: &mut ChaCha8Rng, shift: f64) -> DecisionRecord {
    let features: Vec<_> = (0..FEATURES)
        .map(|index| serde_json::json!({ "name": format!("g.f{index}_1d"), "value": draw(index, random) + shift }))
        .collect();
    serde_json::from_value(serde_json::json!({
        "decision_id": "00000000-0000-0000-0000-000000000000", "stream": "s", "event_id": "1", "judgement": 0,
        "position": { "partition": "p", "position": 0 }, "event_time": null, "arrival_time": null,
        "decide_time": "2026-01-01T00:00:00Z", "as_of": {}, "entities": [], "outcome": "approve",
        "score": random.random::<f64>(), "thresholds": null, "rules": [], "models": [],
        "features": features, "event": {}, "seen": [], "list_hits": [], "reasons": [],
        "decided_by": "model", "degraded": [], "actions": []
    }))
    .unwrap()
}

fn main() {
    let mut random = ChaCha8Rng::seed_from_u64(1);
    let mut column = |name: String, index: usize| {
        (name, (0..REFERENCE_ROWS).map(|_| Some(draw(index, &mut random))).collect::<Vec<_>>())
    };
    let mut columns: Vec<_> = (0..FEATURES).map(|index| column(format!("g__f{index}_1d"), index)).collect();
    columns.push(("score".to_owned(), (0..REFERENCE_ROWS).map(|_| Some(random.random())).collect()));
    let reference = Reference::from_columns("m", "1", columns);
    for (name, shift) in [("no drift", 0.0), ("every feature drifted", 0.5)] {
        let records: Vec<_> = (0..ROWS).map(|_| record(&mut random, shift)).collect();
        let mut detector = Detector::new(reference.clone(), DriftOptions::default(), Firing::No);
        let (mut total, mut feeding, mut worst) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        for _ in 0..BATCHES {
            let start = Instant::now();
            let (last, before) = records.split_last().unwrap();
            for record in before {
                detector.observe(0, record, Timestamp::default());
            }
            let fed = start.elapsed();
            detector.observe(0, last, Timestamp::default());
            let batch = start.elapsed();
            feeding += fed;
            total += batch;
            worst = worst.max(batch);
        }
        assert_eq!(detector.counts().batches, BATCHES as u64);
        let batches = u32::try_from(BATCHES).unwrap();
        println!(
            "{name}: {FEATURES} features + score x {ROWS} rows against {REFERENCE_ROWS}: mean {:?} (feeding {:?}), worst {worst:?}",
            total / batches,
            feeding / batches
        );
    }
}
