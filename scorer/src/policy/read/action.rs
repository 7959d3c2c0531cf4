//! Reading `[[action]]`.

use std::collections::BTreeSet;
use std::time::Duration;

use interdict_features::config::{ConfigFile, Section};
use interdict_features::decision::Outcome;
use interdict_features::definition::{Definitions, Stream};

use super::{database, entity, is_plain, require_key};
use crate::policy::{ACTIONS_MAX, Action, ActionKind, Rule, SecretSource, TopicConfig, Trigger, WebhookConfig};
use crate::retry::Backoff;

pub(super) fn read(
    file: &ConfigFile,
    definitions: &Definitions,
    rules: &[Rule],
    ids: &BTreeSet<String>,
) -> Vec<Action> {
    let sections = file.array("action");
    if let Some(section) = sections.get(ACTIONS_MAX) {
        section.report(
            "name",
            format!("more than {ACTIONS_MAX} actions"),
            "send one webhook to a service that fans out",
        );
    }
    let mut names = BTreeSet::new();
    let mut actions = Vec::new();
    for section in sections {
        actions.extend(read_one(&section, definitions, (rules, ids), &mut names));
        section.finish();
    }
    actions
}

fn read_one(
    section: &Section<'_>,
    definitions: &Definitions,
    (rules, ids): (&[Rule], &BTreeSet<String>),
    names: &mut BTreeSet<String>,
) -> Option<Action> {
    section.require("name", "\"block_customer\"");
    section.require("type", "\"store\"");
    let name = read_name(section, names);
    let trigger = read_trigger(section, rules, ids);
    let target = match &trigger {
        Some(trigger) => read_target(section, definitions, rules, trigger),
        None => entity(section, "entity", definitions),
    };
    let kind = match section.choice("type", &["store", "webhook", "postgres", "topic"]) {
        Some(0) => read_store(section, rules, trigger.as_ref()),
        Some(1) => read_webhook(section, definitions),
        Some(3) => read_topic(section, definitions),
        Some(_) => {
            let blocks = check_rules_block(section, rules, trigger.as_ref());
            let database = database::read(section, definitions, target);
            database.filter(|_| blocks).map(|database| ActionKind::Database(Box::new(database)))
        }
        None => {
            let _cannot_be_checked = section.keys();
            None
        }
    };
    Some(Action { name: name?, trigger: trigger?, entity: target?, kind: kind? })
}

fn read_name(section: &Section<'_>, names: &mut BTreeSet<String>) -> Option<String> {
    let name = section.text("name")?;
    if !is_plain(&name) {
        section.report(
            "name",
            format!("'{name}' is no action name"),
            "use at most 64 lower-case letters, digits, _ and -",
        );
        return None;
    }
    if !names.insert(name.clone()) {
        section.report("name", format!("two actions are called '{name}'"), "give each action a name of its own");
        return None;
    }
    Some(name)
}

fn read_trigger(section: &Section<'_>, rules: &[Rule], ids: &BTreeSet<String>) -> Option<Trigger> {
    match (section.has("on"), section.has("rules")) {
        (true, false) => section.choice("on", &["block"]).map(|_block| Trigger::Block),
        (false, true) => {
            let names = section.texts("rules")?;
            if names.is_empty() {
                section.report("rules", "'rules' is empty", "name at least one rule");
            }
            let mut indexes = Vec::new();
            for name in &names {
                match rules.iter().position(|rule| rule.id == name.value) {
                    Some(index) => indexes.push(index),
                    None if ids.contains(&name.value) => {}
                    None => {
                        let help = interdict_features::config::suggestion(&name.value, ids.iter().map(String::as_str));
                        let message = format!("no rule is called '{}'", name.value);
                        section.file().report(name.span.clone(), message, help);
                    }
                }
            }
            (indexes.len() == names.len() && !names.is_empty()).then_some(Trigger::Rules(indexes))
        }
        _ => {
            let _known = (section.choice("on", &["block"]), section.texts("rules"));
            section.report("on", "an action needs one trigger", "write on = \"block\", or rules = [\"RULE\", ...]");
            None
        }
    }
}

fn read_target(section: &Section<'_>, definitions: &Definitions, rules: &[Rule], trigger: &Trigger) -> Option<usize> {
    if section.has("entity") {
        let target = entity(section, "entity", definitions)?;
        let judged = definitions.streams.iter().filter(|stream| stream.judge.is_some());
        let streams: Vec<&Stream> = match trigger {
            Trigger::Block => judged.map(|stream| &**stream).collect(),
            Trigger::Rules(indexes) => {
                indexes.iter().map(|&index| &*definitions.streams[rules[index].stream]).collect()
            }
        };
        require_key(section, "entity", definitions, target, &streams);
        return Some(target);
    }
    let condemned: BTreeSet<_> = match trigger {
        Trigger::Block => BTreeSet::new(),
        Trigger::Rules(indexes) => indexes.iter().map(|&index| rules[index].condemns).collect(),
    };
    match condemned.first() {
        Some(Some(entity)) if condemned.len() == 1 => Some(*entity),
        _ => {
            let message = "it is not clear whom this action addresses";
            section.report("entity", message, "add entity = \"customer\", or rules that all condemn the same entity");
            None
        }
    }
}

/// Whether every rule that triggers an action which blocks asks for a block.
fn check_rules_block(section: &Section<'_>, rules: &[Rule], trigger: Option<&Trigger>) -> bool {
    if let Some(Trigger::Rules(indexes)) = trigger
        && let Some(&index) = indexes.iter().find(|&&index| rules[index].outcome != Outcome::Block)
    {
        let message = format!("rule '{}' asks for a review, and this action blocks", rules[index].id);
        section.report("rules", message, "trigger it with rules whose outcome is block");
        return false;
    }
    true
}

fn read_store(section: &Section<'_>, rules: &[Rule], trigger: Option<&Trigger>) -> Option<ActionKind> {
    let blocks = check_rules_block(section, rules, trigger);
    let has_end = section.has("expires");
    let expires = section.span_of_time("expires");
    (blocks && has_end == expires.is_some()).then_some(ActionKind::Store { expires })
}

fn read_webhook(section: &Section<'_>, definitions: &Definitions) -> Option<ActionKind> {
    section.require("url", "\"https://...\"");
    let url = section.text("url").filter(|url| check_url(section, url));
    let secret = match (section.text("secret_env"), section.text("secret_file")) {
        (Some(name), None) => Some(SecretSource::Environment(name)),
        (None, Some(path)) => Some(SecretSource::File(path.into())),
        _ => {
            section.report(
                "secret_env",
                "a webhook needs one secret to sign with",
                "add secret_env = \"NAME\" or secret_file = \"PATH\"; its value is whsec_ and 24 to 64 bytes in base64",
            );
            None
        }
    };
    let timeout = read_duration(section, "timeout", Duration::from_secs(15), Duration::from_secs(60));
    let backoff = read_backoff(section);
    let columns = read_columns(section, definitions);
    Some(ActionKind::Webhook(WebhookConfig { url: url?, secret: secret?, timeout, backoff, columns: columns? }))
}

fn read_topic(section: &Section<'_>, definitions: &Definitions) -> Option<ActionKind> {
    section.require("sink", "\"cases\"");
    let sink = section.text("sink").filter(|sink| check_sink(section, sink));
    let backoff = read_backoff(section);
    let columns = read_columns(section, definitions);
    Some(ActionKind::Topic(TopicConfig { sink: sink?, backoff, columns: columns? }))
}

/// Whether a `[[sink]]` for actions has this name. Its keys are checked where sinks are read.
fn check_sink(section: &Section<'_>, name: &str) -> bool {
    let sinks = section.file().array("sink");
    let is_for_actions = |sink: &&Section<'_>| sink.text("what").as_deref() == Some("actions");
    let names: Vec<String> = sinks.iter().filter(is_for_actions).filter_map(|sink| sink.text("name")).collect();
    if names.iter().any(|known| known == name) {
        return true;
    }
    let help = if names.is_empty() {
        format!("add [[sink]] name = \"{name}\", what = \"actions\" with its broker and topic")
    } else {
        interdict_features::config::suggestion(name, names.iter().map(String::as_str))
    };
    section.report("sink", format!("no sink of actions is called '{name}'"), help);
    false
}

fn read_backoff(section: &Section<'_>) -> Backoff {
    let default = Backoff::default();
    let give_up_after =
        read_duration(section, "give_up_after", default.give_up_after, Duration::from_secs(30 * 86_400));
    let first = read_duration(section, "retry_first", default.first, Duration::from_secs(3_600));
    let max = read_duration(section, "retry_max", default.max, Duration::from_secs(86_400));
    Backoff { first, max, give_up_after }
}

fn check_url(section: &Section<'_>, url: &str) -> bool {
    let Ok(parsed) = reqwest::Url::parse(url) else {
        section.report("url", format!("'{url}' is no URL"), "write https://HOST/PATH");
        return false;
    };
    let is_local = matches!(parsed.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
    if parsed.scheme() == "https" || (parsed.scheme() == "http" && is_local) {
        return true;
    }
    section.report(
        "url",
        "a webhook carries decisions, and this way is not encrypted",
        "write https://; http:// is for 127.0.0.1 only",
    );
    false
}

pub(super) fn read_duration(section: &Section<'_>, key: &str, default: Duration, max: Duration) -> Duration {
    let Some(span) = section.span_of_time(key) else { return default };
    let duration = Duration::from_micros(u64::try_from(span.micros()).unwrap_or(0));
    if duration.is_zero() || duration > max {
        section.report(key, format!("'{key}' is {span}"), format!("write more than none and at most {max:?}"));
    }
    duration
}

fn read_columns(section: &Section<'_>, definitions: &Definitions) -> Option<Vec<String>> {
    let Some(columns) = section.texts("columns") else { return Some(Vec::new()) };
    let judged = || definitions.streams.iter().filter(|stream| stream.judge.is_some());
    let mut known = Vec::new();
    for column in &columns {
        if judged().any(|stream| stream.column(&column.value).is_some()) {
            known.push(column.value.clone());
        } else {
            let names = judged().flat_map(|stream| stream.columns.iter().map(|column| column.name.as_str()));
            let help = interdict_features::config::suggestion(&column.value, names);
            section.file().report(
                column.span.clone(),
                format!("no judged stream has a column '{}'", column.value),
                help,
            );
        }
    }
    (known.len() == columns.len()).then_some(known)
}
