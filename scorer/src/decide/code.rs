//! Codes of reasons that are not rule ids. They are stable: callers match on them.

/// A person blocked an entity of the event.
pub const MANUAL_BLOCK: &str = "manual_block";
/// An entity of the event is always let through.
pub const ALLOW_LIST: &str = "allow_list";
/// An earlier decision blocked an entity of the event.
pub const AUTOMATIC_BLOCK: &str = "automatic_block";
/// The score reached the block threshold.
pub const SCORE_BLOCK: &str = "score_block";
/// The score reached the review threshold.
pub const SCORE_REVIEW: &str = "score_review";
/// The model gave no score.
pub const NO_SCORE: &str = "no_score";
/// Features were missing or stale, and the policy lets nothing pass then.
pub const DEGRADED: &str = "degraded";
/// The event could not be judged.
pub const NOT_JUDGED: &str = "not_judged";
/// An action names an entity of which the event has no key.
pub const NO_TARGET: &str = "no_target";

/// Ids that no rule may have.
pub const RESERVED: [&str; 9] =
    [MANUAL_BLOCK, ALLOW_LIST, AUTOMATIC_BLOCK, SCORE_BLOCK, SCORE_REVIEW, NO_SCORE, DEGRADED, NOT_JUDGED, NO_TARGET];
