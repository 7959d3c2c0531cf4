use std::time::Duration;

use interdict_features::config::ConfigFile;
use interdict_features::decision::Outcome;
use interdict_features::definition::Definitions;
use interdict_features::time::Span;
use interdict_scorer::policy::{ActionKind, OnDegraded, Policy, SecretSource, Trigger};

use crate::support::read_policy;

pub(crate) const POLICY: &str = r#"
[scorer]
bundle = "bundles/forest"
thresholds = { review = 0.4 }
default = "review"
degraded = "decide"

[[rule]]
id = "card_testing"
version = 3
when = "customer_spend.tx_count_1d > 10 && amount < 2.0"
outcome = "block"
reason = "many small payments"
condemns = "customer"

[[rule]]
id = "abroad"
when = "country != 'NL' && score > 0.3"
outcome = "review"
reason = "payment abroad"

[[action]]
name = "block_customer"
type = "store"
on = "block"
entity = "customer"
expires = "7d"

[[action]]
name = "tell_desk"
type = "webhook"
rules = ["card_testing"]
url = "https://desk.example.com/hook"
secret_env = "DESK_SECRET"
timeout = "5s"
columns = ["amount"]
"#;

#[test]
fn a_policy_is_read_whole() {
    let policy = read_policy(POLICY).unwrap();
    assert_eq!((policy.stream, policy.review, policy.block), (Some(0), Some(0.4), None));
    assert_eq!((policy.default_outcome, policy.degraded), (Outcome::Review, OnDegraded::Decide));
    assert_eq!((policy.rules[0].version, policy.rules[0].condemns), (3, Some(0)));
    assert_eq!((policy.rules[1].version, policy.rules[1].outcome), (1, Outcome::Review));
    assert_eq!(policy.actions[0].kind, ActionKind::Store { expires: Span::parse("7d") });
    assert_eq!((&policy.actions[1].trigger, policy.actions[1].entity), (&Trigger::Rules(vec![0]), 0));
    let ActionKind::Webhook(webhook) = &policy.actions[1].kind else { panic!("a webhook") };
    assert_eq!(webhook.secret, SecretSource::Environment("DESK_SECRET".to_owned()));
    assert_eq!(
        (webhook.timeout, webhook.columns.as_slice()),
        (Duration::from_secs(5), ["amount".to_owned()].as_slice())
    );
}

#[test]
fn a_file_without_policy_reviews_what_cannot_be_judged_and_approves_the_rest() {
    let policy = read_policy("").unwrap();
    assert_eq!(policy.default_outcome, Outcome::Review);
    assert!(policy.rules.is_empty() && policy.actions.is_empty() && policy.bundle.is_none());
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let problems = read_policy(
        r#"
[scorer]
bundle = "b"
stream = "logins"
thresholds = { review = 0.9, block = 0.1 }
default = "maybe"
[[rule]]
id = "score_block"
when = "amount >"
outcome = "approve"
reason = "r"
[[rule]]
id = "Big Amount"
when = "amuont > 5.0"
outcome = "block"
condemns = "card"
[[rule]]
id = "number"
when = "amount + 1.0"
outcome = "block"
reason = "r"
[[action]]
name = "a"
type = "store"
on = "block"
[[action]]
name = "a"
type = "webhook"
rules = ["numbr"]
url = "http://example.com/hook"
entity = "customer"
columns = ["amuont"]
timeout = "5"
[[action]]
name = "b"
type = "fax"
on = "block"
rules = ["number"]
entity = "customer"
"#,
    )
    .unwrap_err();
    let text = problems.to_string();
    for expected in [
        "interdict.toml:4:10: 'logins' is no judged stream",
        "review threshold lies over",
        "'maybe' is no value of 'default'",
        "'score_block' is a reason of our own",
        "interdict.toml:9:8:",
        "'approve' is no value of 'outcome'",
        "'Big Amount' is no rule id",
        "amuont",
        "no entity is called 'card'",
        "[rule] has no 'reason'",
        "a rule must be true or false, this is a double",
        "it is not clear whom this action addresses",
        "two actions are called 'a'",
        "no rule is called 'numbr'",
        "this way is not encrypted",
        "a webhook needs one secret",
        "no judged stream has a column 'amuont'",
        "'5' is no length of time",
        "'fax' is no value of 'type'",
        "an action needs one trigger",
    ] {
        assert!(text.contains(expected), "'{expected}' is not in:\n{text}");
    }
    assert_eq!(problems.0.len(), 20, "{text}");
}

/// A transfer names its payer and its payee, both accounts; no column is called as the account's own key.
const TRANSFERS: &str = r#"
[stream.transfers]
id = "id"
time = "at"
judge = "insert"
columns = { id = "int64", at = "timestamp", payer = "int64", payee = "int64" }
[entity.account]
key = "account_id"
[[group]]
name = "sent"
entity = "account"
key = "payer"
windows = ["1d"]
features = { n = "count()" }
[[rule]]
id = "burst"
when = "sent.n_1d > 5"
outcome = "block"
reason = "many transfers"
condemns = "account"
[[action]]
name = "stop"
type = "store"
on = "block"
entity = "account"
"#;

#[test]
fn whom_no_event_names_can_be_neither_condemned_nor_addressed() {
    let read = |text: &str| {
        let file = ConfigFile::parse("interdict.toml", text).unwrap();
        let definitions = Definitions::read(&file, None).unwrap();
        let _policy = Policy::read(&file, &definitions);
        file.finish()
    };
    let text = read(TRANSFERS).unwrap_err().to_string();
    let found = text.matches("events of stream 'transfers' have no column 'account_id', the key of 'account'").count();
    assert_eq!(found, 2, "{text}");
    read(&TRANSFERS.replace("account_id", "payer")).unwrap();
}

#[test]
fn a_store_action_is_not_triggered_by_a_review() {
    let text = POLICY.replace("on = \"block\"", "rules = [\"abroad\"]");
    let error = read_policy(&text).unwrap_err().to_string();
    assert!(error.contains("rule 'abroad' asks for a review, and this action blocks"), "{error}");
}

#[test]
fn a_webhook_to_this_machine_may_be_plain() {
    for (url, is_fine) in [
        ("http://127.0.0.1:9/x", true),
        ("http://localhost/x", true),
        ("http://[::1]:9/x", true),
        ("http://10.0.0.1/x", false),
        ("http://127.0.0.1.example.com/x", false),
        ("ftp://127.0.0.1/x", false),
        ("not a url", false),
    ] {
        let read = read_policy(&POLICY.replace("https://desk.example.com/hook", url));
        assert_eq!(read.is_ok(), is_fine, "{url}: {read:?}");
    }
}

#[test]
fn nothing_half_said_is_dropped_silently() {
    for (from, to) in [
        ("rules = [\"card_testing\"]", "rules = []"),
        ("rules = [\"card_testing\"]", "rules = 5"),
        ("secret_env = \"DESK_SECRET\"", "secret_env = 5"),
        ("columns = [\"amount\"]", "columns = [5]"),
        ("condemns = \"customer\"", "condemns = 5"),
        ("expires = \"7d\"", "expires = 7"),
        ("when = \"country", "wenn = \"country"),
        ("timeout = \"5s\"", "timeout = \"0s\""),
        ("version = 3", "version = 0"),
        ("reason = \"payment abroad\"", "reason = 1"),
        ("bundle = \"bundles/forest\"", "bundle = 1"),
    ] {
        let text = POLICY.replace(from, to);
        assert_ne!(text, POLICY);
        assert!(read_policy(&text).is_err(), "{to}");
    }
    let long = POLICY.replace("payment abroad", &"x".repeat(501));
    assert!(read_policy(&long).unwrap_err().to_string().contains("more than 500 bytes"));
}

#[test]
fn paths_are_taken_from_the_configurations_folder() {
    let text = POLICY.replace("secret_env = \"DESK_SECRET\"", "secret_file = \"desk.key\"");
    let policy = read_policy(&text).unwrap().located(std::path::Path::new("/etc/interdict"));
    assert_eq!(policy.bundle, Some("/etc/interdict/bundles/forest".into()));
    let ActionKind::Webhook(webhook) = &policy.actions[1].kind else { panic!("a webhook") };
    assert_eq!(webhook.secret, SecretSource::File("/etc/interdict/desk.key".into()));
}

#[test]
fn the_examples_hold_sound_policies() {
    let examples = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples");
    for (name, rules, has_bundle) in [("cards", 6, false), ("handbook", 5, true)] {
        let text = std::fs::read_to_string(examples.join(name).join("interdict.toml")).unwrap();
        let file = ConfigFile::parse(name, &text).unwrap();
        let definitions = Definitions::read(&file, Some(b"secret")).unwrap();
        let policy = Policy::read(&file, &definitions).unwrap_or_else(|| panic!("{:?}", file.finish()));
        assert_eq!((policy.rules.len(), policy.bundle.is_some()), (rules, has_bundle), "{name}");
        assert!(!policy.actions.is_empty());
    }
}
