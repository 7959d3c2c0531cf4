//! A database's log, read through crashes at every step of a publication and beside processes that were taken for dead, against what the
//! archive holds afterwards.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use interdict_features::change::{ChangeBatch, Op, Version};
use interdict_features::definition::Stream;
use interdict_store::error::Class;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{NOW, archived, change, insert, owner, small};
use crate::archive::error::ArchiveError;
use crate::archive::folder::{Probe, Sharing, SourceFolder};
use crate::archive::{Places, Writer};
use crate::fixture::transactions;

/// A database: transaction `n` commits at `100 * (n + 1)` and ends 50 later.
struct Database {
    stream: Arc<Stream>,
    /// Rows of each transaction.
    transactions: Vec<u32>,
}

impl Database {
    fn commit(n: usize) -> u64 {
        100 * (n as u64 + 1)
    }

    fn row(&self, n: usize, minor: u32) -> ChangeBatch {
        let version = Version { major: Self::commit(n), minor };
        insert(&self.stream, Self::id(n, minor), change(Op::Insert, version, n as i64 / 5))
    }

    fn id(n: usize, minor: u32) -> i64 {
        n as i64 * 100 + i64::from(minor)
    }

    fn snapshot_row(&self, lsn: u64, n: usize, minor: u32) -> ChangeBatch {
        insert(&self.stream, Self::id(n, minor), change(Op::Snapshot, Version::new(lsn), 0))
    }

    /// What a source delivers that goes on after `position`: the changes, and where it stands then. A snapshot is taken of the first
    /// `known` transactions.
    fn deliveries(&self, position: u64, known: usize, chance: &mut ChaCha8Rng) -> Vec<(Vec<ChangeBatch>, u64)> {
        let mut deliveries: Vec<(Vec<ChangeBatch>, u64)> = Vec::new();
        let mut at = position;
        let mut first = self.transactions.len();
        if position == 0 {
            at = Self::commit(known) - 20;
            let rows: Vec<ChangeBatch> = (0..known)
                .flat_map(|n| (1..=self.transactions[n]).map(move |minor| (n, minor)))
                .map(|(n, minor)| self.snapshot_row(at, n, minor))
                .collect();
            deliveries.extend(rows.chunks(4).map(|rows| (rows.to_vec(), 0)));
            deliveries.push((Vec::new(), at));
            first = known;
        } else if let Some(n) = (0..self.transactions.len()).find(|n| Self::commit(*n) >= position) {
            first = n;
        }
        let mut batches = Vec::new();
        for n in first..self.transactions.len() {
            for minor in 1..=self.transactions[n] {
                batches.push(self.row(n, minor));
                if chance.random_bool(0.1) {
                    // The rest of the transaction comes with the next delivery.
                    deliveries.push((std::mem::take(&mut batches), at));
                }
            }
            at = Self::commit(n) + 50;
            if chance.random_bool(0.5) {
                deliveries.push((std::mem::take(&mut batches), at));
            }
            if chance.random_bool(0.2) && batches.is_empty() {
                at += 10;
                deliveries.push((Vec::new(), at));
            }
        }
        deliveries.push((batches, at));
        deliveries
    }
}

/// Fails from some step on, as a process does that was killed there.
fn dies_after(steps: usize) -> Probe {
    let left = AtomicUsize::new(steps);
    Box::new(move |_| {
        let is_alive = left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok();
        if is_alive { Ok(()) } else { Err(io::Error::other("killed")) }
    })
}

/// What goes through several lives of processes on one source.
struct World {
    database: Database,
    dir: PathBuf,
    /// How far the store is.
    stored: u64,
    /// Transactions that were there when the last snapshot was taken.
    known: usize,
    chance: ChaCha8Rng,
    /// A process that was taken for dead and is not.
    paused: Option<Writer>,
}

impl World {
    /// One life of a process: takes deliveries until it is killed, or paused, at a step of the disk or at its end.
    fn live(&mut self, probe: Probe) {
        let mut writer = None;
        if let Err(error) = self.work(probe, &mut writer) {
            assert_eq!(error.class(), Class::Transient, "{error}");
        }
        if self.chance.random_bool(0.5) {
            if let Some(writer) = &mut writer {
                writer.fail_with(Box::new(|_| Ok(())));
            }
            self.paused = writer;
        }
    }

    fn work(&mut self, probe: Probe, kept: &mut Option<Writer>) -> Result<(), ArchiveError> {
        let taken = SourceFolder::take_probed(&self.dir, &owner(), Sharing::Alone, probe)?;
        let (begun, position) =
            Writer::begin(taken.expect("nobody publishes"), owner(), self.stored, Places::Log, small())?;
        let writer = kept.insert(begun);
        assert!(position <= self.stored);
        let mut at = position;
        for (batches, position) in self.database.deliveries(position, self.known, &mut self.chance) {
            self.disturb();
            writer.make_room(&batches, position)?;
            writer.push(&batches, position, NOW)?;
            if at == 0 && position > 0 {
                writer.prepare()?;
            }
            at = position;
            if self.chance.random_bool(0.3) {
                writer.seal()?;
            }
            if self.chance.random_bool(0.7) {
                self.stored = self.stored.max(position);
            }
            writer.publish(self.stored)?;
            assert!(writer.position() <= self.stored, "the archive never passes the store");
        }
        self.stored = self.stored.max(at);
        writer.publish(self.stored)?;
        writer.seal()?;
        writer.publish(self.stored)?;
        assert_eq!((writer.waiting_rows(), writer.position()), (0, at));
        Ok(())
    }

    /// The process that was taken for dead does what it was about to do.
    fn disturb(&mut self) {
        let Some(paused) = self.paused.as_mut().filter(|_| self.chance.random_bool(0.2)) else { return };
        let sealed = paused.seal();
        let outcome = sealed.and_then(|()| paused.prepare()).and_then(|()| paused.publish(u64::MAX));
        assert!(matches!(outcome, Ok(false) | Err(ArchiveError::TakenOver { .. })), "{outcome:?}");
        self.paused = None;
    }
}

#[test]
fn after_any_crash_every_change_is_there_once_and_in_order() {
    for seed in 0..100 {
        let mut chance = ChaCha8Rng::seed_from_u64(seed);
        let transactions_count = chance.random_range(1..40);
        let database = Database {
            stream: transactions(),
            transactions: (0..transactions_count).map(|_| chance.random_range(1..10)).collect(),
        };
        let folder = tempfile::tempdir().unwrap();
        let dir = folder.path().to_owned();
        let mut world = World { database, dir, stored: 0, known: 0, chance, paused: None };
        for _ in 0..8 {
            world.known = world.chance.random_range(world.known..=world.database.transactions.len());
            let steps = world.chance.random_range(0..120);
            world.live(dies_after(steps));
        }
        world.live(dies_after(usize::MAX));
        let database = &world.database;
        let rows = archived(folder.path());
        let (snapshot, changes): (Vec<_>, Vec<_>) = rows.into_iter().partition(|(op, _, _)| *op == Op::Snapshot);
        let lsn = snapshot.first().map(|(_, version, _)| version.major);
        assert!(snapshot.iter().all(|(_, version, _)| Some(version.major) == lsn), "seed {seed}: one snapshot");
        let first = changes.first().map(|(_, version, _)| version.major);
        let all = database.transactions.len();
        let first = (0..all).find(|n| Some(Database::commit(*n)) == first).unwrap_or(all);
        let rows_of = |n: usize| (1..=database.transactions[n]).map(move |minor| (n, minor));
        let mut ids: Vec<i64> = snapshot.iter().map(|(_, _, id)| *id).collect();
        ids.sort_unstable();
        assert_eq!(
            ids,
            (0..first).flat_map(rows_of).map(|(n, row)| Database::id(n, row)).collect::<Vec<_>>(),
            "seed {seed}"
        );
        let expected = (first..database.transactions.len()).flat_map(rows_of);
        let expected: Vec<_> = expected
            .map(|(n, minor)| (Op::Insert, Version { major: Database::commit(n), minor }, Database::id(n, minor)))
            .collect();
        assert_eq!(changes, expected, "seed {seed}");
    }
}
