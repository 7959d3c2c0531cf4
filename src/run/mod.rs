//! `interdict run`: an embedded deployment from its configuration.

mod blocks;
pub(crate) mod clock;
mod commands;
mod core;
mod deciding;
mod desk;
pub(crate) mod input_log;
mod intake;
pub(crate) mod judging;
mod known;
mod maintenance;
mod promises;
mod requests;
mod sinks;
pub(crate) mod sources;
pub(crate) mod stats;
pub(crate) mod system;
mod taking_over;
mod topics;
mod watching;

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
}

impl Run {
    /// Runs until told to stop, or until the sources end.
    pub(crate) fn run(&self) -> anyhow::Result<()> {
        let setup = Setup::load(&self.config)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        runtime.block_on(self.serve(&setup))
    }

    async fn serve(&self, setup: &Setup) -> anyhow::Result<()> {
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
            () = told_to_stop() => {
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

/// SIGINT or SIGTERM.
pub(crate) async fn told_to_stop() {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .expect("a process may always listen for SIGTERM");
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
}
