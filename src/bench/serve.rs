//! `POST /v1/decisions` with features in a Redis on the same machine, the decision log on. Budget (DESIGN section 8), 5,000 requests/s:
//! p99 at most 2 ms, p99.9 at most 10 ms.
//!
//! Open loop: requests are due at a fixed rate, whatever the server does, and their time counts from when they were due. The server is a
//! process of its own; history is in the store before, and the first requests are not counted.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;

use crate::run::clock;
use crate::simulate::generator::{Config, Generator, Length, Transaction};

use super::rig::{Deployment, Redis, ask, over_redis, server_seconds};

/// Seconds of requests before those that are counted.
const WARM_UP: u32 = 5;
/// Everything simulated follows from it.
const SEED: u64 = 1;

/// Measure decisions over HTTP, features in Redis.
#[derive(clap::Args, Debug)]
pub(super) struct Serve {
    #[command(flatten)]
    redis: Redis,
    /// The configuration; its store is replaced by the Redis
    #[arg(long, short, value_name = "FILE", default_value = "examples/handbook/interdict.toml")]
    config: PathBuf,
    /// Requests per second
    #[arg(long, value_name = "N", default_value_t = 5_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    rate: u32,
    /// How long requests are made
    #[arg(long, value_name = "SECONDS", default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    seconds: u32,
    /// Connections that requests are spread over
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..=1_024))]
    connections: u16,
    /// Payments in the store before the first request
    #[arg(long, value_name = "N", default_value_t = 300_000)]
    history: u32,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// A request that is due.
type Due = (Instant, Bytes);

/// What a request gave: how long after it was due the answer was there, and its status.
type Given = (Duration, StatusCode);

impl Serve {
    pub(super) fn run(&self) -> anyhow::Result<()> {
        let url = self.redis.url()?;
        let _kept = self.redis.keep(&url)?;
        let deployment = Deployment::new(&over_redis(&self.config, &url)?)?;
        self.fill(&deployment)?;
        let bodies = self.bodies();
        let server = deployment.serve(&["run"])?;
        let used = server_seconds(&url)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let (given, took) = runtime.block_on(self.ask_all(&server.address, bodies))?;
        let used = server_seconds(&url)? - used;
        drop(server);
        ask(&url, "FLUSHDB")?;
        super::print("serve", self.figures(&given, took, used), self.json);
        Ok(())
    }

    /// Puts history into the store.
    fn fill(&self, deployment: &Deployment) -> anyhow::Result<()> {
        let (seed, count) = (SEED.to_string(), self.history.to_string());
        deployment.run(&["simulate", "--seed", &seed, "--transactions", &count, "--output", "history.parquet"])?;
        let files = ["--input", "history.parquet", "--output", "features.parquet"];
        deployment.run(&[&["backfill", "--fill-store"], &files[..]].concat())?;
        Ok(())
    }

    /// The payments that follow on history, as requests carry them.
    fn bodies(&self) -> Vec<Bytes> {
        let count = u64::from(self.rate) * u64::from(WARM_UP + self.seconds);
        let history = u64::from(self.history);
        let config = Config { seed: SEED, length: Length::Transactions(history + count), ..Config::default() };
        let later = Generator::new(config).skip(self.history as usize);
        later.map(|payment| body(&payment)).collect()
    }

    /// Makes every request when it is due; what was given after the warm-up, and how long those requests were made.
    async fn ask_all(&self, address: &str, bodies: Vec<Bytes>) -> anyhow::Result<(Vec<Given>, Duration)> {
        // Room for all of them: whoever paces does not wait for the server.
        let (due, queue) = mpsc::channel(bodies.len().max(1));
        let (queue, broken) = (Arc::new(Mutex::new(queue)), Arc::new(AtomicU64::new(0)));
        let mut connections = JoinSet::new();
        for _ in 0..self.connections {
            let connection = Connection::open(address).await?;
            connections.spawn(connection.ask(Arc::clone(&queue), Arc::clone(&broken)));
        }
        let counted_from = clock::instant() + Duration::from_secs(u64::from(WARM_UP));
        let rate = f64::from(self.rate);
        let pacing = std::thread::spawn(move || pace(bodies, rate, &due));
        let mut given = Vec::new();
        while let Some(answers) = connections.join_next().await {
            given.extend(
                answers?.into_iter().filter(|(due, ..)| *due >= counted_from).map(|(_, took, status)| (took, status)),
            );
        }
        let ended = pacing.join().map_err(|_panic| anyhow::anyhow!("the pacing thread panicked"))?;
        let broken = broken.load(Ordering::Relaxed);
        ensure!(broken == 0, "{broken} connections broke");
        ensure!(!given.is_empty(), "no request was counted");
        given.sort_unstable();
        Ok((given, ended - counted_from))
    }

    fn figures(&self, given: &[Given], took: Duration, server: f64) -> Value {
        let at = |share| given[super::place(share, given.len())].0.as_secs_f64() * 1_000.0;
        let refused = given.iter().filter(|(_, status)| *status != StatusCode::OK).count();
        json!({
            "rate": self.rate, "seconds": self.seconds, "connections": self.connections, "history": self.history,
            "append_only": self.redis.append_only, "requests": given.len(), "not_ok": refused,
            "requests_per_second": super::per_second(given.len(), took),
            "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999),
            "max_ms": given.last().map(|(took, _)| took.as_secs_f64() * 1_000.0),
            "redis_cpu_seconds": server,
        })
    }
}

/// Hands out requests when they are due; when the last one was.
fn pace(bodies: Vec<Bytes>, rate: f64, to: &mpsc::Sender<Due>) -> Instant {
    let began = clock::instant();
    let mut due = began;
    for (number, body) in (0_u32..).zip(bodies) {
        due = began + Duration::from_secs_f64(f64::from(number) / rate);
        sleep_until(due);
        let _nobody_asks_any_more = to.try_send((due, body));
    }
    due
}

#[expect(clippy::disallowed_methods, reason = "timers of the runtime are good to a millisecond only")]
fn sleep_until(due: Instant) {
    std::thread::sleep(due.saturating_duration_since(clock::instant()));
}

fn body(payment: &Transaction) -> Bytes {
    let time = interdict_features::time::Timestamp::from_micros(payment.time_micros);
    let (units, cents) = (payment.amount_minor / 100, payment.amount_minor % 100);
    let Transaction { id, customer, terminal, .. } = payment;
    Bytes::from(format!(
        "{{\"event\":{{\"transaction_id\":{id},\"tx_datetime\":\"{time}\",\"customer_id\":{customer},\"terminal_id\":{terminal},\"amount\":\"{units}.{cents:02}\"}}}}"
    ))
}

/// A connection to the server.
struct Connection {
    sender: SendRequest<Full<Bytes>>,
    host: String,
}

impl Connection {
    async fn open(address: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(address).await.context("the server cannot be reached")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(Self { sender, host: address.to_owned() })
    }

    /// Makes the next request of the queue until there is none; per request when it was due, how long it took, and its status.
    async fn ask(
        mut self,
        queue: Arc<Mutex<mpsc::Receiver<Due>>>,
        broken: Arc<AtomicU64>,
    ) -> Vec<(Instant, Duration, StatusCode)> {
        let mut given = Vec::new();
        loop {
            let next = queue.lock().await.recv().await;
            let Some((due, body)) = next else { return given };
            let Ok(status) = self.post(body).await else {
                broken.fetch_add(1, Ordering::Relaxed);
                return given;
            };
            given.push((due, clock::instant().saturating_duration_since(due), status));
        }
    }

    async fn post(&mut self, body: Bytes) -> anyhow::Result<StatusCode> {
        let request =
            Request::post("/v1/decisions").header("host", &self.host).header("content-type", "application/json");
        let answer = self.sender.send_request(request.body(Full::new(body))?).await?;
        let status = answer.status();
        answer.into_body().collect().await?;
        self.sender.ready().await?;
        Ok(status)
    }
}
