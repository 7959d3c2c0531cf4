//! Starting and stopping the roles of one process.

mod acting;
mod monitor;
mod reading;
#[cfg(all(feature = "kafka", feature = "postgres"))]
mod republish;
mod scorer;
mod sweeping;

use std::fs::File;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use anyhow::{Context as _, anyhow, bail};
use interdict_features::engine::Plan;
use interdict_ingest::source::stop::Stop;
use interdict_monitor::metrics::Metrics as MonitorMetrics;
use interdict_scorer::activation::Active;
use interdict_scorer::bundle::Bundle;
use interdict_scorer::runtime::Runtime;
use interdict_store::metrics::StoreMetrics;
use interdict_store::online::OnlineStore;
use interdict_store::port::{OffsetMove, Store as _};
use interdict_store::redis::RedisStore;
use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::setup::Setup;

use super::super::Role;
use super::super::archiving::Archives;
use super::super::charge;
use super::super::commands::Command;
use super::super::desk::{Desk, Health, QUEUE, model_entry};
use super::super::judging::Judging;
use super::super::reached::Reached;
use super::super::stats::Stats;
use super::super::{clock, input_log, system, told_to_stop};
use super::lease::Claimant;
use super::mode::{Mode, Turn, is_held};
use super::stats::FleetStats;

type Model = (Runtime, Arc<Active>, Bundle);

/// A thread and its name.
type Named = (&'static str, std::thread::JoinHandle<anyhow::Result<()>>);

/// The name of the monitor's thread.
const MONITOR: &str = "monitor";

/// What all roles of a process share.
struct Process<'a> {
    setup: &'a Setup,
    plan: Arc<Plan>,
    online: Arc<OnlineStore>,
    store: Arc<RedisStore>,
    stats: Arc<Stats>,
    fleet: Arc<FleetStats>,
    member: Uuid,
    /// What every commit names that makes or judges state: see [`charge::of_roles`].
    charge: OffsetMove,
    registry: Registry,
    outbox: Arc<Notify>,
    logged: Arc<Notify>,
    stop_taking: Stop,
    stop_edge: CancellationToken,
    stop_rest: CancellationToken,
    threads: Vec<Named>,
    /// Names of threads as they end.
    ends: (mpsc::Sender<&'static str>, mpsc::Receiver<&'static str>),
    tasks: JoinSet<anyhow::Result<()>>,
    archives: Archives,
    /// Held as long as the process works: what stands in its folder for it alone.
    locks: Vec<File>,
}

/// Plays `roles` until told to stop, or until the sources end where `until_end` says so.
pub(crate) async fn serve(setup: &Setup, roles: &[Role], until_end: bool) -> anyhow::Result<()> {
    let mut told_to_stop = pin!(told_to_stop());
    let mut registry = Registry::default();
    let online = system::open_store(setup).await?.measured_by(StoreMetrics::register(&mut registry));
    let store = online.shared().cloned().context(
        "--role needs a store that several processes share: set [store] type = \"redis\", or run without --role, which plays every role in one process",
    )?;
    if !is_held(&store, Mode::Alone).await? {
        // Before the lease is taken, which would keep away who is to put it right; for certain once charge is taken.
        charge::ensure_applied(&online).await?;
    }
    let (stop_rest, mut tasks) = (CancellationToken::new(), JoinSet::new());
    let turn = Turn::begin(&store, Mode::Fleet, setup.store.lease()).await?;
    tasks.spawn(turn.clone().keep(stop_rest.clone()));
    let never = Stop::default();
    let charge = tokio::select! {
        charge = charge::of_roles(&online, &never, async |least| turn.number(&never, least).await) => charge?,
        Some(lost) = tasks.join_next() => {
            lost??;
            return Ok(());
        }
        () = told_to_stop.as_mut() => return Ok(()),
    };
    let joined = Joined { store: Arc::clone(&store), charge, stop_rest, tasks };
    let mut process = Process::open(setup, joined, Arc::new(online), registry);
    store.offsets(input_log::SOURCE, "input-log").await?;
    let health = watch::Sender::new(Health::Starting);
    // What has begun is stopped in order also where something after it does not begin.
    let ended = match process.begin(roles, until_end, &health, told_to_stop.as_mut()).await {
        Ok(Begun::Works) => {
            health.send_replace(Health::Working);
            process.ended(told_to_stop).await
        }
        Ok(Begun::IsTold) => Ok(()),
        Err(error) => Err(error),
    };
    health.send_replace(Health::Ended);
    let stats = Arc::clone(&process.stats);
    let stopped = process.stop().await;
    let [approved, reviewed, blocked] = stats.outcomes();
    tracing::info!(events = stats.events(), approved, reviewed, blocked, "stopped");
    ended.and(stopped)
}

/// Tells of a thread's end, however it ends: a process of which a part has gone must not look as if it worked.
struct Ending {
    name: &'static str,
    ends: mpsc::Sender<&'static str>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        let _one_is_enough = self.ends.try_send(self.name);
    }
}

/// What the processes of a fleet have in common, as this one took its place among them.
struct Joined {
    store: Arc<RedisStore>,
    charge: OffsetMove,
    stop_rest: CancellationToken,
    /// Keeps the lease that keeps other ways of working away.
    tasks: JoinSet<anyhow::Result<()>>,
}

/// What came of a beginning.
enum Begun {
    Works,
    /// The process was told to stop while it stood by.
    IsTold,
}

impl<'a> Process<'a> {
    /// Begins to play `roles`. What else is played works while another process is the monitor, and the edge answers.
    async fn begin(
        &mut self,
        roles: &[Role],
        until_end: bool,
        health: &watch::Sender<Health>,
        told_to_stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Begun> {
        let plays = |role: Role| roles.contains(&role);
        let setup = self.setup;
        let watching = match &setup.monitor {
            _ if !plays(Role::Monitor) => None,
            Some(config) => Some((config.clone(), MonitorMetrics::register(&mut self.registry))),
            None => bail!("--role monitor has nothing to write: the configuration has no [monitor]"),
        };
        let reached = match (plays(Role::Ingest), plays(Role::Republish)) {
            (true, _) => self.ingest(until_end)?,
            (_, true) => self.republish()?,
            _ => Reached::default(),
        };
        if plays(Role::Ingest) || plays(Role::Scorer) {
            self.sweep();
        }
        let model = if plays(Role::Scorer) || plays(Role::Monitor) { system::load_model(setup)? } else { None };
        self.produce(roles).await?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let judging = if plays(Role::Scorer) { Some(self.score(model.as_ref(), queue).await?) } else { None };
        if setup.serves_http {
            let shown = model.as_ref().map(|(_, active, _)| model_entry(active, clock::now()));
            let desk = self.desk(commands, health.subscribe(), reached, judging.as_ref(), shown);
            let server = system::bind(setup, desk, std::mem::take(&mut self.registry)).await?;
            let address: SocketAddr = server.local_addr();
            let stop = self.stop_edge.clone();
            self.tasks.spawn(async move {
                system::serve(server, stop).await;
                Ok(())
            });
            tracing::info!(?roles, %address, "serving");
        } else {
            drop(commands);
            tracing::info!(?roles, "running");
        }
        let Some(watching) = watching else { return Ok(Begun::Works) };
        let is_alone = roles.iter().all(|role| *role == Role::Monitor);
        health.send_replace(if is_alone { Health::StandingBy } else { Health::Working });
        let is_mine = self.monitor(model.as_ref(), watching, told_to_stop).await?;
        Ok(if is_mine { Begun::Works } else { Begun::IsTold })
    }

    fn open(
        setup: &'a Setup,
        Joined { store, charge, stop_rest, tasks }: Joined,
        online: Arc<OnlineStore>,
        mut registry: Registry,
    ) -> Self {
        Self {
            charge,
            setup,
            plan: Arc::new(Plan::compile(Arc::clone(&setup.definitions))),
            online,
            store,
            stats: Arc::new(Stats::register(&mut registry)),
            fleet: Arc::new(FleetStats::register(&mut registry)),
            member: Uuid::new_v4(),
            registry,
            outbox: Arc::default(),
            logged: Arc::default(),
            stop_taking: Stop::default(),
            stop_edge: CancellationToken::new(),
            stop_rest,
            threads: Vec::new(),
            ends: mpsc::channel(8),
            tasks,
            archives: Archives::default(),
            locks: Vec::new(),
        }
    }

    fn claimant(&self, name: &str) -> Claimant {
        Claimant {
            store: Arc::clone(&self.store),
            name: name.to_owned(),
            holder: self.member,
            time_to_live: self.setup.store.lease(),
        }
    }

    /// Runs `work` on a thread of its own.
    fn thread<F>(&mut self, name: &'static str, work: impl FnOnce() -> F + Send + 'static) -> anyhow::Result<()>
    where
        F: Future<Output = anyhow::Result<()>>,
    {
        let (runtime, ends) = (Handle::current(), self.ends.0.clone());
        let work = move || {
            let _told_also_by_a_panic = Ending { name, ends };
            let ended = runtime.block_on(work());
            if let Err(error) = &ended {
                tracing::error!(error = crate::told::told(error), "the {name} has ended");
            }
            ended
        };
        self.threads.push((name, std::thread::Builder::new().name(name.to_owned()).spawn(work)?));
        Ok(())
    }

    fn desk(
        &self,
        commands: mpsc::Sender<Command>,
        health: watch::Receiver<Health>,
        reached: Reached,
        judging: Option<&Judging>,
        model: Option<interdict_scorer::http::backend::ModelEntry>,
    ) -> Desk {
        let streams = 0..self.plan.streams.len();
        Desk {
            namespace: self.setup.namespace.clone(),
            commands,
            store: Arc::clone(&self.online),
            judges: streams.map(|stream| judging.and_then(|judging| judging.judge_of(stream).cloned())).collect(),
            plan: Arc::clone(&self.plan),
            promises: Arc::default(),
            stats: Arc::clone(&self.stats),
            health,
            reached,
            model,
        }
    }

    /// Waits for the signal to stop, the end of a thread or that of a task.
    async fn ended(&mut self, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<()> {
        tokio::select! {
            () = told_to_stop => {
                tracing::info!("stopping: what was taken is worked off first");
                Ok(())
            }
            _ = self.ends.1.recv() => Ok(()),
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                Ok(result) => result.and_then(|()| Err(anyhow!("a part of the process has ended by itself; see the log for what came before"))),
                Err(error) => Err(error.into()),
            },
        }
    }

    /// Stops in order and waits for everything: leases are given back, deliveries end and the monitor writes what is left once nothing is
    /// decided any more.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_taking.stop();
        self.stop_edge.cancel();
        let threads = std::mem::take(&mut self.threads).into_iter();
        let (monitor, others): (Vec<_>, Vec<_>) = threads.partition(|(name, _)| *name == MONITOR);
        let mut outcome = joined(others).await?;
        let archives = self.archives.clone();
        tokio::task::spawn_blocking(move || archives.finish()).await?;
        self.stop_rest.cancel();
        outcome = outcome.and(joined(monitor).await?);
        while let Some(done) = self.tasks.join_next().await {
            outcome = outcome.and(done.unwrap_or_else(|error| Err(error.into())));
        }
        outcome
    }
}

/// Waits for the end of all `threads`; the first failure among what came of them.
async fn joined(threads: Vec<Named>) -> anyhow::Result<anyhow::Result<()>> {
    let mut outcome = Ok(());
    for (name, thread) in threads {
        let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
        outcome = outcome.and(ended.unwrap_or_else(|_panic| Err(anyhow!("the {name}'s thread panicked"))));
    }
    Ok(outcome)
}

#[cfg(not(all(feature = "kafka", feature = "postgres")))]
impl Process<'_> {
    fn republish(&mut self) -> anyhow::Result<Reached> {
        bail!(
            "this program was built without Kafka or PostgreSQL, which --role republish needs: build it with --features kafka,postgres"
        )
    }
}
