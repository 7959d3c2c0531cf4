//! The same decision again, from what its record holds.

use interdict_features::decision::{DecidedBy, DecisionRecord, Outcome};

use super::{Evidence, Verdict, by_lists, code, settle};
use crate::policy::{OnDegraded, Policy};

/// Why a record cannot be recomputed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RecomputeError {
    /// A rule that hit is not in the policy, or only in another version.
    #[error(
        "rule '{id}' version {version} was hit and is not in this policy; recompute with the policy that was in force"
    )]
    UnknownRule {
        /// The rule.
        id: String,
        /// Its version.
        version: u32,
    },
}

/// What the recorded scores, thresholds, rule hits and list hits make of the event under `policy`, the one that was in
/// force: equal to the recorded outcome and what settled it.
///
/// # Errors
/// [`RecomputeError::UnknownRule`].
pub fn recompute(record: &DecisionRecord, policy: &Policy) -> Result<(Outcome, DecidedBy), RecomputeError> {
    if record.reasons.iter().any(|reason| reason.code == code::NOT_JUDGED) {
        return Ok(by_lists(&record.list_hits, policy.default_outcome));
    }
    let mut rule = None;
    for hit in record.rules.iter().filter(|rule| rule.hit) {
        let known = policy.rules.iter().find(|rule| rule.id == hit.id && rule.version == hit.version);
        let Some(known) = known else {
            return Err(RecomputeError::UnknownRule { id: hit.id.clone(), version: hit.version });
        };
        rule = rule.max(Some(known.outcome));
    }
    Ok(settle(&Evidence {
        list: record.list_hits.iter().map(|hit| hit.list).min(),
        rule,
        verdict: Verdict::of(record.score, record.thresholds.as_ref()),
        default: policy.default_outcome,
        floor: floor(policy.degraded, record.degraded.len()),
    }))
}

/// The least outcome that the quality of the features allows.
pub(crate) fn floor(on_degraded: OnDegraded, degraded: usize) -> Outcome {
    match on_degraded {
        OnDegraded::Review if degraded > 0 => Outcome::Review,
        OnDegraded::Review | OnDegraded::Decide => Outcome::Approve,
    }
}
