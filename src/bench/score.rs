//! Batch scoring, features included. Budget (DESIGN section 8), two cores and 200 trees: 200,000 rows/s.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use interdict_features::engine::Plan;
use serde_json::json;

use crate::backfill::{Codec, Job};
use crate::score::verdicts;
use crate::setup::Setup;

use super::backfill::write_history;
use super::traffic::batches;
use super::{Common, rates};

/// Measure batch scoring of simulated payments with the model and rules of a configuration over the handbook's columns.
#[derive(clap::Args, Debug)]
pub(super) struct Score {
    #[command(flatten)]
    common: Common,
    /// The configuration, with a bundle
    #[arg(long, short, value_name = "FILE", default_value = "examples/handbook/interdict.toml")]
    config: PathBuf,
    /// How many rows
    #[arg(long, value_name = "N", default_value_t = 500_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
}

impl Score {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let setup = Setup::load(&self.config)?;
        let plan = Plan::compile(Arc::clone(&setup.definitions));
        ensure!(plan.definitions.streams[0].columns.len() == 6, "the bench needs the columns of examples/handbook");
        let folder = tempfile::tempdir()?;
        let (input, output) = (folder.path().join("history.parquet"), folder.path().join("scores.parquet"));
        write_history(&plan, &batches(&plan, self.rows as usize, |_| {}), &input)?;
        let (times, has_model) = self.common.on_threads(|| {
            let verdicts = verdicts(&setup, 0)?;
            let stream = &plan.definitions.streams[0];
            let (plan, input, output, codec) = (&plan, input.as_path(), output.as_path(), Codec::default());
            let job = Job { plan, stream, input, labels: &[], output, codec, verdicts: Some(&verdicts) };
            let round = |_| Ok(std::time::Duration::from_secs_f64(job.run()?.0.seconds()));
            let times = (0..self.common.rounds).map(round).collect::<anyhow::Result<Vec<_>>>()?;
            Ok((times, verdicts.has_model()))
        })?;
        let mut figures = json!({ "rows": self.rows, "model": has_model, "rules": setup.policy.rules.len() });
        if let (Some(figures), Some(rates)) = (figures.as_object_mut(), rates(self.rows as usize, times).as_object()) {
            figures.extend(rates.clone());
        }
        self.common.print("score", figures)
    }
}
