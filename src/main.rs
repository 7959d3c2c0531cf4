//! The `interdict` command line.

mod check;
mod cli;
mod plan;
mod run;
mod setup;
mod simulate;

fn main() -> std::process::ExitCode {
    cli::run()
}
