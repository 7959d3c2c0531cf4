use std::io::Write as _;

use super::*;
use crate::dead_letter::DeadReason;

fn letter(position: u64) -> DeadLetter {
    DeadLetter {
        source: "payments".to_owned(),
        partition: 0,
        position,
        row: None,
        stream: None,
        id: None,
        version: None,
        op: None,
        reason: DeadReason::WrongType,
        detail: "column 'amount' (decimal(2)): wrong type".to_owned(),
        payload: Some("{\"amount\":[]}".to_owned()),
    }
}

fn positions(path: &Path) -> Vec<u64> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| serde_json::from_str::<DeadLetter>(line).unwrap().position).collect()
}

#[test]
fn a_replay_after_a_crash_writes_no_letter_twice() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead/letters.jsonl");
    let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
    assert_eq!(file.write(&[letter(3), letter(7)]).unwrap(), 2);
    file.flush().unwrap();
    drop(file);
    let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
    assert_eq!(file.write(&[letter(3), letter(7), letter(9)]).unwrap(), 1);
    assert_eq!(file.write(&[letter(5)]).unwrap(), 1, "an earlier position that was not written is new");
    assert_eq!(positions(&path), [3, 7, 9, 5]);
}

#[test]
fn another_letter_at_the_same_place_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
    file.write(&[letter(3)]).unwrap();
    let other = DeadLetter { reason: DeadReason::NullId, ..letter(3) };
    let elsewhere = DeadLetter { source: "logins".to_owned(), ..letter(3) };
    assert_eq!(file.write(&[other, elsewhere]).unwrap(), 2);
    assert_eq!(positions(&path), [3, 3, 3]);
}

#[test]
fn half_a_line_is_cut_off_and_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
    file.write(&[letter(1), letter(2)]).unwrap();
    drop(file);
    let whole = std::fs::read(&path).unwrap();
    for cut in 0..whole.len() {
        std::fs::write(&path, &whole[..cut]).unwrap();
        let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
        file.write(&[letter(1), letter(2)]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), whole, "cut at {cut}");
    }
}

#[test]
fn foreign_lines_are_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    std::fs::File::create(&path).unwrap().write_all(b"not a letter\n\xff\n").unwrap();
    let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
    assert_eq!(file.write(&[letter(1)]).unwrap(), 1);
    assert!(std::fs::read(&path).unwrap().starts_with(b"not a letter\n\xff\n{"));
}

#[test]
fn files_are_rotated_within_their_bound() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("letters.jsonl");
    let bounds = Bounds { file_bytes_max: 600, files_max: 3, remembered_max: 4 };
    let mut file = DeadLetterFile::open(&path, bounds).unwrap();
    for position in 1..=20 {
        file.write(&[letter(position)]).unwrap();
    }
    let rotated = |index: usize| folder.path().join(format!("letters.jsonl.{index}"));
    let mut kept = [positions(&rotated(2)), positions(&rotated(1)), positions(&path)].concat();
    assert!(!rotated(3).exists());
    assert!(std::fs::metadata(&path).unwrap().len() <= 600);
    assert_eq!(kept.pop(), Some(20));
    assert!(kept.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{kept:?}");
    drop(file);
    let mut file = DeadLetterFile::open(&path, bounds).unwrap();
    let replayed: Vec<_> = (18..=20).map(letter).collect();
    assert_eq!(file.write(&replayed).unwrap(), 0, "letters of the file before are recognised");
}

#[test]
fn an_unwritable_place_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let error = DeadLetterFile::open(folder.path(), Bounds::default()).unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(error.to_string().contains("mend its rights"), "{error}");
}

#[test]
fn rows_of_one_position_are_letters_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("dead.jsonl");
    let rows: Vec<DeadLetter> = (1..=3).map(|row| DeadLetter { row: Some(row), ..letter(7) }).collect();
    for expected in [3, 0] {
        let mut file = DeadLetterFile::open(&path, Bounds::default()).unwrap();
        assert_eq!(file.write(&rows).unwrap(), expected);
        file.flush().unwrap();
    }
    assert_eq!(positions(&path), [7, 7, 7]);
}
