//! Events per second through exact windows. Budget (DESIGN section 8), two cores: 2,000,000/s in memory, 1,000,000/s with row records.

use std::sync::Arc;
use std::time::Duration;

use interdict_features::change::ChangeBatch;
use interdict_features::engine::{Engine as Core, Evaluate, Output, Plan};
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{Commit, Store as _};
use serde_json::json;

use crate::run::clock;

use super::traffic::{Rows, batches, definitions};
use super::{Common, curve, rates};

/// The longest time between two checkpoints, as an embedded deployment has it.
const CHECKPOINT: Duration = Duration::from_millis(250);

/// Measure the engine: simulated payments through the handbook's groups, each applied, then evaluated.
#[derive(clap::Args, Debug)]
pub(super) struct Engine {
    #[command(flatten)]
    common: Common,
    /// How many events
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// Keep a row record per event, so that updates, deletes and late labels are exact
    #[arg(long)]
    rows: bool,
    /// Through the pipeline into an embedded store on disk, with checkpoints
    #[arg(long)]
    durable: bool,
    /// Also measure how cost grows with window length, idle keys and events
    #[arg(long)]
    curve: bool,
}

impl Engine {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let rows = if self.rows { Rows::Records } else { Rows::Append };
        let plan = definitions(rows, &["1d", "7d", "30d"])?;
        let traffic = batches(&plan, self.events as usize, |_| {});
        let threads = self.common.threads();
        let mut memory = 0;
        let times = self.common.on_threads(|| {
            let round = |_| {
                if self.durable {
                    durable(&plan, &traffic, threads)
                } else {
                    let (time, bytes) = in_memory(&plan, &traffic, threads)?;
                    memory = bytes;
                    Ok(time)
                }
            };
            (0..self.common.rounds).map(round).collect::<anyhow::Result<Vec<Duration>>>()
        })?;
        let mut figures = json!({
            "events": self.events, "customers": 5_000, "terminals": 10_000, "features": plan.definitions.features.len(),
            "row_records": self.rows, "durable": self.durable, "memory_bytes": (!self.durable).then_some(memory),
        });
        if let (Some(figures), Some(rates)) = (figures.as_object_mut(), rates(self.events as usize, times).as_object())
        {
            figures.extend(rates.clone());
        }
        if self.curve {
            figures["curve"] = self.common.on_threads(|| curve::measure(rows, threads))?;
        }
        self.common.print("engine", figures)
    }
}

/// One round in memory: its time, and the bytes held at its end.
pub(super) fn in_memory(
    plan: &Arc<Plan>,
    traffic: &[ChangeBatch],
    threads: usize,
) -> anyhow::Result<(Duration, usize)> {
    let mut engine = Core::new(Arc::clone(plan), threads);
    let mut output = Output::default();
    let began = clock::instant();
    for batch in traffic {
        engine.process(batch, Evaluate::Everything, &mut output)?;
        std::hint::black_box(output.readouts());
    }
    Ok((began.elapsed(), engine.memory_bytes()))
}

/// One round over an embedded store in a folder of its own.
fn durable(plan: &Arc<Plan>, traffic: &[ChangeBatch], threads: usize) -> anyhow::Result<Duration> {
    let folder = tempfile::tempdir()?;
    let store = Arc::new(EmbeddedStore::open(folder.path(), EmbeddedOptions::default())?);
    let limits = Limits { shards: threads, memory_bytes: 4 << 30 };
    let mut pipeline = Pipeline::new(Arc::clone(plan), Arc::clone(&store), limits);
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    runtime.block_on(async {
        pipeline.attach("bench", Some("bench")).await?;
        let began = clock::instant();
        let mut last = began;
        for batch in traffic {
            pipeline.apply(batch, Evaluate::Everything).await?;
            let position = batch.get(batch.len() - 1).0.position;
            pipeline.advance("bench", 0, position);
            if last.elapsed() >= CHECKPOINT {
                checkpoint(&mut pipeline, &store).await?;
                last = clock::instant();
            }
        }
        checkpoint(&mut pipeline, &store).await?;
        Ok(began.elapsed())
    })
}

async fn checkpoint(pipeline: &mut Pipeline<EmbeddedStore>, store: &EmbeddedStore) -> anyhow::Result<()> {
    let mut commit = Commit::default();
    pipeline.fill(&mut commit);
    store.commit(commit).await?;
    pipeline.stored();
    Ok(())
}
