//! All parts of an embedded deployment, started together and stopped in order.
//!
//! Threads: one per source and one for its archive, one for the engine, one for the monitor; the edge and deliveries run on the async runtime.
//! Every queue is bounded: deliveries ([`INTAKE`]), commands ([`QUEUE`]).
//!
//! Order of shutdown: sources and edge stop taking, the engine works off what is queued and makes a last checkpoint, archives publish
//! what is stored, the monitor writes what is left of the decision log, deliveries end.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use interdict_features::engine::Plan;
use interdict_features::time::Timestamp;
use interdict_ingest::archive::folder::Sharing;
use interdict_ingest::dead_letter::file::{Bounds, DeadLetterFile};
use interdict_ingest::pipeline::{Limits, Pipeline};
#[cfg(feature = "redis")]
use interdict_ingest::source::config::SourceKind;
#[cfg(feature = "postgres")]
use interdict_ingest::source::postgres::metrics::PostgresMetrics;
use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_ingest::topic::sink::What;
use interdict_monitor::metrics::Metrics as MonitorMetrics;
use interdict_monitor::monitor::{Monitor, MonitorState};
use interdict_scorer::action::delivery::Surroundings;
use interdict_scorer::activation::{Active, activate};
use interdict_scorer::bundle::Bundle;
use interdict_scorer::http::backend::ModelEntry;
use interdict_scorer::http::edge::EdgeParts;
use interdict_scorer::http::metrics::HttpMetrics;
use interdict_scorer::http::server::Server;
use interdict_scorer::lists::Lists;
use interdict_scorer::runtime::{LIBRARY_VARIABLE, Runtime};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::metrics::StoreMetrics;
use interdict_store::online::OnlineStore;
use interdict_store::port::Store as _;
use prometheus_client::registry::Registry;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::setup::{Setup, StoreSettings};

use super::archiving::Archives;
use super::charge::Charge;
use super::clock;
use super::commands::Command;
use super::core::{Core, End, Intake, position_of};
use super::delivering;
use super::desk::{Desk, Health, QUEUE, model_entry};
#[cfg(feature = "redis")]
use super::fleet;
use super::judging::Judging;
use super::letters::Letters;
use super::maintenance::{Sweeping, sweep};
use super::reached::{Beside, Reached};
use super::sinks;
use super::sources::{Confirms, JudgedSources, OwnSource, Starter};
use super::stats::Stats;
#[cfg(feature = "redis")]
use super::taking_over;
use super::topics::Alone;
use super::{waiting, watching};

/// Deliveries that wait for the engine at most, over all sources.
pub(crate) const INTAKE: usize = 4;

/// How often it is looked whether a thread beside the engine's has ended.
const LOOK: Duration = Duration::from_millis(250);

/// What runs.
pub(crate) struct System {
    pub(crate) stats: Arc<Stats>,
    pub(crate) store: Arc<OnlineStore>,
    pub(crate) monitor: Arc<Mutex<Option<MonitorState>>>,
    pub(crate) http: Option<SocketAddr>,
    stop_sources: Stop,
    stop_edge: CancellationToken,
    stop_rest: CancellationToken,
    engine: JoinHandle<anyhow::Result<End>>,
    monitor_thread: Option<JoinHandle<anyhow::Result<()>>>,
    sink_threads: Vec<JoinHandle<anyhow::Result<sinks::End>>>,
    health: watch::Receiver<Health>,
    tasks: JoinSet<anyhow::Result<()>>,
    archives: Archives,
    edge: Option<tokio::task::JoinHandle<()>>,
}

/// How a system is to run.
pub(crate) struct Start {
    pub(crate) sources: Vec<OwnSource>,
    /// Whether the engine ends when every source has.
    pub(crate) ends_with_sources: bool,
}

/// The wall clock and chance for deliveries.
pub(crate) struct Shell;

impl Surroundings for Shell {
    fn now(&self) -> Timestamp {
        clock::now()
    }

    fn jitter(&self) -> f64 {
        rand::random()
    }
}

/// Finds and loads the ONNX Runtime library.
#[expect(clippy::disallowed_methods, reason = "the library's place is configuration")]
pub(crate) fn load_runtime() -> anyhow::Result<Runtime> {
    let named = std::env::var(LIBRARY_VARIABLE).ok().map(PathBuf::from);
    let here = std::env::current_dir().unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_default();
    let mut folders: Vec<&Path> = vec![&here];
    folders.extend(program.ancestors().skip(1));
    Ok(Runtime::load(&Runtime::locate(named.as_deref(), &folders)?)?)
}

/// Loads and activates the bundle that the policy names.
pub(crate) fn load_model(setup: &Setup) -> anyhow::Result<Option<(Runtime, Arc<Active>, Bundle)>> {
    let (Some(folder), Some(stream)) = (&setup.policy.bundle, setup.policy.stream) else { return Ok(None) };
    let bundle = Bundle::load(folder)?;
    let runtime = load_runtime()?;
    let active = activate(&runtime, &bundle, &setup.definitions, stream)?;
    Ok(Some((runtime, Arc::new(active), bundle)))
}

/// Opens the store that the configuration names.
pub(crate) async fn open_store(setup: &Setup) -> anyhow::Result<OnlineStore> {
    match &setup.store {
        StoreSettings::Embedded(settings) => {
            let options =
                EmbeddedOptions { cache_bytes: settings.cache_bytes, outbox_capacity: settings.outbox_capacity };
            Ok(OnlineStore::embedded(EmbeddedStore::open(&settings.path, options)?))
        }
        #[cfg(feature = "redis")]
        StoreSettings::Redis { config, .. } => {
            let opened = interdict_store::redis::RedisStore::connect((**config).clone()).await;
            let opened =
                opened.context("the store cannot be opened; see to what follows, then start this process again");
            Ok(OnlineStore::redis(opened?))
        }
    }
}

/// The engine's part, with nothing attached to it yet.
async fn open_core(
    setup: &Setup,
    plan: &Arc<Plan>,
    store: &Arc<OnlineStore>,
    model: Option<&(Runtime, Arc<Active>, Bundle)>,
    stats: &Arc<Stats>,
    stop: &Stop,
    charge: Charge,
) -> anyhow::Result<Core<OnlineStore>> {
    let lists = Lists::new(setup.policy.list_entries_max, store.lists().await?);
    let in_force = model.map(|(runtime, active, _)| (runtime, active));
    let shards = setup.engine.shards;
    let limits = Limits { shards, memory_bytes: setup.engine.memory_bytes };
    let mut pipeline = Pipeline::new(Arc::clone(plan), Arc::clone(store), limits);
    pipeline.began(clock::now());
    for source in &setup.sources {
        pipeline.take_up(&source.name, &store.positions(&source.name).await?);
    }
    Ok(Core {
        namespace: setup.namespace.clone(),
        pipeline,
        judging: Judging::new(&setup.namespace, Arc::clone(plan), &setup.policy, in_force, shards, lists)?,
        store: Arc::clone(store),
        letters: open_letters(setup, stats, stop)?,
        stats: Arc::clone(stats),
        outbox: Arc::new(Notify::new()),
        logged: Arc::new(Notify::new()),
        checkpoint_interval: Duration::from_micros(setup.engine.checkpoint.micros().unsigned_abs()),
        last_checkpoint: clock::instant(),
        next_input: 0,
        judged_sources: JudgedSources::of(setup),
        confirms: Confirms::default(),
        archives: Archives::default(),
        is_confirmed: true,
        last_confirm: clock::instant(),
        past_replay: HashSet::new(),
        promises: Arc::default(),
        stop: stop.clone(),
        last_list_sweep: clock::instant(),
        charge,
        reached: Reached::default(),
        attaching: Vec::new(),
    })
}

/// The dead-letter file.
fn open_letters(setup: &Setup, stats: &Arc<Stats>, stop: &Stop) -> anyhow::Result<Letters> {
    let mut letters = letters_at(&setup.engine.dead_letters, stats, stop)?;
    if sinks::produces(setup, What::DeadLetters) {
        letters.log();
    }
    Ok(letters)
}

/// The dead-letter file at `path`.
pub(crate) fn letters_at(path: &Path, stats: &Arc<Stats>, stop: &Stop) -> anyhow::Result<Letters> {
    let file = DeadLetterFile::open(path, Bounds::default())?;
    Ok(Letters::new(file, Arc::clone(stats), stop.clone()))
}

/// What the edge asks: the engine's thread, and the store beside it.
fn open_desk(
    core: &Core<OnlineStore>,
    commands: mpsc::Sender<Command>,
    health: watch::Receiver<Health>,
    reached: Reached,
    model: Option<ModelEntry>,
) -> Desk {
    let plan = Arc::clone(core.pipeline.engine().plan());
    Desk {
        namespace: core.namespace.clone(),
        commands,
        store: Arc::clone(&core.store),
        judges: (0..plan.streams.len()).map(|stream| core.judging.judge_of(stream).cloned()).collect(),
        plan,
        promises: Arc::clone(&core.promises),
        stats: Arc::clone(&core.stats),
        health,
        reached,
        model,
    }
}

pub(crate) async fn serve(server: Server, stop: CancellationToken) {
    let drained = server.serve(stop).await;
    if drained.cut_off > 0 {
        tracing::warn!(connections = drained.cut_off, "connections were cut off at the end");
    }
}

/// Takes what one process alone may have of a store that others reach, and keeps it.
#[cfg(feature = "redis")]
async fn hold_alone(
    setup: &Setup,
    store: &OnlineStore,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<Charge> {
    let Some(store) = store.shared() else { return Ok(Charge::Sole) };
    // Before the lease is taken, which would keep scorers away; for certain once charge is taken.
    taking_over::ensure_judged(&**store).await?;
    let turn = fleet::Turn::begin(store, fleet::Mode::Alone, setup.store.lease()).await?;
    tasks.spawn(turn.clone().keep(stop.clone()));
    let is_any = |is: fn(&SourceKind) -> bool| setup.sources.iter().any(|source| is(&source.kind));
    if !is_any(|kind| matches!(kind, SourceKind::Topic(_))) && is_any(|kind| matches!(kind, SourceKind::Postgres(_))) {
        return Ok(Charge::Open(turn));
    }
    let only = fleet::Only::begin(store, setup.store.lease()).await?;
    tasks.spawn(only.clone().keep(stop.clone()));
    Ok(Charge::Open(turn.of(only)))
}

impl System {
    /// Starts everything that `setup` declares, and the caller's own sources.
    pub(crate) async fn start(setup: &Setup, start: Start) -> anyhow::Result<Self> {
        let mut registry = Registry::default();
        let stats = Arc::new(Stats::register(&mut registry));
        let store = open_store(setup).await?.measured_by(StoreMetrics::register(&mut registry));
        let store = Arc::new(store);
        let stop_rest = CancellationToken::new();
        let mut tasks = JoinSet::new();
        #[cfg(feature = "redis")]
        let charge = hold_alone(setup, &store, &stop_rest, &mut tasks).await?;
        #[cfg(not(feature = "redis"))]
        let charge = Charge::Sole;
        let model = load_model(setup)?;
        let plan = Arc::new(Plan::compile(Arc::clone(&setup.definitions)));
        let stop_sources = Stop::default();
        let mut core = open_core(setup, &plan, &store, model.as_ref(), &stats, &stop_sources, charge).await?;
        let (produce, sink_threads) = sinks::start(setup, &store, &mut registry, &stop_rest).await?;
        let (intake, deliveries) = mpsc::channel(INTAKE);
        waiting::register(&intake, &mut registry);
        let open_sources = setup.sources.len() + start.sources.len();
        let archives = Archives::open(setup, Sharing::Alone, &mut registry, &stop_sources)?;
        core.archives = archives.clone();
        let sweeping = Sweeping::of(setup, start.sources.iter().map(|own| own.name.clone()));
        let sweeping = sweeping.alone(setup, &store).await?;
        let reached = start_sources(setup, start.sources, intake, &stop_sources, &mut core, &mut registry).await?;
        delivering::start(setup, &core, &mut registry, &stop_rest, &mut tasks).await?;
        tasks.spawn(sweep(Arc::clone(&store), sweeping, stop_rest.clone()));
        let monitor = Arc::new(Mutex::new(None));
        let monitor_thread = match &setup.monitor {
            Some(config) => {
                let reference =
                    model.as_ref().map(|(_, active, bundle)| watching::reference(active, bundle)).transpose()?;
                let (opened, courier) =
                    Monitor::open(config.clone(), reference, MonitorMetrics::register(&mut registry))?;
                tasks.spawn(watching::alert(courier, stop_rest.clone()));
                let until = sinks::Until::stopped(&stop_rest);
                Some(watching::start(opened, &store, Arc::clone(&core.logged), &monitor, produce, until).await?)
            }
            None => None,
        };
        let (commands, queue) = mpsc::channel(QUEUE);
        let (health, health_seen) = watch::channel(Health::Starting);
        let stop_edge = CancellationToken::new();
        let (mut http, mut edge) = (None, None);
        if setup.serves_http {
            let model = model.as_ref().map(|(_, active, _)| model_entry(active, clock::now()));
            let desk = open_desk(&core, commands.clone(), health_seen.clone(), reached, model);
            let server = bind(setup, desk, registry).await?;
            http = Some(server.local_addr());
            edge = Some(tokio::spawn(serve(server, stop_edge.clone())));
        }
        // Without an edge nobody sends commands: the channel closes and sources alone keep the engine going.
        drop(commands);
        let engine = start_engine(core, queue, deliveries, open_sources, start.ends_with_sources, health)?;
        Ok(Self {
            stats,
            store,
            monitor,
            http,
            stop_sources,
            stop_edge,
            stop_rest,
            engine,
            monitor_thread,
            sink_threads,
            health: health_seen,
            tasks,
            archives,
            edge,
        })
    }

    /// Waits until the engine has ended by itself, or a task or a thread that must not end has.
    pub(crate) async fn ended(&mut self) -> anyhow::Result<()> {
        let mut health = self.health.clone();
        tokio::select! {
            _ = health.wait_for(|health| *health == Health::Ended) => Ok(()),
            Some(done) = self.tasks.join_next(), if !self.tasks.is_empty() => match done {
                Ok(result) => result.and_then(|()| Err(anyhow!("a part of the process has ended by itself; see the log for what came before"))),
                Err(error) => Err(error.into()),
            },
            // Why, their threads say when they are joined.
            () = one_ends(self.monitor_thread.as_ref(), &self.sink_threads) => Ok(()),
        }
    }

    /// Asks sources and edge to take no more.
    pub(crate) fn stop_taking(&self) {
        self.stop_sources.stop();
        self.stop_edge.cancel();
    }

    /// Stops in order and waits for everything; returns how the engine ended.
    pub(crate) async fn stop(mut self) -> anyhow::Result<End> {
        self.stop_taking();
        if let Some(edge) = self.edge.take() {
            edge.await.context("the HTTP edge")?;
        }
        let engine = self.engine;
        let end = tokio::task::spawn_blocking(move || engine.join()).await?;
        let archives = self.archives;
        tokio::task::spawn_blocking(move || archives.finish()).await?;
        let end = end.map_err(|_panic| anyhow!("the engine's thread panicked"))?;
        self.stop_rest.cancel();
        if let Some(thread) = self.monitor_thread {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
            ended.map_err(|_panic| anyhow!("the monitor's thread panicked"))??;
        }
        for thread in self.sink_threads {
            let ended = tokio::task::spawn_blocking(move || thread.join()).await?;
            ended.map_err(|_panic| anyhow!("the thread of a sink panicked"))??;
        }
        while let Some(done) = self.tasks.join_next().await {
            done??;
        }
        end
    }
}

/// Waits until the monitor has ended, or a sink: a process of which a part has gone must not look as if it worked.
async fn one_ends<M, T>(monitor: Option<&JoinHandle<M>>, sinks: &[JoinHandle<T>]) {
    while !monitor.is_some_and(JoinHandle::is_finished) && !sinks.iter().any(JoinHandle::is_finished) {
        tokio::time::sleep(LOOK).await;
    }
}

/// Who else may be at work on the store of a process without a role.
const fn beside(charge: &Charge) -> Beside {
    match charge {
        Charge::Sole => Beside::Nobody,
        #[cfg(feature = "redis")]
        Charge::Open(_) | Charge::Taken(_) => Beside::Standbys,
    }
}

/// Starts every configured source and the caller's own.
async fn start_sources(
    setup: &Setup,
    own: Vec<OwnSource>,
    intake: mpsc::Sender<Intake>,
    stop: &Stop,
    core: &mut Core<OnlineStore>,
    registry: &mut Registry,
) -> anyhow::Result<Reached> {
    let mut starter = Starter {
        setup,
        #[cfg(feature = "postgres")]
        plan: Arc::clone(core.pipeline.engine().plan()),
        intake,
        stop,
        confirms: Confirms::after(setup.store.replay_window()),
        reached: Reached::beside(beside(&core.charge)),
        topics: TopicMetrics::register(registry),
        among: &|_name| Box::new(Alone::default()),
        archives: core.archives.clone(),
        #[cfg(feature = "postgres")]
        postgres: &PostgresMetrics::register(registry),
    };
    for config in &setup.sources {
        starter.configured(config)?;
    }
    for own in own {
        let stored = core.pipeline.attach(&own.name, own.incarnation.as_deref()).await?;
        starter.own(own, position_of(&stored, 0))?;
    }
    core.confirms = starter.confirms;
    core.reached = starter.reached.clone();
    Ok(starter.reached)
}

fn start_engine(
    mut core: Core<OnlineStore>,
    commands: mpsc::Receiver<Command>,
    deliveries: mpsc::Receiver<Intake>,
    open_sources: usize,
    ends_with_sources: bool,
    health: watch::Sender<Health>,
) -> anyhow::Result<JoinHandle<anyhow::Result<End>>> {
    let runtime = tokio::runtime::Handle::current();
    let work = move || {
        let begun = || {
            health.send_replace(Health::Working);
        };
        let end = runtime.block_on(core.run(commands, deliveries, open_sources, ends_with_sources, begun));
        if let Err(error) = &end {
            tracing::error!(error = crate::told::told(error), "the engine has ended");
        }
        health.send_replace(Health::Ended);
        end
    };
    Ok(std::thread::Builder::new().name("engine".to_owned()).spawn(work)?)
}

pub(crate) async fn bind(setup: &Setup, desk: Desk, mut registry: Registry) -> anyhow::Result<Server> {
    let metrics = HttpMetrics::register(&mut registry);
    #[expect(clippy::disallowed_methods, reason = "keys are configuration")]
    let keys = setup.http.load_keys(|name| std::env::var(name).ok())?;
    let parts = EdgeParts {
        settings: setup.http.clone(),
        keys,
        backend: desk,
        definitions: Arc::clone(&setup.definitions),
        metrics,
        registry: Arc::new(registry),
    };
    Ok(Server::bind(parts).await?)
}
