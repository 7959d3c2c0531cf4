//! The corpus of a fuzz target without a fuzzer: every file as it is, and seeded mutations of it.

use std::path::Path;

/// Mutations of each file.
const MUTATIONS: usize = 200;

/// Runs `target` over its corpus.
pub(crate) fn replay(target: &str, run: fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().map(|folder| folder.join("fuzz/corpus"));
    let folder = corpus.map(|folder| folder.join(target)).find(|folder| folder.is_dir());
    let folder = folder.unwrap_or_else(|| panic!("fuzz/corpus/{target} is missing"));
    let mut files: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "{} is empty", folder.display());
    let contents: Vec<Vec<u8>> = files.iter().map(|file| std::fs::read(file).unwrap()).collect();
    let mut dice = Dice(0x5eed);
    for (file, bytes) in files.iter().zip(&contents) {
        let _told = Told(file);
        run(bytes);
        for _ in 0..MUTATIONS {
            let other = &contents[dice.below(contents.len())];
            run(&dice.mutate(bytes, other));
        }
    }
}

/// Says which file it was when the target panics.
struct Told<'a>(&'a Path);

impl Drop for Told<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("it was {} or a mutation of it", self.0.display());
        }
    }
}

/// A small source of randomness (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.roll() % u64::try_from(end.max(1)).unwrap()).unwrap()
    }

    /// `bytes` with some bytes changed, cut, doubled or taken from `other`.
    fn mutate(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut mutated = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let at = self.below(mutated.len() + 1);
            match self.below(6) {
                0 if at < mutated.len() => mutated[at] ^= 1 << self.below(8),
                1 if at < mutated.len() => mutated[at] = [0, 1, 0x7f, 0x80, 0xff, b'"'][self.below(6)],
                2 => mutated.truncate(at),
                3 => mutated.insert(at, self.roll().to_le_bytes()[0]),
                4 => drop(mutated.drain(at..(at + self.below(8)).min(mutated.len()))),
                _ => {
                    let from = self.below(other.len());
                    let part = &other[from..(from + self.below(16)).min(other.len())];
                    mutated.splice(at..at, part.iter().copied());
                }
            }
        }
        mutated
    }
}
