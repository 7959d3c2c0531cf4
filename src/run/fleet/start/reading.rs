//! Starting what reads sources.

use std::fs::{File, TryLockError};
use std::sync::Arc;

use anyhow::{Context as _, anyhow};
use interdict_ingest::archive::folder::Sharing;
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_ingest::source::config::SourceConfig;
#[cfg(feature = "postgres")]
use interdict_ingest::source::postgres::metrics::PostgresMetrics;
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_ingest::topic::sink::What;
use tokio::sync::mpsc;

use super::super::super::archiving::Archives;
use super::super::super::core::Intake;
use super::super::super::letters::Letters;
use super::super::super::reached::{Beside, Reached};
use super::super::super::sources::{Confirms, JudgedSources, Starter};
use super::super::super::system::{self, INTAKE};
use super::super::super::{clock, republished, sinks, waiting};
use super::super::charges::Charges;
use super::super::confirming::Confirming;
use super::super::ingest::{Ingestor, RECORDS};
use super::super::sharing::Shared;
use super::super::tracked::Tracked;
use super::Process;

/// Processes that write dead letters in one folder at most.
const LETTER_FILES: u32 = 256;

impl Process<'_> {
    pub(super) fn pipeline(&self, tracked: &Arc<Tracked>) -> Pipeline<Tracked> {
        let engine = &self.setup.engine;
        let limits = Limits { shards: engine.shards, memory_bytes: engine.memory_bytes };
        let mut pipeline = Pipeline::new(Arc::clone(&self.plan), Arc::clone(tracked), limits);
        pipeline.began(clock::now());
        pipeline
    }

    /// A dead-letter file that no other process of this folder writes: the configured one, or one beside it with a number.
    pub(super) fn letters(&mut self) -> anyhow::Result<Letters> {
        let configured = &self.setup.engine.dead_letters;
        let stem = configured.file_stem().unwrap_or_default().to_string_lossy();
        let ending = configured.extension().unwrap_or_default().to_string_lossy();
        for number in 0..LETTER_FILES {
            let name = if number == 0 { format!("{stem}.{ending}") } else { format!("{stem}-{number}.{ending}") };
            let path = configured.with_file_name(&name);
            let beside = configured.with_file_name(format!("{name}.lock"));
            let lock = File::create(&beside).with_context(|| format!("{} cannot be written", beside.display()))?;
            match lock.try_lock() {
                Ok(()) => {
                    self.locks.push(lock);
                    return system::letters_at(&path, &self.stats, &self.stop_taking);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Err(anyhow!(
            "{LETTER_FILES} processes write dead letters in this folder already; give them folders of their own"
        ))
    }

    /// Begins to read `sources`: what they deliver, whom to confirm it to, and whether they were reached.
    pub(super) fn read(
        &mut self,
        sources: &[SourceConfig],
    ) -> anyhow::Result<(mpsc::Receiver<Intake>, Confirming, Reached)> {
        let (intake, deliveries) = mpsc::channel(INTAKE);
        waiting::register(&intake, &mut self.registry);
        let (claimant, stop) = (self.claimant("topic"), self.stop_edge.clone());
        self.archives = Archives::open(self.setup, Sharing::Shared, &mut self.registry, &self.stop_taking)?;
        let mut starter = Starter {
            setup: self.setup,
            #[cfg(feature = "postgres")]
            plan: Arc::clone(&self.plan),
            intake,
            stop: &self.stop_taking,
            confirms: Confirms::after(self.setup.store.replay_window()),
            reached: Reached::beside(Beside::Roles),
            topics: TopicMetrics::register(&mut self.registry),
            among: &|source| Box::new(Shared::new(&claimant, source, stop.clone())),
            archives: self.archives.clone(),
            #[cfg(feature = "postgres")]
            postgres: &PostgresMetrics::register(&mut self.registry),
        };
        for config in sources {
            starter.configured(config)?;
        }
        let Starter { confirms, reached, .. } = starter;
        Ok((deliveries, Confirming::new(confirms, self.archives.clone()), reached))
    }

    pub(super) fn ingest(&mut self, ends_with_sources: bool) -> anyhow::Result<Reached> {
        let setup = self.setup;
        anyhow::ensure!(
            !setup.sources.is_empty(),
            "--role ingest has nothing to read: the configuration has no [source]"
        );
        let charges = Charges::begin(self.charge.clone());
        let (deliveries, confirming, reached) = self.read(&republished::ingested(setup))?;
        let tracked = Arc::new(Tracked::new(Arc::clone(&self.online)));
        let letters = self.letters()?;
        let mut ingestor = Ingestor {
            plan: Arc::clone(&self.plan),
            pipeline: self.pipeline(&tracked),
            tracked,
            letters,
            sinks_letters: sinks::produces(setup, What::DeadLetters),
            stats: Arc::clone(&self.stats),
            fleet: Arc::clone(&self.fleet),
            judged_sources: JudgedSources::of(setup),
            confirming,
            charges,
            stop: self.stop_taking.clone(),
            records_max: RECORDS,
        };
        let sources = setup.sources.len();
        self.thread("ingestor", move || async move {
            ingestor.run(deliveries, sources, ends_with_sources).await.map(drop)
        })?;
        Ok(reached)
    }
}
