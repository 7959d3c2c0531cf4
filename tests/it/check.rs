//! `interdict check` and `interdict plan`.

use std::fs;

use crate::program::{handbook, interdict, root};

#[test]
fn every_example_is_good() {
    let mut checked = Vec::new();
    for example in fs::read_dir(root().join("examples")).unwrap() {
        let example = example.unwrap();
        let config = example.path().join("interdict.toml");
        if config.exists() {
            let has_secrets = example.path().join("secrets.sh").exists();
            let place = has_secrets.then(crate::compose::laid_out);
            let config = place.as_ref().map_or(config, |place| place.path("compose/interdict.toml"));
            interdict(&root(), &["check", "--config", &config.display().to_string()]).ok();
            checked.push(example.file_name().into_string().unwrap());
        }
    }
    for example in ["cards", "compose", "handbook", "postgres", "republish", "topics"] {
        assert!(checked.iter().any(|name| name == example), "{example} is not among {checked:?}");
    }
}

#[test]
fn a_source_is_not_called_as_the_log_of_requests() {
    let folder = tempfile::tempdir().unwrap();
    let source = "\n[[source]]\nname = \"input\"\ntype = \"file\"\npath = \"in.jsonl\"\nformat = \"json\"\n";
    fs::write(folder.path().join("interdict.toml"), format!("{}{source}", crate::place::DEFINITIONS)).unwrap();
    let ran = interdict(folder.path(), &["check", "--json"]);
    assert_eq!(ran.code, 1);
    let mistakes = ran.json()["mistakes"].clone();
    assert_eq!(mistakes.as_array().unwrap().len(), 1, "{mistakes}");
    assert!(mistakes[0]["message"].as_str().unwrap().contains("log of requests"), "{mistakes}");
}

#[test]
fn a_lease_that_no_fleet_could_keep_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for (lease, mistakes) in [("499ms", 1), ("500ms", 0), ("10m", 0), ("11m", 1)] {
        let store = format!("[store]\ntype = \"redis\"\nurl = \"redis://127.0.0.1\"\nlease = \"{lease}\"\n");
        let config = crate::place::DEFINITIONS.replacen("[store]\npath = \"data\"\n", &store, 1);
        fs::write(folder.path().join("interdict.toml"), config).unwrap();
        let report = interdict(folder.path(), &["check", "--json"]).json();
        assert_eq!(report["mistakes"].as_array().map_or(0, Vec::len), mistakes, "{lease}: {report}");
    }
}

#[test]
fn an_entity_that_no_judged_event_names_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let account = "\n[stream.accounts]\nid = \"account_id\"\ntime = \"opened\"\njudge = \"none\"\ncolumns = { account_id = \"int64\", opened = \"timestamp\" }\n[entity.account]\nkey = \"account_id\"\n";
    fs::write(
        folder.path().join("interdict.toml"),
        crate::place::DEFINITIONS
            .replacen("[entity.customer]", &format!("{account}[entity.customer]"), 1)
            .replace("[[group]]", "[[group]]\nstream = \"transactions\""),
    )
    .unwrap();
    let report = interdict(folder.path(), &["check", "--json"]).ok().json();
    assert_eq!(report["ok"], true);
    let notes = report["notes"].as_array().unwrap();
    assert_eq!(notes.len(), 1, "{report}");
    assert!(notes[0].as_str().unwrap().contains("no judged event has the key of 'account' (account_id)"), "{report}");
    assert!(
        interdict(folder.path(), &["check"]).ok().stdout.contains("note: no judged event has the key of 'account'")
    );
}

const TEN_MISTAKES: &str = r#"
namespace = "not a name"
[stream.payments]
id = "nowhere"
time = "at"
columns = { id = "int64", at = "timestamp", customer = "int64", amount = "money" }
[entity.customer]
key = "client"
[[group]]
name = "spend"
entity = "custmer"
windows = ["1d", "soon"]
features = { n = "cuont()", mean = "mean(amuont)" }
[[group]]
name = "spend"
entity = "customer"
windows = ["1d"]
features = { n = "count()" }
[store]
cache_mb = 1
surprise = true
"#;

#[test]
fn ten_mistakes_are_ten_messages_with_their_lines() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("interdict.toml"), TEN_MISTAKES).unwrap();
    let ran = interdict(folder.path(), &["check", "--json"]);
    assert_eq!(ran.code, 1);
    let report = ran.json();
    assert_eq!(report["ok"], false);
    let mistakes = report["mistakes"].as_array().unwrap();
    let about = |word: &str| mistakes.iter().any(|mistake| mistake["message"].as_str().unwrap().contains(word));
    for word in [
        "not a name",
        "nowhere",
        "money",
        "client",
        "custmer",
        "soon",
        "cuont",
        "amuont",
        "declared before",
        "cache_mb",
        "surprise",
    ] {
        assert!(about(word), "no mistake about {word} in {mistakes:#?}");
    }
    assert!(mistakes.iter().all(|mistake| mistake["line"].as_u64().unwrap() > 1));
}

const HIDDEN_MISTAKES: &str = r#"
[stream.payments]
id = "id"
time = "at"
judge = "insert"
columns = { id = "int64", at = "timestamp", customer = "int64" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1d"]
features = { n = "cuont()" }
[[source]]
name = "payments"
type = "file"
path = "in.csv"
format = "cvs"
stream = "payments"
[[rule]]
id = "burst"
when = "customer > 5"
outcome = "blok"
reason = "burst"
condemns = "custmer"
[[action]]
name = "stop"
type = "store"
on = "block"
entity = "customer"
expires = "30x"
"#;

#[test]
fn a_mistake_in_a_group_hides_none_in_sources_rules_and_actions() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("interdict.toml"), HIDDEN_MISTAKES).unwrap();
    let ran = interdict(folder.path(), &["check"]);
    assert_eq!(ran.code, 1);
    for word in ["cuont", "cvs", "blok", "custmer", "30x"] {
        assert!(ran.stdout.contains(word), "no mistake about {word} in {}", ran.stdout);
    }
}

#[test]
fn a_group_whose_busiest_key_would_not_fit_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let config = r#"
[stream.payments]
id = "id"
time = "at"
columns = { id = "int64", at = "timestamp", customer = "int64", amount = "decimal(2)" }
[entity.customer]
key = "customer"
[[group]]
name = "spend"
entity = "customer"
windows = ["1d", "7d", "30d"]
features = { middle = "quantile(amount, 0.5)" }
"#;
    fs::write(folder.path().join("interdict.toml"), config).unwrap();
    let ran = interdict(folder.path(), &["check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stdout.contains("interdict.toml:11:") && ran.stdout.contains("65536"), "{}", ran.stdout);
}

#[test]
fn a_plan_names_every_feature_and_its_cost() {
    let report = interdict(&root(), &["plan", "--config", &handbook(), "--json"]).ok().json();
    let names: Vec<&str> = report["features"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 15);
    assert!(names.contains(&"customer_spend.amount_avg_30d"));
    let group = &report["groups"][1];
    assert_eq!(group["hash"].as_str().unwrap().len(), 16);
    // 30 days, 7 days of delay, one hour of slack.
    assert_eq!(group["retention_seconds"], 37 * 86_400 + 3_600);
    assert_eq!(group["windows"][0]["tile_seconds"], 600.0);
    assert!(group["raw_events_max"].as_u64().unwrap() > 100);
    assert_eq!(report["streams"][0]["row_records"], true);
}

#[test]
fn usage_and_missing_files_have_their_own_codes() {
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(interdict(folder.path(), &["check", "--nonsense"]).code, 2);
    let ran = interdict(folder.path(), &["check"]);
    assert_eq!(ran.code, 1);
    assert!(ran.stderr.contains("interdict.toml"), "{}", ran.stderr);
}
