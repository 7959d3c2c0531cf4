//! The key of an entity as people, records and lists write it: its parts joined with `|`.
//!
//! Invariant: two keys of the same number of columns never have one text: in a key of several parts `|` and `\` within a part have
//! a `\` before them. A list entry binds by this text, so two accounts under one text would be blocked together.

use crate::change::Row;
use crate::value::UNCHANGED;

const BETWEEN: char = '|';
const ESCAPE: char = '\\';

/// The key that `columns` of `row` make, `None` when one of them is null.
#[must_use]
pub fn of_row(row: Row<'_>, columns: &[usize]) -> Option<String> {
    let part = |&column: &usize| {
        let cell = row.cells[column];
        let is_text = row.stream.columns[column].kind.is_text();
        (cell > UNCHANGED).then(|| if is_text { row.text.get(cell).to_owned() } else { cell.to_string() })
    };
    columns.iter().map(part).collect::<Option<Vec<_>>>().map(|parts| join(&parts))
}

/// The text of a key of these parts.
#[must_use]
pub fn join(parts: &[String]) -> String {
    if let [only] = parts {
        return only.clone();
    }
    let mut text = String::new();
    for (at, part) in parts.iter().enumerate() {
        if at > 0 {
            text.push(BETWEEN);
        }
        for char in part.chars() {
            if char == BETWEEN || char == ESCAPE {
                text.push(ESCAPE);
            }
            text.push(char);
        }
    }
    text
}

/// The parts of the text of a key of `count` columns; `None` when it is none.
#[must_use]
pub fn split(text: &str, count: usize) -> Option<Vec<String>> {
    if count == 1 {
        return Some(vec![text.to_owned()]);
    }
    let mut parts = vec![String::new()];
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        let char = match char {
            BETWEEN => {
                parts.push(String::new());
                continue;
            }
            ESCAPE => chars.next().filter(|char| [BETWEEN, ESCAPE].contains(char))?,
            char => char,
        };
        parts.last_mut()?.push(char);
    }
    (parts.len() == count).then_some(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(parts: &[&str], text: &str) {
        let parts: Vec<String> = parts.iter().map(|part| (*part).to_owned()).collect();
        assert_eq!(join(&parts), text);
        assert_eq!(split(text, parts.len()), Some(parts), "{text}");
    }

    #[test]
    fn a_text_is_of_one_key_only() {
        check(&["7"], "7");
        check(&["a|b\\"], "a|b\\");
        check(&[""], "");
        check(&["7", "a"], "7|a");
        check(&["", ""], "|");
        check(&["a|b", "c"], "a\\|b|c");
        check(&["a", "b|c"], "a|b\\|c");
        check(&["a\\", "b", "|"], "a\\\\|b|\\|");
    }

    #[test]
    fn what_is_no_text_of_a_key_has_no_parts() {
        for (text, count) in [("a|b|c", 2), ("a", 2), ("a\\b|c", 2), ("a|b\\", 2), ("a\\|b", 2)] {
            assert_eq!(split(text, count), None, "{text}");
        }
    }
}
