//! The `interdict` command line.

mod cli;
mod run;
mod setup;
mod simulate;

fn main() -> std::process::ExitCode {
    cli::run()
}
