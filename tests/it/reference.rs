//! `docs/configuration.md` against the program: every key that a section takes stands there, and no other.
//!
//! An unknown key is answered with those that are known, a dozen by name and the rest by number. So each section is written with every key
//! that the page gives it, and with a stranger: nothing but the stranger may be unknown, and what is known must be as many as the page has.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value;

use crate::place::text;
use crate::program::{interdict, root};

/// No key, and like none.
const STRANGER: &str = "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz";

/// What every section needs around it.
const AROUND: &str = r#"
[stream.payments]
id = "id"
time = "at"
columns = { id = "int64", at = "timestamp", customer = "int64", amount = "decimal(2)" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1d"]
features = { count = "count()" }
"#;

/// A section, and where the page has its keys.
struct Case {
    /// The headings that its tables stand under.
    tables: &'static [&'static str],
    /// What stands in these tables and is not for it.
    but: &'static [&'static str],
    /// Its header and the keys that make it what it is, at the end of a file; empty: the top of the file.
    section: &'static str,
}

const fn of(section: &'static str, tables: &'static [&'static str]) -> Case {
    Case { tables, but: &[], section }
}

impl Case {
    const fn but(self, but: &'static [&'static str]) -> Self {
        Self { but, ..self }
    }
}

const CONNECTION: &str = "A connection to PostgreSQL";
const OF_KAFKA: &[&str] = &["brokers", "user", "password_env", "password_file", "sasl", "session"];
const OF_FLUVIO: &[&str] = &["endpoint"];

const CASES: &[Case] = &[
    of("", &["At the top"]),
    of("[stream.more]\n", &["Every stream", "A stream of rows"]),
    of("[stream.more]\nlabels = \"payments\"\n", &["Every stream", "A stream of labels"]),
    of("[stream.more]\nid = \"id\"\ntime = \"at\"\n[stream.more.columns.amount]\n", &["Columns"]),
    of("[entity.more]\n", &["[entity.NAME]"]),
    of("[[group]]\n", &["[[group]]"]),
    of("[[group]]\nname = \"more\"\nentity = \"customer\"\n[group.features.count]\n", &["Features"]),
    of("[[derived]]\n", &["[[derived]]"]),
    of("[time]\n", &["[time]"]),
    of("[secrets]\n", &["[secrets]"]),
    of("[[source]]\ntype = \"file\"\n", &["Every source", "Records", "Files"]),
    of("[[source]]\ntype = \"postgres\"\n", &["Every source", "PostgreSQL", CONNECTION]),
    of("[[source]]\ntype = \"kafka\"\n", &["Every source", "Records", "Topics", "Brokers"]).but(OF_FLUVIO),
    of("[[source]]\ntype = \"fluvio\"\n", &["Every source", "Records", "Topics", "Brokers"]).but(OF_KAFKA),
    of(
        "[[source]]\nname = \"bank\"\ntype = \"postgres\"\n[source.republish]\ntype = \"kafka\"\n",
        &["[source.republish]", "Topics", "Brokers"],
    )
    .but(OF_FLUVIO),
    of("[archive]\n", &["[archive]"]),
    of("[store]\n", &["Every store", "embedded"]),
    of("[store]\ntype = \"redis\"\n", &["Every store", "redis"]),
    of("[engine]\n", &["[engine]"]),
    of("[scorer]\n", &["[scorer]"]),
    of("[scorer.thresholds]\n", &["[scorer.thresholds]"]),
    of("[[rule]]\n", &["[[rule]]"]),
    of("[[action]]\ntype = \"store\"\n", &["Every action", "store"]),
    of("[[action]]\ntype = \"postgres\"\n", &["Every action", "postgres", CONNECTION, "Retries"]),
    of("[[action]]\ntype = \"webhook\"\n", &["Every action", "webhook", "Retries"]),
    of("[[action]]\ntype = \"topic\"\n", &["Every action", "topic", "Retries"]),
    of("[[sink]]\ntype = \"kafka\"\n", &["[[sink]]", "Brokers"]).but(OF_FLUVIO),
    of("[[sink]]\ntype = \"fluvio\"\n", &["[[sink]]", "Brokers"]).but(OF_KAFKA),
    of("[http]\n", &["[http]"]),
    of("[monitor]\n", &["[monitor]"]),
    of("[[monitor.webhook]]\n", &["[[monitor.webhook]]"]),
];

/// The keys of the page by the heading that their table stands under.
fn tables() -> BTreeMap<String, Vec<String>> {
    let page = text(&root().join("docs/configuration.md"));
    let mut tables: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let (mut heading, mut has_keys) = ("", false);
    for line in page.lines() {
        if line.starts_with('#') {
            heading = line.trim_start_matches('#').trim();
        }
        let Some(row) = line.strip_prefix("| ") else {
            has_keys = false;
            continue;
        };
        has_keys |= row.starts_with("key |");
        if has_keys {
            let first = row.split(" | ").next().unwrap();
            let keys = first.split('`').skip(1).step_by(2).map(str::to_owned);
            tables.entry(heading.to_owned()).or_default().extend(keys);
        }
    }
    tables
}

/// The keys that the program names to help out, and how many it knows.
fn known(help: &str) -> (Vec<&str>, usize) {
    let listed = help.strip_prefix("known here: ").unwrap_or_else(|| panic!("no list: {help}"));
    let (listed, more) = listed.split_once(" and ").unwrap_or((listed, "0 more"));
    let named: Vec<&str> = listed.split(", ").collect();
    let more: usize = more.strip_suffix(" more").unwrap().parse().unwrap();
    let count = named.len() + more;
    (named, count)
}

/// A file with the section, in it every one of `keys` and the stranger.
fn written(section: &str, keys: &BTreeSet<&str>) -> String {
    let own = section.rfind("]\n").map_or("", |end| &section[end + 2..]);
    let is_there = |key: &str| own.lines().any(|line| line.starts_with(&format!("{key} = ")));
    let mut lines = String::new();
    for key in keys.iter().chain([&STRANGER]).filter(|key| !is_there(key)) {
        lines.push_str(key);
        lines.push_str(" = []\n");
    }
    if section.is_empty() { lines } else { format!("{AROUND}{section}{lines}") }
}

fn compare(section: &str, keys: &BTreeSet<&str>) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("interdict.toml"), written(section, keys)).unwrap();
    let report = interdict(folder.path(), &["check", "--json"]).json();
    let message = |mistake: &Value| mistake["message"].as_str().unwrap().to_owned();
    let is_unknown = |mistake: &&Value| {
        let message = message(mistake);
        message.starts_with("unknown key '") || message.starts_with("unknown section '")
    };
    let unknown: Vec<&Value> = report["mistakes"].as_array().unwrap().iter().filter(is_unknown).collect();
    let strangers: Vec<String> = unknown.iter().map(|mistake| message(mistake)).collect();
    let is_alone = strangers.len() == 1 && strangers[0].contains(STRANGER);
    assert!(is_alone, "{section}: docs/configuration.md has keys that the program does not take: {strangers:#?}");
    let (named, count) = known(unknown[0]["help"].as_str().unwrap());
    let missing: Vec<&str> = named.into_iter().filter(|key| !keys.contains(key)).collect();
    assert!(missing.is_empty(), "{section}: docs/configuration.md lacks {missing:?}");
    assert_eq!(count, keys.len(), "{section}: keys of the program, and those in docs/configuration.md: {keys:?}");
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let tables = tables();
    let mut unseen: BTreeSet<&str> = tables.keys().map(String::as_str).collect();
    for Case { tables: headings, but, section } in CASES {
        let mut keys = BTreeSet::new();
        for heading in *headings {
            let table = tables.get(*heading).unwrap_or_else(|| panic!("no table of keys under '{heading}'"));
            keys.extend(table.iter().map(String::as_str).filter(|key| !but.contains(key)));
            unseen.remove(heading);
        }
        compare(section, &keys);
    }
    assert!(unseen.is_empty(), "no section is asked about the keys under {unseen:?}");
}
