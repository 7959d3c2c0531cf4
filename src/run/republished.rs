//! Databases that are republished: the role `republish` reads them, and everybody else the topic that it fills.

use interdict_ingest::source::config::{SourceConfig, SourceKind};

use crate::setup::Setup;

/// The topic of a source that is republished, as its readers have it.
fn topic_of(source: &SourceConfig) -> Option<SourceKind> {
    let SourceKind::Postgres(database) = &source.kind else { return None };
    database.republish.as_deref().cloned().map(SourceKind::Topic)
}

/// The sources that the role `republish` reads.
#[cfg(feature = "redis")]
pub(crate) fn captured(setup: &Setup) -> Vec<SourceConfig> {
    setup.sources.iter().filter(|source| topic_of(source).is_some()).cloned().collect()
}

/// The sources that ingestors read: topics where databases are republished.
#[cfg(feature = "redis")]
pub(crate) fn ingested(setup: &Setup) -> Vec<SourceConfig> {
    let ingested = |source: &SourceConfig| SourceConfig {
        name: source.name.clone(),
        kind: topic_of(source).unwrap_or_else(|| source.kind.clone()),
    };
    setup.sources.iter().map(ingested).collect()
}

/// Refuses what a process that plays every role could only read past its topic.
pub(crate) fn refuse(setup: &Setup) -> anyhow::Result<()> {
    match setup.sources.iter().find(|source| topic_of(source).is_some()) {
        None => Ok(()),
        Some(source) => anyhow::bail!(
            "source '{}' is republished: run --role republish, and --role ingest beside it, or remove [source.republish] to read the database without roles",
            source.name
        ),
    }
}
