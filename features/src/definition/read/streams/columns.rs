//! `columns` of a stream: names, types, and which are sensitive or converted.

use std::collections::BTreeSet;

use hmac::{Hmac, KeyInit, Mac};
use jiff::tz::TimeZone;
use sha2::Sha256;

use super::StreamDraft;
use crate::config::{ConfigFile, Section, Spanned, suggestion};
use crate::definition::read::{Doubt, names};
use crate::definition::{Column, OnDelete, OnTruncate, OnUnmatched, Stream};
use crate::value::ColumnType;

/// How many columns a stream may have; more than a PostgreSQL table's practical width is a mistake.
const COLUMNS_MAX: usize = 512;
/// The shortest secret in bytes that resists guessing.
const SECRET_BYTES_MIN: usize = 16;

/// The columns as far as they could be read.
#[derive(Default)]
pub(super) struct Columns {
    list: Vec<Column>,
    doubt: Doubt,
    converted: BTreeSet<usize>,
    mask_key: Option<[u8; 32]>,
}

/// Reads `columns` of a stream's section.
pub(super) fn read(section: &Section<'_>, secret: Option<&[u8]>) -> Columns {
    let mut columns = Columns::default();
    let Some(declared) = section.section("columns") else {
        // Nothing is known of them: every column name is in doubt.
        columns.doubt.prefix("");
        return columns;
    };
    let keys = declared.keys();
    if keys.is_empty() {
        section.report("columns", "the stream has no columns", "add at least the id and the time: id = \"int64\"");
        columns.doubt.prefix("");
    }
    if keys.len() > COLUMNS_MAX {
        let message = format!("the stream has {} columns", keys.len());
        section.report("columns", message, format!("declare at most {COLUMNS_MAX}: those that features need"));
    }
    for key in keys {
        columns.read_one(&declared, key, secret);
    }
    columns
}

impl Columns {
    /// Columns that a stream of labels has without declaring them.
    pub(super) fn implied(list: Vec<Column>, doubt: Doubt, mask_key: Option<[u8; 32]>) -> Self {
        Self { list, doubt, converted: BTreeSet::new(), mask_key }
    }

    pub(super) fn into_draft(self, index: usize, name: &str) -> StreamDraft {
        StreamDraft {
            stream: Stream {
                index,
                name: name.to_owned(),
                columns: self.list,
                id: 0,
                time: None,
                zone: TimeZone::UTC,
                partition_by: None,
                label: None,
                label_time: None,
                labels: None,
                append_only: false,
                on_delete: OnDelete::Retract,
                on_truncate: OnTruncate::Stop,
                on_unmatched: OnUnmatched::Keep,
                currency: None,
                judge: None,
                source_table: None,
                mask_key: self.mask_key,
            },
            doubt: self.doubt,
            converted: self.converted,
            has_id: false,
            has_labels: false,
        }
    }

    fn read_one(&mut self, declared: &Section<'_>, key: Spanned<String>, secret: Option<&[u8]>) {
        let file = declared.file();
        let has_good_name = names::check_column(file, &key);
        let mut sensitive = false;
        let mut converted = false;
        let kind = if declared.is_table(&key.value) {
            declared.section(&key.value).and_then(|table| {
                table.require("type", "\"string\"");
                let kind = table.spanned_text("type");
                sensitive = table.bool("sensitive").unwrap_or(false);
                converted = table.bool("converted").unwrap_or(false);
                table.finish();
                kind
            })
        } else {
            declared.spanned_text(&key.value)
        };
        let kind = kind.and_then(|kind| parse_type(file, &kind));
        if kind.is_none() || !has_good_name {
            self.doubt.name(key.value.clone());
        }
        let column = Column { name: key.value, kind: kind.unwrap_or(ColumnType::Int), sensitive };
        if sensitive && kind.is_some() {
            self.check_sensitive(file, &column, key.span.clone(), secret);
        }
        if converted {
            if !matches!(kind, Some(ColumnType::Decimal { .. } | ColumnType::Double) | None) {
                let message = format!("column '{}' is converted, but no amount", column.name);
                file.report(key.span, message, "give it the type decimal(2), or remove converted");
            }
            self.converted.insert(self.list.len());
        }
        self.list.push(column);
    }

    fn check_sensitive(
        &mut self,
        file: &ConfigFile,
        column: &Column,
        span: Option<std::ops::Range<usize>>,
        secret: Option<&[u8]>,
    ) {
        if column.kind != ColumnType::Text {
            let message = format!("column '{}' is sensitive and of type {}", column.name, column.kind);
            file.report(span.clone(), message, "its keyed hash is a text: write type = \"string\"");
        }
        let (message, help) = match secret {
            // Whoever read the setting has said why there is none.
            None if file.problem_count() > 0 && names_secret(file) => return,
            None => (
                format!("column '{}' is sensitive, but no secret is configured", column.name),
                "add [secrets] with sensitive_file = \"PATH\" or sensitive_env = \"NAME\"".to_owned(),
            ),
            Some(secret) if secret.len() < SECRET_BYTES_MIN => (
                format!("column '{}' is sensitive, but the secret has {} bytes", column.name, secret.len()),
                format!("configure a random one of at least {SECRET_BYTES_MIN} bytes: openssl rand -hex 32"),
            ),
            Some(secret) => {
                self.mask_key = Some(mask_key(secret));
                return;
            }
        };
        file.report(span, message, help);
    }
}

fn names_secret(file: &ConfigFile) -> bool {
    file.section("secrets").is_some_and(|secrets| secrets.has("sensitive_file") || secrets.has("sensitive_env"))
}

/// One key for all streams, so that the same card has the same hash in each.
fn mask_key(secret: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes any key length");
    mac.update(b"interdict sensitive column v1");
    mac.finalize().into_bytes().into()
}

fn parse_type(file: &ConfigFile, text: &Spanned<String>) -> Option<ColumnType> {
    let kind = ColumnType::parse(&text.value);
    if kind.is_none() {
        let lower = text.value.to_ascii_lowercase();
        let known = ["int64", "double", "bool", "string", "uuid", "timestamp", "decimal(2)"];
        let help = match lower.split('(').next().unwrap_or("").trim() {
            "int" | "integer" | "bigint" | "int32" | "long" | "smallint" => "write int64".to_owned(),
            "float" | "float64" | "real" | "number" => "write double".to_owned(),
            "text" | "varchar" | "char" | "str" => "write string".to_owned(),
            "datetime" | "timestamptz" | "date" | "time" => "write timestamp".to_owned(),
            "boolean" => "write bool".to_owned(),
            "decimal" | "numeric" | "money" => "write decimal(DIGITS), with 0 to 12 digits after the point".to_owned(),
            _ => suggestion(&text.value, known.into_iter()),
        };
        file.report(text.span.clone(), format!("'{}' is no column type", text.value), help);
    }
    kind
}
