//! Labels of an event: what is known of it, and since when.
//!
//! A label is one word: the report time in microseconds times four, plus its value. The zero word means that nothing was reported.

use crate::time::Timestamp;

/// What was reported.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum LabelValue {
    /// Not fraud.
    Genuine,
    /// Fraud.
    Fraud,
    /// An earlier report no longer holds.
    Withdrawn,
}

/// One report: value and time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct LabelWord(i64);

const AT_ONCE: i64 = i64::MIN >> 2;

impl LabelWord {
    /// Nothing was reported.
    pub const UNKNOWN: Self = Self(0);

    /// A report at `reported`, or one known at once.
    #[must_use]
    pub const fn new(value: LabelValue, reported: Option<Timestamp>) -> Self {
        let at = match reported {
            Some(time) => time.micros(),
            None => AT_ONCE,
        };
        let value = match value {
            LabelValue::Genuine => 1,
            LabelValue::Fraud => 2,
            LabelValue::Withdrawn => 3,
        };
        Self((at << 2) | value)
    }

    pub(crate) const fn from_word(word: i64) -> Self {
        Self(word)
    }

    pub(crate) const fn word(self) -> i64 {
        self.0
    }

    /// What was reported; `None` when nothing was.
    #[must_use]
    pub const fn value(self) -> Option<LabelValue> {
        match self.0 & 3 {
            1 => Some(LabelValue::Genuine),
            2 => Some(LabelValue::Fraud),
            3 => Some(LabelValue::Withdrawn),
            _ => None,
        }
    }

    /// When it was reported; `None` when it is known at once.
    #[must_use]
    pub const fn reported(self) -> Option<Timestamp> {
        let at = self.0 >> 2;
        if at == AT_ONCE { None } else { Some(Timestamp::from_micros(at)) }
    }

    /// Whether it was reported by `instant` (microseconds).
    #[must_use]
    pub const fn is_reported_by(self, instant: i64) -> bool {
        self.0 >> 2 <= instant
    }

    /// Whether the word says fraud and was reported by `instant` (microseconds).
    #[must_use]
    pub const fn is_fraud_by(self, instant: i64) -> bool {
        (self.0 & 3 == 2) & (self.0 >> 2 <= instant)
    }
}

/// The label among `reports` (in order of report time) that holds at `instant`.
#[must_use]
pub fn label_at(reports: &[LabelWord], instant: i64) -> LabelWord {
    reports.iter().rev().find(|report| report.is_reported_by(instant)).copied().unwrap_or(LabelWord::UNKNOWN)
}
