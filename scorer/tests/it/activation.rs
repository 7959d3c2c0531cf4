use std::fs;
use std::path::Path;

use interdict_scorer::activation::{ActivationError, Active, Batching, activate};
use interdict_scorer::bundle::Bundle;
use interdict_scorer::runtime::Runtime;
use serde_json::{Value, json};

use crate::support::{MANIFEST, data, definitions, runtime, write_bundle};

fn activate_with(manifest: &str, model: &str, change: impl FnOnce(&Path)) -> Result<Active, ActivationError> {
    let folder = tempfile::tempdir().unwrap();
    write_bundle(folder.path(), manifest, model);
    change(folder.path());
    activate(&runtime(), &Bundle::load(folder.path()).unwrap(), &definitions(), 0)
}

fn check_refused(manifest: &str, model: &str, change: impl FnOnce(&Path), expected: &[&str]) {
    let error = activate_with(manifest, model, change).unwrap_err().to_string();
    for expected in expected {
        assert!(error.contains(expected), "'{expected}' is not in: {error}");
    }
}

fn change_golden(folder: &Path, change: impl FnOnce(&mut Value)) {
    let path = folder.join("golden.json");
    let mut golden = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    change(&mut golden);
    fs::write(path, golden.to_string()).unwrap();
}

#[test]
fn a_forest_scores_as_its_library_does_and_may_be_batched() {
    let active = activate_with(MANIFEST, "forest.onnx", |_| {}).unwrap();
    assert_eq!(active.batching, Batching::Together);
    assert_eq!(active.inputs.len(), 3);
}

#[test]
fn a_golden_score_off_by_more_than_the_tolerance_refuses() {
    let shift = |by: f64| {
        move |folder: &Path| {
            change_golden(folder, |golden| {
                let score = golden["scores"][3].as_f64().unwrap();
                golden["scores"][3] = json!(score + by);
            });
        }
    };
    check_refused(MANIFEST, "forest.onnx", shift(2e-5), &["1 of 40 golden vectors", "vector 3"]);
    assert!(activate_with(MANIFEST, "forest.onnx", shift(5e-6)).is_ok());
}

#[test]
fn a_flipped_outcome_refuses() {
    let flip = |folder: &Path| {
        change_golden(folder, |golden| {
            let is_block = golden["outcomes"][5] == "block";
            golden["outcomes"][5] = json!(if is_block { "approve" } else { "block" });
        });
    };
    check_refused(MANIFEST, "forest.onnx", flip, &["1 of 40 golden vectors", "change the outcome", "vector 5"]);
    // Other thresholds than the outcomes were made with flip some of them too.
    check_refused(&MANIFEST.replace("review = 0.5", "review = 0.2"), "forest.onnx", |_| {}, &["change the outcome"]);
}

#[test]
fn everything_that_does_not_fit_the_definitions_is_listed() {
    let manifest = MANIFEST
        .replace("\"amount\"", "\"amuont\"")
        .replace("customer_spend.amount_avg_7d", "country")
        .replace("0123456789abcdef", "0123456789abcdee")
        .replace("[groups]", "[groups]\nterminal_risk = \"0000000000000001\"");
    check_refused(
        &manifest,
        "forest.onnx",
        |_| {},
        &[
            "'amuont' is neither a feature nor a column of stream 'transactions'; did you mean 'amount'?",
            "'country' is of type string; models take numbers",
            "'customer_spend' is defined as 0123456789abcdef, the model was trained on 0123456789abcdee",
            "'terminal_risk' is not defined",
        ],
    );
    let unnamed = MANIFEST.replace("customer_spend = \"0123456789abcdef\"", "");
    check_refused(
        &unnamed,
        "forest.onnx",
        |_| {},
        &["comes from group 'customer_spend', whose hash is not in [groups]"],
    );
}

#[test]
fn derived_features_are_pinned_by_definition() {
    let with = |derived: &str| {
        let manifest = MANIFEST.replace("\"amount\"", "\"is_large\"");
        manifest.replace(
            "[[input]]\nname = \"customer_spend.tx",
            &format!("{derived}\n[[input]]\nname = \"customer_spend.tx"),
        )
    };
    let unnamed = "input 'is_large' is derived, and its hash is not in [derived] of bundle.toml";
    check_refused(&with(""), "forest.onnx", |_| {}, &[unnamed]);
    let other = "feature 'is_large' is derived as fedcba9876543210, the model was trained on fedcba9876543211";
    check_refused(&with("[derived]\nis_large = \"fedcba9876543211\""), "forest.onnx", |_| {}, &[other]);
    let unknown = "[derived]\nis_large = \"fedcba9876543210\"\nis_small = \"0000000000000001\"";
    check_refused(&with(unknown), "forest.onnx", |_| {}, &["feature 'is_small' is not derived"]);
    activate_with(&with("[derived]\nis_large = \"fedcba9876543210\""), "forest.onnx", |_| {}).unwrap();
}

#[test]
fn a_model_of_another_width_is_refused() {
    let manifest = MANIFEST.replace("[training]", "[[input]]\nname = \"terminal_id\"\nmissing = 0.0\n[training]");
    let widen = |folder: &Path| {
        change_golden(folder, |golden| {
            for vector in golden["vectors"].as_array_mut().unwrap() {
                vector.as_array_mut().unwrap().push(json!(1.0));
            }
        });
    };
    // The converter leaves the width of a forest's input fixed.
    check_refused(&manifest, "forest.onnx", widen, &["takes 3 values per row, bundle.toml lists 4"]);
}

#[test]
fn files_that_are_no_models_are_refused() {
    let whole = fs::read(data("forest.onnx")).unwrap();
    for length in [0, 1, 100, whole.len() / 2, whole.len() - 1] {
        let cut = whole[..length].to_vec();
        let write = move |folder: &Path| fs::write(folder.join("model.onnx"), cut).unwrap();
        check_refused(MANIFEST, "forest.onnx", write, &["forest 1", "the model"]);
    }
    let foreign = |folder: &Path| fs::write(folder.join("model.onnx"), b"PK\x03\x04 a pickle, a zip, ...").unwrap();
    check_refused(MANIFEST, "forest.onnx", foreign, &["cannot be read", "write the bundle again"]);
    for seed in 0..40_usize {
        let mut bytes = whole.clone();
        for step in 0..8 {
            let index = (seed * 7919 + step * 104_729) % bytes.len();
            bytes[index] ^= 0xa5;
        }
        let write = move |folder: &Path| fs::write(folder.join("model.onnx"), bytes).unwrap();
        // Damage may land where it changes nothing; what it must not do is activate with other scores.
        if let Ok(active) = activate_with(MANIFEST, "forest.onnx", write) {
            assert_eq!(active.inputs.len(), 3);
        }
    }
}

#[test]
fn outputs_that_are_no_scores_are_refused() {
    let zipmap = MANIFEST.replace("\"probabilities\"", "\"output_probability\"");
    check_refused(&zipmap, "zipmap.onnx", |_| {}, &["zipmap=False"]);
    check_refused(
        &MANIFEST.replace("\"probabilities\"", "\"score\""),
        "forest.onnx",
        |_| {},
        &["no output 'score'", "'label', 'probabilities'"],
    );
    let label = MANIFEST.replace("\"probabilities\"", "\"label\"");
    check_refused(&label, "forest.onnx", |_| {}, &["must be float32"]);
}

#[test]
fn a_model_that_gives_nan_on_golden_vectors_is_refused() {
    let manifest = MANIFEST.replace("\"probabilities\"", "\"score\"");
    check_refused(&manifest, "nan.onnx", |_| {}, &["NaN, which is no probability"]);
}

#[test]
fn a_model_whose_bits_depend_on_company_scores_row_by_row() {
    let manifest = MANIFEST.replace("\"probabilities\"", "\"score\"");
    let alone = |folder: &Path| {
        change_golden(folder, |golden| {
            for row in 0..40 {
                golden["scores"][row] = json!(0.5);
                golden["outcomes"][row] = json!("review");
            }
        });
    };
    let active = activate_with(&manifest, "company.onnx", alone).unwrap();
    assert_eq!(active.batching, Batching::OneByOne);
}

#[test]
fn a_missing_library_says_what_to_type() {
    let folder = tempfile::tempdir().unwrap();
    let error = Runtime::locate(None, &[folder.path()]).unwrap_err().to_string();
    assert!(error.contains("make onnxruntime") && error.contains("INTERDICT_ONNXRUNTIME"), "{error}");
    let nowhere = folder.path().join("none.so");
    let error = Runtime::locate(Some(&nowhere), &[folder.path()]).unwrap_err().to_string();
    assert!(error.contains("none.so") && error.contains("make onnxruntime"), "{error}");
    assert!(Runtime::load(&nowhere).unwrap_err().to_string().contains("make onnxruntime"));
}
