//! `[stream.NAME]` with `labels`: a stream that carries labels for the rows of another stream, by their id.

use super::StreamDraft;
use super::columns::{self, Columns};
use crate::config::{Section, Spanned, suggestion};
use crate::definition::read::{Doubt, refuse_keys};
use crate::definition::{Column, LabelsOf, OnTruncate};
use crate::value::ColumnType;

/// Reads the stream of labels at `index`; marks the stream it labels.
pub(super) fn read(
    index: usize,
    name: &str,
    section: &Section<'_>,
    secret: Option<&[u8]>,
    drafts: &mut [Option<StreamDraft>],
    sections: &[(String, Section<'_>)],
) -> StreamDraft {
    section.require("id", "\"transaction_id\"");
    section.require("value", "\"is_fraud\"");
    refuse_keys(
        section,
        &["label", "label_time", "append_only", "on_unmatched", "currency", "judge"],
        "a stream of labels has id, value, time, columns, zone, partition_by, source, on_delete and on_truncate",
    );
    let labelled = find_labelled(section, drafts, sections);
    let mut draft = if section.has("columns") {
        columns::read(section, secret)
    } else {
        implied(section, labelled.and_then(|labelled| drafts[labelled].as_ref()))
    }
    .into_draft(index, name);
    draft.read_id(section);
    draft.stream.time = draft.role(section, "time", ColumnType::Timestamp);
    let value = draft.role(section, "value", ColumnType::Bool).unwrap_or(0);
    draft.read_common(section);
    if draft.stream.on_truncate == OnTruncate::Clear {
        let message = "a stream of labels has no states of its own that could be cleared";
        section.report("on_truncate", message, "write \"stop\", or \"ignore\" to keep what was reported");
    }
    draft.stream.labels = Some(LabelsOf { stream: labelled.unwrap_or(0), value });
    if let Some(labelled) = labelled.and_then(|labelled| drafts[labelled].as_mut()) {
        labelled.has_labels = true;
        check_id(section, &draft, labelled);
    }
    draft
}

fn find_labelled(
    section: &Section<'_>,
    drafts: &[Option<StreamDraft>],
    sections: &[(String, Section<'_>)],
) -> Option<usize> {
    let name = section.spanned_text("labels")?;
    let found = sections.iter().position(|(candidate, _)| *candidate == name.value);
    let (message, help) = match found {
        Some(labelled) if drafts[labelled].is_some() && !sections[labelled].1.has("labels") => return Some(labelled),
        Some(_) => (
            format!("'{}' is itself a stream of labels", name.value),
            "name the stream of rows that is labelled".to_owned(),
        ),
        None => {
            let rows = sections.iter().filter(|(_, section)| !section.has("labels")).map(|(name, _)| name.as_str());
            (format!("unknown stream '{}'", name.value), suggestion(&name.value, rows))
        }
    };
    section.file().report(name.span, message, help);
    None
}

/// The columns that the keys `id`, `value` and `time` name, with the types they must have.
fn implied(section: &Section<'_>, labelled: Option<&StreamDraft>) -> Columns {
    let mut list: Vec<Column> = Vec::new();
    let mut doubt = Doubt::default();
    let id = labelled.filter(|labelled| labelled.has_id).map(|labelled| &labelled.stream.columns[labelled.stream.id]);
    let id_kind = id.map_or(ColumnType::Int, |id| id.kind);
    for (key, kind) in [("id", id_kind), ("value", ColumnType::Bool), ("time", ColumnType::Timestamp)] {
        // Asking for a string that is none reports it; asking again later is silent.
        let Some(Spanned { value: name, .. }) = section.spanned_text(key) else {
            continue;
        };
        if list.iter().any(|column| column.name == name) {
            section.report(key, format!("'{key}' names '{name}' a second time"), "name another column");
            doubt.name(name);
            continue;
        }
        let sensitive = key == "id" && id.is_some_and(|id| id.sensitive);
        if key == "id" && id.is_none() {
            doubt.name(name.clone());
        }
        list.push(Column { name, kind, sensitive });
    }
    Columns::implied(list, doubt, labelled.and_then(|labelled| labelled.stream.mask_key))
}

/// A label finds its row by the id: both sides must write it alike.
fn check_id(section: &Section<'_>, draft: &StreamDraft, labelled: &StreamDraft) {
    if !draft.has_id || !labelled.has_id {
        return;
    }
    let (own, other) = (&draft.stream.columns[draft.stream.id], &labelled.stream.columns[labelled.stream.id]);
    if own.kind != other.kind || own.sensitive != other.sensitive {
        let named = |column: &Column| {
            let sensitive = if column.sensitive { "sensitive " } else { "" };
            format!("{sensitive}{}", column.kind)
        };
        let message =
            format!("the id is {} here and {} in stream '{}'", named(own), named(other), labelled.stream.name);
        section.report("id", message, format!("declare {} = \"{}\"", own.name, named(other)));
    }
}
