//! From evidence to an outcome: the order of precedence, and nothing else.
//!
//! Manual block > allow list > automatic block > block rule or score at the block threshold > review > approve.
//!
//! Invariants:
//! - [`settle`] is total: every combination of evidence has one outcome and one thing that settled it.
//! - No comparison here sees a NaN or an infinity: a score that is not finite is [`Verdict::Failed`].

pub mod code;
pub mod recompute;

use interdict_features::decision::{DecidedBy, ListHit, ListKind, Outcome, Thresholds};

use crate::activation::outcome_of;

/// What the model contributes.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Verdict {
    /// No model is configured.
    NotAsked,
    /// A model is configured and gave no probability.
    Failed,
    /// What its score is by the thresholds in force.
    Scored(Outcome),
}

impl Verdict {
    /// The verdict on a score that may be absent or no number.
    #[must_use]
    pub fn of(score: Option<f64>, thresholds: Option<&Thresholds>) -> Self {
        match (score, thresholds) {
            (Some(score), Some(thresholds)) if score.is_finite() => Self::Scored(outcome_of(score, thresholds)),
            (_, Some(_)) => Self::Failed,
            (_, None) => Self::NotAsked,
        }
    }
}

/// Everything that bears on an outcome.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Evidence {
    /// The first in order of binding of the list entries met.
    pub list: Option<ListKind>,
    /// The severest outcome of the rules that hit.
    pub rule: Option<Outcome>,
    /// What the model contributes.
    pub verdict: Verdict,
    /// The outcome of events that cannot be judged.
    pub default: Outcome,
    /// The least outcome that the quality of the features allows.
    pub floor: Outcome,
}

/// The outcome of `evidence`, and what settled it.
#[must_use]
pub fn settle(evidence: &Evidence) -> (Outcome, DecidedBy) {
    if let Some(outcome) = evidence.list.map(listed) {
        return (outcome, DecidedBy::List);
    }
    let (model, model_by) = match evidence.verdict {
        Verdict::NotAsked => (Outcome::Approve, DecidedBy::Rules),
        Verdict::Failed => (evidence.default, DecidedBy::Default),
        Verdict::Scored(outcome) => (outcome, DecidedBy::Model),
    };
    match evidence.rule {
        Some(rule) if rule > Outcome::Approve && rule >= model && rule >= evidence.floor => (rule, DecidedBy::Rules),
        _ if evidence.floor > model => (evidence.floor, DecidedBy::Default),
        _ => (model, model_by),
    }
}

/// The outcome of an event that cannot be judged and meets the entries `hits`, and what settled it.
pub(crate) fn by_lists(hits: &[ListHit], default: Outcome) -> (Outcome, DecidedBy) {
    let first = hits.iter().map(|hit| hit.list).min();
    first.map_or((default, DecidedBy::Default), |list| (listed(list), DecidedBy::List))
}

const fn listed(list: ListKind) -> Outcome {
    match list {
        ListKind::ManualBlock | ListKind::AutomaticBlock => Outcome::Block,
        ListKind::Allow => Outcome::Approve,
    }
}
