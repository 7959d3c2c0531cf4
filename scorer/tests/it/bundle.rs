use std::fs;

use interdict_scorer::bundle::manifest::Manifest;
use interdict_scorer::bundle::{Bundle, BundleError};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

use crate::support::{MANIFEST, write_bundle};

fn load_with(change: impl FnOnce(&std::path::Path)) -> Result<Bundle, BundleError> {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), MANIFEST, "forest.onnx");
    change(folder.path());
    Bundle::load(folder.path())
}

fn check_refused(change: impl FnOnce(&std::path::Path), expected: &str) {
    let error = load_with(change).unwrap_err().to_string();
    assert!(error.contains(expected), "'{expected}' is not in: {error}");
}

#[test]
fn a_bundle_is_read_and_hashed() {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), MANIFEST, "forest.onnx");
    fs::write(folder.path().join(".DS_Store"), "ignored").unwrap();
    let bundle = Bundle::load(folder.path()).unwrap();
    assert_eq!(bundle.manifest.inputs.len(), 3);
    assert_eq!(bundle.manifest.thresholds.block, 0.8);
    assert!(bundle.manifest.training.contains("auc = 0.9"), "{}", bundle.manifest.training);
    let mut digest = Sha256::new();
    for name in ["bundle.toml", "golden.json", "model.onnx", "reference.parquet"] {
        let bytes = fs::read(folder.path().join(name)).unwrap();
        digest.update(name.as_bytes());
        digest.update([0]);
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(&bytes);
    }
    let expected: String = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(bundle.hash, expected);
    fs::write(folder.path().join("reference.parquet"), b"PAR2").unwrap();
    assert_ne!(Bundle::load(folder.path()).unwrap().hash, expected);
}

#[test]
fn missing_files_are_named() {
    for file in ["bundle.toml", "model.onnx", "golden.json", "reference.parquet"] {
        check_refused(|folder| fs::remove_file(folder.join(file)).unwrap(), &format!("has no {file}"));
    }
    let error = Bundle::load(std::path::Path::new("/nowhere/at/all")).unwrap_err().to_string();
    assert!(error.contains("there is no bundle at /nowhere/at/all"), "{error}");
}

#[test]
fn every_mistake_of_the_manifest_is_reported_at_once() {
    let manifest = r#"
format = 2
name = ""
version = 1
created = "yesterday"
model = "../model.onnx"
golden = "golden.json"
reference = "reference.parquet"
outptu = "probabilities"
[thresholds]
review = 0.9
block = 0.5
[groups]
customer_spend = "xyz"
[[input]]
name = "amount"
missing = "none"
[[input]]
name = "amount"
missing = 0.0
"#;
    let error = load_with(|folder| fs::write(folder.join("bundle.toml"), manifest).unwrap()).unwrap_err();
    let BundleError::Manifest(problems) = error else { panic!("{error}") };
    let text = problems.to_string();
    for expected in [
        "reads format 1",
        "'name' is empty",
        "'version'",
        "'yesterday' is no time",
        "'../model.onnx' is no plain file name",
        "the file has no 'output'",
        "unknown section 'outptu'",
        "review threshold lies over",
        "'xyz' is no hash",
        "'none' is no value of 'missing'",
        "stands here twice",
    ] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    assert_eq!(problems.0.len(), 11, "{text}");
}

#[test]
fn golden_vectors_that_prove_nothing_are_refused() {
    let with =
        |text: &'static str| move |folder: &std::path::Path| fs::write(folder.join("golden.json"), text).unwrap();
    check_refused(with("{"), "not golden vectors");
    check_refused(with(r#"{"vectors": [[1, 2, 3]], "scores": [], "outcomes": []}"#), "1 vectors, 0 scores");
    check_refused(with(r#"{"vectors": [[1, 2, 3]], "scores": [0.1], "outcomes": ["approve"]}"#), "give 20 to 200");
    check_refused(
        with(r#"{"vectors": [[NaN, 2, 3]], "scores": [0.1], "outcomes": ["approve"]}"#),
        "not golden vectors",
    );
    let many = |row: &str, score: &str| {
        let list = |item: &str| vec![item; 20].join(",");
        format!(r#"{{"vectors":[{}],"scores":[{}],"outcomes":[{}]}}"#, list(row), list(score), list("\"approve\""))
    };
    let write = |text: String| move |folder: &std::path::Path| fs::write(folder.join("golden.json"), text).unwrap();
    check_refused(write(many("[1,2]", "0.5")), "has 2 values, bundle.toml lists 3");
    check_refused(write(many("[1,2,null]", "1.5")), "score 0 is 1.5");
}

#[test]
fn a_manifest_that_is_no_toml_or_no_text_is_refused() {
    check_refused(|folder| fs::write(folder.join("bundle.toml"), b"\xff\xfe").unwrap(), "not valid TOML");
    check_refused(|folder| fs::write(folder.join("bundle.toml"), "format = ").unwrap(), "not valid TOML");
}

#[test]
fn a_manifest_that_lost_or_doubled_any_line_is_read_or_refused_with_reasons() {
    let lines: Vec<&str> = MANIFEST.lines().collect();
    for index in 0..lines.len() {
        for copies in [0, 2] {
            let mut changed = lines.clone();
            changed.splice(index..=index, std::iter::repeat_n(lines[index], copies));
            if let Err(problems) = Manifest::read("bundle.toml", &changed.join("\n")) {
                assert!(!problems.0.is_empty(), "{changed:?}");
            }
        }
    }
    for input in ["input = []", "input = 5", "input = [1]", "input = [{ name = 1 }]"] {
        let (head, _) = MANIFEST.split_once("[thresholds]").unwrap();
        let text = format!("{head}{input}\n[thresholds]\nreview = 0.5\nblock = 0.8\n");
        assert!(Manifest::read("bundle.toml", &text).is_err(), "{input}");
    }
}

proptest! {
    #[test]
    fn no_text_is_too_broken_for_a_manifest(at in 0..MANIFEST.len(), length in 0..40_usize, with in "[ -~\n]{0,8}") {
        let end = (at + length).min(MANIFEST.len());
        let text = format!("{}{with}{}", &MANIFEST[..at], &MANIFEST[end..]);
        let _read_or_refused = Manifest::read("bundle.toml", &text);
    }
}
