//! Which keys the changes of a batch touch: the way from resolved rows to the shards of states.
//!
//! Invariant: the touches that one shard of rows has for one shard of states are in order of their changes, and those of one change in
//! order of routes, a leaving version before an entering one.

use crate::change::Row;

use super::plan::{Key, Route, key_of};
use super::resolution::RowPlace;
use super::resolve::RowShard;

/// What a change does to the states of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Effect {
    /// The old version leaves them.
    Leaves,
    /// The new version enters them.
    Enters,
    /// The new version takes the place of the old one.
    Replaces,
    /// They are read and stay as they are.
    Nothing,
}

#[derive(Clone, Copy, Debug)]
enum KeyPlace {
    Int(i64),
    Bytes { from: usize, to: usize },
}

/// Which change, and where its resolution stands in its shard of rows.
#[derive(Clone, Copy, Debug)]
pub(super) struct TouchPlace {
    pub(super) change: u32,
    pub(super) resolution: u32,
}

/// A change meets the states of a key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Touch {
    pub(super) at: TouchPlace,
    pub(super) route: u32,
    pub(super) effect: Effect,
    /// The change's features are read under this key.
    pub(super) is_read: bool,
    key: KeyPlace,
}

/// The versions of a row that one change makes leave and enter.
#[derive(Clone, Copy, Debug)]
pub(super) struct Versions<'a> {
    pub(super) old: Option<Row<'a>>,
    pub(super) new: Option<Row<'a>>,
    /// The new version is looked at and not kept.
    pub(super) is_transient: bool,
    pub(super) is_read: bool,
}

/// The touches found by one shard of rows.
#[derive(Clone, Debug, Default)]
pub(super) struct Touches {
    by_shard: Vec<Vec<Touch>>,
    bytes: Vec<u8>,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Touches {
    pub(super) fn new(shards: usize) -> Self {
        Self { by_shard: vec![Vec::new(); shards], ..Self::default() }
    }

    pub(super) fn clear(&mut self) {
        self.by_shard.iter_mut().for_each(Vec::clear);
        self.bytes.clear();
    }

    pub(super) fn key(&self, touch: &Touch) -> Key<'_> {
        match touch.key {
            KeyPlace::Int(value) => Key::Int(value),
            KeyPlace::Bytes { from, to } => Key::Bytes(&self.bytes[from..to]),
        }
    }

    /// Notes what a change touches; says whether any features are read for it.
    pub(super) fn note(&mut self, routes: &[Route], at: TouchPlace, versions: Versions<'_>) -> bool {
        let (mut old_buffer, mut new_buffer) = (std::mem::take(&mut self.old), std::mem::take(&mut self.new));
        let mut is_read = false;
        for (route, spec) in (0_u32..).zip(routes) {
            let new_key = versions.new.and_then(|row| key_of(row, &spec.key, &mut new_buffer));
            let is_read_here = versions.is_read && new_key.is_some();
            is_read |= is_read_here;
            let takes = !versions.is_transient && !spec.applies.is_empty();
            let old = versions.old.filter(|_| takes);
            let old_key = old.and_then(|row| key_of(row, &spec.key, &mut old_buffer));
            let effect = match (&old_key, &new_key) {
                _ if !takes => Effect::Nothing,
                (Some(old), Some(new)) if old == new => Effect::Replaces,
                _ => Effect::Enters,
            };
            if let Some(old) = &old_key
                && effect != Effect::Replaces
            {
                self.push(at, route, Effect::Leaves, false, old);
            }
            if let Some(new) = &new_key
                && (effect != Effect::Nothing || is_read_here)
            {
                self.push(at, route, effect, is_read_here, new);
            }
        }
        (self.old, self.new) = (old_buffer, new_buffer);
        is_read
    }

    fn push(&mut self, at: TouchPlace, route: u32, effect: Effect, is_read: bool, key: &Key<'_>) {
        let shard = key.shard(self.by_shard.len());
        let key = match key {
            Key::Int(value) => KeyPlace::Int(*value),
            Key::Bytes(bytes) => {
                let from = self.bytes.len();
                self.bytes.extend_from_slice(bytes);
                KeyPlace::Bytes { from, to: self.bytes.len() }
            }
        };
        self.by_shard[shard].push(Touch { at, route, effect, is_read, key });
    }
}

/// The touches of a shard of states, in order of changes, each with the shard of rows it is from.
#[derive(Debug)]
pub(super) struct Coming<'a> {
    /// Per shard of rows, what is still to come.
    lists: Vec<&'a [Touch]>,
    /// Where the resolutions of the changes after `change` stand.
    places: std::slice::Iter<'a, RowPlace>,
    change: u32,
    /// The shard of rows that resolved `change`.
    rows: u32,
}

impl<'a> Coming<'a> {
    pub(super) fn new(rows: &'a [RowShard], shard: usize, places: &'a [RowPlace]) -> Self {
        let lists = rows.iter().map(|rows| &*rows.touches.by_shard[shard]).collect();
        let mut places = places.iter();
        let first = places.next().map_or(0, |place| place.shard);
        Self { lists, places, change: 0, rows: first }
    }
}

impl Iterator for Coming<'_> {
    type Item = (u32, Touch);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let list = &mut self.lists[self.rows as usize];
            if let Some((touch, rest)) = list.split_first()
                && touch.at.change == self.change
            {
                *list = rest;
                return Some((self.rows, *touch));
            }
            self.rows = self.places.next()?.shard;
            self.change += 1;
        }
    }
}
