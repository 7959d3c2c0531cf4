//! What a batch needs of the store: which row records and states these are, and how they come into memory.

use std::sync::Arc;

use bytes::Bytes;
use interdict_features::bytes::Damaged;
use interdict_features::change::ChangeBatch;
use interdict_features::engine::{OwnedKey, Plan};
use interdict_store::port::{Fetched, Query, RowKey, StateQuery};

use super::{Pipeline, PipelineError, Reader};

/// Names that queries carry.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) streams: Vec<Arc<str>>,
    pub(super) entities: Vec<Arc<str>>,
    /// Per entity, the identities of its groups.
    groups: Vec<Arc<[u64]>>,
}

impl Names {
    pub(super) fn of(plan: &Plan) -> Self {
        let definitions = &plan.definitions;
        Self {
            streams: definitions.streams.iter().map(|stream| Arc::from(stream.name.as_str())).collect(),
            entities: definitions.entities.iter().map(|entity| Arc::from(entity.name.as_str())).collect(),
            groups: plan
                .entity_groups
                .iter()
                .map(|groups| groups.iter().map(|&group| definitions.groups[group].hash).collect())
                .collect(),
        }
    }

    fn rows(&self, wanted: &[(usize, OwnedKey)]) -> Vec<RowKey> {
        let row = |(stream, id): &(usize, OwnedKey)| RowKey {
            stream: Arc::clone(&self.streams[*stream]),
            id: id.as_key().to_bytes(),
        };
        wanted.iter().map(row).collect()
    }

    fn states(&self, wanted: &[(usize, OwnedKey)]) -> Vec<StateQuery> {
        let state = |(entity, key): &(usize, OwnedKey)| StateQuery {
            entity: Arc::clone(&self.entities[*entity]),
            key: key.as_key().to_bytes(),
            groups: Arc::clone(&self.groups[*entity]),
        };
        wanted.iter().map(state).collect()
    }
}

/// What is to be brought from the store: places of streams and entities, with ids and keys.
struct Wanted {
    rows: Vec<(usize, OwnedKey)>,
    states: Vec<(usize, OwnedKey)>,
}

impl<S: Reader> Pipeline<S> {
    /// Row records and states that `batches` are known to need and that are not in memory: what one read can bring beforehand. States of
    /// keys that only a stored row names are not among them.
    ///
    /// # Errors
    /// [`PipelineError::Row`].
    pub fn wants<'a>(&self, batches: impl IntoIterator<Item = &'a ChangeBatch>) -> Result<Query, PipelineError> {
        let Wanted { rows, states } = self.wanted(batches)?;
        let rows = self.mark_keys().chain(self.names.rows(&rows)).collect();
        Ok(Query { rows, states: self.names.states(&states), ..Query::default() })
    }

    /// What [`Self::read`] needs of a key, the streams' marks among it: what one read can bring beforehand.
    #[must_use]
    pub fn wants_key(&self, entity: usize, key: &OwnedKey) -> Query {
        let states = self.names.states(&[(entity, key.clone())]);
        Query { rows: self.mark_keys().collect(), states, ..Query::default() }
    }

    /// Brings what [`Self::wants`] names into memory, in one read together with `beside`; the answer to that.
    ///
    /// # Errors
    /// As [`Self::apply`].
    pub async fn bring<'a>(
        &mut self,
        batches: impl IntoIterator<Item = &'a ChangeBatch>,
        mut beside: Query,
    ) -> Result<Fetched, PipelineError> {
        self.bring_marks().await?;
        let Wanted { rows, states } = self.wanted(batches)?;
        beside.rows.splice(..0, self.names.rows(&rows));
        beside.states.splice(..0, self.names.states(&states));
        let mut fetched = self.store.fetch(&beside).await?;
        self.load_rows(&rows, fetched.rows.drain(..rows.len()));
        self.load_states(&states, fetched.states.drain(..states.len()))?;
        Ok(fetched)
    }

    fn wanted<'a>(&self, batches: impl IntoIterator<Item = &'a ChangeBatch>) -> Result<Wanted, PipelineError> {
        let (mut rows, mut states) = (Vec::new(), Vec::new());
        for batch in batches {
            rows.append(&mut self.engine.wanted_rows(batch));
            states.append(&mut self.engine.wanted_states(batch).map_err(|source| self.damaged_row(batch, source))?);
        }
        rows.sort_unstable();
        rows.dedup();
        states.sort_unstable();
        states.dedup();
        Ok(Wanted { rows, states })
    }

    pub(super) async fn bring_rows(&mut self, batch: &ChangeBatch) -> Result<(), PipelineError> {
        let wanted = self.engine.wanted_rows(batch);
        if wanted.is_empty() {
            return Ok(());
        }
        let query = Query { rows: self.names.rows(&wanted), ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        self.load_rows(&wanted, fetched.rows);
        Ok(())
    }

    fn load_rows(&mut self, wanted: &[(usize, OwnedKey)], fetched: impl IntoIterator<Item = Option<Bytes>>) {
        for ((stream, id), bytes) in wanted.iter().zip(fetched) {
            self.engine.load_row(*stream, id, bytes.as_deref());
        }
    }

    pub(super) async fn bring_states(&mut self, wanted: &[(usize, OwnedKey)]) -> Result<(), PipelineError> {
        if wanted.is_empty() {
            return Ok(());
        }
        let query = Query { states: self.names.states(wanted), ..Query::default() };
        let fetched = self.store.fetch(&query).await?;
        self.load_states(wanted, fetched.states)
    }

    fn load_states(
        &mut self,
        wanted: &[(usize, OwnedKey)],
        fetched: impl IntoIterator<Item = Vec<Option<Bytes>>>,
    ) -> Result<(), PipelineError> {
        self.unlooked += wanted.len();
        for ((entity, key), bytes) in wanted.iter().zip(fetched) {
            // A key of which nothing is stored takes no memory until an event of it comes: anyone may ask for keys that do not exist.
            if bytes.iter().all(Option::is_none) {
                continue;
            }
            let bytes: Vec<Option<&[u8]>> = bytes.iter().map(|bytes| bytes.as_deref()).collect();
            self.engine
                .load_states(*entity, key, &bytes)
                .map_err(|source| PipelineError::State { entity: self.names.entities[*entity].to_string(), source })?;
        }
        Ok(())
    }

    pub(super) fn damaged_row(&self, batch: &ChangeBatch, source: Damaged) -> PipelineError {
        PipelineError::Row { stream: batch.stream().name.clone(), source }
    }
}
