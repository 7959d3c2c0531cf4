//! Work that ingestors leave for scorers: an event of a judged stream with the features it had when it was applied.
//!
//! A piece is JSON. It leaves in the commit that applied the event, so there is one piece for every judged event whatever dies, and the
//! features are those that one process reading the same partition would have seen: everything before the event and nothing after it.
//!
//! Invariant: a case made from a piece gives the record that the case it was made of would have given.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::Bytes;
use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::decision::EntityRef;
use interdict_features::definition::{Definitions, Stream};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;
use interdict_features::vector::Reading;
use interdict_ingest::dead_letter::DeadLetter;
use interdict_scorer::scorer::Scored;
use interdict_scorer::subject::Context;
use serde::{Deserialize, Serialize};

use crate::run::judging::Case;

/// One piece of work.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub(super) enum Work {
    /// An event to be judged.
    Event(Box<Event>),
    /// A record of a judged stream that became no event.
    Undecodable { stream: String, letter: DeadLetter },
}

/// An event with everything it is judged by.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub(super) struct Event {
    pub(super) stream: String,
    op: Op,
    version: Version,
    arrival: Option<Timestamp>,
    cells: Vec<Cell>,
    entities: Vec<EntityRef>,
    context: Context,
    vector: Vec<Reading>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refused: Option<Cow<'static, str>>,
}

/// A cell as it travels: texts by themselves, everything else as the number it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Cell {
    Number(i64),
    Text(String),
}

/// Why a piece of work cannot be done.
#[derive(Debug, thiserror::Error)]
pub(super) enum WorkError {
    /// Another version wrote it.
    #[error("a piece of work is not what this version writes: {0}")]
    Json(#[from] serde_json::Error),
    /// Ingestors and scorers do not have the same configuration.
    #[error(
        "a piece of work is of stream '{stream}' as another configuration has it; give every role of a namespace the same configuration"
    )]
    Stream {
        /// The stream.
        stream: String,
    },
}

impl Work {
    /// The work of a case whose event stands in `batch`.
    pub(super) fn of_case(batch: &ChangeBatch, case: Case) -> Self {
        let (change, row) = batch.get(case.change);
        let cell = |(column, &cell): (usize, &i64)| {
            let is_text = row.stream.columns[column].kind.is_text() && cell > UNCHANGED;
            if is_text { Cell::Text(row.text.get(cell).to_owned()) } else { Cell::Number(cell) }
        };
        Self::Event(Box::new(Event {
            stream: row.stream.name.clone(),
            op: change.op,
            version: change.version,
            arrival: change.arrival,
            cells: row.cells.iter().enumerate().map(cell).collect(),
            entities: case.entities,
            context: case.context,
            vector: case.vector,
            refused: case.refused,
        }))
    }

    /// The piece's bytes.
    pub(super) fn encode(&self) -> Result<Bytes, WorkError> {
        Ok(serde_json::to_vec(self)?.into())
    }

    /// Reads a piece.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, WorkError> {
        Ok(serde_json::from_slice(bytes)?)
    }

    /// The stream whose policy judges it.
    pub(super) fn stream<'a>(&self, definitions: &'a Definitions) -> Result<&'a Arc<Stream>, WorkError> {
        let name = match self {
            Self::Event(event) => &event.stream,
            Self::Undecodable { stream, .. } => stream,
        };
        definitions.stream(name).ok_or_else(|| WorkError::Stream { stream: name.clone() })
    }
}

impl Event {
    /// Adds the event to `batch`, which is of its stream, and gives the case to be judged.
    pub(super) fn into_case(self, batch: &mut ChangeBatch) -> Result<Case, WorkError> {
        let misfit = |stream: String| WorkError::Stream { stream };
        let change = batch.len();
        let mut row = batch.begin();
        if row.stream().columns.len() != self.cells.len() {
            return Err(misfit(self.stream));
        }
        for (column, cell) in self.cells.into_iter().enumerate() {
            let is_text = row.stream().columns[column].kind.is_text();
            match cell {
                Cell::Number(cell) if is_text && cell == UNCHANGED => row.set_unchanged(column),
                Cell::Number(_) if is_text => {}
                Cell::Number(cell) => row.set_cell(column, cell),
                Cell::Text(text) if is_text => row.set_masked(column, &text),
                Cell::Text(_) => return Err(misfit(self.stream)),
            }
        }
        let position = self.context.position.position;
        row.finish(Change { op: self.op, version: self.version, arrival: self.arrival, position });
        Ok(Case {
            change,
            entities: self.entities,
            context: self.context,
            vector: self.vector,
            refused: self.refused,
            scored: Scored::NOT_ASKED,
        })
    }
}
