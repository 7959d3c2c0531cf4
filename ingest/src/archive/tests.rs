//! What a writer takes, publishes, passes over and refuses.

mod crashes;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, RowWriter, Version};
use interdict_features::definition::Stream;
use interdict_features::time::Timestamp;
use interdict_store::error::Class;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::config::ArchiveOptions;
use super::error::ArchiveError;
use super::folder::{Owner, Sharing, SourceFolder};
use super::{Places, Writer};
use crate::fixture::{shown, transactions};
use crate::history::History;

const NOW: Timestamp = Timestamp::from_micros(1_700_000_000_000_000);

/// Small files, so that a few changes make many.
fn small() -> ArchiveOptions {
    ArchiveOptions { rows_max: 6, files_max: 3, ..ArchiveOptions::default() }
}

fn owner() -> Owner {
    Owner { namespace: "default".to_owned(), source: "bank".to_owned(), incarnation: "one".to_owned() }
}

fn take(dir: &Path) -> SourceFolder {
    SourceFolder::take(dir, &owner(), Sharing::Alone).unwrap().expect("nobody publishes just now")
}

fn begin(dir: &Path, stored: u64, places: Places) -> (Writer, u64) {
    Writer::begin(take(dir), owner(), stored, places, small()).unwrap()
}

fn write(stream: &Arc<Stream>, change: Change, fill: impl FnOnce(&mut RowWriter<'_>)) -> ChangeBatch {
    let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
    let mut row = batch.begin();
    fill(&mut row);
    row.finish(change);
    batch
}

fn change(op: Op, version: Version, days: i64) -> Change {
    let arrival = (op != Op::Snapshot).then(|| Timestamp::from_micros(1_700_000_000_000_000 + days * 86_400_000_000));
    Change { op, version, arrival, position: version.major }
}

fn insert(stream: &Arc<Stream>, id: i64, change: Change) -> ChangeBatch {
    write(stream, change, |row| {
        row.set_cell(0, id);
        row.set_cell(1, id * 1_000_000);
        row.set_text(2, &format!("customer {id}")).unwrap();
        row.set_cell(3, -id * 101);
    })
}

/// Every row of the archive in order of its files' names: operation, version, id.
fn archived(dir: &Path) -> Vec<(Op, Version, i64)> {
    let stream = transactions();
    let folder = dir.join("source=bank/stream=transactions");
    if !folder.exists() {
        return Vec::new();
    }
    let history = History::open(&folder, &stream).unwrap();
    let mut rows = Vec::new();
    for group in 0..history.row_groups() {
        let (batch, dead) = history.read_group(group).unwrap();
        assert!(dead.is_empty(), "{dead:?}");
        rows.extend(batch.iter().map(|(change, row)| (change.op, change.version, row.cells[0])));
    }
    rows
}

#[test]
fn what_the_store_lost_is_passed_over_the_second_time() {
    let folder = tempfile::tempdir().unwrap();
    let stream = transactions();
    let deliver = |writer: &mut Writer, positions: std::ops::RangeInclusive<u64>, stored: u64| {
        for position in positions {
            let batches = [insert(&stream, position as i64, change(Op::Insert, Version::new(7), 0)).at(position)];
            writer.make_room(&batches, position).unwrap();
            writer.push(&batches, position, NOW).unwrap();
        }
        writer.seal().unwrap();
        writer.publish(stored).unwrap();
    };
    let (mut writer, position) = begin(folder.path(), 0, Places::Records);
    assert_eq!(position, 0);
    deliver(&mut writer, 1..=20, 20);
    drop(writer);
    // A fail-over took the last five from the store.
    let (mut writer, position) = begin(folder.path(), 15, Places::Records);
    assert_eq!((position, writer.position()), (15, 20));
    deliver(&mut writer, 16..=24, 24);
    let ids: Vec<i64> = archived(folder.path()).into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids, (1..=24).collect::<Vec<_>>());
}

trait At {
    fn at(self, position: u64) -> Self;
}

impl At for ChangeBatch {
    fn at(self, position: u64) -> Self {
        let mut batch = ChangeBatch::new(Arc::clone(self.stream()), 0);
        for (change, row) in self.iter() {
            batch.push_row(row, Change { position, ..*change });
        }
        batch
    }
}

#[test]
fn a_change_is_read_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let stream = transactions();
    let version = |minor| Version { major: 900, minor };
    let at =
        |op, minor| Change { op, version: version(minor), arrival: Some(Timestamp::from_micros(5)), position: 900 };
    let batches = [
        insert(&stream, 1, at(Op::Insert, 1)),
        write(&stream, at(Op::Update, 2), |row| {
            row.set_cell(0, 1);
            row.set_cell(1, 5);
            row.set_unchanged(2);
            row.set_cell(3, i64::MAX);
            row.set_cell(5, interdict_features::value::double_cell(-0.1).unwrap());
        }),
        write(&stream, at(Op::Delete, 3), |row| row.set_cell(0, 1)),
        write(&stream, at(Op::Truncate, 4), |_| {}),
    ];
    let (mut writer, _) = begin(folder.path(), 100, Places::Log);
    writer.push(&batches, 950, NOW).unwrap();
    writer.seal().unwrap();
    assert!(writer.publish(950).unwrap());
    let history = History::open(&folder.path().join("source=bank/stream=transactions"), &stream).unwrap();
    let (read, dead) = history.read_group(0).unwrap();
    assert!(dead.is_empty(), "{dead:?}");
    let shown_all = |batch: &ChangeBatch| -> Vec<String> {
        let row = |(change, row): (&Change, _)| {
            format!("{:?} {:?} {:?} {}", change.op, change.version, change.arrival, shown(&row))
        };
        batch.iter().map(row).collect()
    };
    let written: Vec<String> = batches.iter().flat_map(shown_all).collect();
    assert_eq!(shown_all(&read), written);
}

/// Does something until it is done; what fails, fails for a while.
fn again<T>(mut act: impl FnMut() -> Result<T, ArchiveError>) -> T {
    for _ in 0..100 {
        match act() {
            Ok(done) => return done,
            Err(error) => assert_eq!(error.class(), Class::Transient, "{error}"),
        }
    }
    panic!("never done");
}

#[test]
fn a_full_disk_is_tried_again_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let stream = transactions();
    let (mut writer, _) = begin(folder.path(), 0, Places::Records);
    let mut chance = ChaCha8Rng::seed_from_u64(5);
    let mut fails = move || chance.random_bool(0.3);
    writer.fail_with(Box::new(move |_| if fails() { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }));
    for position in 1..=40 {
        let batches = [insert(&stream, position as i64, change(Op::Insert, Version::new(position), 0))];
        again(|| writer.make_room(&batches, position));
        writer.push(&batches, position, NOW).unwrap();
        if position % 10 == 0 {
            again(|| writer.seal());
            again(|| writer.publish(position));
        }
    }
    let ids: Vec<i64> = archived(folder.path()).into_iter().map(|(_, _, id)| id).collect();
    assert_eq!(ids, (1..=40).collect::<Vec<_>>());
}

#[test]
fn files_wait_for_the_store_and_are_due_by_rows_or_age() {
    let folder = tempfile::tempdir().unwrap();
    let stream = transactions();
    let (mut writer, _) = begin(folder.path(), 0, Places::Records);
    let push = |writer: &mut Writer, position: u64| {
        let batches = [insert(&stream, position as i64, change(Op::Insert, Version::new(position), 0))];
        writer.make_room(&batches, position).unwrap();
        writer.push(&batches, position, NOW).unwrap();
    };
    push(&mut writer, 1);
    assert!(!writer.is_due(NOW) && writer.is_due(NOW.plus(ArchiveOptions::default().age_max)));
    (2..=6).for_each(|position| push(&mut writer, position));
    assert!(writer.is_due(NOW), "six rows are a file");
    writer.seal().unwrap();
    assert!(!writer.publish(5).unwrap() && archived(folder.path()).is_empty());
    (7..=20).for_each(|position| push(&mut writer, position));
    assert_eq!(writer.waiting_rows(), 20);
    assert!(!writer.is_due(NOW), "one after the other");
    assert!(writer.publish(6).unwrap());
    assert_eq!((archived(folder.path()).len(), writer.position(), writer.waiting_rows()), (6, 6, 14));
    assert_eq!((writer.counts().rows, writer.counts().files), (6, 1));
}

#[test]
fn a_folder_belongs_to_one_process_and_one_source() {
    let folder = tempfile::tempdir().unwrap();
    let (mut writer, _) = begin(folder.path(), 0, Places::Records);
    let batches = [insert(&transactions(), 1, change(Op::Insert, Version::new(1), 0))];
    writer.push(&batches, 1, NOW).unwrap();
    writer.seal().unwrap();
    writer.publish(1).unwrap();
    drop(writer);
    let refused = |owner: Owner, stored, places| {
        let taken = SourceFolder::take(folder.path(), &owner, Sharing::Alone);
        taken.and_then(|taken| Writer::begin(taken.unwrap(), owner, stored, places, small())).unwrap_err().to_string()
    };
    let other = refused(Owner { incarnation: "two".to_owned(), ..owner() }, 0, Places::Records);
    assert!(other.contains("holds changes of source 'bank' (one) in namespace 'default'"), "{other}");
    let manifest = folder.path().join("source=bank/_manifest.json");
    let whole = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, &whole[..whole.len() / 2]).unwrap();
    assert!(refused(owner(), 1, Places::Records).contains("restore it, or move"));
    std::fs::remove_file(&manifest).unwrap();
    assert!(refused(owner(), 1, Places::Records).contains("yet the folder holds files"));
}

#[test]
fn an_archive_begins_where_the_store_stands() {
    let folder = tempfile::tempdir().unwrap();
    let (writer, position) = begin(folder.path(), 700, Places::Log);
    assert_eq!((position, writer.position()), (700, 700));
    drop(writer);
    // Nothing was archived when it was killed: what the store got meanwhile is read again.
    let (writer, position) = begin(folder.path(), 900, Places::Log);
    assert_eq!((position, writer.position()), (700, 700));
    drop(writer);
    let begun_shared = |dir: PathBuf, stored| {
        let folder = SourceFolder::take(&dir, &owner(), Sharing::Shared).unwrap().unwrap();
        Writer::begin(folder, owner(), stored, Places::Log, small()).map(|(_, position)| position)
    };
    let elsewhere = folder.path().join("elsewhere");
    let error = begun_shared(elsewhere.clone(), 900).unwrap_err();
    assert!(matches!(error, ArchiveError::NotShared { stored: 900, .. }), "{error}");
    assert!(begun_shared(elsewhere.clone(), 900).is_err(), "the refused one left nothing");
    std::fs::create_dir_all(elsewhere.join("source=bank")).unwrap();
    assert_eq!(begun_shared(elsewhere, 900).unwrap(), 900);
    assert_eq!(begun_shared(folder.path().join("fresh"), 0).unwrap(), 0);
}

#[test]
fn what_a_crash_left_in_staging_is_no_part_of_the_archive() {
    let folder = tempfile::tempdir().unwrap();
    drop(begin(folder.path(), 0, Places::Records));
    let left = folder.path().join("source=bank/_staging/00000000.parquet.tmp");
    std::fs::write(&left, b"PAR1 torn").unwrap();
    let (writer, position) = begin(folder.path(), 3, Places::Records);
    assert_eq!((position, writer.position()), (0, 0));
    assert!(!left.exists() && archived(folder.path()).is_empty());
}

#[test]
fn of_snapshots_in_the_place_of_lost_changes_only_the_whole_one_is_archived() {
    let folder = tempfile::tempdir().unwrap();
    let stream = transactions();
    let (mut writer, position) = begin(folder.path(), 100, Places::Log);
    assert_eq!(position, 100);
    let given = |writer: &mut Writer, batches: &[ChangeBatch], position: u64| {
        writer.make_room(batches, position).unwrap();
        writer.push(batches, position, NOW).unwrap();
    };
    let mark = |op, lsn| write(&stream, change(op, Version::new(lsn), 0), |_| {});
    let row = |id, lsn| insert(&stream, id, change(Op::Recovered, Version::new(lsn), 0));
    // Changes that no file holds yet when the slot is lost.
    for id in 1..=3_i64 {
        let lsn = 100 + id.unsigned_abs();
        given(&mut writer, &[insert(&stream, id, change(Op::Insert, Version { major: lsn, minor: 1 }, 0))], lsn);
    }
    for cut_off in [200, 210] {
        given(&mut writer, &[mark(Op::Lost, cut_off), row(1, cut_off)], 103);
        (2..=9).for_each(|id| given(&mut writer, &[row(id, cut_off)], 103));
        assert!(!writer.is_due(NOW.plus(ArchiveOptions::default().age_max)), "never within a snapshot");
    }
    given(&mut writer, &[mark(Op::Lost, 300), row(1, 300), row(4, 300)], 103);
    given(&mut writer, &[mark(Op::Settled, 300)], 300);
    assert_eq!(writer.waiting_rows(), 3 + 4);
    writer.prepare().unwrap();
    assert!(!writer.publish(299).unwrap() && writer.publish(300).unwrap());
    let streamed = |id: i64| (Op::Insert, Version { major: 100 + id.unsigned_abs(), minor: 1 }, id);
    let found: Vec<_> = archived(folder.path()).into_iter().filter(|(op, ..)| !op.is_mark()).collect();
    let recovered = |id| (Op::Recovered, Version::new(300), id);
    assert_eq!(found, [streamed(1), streamed(2), streamed(3), recovered(1), recovered(4)]);
    assert_eq!((writer.position(), writer.counts().rows), (300, 7));
}
