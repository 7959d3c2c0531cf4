//! Reading a policy from a configuration file.

mod action;
mod database;
mod rule;

use interdict_features::config::{ConfigFile, Section};
use interdict_features::decision::Outcome;
use interdict_features::definition::{Definitions, Stream};

use super::{OnDegraded, Policy};
use crate::lists;

pub(super) fn read(file: &ConfigFile, definitions: &Definitions) -> Option<Policy> {
    let before = file.problem_count();
    let section = file.section("scorer");
    let head = read_scorer(section.as_ref(), definitions);
    if let Some(section) = section {
        section.finish();
    }
    let (rules, ids) = rule::read(file, definitions);
    let actions = action::read(file, definitions, &rules, &ids);
    (file.problem_count() == before).then_some(Policy { rules, actions, ..head })
}

fn read_scorer(section: Option<&Section<'_>>, definitions: &Definitions) -> Policy {
    let mut policy = Policy {
        bundle: None,
        stream: None,
        review: None,
        block: None,
        default_outcome: Outcome::Review,
        degraded: OnDegraded::Decide,
        list_entries_max: lists::CAPACITY,
        rules: Vec::new(),
        actions: Vec::new(),
    };
    let Some(section) = section else { return policy };
    policy.bundle = section.text("bundle").map(Into::into);
    let named = section.has("stream");
    let stream = judged_stream(section, definitions, if policy.bundle.is_some() { "a bundle" } else { "" });
    if policy.bundle.is_some() {
        policy.stream = stream;
    } else if named {
        section.report("stream", "'stream' without 'bundle' says nothing", "add bundle = \"FOLDER\", or remove it");
    }
    if let Some(thresholds) = section.section("thresholds") {
        policy.review = thresholds.number("review", 0.0..=1.0);
        policy.block = thresholds.number("block", 0.0..=1.0);
        if let (Some(review), Some(block)) = (policy.review, policy.block)
            && review > block
        {
            thresholds.report("review", "the review threshold lies over the block threshold", "write review <= block");
        }
        thresholds.finish();
    }
    if let Some(choice) = section.choice("default", &["approve", "review", "block"]) {
        policy.default_outcome = Outcome::ALL[choice];
    }
    if let Some(choice) = section.choice("degraded", &["decide", "review"]) {
        policy.degraded = [OnDegraded::Decide, OnDegraded::Review][choice];
    }
    if let Some(entries) = section.integer("list_entries_max", 1..=100_000_000) {
        policy.list_entries_max = usize::try_from(entries).unwrap_or(lists::CAPACITY);
    }
    policy
}

/// The stream that `section` names, or the only judged one. `what` needs it; nothing does when it is empty.
fn judged_stream(section: &Section<'_>, definitions: &Definitions, what: &str) -> Option<usize> {
    let judged: Vec<_> = definitions.streams.iter().filter(|stream| stream.judge.is_some()).collect();
    let names = || judged.iter().map(|stream| stream.name.as_str()).collect::<Vec<_>>().join(", ");
    if let Some(name) = section.text("stream") {
        let found = judged.iter().find(|stream| stream.name == name);
        if found.is_none() {
            let message = format!("'{name}' is no judged stream");
            section.report("stream", message, format!("judged here: {}", names()));
        }
        return found.map(|stream| stream.index);
    }
    match judged.as_slice() {
        [only] => Some(only.index),
        [] if what.is_empty() => None,
        [] => {
            let message = format!("{what} has nothing to judge: no stream is judged");
            section.report("stream", message, "add judge = \"insert\" to a [stream.NAME]");
            None
        }
        _ if what.is_empty() => None,
        _ => {
            let message = format!("several streams are judged, and {what} does not say which one it is for");
            section.report("stream", message, format!("add stream = one of: {}", names()));
            None
        }
    }
}

/// A name that can stand in ids, headers and metrics: lower-case letters, digits, `_` and `-`, at most 64.
fn is_plain(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_' || b == b'-')
}

/// The entity that `key` names, if it names one.
fn entity(section: &Section<'_>, key: &str, definitions: &Definitions) -> Option<usize> {
    let name = section.text(key)?;
    let found = definitions.entity(&name);
    if found.is_none() {
        let known = definitions.entities.iter().map(|entity| entity.name.as_str());
        let help = interdict_features::config::suggestion(&name, known);
        section.report(key, format!("no entity is called '{name}'"), help);
    }
    found
}

/// Reports an entity whose key no event of `streams` names: whoever is meant would never be addressed.
fn require_key(section: &Section<'_>, key: &str, definitions: &Definitions, entity: usize, streams: &[&Stream]) {
    let entity = &definitions.entities[entity];
    let lacks: Vec<(&Stream, &str)> =
        streams.iter().filter_map(|stream| Some((*stream, entity.missing_in(stream)?))).collect();
    if let Some((stream, column)) = lacks.first().filter(|_| lacks.len() == streams.len()) {
        let message =
            format!("events of stream '{}' have no column '{column}', the key of '{}'", stream.name, entity.name);
        let help = "lists and actions go by the entity's own key: name in [entity] the column of the one who is meant";
        section.report(key, message, help);
    }
}
