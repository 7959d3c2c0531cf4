use std::fs;
use std::sync::Arc;

use interdict_features::value::Value;
use interdict_features::vector::Flags;
use interdict_scorer::activation::{Active, activate};
use interdict_scorer::bundle::Bundle;
use interdict_scorer::scorer::{Score, Scored, Scorer};
use interdict_scorer::subject::Subject;

use crate::support::{Event, MANIFEST, context, definitions, flagged, reading, runtime, write_bundle};

pub(crate) fn active(manifest: &str, model: &str, golden: Option<&str>) -> Arc<Active> {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), manifest, model);
    if let Some(golden) = golden {
        fs::write(folder.path().join("golden.json"), golden).unwrap();
    }
    Arc::new(activate(&runtime(), &Bundle::load(folder.path()).unwrap(), &definitions(), 0).unwrap())
}

fn score(active: &Arc<Active>, events: &[Event]) -> Vec<Scored> {
    let definitions = definitions();
    let batches: Vec<_> = events.iter().map(|event| event.batch(&definitions)).collect();
    let context = context();
    let subjects: Vec<_> = events
        .iter()
        .zip(&batches)
        .map(|(event, batch)| Subject {
            row: batch.row(0),
            vector: &event.vector,
            entities: &event.entities,
            context: &context,
        })
        .collect();
    let mut scored = Vec::new();
    Scorer::open(&runtime(), Arc::clone(active)).unwrap().score(&subjects, &mut scored);
    scored
}

fn events(count: i64) -> Vec<Event> {
    (0..count).map(|i| Event::new(i * 37 % 100, ((i * 61) % 1000) as f64 / 10.0, i * 97 % 10_000)).collect()
}

#[test]
fn company_changes_no_bit_of_a_score() {
    let active = active(MANIFEST, "forest.onnx", None);
    let events = events(300);
    let together = score(&active, &events);
    let alone: Vec<_> = events.iter().flat_map(|event| score(&active, std::slice::from_ref(event))).collect();
    let bits = |scored: &[Scored]| -> Vec<u64> {
        scored
            .iter()
            .map(|it| match it.score {
                Score::Given(score) => score.to_bits(),
                ref other => panic!("{other:?}"),
            })
            .collect()
    };
    assert_eq!(bits(&together), bits(&alone));
    let distinct: std::collections::BTreeSet<_> = bits(&alone).into_iter().collect();
    assert!(distinct.len() > 20, "the events differ");
}

#[test]
fn a_missing_value_is_what_the_bundle_says() {
    let active = active(MANIFEST, "forest.onnx", None);
    let mut missing = Event::new(80, 0.0, 5_000);
    missing.vector[3] = flagged(Value::Null, Flags::NO_STATE);
    let mut short = Event::new(80, 0.0, 5_000);
    short.vector.truncate(1);
    let zero = Event::new(80, 0.0, 5_000);
    let scored = score(&active, &[missing, short, zero]);
    assert_eq!(scored[0].score, scored[2].score);
    assert_eq!(scored[1].score, scored[2].score);
}

/// The golden vectors of `nan.onnx`: first values of at most 50.
fn finite_golden() -> String {
    let firsts: Vec<f64> = (0..20).map(|i| f64::from(i) * 2.0).collect();
    let scores: Vec<f64> = firsts.iter().map(|first| 1.0 / (1.0 + (-(50.0 - first).sqrt()).exp())).collect();
    let vectors: Vec<_> = firsts.iter().map(|first| vec![*first, 1.0, 1.0]).collect();
    serde_json::json!({"vectors": vectors, "scores": scores, "outcomes": vec!["block"; 20]}).to_string()
}

#[test]
fn a_row_that_gives_nan_fails_alone() {
    let manifest = MANIFEST.replace("\"probabilities\"", "\"score\"");
    let active = active(&manifest, "nan.onnx", Some(&finite_golden()));
    let poison = Event::new(70, 1.0, 100);
    let scored = score(&active, &[Event::new(10, 1.0, 100), poison, Event::new(20, 1.0, 100)]);
    assert!(matches!(scored[0].score, Score::Given(_)));
    assert!(matches!(&scored[1].score, Score::Failed(why) if why.contains("NaN")), "{:?}", scored[1]);
    assert!(matches!(scored[2].score, Score::Given(_)));
    assert_eq!(scored.len(), 3);
}

#[test]
fn values_no_float_holds_do_not_reach_a_decision_as_numbers() {
    let active = active(MANIFEST, "forest.onnx", None);
    let mut huge = Event::new(1, 1e300, 100);
    huge.vector[0] = reading(Value::Int(i64::MAX));
    let mut broken = Event::new(1, 1.0, 100);
    broken.vector[3] = reading(Value::Double(f64::NAN));
    for scored in score(&active, &[huge, broken]) {
        match scored.score {
            Score::Given(score) => assert!((0.0..=1.0).contains(&score)),
            Score::Failed(_) => {}
            Score::NotAsked => panic!("a model is in force"),
        }
    }
}
