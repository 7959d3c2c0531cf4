//! `[[derived]]`: features computed at decision time from the event and other features.

use std::sync::Arc;

use super::super::{Derived, FeatureName, Stream};
use super::groups::Groups;
use super::streams::{StreamDraft, Streams};
use super::{Doubt, compile, names, slot};
use crate::config::{ConfigFile, Section, Spanned};
use crate::expression::Scope;

/// All derived features in file order.
pub(super) struct AllDerived {
    pub(super) derived: Vec<Derived>,
    /// Their names in the vector.
    pub(super) features: Vec<FeatureName>,
    doubt: Doubt,
}

/// One entry as it is written.
struct Entry {
    name: Spanned<String>,
    /// `None` when it is no text.
    source: Option<Spanned<String>>,
    stream: Option<usize>,
}

/// Reads all derived features.
pub(super) fn read(file: &ConfigFile, streams: &Streams, groups: &Groups) -> AllDerived {
    let mut entries: Vec<Entry> = Vec::new();
    for section in file.array("derived") {
        let stream = streams.resolve(&section, |stream: &Stream| stream.labels.is_none() && stream.judge.is_some());
        entries.extend(read_entries(&section, stream));
        section.finish();
    }
    let mut all = AllDerived { derived: Vec::new(), features: Vec::new(), doubt: groups.doubt.clone() };
    for index in 0..entries.len() {
        let compiled = all.read_one(file, &entries, index, streams, groups);
        if compiled.is_none() {
            all.doubt.name(entries[index].name.value.clone());
        }
    }
    all
}

fn read_entries(section: &Section<'_>, stream: Option<usize>) -> Vec<Entry> {
    section.require("features", "{ is_night = \"hour(tx_datetime) <= 6\" }");
    let Some(features) = section.section("features") else {
        return Vec::new();
    };
    let keys = features.keys();
    if keys.is_empty() {
        section.report("features", "no feature is derived", "add one: is_night = \"hour(tx_datetime) <= 6\"");
    }
    keys.into_iter().map(|name| Entry { source: features.spanned_text(&name.value), name, stream }).collect()
}

impl AllDerived {
    /// `None` when it was not added.
    fn read_one(
        &mut self,
        file: &ConfigFile,
        entries: &[Entry],
        index: usize,
        streams: &Streams,
        groups: &Groups,
    ) -> Option<()> {
        let entry = &entries[index];
        let draft = entry.stream.map(|stream| &streams.drafts[stream]);
        let has_good_name =
            names::check(file, "feature", &entry.name) && is_free(file, &entries[..index], &entry.name, draft, groups);
        let (source, draft) = (entry.source.as_ref()?, draft?);
        let scope = self.scope(entries, index, draft, groups);
        let mut doubt = self.doubt.clone();
        doubt.names.extend(draft.doubt.names.iter().cloned());
        doubt.prefixes.extend(draft.doubt.prefixes.iter().cloned());
        match compile(&source.value, &scope, &doubt) {
            Ok(expression) => {
                let expression = expression.filter(|_| has_good_name)?;
                let name = entry.name.value.clone();
                self.features.push(FeatureName { name: Arc::from(name.as_str()), kind: expression.kind() });
                self.derived.push(Derived { name, expression, stream: draft.stream.index });
                Some(())
            }
            Err(mistake) => {
                let message = format!("in '{}': {}", entry.name.value, mistake.message);
                file.report(source.span.clone(), message, mistake.help);
                None
            }
        }
    }

    /// The stream's columns, then every feature before this one.
    fn scope(&self, entries: &[Entry], index: usize, draft: &StreamDraft, groups: &Groups) -> Scope {
        let mut scope = draft.scope();
        let width = draft.stream.columns.len();
        for (index, feature) in groups.features.iter().enumerate() {
            scope.declare(&*feature.name, slot(width + index), feature.kind);
        }
        let first = width + groups.features.len();
        for (index, (derived, feature)) in self.derived.iter().zip(&self.features).enumerate() {
            if derived.stream == draft.stream.index {
                scope.declare(&*feature.name, slot(first + index), feature.kind);
            } else {
                scope.refuse(&*feature.name, "it is derived for another stream: derive it for this one too");
            }
        }
        scope.refuse(&entries[index].name.value, "a feature cannot be derived from itself");
        for later in &entries[index + 1..] {
            scope
                .refuse(&later.name.value, format!("it is derived later: move '{}' before this one", later.name.value));
        }
        scope
    }
}

/// Whether nothing else has this name; reports it otherwise.
fn is_free(
    file: &ConfigFile,
    earlier: &[Entry],
    name: &Spanned<String>,
    draft: Option<&StreamDraft>,
    groups: &Groups,
) -> bool {
    let message = if earlier.iter().any(|earlier| earlier.name.value == name.value) {
        format!("a feature '{}' was derived before", name.value)
    } else if groups.names.contains(&name.value) {
        format!("'{}' is the name of a group", name.value)
    } else if draft.is_some_and(|draft| draft.stream.column(&name.value).is_some()) {
        format!("'{}' is a column of the stream", name.value)
    } else {
        return true;
    };
    file.report(name.span.clone(), message, "give the feature another name");
    false
}
