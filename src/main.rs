//! The `interdict` command line.

mod cli;
mod run;
mod setup;
mod simulate;

use tracing_subscriber::EnvFilter;

/// Many small records per decision: the system's allocator spends its time on them otherwise.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let filter = EnvFilter::try_from_env("INTERDICT_LOG").unwrap_or_else(|_unset| EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    cli::run()
}
