//! How far behind a consumer is: shown while it reads, and while what it has read is not taken.

use std::time::Duration;

use rdkafka::consumer::Consumer as _;

use crate::clock::wall_clock;
use crate::topic::metrics::Answer;
use crate::topic::{PartitionLag, now};

use super::{KafkaSource, Reading};

/// How often the lag is shown.
const SHOW: Duration = Duration::from_millis(500);
/// How often the broker is asked for ends while nothing is taken: the client tells them only to who asks for records.
const ASK: Duration = Duration::from_secs(1);
/// How long one such question may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// How many partitions may give no answer before the others are left alone for now.
const MISSING_MAX: u32 = 1;

impl KafkaSource {
    /// Shows the lag now and then.
    pub(super) fn show(&mut self) {
        if self.is_due(SHOW) {
            self.show_lag();
        }
    }

    /// As [`Self::show`], by ends that the broker is asked for.
    pub(super) fn look_on(&mut self) {
        if !self.is_due(ASK) {
            return;
        }
        let Some(consumer) = &self.consumer else { return };
        let (mut answer, mut missing) = (Answer::Missing, 0);
        for partition in self.reading.keys() {
            let number = i32::try_from(*partition).unwrap_or(i32::MAX);
            match consumer.fetch_watermarks(&self.topic, number, PATIENCE) {
                Ok((_, end)) => {
                    answer = Answer::Came;
                    consumer.context().set_end(*partition, u64::try_from(end).unwrap_or(0));
                }
                // One partition may be without a leader, and all of them without a broker.
                Err(_) if missing == MISSING_MAX => break,
                Err(_) => missing += 1,
            }
        }
        if !self.reading.is_empty() {
            self.metrics.answered(answer);
        }
        self.show_lag();
    }

    fn is_due(&mut self, every: Duration) -> bool {
        let is_due = self.shown.is_none_or(|shown| shown.elapsed() > every);
        if is_due {
            self.shown = Some(now());
        }
        is_due
    }

    fn show_lag(&self) {
        for lag in self.behind() {
            self.metrics.lag(&lag);
        }
    }

    /// How far each partition is behind its end.
    pub(super) fn behind(&self) -> Vec<PartitionLag> {
        let Some(consumer) = &self.consumer else { return Vec::new() };
        let of = |(partition, reading): (&u32, &Reading)| {
            let end = consumer.context().end(*partition).unwrap_or(0);
            let next = reading.next.max(consumer.context().reached(*partition));
            PartitionLag::of(*partition, end.saturating_sub(next), reading.newest, wall_clock())
        };
        self.reading.iter().map(of).collect()
    }
}
