//! Reading definitions from a configuration file.
//!
//! Every part is read as far as it goes, with stand-ins for what is wrong, so that one pass finds all mistakes.
//! What hangs on a wrong part is remembered as [`Doubt`] and not reported again.
//!
//! Invariant: stand-ins leave this module only as a [`Draft`], against which the rest of a file is checked; definitions are handed out
//! only when nothing was reported.

mod calls;
mod derived;
mod entities;
mod groups;
mod identity;
mod names;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::config::{ConfigFile, Section};
use crate::expression::{Expression, ExpressionError, Scope, Type};
use crate::time::Span;

use super::kinds::type_of;
use super::{Column, Definitions, Stream};

/// The longest window and the longest delay: a year's comparison with a month to spare.
const SPAN_MAX: Span = Span::from_micros(400 * Span::DAY.micros());
/// How many features a vector may have: sixteen times the widest model we know.
const FEATURES_MAX: usize = 4096;

/// How many streams and how many entities a file may declare.
const STREAMS_MAX: usize = 64;
/// How many groups a file may declare.
const GROUPS_MAX: usize = 512;

/// Definitions as far as they could be read, with stand-ins for what is wrong.
#[derive(Debug)]
pub struct Draft {
    definitions: Definitions,
    doubt: Doubt,
    is_sound: bool,
}

impl Draft {
    /// What could be read: good for looking up names, and for nothing else.
    #[must_use]
    pub fn definitions(&self) -> &Definitions {
        &self.definitions
    }

    /// Whether a mistake that was found by the names of this draft, told by `message`, may follow from one in the definitions.
    #[must_use]
    pub fn is_doubtful(&self, message: &str) -> bool {
        let quotes = |name: &String| message.contains(&format!("'{name}'"));
        let quotes_prefix = |prefix: &String| {
            if prefix.is_empty() { message.contains("unknown name") } else { message.contains(&format!("'{prefix}")) }
        };
        self.doubt.names.iter().any(quotes) || self.doubt.prefixes.iter().any(quotes_prefix)
    }
}

pub(super) fn read(file: &ConfigFile, secret: Option<&[u8]>) -> Option<Definitions> {
    let draft = draft(file, secret);
    draft.is_sound.then_some(draft.definitions)
}

pub(super) fn draft(file: &ConfigFile, secret: Option<&[u8]>) -> Draft {
    let problems_before = file.problem_count();
    let time = read_time(file);
    let streams = streams::read(file, secret);
    let entities = entities::read(file, &streams);
    let groups = groups::read(file, &streams, &entities);
    let derived = derived::read(file, &streams, &groups);
    let doubt = all_doubt(file, &streams, &groups, &derived);
    let mut features = groups.features;
    features.extend(derived.features);
    if features.len() > FEATURES_MAX {
        let message = format!("the definitions make {} features", features.len());
        file.report(None, message, format!("at most {FEATURES_MAX} are allowed; drop windows or features"));
    }
    let is_unmasked =
        |stream: &Stream| stream.mask_key.is_none() && stream.columns.iter().any(|column| column.sensitive);
    let is_sound =
        file.problem_count() == problems_before && !streams.drafts.iter().any(|draft| is_unmasked(&draft.stream));
    let definitions = Definitions {
        streams: streams.drafts.into_iter().map(|draft| Arc::new(draft.stream)).collect(),
        entities: entities.drafts.into_iter().map(|draft| draft.entity).collect(),
        groups: groups.groups,
        derived: derived.derived,
        features,
        disorder: time.disorder,
        slack: time.slack,
        future_max: time.future_max,
    };
    Draft { definitions, doubt, is_sound }
}

/// Everything that was declared with a mistake.
fn all_doubt(
    file: &ConfigFile,
    streams: &streams::Streams,
    groups: &groups::Groups,
    derived: &derived::AllDerived,
) -> Doubt {
    let mut doubt = groups.doubt.clone();
    for draft in &streams.drafts {
        doubt.names.extend(draft.doubt.names.iter().cloned());
        doubt.prefixes.extend(draft.doubt.prefixes.iter().cloned());
    }
    let declared = file.array("derived").into_iter().filter_map(|section| section.section("features"));
    let declared: Vec<String> = declared.flat_map(|features| features.keys()).map(|name| name.value).collect();
    let is_known = |name: &String| derived.derived.iter().any(|known| known.name == *name);
    doubt.names.extend(declared.into_iter().filter(|name| !is_known(name)));
    doubt
}

struct Time {
    disorder: Span,
    slack: Span,
    future_max: Span,
}

/// Reads `[time]`.
fn read_time(file: &ConfigFile) -> Time {
    let mut time = Time { disorder: Span::SECOND, slack: Span::HOUR, future_max: Span::HOUR };
    let Some(section) = file.section("time") else {
        return time;
    };
    let bounded = |key: &str, default: Span, max: Span| {
        let span = section.span_of_time(key).unwrap_or(default);
        if span > max {
            section.report(key, format!("'{key}' in [time] is {span}"), format!("write at most {max}"));
        }
        span
    };
    time.disorder = bounded("disorder", time.disorder, Span::HOUR);
    time.slack = bounded("slack", time.slack, SPAN_MAX);
    time.future_max = bounded("future", time.future_max, SPAN_MAX);
    section.finish();
    time
}

/// A mistake that is not yet bound to a place in the file.
#[derive(Debug)]
struct Mistake {
    message: String,
    help: String,
}

impl Mistake {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

impl From<ExpressionError> for Mistake {
    fn from(error: ExpressionError) -> Self {
        Self { message: error.message, help: error.help }
    }
}

/// Names that were declared with a mistake: what uses them is not checked, for it would only repeat that mistake.
#[derive(Clone, Debug, Default)]
struct Doubt {
    names: BTreeSet<String>,
    prefixes: BTreeSet<String>,
}

impl Doubt {
    fn name(&mut self, name: impl Into<String>) {
        self.names.insert(name.into());
    }

    /// Every name that begins with `prefix`.
    fn prefix(&mut self, prefix: impl Into<String>) {
        self.prefixes.insert(prefix.into());
    }

    fn covers(&self, name: &str) -> bool {
        self.names.contains(name) || self.prefixes.iter().any(|prefix| name.starts_with(prefix.as_str()))
    }

    /// Whether an expression uses a name in doubt.
    fn covers_part_of(&self, source: &str) -> bool {
        let nothing = self.names.is_empty() && self.prefixes.is_empty();
        !nothing && Expression::names(source).is_ok_and(|names| names.iter().any(|name| self.covers(name)))
    }
}

/// Compiles an expression whose names may be in doubt: `Ok(None)` when they are.
fn compile(source: &str, scope: &Scope, doubt: &Doubt) -> Result<Option<Arc<Expression>>, Mistake> {
    if doubt.covers_part_of(source) {
        return Ok(None);
    }
    Ok(Some(Arc::new(Expression::compile(source, scope)?)))
}

/// Compiles a condition.
fn compile_condition(source: &str, scope: &Scope, doubt: &Doubt) -> Result<Option<Arc<Expression>>, Mistake> {
    match compile(source, scope, doubt)? {
        Some(expression) if expression.kind() != Type::Bool => Err(Mistake::new(
            format!("'{source}' is {}, not a condition", expression.kind()),
            "write a comparison: amount > 100.0",
        )),
        compiled => Ok(compiled),
    }
}

/// Slot numbers from a position in a list. Lists are limited far below 2^32.
fn slot(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}

fn position_of(columns: &[Column], name: &str) -> Option<usize> {
    columns.iter().position(|column| column.name == name)
}

/// Takes at most `max` of what a file declares; reports when there is more.
fn bounded<T>(file: &ConfigFile, mut declared: Vec<T>, what: &str, max: usize) -> Vec<T> {
    if declared.len() > max {
        file.report(None, format!("the file declares {} {what}", declared.len()), format!("declare at most {max}"));
        declared.truncate(max);
    }
    declared
}

/// Reports keys that have no place in a section of this kind.
fn refuse_keys(section: &Section<'_>, keys: &[&str], why: &str) {
    for key in keys {
        if section.has(key) {
            section.know(key);
            section.report_key(key, format!("'{key}' has no place here"), why);
        }
    }
}
