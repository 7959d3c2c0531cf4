//! Each mistake is reported once, where it stands, with what to write instead.

use super::{ConfigFile, Definitions, HANDBOOK, RICH, SECRET, read};

const TEN_MISTAKES: &str = r#"[time]
slack = "2h"

[stream.transactions]
id = "transaction_id"
time = "tx_datetme"
label = "is_fraud"
judje = "insert"
columns = { transaction_id = "int64", tx_datetime = "timestamp", customer_id = "integer", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }

[entity.customer]
key = "customer_id"
[entity.terminal]
key = "terminal_id"

[[group]]
name = "customer_spend"
entity = "custmer"
windows = ["1d", "30d", "7d"]
features = { tx_count = "count()", amount_avg = "avg(amount)" }

[[group]]
name = "terminal_risk"
entity = "terminal"
where = "is_fraud == false"
windows = ["1d", "7d"]
features = { fraud_ratio = "share(label)", Total = "sum(amount)" }

[[derived]]
features = { is_night = "hour(tx_datetime) <= '6'", ratio = "amount / customer_spend.amount_avg_30d", twice = "terminal_risk.Total_7d * 2.0", risk = "terminal_risk.fraud_ratio_30d > 0.5" }
"#;

#[test]
fn ten_mistakes_are_ten_reports_in_order_of_line() {
    let problems = read(TEN_MISTAKES, None).expect_err("there are ten mistakes");
    let found: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let expected = [
        "interdict.toml:6:8: stream 'transactions' has no column 'tx_datetme'\n    did you mean 'tx_datetime'?",
        "interdict.toml:8:1: unknown key 'judje' in [stream.transactions]\n    did you mean 'judge'?",
        "interdict.toml:9:80: 'integer' is no column type\n    write int64",
        "interdict.toml:18:10: unknown entity 'custmer'\n    did you mean 'customer'?",
        "interdict.toml:19:25: the window '7d' stands after the longer '30d'\n    order windows from short to long",
        "interdict.toml:20:49: in 'amount_avg': unknown aggregation 'avg'\n    write mean(x)",
        "interdict.toml:25:9: in 'where': 'is_fraud' cannot be used here\n    it is known only after the event, so that a feature from it would see the future; only share(label) may use it",
        "interdict.toml:27:44: 'Total' is no name for a feature\n    write lower case letters, digits and single underscores: total",
        "interdict.toml:30:25: in 'is_night': an integer is compared with a text\n    numbers stand without quotes, texts within",
        "interdict.toml:30:150: in 'risk': unknown name 'terminal_risk.fraud_ratio_30d'\n    did you mean 'terminal_risk.fraud_ratio_1d'?",
    ];
    // 'ratio' and 'twice' hang on mistakes above and are not reported again.
    assert_eq!(found, expected);
}

/// What is replaced, by what, where the report is expected, and parts of its message and help.
type Case = (&'static str, &'static str, &'static str, &'static str, &'static str);

/// Replaces `from` by `to` in `source` and expects exactly one report at the line of the mark `to` begins with,
/// or where `at` stands.
#[track_caller]
fn check(source: &str, from: &str, to: &str, at: &str, message: &str, help: &str) {
    assert!(source.contains(from), "the file has no {from}");
    let changed = source.replacen(from, to, 1);
    let line = changed[..changed.find(at).unwrap_or_else(|| panic!("no {at}"))].matches('\n').count() + 1;
    let Err(problems) = read(&changed, Some(SECRET)) else {
        panic!("{to} was accepted");
    };
    let shown = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    assert_eq!(problems.len(), 1, "{to}:\n{shown}");
    assert!(problems[0].message.contains(message) && problems[0].help.contains(help), "{to}:\n{shown}");
    assert_eq!(problems[0].line, line, "{to}:\n{shown}");
    assert!(!problems[0].help.is_empty(), "{to}:\n{shown}");
}

const IN_STREAMS: &[Case] = &[
    (
        "id = \"transaction_id\"\ntime = \"tx_datetime\"",
        "time = \"tx_datetime\"",
        "[stream.transactions]",
        "has no 'id'",
        "add id =",
    ),
    ("time = \"tx_datetime\"\n", "", "[stream.transactions]", "has no 'time'", "add time ="),
    (
        "time = \"tx_datetime\"",
        "time = \"amount\"",
        "time = \"amount\"",
        "'time' names 'amount', which is decimal(2)",
        "timestamp",
    ),
    ("time = \"tx_datetime\"", "time = 5", "time = 5", "must be a string, not integer", ""),
    (
        "id = \"transaction_id\"\ntime = \"tx",
        "id = \"amount\"\ntime = \"tx",
        "id = \"amount\"",
        "'id' names 'amount'",
        "int64, string or uuid",
    ),
    ("label = \"is_fraud\"", "label = \"amount\"", "label = \"amount\"", "which is decimal(2)", "bool"),
    (
        "partition_by = \"customer_id\"",
        "partition_by = \"customer\"",
        "partition_by",
        "no column 'customer'",
        "customer_id",
    ),
    ("partition_by = \"customer_id\"", "label_time = \"amount\"", "label_time", "which is decimal(2)", "timestamp"),
    (
        "partition_by = \"customer_id\"",
        "on_delete = \"keep\"",
        "on_delete",
        "'keep' is no value of 'on_delete'",
        "retract, ignore",
    ),
    ("partition_by = \"customer_id\"", "zone = \"Berlin\"", "zone", "'Berlin' is no time zone", "Europe/Berlin"),
    ("partition_by = \"customer_id\"", "zone = \"+25:00\"", "zone", "'+25:00' is no time zone", ""),
    (
        "partition_by = \"customer_id\"",
        "judge = \"update\"",
        "judge",
        "unknown name 'update'",
        "insert, none, or a condition",
    ),
    ("partition_by = \"customer_id\"", "judge = \"after.amount\"", "judge", "not a condition", ""),
    (
        "partition_by = \"customer_id\"",
        "judge = \"after.amont > 1.0\"",
        "judge",
        "unknown name 'after.amont'",
        "after.amount",
    ),
    (
        "partition_by = \"customer_id\"",
        "append_only = true",
        "append_only",
        "append_only and has labels",
        "remove append_only",
    ),
    ("partition_by = \"customer_id\"", "value = \"is_fraud\"", "value", "'value' belongs to streams of labels", ""),
    ("partition_by = \"customer_id\"", "currency = \"amount\"", "currency", "which is decimal(2)", "string"),
    (
        "amount = \"decimal(2)\"",
        "amount = \"decimal(13)\"",
        "columns",
        "'decimal(13)' is no column type",
        "0 to 12 digits",
    ),
    (
        "amount = \"decimal(2)\"",
        "amount = { type = \"decimal(2)\", sensitiv = true }",
        "columns",
        "unknown key 'sensitiv'",
        "sensitive",
    ),
    ("amount = \"decimal(2)\"", "amount = { sensitive = false }", "columns", "has no 'type'", ""),
    (
        "amount = \"decimal(2)\"",
        "amount = \"decimal(2)\", before = \"bool\"",
        "columns",
        "means something else",
        "view",
    ),
    ("amount = \"decimal(2)\"", "amount = \"decimal(2)\", \"a b\" = \"bool\"", "columns", "no column name", "view"),
    (
        "amount = \"decimal(2)\"",
        "amount = { type = \"decimal(2)\", sensitive = true }",
        "columns",
        "sensitive and of type decimal(2)",
        "string",
    ),
    ("terminal_id = \"int64\"", "terminal_id = { type = \"int64\", converted = true }", "columns", "no amount", ""),
    (
        "labels = \"transactions\"",
        "labels = \"transaction\"",
        "labels = \"tr",
        "unknown stream 'transaction'",
        "transactions",
    ),
    ("labels = \"transactions\"", "labels = \"chargebacks\"", "labels = \"ch", "itself a stream of labels", ""),
    (
        "labels = \"transactions\"",
        "labels = \"transactions\"\njudge = \"insert\"",
        "judge",
        "'judge' has no place here",
        "",
    ),
    ("value = \"is_fraud\"\n", "", "[stream.chargebacks]", "has no 'value'", "is_fraud"),
    ("time = \"reported_at\"", "time = \"is_fraud\"", "time = \"is_fraud\"", "a second time", "another"),
    (
        "labels = \"transactions\"",
        "labels = \"transactions\"\ncolumns = { transaction_id = \"string\", is_fraud = \"bool\", reported_at = \"timestamp\" }",
        "id = \"transaction_id\"\nvalue",
        "the id is string here and int64 in stream 'transactions'",
        "int64",
    ),
    (
        "[stream.transactions]",
        "[stream.Transactions]",
        "[stream.Tr",
        "'Transactions' is no name for a stream",
        "transactions",
    ),
];

#[test]
fn mistakes_in_streams() {
    for &(from, to, at, message, help) in IN_STREAMS {
        // A renamed stream is still labelled by its old name.
        let source = if to.contains("Transactions") {
            HANDBOOK.replace("labels = \"transactions\"", "labels = \"Transactions\"")
        } else {
            HANDBOOK.to_owned()
        };
        check(&source, from, to, at, message, help);
    }
}

const SPEND: &str = "entity = \"customer\"\nwindows = [\"1d\", \"7d\", \"30d\"]";

const IN_GROUPS: &[Case] = &[
    ("key = \"customer_id\"", "key = \"customr_id\"", "key = \"customr", "no stream has the key column", "customer_id"),
    (
        "key = \"customer_id\"",
        "key = \"amount\"",
        "entity = \"customer\"",
        "the key column 'amount' is decimal(2)",
        "int64",
    ),
    ("key = \"customer_id\"", "key = []", "key = []", "the key has 0 columns", "1 to 4"),
    ("key = \"customer_id\"", "key = [\"customer_id\", \"customer_id\"]", "key = [", "twice", "once"),
    ("key = \"customer_id\"", "keys = \"x\"\nkey = \"customer_id\"", "keys", "unknown key 'keys'", "key"),
    ("key = \"customer_id\"\n", "", "[entity.customer]", "has no 'key'", "add key"),
    (
        "[entity.customer]",
        "[entity.score]\nkey = \"customer_id\"\n[entity.customer]",
        "[entity.score]",
        "means something else",
        "another name",
    ),
    (
        "name = \"customer_spend\"",
        "nam = \"customer_spend\"\nname = \"customer_spend\"",
        "nam = ",
        "unknown key 'nam'",
        "name",
    ),
    ("name = \"customer_spend\"\n", "", "[[group]]", "has no 'name'", ""),
    ("name = \"customer_spend\"", "name = \"\"", "name = \"\"", "empty name", ""),
    (
        "name = \"terminal_risk\"",
        "name = \"terminal__risk\"",
        "name = \"terminal_",
        "is no name for a group",
        "terminal_risk",
    ),
    ("name = \"terminal_risk\"", "name = \"label\"", "name = \"label\"", "means something else", ""),
    (
        "name = \"terminal_risk\"",
        "name = \"customer_spend\"",
        "name = \"customer_spend\"\nentity = \"terminal\"",
        "declared before",
        "own",
    ),
    (
        SPEND,
        "entity = \"customer\"\nwindows = [\"1d\", \"1w\", \"7d\", \"30d\"]",
        "windows = [\"1d\", \"1w\"",
        "'1w' and '7d' are the same",
        "once",
    ),
    (
        SPEND,
        "entity = \"customer\"\nwindows = [\"0s\", \"1d\", \"7d\", \"30d\"]",
        "windows = [\"0s\"",
        "is empty",
        "above 0s",
    ),
    (SPEND, "entity = \"customer\"\nwindows = [\"30d\", \"401d\"]", "windows = [\"30d\"", "'401d' is too long", "400d"),
    (
        SPEND,
        "entity = \"customer\"\nwindows = [\"1 d\", \"30d\"]",
        "windows = [\"1 d\"",
        "'1 d' is no length of time",
        "7d",
    ),
    (SPEND, "entity = \"customer\"\nwindows = []", "windows = []", "0 windows", "1 to 16"),
    (SPEND, "entity = \"customer\"", "[[group]]", "has no 'windows'", "add windows"),
    (
        SPEND,
        "entity = \"customer\"\ndelay = \"401d\"\nwindows = [\"30d\"]",
        "delay = \"401d\"",
        "the delay is 401d",
        "400d",
    ),
    (
        SPEND,
        "entity = \"customer\"\nkind = \"sliding\"\nwindows = [\"30d\"]",
        "kind",
        "'sliding' is no value of 'kind'",
        "table",
    ),
    (
        SPEND,
        "entity = \"customer\"\nstream = \"chargebacks\"\nwindows = [\"30d\"]",
        "stream = \"ch",
        "is a stream of labels",
        "rows",
    ),
    (
        SPEND,
        "entity = \"customer\"\nstream = \"payments\"\nwindows = [\"30d\"]",
        "stream = \"pa",
        "unknown stream 'payments'",
        "transactions",
    ),
    (
        SPEND,
        "entity = \"customer\"\nkey = [\"customer_id\", \"terminal_id\"]\nwindows = [\"30d\"]",
        "key = [",
        "the key has 2 columns, that of entity 'customer' 1",
        "same order",
    ),
    (
        SPEND,
        "entity = \"customer\"\nkey = \"amount\"\nwindows = [\"30d\"]",
        "key = \"amount\"",
        "is decimal(2)",
        "int64",
    ),
    (SPEND, "entity = \"customer\"\nwhere = \"amount\"\nwindows = [\"30d\"]", "where", "not a condition", "comparison"),
    (
        SPEND,
        "entity = \"customer\"\nwhere = \"label\"\nwindows = [\"30d\"]",
        "where",
        "'label' cannot be used here",
        "share(label)",
    ),
    (
        "amount_avg = \"mean(amount)\"",
        "amount_avg = 5",
        "features = { tx_count = \"count()\", amount_avg",
        "must be a string",
        "",
    ),
    (
        "features = { tx_count = \"count()\", amount_avg = \"mean(amount)\" }\n",
        "",
        "[[group]]",
        "has no 'features'",
        "",
    ),
];

#[test]
fn mistakes_in_entities_and_groups() {
    for &(from, to, at, message, help) in IN_GROUPS {
        check(HANDBOOK, from, to, at, message, help);
    }
    check(
        RICH.trim_start_matches("\nnamespace = \"shop\""),
        "kind = \"table\"",
        "kind = \"table\"\ndelay = \"1d\"",
        "delay",
        "'delay' has no place here",
        "latest row",
    );
}

#[test]
fn mistakes_in_aggregations() {
    for (call, message, help) in [
        ("mean", "'mean' is no aggregation", "one call"),
        ("mean(amount) / 2.0", "is no aggregation", "[[derived]]"),
        ("mean(amount) + mean(amount)", "is no aggregation", "[[derived]]"),
        ("mean()", "wrong number of arguments", "mean(amount)"),
        ("mean(amount, 2)", "wrong number of arguments", "mean(amount)"),
        ("mean(,)", "wrong number of arguments", ""),
        ("mean( )", "wrong number of arguments", ""),
        ("quantile(amount, )", "'' is no quantile", "0.95"),
        ("travel_speed(,amount)", "empty argument", "latitude"),
        ("count(amount)", "wrong number of arguments", "count()"),
        ("median(amount)", "unknown aggregation 'median'", "quantile(x, 0.5)"),
        ("summ(amount)", "unknown aggregation 'summ'", "'sum'"),
        ("sum(amont)", "unknown name 'amont'", "'amount'"),
        ("sum(tx_datetime)", "takes a number, but 'tx_datetime' is timestamp", ""),
        ("sum(amount > 1.0)", "takes a number", "share(amount > 1.0)"),
        ("share(amount)", "takes a condition", "share(amount > 100.0)"),
        ("sum(is_fraud)", "'is_fraud' cannot be used here", "share(label)"),
        ("mean(label ? 1.0 : 0.0)", "'label' cannot be used here", "share(label)"),
        ("share(is_fraud)", "'is_fraud' cannot be used here", "share(label)"),
        ("first(label)", "'label' cannot be used here", ""),
        ("quantile(amount, 1.0)", "'1.0' is no quantile", "between 0 and 1"),
        ("quantile(amount, NaN)", "'NaN' is no quantile", ""),
        ("quantile(amount)", "wrong number of arguments", "0.95"),
        ("decayed_count('0s')", "the half-life is 0s", "more than 0s"),
        ("decayed_count(1d)", "'1d' is no half-life", "in quotes"),
        ("decayed_sum(amount, 'x')", "is no half-life", ""),
        ("travel_speed(amount, amount)", "takes a double, but 'amount' is decimal(2)", "double"),
        ("travel_speed(customer_id, amount)", "takes a double, but 'customer_id' is int64", "double"),
        ("sum(customer_spend.tx_count_1d)", "unknown name 'customer_spend.tx_count_1d'", ""),
        ("sum((amount)", "not a CEL expression", ""),
    ] {
        let call = format!("amount_avg = \"{call}\"");
        check(HANDBOOK, "amount_avg = \"mean(amount)\"", &call, &call, message, help);
    }
    let count = "tx_count = { is = \"count()\", default = 0.5 }";
    check(HANDBOOK, "tx_count = \"count()\"", count, count, "its default is not", "whole number");
    let default = "amount_avg = { is = \"mean(amount)\", default = inf }";
    check(HANDBOOK, "amount_avg = \"mean(amount)\"", default, default, "is inf", "number from");
    check(
        HANDBOOK,
        "amount_avg = \"mean(amount)\"",
        "amount_avg = { default = 1 }",
        "amount_avg = {",
        "has no 'is'",
        "",
    );
    let unlabelled = HANDBOOK.replace("label = \"is_fraud\" ", "").replace("[stream.chargebacks]", "[ignored]");
    let unlabelled = unlabelled.split("[ignored]").next().expect("a first part").to_owned()
        + &HANDBOOK[HANDBOOK.find("[entity.customer]").expect("it is there")..];
    check(
        &unlabelled,
        "share(label)",
        "share(label) ",
        "share(label)",
        "stream 'transactions' has no label",
        "add label",
    );
}

#[test]
fn mistakes_in_derived_features() {
    for (from, to, message, help) in [
        (
            "is_night =",
            "is_weekend2 = \"is_night\", is_night =",
            "'is_night' cannot be used here",
            "move 'is_night' before",
        ),
        ("is_night =", "again = \"again\", is_night =", "'again' cannot be used here", "from itself"),
        ("is_night =", "amount = \"1.0\", is_night =", "'amount' is a column of the stream", "another name"),
        ("is_night =", "customer_spend = \"1.0\", is_night =", "is the name of a group", "another name"),
        ("is_night =", "now = \"1.0\", is_night =", "means something else", "another name"),
        ("is_night =", "fraud = \"is_fraud\", is_night =", "'is_fraud' cannot be used here", "share(label)"),
        ("is_night =", "x = 1, is_night =", "must be a string", ""),
        (
            "customer_spend.amount_avg_30d\"",
            "customer_spend.amount_avg_300d\"",
            "unknown name",
            "customer_spend.amount_avg_30d",
        ),
    ] {
        check(HANDBOOK, from, to, "is_night =", message, help);
    }
    check(
        HANDBOOK,
        "[[derived]]",
        "[[derived]]\nstream = \"chargebacks\"",
        "stream = \"ch",
        "is a stream of labels",
        "rows",
    );
    let again = "[[derived]]\nfeatures = { is_night = \"true\" }\n[[derived]]";
    let found = read(&HANDBOOK.replace("[[derived]]", again), None).expect_err("it is derived twice");
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].message.contains("was derived before"), "{}", found[0]);
    check(
        RICH.trim_start_matches("\nnamespace = \"shop\""),
        "[[derived]]",
        "[[derived]]\nstream = \"accounts\"",
        "stream = \"accounts\"\nfeatures = { over",
        "stream 'accounts' is not judged",
        "judge",
    );
}

#[test]
fn mistakes_about_money_keys_and_secrets() {
    let rich = RICH.trim_start_matches("\nnamespace = \"shop\"");
    let no_filter = "where = \"currency == 'EUR' && status in ['settled', 'booked']\"\n";
    let found = read(&rich.replace(no_filter, ""), Some(SECRET)).expect_err("currencies are mixed");
    let messages: Vec<_> = found.iter().map(|problem| problem.message.as_str()).collect();
    let mixed = "amounts of several currencies are put together";
    assert_eq!(
        messages,
        ["total", "highest", "spread", "p95", "money_heat"].map(|name| format!("in '{name}': {mixed}"))
    );
    assert!(found[0].help.contains("currency == 'EUR'"), "{}", found[0].help);

    let found = read(rich, None).expect_err("there is no secret");
    assert_eq!(found.len(), 3);
    assert!(found.iter().all(|problem| problem.message.ends_with("but no secret is configured")));
    assert!(found[0].help.contains("[secrets]"), "{}", found[0].help);
    let file =
        ConfigFile::parse("interdict.toml", &format!("{rich}\n[secrets]\nsensitive_env = \"ABSENT\"")).expect("TOML");
    file.report(None, "ABSENT is not set", "set it");
    assert!(Definitions::read(&file, None).is_none());
    assert_eq!(file.problem_count(), 1);
    let found = read(rich, Some(b"short")).expect_err("the secret is short");
    assert!(found[0].message.contains("the secret has 5 bytes"), "{}", found[0]);

    let plain = rich.replace("account = { type = \"string\", sensitive = true }", "account = \"string\"");
    let found = read(&plain, Some(SECRET)).expect_err("one key is masked, the other is not");
    assert_eq!(found.len(), 1);
    let message = "the key of entity 'account' is string in stream 'accounts' and sensitive string in 'transfers'";
    assert_eq!(found[0].message, message);
    check(rich, "stream = \"accounts\"\n", "", "[[group]]\nname = \"profile\"", "has no 'stream'", "several");
    check(
        rich,
        "append_only = true",
        "append_only = true\non_delete = \"retract\"",
        "append_only",
        "retracts deleted rows",
        "ignore",
    );
    check(rich, "label = \"label\"\n", "", "label_time = \"lab", "'label_time' is set without 'label'", "add label");
}

#[test]
fn keys_that_only_decisions_read_fit_too() {
    let logins = "[stream.logins]\nid = \"login\"\ntime = \"at\"\ncolumns = { login = \"int64\", at = \"timestamp\", customer_id = \"string\" }\n\n[stream.transactions]";
    let source = HANDBOOK.replace("entity = ", "stream = \"transactions\"\nentity = ");
    let source = source.replace("[[derived]]", "[[derived]]\nstream = \"transactions\"");
    let message = "the key of entity 'customer' is string in stream 'logins' and int64 in 'transactions'";
    check(&source, "[stream.transactions]", logins, "[entity.customer]", message, "alike");
}

#[test]
fn an_empty_file_says_where_to_begin() {
    let found = read("", None).expect_err("nothing is declared");
    assert_eq!(found.len(), 1);
    assert!(found[0].help.contains("[stream.transactions]"));
}
