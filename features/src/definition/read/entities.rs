//! `[entity.NAME]`: what history is kept of, and the columns that make its key.

use super::super::Entity;
use super::streams::Streams;
use super::{GROUPS_MAX, STREAMS_MAX, bounded, names, position_of};
use crate::config::{ConfigFile, Section, Spanned, suggestion};

/// How many columns a composite key may have; a key is encoded into every state and index entry.
const KEY_COLUMNS_MAX: usize = 4;

/// All entities in file order.
pub(super) struct Entities {
    pub(super) drafts: Vec<EntityDraft>,
}

/// An entity as far as it could be read.
pub(super) struct EntityDraft {
    pub(super) entity: Entity,
    /// Whether its key could be read.
    pub(super) has_key: bool,
    /// Where it stands.
    pub(super) span: Option<std::ops::Range<usize>>,
}

/// Reads all entities.
pub(super) fn read(file: &ConfigFile, streams: &Streams) -> Entities {
    let mut drafts = Vec::new();
    for (name, section) in bounded(file, file.sections("entity"), "entities", STREAMS_MAX) {
        names::check(file, "entity", &Spanned { value: name.clone(), span: section.span() });
        section.require("key", "\"customer_id\"");
        let columns = read_key(&section);
        let has_key =
            columns.is_some() && (is_overridden(file, &name) || are_known(&section, streams, columns.as_deref()));
        let key = columns.unwrap_or_default().into_iter().map(|column| column.value).collect();
        drafts.push(EntityDraft { entity: Entity { name, key }, has_key, span: section.span() });
        section.finish();
    }
    Entities { drafts }
}

/// The columns of a `key`; `None` when something is wrong with it.
pub(super) fn read_key(section: &Section<'_>) -> Option<Vec<Spanned<String>>> {
    let problems_before = section.file().problem_count();
    let columns = section.texts("key")?;
    if columns.is_empty() || columns.len() > KEY_COLUMNS_MAX {
        let message = format!("the key has {} columns", columns.len());
        section.report("key", message, format!("name 1 to {KEY_COLUMNS_MAX}"));
    }
    for (index, column) in columns.iter().enumerate() {
        if columns[..index].iter().any(|earlier| earlier.value == column.value) {
            let message = format!("the key names '{}' twice", column.value);
            section.file().report(column.span.clone(), message, "name each column once");
        }
    }
    (section.file().problem_count() == problems_before).then_some(columns)
}

/// Whether a group finds the entity by columns of its own, so that the entity's need not exist.
fn is_overridden(file: &ConfigFile, entity: &str) -> bool {
    file.array("group")
        .iter()
        .take(GROUPS_MAX)
        .any(|group| group.has("key") && group.text("entity").as_deref() == Some(entity))
}

/// Whether every column exists in some stream; reports those that do not.
fn are_known(section: &Section<'_>, streams: &Streams, columns: Option<&[Spanned<String>]>) -> bool {
    let mut are_known = true;
    for column in columns.unwrap_or_default() {
        let is_known = streams.drafts.iter().any(|draft| {
            position_of(&draft.stream.columns, &column.value).is_some() || draft.doubt.covers(&column.value)
        });
        if !is_known {
            are_known = false;
            let known = streams.drafts.iter().flat_map(|draft| &draft.stream.columns).map(|known| known.name.as_str());
            let message = format!("no stream has the key column '{}'", column.value);
            section.file().report(column.span.clone(), message, suggestion(&column.value, known));
        }
    }
    are_known
}

impl Entities {
    /// The entity that a group names.
    pub(super) fn resolve(&self, section: &Section<'_>) -> Option<usize> {
        section.require("entity", "\"customer\"");
        let name = section.spanned_text("entity")?;
        let found = self.drafts.iter().position(|draft| draft.entity.name == name.value);
        if found.is_none() {
            let known: Vec<_> = self.drafts.iter().map(|draft| draft.entity.name.as_str()).collect();
            let help = if known.is_empty() {
                format!("declare it: [entity.{}] with key = \"COLUMN\"", name.value)
            } else {
                suggestion(&name.value, known.into_iter())
            };
            section.file().report(name.span, format!("unknown entity '{}'", name.value), help);
        }
        found
    }
}
