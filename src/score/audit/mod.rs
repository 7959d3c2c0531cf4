//! `interdict score --audit`: every logged decision made again from the input, and compared bit for bit.
//!
//! Given to a recomputation are the position that the record names, the list entries that it met and the caller's idempotency key;
//! everything else is made anew by the code that made it: features, score, rules, outcome, reasons, degraded values, actions.
//!
//! Invariant: a decision counts as equal only when all of its record is, clocks and durations apart. What cannot be made again is
//! counted with its reason.

mod difference;
mod feed;
mod ledger;
mod replay;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use interdict_features::engine::Plan;
use interdict_scorer::activation::Active;
use interdict_scorer::lists::Lists;

use crate::backfill::Progress;
use crate::run::input_log;
use crate::run::judging::Judging;
use crate::run::sources::JudgedSources;
use crate::run::system::load_model;
use crate::setup::{Setup, StoreSettings};

use difference::Difference;
use feed::{Feed, StoredInput};
use ledger::{Ledger, Logged, compared};
use replay::{Replay, Tally};

/// Differences shown.
const SHOWN: usize = 20;
/// Fields of one difference shown.
const FIELDS_SHOWN: usize = 12;
/// Passes over the input: one, and one more for every crash after which sources were read again in another order.
const PASSES_MAX: usize = 64;
/// Decisions between two signs of life.
const STEP: usize = 4_096;

/// What an audit came to.
#[derive(Debug, serde::Serialize)]
struct Report {
    /// In the log.
    records: u64,
    equal: u64,
    /// Judged by another model than the one in force; everything that no model has a part in is equal.
    other_model: u64,
    different: u64,
    /// Reason and count.
    not_audited: BTreeMap<String, u64>,
    /// The first of them.
    differences: Vec<Difference>,
    /// How often the input was read.
    passes: usize,
}

/// Makes the decisions logged in `folder` again; `input` stands for the path of the only source.
///
/// # Errors
/// A decision differs, none could be made again, or what is needed cannot be read.
pub(super) fn run(folder: &Path, setup: &Setup, input: Option<&Path>, as_json: bool) -> anyhow::Result<()> {
    anyhow::ensure!(
        input.is_none() || setup.sources.len() == 1,
        "--input stands for the path of the only source; the configuration has {}",
        setup.sources.len()
    );
    anyhow::ensure!(folder.is_dir(), "{} is no folder; name the log_dir of [monitor]", folder.display());
    let model = load_model(setup)?.map(|(runtime, active, _)| (runtime, active));
    let in_force = model.as_ref().map(|(_, active)| (stream_of(setup, active), active.hash.to_string()));
    let progress = Progress::begin("read the log", 1);
    let ledger = Ledger::read(folder, &in_force.into_iter().collect())?;
    progress.finish();
    let plan = Arc::new(Plan::compile(Arc::clone(&setup.definitions)));
    let lists = Lists::new(setup.policy.list_entries_max, []);
    let model = model.as_ref().map(|(runtime, active)| (runtime, active));
    let judging = Judging::new(&setup.namespace, Arc::clone(&plan), &setup.policy, model, 1, lists)?;
    Audit { setup, input, plan, ledger }.run(judging)?.report(folder)?.print(as_json)
}

fn stream_of(setup: &Setup, active: &Active) -> String {
    setup.definitions.streams[active.stream].name.clone()
}

struct Audit<'a> {
    setup: &'a Setup,
    input: Option<&'a Path>,
    plan: Arc<Plan>,
    ledger: Ledger,
}

/// All decisions counted, the differing ones not yet told.
struct Audited {
    ledger: Ledger,
    tally: Tally,
    not_audited: BTreeMap<String, u64>,
    passes: usize,
}

impl Audit<'_> {
    fn run(self, mut judging: Judging) -> anyhow::Result<Audited> {
        let mut not_audited = BTreeMap::new();
        if self.ledger.by_deadline > 0 {
            let reason = "the deadline came before the engine had a position: the policy's default";
            not_audited.insert(reason.to_owned(), self.ledger.by_deadline);
        }
        let input_log = self.input_log();
        let missing = self.missing(input_log.as_ref().err());
        let (mut undecodable, mut wanted) = (Vec::new(), Vec::new());
        for (index, logged) in self.ledger.logged.iter().enumerate() {
            match self.why_not(logged, &missing) {
                Some(reason) => *not_audited.entry(reason.to_owned()).or_default() += 1,
                None if logged.is_undecodable => undecodable.push(index),
                None => wanted.push(index),
            }
        }
        let input_log = input_log.ok().flatten();
        let mut tally = Tally { first_max: SHOWN, ..Tally::default() };
        let progress = Progress::begin("recompute", wanted.len().div_ceil(STEP));
        let (mut made, mut passes) = (0, 0);
        while passes == 0 || (!wanted.is_empty() && passes < PASSES_MAX) {
            let feeds = self.feeds(input_log.as_ref())?;
            let shards = self.setup.engine.shards;
            let mut replay = Replay::new(&self.ledger, &self.plan, &mut judging, &mut tally, feeds, shards);
            wanted = replay.pass(&wanted, |count| {
                for _ in made / STEP..(made + count) / STEP {
                    progress.advance();
                }
                made += count;
            })?;
            if passes == 0 {
                replay.make_undecodable(&undecodable, &JudgedSources::of(self.setup))?;
            }
            passes += 1;
        }
        progress.finish();
        if !wanted.is_empty() {
            let reason = format!("more than {PASSES_MAX} passes over the input would be needed");
            not_audited.insert(reason, wanted.len() as u64);
        }
        Ok(Audited { ledger: self.ledger, tally, not_audited, passes })
    }

    /// The store that holds the input log, where a decision needs it; or why it cannot be read.
    fn input_log(&self) -> Result<Option<Arc<StoredInput>>, String> {
        if !self.ledger.partitions.iter().any(|name| source_of(name) == input_log::SOURCE) {
            return Ok(None);
        }
        if let StoreSettings::Embedded(settings) = &self.setup.store
            && !settings.path.is_dir()
        {
            return Err(format!("there is no store at {}", settings.path.display()));
        }
        let input = StoredInput::open(self.setup).map_err(|error| crate::told::told(&error))?;
        let first = input.read(0, 1).map_err(|error| error.to_string())?;
        match first.first() {
            Some((0, _)) => Ok(Some(Arc::new(input))),
            Some((position, _)) => Err(format!(
                "its entries before {position} were trimmed as old ([store] input_log_keep), and what is decided may rest on them"
            )),
            None => Err("the store no longer holds it".to_owned()),
        }
    }

    /// Per partition, why it cannot be read again.
    fn missing(&self, no_input_log: Option<&String>) -> Vec<Option<String>> {
        let missing = |name: &String| {
            let source = source_of(name);
            if source == input_log::SOURCE {
                return no_input_log.map(|why| {
                    format!("it came over HTTP or saw what did, and the input log is not to be had: {why}")
                });
            }
            let is_known = self.setup.sources.iter().any(|config| config.name == source);
            (!is_known).then(|| format!("it saw the source '{source}', which the configuration does not have"))
        };
        self.ledger.partitions.iter().map(missing).collect()
    }

    fn why_not<'m>(&self, logged: &Logged, missing: &'m [Option<String>]) -> Option<&'m str> {
        let others = self.ledger.others[logged.others].iter().map(|(partition, _)| *partition);
        others.chain([logged.partition]).find_map(|partition| missing[partition].as_deref())
    }

    /// Every partition at its beginning.
    fn feeds(&self, input_log: Option<&Arc<StoredInput>>) -> anyhow::Result<Vec<Option<Feed>>> {
        let definitions = &self.setup.definitions;
        let feed = |name: &String| {
            let source = source_of(name);
            if source == input_log::SOURCE {
                let feed = input_log.map(|store| Feed::of_input_log(Arc::clone(store), Arc::clone(definitions)));
                return Ok(feed);
            }
            let config = self.setup.sources.iter().find(|config| config.name == source);
            config.map(|config| Feed::of_source(config, self.input, self.setup)).transpose()
        };
        self.ledger.partitions.iter().map(feed).collect()
    }
}

/// The source of a `source/partition`.
fn source_of(partition: &str) -> &str {
    partition.rsplit_once('/').map_or(partition, |(source, _)| source)
}

impl Audited {
    /// Looks up in the log what the first differing decisions were.
    fn report(self, folder: &Path) -> anyhow::Result<Report> {
        let mut differences = Vec::new();
        for (index, made) in self.tally.first {
            let logged = &self.ledger.logged[index];
            let place = format!("{}:{}", self.ledger.partitions[logged.partition], logged.position);
            differences.push((
                logged,
                made,
                Difference { decision_id: logged.id.to_string(), place, fields: Vec::new() },
            ));
        }
        if !differences.is_empty() {
            for entry in interdict_monitor::log::read(folder)? {
                let entry = entry?;
                let found = differences.iter_mut().find(|(logged, ..)| logged.log_position == entry.position);
                let Some((logged, made, difference)) = found else { continue };
                let record = compared(entry.record, logged.model)?;
                difference.fields = difference::fields(&record, made.as_ref().unwrap_or(&serde_json::Value::Null));
            }
        }
        Ok(Report {
            records: self.ledger.records,
            equal: self.tally.equal,
            other_model: self.tally.equal_but_model,
            different: self.tally.different,
            not_audited: self.not_audited,
            differences: differences.into_iter().map(|(.., difference)| difference).collect(),
            passes: self.passes,
        })
    }
}

impl Report {
    /// Prints to standard output.
    ///
    /// # Errors
    /// Not everything is equal, or nothing was audited.
    fn print(&self, as_json: bool) -> anyhow::Result<()> {
        if as_json {
            say!("{}", serde_json::to_value(self)?);
        } else {
            self.tell();
        }
        anyhow::ensure!(
            self.different == 0,
            "{} of {} decisions are not what the input and this configuration make of them",
            self.different,
            self.records
        );
        anyhow::ensure!(self.equal + self.other_model > 0, "no decision could be audited");
        Ok(())
    }

    fn tell(&self) {
        for difference in &self.differences {
            say!("{} at {}", difference.decision_id, difference.place);
            for field in difference.fields.iter().take(FIELDS_SHOWN) {
                if field.path.is_empty() {
                    say!("  the input has no such judged event there");
                } else {
                    say!("  {}: logged {}, recomputed {}", field.path, field.logged, field.recomputed);
                }
            }
            let more = difference.fields.len().saturating_sub(FIELDS_SHOWN);
            if more > 0 {
                say!("  and {more} fields more");
            }
        }
        say!("{} decisions: {} equal, {} different", self.records, self.equal, self.different);
        if self.other_model > 0 {
            say!("{} judged by another model: what no model has a part in is equal", self.other_model);
        }
        for (reason, count) in &self.not_audited {
            say!("{count} not audited: {reason}");
        }
    }
}
