//! Names of partitions as readers of Hive folders know them (`key=value/`).
//!
//! Invariant: a name depends on the value alone, and two values have two names.

use std::fmt::Write as _;

use crate::time::{Span, Timestamp};

/// What Hive readers take as null in the name of a partition.
pub const NULL: &str = "__HIVE_DEFAULT_PARTITION__";

/// Percent-encodes what is not safe in a folder's name; at most 100 characters of the name, then its hash.
#[must_use]
pub fn folder_text(name: &str) -> String {
    let mut text = String::new();
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.') {
            text.push(char::from(byte));
        } else {
            let _infallible = write!(text, "%{byte:02X}");
        }
    }
    if text.is_empty() || text.bytes().all(|byte| byte == b'.') {
        return format!("%{}", text.len());
    }
    if text.len() > 100 {
        let whole = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes());
        text.truncate(100);
        let _infallible = write!(text, "-{whole}");
    }
    text
}

/// Date and hour of the hour that begins `hour` hours after 1970 in UTC, such as `2018-04-01` and `07`.
#[must_use]
pub fn date_and_hour(hour: i64) -> (String, String) {
    let start = Timestamp::from_micros(hour.saturating_mul(Span::HOUR.micros())).to_string();
    // RFC 3339: the date is the first ten characters (years 1 to 9999), the hour stands behind the `T`.
    let part = |range: std::ops::Range<usize>| start.get(range).unwrap_or(NULL).to_owned();
    (part(0..10), part(11..13))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_of_one_value_only() {
        let check = |name: &str, expected: &str| assert_eq!(folder_text(name), expected);
        check("bank-1.eu_x", "bank-1.eu_x");
        check("a/b=c d", "a%2Fb%3Dc%20d");
        check("", "%0");
        check("..", "%2");
        let long = |end: &str| folder_text(&("x".repeat(120) + end));
        assert!(long("a") != long("b") && long("a").len() < 140);
    }

    #[test]
    fn an_hour_has_a_date() {
        assert_eq!(date_and_hour(0), ("1970-01-01".to_owned(), "00".to_owned()));
        assert_eq!(date_and_hour(-1), ("1969-12-31".to_owned(), "23".to_owned()));
    }
}
