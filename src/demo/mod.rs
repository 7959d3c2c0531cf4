//! `interdict demo`: simulated payments through the engine of `interdict run`, watched live.
//!
//! Engine, store, model, monitor and HTTP edge are the real ones, with the handbook's configuration. Only the source is simulated, so
//! that the truth about every payment is known and counted beside its decision.
//!
//! Invariant: a folder that the demo made is removed at its end; one that was named stays, and named again it is taken up again.

pub(crate) mod journal;
mod latency;
mod numbers;
mod place;
mod screen;
mod show;
mod summary;
mod tally;
mod traffic;
mod view;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, bail};
use interdict_features::time::Span;
use interdict_store::port::Store as _;
use tokio_util::sync::CancellationToken;

use crate::run::clock;
use crate::run::sources::OwnSource;
use crate::run::system::{Start, System};
use crate::run::told_to_stop;
use crate::setup::Setup;

use place::Place;
use show::Show;
use summary::Summary;
use tally::Tally;
use traffic::{Learning, Traffic};

/// Ten redraws a second.
const REDRAW: Duration = Duration::from_millis(100);
/// Decisions of one drift window: about a simulated week. A shorter one finds every weekend and every night strange.
const DRIFT_ROWS: usize = 67_000;

/// Watch simulated payments go through features, model, decision and block.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Demo {
    /// Events per second
    #[arg(long, value_name = "N", default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    speed: u32,
    /// End with a summary after so many seconds of live traffic
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    seconds: Option<u64>,
    /// Port on 127.0.0.1; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8080)]
    port: u16,
    /// Everything simulated follows from this number
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Keep store, decision log and configuration here; named again, the demo goes on where it ended [default: a
    /// temporary folder, removed at the end]
    #[arg(long, value_name = "FOLDER")]
    folder: Option<PathBuf>,
}

/// Why a phase is over.
enum Over {
    /// It is complete.
    Done,
    /// Somebody asked for the end.
    Asked,
}

impl Demo {
    /// Plays until told to stop, or for the given time, and prints the summary.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        self.check_port()?;
        let place = Place::prepare(self.folder.as_deref())?;
        let setup = self.setup(&place)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.play(&setup, &place))
    }

    /// Says in time, and what to do, that the port is taken.
    fn check_port(&self) -> anyhow::Result<()> {
        match TcpListener::bind((Ipv4Addr::LOCALHOST, self.port)) {
            Ok(_freed_at_once) => Ok(()),
            Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => bail!(
                "port {} on 127.0.0.1 is taken by another program: choose one with --port N, or any free one with --port 0",
                self.port
            ),
            Err(error) => {
                Err(error).with_context(|| format!("port {} on 127.0.0.1; choose another with --port N", self.port))
            }
        }
    }

    fn setup(&self, place: &Place) -> anyhow::Result<Setup> {
        let mut setup = place.setup()?;
        setup.sources.clear();
        setup.http.bind.set_port(self.port);
        if let Some(monitor) = &mut setup.monitor {
            monitor.drift.rows_max = DRIFT_ROWS;
            monitor.drift.rows_min = DRIFT_ROWS;
            monitor.drift.age_max = Span::DAY;
        }
        Ok(setup)
    }

    async fn play(&self, setup: &Setup, place: &Place) -> anyhow::Result<()> {
        let asked = CancellationToken::new();
        let asks = asked.clone();
        let told = told_to_stop();
        tokio::spawn(async move {
            told.await;
            asks.cancel();
        });
        let tally = Arc::new(Mutex::new(Tally::default()));
        let learning = Arc::new(Learning::default());
        let (go, ready) = sync_channel(1);
        let stream =
            setup.definitions.stream("transactions").context("the configuration has no stream 'transactions'")?;
        let traffic = Traffic::new(self.seed, self.speed, stream, &tally, &learning, ready)?;
        let source = OwnSource {
            name: traffic::SOURCE.to_owned(),
            incarnation: Some(traffic.incarnation()),
            read: Box::new(move |intaker, stop, position| traffic.run(&intaker, &stop, position)),
        };
        let mut show = Show::open(self.speed, place);
        let start = Start { sources: vec![source], ends_with_sources: false };
        let mut system = System::start(setup, start).await.with_context(|| place.advice())?;
        let watched = Arc::clone(&tally);
        system.stats.watch(move |record| {
            watched.lock().unwrap_or_else(PoisonError::into_inner).decided(record, clock::instant());
        });
        let played = match self.learn(&mut system, &learning, &mut show, &asked).await {
            Ok(Over::Done) => match show.begin(system.http) {
                Ok(()) => {
                    // The source's thread has ended when this fails; the system says why.
                    let _ended = go.send(());
                    self.watch(&mut system, &tally, &mut show, &asked).await
                }
                Err(error) => Err(error.into()),
            },
            other => other,
        };
        drop(go);
        let lived = show.lived();
        let monitor = Arc::clone(&system.monitor);
        let stopped = system.stop().await;
        drop(show);
        let monitor = monitor.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let tally = tally.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(lived) = lived {
            let summary = Summary { tally: &tally, lived, monitor: monitor.as_ref(), place };
            print(&summary.lines());
        }
        played.and(stopped.map(drop))
    }

    /// Waits until history is applied and stored.
    async fn learn(
        &self,
        system: &mut System,
        learning: &Learning,
        show: &mut Show,
        asked: &CancellationToken,
    ) -> anyhow::Result<Over> {
        let incarnation = traffic::incarnation(self.seed);
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                ended = system.ended() => return ended.map(|()| Over::Asked),
                () = asked.cancelled() => return Ok(Over::Asked),
                _ = redraw.tick() => {}
            }
            show.learning(system.stats.events());
            if learning.is_fed.load(Ordering::Acquire) {
                let offsets = system.store.offsets(traffic::SOURCE, &incarnation).await?;
                let stored = offsets.first().map_or(0, |offset| offset.position);
                if stored >= learning.position.load(Ordering::Acquire) {
                    show.learned(system.stats.events());
                    return Ok(Over::Done);
                }
            }
        }
    }

    /// Shows live traffic until its time is over or somebody asks for the end.
    async fn watch(
        &self,
        system: &mut System,
        tally: &Mutex<Tally>,
        show: &mut Show,
        asked: &CancellationToken,
    ) -> anyhow::Result<Over> {
        let mut redraw = tokio::time::interval(REDRAW);
        redraw.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        let end = async {
            match self.seconds {
                Some(seconds) => tokio::time::sleep(Duration::from_secs(seconds)).await,
                None => std::future::pending().await,
            }
        };
        let mut end = std::pin::pin!(end);
        loop {
            tokio::select! {
                ended = system.ended() => return ended.map(|()| Over::Done),
                () = asked.cancelled() => return Ok(Over::Asked),
                () = &mut end => return Ok(Over::Done),
                _ = redraw.tick() => {}
            }
            let monitor = system.monitor.lock().unwrap_or_else(PoisonError::into_inner).clone();
            if show.draw(tally, monitor.as_ref())? == screen::Wish::Leave {
                return Ok(Over::Asked);
            }
        }
    }
}

/// Writes lines to standard output; a reader that has gone is no failure.
fn print(lines: &[String]) {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    for line in lines {
        if writeln!(out, "{line}").is_err() {
            return;
        }
    }
    let _reader_gone = out.flush();
}
