//! How far long work has come: a bar on a terminal, a line per phase elsewhere.

use std::io::IsTerminal as _;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// One phase of the work.
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    /// Begins a phase of `steps` steps.
    pub(crate) fn begin(what: &'static str, steps: usize) -> Self {
        if !std::io::stderr().is_terminal() {
            eprintln!("{what} ...");
            return Self { bar: None };
        }
        let style = ProgressStyle::with_template("{msg:12} {bar:32} {pos} of {len} parts, {eta} left");
        let bar = ProgressBar::with_draw_target(Some(steps as u64), ProgressDrawTarget::stderr())
            .with_style(style.unwrap_or_else(|_invalid| ProgressStyle::default_bar()))
            .with_message(what);
        Self { bar: Some(bar) }
    }

    /// One step is done.
    pub(crate) fn advance(&self) {
        if let Some(bar) = &self.bar {
            bar.inc(1);
        }
    }

    /// The phase is over.
    pub(crate) fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
