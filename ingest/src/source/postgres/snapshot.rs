//! The rows that were there before the slot: read once, consistent with a place in the log.
//!
//! A temporary slot exports the snapshot: the transactions in it are exactly those that committed before the place the
//! slot begins at, so that reading the lasting slot from that place leaves nothing out and repeats nothing. The lasting
//! slot is older and is held all the while. A snapshot that is interrupted begins anew, at a later place.

use super::check::Found;
use super::connection::{Control, Row, Server};
use super::error::PostgresError;
use super::slot::Gate;
use super::table::{Table, quote};

/// Rows of one answer: some hundred kilobytes.
const ROWS: usize = 2_048;

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshot {
    control: Control,
    /// The place in the log it is consistent with.
    pub(super) lsn: u64,
    tables: Vec<String>,
    /// The table that is being read.
    pub(super) table: usize,
    is_open: bool,
}

impl Snapshot {
    /// Takes a snapshot. Waits for every transaction that is under way.
    pub(super) async fn take(server: &Server, tables: &[Table], found: &[Found]) -> Result<Self, PostgresError> {
        let mut gate = Gate::open(server, 0, 0).await?;
        let name: String = server.config().slot.chars().take(50).collect();
        let sql = format!("CREATE_REPLICATION_SLOT {name}_snapshot TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
        let row = gate.command(&sql).await?;
        let (Some(place), Some(exported)) = (row.get(1), row.get(2)) else {
            return Err(PostgresError::Protocol { what: "no snapshot".to_owned() });
        };
        let lsn = pgwire_replication::Lsn::parse(place);
        let lsn = lsn.map_err(|error| PostgresError::Protocol { what: error.to_string() })?.as_u64();
        let control = server.connect().await?;
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{}'",
            exported.replace('\'', "''")
        );
        control.run("take up the snapshot", &begin).await?;
        // The transaction holds the snapshot from here on; the temporary slot goes with its connection.
        drop(gate);
        let tables = tables.iter().zip(found).map(|(table, found)| select(table, found)).collect();
        Ok(Self { control, lsn, tables, table: 0, is_open: false })
    }

    /// The next rows of [`Self::table`]; none when it has no more, and the next table's turn comes with the next call.
    /// `None` when all were read.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Row>>, PostgresError> {
        let Some(select) = self.tables.get(self.table) else { return Ok(None) };
        if !self.is_open {
            let sql = format!("DECLARE interdict_snapshot NO SCROLL CURSOR FOR {select}");
            self.control.run("read a table", &sql).await?;
            self.is_open = true;
        }
        let rows = self.control.run("read a table", &format!("FETCH FORWARD {ROWS} FROM interdict_snapshot")).await?;
        if rows.is_empty() {
            self.control.run("read a table", "CLOSE interdict_snapshot").await?;
            self.is_open = false;
            self.table += 1;
        }
        Ok(Some(rows))
    }
}

fn select(table: &Table, found: &Found) -> String {
    let columns: Vec<String> = table.stream.columns.iter().map(|column| quote(&column.name)).collect();
    // Tables that inherit from this one are published under their own names.
    let only = if found.is_partitioned { "" } else { "ONLY " };
    let condition = found.filter.as_ref().map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    format!("SELECT {} FROM {only}{}{condition}", columns.join(", "), table.quoted())
}
