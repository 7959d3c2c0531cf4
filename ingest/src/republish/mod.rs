//! Republishing: what was captured from a database goes on as Debezium change events in a topic keyed by `partition_by`, so that any number of
//! readers share what one replication slot delivers.
//!
//! Where a change goes: to the partition of its row's key, which is the text of the `partition_by` column (of the id where the stream has
//! none, or the column is null). A row that gets another key also goes to the partition of the one it leaves, a deleted row to that of the one
//! it had; where the table does not tell which that was, and with a truncation, to every partition. So whatever concerns a key stands
//! in its partition, in the order of commits. Between partitions there is no order: versions tell which change is newer.
//!
//! Layout of a value: the payload of Debezium's envelope without schema, with every declared column in `after`: integers, bools and doubles as
//! JSON has them, decimals as text in major units, instants as RFC 3339 in UTC, what PostgreSQL did not send as Debezium's placeholder.
//! `source.lsn` and `transaction.total_order` are the row version (commit LSN and row number), `source.ts_us` is the commit time, absent
//! in a snapshot. `source.connector` names this program; `source.secret` tells secrets apart where texts are hashed.
//!
//! Invariants:
//! - What is read back is the cells that were captured, bit for bit, with version, operation and arrival.
//! - A sensitive text leaves as its keyed hash only.

mod envelope;
#[cfg(all(feature = "kafka", feature = "postgres"))]
pub mod kafka;
pub mod metrics;
mod records;
#[cfg(test)]
mod tests;

use interdict_features::change::Row;
use interdict_features::definition::Stream;
use interdict_features::key_text;

pub use records::Envelopes;

/// `source.connector` of what this program writes.
pub(crate) const CONNECTOR: &str = "interdict";

/// What the secret's mark is the hash of: no value that a column would hold.
const MARKED: &str = "interdict: which secret this is";

/// The mark of the secret under which sensitive texts of `stream` are hashed; `None` where it has none.
pub(crate) fn secret_of(stream: &Stream) -> Option<String> {
    stream.columns.iter().any(|column| column.sensitive).then(|| stream.mask(MARKED))
}

/// The key of a row: the text of its `partition_by` column, else of its id.
#[must_use]
pub fn key_of(row: Row<'_>) -> String {
    let own = row.stream.partition_by.and_then(|column| key_text::of_row(row, &[column]));
    own.or_else(|| row.event_id()).unwrap_or_default()
}
