//! Step three: one vector per judged event, derived features included.

use std::sync::Arc;

use rayon::prelude::*;

use crate::change::{ChangeBatch, Row};
use crate::expression::{Operand, Slots};
use crate::row::Ignored;
use crate::state::{Readout, ReadoutKind, State};
use crate::value::double_of;
use crate::vector::{Flags, Reading};

use super::PARALLEL_CHANGES_MIN;
use super::apply::StateShard;
use super::plan::Plan;
use super::resolve::RowShard;

/// Why state refuses a change. Each is a dead letter.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refused {
    /// No event id.
    NoId,
    /// No event time. An update that leaves the time unchanged, of a row never seen, waits in its row record for the version that has it.
    NoTime,
    /// The event's time lies too far beyond its arrival.
    Future,
    /// Every group that would take the event under one of its keys retains later events only. The row record holds the row all the same:
    /// later versions, labels and repetitions of it find it, and its states refuse them alike by their time.
    TooLate,
    /// An update or delete on a stream that was declared append-only: remove `append_only` if rows change.
    AppendOnly,
}

/// What became of a change.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// It is in the row record and in the states.
    Applied,
    /// It changes nothing.
    Ignored(Ignored),
    /// State does not take it.
    Refused(Refused),
    /// All rows of the stream are gone; the caller decides.
    Truncated,
}

/// What a batch came to: an outcome per change, a vector per evaluated one.
#[derive(Clone, Debug, Default)]
pub struct Output {
    /// Per change of the batch.
    pub outcomes: Vec<Outcome>,
    /// Per change: which judgement of its row it is, if it is to be judged.
    pub judgements: Vec<Option<u32>>,
    /// Per change: the place of its vector.
    pub vectors: Vec<Option<u32>>,
    /// Features per vector.
    pub width: usize,
    /// Per vector and entity: the instant its windows were read as of (microseconds); `i64::MIN` where the event has no key.
    pub as_of: Vec<i64>,
    readouts: Vec<Readout>,
    texts: Vec<Arc<str>>,
    changes: Vec<u32>,
}

impl Output {
    /// The readouts of vector `place`, one per feature of the definitions.
    #[must_use]
    pub fn vector(&self, place: u32) -> &[Readout] {
        let from = place as usize * self.width;
        &self.readouts[from..from + self.width]
    }

    /// All readouts, vector by vector.
    #[must_use]
    pub fn readouts(&self) -> &[Readout] {
        &self.readouts
    }

    /// The texts that readouts refer to.
    #[must_use]
    pub fn texts(&self) -> &[Arc<str>] {
        &self.texts
    }

    /// The readings of vector `place`, in the form edges show.
    pub fn readings(&self, place: u32) -> impl Iterator<Item = Reading> {
        self.vector(place).iter().map(|readout| readout.reading(&self.texts))
    }

    /// The index in the batch of the change that vector `place` belongs to.
    #[must_use]
    pub fn change_of(&self, place: u32) -> usize {
        self.changes[place as usize] as usize
    }

    pub(super) fn assemble(
        &mut self,
        plan: &Plan,
        stream: usize,
        rows: &[RowShard],
        states: &[StateShard],
        places: &[(u32, u32)],
        batch: &ChangeBatch,
    ) {
        self.note_outcomes(rows, places, states);
        self.width = plan.definitions.features.len();
        let entities = plan.entity_groups.len();
        let template = template(plan, self.width);
        self.readouts.clear();
        for _ in 0..self.changes.len() {
            self.readouts.extend_from_slice(&template);
        }
        self.as_of.clear();
        self.as_of.resize(self.changes.len() * entities, i64::MIN);
        self.texts.clear();
        for shard in states {
            let text_base = i64::try_from(self.texts.len()).expect("bounded by the batch");
            self.texts.extend_from_slice(shard.scratch.texts());
            for reading in &shard.readings {
                let Some(vector) = self.vectors[reading.change as usize] else { continue };
                let route = &plan.streams[stream].routes[reading.route as usize];
                self.as_of[vector as usize * entities + route.entity] = reading.as_of;
                let mut from = reading.offset as usize;
                for &place in &route.reads {
                    let group = plan.entity_groups[route.entity][place];
                    let width = plan.programs[group].width();
                    let to = vector as usize * self.width + plan.definitions.groups[group].first_feature;
                    let target = &mut self.readouts[to..to + width];
                    target.copy_from_slice(&shard.readouts[from..from + width]);
                    for readout in target.iter_mut().filter(|readout| readout.kind == ReadoutKind::Text) {
                        readout.bits += text_base;
                    }
                    from += width;
                }
            }
        }
        if !plan.definitions.derived.is_empty() {
            self.derive(plan, stream, rows, places, batch);
        }
    }

    fn note_outcomes(&mut self, rows: &[RowShard], places: &[(u32, u32)], states: &[StateShard]) {
        self.outcomes.clear();
        self.judgements.clear();
        self.vectors.clear();
        self.changes.clear();
        for &(shard, place) in places {
            let resolution = rows[shard as usize].resolved.resolutions.get(place as usize);
            let outcome = resolution.map_or(Outcome::Refused(Refused::NoId), |resolution| resolution.outcome);
            self.outcomes.push(outcome);
            self.judgements.push(resolution.and_then(|resolution| resolution.judgement));
            self.vectors.push(None);
        }
        for reading in states.iter().flat_map(|shard| &shard.readings) {
            let change = reading.change as usize;
            self.vectors[change] = Some(0);
        }
        for &change in states.iter().flat_map(|shard| &shard.late) {
            self.outcomes[change as usize] = Outcome::Refused(Refused::TooLate);
        }
        // A judged event none of whose entities has a key still has a vector, of missing features.
        for (change, vector) in (0_u32..).zip(&mut self.vectors) {
            let is_judged = self.judgements[change as usize].is_some();
            let is_refused =
                matches!(self.outcomes[change as usize], Outcome::Refused(refused) if refused != Refused::TooLate);
            if vector.is_some() || (is_judged && !is_refused) {
                *vector = Some(u32::try_from(self.changes.len()).expect("batches are bounded"));
                self.changes.push(change);
            }
        }
    }

    fn derive(&mut self, plan: &Plan, stream: usize, rows: &[RowShard], places: &[(u32, u32)], batch: &ChangeBatch) {
        let definitions = &plan.definitions;
        let declared = &*definitions.streams[stream];
        let first = definitions.features.len() - definitions.derived.len();
        let (width, texts, changes) = (self.width, &self.texts, &self.changes);
        let fill = |(vector, readouts): (usize, &mut [Readout])| {
            let (shard, place) = places[changes[vector] as usize];
            let resolved = &rows[shard as usize].resolved;
            let new = resolved.resolutions.get(place as usize).and_then(|resolution| resolution.new.as_ref());
            let row =
                new.map_or_else(|| batch.row(changes[vector] as usize), |version| resolved.row(declared, version));
            derive_into(plan, stream, row, texts, readouts, first);
        };
        if self.changes.len() >= PARALLEL_CHANGES_MIN {
            self.readouts.par_chunks_exact_mut(width).with_min_len(64).enumerate().for_each(fill);
        } else {
            self.readouts.chunks_exact_mut(width).enumerate().for_each(fill);
        }
    }
}

/// Computes the derived features of one vector, in order, from its event and the features before.
pub(super) fn derive_into(
    plan: &Plan,
    stream: usize,
    row: Row<'_>,
    texts: &[Arc<str>],
    readouts: &mut [Readout],
    first: usize,
) {
    for (place, derived) in plan.definitions.derived.iter().enumerate() {
        if derived.stream != stream {
            continue;
        }
        let (known, own) = readouts.split_at_mut(first + place);
        let input = VectorSlots { row, readouts: known, texts, width: row.cells.len() };
        own[0] = match derived.expression.evaluate(&input) {
            Operand::Int(value) => Readout::int(value),
            Operand::Double(value) => Readout::double(value),
            Operand::Bool(value) => Readout { bits: i64::from(value), kind: ReadoutKind::Bool, ..Readout::default() },
            Operand::Timestamp(value) => Readout { bits: value, kind: ReadoutKind::Timestamp, ..Readout::default() },
            Operand::Null | Operand::Text(_) => Readout::default(),
        };
    }
}

/// The slots of a derived feature or a rule: the event's columns, then the features.
#[derive(Clone, Copy, Debug)]
pub(super) struct VectorSlots<'a> {
    row: Row<'a>,
    readouts: &'a [Readout],
    texts: &'a [Arc<str>],
    width: usize,
}

impl Slots for VectorSlots<'_> {
    fn slot(&self, index: u32) -> Operand<'_> {
        let Some(feature) = (index as usize).checked_sub(self.width) else { return self.row.slot(index) };
        let Some(readout) = self.readouts.get(feature) else { return Operand::Null };
        match readout.kind {
            ReadoutKind::Null => Operand::Null,
            ReadoutKind::Int => Operand::Int(readout.bits),
            ReadoutKind::Double => Operand::Double(double_of(readout.bits)),
            ReadoutKind::Bool => Operand::Bool(readout.bits != 0),
            ReadoutKind::Timestamp => Operand::Timestamp(readout.bits),
            ReadoutKind::Text => {
                let text = usize::try_from(readout.bits).ok().and_then(|at| self.texts.get(at));
                text.map_or(Operand::Null, |text| Operand::Text(text))
            }
        }
    }
}

/// What every feature reads where the event has no key for its entity.
fn template(plan: &Plan, width: usize) -> Vec<Readout> {
    let mut template = vec![Readout::missing(Flags::NONE); width];
    for (group, program) in plan.definitions.groups.iter().zip(&plan.programs) {
        let from = group.first_feature;
        State::read_absent(program, Flags::NO_KEY, &mut template[from..from + program.width()]);
    }
    template
}
