//! What the store remembers of truncations: read before anything else, written with the states it belongs to.

use std::sync::Arc;

use bytes::Bytes;
use interdict_store::port::{Query, RowKey, RowWrite};

use super::bring::Names;
use super::{Pipeline, PipelineError, Reader};

/// Where marks stand among row records: no stream has this name, and what stands there never expires.
const MARKS: &str = "@marks";

/// What is known of the store's marks.
#[derive(Debug, Default)]
pub(super) struct Marks {
    /// They are in memory, as the store holds them or newer.
    pub(super) are_known: bool,
    /// As the store holds them.
    stored: Vec<(usize, Vec<u8>)>,
}

/// Where the mark of the stream called `stream` stands.
#[must_use]
pub fn mark_key(stream: &str) -> RowKey {
    RowKey { stream: Arc::from(MARKS), id: Box::from(stream.as_bytes()) }
}

/// Whether a mark stands under `key`.
#[must_use]
pub fn is_mark(key: &RowKey) -> bool {
    &*key.stream == MARKS
}

impl Names {
    fn mark(&self, stream: usize) -> RowKey {
        mark_key(&self.streams[stream])
    }
}

impl<S: Reader> Pipeline<S> {
    /// Brings the marks, without which no row and no state that is brought can be judged old or new.
    pub(super) async fn bring_marks(&mut self) -> Result<(), PipelineError> {
        if self.marks.are_known {
            return Ok(());
        }
        let streams: Vec<usize> = self.engine.marked_streams().collect();
        if !streams.is_empty() {
            let query = Query { rows: self.mark_keys().collect(), ..Query::default() };
            let fetched = self.store.fetch(&query).await?;
            for (stream, bytes) in streams.into_iter().zip(fetched.rows) {
                let damaged = |source| PipelineError::Row { stream: self.names.streams[stream].to_string(), source };
                self.engine.load_mark(stream, bytes.as_deref()).map_err(damaged)?;
            }
        }
        self.marks = Marks { are_known: true, stored: self.engine.marks().collect() };
        Ok(())
    }

    /// Where the marks stand that [`Self::bring_marks`] brings.
    pub(super) fn mark_keys(&self) -> impl Iterator<Item = RowKey> {
        self.engine.marked_streams().map(|stream| self.names.mark(stream))
    }

    /// The marks that changed since they were stored.
    pub(super) fn mark_writes(&self) -> impl Iterator<Item = RowWrite> {
        let changed = self.engine.marks().filter(|mark| !self.marks.stored.contains(mark));
        changed.map(|(stream, bytes)| RowWrite {
            key: self.names.mark(stream),
            bytes: Some(Bytes::from(bytes)),
            expires: None,
            expected: None,
        })
    }

    /// Notes that the commit with [`Self::mark_writes`] went through.
    pub(super) fn marks_stored(&mut self) {
        if self.marks.are_known {
            self.marks.stored = self.engine.marks().collect();
        }
    }
}
