//! A PostgreSQL with payments, chargebacks and accounts, of a test's own, and what the program is told of it.

use std::fmt::Write as _;

use interdict_features::change::Op;

use crate::parity::history::What;
use crate::postgres_server::PostgresServer;

const TABLES: &str = "
CREATE TABLE accounts (id bigint PRIMARY KEY, status text DEFAULT 'active', blocks int DEFAULT 0);
INSERT INTO accounts SELECT generate_series(0, 2000);
CREATE TABLE transactions (transaction_id bigint PRIMARY KEY, tx_datetime timestamptz NOT NULL, customer_id bigint NOT NULL,
  terminal_id bigint NOT NULL, amount numeric NOT NULL, is_fraud boolean);
CREATE TABLE chargebacks (transaction_id bigint PRIMARY KEY, is_fraud boolean, reported_at timestamptz NOT NULL);
CREATE PUBLICATION interdict FOR TABLE transactions, chargebacks WITH (publish_via_partition_root = true);
CREATE ROLE interdict LOGIN REPLICATION;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO interdict;
GRANT UPDATE ON accounts TO interdict;
GRANT CREATE ON SCHEMA public TO interdict;
";

/// Labels of a stream of their own that know their payment by its id alone.
pub(crate) const CHARGEBACKS: &str = r#"
[stream.chargebacks]
labels = "transactions"
id = "transaction_id"
value = "is_fraud"
time = "reported_at"
columns = { transaction_id = "int64", is_fraud = "bool", reported_at = "timestamp" }
"#;

/// A server with a database `bank`, its tables empty but for accounts 0 to 2000; stopped when dropped.
pub(crate) struct Bank {
    server: PostgresServer,
}

impl Bank {
    pub(crate) fn open() -> Self {
        let server = PostgresServer::start(&[]);
        server.database("bank");
        server.sql("bank", TABLES);
        Self { server }
    }

    pub(crate) fn server(&self) -> &PostgresServer {
        &self.server
    }

    pub(crate) fn start(&self) {
        self.server.control(&["start", "-w", "-t", "60"]);
    }

    /// Ends the server as a crash would.
    pub(crate) fn crash(&self) {
        self.server.control(&["stop", "-w", "-t", "60", "-m", "immediate"]);
    }

    /// What statements answer: rows by line, columns divided by `|`.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.server.sql("bank", sql).join("\n")
    }

    /// Asks until the answer is `expected`.
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        let mut last = String::new();
        let is_there = (0..5_000).any(|_| {
            last = self.ask(sql);
            last == expected
        });
        assert!(is_there, "{sql}: '{last}' and never '{expected}'");
    }

    fn url(&self) -> String {
        format!("postgres://interdict@localhost:{}/bank", self.server.port)
    }

    /// The action that blocks in it.
    pub(crate) fn action(&self) -> String {
        format!(
            "[[action]]\nname = \"block_account\"\ntype = \"postgres\"\non = \"block\"\nentity = \"customer\"\nurl = \"{}\"\n\
             block = \"UPDATE accounts SET status = 'blocked', blocks = blocks + 1 WHERE id = $1\"\n\
             unblock = \"UPDATE accounts SET status = 'active' WHERE id = $1\"\n\
             retry_first = \"10ms\"\nretry_max = \"50ms\"\n",
            self.url()
        )
    }

    /// The source `bank`, which reads payments and chargebacks through `slot`.
    pub(crate) fn source(&self, slot: &str) -> String {
        format!(
            "[[source]]\nname = \"bank\"\ntype = \"postgres\"\nurl = \"{}\"\nslot = \"{slot}\"\nheartbeat = \"200ms\"\n\
             tables = {{ transactions = \"public.transactions\", chargebacks = \"public.chargebacks\" }}\n",
            self.url()
        )
    }

    /// The position up to which the server was told that everything is stored.
    pub(crate) fn confirmed(&self) -> u64 {
        let confirmed =
            "SELECT (confirmed_flush_lsn - '0/0')::bigint FROM pg_replication_slots WHERE slot_name = 'interdict'";
        self.ask(confirmed).parse().unwrap()
    }

    /// Seven payments of `customer`, with the sixth of which he is condemned.
    pub(crate) fn burst(&self, customer: i64) {
        (1..=7).for_each(|n| self.pay(customer * 100 + n, customer, "5.00"));
    }

    /// A payment of `customer` at the time of the newest one.
    pub(crate) fn pay(&self, id: i64, customer: i64, amount: &str) {
        let newest = "SELECT coalesce(max(tx_datetime), '2025-06-15 15:06:40+00') FROM transactions";
        let terminal = 5_000 + customer;
        self.ask(&format!("INSERT INTO transactions VALUES ({id}, ({newest}), {customer}, {terminal}, {amount})"));
    }
}

/// The statement that makes a change. A second report on a payment replaces the first one.
pub(crate) fn statement(what: What, out: &mut String) {
    let label = |label: Option<bool>| label.map_or("NULL".to_owned(), |label| label.to_string());
    let instant = |micros: i64| format!("timestamptz 'epoch' + interval '1 microsecond' * {micros}");
    let written = match what {
        What::Row(Op::Delete, payment) => {
            writeln!(out, "DELETE FROM transactions WHERE transaction_id = {};", payment.id)
        }
        What::Row(op, payment) => {
            let (time, amount) = (instant(payment.time), format!("{}.{:02}", payment.cents / 100, payment.cents % 100));
            let (id, customer, terminal) = (payment.id, payment.customer, payment.terminal);
            let label = label(payment.label);
            match op {
                Op::Update => writeln!(
                    out,
                    "UPDATE transactions SET tx_datetime = {time}, customer_id = {customer}, terminal_id = {terminal}, \
                     amount = {amount}, is_fraud = {label} WHERE transaction_id = {id};"
                ),
                _ => writeln!(
                    out,
                    "INSERT INTO transactions VALUES ({id}, {time}, {customer}, {terminal}, {amount}, {label});"
                ),
            }
        }
        What::Report { id, value, reported } => writeln!(
            out,
            "INSERT INTO chargebacks VALUES ({id}, {}, {}) ON CONFLICT (transaction_id) DO UPDATE SET \
             is_fraud = excluded.is_fraud, reported_at = excluded.reported_at;",
            label(value),
            instant(reported)
        ),
    };
    written.expect("text takes everything");
}
