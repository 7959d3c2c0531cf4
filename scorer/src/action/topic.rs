//! Records in topics: what a decision asks for, told to whoever reads there.
//!
//! Record: its key is the target's key, its value the body of a webhook (`payload`), its header `effect_id` the id of the effect where the
//! broker has headers. At least once: a reader knows an effect by `decision_id` and `action` in the value.
//!
//! Invariant: records of one account follow one another in the order of the outbox, whichever brokers fail meanwhile. Where another process
//! takes the outbox over, a record may come again behind newer ones.

use std::fmt;
use std::sync::Arc;

use interdict_store::error::Class;

use super::payload;
use super::receiver::{Ended, Failure};

/// A record that goes out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The id of the effect.
    pub effect: String,
    /// The key of whom it is about.
    pub key: String,
    /// JSON.
    pub value: String,
}

/// Why a record was not produced.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct ProduceError {
    /// Whether another try may help.
    pub class: Class,
    /// What is wrong, and what to do.
    pub reason: String,
}

/// Produces to a topic.
pub trait Producer: Send + Sync + fmt::Debug {
    /// Produces a record and waits on this thread until the broker has it. It may be there after an error as well.
    ///
    /// # Errors
    /// As [`ProduceError`] says.
    fn produce(&self, record: &Record) -> Result<(), ProduceError>;
}

/// Tries once.
pub(super) async fn send(producer: &Arc<dyn Producer>, effect: String, body: &str) -> Result<Ended, Failure> {
    let key = payload::target_key(body).ok_or_else(|| failure(Class::Rejected, "the body names nobody".to_owned()))?;
    let (producer, record) = (Arc::clone(producer), Record { effect, key, value: body.to_owned() });
    match tokio::task::spawn_blocking(move || producer.produce(&record)).await {
        Ok(Ok(())) => Ok(Ended::Done("the broker has it".to_owned())),
        Ok(Err(ProduceError { class, reason })) => Err(failure(class, reason)),
        Err(error) => Err(failure(Class::Transient, error.to_string())),
    }
}

fn failure(class: Class, reason: String) -> Failure {
    Failure { class, wish: None, reason }
}
