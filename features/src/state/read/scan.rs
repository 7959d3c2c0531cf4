//! The aggregations: each over the raw events of a window and, for hot keys, its tiles.

use crate::value::{NULL, double_of};

use super::super::cursor::Running;
use super::super::program::{Part, Program, Read, WordKind};
use super::super::sketch::{HLL_WORDS, TOP_VALUES, bin_unpack, bin_value, hll_add, hll_estimate, hll_merge};
use super::super::tile::{COUNT, FIRST, HEAD, INDEX, LAST, growth, part_words, word_hash};
use super::super::{ID, State};
use super::moments::Moments;
use super::{AsOf, Readout, Scratch, Window};

/// Kilometres of the mean Earth radius (IUGG).
const EARTH_RADIUS_KM: f64 = 6_371.008_8;

/// Where a read stands.
#[derive(Clone, Copy)]
struct At<'a> {
    program: &'a Program,
    window: usize,
    range: &'a Window,
}

impl State {
    pub(super) fn read_output(
        &self,
        program: &Program,
        read: Read,
        as_of: AsOf,
        ranges: &[Window],
        scratch: &mut Scratch,
        out: &mut [Readout],
    ) {
        match read {
            Read::Sum(column) | Read::Mean(column) | Read::Stddev(column) => {
                return self.read_moments(program, read, column, ranges, out);
            }
            Read::ShareLabel => return self.read_share_of_label(program, as_of, ranges, out),
            _ => {}
        }
        for (window, (range, out)) in ranges.iter().zip(out).enumerate() {
            let at = At { program, window, range };
            *out = match read {
                Read::Count => Readout::int(self.count(&at)),
                Read::Share(column) => self.share(&at, column),
                Read::Min(column) => self.extreme(&at, Part::Min(column), column, scratch),
                Read::Max(column) => self.extreme(&at, Part::Max(column), column, scratch),
                Read::First(column) => self.first(&at, column, scratch),
                Read::Last(column) => self.last(&at, column, scratch),
                Read::Latest(column) => self.latest(&at, column, scratch),
                Read::DistinctCount(column) => self.distinct(&at, column, scratch),
                Read::Quantile(column, q) => self.quantile(&at, column, q, scratch),
                Read::MostFrequent(column) => self.most_frequent(&at, column, scratch),
                Read::TimeSinceLast => self.time_since_last(&at, as_of),
                Read::TimeSinceFirst => self.time_since_first(&at),
                Read::DecayedCount(half_life) => self.decayed(&at, None, half_life),
                Read::DecayedSum(column, half_life) => self.decayed(&at, Some(column), half_life),
                Read::TravelSpeed(latitude, longitude) => self.travel_speed(&at, latitude, longitude),
                Read::Sum(_) | Read::Mean(_) | Read::Stddev(_) | Read::ShareLabel => Readout::default(),
            };
        }
    }

    fn column(&self, program: &Program, column: usize) -> &[i64] {
        self.lane(program.first_column() + column)
    }

    fn raw<'a>(&'a self, at: &At<'a>, column: usize) -> impl DoubleEndedIterator<Item = i64> + use<'a> {
        let words = &self.column(at.program, column)[at.range.low..at.range.high];
        words.iter().copied().filter(|word| *word != NULL)
    }

    /// The words of `part` in each tile of the window, oldest first.
    fn parts<'a>(&'a self, at: &At<'a>, part: Part) -> impl Iterator<Item = &'a [i64]> + use<'a> {
        let parts = &at.program.parts;
        let is_same = |known: &Part| match (*known, part) {
            (Part::Moments { column: a, .. }, Part::Moments { column: b, .. }) => a == b,
            (a, b) => a == b,
        };
        let place = parts.iter().position(is_same).expect("every aggregation compiles to the part it reads");
        let offset = HEAD + parts[..place].iter().map(|part| part_words(*part)).sum::<usize>();
        let words = part_words(parts[place]);
        let (program, window) = (at.program, at.window);
        (at.range.tile_low..at.range.tile_high).map(move |tile| self.tile_words(program, window, tile, offset, words))
    }

    fn heads<'a>(&'a self, at: &At<'a>) -> impl Iterator<Item = &'a [i64]> + use<'a> {
        let (program, window) = (at.program, at.window);
        (at.range.tile_low..at.range.tile_high).map(move |tile| self.tile_words(program, window, tile, 0, HEAD))
    }

    #[expect(clippy::cast_possible_wrap, reason = "a state holds a few hundred raw events")]
    fn count(&self, at: &At<'_>) -> i64 {
        (at.range.high - at.range.low) as i64 + self.heads(at).map(|head| head[COUNT]).sum::<i64>()
    }

    /// Sums over nested windows in one pass: the narrowest first, each wider one adds what lies before.
    fn read_moments(&self, program: &Program, read: Read, column: usize, ranges: &[Window], out: &mut [Readout]) {
        let kind = program.columns[column].kind;
        let squares = matches!(read, Read::Stddev(_));
        if !squares && ranges.first().is_some_and(|range| range.is_settled) && kind != WordKind::Double {
            for (window, out) in out.iter_mut().enumerate() {
                let sum = self.settled_sum(program, Running::Sum(column), window).map(Moments::of_running);
                *out = sum.unwrap_or_default().readout(read, kind);
            }
            return;
        }
        let words = self.column(program, column);
        let mut total = Moments::default();
        let mut from = ranges.first().map_or(0, |range| range.high);
        for (window, (range, out)) in ranges.iter().zip(out).enumerate() {
            let low = range.low.min(from);
            total.add(kind, &words[low..from], squares);
            from = low;
            let mut all = total;
            let at = At { program, window, range };
            if range.tile_low < range.tile_high {
                for part in self.parts(&at, Part::Moments { column, squares }) {
                    all.add_tile(kind, part);
                }
            }
            *out = all.readout(read, kind);
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of events")]
    fn read_share_of_label(&self, program: &Program, as_of: AsOf, ranges: &[Window], out: &mut [Readout]) {
        if ranges.first().is_some_and(|range| range.is_settled) {
            for (window, (range, out)) in ranges.iter().zip(out).enumerate() {
                let frauds = self.settled_sum(program, Running::Fraud, window).map_or(0, |words| words[0]);
                let count = range.high - range.low;
                *out = if count > 0 { Readout::double(frauds as f64 / count as f64) } else { Readout::default() };
            }
            return;
        }
        let mut frauds = 0;
        let mut from = ranges.first().map_or(0, |range| range.high);
        for (window, (range, out)) in ranges.iter().zip(out).enumerate() {
            let low = range.low.min(from);
            frauds += self.frauds(low, from, as_of.time);
            from = low;
            let at = At { program, window, range };
            let count = self.count(&at);
            let tiled: i64 = self.parts(&at, Part::Fraud).map(|part| part[0]).sum();
            *out = if count > 0 { Readout::double((frauds + tiled) as f64 / count as f64) } else { Readout::default() };
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "counts of events")]
    fn share(&self, at: &At<'_>, column: usize) -> Readout {
        if at.range.is_settled {
            let held = self.settled_sum(at.program, Running::True(column), at.window).map_or(0, |words| words[0]);
            let count = at.range.high - at.range.low;
            return if count > 0 { Readout::double(held as f64 / count as f64) } else { Readout::default() };
        }
        let held = self.raw(at, column).filter(|word| *word == 1).count();
        let tiled: i64 = self.parts(at, Part::True(column)).map(|part| part[0]).sum();
        let count = self.count(at);
        if count > 0 { Readout::double((held as f64 + tiled as f64) / count as f64) } else { Readout::default() }
    }

    fn extreme(&self, at: &At<'_>, part: Part, column: usize, scratch: &mut Scratch) -> Readout {
        let kind = at.program.columns[column].kind;
        let ordered = |a: &i64, b: &i64| match kind {
            WordKind::Double => double_of(*a).total_cmp(&double_of(*b)),
            _ => a.cmp(b),
        };
        let tiled = self.parts(at, part).map(|part| part[0]).filter(|word| *word != NULL);
        let words = self.raw(at, column).chain(tiled);
        let found = if matches!(part, Part::Min(_)) { words.min_by(ordered) } else { words.max_by(ordered) };
        self.word_readout(kind, found.unwrap_or(NULL), scratch)
    }

    fn first(&self, at: &At<'_>, column: usize, scratch: &mut Scratch) -> Readout {
        let tiled = self.parts(at, Part::First(column)).map(|part| part[2]).find(|word| *word != NULL);
        let word = tiled.or_else(|| self.raw(at, column).next()).unwrap_or(NULL);
        self.word_readout(at.program.columns[column].kind, word, scratch)
    }

    fn last(&self, at: &At<'_>, column: usize, scratch: &mut Scratch) -> Readout {
        let tiled = || self.parts(at, Part::Last(column)).map(|part| part[2]).filter(|word| *word != NULL).last();
        let word = self.raw(at, column).next_back().or_else(tiled).unwrap_or(NULL);
        self.word_readout(at.program.columns[column].kind, word, scratch)
    }

    fn latest(&self, at: &At<'_>, column: usize, scratch: &mut Scratch) -> Readout {
        let words = &self.column(at.program, column)[at.range.low..at.range.high];
        self.word_readout(at.program.columns[column].kind, words.last().copied().unwrap_or(NULL), scratch)
    }

    #[expect(clippy::cast_possible_wrap, reason = "a count of events")]
    fn distinct(&self, at: &At<'_>, column: usize, scratch: &mut Scratch) -> Readout {
        if at.range.tile_low == at.range.tile_high {
            scratch.sort.clear();
            scratch.sort.extend(self.raw(at, column));
            scratch.sort.sort_unstable();
            scratch.sort.dedup();
            return Readout::int(scratch.sort.len() as i64);
        }
        let kind = at.program.columns[column].kind;
        scratch.sketch.clear();
        scratch.sketch.resize(HLL_WORDS, 0);
        for part in self.parts(at, Part::Distinct(column)) {
            hll_merge(&mut scratch.sketch, part);
        }
        let texts = self.rare.as_ref().map(|rare| &rare.texts);
        for word in self.raw(at, column) {
            hll_add(&mut scratch.sketch, word_hash(kind, word, texts));
        }
        Readout::int(hll_estimate(&scratch.sketch).cast_signed())
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "ranks within a window"
    )]
    fn quantile(&self, at: &At<'_>, column: usize, q: f64, scratch: &mut Scratch) -> Readout {
        let kind = at.program.columns[column].kind;
        scratch.weighted.clear();
        scratch.weighted.extend(self.raw(at, column).map(|word| (kind.number(word), 1)));
        let is_exact = at.range.tile_low == at.range.tile_high;
        for part in self.parts(at, Part::Quantiles(column)) {
            scratch.weighted.extend(part.iter().take_while(|word| **word != NULL).map(|word| {
                let (bin, count) = bin_unpack(*word);
                (bin_value(bin), u64::from(count))
            }));
        }
        scratch.weighted.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
        let total: u64 = scratch.weighted.iter().map(|(_, count)| count).sum();
        let Some(last) = total.checked_sub(1) else { return Readout::default() };
        let rank = q * last as f64;
        if is_exact {
            let below = scratch.weighted[rank.floor() as usize].0;
            let above = scratch.weighted[rank.ceil() as usize].0;
            return Readout::double(below + (above - below) * (rank - rank.floor()));
        }
        let mut seen = 0;
        let reaches = |(value, count): &(f64, u64)| {
            seen += count;
            (seen as f64 > rank).then_some(*value)
        };
        scratch.weighted.iter().find_map(reaches).map_or_else(Readout::default, Readout::double)
    }

    fn most_frequent(&self, at: &At<'_>, column: usize, scratch: &mut Scratch) -> Readout {
        let kind = at.program.columns[column].kind;
        let texts = self.rare.as_ref().map(|rare| &rare.texts);
        scratch.counts.clear();
        scratch.counts.extend(self.raw(at, column).map(|word| (word, 1)));
        for part in self.parts(at, Part::Top(column)) {
            let entries = (0..TOP_VALUES).map(|entry| (part[entry * 2], part[entry * 2 + 1]));
            scratch.counts.extend(entries.filter(|entry| entry.0 != NULL));
        }
        scratch.counts.sort_unstable();
        let is_smaller = |a: i64, b: i64| match (kind, texts) {
            (WordKind::Text, Some(texts)) => texts.get(a) < texts.get(b),
            (WordKind::Double, _) => double_of(a) < double_of(b),
            _ => a < b,
        };
        let mut best: Option<(i64, i64)> = None;
        for run in scratch.counts.chunk_by(|a, b| a.0 == b.0) {
            let (value, count) = (run[0].0, run.iter().map(|entry| entry.1).sum());
            let is_better =
                best.is_none_or(|(known, most)| count > most || (count == most && is_smaller(value, known)));
            if is_better {
                best = Some((value, count));
            }
        }
        self.word_readout(kind, best.map_or(NULL, |(word, _)| word), scratch)
    }

    fn time_since_last(&self, at: &At<'_>, as_of: AsOf) -> Readout {
        let ids = self.lane(ID);
        let other =
            (at.range.low..at.range.high).rev().find(|&event| as_of.subject != Some(ids[event].cast_unsigned()));
        let last = other.map(|event| self.times()[event]).or_else(|| self.heads(at).last().map(|head| head[LAST]));
        last.map_or_else(Readout::default, |last| seconds(at.range.upper - last))
    }

    fn time_since_first(&self, at: &At<'_>) -> Readout {
        let raw = || (at.range.low < at.range.high).then(|| self.times()[at.range.low]);
        let first = self.heads(at).next().map(|head| head[FIRST]).or_else(raw);
        first.map_or_else(Readout::default, |first| seconds(at.range.upper - first))
    }

    fn decayed(&self, at: &At<'_>, column: Option<usize>, half_life: i64) -> Readout {
        let mut sum = 0.0;
        let mut is_empty = true;
        for (head, part) in self.heads(at).zip(self.parts(at, Part::Decayed { column, half_life })) {
            let end = (head[INDEX] + 1) * at.program.tiers[at.window].width;
            let at_end = double_of(part[0]);
            // What was nothing at the tile's end is nothing before it, where the growth may be beyond doubles.
            sum += if at_end == 0.0 { 0.0 } else { at_end * growth(end, at.range.upper, half_life) };
            is_empty = false;
        }
        for event in at.range.low..at.range.high {
            let weight = match column {
                None => 1.0,
                Some(column) => match self.column(at.program, column)[event] {
                    NULL => continue,
                    word => at.program.columns[column].kind.number(word),
                },
            };
            sum += weight * growth(self.times()[event], at.range.upper, half_life);
            is_empty = false;
        }
        if is_empty && column.is_some() { Readout::default() } else { Readout::double(sum) }
    }

    fn travel_speed(&self, at: &At<'_>, latitude: usize, longitude: usize) -> Readout {
        let latitudes = self.column(at.program, latitude);
        let longitudes = self.column(at.program, longitude);
        let is_placed = |event: &usize| latitudes[*event] != NULL && longitudes[*event] != NULL;
        let mut placed = (at.range.low..at.range.high).rev().filter(is_placed);
        let (Some(to), Some(from)) = (placed.next(), placed.next()) else { return Readout::default() };
        let number = |column: usize, word: i64| at.program.columns[column].kind.number(word);
        let position = |event: usize| (number(latitude, latitudes[event]), number(longitude, longitudes[event]));
        let elapsed = crate::time::Span::from_micros(self.times()[to] - self.times()[from]).seconds().max(1.0);
        Readout::double(distance_km(position(from), position(to)) / elapsed * 3_600.0)
    }
}

fn seconds(micros: i64) -> Readout {
    Readout::double(crate::time::Span::from_micros(micros).seconds())
}

/// Great-circle distance by the haversine formula, degrees in, kilometres out.
fn distance_km(from: (f64, f64), to: (f64, f64)) -> f64 {
    let (from_lat, to_lat) = (from.0.to_radians(), to.0.to_radians());
    let half_lat = (to_lat - from_lat) / 2.0;
    let half_lon = (to.1 - from.1).to_radians() / 2.0;
    let a = half_lat.sin().powi(2) + from_lat.cos() * to_lat.cos() * half_lon.sin().powi(2);
    2.0 * EARTH_RADIUS_KM * a.sqrt().clamp(0.0, 1.0).asin()
}
