//! Capture from PostgreSQL by logical replication: the rows that are there, then every change as it commits.
//!
//! Positions are places in the server's log: the end of the last transaction that was delivered completely, or a later
//! place up to which the server found nothing of ours; 0 while the first snapshot is being read, and where it was while
//! one is read that takes the place of lost changes. The session begins where the slot was confirmed and leaves out what
//! was delivered before the position.
//!
//! Invariants:
//! - The slot is held before the engine is asked for its position, so that no other process moves it after.
//! - The server is told that something is durable only when [`PostgresHandle::confirm`] was. So a slot never stands
//!   beyond the stored position, and one that does tells that changes were lost, or that the snapshot in their place was
//!   cut off.
//! - A lost connection is taken up again where the last complete transaction ended; rows that were delivered of the
//!   next one are left out the second time.
//! - While the engine holds back, the session goes on telling the server that it is alive.

mod changes;
mod check;
mod connection;
pub mod error;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzz;
mod left;
mod message;
pub mod metrics;
mod peer;
pub mod progress;
mod recovery;
mod row;
mod slot;
mod snapshot;
mod table;
mod value;
mod watch;

mod capture;

use std::sync::Arc;

use interdict_features::definition::Stream;
use interdict_features::time::Span;
use tokio::runtime::Runtime;

use capture::Capture;
use changes::Changes;
use connection::Server;
use error::PostgresError;
use metrics::PostgresMetrics;
use progress::PostgresHandle;
use table::{Catalog, Table};

use super::Delivery;
use super::config::postgres::PostgresConfig;
use super::error::SourceError;
use super::stop::Stop;

/// Tables of a PostgreSQL database. Pulled from a thread of its own: every call may block.
#[derive(Debug)]
pub struct PostgresSource {
    name: String,
    capture: Capture,
    /// Its thread answers the server while nobody pulls. Dropped last.
    runtime: Runtime,
}

/// What a source is opened with.
pub struct Opening<'a> {
    /// Its name.
    pub name: &'a str,
    /// Where it is and what it reads.
    pub config: &'a PostgresConfig,
    /// The declared streams.
    pub streams: &'a [Arc<Stream>],
    /// For how long behind the clock of the streams the rows of one are remembered: what is older may have been known and is not judged
    /// where a snapshot takes the place of lost changes.
    pub retention: &'a dyn Fn(&Stream) -> Span,
    /// Gives the values of variables.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

impl std::fmt::Debug for Opening<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").field("name", &self.name).field("config", self.config).finish_non_exhaustive()
    }
}

impl PostgresSource {
    /// Makes a source ready; nothing is connected before [`Self::incarnation`]. [`Stop::stop`] on a clone of `stop` ends every call that waits.
    ///
    /// # Errors
    /// Fatal: the password cannot be read, a stream is unknown or append-only, or no thread can be started.
    pub fn open(opening: &Opening<'_>, metrics: &PostgresMetrics, stop: Stop) -> Result<Self, SourceError> {
        let &Opening { name, config, streams, retention, environment } = opening;
        let server = Server::new(name, config, environment).map_err(Box::new)?;
        let mut tables = Vec::with_capacity(config.tables.len());
        for table in &config.tables {
            let stream = streams.iter().find(|stream| stream.name == table.stream);
            let stream =
                stream.ok_or_else(|| Box::new(PostgresError::UnknownStream { stream: table.stream.clone() }))?;
            if stream.append_only {
                return Err(Box::new(PostgresError::AppendOnly { stream: stream.name.clone() }).into());
            }
            let (schema, name) = (table.schema.clone(), table.table.clone());
            let (before, retention) = (table.before.clone(), retention(stream));
            tables.push(Table { schema, name, stream: Arc::clone(stream), before, retention });
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name(format!("capture-{name}"))
            .enable_all()
            .build()
            .map_err(|error| Box::new(PostgresError::Runtime(error)))?;
        let mut changes = Changes::new(name, Catalog::new(tables));
        if config.republish.is_some() {
            changes.note_keys();
        }
        Ok(Self { name: name.to_owned(), capture: Capture::new(server, changes, metrics.of(name), stop), runtime })
    }

    /// The source's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the engine confirms to.
    #[must_use]
    pub fn handle(&self) -> PostgresHandle {
        self.capture.handle().clone()
    }

    /// Connects, checks server, tables and publication, and takes hold of the slot where there is one; identity of the
    /// database: cluster, timeline, database, slot and publication. Waits as standby while another process holds the
    /// slot. A server that cannot be reached is tried for half a minute. `None` once stopped.
    ///
    /// # Errors
    /// As [`PostgresError`] says.
    pub fn incarnation(&mut self) -> Result<Option<String>, SourceError> {
        self.runtime.block_on(self.capture.attach()).map_err(|error| Box::new(error).into())
    }

    /// Goes on after `position`, with everything up to `stored` in the store (the same, unless an archive is behind it); to be called after
    /// [`Self::incarnation`] and before the first [`Self::next`]. Position 0, or no call, begins with a snapshot, as does a slot that no
    /// longer holds what comes behind `stored`, where that is configured.
    ///
    /// # Errors
    /// Fatal: the slot is gone, was invalidated or stands elsewhere, or the database was restored from a copy.
    pub fn resume(&mut self, position: u64, stored: u64) -> Result<(), SourceError> {
        self.runtime.block_on(self.capture.resume(position, stored)).map_err(|error| Box::new(error).into())
    }

    /// The next changes, about `records_max` at most: what is there, never waiting to fill. Whole transactions, except
    /// that one of more than `records_max` rows comes in parts, which leave the position where it was. Waits for the
    /// first change; while there is none, an idle position without records comes at heartbeats. `None` once stopped.
    /// Connections that are lost are taken up again for as long as it takes.
    ///
    /// # Errors
    /// Everything before the failing place was delivered. Fatal: what a person must mend. Transient: the process
    /// should start again, since another one read from the slot.
    pub fn next(&mut self, records_max: usize) -> Result<Option<Delivery>, SourceError> {
        self.runtime.block_on(self.capture.next(records_max.max(1))).map_err(|error| Box::new(error).into())
    }
}

#[cfg(test)]
mod tests;
