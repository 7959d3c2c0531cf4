//! What to write instead of a name that is not known.

/// How many known names are listed when none is near.
const SUGGESTED_MAX: usize = 12;
/// Names longer than this are not compared letter by letter.
const COMPARED_BYTES_MAX: usize = 128;

/// What to write instead of `unknown`: the nearest of `known` when one is near, otherwise the first dozen.
#[must_use]
pub fn suggestion<'k>(unknown: &str, known: impl Iterator<Item = &'k str>) -> String {
    let known: Vec<&str> = known.collect();
    let comparable = known.iter().filter(|name| name.len().max(unknown.len()) <= COMPARED_BYTES_MAX);
    let nearest = comparable.map(|name| (edit_distance(unknown, name), *name)).min();
    match nearest {
        Some((distance, name)) if distance <= 1 + name.len() / 4 => {
            format!("did you mean '{name}'?")
        }
        _ if known.is_empty() => String::new(),
        _ if known.len() > SUGGESTED_MAX => {
            format!("known here: {} and {} more", known[..SUGGESTED_MAX].join(", "), known.len() - SUGGESTED_MAX)
        }
        _ => format!("known here: {}", known.join(", ")),
    }
}

fn edit_distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(ca != *cb);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
