//! Roles as processes of their own: any number of ingestors, scorers and monitors over one Redis.
//!
//! Ingestors apply streams to rows and states and leave what is to be judged as work; scorers judge it, answer HTTP and carry actions
//! out; a monitor writes decisions to Parquet and tests for drift. A republisher hands what one replication slot delivers on to a topic that
//! ingestors share. All of them may die at any time.
//!
//! Invariants:
//! - Whatever is written rests on what was read of the store: a commit on something that another process has changed is refused and made
//!   again. So every process is as good as any other, and none needs to be the only one.
//! - A namespace is worked on either by roles or by one process that plays all of them and trusts its memory: the lease `mode` says which.

mod answering;
mod charges;
mod confirming;
mod ingest;
mod lease;
mod mode;
#[cfg(all(feature = "kafka", feature = "postgres"))]
mod republish;
mod room;
mod scoring;
mod share;
mod sharing;
mod start;
mod stats;
mod topics;
mod tracked;
mod work;

use interdict_features::decision::SeenPosition;
use interdict_ingest::pipeline::PipelineError;

pub(crate) use mode::{Mode, Only, Turn};
pub(crate) use start::serve;

/// What the names of positions begin with that say how far a source is republished.
const REPUBLISHED: &str = "republish/";

/// Whether what failed is worth doing again a moment later.
fn is_passing(error: &anyhow::Error) -> bool {
    error.downcast_ref::<PipelineError>().is_some_and(PipelineError::is_passing)
}

/// How far every partition was applied: as the store says, and this process's own as it has applied them since.
fn seen(stored: Vec<SeenPosition>, own: Vec<SeenPosition>) -> Vec<SeenPosition> {
    let mut seen = stored;
    for own in own {
        match seen.binary_search_by(|known| known.partition.cmp(&own.partition)) {
            Ok(at) => seen[at] = own,
            Err(at) => seen.insert(at, own),
        }
    }
    seen
}
