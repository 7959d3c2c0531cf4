//! Reads. Each is one question to the server, longer ones one per page; up to 2,048 states,
//! row records and decisions of one question are read at one instant, so that a commit is seen whole or not at all.

use bytes::Bytes;
use interdict_features::decision::{EntityRef, ListKind};
use redis::Value;
use uuid::Uuid;

use super::link::Lane;
use super::{RedisStore, answer, layout, scripts};
use crate::error::StoreError;
use crate::port::{
    Fetched, Intent, ListEntry, LogName, Offset, Query, RECENT_DECISIONS_MAX, Registered, RegistryEntry, Snapshot,
    SourcePosition, Stamp, StateQuery, StoredDecision,
};

/// Entries of a log or the outbox read at once.
const PAGE: usize = 512;

/// Records read by one command: the server does nothing else meanwhile, about 2 ms.
const RECORDS_AT_ONCE: usize = 2048;

/// Entries of a list read at once.
const LIST_PAGE: usize = 1000;

/// The partition of a source whose position a reader asks for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Feed {
    /// The source's name.
    pub source: String,
    /// Its partition.
    pub partition: u32,
}

const KINDS: [ListKind; 3] = [ListKind::ManualBlock, ListKind::Allow, ListKind::AutomaticBlock];

impl RedisStore {
    /// [`crate::port::Store::fetch`], and how far the stored states are: the position of each feed, read before
    /// everything else in the same round trip. A commit moves states and positions together, so every state read here
    /// holds all changes of the feed up to that position.
    ///
    /// # Errors
    /// As [`crate::port::Store::fetch`].
    pub async fn fetch_with_positions(
        &self,
        query: &Query,
        feeds: &[Feed],
    ) -> Result<(Fetched, Vec<Option<u64>>), StoreError> {
        let (question, asked) = self.fetch_question(query, feeds)?;
        if question.is_empty() {
            return Ok((absent(query), Vec::new()));
        }
        let mut answers = self.link.ask(Lane::Read, &question).await?.into_iter();
        let mut next = || answers.next().ok_or_else(|| answer::odd("answer to a read"));
        let mut positions = Vec::with_capacity(feeds.len());
        if !feeds.is_empty() {
            for stored in answer::list("offset", next()?)? {
                let stored = answer::bytes("offset", stored)?;
                positions.push(stored.map(|stored| layout::number("offset", &stored)).transpose()?);
            }
        }
        let mut fetched = absent(query);
        let mut stamps = Stamps::absent(query);
        place(&asked, &mut answers, &mut fetched, &mut stamps)?;
        Ok((fetched, positions))
    }

    /// Reads everything that a micro-batch needs in one round trip and at one instant: what is decided from it is
    /// exact as of the positions read with it, and what is committed with its stamps goes through only on top of it.
    ///
    /// # Errors
    /// As [`crate::port::Store::fetch`].
    pub async fn snapshot(&self, query: &Query) -> Result<Snapshot, StoreError> {
        let mut question = redis::Pipeline::with_capacity(8);
        question.cmd("MULTI");
        question.cmd("HGET").arg(self.layout.meta()).arg("sequence");
        question.cmd("HGETALL").arg(self.layout.offsets());
        let mut asked = Asked::default();
        self.ask_records(query, &mut asked, &mut question);
        self.ask_lists(query, &mut asked, &mut question);
        question.cmd("EXEC");
        let answered = self.link.ask(Lane::Read, &question).await?.pop().unwrap_or_default();
        let mut answers = answer::list("snapshot", answered)?.into_iter();
        let mut next = || answers.next().ok_or_else(|| answer::odd("snapshot"));
        let commit = answer::bytes("number of a commit", next()?)?;
        let commit = commit.map_or(Ok(0), |commit| layout::number("number of a commit", &commit))?;
        let positions = positions_of(answer::list("offsets", next()?)?)?;
        let (mut fetched, mut stamps) = (absent(query), Stamps::absent(query));
        place(&asked, &mut answers, &mut fetched, &mut stamps)?;
        self.ledger.saw(commit);
        Ok(Snapshot { fetched, states: stamps.states, rows: stamps.rows, positions, commit })
    }

    /// One pipeline for everything. A key over the port's bound cannot have been stored and is not asked for.
    fn fetch_question(&self, query: &Query, feeds: &[Feed]) -> Result<(redis::Pipeline, Asked), StoreError> {
        let mut question = redis::Pipeline::with_capacity(3);
        let mut asked = Asked::default();
        if !feeds.is_empty() {
            let mut command = redis::cmd("HMGET");
            command.arg(self.layout.offsets());
            for feed in feeds {
                command.arg(layout::offset_field(&feed.source, feed.partition)?);
            }
            question.add_command(command);
        }
        self.ask_records(query, &mut asked, &mut question);
        self.ask_lists(query, &mut asked, &mut question);
        Ok((question, asked))
    }

    fn ask_lists(&self, query: &Query, asked: &mut Asked, question: &mut redis::Pipeline) {
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
        let question = scripts::OFFSETS.question(&keys, &[source.as_bytes(), incarnation.as_bytes()]);
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
        let (head, tail) = self.layout.decision_around();
        let last = (limit - 1).to_string();
        let question = scripts::RECENT.question(&[key], &[last.as_bytes(), &head, tail]);
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
        let mut cursor = b"0".to_vec();
        loop {
            let mut question = redis::pipe();
            question.cmd("HSCAN").arg(key.as_slice()).arg(cursor).arg("COUNT").arg(LIST_PAGE);
            let answered = answer::only("page", self.link.ask(Lane::Read, &question).await?)?;
            let mut words = answer::list("page", answered)?.into_iter();
            cursor = answer::some_bytes("cursor", words.next().unwrap_or_default())?;
            let mut page = answer::list("page", words.next().unwrap_or_default())?.into_iter();
            while let (Some(field), Some(value)) = (page.next(), page.next()) {
                fields.insert(answer::some_bytes("field", field)?, answer::some_bytes("value", value)?);
            }
            if cursor == b"0" {
                return Ok(fields);
            }
        }
    }

    pub(super) async fn unfinished(&self, limit: usize) -> Result<Vec<Intent>, StoreError> {
        let mut intents = Vec::new();
        let mut last = b"0".to_vec();
        let keys = [self.layout.outbox(), self.layout.intents()];
        while intents.len() < limit {
            let count = (limit - intents.len()).min(PAGE);
            let question = scripts::OUTBOX.question(&keys, &[&last, count.to_string().as_bytes()]);
            let answered = answer::only("outbox", self.link.ask(Lane::Read, &question).await?)?;
            let page = answer::list("outbox", answered)?;
            let is_last = page.len() < 2 * count;
            let mut page = page.into_iter();
            while let (Some(number), Some(json)) = (page.next(), page.next()) {
                last = answer::some_bytes("outbox entry", number)?;
                intents.push(layout::from_json("outbox entry", &answer::some_bytes("outbox entry", json)?)?);
            }
            if is_last {
                break;
            }
        }
        Ok(intents)
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
            let (head, tail) = self.layout.decision_around();
            scripts::DECISIONS.question(&[key], &[from.as_bytes(), count.to_string().as_bytes(), &head, tail])
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

fn absent(query: &Query) -> Fetched {
    Fetched {
        states: query.states.iter().map(|wanted| vec![None; wanted.groups.len()]).collect(),
        rows: vec![None; query.rows.len()],
        decisions: vec![None; query.decisions.len()],
        lists: vec![Vec::new(); query.lists.len()],
    }
}

/// Who wrote what was read.
struct Stamps {
    states: Vec<Vec<Stamp>>,
    rows: Vec<Stamp>,
}

impl Stamps {
    fn absent(query: &Query) -> Self {
        let states = query.states.iter().map(|wanted| vec![Stamp::ABSENT; wanted.groups.len()]).collect();
        Self { states, rows: vec![Stamp::ABSENT; query.rows.len()] }
    }
}

/// Puts the answers where they were asked for.
fn place(
    asked: &Asked,
    answers: &mut std::vec::IntoIter<Value>,
    fetched: &mut Fetched,
    stamps: &mut Stamps,
) -> Result<(), StoreError> {
    let mut next = || answers.next().ok_or_else(|| answer::odd("answer to a read"));
    for places in asked.records.chunks(RECORDS_AT_ONCE) {
        let mut records = answer::list("records", next()?)?.into_iter();
        for at in places {
            let Some(record) = answer::bytes("record", records.next().ok_or_else(|| answer::odd("records"))?)? else {
                continue;
            };
            match *at {
                Record::State(at, group) => {
                    let (stamp, body) = layout::perishable_parts(record)?;
                    (stamps.states[at][group], fetched.states[at][group]) = (stamp, Some(body));
                }
                Record::Row(at) => {
                    let (stamp, body) = layout::perishable_parts(record)?;
                    (stamps.rows[at], fetched.rows[at]) = (stamp, Some(body));
                }
                Record::Decision(at) => fetched.decisions[at] = Some(Bytes::from(record)),
            }
        }
    }
    if !asked.lists.is_empty() {
        let entries = answer::list("list entries", next()?)?;
        for (at, entries) in asked.lists.iter().zip(entries.chunks(KINDS.len())) {
            for entry in entries {
                if let Value::BulkString(json) = entry {
                    fetched.lists[*at].push(layout::from_json("list entry", json)?);
                }
            }
        }
    }
    Ok(())
}

fn positions_of(fields: Vec<Value>) -> Result<Vec<SourcePosition>, StoreError> {
    let mut positions = Vec::with_capacity(fields.len() / 2);
    let mut fields = fields.into_iter();
    while let (Some(field), Some(position)) = (fields.next(), fields.next()) {
        let (source, partition) = layout::source_of(&answer::some_bytes("offset", field)?)?;
        let position = layout::number("offset", &answer::some_bytes("offset", position)?)?;
        positions.push(SourcePosition { source, partition, position });
    }
    positions.sort();
    Ok(positions)
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
