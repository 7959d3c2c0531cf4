use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use interdict_features::time::Timestamp;
use interdict_scorer::action::delivery::{ActionResult, ActionStatus, Delivery, Limits, Surroundings, effect_id};
use interdict_scorer::action::metrics::Metrics;
use interdict_scorer::action::receiver::Receivers;
use interdict_scorer::action::signature::Secret;
use interdict_scorer::action::webhook::{SendError, Webhook, client};
use interdict_scorer::policy::{ActionKind, Policy};
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::error::Class;
use interdict_store::port::{Claim, Commit, Intent};
use prometheus_client::registry::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{at, read_policy};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// How a receiver answers one request.
#[derive(Clone, Copy)]
enum Answer {
    Status(u16),
    RetryAfter(u16, &'static str),
    Hang,
}

#[derive(Debug)]
struct Request {
    path: String,
    id: String,
    timestamp: String,
    signature: String,
    body: String,
}

/// A receiver that answers by a script (its last line again and again) and tells of every request.
struct Desk {
    script: Vec<Answer>,
    count: AtomicUsize,
    arrived: mpsc::Sender<Request>,
    gate: Semaphore,
    under_way: AtomicUsize,
    under_way_max: AtomicUsize,
}

async fn answer(State(desk): State<Arc<Desk>>, uri: Uri, headers: HeaderMap, body: String) -> Response {
    let index = desk.count.fetch_add(1, Ordering::SeqCst);
    let now = desk.under_way.fetch_add(1, Ordering::SeqCst) + 1;
    desk.under_way_max.fetch_max(now, Ordering::SeqCst);
    let header = |name: &str| headers.get(name).map(|it| it.to_str().unwrap().to_owned()).unwrap_or_default();
    let request = Request {
        path: uri.path().to_owned(),
        id: header("webhook-id"),
        timestamp: header("webhook-timestamp"),
        signature: header("webhook-signature"),
        body,
    };
    desk.arrived.send(request).await.unwrap();
    let _turn = desk.gate.acquire().await.unwrap();
    desk.under_way.fetch_sub(1, Ordering::SeqCst);
    let answer = desk.script.get(index).or(desk.script.last()).copied();
    let location = [("location", "/elsewhere")];
    match answer.unwrap() {
        Answer::Status(status) => (StatusCode::from_u16(status).unwrap(), location).into_response(),
        Answer::RetryAfter(status, wish) => {
            (StatusCode::from_u16(status).unwrap(), [("retry-after", wish)]).into_response()
        }
        Answer::Hang => std::future::pending().await,
    }
}

async fn open_desk(script: &[Answer], turns: usize) -> (SocketAddr, Arc<Desk>, mpsc::Receiver<Request>) {
    let (arrived, requests) = mpsc::channel(100);
    let desk = Arc::new(Desk {
        script: script.to_vec(),
        count: AtomicUsize::new(0),
        arrived,
        gate: Semaphore::new(turns),
        under_way: AtomicUsize::new(0),
        under_way_max: AtomicUsize::new(0),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().fallback(answer).with_state(Arc::clone(&desk));
    tokio::spawn(async move { axum::serve(listener, router).await });
    (address, desk, requests)
}

fn policy(desks: &[(&str, SocketAddr)]) -> Policy {
    let action = |(name, address): &(&str, SocketAddr)| {
        format!(
            "[[action]]\nname = \"{name}\"\ntype = \"webhook\"\non = \"block\"\nentity = \"customer\"\n\
             url = \"http://{address}/hook\"\nsecret_env = \"SECRET\"\ntimeout = \"10s\"\n\
             retry_first = \"1ms\"\nretry_max = \"2ms\"\n"
        )
    };
    read_policy(&desks.iter().map(action).collect::<String>()).unwrap()
}

fn environment(name: &str) -> Option<String> {
    (name == "SECRET").then(|| SECRET.to_owned())
}

struct Fixed;

impl Surroundings for Fixed {
    fn now(&self) -> Timestamp {
        at(100)
    }

    fn jitter(&self) -> f64 {
        0.5
    }
}

struct Bench {
    store: Arc<EmbeddedStore>,
    _folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedStore::open(folder.path(), EmbeddedOptions::default()).unwrap();
        Self { store: Arc::new(store), _folder: folder }
    }

    /// Claims a decision with an intent for `action`.
    fn claim(&self, number: u128, action: &str, created: Timestamp) -> Uuid {
        let id = Uuid::from_u128(number);
        let payload = format!("{{\"number\": {number}}}");
        let intents = vec![Intent { decision: id, action: action.to_owned(), payload, created }];
        let claim = Claim { id, record: "{}".into(), entities: Vec::new(), intents, lists: Vec::new() };
        self.store.commit_now(&Commit { claims: vec![claim], ..Commit::default() }).unwrap();
        id
    }

    fn start(&self, policy: &Policy, limits: Limits) -> Running {
        self.start_shown(policy, limits, &mut Registry::default())
    }

    fn start_shown(&self, policy: &Policy, limits: Limits, registry: &mut Registry) -> Running {
        let receivers = Receivers::open(policy, &environment, &HashMap::new()).unwrap();
        let delivery = Delivery::new(Arc::clone(&self.store), receivers, limits, Fixed, Metrics::register(registry));
        let (wake, stop) = (Arc::new(Notify::new()), CancellationToken::new());
        let task = tokio::spawn(delivery.run(Arc::clone(&wake), stop.clone()));
        Running { wake, stop, task }
    }

    fn results(&self, decision: Uuid) -> Vec<ActionResult> {
        let stored = self.store.decision_now(decision).unwrap().unwrap();
        stored.appended.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }
}

struct Running {
    wake: Arc<Notify>,
    stop: CancellationToken,
    task: JoinHandle<Result<(), interdict_scorer::action::delivery::DeliveryError>>,
}

impl Running {
    /// Stops as a process does that is told to: what is under way ends and is written.
    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }

    /// Stops as a process does that dies.
    async fn die(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

async fn take(requests: &mut mpsc::Receiver<Request>, count: usize) -> Vec<Request> {
    let mut taken = Vec::new();
    for _ in 0..count {
        taken.push(requests.recv().await.unwrap());
    }
    taken
}

/// Delivers one intent to a desk that answers by `script`; what came of it after as many requests as the script has lines.
async fn deliver(script: &[Answer]) -> (Vec<Request>, Vec<ActionResult>, usize) {
    let (address, _desk, mut requests) = open_desk(script, 1_000).await;
    let bench = Bench::new();
    let id = bench.claim(1, "desk", at(90));
    let running = bench.start(&policy(&[("desk", address)]), Limits::default());
    let taken = take(&mut requests, script.len()).await;
    running.end().await;
    assert!(requests.try_recv().is_err(), "no request beyond the script");
    (taken, bench.results(id), bench.store.outbox_now(None, 10).unwrap().len())
}

#[tokio::test]
async fn a_webhook_is_signed_and_its_result_written() {
    let (requests, results, left) = deliver(&[Answer::Status(204)]).await;
    let request = &requests[0];
    assert_eq!(request.id, effect_id(Uuid::from_u128(1), "desk"));
    assert_eq!(request.body, "{\"number\": 1}");
    let timestamp: i64 = request.timestamp.parse().unwrap();
    assert_eq!(timestamp, at(100).micros() / 1_000_000);
    assert_eq!(request.signature, Secret::parse(SECRET).unwrap().sign(&request.id, timestamp, &request.body));
    assert_eq!((results.len(), results[0].status, results[0].tries, left), (1, ActionStatus::Done, 1, 0));
}

#[tokio::test]
async fn a_receiver_that_is_down_gets_it_later_under_the_same_id() {
    let script = [500, 503, 408, 425, 429, 200].map(Answer::Status);
    let (requests, results, left) = deliver(&script).await;
    let ids: BTreeSet<_> = requests.iter().map(|it| (it.id.clone(), it.body.clone())).collect();
    assert_eq!(ids.len(), 1);
    assert_eq!((results.len(), results[0].status, results[0].tries, left), (1, ActionStatus::Done, 6, 0));
    let (_, results, _) = deliver(&[Answer::RetryAfter(503, "1"), Answer::Status(200)]).await;
    assert_eq!(results[0].status, ActionStatus::Done);
}

#[tokio::test]
async fn a_rejected_webhook_is_a_dead_letter_at_once() {
    for status in [400, 401, 404, 410, 301, 302, 307, 304] {
        let (requests, results, left) = deliver(&[Answer::Status(status)]).await;
        assert_eq!(requests[0].path, "/hook", "a redirect is not followed");
        assert_eq!((results.len(), results[0].status, left), (1, ActionStatus::DeadLetter, 0));
        assert!(results[0].reason.contains(&status.to_string()), "{results:?}");
    }
}

#[tokio::test]
async fn what_is_too_old_is_given_up_after_its_next_failure() {
    let (address, _desk, mut requests) = open_desk(&[Answer::Status(500)], 1_000).await;
    let bench = Bench::new();
    let old = bench.claim(1, "desk", at(100 - 2 * 86_400));
    let gone = bench.claim(2, "removed", at(99));
    let running = bench.start(&policy(&[("desk", address)]), Limits::default());
    take(&mut requests, 1).await;
    running.end().await;
    for (id, reason) in [(old, "answered 500"), (gone, "no such action")] {
        let results = bench.results(id);
        assert_eq!((results.len(), results[0].status), (1, ActionStatus::DeadLetter));
        assert!(results[0].reason.contains(reason), "{results:?}");
    }
}

#[tokio::test]
async fn a_receiver_that_hangs_or_is_not_there_is_tried_again() {
    let (address, _desk, mut requests) = open_desk(&[Answer::Hang, Answer::Status(200)], 1_000).await;
    let bench = Bench::new();
    let id = bench.claim(1, "desk", at(90));
    let mut policy = policy(&[("desk", address)]);
    let ActionKind::Webhook(webhook) = &mut policy.actions[0].kind else { panic!("a webhook") };
    webhook.timeout = Duration::from_millis(50);
    let running = bench.start(&policy, Limits::default());
    take(&mut requests, 2).await;
    running.end().await;
    assert_eq!((bench.results(id)[0].status, bench.results(id)[0].tries), (ActionStatus::Done, 2));

    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let nobody_address = nobody.local_addr().unwrap();
    drop(nobody);
    let webhook = webhook_to(nobody_address);
    let error = webhook.send("id", "{}", at(0)).await.unwrap_err();
    assert_eq!(error.class(), Class::Transient);
    assert!(!error.to_string().contains("hook"), "an address may carry a token: {error}");
}

fn webhook_to(address: SocketAddr) -> Webhook {
    let policy = policy(&[("desk", address)]);
    let ActionKind::Webhook(config) = &policy.actions[0].kind else { panic!("a webhook") };
    Webhook::open("desk", config, &client().unwrap(), &environment).unwrap()
}

#[tokio::test]
async fn a_connection_that_drops_after_the_body_is_tried_again_under_the_same_id() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, mut ids) = mpsc::channel(10);
    tokio::spawn(async move {
        for answer in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"] {
            let (mut connection, _) = listener.accept().await.unwrap();
            let mut text = String::new();
            while !text.ends_with("{\"number\": 1}") {
                let mut bytes = [0; 1024];
                let read = connection.read(&mut bytes).await.unwrap();
                text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
            }
            connection.write_all(answer.as_bytes()).await.unwrap();
            let id = text.lines().find_map(|line| line.strip_prefix("webhook-id: ")).unwrap().to_owned();
            seen.send(id).await.unwrap();
        }
    });
    let bench = Bench::new();
    let id = bench.claim(1, "desk", at(90));
    let running = bench.start(&policy(&[("desk", address)]), Limits::default());
    for _ in 0..3 {
        assert_eq!(ids.recv().await.unwrap(), effect_id(id, "desk"));
    }
    running.end().await;
    assert_eq!((bench.results(id)[0].status, bench.results(id)[0].tries), (ActionStatus::Done, 3));
}

#[tokio::test]
async fn a_process_that_dies_before_the_result_sends_again_under_the_same_id() {
    let (address, desk, mut requests) = open_desk(&[Answer::Status(200)], 0).await;
    let bench = Bench::new();
    let id = bench.claim(1, "desk", at(90));
    let policy = policy(&[("desk", address)]);
    let first = bench.start(&policy, Limits::default());
    let sent = take(&mut requests, 1).await;
    first.die().await;
    assert!(bench.results(id).is_empty());
    assert_eq!(bench.store.outbox_now(None, 10).unwrap().len(), 1);

    desk.gate.add_permits(10);
    let second = bench.start(&policy, Limits::default());
    let again = take(&mut requests, 1).await;
    second.end().await;
    assert_eq!((&sent[0].id, &sent[0].body), (&again[0].id, &again[0].body));
    assert_eq!(bench.results(id).len(), 1);

    // Once its result is written, no later process sends it.
    let third = bench.start(&policy, Limits::default());
    third.wake.notify_one();
    third.end().await;
    assert!(requests.try_recv().is_err());
}

#[tokio::test]
async fn what_is_claimed_later_is_sent_when_woken() {
    let (address, _desk, mut requests) = open_desk(&[Answer::Status(200)], 1_000).await;
    let bench = Bench::new();
    let running = bench.start(&policy(&[("desk", address)]), Limits::default());
    for number in 1..=5 {
        let id = bench.claim(number, "desk", at(90));
        running.wake.notify_one();
        assert_eq!(take(&mut requests, 1).await[0].id, effect_id(id, "desk"));
    }
    running.end().await;
    assert_eq!(bench.store.outbox_now(None, 10).unwrap().len(), 0);
}

#[tokio::test]
async fn a_receiver_that_hangs_keeps_no_other_waiting_and_is_bounded() {
    let (slow, slow_desk, mut slow_requests) = open_desk(&[Answer::Status(200)], 0).await;
    let (quick, _quick_desk, mut quick_requests) = open_desk(&[Answer::Status(200)], 1_000).await;
    let bench = Bench::new();
    for number in 1..=10 {
        bench.claim(number, "slow", at(90));
    }
    for number in 11..=15 {
        bench.claim(number, "quick", at(90));
    }
    let limits = Limits { concurrency: 2, ..Limits::default() };
    let running = bench.start(&policy(&[("slow", slow), ("quick", quick)]), limits);
    take(&mut quick_requests, 5).await;
    take(&mut slow_requests, 2).await;
    slow_desk.gate.add_permits(100);
    take(&mut slow_requests, 8).await;
    running.end().await;
    assert_eq!(slow_desk.under_way_max.load(Ordering::SeqCst), 2);
    for number in 1..=15 {
        assert_eq!(bench.results(Uuid::from_u128(number)).len(), 1, "{number}");
    }
}

#[tokio::test]
async fn an_outbox_larger_than_what_is_held_is_worked_off() {
    let (address, _desk, mut requests) = open_desk(&[Answer::Status(200)], 1_000).await;
    let bench = Bench::new();
    for number in 1..=20 {
        bench.claim(number, "desk", at(90));
    }
    let running = bench.start(&policy(&[("desk", address)]), Limits { intents: 3, ..Limits::default() });
    let ids: BTreeSet<_> = take(&mut requests, 20).await.into_iter().map(|it| it.id).collect();
    running.end().await;
    assert_eq!(ids.len(), 20);
    assert_eq!(bench.store.outbox_now(None, 100).unwrap().len(), 0);
}

/// What the gauges of the outbox show: intents, and the age of the oldest.
fn shown(registry: &Registry) -> [String; 2] {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry).unwrap();
    ["interdict_scorer_outbox_intents ", "interdict_scorer_outbox_oldest_seconds "].map(|name| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().to_owned()
    })
}

#[tokio::test]
async fn whoever_carries_nothing_out_any_more_shows_nothing_that_waits() {
    let (address, _desk, mut requests) = open_desk(&[Answer::Status(500)], 1_000).await;
    let bench = Bench::new();
    bench.claim(1, "desk", at(90));
    let mut registry = Registry::default();
    let running = bench.start_shown(&policy(&[("desk", address)]), Limits::default(), &mut registry);
    take(&mut requests, 2).await;
    assert_eq!(shown(&registry), ["1", "10.0"]);
    running.end().await;
    assert_eq!(bench.store.outbox_now(None, 10).unwrap().len(), 1, "another one carries it out");
    assert_eq!(shown(&registry), ["0", "0.0"]);
}

#[tokio::test]
async fn a_wish_to_be_left_alone_is_read_in_both_forms() {
    for (wish, expected) in [
        ("7", Some(Duration::from_secs(7))),
        ("Tue, 14 Nov 2023 22:13:50 GMT", Some(Duration::from_secs(30))),
        ("Tue, 14 Nov 2000 22:13:50 GMT", Some(Duration::ZERO)),
        ("soon", None),
        ("-5", None),
    ] {
        let (address, _desk, _requests) = open_desk(&[Answer::RetryAfter(429, wish)], 1_000).await;
        let error = webhook_to(address).send("id", "{}", at(0)).await.unwrap_err();
        assert_eq!(error.class(), Class::Transient);
        assert!(matches!(error, SendError::Status { retry_after, .. } if retry_after == expected), "{wish}: {error:?}");
    }
}

#[tokio::test]
async fn a_secret_that_is_missing_or_none_stops_the_start() {
    let address = "127.0.0.1:9".parse().unwrap();
    let policy = policy(&[("desk", address)]);
    let error = Receivers::open(&policy, &|_| None, &HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("'desk'") && error.contains("SECRET"), "{error}");
    let error = Receivers::open(&policy, &|_| Some("hunter2".to_owned()), &HashMap::new()).unwrap_err().to_string();
    assert!(error.contains("whsec_") && !error.contains("hunter2"), "{error}");
}
