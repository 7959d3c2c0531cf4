//! Settings of clients, and what their errors mean.
//!
//! Invariant: a password stands in no error and no log.

use std::time::Duration;

use interdict_store::error::Class;
use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use crate::topic::broker::{KafkaBroker, Tls, TlsMode};
use crate::topic::error::TopicError;

/// How long one question to the broker may take.
pub(super) const ANSWER: Duration = Duration::from_secs(5);

/// The settings that every client of `broker` has.
pub(super) fn settings(
    broker: &KafkaBroker,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<ClientConfig, TopicError> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", &broker.brokers);
    config.set("client.id", "interdict");
    config.set("socket.keepalive.enable", "true");
    // What the broker says goes through the callbacks; librdkafka's own log says it again.
    config.set_log_level(RDKafkaLogLevel::Critical);
    let protocol = match (broker.tls.mode, &broker.login) {
        (TlsMode::Disable, None) => "plaintext",
        (TlsMode::Disable, Some(_)) => "sasl_plaintext",
        (_, None) => "ssl",
        (_, Some(_)) => "sasl_ssl",
    };
    config.set("security.protocol", protocol);
    set_tls(&mut config, &broker.tls);
    if let Some(login) = &broker.login {
        config.set("sasl.mechanisms", login.mechanism.name());
        config.set("sasl.username", &login.user);
        config.set("sasl.password", login.password.load(environment)?.unwrap_or_default());
    }
    Ok(config)
}

fn set_tls(config: &mut ClientConfig, tls: &Tls) {
    if tls.mode == TlsMode::Disable {
        return;
    }
    if tls.mode == TlsMode::Require {
        config.set("enable.ssl.certificate.verification", "false");
    }
    if let Some(ca) = &tls.ca {
        config.set("ssl.ca.location", ca.to_string_lossy());
    }
    if let Some((certificate, key)) = &tls.identity {
        config.set("ssl.certificate.location", certificate.to_string_lossy());
        config.set("ssl.key.location", key.to_string_lossy());
    }
}

/// What an error of the client means for topic `topic` at `address`.
pub(super) fn meaning(address: &str, topic: &str, error: &KafkaError) -> TopicError {
    let (address, topic) = (address.to_owned(), topic.to_owned());
    let why = error.to_string();
    match error.rdkafka_error_code() {
        Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism) => {
            TopicError::Login { address, why }
        }
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            TopicError::NoTopic { address, topic }
        }
        Some(Code::TopicAuthorizationFailed) => {
            TopicError::Forbidden { address, why, right: "describe and read or write the topic" }
        }
        Some(Code::GroupAuthorizationFailed) => TopicError::Forbidden {
            address,
            why,
            right: "read the consumer group and the one of the same name with .identity behind it",
        },
        Some(Code::ClusterAuthorizationFailed) => {
            TopicError::Forbidden { address, why, right: "write idempotently (IdempotentWrite on the cluster)" }
        }
        Some(
            Code::BrokerTransportFailure
            | Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::Resolve
            | Code::BrokerNotAvailable
            | Code::SSL,
        ) => TopicError::Unreachable { address, why },
        _ if matches!(error, KafkaError::ClientConfig(..) | KafkaError::ClientCreation(_)) => {
            TopicError::Client { address, why: without_value(error) }
        }
        _ => TopicError::Broker { address, why, class: Class::Transient },
    }
}

/// An error of a setting, without the value, which may be a password.
fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(_, why, key, _value) => format!("{why} ({key})"),
        other => other.to_string(),
    }
}
