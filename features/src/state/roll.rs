//! The way of events from raw to tiles, and the texts that both refer to.
//!
//! Invariant: every step is paid for by the events that led to it: half a budget of events rolls at once, and texts are swept when they
//! have doubled.

use super::label::LabelWord;
use super::program::{self, Program, RAW_BYTES_MAX, WordKind};
use super::texts::Texts;
use super::tile::Tiles;
use super::{LABEL, Rare, Removed, Slot, State};

impl State {
    /// Moves the oldest events into tiles until half the raw budget is free.
    pub(super) fn roll(&mut self, program: &Program) {
        // Running sums know nothing of tiles.
        self.unsettle(program);
        let mut tiles = self.rare().tiles.take().unwrap_or_else(|| Tiles::new(program));
        let newest = self.newest().unwrap_or(i64::MIN);
        tiles.newest = newest;
        let mut words = Vec::with_capacity(program.columns.len());
        while self.raw_cost(program) > RAW_BYTES_MAX / 2 && self.len > 0 {
            let (time, first, id) = self.order(0);
            words.clear();
            words.extend((0..program.columns.len()).map(|column| self.lane(program.first_column() + column)[0]));
            let label = if program.has_label { LabelWord::from_word(self.lane(LABEL)[0]) } else { LabelWord::UNKNOWN };
            let texts = self.rare.as_ref().map(|rare| &rare.texts);
            tiles.add(program, (time, first, id), label, &words, texts);
            tiles.boundary = (time, first, id);
            self.drop_front(program, 1);
        }
        tiles.prune(program);
        self.rare().tiles = Some(tiles);
        self.sweep_texts(program);
    }

    pub(super) fn tile_add(&mut self, program: &Program, slot: &Slot<'_>) {
        let rare = self.rare();
        let words: Vec<i64> = intern_words(program, slot, &mut rare.texts);
        let label = slot.labels.last().copied().unwrap_or_default();
        let Rare { tiles, texts, .. } = rare;
        if let Some(tiles) = tiles {
            tiles.add(program, (slot.time, slot.first, slot.id), label, &words, Some(texts));
        }
        if rare.texts.is_crowded() {
            self.sweep_texts(program);
        }
    }

    pub(super) fn tile_retract(&mut self, program: &Program, slot: &Slot<'_>) -> Removed {
        let Some(rare) = &mut self.rare else { return Removed::Absent };
        let Rare { tiles: Some(tiles), texts, .. } = &mut **rare else { return Removed::Absent };
        if (slot.time, slot.first, slot.id) > tiles.boundary {
            return Removed::Absent;
        }
        let words = intern_words(program, slot, texts);
        let removed = if tiles.retract(program, slot, &words) { Removed::Tiled } else { Removed::Absent };
        if rare.texts.is_crowded() {
            self.sweep_texts(program);
        }
        removed
    }

    /// Forgets the texts that neither an event nor a tile refers to.
    pub(super) fn sweep_texts(&mut self, program: &Program) {
        let Some(mut rare) = self.rare.take() else { return };
        if let Some(tiles) = &mut rare.tiles {
            tiles.bound_texts(program, &rare.texts);
        }
        let mut sweep = rare.texts.begin_sweep();
        for (column, spec) in program.columns.iter().enumerate() {
            if spec.kind == WordKind::Text {
                for word in self.lane_mut(program.first_column() + column) {
                    *word = sweep.keep(*word);
                }
            }
        }
        if let Some(tiles) = &mut rare.tiles {
            tiles.for_each_text(program, |word| *word = sweep.keep(*word));
        }
        rare.texts = sweep.finish();
        self.rare = Some(rare);
    }
}

/// The slot's words with text words pointing into `texts`.
fn intern_words(program: &Program, slot: &Slot<'_>, texts: &mut Texts) -> Vec<i64> {
    let word = |(spec, &word): (&program::SlotColumn, &i64)| {
        if spec.kind == WordKind::Text && word != crate::value::NULL {
            texts.intern(slot.texts.get(word))
        } else {
            word
        }
    };
    program.columns.iter().zip(slot.words).map(word).collect()
}
