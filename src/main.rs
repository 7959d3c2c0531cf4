//! The `interdict` command line.

mod cli;
mod simulate;

fn main() -> std::process::ExitCode {
    cli::run()
}
