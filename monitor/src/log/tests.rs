use std::collections::BTreeMap;
use std::io::{self, BufRead as _, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use interdict_features::decision::DecisionRecord;
use interdict_features::time::{Span, Timestamp};
use parquet::file::reader::{FileReader as _, SerializedFileReader};
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::publish::Step;
use super::*;
use crate::error::Class;
use crate::records::record;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

fn options(rows_max: usize) -> LogOptions {
    LogOptions { rows_max, ..LogOptions::default() }
}

/// Every position is two apart: a log's positions need not be dense.
fn position(index: u64) -> u64 {
    index * 2
}

/// Pushes what is left of `count` records, flushing wherever `ends_batch` says.
fn drive(writer: &mut LogWriter, count: u64, mut ends_batch: impl FnMut(u64) -> bool) -> Result<(), MonitorError> {
    for index in writer.next_position().div_ceil(2)..count {
        writer.push(position(index), &record(index), NOW)?;
        if ends_batch(index) {
            writer.flush()?;
        }
    }
    writer.flush().map(|_| ())
}

fn rows(dir: &Path) -> BTreeMap<u64, DecisionRecord> {
    let mut rows = BTreeMap::new();
    for entry in read(dir).unwrap() {
        let entry = entry.unwrap();
        assert!(rows.insert(entry.position, entry.record).is_none(), "position {} is in two files", entry.position);
    }
    rows
}

fn expected(count: u64) -> BTreeMap<u64, DecisionRecord> {
    (0..count).map(|index| (position(index), record(index))).collect()
}

#[test]
fn every_record_comes_back_bit_for_bit() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, next) = LogWriter::open(dir.path(), options(50)).unwrap();
    assert_eq!(next, 0);
    drive(&mut writer, 230, |_| false).unwrap();
    assert_eq!(writer.durable(), position(229) + 1);
    assert_eq!(writer.counts().rows, 230);
    assert_eq!(writer.unflushed_rows(), 0);
    assert_eq!(rows(dir.path()), expected(230));
}

#[test]
fn what_was_taken_before_is_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(50)).unwrap();
    for _ in 0..3 {
        for index in 0..40 {
            writer.push(position(index), &record(index), NOW).unwrap();
        }
        writer.flush().unwrap();
    }
    assert_eq!(writer.counts().repeated, 80);
    assert_eq!(rows(dir.path()), expected(40));
}

#[test]
fn a_batch_is_published_when_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), LogOptions::default()).unwrap();
    writer.push(7, &record(0), NOW).unwrap();
    assert_eq!(writer.tick(NOW.plus(Span::from_micros(59_999_999))).unwrap(), 0);
    assert_eq!(writer.tick(NOW.plus(Span::from_micros(60_000_000))).unwrap(), 8);
    assert_eq!(rows(dir.path()).len(), 1);
}

#[test]
fn files_are_partitioned_and_name_their_positions() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(1000)).unwrap();
    let mut one = record(3);
    one.models[0].name = "a/b c".into();
    one.arrival_time = Some(serde_json::from_str("\"2018-04-01T23:59:59.999999Z\"").unwrap());
    writer.push(10, &one, NOW).unwrap();
    one.arrival_time = None;
    one.event_time = Some(serde_json::from_str("\"2018-04-02T00:00:00Z\"").unwrap());
    writer.push(12, &one, NOW).unwrap();
    one.event_time = None;
    one.models.clear();
    writer.push(13, &one, NOW).unwrap();
    writer.flush().unwrap();
    let null = "__HIVE_DEFAULT_PARTITION__";
    for file in [
        "model=a%2Fb%20c/date=2018-04-01/hour=23/00000000000000000010-00000000000000000010.parquet".to_owned(),
        "model=a%2Fb%20c/date=2018-04-02/hour=00/00000000000000000012-00000000000000000012.parquet".to_owned(),
        format!("model={null}/date={null}/hour={null}/00000000000000000013-00000000000000000013.parquet"),
    ] {
        let reader = SerializedFileReader::new(std::fs::File::open(dir.path().join(&file)).unwrap()).unwrap();
        let facts = reader.metadata().file_metadata().key_value_metadata().unwrap().clone();
        let fact = |key: &str| facts.iter().find(|fact| fact.key == key).unwrap().value.clone().unwrap();
        assert!(file.contains(&format!("{:020}", fact("interdict.first_position").parse::<u64>().unwrap())));
        assert_eq!(fact("interdict.rows"), "1");
    }
}

#[test]
fn a_change_of_features_starts_a_new_file_and_no_features_do_not() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(1000)).unwrap();
    let mut other = record(0);
    writer.push(0, &other, NOW).unwrap();
    other.features.clear();
    writer.push(1, &other, NOW).unwrap();
    let mut narrower = record(0);
    narrower.features.pop();
    writer.push(2, &narrower, NOW).unwrap();
    writer.push(3, &record(0), NOW).unwrap();
    writer.flush().unwrap();
    assert_eq!(writer.counts().files, 2);
    assert_eq!(rows(dir.path()).len(), 4);
}

#[test]
fn many_partitions_end_a_batch_before_they_are_too_many_files() {
    let dir = tempfile::tempdir().unwrap();
    let options = LogOptions { files_max: 4, ..LogOptions::default() };
    let (mut writer, _) = LogWriter::open(dir.path(), options).unwrap();
    for index in 0..30_u64 {
        let mut one = record(index);
        one.arrival_time = Some(NOW.plus(Span::from_micros(Span::HOUR.micros() * i64::try_from(index).unwrap())));
        writer.push(index, &one, NOW).unwrap();
        assert!(writer.unflushed_rows() <= 4);
    }
    writer.flush().unwrap();
    assert_eq!(rows(dir.path()).len(), 30);
}

#[test]
fn one_process_writes() {
    let dir = tempfile::tempdir().unwrap();
    let (writer, _) = LogWriter::open(dir.path(), options(10)).unwrap();
    let second = LogWriter::open(dir.path(), options(10)).unwrap_err();
    assert!(matches!(second, MonitorError::Locked { .. }));
    drop(writer);
    LogWriter::open(dir.path(), options(10)).unwrap();
}

#[test]
fn a_lost_or_broken_manifest_is_refused_and_not_guessed() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(10)).unwrap();
    drive(&mut writer, 5, |_| false).unwrap();
    drop(writer);
    let manifest = dir.path().join("_manifest.json");
    std::fs::write(&manifest, "{").unwrap();
    assert_eq!(LogWriter::open(dir.path(), options(10)).unwrap_err().class(), Class::Fatal);
    std::fs::remove_file(&manifest).unwrap();
    let missing = LogWriter::open(dir.path(), options(10)).unwrap_err();
    assert!(missing.to_string().contains("restore it"), "{missing}");
}

#[test]
fn a_truncated_file_is_an_error_and_the_others_are_read() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(1000)).unwrap();
    drive(&mut writer, 30, |index| index % 10 == 9).unwrap();
    let entries = read(dir.path()).unwrap();
    let first = entries.files.last().unwrap().clone();
    let bytes = std::fs::read(&first).unwrap();
    std::fs::write(&first, &bytes[..bytes.len() / 2]).unwrap();
    let (good, bad): (Vec<_>, Vec<_>) = entries.partition(Result::is_ok);
    assert_eq!(bad.len(), 1);
    assert!(matches!(bad[0], Err(MonitorError::Decode { .. })));
    assert!(good.len() >= 10);
}

/// Every step fails once with a full disk: nothing is lost and nothing is doubled.
#[test]
fn a_full_disk_at_any_step_loses_nothing() {
    for fault in 0..u64::MAX {
        let dir = tempfile::tempdir().unwrap();
        let steps = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&steps);
        let probe = move |_: Step| match counter.fetch_add(1, Ordering::Relaxed) {
            step if step == fault || step == fault + 1 => Err(io::Error::from(io::ErrorKind::StorageFull)),
            _ => Ok(()),
        };
        let (mut writer, _) = LogWriter::open_probed(dir.path(), options(12), Box::new(probe)).unwrap();
        for _ in 0..4 {
            let Err(error) = drive(&mut writer, 30, |_| false) else { break };
            assert_eq!(error.class(), Class::Transient, "{error}");
            assert!(error.to_string().contains("no space left"));
        }
        assert_eq!(rows(dir.path()), expected(30), "fault at step {fault}");
        assert_eq!(std::fs::read_dir(dir.path().join("_staging")).unwrap().count(), 0);
        if steps.load(Ordering::Relaxed) <= fault {
            assert!(fault > 20, "{fault} steps are too few to have tested anything");
            return;
        }
    }
}

/// A disk that is really full: the staged file leads to the device that always is.
#[cfg(target_os = "linux")]
#[test]
fn a_real_full_disk_is_told_and_survived() {
    let dir = tempfile::tempdir().unwrap();
    let is_full = Arc::new(AtomicBool::new(true));
    let (staging, full) = (dir.path().join("_staging"), Arc::clone(&is_full));
    let name = |bytes: &Encoded| super::publish::staged_name(&bytes.folder, &bytes.name);
    let mut rows_of_one = Rows::like(&record(0));
    rows_of_one.push(0, &record(0), "");
    let staged = staging.join(name(&encode((Partition::of(&record(0)), rows_of_one)).unwrap()));
    let probe = move |step: Step| {
        if step == Step::CreateFile && full.load(Ordering::Relaxed) && !staged.is_symlink() {
            std::os::unix::fs::symlink("/dev/full", &staged)?;
        }
        Ok(())
    };
    let (mut writer, _) = LogWriter::open_probed(dir.path(), options(10), Box::new(probe)).unwrap();
    writer.push(0, &record(0), NOW).unwrap();
    let error = writer.flush().unwrap_err();
    assert!(matches!(error, MonitorError::DiskFull { .. }), "{error}");
    is_full.store(false, Ordering::Relaxed);
    for entry in std::fs::read_dir(&staging).unwrap() {
        std::fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(writer.flush().unwrap(), 1);
    assert_eq!(rows(dir.path()).len(), 1);
}

const CHILD: &str = "INTERDICT_TEST_LOG_CHILD";

/// Not a test of its own: the process that the two tests below kill. Arguments: folder, seed of the batch
/// boundaries, step to die at (none when 0), number of records.
#[test]
#[expect(clippy::disallowed_methods, reason = "arguments of a child process of this test")]
fn child() {
    let Ok(arguments) = std::env::var(CHILD) else {
        return;
    };
    let arguments: Vec<&str> = arguments.split('|').collect();
    let [dir, seed, fatal, count] = arguments[..] else { panic!("four arguments") };
    let (dir, fatal, count) = (Path::new(dir), fatal.parse::<u64>().unwrap(), count.parse().unwrap());
    let mut random = ChaCha8Rng::seed_from_u64(seed.parse().unwrap());
    let mut steps = 0;
    let probe = move |_: Step| {
        use std::io::Write as _;
        steps += 1;
        if steps == fatal {
            std::process::abort();
        }
        // The parent counts these bytes to choose the moment of the kill.
        io::stdout().write_all(b"\nstep\n").and_then(|()| io::stdout().flush())
    };
    let (mut writer, _) = LogWriter::open_probed(dir, options(120), Box::new(probe)).unwrap();
    drive(&mut writer, count, |_| random.random_ratio(1, 40)).unwrap();
}

fn spawn(dir: &Path, seed: u64, fatal: u64, count: u64) -> std::process::Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["log::tests::child", "--exact", "--nocapture", "--test-threads=1"])
        .env(CHILD, format!("{}|{seed}|{fatal}|{count}", dir.display()))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// What must hold after a crash at any instant: whole records, each once, and all before the durable position.
fn check_after_crash(dir: &Path) {
    let (writer, next) = LogWriter::open(dir, options(120)).unwrap();
    drop(writer);
    let rows = rows(dir);
    assert_eq!(rows, expected(next.div_ceil(2)), "up to position {next}");
}

#[test]
fn killed_at_fifty_random_moments_every_record_is_in_exactly_one_file() {
    const COUNT: u64 = 300;
    let mut random = ChaCha8Rng::seed_from_u64(20_261_120);
    let mut dir = tempfile::tempdir().unwrap();
    let (mut killed, mut finished) = (0, 0);
    for round in 0..50 {
        let mut child = spawn(dir.path(), round, 0, COUNT);
        let moment = random.random_range(1..60_usize);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let seen = lines.map_while(Result::ok).filter(|line| line == "step").take(moment).count();
        if seen == moment {
            child.kill().unwrap();
            killed += 1;
        }
        child.wait().unwrap();
        check_after_crash(dir.path());
        if rows(dir.path()).len() as u64 == COUNT {
            finished += 1;
            dir = tempfile::tempdir().unwrap();
        }
    }
    assert!(killed >= 25 && finished >= 3, "{killed} kills, {finished} finished runs");
}

#[test]
fn dead_at_every_single_step_every_record_is_in_exactly_one_file() {
    const COUNT: u64 = 60;
    let dir = tempfile::tempdir().unwrap();
    for fatal in 1..1_000 {
        // A folder per step, and a second death in the recovery of the first.
        let dir = dir.path().join(fatal.to_string());
        let first = spawn(&dir, 1, fatal, COUNT).wait_with_output().unwrap();
        check_after_crash(&dir);
        let second = spawn(&dir, fatal, 3, COUNT).wait_with_output().unwrap();
        check_after_crash(&dir);
        assert!(spawn(&dir, fatal + 7, 0, COUNT).wait_with_output().unwrap().status.success());
        assert_eq!(rows(&dir), expected(COUNT), "died at step {fatal}");
        if first.status.success() {
            assert!(second.status.success() && fatal > 40, "{fatal} steps");
            return;
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }
    panic!("the child never came to its end");
}

#[test]
fn what_the_store_lost_is_forgotten_as_far_as_it_is_not_published() {
    let dir = tempfile::tempdir().unwrap();
    let (mut writer, _) = LogWriter::open(dir.path(), options(50)).unwrap();
    assert_eq!(last(dir.path()).unwrap(), None);
    drive(&mut writer, 120, |index| index == 99).unwrap();
    for index in 120..140 {
        writer.push(position(index), &record(index + 1_000), NOW).unwrap();
    }
    writer.rewind().unwrap();
    assert_eq!((writer.next_position(), writer.unflushed_rows()), (writer.durable(), 0));
    let durable = last(dir.path()).unwrap().unwrap();
    assert_eq!((durable.position, durable.record), (position(119), record(119)));
    drive(&mut writer, 140, |_| false).unwrap();
    assert_eq!(rows(dir.path()), expected(140));
}

/// A batch that its manifest has named is published whatever comes.
#[test]
fn a_batch_beyond_return_is_not_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let fails = Arc::new(AtomicBool::new(false));
    let failing = Arc::clone(&fails);
    let probe = move |step: Step| {
        if failing.load(Ordering::Relaxed) && step == Step::CreateFolder {
            return Err(io::Error::from(io::ErrorKind::StorageFull));
        }
        Ok(())
    };
    let (mut writer, _) = LogWriter::open_probed(dir.path(), options(50), Box::new(probe)).unwrap();
    writer.push(0, &record(0), NOW).unwrap();
    fails.store(true, Ordering::Relaxed);
    writer.flush().unwrap_err();
    assert_eq!(writer.rewind().unwrap_err().class(), Class::Transient);
    fails.store(false, Ordering::Relaxed);
    writer.rewind().unwrap();
    assert_eq!(writer.next_position(), 1);
    assert_eq!(rows(dir.path()).len(), 1);
}

/// A folder with twenty records that the store has noted and as many that it may not have.
fn half_noted(dir: &Path) -> LogWriter {
    let (mut writer, _) = LogWriter::open(dir, options(8)).unwrap();
    drive(&mut writer, 20, |_| false).unwrap();
    writer.note(writer.durable());
    drive(&mut writer, 40, |_| false).unwrap();
    writer
}

#[test]
fn what_the_store_was_not_known_to_note_is_known_after_a_crash() {
    let dir = tempfile::tempdir().unwrap();
    let writer = half_noted(dir.path());
    let folder = writer.folder();
    assert_eq!((writer.noted(), writer.durable()), (position(19) + 1, position(39) + 1));
    drop(writer);
    let (mut writer, next) = LogWriter::open(dir.path(), options(8)).unwrap();
    assert_eq!((writer.noted(), next, writer.folder()), (position(19) + 1, position(39) + 1, folder));
    writer.note(next);
    drive(&mut writer, 48, |_| false).unwrap();
    assert_eq!(writer.noted(), position(39) + 1);
    drop(writer);
    assert_eq!(LogWriter::open(dir.path(), options(8)).unwrap().0.noted(), position(39) + 1);
    assert_eq!(rows(dir.path()), expected(48));
}

/// Wherever the withdrawal is cut short: either nothing has happened, or it is done when the folder is opened again.
#[test]
fn what_another_folder_holds_is_taken_out_as_a_whole_or_not_at_all() {
    let next = position(30);
    for fault in 0..1_000 {
        let dir = tempfile::tempdir().unwrap();
        drop(half_noted(dir.path()));
        let mut steps = 0;
        let probe = move |_: Step| {
            steps += 1;
            if steps > fault { Err(io::Error::from(io::ErrorKind::StorageFull)) } else { Ok(()) }
        };
        let (mut writer, _) = LogWriter::open_probed(dir.path(), options(8), Box::new(probe)).unwrap();
        writer.push(position(40), &record(40), NOW).unwrap();
        let is_done = writer.go_on_at(next).is_ok();
        drop(writer);
        let (mut writer, found) = LogWriter::open(dir.path(), options(8)).unwrap();
        if found == next {
            assert_eq!((rows(dir.path()), writer.noted()), (expected(20), next), "fault at step {fault}");
        } else {
            assert_eq!((found, writer.noted()), (position(39) + 1, position(19) + 1), "fault at step {fault}");
            assert_eq!(rows(dir.path()), expected(40), "fault at step {fault}");
        }
        writer.go_on_at(next).unwrap();
        assert_eq!((writer.next_position(), writer.unflushed_rows()), (next, 0));
        drive(&mut writer, 50, |_| false).unwrap();
        let left: BTreeMap<_, _> =
            expected(50).into_iter().filter(|(at, _)| *at <= position(19) || *at >= next).collect();
        assert_eq!(rows(dir.path()), left);
        if is_done {
            assert!(fault > 5, "{fault} steps");
            return;
        }
    }
    panic!("it never came to its end");
}

#[test]
fn a_manifest_of_before_is_taken_for_noted() {
    let dir = tempfile::tempdir().unwrap();
    drop(half_noted(dir.path()));
    let manifest = r#"{"format":1,"next_position":79,"publishing":[]}"#;
    std::fs::write(dir.path().join("_manifest.json"), manifest).unwrap();
    let (writer, next) = LogWriter::open(dir.path(), options(8)).unwrap();
    assert_eq!((next, writer.noted()), (79, 79));
}
