//! Starting the republisher.

use std::collections::HashMap;
use std::sync::Arc;

use interdict_ingest::republish::kafka::Republisher;
use interdict_ingest::republish::metrics::RepublishMetrics;
use interdict_ingest::source::config::SourceKind;
use interdict_ingest::topic::sink::What;

use super::super::super::reached::Reached;
use super::super::super::republished;
use super::super::super::sinks;
use super::super::super::sources::{JudgedSources, environment};
use super::super::republish::Republishing;
use super::Process;

impl Process<'_> {
    /// Starts to hand on what databases deliver.
    pub(super) fn republish(&mut self) -> anyhow::Result<Reached> {
        let setup = self.setup;
        let sources = republished::captured(setup);
        anyhow::ensure!(
            !sources.is_empty(),
            "--role republish has nothing to hand on: write [source.republish] under a [[source]] of type \"postgres\""
        );
        let metrics = RepublishMetrics::register(&mut self.registry);
        let mut topics = HashMap::new();
        for source in &sources {
            let SourceKind::Postgres(database) = &source.kind else { continue };
            let database = database.clone().located(&setup.folder);
            let topic = Republisher::open(&source.name, &database, &environment, metrics.of(&source.name))?;
            topics.extend(topic.map(|topic| (source.name.clone(), topic)));
        }
        let (deliveries, confirming, reached) = self.read(&sources)?;
        let mut republishing = Republishing {
            definitions: Arc::clone(&setup.definitions),
            topics,
            store: Arc::clone(&self.online),
            letters: self.letters()?,
            sinks_letters: sinks::produces(setup, What::DeadLetters),
            stats: Arc::clone(&self.stats),
            fleet: Arc::clone(&self.fleet),
            judged_sources: JudgedSources::of(setup),
            confirming,
            stop: self.stop_taking.clone(),
            charge: self.charge.clone(),
            stored: HashMap::new(),
        };
        self.thread("republisher", move || async move { republishing.run(deliveries).await })?;
        Ok(reached)
    }
}
