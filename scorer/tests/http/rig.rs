//! An edge on a free port, a client, and the definitions both tests and edge know.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::definition::{Column, Definitions, Entity, Judge, Stream};
use interdict_features::time::Span;
use interdict_features::value::ColumnType;
use interdict_scorer::http::config::HttpSettings;
use interdict_scorer::http::edge::EdgeParts;
use interdict_scorer::http::keys::Keyring;
use interdict_scorer::http::metrics::HttpMetrics;
use interdict_scorer::http::server::{Drained, Server, StartError};
use prometheus_client::registry::Registry;
use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::memory::{Handle, Memory};

/// Fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) struct Rig {
    pub(crate) address: SocketAddr,
    pub(crate) memory: Arc<Memory>,
    pub(crate) client: reqwest::Client,
    pub(crate) shutdown: CancellationToken,
    pub(crate) serving: JoinHandle<Drained>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) headers: reqwest::header::HeaderMap,
    pub(crate) text: String,
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts the shape every error has; returns its details as `field: problem`.
    #[track_caller]
    pub(crate) fn error(&self, status: u16, code: &str) -> Vec<String> {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers["content-type"], "application/json");
        let json = self.json();
        assert_eq!(json["error"]["code"], code, "{self:?}");
        assert!(!json["error"]["message"].as_str().unwrap().is_empty());
        assert_eq!(json["error"]["request_id"], self.headers["x-request-id"].to_str().unwrap());
        let details = json["error"]["details"].as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        details.iter().map(|detail| format!("{}: {}", text(&detail["field"]), text(&detail["problem"]))).collect()
    }

    #[track_caller]
    pub(crate) fn ok(&self) -> Value {
        assert!(self.status.is_success(), "{self:?}");
        self.json()
    }
}

pub(crate) async fn send(request: RequestBuilder) -> Reply {
    let response = request.timeout(PATIENCE).send().await.unwrap();
    let (status, headers) = (response.status(), response.headers().clone());
    Reply { status, headers, text: response.text().await.unwrap() }
}

pub(crate) fn loopback() -> HttpSettings {
    HttpSettings { bind: SocketAddr::from(([127, 0, 0, 1], 0)), deadline: PATIENCE, ..HttpSettings::default() }
}

pub(crate) async fn bind(settings: HttpSettings, keys: Keyring, memory: Arc<Memory>) -> Result<Server, StartError> {
    let mut registry = Registry::default();
    let metrics = HttpMetrics::register(&mut registry);
    let parts = EdgeParts {
        settings,
        keys,
        backend: Handle(memory),
        definitions: Arc::new(definitions()),
        metrics,
        registry: Arc::new(registry),
    };
    Server::bind(parts).await
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::with(loopback(), Keyring::default()).await
    }

    pub(crate) async fn with(settings: HttpSettings, keys: Keyring) -> Self {
        let memory = Arc::new(Memory::default());
        let server = bind(settings, keys, Arc::clone(&memory)).await.unwrap();
        let address = server.local_addr();
        let shutdown = CancellationToken::new();
        let serving = tokio::spawn(server.serve(shutdown.clone()));
        Self { address, memory, client: reqwest::Client::new(), shutdown, serving }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub(crate) async fn get(&self, path: &str) -> Reply {
        send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> Reply {
        send(self.request(Method::POST, path).json(body)).await
    }

    /// Posts a body as it stands.
    pub(crate) async fn post_raw(&self, path: &str, body: impl Into<reqwest::Body>) -> Reply {
        send(self.request(Method::POST, path).header("content-type", "application/json").body(body)).await
    }

    pub(crate) async fn delete(&self, path: &str, body: &Value) -> Reply {
        send(self.request(Method::DELETE, path).json(body)).await
    }
}

/// An event that fits.
pub(crate) fn event(id: i64) -> Value {
    json!({"event": {
        "transaction_id": id, "tx_datetime": "2026-11-20T10:00:00Z", "customer_id": 7, "terminal_id": "t1",
        "amount": 12.5, "card": "4111111111111111",
    }})
}

fn column(name: &str, kind: ColumnType) -> Column {
    Column { name: name.to_owned(), kind, sensitive: name == "card" }
}

/// One judged stream with a label, and its label stream; four entities: one composite, one sensitive, one of events that nobody judges.
pub(crate) fn definitions() -> Definitions {
    let columns = vec![
        column("transaction_id", ColumnType::Int),
        column("tx_datetime", ColumnType::Timestamp),
        column("customer_id", ColumnType::Int),
        column("terminal_id", ColumnType::Text),
        column("amount", ColumnType::Decimal { scale: 2 }),
        column("card", ColumnType::Text),
        column("is_fraud", ColumnType::Bool),
    ];
    let mut transactions = Stream::of_columns("transactions", columns, 0, Some(1));
    transactions.judge = Some(Judge::Insert);
    transactions.label = Some(6);
    let logins = vec![column("login_id", ColumnType::Uuid), column("at", ColumnType::Timestamp)];
    let mut logins = Stream::of_columns("logins", logins, 0, Some(1));
    logins.index = 1;
    let entity = |name: &str, key: &[&str]| Entity {
        name: name.to_owned(),
        key: key.iter().map(|&column| column.to_owned()).collect(),
    };
    Definitions {
        streams: vec![Arc::new(transactions), Arc::new(logins)],
        entities: vec![
            entity("customer", &["customer_id"]),
            entity("pair", &["customer_id", "terminal_id"]),
            entity("card", &["card"]),
            entity("login", &["login_id"]),
        ],
        groups: Vec::new(),
        derived: Vec::new(),
        features: Vec::new(),
        disorder: Span::SECOND,
        slack: Span::HOUR,
        future_max: Span::HOUR,
    }
}
