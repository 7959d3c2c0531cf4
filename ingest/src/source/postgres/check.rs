//! What a database must be like before its changes are captured; makes the publication where it is missing.
//!
//! Invariant: a publication is made only for tables whose updates and deletes stay possible with it: one without a
//! replica identity would refuse them from then on.

use interdict_features::definition::{OnDelete, OnTruncate};

use crate::source::config::postgres::Creation;

use super::connection::{Control, Server, literal};
use super::error::PostgresError;
use super::table::{Table, quote};
use super::value::fits;

/// The first version that sends logical messages, which the transport always asks for.
const VERSION_MIN: u64 = 140_000;
/// The first version with row filters.
const VERSION_FILTERS: u64 = 150_000;

/// What the checks found that is needed later.
#[derive(Debug)]
pub(super) struct Checked {
    /// The database's object id.
    pub(super) database: String,
    /// Per table, what it is.
    pub(super) tables: Vec<Found>,
    /// The server's version, as it numbers them.
    pub(super) version: u64,
    /// Asks how the publication stands, as one text, and how many of the tables it holds.
    pub(super) question: String,
    /// How it stood before it was checked.
    pub(super) standing: String,
}

/// What a table was found to be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    /// Its object id.
    pub(super) id: u32,
    /// Whether its rows are those of its partitions.
    pub(super) is_partitioned: bool,
    /// The condition under which its rows are published.
    pub(super) filter: Option<String>,
    /// How it came into the publication; `None` where the publication takes tables as they come.
    pub(super) entry: Option<Entry>,
}

/// A table's entry in the publication. A table that leaves it and comes back has another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    id: u64,
    /// Columns and rows that are published: who alters them at once (`SET TABLE`) makes another entry, too.
    parts: String,
    /// Whether it was made since the slot was last confirmed, or not long before.
    is_new: bool,
}

impl Checked {
    /// Says of partitioned tables what the server never tells.
    pub(super) fn warn_of_partitions(&self, tables: &[Table]) {
        for (table, _) in tables.iter().zip(&self.tables).filter(|(_, found)| found.is_partitioned) {
            tracing::warn!(
                %table,
                "the table is partitioned: what a TRUNCATE, DROP, ATTACH or DETACH of one partition takes or brings is never sent"
            );
        }
    }

    /// A table of which changes after those that the slot was confirmed for may never have been published.
    pub(super) fn came_later<'a>(&self, tables: &'a [Table]) -> Option<&'a Table> {
        let is_new = |found: &Found| found.entry.as_ref().is_some_and(|entry| entry.is_new);
        tables.iter().zip(&self.tables).find(|(_, found)| is_new(found)).map(|(table, _)| table)
    }

    /// A table that has left the publication and come back since `before`. One with other columns or rows was altered at once, unless a
    /// table was seen to be missing.
    pub(super) fn came_back<'a>(&self, tables: &'a [Table], before: &[Found], was_missing: bool) -> Option<&'a Table> {
        let is_another = |(now, before): (&Found, &Found)| match (&now.entry, &before.entry) {
            (Some(now), Some(before)) => now.id != before.id && (was_missing || now.parts == before.parts),
            _ => false,
        };
        tables.iter().zip(self.tables.iter().zip(before)).find(|(_, pair)| is_another(*pair)).map(|(table, _)| table)
    }
}

/// Checks server, tables and publication.
pub(super) async fn check(control: &Control, server: &Server, tables: &[Table]) -> Result<Checked, PostgresError> {
    let settings = "SELECT current_setting('wal_level'), current_setting('server_version_num'), \
         current_setting('server_version'), (SELECT oid FROM pg_database WHERE datname = current_database())";
    let rows = control.ask("show its settings", settings).await?;
    let Some(row) = rows.first() else {
        return Err(PostgresError::Protocol { what: "no settings".to_owned() });
    };
    if row.text(0) != "logical" {
        return Err(PostgresError::WalLevel { found: row.text(0).to_owned() });
    }
    let (version, database) = (row.number(1), row.text(3).to_owned());
    check_version(version, row.text(2))?;
    let mut found = Vec::with_capacity(tables.len());
    for table in tables {
        found.push(check_table(control, server, table).await?);
    }
    check_publication(control, server, tables).await?;
    let question = standing(server, tables, &found, version);
    let rows = control.ask("describe the publication", &question).await?;
    let standing = rows.first().map_or("", |row| row.text(0)).to_owned();
    for (table, found) in tables.iter().zip(&mut found) {
        found.filter = published(control, server, table, version).await?;
    }
    take_entries(control, server, &mut found, version).await?;
    Ok(Checked { database, tables: found, version, question, standing })
}

/// Notes the tables' entries. A transaction that made one after the slot was confirmed is among those that the slot still needs. One that made
/// the publication itself came before the slot: the server reads nothing of a time before the publication.
async fn take_entries(
    control: &Control,
    server: &Server,
    found: &mut [Found],
    version: u64,
) -> Result<(), PostgresError> {
    let parts = if version >= VERSION_FILTERS { "concat_ws(' ', r.prattrs, r.prqual)" } else { "''" };
    let config = server.config();
    let sql = format!(
        "SELECT r.prrelid, r.oid, {parts}, \
           r.xmin <> p.xmin AND coalesce((SELECT age(r.xmin) BETWEEN 0 AND age(s.catalog_xmin) FROM pg_replication_slots s WHERE s.slot_name = {}), false) \
         FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid WHERE p.pubname = {}",
        literal(&config.slot),
        literal(&config.publication)
    );
    for row in control.ask("list the publication's entries", &sql).await? {
        if let Some(found) = found.iter_mut().find(|found| u64::from(found.id) == row.number(0)) {
            found.entry = Some(Entry { id: row.number(1), parts: row.text(2).to_owned(), is_new: row.is_true(3) });
        }
    }
    Ok(())
}

/// The question how the publication stands: which changes of which tables it sends, and of them which columns and rows.
fn standing(server: &Server, tables: &[Table], found: &[Found], version: u64) -> String {
    let names: Vec<String> =
        tables.iter().map(|table| format!("({}, {})", literal(&table.schema), literal(&table.name))).collect();
    let ids: Vec<String> = found.iter().map(|found| found.id.to_string()).collect();
    let parts = if version >= VERSION_FILTERS { "r.oid, r.prattrs, r.prqual" } else { "r.oid" };
    let publication = literal(&server.config().publication);
    let published = format!(
        "FROM pg_publication_tables t WHERE t.pubname = {publication} AND (t.schemaname, t.tablename) IN ({})",
        names.join(", ")
    );
    format!(
        "SELECT coalesce((SELECT concat_ws(' ', p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, \
           (SELECT string_agg(concat_ws('.', t.schemaname, t.tablename), ', ' ORDER BY t.schemaname, t.tablename) \
            {published}), \
           (SELECT string_agg(concat_ws(' ', r.prrelid, {parts}), ', ' ORDER BY r.oid) \
            FROM pg_publication_rel r WHERE r.prpubid = p.oid AND r.prrelid IN ({}))) \
         FROM pg_publication p WHERE p.pubname = {publication}), ''), (SELECT count(*) {published})",
        ids.join(", ")
    )
}

fn check_version(number: u64, found: &str) -> Result<(), PostgresError> {
    match number {
        VERSION_MIN.. => Ok(()),
        _ => Err(PostgresError::Version { found: found.to_owned() }),
    }
}

async fn check_table(control: &Control, server: &Server, table: &Table) -> Result<Found, PostgresError> {
    let sql = format!(
        "SELECT c.relkind, c.relpersistence, c.oid, \
           coalesce(has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT'), false) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = {} AND c.relname = {}",
        literal(&table.schema),
        literal(&table.name)
    );
    let rows = control.ask("describe a table", &sql).await?;
    let Some(row) = rows.first() else { return Err(PostgresError::NoTable { table: table.to_string() }) };
    let found = match (row.text(0), row.text(1)) {
        ("r" | "p", "p") => None,
        ("r" | "p", "u") => Some("an unlogged table"),
        ("r" | "p", _) => Some("a temporary table"),
        ("v", _) => Some("a view"),
        ("m", _) => Some("a materialized view"),
        ("f", _) => Some("a foreign table"),
        _ => Some("no table"),
    };
    if let Some(found) = found {
        return Err(PostgresError::NotLogged { table: table.to_string(), found });
    }
    if !row.is_true(3) {
        let user = server.config().address.user.clone();
        return Err(PostgresError::NoSelectRight { user, table: table.to_string() });
    }
    check_columns(control, table).await?;
    check_identity(control, table, row.text(2)).await?;
    let id = row.text(2).parse().unwrap_or_default();
    Ok(Found { id, is_partitioned: row.text(0) == "p", filter: None, entry: None })
}

/// A column of a table.
struct FoundColumn {
    name: String,
    kind: u32,
    type_name: String,
    is_generated: bool,
}

async fn columns_of(control: &Control, table: &Table) -> Result<Vec<FoundColumn>, PostgresError> {
    let sql = format!(
        "SELECT a.attname, a.atttypid, format_type(a.atttypid, a.atttypmod), a.attgenerated <> '' \
         FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE n.nspname = {} AND c.relname = {} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
        literal(&table.schema),
        literal(&table.name)
    );
    let rows = control.ask("describe a table's columns", &sql).await?;
    let column = |row: &super::connection::Row| FoundColumn {
        name: row.text(0).to_owned(),
        kind: row.text(1).parse().unwrap_or_default(),
        type_name: row.text(2).to_owned(),
        is_generated: row.is_true(3),
    };
    Ok(rows.iter().map(column).collect())
}

/// Checks that the table has every declared column, with a type that fits.
pub(super) async fn check_columns(control: &Control, table: &Table) -> Result<(), PostgresError> {
    let found = columns_of(control, table).await?;
    for declared in &table.stream.columns {
        let stream = table.stream.name.clone();
        let Some(column) = found.iter().find(|column| column.name == declared.name) else {
            return Err(PostgresError::MissingColumn {
                table: table.to_string(),
                stream,
                column: declared.name.clone(),
                found: found.into_iter().take(32).map(|column| column.name).collect(),
            });
        };
        if column.is_generated {
            return Err(PostgresError::NotSent { table: table.to_string(), columns: column.name.clone() });
        }
        if !fits(column.kind, declared.kind) {
            return Err(PostgresError::ColumnType {
                table: table.to_string(),
                stream,
                column: declared.name.clone(),
                found: column.type_name.clone(),
                declared: declared.kind,
            });
        }
    }
    Ok(())
}

/// Which columns that rows in the server's log have the table has no more.
pub(super) async fn gone(control: &Control, table: &Table, columns: &[String]) -> Result<Vec<String>, PostgresError> {
    let now = columns_of(control, table).await?;
    let is_gone = |column: &&String| now.iter().all(|now| now.name != **column);
    let before = &table.before;
    let is_told = |column: &&String| {
        before.dropped.contains(column) || before.renamed.iter().any(|(renamed, _)| renamed == *column)
    };
    Ok(columns.iter().filter(is_gone).filter(|column| !is_told(column)).cloned().collect())
}

/// Updates and deletes carry the columns of the replica identity: the id must be among them. Every partition has an identity of its own, and the
/// server writes its rows as if they had that of the whole table. No partition is locked for it: somebody may be at work on one for long.
async fn check_identity(control: &Control, table: &Table, oid: &str) -> Result<(), PostgresError> {
    let id = &table.stream.columns[table.stream.id].name;
    // The server takes no index that is looked at only at the end of a transaction.
    let index = "FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey) \
         WHERE i.indrelid = c.oid AND i.indimmediate AND i.indisvalid \
           AND CASE c.relreplident WHEN 'd' THEN i.indisprimary WHEN 'i' THEN i.indisreplident ELSE false END";
    let sql = format!(
        "SELECT c.oid = {oid}, n.nspname || '.' || c.relname, c.relreplident = 'f', EXISTS (SELECT {index}), \
           EXISTS (SELECT {index} AND a.attname = {}) \
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE c.oid = {oid} OR (c.relkind = 'r' AND c.relispartition AND c.oid IN ( \
           WITH RECURSIVE tree (relid) AS (SELECT {oid}::oid \
             UNION SELECT i.inhrelid FROM pg_inherits i JOIN tree ON i.inhparent = tree.relid WHERE NOT i.inhdetachpending) \
           SELECT relid FROM tree)) \
         ORDER BY c.oid <> {oid}, 2",
        literal(id)
    );
    let rows = control.ask("describe a table's replica identity", &sql).await?;
    let is_whole = rows.iter().any(|row| row.is_true(0) && row.is_true(2));
    // Rows are those of the partitions, where there are any.
    for row in rows.iter().filter(|row| rows.len() == 1 || !row.is_true(0)) {
        let holds_id = row.is_true(4) || (table.stream.on_delete == OnDelete::Ignore && row.is_true(3));
        if row.is_true(2) || (holds_id && !is_whole) {
            continue;
        }
        let (table, column) = (table.to_string(), id.clone());
        return Err(match row.is_true(0) {
            true => PostgresError::ReplicaIdentity { table, column },
            false => PostgresError::PartitionIdentity { table, partition: row.text(1).to_owned(), column },
        });
    }
    Ok(())
}

fn names(tables: &[Table]) -> String {
    tables.iter().map(Table::quoted).collect::<Vec<_>>().join(", ")
}

async fn check_publication(control: &Control, server: &Server, tables: &[Table]) -> Result<(), PostgresError> {
    let publication = &server.config().publication;
    let sql = format!(
        "SELECT pubinsert, pubupdate, pubdelete, pubtruncate FROM pg_publication WHERE pubname = {}",
        literal(publication)
    );
    let rows = control.ask("describe the publication", &sql).await?;
    let Some(row) = rows.first() else { return make_publication(control, server, tables).await };
    let needs_deletes = tables.iter().any(|table| table.stream.on_delete == OnDelete::Retract);
    let needs_truncates = tables.iter().any(|table| table.stream.on_truncate != OnTruncate::Ignore);
    let wanted = [(true, "insert"), (true, "update"), (needs_deletes, "delete"), (needs_truncates, "truncate")];
    for (column, (is_wanted, left_out)) in wanted.into_iter().enumerate() {
        if is_wanted && !row.is_true(column) {
            return Err(PostgresError::LeavesOut { publication: publication.clone(), left_out });
        }
    }
    Ok(())
}

async fn make_publication(control: &Control, server: &Server, tables: &[Table]) -> Result<(), PostgresError> {
    let config = server.config();
    let publication = config.publication.clone();
    if config.creation == Creation::Forbidden {
        return Err(PostgresError::NoPublication { publication, tables: names(tables) });
    }
    let sql = format!(
        "CREATE PUBLICATION {} FOR TABLE {} WITH (publish_via_partition_root = true)",
        quote(&publication),
        names(tables)
    );
    match control.ask("make the publication", &sql).await {
        // Another process made it at the same time.
        Err(PostgresError::Server { code, .. }) if code == "42710" || code == "23505" => Ok(()),
        Err(PostgresError::Server { code, why, .. }) if code == "42501" => {
            let user = config.address.user.clone();
            Err(PostgresError::NoCreateRight { user, publication, tables: names(tables), why })
        }
        Err(error) => Err(error),
        Ok(_) => {
            tracing::info!(publication, "made the publication");
            Ok(())
        }
    }
}

/// The condition under which a table's rows are published, if there is one.
pub(super) async fn published(
    control: &Control,
    server: &Server,
    table: &Table,
    version: u64,
) -> Result<Option<String>, PostgresError> {
    let publication = &server.config().publication;
    let declared: Vec<String> = table.stream.columns.iter().map(|column| literal(&column.name)).collect();
    let (filter, left_out) = if version >= VERSION_FILTERS {
        let names = format!("unnest(ARRAY[{}]::name[]) AS declared", declared.join(", "));
        let left_out =
            format!("array_to_string(ARRAY(SELECT declared FROM {names} WHERE declared <> ALL (attnames)), ', ')");
        ("rowfilter", left_out)
    } else {
        ("NULL", "''".to_owned())
    };
    let sql = format!(
        "SELECT {filter}, {left_out} FROM pg_publication_tables \
         WHERE pubname = {} AND schemaname = {} AND tablename = {}",
        literal(publication),
        literal(&table.schema),
        literal(&table.name)
    );
    let rows = control.ask("list the publication's tables", &sql).await?;
    match rows.first() {
        Some(row) if !row.text(1).is_empty() => {
            Err(PostgresError::NotSent { table: table.to_string(), columns: row.text(1).to_owned() })
        }
        Some(row) => Ok(row.get(0).map(str::to_owned)),
        None => Err(PostgresError::NotPublished { publication: publication.clone(), table: table.to_string() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_sends_no_messages_is_too_old() {
        let told = check_version(130_022, "13.22 (Debian)").unwrap_err().to_string();
        assert!(told.contains("PostgreSQL 13.22 (Debian)") && told.contains("14 or newer"), "{told}");
        for number in [140_000, 150_013, 180_001] {
            check_version(number, "newer").unwrap();
        }
    }
}
