//! `interdict check`: every mistake of a configuration at once.
//!
//! Invariant: what `check` accepts, `run` and `backfill` accept: they read the configuration by the same function.

use std::path::PathBuf;

use anyhow::Context as _;
use interdict_features::config::{ConfigFile, Problem};
use interdict_features::definition::{Definitions, Entity};
use interdict_features::state::{Program, TILED_BYTES_MAX};

use crate::setup::{Setup, SetupError};

/// Check a configuration as a whole and print every mistake.
#[derive(clap::Args, Debug)]
pub(crate) struct Check {
    /// The configuration
    #[arg(long, short, value_name = "FILE", default_value = "interdict.toml")]
    config: PathBuf,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What `check --json` prints.
#[derive(serde::Serialize)]
struct Report<'a> {
    file: &'a str,
    ok: bool,
    mistakes: &'a [Problem],
    /// What is no mistake and yet may not be meant.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
}

/// The configuration has mistakes; they were printed.
#[derive(Debug, thiserror::Error)]
#[error("{count} {} in {file}", if *count == 1 { "mistake" } else { "mistakes" })]
pub(crate) struct Mistaken {
    count: usize,
    file: String,
}

impl Check {
    /// Reads the configuration and prints what is wrong with it.
    ///
    /// # Errors
    /// [`Mistaken`] when something is; otherwise why the file cannot be read.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let file = self.config.display().to_string();
        let read = Setup::load(&self.config);
        let problems = match &read {
            Ok(_) => &[][..],
            Err(error @ SetupError::Mistakes(_)) => error.problems(),
            Err(_) => {
                read?;
                return Ok(());
            }
        };
        let notes = read.as_ref().map(|setup| notes(&setup.definitions)).unwrap_or_default();
        if self.json {
            let report = Report { file: &file, ok: problems.is_empty(), mistakes: problems, notes };
            say!("{}", serde_json::to_string_pretty(&report).context("the report cannot be written")?);
        } else {
            problems.iter().for_each(|problem| say!("{problem}"));
            notes.iter().for_each(|note| say!("note: {note}"));
        }
        let Ok(setup) = &read else { return Err(Mistaken { count: problems.len(), file }.into()) };
        if !self.json {
            say!("{file} is good: {}", summary(&setup.definitions));
        }
        Ok(())
    }
}

fn summary(definitions: &Definitions) -> String {
    format!(
        "{} streams, {} entities, {} groups, {} features; 'interdict plan' says what they cost",
        definitions.streams.len(),
        definitions.entities.len(),
        definitions.groups.len(),
        definitions.features.len(),
    )
}

/// Entities that no list and no action reaches.
fn notes(definitions: &Definitions) -> Vec<String> {
    if definitions.streams.iter().all(|stream| stream.judge.is_none()) {
        return Vec::new();
    }
    let unreached = definitions.entities.iter().filter(|entity| !definitions.is_reached(entity));
    let note = |entity: &Entity| {
        let (name, key) = (&entity.name, entity.key.join(", "));
        format!(
            "no judged event has the key of '{name}' ({key}): lists and actions reach nobody by it, /v1/blocks refuses it; declare an entity by the column of the one who is meant"
        )
    };
    unreached.map(note).collect()
}

/// Notes the groups whose states could grow past [`TILED_BYTES_MAX`] (DESIGN 3.1).
pub(crate) fn tiled_states(file: &ConfigFile, definitions: &Definitions) {
    for (section, group) in file.array("group").iter().zip(&definitions.groups) {
        let bytes = Program::compile(definitions, group).tiled_bytes_max();
        if bytes > TILED_BYTES_MAX {
            let message = format!(
                "a busy key's state of group '{}' could take {bytes} bytes; {TILED_BYTES_MAX} is the most a state may take",
                group.name
            );
            let help = "write a smaller slack in [time] (short windows have many tiles in it), a shorter delay, or fewer windows in a \
                        group with quantile, distinct_count or most_frequent";
            section.report("windows", message, help);
        }
    }
}
