//! Carries changes into the tables of a PostgreSQL (`examples/postgres/schema.sql`), over several connections.
//!
//! Invariants:
//! - All changes of one customer go over one connection, in order; chargebacks carry only an id and go by that.
//! - Every statement may be run again: after a lost connection a change whose commit is in doubt is made once more.

use std::time::Duration;

use anyhow::{Context as _, bail};
use futures_util::future::try_join_all;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_postgres::config::SslMode;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls, Statement};

use super::changes::{Change, Changes, What};
use super::format::decimal;
use super::generator::{DAY_MICROS, Generator};
use super::pace::{self, Pacer};
use super::summary::{Progress, Summary};
use super::{Plan, Simulate};

const SCHEMA: &str = include_str!("../../examples/postgres/schema.sql");
/// Changes that wait for one connection at most.
const QUEUE: usize = 4_096;
/// Changes of one transaction at most, where nothing is paced.
const BATCH: usize = 512;
/// How often a connection is made anew, and how long apart: a server takes seconds to restart.
const TRIES: u32 = 60;
const RETRY: Duration = Duration::from_millis(500);
/// How long a server may take to accept a connection.
const CONNECT: Duration = Duration::from_secs(10);
const EPOCH: &str = "timestamptz 'epoch' + $2::bigint * interval '1 microsecond'";

/// Where and how changes are written into a database.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Target {
    /// Write into the tables of this PostgreSQL instead of a file; password in the URL or in PGPASSWORD
    #[arg(long, value_name = "URL", conflicts_with_all = ["output", "format", "truth", "labels", "shuffle", "duplicates"])]
    to: Option<String>,
    /// Create the tables of examples/postgres and an account for each customer first
    #[arg(long, requires = "to")]
    create: bool,
    /// How many connections write
    #[arg(long, value_name = "N", requires = "to", default_value_t = 8, value_parser = clap::value_parser!(u16).range(1..=512))]
    connections: u16,
    /// Leave out what was committed before this day (counted from the first, 0): an earlier run wrote it
    #[arg(long, value_name = "DAY", requires = "to", default_value_t = 0)]
    from_day: u32,
    /// Commit so many changes per second, whatever their simulated time
    #[arg(long, value_name = "N", requires = "to", conflicts_with = "pace", value_parser = rate)]
    rate: Option<f64>,
    /// Write the payments of blocked accounts too: by default the bank refuses them
    #[arg(long, requires = "to")]
    ignore_blocks: bool,
}

impl Target {
    pub(super) fn is_wanted(&self) -> bool {
        self.to.is_some()
    }
}

fn rate(text: &str) -> Result<f64, String> {
    let rate: Option<f64> = text.parse().ok().filter(|rate| (0.001..=1e6).contains(rate));
    rate.ok_or_else(|| "write a number from 0.001 to 1000000".to_owned())
}

/// What came of the changes of one connection.
#[derive(Clone, Copy, Debug, Default)]
struct Tally {
    /// Payments that the bank did not take because the account is blocked.
    refused: u64,
}

/// Writes every change that belongs to the asked days.
pub(super) fn load(options: &Simulate, plan: &Plan, generator: Generator) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let target = &options.target;
    let config = configuration(target.to.as_deref().unwrap_or_default())?;
    runtime.block_on(async {
        let client = connect(&config).await.context("--to: the database cannot be reached")?;
        if target.create { create(&client, plan.config.customers).await } else { Ok(()) }
    })?;
    let is_timed = options.pace.is_some() || target.rate.is_some();
    let batch = if is_timed { 1 } else { BATCH };
    let mut workers = JoinSet::new();
    let mut queues = Vec::new();
    let (opening, mut all_open) = mpsc::channel(1);
    for _ in 0..target.connections {
        let (queue, changes) = mpsc::channel(QUEUE);
        queues.push(queue);
        let worker = Worker { config: config.clone(), takes_blocked: target.ignore_blocks, tally: Tally::default() };
        workers.spawn_on(worker.run(changes, batch, opening.clone()), runtime.handle());
    }
    drop(opening);
    let mut opened = 0;
    while all_open.blocking_recv().is_some() {
        opened += 1;
    }
    if opened < target.connections
        && let Some(failed) = runtime.block_on(workers.join_next())
    {
        failed.context("a connection's task")??;
    }
    let (mut summary, progress) = dispatch(options, plan, generator, &queues);
    drop(queues);
    let refused = runtime.block_on(async {
        let mut refused = 0;
        while let Some(done) = workers.join_next().await {
            refused += done.context("a connection's task")??.refused;
        }
        anyhow::Ok(refused)
    })?;
    summary.refused = refused;
    progress.finish(summary.transactions);
    summary.print(options, progress.elapsed(), false);
    Ok(())
}

/// Hands each change to its connection when its time has come. Time runs from the first change that is handed out: making what lies
/// before it takes a while, and what would have been due meanwhile would come all at once.
fn dispatch(
    options: &Simulate,
    plan: &Plan,
    generator: Generator,
    queues: &[mpsc::Sender<Change>],
) -> (Summary, Progress) {
    let first_day = i64::from(options.target.from_day).saturating_mul(DAY_MICROS);
    let first = plan.config.first_midnight().saturating_add(first_day);
    let start = first.max(plan.config.start_micros);
    let expected = generator.expected();
    let mut progress = Progress::begin(expected);
    let mut pacer = None;
    let mut summary = Summary::default();
    let mut due = None;
    for change in Changes::new(generator, options.seed, plan.label_as, plan.disturbances) {
        if summary.is_complete(plan.config.length, change.commit_micros, plan.config.first_midnight()) {
            break;
        }
        if change.commit_micros < first {
            continue;
        }
        let due = due.get_or_insert_with(|| {
            progress = Progress::begin(expected);
            pace::now()
        });
        if let Some(pace) = options.pace {
            pacer.get_or_insert_with(|| Pacer::new(pace, start)).wait(change.commit_micros);
        }
        if let Some(rate) = options.target.rate {
            pace::wait_until(*due);
            *due += Duration::from_secs_f64(1.0 / rate);
        }
        let lane = match change.what {
            What::Insert(row) | What::Update { after: row, .. } | What::Delete(row) => row.transaction.customer,
            What::Chargeback(id) => id,
        };
        let lanes = i64::try_from(queues.len()).unwrap_or(i64::MAX);
        let lane = usize::try_from(lane.rem_euclid(lanes)).unwrap_or(0);
        summary.add(&change);
        progress.advance(summary.transactions);
        if queues[lane].blocking_send(change).is_err() {
            // Its connection has failed; joining it tells why.
            break;
        }
    }
    (summary, progress)
}

fn configuration(url: &str) -> anyhow::Result<Config> {
    let mut config: Config =
        url.parse().context("--to: write postgres://USER@HOST:PORT/DATABASE (the password may stand in PGPASSWORD)")?;
    if config.get_ssl_mode() == SslMode::Require {
        bail!("--to: the load generator speaks no TLS; use a local address, or sslmode=prefer");
    }
    #[expect(clippy::disallowed_methods, reason = "the password is configuration")]
    if config.get_password().is_none()
        && let Ok(password) = std::env::var("PGPASSWORD")
    {
        config.password(password);
    }
    config.application_name("interdict-simulate");
    if config.get_connect_timeout().is_none() {
        config.connect_timeout(CONNECT);
    }
    Ok(config)
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "a connection ended");
        }
    });
    Ok(client)
}

async fn create(client: &Client, customers: u32) -> anyhow::Result<()> {
    client.batch_execute(SCHEMA).await.context("creating the tables")?;
    let accounts =
        "INSERT INTO accounts (customer_id) SELECT generate_series(0, $1::bigint - 1) ON CONFLICT DO NOTHING";
    client.execute(accounts, &[&i64::from(customers)]).await.context("creating the accounts")?;
    Ok(())
}

/// The statements of one connection.
struct Session {
    client: Client,
    insert: Statement,
    update: Statement,
    delete: Statement,
    chargeback: Statement,
}

impl Session {
    async fn open(config: &Config, takes_blocked: bool) -> Result<Self, tokio_postgres::Error> {
        let client = connect(config).await?;
        let is_open = if takes_blocked { "true" } else { "status = 'active'" };
        let insert = format!(
            "INSERT INTO transactions (transaction_id, tx_datetime, customer_id, terminal_id, amount, is_fraud) \
             SELECT $1::bigint, {EPOCH}, customer_id, $4::bigint, $5::text::numeric, $6::boolean \
             FROM accounts WHERE customer_id = $3::bigint AND {is_open} ON CONFLICT DO NOTHING"
        );
        let update = "UPDATE transactions SET amount = $2::text::numeric, is_fraud = $3::boolean WHERE transaction_id = $1::bigint";
        let chargeback = format!(
            "INSERT INTO chargebacks (transaction_id, is_fraud, reported_at) VALUES ($1::bigint, true, {EPOCH}) \
             ON CONFLICT DO NOTHING"
        );
        Ok(Self {
            insert: client.prepare(&insert).await?,
            update: client.prepare(update).await?,
            delete: client.prepare("DELETE FROM transactions WHERE transaction_id = $1::bigint").await?,
            chargeback: client.prepare(&chargeback).await?,
            client,
        })
    }

    /// Makes one change; how many payments were refused.
    async fn make(&self, change: &Change) -> Result<u64, tokio_postgres::Error> {
        match change.what {
            What::Insert(row) => {
                let paid = row.transaction;
                let amount = decimal(paid.amount_minor);
                let values: [&(dyn tokio_postgres::types::ToSql + Sync); 6] =
                    [&paid.id, &paid.time_micros, &paid.customer, &paid.terminal, &amount, &row.is_fraud];
                Ok(1 - self.client.execute(&self.insert, &values).await?.min(1))
            }
            What::Update { after, .. } => {
                let amount = decimal(after.transaction.amount_minor);
                self.client.execute(&self.update, &[&after.transaction.id, &amount, &after.is_fraud]).await.map(|_| 0)
            }
            What::Delete(row) => self.client.execute(&self.delete, &[&row.transaction.id]).await.map(|_| 0),
            What::Chargeback(id) => {
                self.client.execute(&self.chargeback, &[&id, &change.commit_micros]).await.map(|_| 0)
            }
        }
    }

    /// Makes all changes in one transaction.
    async fn commit(&self, changes: &[Change]) -> Result<u64, tokio_postgres::Error> {
        if let [only] = changes {
            return self.make(only).await;
        }
        self.client.batch_execute("BEGIN").await?;
        // Polled in order, sent in order, without waiting for each answer.
        let refused = try_join_all(changes.iter().map(|change| self.make(change))).await?;
        self.client.batch_execute("COMMIT").await?;
        Ok(refused.iter().sum())
    }
}

/// One connection with the changes that belong to it.
struct Worker {
    config: Config,
    takes_blocked: bool,
    tally: Tally,
}

impl Worker {
    /// Says so once its connection is open.
    async fn run(
        mut self,
        mut changes: mpsc::Receiver<Change>,
        batch: usize,
        opening: mpsc::Sender<()>,
    ) -> anyhow::Result<Tally> {
        let mut session = self.open().await?;
        let _nobody_waits_any_more = opening.send(()).await;
        drop(opening);
        let mut taken = Vec::with_capacity(batch);
        while changes.recv_many(&mut taken, batch).await > 0 {
            let mut tries = 0;
            loop {
                match session.commit(&taken).await {
                    Ok(refused) => {
                        // A second try finds rows of the first; they are not refused.
                        self.tally.refused += if tries == 0 { refused } else { 0 };
                        break;
                    }
                    Err(error) if tries < TRIES && is_passing(&error) => {
                        tracing::warn!(%error, "the database does not take a change; trying again");
                        if tries > 0 {
                            tokio::time::sleep(RETRY).await;
                        }
                        tries += 1;
                        session = self.open().await?;
                    }
                    Err(error) => return Err(error).context("writing into the database"),
                }
            }
            taken.clear();
        }
        Ok(self.tally)
    }

    async fn open(&self) -> anyhow::Result<Session> {
        let mut tries = 0;
        loop {
            match Session::open(&self.config, self.takes_blocked).await {
                Ok(session) => return Ok(session),
                Err(error) if tries < TRIES && is_passing(&error) => {
                    if tries == 0 {
                        tracing::warn!(%error, "--to: the database cannot be reached; trying again");
                    }
                    tries += 1;
                    tokio::time::sleep(RETRY).await;
                }
                Err(error) if error.code() == Some(&SqlState::UNDEFINED_TABLE) => {
                    return Err(error).context("the tables are missing: add --create");
                }
                Err(error) => return Err(error).context("--to: the database cannot be reached"),
            }
        }
    }
}

/// Whether trying again may help: the connection or the server is gone for a while, or two writers met.
fn is_passing(error: &tokio_postgres::Error) -> bool {
    match error.code() {
        Some(code) => ["08", "40", "53", "57"].contains(&&code.code()[..2]),
        None => true,
    }
}
