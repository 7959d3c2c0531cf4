use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use interdict_features::time::{Span, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Webhook;
use super::courier::{Answer, Courier, Delivery, Report};
use super::event::{AlertEvent, Episode};
use super::outbox::{Outbox, PENDING_MAX};
use super::signature::{Secret, signature};

const NOW: Timestamp = Timestamp::from_micros(1_614_265_330_000_000);
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn webhook(url: &str) -> Webhook {
    Webhook { url: url.parse().unwrap(), secrets: Arc::new([Secret::parse(SECRET).unwrap()]) }
}

fn event(n: usize) -> AlertEvent {
    AlertEvent { id: format!("alert-{n}-firing"), body: "{\"test\": 2432232314}".into() }
}

fn episode() -> Episode {
    Episode { alert_id: "a".into(), since: NOW }
}

fn open(path: &Path, urls: &[&str]) -> Outbox {
    Outbox::open(path, urls.iter().map(|url| webhook(url)).collect()).unwrap()
}

fn failed(delivery: &Delivery, retry_after: Option<Span>) -> Report {
    let answer = Answer::Failed { retry_after, why: "answered 500".into() };
    Report { id: delivery.id.clone(), webhook: delivery.webhook.name(), answer }
}

fn after_seconds(seconds: i64) -> Timestamp {
    NOW.plus(Span::from_micros(seconds * 1_000_000))
}

/// The example of the Standard Webhooks specification.
#[test]
fn signs_as_the_specification_does() {
    let secret = Secret::parse(SECRET).unwrap();
    let body = "{\"test\": 2432232314}";
    let one = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=";
    let sign = |secrets: &[Secret]| signature(secrets, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, body);
    assert_eq!(sign(std::slice::from_ref(&secret)), one);
    assert_eq!(sign(&[secret.clone(), secret]), format!("{one} {one}"));
}

#[test]
fn refuses_what_is_no_secret() {
    for text in ["", "whsec_", "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_AAAA", "whsec_!!!!"] {
        assert!(Secret::parse(text).is_none(), "{text}");
    }
}

#[test]
fn nothing_is_handed_out_before_it_is_on_disk_and_a_restart_keeps_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("_alerts.json");
    let mut outbox = open(&path, &["http://a/", "http://b/"]);
    outbox.add(&event(1), Some(episode()), 77, NOW);
    outbox.add(&event(1), Some(episode()), 77, NOW);
    assert!(outbox.due(NOW).is_empty());
    outbox.save().unwrap();
    assert_eq!(outbox.due(NOW).len(), 2);
    assert!(outbox.due(NOW).is_empty(), "what is on its way is not handed out again");
    drop(outbox);
    let mut outbox = open(&path, &["http://a/", "http://b/"]);
    assert_eq!((outbox.episode(), outbox.judged()), (Some(&episode()), Some(77)));
    assert_eq!(outbox.due(NOW).len(), 2);
    assert!(!std::fs::read_to_string(&path).unwrap().contains("http://"), "urls may hold tokens");
}

#[test]
fn failures_wait_longer_and_longer_and_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(&dir.path().join("o.json"), &["http://a/"]);
    outbox.add(&event(1), None, 0, NOW);
    let mut now = NOW;
    for wait in [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400] {
        outbox.save().unwrap();
        let delivery = outbox.due(now).pop().unwrap();
        outbox.settle(&failed(&delivery, None), now);
        outbox.save().unwrap();
        assert!(outbox.due(now.plus(Span::from_micros(wait * 1_000_000 - 1))).is_empty());
        now = now.plus(Span::from_micros(wait * 1_200_000));
    }
    let last = outbox.due(now).pop().unwrap();
    outbox.settle(&failed(&last, None), now);
    assert_eq!((outbox.pending(), outbox.counts().given_up, outbox.counts().retried), (0, 1, 9));
}

#[test]
fn retry_after_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(&dir.path().join("o.json"), &["http://a/"]);
    outbox.add(&event(1), None, 0, NOW);
    outbox.save().unwrap();
    let delivery = outbox.due(NOW).pop().unwrap();
    outbox.settle(&failed(&delivery, Some(Span::from_micros(100_000_000))), NOW);
    outbox.save().unwrap();
    assert!(outbox.due(after_seconds(99)).is_empty());
    assert_eq!(outbox.due(after_seconds(100)).len(), 1);
}

#[test]
fn gone_disables_for_good_and_leaves_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.json");
    let mut outbox = open(&path, &["http://a/", "http://b/"]);
    outbox.add(&event(1), None, 0, NOW);
    outbox.add(&event(2), None, 0, NOW);
    outbox.save().unwrap();
    let delivery = outbox.due(NOW).into_iter().find(|due| due.webhook.name().starts_with("a/")).unwrap();
    let answer = Answer::Gone;
    outbox.settle(&Report { id: delivery.id, webhook: delivery.webhook.name(), answer }, NOW);
    assert_eq!((outbox.pending(), outbox.counts().disabled), (2, 2));
    outbox.save().unwrap();
    let mut outbox = open(&path, &["http://a/", "http://b/"]);
    outbox.add(&event(3), None, 0, NOW);
    assert_eq!(outbox.pending(), 3);
    let outbox = open(&path, &["http://a/"]);
    assert_eq!((outbox.pending(), outbox.counts().disabled), (0, 2), "b is no longer configured");
}

#[test]
fn the_outbox_has_a_bound() {
    let dir = tempfile::tempdir().unwrap();
    let mut outbox = open(&dir.path().join("o.json"), &["http://a/"]);
    for n in 0..PENDING_MAX + 5 {
        outbox.add(&event(n), None, 0, NOW);
    }
    assert_eq!((outbox.pending(), outbox.counts().displaced), (PENDING_MAX, 5));
    outbox.save().unwrap();
    assert_eq!(outbox.due(NOW).len(), 16);
}

#[test]
fn a_broken_outbox_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("o.json");
    std::fs::write(&path, "[]").unwrap();
    let error = Outbox::open(&path, Vec::new()).unwrap_err();
    assert!(error.to_string().contains("remove it to start without waiting alerts"), "{error}");
}

#[test]
fn an_outbox_that_cannot_be_written_keeps_its_alerts() {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("later");
    let mut outbox = open(&folder.join("o.json"), &["http://a/"]);
    outbox.add(&event(1), None, 0, NOW);
    assert!(outbox.save().is_err());
    assert!(outbox.due(NOW).is_empty());
    std::fs::create_dir(&folder).unwrap();
    outbox.save().unwrap();
    assert_eq!(outbox.due(NOW).len(), 1);
}

/// One request as the receiver saw it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> &str {
        let line = self.head.lines().find(|line| line.to_ascii_lowercase().starts_with(&format!("{name}:")));
        line.and_then(|line| line.split_once(':')).map_or("", |(_, value)| value.trim())
    }
}

/// A receiver that answers each request with the next of `answers` (the last one for ever) and hands it on.
pub(crate) async fn receiver(answers: Vec<String>) -> (String, mpsc::Receiver<Request>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts?token=t", listener.local_addr().unwrap());
    let (requests, received) = mpsc::channel(64);
    tokio::spawn(async move {
        for n in 0.. {
            let (mut stream, _) = listener.accept().await.unwrap();
            let request = read_request(&mut stream).await;
            let answer = answers.get(n).or(answers.last()).unwrap();
            let reply = format!("HTTP/1.1 {answer}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
            stream.write_all(reply.as_bytes()).await.unwrap();
            if requests.send(request).await.is_err() {
                return;
            }
        }
    });
    (url, received)
}

async fn read_request(stream: &mut TcpStream) -> Request {
    let mut text = String::new();
    loop {
        let mut bytes = [0; 4096];
        let read = stream.read(&mut bytes).await.unwrap();
        text.push_str(std::str::from_utf8(&bytes[..read]).unwrap());
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let request = Request { head: head.to_owned(), body: body.to_owned() };
            let length: usize = request.header("content-length").parse().unwrap();
            if request.body.len() >= length {
                return request;
            }
        }
        assert!(read > 0, "the request ended early: {text}");
    }
}

async fn answer_to(answer: &str) -> (Answer, Request) {
    let (url, mut received) = receiver(vec![answer.to_owned()]).await;
    let (courier, mut dispatch) = Courier::new().unwrap();
    let stop = CancellationToken::new();
    let task = tokio::spawn(courier.run(stop.clone()));
    let delivery = Delivery { id: "i-1".into(), body: event(1).body, webhook: webhook(&url), attempted: NOW };
    dispatch.deliveries.send(delivery).await.unwrap();
    let report = dispatch.reports.recv().await.unwrap();
    stop.cancel();
    task.await.unwrap();
    assert_eq!((report.id.as_str(), report.webhook), ("i-1", webhook(&url).name()));
    let request = received.recv().await.unwrap();
    assert!(received.try_recv().is_err(), "one request per attempt");
    (report.answer, request)
}

#[tokio::test]
async fn a_delivery_is_signed_and_taken() {
    let (answer, request) = answer_to("204 No Content").await;
    assert_eq!(answer, Answer::Taken);
    assert!(request.head.starts_with("POST /alerts?token=t HTTP/1.1"), "{}", request.head);
    assert_eq!(request.header("content-type"), "application/cloudevents+json; charset=utf-8");
    assert_eq!(request.header("webhook-id"), "i-1");
    assert_eq!(request.header("webhook-timestamp"), "1614265330");
    let wanted = signature(&webhook("http://x/").secrets, "i-1", 1_614_265_330, &request.body);
    assert_eq!(request.header("webhook-signature"), wanted);
    assert_eq!(request.body, event(1).body);
}

#[tokio::test]
async fn answers_are_told_apart() {
    assert_eq!(answer_to("410 Gone").await.0, Answer::Gone);
    let (redirected, _) = answer_to("307 Temporary Redirect\r\nlocation: /alerts").await;
    assert!(matches!(redirected, Answer::Failed { retry_after: None, .. }), "{redirected:?}");
    let (throttled, _) = answer_to("429 Too Many Requests\r\nretry-after: 120").await;
    let Answer::Failed { retry_after, why } = throttled else { panic!("{throttled:?}") };
    assert_eq!(retry_after, Some(Span::from_micros(120_000_000)));
    assert!(why.contains("429"));
    let (far, _) = answer_to("503 Unavailable\r\nretry-after: 4294967295").await;
    assert!(matches!(far, Answer::Failed { retry_after: Some(Span::DAY), .. }), "{far:?}");
}

#[tokio::test]
async fn a_receiver_that_is_not_there_is_a_failure_without_its_token() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/?token=hidden", listener.local_addr().unwrap());
    drop(listener);
    let (courier, mut dispatch) = Courier::new().unwrap();
    let task = tokio::spawn(courier.run(CancellationToken::new()));
    for n in 0..3 {
        let delivery = Delivery { id: format!("i-{n}"), body: String::new(), webhook: webhook(&url), attempted: NOW };
        dispatch.deliveries.send(delivery).await.unwrap();
    }
    drop(dispatch.deliveries);
    let mut ids = HashSet::new();
    while let Some(report) = dispatch.reports.recv().await {
        let Answer::Failed { why, .. } = report.answer else { panic!("nobody answers") };
        assert!(!why.contains("hidden"), "{why}");
        ids.insert(report.id);
    }
    assert_eq!(ids.len(), 3);
    task.await.unwrap();
}
