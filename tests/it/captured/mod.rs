//! The program on a real PostgreSQL: payments captured as they commit, accounts blocked where they are kept.

mod crash;
mod disk;
mod faults;
pub(crate) mod lost;
mod standby;
mod truncated;

use interdict_features::decision::decision_id;
use serde_json::Value;

use crate::bank::{Bank, CHARGEBACKS};
use crate::place::{Caller, DEFINITIONS};

/// A deployment that captures through `slot` and has these `actions`.
fn config(bank: &Bank, slot: &str, actions: &str) -> String {
    format!(
        "{DEFINITIONS}{CHARGEBACKS}{actions}{}[engine]\ncheckpoint = \"20ms\"\n[http]\nbind = \"127.0.0.1:0\"\n",
        bank.source(slot)
    )
}

/// The stored decision on a payment.
fn decision(caller: &Caller, payment: i64) -> Value {
    let id = decision_id("default", "transactions", &payment.to_string(), 0);
    for _ in 0..20_000 {
        let (status, answer) = caller.get(&format!("/v1/decisions/{id}"));
        if status == 200 {
            return answer;
        }
    }
    let (_, metrics) = caller.get("/metrics");
    let told: Vec<&str> =
        metrics.as_str().unwrap().lines().filter(|line| line.starts_with("interdict_ingest")).collect();
    panic!("no decision on payment {payment}: {told:#?}");
}

/// The sum of a metric's values whose labels contain `label`.
pub(crate) fn metric(caller: &Caller, name: &str, label: &str) -> f64 {
    let (_, metrics) = caller.get("/metrics");
    let lines = metrics.as_str().unwrap().lines().filter(|line| line.starts_with(name) && line.contains(label));
    lines.map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()).sum()
}
