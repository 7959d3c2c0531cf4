//! What a database is asked to do to one account: made once, by a decision or by a person, and kept in the outbox.
//!
//! Invariants:
//! - An act says when it was decided. Of a block and an unblocking of one account the later one counts, an unblocking
//!   where both are of the same instant, in whatever order they arrive.
//! - Acts by hand carry an id of their own in place of a decision's.

use std::collections::BTreeMap;
use std::fmt;

use interdict_features::decision::{ActionIntent, DecisionRecord, EntityRef, Outcome};
use interdict_features::definition::Definitions;
use interdict_features::time::Timestamp;
use interdict_features::value::Value;
use interdict_store::port::Intent;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::policy::database::{DatabaseConfig, Source};
use crate::policy::{ActionKind, Policy};

/// What is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ActKind {
    /// A decision blocks.
    Block,
    /// A person blocks.
    ManualBlock,
    /// A person takes a block back.
    Unblock,
}

impl ActKind {
    /// As it stands in the ledger.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Block => "block",
            Self::ManualBlock => "manual_block",
            Self::Unblock => "unblock",
        }
    }
}

impl fmt::Display for ActKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// One act on one account, the payload of its intent (JSON).
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Act {
    /// What is done.
    pub kind: ActKind,
    /// The decision's id, or the act's own.
    pub id: Uuid,
    /// The account.
    pub target: EntityRef,
    /// When it was decided.
    pub decided_at: Timestamp,
    /// Why, for a person.
    pub reason: String,
    /// Who did it by hand.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// What the decision says, for acts of decisions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Judged>,
}

/// What statements may be told of a decision.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Judged {
    /// The outcome.
    pub outcome: Outcome,
    /// The model's score.
    pub score: Option<f64>,
    /// The judged event's stream.
    pub stream: String,
    /// The judged event's id.
    pub event_id: String,
    /// When the source committed the event, where it says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Timestamp>,
    /// Those of its columns that the statements ask for.
    pub columns: BTreeMap<String, Value>,
}

impl Act {
    /// The block that `intent` of `record` asks for.
    #[must_use]
    pub fn of_decision(record: &DecisionRecord, intent: &ActionIntent, config: &DatabaseConfig) -> Self {
        let asked = config.block.parameters.iter().filter(|parameter| parameter.source == Source::Column);
        let columns = asked.filter_map(|parameter| record.event.get_key_value(&parameter.name));
        Self {
            kind: ActKind::Block,
            id: record.decision_id,
            target: intent.target.clone(),
            decided_at: record.decide_time,
            reason: record.reasons.first().map(|reason| reason.text.clone()).unwrap_or_default(),
            author: None,
            decision: Some(Judged {
                outcome: record.outcome,
                score: record.score,
                stream: record.stream.clone(),
                event_id: record.event_id.clone(),
                committed_at: record.committed_at(),
                columns: columns.map(|(name, value)| (name.clone(), value.clone())).collect(),
            }),
        }
    }

    /// Reads the payload of an intent.
    ///
    /// # Errors
    /// When it is none of a database's action.
    pub fn read(payload: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(payload)
    }
}

/// The intents that carry an act by hand to every database whose action addresses its entity; none where no action
/// does. Commit them together with the change of the list.
///
/// # Errors
/// Never for acts made of texts and instants.
pub fn by_hand(policy: &Policy, definitions: &Definitions, act: &Act) -> Result<Vec<Intent>, serde_json::Error> {
    let addressed = policy.actions.iter().filter(|action| {
        matches!(action.kind, ActionKind::Database(_)) && definitions.entities[action.entity].name == act.target.entity
    });
    let intent = |action: &crate::policy::Action| {
        let payload = serde_json::to_string(act)?;
        Ok(Intent { decision: act.id, action: action.name.clone(), payload, created: act.decided_at })
    };
    addressed.map(intent).collect()
}
