//! Parts of instants in UTC, by integer arithmetic alone.

use super::tree::Part;

/// Microseconds of a second.
pub(super) const SECOND: i64 = 1_000_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// A part of the instant `micros`. Weekdays count from Monday = 0, days and months from 1.
#[inline]
pub(super) fn part(part: Part, micros: i64) -> i64 {
    match part {
        Part::Second => micros.rem_euclid(MINUTE) / SECOND,
        Part::Minute => micros.rem_euclid(HOUR) / MINUTE,
        Part::Hour => micros.rem_euclid(DAY) / HOUR,
        // 1970-01-01 was a Thursday.
        Part::Weekday => (micros.div_euclid(DAY) + 3).rem_euclid(7),
        Part::Day => civil(micros).2,
        Part::Month => civil(micros).1,
        Part::Year => civil(micros).0,
    }
}

/// The midnight that began the instant's day; `None` where that is before the first instant.
pub(super) fn midnight(micros: i64) -> Option<i64> {
    micros.checked_sub(micros.rem_euclid(DAY))
}

/// Year, month and day (Howard Hinnant, "chrono-compatible low-level date algorithms", `civil_from_days`).
fn civil(micros: i64) -> (i64, i64, i64) {
    let shifted = micros.div_euclid(DAY) + 719_468;
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + i64::from(month <= 2), month, day)
}
