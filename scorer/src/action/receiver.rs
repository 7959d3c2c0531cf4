//! Who carries out the outgoing actions of a policy: one receiver per action, whatever its kind.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_store::error::Class;
use interdict_store::port::Intent;
use tokio_util::sync::CancellationToken;

#[cfg(feature = "postgres")]
use super::database::{Checked, Database, OpenError};
use super::delivery::effect_id;
use super::metrics::Metrics;
use super::payload;
use super::topic::{self, Producer};
use super::webhook::{SendError, Webhook, WebhookError, client};
use crate::policy::{ActionKind, Policy};
use crate::retry::Backoff;

/// The receivers of a policy's outgoing actions, ready to be sent to.
#[derive(Clone, Debug, Default)]
pub struct Receivers(HashMap<String, Receiver>);

/// Why a receiver cannot be set up; the process should not start then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReceiverError {
    /// A webhook's.
    #[error(transparent)]
    Webhook(#[from] WebhookError),
    /// A database's.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Database(#[from] OpenError),
    /// A topic's: the sink that the policy names was not among those given. The program's configuration is refused before.
    #[error("action '{action}': no sink of actions is called '{sink}'")]
    NoTopic {
        /// The action.
        action: String,
        /// The sink it names.
        sink: String,
    },
    /// Databases that do not take what the configuration asks of them.
    #[error("{}", .0.join("\n"))]
    Mistakes(Vec<String>),
}

#[derive(Clone, Debug)]
enum Receiver {
    Webhook {
        webhook: Webhook,
        backoff: Backoff,
    },
    Topic {
        producer: Arc<dyn Producer>,
        backoff: Backoff,
    },
    #[cfg(feature = "postgres")]
    Database(Arc<Database>),
}

/// What came of an action that needs no other try.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Done(String),
    #[cfg_attr(not(feature = "postgres"), expect(dead_code, reason = "only acts in a database are"))]
    Superseded(String),
}

/// Why a try did not succeed.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) class: Class,
    pub(super) wish: Option<Duration>,
    pub(super) reason: String,
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        Self { class: error.class(), wish: error.retry_after(), reason: error.to_string() }
    }
}

impl Failure {
    fn unknown_action() -> Self {
        let reason = "the configuration has no such action any more".to_owned();
        Self { class: Class::Rejected, wish: None, reason }
    }
}

impl Receivers {
    /// Reads the secrets of the outgoing actions of `policy`. `environment` gives the values of variables, `topics` the producers of sinks,
    /// by their names. Connects to nothing.
    ///
    /// # Errors
    /// As [`ReceiverError`] says; the process should not start then.
    pub fn open(
        policy: &Policy,
        environment: &dyn Fn(&str) -> Option<String>,
        topics: &HashMap<String, Arc<dyn Producer>>,
    ) -> Result<Self, ReceiverError> {
        let client = client()?;
        let mut receivers = HashMap::new();
        for action in &policy.actions {
            let receiver = match &action.kind {
                ActionKind::Store { .. } => continue,
                ActionKind::Webhook(config) => {
                    let webhook = Webhook::open(&action.name, config, &client, environment)?;
                    Receiver::Webhook { webhook, backoff: config.backoff }
                }
                #[cfg(feature = "postgres")]
                ActionKind::Database(config) => {
                    Receiver::Database(Database::open(&action.name, config, environment)?.into())
                }
                #[cfg(not(feature = "postgres"))]
                ActionKind::Database(_) => continue,
                ActionKind::Topic(config) => {
                    let missing = || ReceiverError::NoTopic { action: action.name.clone(), sink: config.sink.clone() };
                    let producer = topics.get(&config.sink).ok_or_else(missing)?;
                    Receiver::Topic { producer: Arc::clone(producer), backoff: config.backoff }
                }
            };
            receivers.insert(action.name.clone(), receiver);
        }
        Ok(Self(receivers))
    }

    /// Asks every database whether it takes the action's statements and has its ledger, which is made where there is
    /// none. A database that does not answer is told to the log: its acts wait in the outbox.
    ///
    /// # Errors
    /// [`ReceiverError::Mistakes`], all of them; every act would be rejected, so the process should not start.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "webhooks are not asked"))]
    pub async fn check(&self) -> Result<(), ReceiverError> {
        let mut mistakes: Vec<String> = Vec::new();
        for receiver in self.0.values() {
            match receiver {
                Receiver::Webhook { .. } | Receiver::Topic { .. } => {}
                #[cfg(feature = "postgres")]
                Receiver::Database(database) => match database.check().await {
                    Checked::Refuses(mistake) => mistakes.push(mistake),
                    Checked::Takes | Checked::Unknown => {}
                },
            }
        }
        mistakes.sort();
        if mistakes.is_empty() { Ok(()) } else { Err(ReceiverError::Mistakes(mistakes)) }
    }

    /// Asks every database at once and again each `every`, until `stop`, and tells log and metrics what is refused: acts that need it become
    /// dead letters by themselves and all others go on, while a process that refused to carry them out would leave them to another one that
    /// refuses as well. What a database that does not answer refused before it still counts. Once `stop` is cancelled nothing is told.
    pub async fn watch(&self, metrics: &Metrics, every: Duration, stop: &CancellationToken) {
        let mut refused = BTreeMap::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                () = self.inspect(&mut refused) => {}
            }
            metrics.receiver_mistakes.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(every) => {}
            }
        }
    }

    /// Brings what is refused, by action, up to date.
    #[cfg_attr(not(feature = "postgres"), expect(clippy::unused_async, reason = "webhooks are not asked"))]
    async fn inspect(&self, refused: &mut BTreeMap<String, String>) {
        #[cfg(feature = "postgres")]
        for (action, receiver) in &self.0 {
            let Receiver::Database(database) = receiver else { continue };
            match database.check().await {
                Checked::Takes => drop(refused.remove(action)),
                Checked::Refuses(mistake) => drop(refused.insert(action.clone(), mistake)),
                Checked::Unknown => {}
            }
        }
        for mistake in refused.values() {
            tracing::error!(mistake, "acts that need this become dead letters until it is mended");
        }
    }

    /// The actions that are carried out.
    pub(super) fn actions(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// How many tries may be under way at once, for actions that have a bound of their own.
    pub(super) fn concurrency(&self) -> HashMap<String, usize> {
        let bound = |receiver: &Receiver| match receiver {
            Receiver::Webhook { .. } => None,
            Receiver::Topic { .. } => Some(1),
            #[cfg(feature = "postgres")]
            Receiver::Database(database) => Some(database.connections()),
        };
        self.0.iter().filter_map(|(name, receiver)| Some((name.clone(), bound(receiver)?))).collect()
    }

    /// The account whose acts keep their order, for actions that keep one.
    pub(super) fn account(&self, intent: &Intent) -> Option<String> {
        match self.0.get(&intent.action)? {
            Receiver::Webhook { .. } => None,
            Receiver::Topic { .. } => payload::target_key(&intent.payload),
            #[cfg(feature = "postgres")]
            Receiver::Database(_) => super::act::Act::read(&intent.payload).ok().map(|act| act.target.key),
        }
    }

    /// When the source committed the event that a database's block answers, where it told.
    pub(super) fn committed_at(&self, intent: &Intent) -> Option<Timestamp> {
        match self.0.get(&intent.action)? {
            Receiver::Webhook { .. } | Receiver::Topic { .. } => None,
            #[cfg(feature = "postgres")]
            Receiver::Database(_) => super::act::Act::read(&intent.payload).ok()?.decision?.committed_at,
        }
    }

    /// How tries of an action follow each other.
    pub(super) fn backoff(&self, action: &str) -> Backoff {
        match self.0.get(action) {
            Some(Receiver::Webhook { backoff, .. } | Receiver::Topic { backoff, .. }) => *backoff,
            #[cfg(feature = "postgres")]
            Some(Receiver::Database(database)) => database.backoff(),
            None => Backoff::default(),
        }
    }

    /// Tries an intent once.
    pub(super) async fn run(&self, intent: &Intent, now: Timestamp) -> Result<Ended, Failure> {
        match self.0.get(&intent.action) {
            Some(Receiver::Webhook { webhook, .. }) => {
                let id = effect_id(intent.decision, &intent.action);
                let status = webhook.send(&id, &intent.payload, now).await?;
                Ok(Ended::Done(format!("answered {status}")))
            }
            Some(Receiver::Topic { producer, .. }) => {
                topic::send(producer, effect_id(intent.decision, &intent.action), &intent.payload).await
            }
            #[cfg(feature = "postgres")]
            Some(Receiver::Database(database)) => database.run(&intent.payload).await,
            None => Err(Failure::unknown_action()),
        }
    }
}
