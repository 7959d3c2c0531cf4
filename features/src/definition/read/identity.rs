//! The identity of a group: a hash of everything that determines what its state holds and what is read from it. The identity of a
//! derived feature: the same of what its value is computed from, the identities of the groups it reads among it.
//!
//! The text that is hashed has one line per fact, in a fixed order, and names streams, columns and entities instead of
//! numbering them, so that neither formatting nor unrelated parts of the file change it.

use std::fmt::Write as _;

use sha2::{Digest, Sha256};

use super::super::{Aggregation, Derived, Entity, Group, GroupKind, Operand, Stream};
use super::groups::Groups;
use super::streams::StreamDraft;
use crate::expression::Expression;

/// The identity of `group`.
pub(super) fn hash(group: &Group, draft: &StreamDraft, entity: &Entity) -> u64 {
    first_bytes(&canonical(group, draft, entity))
}

/// The identity of a feature `name` derived for events of `draft`; `earlier` are those derived before it.
pub(super) fn derived_hash(
    name: &str,
    expression: &Expression,
    draft: &StreamDraft,
    groups: &Groups,
    earlier: &[Derived],
) -> u64 {
    let stream = &draft.stream;
    let mut text = Canonical { text: String::new(), stream };
    text.line("derived", &["v1", name]);
    text.line("stream", &[&stream.name]);
    text.zone();
    text.line("is", &[&without_layout(expression.source())]);
    for slot in expression.slots().iter().filter_map(|slot| usize::try_from(*slot).ok()) {
        let Some(feature) = slot.checked_sub(stream.columns.len()) else {
            text.columns("of", &[slot]);
            continue;
        };
        let of_group = groups.features.get(feature).zip(groups.groups.iter().rfind(|it| it.first_feature <= feature));
        let used = match of_group {
            Some((feature, group)) => Some((&*feature.name, group.hash)),
            None => earlier.get(feature.saturating_sub(groups.features.len())).map(|used| (&*used.name, used.hash)),
        };
        if let Some((name, hash)) = used {
            text.line("feature", &[name, &format!("{hash:016x}")]);
        }
    }
    first_bytes(&text.text)
}

fn first_bytes(text: &str) -> u64 {
    let digest = Sha256::digest(text);
    let mut first = [0; 8];
    first.copy_from_slice(&digest[..8]);
    u64::from_be_bytes(first)
}

fn canonical(group: &Group, draft: &StreamDraft, entity: &Entity) -> String {
    let stream = &draft.stream;
    let mut text = Canonical { text: String::new(), stream };
    text.line("group", &["v1", &group.name]);
    text.line("entity", &[&entity.name]);
    text.line("stream", &[&stream.name]);
    text.columns("id", &[stream.id]);
    text.columns("time", stream.time.as_slice());
    text.zone();
    text.columns("key", &group.key);
    if let Some(filter) = &group.filter {
        text.expression("where", filter);
    }
    match &group.kind {
        GroupKind::Windowed { windows, delay, features } => {
            let windows: Vec<String> = windows.iter().map(|window| window.micros().to_string()).collect();
            text.line("windows", &windows.iter().map(String::as_str).collect::<Vec<_>>());
            text.line("delay", &[&delay.micros().to_string()]);
            for feature in features {
                let default = feature.default.map_or_else(String::new, |default| format!("{default:?}"));
                text.line("feature", &[&feature.name, &default]);
                text.aggregation(&feature.aggregation, draft);
            }
        }
        GroupKind::Table { features } => {
            text.line("table", &[]);
            for (name, expression) in features {
                text.line("feature", &[name]);
                text.expression("is", expression);
            }
        }
    }
    text.text
}

struct Canonical<'s> {
    text: String,
    stream: &'s Stream,
}

impl Canonical<'_> {
    /// Values are quoted, so that no value reads as the next line.
    fn line(&mut self, fact: &str, values: &[&str]) {
        self.text.push_str(fact);
        for value in values {
            let _infallible = write!(self.text, " {value:?}");
        }
        self.text.push('\n');
    }

    fn zone(&mut self) {
        let zone = &self.stream.zone;
        self.line("zone", &[&format!("{:?}", zone.iana_name()), &format!("{:?}", zone.to_fixed_offset().ok())]);
    }

    fn columns(&mut self, fact: &str, columns: &[usize]) {
        for column in columns.iter().filter_map(|column| self.stream.columns.get(*column)) {
            let sensitive = if column.sensitive { "sensitive" } else { "" };
            self.line(fact, &[&column.name, &column.kind.to_string(), sensitive]);
        }
    }

    fn expression(&mut self, fact: &str, expression: &Expression) {
        self.line(fact, &[&without_layout(expression.source())]);
        let columns: Vec<usize> = expression.slots().iter().filter_map(|slot| usize::try_from(*slot).ok()).collect();
        self.columns("of", &columns);
    }

    fn operand(&mut self, operand: &Operand) {
        match operand {
            Operand::Column(column) => self.columns("column", &[*column]),
            Operand::Expression(expression) => self.expression("expression", expression),
        }
    }

    fn aggregation(&mut self, aggregation: &Aggregation, draft: &StreamDraft) {
        let (name, argument) = match aggregation {
            Aggregation::Count => ("count", String::new()),
            Aggregation::Sum(_) => ("sum", String::new()),
            Aggregation::Mean(_) => ("mean", String::new()),
            Aggregation::Min(_) => ("min", String::new()),
            Aggregation::Max(_) => ("max", String::new()),
            Aggregation::Stddev(_) => ("stddev", String::new()),
            Aggregation::First(_) => ("first", String::new()),
            Aggregation::Last(_) => ("last", String::new()),
            Aggregation::DistinctCount(_) => ("distinct_count", String::new()),
            Aggregation::Quantile(_, at) => ("quantile", format!("{at:?}")),
            Aggregation::MostFrequent(_) => ("most_frequent", String::new()),
            Aggregation::TimeSinceLast => ("time_since_last", String::new()),
            Aggregation::TimeSinceFirst => ("time_since_first", String::new()),
            Aggregation::ShareLabel => ("share_label", String::new()),
            Aggregation::Share(_) => ("share", String::new()),
            Aggregation::DecayedCount(half_life) => ("decayed_count", half_life.micros().to_string()),
            Aggregation::DecayedSum(_, half_life) => ("decayed_sum", half_life.micros().to_string()),
            Aggregation::TravelSpeed(..) => ("travel_speed", String::new()),
        };
        self.line("aggregation", &[name, &argument]);
        for operand in aggregation.operands() {
            self.operand(operand);
        }
        if matches!(aggregation, Aggregation::ShareLabel) {
            self.columns("label", draft.stream.label.as_slice());
            self.columns("label_time", draft.stream.label_time.as_slice());
        }
    }
}

/// The text with every run of blanks outside quotes made one blank.
fn without_layout(source: &str) -> String {
    let mut text = String::with_capacity(source.len());
    let (mut quote, mut is_escaped) = (None, false);
    for character in source.trim().chars() {
        match quote {
            Some(_) if is_escaped => is_escaped = false,
            Some(_) if character == '\\' => is_escaped = true,
            Some(open) if open == character => quote = None,
            Some(_) => {}
            None if character == '\'' || character == '"' => quote = Some(character),
            None if character.is_whitespace() => {
                if !text.ends_with(' ') {
                    text.push(' ');
                }
                continue;
            }
            None => {}
        }
        text.push(character);
    }
    text
}
