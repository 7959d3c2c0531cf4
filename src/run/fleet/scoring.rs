//! The scorer's work: events that ingestors left, judged and stored.
//!
//! Invariants:
//! - A piece of work is finished in the commit that stores its decision, so it is done again until there is one, and a second one changes
//!   nothing.
//! - Lists are those of the moment at which a batch is judged, whichever process changed them; within a batch a block binds the
//!   events of the same stream behind it.
//! - While the lists are full no work is taken ([`Room`]).
//! - What acts is on disk (and with the replicas configured) before anybody acts on it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, decision_id};
use interdict_features::definition::Stream;
use interdict_features::engine::Plan;
use interdict_ingest::source::stop::Stop;
use interdict_scorer::lists::Lists;
use interdict_store::error::{Class, StoreError};
use interdict_store::online::OnlineStore;
use interdict_store::port::{ClaimOutcome, Commit, Committed, Durability, OffsetMove, Query, Store as _, WorkId};
use interdict_store::redis::RedisStore;
use tokio::sync::Notify;
use uuid::Uuid;

use super::super::clock;
use super::super::judging::{Case, Judged, Judging, undecodable};
use super::super::patience::{RETRY, patiently};
use super::super::stats::Stats;
use super::charges;
use super::room::Room;
use super::work::{Work, WorkError};

/// Pieces of work judged together at most.
const PIECES: usize = 256;

/// How long the store is asked to wait for work: a stop is noticed no later.
const WAIT: Duration = Duration::from_millis(500);

/// After this time without an end the work of another scorer is taken over: it has died, or stands still.
const ABANDONED: Duration = Duration::from_secs(5);

/// One of several that judge what ingestors left.
pub(super) struct Scoring {
    pub(super) namespace: String,
    pub(super) plan: Arc<Plan>,
    /// Where work is taken from.
    pub(super) queue: Arc<RedisStore>,
    pub(super) store: Arc<OnlineStore>,
    pub(super) judging: Judging,
    pub(super) stats: Arc<Stats>,
    pub(super) outbox: Arc<Notify>,
    pub(super) logged: Arc<Notify>,
    pub(super) stop: Stop,
    pub(super) room: Arc<Room>,
    /// This process among the scorers.
    pub(super) member: Uuid,
    /// What every commit names.
    pub(super) charge: OffsetMove,
}

/// The events of one stream among what was taken.
struct Share {
    stream: Arc<Stream>,
    batch: ChangeBatch,
    cases: Vec<Case>,
    /// The ids of their decisions, in the same order.
    ids: Vec<Uuid>,
    undecodable: Vec<interdict_ingest::dead_letter::DeadLetter>,
}

impl Scoring {
    /// Works until told to stop; what was taken by then is finished.
    pub(super) async fn run(&mut self) -> anyhow::Result<()> {
        let worker = self.member.to_string();
        while !self.stop.is_stopped() {
            if self.room.is_full() && self.room.glance().await {
                if self.stop.wait(RETRY) {
                    break;
                }
                continue;
            }
            let taken = match self.queue.take_work(&worker, PIECES, WAIT, ABANDONED).await {
                Ok(taken) => taken,
                Err(error) if error.class() == Class::Transient => {
                    tracing::error!(%error, "no work is to be had from the store; it is tried again");
                    if self.stop.wait(RETRY) {
                        break;
                    }
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            if !taken.is_empty() {
                self.judge(taken).await?;
            }
        }
        Ok(())
    }

    async fn judge(&mut self, taken: Vec<(WorkId, bytes::Bytes)>) -> anyhow::Result<()> {
        let start = clock::instant();
        let (done, pieces): (Vec<WorkId>, Vec<bytes::Bytes>) = taken.into_iter().unzip();
        let mut shares = self.shares(&pieces)?;
        let query = Query {
            decisions: shares.iter().flat_map(|share| &share.ids).copied().collect(),
            lists: entities(&shares),
            ..Query::default()
        };
        let snapshot = self.with_store(async |store| store.fetch(&query).await).await?;
        self.judging.lists = Lists::new(usize::MAX, snapshot.lists.into_iter().flatten());
        let mut stored = snapshot.decisions.into_iter();
        let mut judged = Vec::new();
        for share in &mut shares {
            let is_open: Vec<bool> = share.ids.iter().map(|_| stored.next().flatten().is_none()).collect();
            let mut is_open = is_open.into_iter();
            share.cases.retain(|_| is_open.next().unwrap_or(true));
            judged.append(&mut self.judge_share(share)?);
        }
        self.store(judged, done, start).await
    }

    /// What was taken, by stream.
    fn shares(&self, pieces: &[bytes::Bytes]) -> anyhow::Result<Vec<Share>> {
        let definitions = &self.plan.definitions;
        let mut shares: BTreeMap<usize, Share> = BTreeMap::new();
        for piece in pieces {
            let work = Work::decode(piece)?;
            let stream = work.stream(definitions)?;
            let share = shares.entry(stream.index).or_insert_with(|| Share {
                stream: Arc::clone(stream),
                batch: ChangeBatch::new(Arc::clone(stream), 0),
                cases: Vec::new(),
                ids: Vec::new(),
                undecodable: Vec::new(),
            });
            match work {
                Work::Event(event) => {
                    let case = event.into_case(&mut share.batch)?;
                    let (event, n) = (&case.context.event_id, case.context.judgement);
                    share.ids.push(decision_id(&self.namespace, &share.stream.name, event, n));
                    share.cases.push(case);
                }
                Work::Undecodable { letter, .. } => share.undecodable.push(letter),
            }
        }
        Ok(shares.into_values().collect())
    }

    fn judge_share(&mut self, share: &Share) -> anyhow::Result<Vec<Judged>> {
        let judge = self.judging.judge_of(share.stream.index).cloned();
        let judge = judge.ok_or_else(|| WorkError::Stream { stream: share.stream.name.clone() })?;
        let now = clock::now();
        let mut judged = self.judging.judge_cases(&judge, &share.batch, &share.cases, now)?;
        for letter in &share.undecodable {
            judged.push(undecodable(&judge, letter, now)?);
        }
        Ok(judged)
    }

    async fn store(&self, judged: Vec<Judged>, done: Vec<WorkId>, start: std::time::Instant) -> anyhow::Result<()> {
        let (records, claims): (Vec<DecisionRecord>, Vec<_>) =
            judged.into_iter().map(|judged| (judged.record, judged.claim)).unzip();
        let has_intents = claims.iter().any(|claim| !claim.intents.is_empty());
        let has_lists = claims.iter().any(|claim| !claim.lists.is_empty());
        let acts = has_intents || has_lists;
        let durability = if acts { Durability::Power } else { Durability::Process };
        let commit = Commit { claims, done, durability, offsets: vec![self.charge.clone()], ..Commit::default() };
        let Committed { claims: outcomes, .. } =
            self.with_store(async |store| store.commit(commit.clone()).await).await.map_err(charges::told)?;
        if has_intents {
            self.outbox.notify_one();
        }
        self.logged.notify_one();
        if has_lists {
            self.room.glance().await;
        }
        let now = clock::now();
        for (record, outcome) in records.iter().zip(&outcomes) {
            if matches!(outcome, ClaimOutcome::Claimed { .. }) {
                self.stats.count_decision(record, now);
            }
        }
        self.stats.decided(clock::instant() - start, records.len());
        Ok(())
    }

    /// Asks the store, again and again while it fails for a while.
    async fn with_store<T>(&self, ask: impl AsyncFn(&OnlineStore) -> Result<T, StoreError>) -> anyhow::Result<T> {
        patiently(&self.stop, "the store does not answer; decisions wait", async || ask(&self.store).await).await
    }
}

/// The entities of all cases, each once.
fn entities(shares: &[Share]) -> Vec<interdict_features::decision::EntityRef> {
    let all = shares.iter().flat_map(|share| &share.cases).flat_map(|case| &case.entities);
    let once: std::collections::BTreeSet<_> = all.cloned().collect();
    once.into_iter().collect()
}
