//! The captured tables, and how the rows of each relation map onto the columns of its stream.

use std::collections::HashMap;
use std::sync::Arc;

use interdict_features::definition::Stream;
use interdict_features::time::Span;
use interdict_features::value::ColumnType;

use crate::source::config::postgres::ColumnsBefore;

use super::check::Found;
use super::message::Relation;
use super::value::fits;

/// How many relations are remembered before those that feed no stream (other tables, partitions) are forgotten: a server describes each but once.
const RELATIONS_MAX: usize = 16_384;

/// One captured table.
#[derive(Clone, Debug)]
pub(super) struct Table {
    pub(super) schema: String,
    pub(super) name: String,
    pub(super) stream: Arc<Stream>,
    pub(super) before: ColumnsBefore,
    /// For how long behind the clock of the streams its rows are remembered.
    pub(super) retention: Span,
}

impl Table {
    /// Where a column of the stream stands among those that rows have: under its name, or under that of before.
    fn place_of(&self, column: &str, relation: &Relation<'_>) -> Option<usize> {
        let place = |name: &str| relation.columns.iter().position(|found| found.name == name);
        let renamed = self.before.renamed.iter().filter(|(_, now)| now == column);
        place(column).or_else(|| renamed.filter_map(|(before, _)| place(before)).next())
    }

    /// The name as SQL takes it.
    pub(super) fn quoted(&self) -> String {
        format!("{}.{}", quote(&self.schema), quote(&self.name))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// An identifier as SQL takes it.
pub(super) fn quote(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// Why a relation cannot feed its stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Unfit {
    /// A declared column is not there.
    Missing {
        /// Place in [`Catalog::tables`].
        table: usize,
        /// Its name.
        column: String,
        /// What is there.
        found: Vec<String>,
    },
    /// A column's type cannot become what is declared.
    Type { table: usize, column: String, kind: u32, declared: ColumnType },
    /// A captured table has another name now.
    Renamed { table: usize, now: String },
}

/// What a missing column of a relation is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Lacking {
    /// A mistake.
    Mistake,
    /// A mistake, though the table may have another name now.
    ColumnMistake,
    /// Null: the table has the column now, and the rows are from before. The same holds for its name.
    Null,
}

/// Where the columns of a stream stand in the rows of a relation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Places {
    pub(super) table: usize,
    /// Per column of the stream; `None`: the relation has no such column.
    pub(super) columns: Vec<Option<usize>>,
    /// How many columns the relation has.
    pub(super) width: usize,
}

impl Places {
    /// Whether the rows have no such column as the stream has.
    pub(super) fn are_lacking(&self) -> bool {
        self.columns.iter().any(Option::is_none)
    }
}

/// The captured tables and the relations seen so far.
#[derive(Debug)]
pub(super) struct Catalog {
    tables: Vec<Table>,
    /// Per table, what it was found to be, once known.
    found: Vec<Found>,
    /// `None`: a table of the publication that feeds no stream.
    relations: HashMap<u32, Option<Arc<Places>>>,
    /// Whether relations that feed no stream were forgotten: one that is not known is such a one.
    are_forgotten: bool,
}

impl Catalog {
    pub(super) fn new(tables: Vec<Table>) -> Self {
        Self { tables, found: Vec::new(), relations: HashMap::new(), are_forgotten: false }
    }

    pub(super) fn tables(&self) -> &[Table] {
        &self.tables
    }

    /// Takes note of what the tables are, so that one is known under another name.
    pub(super) fn know(&mut self, found: Vec<Found>) {
        self.found = found;
    }

    /// Whether a row may move to another partition, of which the server tells as of a delete and an insert.
    pub(super) fn is_partitioned(&self, table: usize) -> bool {
        self.found.get(table).is_some_and(|found| found.is_partitioned)
    }

    /// Takes note of a relation as rows of it will be written from now on.
    pub(super) fn describe(&mut self, relation: &Relation<'_>, lacking: Lacking) -> Result<(), Unfit> {
        let named =
            self.tables.iter().position(|table| table.schema == relation.schema && table.name == relation.table);
        let known = self.found.iter().position(|found| found.id == relation.id);
        if named.is_none()
            && lacking == Lacking::Mistake
            && let Some(table) = known
        {
            return Err(Unfit::Renamed { table, now: format!("{}.{}", relation.schema, relation.table) });
        }
        let found = named.or(known);
        let places = found.map(|table| self.places(table, relation, lacking)).transpose()?;
        if self.relations.len() >= RELATIONS_MAX {
            self.relations.retain(|_, places| places.is_some());
            self.are_forgotten = true;
        }
        self.relations.insert(relation.id, places.map(Arc::new));
        Ok(())
    }

    fn places(&self, table: usize, relation: &Relation<'_>, lacking: Lacking) -> Result<Places, Unfit> {
        let own = &self.tables[table];
        let stream = &own.stream;
        let mut columns = Vec::with_capacity(stream.columns.len());
        for column in &stream.columns {
            let place = own.place_of(&column.name, relation);
            match place.map(|place| relation.columns[place].kind) {
                Some(kind) if !fits(kind, column.kind) => {
                    return Err(Unfit::Type { table, column: column.name.clone(), kind, declared: column.kind });
                }
                None if lacking != Lacking::Null => {
                    let found = relation.columns.iter().map(|found| found.name.to_owned()).collect();
                    return Err(Unfit::Missing { table, column: column.name.clone(), found });
                }
                _ => {}
            }
            columns.push(place);
        }
        Ok(Places { table, columns, width: relation.columns.len() })
    }

    /// The mapping of a relation: `None` where it was never described, `Some(None)` where it feeds no stream.
    pub(super) fn places_of(&self, relation: u32) -> Option<Option<&Arc<Places>>> {
        let known = self.relations.get(&relation).map(Option::as_ref);
        known.or(self.are_forgotten.then_some(None))
    }

    /// Forgets all relations: a new connection describes them anew.
    pub(super) fn forget(&mut self) {
        self.relations.clear();
        self.are_forgotten = false;
    }
}
