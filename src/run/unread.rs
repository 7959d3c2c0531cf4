//! Records of judged streams that became no change: which of them are to be judged, and where among the changes.
//!
//! Where a record still tells which row it is of, the row is put to the engine without its values. The engine refuses it as it refuses an
//! event without a time, and its row record says whether the row was judged before: then nothing more is decided, and the version that can
//! be read at last gets a decision of its own. A record that does not tell goes by its place.
//!
//! Invariant: a record that tells its row stands where it was delivered among the changes of that row, however records are cut into
//! deliveries.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use interdict_features::change::{Change, ChangeBatch, Op, RowWriter, Version};
use interdict_features::definition::{Definitions, Stream};
use interdict_features::engine::{Output, Plan};
use interdict_ingest::dead_letter::DeadLetter;
use interdict_ingest::source::Delivery;

use super::judging::places;
use super::sources::JudgedSources;

/// What is taken of a delivery, one after the other.
#[derive(Debug)]
pub(crate) enum Step<'a> {
    Changes(Cow<'a, ChangeBatch>),
    Unread(Unread<'a>),
}

/// Records of one judged stream that became no change.
#[derive(Debug)]
pub(crate) struct Unread<'a> {
    /// Their stream's index.
    pub(crate) stream: usize,
    letters: Vec<&'a DeadLetter>,
    /// The row of each, without its values; `None`: they do not tell.
    rows: Option<ChangeBatch>,
}

#[cfg(feature = "redis")]
impl Step<'_> {
    /// What the engine is given.
    pub(crate) fn changes(&self) -> Option<&ChangeBatch> {
        match self {
            Self::Changes(changes) => Some(changes),
            Self::Unread(unread) => unread.rows.as_ref(),
        }
    }
}

impl<'a> Unread<'a> {
    fn of(definitions: &Definitions, stream: usize, letter: &'a DeadLetter) -> Self {
        Self { stream, letters: vec![letter], rows: row_of(&definitions.streams[stream], letter) }
    }

    /// What the engine is to be given before [`Self::judged`] is asked.
    pub(crate) fn rows(&self) -> Option<&ChangeBatch> {
        self.rows.as_ref()
    }

    /// The records that are to be judged. `output` is what [`Self::rows`] came to.
    pub(crate) fn judged(&self, plan: &Plan, output: &Output) -> Vec<&'a DeadLetter> {
        match &self.rows {
            None => self.letters.clone(),
            Some(rows) => places(plan, rows, output, &[]).into_iter().map(|at| self.letters[at]).collect(),
        }
    }

    fn is_of_snapshot(&self) -> bool {
        self.letters.iter().all(|letter| letter.op.is_some_and(Op::is_of_snapshot))
    }

    fn position(&self) -> u64 {
        self.letters.first().map_or(0, |letter| letter.position)
    }

    fn join(&mut self, other: Self) {
        self.letters.extend(other.letters);
        if let (Some(rows), Some(more)) = (&mut self.rows, other.rows) {
            for (change, row) in more.iter() {
                rows.push_row(row, *change);
            }
        }
    }
}

/// A delivery in steps. Records that concern no row of its changes come first, all at once: they may be many. Those of a snapshot come
/// behind its mark, which says that everything was lost, and before its rows, which are to see them.
pub(crate) fn steps<'a>(
    definitions: &Definitions,
    judged_sources: &JudgedSources,
    source: &str,
    delivery: &'a Delivery,
) -> Vec<Step<'a>> {
    let unread = unread(definitions, judged_sources, source, &delivery.dead);
    let (behind, unread): (Vec<Unread<'_>>, Vec<Unread<'_>>) = unread.into_iter().partition(Unread::is_of_snapshot);
    let changed = changed(&unread, &delivery.batches);
    let is_changed = |unread: &Unread<'_>| {
        let id = unread.letters[0].id.as_deref();
        id.is_some_and(|id| changed.contains(&(unread.stream, id)))
    };
    let (bound, loose): (Vec<Unread<'_>>, Vec<Unread<'_>>) = unread.into_iter().partition(is_changed);
    let mut steps: Vec<Step<'_>> = together(loose).chain(merged(bound, &delivery.batches)).collect();
    let is_mark = |step: &Step<'_>| matches!(step, Step::Changes(changes) if changes.get(0).0.op.is_mark());
    let at = steps.iter().rposition(is_mark).map_or(0, |mark| mark + 1);
    steps.splice(at..at, together(behind));
    steps
}

/// Records of each stream at once, those that tell their row and those that do not.
fn together<'a>(unread: Vec<Unread<'a>>) -> impl Iterator<Item = Step<'a>> {
    let mut together: BTreeMap<(usize, bool), Unread<'_>> = BTreeMap::new();
    for unread in unread {
        match together.entry((unread.stream, unread.rows.is_some())) {
            Entry::Occupied(mut others) => others.get_mut().join(unread),
            Entry::Vacant(first) => {
                first.insert(unread);
            }
        }
    }
    together.into_values().map(Step::Unread)
}

/// All changes of a delivery in the order of their positions, rows of records that became no change among them.
pub(crate) fn in_order(
    definitions: &Definitions,
    judged_sources: &JudgedSources,
    source: &str,
    delivery: &Delivery,
) -> Vec<ChangeBatch> {
    let mut unread = unread(definitions, judged_sources, source, &delivery.dead);
    unread.retain(|unread| unread.rows.is_some());
    let owned = |step| match step {
        Step::Changes(changes) => Some(changes.into_owned()),
        Step::Unread(unread) => unread.rows,
    };
    merged(unread, &delivery.batches).into_iter().filter_map(owned).collect()
}

/// Those of `dead` that are to be judged as far as they themselves tell, in order.
fn unread<'a>(
    definitions: &Definitions,
    judged_sources: &JudgedSources,
    source: &str,
    dead: &'a [DeadLetter],
) -> Vec<Unread<'a>> {
    let judged = |letter: &'a DeadLetter| {
        let stream = judged_sources.stream_of(definitions, source, letter)?;
        Some(Unread::of(definitions, stream, letter))
    };
    dead.iter().filter_map(judged).collect()
}

/// Which of the rows of `unread` are also changed by `batches`: stream and id.
fn changed<'a>(unread: &[Unread<'a>], batches: &[ChangeBatch]) -> HashSet<(usize, &'a str)> {
    let mut told: HashMap<usize, HashSet<&'a str>> = HashMap::new();
    for unread in unread.iter().filter(|unread| unread.rows.is_some()) {
        told.entry(unread.stream).or_default().extend(unread.letters[0].id.as_deref());
    }
    let mut changed = HashSet::new();
    for batch in batches {
        let stream = batch.stream().index;
        let Some(told) = told.get(&stream) else { continue };
        let ids = batch.iter().filter_map(|(_, row)| row.event_id());
        changed.extend(ids.filter_map(|id| told.get(id.as_str()).map(|id| (stream, *id))));
    }
    changed
}

/// `batches` and `unread`, both in the order of positions, as one.
fn merged<'a>(unread: Vec<Unread<'a>>, batches: &'a [ChangeBatch]) -> Vec<Step<'a>> {
    let mut steps = Vec::new();
    let mut unread = unread.into_iter().peekable();
    for part in batches.iter().flat_map(ChangeBatch::parts) {
        let mut from = 0;
        let position = |row: usize| part.get(row).0.position;
        let last = position(part.len() - 1);
        while let Some(next) = unread.next_if(|unread| unread.position() <= last) {
            let until = (from..part.len()).find(|row| position(*row) >= next.position()).unwrap_or(part.len());
            if until > from {
                steps.push(Step::Changes(Cow::Owned(part.part(from..until))));
            }
            from = until;
            steps.push(Step::Unread(next));
        }
        if from == 0 {
            steps.push(Step::Changes(part));
        } else if from < part.len() {
            steps.push(Step::Changes(Cow::Owned(part.part(from..part.len()))));
        }
    }
    steps.extend(unread.map(Step::Unread));
    steps
}

/// The row of a record, of which nothing is known but its id: whatever stands in a row record about it is older than the version that
/// cannot be read.
fn row_of(stream: &Arc<Stream>, letter: &DeadLetter) -> Option<ChangeBatch> {
    // Without a time the engine refuses it.
    stream.time?;
    let mut batch = ChangeBatch::new(Arc::clone(stream), letter.partition);
    let mut row = batch.begin();
    set_id(&mut row, letter.id.as_deref()?)?;
    let op = letter.op.unwrap_or(Op::Insert);
    row.finish(Change { op, version: Version::MAX, arrival: None, position: letter.position });
    Some(batch)
}

/// Sets the id from the text of [`interdict_features::change::Row::event_id`].
fn set_id(row: &mut RowWriter<'_>, id: &str) -> Option<()> {
    let column = row.stream().id;
    if row.stream().columns[column].kind.is_text() {
        row.set_masked(column, id);
    } else {
        row.set_cell(column, id.parse().ok()?);
    }
    Some(())
}

#[cfg(test)]
mod tests;
