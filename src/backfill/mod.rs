//! `interdict backfill`: history Parquet in, point-in-time features Parquet out.
//!
//! Invariants:
//! - The output appears whole under its name or not at all.
//! - Every row of the input is an event of the output, gave way to a newer version of its id, or is a dead letter; all are counted.

mod arrays;
mod fill;
mod labels;
mod progress;
mod report;
mod table;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail};
use interdict_features::backfill::{Events, Features, Part};
use interdict_features::change::ChangeBatch;
use interdict_features::definition::{Definitions, Stream};
use interdict_features::engine::Plan;
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::dead_letter::file::{Bounds, DeadLetterFile};
use interdict_ingest::history::History;
use rayon::prelude::*;

use crate::run::{clock, letters};
use crate::score::Verdicts;
use crate::setup::Setup;

use labels::Reports;

pub(crate) use labels::Labels;
pub(crate) use progress::Progress;
pub(crate) use report::Report;
pub(crate) use table::Codec;

/// Compute the features of every event of a history as a decision on it would have seen them.
///
/// The whole history is held in memory: about 16 bytes per column and event, 100 more per event, 8 per feature and 50 per group. Of
/// rows with the same id the newest version counts (column `_op` and `_position` as sources have them); each event stands where that
/// row stood. Columns of the input are copied as they are.
#[derive(clap::Args, Debug)]
pub(crate) struct Backfill {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "interdict.toml")]
    config: PathBuf,
    /// History: a Parquet file, a folder of them, or a pattern such as 'data/2018-*.parquet'
    #[arg(long, short, value_name = "PATH")]
    input: PathBuf,
    /// Where the features go (Parquet); rows that cannot be read go beside it, to FILE.dead-letters.jsonl
    #[arg(long, short, value_name = "FILE")]
    output: PathBuf,
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
    /// Also fill the configured store with the states and row records of this history; live offsets stay as they are
    #[arg(long)]
    fill_store: bool,
    /// Fill a store that a source already fed
    #[arg(long, requires = "fill_store")]
    fill_live: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What is to be computed from what.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) stream: &'a Arc<Stream>,
    pub(crate) input: &'a Path,
    pub(crate) labels: &'a [Labels],
    pub(crate) output: &'a Path,
    pub(crate) codec: Codec,
    /// Also judges every event.
    pub(crate) verdicts: Option<&'a Verdicts>,
}

/// A history in memory.
pub(crate) struct Loaded {
    pub(crate) history: History,
    pub(crate) events: Events,
    /// Batches of the streams of labels.
    pub(crate) reports: Vec<ChangeBatch>,
    pub(crate) dead: Vec<DeadLetter>,
}

impl Backfill {
    fn live(&self) -> fill::Live {
        if self.fill_live { fill::Live::Taken } else { fill::Live::Refused }
    }

    /// Reads, evaluates and writes.
    ///
    /// # Errors
    /// What stands in the way, and what to do about it.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let setup = Setup::load(&self.config)?;
        refuse_existing(&self.output, self.force)?;
        if self.fill_store {
            fill::refuse_live(&setup, self.live())?;
        }
        let plan = Plan::compile(Arc::clone(&setup.definitions));
        let stream = stream_of(&setup.definitions, self.stream.as_deref())?;
        let labels = Labels::of(&setup.definitions, stream, &self.labels)?;
        let job = Job {
            plan: &plan,
            stream,
            input: &self.input,
            labels: &labels,
            output: &self.output,
            codec: self.compression,
            verdicts: None,
        };
        let (mut report, loaded) = job.run()?;
        if self.fill_store {
            let began = clock::instant();
            fill::fill(&setup, &plan, &loaded, self.live())?;
            report.fill_seconds = Some(began.elapsed().as_secs_f64());
        }
        report.print(self.json)
    }
}

impl Job<'_> {
    /// Reads the history, evaluates every event and writes the table.
    pub(crate) fn run(&self) -> anyhow::Result<(Report, Loaded)> {
        let began = clock::instant();
        let loaded = load(self.plan, self.stream, self.input, self.labels)?;
        let read_seconds = began.elapsed().as_secs_f64();
        write_dead_letters(&dead_letters_path(self.output), &loaded.dead)?;
        warn_of(self.plan, &loaded.events);
        let began = clock::instant();
        let progress = Progress::begin("evaluate", 1);
        let features = Features::evaluate(self.plan, &loaded.events);
        progress.finish();
        let evaluate_seconds = began.elapsed().as_secs_f64();
        let began = clock::instant();
        let written = table::write(self, &loaded, &features)?;
        let write_seconds = began.elapsed().as_secs_f64();
        let began = clock::instant();
        written.publish(self.output)?;
        let sync_seconds = began.elapsed().as_secs_f64();
        let settled = loaded.events.settled();
        let report = Report {
            output: self.output.display().to_string(),
            rows: loaded.history.rows(),
            events: settled.rows - settled.superseded - settled.deleted - settled.refused,
            superseded: settled.superseded,
            deleted: settled.deleted,
            labelled: settled.labelled,
            unmatched_labels: settled.unmatched_labels,
            dead_letters: loaded.dead.len(),
            columns: features.columns().len(),
            read_seconds,
            evaluate_seconds,
            write_seconds,
            sync_seconds,
            fill_seconds: None,
        };
        Ok((report, loaded))
    }
}

/// Reads a history into memory, each id at its newest version.
fn load(plan: &Plan, stream: &Arc<Stream>, input: &Path, labels: &[Labels]) -> anyhow::Result<Loaded> {
    let history = History::open(input, stream)?;
    let (batches, mut dead) = read("read", &history)?;
    let mut reports = Reports::load(labels)?;
    dead.append(&mut reports.dead);
    let events = Events::settle(plan, stream.index, batches, &reports.batches)?;
    for refused in events.refused() {
        let (history, batches) = match refused.part {
            Part::Rows => (Some(&history), events.batches()),
            Part::Labels => (reports.history_of(refused.batch), &*reports.batches),
        };
        let batch = &batches[refused.batch];
        let file = history.and_then(|history| history.file_of(batch.get(refused.row).0.position));
        let source = file.map(|file| file.path().display().to_string()).unwrap_or_default();
        dead.push(letters::letter(&source, batch, refused.row, refused.why));
    }
    Ok(Loaded { history, events, reports: reports.batches, dead })
}

fn read(what: &'static str, history: &History) -> anyhow::Result<(Vec<ChangeBatch>, Vec<DeadLetter>)> {
    let progress = Progress::begin(what, history.row_groups());
    let groups = (0..history.row_groups()).into_par_iter().map(|group| {
        let read = history.read_group(group);
        progress.advance();
        read
    });
    let groups: Result<Vec<_>, _> = groups.collect();
    progress.finish();
    let (batches, dead): (Vec<_>, Vec<_>) = groups?.into_iter().unzip();
    Ok((batches, dead.into_iter().flatten().collect()))
}

/// The stream that is asked for, or the only one with rows.
pub(crate) fn stream_of<'a>(definitions: &'a Definitions, name: Option<&str>) -> anyhow::Result<&'a Arc<Stream>> {
    let rows = || definitions.streams.iter().filter(|stream| stream.labels.is_none());
    let names = || rows().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", ");
    match (name, rows().count()) {
        (Some(name), _) => rows()
            .find(|stream| stream.name == name)
            .with_context(|| format!("there is no stream '{name}' with rows; the configuration has: {}", names())),
        (None, 1) => rows().next().context("there is one stream"),
        (None, _) => bail!("the configuration has several streams: add --stream with one of {}", names()),
    }
}

/// Refuses an output that is not to be written over: a file without `force`, and what is no file in any case, as a table takes the name
/// of what stands there.
pub(crate) fn refuse_existing(output: &Path, force: bool) -> anyhow::Result<()> {
    match std::fs::metadata(output) {
        Ok(there) if there.is_dir() => bail!("{} is a folder; name a file in it", output.display()),
        Ok(there) if !there.is_file() => bail!(
            "{} is no regular file; a table is written beside its name and takes it when complete: name a file, and remove it if it is not wanted",
            output.display()
        ),
        Ok(_) if !force => bail!("{} exists; add --force to write over it", output.display()),
        _ => Ok(()),
    }
}

/// Dead letters stand beside the output.
pub(crate) fn dead_letters_path(output: &Path) -> PathBuf {
    let mut name = output.as_os_str().to_owned();
    name.push(".dead-letters.jsonl");
    PathBuf::from(name)
}

/// Writes what could not be read to a file of its own, replacing that of an earlier run.
pub(crate) fn write_dead_letters(path: &Path, dead: &[DeadLetter]) -> anyhow::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            return Err(error).with_context(|| format!("cannot remove {} of an earlier run", path.display()));
        }
        _ => {}
    }
    if dead.is_empty() {
        return Ok(());
    }
    let bounds = Bounds { file_bytes_max: u64::MAX, ..Bounds::default() };
    let mut file = DeadLetterFile::open(path, bounds)?;
    file.write(dead)?;
    file.flush()?;
    eprintln!("backfill: {} rows cannot be taken; they are in {}", dead.len(), path.display());
    Ok(())
}

/// Says what a reader of the features must know.
pub(crate) fn warn_of(plan: &Plan, events: &Events) {
    let settled = events.settled();
    if settled.known_at_once {
        eprintln!(
            "backfill: labels without a report time count as known at once; name their column with label_time, or give --labels"
        );
    }
    if settled.unmatched_labels > 0 {
        eprintln!("backfill: {} labels name no row of this history", settled.unmatched_labels);
    }
    let stream = events.stream();
    let elsewhere = plan.definitions.groups.iter().filter(|group| group.stream != stream);
    let elsewhere: Vec<&str> = elsewhere.map(|group| group.name.as_str()).collect();
    if !elsewhere.is_empty() {
        eprintln!(
            "backfill: groups of other streams are left out, null where a derived feature uses them: {}",
            elsewhere.join(", ")
        );
    }
}
