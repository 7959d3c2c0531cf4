//! Which columns make the key of a group's entity, and whether all streams write it alike.

use std::collections::BTreeSet;

use super::Groups;
use crate::config::{ConfigFile, Section};
use crate::definition::Entity;
use crate::definition::read::entities::{Entities, read_key};
use crate::definition::read::streams::{StreamDraft, Streams, is_identifier};
use crate::value::ColumnType;

/// The key of an entity as the first group had it.
pub(super) struct EntityKey {
    stream: String,
    /// Type, and whether it is sensitive.
    kinds: Vec<(ColumnType, bool)>,
    /// Streams whose groups were compared.
    seen: BTreeSet<usize>,
}

impl Groups {
    /// The columns of the stream that make the entity's key.
    pub(super) fn read_group_key(
        &mut self,
        section: &Section<'_>,
        entity: Option<usize>,
        draft: Option<&StreamDraft>,
        entities: &Entities,
    ) -> Option<Vec<usize>> {
        let overriding = if section.has("key") { Some(read_key(section)?) } else { None };
        let (entity, draft) = (entity?, draft?);
        let declared = &entities.drafts[entity];
        if !declared.has_key {
            return None;
        }
        let columns = match overriding {
            Some(columns) if columns.len() != declared.entity.key.len() => {
                let (own, expected) = (columns.len(), declared.entity.key.len());
                let message =
                    format!("the key has {own} columns, that of entity '{}' {expected}", declared.entity.name);
                section.report("key", message, "name one column for each of the entity's, in the same order");
                return None;
            }
            Some(columns) => columns.iter().map(|name| draft.column(section.file(), name)).collect::<Option<_>>()?,
            None => entity_columns(section, &declared.entity, draft)?,
        };
        self.check_key_kinds(section, (entity, &declared.entity.name), draft, &columns)?;
        Some(columns)
    }

    /// A key is one thing in every stream: it must be written alike.
    fn check_key_kinds(
        &mut self,
        section: &Section<'_>,
        (entity, name): (usize, &str),
        draft: &StreamDraft,
        columns: &[usize],
    ) -> Option<()> {
        let columns = || columns.iter().map(|index| &draft.stream.columns[*index]);
        let place = if section.has("key") { "key" } else { "entity" };
        if let Some(unfit) = columns().find(|column| !is_identifier(column.kind)) {
            let message = format!("the key column '{}' is {}", unfit.name, unfit.kind);
            section.report(place, message, "keys are of type int64, string or uuid");
            return None;
        }
        let kinds: Vec<_> = columns().map(|column| (column.kind, column.sensitive)).collect();
        let Some(first) = &mut self.keys[entity] else {
            let seen = BTreeSet::from([draft.stream.index]);
            self.keys[entity] = Some(EntityKey { stream: draft.stream.name.clone(), kinds, seen });
            return Some(());
        };
        first.seen.insert(draft.stream.index);
        if first.kinds == kinds {
            return Some(());
        }
        let (own, other) = (described(&kinds), described(&first.kinds));
        let message = format!(
            "the key of entity '{name}' is {own} in stream '{}' and {other} in '{}'",
            draft.stream.name, first.stream
        );
        section.report(place, message, "declare the key columns of both streams alike, or use two entities");
        None
    }

    /// A decision reads an entity's groups under its own stream's columns of the same names: they must fit too.
    pub(super) fn check_read_keys(&self, file: &ConfigFile, streams: &Streams, entities: &Entities) {
        for (declared, key) in entities.drafts.iter().zip(&self.keys) {
            let Some(key) = key else {
                continue;
            };
            for draft in streams.drafts.iter().filter(|draft| !key.seen.contains(&draft.stream.index)) {
                let stream = &draft.stream;
                let columns: Option<Vec<usize>> = declared.entity.key.iter().map(|name| stream.column(name)).collect();
                let Some(columns) = columns.filter(|_| stream.labels.is_none()) else {
                    continue;
                };
                let kinds: Vec<_> = columns
                    .iter()
                    .map(|index| (stream.columns[*index].kind, stream.columns[*index].sensitive))
                    .collect();
                let is_doubtful = declared.entity.key.iter().any(|name| draft.doubt.covers(name));
                if kinds != key.kinds && !is_doubtful {
                    let (own, other) = (described(&kinds), described(&key.kinds));
                    let message = format!(
                        "the key of entity '{}' is {own} in stream '{}' and {other} in '{}'",
                        declared.entity.name, stream.name, key.stream
                    );
                    let help = "declare the key columns of both streams alike, or use two entities";
                    file.report(declared.span.clone(), message, help);
                }
            }
        }
    }
}

/// The entity's own key columns in the group's stream.
fn entity_columns(section: &Section<'_>, entity: &Entity, draft: &StreamDraft) -> Option<Vec<usize>> {
    let mut columns = Vec::new();
    for name in &entity.key {
        match draft.stream.column(name) {
            _ if draft.doubt.covers(name) => return None,
            Some(column) => columns.push(column),
            None => {
                let message =
                    format!("stream '{}' has no column '{name}', the key of '{}'", draft.stream.name, entity.name);
                section.report("entity", message, "add key = \"COLUMN\" to the group, naming the stream's own");
                return None;
            }
        }
    }
    Some(columns)
}

fn described(kinds: &[(ColumnType, bool)]) -> String {
    let one = |(kind, sensitive): &(ColumnType, bool)| format!("{}{kind}", if *sensitive { "sensitive " } else { "" });
    kinds.iter().map(one).collect::<Vec<_>>().join(" and ")
}
