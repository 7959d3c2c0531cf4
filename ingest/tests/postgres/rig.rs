//! A database per test on one shared server, and a puller that plays the engine.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use interdict_features::change::{Change, Op};
use interdict_features::definition::{Column, Stream};
use interdict_features::time::Span;
use interdict_features::value::{ColumnType, NULL, UNCHANGED, double_of};
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::source::Delivery;
use interdict_ingest::source::config::password::PasswordSource;
use interdict_ingest::source::config::postgres::*;
use interdict_ingest::source::error::SourceError;
use interdict_ingest::source::postgres::metrics::PostgresMetrics;
use interdict_ingest::source::postgres::{Opening, PostgresSource};
use interdict_ingest::source::stop::Stop;
use prometheus_client::encoding::text::encode;
use prometheus_client::registry::Registry;

use crate::postgres_server::PostgresServer;

/// How long a test waits for something that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The server of all tests that do not stop it.
pub(crate) fn shared() -> &'static PostgresServer {
    static SERVER: OnceLock<PostgresServer> = OnceLock::new();
    SERVER.get_or_init(|| PostgresServer::start(&[]))
}

/// A database with the tables of the tests.
pub(crate) struct World {
    pub(crate) server: &'static PostgresServer,
    pub(crate) name: String,
}

pub(crate) const TABLES: &str = "
CREATE TABLE transactions (id bigint PRIMARY KEY, at timestamptz, customer text, amount numeric(18,2), is_fraud boolean, score float8);
CREATE TABLE chargebacks (id bigint PRIMARY KEY, is_fraud boolean);
";

impl World {
    pub(crate) fn new(name: &str) -> Self {
        Self::with(name, TABLES)
    }

    pub(crate) fn with(name: &str, tables: &str) -> Self {
        let server = shared();
        server.database(name);
        let world = Self { server, name: name.to_owned() };
        world.sql(tables);
        world
    }

    pub(crate) fn sql(&self, statements: &str) -> Vec<String> {
        self.server.sql(&self.name, statements)
    }

    pub(crate) fn config(&self) -> PostgresConfig {
        config_at("localhost", self.server.port, &self.name)
    }

    pub(crate) fn slot(&self) -> u64 {
        self.sql(&format!(
            "SELECT confirmed_flush_lsn - '0/0' FROM pg_replication_slots WHERE slot_name = '{}'",
            self.name
        ))[0]
            .parse()
            .unwrap()
    }

    pub(crate) fn puller(&self) -> Puller {
        Puller::open(&self.config(), &streams())
    }
}

pub(crate) fn config_at(host: &str, port: u16, database: &str) -> PostgresConfig {
    let address = Address { host: host.to_owned(), port, user: "postgres".to_owned(), database: database.to_owned() };
    let table = |stream: &str| TableOfStream {
        stream: stream.to_owned(),
        schema: "public".to_owned(),
        table: stream.to_owned(),
        before: ColumnsBefore::default(),
    };
    PostgresConfig {
        address,
        password: PasswordSource::None,
        tls: TlsConfig { mode: TlsMode::Disable, ca: None },
        tables: vec![table("transactions"), table("chargebacks")],
        publication: "interdict".to_owned(),
        slot: database.to_owned(),
        creation: Creation::Allowed,
        on_lost_slot: OnLostSlot::Stop,
        slot_wait: Some(Duration::from_secs(20)),
        heartbeat: Duration::from_millis(100),
        heartbeat_message: HeartbeatMessage::Silent,
        republish: None,
    }
}

pub(crate) fn stream(index: usize, name: &str, columns: &[(&str, &str)], time: Option<usize>) -> Stream {
    let column = |(name, kind): &(&str, &str)| Column {
        name: (*name).to_owned(),
        kind: ColumnType::parse(kind).unwrap(),
        sensitive: false,
    };
    let mut stream = Stream::of_columns(name, columns.iter().map(column).collect(), 0, time);
    stream.index = index;
    stream
}

pub(crate) fn streams() -> Vec<Arc<Stream>> {
    let columns = [
        ("id", "int64"),
        ("at", "timestamp"),
        ("customer", "string"),
        ("amount", "decimal(2)"),
        ("is_fraud", "bool"),
        ("score", "double"),
    ];
    vec![
        Arc::new(stream(0, "transactions", &columns, Some(1))),
        Arc::new(stream(1, "chargebacks", &[("id", "int64"), ("is_fraud", "bool")], None)),
    ]
}

/// One change as the engine would see it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Seen {
    pub(crate) stream: String,
    pub(crate) change: Change,
    pub(crate) cells: Vec<String>,
}

impl Seen {
    pub(crate) fn shown(&self) -> String {
        let op = match self.change.op {
            Op::Insert => "+",
            Op::Snapshot => "=",
            Op::Update => "~",
            Op::Delete => "-",
            Op::Truncate => "x",
            Op::Request => "?",
            Op::Lost => "lost",
            Op::Recovered => "!",
            Op::Settled => "settled",
        };
        format!("{op} {} {}", self.stream, self.cells.join("|"))
    }
}

/// Pulls from a source as the engine's reader does.
#[derive(Debug)]
pub(crate) struct Puller {
    pub(crate) source: PostgresSource,
    pub(crate) stop: Stop,
    pub(crate) seen: Vec<Seen>,
    pub(crate) dead: Vec<DeadLetter>,
    pub(crate) position: u64,
    pub(crate) incarnation: String,
    pub(crate) batch: usize,
    registry: Registry,
}

impl Puller {
    pub(crate) fn open(config: &PostgresConfig, streams: &[Arc<Stream>]) -> Self {
        Self::resume(config, streams, 0).unwrap()
    }

    pub(crate) fn resume(config: &PostgresConfig, streams: &[Arc<Stream>], position: u64) -> Result<Self, SourceError> {
        let stop = Stop::default();
        let environment = |name: &str| (name == "SECRET").then(|| "pass word'\"".to_owned());
        let mut registry = Registry::default();
        let metrics = PostgresMetrics::register(&mut registry);
        let retention = |_: &Stream| Span::DAY;
        let opening = Opening { name: "payments", config, streams, retention: &retention, environment: &environment };
        let mut source = PostgresSource::open(&opening, &metrics, stop.clone())?;
        let incarnation = source.incarnation()?.unwrap();
        if position > 0 {
            source.resume(position, position)?;
        }
        Ok(Self { source, stop, seen: Vec::new(), dead: Vec::new(), position, incarnation, batch: 1_000, registry })
    }

    /// What is exported of the source under a name.
    pub(crate) fn exported(&self, name: &str) -> f64 {
        let mut text = String::new();
        encode(&mut text, &self.registry).unwrap();
        let start = format!("interdict_ingest_postgres_{name}{{source=\"payments\"}} ");
        let value = text.lines().find_map(|line| line.strip_prefix(start.as_str()));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Takes one delivery.
    pub(crate) fn pull(&mut self) -> Result<Delivery, SourceError> {
        let delivery = self.source.next(self.batch)?.expect("nobody stopped it");
        let rows: usize = delivery.batches.iter().map(|batch| batch.len()).sum();
        assert_eq!((rows + delivery.dead.len()) as u64 + delivery.skipped, delivery.records);
        assert!(delivery.position >= self.position, "a position never shrinks");
        self.position = delivery.position;
        for batch in &delivery.batches {
            for (change, row) in batch.iter() {
                let cell = |column: usize| match row.cells[column] {
                    NULL => "-".to_owned(),
                    UNCHANGED => "~".to_owned(),
                    _ if row.stream.columns[column].kind.is_text() => row.text(column).unwrap().to_owned(),
                    cell if row.stream.columns[column].kind == ColumnType::Double => double_of(cell).to_string(),
                    cell => cell.to_string(),
                };
                let cells = (0..row.cells.len()).map(cell).collect();
                self.seen.push(Seen { stream: row.stream.name.clone(), change: *change, cells });
            }
        }
        self.dead.extend(delivery.dead.iter().cloned());
        Ok(delivery)
    }

    /// Pulls until `done` holds.
    #[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
    pub(crate) fn until(&mut self, what: &str, mut done: impl FnMut(&Self) -> bool) {
        let deadline = std::time::Instant::now() + PATIENCE;
        while !done(self) {
            assert!(std::time::Instant::now() < deadline, "{what} does not come; seen {:#?}", self.shown());
            self.pull().unwrap_or_else(|error| panic!("{what}: {error}"));
        }
    }

    /// Pulls until `count` changes and dead letters were seen.
    pub(crate) fn rows(&mut self, count: usize) -> Vec<String> {
        self.until(&format!("{count} rows"), |puller| {
            puller.seen.len() + puller.dead.len() >= count && puller.position > 0
        });
        self.shown()
    }

    pub(crate) fn shown(&self) -> Vec<String> {
        self.seen.iter().map(Seen::shown).collect()
    }

    /// Pulls until everything that is committed by now was delivered.
    pub(crate) fn drain(&mut self, server: &PostgresServer) {
        let end: u64 = server.sql("postgres", "SELECT pg_current_wal_lsn() - '0/0'")[0].parse().unwrap();
        // The server reads its log only as far as it is flushed; something must come after it.
        server.sql("postgres", "SELECT pg_logical_emit_message(false, 'test', 'flush'); CHECKPOINT");
        self.until("everything", |puller| puller.position >= end);
    }

    pub(crate) fn dead_reasons(&self) -> Vec<&'static str> {
        self.dead.iter().map(|letter| letter.reason.code()).collect()
    }
}

/// Applies changes as the engine's row records do: the newest version of each row counts.
pub(crate) fn newest(seen: &[Seen]) -> BTreeMap<String, Vec<String>> {
    let mut rows: BTreeMap<String, (interdict_features::change::Version, Option<Vec<String>>)> = BTreeMap::new();
    for seen in seen {
        let entry = rows.entry(seen.cells[0].clone()).or_default();
        if seen.change.version < entry.0 {
            continue;
        }
        let mut cells = seen.cells.clone();
        if let Some(old) = &entry.1 {
            for (cell, old) in cells.iter_mut().zip(old) {
                if cell == "~" {
                    cell.clone_from(old);
                }
            }
        }
        *entry = (seen.change.version, (seen.change.op != Op::Delete).then_some(cells));
    }
    rows.into_iter().filter_map(|(id, (_, row))| row.map(|row| (id, row))).collect()
}

/// Why opening fails.
pub(crate) fn refusal(config: &PostgresConfig, streams: &[Arc<Stream>]) -> String {
    match Puller::resume(config, streams, 0) {
        Err(error) => error.to_string(),
        Ok(mut puller) => loop {
            if let Err(error) = puller.pull() {
                break error.to_string();
            }
        },
    }
}
