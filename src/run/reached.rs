//! Which databases were reached, and whether this process has charge of its store: what readiness says, and who may change something.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(feature = "postgres")]
use interdict_ingest::source::postgres::progress::PostgresHandle;

/// Which sources in a database have been reached since the start: before, nothing is known of what committed meanwhile. One that
/// another process reads by now is as if it was not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reached {
    databases: Vec<Reach>,
    beside: Beside,
    /// This process has charge of the store.
    in_charge: Arc<AtomicBool>,
}

/// Who else may read from the same databases into the same store.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) enum Beside {
    /// Nobody: who holds a slot is an old session of this process.
    #[default]
    Nobody,
    /// Processes of which one works at a time: charge of the store goes with a slot, where there is a database.
    #[cfg(feature = "redis")]
    Standbys,
    /// Processes that work together.
    #[cfg(feature = "redis")]
    Roles,
}

/// One database.
#[derive(Clone, Debug)]
struct Reach {
    source: String,
    is_reached: Arc<AtomicBool>,
    #[cfg(feature = "postgres")]
    handle: PostgresHandle,
}

impl Reach {
    fn stands_by(&self) -> bool {
        #[cfg(feature = "postgres")]
        return self.handle.stands_by();
        #[cfg(not(feature = "postgres"))]
        false
    }
}

impl Reached {
    #[cfg(feature = "postgres")]
    pub(super) fn await_source(&mut self, name: &str, handle: PostgresHandle) -> Arc<AtomicBool> {
        let is_reached = Arc::new(AtomicBool::new(false));
        self.databases.push(Reach { source: name.to_owned(), is_reached: Arc::clone(&is_reached), handle });
        is_reached
    }

    /// For a process whose store others reach.
    pub(crate) fn beside(beside: Beside) -> Self {
        Self { beside, ..Self::default() }
    }

    /// The sources that were not reached yet, or that another process reads, or has read so far: charge comes with them.
    pub(crate) fn missing(&self) -> impl Iterator<Item = &str> {
        let is_missing = |reach: &&Reach| {
            let is_elsewhere = self.beside != Beside::Nobody && reach.stands_by();
            !reach.is_reached.load(Ordering::Acquire) || is_elsewhere || self.awaits_charge()
        };
        self.databases.iter().filter(is_missing).map(|reach| reach.source.as_str())
    }

    /// Whether nothing may be changed yet, since this process has not taken charge of the store.
    pub(crate) fn awaits_charge(&self) -> bool {
        #[cfg(feature = "redis")]
        return self.beside == Beside::Standbys && !self.in_charge.load(Ordering::Acquire);
        #[cfg(not(feature = "redis"))]
        false
    }

    /// Whether charge of the store comes with a slot, and this process has held none.
    pub(crate) fn awaits_slot(&self) -> bool {
        self.awaits_charge() && !self.databases.is_empty()
    }

    /// Whether charge of the store comes with this source.
    pub(crate) fn is_database(&self, source: &str) -> bool {
        self.databases.iter().any(|reach| reach.source == source)
    }

    /// Notes that charge of the store was taken.
    pub(crate) fn take_charge(&self) {
        self.in_charge.store(true, Ordering::Release);
    }
}
