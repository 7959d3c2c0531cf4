//! Deciding events of one stream: rules, model and lists together.
//!
//! How a caller judges a micro-batch, in order, so that a block made by one event is seen by the next:
//! ```text
//! scorer.score(&subjects, &mut scored);                           // one run of the model
//! for (subject, scored) in subjects.iter().zip(&scored) {
//!     let hits = lists.hits(subject.entities, now);
//!     let decision = judge.decide(subject, &scored.score, &hits); // pure
//!     let record = judge.record(subject, scored, hits, &decision, now);
//!     let claim = judge.claim(&record)?;
//!     for entry in &claim.lists { lists.put(entry.clone()); }     // the next event of the entity meets it
//!     commit.claims.push(claim);
//! }
//! // after the commit: ClaimOutcome::Existing(earlier) holds; lists.withdraw(&entity, record.decision_id)
//! ```
//!
//! Invariant: [`Judge::decide`] reads no clock, waits for nothing and allocates only for what it finds.

mod record;
mod slot;

use std::sync::Arc;

use interdict_features::decision::{DecidedBy, ListHit, Outcome, Thresholds};
use interdict_features::definition::{Definitions, FeatureName, Stream};
use interdict_features::expression::Operand;
use interdict_features::value::Value;
use interdict_features::vector::{Flags, Reading};

use crate::activation::Active;
use crate::decide::recompute::floor;
use crate::decide::{Evidence, Verdict, settle};
use crate::input::Place;
use crate::policy::{Action, Policy, Trigger};
use crate::scorer::Score;
use crate::subject::{Subject, column_number};

use slot::RuleSlots;

/// Why policy and model do not go together.
#[derive(Clone, PartialEq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum JudgeError {
    /// The overridden thresholds contradict those of the bundle.
    #[error("the review threshold {review} lies over the block threshold {block}; set both in [scorer] thresholds")]
    Thresholds {
        /// In force.
        review: f64,
        /// In force.
        block: f64,
    },
}

/// What one rule came to, where it came to something.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    /// Index in `Policy::rules`.
    pub rule: usize,
    /// Hit, or why not.
    pub result: FindingResult,
}

/// The ways of a rule that did not simply not hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FindingResult {
    /// It held.
    Hit,
    /// It read these null slots and has no value.
    Missing(Vec<u32>),
    /// It has no value although nothing it read was null: a division by zero.
    NoValue,
}

/// A decision as [`Judge::decide`] makes it: indexes instead of names, until a record is wanted.
#[derive(Clone, PartialEq, Debug)]
pub struct Decision {
    /// What becomes of the event.
    pub outcome: Outcome,
    /// What settled it.
    pub decided_by: DecidedBy,
    /// What rules came to, in policy order; those that did not hold are left out.
    pub findings: Vec<Finding>,
    /// Slots of missing or stale values that model or rules read, ascending.
    pub degraded: Vec<u32>,
    /// Indexes in `Policy::actions` of the actions wanted whose entity the event names.
    pub actions: Vec<usize>,
    /// Indexes of those wanted whose entity has no key in the event.
    pub unaddressed: Vec<usize>,
}

/// A policy, and the model in force, for the events of one stream. Immutable and shared by all workers; a new model or
/// policy is a new judge.
#[derive(Clone, Debug)]
pub struct Judge {
    namespace: String,
    stream: Arc<Stream>,
    features: Vec<FeatureName>,
    entities: Vec<String>,
    policy: Arc<Policy>,
    /// Indexes of the rules over this stream.
    rules: Vec<usize>,
    model: Option<Arc<Active>>,
    thresholds: Option<Thresholds>,
    /// What model and rules read and what counts as degraded when it is missing or stale, by slot, ascending.
    watched: Vec<u32>,
}

impl Judge {
    /// A judge of the events of `stream` (index in `Definitions::streams`) in `namespace`. `model` is taken only
    /// where it judges this stream.
    ///
    /// # Errors
    /// [`JudgeError::Thresholds`].
    pub fn new(
        namespace: &str,
        policy: Arc<Policy>,
        definitions: &Definitions,
        stream: usize,
        model: Option<Arc<Active>>,
    ) -> Result<Self, JudgeError> {
        let model = model.filter(|model| model.stream == stream);
        let thresholds = match &model {
            Some(model) => Some(thresholds_in_force(&policy, model.manifest.thresholds)?),
            None => None,
        };
        let rules: Vec<usize> = (0..policy.rules.len()).filter(|&index| policy.rules[index].stream == stream).collect();
        let columns = definitions.streams[stream].columns.len();
        let watched = watched(&policy, &rules, model.as_deref(), columns, definitions.features.len());
        Ok(Self {
            namespace: namespace.to_owned(),
            stream: Arc::clone(&definitions.streams[stream]),
            features: definitions.features.clone(),
            entities: definitions.entities.iter().map(|entity| entity.name.clone()).collect(),
            policy,
            rules,
            model,
            thresholds,
            watched,
        })
    }

    /// The model in force.
    #[must_use]
    pub fn model(&self) -> Option<&Arc<Active>> {
        self.model.as_ref()
    }

    /// The policy in force.
    #[must_use]
    pub fn policy(&self) -> &Arc<Policy> {
        &self.policy
    }

    /// The stream whose events it judges.
    #[must_use]
    pub fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Decides one event: pure, synchronous, and the same for stream, request, batch and audit. `hits` are the list
    /// entries in force for its entities (`Lists::hits`).
    #[must_use]
    pub fn decide(&self, subject: &Subject<'_>, score: &Score, hits: &[ListHit]) -> Decision {
        let score = match score {
            Score::Given(score) if score.is_finite() => Some(*score),
            Score::Given(_) | Score::Failed(_) | Score::NotAsked => None,
        };
        let findings = self.run_rules(subject, score);
        let degraded: Vec<u32> = self.watched.iter().copied().filter(|&slot| self.is_degraded(subject, slot)).collect();
        let rule = |finding: &Finding| self.policy.rules[finding.rule].outcome;
        let (outcome, decided_by) = settle(&Evidence {
            list: hits.iter().map(|hit| hit.list).min(),
            rule: findings.iter().filter(|finding| finding.result == FindingResult::Hit).map(rule).max(),
            verdict: Verdict::of(score, self.thresholds.as_ref()),
            default: self.policy.default_outcome,
            floor: floor(self.policy.degraded, degraded.len()),
        });
        let mut decision =
            Decision { outcome, decided_by, findings, degraded, actions: Vec::new(), unaddressed: Vec::new() };
        self.want_actions(subject, &mut decision);
        decision
    }

    fn run_rules(&self, subject: &Subject<'_>, score: Option<f64>) -> Vec<Finding> {
        let slots = RuleSlots { subject, features: &self.features, score };
        let mut findings = Vec::new();
        for &rule in &self.rules {
            let when = &self.policy.rules[rule].when;
            let result = match when.evaluate(&slots) {
                Operand::Bool(false) => continue,
                Operand::Bool(true) => FindingResult::Hit,
                _no_value => match slots.nulls(when.slots()) {
                    nulls if nulls.is_empty() => FindingResult::NoValue,
                    nulls => FindingResult::Missing(nulls),
                },
            };
            findings.push(Finding { rule, result });
        }
        findings
    }

    /// A decision that a list settled condemns nobody anew; every other one runs the actions it triggers.
    fn want_actions(&self, subject: &Subject<'_>, decision: &mut Decision) {
        if decision.decided_by == DecidedBy::List {
            return;
        }
        for (index, action) in self.policy.actions.iter().enumerate() {
            if !is_triggered(action, decision) {
                continue;
            }
            let entity = &self.entities[action.entity];
            if subject.entities.iter().any(|it| it.entity == *entity) {
                decision.actions.push(index);
            } else {
                decision.unaddressed.push(index);
            }
        }
    }

    /// Missing: no value for want of a key or state, or a null column. Stale or cut off: not what was asked for.
    /// A null because the window is empty is a value, not a fault.
    fn is_degraded(&self, subject: &Subject<'_>, slot: u32) -> bool {
        match place(slot, self.stream.columns.len()) {
            Place::Column(column) => column_number(&subject.row, column).is_none(),
            Place::Feature(feature) => subject.vector.get(feature).is_none_or(is_faulty),
        }
    }
}

fn is_faulty(reading: &Reading) -> bool {
    let flags = reading.flags;
    let is_null = reading.value == Value::Null;
    flags.has(Flags::STALE)
        || flags.has(Flags::TRUNCATED)
        || (is_null && (flags.has(Flags::NO_KEY) || flags.has(Flags::NO_STATE)))
}

fn is_triggered(action: &Action, decision: &Decision) -> bool {
    match &action.trigger {
        Trigger::Block => decision.outcome == Outcome::Block,
        Trigger::Rules(rules) => {
            let is_hit = |finding: &Finding| finding.result == FindingResult::Hit && rules.contains(&finding.rule);
            decision.findings.iter().any(is_hit) && (decision.outcome == Outcome::Block || action.kind.tells())
        }
    }
}

fn thresholds_in_force(policy: &Policy, bundle: Thresholds) -> Result<Thresholds, JudgeError> {
    let review = policy.review.unwrap_or(bundle.review);
    let block = policy.block.unwrap_or(bundle.block);
    if review > block {
        return Err(JudgeError::Thresholds { review, block });
    }
    Ok(Thresholds { review, block })
}

fn place(slot: u32, columns: usize) -> Place {
    let slot = slot as usize;
    if slot < columns { Place::Column(slot) } else { Place::Feature(slot - columns) }
}

/// Features that model or rules read, and columns that the model reads, as slots of rules. A null column that only a
/// rule reads is that rule's own affair: it is listed there.
fn watched(policy: &Policy, rules: &[usize], model: Option<&Active>, columns: usize, features: usize) -> Vec<u32> {
    let read_by_rules = rules.iter().flat_map(|&rule| policy.rules[rule].when.slots()).copied();
    let mut watched: Vec<u32> =
        read_by_rules.filter(|&slot| (columns..columns + features).contains(&(slot as usize))).collect();
    let inputs = model.into_iter().flat_map(|model| model.inputs.iter());
    watched.extend(inputs.filter_map(|input| {
        let slot = match input.place {
            Place::Column(column) => column,
            Place::Feature(feature) => columns + feature,
        };
        u32::try_from(slot).ok()
    }));
    watched.sort_unstable();
    watched.dedup();
    watched
}
