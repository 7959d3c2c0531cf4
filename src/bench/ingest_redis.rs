//! From the bytes of a source to states and row records in a Redis on the same machine. Budget (DESIGN section 8): 15,000 keys without
//! append-only file at least 100,000 events/s; 1,000,000 keys with one, synced every second, 25,000/s.
//!
//! The program reads a file of Debezium lines to its end as a process of its own, start and end included.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::json;

use crate::run::clock;

use super::rig::{Deployment, Redis, ask, over_redis, server_seconds};

/// Measure intake over Redis: Debezium lines in, features exact, nothing judged.
#[derive(clap::Args, Debug)]
pub(super) struct IngestRedis {
    #[command(flatten)]
    redis: Redis,
    /// The configuration; its store is replaced by the Redis, and nothing is judged
    #[arg(long, short, value_name = "FILE", default_value = "examples/handbook/interdict.toml")]
    config: PathBuf,
    /// How many payments
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    events: u32,
    /// How many keys: a third of them customers, the others terminals
    #[arg(long, value_name = "N", default_value_t = 15_000, value_parser = clap::value_parser!(u32).range(3..))]
    keys: u32,
    /// Rounds, of which the median counts; each begins with an empty Redis
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

impl IngestRedis {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let url = self.redis.url()?;
        let deployment = Deployment::new(&only_features(&over_redis(&self.config, &url)?)?)?;
        let bytes = self.simulate(&deployment)?;
        let _kept = self.redis.keep(&url)?;
        let mut rounds = Vec::new();
        for _ in 0..self.rounds {
            rounds.push(self.round(&deployment, &url)?);
        }
        rounds.sort_by_key(|(took, _)| *took);
        let (median, server) = rounds[rounds.len() / 2];
        let rate = |(took, _): &(Duration, f64)| super::per_second(self.events as usize, *took);
        super::print(
            "ingest-redis",
            json!({
                "events": self.events, "keys": self.keys, "append_only": self.redis.append_only, "input_bytes": bytes,
                "rounds": self.rounds, "per_second": rate(&(median, server)),
                "per_second_fastest": rounds.first().map(rate), "per_second_slowest": rounds.last().map(rate),
                "redis_cpu_share": server / median.as_secs_f64(),
            }),
            self.json,
        );
        Ok(())
    }

    /// Writes the file that is read; its size.
    fn simulate(&self, deployment: &Deployment) -> anyhow::Result<u64> {
        let customers = self.keys / 3;
        let (count, terminals) = (self.events.to_string(), (self.keys - customers).to_string());
        let customers = customers.to_string();
        let what = ["--transactions", &count, "--customers", &customers, "--terminals", &terminals];
        let form = ["--label-as", "none", "--format", "debezium", "--output", "input.jsonl"];
        deployment.run(&[&["simulate", "--seed", "1"], &what[..], &form[..]].concat())?;
        Ok(std::fs::metadata(deployment.path("input.jsonl"))?.len())
    }

    /// One run over an empty Redis: its time, and the server's share of a processor's.
    fn round(&self, deployment: &Deployment, url: &str) -> anyhow::Result<(Duration, f64)> {
        ask(url, "FLUSHDB")?;
        let (began, used) = (clock::instant(), server_seconds(url)?);
        let said = deployment.run(&["run", "--until-end"])?;
        let took = began.elapsed();
        let used = server_seconds(url)? - used;
        let stopped = said.lines().find(|line| line.contains("stopped")).context("it says what it did")?;
        let events = format!("events={}", self.events);
        ensure!(stopped.split_whitespace().any(|word| word == events), "not every event was taken: {stopped}");
        ask(url, "FLUSHDB")?;
        Ok((took, used))
    }
}

/// The definitions and the store of a configuration, over the simulated file.
fn only_features(text: &str) -> anyhow::Result<String> {
    let (definitions, rest) = text.split_once("\n[source]").context("a configuration with a [source]")?;
    // Derived features are of the judged event.
    let definitions = definitions.split_once("\n[[derived]]").map_or(definitions, |(groups, _)| groups);
    let definitions = definitions.replace("judge = \"insert\"", "judge = \"none\"");
    let store = rest.split_once("\n[store]").context("a configuration with a [store]")?.1;
    let store = store.split_once("\n[").map_or(store, |(store, _)| store);
    Ok(format!(
        "{definitions}\n[source]\ntype = \"file\"\npath = \"input.jsonl\"\nformat = \"debezium\"\nstream = \"transactions\"\n\n[store]{store}\n"
    ))
}
