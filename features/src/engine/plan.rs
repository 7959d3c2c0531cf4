//! What definitions compile to for the engine: per stream, which entities a change touches and which groups a decision reads.

use std::sync::Arc;

use crate::change::Row;
use crate::definition::{Aggregation, Definitions, GroupKind, Judge, Operand as Source, Stream};
use crate::state::{Program, hash_bytes, mix};
use crate::time::Span;
use crate::value::{ColumnType, UNCHANGED};

/// Compiled definitions.
#[derive(Clone, Debug)]
pub struct Plan {
    /// What was compiled.
    pub definitions: Arc<Definitions>,
    /// One per group.
    pub programs: Vec<Program>,
    /// One per stream.
    pub streams: Vec<StreamPlan>,
    /// Per entity, its groups: the order of states within an entity.
    pub entity_groups: Vec<Vec<usize>>,
}

/// One stream, compiled.
#[derive(Clone, Debug)]
pub struct StreamPlan {
    /// The entities its events touch.
    pub routes: Vec<Route>,
    /// Columns a row record keeps.
    pub needed: Vec<usize>,
    /// Whether row records are kept.
    pub keeps_records: bool,
    /// How long after its time a row can matter.
    pub retention: Span,
}

/// One way from a stream's events to the states of an entity.
#[derive(Clone, Debug)]
pub struct Route {
    /// The entity.
    pub entity: usize,
    /// Columns of the stream that make its key.
    pub key: Vec<usize>,
    /// Groups that take the stream's events under this key: places in the entity's list of groups.
    pub applies: Vec<usize>,
    /// Groups that a decision on an event of the stream reads under this key: likewise.
    pub reads: Vec<usize>,
    /// Readings of all groups in `reads` together.
    pub width: usize,
    /// The groups in `reads` with what applying and reading them takes.
    pub(super) steps: Vec<Step>,
}

/// One group of a route.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    /// Its place in the entity's list of groups.
    pub(super) place: usize,
    /// Its program.
    pub(super) group: usize,
    /// It takes the stream's events under the route's key.
    pub(super) is_own: bool,
}

impl Plan {
    /// Compiles checked definitions.
    #[must_use]
    pub fn compile(definitions: Arc<Definitions>) -> Self {
        let programs: Vec<Program> =
            definitions.groups.iter().map(|group| Program::compile(&definitions, group)).collect();
        let entity_groups: Vec<Vec<usize>> = (0..definitions.entities.len())
            .map(|entity| (0..programs.len()).filter(|&group| definitions.groups[group].entity == entity).collect())
            .collect();
        let streams = definitions
            .streams
            .iter()
            .map(|stream| StreamPlan::compile(&definitions, &programs, &entity_groups, stream))
            .collect();
        Self { definitions, programs, streams, entity_groups }
    }

    /// The longest that any windowed state keeps an event.
    #[must_use]
    pub fn retention(&self) -> Span {
        self.programs.iter().filter_map(Program::retention).max().unwrap_or(Span::ZERO)
    }
}

impl StreamPlan {
    fn compile(definitions: &Definitions, programs: &[Program], entity_groups: &[Vec<usize>], stream: &Stream) -> Self {
        let mut routes: Vec<Route> = Vec::new();
        let mut route = |entity: usize, key: &[usize]| {
            routes.iter().position(|route| route.entity == entity && route.key == key).unwrap_or_else(|| {
                let key = key.to_vec();
                routes.push(Route { entity, key, applies: Vec::new(), reads: Vec::new(), width: 0, steps: Vec::new() });
                routes.len() - 1
            })
        };
        let mut touched = Vec::new();
        for (entity, groups) in entity_groups.iter().enumerate() {
            let own: Option<Vec<usize>> =
                definitions.entities[entity].key.iter().map(|name| stream.column(name)).collect();
            for (place, &group) in groups.iter().enumerate() {
                let declared = &definitions.groups[group];
                if declared.stream == stream.index {
                    touched.push((route(entity, &declared.key), place, group, true));
                } else if let Some(own) = &own
                    && stream.labels.is_none()
                {
                    touched.push((route(entity, own), place, group, false));
                }
            }
        }
        for (route, place, group, applies) in touched {
            let route = &mut routes[route];
            if applies {
                route.applies.push(place);
            }
            route.reads.push(place);
            route.steps.push(Step { place, group, is_own: applies });
            route.width += programs[group].width();
        }
        let own_groups = || definitions.groups.iter().filter(|group| group.stream == stream.index);
        let retention = definitions.groups.iter().zip(programs);
        let retention = retention.filter(|(group, _)| group.stream == stream.index);
        let retention = retention.filter_map(|(_, program)| program.retention()).max().unwrap_or(definitions.slack);
        let has_table = own_groups().any(|group| matches!(group.kind, GroupKind::Table { .. }));
        Self {
            needed: needed_columns(definitions, stream, &routes),
            routes,
            keeps_records: !stream.append_only && stream.labels.is_none(),
            retention: if has_table { Span::from_micros(i64::MAX / 8) } else { retention },
        }
    }
}

/// The columns without which an old row could not be taken out of states again, or judged.
fn needed_columns(definitions: &Definitions, stream: &Stream, routes: &[Route]) -> Vec<usize> {
    let mut needed: Vec<usize> = routes.iter().flat_map(|route| route.key.iter().copied()).collect();
    needed.extend(stream.time);
    needed.push(stream.id);
    let slots = |slots: &[u32]| slots.iter().map(|slot| *slot as usize).collect::<Vec<_>>();
    let mut take = |source: &Source| match source {
        Source::Column(column) => needed.push(*column),
        Source::Expression(expression) => needed.extend(slots(expression.slots())),
    };
    for group in definitions.groups.iter().filter(|group| group.stream == stream.index) {
        if let Some(filter) = &group.filter {
            take(&Source::Expression(Arc::clone(filter)));
        }
        match &group.kind {
            GroupKind::Table { features } => {
                features.iter().for_each(|(_, expression)| take(&Source::Expression(Arc::clone(expression))));
            }
            GroupKind::Windowed { features, .. } => {
                features.iter().flat_map(|feature| operands(&feature.aggregation)).for_each(&mut take);
            }
        }
    }
    let width = stream.columns.len();
    if let Some(Judge::When(condition)) = &stream.judge {
        needed.extend(slots(condition.slots()).into_iter().map(|slot| slot % width));
    }
    if stream.judge.is_some() {
        // An insert that arrives after an update of its row is judged by the row record.
        let derived = definitions.derived.iter().filter(|derived| derived.stream == stream.index);
        needed.extend(derived.flat_map(|derived| slots(derived.expression.slots())).filter(|slot| *slot < width));
    }
    needed.sort_unstable();
    needed.dedup();
    needed
}

fn operands(aggregation: &Aggregation) -> Vec<&Source> {
    match aggregation {
        Aggregation::Count
        | Aggregation::TimeSinceLast
        | Aggregation::TimeSinceFirst
        | Aggregation::ShareLabel
        | Aggregation::DecayedCount(_) => Vec::new(),
        Aggregation::Sum(source)
        | Aggregation::Mean(source)
        | Aggregation::Min(source)
        | Aggregation::Max(source)
        | Aggregation::Stddev(source)
        | Aggregation::First(source)
        | Aggregation::Last(source)
        | Aggregation::DistinctCount(source)
        | Aggregation::Quantile(source, _)
        | Aggregation::MostFrequent(source)
        | Aggregation::Share(source)
        | Aggregation::DecayedSum(source, _) => vec![source],
        Aggregation::TravelSpeed(latitude, longitude) => vec![latitude, longitude],
    }
}

/// A key or an event id, borrowed: one integer, or encoded bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Key<'a> {
    /// An integer by itself.
    Int(i64),
    /// Text, or several columns.
    Bytes(&'a [u8]),
}

impl Key<'_> {
    /// A hash that is the same everywhere: what keys are spread over shards by.
    #[must_use]
    pub fn hash(&self) -> u64 {
        match self {
            Self::Int(value) => mix(value.cast_unsigned()),
            Self::Bytes(bytes) => hash_bytes(bytes),
        }
    }

    /// Which of `shards` shards the key falls to.
    pub(super) fn shard(&self, shards: usize) -> usize {
        // The lower half scaled to the number of shards: a division would cost more than the hash.
        usize::try_from(((self.hash() & 0xffff_ffff) * shards as u64) >> 32).expect("below the number of shards")
    }

    /// The key as bytes: an integer as eight bytes, big-endian with its sign turned, so that order is kept.
    #[must_use]
    pub fn to_bytes(&self) -> Box<[u8]> {
        match self {
            Self::Int(value) => Box::from((value.cast_unsigned() ^ (1 << 63)).to_be_bytes()),
            Self::Bytes(bytes) => Box::from(*bytes),
        }
    }
}

/// The key that `columns` of `row` make, `None` when one of them is null. Bytes are written to `buffer`.
#[must_use]
#[inline]
pub fn key_of<'a>(row: Row<'_>, columns: &[usize], buffer: &'a mut Vec<u8>) -> Option<Key<'a>> {
    if let [column] = columns
        && !row.stream.columns[*column].kind.is_text()
    {
        let cell = row.cells[*column];
        return (cell > UNCHANGED).then_some(Key::Int(cell));
    }
    key_bytes(row, columns, buffer)
}

fn key_bytes<'a>(row: Row<'_>, columns: &[usize], buffer: &'a mut Vec<u8>) -> Option<Key<'a>> {
    buffer.clear();
    for &column in columns {
        let cell = row.cells[column];
        if cell <= UNCHANGED {
            return None;
        }
        match row.stream.columns[column].kind {
            ColumnType::Text | ColumnType::Uuid => {
                let text = row.text.get(cell);
                if columns.len() > 1 {
                    put_key_text(buffer, text);
                } else {
                    buffer.extend(text.as_bytes());
                }
            }
            _ => buffer.extend((cell.cast_unsigned() ^ (1 << 63)).to_be_bytes()),
        }
    }
    Some(Key::Bytes(buffer))
}

/// Appends one text of a composite key: its length, then its bytes.
pub fn put_key_text(buffer: &mut Vec<u8>, text: &str) {
    crate::bytes::put_varint(buffer, text.len() as u64);
    buffer.extend(text.as_bytes());
}

/// The 64 bits under which states know an event: an integer id itself, otherwise a hash of the text.
#[must_use]
pub fn event_key(row: Row<'_>) -> u64 {
    let cell = row.cells[row.stream.id];
    if row.stream.columns[row.stream.id].kind.is_text() {
        hash_bytes(row.text.get(cell).as_bytes())
    } else {
        cell.cast_unsigned()
    }
}
