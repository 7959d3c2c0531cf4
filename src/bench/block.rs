//! From the commit of a payment to the commit of its block, in a real PostgreSQL, by the database's own clock.
//! Budget (DESIGN section 8), 2,000 payments/s: p50 at most 5 ms, p99 at most 25 ms.
//!
//! Open loop: payments are committed when they are due, by a process of its own, whatever the system does. History is loaded, read as a
//! snapshot and put to rest in the database before anything is measured, so no backlog is.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use interdict_features::config::Problems;
use serde_json::{Value, json};
use tokio_postgres::{Client, NoTls, Row};

use crate::run::system::{Start, System};
use crate::setup::{Setup, StoreSettings};

/// Days of history before the measured payments.
const HISTORY_DAYS: u32 = 35;
/// How long the snapshot and what is left at the end may take.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often something awaited is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Upper bounds of the histogram, milliseconds.
const BOUNDS: [f64; 14] = [1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 7.5, 10.0, 15.0, 25.0, 50.0, 100.0, 1_000.0];
/// Milliseconds from the payment's commit to its block's, in order; the payment's commit, seconds of the epoch; and its id.
const LATENCIES: &str = "
    SELECT (extract(epoch FROM pg_xact_commit_timestamp(a.xmin) - pg_xact_commit_timestamp(t.xmin)) * 1000)::float8,
        extract(epoch FROM pg_xact_commit_timestamp(t.xmin))::float8, t.transaction_id::text
    FROM accounts a JOIN transactions t ON t.transaction_id = a.blocked_for::bigint
    WHERE a.status = 'blocked' ORDER BY 1";

/// Measure commit to block through capture, features, model and decision.
#[derive(clap::Args, Debug)]
pub(super) struct Block {
    /// An empty PostgreSQL database with wal_level = logical and track_commit_timestamp = on [default: INTERDICT_POSTGRES]
    #[arg(long, value_name = "URL")]
    database: Option<String>,
    /// The configuration; its database is replaced by that of --database. A Redis in it must be empty and is emptied afterwards
    #[arg(long, short, value_name = "FILE", default_value = "examples/postgres/interdict.toml")]
    config: PathBuf,
    /// Payments per second
    #[arg(long, value_name = "N", default_value_t = 2_000.0)]
    rate: f64,
    /// How long payments are made
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    seconds: u32,
    /// How many customers pay
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    customers: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Block {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        #[expect(clippy::disallowed_methods, reason = "the database is configuration")]
        let variable = std::env::var("INTERDICT_POSTGRES").ok();
        let url = self.database.clone().or(variable);
        let url =
            url.context("no database: add --database URL, or run this by `make bench-block`, which starts one")?;
        let folder = tempfile::tempdir()?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let figures = runtime.block_on(self.measure(&url, folder.path()))?;
        super::print("block", figures, self.json);
        Ok(())
    }

    async fn measure(&self, url: &str, folder: &Path) -> anyhow::Result<Value> {
        let setup = self.setup(url, folder)?;
        #[cfg(feature = "redis")]
        let redis = redis_of(&setup)?;
        let database = connect(url).await?;
        self.simulate(url, &["--create", "--days", &HISTORY_DAYS.to_string()])?.wait_done().await?;
        let history = count(&database, "SELECT count(*) FROM transactions").await?;
        let mut system = System::start(&setup, Start { sources: Vec::new(), ends_with_sources: false }).await?;
        let measured = self.traffic(&mut system, &database, url, history).await;
        let stopped = system.stop().await;
        #[cfg(feature = "redis")]
        if let Some(redis) = &redis {
            super::rig::ask(redis, "FLUSHDB")?;
        }
        let (mut figures, blocks) = measured?;
        stopped?;
        if let Some(monitor) = &setup.monitor {
            figures["stages"] = stages(&monitor.log_dir, &blocks)?;
        }
        Ok(figures)
    }

    /// The configuration on this database, with its data in `folder`.
    fn setup(&self, url: &str, folder: &Path) -> anyhow::Result<Setup> {
        let text = std::fs::read_to_string(&self.config)
            .with_context(|| format!("{} cannot be read", self.config.display()))?;
        let text: Vec<String> = text.lines().map(|line| on_database(line, url)).collect();
        ensure!(
            text.iter().any(|line| *line == on_database("url = \"postgres", url)),
            "{}: no line url = \"postgres://...\" to put the database into",
            self.config.display()
        );
        let text = text.join("\n").replace("127.0.0.1:8080", "127.0.0.1:0");
        let name = self.config.display().to_string();
        let base = self.config.parent().unwrap_or(Path::new("")).canonicalize()?;
        let mut setup = Setup::parse(&name, &text, base).map_err(|problems: Problems| anyhow::anyhow!("{problems}"))?;
        if let StoreSettings::Embedded(settings) = &mut setup.store {
            settings.path = folder.join("store");
        }
        setup.engine.dead_letters = folder.join("dead-letters.jsonl");
        if let Some(monitor) = &mut setup.monitor {
            monitor.log_dir = folder.join("decisions");
        }
        Ok(setup)
    }

    /// The figures, and the rows of [`LATENCIES`].
    async fn traffic(
        &self,
        system: &mut System,
        database: &Client,
        url: &str,
        history: i64,
    ) -> anyhow::Result<(Value, Vec<Row>)> {
        let events = |system: &System| i64::try_from(system.stats.events()).unwrap_or(i64::MAX);
        until(system, "the snapshot", |system| events(system) >= history).await?;
        rest(database).await;
        let last = (HISTORY_DAYS + 4_000).to_string();
        let (first, rate) = (HISTORY_DAYS.to_string(), self.rate.to_string());
        let mut load = self.simulate(url, &["--from-day", &first, "--days", &last, "--rate", &rate])?;
        // The load makes the days before its first payment anew, which takes a while.
        let decided = |system: &System| system.stats.outcomes().iter().sum::<u64>();
        until(system, "the first decision", |system| decided(system) > 0 || load.has_ended()).await?;
        tokio::time::sleep(Duration::from_secs(u64::from(self.seconds))).await;
        load.stop()?;
        let paid = count(database, "SELECT count(*) FROM transactions").await? - history;
        until(system, "the last decisions", |system| decided(system) >= paid.unsigned_abs()).await?;
        let [_, _, blocks] = system.stats.outcomes();
        // Blocks that were decided are still on their way to the database.
        tokio::time::sleep(Duration::from_secs(1)).await;
        let rows =
            database.query(LATENCIES, &[]).await.context("reading commit times: is track_commit_timestamp on?")?;
        let times: Vec<f64> = rows.iter().map(|row| row.get(0)).collect();
        ensure!(!times.is_empty(), "nobody was blocked: raise --seconds");
        let figures = json!({
            "payments": paid,
            "payments_per_second": super::per_second(usize::try_from(paid).unwrap_or(0), Duration::from_secs(u64::from(self.seconds))),
            "customers": self.customers,
            "history": history,
            "block_decisions": blocks,
            "accounts_blocked": times.len(),
            "p50_ms": at(&times, 0.5),
            "p90_ms": at(&times, 0.9),
            "p99_ms": at(&times, 0.99),
            "max_ms": times.last(),
            "histogram": histogram(&times),
            "by_second": by_second(&rows),
        });
        Ok((figures, rows))
    }

    fn simulate(&self, url: &str, arguments: &[&str]) -> anyhow::Result<Load> {
        let program = std::env::current_exe()?;
        let mut command = Command::new(program);
        command.args(["simulate", "--to", url, "--seed", "7", "--label-as", "stream", "--connections", "16"]);
        command.args(["--customers", &self.customers.to_string(), "--terminals", &(2 * self.customers).to_string()]);
        let child = command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Ok(Load(child.context("the load generator cannot be started")?))
    }
}

/// The load generator's process; ends with this.
struct Load(Child);

impl Load {
    async fn wait_done(mut self) -> anyhow::Result<()> {
        loop {
            match self.0.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("loading history ended with {status}; is the database empty and writable?"),
                None => tokio::time::sleep(LOOK).await,
            }
        }
    }

    fn has_ended(&mut self) -> bool {
        !matches!(self.0.try_wait(), Ok(None))
    }

    fn stop(&mut self) -> anyhow::Result<()> {
        if let Some(status) = self.0.try_wait()? {
            bail!("the load generator ended by itself with {status}");
        }
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ended_already = self.0.kill();
        let _reaped = self.0.wait();
    }
}

/// The Redis that holds the states, if one does; it is empty.
#[cfg(feature = "redis")]
fn redis_of(setup: &Setup) -> anyhow::Result<Option<String>> {
    let StoreSettings::Redis { config, .. } = &setup.store else { return Ok(None) };
    let [server] = &config.servers[..] else {
        bail!("the store names several servers; this bench fills and empties one Redis")
    };
    ensure!(server.redis_settings().db() == 0, "the store is not in database 0 of its Redis");
    let url = format!("redis://{}", server.addr());
    super::rig::ensure_empty(&url)?;
    Ok(Some(url))
}

fn on_database(line: &str, url: &str) -> String {
    if line.starts_with("url = \"postgres") { format!("url = {url:?}") } else { line.to_owned() }
}

async fn connect(url: &str) -> anyhow::Result<Client> {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.context("--database cannot be reached")?;
    tokio::spawn(connection);
    Ok(client)
}

async fn count(database: &Client, sql: &str) -> anyhow::Result<i64> {
    Ok(database.query_one(sql, &[]).await?.get(0))
}

/// Lets the database finish what loading 35 days of history at once left it to do: no payment waits for that in its life.
async fn rest(database: &Client) {
    for sql in ["VACUUM (ANALYZE) transactions", "VACUUM (ANALYZE) accounts", "CHECKPOINT"] {
        if let Err(error) = database.batch_execute(sql).await {
            tracing::warn!(%error, sql, "the database was not brought to rest; the first seconds may be slow");
        }
    }
}

/// Waits until `is_so`, within [`PATIENCE`].
async fn until(system: &mut System, what: &str, mut is_so: impl FnMut(&System) -> bool) -> anyhow::Result<()> {
    let end = crate::run::clock::instant() + PATIENCE;
    while !is_so(system) {
        ensure!(crate::run::clock::instant() < end, "{what}: not within {} s", PATIENCE.as_secs());
        tokio::select! {
            ended = system.ended() => return ended.and_then(|()| bail!("the system ended by itself")),
            () = tokio::time::sleep(LOOK) => {}
        }
    }
    Ok(())
}

/// The value that `share` of the ordered `times` do not exceed.
fn at(times: &[f64], share: f64) -> f64 {
    times[super::place(share, times.len())]
}

/// Blocks of the payments of every second since the first of them, and how long they took: whether delays last or pass.
fn by_second(rows: &[Row]) -> Value {
    let blocks: Vec<(f64, f64)> = rows.iter().map(|row| (row.get(1), row.get(0))).collect();
    let began = blocks.iter().map(|(at, _)| *at).fold(f64::INFINITY, f64::min);
    let mut seconds: BTreeMap<u64, Vec<f64>> = BTreeMap::new();
    for (at, took) in blocks {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of one run")]
        seconds.entry((at - began) as u64).or_default().push(took);
    }
    let figures = seconds.iter().map(
        |(second, times)| json!({ "second": second, "blocks": times.len(), "p50_ms": at(times, 0.5), "max_ms": times.last() }),
    );
    Value::Array(figures.collect())
}

/// Where the time goes: from the commit of a payment until its judgement begins, of all that the log in `folder` holds and of those of
/// `blocks`, and from there to the commit of its block. The moment between the two is told by this machine's clock, commits by the
/// database's: on another machine their difference is in both, once with each sign.
fn stages(folder: &Path, blocks: &[Row]) -> anyhow::Result<Value> {
    let mut until_judged = BTreeMap::new();
    for entry in interdict_monitor::log::read(folder)? {
        let record = entry?.record;
        if let Some(committed) = record.arrival_time {
            until_judged.insert(record.event_id, millis(record.decide_time.micros() - committed.micros()));
        }
    }
    let of_blocks = blocks.iter().filter_map(|row| {
        let (whole, before) = (row.get::<_, f64>(0), until_judged.get(row.get::<_, &str>(2))?);
        Some((*before, whole - before))
    });
    let (before, from_judged) = of_blocks.unzip();
    Ok(json!({
        "commit_to_judgement": spread(until_judged.into_values().collect()),
        "of_blocks": { "commit_to_judgement": spread(before), "judgement_to_block": spread(from_judged) },
    }))
}

#[expect(clippy::cast_precision_loss, reason = "durations of one run")]
fn millis(micros: i64) -> f64 {
    micros as f64 / 1_000.0
}

fn spread(mut times: Vec<f64>) -> Value {
    times.sort_unstable_by(f64::total_cmp);
    if times.is_empty() {
        return Value::Null;
    }
    let at = |share| at(&times, share);
    json!({ "count": times.len(), "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "max_ms": times.last() })
}

/// How many lie at or below each bound and above the one before.
fn histogram(times: &[f64]) -> Value {
    let mut from = 0;
    let mut steps = Vec::new();
    for bound in BOUNDS {
        let to = times.partition_point(|time| *time <= bound);
        steps.push(json!({ "to_ms": bound, "blocks": to - from }));
        from = to;
    }
    steps.push(json!({ "to_ms": "more", "blocks": times.len() - from }));
    Value::Array(steps)
}
