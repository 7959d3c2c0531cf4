//! Death of the process in the middle of commits, and a disk that is full.

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Command, Stdio};

use super::*;
use crate::port::{Append, Claim, OffsetMove};

const FOLDER: &str = "INTERDICT_TEST_STORE";
const KEYS: u64 = 100;

/// The folder, if this process is the child of a test.
#[expect(clippy::disallowed_methods, reason = "how a test tells its child what to do")]
fn child_folder() -> Option<PathBuf> {
    std::env::var(FOLDER).ok().map(PathBuf::from)
}

/// Everything that commit `number` writes says `number`.
fn numbered(number: u64) -> Commit {
    let id = Uuid::from_u64_pair(7, number);
    let record = Bytes::from(vec![b'r'; 1500]);
    Commit {
        states: (0..KEYS).map(|key| state(key, number.to_be_bytes().repeat(250))).collect(),
        claims: vec![Claim { id, record, entities: Vec::new(), intents: Vec::new(), lists: Vec::new() }],
        appends: vec![Append { log: LogName::INPUT, bytes: Bytes::from(number.to_string()), applied_by: None }],
        offsets: vec![OffsetMove {
            source: "orders".to_owned(),
            partition: 0,
            from: number.checked_sub(1).filter(|from| *from > 0),
            to: number,
        }],
        durability: if number.is_multiple_of(8) { Durability::Power } else { Durability::Process },
        ..Commit::default()
    }
}

fn position(store: &EmbeddedStore) -> u64 {
    store.offsets_now("orders", "one").unwrap().first().map_or(0, |offset| offset.position)
}

/// Commits on until it is killed; says each commit that returned.
fn commit_for_ever(folder: &Path) -> ! {
    let store = open(folder).unwrap();
    let mut out = std::io::stdout();
    for number in position(&store) + 1.. {
        store.commit_now(&numbered(number)).unwrap();
        writeln!(out, "committed {number}").and_then(|()| out.flush()).unwrap();
    }
    unreachable!("numbers end after the test")
}

fn check_whole(store: &EmbeddedStore, acknowledged: u64) {
    let reached = position(store);
    assert!(reached == acknowledged || reached == acknowledged + 1, "{reached} after {acknowledged} were committed");
    let expected = (reached > 0).then(|| Bytes::from(reached.to_be_bytes().repeat(250)));
    for states in store.fetch_now(&states(0..KEYS)).unwrap().states {
        assert_eq!(states.as_slice(), std::slice::from_ref(&expected));
    }
    let input = store.read_log_now(LogName::INPUT, 0, usize::MAX).unwrap();
    let entries = (0..reached).map(|at| (at, Bytes::from((at + 1).to_string())));
    assert_eq!(input, entries.collect::<Vec<_>>());
    assert_eq!(store.read_log_now(LogName::DECISIONS, 0, usize::MAX).unwrap().len() as u64, reached);
    for number in [1, reached, reached + 1] {
        let is_there = store.decision_now(Uuid::from_u64_pair(7, number)).unwrap().is_some();
        assert_eq!(is_there, (1..=reached).contains(&number), "decision {number} of {reached}");
    }
}

#[test]
fn kill_nine_loses_nothing_that_returned_and_halves_nothing() {
    const NAME: &str = "embedded::tests::crash::kill_nine_loses_nothing_that_returned_and_halves_nothing";
    if let Some(folder) = child_folder() {
        commit_for_ever(&folder);
    }
    let folder = Folder::new();
    let mut acknowledged = 0;
    // How many commits to let through: none at all kills it while it makes the store.
    for commits in [0, 0, 1, 2, 3, 5, 8, 13, 21, 34, 55, 89] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", NAME, "--nocapture"])
            .env(FOLDER, folder.0.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut said = 0;
        while said < commits {
            said += u64::from(lines.next().unwrap().unwrap().contains("committed"));
        }
        child.kill().unwrap();
        child.wait().unwrap();
        acknowledged += said + lines.filter(|line| line.as_ref().unwrap().contains("committed")).count() as u64;
        let store = open(folder.0.path()).unwrap();
        check_whole(&store, acknowledged);
        acknowledged = position(&store);
    }
    assert!(acknowledged > 200);
}

/// Fails to write where the limit on file sizes is met, tries again in vain, and goes on once there is room.
fn fill_the_disk(folder: &Path) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    const SOME: u64 = 65 * 1024 * 1024;
    let unlimited = getrlimit(Resource::Fsize);
    setrlimit(Resource::Fsize, Rlimit { current: Some(SOME), maximum: unlimited.maximum }).unwrap();
    let store = open(folder).unwrap();
    store.commit_now(&numbered(1)).unwrap();
    let states_before = store.fetch_now(&states(0..KEYS)).unwrap().states;
    let mut large = numbered(2);
    large.states.extend((0..20_000).map(|key| state(KEYS + key, vec![7; 4000])));
    for _ in 0..3 {
        let error = store.commit_now(&large).unwrap_err();
        assert!(matches!(error, StoreError::DiskFull { .. }), "{error}");
        assert_eq!(error.class(), crate::error::Class::Transient);
        assert_eq!(store.fetch_now(&states(0..KEYS)).unwrap().states, states_before, "what is there stays readable");
        check_whole(&store, 1);
    }
    setrlimit(Resource::Fsize, unlimited).unwrap();
    let answer = store.commit_now(&large).unwrap();
    assert_eq!(answer.claims, [crate::port::ClaimOutcome::Claimed { position: 1 }]);
    assert_eq!(answer.appended, [1]);
    check_whole(&store, 2);
    drop(store);
    check_whole(&open(folder).unwrap(), 2);
}

#[test]
fn full_disk_is_said_and_writing_goes_on_by_itself() {
    const NAME: &str = "embedded::tests::crash::full_disk_is_said_and_writing_goes_on_by_itself";
    if let Some(folder) = child_folder() {
        return fill_the_disk(&folder);
    }
    let folder = Folder::new();
    // The shell has the signal ignored that would end a process at its limit: writing fails instead.
    let mut child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(FOLDER, folder.0.path())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
    assert!(child.wait().unwrap().success(), "{said}");
    check_whole(&open(folder.0.path()).unwrap(), 2);
}

#[test]
fn a_commit_that_failed_but_landed_is_answered_and_not_made_twice() {
    let folder = Folder::new();
    let store = block_on(folder.open());
    let answer = store.commit_now(&numbered(1)).unwrap();
    {
        let mut writer = store.writer();
        writer.health = Health::Broken;
        let sequence = writer.positions.sequence;
        writer.in_doubt = Some(InDoubt { commit: numbered(1), answer, sequence, is_landed: false });
    }
    let answer = store.commit_now(&numbered(1)).unwrap();
    assert_eq!(answer.claims, [crate::port::ClaimOutcome::Claimed { position: 0 }]);
    check_whole(&store, 1);
    let error = store.commit_now(&numbered(1)).unwrap_err();
    assert!(matches!(error, StoreError::Fenced { .. }), "only once: {error}");
    // One that did not land is made.
    {
        let mut writer = store.writer();
        writer.health = Health::Broken;
        let sequence = writer.positions.sequence + 1;
        writer.in_doubt =
            Some(InDoubt { commit: numbered(2), answer: Committed::default(), sequence, is_landed: false });
    }
    assert_eq!(store.commit_now(&numbered(2)).unwrap().appended, [1]);
    check_whole(&store, 2);
}
