//! What is done with scores: thresholds, rules, defaults and actions, as `interdict.toml` declares them.
//!
//! ```toml
//! [scorer]
//! bundle = "bundles/handbook"        # relative to this file
//! stream = "transactions"            # whose events the model judges; needed where several streams are judged
//! thresholds = { review = 0.4 }      # each overrides the bundle's
//! default = "review"                 # outcome of events that cannot be judged
//! degraded = "decide"                # or "review": nothing with missing or stale features is approved
//!
//! [[rule]]
//! id = "card_testing"
//! version = 1
//! when = "customer_spend.tx_count_1h > 10 && amount < 2.0"
//! outcome = "block"
//! reason = "many small payments within an hour"
//! condemns = "customer"
//!
//! [[action]]
//! name = "block_customer"
//! type = "store"                     # an entry on the list of automatic blocks
//! on = "block"                       # or rules = ["card_testing"]
//! entity = "customer"
//! expires = "7d"
//!
//! [[action]]
//! name = "tell_case_desk"
//! type = "webhook"
//! rules = ["card_testing"]           # addresses what these rules condemn
//! url = "https://cases.example.com/hooks/interdict"
//! secret_env = "CASE_DESK_SECRET"    # or secret_file
//! timeout = "5s"
//! columns = ["amount"]               # sent along
//! ```
//! Actions of `type = "postgres"` are described in [`database`].
//!
//! Invariant: a [`Policy`] is consistent: its rules compile to bools over their stream, its actions name rules, entities and
//! columns that exist.

pub mod database;
mod read;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use interdict_features::config::ConfigFile;
use interdict_features::decision::Outcome;
use interdict_features::definition::Definitions;
use interdict_features::expression::Expression;
use interdict_features::time::Span;

use crate::retry::Backoff;
use database::DatabaseConfig;

/// The most rules a policy may have; 20 take some microseconds per decision.
pub const RULES_MAX: usize = 500;
/// The longest reason of a rule: it stands in every record, list entry and webhook that the rule causes.
pub const REASON_BYTES_MAX: usize = 500;
/// The most actions a policy may have.
pub const ACTIONS_MAX: usize = 50;

/// What is done with scores.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The bundle's folder as written, relative to the configuration; `None`: rules alone decide.
    pub bundle: Option<PathBuf>,
    /// Whose events the bundle's model judges: index in `Definitions::streams`. `None` without a bundle.
    pub stream: Option<usize>,
    /// Overrides the bundle's review threshold.
    pub review: Option<f64>,
    /// Overrides the bundle's block threshold.
    pub block: Option<f64>,
    /// The outcome of events that cannot be judged.
    pub default_outcome: Outcome,
    /// What missing or stale features do to an approval.
    pub degraded: OnDegraded,
    /// The most list entries held.
    pub list_entries_max: usize,
    /// In file order.
    pub rules: Vec<Rule>,
    /// In file order.
    pub actions: Vec<Action>,
}

/// What becomes of an approval that rests on missing or stale features.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDegraded {
    /// It stands; the record lists them.
    Decide,
    /// A person looks at it.
    Review,
}

/// A condition that settles an outcome.
#[derive(Clone, Debug)]
pub struct Rule {
    /// Stable id.
    pub id: String,
    /// Version of its text.
    pub version: u32,
    /// Whose events it judges.
    pub stream: usize,
    /// When it is hit. Slots as in [`slots`].
    pub when: Arc<Expression>,
    /// [`Outcome::Block`] or [`Outcome::Review`].
    pub outcome: Outcome,
    /// Text for a person.
    pub reason: String,
    /// The entity it condemns: index in `Definitions::entities`.
    pub condemns: Option<usize>,
}

/// Something done because of a decision.
#[derive(Clone, Debug)]
pub struct Action {
    /// Its name: with the decision's id the identity of its effect.
    pub name: String,
    /// When it is wanted.
    pub trigger: Trigger,
    /// The entity it addresses: index in `Definitions::entities`.
    pub entity: usize,
    /// What is done.
    pub kind: ActionKind,
}

/// When an action is wanted. A decision that a list settled condemns nobody anew and triggers nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Trigger {
    /// When the outcome is block.
    Block,
    /// When one of these rules is hit: indexes in [`Policy::rules`].
    Rules(Vec<usize>),
}

/// The kinds of action.
#[derive(Clone, PartialEq, Debug)]
pub enum ActionKind {
    /// An entry on the list of automatic blocks, made with the decision itself.
    Store {
        /// How long it lasts; `None`: until it is removed.
        expires: Option<Span>,
    },
    /// A signed request, sent from the outbox.
    Webhook(WebhookConfig),
    /// A statement in a PostgreSQL database, run from the outbox.
    Database(Box<DatabaseConfig>),
    /// A record in a topic, produced from the outbox.
    Topic(TopicConfig),
}

impl ActionKind {
    /// Whether it only tells of a decision, and blocks nobody itself.
    #[must_use]
    pub const fn tells(&self) -> bool {
        matches!(self, Self::Webhook(_) | Self::Topic(_))
    }
}

/// Which topic is told, and how.
#[derive(Clone, PartialEq, Debug)]
pub struct TopicConfig {
    /// The `[[sink]]` that says where the topic is.
    pub sink: String,
    /// How it is tried again.
    pub backoff: Backoff,
    /// Columns of the event that are sent along.
    pub columns: Vec<String>,
}

/// Where and how a webhook is sent.
#[derive(Clone, PartialEq, Debug)]
pub struct WebhookConfig {
    /// `https`, or `http` on this machine.
    pub url: String,
    /// Where the signing secret is.
    pub secret: SecretSource,
    /// How long one try may take.
    pub timeout: std::time::Duration,
    /// How it is tried again.
    pub backoff: Backoff,
    /// Columns of the event that are sent along.
    pub columns: Vec<String>,
}

/// Where a secret is read from when the process starts; never from the configuration itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum SecretSource {
    /// An environment variable.
    Environment(String),
    /// A file, relative to the configuration.
    File(PathBuf),
}

impl SecretSource {
    fn locate(&mut self, folder: &Path) {
        if let Self::File(path) = self {
            *path = folder.join(&*path);
        }
    }
}

impl Policy {
    /// Reads `[scorer]`, `[[rule]]` and `[[action]]` of `file`. Every mistake is noted in the file; `None` when there
    /// was one that leaves no usable policy. A file without these sections gives a policy that approves everything.
    #[must_use]
    pub fn read(file: &ConfigFile, definitions: &Definitions) -> Option<Self> {
        read::read(file, definitions)
    }

    /// The policy with its paths taken from `folder`, the one its configuration file stands in.
    #[must_use]
    pub fn located(mut self, folder: &Path) -> Self {
        self.bundle = self.bundle.map(|bundle| folder.join(bundle));
        for action in &mut self.actions {
            match &mut action.kind {
                ActionKind::Store { .. } | ActionKind::Topic(_) => {}
                ActionKind::Webhook(webhook) => webhook.secret.locate(folder),
                ActionKind::Database(database) => {
                    if let Some(password) = &mut database.password {
                        password.locate(folder);
                    }
                    let ca = database.tls.ca.take();
                    database.tls.ca = ca.map(|ca| folder.join(ca));
                }
            }
        }
        self
    }
}

/// Slots of rules over events of one stream: its columns, then all features, then the score.
pub mod slots {
    use interdict_features::definition::{Definitions, Stream};
    use interdict_features::expression::{Scope, Type};
    use interdict_features::value::ColumnType;

    /// The name of the score in rules.
    pub const SCORE: &str = "score";

    /// The names a rule over events of `stream` may use.
    #[must_use]
    pub fn scope(definitions: &Definitions, stream: &Stream) -> Scope {
        let mut scope = Scope::default();
        let columns = stream.columns.iter().map(|column| (column.name.clone(), column_type(column.kind)));
        let features = definitions.features.iter().map(|feature| (feature.name.to_string(), feature.kind));
        let score = std::iter::once((SCORE.to_owned(), Type::Double));
        for (index, (name, kind)) in (0_u32..).zip(columns.chain(features).chain(score)) {
            match definitions.derived.iter().find(|derived| derived.name == name) {
                Some(derived) if derived.stream != stream.index && stream.column(&name).is_none() => {
                    let other = &definitions.streams[derived.stream].name;
                    scope.refuse(name, format!("it is derived from events of '{other}', not of '{}'", stream.name));
                }
                _ => scope.declare(name, index, kind),
            }
        }
        scope
    }

    const fn column_type(kind: ColumnType) -> Type {
        match kind {
            ColumnType::Int => Type::Int,
            ColumnType::Double | ColumnType::Decimal { .. } => Type::Double,
            ColumnType::Bool => Type::Bool,
            ColumnType::Text | ColumnType::Uuid => Type::Text,
            ColumnType::Timestamp => Type::Timestamp,
        }
    }
}
