//! A server as it is reached, and the nodes of a cluster that it announces.
//!
//! Invariant: another node is reached as the one that announced it: by the same user, password and certificates, and by
//! TLS where that one has TLS, whatever is announced.

use redis::{Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, TlsCertificates, Value};

use super::config::RedisConfig;
use super::failure::DatabaseError;
use super::server::word;

/// Announced nodes that are remembered: any of them that runs tells who holds the namespace.
const NODES_MAX: usize = 32;

/// What is announced where a host name is wanted and not known.
const UNKNOWN: &str = "?";

/// A server that can be connected to.
#[derive(Clone, Debug)]
pub(super) struct Node {
    /// How it is called in messages.
    pub(super) address: String,
    pub(super) client: Client,
}

impl Node {
    /// A server that the configuration names.
    pub(super) fn configured(config: &RedisConfig, server: &ConnectionInfo) -> Result<Self, DatabaseError> {
        let mut settings = server.redis_settings().clone();
        if let Some(user) = &config.user {
            settings = settings.set_username(user);
        }
        if let Some(password) = &config.password {
            settings = settings.set_password(password.reveal());
        }
        let server = server.clone().set_redis_settings(settings);
        let address = server.addr().to_string();
        let made = if matches!(server.addr(), ConnectionAddr::TcpTls { .. }) {
            // Another part of the process may have chosen its provider already: that one serves as well.
            let _first_choice_holds = tokio_rustls::rustls::crypto::aws_lc_rs::default_provider().install_default();
            let certificates = TlsCertificates { client_tls: None, root_cert: config.ca_pem.clone() };
            Client::build_with_tls(server, certificates)
        } else {
            Client::open(server)
        };
        match made {
            Ok(client) => Ok(Self { address, client }),
            Err(source) => Err(DatabaseError::Settings { address, source }),
        }
    }

    /// The node at a place that this one announced, `HOST:PORT`. Without a host it is on the host of this one.
    pub(super) fn announced(&self, place: &str) -> Result<Self, DatabaseError> {
        let unnamed = || DatabaseError::Unnamed { address: self.address.clone() };
        let (host, port) = place.rsplit_once(':').ok_or_else(unnamed)?;
        if host == UNKNOWN {
            return Err(unnamed());
        }
        self.at(host, port.parse().map_err(|_no_port| unnamed())?)
    }

    /// The nodes in an answer to `CLUSTER SLOTS`, each once, without this one.
    pub(super) fn neighbours(&self, slots: &Value) -> Vec<Self> {
        let mut nodes: Vec<Self> = Vec::new();
        let ranges = list(slots).iter().filter_map(|range| list(range).get(2..));
        for entry in ranges.flatten() {
            let Some(Ok(node)) = place(entry).map(|(host, port)| self.at(&host, port)) else { continue };
            let is_known = node.address == self.address || nodes.iter().any(|other| other.address == node.address);
            if !is_known && nodes.len() < NODES_MAX {
                nodes.push(node);
            }
        }
        nodes
    }

    fn at(&self, host: &str, port: u16) -> Result<Self, DatabaseError> {
        let own = self.client.get_connection_info();
        let host = if host.is_empty() { own_host(own.addr()) } else { host }.to_owned();
        let addr = match own.addr() {
            ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
                ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
            }
            _ => ConnectionAddr::Tcp(host, port),
        };
        let address = addr.to_string();
        match own.clone().set_addr(addr).into_connection_info().and_then(Client::open) {
            Ok(client) => Ok(Self { address, client }),
            Err(source) => Err(DatabaseError::Settings { address, source }),
        }
    }
}

/// Where a node is that says nothing of its host; one behind a socket is on this machine.
fn own_host(addr: &ConnectionAddr) -> &str {
    match addr {
        ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. } => host,
        _ => "127.0.0.1",
    }
}

/// Host and port of a node in an answer to `CLUSTER SLOTS`: preferred endpoint, port, id, other names in pairs.
fn place(node: &Value) -> Option<(String, u16)> {
    let parts = list(node);
    let port = match parts.get(1)? {
        Value::Int(port) => u16::try_from(*port).ok()?,
        _ => return None,
    };
    let host = match parts.first()? {
        // Unknown to the node itself: it is where it was asked.
        Value::Nil => "",
        endpoint => word(endpoint)?,
    };
    if host != UNKNOWN {
        return Some((host.to_owned(), port));
    }
    let names = list(parts.get(3)?).chunks_exact(2).find(|pair| word(&pair[0]) == Some("ip"))?;
    Some((word(&names[1])?.to_owned(), port))
}

fn list(value: &Value) -> &[Value] {
    match value {
        Value::Array(values) => values,
        _ => &[],
    }
}
