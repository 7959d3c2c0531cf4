//! One table of a configuration file: readers by type that note mistakes with their place.
//!
//! Invariant: a key is known once it was asked for, whatever its value; the rest is reported by [`Section::finish`].

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

use super::{ConfigFile, suggestion};
use crate::time::Span;

/// One table of a configuration file. Every reader notes a mistake instead of failing, so that one pass finds all.
pub struct Section<'a> {
    file: &'a ConfigFile,
    path: String,
    table: &'a dyn TableLike,
    span: Option<Range<usize>>,
    asked: RefCell<BTreeSet<String>>,
}

/// A value with the place it was read from, for mistakes found later.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spanned<T> {
    /// The value.
    pub value: T,
    /// Its byte range in the source.
    pub span: Option<Range<usize>>,
}

impl<'a> Section<'a> {
    /// A table of `file`; an empty path stands for the top of the file.
    pub(super) fn new(file: &'a ConfigFile, path: &str, table: &'a dyn TableLike, span: Option<Range<usize>>) -> Self {
        Self { file, path: path.to_owned(), table, span, asked: RefCell::new(BTreeSet::new()) }
    }

    /// The file this section stands in.
    #[must_use]
    pub fn file(&self) -> &'a ConfigFile {
        self.file
    }

    /// The section's byte range in the source.
    #[must_use]
    pub fn span(&self) -> Option<Range<usize>> {
        self.span.clone()
    }

    /// Whether `key` is present.
    #[must_use]
    pub fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// The section as messages name it.
    fn place(&self) -> String {
        if self.path.is_empty() { "at the top of the file".to_owned() } else { format!("in [{}]", self.path) }
    }

    fn item(&self, key: &str) -> Option<&'a Item> {
        self.know(key);
        self.table.get(key).filter(|item| !item.is_none())
    }

    fn wrong(&self, key: &str, item: &Item, expected: &str) {
        let message = format!("'{key}' {} must be {expected}, not {}", self.place(), item.type_name());
        self.file.report(item.span(), message, format!("write {key} = {}", example_of(expected)));
    }

    /// Notes a mistake at the value of `key`, or at the section when it is absent.
    pub fn report(&self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.table.get(key).and_then(Item::span).or_else(|| self.span.clone());
        self.file.report(span, message, help);
    }

    /// Notes a mistake at `key` itself, or at the section when it is absent.
    pub fn report_key(&self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| self.span.clone());
        self.file.report(span, message, help);
    }

    /// Takes `key` as known without reading it, where something else was said about it.
    pub fn know(&self, key: &str) {
        let asked = if self.path.is_empty() { &self.file.asked } else { &self.asked };
        asked.borrow_mut().insert(key.to_owned());
    }

    /// Notes that `key` is required when it is absent.
    pub fn require(&self, key: &str, example: &str) {
        if !self.has(key) {
            self.know(key);
            let place = if self.path.is_empty() { "the file".to_owned() } else { format!("[{}]", self.path) };
            let message = format!("{place} has no '{key}'");
            self.file.report(self.span.clone(), message, format!("add {key} = {example}"));
        }
    }

    /// A string.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<String> {
        self.spanned_text(key).map(|text| text.value)
    }

    /// A string with its place.
    #[must_use]
    pub fn spanned_text(&self, key: &str) -> Option<Spanned<String>> {
        let item = self.item(key)?;
        match item.as_str() {
            Some(text) => Some(Spanned { value: text.to_owned(), span: item.span() }),
            None => {
                self.wrong(key, item, "a string");
                None
            }
        }
    }

    /// A string that must be one of `choices`; returns its index.
    #[must_use]
    pub fn choice(&self, key: &str, choices: &[&str]) -> Option<usize> {
        let text = self.spanned_text(key)?;
        let found = choices.iter().position(|choice| *choice == text.value);
        if found.is_none() {
            let message = format!("'{}' is no value of '{key}' {}", text.value, self.place());
            self.file.report(text.span, message, format!("write one of: {}", choices.join(", ")));
        }
        found
    }

    /// A bool.
    #[must_use]
    pub fn bool(&self, key: &str) -> Option<bool> {
        let item = self.item(key)?;
        item.as_bool().or_else(|| {
            self.wrong(key, item, "true or false");
            None
        })
    }

    /// An integer within `range`.
    #[must_use]
    pub fn integer(&self, key: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let item = self.item(key)?;
        let Some(value) = item.as_integer() else {
            self.wrong(key, item, "an integer");
            return None;
        };
        if range.contains(&value) {
            return Some(value);
        }
        let message = format!("'{key}' {} is {value}", self.place());
        self.file.report(item.span(), message, format!("write a number from {} to {}", range.start(), range.end()));
        None
    }

    /// A number within `range`; integers are taken too.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "configured numbers are small")]
    pub fn number(&self, key: &str, range: std::ops::RangeInclusive<f64>) -> Option<f64> {
        let item = self.item(key)?;
        let Some(value) = item.as_float().or_else(|| item.as_integer().map(|integer| integer as f64)) else {
            self.wrong(key, item, "a number");
            return None;
        };
        if range.contains(&value) {
            return Some(value);
        }
        let message = format!("'{key}' {} is {value}", self.place());
        self.file.report(item.span(), message, format!("write a number from {} to {}", range.start(), range.end()));
        None
    }

    /// A length of time such as `"7d"` or `"250ms"`.
    #[must_use]
    pub fn span_of_time(&self, key: &str) -> Option<Span> {
        let text = self.spanned_text(key)?;
        let span = Span::parse(&text.value);
        if span.is_none() {
            let message = format!("'{}' is no length of time", text.value);
            self.file.report(text.span, message, "write a whole number and a unit: 250ms, 30s, 15m, 12h, 7d, 2w");
        }
        span
    }

    /// A list of strings with their places; a single string is taken as a list of one.
    #[must_use]
    pub fn texts(&self, key: &str) -> Option<Vec<Spanned<String>>> {
        let item = self.item(key)?;
        if let Some(text) = item.as_str() {
            return Some(vec![Spanned { value: text.to_owned(), span: item.span() }]);
        }
        let Some(array) = item.as_array() else {
            self.wrong(key, item, "a list of strings");
            return None;
        };
        let text_of = |value: &Value| {
            let text = value.as_str().map(|text| Spanned { value: text.to_owned(), span: value.span() });
            if text.is_none() {
                let message = format!("'{key}' {} holds {}", self.place(), value.type_name());
                self.file.report(value.span(), message, "write strings in quotes");
            }
            text
        };
        Some(array.iter().filter_map(text_of).collect())
    }

    /// A table within this one.
    #[must_use]
    pub fn section(&self, key: &str) -> Option<Section<'a>> {
        let item = self.item(key)?;
        self.file.as_section(&format!("{}.{key}", self.path), item, self.table.key(key))
    }

    /// The tables of an array `[[section.key]]`, in file order.
    #[must_use]
    pub fn array(&self, key: &str) -> Vec<Section<'a>> {
        let Some(item) = self.item(key) else {
            return Vec::new();
        };
        let path = format!("{}.{key}", self.path);
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| self.file.of_table(&path, table, table.span())).collect();
        }
        let help = format!("write [[{path}]] above each");
        self.file.report(item.span(), format!("'{path}' must be a list of tables"), help);
        Vec::new()
    }

    /// The keys of this table in file order, each with its place; marks all of them as known.
    #[must_use]
    pub fn keys(&self) -> Vec<Spanned<String>> {
        let keys: Vec<_> = self.table.iter().map(|(key, _)| key.to_owned()).collect();
        self.asked.borrow_mut().extend(keys.iter().cloned());
        keys.into_iter()
            .map(|key| {
                let span = self.table.key(&key).and_then(toml_edit::Key::span);
                Spanned { value: key, span }
            })
            .collect()
    }

    /// Whether the value of `key` is a table (and not a plain value).
    #[must_use]
    pub fn is_table(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(Item::is_table_like)
    }

    /// Whether the value of `key` is a string, for keys that take a number or a word.
    #[must_use]
    pub fn is_text(&self, key: &str) -> bool {
        self.table.get(key).is_some_and(Item::is_str)
    }

    /// Ends the reading of this section: reports the keys that nobody asked for.
    pub fn finish(self) {
        if self.path.is_empty() {
            return;
        }
        let asked = self.asked.take();
        for (key, item) in self.table.iter() {
            if !asked.contains(key) {
                let span = self.table.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                let message = format!("unknown key '{key}' {}", self.place());
                self.file.report(span, message, suggestion(key, asked.iter().map(String::as_str)));
            }
        }
    }
}

impl fmt::Debug for Section<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({})", self.path)
    }
}

fn example_of(expected: &str) -> &'static str {
    match expected {
        "a string" => "\"...\"",
        "true or false" => "true",
        "a list of strings" => "[\"...\", \"...\"]",
        _ => "10",
    }
}
