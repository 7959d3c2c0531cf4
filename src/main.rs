//! The `interdict` command line.

/// Prints a line to standard output; a reader that closed it has had enough.
macro_rules! say {
    ($($text:tt)*) => { $crate::cli::say(format_args!($($text)*)) };
}

mod backfill;
mod bench;
mod check;
mod cli;
mod demo;
#[cfg(test)]
#[path = "../fuzz/corpus.rs"]
mod fuzz_corpus;
mod plan;
mod run;
mod score;
mod setup;
mod simulate;
mod told;

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;

/// What is logged unless `INTERDICT_LOG` says otherwise: our own crates, and warnings of the libraries.
const LOGGED: &str =
    "warn,interdict=info,interdict_ingest=info,interdict_monitor=info,interdict_scorer=info,interdict_store=info";

/// Many small records per decision: the system's allocator spends its time on them otherwise.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    let filter = EnvFilter::try_from_env("INTERDICT_LOG").unwrap_or_else(|_unset| EnvFilter::new(LOGGED));
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(demo::journal::writer).with_target(false);
    // Elsewhere than on a terminal colours are bytes that nothing finds its words between. `NO_COLOR` holds on one.
    if std::io::stderr().is_terminal() {
        log.init()
    } else {
        log.with_ansi(false).init()
    }
    cli::run()
}
