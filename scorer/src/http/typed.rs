//! From the JSON of a request to the engine's terms: one-row batches, canonical keys, canonical ids.
//!
//! Everything goes through a batch's row writer, the same that sources use, so that a key or an id that came over
//! HTTP is masked, normalised and bounded exactly as one that came from a source.

use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, RowWriter, Version};
use interdict_features::config::suggestion;
use interdict_features::decision::EntityRef;
use interdict_features::decode::set_raw_json;
use interdict_features::definition::{Definitions, Stream};
use interdict_features::key_text;
use interdict_features::time::Timestamp;
use interdict_features::value::{ColumnType, NULL, Value};
use serde_json::value::{RawValue, to_raw_value};
use sha2::{Digest, Sha256};

use super::backend::FieldProblem;
use super::body::{Fields, Object, shown};
use super::error::ApiError;

/// A request's event as the engine takes it.
#[derive(Debug)]
pub(super) struct Event {
    /// Exactly one change.
    pub(super) batch: ChangeBatch,
    /// Its id.
    pub(super) event_id: String,
    /// SHA-256 over stream and cells.
    pub(super) hash: [u8; 32],
}

/// The judged stream called `name`, or the only one.
pub(super) fn judged_stream(definitions: &Definitions, name: Option<&str>) -> Result<Arc<Stream>, String> {
    let mut judged = definitions.streams.iter().filter(|stream| stream.judge.is_some() && stream.labels.is_none());
    match name {
        Some(name) => judged.find(|stream| stream.name == name).cloned().ok_or_else(|| {
            let names = definitions.streams.iter().filter(|stream| stream.judge.is_some());
            format!("no stream that is judged; {}", suggestion(&shown(name), names.map(|stream| stream.name.as_str())))
        }),
        None => match (judged.next(), judged.next()) {
            (Some(stream), None) => Ok(Arc::clone(stream)),
            (None, _) => Err("no stream is judged here".to_owned()),
            _ => Err("required: several streams are judged".to_owned()),
        },
    }
}

/// Turns the members of `event` into a one-row batch; every wrong, missing and unknown column is told at once.
pub(super) fn event(stream: &Arc<Stream>, object: &Object<'_>, received: Timestamp) -> Result<Event, ApiError> {
    let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
    let mut problems = set_columns(&mut batch, object, received);
    let row = batch.row(0);
    for column in [stream.label, stream.label_time].into_iter().flatten().filter(|column| row.cells[*column] != NULL) {
        let text = "must be null: labels are reported to /v1/labels";
        problems.push(of_column(&stream.columns[column].name, text));
    }
    let is_absent = |column: usize, problems: &[FieldProblem]| {
        let field = format!("event.{}", stream.columns[column].name);
        row.cells[column] == NULL && !problems.iter().any(|problem| problem.field == field)
    };
    if let Some(time) = stream.time.filter(|time| is_absent(*time, &problems)) {
        problems.push(of_column(&stream.columns[time].name, "required: the event's time"));
    }
    let event_id = row.event_id();
    if is_absent(stream.id, &problems) || event_id.as_deref() == Some("") {
        problems.push(of_column(&stream.columns[stream.id].name, "required: the event's id"));
        return Err(ApiError::UnstableId(problems));
    }
    match event_id {
        Some(event_id) if problems.is_empty() => {
            let hash = hash(&batch);
            Ok(Event { batch, event_id, hash })
        }
        _ => Err(ApiError::Fields(problems)),
    }
}

/// Fills the batch's one row; a column that cannot be set stays null and is told.
fn set_columns(batch: &mut ChangeBatch, object: &Object<'_>, received: Timestamp) -> Vec<FieldProblem> {
    let mut problems = Vec::new();
    let stream = Arc::clone(batch.stream());
    let mut row = batch.begin();
    let mut is_set = vec![false; stream.columns.len()];
    for (name, raw) in &object.0 {
        let Some(column) = stream.column(name) else {
            let known = stream.columns.iter().map(|column| column.name.as_str());
            problems.push(of_column(&shown(name), format!("unknown; {}", suggestion(&shown(name), known))));
            continue;
        };
        if std::mem::replace(&mut is_set[column], true) {
            problems.push(of_column(name, "given twice"));
        } else if let Err(text) = set_column(&mut row, column, raw) {
            problems.push(of_column(name, text));
        }
    }
    row.finish(Change { op: Op::Request, version: Version::REQUEST, arrival: Some(received), position: 0 });
    problems
}

fn of_column(column: &str, problem: impl Into<String>) -> FieldProblem {
    FieldProblem { field: format!("event.{column}"), problem: problem.into() }
}

fn set_column(row: &mut RowWriter<'_>, column: usize, raw: &RawValue) -> Result<(), String> {
    let kind = row.stream().columns[column].kind;
    set_raw_json(row, column, raw.get(), None).map_err(|error| format!("{error}; expected {}", expected(kind)))
}

fn expected(kind: ColumnType) -> String {
    match kind {
        ColumnType::Int => "an integer".to_owned(),
        ColumnType::Double => "a finite number".to_owned(),
        ColumnType::Bool => "true or false".to_owned(),
        ColumnType::Text => "a string of 1024 bytes at most".to_owned(),
        ColumnType::Uuid => "a UUID as a string".to_owned(),
        ColumnType::Timestamp => "an RFC 3339 time as a string".to_owned(),
        ColumnType::Decimal { scale } => format!("a number or a string with at most {scale} decimal places"),
    }
}

/// SHA-256 over stream and cells: the same event written another way has the same one.
fn hash(batch: &ChangeBatch) -> [u8; 32] {
    let mut digest = Sha256::new();
    let row = batch.row(0);
    let mut part = |bytes: &[u8]| {
        digest.update(u64::try_from(bytes.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(bytes);
    };
    part(batch.stream().name.as_bytes());
    for (column, declared) in batch.stream().columns.iter().enumerate() {
        match row.text(column).filter(|_| declared.kind.is_text()) {
            Some(text) => part(text.as_bytes()),
            None => part(&row.cells[column].to_be_bytes()),
        }
    }
    digest.finalize().into()
}

/// A key as the engine takes it.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct TypedKey {
    /// One value per key column.
    pub(super) values: Vec<Value>,
    /// As records and lists name it.
    pub(super) reference: EntityRef,
}

/// The stream and its columns by which an entity's key is typed: those of its first group, otherwise the first
/// stream that has all the columns.
fn key_columns(definitions: &Definitions, entity: usize) -> Option<(&Arc<Stream>, Vec<usize>)> {
    if let Some(group) = definitions.groups.iter().find(|group| group.entity == entity) {
        return Some((&definitions.streams[group.stream], group.key.clone()));
    }
    definitions.streams.iter().find_map(|stream| {
        let columns = definitions.entities[entity].key.iter().map(|name| stream.column(name));
        Some((stream, columns.collect::<Option<Vec<_>>>()?))
    })
}

/// Reads `key` (a value; for a composite key a list in the key's order, or an object by column), or `shown_key` (the
/// text that records and lists show, masked parts as they stand there).
pub(super) fn key(definitions: &Definitions, entity: usize, fields: &mut Fields<'_>) -> Option<TypedKey> {
    let Some((stream, columns)) = key_columns(definitions, entity) else {
        fields.problem("entity", "no stream has this entity's key");
        return None;
    };
    let names = &definitions.entities[entity].key;
    let values = match (fields.raw("key"), fields.text("shown_key")) {
        (Some(raw), None) => {
            key_parts(raw, names).and_then(|parts| typed(stream, &columns, &parts)).map_err(|problem| (problem, "key"))
        }
        (None, Some(text)) => shown_key(stream, &columns, &text).map_err(|problem| (problem, "shown_key")),
        (Some(_), Some(_)) => Err(("give either 'key' or 'shown_key'".to_owned(), "shown_key")),
        (None, None) => Err(("required".to_owned(), "key")),
    };
    match values {
        Ok(values) => {
            let text = key_text::join(&values.iter().map(text_of).collect::<Vec<_>>());
            let reference = EntityRef { entity: definitions.entities[entity].name.clone(), key: text };
            Some(TypedKey { values, reference })
        }
        Err((problem, field)) => {
            fields.problem(field, problem);
            None
        }
    }
}

/// The raw values of a key in the key's order.
fn key_parts(raw: &RawValue, names: &[String]) -> Result<Vec<Box<RawValue>>, String> {
    let parts: Vec<Box<RawValue>> = match raw.get().as_bytes().first() {
        Some(b'[') => serde_json::from_str(raw.get()).map_err(|_too_deep| "not a key".to_owned())?,
        Some(b'{') => {
            let object: Object<'_> = serde_json::from_str(raw.get()).map_err(|_too_deep| "not a key".to_owned())?;
            let part = |name: &String| object.0.iter().find(|(member, _)| member == name).map(|(_, raw)| *raw);
            let parts: Option<Vec<&RawValue>> = names.iter().map(part).collect();
            parts.unwrap_or_default().into_iter().map(RawValue::to_owned).collect()
        }
        _ => vec![raw.to_owned()],
    };
    if parts.len() == names.len() { Ok(parts) } else { Err(format!("the key is made of: {}", names.join(", "))) }
}

/// Types the parts of a key through a row of the stream.
fn typed(stream: &Arc<Stream>, columns: &[usize], parts: &[Box<RawValue>]) -> Result<Vec<Value>, String> {
    let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
    let mut row = batch.begin();
    for (&column, raw) in columns.iter().zip(parts) {
        set_column(&mut row, column, raw).map_err(|problem| format!("{}: {problem}", stream.columns[column].name))?;
    }
    row.finish(Change { op: Op::Request, version: Version::REQUEST, arrival: None, position: 0 });
    let row = batch.row(0);
    let value = |&column: &usize| match row.value(column) {
        Value::Null => Err(format!("{}: must not be null", stream.columns[column].name)),
        value => Ok(value),
    };
    columns.iter().map(value).collect()
}

fn shown_key(stream: &Arc<Stream>, columns: &[usize], text: &str) -> Result<Vec<Value>, String> {
    let parts = key_text::split(text, columns.len());
    let parts = parts.ok_or_else(|| format!("must have {} parts joined with '|'", columns.len()))?;
    let mut values = Vec::with_capacity(parts.len());
    for (part, &column) in parts.into_iter().zip(columns) {
        if stream.columns[column].sensitive {
            let is_mask = part.len() == 32 && part.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
            if !is_mask {
                return Err(format!("{}: must be the 32 hex digits that records show", stream.columns[column].name));
            }
            values.push(Value::Text(part.as_str().into()));
        } else {
            values.extend(typed(stream, &[column], &[raw_text(&part)])?);
        }
    }
    Ok(values)
}

fn raw_text(text: &str) -> Box<RawValue> {
    to_raw_value(text).expect("a string always becomes JSON")
}

fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::Text(text) => text.to_string(),
    }
}

/// The stream called `name` whose events can be labelled, or the only one.
pub(super) fn labelled_stream(definitions: &Definitions, name: Option<&str>) -> Result<Arc<Stream>, String> {
    let is_labelled = |stream: &&Arc<Stream>| {
        stream.labels.is_none()
            && (stream.label.is_some()
                || definitions
                    .streams
                    .iter()
                    .any(|other| other.labels.is_some_and(|labels| labels.stream == stream.index)))
    };
    let mut labelled = definitions.streams.iter().filter(is_labelled);
    match name {
        Some(name) => labelled
            .find(|stream| stream.name == name)
            .cloned()
            .ok_or_else(|| "no stream whose events are labelled".to_owned()),
        None => match (labelled.next(), labelled.next()) {
            (Some(stream), None) => Ok(Arc::clone(stream)),
            (None, _) => Err("no stream is labelled here".to_owned()),
            _ => Err("required: several streams are labelled".to_owned()),
        },
    }
}

/// An event id of a stream, with its text as decision ids are made of it.
pub(super) fn event_id(stream: &Arc<Stream>, raw: &RawValue) -> Result<(Value, String), String> {
    let mut values = typed(stream, &[stream.id], &[raw.to_owned()])?;
    let value = values.pop().unwrap_or(Value::Null);
    match text_of(&value) {
        text if text.is_empty() => Err("must not be empty".to_owned()),
        text => Ok((value, text)),
    }
}
