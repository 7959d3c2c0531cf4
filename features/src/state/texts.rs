//! The texts a state's events refer to, each held once.

use std::sync::Arc;

use crate::value::NULL;

/// Below this many texts nothing is swept.
const SWEEP_MIN: usize = 64;
/// Bytes of new texts after which there is a sweep all the same; the last one may pass it.
pub(super) const UNSWEPT_BYTES_MAX: usize = 4 * 1024;

/// Texts by index. Texts stay until a sweep finds that nothing refers to them.
#[derive(Clone, Debug, Default)]
pub(super) struct Texts {
    entries: Vec<Arc<str>>,
    kept_at_last_sweep: usize,
    /// Bytes added since.
    added: usize,
}

impl Texts {
    /// The index of `text`, which is added when it is new. Linear: a state refers to few texts.
    pub(super) fn intern(&mut self, text: &str) -> i64 {
        let at = self.entries.iter().position(|known| &**known == text).unwrap_or_else(|| {
            self.entries.push(Arc::from(text));
            self.added += text.len();
            self.entries.len() - 1
        });
        i64::try_from(at).expect("texts are bounded by the raw budget")
    }

    pub(super) fn get(&self, word: i64) -> &str {
        usize::try_from(word).ok().and_then(|at| self.entries.get(at)).map_or("", |text| &**text)
    }

    pub(super) fn shared(&self, word: i64) -> Option<&Arc<str>> {
        usize::try_from(word).ok().and_then(|at| self.entries.get(at))
    }

    /// How many texts are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_crowded(&self) -> bool {
        self.entries.len() > SWEEP_MIN.max(self.kept_at_last_sweep * 2) || self.added > UNSWEPT_BYTES_MAX
    }

    pub(super) fn memory_bytes(&self) -> usize {
        self.entries.iter().map(|text| text.len() + 32).sum()
    }

    /// Begins a sweep: what is not kept before it finishes is forgotten.
    pub(super) fn begin_sweep(&mut self) -> Sweep {
        let old = std::mem::take(&mut self.entries);
        Sweep { moved: vec![NULL; old.len()], old, kept: Vec::new() }
    }
}

/// A sweep under way.
#[derive(Debug)]
pub(super) struct Sweep {
    old: Vec<Arc<str>>,
    moved: Vec<i64>,
    kept: Vec<Arc<str>>,
}

impl Sweep {
    /// Keeps the text of `word` and returns its new index.
    pub(super) fn keep(&mut self, word: i64) -> i64 {
        let Some(at) = usize::try_from(word).ok().filter(|at| *at < self.old.len()) else { return NULL };
        if self.moved[at] == NULL {
            self.moved[at] = i64::try_from(self.kept.len()).expect("no more texts than before");
            self.kept.push(Arc::clone(&self.old[at]));
        }
        self.moved[at]
    }

    pub(super) fn finish(self) -> Texts {
        Texts { kept_at_last_sweep: self.kept.len(), entries: self.kept, added: 0 }
    }
}
