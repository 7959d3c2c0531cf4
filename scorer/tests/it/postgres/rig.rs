//! A database, an outbox and the delivery between them.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use interdict_features::decision::{EntityRef, Outcome};
use interdict_features::time::Timestamp;
use interdict_scorer::action::act::{Act, ActKind, Judged, by_hand};
use interdict_scorer::action::delivery::{ActionResult, ActionStatus, Delivery, DeliveryError, Limits, Surroundings};
use interdict_scorer::action::metrics::Metrics;
use interdict_scorer::action::receiver::Receivers;
use interdict_scorer::policy::Policy;
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::{Claim, Commit, Intent, LogName};
use prometheus_client::registry::Registry;
use serde_json::Value;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::server::{PASSWORD, Server};
use crate::support::{at, definitions, read_policy};

/// Nothing here takes longer, unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

pub(super) const BLOCK: &str = "UPDATE accounts SET status = 'blocked', told = $2, blocks = blocks + 1 WHERE id = $1";
pub(super) const UNBLOCK: &str = "UPDATE accounts SET status = 'active', unblocks = unblocks + 1 WHERE id = $1";

/// The wall clock of tests stands still; chance does not matter.
pub(super) struct Fixed;

impl Surroundings for Fixed {
    fn now(&self) -> Timestamp {
        at(100)
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

/// The action that blocks, with `lines` in place of those here or beside them.
pub(super) fn action(url: &str, lines: &[(&str, &str)]) -> String {
    let url = format!("{url:?}");
    let (block, unblock) = (format!("{BLOCK:?}"), format!("{UNBLOCK:?}"));
    let mut all = vec![
        ("name", "\"block\""),
        ("type", "\"postgres\""),
        ("on", "\"block\""),
        ("entity", "\"customer\""),
        ("url", &url),
        ("block", &block),
        ("unblock", &unblock),
        ("block_parameters", "[\"customer_id\", \"reason\"]"),
        ("retry_first", "\"2ms\""),
        ("retry_max", "\"20ms\""),
        ("timeout", "\"2s\""),
    ];
    for line in lines {
        all.retain(|(key, _)| *key != line.0);
        if !line.1.is_empty() {
            all.push(*line);
        }
    }
    all.iter().fold("[[action]]\n".to_owned(), |text, (key, value)| text + key + " = " + value + "\n")
}

pub(super) fn environment(name: &str) -> Option<String> {
    (name == "BANK").then(|| PASSWORD.to_owned())
}

pub(super) struct Rig {
    pub(super) server: Arc<Server>,
    pub(super) name: String,
    pub(super) bank: Client,
    pub(super) outbox: Outbox,
}

/// What a process keeps on disk, and the deliveries that work on it.
pub(super) struct Outbox {
    pub(super) store: Arc<EmbeddedStore>,
    pub(super) policy: Policy,
    _folder: tempfile::TempDir,
}

pub(super) struct Running {
    wake: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), DeliveryError>>,
    pub(super) registry: Registry,
}

impl Rig {
    pub(super) async fn new(lines: &[(&str, &str)]) -> Self {
        Self::on(Server::shared(), lines).await
    }

    pub(super) async fn on(server: Arc<Server>, lines: &[(&str, &str)]) -> Self {
        let (name, bank) = server.database().await;
        let url = format!("postgres://interdict@127.0.0.1:{}/{name}", server.port);
        let outbox = Outbox::new(&action(&url, lines));
        Self { server, name, bank, outbox }
    }

    pub(super) fn url(&self) -> String {
        format!("postgres://interdict@127.0.0.1:{}/{}", self.server.port, self.name)
    }

    /// Status of an account, and how often it was blocked and unblocked.
    pub(super) async fn account(&self, id: i64) -> (String, i32, i32) {
        let row = self.bank.query_one("SELECT status, blocks, unblocks FROM accounts WHERE id = $1", &[&id]).await;
        let row = row.unwrap();
        (row.get(0), row.get(1), row.get(2))
    }

    /// Kind and outcome of the ledger's lines on an account, in order of decision.
    pub(super) async fn ledger(&self, id: i64) -> Vec<(String, String)> {
        let lines = "SELECT kind, outcome FROM interdict_ledger WHERE entity_key = $1 ORDER BY decided_at, kind";
        let rows = self.bank.query(lines, &[&id.to_string()]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }
}

impl Outbox {
    pub(super) fn new(policy: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        let policy = read_policy(policy).unwrap_or_else(|problems| panic!("{problems}"));
        Self { store: Arc::new(store), policy, _folder: folder }
    }

    pub(super) fn receivers(&self) -> Receivers {
        Receivers::open(&self.policy, &environment, &HashMap::new()).unwrap()
    }

    pub(super) fn start(&self) -> Running {
        let mut registry = Registry::default();
        let metrics = Metrics::register(&mut registry);
        let delivery = Delivery::new(Arc::clone(&self.store), self.receivers(), Limits::default(), Fixed, metrics);
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let task = tokio::spawn(delivery.run(Arc::clone(&wake), stop.clone()));
        Running { wake, stop, task, registry }
    }

    /// Runs until the outbox is empty.
    pub(super) async fn drain(&self) {
        let running = self.start();
        self.wait_empty().await;
        running.end().await;
    }

    pub(super) async fn wait_empty(&self) {
        self.wait_left(0).await;
    }

    pub(super) async fn wait_left(&self, count: usize) {
        until("the outbox is worked off", async || self.store.outbox_now(None, count + 1).unwrap().len() <= count)
            .await;
    }

    /// A decision that blocks `account`, made at `second`.
    pub(super) fn decide(&self, number: u64, account: i64, second: i64) -> Uuid {
        let act = block(number, account, second);
        let payload = serde_json::to_string(&act).unwrap();
        let intent = Intent { decision: act.id, action: "block".to_owned(), payload, created: act.decided_at };
        let claim =
            Claim { id: act.id, record: "{}".into(), entities: Vec::new(), intents: vec![intent], lists: Vec::new() };
        self.store.commit_now(&Commit { claims: vec![claim], ..Commit::default() }).unwrap();
        act.id
    }

    /// An act by hand, as the list's change brings it.
    pub(super) fn act(&self, kind: ActKind, number: u64, account: i64, second: i64) -> Act {
        let act = Act {
            kind,
            author: Some("ana".to_owned()),
            decision: None,
            reason: "by hand".to_owned(),
            ..block(number, account, second)
        };
        self.put(&act);
        act
    }

    /// Puts an act into the outbox (again), as it stands there after a crash before its result was written.
    pub(super) fn put(&self, act: &Act) {
        let intents = by_hand(&self.policy, &definitions(), act).unwrap();
        assert_eq!(intents.len(), 1);
        self.store.commit_now(&Commit { intents, ..Commit::default() }).unwrap();
    }

    /// What stands under a decision.
    pub(super) fn result(&self, decision: Uuid) -> ActionResult {
        let stored = self.store.decision_now(decision).unwrap().unwrap();
        assert_eq!(stored.appended.len(), 1, "one result: {:?}", stored.appended);
        serde_json::from_str(&stored.appended[0]).unwrap()
    }

    /// What the audit log tells of an act by hand, each time.
    pub(super) fn told(&self, act: &Act) -> Vec<ActionResult> {
        let entries = self.store.read_log_now(LogName::AUDIT, 0, 10_000).unwrap();
        let entries = entries.iter().map(|(_, bytes)| serde_json::from_slice::<Value>(bytes).unwrap());
        let own = entries.filter(|entry| entry["id"] == act.id.to_string());
        own.map(|entry| serde_json::from_value(entry["result"].clone()).unwrap()).collect()
    }

    pub(super) fn check_result(&self, decision: Uuid, status: ActionStatus, reason: &str) {
        let result = self.result(decision);
        assert_eq!(result.status, status, "{result:?}");
        assert!(result.reason.contains(reason), "{result:?}");
    }
}

/// A decision's block.
pub(super) fn block(number: u64, account: i64, second: i64) -> Act {
    Act {
        kind: ActKind::Block,
        id: Uuid::from_u64_pair(7, number),
        target: EntityRef { entity: "customer".to_owned(), key: account.to_string() },
        decided_at: at(second),
        reason: "many small payments".to_owned(),
        author: None,
        decision: Some(Judged {
            outcome: Outcome::Block,
            score: Some(0.97),
            stream: "transactions".to_owned(),
            event_id: number.to_string(),
            committed_at: Some(at(second - 1)),
            columns: [].into(),
        }),
    }
}

impl Running {
    pub(super) fn wake(&self) {
        self.wake.notify_one();
    }

    /// Stops as a process does that is told to.
    pub(super) async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Stops as a process does that dies.
    pub(super) async fn die(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Whether an action was tried again: the counter itself is there from the beginning.
    pub(super) fn has_retried(&self) -> bool {
        let is_retried =
            |line: &str| line.starts_with("interdict_scorer_action_retries_total") && !line.ends_with(" 0");
        self.scrape().lines().any(is_retried)
    }

    pub(super) fn scrape(&self) -> String {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        text
    }
}

/// Waits for a condition, not for ever.
pub(super) async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let look = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(2));
        while !holds().await {
            ticks.tick().await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, look).await.is_ok(), "in vain: {what}");
}
