//! Judging the events of a micro-batch: features and lists in, records and claims out.
//!
//! Invariant: the outcome is as if the events had been judged one by one in their order: a block that one of them makes is seen by
//! the next one of the same entity, however many threads work on the batch.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use anyhow::Context as _;
use interdict_features::change::{ChangeBatch, Op, Row, Version};
use interdict_features::decision::{DecisionRecord, EntityRef, ListHit, SeenPosition};
use interdict_features::engine::{Outcome, Output, OwnedKey, Plan, Refused, key_of};
use interdict_features::key_text;
use interdict_features::time::Timestamp;
use interdict_features::vector::Reading;
use interdict_ingest::dead_letter::DeadLetter;
use interdict_scorer::action::act::{Act, by_hand};
use interdict_scorer::activation::Active;
use interdict_scorer::judge::Judge;
use interdict_scorer::lists::Lists;
use interdict_scorer::policy::Policy;
use interdict_scorer::runtime::Runtime;
use interdict_scorer::scorer::{Scored, Scorer};
use interdict_scorer::subject::{Context, Subject};
use interdict_store::port::{Claim, Intent};
use rayon::prelude::*;

/// What a batch's events have in common.
#[derive(Clone, Debug)]
pub(crate) struct Circumstances<'a> {
    /// The source the batch came from.
    pub(crate) source: &'a str,
    /// How far every partition was applied before this batch, in order of name.
    pub(crate) seen: &'a [SeenPosition],
    /// The wall clock.
    pub(crate) now: Timestamp,
    /// For requests: the caller's key and the deadline.
    pub(crate) request: Option<RequestFacts<'a>>,
    /// Places in the batch of what was decided before, ascending: it is not judged anew.
    pub(crate) decided: &'a [usize],
}

/// What a record says of the request it answers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestFacts<'a> {
    pub(crate) idempotency_key: Option<&'a str>,
    pub(crate) deadline_micros: u64,
    pub(crate) left_micros: i64,
}

/// One judged event.
#[derive(Clone, Debug)]
pub(crate) struct Judged {
    pub(crate) record: DecisionRecord,
    pub(crate) claim: Claim,
}

/// The judges of all streams, the models of all workers, and the lists.
#[derive(Debug)]
pub(crate) struct Judging {
    plan: Arc<Plan>,
    judges: Vec<Option<Arc<Judge>>>,
    /// One per worker; each scores with its own session.
    workers: Vec<Option<Scorer>>,
    policy: Arc<Policy>,
    pub(crate) lists: Lists,
}

/// One event on its way to a decision.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    /// Its place in its batch.
    pub(crate) change: usize,
    pub(crate) entities: Vec<EntityRef>,
    pub(crate) context: Context,
    pub(crate) vector: Vec<Reading>,
    /// Why it cannot be judged.
    pub(crate) refused: Option<Cow<'static, str>>,
    pub(crate) scored: Scored,
}

/// What one worker made of its share of a batch.
type Part = anyhow::Result<(Vec<Case>, Vec<Judged>)>;

impl Judging {
    /// Judges for every judged stream; `active` is the model in force.
    pub(crate) fn new(
        namespace: &str,
        plan: Arc<Plan>,
        policy: &Arc<Policy>,
        model: Option<(&Runtime, &Arc<Active>)>,
        workers: usize,
        lists: Lists,
    ) -> anyhow::Result<Self> {
        let definitions = &plan.definitions;
        let active = model.map(|(_, active)| Arc::clone(active));
        let mut judges = Vec::new();
        for stream in &definitions.streams {
            let judge = match stream.judge {
                Some(_) => Some(Arc::new(Judge::new(
                    namespace,
                    Arc::clone(policy),
                    definitions,
                    stream.index,
                    active.clone(),
                )?)),
                None => None,
            };
            judges.push(judge);
        }
        let mut scorers = Vec::new();
        for _ in 0..workers.max(1) {
            let scorer = match model {
                Some((runtime, active)) => Some(Scorer::open(runtime, Arc::clone(active))?),
                None => None,
            };
            scorers.push(scorer);
        }
        Ok(Self { plan, judges, workers: scorers, policy: Arc::clone(policy), lists })
    }

    /// The intents that carry an act by hand to the databases it concerns.
    pub(crate) fn by_hand(&self, act: &Act) -> serde_json::Result<Vec<Intent>> {
        by_hand(&self.policy, &self.plan.definitions, act)
    }

    /// The judge of a stream, if its events are judged.
    pub(crate) fn judge_of(&self, stream: usize) -> Option<&Arc<Judge>> {
        self.judges[stream].as_ref()
    }

    /// Judges the events of `batch` that `output` says are to be judged, in order.
    pub(crate) fn judge(
        &mut self,
        batch: &ChangeBatch,
        output: &Output,
        circumstances: &Circumstances<'_>,
    ) -> anyhow::Result<Vec<Judged>> {
        let Some(judge) = self.judges[batch.stream().index].clone() else { return Ok(Vec::new()) };
        let batch = output.judged(batch);
        let places = places(&self.plan, batch, output, circumstances.decided);
        let plan = Arc::clone(&self.plan);
        let make = |&change: &usize| case(&plan, batch, output, circumstances, change);
        self.judge_each(&judge, batch, &places, make, circumstances.now)
    }

    /// Judges cases that were made elsewhere, in order; their events are the rows of `batch`.
    #[cfg(feature = "redis")]
    pub(crate) fn judge_cases(
        &mut self,
        judge: &Judge,
        batch: &ChangeBatch,
        cases: &[Case],
        now: Timestamp,
    ) -> anyhow::Result<Vec<Judged>> {
        self.judge_each(judge, batch, cases, Case::clone, now)
    }

    /// Judges one case of each item, on all cores where that is worth it.
    fn judge_each<T: Sync>(
        &mut self,
        judge: &Judge,
        batch: &ChangeBatch,
        items: &[T],
        make: impl Fn(&T) -> Case + Sync,
        now: Timestamp,
    ) -> anyhow::Result<Vec<Judged>> {
        if items.is_empty() {
            return Ok(Vec::new());
        }
        let share = items.len().div_ceil(self.workers.len()).max(1);
        let lists = &self.lists;
        let work = |(worker, items): (&mut Option<Scorer>, &[T])| {
            let mut cases: Vec<Case> = items.iter().map(&make).collect();
            score(judge, worker.as_mut(), batch, &mut cases);
            let decided = cases.iter().map(|case| decide(judge, lists, batch, case, now));
            let decided: anyhow::Result<Vec<Judged>> = decided.collect();
            decided.map(|decided| (cases, decided))
        };
        let parts: Vec<Part> = if share < 16 {
            self.workers.iter_mut().zip(items.chunks(share)).map(work).collect()
        } else {
            self.workers.par_iter_mut().zip(items.par_chunks(share)).map(work).collect()
        };
        self.settle(judge, batch, parts, now)
    }

    /// Makes the record of one change anew, with the list entries that it met then. `None` when it is not one to be judged.
    pub(crate) fn judge_again(
        &mut self,
        batch: &ChangeBatch,
        output: &Output,
        circumstances: &Circumstances<'_>,
        change: usize,
        hits: Vec<ListHit>,
    ) -> Option<DecisionRecord> {
        let judge = self.judges[batch.stream().index].as_ref()?;
        output.judgements[change]?;
        let batch = output.judged(batch);
        let mut cases = [case(&self.plan, batch, output, circumstances, change)];
        score(judge, self.workers[0].as_mut(), batch, &mut cases);
        Some(record(judge, batch, &cases[0], hits, circumstances.now))
    }

    /// Goes through the decisions in order, and makes those anew whose entity an earlier one of the same batch has just blocked.
    fn settle(
        &mut self,
        judge: &Judge,
        batch: &ChangeBatch,
        parts: Vec<Part>,
        now: Timestamp,
    ) -> anyhow::Result<Vec<Judged>> {
        let mut settled = Vec::new();
        let mut blocked: HashSet<EntityRef> = HashSet::new();
        for part in parts {
            let (cases, decided) = part?;
            for (case, mut judged) in cases.iter().zip(decided) {
                if !blocked.is_empty() && case.entities.iter().any(|entity| blocked.contains(entity)) {
                    judged = decide(judge, &self.lists, batch, case, now)?;
                }
                self.lists.date(&mut judged.claim.lists);
                for entry in &judged.claim.lists {
                    self.lists.put(entry.clone());
                    blocked.insert(entry.entity.clone());
                }
                settled.push(judged);
            }
        }
        Ok(settled)
    }
}

/// The places in `batch` of what is to be judged. Where no row record tells a repeated row, it is told here: its second judgement would
/// not be stored, and what it blocks must bind nobody.
pub(crate) fn places(plan: &Plan, batch: &ChangeBatch, output: &Output, decided: &[usize]) -> Vec<usize> {
    let stream = batch.stream();
    let is_wanted = |change: &usize| output.judgements[*change].is_some() && decided.binary_search(change).is_err();
    let wanted = (0..batch.len()).filter(is_wanted);
    if plan.streams[stream.index].keeps_records {
        return wanted.collect();
    }
    let mut known: HashSet<OwnedKey> = HashSet::new();
    let mut buffer = Vec::new();
    let is_first = |change: &usize| {
        let id = key_of(batch.row(*change), &[stream.id], &mut buffer).map(OwnedKey::from);
        id.is_none_or(|id| known.insert(id))
    };
    wanted.filter(is_first).collect()
}

/// The event at `index` of `batch` (as [`Output::judged`] gives it) with everything it is judged by.
pub(crate) fn case(
    plan: &Plan,
    batch: &ChangeBatch,
    output: &Output,
    circumstances: &Circumstances<'_>,
    index: usize,
) -> Case {
    let (change, row) = batch.get(index);
    let refused = match output.outcomes[index] {
        Outcome::Refused(Refused::NoId) => Some("it has no id"),
        Outcome::Refused(Refused::NoTime) => Some("it has no time"),
        Outcome::Refused(Refused::Future) => Some("its time lies too far in the future"),
        Outcome::Refused(Refused::AppendOnly) => Some("its stream is append_only, and this is no new row"),
        Outcome::Refused(Refused::TooLate) => Some("it is older than what is remembered of its entities"),
        Outcome::Applied | Outcome::Ignored(_) | Outcome::Truncated => None,
    };
    let vector = output.vectors[index];
    let own = SeenPosition {
        partition: format!("{}/{}", circumstances.source, batch.partition()),
        position: change.position,
    };
    let mut seen = circumstances.seen.to_vec();
    match seen.binary_search_by(|known| known.partition.cmp(&own.partition)) {
        Ok(at) => seen[at] = own.clone(),
        Err(at) => seen.insert(at, own.clone()),
    }
    let request = circumstances.request;
    let context = Context {
        event_id: row.event_id().unwrap_or_else(|| place_id(&own)),
        judgement: output.judgements[index].unwrap_or(0),
        position: own,
        seen,
        event_time: row.time(),
        arrival_time: change.arrival.or_else(|| row.time()),
        as_of: vector.map(|vector| as_of(plan, output, vector)).unwrap_or_default(),
        idempotency_key: request.and_then(|request| request.idempotency_key).map(str::to_owned),
        deadline_micros: request.map(|request| request.deadline_micros),
        left_micros: request.map(|request| request.left_micros),
        late: change.op == Op::Recovered,
    };
    Case {
        change: index,
        entities: entities(plan, row),
        context,
        vector: vector.map(|vector| output.readings(vector).collect()).unwrap_or_default(),
        refused: refused.map(Cow::Borrowed),
        scored: Scored::NOT_ASKED,
    }
}

/// The event id of a record that has none that could be read: `SOURCE/PARTITION/POSITION`, and `/ROW` where a position holds several;
/// `SOURCE@LSN/ROW` where it was republished.
fn place_id(place: &SeenPosition) -> String {
    format!("{}/{}", place.partition, place.position)
}

/// The policy's default for a record that became no event, with its claim.
pub(crate) fn undecodable(judge: &Judge, letter: &DeadLetter, now: Timestamp) -> anyhow::Result<Judged> {
    let own = SeenPosition { partition: format!("{}/{}", letter.source, letter.partition), position: letter.position };
    let event = letter.id.clone().unwrap_or_else(|| match (letter.version, letter.row) {
        // The same wherever in a topic it stands.
        (Some(Version { major, minor }), _) => format!("{}@{major}/{minor}", letter.source),
        (None, Some(row)) => format!("{}/{row}", place_id(&own)),
        (None, None) => place_id(&own),
    });
    let context = Context { seen: vec![own.clone()], ..Context::at(event, own) };
    let why = format!("the record could not be read ({}): {}", letter.reason.code(), letter.detail);
    let mut record = judge.not_judged(&context, None, &[], Vec::new(), &why, now);
    record.late = letter.op == Some(Op::Recovered);
    let claim = judge.claim(&record).context("a decision record cannot be written as JSON")?;
    Ok(Judged { record, claim })
}

fn as_of(plan: &Plan, output: &Output, vector: u32) -> BTreeMap<String, Timestamp> {
    let entities = &plan.definitions.entities;
    let from = vector as usize * entities.len();
    let instants = &output.as_of[from..from + entities.len()];
    let known = entities.iter().zip(instants).filter(|(_, instant)| **instant != i64::MIN);
    known.map(|(entity, instant)| (entity.name.clone(), Timestamp::from_micros(*instant))).collect()
}

/// The keys of a row's entities that are not null.
pub(crate) fn entities(plan: &Plan, row: Row<'_>) -> Vec<EntityRef> {
    let key = |entity: &interdict_features::definition::Entity| {
        let columns: Option<Vec<usize>> = entity.key.iter().map(|name| row.stream.column(name)).collect();
        key_text::of_row(row, &columns?).map(|key| EntityRef { entity: entity.name.clone(), key })
    };
    plan.definitions.entities.iter().filter_map(key).collect()
}

/// One run of the model over the cases that can be judged.
fn score(judge: &Judge, worker: Option<&mut Scorer>, batch: &ChangeBatch, cases: &mut [Case]) {
    let Some(scorer) = worker.filter(|_| judge.model().is_some()) else { return };
    let wanted: Vec<usize> = (0..cases.len()).filter(|&at| cases[at].refused.is_none()).collect();
    let subjects: Vec<Subject<'_>> = wanted.iter().map(|&at| cases[at].subject(batch)).collect();
    let mut scored = Vec::with_capacity(subjects.len());
    scorer.score(&subjects, &mut scored);
    for (at, scored) in wanted.into_iter().zip(scored) {
        cases[at].scored = scored;
    }
}

fn decide(judge: &Judge, lists: &Lists, batch: &ChangeBatch, case: &Case, now: Timestamp) -> anyhow::Result<Judged> {
    let record = record(judge, batch, case, lists.hits(&case.entities, now), now);
    let claim = judge.claim(&record).context("a decision record cannot be written as JSON")?;
    Ok(Judged { record, claim })
}

/// The record of a case whose entities meet the list entries `hits`.
fn record(judge: &Judge, batch: &ChangeBatch, case: &Case, hits: Vec<ListHit>, now: Timestamp) -> DecisionRecord {
    if let Some(why) = &case.refused {
        return judge.not_judged(&case.context, Some(&batch.row(case.change)), &case.entities, hits, why, now);
    }
    let subject = case.subject(batch);
    let decision = judge.decide(&subject, &case.scored.score, &hits);
    judge.record(&subject, &case.scored, hits, &decision, now)
}

impl Case {
    fn subject<'a>(&'a self, batch: &'a ChangeBatch) -> Subject<'a> {
        Subject { row: batch.row(self.change), vector: &self.vector, entities: &self.entities, context: &self.context }
    }
}
