//! Charge of what one process does at a time, as the store counts it: of a namespace where one process plays every role and trusts its
//! memory, or of a topic's partition that one of several ingestors reads.
//!
//! Invariants:
//! - Every commit that makes or judges state says under which charge it is made, and is refused once another process has taken charge: what
//!   this one has in memory may be old by then.
//! - Charge is taken before anything is read that memory is to hold.
//! - So of two who take each other for dead the later one stays, whoever commits first.

#[cfg(feature = "redis")]
mod moves;
#[cfg(feature = "redis")]
mod shared;
#[cfg(not(feature = "redis"))]
mod sole;

#[cfg(all(test, feature = "redis"))]
pub(super) use moves::alone;
#[cfg(feature = "redis")]
pub(crate) use shared::{Charge, POSITIONS};
#[cfg(not(feature = "redis"))]
pub(crate) use sole::Charge;
#[cfg(feature = "redis")]
pub(super) use {
    moves::{ensure_applied, is_shared, of_roles, take},
    shared::{ENGINE, ROLES_TOOK_OVER},
};
