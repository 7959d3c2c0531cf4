//! Reading features from a state as of an instant.
//!
//! Invariant: what is read depends on the state's events, the program and the as-of alone; the same events give the same bits whatever
//! path brought them here.

use std::sync::Arc;

use crate::change::Version;
use crate::value::{NULL, Value, double_of};
use crate::vector::{Flags, Reading};

use super::label::LabelWord;
use super::program::{LABELS_INEXACT, Program, Read, WordKind};
use super::tile::{COUNT, FIRST, FLAGS, INDEX, LAST, partition, stride};
use super::{Dropped, ID, LABEL, Slot, State};

mod moments;
mod scan;

pub(super) use moments::Moments;

/// The instant of a read.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AsOf {
    /// Events after it are left out.
    pub time: i64,
    /// Events at that very time are left out when their row's first version is higher.
    pub version: Version,
    /// The judged event: what "the event before" is measured from. `None` in plain reads.
    pub subject: Option<u64>,
}

impl AsOf {
    /// Everything up to and including `time` (microseconds), with no judged event.
    #[must_use]
    pub const fn instant(time: i64) -> Self {
        Self { time, version: Version::MAX, subject: None }
    }
}

/// What a readout's bits are.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[repr(u8)]
pub enum ReadoutKind {
    /// No value.
    #[default]
    Null,
    /// An integer.
    Int,
    /// Bits of a double.
    Double,
    /// 0 or 1.
    Bool,
    /// Index into the texts of the [`Scratch`] the readout was written with.
    Text,
    /// Microseconds.
    Timestamp,
}

/// One feature's value in 16 bytes: what the engine moves around. [`Reading`] is its form at the edges.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Readout {
    /// The value, as `kind` says.
    pub bits: i64,
    /// How many events lie in tiles that the window's edges cut.
    pub edge_events: u32,
    /// What the bits are.
    pub kind: ReadoutKind,
    /// Qualities.
    pub flags: Flags,
}

impl Readout {
    /// No value, for the reason that `flags` give.
    #[must_use]
    pub const fn missing(flags: Flags) -> Self {
        Self { bits: 0, edge_events: 0, kind: ReadoutKind::Null, flags }
    }

    /// A double; a number that is not finite becomes null.
    #[must_use]
    pub fn double(value: f64) -> Self {
        if !value.is_finite() {
            return Self::default();
        }
        Self { bits: value.to_bits().cast_signed(), kind: ReadoutKind::Double, ..Self::default() }
    }

    /// An integer.
    #[must_use]
    pub fn int(value: i64) -> Self {
        Self { bits: value, kind: ReadoutKind::Int, ..Self::default() }
    }

    /// The number it is to a model; `None` for null and text.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "models take doubles")]
    pub fn number(&self) -> Option<f64> {
        match self.kind {
            ReadoutKind::Int | ReadoutKind::Bool | ReadoutKind::Timestamp => Some(self.bits as f64),
            ReadoutKind::Double => Some(double_of(self.bits)),
            ReadoutKind::Null | ReadoutKind::Text => None,
        }
    }

    /// The value for an edge; `texts` are those of the scratch it was written with.
    #[must_use]
    pub fn reading(&self, texts: &[Arc<str>]) -> Reading {
        let value = match self.kind {
            ReadoutKind::Null => Value::Null,
            ReadoutKind::Int => Value::Int(self.bits),
            ReadoutKind::Double => Value::Double(double_of(self.bits)),
            ReadoutKind::Bool => Value::Bool(self.bits != 0),
            ReadoutKind::Text => usize::try_from(self.bits)
                .ok()
                .and_then(|at| texts.get(at))
                .map_or(Value::Null, |text| Value::Text(Arc::clone(text))),
            ReadoutKind::Timestamp => {
                Value::Text(Arc::from(crate::time::Timestamp::from_micros(self.bits).to_string()))
            }
        };
        Reading { value, flags: self.flags, edge_events: self.edge_events }
    }
}

/// Memory that reads share, so that none allocates for itself.
#[derive(Clone, Debug, Default)]
pub struct Scratch {
    ranges: Vec<Window>,
    sort: Vec<i64>,
    weighted: Vec<(f64, u64)>,
    counts: Vec<(i64, i64)>,
    sketch: Vec<i64>,
    texts: Vec<Arc<str>>,
    with_current: State,
}

impl Scratch {
    /// The texts that readouts written with this scratch refer to.
    #[must_use]
    pub fn texts(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// Forgets the texts; readouts written before must not be resolved any more.
    pub fn clear_texts(&mut self) {
        self.texts.clear();
    }
}

/// One window on a state: raw events `low..high`, and tiles `tile_low..tile_high` of its tier.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    low: usize,
    high: usize,
    tile_low: usize,
    tile_high: usize,
    upper: i64,
    flags: Flags,
    /// Flags of the tiles.
    inexact: i64,
    edge_events: u32,
    /// The running sums hold for this read.
    is_settled: bool,
}

impl State {
    /// Reads every feature of `program` for every window into `out` (feature-major, [`Program::width`] long).
    ///
    /// # Panics
    /// When `out` is shorter than that.
    pub fn read(&self, program: &Program, as_of: AsOf, scratch: &mut Scratch, out: &mut [Readout]) {
        if self.read_settled(program, as_of, out) {
            self.finish_settled(program, as_of, out);
            return;
        }
        let mut ranges = std::mem::take(&mut scratch.ranges);
        ranges.clear();
        let mut within = self.times().len();
        let is_settled = self.is_settled(program, as_of);
        for window in 0..program.windows.len() {
            let range = self.window(program, window, within, as_of, is_settled);
            within = range.low;
            ranges.push(range);
        }
        for (output, out) in program.outputs.iter().zip(out.chunks_exact_mut(program.windows.len())) {
            self.read_output(program, output.read, as_of, &ranges, scratch, out);
            for (readout, range) in out.iter_mut().zip(&ranges) {
                if let Some(default) = output.default
                    && output.read.is_void(readout)
                {
                    *readout = default;
                }
                readout.flags = readout.flags.with(range.flags);
                if range.inexact & output.inexact != 0 {
                    readout.flags = readout.flags.with(Flags::INEXACT);
                }
                readout.edge_events = range.edge_events;
            }
        }
        scratch.ranges = ranges;
    }

    /// Reads as [`Self::read`] does, and leaves running sums behind from which the next read of a later instant is cheap.
    ///
    /// # Panics
    /// As [`Self::read`].
    pub fn read_on(&mut self, program: &Program, as_of: AsOf, scratch: &mut Scratch, out: &mut [Readout]) {
        if self.follow(program, as_of, out) {
            self.finish_settled(program, as_of, out);
        } else {
            self.read(program, as_of, scratch, out);
        }
    }

    /// Defaults and flags of a read from the running sums.
    fn finish_settled(&self, program: &Program, as_of: AsOf, out: &mut [Readout]) {
        let horizon = self.horizon(program);
        let is_behind = program.windows.last().is_some_and(|widest| as_of.time - program.delay - widest < horizon);
        if !is_behind && !program.has_defaults {
            return;
        }
        for (output, out) in program.outputs.iter().zip(out.chunks_exact_mut(program.windows.len())) {
            for (readout, window) in out.iter_mut().zip(&program.windows) {
                if let Some(default) = output.default
                    && output.read.is_void(readout)
                {
                    *readout = default;
                }
                if as_of.time - program.delay - window < horizon {
                    readout.flags = readout.flags.with(Flags::TRUNCATED);
                }
            }
        }
    }

    /// Reads as [`Self::read`] does a state that also holds `current`, which counts once whether or not it is there already.
    pub fn read_with(
        &self,
        program: &Program,
        current: &Slot<'_>,
        as_of: AsOf,
        scratch: &mut Scratch,
        out: &mut [Readout],
    ) {
        if self.holds(current.id) {
            self.read(program, as_of, scratch, out);
            return;
        }
        let mut with_current = std::mem::take(&mut scratch.with_current);
        with_current.clone_from(self);
        with_current.insert(program, current);
        with_current.read(program, as_of, scratch, out);
        scratch.with_current = with_current;
    }

    /// What a read of a key without state writes.
    pub fn read_absent(program: &Program, flags: Flags, out: &mut [Readout]) {
        for (output, out) in program.outputs.iter().zip(out.chunks_exact_mut(program.windows.len())) {
            let value = match (output.read, output.default) {
                (_, Some(default)) => default,
                (Read::Count | Read::DistinctCount(_), None) => Readout::int(0),
                (Read::DecayedCount(_), None) => Readout::double(0.0),
                _ => Readout::default(),
            };
            out.fill(Readout { flags, ..value });
        }
    }

    /// Finds a window; its first event is among the first `within` and the one after (windows are nested, narrowest first).
    fn window(&self, program: &Program, window: usize, within: usize, as_of: AsOf, is_settled: bool) -> Window {
        let upper = as_of.time - program.delay;
        let lower = upper.saturating_sub(program.windows[window]);
        let times = self.times();
        if is_settled {
            let (low, high) = self.settled_range(program, window);
            let mut range = Window { low, high: high.max(low), upper, is_settled, ..Window::default() };
            if lower < self.horizon(program) {
                range.flags = Flags::TRUNCATED;
            }
            return range;
        }
        let low = times[..within].partition_point(|time| *time <= lower);
        let mut high = match times.last() {
            Some(last) if *last <= upper => times.len(),
            _ => times.partition_point(|time| *time <= upper),
        };
        if as_of.version != Version::MAX && program.delay == 0 {
            while high > low && times[high - 1] == upper && self.comes_after(high - 1, as_of) {
                high -= 1;
            }
        }
        let mut range = Window { low, high: high.max(low), upper, ..Window::default() };
        let is_truncated = if program.is_table {
            // The row that held then may be one of those that gave way to later ones.
            range.low == range.high && self.dropped != Dropped::default()
        } else {
            lower < self.horizon(program)
        };
        if is_truncated {
            range.flags = Flags::TRUNCATED;
        }
        if let Some(tiles) = self.tiles()
            && lower < tiles.boundary.0
        {
            self.tile_window(program, window, lower, as_of, &mut range);
        }
        range
    }

    pub(super) fn comes_after(&self, at: usize, as_of: AsOf) -> bool {
        self.version(at) > as_of.version && as_of.subject != Some(self.lane(ID)[at].cast_unsigned())
    }

    /// Finds the tiles of a window. An edge that cuts a tile is moved down to the tile's start, unless the tile's own first and last
    /// event show that nothing is cut.
    fn tile_window(&self, program: &Program, window: usize, lower: i64, as_of: AsOf, range: &mut Window) {
        let Some(tiles) = self.tiles() else { return };
        let stride = stride(program);
        let words = &tiles.tiers[window].words;
        let width = program.tiers[window].width;
        let head = |at: usize, word: usize| words[at * stride + word];
        let count = words.len() / stride;
        let cut = |at: usize| u32::try_from(head(at, COUNT)).unwrap_or(u32::MAX);
        if lower < tiles.newest - program.tiers[window].reach {
            range.flags = range.flags.with(Flags::TRUNCATED);
        }
        range.tile_low = partition(count, |at| (head(at, INDEX) + 1) * width <= lower + 1 || head(at, LAST) <= lower);
        range.tile_high =
            partition(count, |at| (head(at, INDEX) + 1) * width <= range.upper + 1 || head(at, LAST) <= range.upper)
                .max(range.tile_low);
        if range.tile_low < range.tile_high && head(range.tile_low, FIRST) <= lower {
            range.edge_events = cut(range.tile_low);
        }
        if range.tile_high < count && head(range.tile_high, FIRST) <= range.upper {
            range.edge_events = range.edge_events.saturating_add(cut(range.tile_high));
        }
        if range.tile_low < range.tile_high || range.edge_events > 0 {
            range.flags = range.flags.with(Flags::TILED);
        }
        range.inexact = (range.tile_low..range.tile_high).fold(0, |flags, at| flags | head(at, FLAGS));
        if range.tile_low < range.tile_high && as_of.time < tiles.labels_until {
            range.inexact |= LABELS_INEXACT;
        }
    }

    /// The word of part `offset` of tile `at`.
    fn tile_words(&self, program: &Program, window: usize, at: usize, offset: usize, words: usize) -> &[i64] {
        let from = at * stride(program) + offset;
        self.tiles().map_or(&[], |tiles| &tiles.tiers[window].words[from..from + words])
    }

    /// How many raw events in `low..high` were reported as fraud by `instant`.
    fn frauds(&self, low: usize, high: usize, instant: i64) -> i64 {
        let labels = &self.lane(LABEL)[low..high];
        let earlier = self.rare.as_ref().map_or(&[][..], |rare| &rare.earlier);
        if earlier.is_empty() {
            return labels.iter().map(|word| i64::from(LabelWord::from_word(*word).is_fraud_by(instant))).sum();
        }
        let times = &self.times()[low..high];
        let ids = &self.lane(ID)[low..high];
        let mut frauds = 0;
        for ((&word, &time), &id) in labels.iter().zip(times).zip(ids) {
            let mut label = LabelWord::from_word(word);
            if !label.is_reported_by(instant) {
                let key = (time, id.cast_unsigned());
                let from = earlier.partition_point(|entry| (entry.time, entry.id) < key);
                let own =
                    earlier[from..].iter().take_while(|entry| (entry.time, entry.id) == key).map(|entry| entry.label);
                label = own.rev_reported_by(instant);
            }
            frauds += i64::from(label.is_fraud_by(instant));
        }
        frauds
    }

    fn text_readout(&self, word: i64, scratch: &mut Scratch) -> Readout {
        let Some(text) = self.rare.as_ref().and_then(|rare| rare.texts.shared(word)) else { return Readout::default() };
        scratch.texts.push(Arc::clone(text));
        let bits = i64::try_from(scratch.texts.len() - 1).unwrap_or(NULL);
        Readout { bits, kind: ReadoutKind::Text, ..Readout::default() }
    }

    fn word_readout(&self, kind: WordKind, word: i64, scratch: &mut Scratch) -> Readout {
        if word == NULL {
            return Readout::default();
        }
        match kind {
            WordKind::Integer { declared_int: true, .. } => Readout::int(word),
            WordKind::Integer { .. } | WordKind::Double => Readout::double(kind.number(word)),
            WordKind::Bool => Readout { bits: word, kind: ReadoutKind::Bool, ..Readout::default() },
            WordKind::Timestamp => Readout { bits: word, kind: ReadoutKind::Timestamp, ..Readout::default() },
            WordKind::Text => self.text_readout(word, scratch),
        }
    }
}

impl Read {
    /// Whether `readout` says that the window has nothing to read: a default takes its place.
    fn is_void(self, readout: &Readout) -> bool {
        match self {
            Self::Count | Self::DistinctCount(_) | Self::DecayedCount(_) => readout.bits == 0,
            _ => readout.kind == ReadoutKind::Null,
        }
    }
}

trait Reports: Iterator<Item = LabelWord> + Sized {
    /// The last report made by `instant`.
    fn rev_reported_by(self, instant: i64) -> LabelWord {
        self.filter(|label| label.is_reported_by(instant)).last().unwrap_or(LabelWord::UNKNOWN)
    }
}

impl<I: Iterator<Item = LabelWord>> Reports for I {}
