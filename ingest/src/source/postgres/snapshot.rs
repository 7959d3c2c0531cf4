//! The rows that were there before the slot: read once, consistent with a place in the log.
//!
//! A temporary slot exports the snapshot: the transactions in it are exactly those that committed before the place the
//! slot begins at, so that reading the lasting slot from that place leaves nothing out and repeats nothing. The lasting
//! slot is older and is held all the while. A snapshot that is interrupted begins anew, at a later place.

use super::check::Found;
use super::connection::{Control, Row, Server, literal};
use super::error::PostgresError;
use super::recovery::{Gap, Select, Taking, look, selects};
use super::slot::Gate;
use super::table::Table;

/// Rows of one answer: some hundred kilobytes.
const ROWS: usize = 2_048;

/// A snapshot that is being read.
#[derive(Debug)]
pub(super) struct Snapshot {
    control: Control,
    /// The place in the log it is consistent with.
    pub(super) lsn: u64,
    /// What its rows are.
    pub(super) taking: Taking,
    selects: Vec<Select>,
    /// The statement whose rows are being read.
    at: usize,
    is_open: bool,
}

impl Snapshot {
    /// Takes a snapshot; behind a gap its rows are recovered, otherwise they are history. Waits for every transaction that is under way.
    pub(super) async fn take(
        server: &Server,
        tables: &[Table],
        found: &[Found],
        gap: Option<Gap>,
    ) -> Result<Self, PostgresError> {
        let mut gate = Gate::open(server, 0, 0).await?;
        let name: String = server.config().slot.chars().take(50).chain("_snapshot".chars()).collect();
        let sql = format!("CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT");
        let row = match gate.command(&sql).await {
            // While it waits the server does not see that who asked for it has gone.
            Err(PostgresError::Server { code, .. }) if code == "42710" => return Err(held(server, name).await?),
            row => row?,
        };
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
        let taking = match gap {
            None => Taking::History,
            Some(Gap { after }) if lsn < after => return Err(PostgresError::Restored { server: lsn, position: after }),
            Some(_) => look(&control, tables, found).await?,
        };
        let selects = selects(taking, tables, found);
        Ok(Self { control, lsn, taking, selects, at: 0, is_open: false })
    }

    /// The table whose first rows come next.
    pub(super) fn begins(&self) -> Option<usize> {
        self.selects.get(self.at).filter(|_| !self.is_open).map(|select| select.table)
    }

    /// The next rows, with their table; none when it has no more, and the next table's turn comes with the next call. `None` when all were
    /// read.
    pub(super) async fn next(&mut self) -> Result<Option<(usize, Vec<Row>)>, PostgresError> {
        let Some(Select { table, sql }) = self.selects.get(self.at) else { return Ok(None) };
        if !self.is_open {
            let sql = format!("DECLARE interdict_snapshot NO SCROLL CURSOR FOR {sql}");
            self.control.run("read a table", &sql).await?;
            self.is_open = true;
        }
        let table = *table;
        let rows = self.control.run("read a table", &format!("FETCH FORWARD {ROWS} FROM interdict_snapshot")).await?;
        if rows.is_empty() {
            self.control.run("read a table", "CLOSE interdict_snapshot").await?;
            self.is_open = false;
            self.at += 1;
        }
        Ok(Some((table, rows)))
    }
}

/// Who keeps the server from making the slot `slot`.
async fn held(server: &Server, slot: String) -> Result<PostgresError, PostgresError> {
    let sql = format!(
        "SELECT coalesce(string_agg(DISTINCT CASE WHEN held.pid = 0 THEN 'a prepared transaction (pg_prepared_xacts)' \
             ELSE format('PID %s of %s in database %s', held.pid, a.usename, a.datname) || coalesce(', since ' || a.xact_start, '') END, \
           '; '), 'none is left') \
         FROM pg_replication_slots s CROSS JOIN unnest(pg_blocking_pids(s.active_pid)) AS held (pid) \
           LEFT JOIN pg_stat_activity a ON a.pid = held.pid WHERE s.slot_name = {}",
        literal(&slot)
    );
    let rows = server.connect().await?.ask("look for long transactions", &sql).await?;
    let holders = rows.first().map_or("", |row| row.text(0)).to_owned();
    Ok(PostgresError::SnapshotHeld { slot, holders })
}
