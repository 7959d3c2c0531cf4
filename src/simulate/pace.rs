//! Writing in time: the simulated clock runs beside the real one, at a chosen speed.

use std::time::{Duration, Instant};

/// How many simulated seconds pass in one real second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Pace(f64);

/// Reads `real` or `x100`.
pub(super) fn parse(text: &str) -> Result<Pace, String> {
    let factor = if text == "real" { Some(1.0) } else { text.strip_prefix('x').and_then(|factor| factor.parse().ok()) };
    let factor = factor.filter(|factor: &f64| (0.001..=1e9).contains(factor));
    factor.map(Pace).ok_or_else(|| "write real, or x and a factor: x100".to_owned())
}

/// The real time as microseconds since the epoch.
pub(super) fn now_micros() -> i64 {
    jiff::Timestamp::now().as_microsecond()
}

/// Says when a simulated instant is due.
#[derive(Debug)]
pub(super) struct Pacer {
    pace: Pace,
    origin_micros: i64,
    began: Instant,
}

impl Pacer {
    /// The simulated instant `origin_micros` is now.
    pub(super) fn new(pace: Pace, origin_micros: i64) -> Self {
        Self { pace, origin_micros, began: now() }
    }

    fn remaining(&self, micros: i64) -> Duration {
        let due = due_after(self.pace, micros.saturating_sub(self.origin_micros));
        due.saturating_sub(now().duration_since(self.began))
    }

    /// Whether the simulated instant is still to come.
    pub(super) fn is_early(&self, micros: i64) -> bool {
        !self.remaining(micros).is_zero()
    }

    /// Returns when the simulated instant has come.
    pub(super) fn wait(&self, micros: i64) {
        loop {
            let remaining = self.remaining(micros);
            if remaining.is_zero() {
                return;
            }
            std::thread::park_timeout(remaining);
        }
    }
}

/// How much real time passes while the simulated clock runs `micros`.
#[expect(clippy::cast_precision_loss, reason = "a microsecond in 285 years does not matter here")]
fn due_after(pace: Pace, micros: i64) -> Duration {
    Duration::try_from_secs_f64(micros as f64 / 1e6 / pace.0).unwrap_or(Duration::ZERO)
}

/// Returns when `instant` has come.
#[cfg(feature = "postgres")]
pub(super) fn wait_until(instant: Instant) {
    loop {
        let remaining = instant.saturating_duration_since(now());
        if remaining.is_zero() {
            return;
        }
        std::thread::park_timeout(remaining);
    }
}

#[expect(clippy::disallowed_methods, reason = "pacing and the summary's rate are the shell's")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_real_or_a_factor() {
        assert_eq!(parse("real"), Ok(Pace(1.0)));
        assert_eq!(parse("x100"), Ok(Pace(100.0)));
        for wrong in ["", "x", "100", "x0", "x-1", "xNaN", "fast"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn simulated_time_runs_as_much_faster_as_asked() {
        assert_eq!(due_after(Pace(1.0), 90_000_000), Duration::from_secs(90));
        assert_eq!(due_after(Pace(100.0), 90_000_000), Duration::from_millis(900));
        assert_eq!(due_after(Pace(100.0), -5), Duration::ZERO);
    }
}
