//! What names are made of, and which are taken.

use crate::config::{ConfigFile, Spanned};

/// The longest name in characters: group, feature and window together stay within the 63 characters that
/// PostgreSQL gives a column.
const NAME_CHARS_MAX: usize = 40;
/// The longest column name in characters: sources choose these.
const COLUMN_CHARS_MAX: usize = 128;
/// Names that mean something of their own in expressions and rules.
const RESERVED: [&str; 5] = ["score", "label", "before", "after", "now"];
/// Constants and operators of CEL.
const WORDS: [&str; 4] = ["true", "false", "null", "in"];
/// Words that CEL keeps back: it refuses them as names.
const KEPT_BACK: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// Checks a name that the user makes up (of a stream, entity, group or feature) and reports what is wrong with it.
pub(super) fn check(file: &ConfigFile, what: &str, name: &Spanned<String>) -> bool {
    let text = name.value.as_str();
    let is_identifier = text.starts_with(|first: char| first.is_ascii_lowercase())
        && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let (message, help) = if text.is_empty() {
        (format!("the {what} has an empty name"), "give it a name: customer_spend".to_owned())
    } else if !is_identifier {
        let help = format!("write lower case letters, digits and single underscores: {}", snake_case(text));
        (format!("'{text}' is no name for a {what}"), help)
    } else if text.contains("__") || text.ends_with('_') {
        let help = format!("'__' joins names in flat tables; write {}", snake_case(text));
        (format!("'{text}' is no name for a {what}"), help)
    } else if text.len() > NAME_CHARS_MAX {
        (format!("the name of the {what} has {} characters", text.len()), format!("write at most {NAME_CHARS_MAX}"))
    } else if RESERVED.contains(&text) || WORDS.contains(&text) || KEPT_BACK.contains(&text) {
        (format!("'{text}' means something else in expressions"), format!("choose another name for the {what}"))
    } else {
        return true;
    };
    file.report(name.span.clone(), message, help);
    false
}

/// Checks a column's name. The source chose it, so that upper case and `__` are taken.
pub(super) fn check_column(file: &ConfigFile, name: &Spanned<String>) -> bool {
    let text = name.value.as_str();
    let is_identifier = text.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
        && text.len() <= COLUMN_CHARS_MAX;
    // A label column is often called label, and means the same.
    let is_taken = WORDS.contains(&text) || (RESERVED.contains(&text) && text != "label");
    let message = if !is_identifier {
        format!("'{text}' is no column name that expressions can use")
    } else if is_taken {
        format!("the column name '{text}' means something else in expressions")
    } else {
        return true;
    };
    file.report(name.span.clone(), message, "rename the column in the source, by a view for example");
    false
}

/// A name that would do, made of `text`.
fn snake_case(text: &str) -> String {
    let mut name = String::new();
    let mut is_lower_before = false;
    for character in text.chars().take(NAME_CHARS_MAX) {
        if character.is_ascii_alphanumeric() {
            if character.is_ascii_uppercase() && is_lower_before {
                name.push('_');
            }
            name.push(character.to_ascii_lowercase());
        } else if !name.is_empty() && !name.ends_with('_') {
            name.push('_');
        }
        is_lower_before = character.is_ascii_lowercase() || character.is_ascii_digit();
    }
    let name = name.trim_matches('_');
    if name.starts_with(|first: char| first.is_ascii_lowercase()) { name.to_owned() } else { format!("x_{name}") }
}
