//! Reading configuration files so that every mistake is reported at once, each with its line and what to write instead.
//!
//! A [`Section`] hands out the values of one TOML table by name and remembers what was asked for: what nobody
//! asked for is reported as unknown when it is finished. Each crate reads its own sections of one [`ConfigFile`].

mod section;
mod suggestion;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;

use toml_edit::{Item, TableLike, Value};

pub use section::{Section, Spanned};
pub use suggestion::suggestion;

/// The largest configuration file in bytes: a hundred times the largest example.
const SOURCE_BYTES_MAX: usize = 1024 * 1024;
/// How many mistakes are kept; whoever has more mends these first.
const PROBLEMS_MAX: usize = 200;
/// How much of a message is kept, in characters: what it quotes may be of any length.
const MESSAGE_CHARS_MAX: usize = 300;

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
        Section::new(self, path, table, span)
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

/// Messages quote what the file says, which may be of any length.
fn shortened(text: String) -> String {
    match text.char_indices().nth(MESSAGE_CHARS_MAX) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text,
    }
}

fn position(source: &str, byte: usize) -> (usize, usize) {
    let before = source.get(..byte.min(source.len())).unwrap_or(source);
    let line = before.bytes().filter(|b| *b == b'\n').count() + 1;
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (line, before[start..].chars().count() + 1)
}
