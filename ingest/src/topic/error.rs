//! What stops the reading of a topic or a producer, and what to do about it.

use interdict_store::error::Class;

use crate::source::config::password::PasswordError;

/// An error of a topic.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TopicError {
    /// The password cannot be had.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// The client refuses its settings, or cannot start its threads.
    #[error("the client of {address} cannot be made: {why}")]
    Client {
        /// The broker.
        address: String,
        /// What it said.
        why: String,
    },
    /// The program knows nothing of such brokers.
    #[error("this program was built without {feature}; build it with --features {feature}")]
    NotBuilt {
        /// The Cargo feature.
        feature: &'static str,
    },
    /// Nobody answers.
    #[error(
        "no broker at {address} answers: {why}; see that it runs, that the address is right, that the network lets this machine through, and that both sides use TLS or neither"
    )]
    Unreachable {
        /// The broker.
        address: String,
        /// What was found.
        why: String,
    },
    /// The broker does not let us in.
    #[error(
        "the broker at {address} refuses the login: {why}; see user, sasl and the password (password_env, password_file)"
    )]
    Login {
        /// The broker.
        address: String,
        /// What it said.
        why: String,
    },
    /// The broker does not allow something.
    #[error("the broker at {address} forbids it: {why}; allow this user to {right}")]
    Forbidden {
        /// The broker.
        address: String,
        /// What it said.
        why: String,
        /// What is needed.
        right: &'static str,
    },
    /// There is no such topic.
    #[error(
        "there is no topic '{topic}' at {address}; create it (with as many partitions as it is ever to have), or mend its name in the configuration"
    )]
    NoTopic {
        /// The broker.
        address: String,
        /// The topic.
        topic: String,
    },
    /// Several partitions, and nothing says that one entity's events stand in one of them.
    #[error(
        "topic '{topic}' has {partitions} partitions and stream '{stream}' names no partition_by: a burst could be spread over them and no decision would see it; key the topic by an entity and write partition_by = \"COLUMN\" in [stream.{stream}], or accept it with bursts = false in [source]"
    )]
    Bursts {
        /// The topic.
        topic: String,
        /// How many there are.
        partitions: u32,
        /// The judged stream.
        stream: String,
    },
    /// The topic no longer holds what was to be read next.
    #[error(
        "topic '{topic}' no longer holds the records of partition {partition} behind position {position}: it begins at {first}. They were deleted before they were read; fill a new namespace, and let the topic keep records for longer than the longest standstill (retention.ms)"
    )]
    Deleted {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The stored position.
        position: u64,
        /// The first offset that is there.
        first: u64,
    },
    /// The stored position lies beyond the topic's end.
    #[error(
        "partition {partition} of topic '{topic}' ends before {end}, but {position} was already applied: the topic lost records or is another one; fill a new namespace"
    )]
    Beyond {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// The stored position.
        position: u64,
        /// The offset after its last record.
        end: u64,
    },
    /// A call against the port's order, or an offset that no partition can have.
    #[error("partition {partition} of topic '{topic}' cannot be used: {why}")]
    Partition {
        /// The topic.
        topic: String,
        /// The partition.
        partition: u32,
        /// Why.
        why: &'static str,
    },
    /// A record was not taken.
    #[error("the broker at {address} does not take a record for topic '{topic}': {why}")]
    Produce {
        /// The broker.
        address: String,
        /// The topic.
        topic: String,
        /// What it said.
        why: String,
        /// Whether it may take it later.
        class: Class,
    },
    /// Anything else that the broker or the client says.
    #[error("{address}: {why}")]
    Broker {
        /// The broker.
        address: String,
        /// What it said.
        why: String,
        /// How to react.
        class: Class,
    },
}

impl TopicError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Unreachable { .. } => Class::Transient,
            Self::Produce { class, .. } | Self::Broker { class, .. } => *class,
            Self::Login { .. } | Self::Forbidden { .. } | Self::NoTopic { .. } => Class::Rejected,
            _ => Class::Fatal,
        }
    }
}
