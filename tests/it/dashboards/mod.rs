//! What stands in `dashboards/`: whole, accepted by Prometheus's own tools, and about metrics that a running program shows.

mod live;
mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;
use yaml_rust2::{Yaml, YamlLoader};

use crate::place::text;
use crate::program::{interdict, root};

/// What panels may be drawn as.
const KINDS: [&str; 5] = ["timeseries", "stat", "heatmap", "bargauge", "state-timeline"];

/// A file of the repository, with its merges carried out.
pub(crate) fn yaml(path: &str) -> Value {
    let documents =
        YamlLoader::load_from_str(&text(&root().join(path))).unwrap_or_else(|error| panic!("{path}: {error}"));
    json(&documents[0])
}

fn json(yaml: &Yaml) -> Value {
    match yaml {
        Yaml::Null => Value::Null,
        Yaml::Boolean(value) => (*value).into(),
        Yaml::Integer(value) => (*value).into(),
        Yaml::Real(text) | Yaml::String(text) => text.as_str().into(),
        Yaml::Array(items) => items.iter().map(json).collect(),
        Yaml::Hash(entries) => {
            let entry = |(key, value): (&Yaml, &Yaml)| (key.as_str().expect("a text as key").to_owned(), json(value));
            let mut object: serde_json::Map<String, Value> = entries.iter().map(entry).collect();
            if let Some(Value::Object(merged)) = object.remove("<<") {
                for (key, value) in merged {
                    object.entry(key).or_insert(value);
                }
            }
            object.into()
        }
        Yaml::Alias(_) | Yaml::BadValue => panic!("no value: {yaml:?}"),
    }
}

/// The texts of a list; none where there is no list.
pub(crate) fn texts(value: &Value) -> Vec<&str> {
    value.as_array().into_iter().flatten().map(|text| text.as_str().expect("a text")).collect()
}

/// Every dashboard by the name of its file.
fn dashboards() -> BTreeMap<String, Value> {
    let folder = std::fs::read_dir(root().join("dashboards/grafana/dashboards")).unwrap();
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, serde_json::from_str(&text(&path)).unwrap())
    };
    folder.map(read).collect()
}

fn panels(dashboard: &Value) -> impl Iterator<Item = &Value> {
    dashboard["panels"].as_array().unwrap().iter().filter(|panel| panel["type"] != "row")
}

/// A query of a panel.
struct Query {
    dashboard: String,
    panel: String,
    expression: String,
}

fn queries() -> Vec<Query> {
    let mut queries = Vec::new();
    for (dashboard, content) in dashboards() {
        for panel in panels(&content) {
            for target in panel["targets"].as_array().unwrap() {
                queries.push(Query {
                    dashboard: dashboard.clone(),
                    panel: panel["title"].as_str().unwrap().to_owned(),
                    expression: target["expr"].as_str().unwrap().to_owned(),
                });
            }
        }
    }
    queries
}

/// Rules of a file: alerts or recordings.
fn rules(file: &str) -> Vec<Value> {
    let content = yaml(&format!("dashboards/prometheus/rules/{file}"));
    let groups = content["groups"].as_array().unwrap();
    groups.iter().flat_map(|group| group["rules"].as_array().unwrap().clone()).collect()
}

fn promtool(arguments: &[&str]) {
    let mut command = Command::new("promtool");
    let output = command.args(arguments).current_dir(root()).output();
    let output =
        output.unwrap_or_else(|error| panic!("promtool of Debian's package prometheus (make servers): {error}"));
    let told = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&told));
}

#[test]
fn dashboards_are_whole() {
    let source = yaml("dashboards/grafana/provisioning/datasources/prometheus.yml");
    let source = &source["datasources"][0]["uid"];
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}: its uid is another one's");
        assert!(dashboard["schemaVersion"].as_u64().unwrap() >= 39, "{name}: Grafana 11 and newer");
        for text in ["title", "description"] {
            assert!(dashboard[text].as_str().is_some_and(|text| !text.is_empty()), "{name}: no {text}");
        }
        let variables = dashboard["templating"]["list"].as_array().unwrap();
        let variables: BTreeSet<&str> = variables.iter().map(|variable| variable["name"].as_str().unwrap()).collect();
        assert_eq!(variables, BTreeSet::from(["instance", "job", "namespace"]), "{name}");
        let mut ids = BTreeSet::new();
        for row in dashboard["panels"].as_array().unwrap() {
            assert!(ids.insert(row["id"].as_u64().unwrap()), "{name}: the id of {} is another one's", row["title"]);
        }
        let mut titles = BTreeSet::new();
        for panel in panels(&dashboard) {
            let title = panel["title"].as_str().unwrap();
            assert!(!title.is_empty() && titles.insert(title), "{name}: the title {title} is another one's");
            let kind = panel["type"].as_str().unwrap();
            assert!(KINDS.contains(&kind), "{name}/{title}: {kind}");
            assert!(
                panel["description"].as_str().is_some_and(|text| text.len() > 20),
                "{name}/{title}: no description"
            );
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(defaults["unit"].as_str().is_some_and(|unit| !unit.is_empty()), "{name}/{title}: no unit");
            assert!(!defaults["thresholds"]["steps"].as_array().unwrap().is_empty(), "{name}/{title}: no thresholds");
            let targets = panel["targets"].as_array().unwrap();
            assert!(!targets.is_empty(), "{name}/{title} asks nothing");
            for asks in targets.iter().chain([panel]) {
                assert_eq!(&asks["datasource"]["uid"], source, "{name}/{title}");
            }
        }
        stand_side_by_side(&name, &dashboard);
    }
}

/// No two panels cover each other, and none is cut off.
fn stand_side_by_side(name: &str, dashboard: &Value) {
    let mut covered = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        let [x, y, w, h] = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap());
        assert!(x + w <= 24, "{name}: {} is cut off", panel["title"]);
        let cells = (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y)));
        assert!(cells.into_iter().all(|cell| covered.insert(cell)), "{name}: {} covers another one", panel["title"]);
    }
}

#[test]
fn every_alert_says_what_to_do_and_has_a_test() {
    let runbook = text(&root().join("docs/runbook.md"));
    let anchor = |heading: &str| {
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.collect::<String>().to_lowercase().replace(' ', "-")
    };
    let headings = runbook.lines().filter_map(|line| line.strip_prefix("## ")).map(anchor);
    let headings: BTreeSet<String> = headings.collect();
    let tests = yaml("dashboards/prometheus/tests/alerts.yml");
    let tested: BTreeSet<&str> =
        tests["tests"].as_array().unwrap().iter().filter_map(|test| test["name"].as_str()).collect();
    let mut names = BTreeSet::new();
    for alert in rules("alerts.yml") {
        let name = alert["alert"].as_str().unwrap();
        assert!(names.insert(name.to_owned()), "two alerts are called {name}");
        assert!(matches!(alert["labels"]["severity"].as_str(), Some("critical" | "warning")), "{name}: no severity");
        for text in ["summary", "description", "runbook_url"] {
            assert!(alert["annotations"][text].as_str().is_some_and(|text| text.len() > 10), "{name}: no {text}");
        }
        let (page, section) = alert["annotations"]["runbook_url"].as_str().unwrap().split_once('#').unwrap();
        assert!(page.ends_with("/docs/runbook.md"), "{name}: {page}");
        assert!(headings.contains(section), "{name}: docs/runbook.md has no section {section}");
        assert!(runbook.contains(&format!("`{name}`")), "{name}: docs/runbook.md does not name it");
        assert!(tested.contains(name), "{name}: no test in dashboards/prometheus/tests");
    }
    assert!(names.len() >= 20, "{names:?}");
}

#[test]
fn promtool_accepts_rules_and_their_tests() {
    promtool(&[
        "check",
        "rules",
        "dashboards/prometheus/rules/alerts.yml",
        "dashboards/prometheus/rules/recording.yml",
    ]);
    promtool(&["test", "rules", "dashboards/prometheus/tests/alerts.yml"]);
}

#[test]
fn every_role_is_scraped() {
    let help = interdict(&root(), &["run", "--help"]).ok().stdout;
    let roles = help.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':')).map(|(role, _)| role);
    let roles: BTreeSet<String> = roles.filter(|role| *role != "all").map(|role| format!("interdict-{role}")).collect();
    assert!(roles.len() >= 4, "{help}");
    let prometheus = yaml("dashboards/prometheus/prometheus.yml");
    let jobs = prometheus["scrape_configs"].as_array().unwrap().iter();
    let jobs: BTreeSet<String> = jobs.map(|job| job["job_name"].as_str().unwrap().to_owned()).collect();
    assert!(roles.is_subset(&jobs), "{roles:?} of {jobs:?}");
    promtool(&["check", "config", "--syntax-only", "dashboards/prometheus/prometheus.yml"]);
}

/// The names of metrics in an expression: ours, and recorded ones.
fn metrics(expression: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | ':');
    let words = expression.split(|c| !is_name(c));
    words.filter(|word| word.contains("interdict_")).map(str::to_owned).collect()
}

/// Where Prometheus's configuration lies once its paths and targets are `replaced`.
fn configured(folder: &std::path::Path, replaced: &[(&str, &str)]) -> PathBuf {
    let mut config = text(&root().join("dashboards/prometheus/prometheus.yml"));
    for (from, to) in replaced {
        assert!(config.contains(from), "{from} is not in prometheus.yml");
        config = config.replace(from, to);
    }
    let path = folder.join("prometheus.yml");
    std::fs::write(&path, config).unwrap();
    path
}
