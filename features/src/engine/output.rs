//! Step three: one vector per judged event, derived features included.

use std::sync::Arc;

use rayon::prelude::*;

use crate::change::{Change, ChangeBatch, Op, Row};
use crate::expression::{Operand, Slots};
use crate::row::Ignored;
use crate::state::{Readout, ReadoutKind, State};
use crate::value::{UNCHANGED, double_of};
use crate::vector::{Flags, Reading};

use super::apply::{RouteReading, StateShard};
use super::plan::Plan;
use super::resolution::{Incoming, RowPlace};
use super::resolve::RowShard;

/// Vectors that are filled together: they and what they are filled from stay in a core's cache.
const PART_VECTORS: usize = 256;

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
    /// A copy of the batch, where a judged update left columns out.
    completed: Option<ChangeBatch>,
}

impl Output {
    /// `batch`, of which this is the output, as its changes are judged: what a judged update did not send is filled with what the row
    /// record holds.
    #[must_use]
    pub fn judged<'a>(&'a self, batch: &'a ChangeBatch) -> &'a ChangeBatch {
        self.completed.as_ref().unwrap_or(batch)
    }

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
        incoming: Incoming<'_>,
        rows: &[RowShard],
        states: &[StateShard],
        places: &[RowPlace],
    ) {
        self.note_outcomes(rows, places, states);
        self.complete(&plan.streams[incoming.stream.index].needed, incoming, rows, places);
        self.texts.clear();
        let text_bases: Vec<i64> = states.iter().map(|shard| self.take_texts(shard)).collect();
        self.width = plan.definitions.features.len();
        let entities = plan.entity_groups.len();
        let template = template(plan, self.width);
        let filling = Filling { plan, incoming, rows, states, places, text_bases, template };
        self.readouts.resize(self.changes.len() * self.width, Readout::default());
        self.as_of.resize(self.changes.len() * entities, i64::MIN);
        let (mut readouts, mut as_of) = (&mut *self.readouts, &mut *self.as_of);
        let part = |changes| {
            let part;
            (part, readouts) = std::mem::take(&mut readouts).split_at_mut(<[u32]>::len(changes) * self.width);
            let instants;
            (instants, as_of) = std::mem::take(&mut as_of).split_at_mut(changes.len() * entities);
            Part { changes, readouts: part, as_of: instants }
        };
        let parts: Vec<Part<'_>> = self.changes.chunks(PART_VECTORS).map(part).collect();
        let fill = |part: Part<'_>| filling.fill(part, &self.texts);
        if parts.len() > 1 && states.len() > 1 {
            parts.into_par_iter().for_each(fill);
        } else {
            parts.into_iter().for_each(fill);
        }
    }

    /// Takes over the texts of a shard; returns where they begin.
    fn take_texts(&mut self, shard: &StateShard) -> i64 {
        let base = i64::try_from(self.texts.len()).expect("bounded by the batch");
        self.texts.extend_from_slice(shard.scratch.texts());
        base
    }

    /// Fills what judged updates did not send: rules, model and lists see the row, not the change.
    fn complete(&mut self, columns: &[usize], incoming: Incoming<'_>, rows: &[RowShard], places: &[RowPlace]) {
        self.completed = None;
        for change in (0..places.len()).filter(|&change| self.judgements[change].is_some()) {
            let (Change { op, .. }, row) = incoming.batch.get(change);
            if *op == Op::Update
                && row.cells.contains(&UNCHANGED)
                && let Some((resolved, resolution)) = places[change].find(rows)
                && let Some(version) = resolved.version(resolution.new)
            {
                let batch = self.completed.get_or_insert_with(|| incoming.batch.clone());
                batch.complete(change, columns, resolved.row(incoming, version));
            }
        }
    }

    fn note_outcomes(&mut self, rows: &[RowShard], places: &[RowPlace], states: &[StateShard]) {
        self.outcomes.clear();
        self.judgements.clear();
        self.vectors.clear();
        self.changes.clear();
        for (change, place) in (0_u32..).zip(places) {
            let resolution = place.find(rows).map(|(_, resolution)| resolution);
            let outcome = resolution.map_or(Outcome::Refused(Refused::NoId), |resolution| resolution.outcome);
            let judgement = resolution.and_then(|resolution| resolution.judgement);
            self.outcomes.push(outcome);
            self.judgements.push(judgement);
            // A judged event none of whose entities has a key still has a vector, of missing features.
            let is_evaluated = resolution.is_some_and(|resolution| resolution.is_read)
                || (judgement.is_some() && !matches!(outcome, Outcome::Refused(_)));
            let vector = is_evaluated.then(|| u32::try_from(self.changes.len()).expect("batches are bounded"));
            self.vectors.push(vector);
            if is_evaluated {
                self.changes.push(change);
            }
        }
        for &change in states.iter().flat_map(|shard| &shard.late) {
            self.outcomes[change as usize] = Outcome::Refused(Refused::TooLate);
        }
    }
}

/// What vectors are filled from.
struct Filling<'a> {
    plan: &'a Plan,
    incoming: Incoming<'a>,
    rows: &'a [RowShard],
    states: &'a [StateShard],
    places: &'a [RowPlace],
    /// Per shard of states, where its texts begin.
    text_bases: Vec<i64>,
    template: Vec<Readout>,
}

/// Some vectors, and what is written for them.
struct Part<'a> {
    /// Whose vectors they are.
    changes: &'a [u32],
    readouts: &'a mut [Readout],
    as_of: &'a mut [i64],
}

impl Filling<'_> {
    /// Brings together what the shards read, and computes the derived features.
    fn fill(&self, mut part: Part<'_>, texts: &[Arc<str>]) {
        let (Some(&first), Some(&last)) = (part.changes.first(), part.changes.last()) else { return };
        if !self.template.is_empty() {
            let vectors = part.readouts.chunks_exact_mut(self.template.len());
            vectors.for_each(|vector| vector.copy_from_slice(&self.template));
        }
        part.as_of.fill(i64::MIN);
        for (shard, text_base) in self.states.iter().zip(&self.text_bases) {
            let from = shard.readings.partition_point(|reading| reading.change < first);
            let readings = shard.readings[from..].iter().take_while(|reading| reading.change <= last);
            let mut vector = 0;
            for reading in readings {
                while part.changes[vector] != reading.change {
                    vector += 1;
                }
                self.take(reading, &shard.readouts, *text_base, vector, &mut part);
            }
        }
        if !self.plan.definitions.derived.is_empty() {
            self.derive(&mut part, texts);
        }
    }

    /// Takes over what one shard read under one key.
    fn take(&self, reading: &RouteReading, from: &[Readout], text_base: i64, vector: usize, into: &mut Part<'_>) {
        let plan = self.plan;
        let route = &plan.streams[self.incoming.stream.index].routes[reading.route as usize];
        into.as_of[vector * plan.entity_groups.len() + route.entity] = reading.as_of;
        let mut from = &from[reading.offset as usize..];
        for step in &route.steps {
            let (own, rest) = from.split_at(plan.programs[step.group].width());
            from = rest;
            let to = vector * self.template.len() + plan.definitions.groups[step.group].first_feature;
            let target = &mut into.readouts[to..to + own.len()];
            target.copy_from_slice(own);
            if text_base > 0 {
                for readout in target.iter_mut().filter(|readout| readout.kind == ReadoutKind::Text) {
                    readout.bits += text_base;
                }
            }
        }
    }

    fn derive(&self, part: &mut Part<'_>, texts: &[Arc<str>]) {
        let definitions = &self.plan.definitions;
        let first = definitions.features.len() - definitions.derived.len();
        for (&change, readouts) in part.changes.iter().zip(part.readouts.chunks_exact_mut(self.template.len())) {
            let new = self.places[change as usize].find(self.rows).and_then(|(resolved, resolution)| {
                Some(resolved.row(self.incoming, resolved.version(resolution.new)?))
            });
            let row = new.unwrap_or_else(|| self.incoming.batch.row(change as usize));
            derive_into(self.plan, self.incoming.stream.index, row, texts, readouts, first);
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
