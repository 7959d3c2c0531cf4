//! The shape of the workspace.

use std::collections::BTreeSet;
use std::process::Command;

use crate::program::root;

#[test]
fn dependencies_point_one_way() {
    let cargo = option_env!("CARGO").unwrap_or("cargo");
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let mut edges = BTreeSet::new();
    for package in metadata["packages"].as_array().unwrap() {
        let name = package["name"].as_str().unwrap();
        for dependency in package["dependencies"].as_array().unwrap() {
            let to = dependency["name"].as_str().unwrap();
            if to.starts_with("interdict-") && dependency["kind"].is_null() {
                edges.insert(format!("{name} -> {to}"));
            }
        }
    }
    let allowed = [
        "interdict -> interdict-features",
        "interdict -> interdict-ingest",
        "interdict -> interdict-monitor",
        "interdict -> interdict-scorer",
        "interdict -> interdict-store",
        "interdict-ingest -> interdict-features",
        "interdict-ingest -> interdict-store",
        "interdict-monitor -> interdict-features",
        "interdict-scorer -> interdict-features",
        "interdict-scorer -> interdict-store",
        "interdict-store -> interdict-features",
    ];
    assert_eq!(edges, allowed.iter().map(|edge| (*edge).to_owned()).collect::<BTreeSet<String>>());
}
