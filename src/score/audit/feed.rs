//! One source partition, read once more in the order of its positions and as far as it is asked for.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use interdict_features::change::ChangeBatch;
use interdict_features::definition::Definitions;
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::source::FileSource;
use interdict_ingest::source::config::{AtEnd, Input, SourceConfig, SourceKind};
use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::online::OnlineStore;
use interdict_store::port::{LogName, Store as _};
use tokio::runtime::Runtime;

use crate::run::input_log::Entry;
use crate::run::sources::{DELIVERY, JudgedSources};
use crate::run::system::open_store;
use crate::run::unread;
use crate::setup::Setup;

/// Entries of the input log read at once.
const LOG_STEP: usize = 1_000;

/// A partition on its way.
#[derive(Debug)]
pub(super) struct Feed {
    /// The source's name.
    pub(super) source: String,
    /// Applied up to here.
    pub(super) applied: Option<u64>,
    /// Records that became no change, met since they were last taken.
    pub(super) letters: Vec<DeadLetter>,
    from: From,
    waiting: VecDeque<ChangeBatch>,
    /// Rows of the first of them that were handed out.
    taken: usize,
    /// Read up to here.
    read: Option<u64>,
    is_at_end: bool,
}

#[derive(Debug)]
enum From {
    File { source: Box<FileSource>, definitions: Arc<Definitions>, judged_sources: JudgedSources },
    InputLog { store: Arc<StoredInput>, definitions: Arc<Definitions>, next: u64 },
}

impl Feed {
    /// A configured source at its beginning; its records stand at `input` where that is given.
    pub(super) fn of_source(config: &SourceConfig, input: Option<&Path>, setup: &Setup) -> anyhow::Result<Self> {
        let SourceKind::File(file) = &config.kind else {
            return Err(anyhow!("source '{}' is of a kind that cannot be read again", config.name));
        };
        let mut file = file.clone();
        file.at_end = AtEnd::Stop;
        if let Some(input) = input {
            file.input = Input::Path(input.to_owned());
        }
        anyhow::ensure!(
            file.input != Input::Stdin,
            "source '{}' was read from standard input; name a file that holds the same with --input",
            config.name
        );
        let definitions = Arc::clone(&setup.definitions);
        let source = Box::new(FileSource::open(&config.name, &file, &definitions.streams, Stop::default())?);
        let judged_sources = JudgedSources::of(setup);
        Ok(Self::new(config.name.clone(), From::File { source, definitions, judged_sources }))
    }

    /// What came over HTTP.
    pub(super) fn of_input_log(store: Arc<StoredInput>, definitions: Arc<Definitions>) -> Self {
        let from = From::InputLog { store, definitions, next: 0 };
        Self::new(crate::run::input_log::SOURCE.to_owned(), from)
    }

    fn new(source: String, from: From) -> Self {
        let waiting = VecDeque::new();
        Self { source, applied: None, letters: Vec::new(), from, waiting, taken: 0, read: None, is_at_end: false }
    }

    /// The next changes up to position `until`, it included; `None` when there are no more.
    pub(super) fn next(&mut self, until: u64) -> anyhow::Result<Option<ChangeBatch>> {
        loop {
            if let Some(batch) = self.waiting.front() {
                let start = self.taken;
                let rest = (start..batch.len()).map(|row| batch.get(row).0.position);
                let end = start + rest.take_while(|&position| position <= until).count();
                let is_whole = end == batch.len();
                if start == 0 && is_whole {
                    return Ok(self.waiting.pop_front());
                }
                let next = (end > start).then(|| batch.part(start..end));
                self.taken = end;
                if is_whole {
                    self.waiting.pop_front();
                    self.taken = 0;
                }
                return Ok(next);
            }
            if self.is_at_end || self.read >= Some(until) {
                return Ok(None);
            }
            self.fill()?;
        }
    }

    /// Reads on up to `until` for the sake of what became no change; what did is left out.
    pub(super) fn skip(&mut self, until: u64) -> anyhow::Result<()> {
        while !self.is_at_end && self.read < Some(until) {
            self.fill()?;
            self.waiting.clear();
            self.taken = 0;
        }
        Ok(())
    }

    fn fill(&mut self) -> anyhow::Result<()> {
        match &mut self.from {
            From::File { source, definitions, judged_sources } => match source.next(DELIVERY)? {
                Some(mut delivery) => {
                    self.waiting.extend(unread::in_order(definitions, judged_sources, &self.source, &delivery));
                    self.letters.append(&mut delivery.dead);
                    self.read = Some(delivery.position);
                }
                None => self.is_at_end = true,
            },
            From::InputLog { store, definitions, next } => {
                let entries = store.read(*next, LOG_STEP)?;
                self.is_at_end = entries.is_empty();
                for (position, bytes) in entries {
                    let entry: Entry = serde_json::from_slice(&bytes).context("the input log")?;
                    self.waiting.push_back(entry.to_batch(definitions, position)?);
                    self.read = Some(position);
                    *next = position + 1;
                }
            }
        }
        Ok(())
    }
}

/// The input log, where the store holds it.
#[derive(Debug)]
pub(super) struct StoredInput {
    store: OnlineStore,
    /// What the store's connections live on; dropped last.
    runtime: Runtime,
}

impl StoredInput {
    /// Opens the store of a deployment that is not running, or that shares it.
    pub(super) fn open(setup: &Setup) -> anyhow::Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let store = runtime.block_on(open_store(setup))?;
        Ok(Self { store, runtime })
    }

    /// Entries from `position` on.
    pub(super) fn read(&self, position: u64, limit: usize) -> Result<Vec<(u64, Bytes)>, StoreError> {
        self.runtime.block_on(self.store.read_log(LogName::INPUT, position, limit))
    }
}
