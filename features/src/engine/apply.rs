//! Step two: old versions leave their states, new ones enter, and judged events read their features.

use crate::change::{Row, TextArena, Version};
use crate::state::{AsOf, Inserted, Program, Readout, Scratch, Slot, State, StateError};
use crate::time::Timestamp;
use crate::value::NULL;
use crate::vector::Flags;

use super::entities::{EntityTable, expires, newest};
use super::mark;
use super::plan::{Key, Plan, Route};
use super::resolution::{Incoming, Resolved, RowPlace, VersionRef};
use super::resolve::RowShard;
use super::touch::{Coming, Effect, Touch};
use super::{StateImage, Unwritten};

/// How many touches ahead states are brought near.
const NEAR_TOUCHES: usize = 32;

/// What one route read for one change.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouteReading {
    pub(super) change: u32,
    pub(super) route: u32,
    /// Where its readouts begin in the shard's.
    pub(super) offset: u32,
    /// The instant they were read as of, microseconds.
    pub(super) as_of: i64,
}

/// The states of the keys that fall to one shard.
#[derive(Debug)]
pub(super) struct StateShard {
    shard: usize,
    tables: Vec<EntityTable>,
    pub(super) readings: Vec<RouteReading>,
    pub(super) readouts: Vec<Readout>,
    /// Changes that lie behind the retention of every group that would take them under one key.
    pub(super) late: Vec<u32>,
    pub(super) scratch: Scratch,
    words: Words,
    near: Vec<Near>,
}

#[derive(Clone, Debug, Default)]
struct Words {
    old: Vec<i64>,
    new: Vec<i64>,
    old_texts: TextArena,
    new_texts: TextArena,
}

/// A touch whose states were brought near.
#[derive(Clone, Copy, Debug)]
struct Near {
    touch: Touch,
    /// The shard of rows it is from.
    rows: u32,
    /// Where its key stands; `None`: nowhere, and it only reads.
    place: Option<u32>,
}

/// One version of the row as this shard sees it.
#[derive(Clone, Copy)]
struct Side<'a> {
    version: &'a VersionRef,
    row: Row<'a>,
    labels: &'a [crate::state::LabelWord],
}

impl StateShard {
    pub(super) fn new(plan: &Plan, shard: usize) -> Self {
        Self {
            shard,
            tables: plan.entity_groups.iter().map(|groups| EntityTable::new(groups.len())).collect(),
            readings: Vec::new(),
            readouts: Vec::new(),
            late: Vec::new(),
            scratch: Scratch::default(),
            words: Words::default(),
            near: Vec::new(),
        }
    }

    pub(super) fn contains(&self, entity: usize, key: &Key<'_>) -> bool {
        self.tables[entity].contains(key)
    }

    pub(super) fn state(&self, entity: usize, key: &Key<'_>, group: usize) -> Option<&State> {
        let table = &self.tables[entity];
        table.find(key).map(|place| &table.states(place)[group])
    }

    pub(super) fn newest(&self, entity: usize, key: &Key<'_>) -> Option<i64> {
        let table = &self.tables[entity];
        newest(table.states(table.find(key)?))
    }

    pub(super) fn load(
        &mut self,
        plan: &Plan,
        entity: usize,
        key: &Key<'_>,
        bytes: &[Option<&[u8]>],
    ) -> Result<(), StateError> {
        self.tables[entity].load(plan, entity, key, bytes)
    }

    /// Empties the states of a group (its place in the entity's list).
    pub(super) fn truncate(&mut self, entity: usize, group: usize, cleared: Version) {
        self.tables[entity].truncate(group, cleared);
    }

    pub(super) fn unwritten(&self) -> Unwritten {
        self.tables.iter().map(EntityTable::unwritten).sum()
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.tables.iter().map(EntityTable::memory_bytes).sum()
    }

    pub(super) fn keys(&self) -> usize {
        self.tables.iter().map(EntityTable::keys).sum()
    }

    pub(super) fn clear(&mut self) {
        self.tables.iter_mut().for_each(EntityTable::clear);
    }

    pub(super) fn checkpoint(&mut self, plan: &Plan, visit: &mut impl FnMut(StateImage)) {
        for (entity, table) in self.tables.iter_mut().enumerate() {
            let cleared = table.all_cleared();
            table.drain_dirty(|key, states| each_image(plan, (entity, &cleared), key, states, &mut *visit));
        }
    }

    pub(super) fn images(&self, plan: &Plan, images: &mut Vec<StateImage>) {
        for (entity, table) in self.tables.iter().enumerate() {
            let cleared = table.all_cleared();
            table.for_each(|key, states| {
                each_image(plan, (entity, &cleared), key, states, &mut |image: StateImage| {
                    if image.bytes.is_some() {
                        images.push(image);
                    }
                });
            });
        }
    }

    /// Applies a resolved batch to the states of this shard, in order.
    pub(super) fn apply(&mut self, plan: &Plan, incoming: Incoming<'_>, rows: &[RowShard], places: &[RowPlace]) {
        self.readings.clear();
        self.readouts.clear();
        self.late.clear();
        self.scratch.clear_texts();
        let routes = &plan.streams[incoming.stream.index].routes;
        let mut coming = Coming::new(rows, self.shard, places);
        let mut near = std::mem::take(&mut self.near);
        loop {
            self.bring_near(plan, routes, rows, &mut coming, &mut near);
            if near.is_empty() {
                break;
            }
            for near in &near {
                self.meet(plan, incoming, &rows[near.rows as usize], near);
            }
        }
        self.near = near;
    }

    /// Finds the states of the next touches and brings them near, all at once: waiting for memory one state at a time took most of the
    /// time.
    fn bring_near(
        &mut self,
        plan: &Plan,
        routes: &[Route],
        rows: &[RowShard],
        coming: &mut Coming<'_>,
        near: &mut Vec<Near>,
    ) {
        near.clear();
        near.extend(coming.take(NEAR_TOUCHES).map(|(shard, touch)| {
            let route = &routes[touch.route as usize];
            let table = &mut self.tables[route.entity];
            let key = rows[shard as usize].touches.key(&touch);
            let place = if touch.effect == Effect::Nothing { table.find(&key) } else { Some(table.place(&key)) };
            Near { touch, rows: shard, place }
        }));
        let mut touched = 0;
        for near in near.iter() {
            if let Some(place) = near.place {
                touched ^= self.tables[routes[near.touch.route as usize].entity].warm(place);
            }
        }
        for near in near.iter() {
            let route = &routes[near.touch.route as usize];
            if let Some(place) = near.place {
                touched ^= self.tables[route.entity].warm_edges(plan, route, place);
            }
        }
        std::hint::black_box(touched);
    }

    /// Lets a change meet the states of one key: its versions leave and enter, its features are read.
    fn meet(&mut self, plan: &Plan, incoming: Incoming<'_>, rows: &RowShard, near: &Near) {
        let Near { touch, place, .. } = near;
        let route = &plan.streams[incoming.stream.index].routes[touch.route as usize];
        let resolved = &rows.resolved;
        let resolution = &resolved.resolutions[touch.at.resolution as usize];
        let side = |version| resolved.version(version).map(|version| Side::of(resolved, incoming, version));
        let new = side(resolution.new);
        if let (Some(place), true) = (*place, touch.effect != Effect::Nothing) {
            self.tables[route.entity].touch(place, || rows.touches.key(touch).to_bytes());
            let is_late = match (touch.effect, new) {
                (Effect::Enters, Some(new)) => self.enter(plan, route, place, new),
                (Effect::Leaves, _) => self.exchange(plan, route, place, side(resolution.old), None),
                (_, new) => self.exchange(plan, route, place, side(resolution.old), new),
            };
            if is_late {
                self.late.push(touch.at.change);
            }
        }
        if let (Some(side), true) = (new, touch.is_read) {
            let as_of = self.read(plan, route, *place, side, resolution.is_transient);
            let offset = u32::try_from(self.readouts.len() - route.width).expect("batches are bounded");
            self.readings.push(RouteReading { change: touch.at.change, route: touch.route, offset, as_of });
        }
    }

    /// Adds a version to every group of a key; true when every one of them found it too late.
    fn enter(&mut self, plan: &Plan, route: &Route, place: u32, new: Side<'_>) -> bool {
        let states = self.tables[route.entity].states_mut(place);
        let (mut is_late, mut is_entered) = (false, false);
        for step in route.steps.iter().filter(|step| step.is_own) {
            let program = &plan.programs[step.group];
            if program.admits(&new.row) {
                let inserted = states[step.place]
                    .insert(program, &new.slot_in(program, &mut self.words.new, &mut self.words.new_texts));
                let is_refused = inserted == Inserted::TooLate;
                (is_late, is_entered) = (is_late | is_refused, is_entered | !is_refused);
            }
        }
        is_late && !is_entered
    }

    /// Replaces one version by another in every group of a key; true when every group found the new one too late.
    fn exchange(
        &mut self,
        plan: &Plan,
        route: &Route,
        place: u32,
        old: Option<Side<'_>>,
        new: Option<Side<'_>>,
    ) -> bool {
        let states = self.tables[route.entity].states_mut(place);
        let (mut is_late, mut is_entered) = (false, false);
        for step in route.steps.iter().filter(|step| step.is_own) {
            let program = &plan.programs[step.group];
            let state = &mut states[step.place];
            let words = &mut self.words;
            let old = old.filter(|side| program.admits(&side.row));
            let old = old.map(|side| side.slot_in(program, &mut words.old, &mut words.old_texts));
            let new = new.filter(|side| program.admits(&side.row));
            let new = new.map(|side| side.slot_in(program, &mut words.new, &mut words.new_texts));
            match replace(program, state, old, new) {
                Some(Inserted::TooLate) => is_late = true,
                Some(_) => is_entered = true,
                None => {}
            }
        }
        is_late && !is_entered
    }

    /// Reads the groups of a route as the event sees them; returns the as-of.
    fn read(&mut self, plan: &Plan, route: &Route, place: Option<u32>, side: Side<'_>, is_transient: bool) -> i64 {
        let table = &mut self.tables[route.entity];
        let states = place.map_or(&mut [][..], |place| table.states_mut(place));
        let as_of = as_of(plan, side.version, newest(states));
        let from = self.readouts.len();
        self.readouts.resize(from + route.width, Readout::default());
        let mut out = &mut self.readouts[from..];
        for step in &route.steps {
            let program = &plan.programs[step.group];
            let own;
            (own, out) = std::mem::take(&mut out).split_at_mut(program.width());
            // Ids and versions of another stream's events do not compare with this one's.
            let as_of = if step.is_own { as_of } else { AsOf::instant(as_of.time) };
            let enters = is_transient && step.is_own && program.admits(&side.row);
            match states.get_mut(step.place) {
                state if enters => {
                    let slot = side.slot_in(program, &mut self.words.new, &mut self.words.new_texts);
                    let empty = State::default();
                    let state = state.map_or(&empty, |state| &*state);
                    state.read_with(program, &slot, as_of, &mut self.scratch, own);
                }
                Some(state) if state.is_empty() => State::read_absent(program, Flags::NO_STATE, own),
                Some(state) if is_transient => state.read(program, as_of, &mut self.scratch, own),
                Some(state) => state.read_on(program, as_of, &mut self.scratch, own),
                None => State::read_absent(program, Flags::NO_STATE, own),
            }
        }
        as_of.time
    }
}

impl<'a> Side<'a> {
    fn of(resolved: &'a Resolved, incoming: Incoming<'a>, version: &'a VersionRef) -> Self {
        Self { version, row: resolved.row(incoming, version), labels: resolved.labels(version) }
    }

    /// The version as a group's state takes it; its words go to `words` and `texts`.
    fn slot_in<'w>(self, program: &Program, words: &'w mut Vec<i64>, texts: &'w mut TextArena) -> Slot<'w>
    where
        'a: 'w,
    {
        words.clear();
        texts.clear();
        program.words(self.row, words, texts);
        let VersionRef { time, id, first, .. } = *self.version;
        Slot { time, id, first, labels: self.labels, words, texts }
    }
}

/// The instant a decision reads as of (DESIGN 3.3): its event's time, or the newest known of the entity when that is a little later.
fn as_of(plan: &Plan, event: &VersionRef, newest: Option<i64>) -> AsOf {
    let subject = Some(event.id);
    match newest {
        Some(newest) if newest > event.time && newest - event.time <= plan.definitions.disorder.micros() => {
            AsOf { subject, ..AsOf::instant(newest) }
        }
        _ => AsOf { time: event.time, version: event.first, subject },
    }
}

/// Makes a state hold `new` where it held `old`.
fn replace(program: &Program, state: &mut State, old: Option<Slot<'_>>, new: Option<Slot<'_>>) -> Option<Inserted> {
    match (old, new) {
        (Some(old), Some(new)) if is_same_event(program, &old, &new) => {
            if old.labels != new.labels {
                state.relabel(program, &old, &new);
            }
            None
        }
        (old, new) => {
            if let Some(old) = old {
                state.remove(program, &old);
            }
            new.map(|new| state.insert(program, &new))
        }
    }
}

/// Whether two versions differ in their labels at most.
fn is_same_event(program: &Program, old: &Slot<'_>, new: &Slot<'_>) -> bool {
    let is_same_word = |column: usize| {
        let (a, b) = (old.words[column], new.words[column]);
        if program.is_text(column) && a != NULL && b != NULL { old.texts.get(a) == new.texts.get(b) } else { a == b }
    };
    (old.time, old.id, old.first) == (new.time, new.id, new.first) && (0..old.words.len()).all(is_same_word)
}

fn each_image(
    plan: &Plan,
    (entity, cleared): (usize, &[Version]),
    key: &[u8],
    states: &[State],
    visit: &mut impl FnMut(StateImage),
) {
    for (place, state) in states.iter().enumerate() {
        let group = plan.entity_groups[entity][place];
        let program = &plan.programs[group];
        let bytes = (!state.is_empty()).then(|| {
            let mut bytes = Vec::new();
            mark::stamp(cleared[place], &mut bytes);
            state.encode(program, &mut bytes);
            bytes
        });
        let expires = expires(program, state).map(Timestamp::from_micros);
        visit(StateImage { entity, key: Box::from(key), group, bytes, expires });
    }
}
