//! Online state, row records, decisions, lists, offsets, outbox and logs behind one port, [`Store`](port::Store).
//!
//! Invariants:
//! - What one [`Commit`](port::Commit) holds becomes visible and durable together or not at all, embedded and in a Redis.
//! - A decision's record is stored only where none was; whoever comes second is handed the first.
//! - An offset moves only from the value its writer believes it has: a replay, a crash and a zombie change nothing.

pub mod background;
#[cfg(any(test, feature = "contract"))]
pub mod contract;
pub mod embedded;
pub mod error;
pub mod metrics;
pub mod online;
pub mod port;
#[cfg(feature = "redis")]
pub mod redis;
