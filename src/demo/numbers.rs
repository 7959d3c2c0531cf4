//! Numbers and instants as people read them.

use interdict_features::time::Timestamp;

/// `1234567` as `1,234,567`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Minor units as `1,234.50`.
pub(super) fn money(minor: i64) -> String {
    let sign = if minor < 0 { "-" } else { "" };
    let minor = minor.unsigned_abs();
    format!("{sign}{}.{:02}", grouped(minor / 100), minor % 100)
}

/// Microseconds as `850 us`, `1.23 ms`, `45.6 ms` or `1.20 s`.
pub(super) fn duration(micros: u64) -> String {
    match micros {
        0..1_000 => format!("{micros} us"),
        1_000..10_000 => format!("{}.{:02} ms", micros / 1_000, micros % 1_000 / 10),
        10_000..1_000_000 => format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100),
        _ => format!("{}.{:02} s", micros / 1_000_000, micros % 1_000_000 / 10_000),
    }
}

/// An instant to the minute, UTC: `2018-05-14 10:32`.
pub(super) fn minute(micros: i64) -> String {
    let text = Timestamp::from_micros(micros).to_string();
    text.chars().take(16).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_thousands() {
        for (number, text) in [(0, "0"), (999, "999"), (1_000, "1,000"), (1_234_567, "1,234,567")] {
            assert_eq!(grouped(number), text);
        }
    }

    #[test]
    fn writes_money_exactly() {
        for (minor, text) in [(0, "0.00"), (5, "0.05"), (123_450, "1,234.50"), (-99, "-0.99")] {
            assert_eq!(money(minor), text);
        }
    }

    #[test]
    fn writes_durations_in_their_unit() {
        for (micros, text) in [(850, "850 us"), (1_234, "1.23 ms"), (45_678, "45.6 ms"), (1_200_000, "1.20 s")] {
            assert_eq!(duration(micros), text);
        }
    }

    #[test]
    fn writes_instants_to_the_minute() {
        assert_eq!(minute(1_526_293_920_000_000), "2018-05-14 10:32");
    }
}
