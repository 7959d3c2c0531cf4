//! Definitions that tests of several modules read.

/// The payments of the Fraud Detection Handbook, as DESIGN section 4 has them.
pub(crate) const HANDBOOK: &str = r#"
[stream.transactions]
id = "transaction_id"
time = "tx_datetime"
partition_by = "customer_id"
label = "is_fraud"                   # a column of the row itself: null until known, set by a later UPDATE
columns = { transaction_id = "int64", tx_datetime = "timestamp", customer_id = "int64", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }

[stream.chargebacks]                 # and/or labels on a stream of their own that carries only the id
labels = "transactions"
id = "transaction_id"
value = "is_fraud"
time = "reported_at"

[entity.customer]
key = "customer_id"
[entity.terminal]
key = "terminal_id"

[[group]]
name = "customer_spend"
entity = "customer"
windows = ["1d", "7d", "30d"]
features = { tx_count = "count()", amount_avg = "mean(amount)" }

[[group]]
name = "terminal_risk"
entity = "terminal"
delay = "7d"
windows = ["1d", "7d", "30d"]
features = { tx_count = "count()", fraud_ratio = "share(label)" }

[[derived]]                          # from the event and other features, at decision time
features = { is_weekend = "weekday(tx_datetime) >= 5", is_night = "hour(tx_datetime) <= 6", amount_vs_avg = "amount / customer_spend.amount_avg_30d" }
"#;
