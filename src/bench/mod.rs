//! `interdict bench`: the budgets, measured on this machine.
//!
//! Invariant: simulating, decoding and building what is measured stand outside the measured time; every figure is the median of
//! several rounds, each from nothing.

mod backfill;
#[cfg(feature = "postgres")]
mod block;
mod curve;
mod decide;
mod drift;
mod engine;
#[cfg(feature = "redis")]
mod ingest_redis;
#[cfg(feature = "redis")]
mod rig;
mod score;
#[cfg(feature = "redis")]
mod serve;
mod traffic;

use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};

/// Measure a part of the system.
#[derive(clap::Args, Debug)]
pub(crate) struct Bench {
    #[command(subcommand)]
    what: What,
}

#[derive(clap::Subcommand, Debug)]
enum What {
    /// Events per second through exact windows, every event applied and evaluated
    Engine(engine::Engine),
    /// Rows per second from history Parquet to feature Parquet
    Backfill(backfill::Backfill),
    /// Time from the commit of a payment to the commit of its block, in a real PostgreSQL
    #[cfg(feature = "postgres")]
    Block(block::Block),
    /// Time from a vector to its decision, in process
    Decide(decide::Decide),
    /// Time and memory of the drift tests of one batch
    Drift(drift::Drift),
    /// Events per second from a source's bytes to states in a Redis
    #[cfg(feature = "redis")]
    IngestRedis(ingest_redis::IngestRedis),
    /// Rows per second of batch scoring, features included
    Score(score::Score),
    /// Time of decisions over HTTP, features in a Redis
    #[cfg(feature = "redis")]
    Serve(serve::Serve),
}

/// What every bench takes.
#[derive(clap::Args, Clone, Copy, Debug)]
pub(crate) struct Common {
    /// Rounds, of which the median counts
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: u32,
    /// Threads [default: all cores]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    threads: Option<u16>,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl Bench {
    /// Measures and prints.
    ///
    /// # Errors
    /// What kept it from measuring.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        match &self.what {
            What::Engine(bench) => bench.run(),
            What::Backfill(bench) => bench.run(),
            #[cfg(feature = "postgres")]
            What::Block(bench) => bench.run(),
            What::Decide(bench) => bench.run(),
            What::Drift(bench) => bench.run(),
            #[cfg(feature = "redis")]
            What::IngestRedis(bench) => bench.run(),
            What::Score(bench) => bench.run(),
            #[cfg(feature = "redis")]
            What::Serve(bench) => bench.run(),
        }
    }
}

impl Common {
    fn threads(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.map_or(cores, usize::from)
    }

    /// Runs `work` on a pool of the wanted width.
    fn on_threads<T: Send>(&self, work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(self.threads()).build().context("no threads")?;
        pool.install(work)
    }

    /// Prints a result: name, what was measured, and the machine.
    fn print(&self, bench: &str, figures: Value) -> anyhow::Result<()> {
        let mut all = json!({ "threads": self.threads(), "rounds": self.rounds });
        if let (Some(all), Value::Object(figures)) = (all.as_object_mut(), figures) {
            all.extend(figures);
        }
        print(bench, all, self.json);
        Ok(())
    }
}

/// Prints a result with the machine's name.
fn print(bench: &str, figures: Value, as_json: bool) {
    let mut report = json!({ "bench": bench, "machine": machine() });
    if let (Some(report), Value::Object(figures)) = (report.as_object_mut(), figures) {
        report.extend(figures);
    }
    if as_json {
        say!("{report}");
    } else {
        print_lines("", &report);
    }
}

/// The rank of a share among `count` ordered values.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank")]
fn place(share: f64, count: usize) -> usize {
    ((count as f64 * share) as usize).min(count - 1)
}

fn print_lines(indent: &str, value: &Value) {
    let Value::Object(fields) = value else { return };
    for (name, value) in fields {
        match value {
            Value::Object(_) => {
                say!("{indent}{name}");
                print_lines(&format!("{indent}  "), value);
            }
            Value::Array(items) if items.iter().any(Value::is_object) => {
                say!("{indent}{name}");
                items.iter().for_each(|item| say!("{indent}  {}", one_line(item)));
            }
            Value::Number(number) => say!("{indent}{name:<28} {}", shown(number)),
            Value::String(text) => say!("{indent}{name:<28} {text}"),
            other => say!("{indent}{name:<28} {other}"),
        }
    }
}

fn one_line(value: &Value) -> String {
    let Value::Object(fields) = value else { return value.to_string() };
    let field = |(name, value): (&String, &Value)| match value {
        Value::Number(number) => format!("{name} {}", shown(number)),
        Value::String(text) => format!("{name} {text}"),
        other => format!("{name} {other}"),
    };
    fields.iter().map(field).collect::<Vec<_>>().join("  ")
}

fn shown(number: &serde_json::Number) -> String {
    match number.as_f64() {
        Some(value) if !number.is_i64() && !number.is_u64() => {
            if value.abs() >= 1_000.0 {
                format!("{value:.0}")
            } else {
                format!("{value:.3}")
            }
        }
        _ => number.to_string(),
    }
}

/// The processor, and how many cores this process may use.
fn machine() -> Value {
    let processors = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")).and_then(|line| line.split_once(':'));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    json!({
        "cpu": model.map_or("unknown", |(_, model)| model.trim()),
        "cores": cores,
        "load_average": load.split(' ').next().and_then(|load| load.parse::<f64>().ok()),
        "version": env!("CARGO_PKG_VERSION"),
        "optimised": !cfg!(debug_assertions),
    })
}

/// Times of rounds as a rate: median, slowest and fastest.
fn rates(count: usize, mut times: Vec<Duration>) -> Value {
    times.sort();
    let rate = |time: &Duration| per_second(count, *time);
    json!({
        "per_second": times.get(times.len() / 2).map(rate),
        "per_second_slowest": times.last().map(rate),
        "per_second_fastest": times.first().map(rate),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a rate for reading")]
fn per_second(count: usize, time: Duration) -> f64 {
    (count as f64 / time.as_secs_f64().max(1e-9)).round()
}
