//! The command line: one variant and one module per subcommand.
//!
//! Invariant: exit code 0 when done, 1 when it failed, 2 when the command was not understood.

use std::fmt;
use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

use crate::{backfill, bench, check, demo, plan, run, score, simulate};

/// Real-time fraud feature store and scoring engine.
#[derive(Parser, Debug)]
#[command(name = "interdict", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    Demo(demo::Demo),
    Backfill(backfill::Backfill),
    Bench(bench::Bench),
    Check(check::Check),
    Plan(plan::Plan),
    Run(run::Run),
    Score(score::Score),
    Simulate(Box<simulate::Simulate>),
}

/// Reads the arguments and runs the command.
pub(crate) fn run() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Demo(command) => command.run(),
        Command::Backfill(command) => command.run(),
        Command::Bench(command) => command.run(),
        Command::Check(command) => command.run(),
        Command::Plan(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Score(command) => command.run(),
        Command::Simulate(command) => command.run(),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("interdict: {}", crate::told::told(&error));
            let is_usage = error.is::<simulate::Contradiction>();
            if is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

/// What `say!` does.
pub(crate) fn say(text: fmt::Arguments<'_>) {
    let _closed = writeln!(std::io::stdout(), "{text}");
}
