//! From a vector to its decision, in process. Budget (DESIGN section 8), 200 trees and 20 rules: p99 at most 50 microseconds.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::backfill::{Events, Features};
use interdict_features::engine::Plan;
use interdict_features::vector::Reading;
use interdict_scorer::judge::Judge;
use interdict_scorer::scorer::{Scored, Scorer};
use interdict_scorer::subject::Subject;
use serde_json::json;

use crate::run::clock;
use crate::run::system::load_model;
use crate::score::Verdicts;
use crate::setup::Setup;

use super::traffic::batches;
use super::{Common, place};

/// How many rules there are at least.
const RULES: usize = 20;

/// Measure decisions one by one: model input, model, rules, outcome.
#[derive(clap::Args, Debug)]
pub(super) struct Decide {
    #[command(flatten)]
    common: Common,
    /// The configuration, with a bundle; rules are added until there are twenty
    #[arg(long, short, value_name = "FILE", default_value = "examples/handbook/interdict.toml")]
    config: PathBuf,
    /// How many events are decided in each round
    #[arg(long, value_name = "N", default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(100..))]
    events: u32,
}

impl Decide {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = with_rules(&self.config)?;
        let plan = Plan::compile(Arc::clone(&setup.definitions));
        let model = load_model(&setup)?;
        let active = model.as_ref().map(|(_, active, _)| Arc::clone(active));
        let judge = Judge::new(&setup.namespace, Arc::clone(&setup.policy), &setup.definitions, 0, active)?;
        let mut scorer = match &model {
            Some((runtime, active, _)) => Some(Scorer::open(runtime, Arc::clone(active))?),
            None => None,
        };
        let events = Events::settle(&plan, 0, batches(&plan, self.events as usize, |_| {}), &[])?;
        let vectors = vectors(&plan, &events);
        let context = Verdicts::context();
        let mut micros: Vec<Vec<f64>> = Vec::new();
        for _ in 0..self.common.rounds {
            let mut times = Vec::with_capacity(vectors.len());
            for (batch, row, vector) in &vectors {
                let row = events.batches()[*batch].row(*row);
                let subject = Subject { row, vector, entities: &[], context: &context };
                let began = clock::instant();
                let mut scored = Vec::with_capacity(1);
                match &mut scorer {
                    Some(scorer) => scorer.score(&[subject], &mut scored),
                    None => scored.push(Scored::NOT_ASKED),
                }
                std::hint::black_box(judge.decide(&subject, &scored[0].score, &[]));
                times.push(began.elapsed().as_secs_f64() * 1e6);
            }
            times.sort_by(f64::total_cmp);
            micros.push(times);
        }
        let percentile = |share: f64| {
            let mut of_rounds: Vec<f64> = micros.iter().map(|times| times[place(share, times.len())]).collect();
            of_rounds.sort_by(f64::total_cmp);
            of_rounds[of_rounds.len() / 2]
        };
        self.common.print(
            "decide",
            json!({
                "events": self.events,
                "model": model.is_some(),
                "inputs": model.as_ref().map(|(_, active, _)| active.inputs.len()),
                "rules": setup.policy.rules.len(),
                "p50_us": percentile(0.5),
                "p90_us": percentile(0.9),
                "p99_us": percentile(0.99),
                "p999_us": percentile(0.999),
            }),
        )
    }
}

/// Every event with its features.
fn vectors(plan: &Plan, events: &Events) -> Vec<(usize, usize, Vec<Reading>)> {
    let features = Features::evaluate(plan, events);
    let mut vectors = Vec::new();
    for (at, chunk) in events.chunks().iter().enumerate() {
        let columns = features.chunk(at);
        for row in chunk.from..chunk.to {
            let mut vector = vec![Reading::MISSING; plan.definitions.features.len()];
            for (column, named) in columns.iter().zip(features.columns()) {
                vector[named.feature] = column.reading(row - chunk.from);
            }
            vectors.push((chunk.batch, row, vector));
        }
    }
    vectors
}

/// The configuration with rules added until there are [`RULES`].
fn with_rules(path: &Path) -> anyhow::Result<Setup> {
    let mut source = std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let folder = path.parent().unwrap_or(Path::new("")).to_owned();
    let name = path.display().to_string();
    let known = Setup::parse(&name, &source, folder.clone())?.policy.rules.len();
    for number in known..RULES {
        write!(
            source,
            "\n[[rule]]\nid = \"bench_{number}\"\nwhen = \"customer_spend.tx_count_7d > {} && amount > {}.5\"\noutcome = \"review\"\nreason = \"measured\"\n",
            60 + number,
            300 + number
        )?;
    }
    Ok(Setup::parse(&name, &source, folder)?)
}
