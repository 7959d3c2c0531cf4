//! `interdict score`: history Parquet in, features, scores and decisions out; or logged decisions made again.
//!
//! Invariants:
//! - Scores and decisions come from the judge that decides the stream, over the features that backfill computes.
//! - Each event is judged by model and rules alone, with empty lists: what an earlier decision would have blocked is scored too, so
//!   that the rows can be compared with their labels.

mod audit;
mod verdicts;

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::engine::Plan;
use interdict_scorer::judge::Judge;

use crate::backfill::{Codec, Job, Labels, refuse_existing, stream_of};
use crate::run::system::load_model;
use crate::setup::Setup;

pub(crate) use verdicts::Verdicts;

/// Score every event of a history with the configured model and rules, features included.
///
/// The output has the columns of `backfill` and: `score` (null where the model gave none), `outcome` (approve, review or block),
/// `decided_by`, `rules` (ids of those that hit, with commas) and `degraded` (a missing value counted against it). Block and allow
/// lists are taken as empty. Memory is needed as for `backfill`.
///
/// With --audit LOG_FOLDER every logged decision is made again from what the deployment read, up to the positions that its record
/// names, and compared bit for bit, clocks apart. Exit code 0 when all are equal, 1 when one is not or none could be audited.
#[derive(clap::Args, Debug)]
pub(crate) struct Score {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "interdict.toml")]
    config: PathBuf,
    /// History: a Parquet file, a folder of them, or a pattern such as 'data/2018-*.parquet'. With --audit: where the only source's
    /// records stand now [default: its path]
    #[arg(long, short, value_name = "PATH", required_unless_present = "audit")]
    input: Option<PathBuf>,
    /// Make the decisions in this decision log again and compare
    #[arg(long, value_name = "LOG_FOLDER", conflicts_with_all = ["output", "stream", "labels", "compression", "force"])]
    audit: Option<PathBuf>,
    /// Where scores and decisions go (Parquet); rows that cannot be read go beside it, to FILE.dead-letters.jsonl
    #[arg(long, short, value_name = "FILE", required_unless_present = "audit")]
    output: Option<PathBuf>,
    /// The stream whose rows these are [default: the only one that has rows]
    #[arg(long, value_name = "NAME")]
    stream: Option<String>,
    /// Labels on a stream of their own: Parquet file, folder or pattern; where several streams bring labels, once for each
    #[arg(long, value_name = "[STREAM=]PATH")]
    labels: Vec<PathBuf>,
    /// How the new columns are compressed
    #[arg(long, value_enum, default_value_t)]
    compression: Codec,
    /// Write over an output that exists
    #[arg(long)]
    force: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Score {
    /// Reads, evaluates, judges and writes.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let setup = Setup::load(&self.config)?;
        if let Some(log) = &self.audit {
            return audit::run(log, &setup, self.input.as_deref(), self.json);
        }
        let (Some(input), Some(output)) = (&self.input, &self.output) else {
            anyhow::bail!("name the history with --input and the result with --output");
        };
        refuse_existing(output, self.force)?;
        let plan = Plan::compile(Arc::clone(&setup.definitions));
        let stream = stream_of(&setup.definitions, self.stream.as_deref())?;
        let labels = Labels::of(&setup.definitions, stream, &self.labels)?;
        let verdicts = verdicts(&setup, stream.index)?;
        if !verdicts.has_model() {
            eprintln!("score: no model judges stream {}: rules alone decide", stream.name);
        }
        let job = Job {
            plan: &plan,
            stream,
            input,
            labels: &labels,
            output,
            codec: self.compression,
            verdicts: Some(&verdicts),
        };
        job.run()?.0.print(self.json)
    }
}

/// The configured judge of a stream, with a session of its model for every thread.
pub(crate) fn verdicts(setup: &Setup, stream: usize) -> anyhow::Result<Verdicts> {
    let model = load_model(setup)?.map(|(runtime, active, _)| (runtime, active));
    let active = model.as_ref().map(|(_, active)| Arc::clone(active));
    let policy = Arc::clone(&setup.policy);
    let judge = Judge::new(&setup.namespace, policy, &setup.definitions, stream, active).context("no judge")?;
    Verdicts::new(judge, model.as_ref().map(|(runtime, _)| runtime), rayon::current_num_threads())
}
