//! What every adapter of the port must do, as tests that any [`Store`] can be put to.
//!
//! [`cases`] holds one test per promise; [`model`] drives a store and a naive twin through the same random steps and
//! compares everything that can be read after each of them.

pub mod cases;
pub mod model;
pub mod twin;

use std::future::Future;

use crate::port::Store;

/// The outbox capacity of the stores that the suite is given: small, so that it is met.
pub const OUTBOX_CAPACITY: usize = 6;

/// Gives the suite its stores.
pub trait Subject {
    /// The adapter under test.
    type Store: Store;

    /// Opens the store on this subject's data, with [`OUTBOX_CAPACITY`]: empty the first time, later with what was
    /// committed. The suite drops a store before it opens the next.
    fn open(&self) -> impl Future<Output = Self::Store>;
}
