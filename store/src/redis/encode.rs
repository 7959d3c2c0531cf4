//! A [`Commit`] as the arguments of the commit script, and its answer read back. The order of the arguments is that in
//! which `scripts/commit.lua` takes them.
//!
//! Invariant: everything the store may refuse without asking the server is refused here, before anything is sent.

use bytes::Bytes;
use interdict_features::decision::ListKind;
use interdict_features::time::Timestamp;

use super::layout::{self, Layout};
use crate::error::{ONE_COMMIT, StoreError};
use crate::port::{
    Append, Claim, Commit, Intent, ListEntry, ListWrite, Listed, LogName, Place, RowWrite, StateWrite, UNBLOCKS_KEPT,
    Unblock,
};

/// Writes of one commit at most: the server does nothing else meanwhile, about 3 us for each, and calls a script slow
/// after 5 s.
pub(super) const COMMIT_WRITES_MAX: usize = 250_000;

/// Bytes of one commit at most: the server holds them up to four times (query, script, append-only file, backlog).
pub(super) const COMMIT_BYTES_MAX: usize = 128 * 1024 * 1024;

/// Words of one plain command at most: a script can pass on 8,000.
const WORDS_MAX: usize = 4000;

/// Arguments of the commit script after its header.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Body {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    /// The earliest day in which something that the commit writes expires.
    oldest: Option<i64>,
}

impl Body {
    fn push(&mut self, word: &[u8]) {
        self.bytes.extend(word);
        self.ends.push(self.bytes.len());
    }

    fn push_count(&mut self, count: usize) {
        self.push(count.to_string().as_bytes());
    }

    fn append(&mut self, other: &Self) {
        let base = self.bytes.len();
        self.bytes.extend(&other.bytes);
        self.ends.extend(other.ends.iter().map(|end| base + end));
    }

    pub(super) fn words(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start..*end])
    }

    pub(super) fn oldest(&self) -> Option<i64> {
        self.oldest
    }

    pub(super) fn size(&self) -> (usize, usize) {
        (self.ends.len(), self.bytes.len())
    }

    fn expires(&mut self, expires: Option<Timestamp>) {
        if let Some(expires) = expires {
            let day = layout::day(expires);
            self.oldest = Some(self.oldest.map_or(day, |oldest| oldest.min(day)));
        }
    }
}

/// Writes a commit's arguments.
pub(super) fn body(layout: &Layout, commit: &Commit) -> Result<Body, StoreError> {
    bound_writes(commit)?;
    let mut body = Body::default();
    body.push_count(commit.offsets.len());
    for wanted in &commit.offsets {
        body.push(&layout::offset_field(&wanted.source, wanted.partition)?);
        body.push(wanted.from.map(|from| from.to_string()).unwrap_or_default().as_bytes());
        body.push(wanted.to.to_string().as_bytes());
    }
    push_expected(layout, &mut body, commit)?;
    push_listed(&mut body, commit)?;
    body.push_count(commit.work.len());
    for piece in &commit.work {
        layout::bounded_value("piece of work", piece.len())?;
        body.push(piece);
    }
    body.push_count(commit.claims.len());
    for claim in &commit.claims {
        push_claim(layout, &mut body, claim)?;
    }
    body.push_count(commit.intents.len());
    for intent in &commit.intents {
        push_intent(&mut body, intent)?;
    }
    // The plain commands at the end run before the rest: first how many words they are.
    let mut plain = Body::default();
    push_perishables(layout, &mut plain, commit)?;
    body.push_count(plain.ends.len());
    body.push_count(commit.finished.len());
    for finished in &commit.finished {
        layout::bounded_value("text under a decision", finished.result.len())?;
        body.push(&layout::intent_field(finished.decision, &finished.action)?);
        body.push(&layout.texts(finished.decision));
        body.push(finished.result.as_bytes());
    }
    body.push_count(commit.notes.len());
    for note in &commit.notes {
        layout::bounded_value("text under a decision", note.text.len())?;
        body.push(&layout.texts(note.decision));
        body.push(note.text.as_bytes());
    }
    body.push_count(commit.lists.len());
    for write in &commit.lists {
        match write {
            ListWrite::Set(entry) => push_entry(&mut body, entry)?,
            ListWrite::Remove { list, entity } => {
                body.push(&layout::list_field(*list, entity)?);
                body.push(b"");
            }
        }
    }
    push_unblocks(&mut body, commit)?;
    push_appends(layout, &mut body, &commit.appends)?;
    body.push_count(commit.done.len());
    for piece in &commit.done {
        body.push(piece.0.as_bytes());
    }
    body.append(&plain);
    body.oldest = plain.oldest;
    let bytes = body.bytes.len();
    if bytes > COMMIT_BYTES_MAX {
        return Err(StoreError::TooLarge { what: ONE_COMMIT, bytes, limit: COMMIT_BYTES_MAX });
    }
    Ok(body)
}

fn bound_writes(commit: &Commit) -> Result<(), StoreError> {
    let claims = |claim: &Claim| 2 + claim.entities.len() + 2 * claim.intents.len() + claim.lists.len();
    let writes = commit.states.len()
        + commit.rows.len()
        + commit.claims.iter().map(claims).sum::<usize>()
        + 2 * commit.intents.len()
        + commit.lists.len()
        + 2 * commit.unblocks.len()
        + commit.appends.len()
        + 2 * (commit.finished.len() + commit.notes.len())
        + commit.offsets.len()
        + commit.work.len()
        + 2 * commit.done.len();
    if writes > COMMIT_WRITES_MAX {
        let why =
            format!("it has {writes} writes, at most {COMMIT_WRITES_MAX} can be made together; commit more often");
        return Err(StoreError::Invalid { what: ONE_COMMIT, why });
    }
    Ok(())
}

fn push_claim(layout: &Layout, body: &mut Body, claim: &Claim) -> Result<(), StoreError> {
    layout::bounded_value("decision record", claim.record.len())?;
    check_intents(claim)?;
    body.push(&layout.decision(claim.id));
    body.push(claim.id.as_bytes());
    body.push(&claim.record);
    let mut recent: Vec<Vec<u8>> = Vec::with_capacity(claim.entities.len());
    for entity in &claim.entities {
        let key = layout.recent(entity)?;
        if !recent.contains(&key) {
            recent.push(key);
        }
    }
    body.push_count(recent.len());
    for key in &recent {
        body.push(key);
    }
    body.push_count(claim.intents.len());
    for intent in &claim.intents {
        push_intent(body, intent)?;
    }
    body.push_count(claim.lists.len());
    for entry in &claim.lists {
        push_entry(body, entry)?;
        // Before which unblocking it does not hold; others do whatever anybody let go.
        let created = (entry.list == ListKind::AutomaticBlock).then(|| entry.created.micros().to_string());
        body.push(created.unwrap_or_default().as_bytes());
    }
    Ok(())
}

fn push_intent(body: &mut Body, intent: &Intent) -> Result<(), StoreError> {
    body.push(&layout::intent_field(intent.decision, &intent.action)?);
    let json = layout::to_json("intent", intent)?;
    layout::bounded_value("intent", json.len())?;
    body.push(&json);
    Ok(())
}

fn push_entry(body: &mut Body, entry: &ListEntry) -> Result<(), StoreError> {
    body.push(&layout::list_field(entry.list, &entry.entity)?);
    let json = layout::to_json("list entry", entry)?;
    layout::bounded_value("list entry", json.len())?;
    body.push(&json);
    Ok(())
}

fn check_intents(claim: &Claim) -> Result<(), StoreError> {
    for (at, intent) in claim.intents.iter().enumerate() {
        let why = if intent.decision != claim.id {
            format!("it names decision {}", intent.decision)
        } else if claim.intents[..at].iter().any(|earlier| earlier.action == intent.action) {
            "the decision wants it twice".to_owned()
        } else {
            continue;
        };
        return Err(StoreError::Invalid { what: "an action of a claim", why: format!("{}: {why}", intent.action) });
    }
    Ok(())
}

fn push_appends(layout: &Layout, body: &mut Body, appends: &[Append]) -> Result<(), StoreError> {
    let logs = logs(appends);
    body.push_count(logs.len());
    for log in logs {
        if log == LogName::DECISIONS {
            let why = "decisions enter it by being claimed".to_owned();
            return Err(StoreError::Invalid { what: "an entry for the decision log", why });
        }
        body.push(layout::next_field(log).as_bytes());
        body.push(&layout.log(log));
        let entries = appends.iter().filter(|append| append.log == log);
        body.push_count(entries.clone().count());
        for entry in entries {
            layout::bounded_value("log entry", entry.bytes.len())?;
            body.push(&entry.bytes);
        }
    }
    Ok(())
}

/// The logs that a commit writes to, in the order in which their first positions are answered.
pub(super) fn logs(appends: &[Append]) -> Vec<LogName> {
    let mut logs = Vec::new();
    for append in appends {
        if !logs.contains(&append.log) {
            logs.push(append.log);
        }
    }
    logs
}

/// What must be stored still before anything is written: keys and stamps.
fn push_expected(layout: &Layout, body: &mut Body, commit: &Commit) -> Result<(), StoreError> {
    let states = commit.states.iter().filter(|write| write.expected.is_some());
    let rows = commit.rows.iter().filter(|write| write.expected.is_some());
    body.push_count(states.clone().count() + rows.clone().count() + commit.unchanged.len());
    let mut place = Vec::with_capacity(64);
    for write in states {
        layout.state(&mut place, &write.entity, &write.key, write.group)?;
        body.push(&place);
        body.push(&write.expected.map(layout::stamp_bytes).unwrap_or_default());
    }
    for write in rows {
        layout.row(&mut place, &write.key)?;
        body.push(&place);
        body.push(&write.expected.map(layout::stamp_bytes).unwrap_or_default());
    }
    for read in &commit.unchanged {
        match &read.place {
            Place::State { entity, key, group } => layout.state(&mut place, entity, key, *group)?,
            Place::Row(key) => layout.row(&mut place, key)?,
        }
        body.push(&place);
        body.push(&layout::stamp_bytes(read.expected));
    }
    Ok(())
}

/// What must be on the lists still: fields and entries, then who was let go and when.
fn push_listed(body: &mut Body, commit: &Commit) -> Result<(), StoreError> {
    body.push_count(commit.listed.iter().map(|listed| listed.entries.len()).sum());
    for listed in &commit.listed {
        for (list, entry) in &listed.entries {
            body.push(&layout::list_field(*list, &listed.entity)?);
            body.push(entry.as_deref().unwrap_or_default());
        }
    }
    body.push_count(commit.listed.len());
    for Listed { entity, unblocked, .. } in &commit.listed {
        body.push(&layout::unblock_member(entity)?);
        body.push(unblocked.map(|at| at.micros().to_string()).unwrap_or_default().as_bytes());
    }
    Ok(())
}

fn push_unblocks(body: &mut Body, commit: &Commit) -> Result<(), StoreError> {
    body.push_count(commit.unblocks.len());
    for Unblock { entity, at } in &commit.unblocks {
        body.push(&layout::unblock_member(entity)?);
        body.push(at.micros().to_string().as_bytes());
        body.push(at.minus(UNBLOCKS_KEPT).micros().to_string().as_bytes());
    }
    Ok(())
}

/// A state or row record to be stored or removed.
struct Write<'a> {
    key: Vec<u8>,
    bytes: Option<&'a Bytes>,
    expires: Option<Timestamp>,
}

/// One command per run of states and row records that are stored or removed, in their order: of two writes of one key
/// the last holds.
fn push_perishables(layout: &Layout, plain: &mut Body, commit: &Commit) -> Result<(), StoreError> {
    let mut writes = Vec::with_capacity(commit.states.len() + commit.rows.len());
    for StateWrite { entity, key, group, bytes, expires, .. } in &commit.states {
        let mut place = Vec::with_capacity(64);
        layout.state(&mut place, entity, key, *group)?;
        writes.push(Write { key: place, bytes: bytes.as_ref(), expires: *expires });
    }
    for RowWrite { key, bytes, expires, .. } in &commit.rows {
        let mut place = Vec::with_capacity(64);
        layout.row(&mut place, key)?;
        writes.push(Write { key: place, bytes: bytes.as_ref(), expires: *expires });
    }
    let mut value = Vec::new();
    for run in writes.chunk_by(|a, b| a.bytes.is_some() == b.bytes.is_some()) {
        for part in run.chunks(WORDS_MAX / 2) {
            let is_set = part[0].bytes.is_some();
            plain.push_count(1 + part.len() * if is_set { 2 } else { 1 });
            plain.push(if is_set { b"MSET" } else { b"DEL" });
            for write in part {
                plain.push(&write.key);
                if let Some(body) = write.bytes {
                    layout::bounded_value("state or row record", body.len())?;
                    layout::perishable_value(&mut value, write.expires, body);
                    plain.push(&value);
                    plain.expires(write.expires);
                }
            }
        }
    }
    Ok(())
}
