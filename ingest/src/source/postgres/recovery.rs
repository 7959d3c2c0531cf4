//! What takes the place of changes that a lost slot held: a snapshot whose rows are judged where nothing was known of them.
//!
//! Row records are forgotten once the clock of the streams is past their event's time by the retention of their stream. That clock never stood
//! later than the newest event, or the present: a row within the retention before the newest event in the tables is still remembered if it was
//! ever known. Of an older one nobody can tell. (Where the newest events are deleted meanwhile, or another source is far ahead of this one, a
//! row may have been forgotten all the same.)
//!
//! Invariants:
//! - A row that may have been known and forgotten builds state and is not judged.
//! - Labels come first, then the rows that nobody judges, then the others in order of event time: a late decision sees of its entities what
//!   it would have seen in time, and no later event.
//! - Whatever is lost and recovered of a table stands between its marks ([`Op::Lost`], [`Op::Settled`]); the position moves with the last
//!   of them. So a snapshot that is cut off settles nothing, and another one follows.

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::time::Timestamp;
use interdict_features::value::UNCHANGED;

use super::check::Found;
use super::connection::Control;
use super::error::PostgresError;
use super::table::{Table, quote};
use super::value::set;

/// How many of the newest events are looked at: some may have a time that is none (`infinity`).
const ASKED: usize = 64;

/// Changes that cannot be had any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    /// Everything up to here was delivered.
    pub(super) after: u64,
}

/// What the rows of a snapshot are.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Taking {
    /// History: nothing was captured before them.
    History,
    /// What is there after a gap.
    Recovered {
        /// When the snapshot was taken, by the database's clock.
        taken: Timestamp,
        /// How far event time had come at the latest when changes were lost; `None`: there is no event.
        clock: Option<Timestamp>,
    },
}

impl Taking {
    /// The change that a row of `table` is in a snapshot at `lsn`; `time` is the cell of its event time.
    pub(super) fn change(self, table: &Table, lsn: u64, time: Option<i64>) -> Change {
        let change = Change { op: Op::Snapshot, version: Version::new(lsn), arrival: None, position: lsn };
        let Self::Recovered { taken, clock } = self else { return change };
        let horizon = clock.map_or(i64::MIN, |clock| clock.micros().saturating_sub(table.retention.micros()));
        let may_be_judged =
            table.stream.judge.is_none() || time.is_some_and(|time| time > UNCHANGED && time >= horizon);
        Change { op: if may_be_judged { Op::Recovered } else { Op::Snapshot }, arrival: Some(taken), ..change }
    }

    /// What a table's rows stand between, if they are recovered and no labels.
    pub(super) fn mark(self, table: &Table, lsn: u64, op: Op) -> Option<Change> {
        let Self::Recovered { taken, .. } = self else { return None };
        let change = Change { op, version: Version::new(lsn), arrival: Some(taken), position: lsn };
        table.stream.labels.is_none().then_some(change)
    }
}

/// How a table is read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Select {
    /// Which table.
    pub(super) table: usize,
    pub(super) sql: String,
}

/// The statements that read `tables`, in the order in which they are read.
pub(super) fn selects(taking: Taking, tables: &[Table], found: &[Found]) -> Vec<Select> {
    let select = |(table, (declared, found)): (usize, (&Table, &Found))| {
        let columns: Vec<String> = declared.stream.columns.iter().map(|column| quote(&column.name)).collect();
        let is_ordered = taking != Taking::History && declared.stream.judge.is_some();
        let order = declared.stream.time.filter(|_| is_ordered).map_or_else(String::new, |time| {
            format!(" ORDER BY {} NULLS FIRST, {}", columns[time], columns[declared.stream.id])
        });
        Select { table, sql: format!("SELECT {} FROM {}{order}", columns.join(", "), rows_of(declared, found)) }
    };
    let mut selects: Vec<Select> = tables.iter().zip(found).enumerate().map(select).collect();
    if taking != Taking::History {
        selects.sort_by_key(|select| {
            let stream = &tables[select.table].stream;
            (stream.labels.is_none(), stream.judge.is_some())
        });
    }
    selects
}

/// The rows of a table that are published, as the end of a statement.
fn rows_of(table: &Table, found: &Found) -> String {
    // Tables that inherit from this one are published under their own names.
    let only = if found.is_partitioned { "" } else { "ONLY " };
    let condition = found.filter.as_ref().map(|filter| format!(" WHERE {filter}")).unwrap_or_default();
    format!("{only}{}{condition}", table.quoted())
}

/// Asks the snapshot that `control` has taken up when it was taken and how far event time has come in it.
pub(super) async fn look(control: &Control, tables: &[Table], found: &[Found]) -> Result<Taking, PostgresError> {
    let now = "SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
    let rows = control.run("tell the time", now).await?;
    let taken = rows.first().and_then(|row| row.get(0)?.parse().ok()).and_then(Timestamp::checked_from_micros);
    let taken = taken.ok_or_else(|| PostgresError::Protocol { what: "no time".to_owned() })?;
    let mut times = Vec::new();
    for (table, found) in tables.iter().zip(found) {
        let Some(time) = table.stream.time.filter(|_| table.stream.labels.is_none()) else { continue };
        let column = quote(&table.stream.columns[time].name);
        let from = rows_of(table, found);
        let sql = format!(
            "SELECT {column} FROM (SELECT * FROM {from}) AS published WHERE {column} IS NOT NULL ORDER BY {column} DESC LIMIT {ASKED}"
        );
        for row in control.run("look for the newest events", &sql).await? {
            let mut scratch = ChangeBatch::new(table.stream.clone(), 0);
            let mut writer = scratch.begin();
            if row.get(0).is_some_and(|text| set(&mut writer, time, text.as_bytes()).is_ok()) {
                times.push(writer.cell(time));
            }
        }
    }
    Ok(Taking::Recovered { taken, clock: clock(&times, taken) })
}

/// The newest event, and never more than the present.
fn clock(times: &[i64], taken: Timestamp) -> Option<Timestamp> {
    times.iter().max().map(|newest| Timestamp::from_micros(*newest).min(taken))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use interdict_features::definition::{Column, Judge, LabelsOf, Stream};
    use interdict_features::time::Span;
    use interdict_features::value::{ColumnType, NULL};

    use super::*;

    fn table(name: &str, judge: Option<Judge>, labels: Option<LabelsOf>) -> Table {
        let column = |name: &str, kind| Column { name: name.to_owned(), kind, sensitive: false };
        let columns = vec![column("id", ColumnType::Int), column("at", ColumnType::Timestamp)];
        let mut stream = Stream::of_columns(name, columns, 0, Some(1));
        (stream.judge, stream.labels) = (judge, labels);
        Table {
            schema: "s".to_owned(),
            name: name.to_owned(),
            stream: Arc::new(stream),
            before: Default::default(),
            retention: Span::from_micros(100),
        }
    }

    fn found(filter: Option<&str>) -> Found {
        Found { id: 1, is_partitioned: false, filter: filter.map(str::to_owned), entry: None }
    }

    #[test]
    fn only_what_cannot_have_been_forgotten_may_be_judged() {
        let (judged, rest) = (table("tx", Some(Judge::Insert), None), table("logins", None, None));
        let taken = Timestamp::from_micros(5_000);
        let check = |table: &Table, clock: Option<i64>, time: Option<i64>, expected: Op| {
            let clock = clock.map(Timestamp::from_micros);
            let change = Taking::Recovered { taken, clock }.change(table, 9, time);
            assert_eq!((change.op, change.arrival), (expected, Some(taken)), "{clock:?} {time:?}");
        };
        check(&judged, Some(1_000), Some(900), Op::Recovered);
        check(&judged, Some(1_000), Some(899), Op::Snapshot);
        check(&judged, Some(1_000), Some(NULL), Op::Snapshot);
        check(&judged, None, Some(-5), Op::Recovered);
        check(&judged, None, None, Op::Snapshot);
        check(&rest, Some(1_000), Some(0), Op::Recovered);
        let history = Taking::History.change(&judged, 9, Some(2_000));
        assert_eq!((history.op, history.arrival), (Op::Snapshot, None));
    }

    #[test]
    fn the_clock_is_the_newest_event_and_never_ahead() {
        let taken = Timestamp::from_micros(1_000_000);
        let check = |times: &[i64], expected: Option<i64>| {
            assert_eq!(clock(times, taken), expected.map(Timestamp::from_micros));
        };
        check(&[], None);
        check(&[7], Some(7));
        check(&[3, 99, 5], Some(99));
        check(&[9_000_000, 5], Some(1_000_000));
    }

    #[test]
    fn labels_come_first_and_judged_rows_last_in_order_of_time() {
        let labels = LabelsOf { stream: 0, value: 1 };
        let tables =
            [table("tx", Some(Judge::Insert), None), table("logins", None, None), table("cb", None, Some(labels))];
        let found = [found(Some("(id > 1)")), found(None), found(None)];
        let taken = Timestamp::from_micros(1);
        let sql = |taking| selects(taking, &tables, &found).into_iter().map(|select| select.sql).collect::<Vec<_>>();
        let (tx, logins, cb) = (
            "SELECT \"id\", \"at\" FROM ONLY \"s\".\"tx\" WHERE (id > 1)",
            "SELECT \"id\", \"at\" FROM ONLY \"s\".\"logins\"",
            "SELECT \"id\", \"at\" FROM ONLY \"s\".\"cb\"",
        );
        assert_eq!(sql(Taking::History), [tx, logins, cb]);
        let ordered = format!("{tx} ORDER BY \"at\" NULLS FIRST, \"id\"");
        assert_eq!(sql(Taking::Recovered { taken, clock: None }), [cb, logins, &ordered]);
    }
}
