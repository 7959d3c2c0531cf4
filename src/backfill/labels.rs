//! `--labels`: the files that hold the labels of streams of labels.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{bail, ensure};
use interdict_features::change::ChangeBatch;
use interdict_features::definition::{Definitions, Stream};
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::history::History;

/// The labels that one stream brings.
#[derive(Clone, Debug)]
pub(crate) struct Labels {
    stream: Arc<Stream>,
    path: PathBuf,
}

/// Labels in memory.
#[derive(Default)]
pub(super) struct Reports {
    pub(super) batches: Vec<ChangeBatch>,
    pub(super) dead: Vec<DeadLetter>,
    /// Where each history's batches end.
    histories: Vec<(usize, History)>,
}

impl Labels {
    /// Reads `--labels` as given, `PATH` or `STREAM=PATH`, each for a stream that labels `stream`.
    pub(crate) fn of(definitions: &Definitions, stream: &Stream, given: &[PathBuf]) -> anyhow::Result<Vec<Self>> {
        let is_label = |other: &&Arc<Stream>| other.labels.is_some_and(|labels| labels.stream == stream.index);
        let streams: Vec<&Arc<Stream>> = definitions.streams.iter().filter(is_label).collect();
        ensure!(
            given.is_empty() || !streams.is_empty(),
            "--labels needs a stream with labels = \"{}\" in the configuration; there is none",
            stream.name
        );
        let mut labels: Vec<Self> = Vec::new();
        for given in given {
            let one = Self::read(&stream.name, &streams, given)?;
            ensure!(
                labels.iter().all(|other| other.stream.index != one.stream.index),
                "--labels names those of '{}' twice; name a folder or a pattern that has them all",
                one.stream.name
            );
            labels.push(one);
        }
        Ok(labels)
    }

    fn read(labelled: &str, streams: &[&Arc<Stream>], given: &Path) -> anyhow::Result<Self> {
        let named = given.to_str().and_then(|text| text.split_once('='));
        let found = named.and_then(|(name, path)| Some((streams.iter().find(|stream| stream.name == name)?, path)));
        match (found, streams) {
            (Some((stream, path)), _) => Ok(Self { stream: Arc::clone(stream), path: path.into() }),
            (None, [only]) => Ok(Self { stream: Arc::clone(only), path: given.to_owned() }),
            (None, _) => {
                let names: Vec<&str> = streams.iter().map(|stream| stream.name.as_str()).collect();
                bail!(
                    "several streams bring labels of '{labelled}', and --labels {path} does not say which: write --labels STREAM={path}, once for each of {names}",
                    path = given.display(),
                    names = names.join(", ")
                )
            }
        }
    }
}

impl Reports {
    /// Reads all labels.
    pub(super) fn load(labels: &[Labels]) -> anyhow::Result<Self> {
        let mut reports = Self::default();
        for labels in labels {
            let history = History::open(&labels.path, &labels.stream)?;
            let (batches, dead) = super::read("read labels", &history)?;
            reports.batches.extend(batches);
            reports.dead.extend(dead);
            reports.histories.push((reports.batches.len(), history));
        }
        Ok(reports)
    }

    /// Where a batch was read.
    pub(super) fn history_of(&self, batch: usize) -> Option<&History> {
        self.histories.iter().find(|(end, _)| batch < *end).map(|(_, history)| history)
    }
}
