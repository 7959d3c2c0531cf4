//! `[[derived]]`: features computed at decision time from the event and other features.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::super::{Derived, FeatureName, Stream};
use super::groups::Groups;
use super::streams::{StreamDraft, Streams};
use super::{Doubt, FEATURES_MAX, compile, identity, names, slot};
use crate::config::{ConfigFile, Section, Spanned};
use crate::expression::{Expression, Scope};

/// All derived features in file order.
pub(super) struct AllDerived {
    pub(super) derived: Vec<Derived>,
    /// Their names in the vector.
    pub(super) features: Vec<FeatureName>,
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
    let mut all = AllDerived { derived: Vec::new(), features: Vec::new() };
    if entries.len() > FEATURES_MAX {
        let message = format!("{} features are derived", entries.len());
        file.report(entries[FEATURES_MAX].name.span.clone(), message, format!("derive at most {FEATURES_MAX}"));
        return all;
    }
    let mut scopes = scopes(&entries, streams, groups);
    let mut seen = BTreeSet::new();
    for entry in &entries {
        let is_new = seen.insert(entry.name.value.as_str());
        let compiled = read_one(file, entry, is_new, streams, groups, &mut scopes);
        let name = &entry.name.value;
        let (Some(expression), Some(stream)) = (compiled, entry.stream) else {
            scopes.values_mut().for_each(|(_, doubt)| doubt.name(name.clone()));
            continue;
        };
        let index = streams.drafts[stream].stream.columns.len() + groups.features.len() + all.derived.len();
        if let Some((scope, _)) = scopes.get_mut(&stream) {
            scope.declare(name.clone(), slot(index), expression.kind());
        }
        all.features.push(FeatureName { name: Arc::from(name.as_str()), kind: expression.kind() });
        let hash = identity::derived_hash(name, &expression, &streams.drafts[stream], groups, &all.derived);
        all.derived.push(Derived { name: name.clone(), expression, stream, hash });
    }
    all
}

/// Per stream: its columns and the features of all groups; derived features are refused until they are declared.
fn scopes(entries: &[Entry], streams: &Streams, groups: &Groups) -> BTreeMap<usize, (Scope, Doubt)> {
    let mut scopes = BTreeMap::new();
    for stream in entries.iter().filter_map(|entry| entry.stream) {
        scopes.entry(stream).or_insert_with(|| {
            let draft = &streams.drafts[stream];
            let (mut scope, mut doubt) = (draft.scope(), groups.doubt.clone());
            for (index, feature) in groups.features.iter().enumerate() {
                scope.declare(&*feature.name, slot(draft.stream.columns.len() + index), feature.kind);
            }
            for Entry { name, stream: of, .. } in entries {
                let why = if *of == Some(stream) {
                    format!("it is derived later: move '{}' before this one", name.value)
                } else {
                    "it is derived for another stream: derive it for this one too".to_owned()
                };
                scope.refuse(&name.value, why);
            }
            doubt.names.extend(draft.doubt.names.iter().cloned());
            doubt.prefixes.extend(draft.doubt.prefixes.iter().cloned());
            (scope, doubt)
        });
    }
    scopes
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

/// Compiles one derived feature; `None` when there is a mistake in it or in what it uses.
fn read_one(
    file: &ConfigFile,
    entry: &Entry,
    is_new: bool,
    streams: &Streams,
    groups: &Groups,
    scopes: &mut BTreeMap<usize, (Scope, Doubt)>,
) -> Option<Arc<Expression>> {
    let draft = entry.stream.map(|stream| &streams.drafts[stream]);
    let has_good_name = names::check(file, "feature", &entry.name) && is_free(file, &entry.name, is_new, draft, groups);
    let (source, (scope, doubt)) = (entry.source.as_ref()?, scopes.get_mut(&entry.stream?)?);
    scope.refuse(&entry.name.value, "a feature cannot be derived from itself");
    match compile(&source.value, scope, doubt) {
        Ok(expression) => expression.filter(|_| has_good_name),
        Err(mistake) => {
            let message = format!("in '{}': {}", entry.name.value, mistake.message);
            file.report(source.span.clone(), message, mistake.help);
            None
        }
    }
}

/// Whether nothing else has this name; reports it otherwise.
fn is_free(
    file: &ConfigFile,
    name: &Spanned<String>,
    is_new: bool,
    draft: Option<&StreamDraft>,
    groups: &Groups,
) -> bool {
    let message = if !is_new {
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
