//! Reading `[[rule]]`.

use std::collections::BTreeSet;
use std::sync::Arc;

use interdict_features::config::{ConfigFile, Section};
use interdict_features::decision::Outcome;
use interdict_features::definition::{Definitions, Stream};
use interdict_features::expression::{Expression, Type};

use super::{entity, is_plain, judged_stream, require_key};
use crate::decide::code;
use crate::policy::{REASON_BYTES_MAX, RULES_MAX, Rule, slots};

/// The sound rules, and the ids of all: what names an unsound one is not a mistake of its own.
pub(super) fn read(file: &ConfigFile, definitions: &Definitions) -> (Vec<Rule>, BTreeSet<String>) {
    let sections = file.array("rule");
    if let Some(section) = sections.get(RULES_MAX) {
        section.report("id", format!("more than {RULES_MAX} rules"), "join rules with ||");
    }
    let mut ids = BTreeSet::new();
    let mut rules = Vec::new();
    for section in sections {
        let rule = read_one(&section, definitions, &mut ids);
        rules.extend(rule);
        section.finish();
    }
    (rules, ids)
}

fn read_one(section: &Section<'_>, definitions: &Definitions, ids: &mut BTreeSet<String>) -> Option<Rule> {
    section.require("id", "\"card_testing\"");
    section.require("when", "\"amount > 1000.0\"");
    section.require("outcome", "\"review\"");
    section.require("reason", "\"what a person is to read\"");
    let id = read_id(section, ids);
    let version = section.integer("version", 1..=i64::from(u32::MAX)).unwrap_or(1);
    let outcome = section.choice("outcome", &["block", "review"]).map(|it| [Outcome::Block, Outcome::Review][it]);
    let reason = section.text("reason");
    if reason.as_ref().is_some_and(|reason| reason.len() > REASON_BYTES_MAX) {
        section.report("reason", format!("a reason of more than {REASON_BYTES_MAX} bytes"), "say it in one sentence");
    }
    let has_condemned = section.has("condemns");
    let condemns = entity(section, "condemns", definitions);
    let stream = judged_stream(section, definitions, "a rule");
    let when = match stream {
        Some(stream) => read_when(section, definitions, &definitions.streams[stream]),
        None => {
            let _cannot_be_compiled = section.text("when");
            None
        }
    };
    if has_condemned && condemns.is_none() {
        return None;
    }
    if let (Some(condemned), Some(stream)) = (condemns, stream) {
        require_key(section, "condemns", definitions, condemned, &[&definitions.streams[stream]]);
    }
    Some(Rule {
        id: id?,
        version: u32::try_from(version).unwrap_or(1),
        stream: stream?,
        when: when?,
        outcome: outcome?,
        reason: reason?,
        condemns,
    })
}

fn read_id(section: &Section<'_>, ids: &mut BTreeSet<String>) -> Option<String> {
    let id = section.text("id")?;
    if !is_plain(&id) {
        section.report("id", format!("'{id}' is no rule id"), "use at most 64 lower-case letters, digits, _ and -");
        return None;
    }
    if code::RESERVED.contains(&id.as_str()) {
        section.report("id", format!("'{id}' is a reason of our own"), "choose another id");
        return None;
    }
    if !ids.insert(id.clone()) {
        section.report("id", format!("two rules are called '{id}'"), "give each rule an id of its own");
        return None;
    }
    Some(id)
}

fn read_when(section: &Section<'_>, definitions: &Definitions, stream: &Stream) -> Option<Arc<Expression>> {
    let when = section.spanned_text("when")?;
    if stream.column(slots::SCORE).is_some() || definitions.feature(slots::SCORE).is_some() {
        let message = "a column or feature called 'score' hides the model's score from rules";
        section.file().report(when.span, message, "rename it");
        return None;
    }
    match Expression::compile(&when.value, &slots::scope(definitions, stream)) {
        Ok(expression) if expression.kind() == Type::Bool => Some(Arc::new(expression)),
        Ok(expression) => {
            let message = format!("a rule must be true or false, this is {}", expression.kind());
            section.file().report(when.span, message, "compare it with something: ... > 10");
            None
        }
        Err(error) => {
            section.file().report(when.span, error.message, error.help);
            None
        }
    }
}
