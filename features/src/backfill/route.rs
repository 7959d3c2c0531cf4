//! The features of one route: rows spread over shards by key, then each key's events in order through one state per group.
//!
//! A row becomes a record of words (layout: [`Lanes`]), written in input order into its shard's part of its chunk; a shard takes its
//! parts of all chunks together. What is read stands at the record's place, so that going through a chunk's rows again finds every
//! shard's values in sequence.

use std::sync::Arc;

use hashbrown::HashMap;
use rayon::prelude::*;

use crate::change::{TextArena, Version};
use crate::engine::{Key, Plan, Route, event_key, key_of};
use crate::expression::Type;
use crate::state::{AsOf, LabelWord, Program, Readout, ReadoutKind, Scratch, Slot, State};
use crate::value::{NULL, UNCHANGED, double_of};
use crate::vector::Flags;

use super::events::{Chunk, Events, own_label};

/// Records per shard aimed at: their words and values stay within the second-level cache.
const SHARD_RECORDS: usize = 16_384;
/// Shards at most: a chunk's rows still come to dozens per shard.
const SHARDS_MAX: usize = 1_024;
/// The shard of a row without a key, or of one that is no event.
pub(super) const NO_SHARD: u16 = u16::MAX;
/// In a label lane: the row has several reports, found under its number.
const MANY: i64 = i64::MIN;
/// A null in a column of doubles; readouts are finite.
pub(super) const NULL_DOUBLE: i64 = 0x7ff8_0000_0000_0000;
/// A null in a column of doubles for want of a key or of any state.
pub(super) const ABSENT_DOUBLE: i64 = 0x7ff8_0000_0000_0001;
/// The same in any other column.
pub(super) const ABSENT: i64 = UNCHANGED;

const ROW: usize = 0;
const TIME: usize = 1;
const ID: usize = 2;
const MAJOR: usize = 3;
const KEY: usize = 4;
const LABEL: usize = 5;
const HEAD: usize = 6;

/// Where the words of each group stand in a record: after row and minor version (32 bits each), time, id, major version, key (an
/// integer or a hash) and label.
#[derive(Clone, Debug)]
struct Lanes {
    /// Per group: group of the definitions, first word, whether a filter decides (its word comes first).
    groups: Vec<(usize, usize, Filtered)>,
    stride: usize,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Filtered {
    No,
    Yes,
}

/// What one chunk leaves in one shard.
#[derive(Clone, Debug, Default)]
struct Part {
    words: Vec<i64>,
    texts: TextArena,
}

/// What one shard's events read.
#[derive(Debug, Default)]
pub(super) struct ShardValues {
    pub(super) cells: Vec<i64>,
    pub(super) texts: Vec<Arc<str>>,
}

/// The features of one route for all events.
#[derive(Debug)]
pub(super) struct RouteFeatures {
    /// Features of the definitions, in the order of the values.
    pub(super) features: Vec<usize>,
    /// Per chunk, the shard of each row.
    pub(super) shard_of: Vec<Vec<u16>>,
    /// Per chunk and shard, the place of its first record.
    pub(super) bases: Vec<Vec<u32>>,
    pub(super) shards: Vec<ShardValues>,
    /// What rows without a key read.
    pub(super) absent: Vec<i64>,
}

impl RouteFeatures {
    pub(super) fn evaluate(plan: &Plan, events: &Events, route: &Route, kinds: &[Type]) -> Self {
        let lanes = Lanes::of(plan, route);
        let shards = (events.settled().rows / SHARD_RECORDS).next_power_of_two().clamp(1, SHARDS_MAX);
        let spread: Vec<(Vec<u16>, Vec<Part>)> =
            events.chunks().par_iter().map(|chunk| spread(plan, events, route, &lanes, chunk, shards)).collect();
        let features: Vec<usize> = lanes.groups.iter().flat_map(|(group, _, _)| features_of(plan, *group)).collect();
        let mut bases = vec![vec![0_u32; shards]; spread.len()];
        let mut parts: Vec<Vec<Part>> = (0..shards).map(|_| Vec::with_capacity(spread.len())).collect();
        let mut shard_of = Vec::with_capacity(spread.len());
        let mut ends = vec![0_u32; shards];
        for ((of_rows, of_shards), bases) in spread.into_iter().zip(&mut bases) {
            shard_of.push(of_rows);
            bases.copy_from_slice(&ends);
            for ((part, parts), end) in of_shards.into_iter().zip(&mut parts).zip(&mut ends) {
                *end += u32::try_from(part.words.len() / lanes.stride).expect("rows are counted first");
                parts.push(part);
            }
        }
        let work = |parts: Vec<Part>| Shard { plan, events, route, lanes: &lanes, parts }.evaluate(&features, kinds);
        let shards: Vec<ShardValues> = parts.into_par_iter().with_max_len(1).map(work).collect();
        let absent = absent(plan, &lanes, kinds, Flags::NO_KEY);
        Self { features, shard_of, bases, shards, absent }
    }
}

fn features_of(plan: &Plan, group: usize) -> std::ops::Range<usize> {
    let first = plan.definitions.groups[group].first_feature;
    first..first + plan.programs[group].width()
}

fn absent(plan: &Plan, lanes: &Lanes, kinds: &[Type], flags: Flags) -> Vec<i64> {
    let mut cells = Vec::new();
    for &(group, _, _) in &lanes.groups {
        let program = &plan.programs[group];
        let mut readouts = vec![Readout::default(); program.width()];
        State::read_absent(program, flags, &mut readouts);
        cells.extend(readouts.iter().zip(&kinds[features_of(plan, group)]).map(|(readout, kind)| cell(readout, *kind)));
    }
    cells
}

impl Lanes {
    fn of(plan: &Plan, route: &Route) -> Self {
        let mut stride = HEAD;
        let mut groups = Vec::new();
        for &place in &route.applies {
            let group = plan.entity_groups[route.entity][place];
            let filtered = if plan.definitions.groups[group].filter.is_some() { Filtered::Yes } else { Filtered::No };
            groups.push((group, stride, filtered));
            stride += plan.programs[group].columns.len() + usize::from(filtered == Filtered::Yes);
        }
        Self { groups, stride }
    }
}

/// Writes the records of one chunk into its parts.
fn spread(
    plan: &Plan,
    events: &Events,
    route: &Route,
    lanes: &Lanes,
    chunk: &Chunk,
    shards: usize,
) -> (Vec<u16>, Vec<Part>) {
    let rows = chunk.to - chunk.from;
    let expected = rows / shards;
    let room = (expected + expected / 4 + 8) * lanes.stride;
    let mut parts: Vec<Part> =
        (0..shards).map(|_| Part { words: Vec::with_capacity(room), texts: TextArena::default() }).collect();
    let mut shard_of = Vec::with_capacity(rows);
    let mut buffer = Vec::new();
    let batch = &events.batches()[chunk.batch];
    for at in chunk.from..chunk.to {
        let (change, row) = batch.get(at);
        let ordinal = chunk.first_row + at - chunk.from;
        let key = if events.is_gone(ordinal) { None } else { key_of(row, &route.key, &mut buffer) };
        let (Some(key), Some(time)) = (key, row.time()) else {
            shard_of.push(NO_SHARD);
            continue;
        };
        let hash = key.hash();
        // The low bits spread the keys of a process over its shards; these are others.
        let shard = (hash >> 40) as usize % shards;
        shard_of.push(u16::try_from(shard).expect("there are fewer shards"));
        let Part { words, texts } = &mut parts[shard];
        let (first, label) = match events.place(ordinal) {
            None => (change.version, own_label(row).word()),
            Some(place) => (
                place.first,
                match place.labels.as_slice() {
                    [] => LabelWord::UNKNOWN.word(),
                    [label] => label.word(),
                    _ => MANY,
                },
            ),
        };
        let key = match key {
            Key::Int(value) => value,
            Key::Bytes(_) => hash.cast_signed(),
        };
        let place = (ordinal as u64 | u64::from(first.minor) << 32).cast_signed();
        words.extend([place, time.micros(), event_key(row).cast_signed(), first.major.cast_signed(), key, label]);
        for &(group, _, filtered) in &lanes.groups {
            let program = &plan.programs[group];
            if filtered == Filtered::Yes {
                let is_in = program.admits(&row);
                words.push(i64::from(is_in));
                if !is_in {
                    words.resize(words.len() + program.columns.len(), NULL);
                    continue;
                }
            }
            program.words(row, words, texts);
        }
    }
    (shard_of, parts)
}

/// All records of one shard.
struct Shard<'a> {
    plan: &'a Plan,
    events: &'a Events,
    route: &'a Route,
    lanes: &'a Lanes,
    parts: Vec<Part>,
}

/// Where a record stands.
#[derive(Clone, Copy, Debug, Default)]
struct Spot {
    /// A number of its key.
    key: u32,
    part: u32,
    /// Its place in its part, and among all records of the shard.
    at: u32,
    place: u32,
}

impl Shard<'_> {
    fn record(&self, spot: &Spot) -> &[i64] {
        let from = spot.at as usize * self.lanes.stride;
        &self.parts[spot.part as usize].words[from..from + self.lanes.stride]
    }

    fn version(record: &[i64]) -> Version {
        let minor = u32::try_from(record[ROW].cast_unsigned() >> 32).unwrap_or(u32::MAX);
        Version { major: record[MAJOR].cast_unsigned(), minor }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the low half is the row")]
    fn row(record: &[i64]) -> usize {
        record[ROW].cast_unsigned() as u32 as usize
    }

    fn evaluate(&self, features: &[usize], kinds: &[Type]) -> ShardValues {
        let order = self.by_key();
        let width = features.len();
        let mut values = ShardValues { cells: vec![0; order.len() * width], texts: Vec::new() };
        let mut scratch = Scratch::default();
        let mut readouts = Vec::new();
        for run in order.chunk_by(|a, b| a.key == b.key) {
            let mut column = 0;
            for &(group, lane, filtered) in &self.lanes.groups {
                let program = &self.plan.programs[group];
                let kinds = &kinds[features_of(self.plan, group)];
                readouts.clear();
                readouts.resize(program.width(), Readout::default());
                let mut state = State::default();
                for spot in run {
                    self.step(program, (lane, filtered), spot, &mut state, &mut scratch, &mut readouts);
                    let from = spot.place as usize * width + column;
                    let cells = values.cells[from..from + kinds.len()].iter_mut();
                    for ((out, readout), kind) in cells.zip(&readouts).zip(kinds) {
                        *out = cell(readout, *kind);
                    }
                }
                column += kinds.len();
            }
        }
        values.texts.extend_from_slice(scratch.texts());
        values
    }

    /// One event: it enters the state, then its features are read.
    fn step(
        &self,
        program: &Program,
        (lane, filtered): (usize, Filtered),
        spot: &Spot,
        state: &mut State,
        scratch: &mut Scratch,
        readouts: &mut [Readout],
    ) {
        let record = self.record(spot);
        let (is_in, from) = match filtered {
            Filtered::No => (true, lane),
            Filtered::Yes => (record[lane] != 0, lane + 1),
        };
        let first = Self::version(record);
        let id = record[ID].cast_unsigned();
        if is_in {
            let word = record[LABEL];
            let single = [LabelWord::from_word(word)];
            let labels = match word {
                0 => &[][..],
                MANY => self.events.place(Self::row(record)).map_or(&[][..], |place| &place.labels),
                _ => &single[..],
            };
            let texts = &self.parts[spot.part as usize].texts;
            let words = &record[from..from + program.columns.len()];
            state.insert(program, &Slot { time: record[TIME], id, first, labels, words, texts });
        }
        if state.is_empty() {
            State::read_absent(program, Flags::NO_STATE, readouts);
        } else {
            let as_of = AsOf { time: record[TIME], version: first, subject: Some(id) };
            state.read_on(program, as_of, scratch, readouts);
        }
    }

    /// Records by key, those of a key in order of (time, first version).
    fn by_key(&self) -> Vec<Spot> {
        let spots = self.spots();
        let keys = spots.iter().map(|spot| spot.key as usize + 1).max().unwrap_or(0);
        let mut starts = vec![0_usize; keys + 1];
        spots.iter().for_each(|spot| starts[spot.key as usize + 1] += 1);
        for key in 0..keys {
            starts[key + 1] += starts[key];
        }
        let mut order = vec![Spot::default(); spots.len()];
        for spot in spots {
            let at = &mut starts[spot.key as usize];
            order[*at] = spot;
            *at += 1;
        }
        let instant = |spot: &Spot| {
            let record = self.record(spot);
            (record[TIME], Self::version(record))
        };
        for run in order.chunk_by_mut(|a, b| a.key == b.key) {
            if !run.is_sorted_by_key(instant) {
                run.sort_by_key(instant);
            }
        }
        order
    }

    /// Every record with a number for its key, from 0, in order of the input.
    fn spots(&self) -> Vec<Spot> {
        let stream = self.events.declared();
        let is_int = matches!(self.route.key.as_slice(), [column] if !stream.columns[*column].kind.is_text());
        let mut ints: HashMap<i64, u32> = HashMap::new();
        let mut texts: HashMap<Vec<u8>, u32> = HashMap::new();
        let mut buffer = Vec::new();
        let mut spots =
            Vec::with_capacity(self.parts.iter().map(|part| part.words.len()).sum::<usize>() / self.lanes.stride);
        for (part, records) in (0_u32..).zip(&self.parts) {
            for (at, record) in (0_u32..).zip(records.words.chunks_exact(self.lanes.stride)) {
                let next = u32::try_from(ints.len() + texts.len()).expect("rows are counted first");
                let key = if is_int {
                    *ints.entry(record[KEY]).or_insert(next)
                } else {
                    match key_of(self.events.row_at(Self::row(record)), &self.route.key, &mut buffer) {
                        Some(Key::Bytes(bytes)) => *texts.entry_ref(bytes).or_insert(next),
                        _ => next,
                    }
                };
                let place = u32::try_from(spots.len()).expect("rows are counted first");
                spots.push(Spot { key, part, at, place });
            }
        }
        spots
    }
}

/// A readout as a cell of a column of type `kind`.
pub(super) fn cell(readout: &Readout, kind: Type) -> i64 {
    let is_absent = readout.flags.has(Flags::NO_STATE) || readout.flags.has(Flags::NO_KEY);
    match (kind, readout.kind) {
        (Type::Double, ReadoutKind::Null) if is_absent => ABSENT_DOUBLE,
        (Type::Double, ReadoutKind::Null) => NULL_DOUBLE,
        (_, ReadoutKind::Null) if is_absent => ABSENT,
        (_, ReadoutKind::Null) => NULL,
        #[expect(clippy::cast_precision_loss, reason = "an integer feature with a default that is none")]
        (Type::Double, ReadoutKind::Int) => (readout.bits as f64).to_bits().cast_signed(),
        #[expect(clippy::cast_possible_truncation, reason = "the default is an integer, or the column has doubles")]
        (Type::Int, ReadoutKind::Double) => double_of(readout.bits) as i64,
        _ => readout.bits,
    }
}
