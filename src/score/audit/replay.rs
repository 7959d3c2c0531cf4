//! Decisions made again, each after exactly what it had seen.
//!
//! Decisions are taken in the order of the log. Before one is made again every other partition is applied up to the position that
//! its record names, its own up to itself. After a crash a deployment reads again what was not stored, so that a later decision may
//! have seen less of another partition than an earlier one: it waits for the next pass, which begins with an empty engine.
//!
//! Invariant: what is in the engine when a decision is made again is what its record says it saw, and nothing else.

use std::collections::HashMap;
use std::sync::Arc;

use interdict_features::change::ChangeBatch;
use interdict_features::decision::{DecisionRecord, SeenPosition};
use interdict_features::engine::{Engine, Evaluate, Output, Plan};
use interdict_features::time::Timestamp;
use serde_json::Value;

use crate::run::input_log;
use crate::run::judging::{Circumstances, Judging, RequestFacts, undecodable};
use crate::run::sources::JudgedSources;

use super::feed::Feed;
use super::ledger::{Ledger, Logged, compared, fingerprint};

/// Decisions made again between two looks at the other partitions at most.
const RUN: usize = 4_096;

/// What recomputing came to.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) equal: u64,
    /// Equal in everything that another model has no part in.
    pub(super) equal_but_model: u64,
    pub(super) different: u64,
    /// The first that differ: index in [`Ledger::logged`], and what was made, if anything.
    pub(super) first: Vec<(usize, Option<Value>)>,
    pub(super) first_max: usize,
}

impl Tally {
    fn take(&mut self, index: usize, logged: &Logged, made: Option<DecisionRecord>) -> anyhow::Result<()> {
        let made = made.map(|record| compared(record, logged.model)).transpose()?;
        let is_equal = made.as_ref().map(fingerprint).transpose()? == Some(logged.fingerprint);
        match (is_equal, logged.model) {
            (true, super::ledger::Model::Same) => self.equal += 1,
            (true, super::ledger::Model::Other) => self.equal_but_model += 1,
            (false, _) => {
                self.different += 1;
                if self.first.len() < self.first_max {
                    self.first.push((index, made));
                }
            }
        }
        Ok(())
    }
}

/// One pass over the sources.
pub(super) struct Replay<'a> {
    pub(super) ledger: &'a Ledger,
    pub(super) judging: &'a mut Judging,
    pub(super) tally: &'a mut Tally,
    /// Per partition of the ledger; `None` for one that cannot be read.
    pub(super) feeds: Vec<Option<Feed>>,
    engine: Engine,
    output: Output,
}

impl<'a> Replay<'a> {
    pub(super) fn new(
        ledger: &'a Ledger,
        plan: &Arc<Plan>,
        judging: &'a mut Judging,
        tally: &'a mut Tally,
        feeds: Vec<Option<Feed>>,
        shards: usize,
    ) -> Self {
        let engine = Engine::new(Arc::clone(plan), shards);
        Self { ledger, judging, tally, feeds, engine, output: Output::default() }
    }

    /// Makes again what of `wanted` can be in this pass, at least its first; the others, in their order. `done` is told how many
    /// were made.
    pub(super) fn pass(&mut self, wanted: &[usize], mut done: impl FnMut(usize)) -> anyhow::Result<Vec<usize>> {
        let mut deferred = Vec::new();
        let mut from = 0;
        while from < wanted.len() {
            let first = &self.ledger.logged[wanted[from]];
            if !self.is_ahead(first) {
                deferred.push(wanted[from]);
                from += 1;
                continue;
            }
            let is_next = |pair: &&[usize]| {
                let (before, after) = (&self.ledger.logged[pair[0]], &self.ledger.logged[pair[1]]);
                let is_same = before.partition == after.partition && before.others == after.others;
                is_same && before.position < after.position
            };
            let more = wanted[from..].windows(2).take(RUN - 1).take_while(is_next).count();
            let run = &wanted[from..=from + more];
            self.advance_others(first)?;
            self.make(run)?;
            done(run.len());
            from += run.len();
        }
        Ok(deferred)
    }

    /// Whether nothing was applied that the decision had not seen.
    fn is_ahead(&self, logged: &Logged) -> bool {
        let others = &self.ledger.others[logged.others];
        self.feeds.iter().enumerate().all(|(partition, feed)| {
            let applied = feed.as_ref().and_then(|feed| feed.applied);
            if partition == logged.partition {
                return applied < Some(logged.position);
            }
            let seen = others.iter().find(|(other, _)| *other == partition).map(|(_, position)| *position);
            applied <= seen
        })
    }

    fn advance_others(&mut self, logged: &Logged) -> anyhow::Result<()> {
        for &(partition, position) in &self.ledger.others[logged.others] {
            let Some(feed) = &mut self.feeds[partition] else { continue };
            if feed.applied == Some(position) {
                continue;
            }
            while let Some(batch) = feed.next(position)? {
                self.engine.process(&batch, Evaluate::Nothing, &mut self.output)?;
            }
            feed.applied = Some(position);
        }
        Ok(())
    }

    /// Makes decisions of one partition again, between which no other one moved.
    fn make(&mut self, run: &[usize]) -> anyhow::Result<()> {
        let seen = self.seen();
        let logged = |index: usize| &self.ledger.logged[index];
        let Some(&last) = run.last() else { return Ok(()) };
        let (partition, until) = (logged(last).partition, logged(last).position);
        let mut left = run;
        while let Some(batch) = self.feeds[partition].as_mut().map(|feed| feed.next(until)).transpose()?.flatten() {
            self.engine.process(&batch, Evaluate::Judged, &mut self.output)?;
            for change in 0..batch.len() {
                while let Some((&index, rest)) = left.split_first() {
                    let position = batch.get(change).0.position;
                    if logged(index).position > position {
                        break;
                    }
                    left = rest;
                    let is_there = logged(index).position == position;
                    let made = if is_there { self.make_one(&batch, change, index, &seen) } else { None };
                    self.tally.take(index, logged(index), made)?;
                }
            }
        }
        for &index in left {
            self.tally.take(index, logged(index), None)?;
        }
        if let Some(feed) = &mut self.feeds[partition] {
            feed.applied = Some(until);
        }
        Ok(())
    }

    fn make_one(
        &mut self,
        batch: &ChangeBatch,
        change: usize,
        index: usize,
        seen: &[SeenPosition],
    ) -> Option<DecisionRecord> {
        let logged = &self.ledger.logged[index];
        let source = &self.feeds[logged.partition].as_ref()?.source;
        let idempotency_key = logged.idempotency_key.as_deref();
        let request = (source == input_log::SOURCE).then_some(RequestFacts {
            idempotency_key,
            deadline_micros: 0,
            left_micros: 0,
        });
        let now = Timestamp::default();
        let circumstances = Circumstances { source, seen, now, request, decided: &[] };
        self.judging.judge_again(batch, &self.output, &circumstances, change, logged.hits.to_vec())
    }

    /// How far every partition was applied, in order of name.
    fn seen(&self) -> Vec<SeenPosition> {
        let position = |(name, feed): (&String, &Option<Feed>)| {
            let position = feed.as_ref()?.applied?;
            Some(SeenPosition { partition: name.clone(), position })
        };
        let mut seen: Vec<SeenPosition> = self.ledger.partitions.iter().zip(&self.feeds).filter_map(position).collect();
        seen.sort_by(|a, b| a.partition.cmp(&b.partition));
        seen
    }

    /// Makes the decisions on records that became no change: they saw nothing but their own place.
    pub(super) fn make_undecodable(&mut self, wanted: &[usize], judged_sources: &JudgedSources) -> anyhow::Result<()> {
        let mut places: HashMap<(usize, u64), usize> = HashMap::new();
        for &index in wanted {
            let logged = &self.ledger.logged[index];
            places.insert((logged.partition, logged.position), index);
        }
        for (partition, feed) in self.feeds.iter_mut().enumerate() {
            let Some(feed) = feed else { continue };
            let last = places.keys().filter(|(of, _)| *of == partition).map(|(_, position)| *position).max();
            let Some(last) = last else { continue };
            feed.skip(last)?;
            let definitions = &self.engine.plan().definitions;
            for letter in feed.letters.drain(..) {
                let stream = judged_sources.stream_of(definitions, &feed.source, &letter);
                let Some(judge) = stream.and_then(|stream| self.judging.judge_of(stream)) else { continue };
                let Some(index) = places.remove(&(partition, letter.position)) else { continue };
                let made = undecodable(judge, &letter, Timestamp::default())?.record;
                self.tally.take(index, &self.ledger.logged[index], Some(made))?;
            }
        }
        let mut missing: Vec<usize> = places.into_values().collect();
        missing.sort_unstable();
        for index in missing {
            self.tally.take(index, &self.ledger.logged[index], None)?;
        }
        Ok(())
    }
}
