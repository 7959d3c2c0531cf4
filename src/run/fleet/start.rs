//! Starting and stopping the roles of one process.

#[cfg(all(feature = "kafka", feature = "postgres"))]
mod republish;

use std::fs::{File, TryLockError};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use interdict_features::engine::Plan;
use interdict_ingest::archive::folder::Sharing;
use interdict_ingest::pipeline::{Limits, Pipeline};
use interdict_ingest::source::config::SourceConfig;
#[cfg(feature = "postgres")]
use interdict_ingest::source::postgres::metrics::PostgresMetrics;
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_ingest::topic::sink::{SinkMetrics, What};
use interdict_monitor::monitor::Monitor;
use interdict_scorer::action::delivery::{Delivery, Limits as DeliveryLimits};
use interdict_scorer::action::metrics::Metrics as DeliveryMetrics;
use interdict_scorer::action::receiver::Receivers;
use interdict_scorer::activation::Active;
use interdict_scorer::bundle::Bundle;
use interdict_scorer::lists::Lists;
use interdict_scorer::runtime::Runtime;
use interdict_store::metrics::StoreMetrics;
use interdict_store::online::OnlineStore;
use interdict_store::port::{LogName, Store as _};
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
use super::super::clock;
use super::super::commands::Command;
use super::super::core::Intake;
use super::super::desk::{Desk, Health, QUEUE, model_entry};
use super::super::input_log;
use super::super::judging::Judging;
use super::super::letters::Letters;
use super::super::maintenance::{Sweeping, sweep};
use super::super::republished;
use super::super::sinks::{self, Feeder, Produce};
use super::super::sources::{Confirms, JudgedSources, Reached, Starter};
use super::super::stats::Stats;
use super::super::system::{self, INTAKE, Shell};
use super::super::{told_to_stop, waiting, watching};
use super::answering::Answering;
use super::confirming::Confirming;
use super::ingest::Ingestor;
use super::lease::Claimant;
use super::scoring::Scoring;
use super::stats::FleetStats;
use super::topics;
use super::tracked::Tracked;

/// Partitions of the source `input`, one per scorer that is up; 0 is that of a process that plays every role.
const SLOTS: u32 = 4_096;

/// How often whoever carries actions out looks for those that other processes left.
const OUTBOX_LOOK: Duration = Duration::from_millis(5);

/// How often receivers that refuse something are asked whether they still do.
const INSPECT: Duration = Duration::from_secs(60);

/// How often the length of the queue of work is shown.
const WORK_LOOK: Duration = Duration::from_secs(1);

/// Processes that write dead letters in one folder at most.
const LETTER_FILES: u32 = 256;

type Model = (Runtime, Arc<Active>, Bundle);

/// What all roles of a process share.
struct Process<'a> {
    setup: &'a Setup,
    plan: Arc<Plan>,
    online: Arc<OnlineStore>,
    store: Arc<RedisStore>,
    stats: Arc<Stats>,
    fleet: Arc<FleetStats>,
    member: Uuid,
    registry: Registry,
    outbox: Arc<Notify>,
    logged: Arc<Notify>,
    stop_taking: Stop,
    stop_edge: CancellationToken,
    stop_rest: CancellationToken,
    /// Threads by name, in the order in which they are stopped.
    threads: Vec<(&'static str, std::thread::JoinHandle<anyhow::Result<()>>)>,
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
    let mut process = Process::open(setup, Arc::clone(&store), Arc::new(online), registry);
    let mode = hold_mode(&store, Mode::Fleet, setup.store.lease(), process.stop_rest.clone()).await?;
    process.tasks.spawn(mode);
    store.offsets(input_log::SOURCE, "input-log").await?;
    let (health, health_seen) = watch::channel(Health::Starting);
    // What has begun is stopped in order also where something after it does not begin.
    let ended = match process.begin(roles, until_end, health_seen, told_to_stop.as_mut()).await {
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

/// What came of a beginning.
enum Begun {
    Works,
    /// The process was told to stop while it stood by.
    IsTold,
}

impl<'a> Process<'a> {
    /// Begins to play `roles`.
    async fn begin(
        &mut self,
        roles: &[Role],
        until_end: bool,
        health: watch::Receiver<Health>,
        told_to_stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Begun> {
        let plays = |role: Role| roles.contains(&role);
        let setup = self.setup;
        let reached = match (plays(Role::Ingest), plays(Role::Republish)) {
            (true, _) => self.ingest(until_end)?,
            (_, true) => self.republish()?,
            _ => Reached::default(),
        };
        if plays(Role::Ingest) || plays(Role::Scorer) {
            self.sweep();
        }
        let model = if plays(Role::Scorer) || plays(Role::Monitor) { system::load_model(setup)? } else { None };
        if plays(Role::Monitor) && !self.monitor(model.as_ref(), told_to_stop).await? {
            return Ok(Begun::IsTold);
        }
        self.produce(roles).await?;
        let (commands, queue) = mpsc::channel(QUEUE);
        let judging = if plays(Role::Scorer) { Some(self.score(model.as_ref(), queue).await?) } else { None };
        if !setup.serves_http {
            drop(commands);
            tracing::info!(?roles, "running");
            return Ok(Begun::Works);
        }
        let model = model.as_ref().map(|(_, active, _)| model_entry(active, &setup.folder, clock::now()));
        let desk = self.desk(commands, health, reached, judging.as_ref(), model);
        let server = system::bind(setup, desk, std::mem::take(&mut self.registry)).await?;
        let address: SocketAddr = server.local_addr();
        let stop = self.stop_edge.clone();
        self.tasks.spawn(async move {
            system::serve(server, stop).await;
            Ok(())
        });
        tracing::info!(?roles, %address, "serving");
        Ok(Begun::Works)
    }

    fn open(setup: &'a Setup, store: Arc<RedisStore>, online: Arc<OnlineStore>, mut registry: Registry) -> Self {
        Self {
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
            stop_rest: CancellationToken::new(),
            threads: Vec::new(),
            ends: mpsc::channel(8),
            tasks: JoinSet::new(),
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

    fn pipeline(&self, tracked: &Arc<Tracked>) -> Pipeline<Tracked> {
        let engine = &self.setup.engine;
        let limits = Limits { shards: engine.shards, memory_bytes: engine.memory_bytes };
        let mut pipeline = Pipeline::new(Arc::clone(&self.plan), Arc::clone(tracked), limits);
        pipeline.began(clock::now());
        pipeline
    }

    /// A dead-letter file that no other process of this folder writes: the configured one, or one beside it with a number.
    fn letters(&mut self) -> anyhow::Result<Letters> {
        let configured = &self.setup.engine.dead_letters;
        let stem = configured.file_stem().unwrap_or_default().to_string_lossy();
        let ending = configured.extension().unwrap_or_default().to_string_lossy();
        for number in 0..LETTER_FILES {
            let name = if number == 0 { format!("{stem}.{ending}") } else { format!("{stem}-{number}.{ending}") };
            let path = configured.with_file_name(&name);
            let beside = configured.with_file_name(format!("{name}.lock"));
            let lock = File::create(&beside).with_context(|| format!("{} cannot be written", beside.display()))?;
            match lock.try_lock() {
                Ok(()) => {
                    self.locks.push(lock);
                    return system::letters_at(&path, &self.stats, &self.stop_taking);
                }
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(error)) => return Err(error.into()),
            }
        }
        Err(anyhow!(
            "{LETTER_FILES} processes write dead letters in this folder already; give them folders of their own"
        ))
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

    /// Begins to read `sources`: what they deliver, whom to confirm it to, and whether they were reached.
    fn read(&mut self, sources: &[SourceConfig]) -> anyhow::Result<(mpsc::Receiver<Intake>, Confirming, Reached)> {
        let (intake, deliveries) = mpsc::channel(INTAKE);
        waiting::register(&intake, &mut self.registry);
        let (identity, stop) = (self.claimant("identity"), self.stop_edge.clone());
        self.archives = Archives::open(self.setup, Sharing::Shared, &mut self.registry, &self.stop_taking)?;
        let mut starter = Starter {
            setup: self.setup,
            intake,
            stop: &self.stop_taking,
            confirms: Confirms::after(self.setup.store.replay_window()),
            reached: Reached::default(),
            topics: TopicMetrics::register(&mut self.registry),
            identify: &|source| topics::identify_in_turn(identity.named(&format!("identity/{source}")), stop.clone()),
            archives: self.archives.clone(),
            #[cfg(feature = "postgres")]
            postgres: &PostgresMetrics::register(&mut self.registry),
        };
        for config in sources {
            starter.configured(config)?;
        }
        let Starter { confirms, reached, .. } = starter;
        Ok((deliveries, Confirming::new(confirms, self.archives.clone()), reached))
    }

    fn ingest(&mut self, ends_with_sources: bool) -> anyhow::Result<Reached> {
        let setup = self.setup;
        anyhow::ensure!(
            !setup.sources.is_empty(),
            "--role ingest has nothing to read: the configuration has no [source]"
        );
        topics::check(setup)?;
        let (deliveries, confirming, reached) = self.read(&republished::ingested(setup))?;
        let tracked = Arc::new(Tracked::new(Arc::clone(&self.online)));
        let letters = self.letters()?;
        let mut ingestor = Ingestor {
            plan: Arc::clone(&self.plan),
            pipeline: self.pipeline(&tracked),
            tracked,
            letters,
            sinks_letters: sinks::produces(setup, What::DeadLetters),
            stats: Arc::clone(&self.stats),
            fleet: Arc::clone(&self.fleet),
            judged_sources: JudgedSources::of(setup),
            confirming,
            stop: self.stop_taking.clone(),
        };
        let sources = setup.sources.len();
        self.thread("ingestor", move || async move {
            ingestor.run(deliveries, sources, ends_with_sources).await.map(drop)
        })?;
        Ok(reached)
    }

    /// Forgets what nothing reads any more while no other process does.
    fn sweep(&mut self) {
        let (online, store, sweeper) = (Arc::clone(&self.online), Arc::clone(&self.store), self.claimant("sweep"));
        let (by, stop) = (Sweeping::of(self.setup, []), self.stop_rest.clone());
        self.tasks.spawn(async move {
            let swept = |held: CancellationToken| {
                let ended = forget_ended(Arc::clone(&store), by.every, held.clone());
                let swept = sweep(Arc::clone(&online), by.clone(), held);
                async move { tokio::join!(swept, ended).0 }
            };
            sweeper.while_held(&stop, swept).await
        });
    }

    /// Starts the scorer's threads; the judges of all streams.
    async fn score(&mut self, model: Option<&Model>, queue: mpsc::Receiver<Command>) -> anyhow::Result<Judging> {
        let judging = || {
            let setup = self.setup;
            let in_force = model.map(|(runtime, active, _)| (runtime, active));
            let lists = Lists::new(usize::MAX, Vec::new());
            Judging::new(&setup.namespace, Arc::clone(&self.plan), &setup.policy, in_force, setup.engine.shards, lists)
        };
        let (for_work, for_requests, shown) = (judging()?, judging()?, judging()?);
        let mut scoring = Scoring {
            namespace: self.setup.namespace.clone(),
            plan: Arc::clone(&self.plan),
            queue: Arc::clone(&self.store),
            store: Arc::clone(&self.online),
            judging: for_work,
            stats: Arc::clone(&self.stats),
            outbox: Arc::clone(&self.outbox),
            logged: Arc::clone(&self.logged),
            stop: self.stop_taking.clone(),
            member: self.member,
        };
        self.thread("scorer", move || async move { scoring.run().await })?;
        if self.setup.serves_http {
            let answering = self.answering(for_requests).await?;
            self.thread("answerer", move || async move {
                let mut answering = answering;
                answering.run(queue).await
            })?;
        }
        self.deliver().await?;
        self.show_work();
        Ok(shown)
    }

    async fn answering(&mut self, judging: Judging) -> anyhow::Result<Answering> {
        let slot = self.slot().await?;
        let positions = self.store.positions(input_log::SOURCE).await?;
        let stored = positions.iter().find(|offset| offset.partition == slot).map(|offset| offset.position);
        let tracked = Arc::new(Tracked::new(Arc::clone(&self.online)));
        let letters = self.letters()?;
        Ok(Answering {
            namespace: self.setup.namespace.clone(),
            plan: Arc::clone(&self.plan),
            pipeline: self.pipeline(&tracked),
            tracked,
            judging,
            letters,
            sinks_letters: sinks::produces(self.setup, What::DeadLetters),
            stats: Arc::clone(&self.stats),
            fleet: Arc::clone(&self.fleet),
            outbox: Arc::clone(&self.outbox),
            logged: Arc::clone(&self.logged),
            stop: self.stop_taking.clone(),
            slot,
            next: stored.map_or(0, |position| position + 1),
        })
    }

    /// Takes a partition of the source `input` that no other scorer has.
    async fn slot(&mut self) -> anyhow::Result<u32> {
        for slot in 1..SLOTS {
            let claimant = self.claimant(&format!("input-{slot}"));
            if self.store.lease(&claimant.name, claimant.holder, claimant.time_to_live).await?.is_some() {
                let stop = self.stop_rest.clone();
                self.tasks.spawn(async move {
                    let is_kept = claimant.keep(&stop).await?;
                    anyhow::ensure!(is_kept, "another scorer took this one's place; start it again");
                    Ok(())
                });
                return Ok(slot);
            }
        }
        Err(anyhow!("{SLOTS} scorers answer requests of this namespace already"))
    }

    /// Carries actions out while no other process does. What receivers refuse now is a mistake that refuses the start; what they refuse
    /// once the system works ends nobody, since the next one to take over would be refused as well.
    async fn deliver(&mut self) -> anyhow::Result<()> {
        let metrics = DeliveryMetrics::register(&mut self.registry);
        let receivers = Arc::new(system::open_receivers(&self.setup.policy).await?);
        let limits = DeliveryLimits { intents: self.setup.store.outbox_capacity(), ..DeliveryLimits::default() };
        let store = Arc::clone(&self.online);
        let (outbox, stop, claimant) = (Arc::clone(&self.outbox), self.stop_rest.clone(), self.claimant("outbox"));
        self.tasks.spawn(async move {
            let deliver = |held: CancellationToken| {
                let (receivers, store) = (Arc::clone(&receivers), Arc::clone(&store));
                let (outbox, metrics) = (Arc::clone(&outbox), metrics.clone());
                async move {
                    let delivery = Delivery::new(store, Arc::clone(&receivers), limits, Shell, metrics.clone());
                    let mistakes = receivers.inspect(&metrics).await;
                    let looking = look_often(Arc::clone(&outbox), held.clone());
                    let inspecting = inspect_until_mended(&receivers, mistakes, &metrics, &held);
                    let (delivered, (), ()) = tokio::join!(delivery.run(outbox, held.clone()), looking, inspecting);
                    Ok(delivered?)
                }
            };
            Box::pin(claimant.while_held(&stop, deliver)).await
        });
        Ok(())
    }

    /// Starts the sinks of the roles played: ingestors produce dead letters, scorers decisions.
    async fn produce(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        let produce = Produce::read(self.setup, &self.online).await?;
        if produce.is_empty() {
            return Ok(());
        }
        let metrics = SinkMetrics::register(&mut self.registry);
        for (role, what) in [(Role::Ingest, What::DeadLetters), (Role::Scorer, What::Decisions)] {
            for config in self.setup.sinks.iter().filter(|sink| roles.contains(&role) && sink.what == what) {
                let feeder = Feeder::open(self.setup, config, &self.online, &produce, &metrics)?;
                let claimant = self.claimant(&format!("sink/{}", config.name));
                self.tasks.spawn(topics::produce(feeder, claimant, self.stop_rest.clone()));
            }
        }
        Ok(())
    }

    fn show_work(&mut self) {
        let (store, fleet, stop) = (Arc::clone(&self.store), Arc::clone(&self.fleet), self.stop_rest.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::select! {
                    () = tokio::time::sleep(WORK_LOOK) => {}
                    () = stop.cancelled() => return Ok(()),
                }
                if let Ok(waiting) = store.work_waiting().await {
                    fleet.work_waiting(waiting);
                }
            }
        });
    }

    /// Starts the monitor once no other process is one; false when told to stop before.
    async fn monitor(&mut self, model: Option<&Model>, told_to_stop: impl Future<Output = ()>) -> anyhow::Result<bool> {
        let config = self.setup.monitor.clone();
        let config = config.context("--role monitor has nothing to write: the configuration has no [monitor]")?;
        let claimant = self.claimant("monitor");
        let told = CancellationToken::new();
        let is_mine = tokio::select! {
            is_mine = claimant.acquire(&told) => is_mine?,
            // What else this process does may end meanwhile.
            ended = self.ended(told_to_stop) => {
                ended?;
                false
            }
        };
        if !is_mine {
            return Ok(false);
        }
        let reference = model.map(|(_, active, bundle)| watching::reference(active, bundle)).transpose()?;
        let (opened, courier) = Monitor::open(config, reference, &mut self.registry)?;
        // Positions that another monitor wrote are gone from the log; this one goes on behind them.
        self.store.log_next(LogName::DECISIONS).await?;
        self.tasks.spawn(watching::alert(courier, self.stop_rest.clone()));
        let shown = Arc::new(Mutex::new(None));
        let produce = Produce::read(self.setup, &self.online).await?;
        if !produce.is_empty() {
            self.tasks.spawn(topics::watch(produce.clone(), Arc::clone(&self.online), self.stop_rest.clone()));
        }
        let thread =
            watching::start(opened, &self.online, Arc::clone(&self.logged), &shown, produce, self.stop_rest.clone())
                .await?;
        let ends = self.ends.0.clone();
        let watch = move || {
            let _told_also_by_a_panic = Ending { name: "monitor", ends };
            thread.join().unwrap_or_else(|_panic| Err(anyhow!("the monitor's thread panicked")))
        };
        self.threads.push(("monitor", std::thread::Builder::new().name("monitor-watch".to_owned()).spawn(watch)?));
        let stop = self.stop_rest.clone();
        self.tasks.spawn(async move {
            anyhow::ensure!(claimant.keep(&stop).await?, "another process is the monitor now; start this one again");
            Ok(())
        });
        Ok(true)
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

    /// Stops in order and waits for everything.
    async fn stop(mut self) -> anyhow::Result<()> {
        self.stop_taking.stop();
        self.stop_edge.cancel();
        let (rest, mut threads) = (self.stop_rest.clone(), Vec::new());
        threads.append(&mut self.threads);
        let mut outcome = Ok(());
        for (name, thread) in threads {
            if name == "monitor" {
                rest.cancel();
            }
            let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
            outcome = outcome.and(ended.unwrap_or_else(|_panic| Err(anyhow!("the {name}'s thread panicked"))));
        }
        let archives = self.archives.clone();
        tokio::task::spawn_blocking(move || archives.finish()).await?;
        rest.cancel();
        while let Some(done) = self.tasks.join_next().await {
            outcome = outcome.and(done.unwrap_or_else(|error| Err(error.into())));
        }
        outcome
    }
}

#[cfg(not(all(feature = "kafka", feature = "postgres")))]
impl Process<'_> {
    fn republish(&mut self) -> anyhow::Result<Reached> {
        anyhow::bail!(
            "this program was built without Kafka or PostgreSQL, which --role republish needs: build it with --features kafka,postgres"
        )
    }
}

/// How a namespace is worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// By roles, none of which trusts its memory.
    Fleet,
    /// By one process that plays every role, and those that stand by for it.
    Alone,
}

/// Sees that the namespace is worked on in no other way; what is returned keeps it so until `stop`. All processes of a mode hold the lease
/// together, so none gives it back.
pub(crate) async fn hold_mode(
    store: &Arc<RedisStore>,
    mode: Mode,
    time_to_live: Duration,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let (holder, others) = match mode {
        Mode::Fleet => ("fleet", "a process without --role"),
        Mode::Alone => ("alone", "processes with --role"),
    };
    let holder = Uuid::new_v5(&Uuid::NAMESPACE_OID, holder.as_bytes());
    let claimant = Claimant { store: Arc::clone(store), name: "mode".to_owned(), holder, time_to_live };
    anyhow::ensure!(
        store.lease(&claimant.name, holder, time_to_live).await?.is_some(),
        "{others} works on this namespace, or did {} seconds ago at most: stop it first, or choose another namespace",
        time_to_live.as_secs_f64().ceil()
    );
    Ok(async move {
        let never = CancellationToken::new();
        tokio::select! {
            kept = claimant.keep(&never) => {
                anyhow::ensure!(kept?, "{others} took this namespace over: stop that, or this one");
                Ok(())
            }
            () = stop.cancelled() => Ok(()),
        }
    })
}

/// Removes list entries that ended, now and again and again until `stop`: no scorer holds the lists in memory, so none sees them end.
async fn forget_ended(store: Arc<RedisStore>, every: Duration, stop: CancellationToken) {
    loop {
        match store.forget_ended(clock::now()).await {
            Ok(0) => {}
            Ok(entries) => tracing::info!(entries, "removed list entries that ended"),
            Err(error) => tracing::error!(%error, "list entries that ended could not be removed; it is tried again"),
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Asks receivers that refuse something again and again, so that it is known when it is mended.
async fn inspect_until_mended(
    receivers: &Receivers,
    mistakes: usize,
    metrics: &DeliveryMetrics,
    stop: &CancellationToken,
) {
    let mut mistakes = mistakes;
    while mistakes > 0 {
        tokio::select! {
            () = tokio::time::sleep(INSPECT) => mistakes = receivers.inspect(metrics).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Wakes whoever waits for actions, again and again until `stop`: those of other processes wake nobody here.
async fn look_often(outbox: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(OUTBOX_LOOK) => outbox.notify_one(),
            () = stop.cancelled() => return,
        }
    }
}
