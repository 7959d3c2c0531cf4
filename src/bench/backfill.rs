//! History Parquet to feature Parquet. Budget (DESIGN section 8), two cores: 1,500,000 rows/s.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::change::ChangeBatch;
use interdict_features::engine::Plan;
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::json;

use crate::backfill::{Codec, Job, Report};

use super::Common;
use super::traffic::{Rows, batches, definitions, record_batch, schema};

/// Measure backfill: a file of simulated payments in, its point-in-time features out.
#[derive(clap::Args, Debug)]
pub(super) struct Backfill {
    #[command(flatten)]
    common: Common,
    /// How many rows
    #[arg(long, value_name = "N", default_value_t = 2_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    rows: u32,
    /// How the new columns are compressed
    #[arg(long, value_enum, default_value_t)]
    compression: Codec,
}

impl Backfill {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let plan = definitions(Rows::Records, &["1d", "7d", "30d"])?;
        let folder = tempfile::tempdir()?;
        let input = folder.path().join("history.parquet");
        write_history(&plan, &batches(&plan, self.rows as usize, |_| {}), &input)?;
        let output = folder.path().join("features.parquet");
        let reports = self.common.on_threads(|| {
            (0..self.common.rounds).map(|_| self.round(&plan, &input, &output)).collect::<anyhow::Result<Vec<Report>>>()
        })?;
        let median = |of: fn(&Report) -> f64| {
            let mut values: Vec<f64> = reports.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        let bytes = |path: &PathBuf| std::fs::metadata(path).map(|metadata| metadata.len());
        self.common.print(
            "backfill",
            json!({
                "rows": self.rows,
                "features": plan.definitions.features.len(),
                "input_bytes": bytes(&input)?,
                "output_bytes": bytes(&output)?,
                "per_second": median(Report::rate),
                "read_seconds": median(|report| report.read_seconds),
                "evaluate_seconds": median(|report| report.evaluate_seconds),
                "write_seconds": median(|report| report.write_seconds),
                "sync_seconds": median(|report| report.sync_seconds),
            }),
        )
    }

    fn round(&self, plan: &Plan, input: &Path, output: &Path) -> anyhow::Result<Report> {
        let stream = &plan.definitions.streams[0];
        let job = Job { plan, stream, input, labels: &[], output, codec: self.compression, verdicts: None };
        Ok(job.run()?.0)
    }
}

/// Writes payments as `simulate` does: zstd, row groups of 131,072 rows.
pub(super) fn write_history(plan: &Plan, batches: &[ChangeBatch], path: &Path) -> anyhow::Result<()> {
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_max_row_group_row_count(Some(131_072));
    let schema = Arc::new(schema());
    let file = std::fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
    let mut writer = ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties.build()))?;
    debug_assert_eq!(plan.definitions.streams[0].columns.len(), schema.fields().len());
    for batch in batches {
        writer.write(&record_batch(&schema, batch)?)?;
    }
    writer.close()?;
    Ok(())
}
