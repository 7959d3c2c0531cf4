//! Requests for decisions, worked off on the engine's thread in rounds.
//!
//! Invariants:
//! - Decisions of one round are claimed, with their entries of the input log and their idempotency keys, in one commit; only then are
//!   they answered.
//! - What the store holds is looked up first: an event that is decided is not judged, and what was told its caller by default is stored
//!   whatever comes of the request otherwise.
//! - One read brings what a round needs: the store is asked twice per round, not per request. What was read is good until the round's
//!   commit.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context as _;
use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, EntityRef};
use interdict_features::engine::{Evaluate, Outcome};
use interdict_scorer::http::backend::{Answer, DecideRequest, Decided};
use interdict_store::port::{Append, ClaimOutcome, Commit, Fetched, ListEntry, LogName, Query, RowKey, Store};
use uuid::Uuid;

use super::clock;
use super::commands::{Asked, Command, Reply};
use super::core::{Applied, Core};
use super::input_log::{self, Entry};
use super::judging::{Circumstances, Judged, RequestFacts};
use super::known::{KeyUse, Known};
use super::patience::patiently;
use super::promises::{Promise, Refusal};

/// Requests that wait for one commit.
#[derive(Default)]
pub(super) struct Round {
    commit: Commit,
    pending: Vec<Pending>,
    /// What the store held of each request, by its decision and the row of its key, when the round began.
    fetched: HashMap<(Uuid, Option<RowKey>), Fetched>,
}

/// A request on its way to an answer.
struct Pending {
    promise: Arc<Promise>,
    reply: Reply<Decided>,
    came: Came,
    /// Place in the input log where its entry must come to stand, if it has one. Entries are in the order of requests.
    position: Option<u64>,
    start: Instant,
}

/// What came of a request.
enum Came {
    /// A record to be claimed. Claims are in the order of requests.
    Judged(Box<DecisionRecord>),
    /// The record that was there.
    Stored(Box<DecisionRecord>),
    /// It is not one to be judged.
    NotJudged,
}

impl Round {
    /// Whether a decision under the same id waits in it.
    fn holds(&self, promise: &Promise) -> bool {
        self.pending.iter().any(|pending| pending.promise.id() == promise.id())
    }
}

impl<S: Store> Core<S> {
    /// Begins a round: one read brings everything that the requests among `commands` are known to need.
    pub(super) async fn prepare(&mut self, commands: &[Command]) -> anyhow::Result<Round> {
        let asked = commands.iter().filter_map(|command| match command {
            Command::Decide(asked) => Some(&**asked),
            _ => None,
        });
        let asked: Vec<&Asked> = asked.collect();
        let mut round = Round::default();
        if asked.is_empty() {
            return Ok(round);
        }
        let keys: Vec<Option<RowKey>> = asked.iter().map(|asked| Known::key_row(&asked.request)).collect();
        let beside = Query {
            rows: keys.iter().flatten().cloned().collect(),
            decisions: asked.iter().map(|asked| asked.promise.id()).collect(),
            ..Query::default()
        };
        let told = "the store does not answer; requests wait";
        let bring = async || {
            let batches = asked.iter().map(|asked| &asked.request.batch);
            self.pipeline.bring(batches, beside.clone()).await
        };
        let fetched = patiently(&self.stop, told, bring).await?;
        let mut rows = fetched.rows.into_iter();
        for ((asked, key), decision) in asked.iter().zip(keys).zip(fetched.decisions) {
            let row = key.as_ref().and_then(|_| rows.next());
            let of_request =
                Fetched { rows: row.into_iter().collect(), decisions: vec![decision], ..Fetched::default() };
            round.fetched.insert((asked.promise.id(), key), of_request);
        }
        Ok(round)
    }

    /// Works off one request; its answer comes with the round.
    pub(super) async fn decide(&mut self, asked: Asked, round: &mut Round) -> anyhow::Result<()> {
        let Asked { request, promise, reply } = asked;
        if round.holds(&promise) {
            self.answer(round).await?;
        }
        let Known { record: stored, key } = self.known_of(&request, &promise, round).await?;
        if key == KeyUse::Other && (stored.is_some() || promise.refuse(Refusal::KeyReused).is_none()) {
            let _caller_left = reply.send(Refusal::KeyReused.answer());
            return Ok(());
        }
        if stored.is_none() && self.judging.lists.is_full() && promise.refuse(Refusal::ListsFull).is_none() {
            let _caller_left = reply.send(Refusal::ListsFull.answer());
            return Ok(());
        }
        if let KeyUse::New(write) = key {
            round.commit.rows.push(write);
        }
        let start = request.budget.start.into_std();
        if let Some(record) = stored {
            let came = Came::Stored(Box::new(record));
            round.pending.push(Pending { promise, reply, came, position: None, start });
            return Ok(());
        }
        let position = self.next_input;
        let judged = self.judge_request(&request, position).await?;
        let is_applied = matches!(self.pipeline.output().outcomes.first(), Some(Outcome::Applied));
        let own_lists = judged.as_ref().map(|judged| judged.claim.lists.clone()).unwrap_or_default();
        let record = match judged {
            Some(judged) => Some(promise.settle(judged.record)),
            None => promise.refuse(Refusal::NotJudged),
        };
        let has_entry = record.is_some() || is_applied;
        if has_entry {
            let entry = Entry::of_request(&request.batch, request.budget.received);
            round.commit.appends.push(append(LogName::INPUT, &entry)?);
            self.next_input += 1;
            self.pipeline.advance(input_log::SOURCE, 0, position);
            self.stats.count_events(1);
        }
        let lists = match &record {
            Some(record) => self.claim(&request, record, round)?,
            None => Vec::new(),
        };
        let came = record.map_or(Came::NotJudged, |record| Came::Judged(Box::new(record)));
        round.pending.push(Pending { promise, reply, came, position: has_entry.then_some(position), start });
        if lists != own_lists {
            // The deadline's default came first: what the engine would have blocked must not bind the next event.
            self.answer(round).await?;
            let entities: Vec<EntityRef> = own_lists.into_iter().map(|entry| entry.entity).collect();
            self.restore_lists(&entities).await?;
        }
        Ok(())
    }

    async fn known_of(&self, request: &DecideRequest, promise: &Promise, round: &Round) -> anyhow::Result<Known> {
        let known = match round.fetched.get(&(promise.id(), Known::key_row(request))) {
            Some(fetched) => Known::of(fetched, request),
            None => {
                let query = Known::query(request, promise.id());
                let told = "the store does not answer; requests wait";
                let fetched = patiently(&self.stop, told, async || self.store.fetch(&query).await).await?;
                Known::of(&fetched, request)
            }
        };
        let known = known.context("a stored decision")?;
        let KeyUse::New(write) = &known.key else { return Ok(known) };
        let waiting = round.commit.rows.iter().find(|waiting| waiting.key == write.key);
        let key = match waiting.and_then(|waiting| waiting.bytes.as_deref()) {
            Some(used) => KeyUse::of(used, request),
            None => known.key,
        };
        Ok(Known { key, ..known })
    }

    /// Applies a request and judges it; `None` when it is not one to be judged.
    async fn judge_request(&mut self, request: &DecideRequest, position: u64) -> anyhow::Result<Option<Judged>> {
        let mut batch = ChangeBatch::new(Arc::clone(request.batch.stream()), 0);
        batch.push_row(request.batch.row(0), input_log::request_change(request.budget.received, position));
        self.apply(&batch, Evaluate::Judged).await?;
        self.note_outcomes(input_log::SOURCE, &batch)?;
        let seen = self.pipeline.seen();
        let circumstances = Circumstances {
            source: input_log::SOURCE,
            seen: &seen,
            now: clock::now(),
            request: Some(request_facts(request)),
            decided: &[],
        };
        let judged = self.judging.judge(&batch, self.pipeline.output(), &circumstances)?;
        Ok(judged.into_iter().next())
    }

    /// Adds the claim of `record` to the round; the list entries that come with it.
    fn claim(
        &self,
        request: &DecideRequest,
        record: &DecisionRecord,
        round: &mut Round,
    ) -> anyhow::Result<Vec<ListEntry>> {
        let judge = self.judging.judge_of(request.batch.stream().index);
        let claim = judge.context("a request for a stream that is not judged")?.claim(record)?;
        let lists = claim.lists.clone();
        round.commit.claims.push(claim);
        Ok(lists)
    }

    /// Commits a round and answers its requests.
    pub(super) async fn answer(&mut self, round: &mut Round) -> anyhow::Result<()> {
        let Round { commit, pending, .. } = std::mem::take(round);
        if pending.is_empty() {
            return Ok(());
        }
        let is_written = commit != Commit::default();
        // What goes along with the commit of the decisions is appended behind the round's own.
        let own = commit.appends.len();
        let committed =
            if is_written { self.commit_decisions(commit, Applied::WithPosition).await? } else { Default::default() };
        let expected = pending.iter().filter_map(|pending| pending.position);
        let stands = expected.eq(committed.appended.iter().copied().take(own));
        anyhow::ensure!(stands, "another writer appends to the input log; only one process may use this store");
        let mut outcomes = committed.claims.iter();
        for Pending { promise, reply, came, start, .. } in pending {
            let decided = match came {
                Came::NotJudged => Decided::NotJudged,
                Came::Stored(record) => judged(*record, Standing::Earlier),
                Came::Judged(record) => {
                    let outcome = outcomes.next().context("a claim without an outcome")?;
                    self.settle_claim(&record, outcome).await?;
                    self.stats.decided(clock::instant() - start, 1);
                    match outcome {
                        ClaimOutcome::Claimed { .. } => judged(*record, Standing::New),
                        ClaimOutcome::Existing(earlier) => {
                            judged(serde_json::from_slice(earlier).context("a stored decision")?, Standing::Earlier)
                        }
                    }
                }
            };
            let _caller_left = reply.send(Ok(decided));
            drop(promise);
        }
        Ok(())
    }
}

/// Whether a record was there before its request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    New,
    Earlier,
}

fn judged(record: DecisionRecord, standing: Standing) -> Decided {
    Decided::Judged(Box::new(Answer { record, unlogged: false, replayed: standing == Standing::Earlier }))
}

/// An entry for a log, as JSON.
pub(super) fn append(log: LogName, entry: &impl serde::Serialize) -> Result<Append, serde_json::Error> {
    Ok(Append { log, bytes: serde_json::to_vec(entry)?.into() })
}

/// The caller's key and deadline as the record names them.
pub(super) fn request_facts(request: &DecideRequest) -> RequestFacts<'_> {
    let now = clock::instant();
    let deadline = request.budget.deadline.into_std();
    let start = request.budget.start.into_std();
    let left = i64::try_from(deadline.saturating_duration_since(now).as_micros()).unwrap_or(i64::MAX);
    let over = i64::try_from(now.saturating_duration_since(deadline).as_micros()).unwrap_or(i64::MAX);
    RequestFacts {
        idempotency_key: request.idempotency_key.as_deref(),
        deadline_micros: u64::try_from((deadline - start).as_micros()).unwrap_or(u64::MAX),
        left_micros: left - over,
    }
}
