//! Drift of one batch. Budget (DESIGN section 8): 30 features and 500 rows against a reference of 10,000 in at most 1 ms and 64 MiB.

use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;
use interdict_monitor::drift::detector::{Detector, Firing};
use interdict_monitor::drift::reference::{Reference, SCORE};
use interdict_monitor::drift::verdict::DriftOptions;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;
use serde_json::{Value, json};

use crate::run::clock;

use super::{Common, place};

/// Measure the drift tests of one batch: taking in its rows, sorting, both tests of every feature and of the score.
#[derive(clap::Args, Debug)]
pub(super) struct Drift {
    #[command(flatten)]
    common: Common,
    /// How many features the model has
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    features: u32,
    /// How many rows a batch has
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(10..=100_000))]
    rows: u32,
    /// How many rows the reference has
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    reference: u32,
    /// How many batches each round judges
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    batches: u32,
}

impl Drift {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let resident = resident_bytes();
        let mut random = ChaCha8Rng::seed_from_u64(1);
        let reference = self.sample(&mut random);
        let mut figures = json!({
            "features": self.features,
            "rows": self.rows,
            "reference_rows": self.reference,
            "batches": self.batches,
        });
        for (name, shift) in [("no_drift", 0.0), ("every_feature_drifted", 0.5)] {
            let records = (0..self.rows).map(|_| self.record(&mut random, shift)).collect::<Result<Vec<_>, _>>()?;
            figures[name] = self.measure(&reference, &records)?;
        }
        let memory = peak_bytes().zip(resident).map(|(peak, before)| mebibytes(peak.saturating_sub(before)));
        figures["memory_mib"] = json!(memory);
        figures["process_mib"] = json!(peak_bytes().map(mebibytes));
        self.common.print("drift", figures)
    }

    fn measure(&self, reference: &Reference, records: &[DecisionRecord]) -> anyhow::Result<Value> {
        let rows = records.len();
        let options = DriftOptions { rows_max: rows, ..DriftOptions::default() };
        let (mut feeding, mut whole) = (Vec::new(), Vec::new());
        for _ in 0..self.common.rounds {
            let mut detector = Detector::new(reference.clone(), options.clone(), Firing::No);
            for _ in 0..self.batches {
                let began = clock::instant();
                for record in &records[..rows - 1] {
                    detector.observe(0, record, Timestamp::default());
                }
                feeding.push(began.elapsed().as_secs_f64() * 1e6);
                detector.observe(0, &records[rows - 1], Timestamp::default());
                whole.push(began.elapsed().as_secs_f64() * 1e6);
            }
            anyhow::ensure!(detector.counts().batches == u64::from(self.batches), "a batch was not judged");
        }
        feeding.sort_by(f64::total_cmp);
        whole.sort_by(f64::total_cmp);
        Ok(json!({
            "batch_p50_us": whole[place(0.5, whole.len())],
            "batch_p99_us": whole[place(0.99, whole.len())],
            "of_it_taking_in_rows_p50_us": feeding[place(0.5, feeding.len())],
        }))
    }

    fn sample(&self, random: &mut ChaCha8Rng) -> Reference {
        let mut column = |name: String, index: u32| {
            (name, (0..self.reference).map(|_| Some(draw(index, random))).collect::<Vec<_>>())
        };
        let mut columns: Vec<_> = (0..self.features).map(|index| column(format!("g__f{index}_1d"), index)).collect();
        columns.push((SCORE.to_owned(), (0..self.reference).map(|_| Some(random.random())).collect()));
        Reference::from_columns("m", "1", columns)
    }

    fn record(&self, random: &mut ChaCha8Rng, shift: f64) -> serde_json::Result<DecisionRecord> {
        let features: Vec<Value> = (0..self.features)
            .map(|index| json!({ "name": format!("g.f{index}_1d"), "value": draw(index, random) + shift }))
            .collect();
        let score = random.random::<f64>();
        let model =
            json!({ "name": "m", "version": "1", "bundle_hash": "", "score": score, "micros": 5, "role": "champion" });
        serde_json::from_value(json!({
            "decision_id": "00000000-0000-0000-0000-000000000000", "stream": "s", "event_id": "1", "judgement": 0,
            "position": { "partition": "p", "position": 0 }, "event_time": null, "arrival_time": null,
            "decide_time": "2026-01-01T00:00:00Z", "as_of": {}, "entities": [], "outcome": "approve",
            "score": score, "thresholds": null, "rules": [], "models": [model],
            "features": features, "event": {}, "seen": [], "list_hits": [], "reasons": [],
            "decided_by": "model", "degraded": [], "actions": []
        }))
    }
}

/// A third each of continuous values, counts and amounts that are mostly zero.
fn draw(index: u32, random: &mut ChaCha8Rng) -> f64 {
    let value: f64 = random.random();
    match index % 3 {
        0 => value.max(f64::MIN_POSITIVE).ln(),
        1 => (value * 30.0).floor(),
        _ => (value - 0.7).max(0.0),
    }
}

#[expect(clippy::cast_precision_loss, reason = "a size for reading")]
fn mebibytes(bytes: u64) -> f64 {
    (bytes as f64 / f64::from(1 << 20) * 10.0).round() / 10.0
}

/// What this process holds in memory now, where the system says.
fn resident_bytes() -> Option<u64> {
    status("VmRSS:")
}

/// The most that it ever held.
fn peak_bytes() -> Option<u64> {
    status("VmHWM:")
}

fn status(field: &str) -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kibibytes: u64 = line.trim().trim_end_matches("kB").trim().parse().ok()?;
    Some(kibibytes * 1_024)
}
