//! The states of one entity's keys within one shard, in memory, with what changed since the last checkpoint.

use hashbrown::HashMap;

use crate::change::Version;
use crate::state::{Program, State, StateError};

use super::Unwritten;
use super::mark;
use super::plan::{Key, Plan, Route};

/// An index from keys to places.
#[derive(Clone, Debug, Default)]
pub(super) struct KeyIndex {
    ints: HashMap<i64, u32>,
    bytes: HashMap<Box<[u8]>, u32>,
}

impl KeyIndex {
    pub(super) fn get(&self, key: &Key<'_>) -> Option<u32> {
        match key {
            Key::Int(value) => self.ints.get(value).copied(),
            Key::Bytes(bytes) => self.bytes.get(*bytes).copied(),
        }
    }

    pub(super) fn insert(&mut self, key: &Key<'_>, place: u32) {
        match key {
            Key::Int(value) => self.ints.insert(*value, place),
            Key::Bytes(bytes) => self.bytes.insert(Box::from(*bytes), place),
        };
    }

    pub(super) fn clear(&mut self) {
        self.ints.clear();
        self.bytes.clear();
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Key<'_>, u32)> {
        let ints = self.ints.iter().map(|(key, place)| (Key::Int(*key), *place));
        ints.chain(self.bytes.iter().map(|(key, place)| (Key::Bytes(key), *place)))
    }
}

/// The states of one entity.
#[derive(Clone, Debug)]
pub(super) struct EntityTable {
    groups: usize,
    index: KeyIndex,
    /// `groups` states for each place.
    states: Vec<State>,
    dirty: Vec<bool>,
    dirty_keys: Vec<(Box<[u8]>, u32)>,
    /// Bytes of the states that are dirty, as they were when they became so.
    dirty_bytes: usize,
    /// Per group, the newest truncation of its stream.
    cleared: Vec<Version>,
}

impl EntityTable {
    pub(super) fn new(groups: usize) -> Self {
        Self {
            groups,
            index: KeyIndex::default(),
            states: Vec::new(),
            dirty: Vec::new(),
            dirty_keys: Vec::new(),
            dirty_bytes: 0,
            cleared: vec![Version::REQUEST; groups],
        }
    }

    pub(super) fn contains(&self, key: &Key<'_>) -> bool {
        self.index.get(key).is_some()
    }

    /// The place of `key`, made when it is new.
    pub(super) fn place(&mut self, key: &Key<'_>) -> u32 {
        if let Some(place) = self.index.get(key) {
            return place;
        }
        let place = u32::try_from(self.dirty.len()).expect("memory holds fewer than 2^32 keys");
        self.index.insert(key, place);
        self.states.resize_with(self.states.len() + self.groups, State::default);
        self.dirty.push(false);
        place
    }

    pub(super) fn find(&self, key: &Key<'_>) -> Option<u32> {
        self.index.get(key)
    }

    /// Touches what an event of the key at `place` will need.
    #[inline]
    pub(super) fn warm(&self, place: u32) -> i64 {
        self.states(place).iter().fold(0, |sum, state| sum ^ state.warm())
    }

    /// Touches what reading it will need; [`Self::warm`] comes first.
    #[inline]
    pub(super) fn warm_edges(&self, plan: &Plan, route: &Route, place: u32) -> i64 {
        let states = self.states(place);
        route.steps.iter().fold(0, |sum, step| sum ^ states[step.place].warm_edges(&plan.programs[step.group]))
    }

    pub(super) fn states(&self, place: u32) -> &[State] {
        let from = place as usize * self.groups;
        &self.states[from..from + self.groups]
    }

    pub(super) fn states_mut(&mut self, place: u32) -> &mut [State] {
        let from = place as usize * self.groups;
        &mut self.states[from..from + self.groups]
    }

    fn state_mut(&mut self, place: u32, group: usize) -> &mut State {
        &mut self.states[place as usize * self.groups + group]
    }

    /// Notes that the states at `place` are to be written under `key`.
    pub(super) fn touch(&mut self, place: u32, key: impl FnOnce() -> Box<[u8]>) {
        if !std::mem::replace(&mut self.dirty[place as usize], true) {
            self.dirty_keys.push((key(), place));
            self.dirty_bytes += self.states(place).iter().map(State::memory_bytes).sum::<usize>();
        }
    }

    /// Takes over what the store holds of `key`: bytes per group, in the entity's order of groups.
    pub(super) fn load(
        &mut self,
        plan: &Plan,
        entity: usize,
        key: &Key<'_>,
        bytes: &[Option<&[u8]>],
    ) -> Result<(), StateError> {
        let place = self.place(key);
        for (group, bytes) in bytes.iter().enumerate() {
            if let Some(bytes) = bytes
                && let Some(bytes) = mark::unstamped(self.cleared[group], bytes)?
            {
                let program = &plan.programs[plan.entity_groups[entity][group]];
                *self.state_mut(place, group) = State::decode(program, bytes)?;
            }
        }
        Ok(())
    }

    /// Empties every state of a group: its stream was truncated.
    pub(super) fn truncate(&mut self, group: usize, cleared: Version) {
        self.cleared[group] = cleared;
        self.states.iter_mut().skip(group).step_by(self.groups).for_each(|state| *state = State::default());
    }

    /// Per group, the newest truncation of its stream.
    pub(super) fn all_cleared(&self) -> Vec<Version> {
        self.cleared.clone()
    }

    /// Visits the states that changed since the last visit.
    pub(super) fn drain_dirty(&mut self, mut visit: impl FnMut(&[u8], &[State])) {
        self.dirty_bytes = 0;
        for (key, place) in std::mem::take(&mut self.dirty_keys) {
            self.dirty[place as usize] = false;
            visit(&key, self.states(place));
        }
    }

    /// Visits every key in memory.
    pub(super) fn for_each(&self, mut visit: impl FnMut(&[u8], &[State])) {
        for (key, place) in self.index.iter() {
            visit(&key.to_bytes(), self.states(place));
        }
    }

    /// What changed since the last visit.
    pub(super) fn unwritten(&self) -> Unwritten {
        Unwritten { records: self.dirty_keys.len() * self.groups, bytes: self.dirty_bytes }
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.dirty.len() * 48 + self.states.iter().map(State::memory_bytes).sum::<usize>()
    }

    pub(super) fn keys(&self) -> usize {
        self.dirty.len()
    }

    /// Forgets everything, also what was not written; only what the store holds remains.
    pub(super) fn clear(&mut self) {
        self.dirty_keys.clear();
        self.dirty_bytes = 0;
        self.index.clear();
        self.states.clear();
        self.dirty.clear();
    }
}

/// The newest event time among states, microseconds.
pub(super) fn newest(states: &[State]) -> Option<i64> {
    states.iter().filter_map(State::newest).max()
}

/// After which event time nothing reads `states` any more; `None`: never.
pub(super) fn expires(program: &Program, state: &State) -> Option<i64> {
    Some(state.last_seen()?.saturating_add(program.retention()?.micros()))
}
