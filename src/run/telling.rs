//! Topics that actions tell.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use interdict_ingest::topic::error::TopicError;
use interdict_ingest::topic::sink::{self, ActionTopic, Produced, TopicSink};
use interdict_scorer::action::topic::{ProduceError, Producer, Record};
use interdict_store::error::Class;

use super::sources::environment;

/// A topic; records go out one after the other.
struct Topic {
    name: String,
    sink: Mutex<Box<dyn TopicSink>>,
}

impl std::fmt::Debug for Topic {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Topic").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Producer for Topic {
    fn produce(&self, record: &Record) -> Result<(), ProduceError> {
        let produced = Produced {
            key: record.key.clone(),
            value: record.value.as_bytes(),
            headers: vec![("effect_id", record.effect.clone())],
            partition: None,
        };
        // A call that panicked left nothing half done that the next one relies on.
        let mut sink = self.sink.lock().unwrap_or_else(PoisonError::into_inner);
        sink.produce(&[produced]).map_err(|error| {
            // What a person must mend, a topic or a right, may be there at the next try; a record that is refused stays as it is.
            let class = if let TopicError::Produce { class, .. } = &error { *class } else { Class::Transient };
            tracing::error!(sink = self.name, %error, "a topic is not told of an action");
            ProduceError { class, reason: format!("sink '{}': {error}", self.name) }
        })
    }
}

/// The producers of `topics`, by name; nothing is connected yet.
///
/// # Errors
/// As [`sink::open`].
pub(crate) fn producers(topics: &[ActionTopic]) -> Result<HashMap<String, Arc<dyn Producer>>, TopicError> {
    let open = |topic: &ActionTopic| {
        let sink = Mutex::new(sink::open(&topic.broker, &topic.topic, &environment)?);
        let producer: Arc<dyn Producer> = Arc::new(Topic { name: topic.name.clone(), sink });
        Ok((topic.name.clone(), producer))
    };
    topics.iter().map(open).collect()
}
