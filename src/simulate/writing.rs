//! Carries changes to their outputs: rows, chargebacks, the truth; in time if asked.

use std::io::{self, Write as _};

use anyhow::Context as _;

use super::changes::{Change, What};
use super::format::{Sink, Writer};
use super::generator::Config;
use super::output::{Output, Placement};
use super::pace::Pacer;
use super::summary::{self, Progress, Summary};
use super::{Plan, Simulate};

/// What to do after a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// Go on.
    Continue,
    /// Nobody reads on, or a paced run has its last transaction.
    Stop,
}

/// The outputs of one run.
pub(super) struct Writing {
    rows: Writer,
    rows_output: Output,
    chargebacks: Option<(Writer, Output)>,
    truth: Option<(Sink, Output)>,
    pacer: Option<Pacer>,
    config: Config,
    progress: Progress,
    summary: Summary,
}

impl Writing {
    /// Creates every output.
    pub(super) fn open(options: &Simulate, plan: &Plan, expected: u64) -> anyhow::Result<Self> {
        let placement = if options.pace.is_some() { Placement::InPlace } else { Placement::Whole };
        let rows_output = Output::new(&options.output, placement);
        let rows = Writer::of_transactions(plan.format, plan.columns, plan.envelope, rows_output.sink()?)
            .with_context(|| rows_output.describe())?;
        let mut chargebacks = None;
        if let Some(path) = &options.labels {
            let output = Output::new(path, placement);
            let writer = Writer::of_chargebacks(plan.format, plan.envelope, output.sink()?);
            chargebacks = Some((writer.with_context(|| output.describe())?, output));
        }
        let mut truth = None;
        if let Some(path) = &options.truth {
            let output = Output::new(path, placement);
            let mut sink = output.sink()?;
            writeln!(sink, "{}", summary::TRUTH_HEAD).with_context(|| output.describe())?;
            truth = Some((sink, output));
        }
        Ok(Self {
            rows,
            rows_output,
            chargebacks,
            truth,
            pacer: options.pace.map(|pace| Pacer::new(pace, plan.config.start_micros)),
            config: plan.config.clone(),
            progress: Progress::begin(expected),
            summary: Summary::default(),
        })
    }

    /// Writes one change, when its time has come.
    pub(super) fn write(&mut self, change: &Change) -> anyhow::Result<Next> {
        if self.pace(change)? == Next::Stop {
            return Ok(Next::Stop);
        }
        match (&change.what, &mut self.chargebacks) {
            (What::Chargeback(_), Some((writer, output))) => {
                writer.write(change).with_context(|| output.describe())?;
            }
            _ => {
                let written = self.rows.write(change);
                if self.ends_quietly(written)? == Next::Stop {
                    return Ok(Next::Stop);
                }
            }
        }
        if let Some((sink, output)) = &mut self.truth {
            summary::write_truth(sink, change).with_context(|| output.describe())?;
        }
        self.summary.add(change);
        self.progress.advance(self.summary.transactions);
        Ok(Next::Continue)
    }

    /// Waits for the change's time, with everything before it handed over.
    fn pace(&mut self, change: &Change) -> anyhow::Result<Next> {
        let Some(pacer) = &self.pacer else {
            return Ok(Next::Continue);
        };
        if self.summary.is_complete(self.config.length, change.commit_micros, self.config.first_midnight()) {
            return Ok(Next::Stop);
        }
        if pacer.is_early(change.delivered_micros) {
            if let Some((writer, output)) = &mut self.chargebacks {
                writer.flush().with_context(|| output.describe())?;
            }
            let flushed = self.rows.flush();
            pacer.wait(change.delivered_micros);
            return self.ends_quietly(flushed);
        }
        Ok(Next::Continue)
    }

    /// A reader that closes standard output has had enough: no failure.
    fn ends_quietly(&mut self, written: io::Result<()>) -> anyhow::Result<Next> {
        match written {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && self.rows_output.is_standard() => {
                self.summary.reader_closed = true;
                Ok(Next::Stop)
            }
            Err(error) => Err(error).with_context(|| self.rows_output.describe()),
            Ok(()) => Ok(Next::Continue),
        }
    }

    /// Completes every output, gives the files their names and prints the summary.
    pub(super) fn finish(self, options: &Simulate) -> anyhow::Result<Summary> {
        let Self { rows, rows_output, chargebacks, truth, progress, mut summary, .. } = self;
        match rows.finish() {
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe && rows_output.is_standard() => {
                summary.reader_closed = true;
            }
            finished => finished.with_context(|| rows_output.describe())?,
        }
        rows_output.publish()?;
        if let Some((writer, output)) = chargebacks {
            writer.finish().with_context(|| output.describe())?;
            output.publish()?;
        }
        if let Some((mut sink, output)) = truth {
            sink.flush().with_context(|| output.describe())?;
            drop(sink);
            output.publish()?;
        }
        progress.finish(summary.transactions);
        summary.print(options, progress.elapsed(), rows_output.is_standard());
        Ok(summary)
    }
}
