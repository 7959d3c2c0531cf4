//! From a decision to its record, and from the record to the claim that stores it with its effects.

use std::collections::BTreeMap;

use interdict_features::change::Row;
use interdict_features::decision::{
    ActionIntent, DecidedBy, DecisionRecord, EntityRef, ListHit, ListKind, ModelScore, Outcome, Reason,
    RecordedFeature, RuleResult, Thresholds, decision_id,
};
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use interdict_store::port::{Claim, Intent, ListEntry};

use super::{Decision, Finding, FindingResult, Judge, place};
use crate::action::act::Act;
use crate::action::payload;
use crate::decide::{by_lists, code};
use crate::input::Place;
use crate::policy::{ActionKind, TopicConfig, WebhookConfig, slots};
use crate::scorer::{Score, Scored};
use crate::subject::{Context, Subject};

/// The author of list entries that decisions make.
const AUTHOR: &str = "decision";

impl Judge {
    /// The record of `decision` on `subject`, made at `decide_time`.
    #[must_use]
    pub fn record(
        &self,
        subject: &Subject<'_>,
        scored: &Scored,
        hits: Vec<ListHit>,
        decision: &Decision,
        decide_time: Timestamp,
    ) -> DecisionRecord {
        let score = match &scored.score {
            Score::Given(score) if score.is_finite() => Some(*score),
            Score::Given(_) | Score::Failed(_) | Score::NotAsked => None,
        };
        let mut record = self.blank(subject.context, subject.entities, decide_time);
        record.outcome = decision.outcome;
        record.decided_by = decision.decided_by;
        record.score = score;
        record.thresholds = self.thresholds;
        record.rules = decision.findings.iter().map(|finding| self.rule_result(finding)).collect();
        record.models = self.model_scores(score, scored.micros);
        let readings = self.features.iter().zip(subject.vector);
        record.features = readings
            .map(|(name, reading)| RecordedFeature { name: name.name.clone(), reading: reading.clone() })
            .collect();
        record.event = columns(&subject.row);
        record.reasons = self.reasons(scored, &hits, decision);
        record.degraded = decision.degraded.iter().map(|&slot| self.slot_name(slot)).collect();
        record.actions = decision.actions.iter().filter_map(|&action| self.intent(action, subject.entities)).collect();
        record.list_hits = hits;
        record
    }

    /// The record of an event that could not be judged, for the reason `why` (fit to be shown). `row` is what is known
    /// of it. The lists bind it all the same: `hits` are the entries that its entities meet.
    #[must_use]
    pub fn not_judged(
        &self,
        context: &Context,
        row: Option<&Row<'_>>,
        entities: &[EntityRef],
        hits: Vec<ListHit>,
        why: &str,
        decide_time: Timestamp,
    ) -> DecisionRecord {
        let mut record = self.blank(context, entities, decide_time);
        record.event = row.map(columns).unwrap_or_default();
        record.reasons = hits.iter().map(list_reason).collect();
        record.reasons.push(reason(code::NOT_JUDGED, why));
        (record.outcome, record.decided_by) = by_lists(&hits, self.policy.default_outcome);
        record.list_hits = hits;
        record
    }

    /// What the store is asked to keep of `record`: the record itself if there is none yet, and with it its effects:
    /// list entries at once, everything else as outbox intents.
    ///
    /// # Errors
    /// Never for records made here; a record that cannot be JSON is refused.
    pub fn claim(&self, record: &DecisionRecord) -> Result<Claim, serde_json::Error> {
        let mut intents = Vec::new();
        let mut lists = Vec::new();
        for intent in &record.actions {
            let Some(action) = self.policy.actions.iter().find(|action| action.name == intent.action) else { continue };
            match &action.kind {
                ActionKind::Store { expires } => lists.push(ListEntry {
                    list: ListKind::AutomaticBlock,
                    entity: intent.target.clone(),
                    reason: record.reasons.first().map(|reason| reason.text.clone()).unwrap_or_default(),
                    decision: Some(record.decision_id),
                    author: AUTHOR.to_owned(),
                    created: record.decide_time,
                    expires: expires.map(|span| record.decide_time.plus(span)),
                }),
                ActionKind::Webhook(WebhookConfig { columns, .. }) | ActionKind::Topic(TopicConfig { columns, .. }) => {
                    intents.push(Intent {
                        decision: record.decision_id,
                        action: action.name.clone(),
                        payload: payload::body(record, intent, columns)?,
                        created: record.decide_time,
                    });
                }
                ActionKind::Database(database) => intents.push(Intent {
                    decision: record.decision_id,
                    action: action.name.clone(),
                    payload: serde_json::to_string(&Act::of_decision(record, intent, database))?,
                    created: record.decide_time,
                }),
            }
        }
        let record_bytes = serde_json::to_vec(record)?.into();
        Ok(Claim { id: record.decision_id, record: record_bytes, entities: record.entities.clone(), intents, lists })
    }

    fn blank(&self, context: &Context, entities: &[EntityRef], decide_time: Timestamp) -> DecisionRecord {
        let context = context.clone();
        DecisionRecord {
            decision_id: decision_id(&self.namespace, &self.stream.name, &context.event_id, context.judgement),
            idempotency_key: context.idempotency_key,
            stream: self.stream.name.clone(),
            event_id: context.event_id,
            judgement: context.judgement,
            position: context.position,
            event_time: context.event_time,
            arrival_time: context.arrival_time,
            decide_time,
            as_of: context.as_of,
            entities: entities.to_vec(),
            outcome: self.policy.default_outcome,
            score: None,
            thresholds: None,
            rules: Vec::new(),
            models: Vec::new(),
            features: Vec::new(),
            event: BTreeMap::new(),
            seen: context.seen,
            list_hits: Vec::new(),
            reasons: Vec::new(),
            decided_by: DecidedBy::Default,
            deadline_micros: context.deadline_micros,
            left_micros: context.left_micros,
            degraded: Vec::new(),
            actions: Vec::new(),
            arm: None,
            late: context.late,
        }
    }

    fn rule_result(&self, finding: &Finding) -> RuleResult {
        let rule = &self.policy.rules[finding.rule];
        let (missing, error) = match &finding.result {
            FindingResult::Hit => (Vec::new(), None),
            FindingResult::Missing(slots) => (slots.iter().map(|&slot| self.slot_name(slot)).collect(), None),
            FindingResult::NoValue => {
                (Vec::new(), Some("no value: a division by zero or a number out of range".to_owned()))
            }
        };
        RuleResult {
            id: rule.id.clone(),
            version: rule.version,
            hit: finding.result == FindingResult::Hit,
            missing,
            error,
        }
    }

    fn model_scores(&self, score: Option<f64>, micros: u64) -> Vec<ModelScore> {
        let model = self.model.iter().map(|model| ModelScore {
            name: model.manifest.name.clone(),
            version: model.manifest.version.clone(),
            bundle_hash: model.hash.to_string(),
            score,
            micros,
            role: "champion".to_owned(),
        });
        model.collect()
    }

    fn intent(&self, action: usize, entities: &[EntityRef]) -> Option<ActionIntent> {
        let action = &self.policy.actions[action];
        let target = entities.iter().find(|entity| entity.entity == self.entities[action.entity])?;
        Some(ActionIntent { action: action.name.clone(), target: target.clone() })
    }

    /// Lists first, then rules from block down, then the score, then what lowered the quality of the decision.
    fn reasons(&self, scored: &Scored, hits: &[ListHit], decision: &Decision) -> Vec<Reason> {
        let mut reasons: Vec<Reason> = hits.iter().map(list_reason).collect();
        let hit = |outcome| {
            let found = decision.findings.iter().filter(|finding| finding.result == FindingResult::Hit);
            let rules = found.map(|finding| &self.policy.rules[finding.rule]);
            rules.filter(move |rule| rule.outcome == outcome).map(|rule| reason(&rule.id, &rule.reason))
        };
        reasons.extend(hit(Outcome::Block));
        match (&scored.score, self.thresholds) {
            (Score::Given(score), Some(thresholds)) if score.is_finite() => {
                let Thresholds { review, block } = thresholds;
                if *score >= block {
                    reasons.push(reason(code::SCORE_BLOCK, &format!("score {score} is at or over {block}")));
                } else if *score >= review {
                    reasons.push(reason(code::SCORE_REVIEW, &format!("score {score} is at or over {review}")));
                }
            }
            (_, None) => {}
            (Score::Failed(why), Some(_)) => reasons.push(reason(code::NO_SCORE, why)),
            (_, Some(_)) => reasons.push(reason(code::NO_SCORE, "the model gave no score")),
        }
        reasons.extend(hit(Outcome::Review));
        if decision.outcome == Outcome::Review
            && decision.decided_by == DecidedBy::Default
            && !decision.degraded.is_empty()
        {
            reasons.push(reason(code::DEGRADED, "features that matter are missing or stale"));
        }
        reasons.extend(decision.unaddressed.iter().map(|&index| {
            let action = &self.policy.actions[index];
            let entity = &self.entities[action.entity];
            reason(
                code::NO_TARGET,
                &format!("action '{}' addresses {entity}, of which the event has no key", action.name),
            )
        }));
        reasons
    }

    fn slot_name(&self, slot: u32) -> String {
        match place(slot, self.stream.columns.len()) {
            Place::Column(column) => self.stream.columns[column].name.clone(),
            Place::Feature(feature) => {
                self.features.get(feature).map_or_else(|| slots::SCORE.to_owned(), |feature| feature.name.to_string())
            }
        }
    }
}

fn reason(code: &str, text: &str) -> Reason {
    Reason { code: code.to_owned(), text: text.to_owned() }
}

fn list_reason(hit: &ListHit) -> Reason {
    let code = match hit.list {
        ListKind::ManualBlock => code::MANUAL_BLOCK,
        ListKind::Allow => code::ALLOW_LIST,
        ListKind::AutomaticBlock => code::AUTOMATIC_BLOCK,
    };
    reason(code, &hit.reason)
}

fn columns(row: &Row<'_>) -> BTreeMap<String, Value> {
    row.stream.columns.iter().enumerate().map(|(index, column)| (column.name.clone(), row.value(index))).collect()
}
