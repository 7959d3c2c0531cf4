//! Reads. Each is one question to the server, longer ones one per page; up to 2,048 states,
//! row records and decisions of one question are read at one instant, so that a commit is seen whole or not at all. A snapshot is of one
//! instant whatever it reads.

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use interdict_features::time::Timestamp;
use redis::Value;
use uuid::Uuid;

use super::link::Lane;
use super::walk::{Step, Walk};
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;
use crate::port::{
    Fetched, Intent, ListEntry, Listed, LogName, Offset, OutboxPlace, Query, RECENT_DECISIONS_MAX, Registered,
    RegistryEntry, Snapshot, Stamp, StateQuery, StoredDecision,
};

/// Entries of a log or the outbox read at once.
const PAGE: usize = 512;

/// Records read by one command: the server does nothing else meanwhile, about 2 ms.
const RECORDS_AT_ONCE: usize = 2048;

/// Entries of a list read at once.
const LIST_PAGE: usize = 1000;

const KINDS: [ListKind; 3] = [ListKind::ManualBlock, ListKind::Allow, ListKind::AutomaticBlock];

impl RedisStore {
    /// [`crate::port::Store::fetch`].
    pub(super) async fn fetch_all(&self, query: &Query) -> Result<Fetched, StoreError> {
        let mut snapshot = absent(query);
        let mut question = redis::Pipeline::with_capacity(3);
        let asked = self.ask(query, &mut question)?;
        if !question.is_empty() {
            let answers = self.link.ask(Lane::Read, &question).await?;
            asked.take(answers.into_iter(), &mut snapshot)?;
        }
        Ok(snapshot.fetched)
    }

    /// Reads everything that a micro-batch needs at one instant and in one round trip, with what a commit has to expect that rests on it,
    /// and how far every source was applied: a commit moves states and positions together, so every state read here holds all changes
    /// up to those positions and none after them.
    ///
    /// # Errors
    /// As [`crate::port::Store::fetch`].
    pub async fn snapshot(&self, query: &Query) -> Result<Snapshot, StoreError> {
        const WHAT: &str = "answer to a snapshot";
        let mut snapshot = absent(query);
        let mut question = redis::Pipeline::with_capacity(6);
        question.cmd("MULTI");
        question.cmd("HGETALL").arg(self.layout.offsets());
        let asked = self.ask(query, &mut question)?;
        question.cmd("EXEC");
        let all = self.link.ask(Lane::Read, &question).await?.pop().unwrap_or_default();
        let mut answers = answer::list(WHAT, all)?.into_iter();
        let mut offsets = answer::list("offsets", answers.next().ok_or_else(|| answer::odd(WHAT))?)?.into_iter();
        while let (Some(field), Some(position)) = (offsets.next(), offsets.next()) {
            let (field, position) = (answer::some_bytes("offset", field)?, answer::some_bytes("offset", position)?);
            snapshot.positions.push(layout::source_position(&field, &position)?);
        }
        asked.take(answers, &mut snapshot)?;
        Ok(snapshot)
    }

    /// An entity's list entries, and what a commit has to say that rests on them.
    ///
    /// # Errors
    /// As [`crate::port::Store::fetch`].
    pub async fn entries(&self, entity: &EntityRef) -> Result<(Vec<ListEntry>, Listed), StoreError> {
        let mut fields = redis::cmd("HMGET");
        fields.arg(self.layout.lists());
        for kind in KINDS {
            fields.arg(layout::list_field(kind, entity)?);
        }
        let mut question = redis::pipe();
        question.add_command(fields);
        question.cmd("ZMSCORE").arg(self.layout.unblocks()).arg(layout::unblock_member(entity)?);
        let mut answers = self.link.ask(Lane::Read, &question).await?.into_iter();
        let stored = answer::list("list entries", answers.next().unwrap_or_default())?;
        let (mut found, mut entries) = (Vec::new(), Vec::new());
        for (kind, entry) in KINDS.into_iter().zip(stored) {
            let bytes = answer::bytes("list entry", entry)?.map(Bytes::from);
            if let Some(bytes) = &bytes {
                found.push(layout::from_json("list entry", bytes)?);
            }
            entries.push((kind, bytes));
        }
        let scores = answer::list("unblock", answers.next().unwrap_or_default())?;
        let unblocked = scores.into_iter().next().map(instant).transpose()?.flatten();
        Ok((found, Listed { entity: entity.clone(), entries, unblocked }))
    }

    /// The commands for everything a query asks. A key over the port's bound cannot have been stored and is not asked for.
    fn ask(&self, query: &Query, question: &mut redis::Pipeline) -> Result<Asked, StoreError> {
        let mut asked = Asked::default();
        self.ask_records(query, &mut asked, question);
        let mut lists = redis::cmd("HMGET");
        lists.arg(self.layout.lists());
        for (at, entity) in query.lists.iter().enumerate() {
            for kind in KINDS {
                let Ok(field) = layout::list_field(kind, entity) else { break };
                lists.arg(field);
                if kind == KINDS[0] {
                    asked.lists.push(at);
                }
            }
        }
        if !asked.lists.is_empty() {
            question.add_command(lists);
        }
        Ok(asked)
    }

    fn ask_records(&self, query: &Query, asked: &mut Asked, question: &mut redis::Pipeline) {
        let mut key = Vec::with_capacity(64);
        let mut command = redis::cmd("MGET");
        let mut ask = |key: &[u8], record: Record| {
            command.arg(key);
            asked.records.push(record);
            if asked.records.len().is_multiple_of(RECORDS_AT_ONCE) {
                question.add_command(std::mem::replace(&mut command, redis::cmd("MGET")));
            }
        };
        for (at, StateQuery { entity, key: of, groups }) in query.states.iter().enumerate() {
            for (number, group) in groups.iter().enumerate() {
                if self.layout.state(&mut key, entity, of, *group).is_ok() {
                    ask(&key, Record::State(at, number));
                }
            }
        }
        for (at, wanted) in query.rows.iter().enumerate() {
            if self.layout.row(&mut key, wanted).is_ok() {
                ask(&key, Record::Row(at));
            }
        }
        for (at, id) in query.decisions.iter().enumerate() {
            ask(&self.layout.decision(*id), Record::Decision(at));
        }
        if !asked.records.len().is_multiple_of(RECORDS_AT_ONCE) {
            question.add_command(command);
        }
    }

    /// [`crate::port::Store::offsets`].
    pub(super) async fn bound_offsets(&self, source: &str, incarnation: &str) -> Result<Vec<Offset>, StoreError> {
        layout::bounded_value("incarnation", incarnation.len())?;
        layout::offset_field(source, 0)?;
        let keys = [self.layout.sources(), self.layout.offsets()];
        let question = scripts::OFFSETS.question(&self.layout, &keys, &[source.as_bytes(), incarnation.as_bytes()]);
        let answered = answer::only("offsets", self.link.ask(Lane::Write, &question).await?)?;
        let mut words = answer::list("offsets", answered)?.into_iter();
        let stored = answer::some_bytes("incarnation", words.next().unwrap_or_default())?;
        if stored != incarnation.as_bytes() {
            let (source_name, stored) = (source.to_owned(), layout::text("incarnation", stored)?);
            return Err(StoreError::Incarnation { source_name, stored, now: incarnation.to_owned() });
        }
        offsets_of(source, answer::list("offsets", words.next().unwrap_or_default())?)
    }

    /// The stored offsets of a source, whatever its identity: what the stored states hold of it.
    ///
    /// # Errors
    /// [`StoreError::Corrupt`], [`StoreError::Database`].
    pub async fn positions(&self, source: &str) -> Result<Vec<Offset>, StoreError> {
        let mut question = redis::pipe();
        question.cmd("HGETALL").arg(self.layout.offsets());
        let answered = answer::only("offsets", self.link.ask(Lane::Read, &question).await?)?;
        offsets_of(source, answer::list("offsets", answered)?)
    }

    pub(super) async fn stored_decision(&self, id: Uuid) -> Result<Option<StoredDecision>, StoreError> {
        let mut question = redis::pipe();
        question.cmd("GET").arg(self.layout.decision(id));
        question.cmd("LRANGE").arg(self.layout.texts(id)).arg(0).arg(-1);
        let mut answers = self.link.ask(Lane::Read, &question).await?.into_iter();
        let record = answer::bytes("decision record", answers.next().unwrap_or_default())?;
        let Some(record) = record else { return Ok(None) };
        let mut appended = Vec::new();
        for text in answer::list("texts under a decision", answers.next().unwrap_or_default())? {
            let text = answer::some_bytes("text under a decision", text)?;
            appended.push(layout::text("text under a decision", text)?);
        }
        Ok(Some(StoredDecision { record: Bytes::from(record), appended }))
    }

    pub(super) async fn newest_decisions(&self, entity: &EntityRef, limit: usize) -> Result<Vec<Bytes>, StoreError> {
        let limit = limit.min(RECENT_DECISIONS_MAX);
        let Ok(key) = self.layout.recent(entity) else { return Ok(Vec::new()) };
        if limit == 0 {
            return Ok(Vec::new());
        }
        let last = (limit - 1).to_string();
        let question = scripts::RECENT.question(&self.layout, &[key], &[last.as_bytes(), &self.layout.decision_head()]);
        let answered = answer::only("recent decisions", self.link.ask(Lane::Read, &question).await?)?;
        let records = answer::list("recent decisions", answered)?.into_iter();
        records.map(|record| answer::some_bytes("decision record", record).map(Bytes::from)).collect()
    }

    /// In pages: an entry that is there all the time is read, one that comes or goes meanwhile may be.
    pub(super) async fn all_lists(&self) -> Result<Vec<ListEntry>, StoreError> {
        let mut entries: Vec<ListEntry> = Vec::new();
        for (_, json) in self.scan(self.layout.lists()).await? {
            entries.push(layout::from_json("list entry", &json)?);
        }
        entries.sort_by(|a, b| (a.list, &a.entity).cmp(&(b.list, &b.entity)));
        Ok(entries)
    }

    /// All fields of a hash in pages.
    async fn scan(&self, key: Vec<u8>) -> Result<std::collections::BTreeMap<Vec<u8>, Vec<u8>>, StoreError> {
        let mut fields = std::collections::BTreeMap::new();
        let mut walk = Walk::new();
        loop {
            let (step, page) = self.page(&key, &mut walk).await?;
            if step == Step::Anew {
                fields.clear();
            }
            fields.extend(page);
            if step == Step::End {
                return Ok(fields);
            }
        }
    }

    /// The next fields of a hash and their values; none of them where the walk begins anew.
    pub(super) async fn page(
        &self,
        key: &[u8],
        walk: &mut Walk,
    ) -> Result<(Step, Vec<(Vec<u8>, Vec<u8>)>), StoreError> {
        let mut question = redis::pipe();
        question.cmd("HSCAN").arg(key).arg(walk.cursor()).arg("COUNT").arg(LIST_PAGE);
        let (answers, session) = self.link.ask_with_session(Lane::Read, &question).await?;
        let mut words = answer::list("page", answer::only("page", answers)?)?.into_iter();
        let step = walk.step(session, words.next().unwrap_or_default())?;
        let mut fields = Vec::new();
        if step != Step::Anew {
            let mut page = answer::list("page", words.next().unwrap_or_default())?.into_iter();
            while let (Some(field), Some(value)) = (page.next(), page.next()) {
                fields.push((answer::some_bytes("field", field)?, answer::some_bytes("value", value)?));
            }
        }
        Ok((step, fields))
    }

    pub(super) async fn unfinished(
        &self,
        behind: Option<&OutboxPlace>,
        limit: usize,
    ) -> Result<Vec<(OutboxPlace, Intent)>, StoreError> {
        let mut entries = Vec::new();
        // Entries are numbered from 1.
        let mut last = behind.map_or_else(|| b"0".to_vec(), layout::outbox_number);
        let keys = [self.layout.outbox(), self.layout.intents()];
        while entries.len() < limit {
            let count = (limit - entries.len()).min(PAGE);
            let question = scripts::OUTBOX.question(&self.layout, &keys, &[&last, count.to_string().as_bytes()]);
            let answered = answer::only("outbox", self.link.ask(Lane::Read, &question).await?)?;
            let page = answer::list("outbox", answered)?;
            let is_last = page.len() < 2 * count;
            let mut page = page.into_iter();
            while let (Some(number), Some(json)) = (page.next(), page.next()) {
                last = answer::some_bytes("outbox entry", number)?;
                let place = layout::outbox_place(&last)?;
                entries.push((place, layout::from_json("outbox entry", &answer::some_bytes("outbox entry", json)?)?));
            }
            if is_last {
                break;
            }
        }
        Ok(entries)
    }

    pub(super) async fn log_entries(
        &self,
        log: LogName,
        position: u64,
        limit: usize,
    ) -> Result<Vec<(u64, Bytes)>, StoreError> {
        let mut entries: Vec<(u64, Bytes)> = Vec::new();
        let mut next = position;
        while entries.len() < limit {
            let count = (limit - entries.len()).min(PAGE);
            let page = self.log_page(log, next, count).await?;
            let is_last = page.len() < count;
            for (at, entry) in page {
                next = at + 1;
                match entry {
                    Some(entry) => entries.push((at, entry)),
                    None => tracing::error!(
                        position = at,
                        "a decision was kept no longer before it was read from the log; raise [store] decisions_keep"
                    ),
                }
            }
            if is_last {
                break;
            }
        }
        Ok(entries)
    }

    /// Entries with their positions; `None` for a decision whose record is kept no longer.
    async fn log_page(
        &self,
        log: LogName,
        position: u64,
        count: usize,
    ) -> Result<Vec<(u64, Option<Bytes>)>, StoreError> {
        let (key, from) = (self.layout.log(log), layout::log_id(position));
        let question = if log == LogName::DECISIONS {
            scripts::DECISIONS.question(
                &self.layout,
                &[key],
                &[from.as_bytes(), count.to_string().as_bytes(), &self.layout.decision_head()],
            )
        } else {
            let mut question = redis::pipe();
            question.cmd("XRANGE").arg(key).arg(from).arg("+").arg("COUNT").arg(count);
            question
        };
        let answered = answer::only("log", self.link.ask(Lane::Read, &question).await?)?;
        let mut words = answer::list("log", answered)?.into_iter();
        let mut page = Vec::with_capacity(count);
        while let Some(word) = words.next() {
            let (id, entry) = if log == LogName::DECISIONS {
                (word, words.next().unwrap_or_default())
            } else {
                let mut entry = answer::list("log entry", word)?.into_iter();
                let id = entry.next().unwrap_or_default();
                let mut pair = answer::list("log entry", entry.next().unwrap_or_default())?;
                (id, pair.pop().unwrap_or_default())
            };
            let position = layout::log_position(&answer::some_bytes("log entry", id)?)?;
            page.push((position, answer::bytes("log entry", entry)?.map(Bytes::from)));
        }
        Ok(page)
    }

    pub(super) async fn registered(&self) -> Result<Registered, StoreError> {
        let mut bundles: Vec<RegistryEntry> = Vec::new();
        for json in self.scan(self.layout.bundles()).await?.into_values() {
            bundles.push(layout::from_json("registry entry", &json)?);
        }
        bundles.sort_by(|a, b| (&a.name, &a.version).cmp(&(&b.name, &b.version)));
        let mut aliases = Vec::new();
        for (alias, version) in self.scan(self.layout.aliases()).await? {
            aliases.push((layout::text("alias", alias)?, layout::text("alias", version)?));
        }
        aliases.sort();
        Ok((bundles, aliases))
    }
}

/// Which parts of a query the answers belong to.
#[derive(Default)]
struct Asked {
    records: Vec<Record>,
    lists: Vec<usize>,
}

/// One record asked for: where its answer goes.
enum Record {
    /// Query and group.
    State(usize, usize),
    Row(usize),
    Decision(usize),
}

impl Asked {
    /// Reads the answers in the order in which they were asked for.
    fn take(self, mut answers: impl Iterator<Item = Value>, snapshot: &mut Snapshot) -> Result<(), StoreError> {
        let mut next = || answers.next().ok_or_else(|| answer::odd("answer to a read"));
        let Snapshot { fetched, states, rows, .. } = snapshot;
        for places in self.records.chunks(RECORDS_AT_ONCE) {
            let mut records = answer::list("records", next()?)?.into_iter();
            for at in places {
                let record = answer::bytes("record", records.next().ok_or_else(|| answer::odd("records"))?)?;
                match *at {
                    Record::State(at, group) => {
                        (fetched.states[at][group], states[at][group]) = perishable(record)?;
                    }
                    Record::Row(at) => (fetched.rows[at], rows[at]) = perishable(record)?,
                    Record::Decision(at) => fetched.decisions[at] = record.map(Bytes::from),
                }
            }
        }
        if !self.lists.is_empty() {
            let entries = answer::list("list entries", next()?)?;
            for (at, entries) in self.lists.into_iter().zip(entries.chunks(KINDS.len())) {
                for entry in entries {
                    if let Value::BulkString(json) = entry {
                        fetched.lists[at].push(layout::from_json("list entry", json)?);
                    }
                }
            }
        }
        Ok(())
    }
}

fn absent(query: &Query) -> Snapshot {
    let fetched = Fetched {
        states: query.states.iter().map(|wanted| vec![None; wanted.groups.len()]).collect(),
        rows: vec![None; query.rows.len()],
        decisions: vec![None; query.decisions.len()],
        lists: vec![Vec::new(); query.lists.len()],
    };
    Snapshot {
        states: query.states.iter().map(|wanted| vec![Stamp::ABSENT; wanted.groups.len()]).collect(),
        rows: vec![Stamp::ABSENT; query.rows.len()],
        fetched,
        positions: Vec::new(),
    }
}

fn perishable(value: Option<Vec<u8>>) -> Result<(Option<Bytes>, Stamp), StoreError> {
    let Some(value) = value else { return Ok((None, Stamp::ABSENT)) };
    let (stamp, body) = layout::perishable(value)?;
    Ok((Some(body), stamp))
}

/// The score of an instant: whole microseconds, which a double holds exactly.
#[expect(clippy::cast_possible_truncation, reason = "microseconds of our time fit a double's digits")]
fn instant(score: Value) -> Result<Option<Timestamp>, StoreError> {
    let micros = match score {
        Value::Double(score) => score as i64,
        score => match answer::bytes("unblock", score)? {
            Some(score) => layout::number("unblock", &score)?,
            None => return Ok(None),
        },
    };
    Ok(Some(Timestamp::from_micros(micros)))
}

fn offsets_of(source: &str, fields: Vec<Value>) -> Result<Vec<Offset>, StoreError> {
    let mut offsets = Vec::new();
    let mut fields = fields.into_iter();
    while let (Some(field), Some(position)) = (fields.next(), fields.next()) {
        if let Some(partition) = layout::partition_of(&answer::some_bytes("offset", field)?, source) {
            let position = layout::number("offset", &answer::some_bytes("offset", position)?)?;
            offsets.push(Offset { partition, position });
        }
    }
    offsets.sort_by_key(|offset| offset.partition);
    Ok(offsets)
}
