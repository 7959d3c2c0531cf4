//! The texts that tiles refer to.

use super::{FLAGS, HEAD, Tiles, part_words, stride};
use crate::state::program::{Part, Program, TILE_TEXTS_BYTES_MAX, TILE_TEXTS_MAX, part_flag};
use crate::state::sketch::{TOP_VALUES, top_retain};
use crate::state::texts::Texts;
use crate::value::NULL;

impl Tiles {
    /// Visits every text word.
    pub(in crate::state) fn for_each_text(&mut self, program: &Program, mut visit: impl FnMut(&mut i64)) {
        let offsets = text_offsets(program);
        for tile in self.tiers.iter_mut().flat_map(|tier| tier.words.chunks_exact_mut(stride(program))) {
            for &(offset, _) in &offsets {
                if tile[offset] != NULL {
                    visit(&mut tile[offset]);
                }
            }
        }
    }

    /// Every text word.
    pub(in crate::state) fn text_words(&self, program: &Program) -> impl Iterator<Item = i64> {
        let offsets = text_offsets(program);
        let tiles = self.tiers.iter().flat_map(|tier| tier.words.chunks_exact(stride(program)));
        tiles
            .flat_map(move |tile| offsets.iter().map(|(offset, _)| tile[*offset]).collect::<Vec<_>>())
            .filter(|word| *word != NULL)
    }

    /// Gives up the texts that were seen least, until the others are within their bounds.
    pub(in crate::state) fn bound_texts(&mut self, program: &Program, texts: &Texts) {
        if !program.has_tile_texts() {
            return;
        }
        let mut seen = vec![0_i64; texts.len()];
        let offsets = text_offsets(program);
        for tile in self.tiers.iter().flat_map(|tier| tier.words.chunks_exact(stride(program))) {
            for &(offset, part) in &offsets {
                let count = if matches!(program.parts[part], Part::Top(_)) { tile[offset + 1] } else { 1 };
                if let Some(seen) = usize::try_from(tile[offset]).ok().and_then(|at| seen.get_mut(at)) {
                    *seen += count;
                }
            }
        }
        let mut order: Vec<i64> = (0_i64..).zip(&seen).filter(|(_, seen)| **seen > 0).map(|(word, _)| word).collect();
        let rank = |word: &i64| (-usize::try_from(*word).map_or(0, |at| seen[at]), texts.get(*word));
        order.sort_by(|a, b| rank(a).cmp(&rank(b)));
        let mut bytes = 0;
        let kept = order.iter().take(TILE_TEXTS_MAX).take_while(|word| {
            bytes += texts.get(**word).len() + 2;
            bytes <= TILE_TEXTS_BYTES_MAX
        });
        let kept = kept.count();
        if kept < order.len() {
            let mut gone = order.split_off(kept);
            gone.sort_unstable();
            self.forget_texts(program, &gone);
        }
    }

    fn forget_texts(&mut self, program: &Program, gone: &[i64]) {
        let mut offset = HEAD;
        for (place, &part) in program.parts.iter().enumerate() {
            let words = offset..offset + part_words(part);
            offset = words.end;
            if !program.text_part(part) {
                continue;
            }
            for tile in self.tiers.iter_mut().flat_map(|tier| tier.words.chunks_exact_mut(stride(program))) {
                let part_of = &mut tile[words.clone()];
                let is_changed = match part {
                    Part::Top(_) => top_retain(part_of, |word| gone.binary_search(&word).is_err()),
                    _ if gone.binary_search(&part_of[2]).is_ok() => {
                        part_of.fill(NULL);
                        true
                    }
                    _ => false,
                };
                if is_changed {
                    tile[FLAGS] |= part_flag(place);
                }
            }
        }
    }
}

/// Where text words stand in a tile, and the part each belongs to.
fn text_offsets(program: &Program) -> Vec<(usize, usize)> {
    let mut offsets = Vec::new();
    let mut from = HEAD;
    for (place, part) in program.parts.iter().enumerate() {
        match *part {
            Part::Top(_) if program.text_part(*part) => {
                offsets.extend((0..TOP_VALUES).map(|at| (from + at * 2, place)))
            }
            _ if program.text_part(*part) => offsets.push((from + 2, place)),
            _ => {}
        }
        from += part_words(*part);
    }
    offsets
}
