//! `[stream.NAME]`: streams of rows, and streams of labels for them.

mod columns;
mod labels;

use std::collections::BTreeSet;

use jiff::tz::{Offset, TimeZone};

use super::super::{Judge, OnDelete, OnTruncate, OnUnmatched, Stream};
use super::{Doubt, STREAMS_MAX, bounded, compile_condition, names, position_of, slot, type_of};
use crate::config::{ConfigFile, Section, Spanned, suggestion};
use crate::expression::Scope;
use crate::value::ColumnType;

/// Why a label is refused wherever it would leak into features.
const LABEL_WHY: &str =
    "it is known only after the event, so that a feature from it would see the future; only share(label) may use it";

/// All streams in file order.
pub(super) struct Streams {
    pub(super) drafts: Vec<StreamDraft>,
    doubt: Doubt,
}

/// A stream as far as it could be read.
pub(super) struct StreamDraft {
    pub(super) stream: Stream,
    /// Columns that were declared with a mistake.
    pub(super) doubt: Doubt,
    /// Money columns that are in one currency whatever the row's.
    pub(super) converted: BTreeSet<usize>,
    /// Whether its id could be read.
    pub(super) has_id: bool,
    /// Whether its rows get labels, by a column or a stream of labels.
    pub(super) has_labels: bool,
}

/// Reads all streams.
pub(super) fn read(file: &ConfigFile, secret: Option<&[u8]>) -> Streams {
    let problems_before = file.problem_count();
    let sections = bounded(file, file.sections("stream"), "streams", STREAMS_MAX);
    if sections.is_empty() && file.problem_count() == problems_before {
        file.report(None, "no stream is declared", "add [stream.transactions] with columns, id and time");
    }
    let mut doubt = Doubt::default();
    let mut drafts: Vec<_> = (sections.iter().enumerate())
        .map(|(index, (name, section))| {
            if !names::check(file, "stream", &Spanned { value: name.clone(), span: section.span() }) {
                doubt.name(name.clone());
            }
            (!section.has("labels")).then(|| read_rows(index, name, section, secret))
        })
        .collect();
    for (index, (name, section)) in sections.iter().enumerate() {
        if section.has("labels") {
            let draft = labels::read(index, name, section, secret, &mut drafts, &sections);
            drafts[index] = Some(draft);
        }
    }
    let drafts: Vec<StreamDraft> = drafts.into_iter().flatten().collect();
    for (draft, (_, section)) in drafts.iter().zip(&sections) {
        check_append_only(draft, section);
    }
    for (_, section) in sections {
        section.finish();
    }
    Streams { drafts, doubt }
}

fn read_rows(index: usize, name: &str, section: &Section<'_>, secret: Option<&[u8]>) -> StreamDraft {
    section.require("columns", "{ transaction_id = \"int64\", tx_datetime = \"timestamp\", amount = \"decimal(2)\" }");
    section.require("id", "\"transaction_id\"");
    section.require("time", "\"tx_datetime\"");
    let mut draft = columns::read(section, secret).into_draft(index, name);
    draft.read_id(section);
    draft.stream.time = draft.role(section, "time", ColumnType::Timestamp);
    draft.stream.label = draft.role(section, "label", ColumnType::Bool);
    draft.stream.label_time = draft.role(section, "label_time", ColumnType::Timestamp);
    draft.stream.currency = draft.role(section, "currency", ColumnType::Text);
    draft.has_labels = section.has("label") || section.has("label_time");
    if section.has("label_time") && !section.has("label") {
        section.report("label_time", "'label_time' is set without 'label'", "add label = \"COLUMN\", or remove it");
    }
    if section.has("value") {
        section.know("value");
        section.report_key("value", "'value' belongs to streams of labels", "add labels = \"STREAM\", or remove it");
    }
    draft.read_common(section);
    draft.stream.append_only = section.bool("append_only").unwrap_or(false);
    draft.stream.on_unmatched = match section.choice("on_unmatched", &["keep", "drop"]) {
        Some(1) => OnUnmatched::Drop,
        None if draft.stream.append_only => OnUnmatched::Drop,
        _ => OnUnmatched::Keep,
    };
    draft.stream.judge = draft.read_judge(section);
    draft
}

/// Rows that never change leave nothing for a label or a retraction to find.
fn check_append_only(draft: &StreamDraft, section: &Section<'_>) {
    if !draft.stream.append_only {
        return;
    }
    if draft.has_labels {
        let message = format!("stream '{}' is append_only and has labels", draft.stream.name);
        section.report("append_only", message, "labels find their event by its row record: remove append_only");
    }
    if section.has("on_unmatched") && draft.stream.on_unmatched == OnUnmatched::Keep {
        let message = format!("stream '{}' is append_only and keeps unmatched requests", draft.stream.name);
        let help = "a request that is kept is replaced by its row record: remove append_only, or write on_unmatched = \"drop\"";
        section.report("append_only", message, help);
    }
    if section.has("on_delete") && draft.stream.on_delete == OnDelete::Retract {
        let message = format!("stream '{}' is append_only and retracts deleted rows", draft.stream.name);
        section.report("append_only", message, "remove append_only, or write on_delete = \"ignore\"");
    }
}

impl Streams {
    /// The stream that a group or derived feature belongs to: the one it names, or the only one of rows.
    pub(super) fn resolve(&self, section: &Section<'_>, is_candidate: impl Fn(&Stream) -> bool) -> Option<usize> {
        let candidates = || self.drafts.iter().map(|draft| &draft.stream).filter(|stream| is_candidate(stream));
        let Some(name) = section.spanned_text("stream") else {
            let mut candidates = candidates();
            return match (candidates.next(), candidates.next()) {
                (Some(only), None) => Some(only.index),
                (Some(first), Some(_)) if !section.has("stream") => {
                    section.require("stream", &format!("\"{}\" (there are several)", first.name));
                    None
                }
                _ => None,
            };
        };
        let found = self.drafts.iter().find(|draft| draft.stream.name == name.value);
        let (message, help) = match found {
            Some(draft) if is_candidate(&draft.stream) => return Some(draft.stream.index),
            Some(draft) if draft.stream.labels.is_some() => {
                (format!("'{}' is a stream of labels", name.value), "name the stream of rows that it labels".to_owned())
            }
            Some(_) => (format!("stream '{}' is not judged", name.value), "remove its judge = \"none\"".to_owned()),
            None if self.doubt.covers(&name.value) => return None,
            None => {
                let known = candidates().map(|stream| stream.name.as_str());
                (format!("unknown stream '{}'", name.value), suggestion(&name.value, known))
            }
        };
        section.file().report(name.span, message, help);
        None
    }
}

impl StreamDraft {
    /// The names of the stream's columns for expressions, label and label time refused.
    pub(super) fn scope(&self) -> Scope {
        let mut scope = Scope::default();
        let kept_back = [self.stream.label, self.stream.label_time];
        for (index, column) in self.stream.columns.iter().enumerate() {
            if kept_back.contains(&Some(index)) {
                scope.refuse(&column.name, LABEL_WHY);
            } else {
                scope.declare(&column.name, slot(index), type_of(column.kind));
            }
        }
        scope.refuse("label", LABEL_WHY);
        scope
    }

    /// The index of a column that must exist.
    pub(super) fn column(&self, file: &ConfigFile, name: &Spanned<String>) -> Option<usize> {
        let found = position_of(&self.stream.columns, &name.value);
        if found.is_none() && !self.doubt.covers(&name.value) {
            let message = format!("stream '{}' has no column '{}'", self.stream.name, name.value);
            let known = self.stream.columns.iter().map(|column| column.name.as_str());
            file.report(name.span.clone(), message, suggestion(&name.value, known));
        }
        // A stand-in has no type to check against.
        found.filter(|_| !self.doubt.covers(&name.value))
    }

    /// The column that `key` names, of the type that its role asks for.
    fn role(&self, section: &Section<'_>, key: &str, kind: ColumnType) -> Option<usize> {
        let name = section.spanned_text(key)?;
        let index = self.column(section.file(), &name)?;
        let declared = self.stream.columns[index].kind;
        if declared != kind {
            let message = format!("'{key}' names '{}', which is {declared}", name.value);
            section.file().report(name.span, message, format!("name a column of type {kind}"));
            return None;
        }
        Some(index)
    }

    /// The column that `key` names, of a type that identifies rows or entities.
    fn identifier(&self, section: &Section<'_>, key: &str) -> Option<usize> {
        let name = section.spanned_text(key)?;
        let index = self.column(section.file(), &name)?;
        let declared = self.stream.columns[index].kind;
        if !is_identifier(declared) {
            let message = format!("'{key}' names '{}', which is {declared}", name.value);
            section.file().report(name.span, message, "name a column of type int64, string or uuid");
            return None;
        }
        Some(index)
    }

    fn read_id(&mut self, section: &Section<'_>) {
        let id = self.identifier(section, "id");
        self.has_id = id.is_some();
        self.stream.id = id.unwrap_or(0);
    }

    /// What streams of rows and of labels have in common.
    fn read_common(&mut self, section: &Section<'_>) {
        self.stream.partition_by = self.identifier(section, "partition_by");
        self.stream.source_table = section.text("source");
        self.stream.on_delete = match section.choice("on_delete", &["retract", "ignore"]) {
            Some(1) => OnDelete::Ignore,
            _ => OnDelete::Retract,
        };
        self.stream.on_truncate = match section.choice("on_truncate", &["stop", "clear", "ignore"]) {
            Some(1) => OnTruncate::Clear,
            Some(2) => OnTruncate::Ignore,
            _ => OnTruncate::Stop,
        };
        if let Some(zone) = section.spanned_text("zone") {
            self.stream.zone = parse_zone(&zone.value).unwrap_or_else(|| {
                let message = format!("'{}' is no time zone", zone.value);
                section.file().report(zone.span, message, "write a name such as Europe/Berlin, or +02:00");
                TimeZone::UTC
            });
        }
    }

    fn read_judge(&self, section: &Section<'_>) -> Option<Judge> {
        let Some(source) = section.spanned_text("judge") else {
            return Some(Judge::Insert);
        };
        match source.value.as_str() {
            "insert" => return Some(Judge::Insert),
            "none" => return None,
            _ => {}
        }
        let mut scope = Scope::default();
        let mut doubt = Doubt::default();
        let width = self.stream.columns.len();
        for (place, first) in [("before", 0), ("after", width)] {
            for (index, column) in self.stream.columns.iter().enumerate() {
                scope.declare(format!("{place}.{}", column.name), slot(first + index), type_of(column.kind));
            }
            self.doubt.names.iter().for_each(|name| doubt.name(format!("{place}.{name}")));
            self.doubt.prefixes.iter().for_each(|prefix| doubt.prefix(format!("{place}.{prefix}")));
        }
        match compile_condition(&source.value, &scope, &doubt) {
            Ok(condition) => Some(condition.map_or(Judge::Insert, Judge::When)),
            Err(mistake) => {
                let is_word = source.value.chars().all(|c| c.is_alphanumeric() || c == '_');
                let help =
                    "write insert, none, or a condition: before.status != 'settled' && after.status == 'settled'";
                let help = if is_word || mistake.help.is_empty() { help.to_owned() } else { mistake.help };
                section.file().report(source.span, format!("in 'judge': {}", mistake.message), help);
                Some(Judge::Insert)
            }
        }
    }
}

pub(super) fn is_identifier(kind: ColumnType) -> bool {
    matches!(kind, ColumnType::Int | ColumnType::Text | ColumnType::Uuid)
}

/// Reads `Europe/Berlin`, `UTC`, `Z`, `+02:00` or `-0530`.
fn parse_zone(text: &str) -> Option<TimeZone> {
    if matches!(text, "UTC" | "Z") {
        return Some(TimeZone::UTC);
    }
    let Some(digits) = text.strip_prefix(['+', '-']) else {
        return TimeZone::get(text).ok();
    };
    let digits = digits.replacen(':', "", 1);
    if !digits.bytes().all(|digit| digit.is_ascii_digit()) || digits.len() != 4 {
        return None;
    }
    let (hours, minutes): (i32, i32) = (digits[..2].parse().ok()?, digits[2..].parse().ok()?);
    if hours > 14 || minutes > 59 {
        return None;
    }
    let seconds = (hours * 60 + minutes) * 60;
    Offset::from_seconds(if text.starts_with('-') { -seconds } else { seconds }).ok().map(TimeZone::fixed)
}
