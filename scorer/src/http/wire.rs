//! The JSON shapes of requests and answers, as `/openapi.json` publishes them.
//!
//! Records and list entries are handed out as they are stored; their published shapes stand in [`super::record`].

use std::borrow::Cow;

use interdict_features::decision::{ListKind, RecordedFeature};
use interdict_features::time::Timestamp;
use interdict_store::port::ListEntry;
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::record::{ListEntryShape, ListKindShape, RecordShape, RecordedFeatureShape};

/// Body of `POST /v1/decisions`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `decisions::decide` parses field by field")]
pub(super) struct DecisionBody {
    /// The stream of the event; may be left out where only one stream is judged.
    #[schema(required = false)]
    stream: Option<String>,
    /// The event's columns by name. Id and time are required; a column left out is null.
    #[schema(value_type = Object)]
    event: (),
}

/// Answer of `POST /v1/decisions`.
#[derive(Serialize, ToSchema)]
pub(super) struct DecisionAnswer {
    /// Whether the event is one to be judged. If not, the stream's condition does not hold for it: it counts in the
    /// history all the same, there is no decision, and asking again changes nothing.
    pub(super) judged: bool,
    /// The decision record, as it is stored; null if the event is not one to be judged.
    #[schema(value_type = Option<RecordShape>)]
    pub(super) decision: Option<interdict_features::decision::DecisionRecord>,
    /// The log could not take the record in time; it will once it can.
    pub(super) unlogged: bool,
    /// The decision existed already.
    pub(super) replayed: bool,
}

/// Answer of `GET /v1/decisions/{id}`.
#[derive(Serialize, ToSchema)]
pub(super) struct StoredDecisionAnswer {
    /// The decision record, as it is stored.
    #[schema(value_type = RecordShape)]
    pub(super) decision: Box<RawValue>,
    /// Results of actions, labels and late scores, in the order they came.
    #[schema(value_type = Vec<serde_json::Value>)]
    pub(super) appended: Vec<Box<RawValue>>,
}

/// Body of `POST /v1/entities/{entity}`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `entities::read` parses field by field")]
pub(super) struct EntityBody {
    /// The key: an integer or a string; of a composite key a list in the key's order, or an object by column.
    #[schema(required = false)]
    key: serde_json::Value,
    /// Instead of `key`: the key as records and lists show it, masked parts as they stand there.
    #[schema(required = false)]
    shown_key: Option<String>,
    /// An RFC 3339 time or `now`, which is the default.
    #[schema(required = false)]
    as_of: Option<String>,
    /// How many recent decisions are wanted; 10 by default.
    #[schema(required = false, minimum = 0, maximum = 100)]
    decisions: Option<u32>,
}

/// Answer of `POST /v1/entities/{entity}`.
#[derive(Serialize, ToSchema)]
pub(super) struct EntityAnswerBody {
    /// The entity.
    pub(super) entity: String,
    /// The key as records show it.
    pub(super) key: String,
    /// Whether anything is known of the key. Of an unknown one the features are those of empty windows.
    pub(super) known: bool,
    /// The instant the features were read as of.
    #[schema(value_type = String, format = DateTime)]
    pub(super) as_of: Timestamp,
    /// The features of the entity's groups.
    #[schema(value_type = Vec<RecordedFeatureShape>)]
    pub(super) features: Vec<RecordedFeature>,
    /// What the lists come to for this key.
    pub(super) state: BlockState,
    /// The entries on the lists.
    #[schema(value_type = Vec<ListEntryShape>)]
    pub(super) lists: Vec<ListEntry>,
    /// The newest decisions, newest first.
    #[schema(value_type = Vec<RecordShape>)]
    pub(super) decisions: Vec<Box<RawValue>>,
}

/// What the lists come to: a manual block binds before an allow entry, that before an automatic block.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum BlockState {
    /// On no list.
    None,
    /// Blocked by a person or by a decision.
    Blocked,
    /// Always let through.
    Allowed,
}

impl BlockState {
    /// What these entries come to.
    pub(super) fn of(entries: &[ListEntry]) -> Self {
        match entries.iter().map(|entry| entry.list).min() {
            None => Self::None,
            Some(ListKind::Allow) => Self::Allowed,
            Some(ListKind::ManualBlock | ListKind::AutomaticBlock) => Self::Blocked,
        }
    }
}

/// Body of `POST /v1/labels`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `labels::report` parses field by field")]
pub(super) struct LabelBody {
    /// The stream of the labelled event; may be left out where only one stream is labelled.
    #[schema(required = false)]
    stream: Option<String>,
    /// The event's id: an integer or a string. The event may still be to come.
    id: serde_json::Value,
    /// `fraud`, `genuine`, or null to take an earlier label back.
    #[schema(required = true)]
    value: Option<LabelValue>,
    /// When it was reported; left out: now. Not in the future.
    #[schema(required = false, format = DateTime)]
    reported_at: Option<String>,
}

/// A label.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[expect(dead_code, reason = "documents what `labels::report` parses")]
pub(super) enum LabelValue {
    /// Fraud.
    Fraud,
    /// Genuine.
    Genuine,
}

/// Answer of `POST /v1/labels`: it is durable and will be applied in its turn.
#[derive(Serialize, ToSchema)]
pub(super) struct AcceptedAnswer {
    /// Position in the input log.
    pub(super) position: u64,
}

/// Body of `POST /v1/blocks`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `blocks::set` parses field by field")]
pub(super) struct BlockBody {
    /// `manual_block` or `allow`.
    list: ListKindShape,
    /// The entity.
    entity: String,
    /// The key, as in `POST /v1/entities/{entity}`.
    #[schema(required = false)]
    key: serde_json::Value,
    /// Instead of `key`: the key as records and lists show it.
    #[schema(required = false)]
    shown_key: Option<String>,
    /// Why; 1 to 512 bytes.
    reason: String,
    /// When it ends; left out: when it is removed.
    #[schema(required = false, format = DateTime)]
    expires: Option<String>,
}

/// Body of `DELETE /v1/blocks`.
#[derive(ToSchema)]
#[expect(dead_code, reason = "documents what `blocks::remove` parses field by field")]
pub(super) struct UnblockBody {
    /// Which list; off `automatic_block` it is an unblocking.
    list: ListKindShape,
    /// The entity.
    entity: String,
    /// The key, as in `POST /v1/entities/{entity}`.
    #[schema(required = false)]
    key: serde_json::Value,
    /// Instead of `key`: the key as records and lists show it.
    #[schema(required = false)]
    shown_key: Option<String>,
    /// Why; 1 to 512 bytes.
    reason: String,
}

/// Answer of `POST /v1/blocks`.
#[derive(Serialize, ToSchema)]
pub(super) struct BlockAnswer {
    /// The entry as it now stands.
    #[schema(value_type = ListEntryShape)]
    pub(super) entry: ListEntry,
}

/// Answer of `DELETE /v1/blocks`.
#[derive(Serialize, ToSchema)]
pub(super) struct UnblockAnswer {
    /// Whether there was an entry.
    pub(super) removed: bool,
}

/// Answer of `GET /v1/blocks`.
#[derive(Serialize, ToSchema)]
pub(super) struct BlocksAnswer {
    /// In order of list, entity and key.
    #[schema(value_type = Vec<ListEntryShape>)]
    pub(super) entries: Vec<ListEntry>,
    /// Where others follow: what to send as `after` for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(super) next: Option<String>,
}

/// Answer of `GET /v1/models`.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelsAnswer {
    /// Every registered model version.
    pub(super) models: Vec<ModelBody>,
}

/// A registered model version.
#[derive(Serialize, ToSchema)]
pub(super) struct ModelBody {
    /// Model name.
    pub(super) name: String,
    /// Version.
    pub(super) version: String,
    /// SHA-256 over the bundle, hex.
    pub(super) bundle_hash: String,
    /// When it was registered.
    #[schema(value_type = String, format = DateTime)]
    pub(super) registered: Timestamp,
    /// Aliases that point at it.
    pub(super) aliases: Vec<String>,
    /// What it does in this process; left out: it is not loaded.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(super) role: Option<String>,
    /// Why it could not be activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false)]
    pub(super) refused: Option<String>,
}

/// Answer of `GET /health/live`.
#[derive(Serialize, ToSchema)]
pub(super) struct LiveAnswer {
    /// Always true: the process answers.
    pub(super) live: bool,
}

/// Answer of `GET /health/ready`.
#[derive(Serialize, ToSchema)]
pub(super) struct ReadyAnswer {
    /// Whether requests will be served.
    pub(super) ready: bool,
    /// Why not.
    pub(super) reasons: Vec<ReasonBody>,
}

/// One reason why the process is not ready.
#[derive(Serialize, ToSchema)]
pub(super) struct ReasonBody {
    /// Stable.
    #[schema(value_type = String)]
    pub(super) code: Cow<'static, str>,
    /// For an operator.
    pub(super) message: String,
}
