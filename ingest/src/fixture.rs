//! Streams that tests of several modules decode into.

use std::sync::Arc;

#[cfg(test)]
use interdict_features::change::Row;
use interdict_features::definition::{Column, Stream};
use interdict_features::value::ColumnType;

fn columns(declared: &[(&str, &str)]) -> Vec<Column> {
    let column = |(name, kind): &(&str, &str)| Column {
        name: (*name).to_owned(),
        kind: ColumnType::parse(kind).expect("a type by its name"),
        sensitive: false,
    };
    declared.iter().map(column).collect()
}

/// The transactions of the handbook, with a column of every other type beside.
pub(crate) fn transactions() -> Arc<Stream> {
    let declared = [
        ("id", "int64"),
        ("at", "timestamp"),
        ("customer", "string"),
        ("amount", "decimal(2)"),
        ("is_fraud", "bool"),
        ("score", "double"),
    ];
    Arc::new(Stream::of_columns("transactions", columns(&declared), 0, Some(1)))
}

/// Labels that carry only the id, in a table with a schema.
pub(crate) fn chargebacks() -> Arc<Stream> {
    let mut stream = Stream::of_columns("chargebacks", columns(&[("id", "int64"), ("is_fraud", "bool")]), 0, None);
    stream.index = 1;
    stream.source_table = Some("risk.chargebacks".to_owned());
    Arc::new(stream)
}

/// A stream with a sensitive column.
#[cfg(test)]
pub(crate) fn cards() -> Arc<Stream> {
    let mut columns = columns(&[("id", "int64"), ("at", "timestamp"), ("card", "string")]);
    columns[2].sensitive = true;
    let mut stream = Stream::of_columns("cards", columns, 0, Some(1));
    stream.index = 2;
    Arc::new(stream)
}

/// A row as text: cells by `|`, texts in quotes, null as `-`, unchanged as `~`.
#[cfg(test)]
pub(crate) fn shown(row: &Row<'_>) -> String {
    let cell = |column: usize| match row.cells[column] {
        interdict_features::value::NULL => "-".to_owned(),
        interdict_features::value::UNCHANGED => "~".to_owned(),
        _ if row.stream.columns[column].kind.is_text() => format!("'{}'", row.text(column).unwrap()),
        _ if row.stream.columns[column].kind == ColumnType::Double => {
            format!("{}", interdict_features::value::double_of(row.cells[column]))
        }
        cell => cell.to_string(),
    };
    (0..row.cells.len()).map(cell).collect::<Vec<_>>().join("|")
}
