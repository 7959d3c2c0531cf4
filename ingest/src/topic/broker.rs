//! Which broker, and how to get in: the keys that sources and sinks have in common.

use std::path::{Path, PathBuf};

use interdict_features::config::Section;

use crate::source::config::password::{self, PasswordSource};

/// The kinds of broker, as `type` names them.
pub const TYPES: [&str; 2] = ["kafka", "fluvio"];

/// A broker.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Broker {
    /// Kafka, or what speaks its protocol.
    Kafka(KafkaBroker),
    /// Fluvio.
    Fluvio(FluvioBroker),
}

/// A Kafka cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KafkaBroker {
    /// `host:port`, several by commas.
    pub brokers: String,
    /// How the connection is protected.
    pub tls: Tls,
    /// Who connects; `None`: anybody.
    pub login: Option<Login>,
}

/// A Fluvio cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FluvioBroker {
    /// The public address of the stream controller.
    pub endpoint: String,
    /// How the connection is protected.
    pub tls: Tls,
}

/// How a connection to a broker is protected.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tls {
    /// What is asked of the broker.
    pub mode: TlsMode,
    /// Certificates to trust, in PEM; without it those of the system.
    pub ca: Option<PathBuf>,
    /// Our certificate and its key, in PEM, where the broker asks for one.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The name in the broker's certificate; Fluvio asks for it.
    pub domain: Option<String>,
}

/// What is asked of the broker's certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum TlsMode {
    /// No TLS.
    #[default]
    Disable,
    /// Encrypted, to whoever answers.
    Require,
    /// Encrypted, and the certificate is trusted and names the host.
    VerifyFull,
}

/// A user of Kafka.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Login {
    /// Its name.
    pub user: String,
    /// Where its password is.
    pub password: PasswordSource,
    /// How it is proved.
    pub mechanism: Mechanism,
}

/// How a user proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mechanism {
    /// The password itself is sent.
    Plain,
    /// SCRAM with SHA-256.
    ScramSha256,
    /// SCRAM with SHA-512.
    ScramSha512,
}

impl Mechanism {
    const ALL: [(&'static str, Self); 3] =
        [("plain", Self::Plain), ("scram-sha-256", Self::ScramSha256), ("scram-sha-512", Self::ScramSha512)];

    /// Its name in the protocol.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

const MODES: [(&str, TlsMode); 3] =
    [("disable", TlsMode::Disable), ("require", TlsMode::Require), ("verify-full", TlsMode::VerifyFull)];

impl Broker {
    /// Where it is, for messages.
    #[must_use]
    pub fn address(&self) -> &str {
        match self {
            Self::Kafka(kafka) => &kafka.brokers,
            Self::Fluvio(fluvio) => &fluvio.endpoint,
        }
    }

    /// The same, with paths taken from `folder`, the one its configuration stands in.
    #[must_use]
    pub fn located(mut self, folder: &Path) -> Self {
        let tls = match &mut self {
            Self::Kafka(kafka) => {
                if let Some(login) = &mut kafka.login {
                    login.password.locate(folder);
                }
                &mut kafka.tls
            }
            Self::Fluvio(fluvio) => &mut fluvio.tls,
        };
        tls.ca = tls.ca.take().map(|path| folder.join(path));
        tls.identity = tls.identity.take().map(|(certificate, key)| (folder.join(certificate), folder.join(key)));
        self
    }
}

/// Reads the keys of a broker of the type at `kind` in [`TYPES`]; `None` where a mistake leaves no usable one.
pub fn read(section: &Section<'_>, kind: usize) -> Option<Broker> {
    if kind == 0 {
        section.require("brokers", "\"localhost:9092\"");
        let brokers = read_addresses(section, "brokers", "localhost:9092");
        let tls = read_tls(section, brokers.as_deref());
        let login = read_login(section, &tls);
        return Some(Broker::Kafka(KafkaBroker { brokers: brokers?, tls, login }));
    }
    section.require("endpoint", "\"localhost:9003\"");
    let endpoint = read_addresses(section, "endpoint", "localhost:9003");
    let tls = read_tls(section, endpoint.as_deref());
    if tls.mode == TlsMode::VerifyFull && tls.domain.is_none() {
        section.report("tls", "nothing says which name the certificate bears", "write tls_domain = \"fluvio.example\"");
    }
    if tls.mode == TlsMode::VerifyFull && (tls.ca.is_none() || tls.identity.is_none()) {
        section.report(
            "tls",
            "Fluvio verifies both sides",
            "write tls_ca, tls_certificate and tls_key, or tls = \"require\" to encrypt without verifying",
        );
    }
    Some(Broker::Fluvio(FluvioBroker { endpoint: endpoint?, tls }))
}

fn read_addresses(section: &Section<'_>, key: &str, example: &str) -> Option<String> {
    let text = section.text(key)?;
    let is_address = |address: &str| {
        let port = address.trim().rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains('/'));
        port.is_some_and(|(_, port)| port.parse::<u16>().is_ok_and(|port| port > 0))
    };
    if !text.split(',').all(is_address) {
        section.report(key, format!("'{text}' is no address"), format!("write {key} = \"{example}\""));
        return None;
    }
    Some(text)
}

/// Whether every address is on this machine.
fn is_here(addresses: &str) -> bool {
    addresses.split(',').all(|address| {
        let host = address.trim().rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
    })
}

fn read_tls(section: &Section<'_>, addresses: Option<&str>) -> Tls {
    let chosen = section.choice("tls", &MODES.map(|(name, _)| name)).map(|index| MODES[index].1);
    let path = |key: &str| section.text(key).map(PathBuf::from);
    let (ca, certificate, key) = (path("tls_ca"), path("tls_certificate"), path("tls_key"));
    let domain = section.text("tls_domain");
    // What leaves the machine is protected unless it is said otherwise.
    let is_bare = ca.is_none() && certificate.is_none() && addresses.is_none_or(is_here);
    let mode = chosen.unwrap_or(if is_bare { TlsMode::Disable } else { TlsMode::VerifyFull });
    let identity = match (certificate, key) {
        (Some(certificate), Some(key)) => Some((certificate, key)),
        (None, None) => None,
        (Some(_), None) => {
            section.report(
                "tls_certificate",
                "a certificate without its key",
                "write tls_key = \"client.key\" as well",
            );
            None
        }
        (None, Some(_)) => {
            section.report(
                "tls_key",
                "a key without its certificate",
                "write tls_certificate = \"client.pem\" as well",
            );
            None
        }
    };
    if mode == TlsMode::Disable && (ca.is_some() || identity.is_some()) {
        section.report("tls", "certificates that nothing uses", "write tls = \"verify-full\", or remove them");
    }
    if mode == TlsMode::Require && ca.is_some() {
        section.report("tls_ca", "certificates that are not verified against", "write tls = \"verify-full\"");
    }
    Tls { mode, ca, identity, domain }
}

fn read_login(section: &Section<'_>, tls: &Tls) -> Option<Login> {
    let password = password::read(section);
    let mechanism = section.choice("sasl", &Mechanism::ALL.map(|(name, _)| name)).map(|at| Mechanism::ALL[at].1);
    let Some(user) = section.text("user") else {
        if password != PasswordSource::None || mechanism.is_some() {
            section.require("user", "\"interdict\"");
        }
        return None;
    };
    if password == PasswordSource::None {
        section.require("password_env", "\"KAFKA_PASSWORD\"");
    }
    if mechanism == Some(Mechanism::Plain) && tls.mode == TlsMode::Disable {
        section.report(
            "sasl",
            "a password would be sent as it is, over a connection that anybody can read",
            "write tls = \"verify-full\", or sasl = \"scram-sha-256\"",
        );
    }
    Some(Login { user, password, mechanism: mechanism.unwrap_or(Mechanism::ScramSha256) })
}
