//! Instants and spans in microseconds; parsing of the time texts that sources send.
//!
//! Invariant: nothing here reads a clock. An instant is an argument everywhere in this crate.

use std::fmt;

use jiff::{civil::DateTime, tz::TimeZone};
use serde::{Deserialize, Serialize};

/// An instant: microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Timestamp(i64);

/// Instants outside the years 1 to 9999 are refused wherever text or numbers become instants, so that
/// window arithmetic cannot overflow.
const MICROS_MIN: i64 = -62_135_596_800_000_000;
const MICROS_MAX: i64 = 253_402_300_799_999_999;

impl Timestamp {
    /// The earliest representable instant (year 1).
    pub const MIN: Self = Self(MICROS_MIN);
    /// The latest representable instant (year 9999).
    pub const MAX: Self = Self(MICROS_MAX);

    /// Takes microseconds since the epoch, clamped to the years 1 to 9999.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        if micros < MICROS_MIN {
            Self(MICROS_MIN)
        } else if micros > MICROS_MAX {
            Self(MICROS_MAX)
        } else {
            Self(micros)
        }
    }

    /// Takes microseconds since the epoch, `None` outside the years 1 to 9999.
    #[must_use]
    pub const fn checked_from_micros(micros: i64) -> Option<Self> {
        if micros < MICROS_MIN || micros > MICROS_MAX { None } else { Some(Self(micros)) }
    }

    /// Microseconds since the epoch.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The instant `span` later, clamped to the representable years.
    #[must_use]
    pub const fn plus(self, span: Span) -> Self {
        Self::from_micros(self.0.saturating_add(span.0))
    }

    /// The instant `span` earlier, clamped to the representable years.
    #[must_use]
    pub const fn minus(self, span: Span) -> Self {
        Self::from_micros(self.0.saturating_sub(span.0))
    }

    /// The time from `earlier` to `self`; negative when `earlier` is later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Span {
        Span(self.0 - earlier.0)
    }

    /// Reads RFC 3339 (`2018-04-01T00:00:31Z`, `2018-04-01 00:00:31.5+02`) or a text without zone, which is
    /// taken in `zone`. A date alone is its midnight. `None` when the text is neither.
    #[must_use]
    pub fn parse(text: &str, zone: &TimeZone) -> Option<Self> {
        let text = text.trim();
        let micros = if let Ok(instant) = text.parse::<jiff::Timestamp>() {
            instant.as_microsecond()
        } else {
            let civil: DateTime = text.parse().ok()?;
            zone.to_timestamp(civil).ok()?.as_microsecond()
        };
        Self::checked_from_micros(micros)
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match jiff::Timestamp::from_microsecond(self.0) {
            Ok(instant) => write!(f, "{instant}"),
            Err(_) => write!(f, "{}us", self.0),
        }
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = std::borrow::Cow::<'de, str>::deserialize(deserializer)?;
        Self::parse(&text, &TimeZone::UTC)
            .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not an RFC 3339 time")))
    }
}

/// A length of time in microseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Span(i64);

impl Span {
    /// No time at all.
    pub const ZERO: Self = Self(0);
    /// One second.
    pub const SECOND: Self = Self(1_000_000);
    /// One hour.
    pub const HOUR: Self = Self(3_600_000_000);
    /// One day of 24 hours.
    pub const DAY: Self = Self(86_400_000_000);

    /// Takes microseconds.
    #[must_use]
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// The length in microseconds.
    #[must_use]
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The length in seconds.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "spans of under 285 years are exact in a double")]
    pub fn seconds(self) -> f64 {
        self.0 as f64 / 1e6
    }

    /// Reads `250ms`, `30s`, `15m`, `12h`, `7d` or `2w`; `None` for anything else, zero included (write `0s`
    /// for none). At most 100 years.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits = text.bytes().take_while(u8::is_ascii_digit).count();
        let count: i64 = text.get(..digits)?.parse().ok()?;
        let unit = match &text[digits..] {
            "us" => 1,
            "ms" => 1_000,
            "s" => 1_000_000,
            "m" => 60_000_000,
            "h" => 3_600_000_000,
            "d" => 86_400_000_000,
            "w" => 604_800_000_000,
            _ => return None,
        };
        let micros = count.checked_mul(unit)?;
        (micros <= 36_525 * Self::DAY.0).then_some(Self(micros))
    }
}

impl std::ops::Add for Span {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let micros = self.0;
        for (unit, name) in
            [(86_400_000_000, "d"), (3_600_000_000, "h"), (60_000_000, "m"), (1_000_000, "s"), (1_000, "ms")]
        {
            if micros != 0 && micros % unit == 0 {
                return write!(f, "{}{name}", micros / unit);
            }
        }
        if micros == 0 { write!(f, "0s") } else { write!(f, "{micros}us") }
    }
}
