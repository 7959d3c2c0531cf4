//! `[[group]]`: features of one entity from one stream.

mod keys;
mod money;

use std::collections::BTreeSet;
use std::sync::Arc;

use keys::EntityKey;
use money::mixes_currencies;

use super::super::{Aggregation, FeatureName, Group, GroupKind, WindowedFeature};
use super::entities::Entities;
use super::streams::{StreamDraft, Streams};
use super::{Doubt, GROUPS_MAX, SPAN_MAX, bounded, calls, compile, compile_condition, identity, names, refuse_keys};
use crate::config::{ConfigFile, Section, Spanned};
use crate::definition::WINDOWS_MAX;
use crate::expression::{Expression, Scope, Type};
use crate::time::Span;

/// How many aggregations a group may have, before windows multiply them.
const GROUP_FEATURES_MAX: usize = 256;

/// All groups in file order.
#[derive(Default)]
pub(super) struct Groups {
    pub(super) groups: Vec<Group>,
    /// Their features in the order of the vector.
    pub(super) features: Vec<FeatureName>,
    /// Names of features that were declared with a mistake.
    pub(super) doubt: Doubt,
    pub(super) names: BTreeSet<String>,
    /// Per entity: the types of its key, as the first group had them.
    keys: Vec<Option<EntityKey>>,
}

/// Where a group's features come from, as far as that could be read.
struct Source<'s> {
    /// The group's name; empty when it has none.
    name: String,
    draft: Option<&'s StreamDraft>,
    scope: Scope,
    filter: Filter,
}

enum Filter {
    /// Every event.
    Nothing,
    Condition(Arc<Expression>),
    /// One was written with a mistake.
    Doubtful,
}

/// Reads all groups.
pub(super) fn read(file: &ConfigFile, streams: &Streams, entities: &Entities) -> Groups {
    let mut groups = Groups { keys: entities.drafts.iter().map(|_| None).collect(), ..Groups::default() };
    for section in bounded(file, file.array("group"), "groups", GROUPS_MAX) {
        groups.read_one(&section, streams, entities);
        section.finish();
    }
    groups.check_read_keys(file, streams, entities);
    groups
}

impl Groups {
    fn read_one(&mut self, section: &Section<'_>, streams: &Streams, entities: &Entities) {
        let problems_before = section.file().problem_count();
        let name = self.read_name(section);
        let entity = entities.resolve(section);
        let stream = streams.resolve(section, |stream| stream.labels.is_none());
        let draft = stream.map(|stream| &streams.drafts[stream]);
        let key = self.read_group_key(section, entity, draft, entities);
        let mut source =
            Source { name, draft, scope: draft.map(StreamDraft::scope).unwrap_or_default(), filter: Filter::Nothing };
        source.filter = read_filter(section, &source);
        let first_feature = self.features.len();
        let kind = match section.choice("kind", &["windows", "table"]) {
            Some(1) => self.read_table(section, &source),
            _ => self.read_windowed(section, &source),
        };
        if section.file().problem_count() > problems_before {
            return;
        }
        if let (Some(entity), Some(draft), Some(key)) = (entity, draft, key) {
            let filter = if let Filter::Condition(filter) = source.filter { Some(filter) } else { None };
            let stream = draft.stream.index;
            let mut group = Group { name: source.name, entity, stream, key, filter, kind, hash: 0, first_feature };
            group.hash = identity::hash(&group, draft, &entities.drafts[entity].entity);
            self.groups.push(group);
        }
    }

    fn read_name(&mut self, section: &Section<'_>) -> String {
        section.require("name", "\"customer_spend\"");
        let Some(name) = section.spanned_text("name") else {
            // Any name with a dot may mean this group.
            self.doubt.prefix("");
            return String::new();
        };
        if !names::check(section.file(), "group", &name) && name.value.is_empty() {
            self.doubt.prefix("");
        }
        if !self.names.insert(name.value.clone()) {
            let message = format!("a group '{}' was declared before", name.value);
            section.file().report(name.span, message, "give each group a name of its own");
        }
        name.value
    }

    fn read_windowed(&mut self, section: &Section<'_>, source: &Source<'_>) -> GroupKind {
        section.require("windows", "[\"1d\", \"7d\", \"30d\"]");
        let windows = read_windows(section);
        let delay = section.span_of_time("delay").unwrap_or(Span::ZERO);
        if delay > SPAN_MAX {
            section.report("delay", format!("the delay is {delay}"), format!("write at most {SPAN_MAX}"));
        }
        let mut features = Vec::new();
        for spec in self.read_specs(section, source) {
            let name = spec.name.value.clone();
            let aggregation = source.draft.and_then(|draft| read_aggregation(section, &spec, source, draft));
            let stem = format!("{}.{name}_", source.name);
            match (aggregation, &windows) {
                (Some((aggregation, kind)), Some(windows)) => {
                    self.features.extend(
                        windows
                            .iter()
                            .map(|(window, _)| FeatureName { name: Arc::from(format!("{stem}{window}")), kind }),
                    );
                    features.push(WindowedFeature { name, aggregation, default: spec.default });
                }
                (None, Some(windows)) => {
                    windows.iter().for_each(|(window, _)| self.doubt.name(format!("{stem}{window}")));
                }
                (_, None) => self.doubt.prefix(stem),
            }
        }
        let windows = windows.unwrap_or_default().into_iter().map(|(_, window)| window).collect();
        GroupKind::Windowed { windows, delay, features }
    }

    fn read_table(&mut self, section: &Section<'_>, source: &Source<'_>) -> GroupKind {
        let why = "a table is the latest row: it has no window, and its own time";
        refuse_keys(section, &["windows", "delay"], why);
        let mut features = Vec::new();
        for spec in self.read_specs(section, source) {
            let full_name = format!("{}.{}", source.name, spec.name.value);
            if spec.default.is_some() {
                let message = format!("'{}' of a table has a default", spec.name.value);
                let help = format!("write it into the expression: coalesce({}, 0.0)", spec.is.value);
                section.file().report(spec.is.span.clone(), message, help);
            }
            let doubt = source.draft.map(|draft| draft.doubt.clone()).unwrap_or_default();
            let compiled = match source.draft.map(|_| compile(&spec.is.value, &source.scope, &doubt)) {
                Some(Ok(compiled)) => compiled,
                Some(Err(mistake)) => {
                    let message = format!("in '{}': {}", spec.name.value, mistake.message);
                    section.file().report(spec.is.span, message, mistake.help);
                    None
                }
                None => None,
            };
            match compiled {
                Some(expression) => {
                    self.features.push(FeatureName { name: Arc::from(full_name), kind: expression.kind() });
                    features.push((spec.name.value, expression));
                }
                None => self.doubt.name(full_name),
            }
        }
        GroupKind::Table { features }
    }

    /// The features as they are written, those with a good name.
    fn read_specs(&mut self, section: &Section<'_>, source: &Source<'_>) -> Vec<Spec> {
        section.require("features", "{ tx_count = \"count()\" }");
        let Some(features) = section.section("features") else {
            self.doubt.prefix(format!("{}.", source.name));
            return Vec::new();
        };
        let keys = features.keys();
        if keys.is_empty() {
            section.report("features", "the group has no features", "add one: tx_count = \"count()\"");
        }
        if keys.len() > GROUP_FEATURES_MAX {
            let message = format!("the group has {} features", keys.len());
            section.report("features", message, format!("write at most {GROUP_FEATURES_MAX}; split the group"));
        }
        let mut specs = Vec::new();
        for name in keys.into_iter().take(GROUP_FEATURES_MAX) {
            match read_spec(&features, &name) {
                Some(spec) if names::check(section.file(), "feature", &name) => specs.push(spec),
                _ => {
                    self.doubt.name(format!("{}.{}", source.name, name.value));
                    self.doubt.prefix(format!("{}.{}_", source.name, name.value));
                }
            }
        }
        specs
    }
}

/// One entry of `features`: `name = "mean(amount)"` or `name = { is = "mean(amount)", default = 0 }`.
struct Spec {
    name: Spanned<String>,
    is: Spanned<String>,
    default: Option<f64>,
}

fn read_spec(features: &Section<'_>, name: &Spanned<String>) -> Option<Spec> {
    if !features.is_table(&name.value) {
        let is = features.spanned_text(&name.value)?;
        return Some(Spec { name: name.clone(), is, default: None });
    }
    let table = features.section(&name.value)?;
    table.require("is", "\"mean(amount)\"");
    let is = table.spanned_text("is");
    let default = table.number("default", f64::MIN..=f64::MAX);
    table.finish();
    Some(Spec { name: name.clone(), is: is?, default })
}

fn read_filter(section: &Section<'_>, source: &Source<'_>) -> Filter {
    let Some(condition) = section.spanned_text("where") else {
        return if section.has("where") { Filter::Doubtful } else { Filter::Nothing };
    };
    let Some(draft) = source.draft else {
        return Filter::Doubtful;
    };
    match compile_condition(&condition.value, &source.scope, &draft.doubt) {
        Ok(Some(condition)) => Filter::Condition(condition),
        Ok(None) => Filter::Doubtful,
        Err(mistake) => {
            let message = format!("in 'where': {}", mistake.message);
            section.file().report(condition.span, message, mistake.help);
            Filter::Doubtful
        }
    }
}

/// The windows as written and as spans; `None` when something is wrong with them.
fn read_windows(section: &Section<'_>) -> Option<Vec<(String, Span)>> {
    let problems_before = section.file().problem_count();
    let texts = section.texts("windows")?;
    if texts.is_empty() || texts.len() > WINDOWS_MAX {
        let message = format!("the group has {} windows", texts.len());
        section.report("windows", message, format!("write 1 to {WINDOWS_MAX}: [\"1d\", \"7d\", \"30d\"]"));
    }
    let mut windows: Vec<(String, Span)> = Vec::new();
    for text in texts {
        let (message, help) = match (Span::parse(&text.value), windows.last()) {
            (None, _) => (
                format!("'{}' is no length of time", text.value),
                "write a whole number and a unit: 250ms, 30s, 15m, 12h, 7d, 2w".to_owned(),
            ),
            (Some(window), _) if window <= Span::ZERO => {
                (format!("the window '{}' is empty", text.value), "write a length above 0s".to_owned())
            }
            (Some(window), _) if window > SPAN_MAX => {
                (format!("the window '{}' is too long", text.value), format!("write at most {SPAN_MAX}"))
            }
            (Some(window), Some((before, last))) if window == *last => {
                (format!("the windows '{before}' and '{}' are the same", text.value), "write each once".to_owned())
            }
            (Some(window), Some((before, last))) if window < *last => (
                format!("the window '{}' stands after the longer '{before}'", text.value),
                "order windows from short to long".to_owned(),
            ),
            (Some(window), _) => {
                windows.push((text.value, window));
                continue;
            }
        };
        section.file().report(text.span, message, help);
    }
    (section.file().problem_count() == problems_before).then_some(windows)
}

/// Reads one aggregation and everything that is checked of it; reports what is wrong.
fn read_aggregation(
    section: &Section<'_>,
    spec: &Spec,
    source: &Source<'_>,
    draft: &StreamDraft,
) -> Option<(Aggregation, Type)> {
    let report = |message: &str, help: &str| {
        section.file().report(spec.is.span.clone(), format!("in '{}': {message}", spec.name.value), help);
    };
    let aggregation = match calls::read(&spec.is.value, draft, &source.scope) {
        Ok(aggregation) => aggregation?,
        Err(mistake) => {
            report(&mistake.message, &mistake.help);
            return None;
        }
    };
    let kind = aggregation.kind(&draft.stream);
    match (kind, spec.default) {
        (Type::Text | Type::Bool | Type::Timestamp, Some(_)) => {
            report(&format!("its value is {kind}, its default a number"), "remove the default");
        }
        (Type::Int, Some(default)) if default.fract() != 0.0 => {
            report("its values are integers, its default is not", "write a whole number");
        }
        _ => {}
    }
    if mixes_currencies(&aggregation, draft, &source.filter) {
        let currency = draft.stream.currency.map_or("", |column| draft.stream.columns[column].name.as_str());
        report(
            "amounts of several currencies are put together",
            &format!("add where = \"{currency} == 'EUR'\" to the group, or aggregate a column marked converted = true"),
        );
    }
    Some((aggregation, kind))
}
