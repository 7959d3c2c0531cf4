//! `interdict run`: a deployment from its configuration, as one process or as one of several roles.

mod archiving;
mod blocks;
mod charge;
pub(crate) mod clock;
mod commands;
mod core;
mod deciding;
mod delivering;
mod desk;
pub(crate) mod filling;
#[cfg(feature = "redis")]
mod fleet;
pub(crate) mod input_log;
mod intake;
pub(crate) mod judging;
mod known;
pub(crate) mod letters;
mod maintenance;
mod patience;
mod promises;
mod pruning;
mod reached;
mod republished;
mod requests;
mod sinks;
pub(crate) mod sources;
pub(crate) mod stats;
pub(crate) mod system;
mod taking_over;
mod telling;
mod topics;
pub(crate) mod trimming;
pub(crate) mod unread;
mod waiting;
mod watching;

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::setup::Setup;
use system::{Start, System};

/// Runs a deployment: sources in, decisions out, HTTP on the configured address.
#[derive(clap::Args, Debug)]
pub(crate) struct Run {
    /// The configuration.
    #[arg(long, short, default_value = "interdict.toml")]
    config: PathBuf,
    /// End when every source is at its end. Without an [http] section this is so anyhow.
    #[arg(long)]
    until_end: bool,
    /// What this process does: roles but `all` share the work with any number of other processes over one Redis
    #[arg(long, value_enum, value_delimiter = ',', default_value = "all")]
    role: Vec<Role>,
    /// Serve HTTP on this address instead of that of [http] bind
    #[arg(long, value_name = "ADDRESS:PORT")]
    bind: Option<SocketAddr>,
}

/// What a process does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub(crate) enum Role {
    /// Everything, alone: one process over an embedded store or a Redis
    All,
    /// Reads streams, keeps rows and states, leaves what is to be judged
    Ingest,
    /// Hands on what databases deliver to topics that ingestors read: [source.republish]
    Republish,
    /// Judges, answers HTTP, carries actions out
    Scorer,
    /// Writes decisions to Parquet, tests for drift, tells of alerts
    Monitor,
}

impl Run {
    /// Runs until told to stop, or until the sources end.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let mut setup = Setup::load(&self.config)?;
        if let Some(bind) = self.bind {
            setup.http.bind = bind;
            setup.serves_http = true;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        if self.role == [Role::All] {
            return runtime.block_on(self.serve(&setup));
        }
        anyhow::ensure!(!self.role.contains(&Role::All), "--role all stands alone: it plays every role by itself");
        anyhow::ensure!(
            self.role == [Role::Republish] || !self.role.contains(&Role::Republish),
            "--role republish stands alone: run the other roles as processes beside it"
        );
        #[cfg(feature = "redis")]
        return runtime.block_on(fleet::serve(&setup, &self.role, self.until_end));
        #[cfg(not(feature = "redis"))]
        anyhow::bail!(
            "this program was built without Redis, which roles of their own need: build it with --features redis"
        )
    }

    async fn serve(&self, setup: &Setup) -> anyhow::Result<()> {
        let told_to_stop = told_to_stop();
        republished::refuse(setup)?;
        let ends_with_sources = self.until_end || !setup.serves_http;
        if setup.sources.is_empty() && !setup.serves_http {
            anyhow::bail!("nothing to do: the configuration has neither [source] nor [http]");
        }
        let mut system = System::start(setup, Start { sources: Vec::new(), ends_with_sources }).await?;
        match system.http {
            Some(address) => tracing::info!(%address, "serving"),
            None => tracing::info!("running"),
        }
        let ended = tokio::select! {
            ended = system.ended() => ended,
            () = told_to_stop => {
                tracing::info!("stopping: what was taken is worked off first");
                Ok(())
            }
        };
        let stats = std::sync::Arc::clone(&system.stats);
        let stopped = system.stop().await;
        let [approved, reviewed, blocked] = stats.outcomes();
        tracing::info!(events = stats.events(), approved, reviewed, blocked, "stopped");
        ended.and(stopped.map(drop))
    }
}

/// SIGINT or SIGTERM, from the call on: what comes before it is awaited is not lost.
pub(crate) fn told_to_stop() -> impl Future<Output = ()> {
    use tokio::signal::unix::{SignalKind, signal};
    let listen = |kind| signal(kind).expect("a process may always listen for signals");
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt()), listen(SignalKind::terminate()));
    async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    }
}
