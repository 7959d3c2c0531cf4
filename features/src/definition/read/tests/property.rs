//! No file makes the reader panic, and a file that is not read has its mistakes reported.

use proptest::prelude::*;

use super::{HANDBOOK, RICH, SECRET, read};

/// Texts that stand where others are expected.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "[",
    "]",
    "{",
    "}",
    "=",
    "\n",
    "[[group]]",
    "[stream.x]",
    "labels",
    "\"label\"",
    "\"count()\"",
    "1",
    "true",
    "\"1d\"",
    "\"mean((\"",
    "\"decimal(13)\"",
    "key",
    "name",
    "\"\"",
    ",",
    ".",
    "\u{1F4A5}",
];

proptest! {
    #![proptest_config(ProptestConfig { cases: 1500, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_text_is_read_or_reported(text in "\\PC{0,300}") {
        let _either = read(&text, None);
    }

    #[test]
    fn mutated_files_are_read_or_reported(
        is_rich in any::<bool>(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), 0..40_usize, 0..PIECES.len()), 1..5),
    ) {
        let mut text: Vec<char> = if is_rich { RICH } else { HANDBOOK }.chars().collect();
        for (place, removed, piece) in edits {
            let start = place.index(text.len());
            let end = (start + removed).min(text.len());
            text.splice(start..end, PIECES[piece].chars());
        }
        let text: String = text.into_iter().collect();
        let _either = read(&text, Some(SECRET));
    }

    #[test]
    fn exchanged_lines_are_read_or_reported(
        swaps in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
    ) {
        let mut lines: Vec<&str> = RICH.lines().collect();
        for (one, other) in swaps {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines[one] = lines[other];
        }
        let _either = read(&lines.join("\n"), Some(SECRET));
    }
}

#[test]
fn huge_files_are_refused_in_bounded_time() {
    let groups = "[[group]]\nname = \"x\"\nentity = \"y\"\n".repeat(20_000);
    assert!(read(&groups, None).is_err());
    let streams: String = (0..20_000).map(|index| format!("[stream.s{index}]\nlabels = \"s{index}\"\n")).collect();
    assert!(read(&streams, None).is_err());
    let derived: String = (0..20_000).map(|index| format!("d{index} = \"d{index} + amount\"\n")).collect();
    let source = HANDBOOK.to_owned() + "[[derived]]\n[derived.features]\n" + &derived;
    assert!(read(&source, None).is_err());
    let derived: String = (0..4_000).map(|index| format!("d{index} = \"amount + {index}.0\"\n")).collect();
    let source = HANDBOOK.to_owned() + "[[derived]]\n[derived.features]\n" + &derived;
    assert_eq!(read(&source, None).expect("it is large, but right").derived.len(), 4_003);
    let features: String = (0..20_000).map(|index| format!("f{index} = \"mean(x)\"\n")).collect();
    let source = HANDBOOK.to_owned() + "[[group]]\n[group.features]\n" + &features;
    assert!(read(&source, None).is_err());
}
