//! Reading configuration files so that every mistake is reported at once, each with its line and what to write instead.
//!
//! A [`Section`] hands out the values of one TOML table by name and remembers what was asked for: what nobody
//! asked for is reported as unknown when it is finished. Each crate reads its own sections of one [`ConfigFile`].

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

use crate::time::Span;

/// The largest configuration file in bytes: a hundred times the largest example.
const SOURCE_BYTES_MAX: usize = 1024 * 1024;
/// How many mistakes are kept; whoever has more mends these first.
const PROBLEMS_MAX: usize = 200;
/// How much of a message is kept, in characters: what it quotes may be of any length.
const MESSAGE_CHARS_MAX: usize = 300;
/// How many known names a suggestion lists when none is near.
const SUGGESTED_MAX: usize = 12;
/// Names longer than this are not compared letter by letter.
const COMPARED_BYTES_MAX: usize = 128;

/// One mistake in a configuration file.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, serde::Serialize)]
pub struct Problem {
    /// The file as the user named it.
    pub file: String,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1.
    pub column: usize,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n    {}", self.help) }
    }
}

/// All mistakes of one file, in order of line.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for problem in &self.0 {
            writeln!(f, "{problem}")?;
        }
        write!(f, "{} mistake{}", self.0.len(), if self.0.len() == 1 { "" } else { "s" })
    }
}

/// A parsed configuration file and the mistakes found in it so far.
#[derive(Debug)]
pub struct ConfigFile {
    name: String,
    source: String,
    root: toml_edit::Table,
    problems: RefCell<Vec<Problem>>,
    problem_count: Cell<usize>,
    asked: RefCell<BTreeSet<String>>,
}

impl ConfigFile {
    /// Parses `source`, which the user knows as `name`.
    ///
    /// # Errors
    /// One problem when the text is not TOML; nothing else can be checked then.
    pub fn parse(name: &str, source: &str) -> Result<Self, Problems> {
        if source.len() > SOURCE_BYTES_MAX {
            return Err(Problems(vec![Problem {
                file: name.to_owned(),
                line: 1,
                column: 1,
                message: format!("the file has {} bytes", source.len()),
                help: format!("write at most {SOURCE_BYTES_MAX}"),
            }]));
        }
        match toml_edit::Document::parse(source.to_owned()) {
            Ok(document) => Ok(Self {
                name: name.to_owned(),
                source: source.to_owned(),
                root: document.as_table().clone(),
                problems: RefCell::new(Vec::new()),
                problem_count: Cell::new(0),
                asked: RefCell::new(BTreeSet::new()),
            }),
            Err(error) => {
                let (line, column) = position(source, error.span().map_or(0, |span| span.start));
                Err(Problems(vec![Problem {
                    file: name.to_owned(),
                    line,
                    column,
                    message: shortened(format!("not valid TOML: {}", error.message().trim())),
                    help: "mend this first; nothing after it could be checked".to_owned(),
                }]))
            }
        }
    }

    /// The plain keys above the first table, such as `namespace = "default"`. Need not be finished.
    #[must_use]
    pub fn root(&self) -> Section<'_> {
        self.of_table("", &self.root, None)
    }

    /// The table `[name]` at the top, if the file has it.
    #[must_use]
    pub fn section(&self, name: &str) -> Option<Section<'_>> {
        self.asked.borrow_mut().insert(name.to_owned());
        let item = self.root.get(name)?;
        self.as_section(name, item, self.root.key(name))
    }

    /// The tables `[name.KEY]` with their keys, in file order.
    #[must_use]
    pub fn sections(&self, name: &str) -> Vec<(String, Section<'_>)> {
        self.asked.borrow_mut().insert(name.to_owned());
        let Some(item) = self.root.get(name) else {
            return Vec::new();
        };
        let Some(table) = item.as_table_like() else {
            self.report(item.span(), format!("'{name}' must be tables"), format!("write [{name}.NAME]"));
            return Vec::new();
        };
        table
            .iter()
            .filter_map(|(key, item)| {
                Some((key.to_owned(), self.as_section(&format!("{name}.{key}"), item, table.key(key))?))
            })
            .collect()
    }

    /// Whether `name` stands at the top as an array of tables, `[[name]]`.
    #[must_use]
    pub fn is_array(&self, name: &str) -> bool {
        self.root.get(name).is_some_and(|item| item.is_array_of_tables() || item.is_array())
    }

    /// The tables of an array `[[name]]`, in file order.
    #[must_use]
    pub fn array(&self, name: &str) -> Vec<Section<'_>> {
        self.asked.borrow_mut().insert(name.to_owned());
        let Some(item) = self.root.get(name) else {
            return Vec::new();
        };
        if let Some(tables) = item.as_array_of_tables() {
            return tables.iter().map(|table| self.of_table(name, table, table.span())).collect();
        }
        if let Some(values) = item.as_array() {
            return values.iter().filter_map(|value| self.table_in_array(name, value)).collect();
        }
        self.report(item.span(), format!("'{name}' must be a list of tables"), format!("write [[{name}]] above each"));
        Vec::new()
    }

    fn table_in_array<'a>(&'a self, name: &str, value: &'a Value) -> Option<Section<'a>> {
        if let Some(table) = value.as_inline_table() {
            return Some(self.of_table(name, table, value.span()));
        }
        let message = format!("'{name}' holds {}", value.type_name());
        self.report(value.span(), message, format!("write [[{name}]] above each table"));
        None
    }

    /// A table made by dotted keys has no place of its own: its key stands for it.
    fn as_section<'a>(&'a self, path: &str, item: &'a Item, key: Option<&toml_edit::Key>) -> Option<Section<'a>> {
        let span = item.span().or_else(|| key.and_then(toml_edit::Key::span));
        if let Some(table) = item.as_table_like() {
            return Some(self.of_table(path, table, span));
        }
        self.report(span, format!("'{path}' must be a table"), format!("write [{path}]"));
        None
    }

    fn of_table<'a>(&'a self, path: &str, table: &'a dyn TableLike, span: Option<Range<usize>>) -> Section<'a> {
        Section { file: self, path: path.to_owned(), table, span, asked: RefCell::new(BTreeSet::new()) }
    }

    /// Notes a mistake at a byte range of the source (the file's beginning when `None`).
    pub fn report(&self, span: Option<Range<usize>>, message: impl Into<String>, help: impl Into<String>) {
        if self.problem_count.get() >= PROBLEMS_MAX {
            self.problem_count.set(self.problem_count.get() + 1);
            return;
        }
        let (line, column) = position(&self.source, span.map_or(0, |span| span.start));
        let (message, help) = (shortened(message.into()), shortened(help.into()));
        let problem = Problem { file: self.name.clone(), line, column, message, help };
        let mut problems = self.problems.borrow_mut();
        if !problems.contains(&problem) {
            problems.push(problem);
            self.problem_count.set(self.problem_count.get() + 1);
        }
    }

    /// How many mistakes were found so far, those beyond the bound included.
    #[must_use]
    pub fn problem_count(&self) -> usize {
        self.problem_count.get()
    }

    /// Ends the reading: reports top-level tables that nobody asked for, then every mistake in order of line.
    ///
    /// # Errors
    /// All mistakes of the file.
    pub fn finish(self) -> Result<(), Problems> {
        let asked = self.asked.take();
        for (key, item) in self.root.iter() {
            if !asked.contains(key) {
                let span = self.root.key(key).and_then(toml_edit::Key::span).or_else(|| item.span());
                self.report(
                    span,
                    format!("unknown section '{key}'"),
                    suggestion(key, asked.iter().map(String::as_str)),
                );
            }
        }
        let mut problems = self.problems.into_inner();
        problems.sort();
        if let (Some(left_out @ 1..), Some(last)) =
            (self.problem_count.get().checked_sub(problems.len()), problems.last().cloned())
        {
            let message = format!("{left_out} more mistakes are not shown");
            problems.push(Problem { message, help: "mend these first".to_owned(), ..last });
        }
        if problems.is_empty() { Ok(()) } else { Err(Problems(problems)) }
    }
}

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
            let message = format!("'{key}' is missing {}", self.place());
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

/// What to write instead of `unknown`: the nearest of `known` when one is near, otherwise the first dozen.
#[must_use]
pub fn suggestion<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    let comparable = known.iter().filter(|name| name.len().max(unknown.len()) <= COMPARED_BYTES_MAX);
    let nearest = comparable.map(|name| (edit_distance(unknown, name), *name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => {
            format!("did you mean '{name}'?")
        }
        _ if known.is_empty() => String::new(),
        _ if known.len() > SUGGESTED_MAX => {
            format!("known here: {} and {} more", known[..SUGGESTED_MAX].join(", "), known.len() - SUGGESTED_MAX)
        }
        _ => format!("known here: {}", known.join(", ")),
    }
}

/// Messages quote what the file says, which may be of any length.
fn shortened(text: String) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn example_of(expected: &str) -> &'static str {
    match expected {
        "a string" => "\"...\"",
        "true or false" => "true",
        "a list of strings" => "[\"...\", \"...\"]",
        _ => "10",
    }
}

fn position(source: &str, byte: usize) -> (usize, usize) {
    let before = source.get(..byte.min(source.len())).unwrap_or(source);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
