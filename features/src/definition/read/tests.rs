//! Definitions as users write them, and the mistakes they make.

mod mistakes;
mod property;

use super::super::{Aggregation, Definitions, GroupKind, Judge, Operand};
use crate::config::{ConfigFile, Problem};
use crate::expression::Type;
use crate::fixture::HANDBOOK;
use crate::time::Span;
use crate::value::ColumnType;

const SECRET: &[u8] = b"0123456789abcdef0123456789abcdef";

/// The definitions of `source`, or its mistakes.
fn read(source: &str, secret: Option<&[u8]>) -> Result<Definitions, Vec<Problem>> {
    let file = ConfigFile::parse("interdict.toml", source).map_err(|problems| problems.0)?;
    let definitions = Definitions::read(&file, secret);
    match (definitions, file.finish()) {
        (Some(definitions), Ok(())) => Ok(definitions),
        (None, Ok(())) => panic!("nothing was read, but nothing reported: {source}"),
        (_, Err(problems)) => Err(problems.0),
    }
}

#[track_caller]
fn good(source: &str) -> Definitions {
    read(source, Some(SECRET)).unwrap_or_else(|problems| {
        panic!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
    })
}

#[test]
fn the_example_reads_as_designed() {
    let definitions = good(HANDBOOK);
    let names: Vec<&str> = definitions.features.iter().map(|feature| &*feature.name).collect();
    assert_eq!(
        names,
        [
            "customer_spend.tx_count_1d",
            "customer_spend.tx_count_7d",
            "customer_spend.tx_count_30d",
            "customer_spend.amount_avg_1d",
            "customer_spend.amount_avg_7d",
            "customer_spend.amount_avg_30d",
            "terminal_risk.tx_count_1d",
            "terminal_risk.tx_count_7d",
            "terminal_risk.tx_count_30d",
            "terminal_risk.fraud_ratio_1d",
            "terminal_risk.fraud_ratio_7d",
            "terminal_risk.fraud_ratio_30d",
            "is_weekend",
            "is_night",
            "amount_vs_avg",
        ]
    );
    let kinds: Vec<Type> = definitions.features.iter().map(|feature| feature.kind).collect();
    assert_eq!(kinds[..3], [Type::Int; 3]);
    assert_eq!(kinds[3..6], [Type::Double; 3]);
    assert_eq!(kinds[12..], [Type::Bool, Type::Bool, Type::Double]);

    let transactions = &definitions.streams[0];
    assert_eq!((transactions.id, transactions.time, transactions.label), (0, Some(1), Some(5)));
    assert_eq!(transactions.partition_by, Some(2));
    assert_eq!(transactions.columns[4].kind, ColumnType::Decimal { scale: 2 });
    assert!(matches!(transactions.judge, Some(Judge::Insert)));
    let chargebacks = &definitions.streams[1];
    let kinds: Vec<_> = chargebacks.columns.iter().map(|column| (column.name.as_str(), column.kind)).collect();
    assert_eq!(
        kinds,
        [("transaction_id", ColumnType::Int), ("is_fraud", ColumnType::Bool), ("reported_at", ColumnType::Timestamp)]
    );
    assert_eq!(chargebacks.labels.map(|labels| (labels.stream, labels.value)), Some((0, 1)));
    assert_eq!(chargebacks.time, Some(2));
    assert!(chargebacks.judge.is_none());

    let risk = &definitions.groups[1];
    assert_eq!((risk.entity, risk.stream, risk.key.as_slice(), risk.first_feature), (1, 0, [3].as_slice(), 6));
    let GroupKind::Windowed { windows, delay, features } = &risk.kind else {
        panic!("it has windows");
    };
    assert_eq!(windows.iter().map(|window| window.micros() / Span::DAY.micros()).collect::<Vec<_>>(), [1, 7, 30]);
    assert_eq!(*delay, Span::parse("7d").expect("a span"));
    assert!(matches!(features[1].aggregation, Aggregation::ShareLabel));
    // Slots of a derived feature: six columns, then the features.
    assert_eq!(definitions.derived[2].expression.slots(), [4, 6 + 5]);
    assert_eq!(
        (definitions.disorder, definitions.slack, definitions.future_max),
        (Span::SECOND, Span::HOUR, Span::HOUR)
    );
}

/// Everything that the example leaves out.
const RICH: &str = r#"
namespace = "shop"

[time]
disorder = "2s"
slack = "2h"
future = "10m"

[stream.transfers]
source = "public.transfers"
id = "ref"
time = "at"
zone = "Europe/Berlin"
label = "label"
label_time = "labelled_at"
currency = "currency"
judge = "before.status != 'settled' && after.status == 'settled'"
on_delete = "ignore"
on_truncate = "ignore"
on_unmatched = "drop"
[stream.transfers.columns]
ref = "uuid"
at = "timestamp"
payer = { type = "string", sensitive = true }
payee = { type = "string", sensitive = true }
status = "string"
amount = "decimal(2)"
amount_eur = { type = "decimal(2)", converted = true }
currency = "string"
latitude = "double"
longitude = "double"
items = "int64"
label = "bool"
labelled_at = "timestamp"

[stream.accounts]
id = "account"
time = "changed_at"
zone = "+05:30"
judge = "none"
append_only = true
columns = { account = { type = "string", sensitive = true }, branch = "int64", opened = "timestamp", changed_at = "timestamp", credit = "decimal(2)" }

[entity.account]
key = "account"
[entity.pair]
key = ["payer", "payee"]

[[group]]
name = "payer"
entity = "account"
stream = "transfers"
key = "payer"
windows = ["90s", "24h", "2w"]
where = "currency == 'EUR' && status in ['settled', 'booked']"
[group.features]
n = "count()"
total = { is = "sum(amount)", default = 0 }
lowest = "min(items)"
highest = "max( amount * 2.0 )"
spread = "stddev(amount)"
earliest = "first(status)"
latest = "last(at)"
partners = "distinct_count(payee)"
p95 = "quantile(amount, 0.95)"
usual = "most_frequent(payee)"
idle = "time_since_last()"
age = "time_since_first()"
frauds = "share(label)"
large = "share(amount > 100.0 && payee.contains('(,\"'))"
heat = "decayed_count('1h')"
money_heat = "decayed_sum(amount, \"1h\")"
speed = "travel_speed(latitude, longitude)"

[[group]]
name = "pair"
entity = "pair"
stream = "transfers"
windows = "30d"
features = { eur = "sum(amount_eur)", converted = "sum(currency == 'EUR' ? amount : amount * 1.1)" }

[[group]]
name = "profile"
kind = "table"
entity = "account"
stream = "accounts"
features = { age = "changed_at - opened", credit = "coalesce(credit, 0.0)", is_new = "credit == null" }

[[derived]]
features = { over_credit = "amount > profile.credit" }
[[derived]]
stream = "transfers"
features = { alarm = "over_credit && payer.n_90s > 3" }
"#;

#[test]
fn every_part_of_the_language_reads() {
    let source = RICH.replace("namespace = \"shop\"\n", "");
    let definitions = good(&source);
    let transfers = &definitions.streams[0];
    assert_eq!(transfers.zone.iana_name(), Some("Europe/Berlin"));
    assert_eq!(transfers.source_table.as_deref(), Some("public.transfers"));
    assert_eq!((transfers.label, transfers.label_time, transfers.currency), (Some(11), Some(12), Some(7)));
    let Some(Judge::When(condition)) = &transfers.judge else {
        panic!("it has a condition");
    };
    assert_eq!(condition.slots(), [4, 13 + 4]);
    assert_eq!(transfers.mask("card"), definitions.streams[1].mask("card"));
    assert!(definitions.streams[1].judge.is_none() && definitions.streams[1].append_only);
    let kinds: Vec<_> = (definitions.features.iter().step_by(3).take(17)).map(|feature| feature.kind).collect();
    use Type::{Double, Int, Text, Timestamp};
    assert_eq!(
        kinds,
        [
            Int, Double, Int, Double, Double, Text, Timestamp, Int, Double, Text, Double, Double, Double, Double,
            Double, Double, Double
        ]
    );
    assert_eq!(&*definitions.features[1].name, "payer.n_24h");
    assert_eq!(definitions.groups[0].key, [2]);
    assert_eq!(definitions.groups[1].key, [2, 3]);
    assert_eq!(definitions.groups[2].first_feature, 53);
    assert_eq!(definitions.features[55].kind, Type::Bool);
    let GroupKind::Windowed { features, .. } = &definitions.groups[0].kind else {
        panic!("it has windows");
    };
    assert_eq!(features[1].default, Some(0.0));
    assert!(matches!(features[1].aggregation, Aggregation::Sum(Operand::Column(5))));
    assert!(matches!(&features[3].aggregation, Aggregation::Max(Operand::Expression(_))));
    assert!(matches!(features[14].aggregation, Aggregation::DecayedCount(Span::HOUR)));
    assert_eq!(definitions.derived[1].expression.slots(), [13, 13 + 56]);
    assert_eq!(definitions.disorder, Span::from_micros(2_000_000));
    assert_eq!(definitions.future_max, Span::from_micros(600_000_000));
}

#[test]
fn a_secret_decides_the_hash_of_sensitive_columns() {
    let source = RICH.replace("namespace = \"shop\"\n", "");
    let mask = |secret: &[u8]| read(&source, Some(secret)).expect("it reads").streams[0].mask("4111");
    assert_eq!(mask(SECRET), mask(SECRET));
    assert_ne!(mask(SECRET), mask(b"another secret of good length"));
    assert_eq!(mask(SECRET).len(), 32);
}

/// The identity of the first group of `source`.
fn identity(source: &str) -> u64 {
    good(source).groups[0].hash
}

#[test]
fn identity_ignores_formatting_and_unrelated_parts() {
    let base = identity(HANDBOOK);
    let second_group = HANDBOOK.find("[[group]]\nname = \"terminal_risk\"").expect("it is there");
    let derived = HANDBOOK.find("[[derived]]").expect("it is there");
    let without_rest = format!("{}\n", &HANDBOOK[..second_group]);
    let swapped = format!(
        "{}{}{}",
        &HANDBOOK[..HANDBOOK.find("[[group]]").expect("it is there")],
        &HANDBOOK[second_group..derived],
        &HANDBOOK[HANDBOOK.find("[[group]]").expect("it is there")..second_group],
    );
    assert_eq!(identity(&without_rest), base);
    assert_eq!(good(&swapped).groups[1].hash, base);
    assert_eq!(identity(&HANDBOOK.replace("mean(amount)", "mean( amount )")), base);
    assert_eq!(
        identity(&HANDBOOK.replace("terminal_id = \"int64\", ", "terminal_id = \"int64\", note = \"string\", ")),
        base
    );
}

#[test]
fn identity_changes_with_what_determines_the_state() {
    let base = identity(HANDBOOK);
    let mut seen = std::collections::BTreeSet::from([base]);
    for (from, to) in [
        ("name = \"customer_spend\"", "name = \"customer_spent\""),
        (
            "windows = [\"1d\", \"7d\", \"30d\"]\nfeatures = { tx_count = \"count()\", amount_avg",
            "windows = [\"1d\", \"30d\"]\nfeatures = { tx_count = \"count()\", amount_avg",
        ),
        ("entity = \"customer\"\nwindows", "entity = \"customer\"\ndelay = \"1d\"\nwindows"),
        ("entity = \"customer\"\nwindows", "entity = \"customer\"\nwhere = \"amount > 1.0\"\nwindows"),
        ("entity = \"customer\"\nwindows", "entity = \"customer\"\nkey = \"terminal_id\"\nwindows"),
        ("mean(amount)", "sum(amount)"),
        ("mean(amount)", "mean(amount + 0.0)"),
        ("amount = \"decimal(2)\"", "amount = \"decimal(3)\""),
        ("customer_id = \"int64\"", "customer_id = \"uuid\""),
        ("amount_avg = \"mean(amount)\"", "amount_avg = { is = \"mean(amount)\", default = 0 }"),
        ("label = \"is_fraud\" ", "zone = \"+01:00\"\nlabel = \"is_fraud\" "),
    ] {
        assert!(HANDBOOK.contains(from), "{from}");
        let source = HANDBOOK.replacen(from, to, 1).replace("customer_spend.amount_avg_30d", "1.0");
        assert!(seen.insert(identity(&source)), "{to} does not change the identity");
    }
}

/// The identity of the last derived feature of `source`.
fn derived_identity(source: &str) -> u64 {
    good(source).derived.last().expect("one is derived").hash
}

#[test]
fn identity_of_a_derived_feature_follows_what_it_is_computed_from() {
    let base = derived_identity(HANDBOOK);
    let unrelated = [
        ("amount / customer_spend", "amount  /  customer_spend"),
        ("hour(tx_datetime) <= 6", "hour(tx_datetime) <= 5"),
        ("delay = \"7d\"", "delay = \"8d\""),
        ("terminal_id = \"int64\", ", "terminal_id = \"int64\", note = \"string\", "),
    ];
    for (from, to) in unrelated {
        assert!(HANDBOOK.contains(from), "{from}");
        assert_eq!(derived_identity(&HANDBOOK.replacen(from, to, 1)), base, "{to} changes the identity");
    }
    let mut seen = std::collections::BTreeSet::from([base]);
    for (from, to) in [
        ("amount / customer_spend", "amount - customer_spend"),
        ("amount_vs_avg", "amount_over_avg"),
        ("amount_avg_30d", "amount_avg_7d"),
        ("mean(amount)", "mean(amount + 0.0)"),
        ("amount = \"decimal(2)\"", "amount = \"decimal(3)\""),
        ("label = \"is_fraud\" ", "zone = \"+01:00\"\nlabel = \"is_fraud\" "),
    ] {
        assert!(HANDBOOK.contains(from), "{from}");
        assert!(seen.insert(derived_identity(&HANDBOOK.replacen(from, to, 1))), "{to} does not change the identity");
    }
    // By way of another derived feature.
    let chained = format!("{HANDBOOK}\n[[derived]]\nfeatures = {{ twice = \"amount_vs_avg * 2.0\" }}\n");
    let other = chained.replace("mean(amount)", "sum(amount)");
    assert_ne!(derived_identity(&chained), derived_identity(&other));
}
