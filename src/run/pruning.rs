//! Removing what truncations and lost changes left behind: states of `kind = "table"` groups that were written before the newest of their
//! stream.
//! Whoever brings one takes it for none, and nothing else would ever remove it: a latest row does not expire.
//!
//! Invariants:
//! - A state goes only by a mark that is stored: whatever dies, nobody takes it for a state any more.
//! - All states of a group are walked over once after each truncation, and once after the start of a process.

use interdict_features::bytes::Damaged;
use interdict_features::change::Version;
use interdict_features::definition::{Definitions, Group, GroupKind};
use interdict_features::engine::staleness;
use interdict_ingest::pipeline::marks::mark_key;
use interdict_store::error::StoreError;
use interdict_store::port::{Query, Store};
use tokio_util::sync::CancellationToken;

/// The groups whose states a truncation or a loss leaves behind.
#[derive(Clone, Default, Debug)]
pub(crate) struct Truncated(Vec<TableGroup>);

#[derive(Clone, Debug)]
struct TableGroup {
    stream: String,
    entity: String,
    hash: u64,
    /// The truncation or loss by which it was walked over last.
    pruned: Version,
}

impl Truncated {
    pub(crate) fn of(definitions: &Definitions) -> Self {
        let group = |group: &Group| {
            // Whatever a stream's truncations do today: a mark of before holds still.
            matches!(group.kind, GroupKind::Table { .. }).then(|| TableGroup {
                stream: definitions.streams[group.stream].name.clone(),
                entity: definitions.entities[group.entity].name.clone(),
                hash: group.hash,
                pruned: Version::REQUEST,
            })
        };
        Self(definitions.groups.iter().filter_map(group).collect())
    }

    /// Removes what the truncations and losses since the last call left behind, until `stop`; how many states.
    pub(crate) async fn prune<S: Store>(&mut self, store: &S, stop: &CancellationToken) -> Result<u64, StoreError> {
        let mut removed = 0;
        for group in &mut self.0 {
            let query = Query { rows: vec![mark_key(&group.stream)], ..Query::default() };
            let marks = store.fetch(&query).await?.rows;
            let Some(mark) = marks.into_iter().next().flatten() else { continue };
            let damaged =
                |damaged: Damaged| StoreError::Corrupt { what: "mark of a truncation", why: damaged.to_string() };
            let (cleared, is_stale) = staleness(&mark).map_err(damaged)?;
            if cleared > group.pruned {
                tokio::select! {
                    biased;
                    () = stop.cancelled() => return Ok(removed),
                    pruned = store.prune(&group.entity, group.hash, &is_stale) => removed += pruned?,
                }
                group.pruned = cleared;
            }
        }
        Ok(removed)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use interdict_features::change::{Change, ChangeBatch, Op};
    use interdict_features::config::ConfigFile;
    use interdict_features::engine::{Evaluate, Plan};
    use interdict_ingest::pipeline::{Limits, Pipeline};
    use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
    use interdict_store::port::Commit;

    use super::*;

    const DEFINITIONS: &str = r#"
[stream.accounts]
id = "account"
time = "changed"
judge = "none"
on_truncate = "clear"
columns = { account = "int64", changed = "timestamp", credit = "decimal(2)" }

[entity.account]
key = "account"

[[group]]
name = "account"
entity = "account"
kind = "table"
features = { credit = "credit" }

[[group]]
name = "changes"
entity = "account"
windows = ["1d"]
features = { changes = "count()" }
"#;

    struct Rig {
        plan: Arc<Plan>,
        store: Arc<EmbeddedStore>,
        pipeline: Pipeline<EmbeddedStore>,
    }

    impl Rig {
        async fn apply(&mut self, op: Op, version: u64, ids: std::ops::Range<i64>) {
            let mut batch = ChangeBatch::new(Arc::clone(&self.plan.definitions.streams[0]), 0);
            for id in ids {
                let mut row = batch.begin();
                if op != Op::Truncate {
                    row.set_cell(0, id);
                    row.set_cell(1, 5);
                    row.set_cell(2, 100);
                }
                row.finish(Change { op, version: Version::new(version), arrival: None, position: version });
            }
            self.pipeline.apply(&batch, Evaluate::Nothing).await.unwrap();
            let mut commit = Commit::default();
            self.pipeline.fill(&mut commit);
            self.store.commit(commit).await.unwrap();
            self.pipeline.stored();
        }

        fn states(&self) -> usize {
            self.store.states_now().unwrap().len()
        }
    }

    #[tokio::test]
    async fn what_a_truncation_left_goes_and_what_came_since_stays() {
        let file = ConfigFile::parse("interdict.toml", DEFINITIONS).unwrap();
        let definitions = Arc::new(Definitions::read(&file, None).unwrap());
        let folder = tempfile::tempdir().unwrap();
        let store = Arc::new(EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap());
        let plan = Arc::new(Plan::compile(Arc::clone(&definitions)));
        let limits = Limits { shards: 2, memory_bytes: 1 << 24 };
        let pipeline = Pipeline::new(Arc::clone(&plan), Arc::clone(&store), limits);
        let mut rig = Rig { plan, store, pipeline };
        let mut truncated = Truncated::of(&definitions);

        rig.apply(Op::Insert, 1, 0..3_000).await;
        let (go_on, stop) = (CancellationToken::new(), CancellationToken::new());
        stop.cancel();
        assert_eq!(truncated.prune(&*rig.store, &go_on).await.unwrap(), 0, "no truncation yet");
        assert_eq!(rig.states(), 6_000);
        rig.apply(Op::Truncate, 2, 0..1).await;
        rig.apply(Op::Insert, 3, 7..9).await;
        assert_eq!(truncated.prune(&*rig.store, &stop).await.unwrap(), 0, "who is to stop leaves it for another time");
        assert_eq!(
            truncated.prune(&*rig.store, &go_on).await.unwrap(),
            2_998,
            "what expires by itself is left to that"
        );
        assert_eq!(rig.states(), 3_002);
        assert_eq!(truncated.prune(&*rig.store, &go_on).await.unwrap(), 0);
        assert_eq!(
            Truncated::of(&definitions).prune(&*rig.store, &go_on).await.unwrap(),
            0,
            "another process finds nothing"
        );
        rig.apply(Op::Truncate, 4, 0..1).await;
        assert_eq!(truncated.prune(&*rig.store, &go_on).await.unwrap(), 2);
    }
}
