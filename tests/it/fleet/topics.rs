//! Topics of several partitions among roles: two ingestors share them, one dies, and nothing is lost or doubled.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use interdict_features::decision::DecisionRecord;
use interdict_ingest::dead_letter::DeadLetter;
use serde_json::json;

use super::{Fleet, MONITOR};
use crate::kafka::Kafka;
use crate::parity::partitions::{CHARGEBACKS, PAYMENTS, Placed, check_reads, compare, placed};

/// Places of [`super::PROCESSES`].
pub(super) const INGESTORS: [usize; 2] = [0, 1];
pub(super) const SCORERS: [usize; 2] = [2, 3];

/// Digests of every state and row record by those of their keys, namespace apart. The first eight bytes say when a value expires: one that has
/// no time of its own does so by its writer's clock. The clocks of partitions are of those who read them.
const STORED: &str = "local out = {} for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '[er]*')) do \
    if not string.find(key, ':r7:@clocks:', 1, true) then \
    out[#out + 1] = redis.sha1hex(string.sub(key, #ARGV[1] + 1)) .. ' ' .. redis.sha1hex(string.sub(redis.call('GET', key), 9)) end end return out";

/// What holds topics.
pub(super) trait Broker {
    fn create(&self, topic: &str, partitions: u32);
    /// The keys that a source, or a sink, on `topic` is configured with.
    fn keys(&self, topic: &str, end: End) -> String;
    /// Produces one record; `None` is a tombstone.
    fn send(&self, topic: &str, partition: u32, key: &str, value: Option<&str>);
    /// Waits until everything sent is there.
    fn flush(&self);
}

/// Which end of a topic.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum End {
    Source,
    Sink,
}

impl Broker for Kafka {
    fn create(&self, topic: &str, partitions: u32) {
        Self::create(self, topic, i64::from(partitions));
    }

    /// Sessions are short: groups of the mock cluster wait for nearly one at every change.
    fn keys(&self, topic: &str, end: End) -> String {
        let session = if end == End::Source { "session = \"3s\"\n" } else { "" };
        format!("type = \"kafka\"\nbrokers = \"{}\"\ntopic = \"{topic}\"\n{session}", self.brokers())
    }

    fn send(&self, topic: &str, partition: u32, key: &str, value: Option<&str>) {
        Self::send(self, topic, i32::try_from(partition).unwrap(), key, value);
    }

    fn flush(&self) {
        Self::flush(self);
    }
}

/// Makes the topics of everything that the fleet reads and writes; its sources and sinks.
pub(super) fn feed(broker: &impl Broker) -> String {
    for (topic, partitions) in [("payments", PAYMENTS), ("chargebacks", CHARGEBACKS), ("decisions", 1), ("dead", 1)] {
        broker.create(topic, partitions);
    }
    let source =
        |name: &str, rest: &str| format!("[[source]]\nname = \"{name}\"\n{}{rest}\n", broker.keys(name, End::Source));
    let sink = |name: &str, what: &str| {
        format!("[[sink]]\nname = \"{name}\"\n{}what = \"{what}\"\n", broker.keys(name, End::Sink))
    };
    source("payments", "format = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"")
        + &source("chargebacks", "format = \"json\"\nstream = \"chargebacks\"")
        + &sink("decisions", "decisions")
        + &sink("dead", "dead_letters")
}

pub(super) fn produce(broker: &impl Broker, changes: &[Placed]) {
    for change in changes {
        broker.send(change.topic, change.partition, &change.key(), Some(&change.value));
        if change.is_delete {
            broker.send(change.topic, change.partition, &change.key(), None);
        }
    }
    broker.flush();
}

impl Fleet {
    /// What a metric of the process at `place` says.
    pub(super) fn metric(&mut self, place: usize, line: &str) -> Option<u64> {
        let address = self.process(place).address();
        let caller = crate::place::Caller::new(&address);
        let (status, metrics) = caller.try_send("GET", "/metrics", &[], "")?;
        assert_eq!(status, 200);
        metrics.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok())
    }

    /// Waits until `is_so`, and starts those again that end by themselves.
    pub(super) fn wait_until(&mut self, what: &str, mut is_so: impl FnMut(&mut Self) -> bool) {
        for _ in 0..1_200 {
            self.revive_others();
            if is_so(self) {
                return;
            }
            self.wait(Duration::from_millis(50));
        }
        panic!("{what} does not come\n{}", self.logs());
    }

    /// As [`Fleet::revive`], but what was not begun stays so.
    fn revive_others(&mut self) {
        for place in 0..self.processes.len() {
            let has_ended =
                self.processes[place].as_mut().is_some_and(|process| !process.works(Duration::from_millis(1)));
            if has_ended {
                self.processes[place] = None;
                self.begin(place);
            }
        }
    }

    /// Waits until the ingestor at `place` reads `count` partitions of the payments.
    pub(super) fn reads(&mut self, place: usize, count: u64) {
        self.wait_until(&format!("ingestor {place} reading {count} partitions"), |fleet| {
            fleet.metric(place, "interdict_ingest_topic_partitions{source=\"payments\"}") == Some(count)
        });
    }

    pub(super) fn decisions(&self, namespace: &str) -> usize {
        self.redis.say(&["HGET", &format!("{{{namespace}}}:meta"), "decisions"]).parse().unwrap_or(0)
    }

    pub(super) fn await_decisions(&mut self, namespace: &str, changes: &[Placed]) {
        let count = changes.iter().filter(|change| change.is_judged()).count();
        self.wait_until(&format!("{count} decisions"), |fleet| fleet.decisions(namespace) >= count);
    }

    /// How far topics were applied.
    fn positions(&self, namespace: &str) -> BTreeMap<String, String> {
        let said = self.redis.say(&["HGETALL", &format!("{{{namespace}}}:offsets")]);
        let lines: Vec<&str> = said.lines().collect();
        let pairs = lines.chunks(2).map(|pair| (pair[0].to_owned(), pair[1].to_owned()));
        pairs.filter(|(field, _)| !["sink/", "charge/", "monitor/"].iter().any(|own| field.contains(own))).collect()
    }

    /// Waits until all of `changes` are applied.
    pub(super) fn read_to_end(&mut self, namespace: &str, changes: &[Placed]) {
        let mut ends: BTreeMap<String, u64> = BTreeMap::new();
        for change in changes {
            let end = ends.entry(format!("{}:{}", change.partition, change.topic)).or_default();
            *end = change.offset.max(*end);
        }
        self.wait_until("the end of the topics", |fleet| {
            let at = fleet.positions(namespace);
            let is_there =
                |(field, end): (&String, &u64)| at.get(field).is_some_and(|at| at.parse::<u64>().unwrap() >= *end);
            ends.iter().all(is_there)
        });
    }

    /// Digests of states and row records by digest of their key.
    pub(super) fn stored(&self, namespace: &str) -> BTreeMap<String, String> {
        let said = self.redis.say(&["EVAL", STORED, "0", &format!("{{{namespace}}}:")]);
        let pair = |line: &str| line.split_once(' ').map(|(key, value)| (key.to_owned(), value.to_owned()));
        said.lines().map(|line| pair(line).unwrap_or_else(|| panic!("{said}"))).collect()
    }
}

#[test]
fn four_partitions_among_two_ingestors_give_what_one_gives() {
    let kafka = Kafka::start();
    let mut fleet = Fleet::fed("two", Some(feed(&kafka)));
    let payments =
        crate::parity::payments(&fleet.place.path("."), "--transactions 2400 --customers 60 --terminals 120");
    let changes = placed(&payments, 71);
    let third = changes.len() / 3;

    // All begin at once on topics that nobody has read yet.
    produce(&kafka, &changes[..third]);
    fleet.begin_all();
    fleet.reads(INGESTORS[0], 2);
    fleet.reads(INGESTORS[1], 2);

    // One dies in the midst of work: the other one goes on with its partitions.
    produce(&kafka, &changes[third..third + third / 2]);
    fleet.kill(INGESTORS[0]);
    fleet.kill(SCORERS[0]);
    produce(&kafka, &changes[third + third / 2..2 * third]);
    fleet.reads(INGESTORS[1], 4);
    fleet.await_decisions("two", &changes[..2 * third]);

    // It comes back and takes its share. The other one stands still for longer than its session: when it goes on it stores nothing of what
    // is another's by then, and goes on with its share or ends and is started again.
    fleet.begin_all();
    fleet.reads(INGESTORS[0], 2);
    fleet.process(INGESTORS[1]).signal("STOP");
    let paused = 2 * third + third / 4;
    produce(&kafka, &changes[2 * third..paused]);
    fleet.reads(INGESTORS[0], 4);
    fleet.process(INGESTORS[1]).signal("CONT");
    fleet.reads(INGESTORS[0], 2);
    fleet.reads(INGESTORS[1], 2);

    // It is told to end.
    produce(&kafka, &changes[paused..2 * third + third / 2]);
    let leaving = fleet.processes[INGESTORS[1]].take().expect("it runs");
    leaving.stop();
    produce(&kafka, &changes[2 * third + third / 2..]);
    fleet.await_decisions("two", &changes);
    is_as_one_ingestor_leaves_it(&mut fleet, &changes);
}

/// Ends the fleet of namespace `two`, which has decided on all `changes`: every decision is as the twin counts it, and one ingestor leaves
/// the same behind.
pub(super) fn is_as_one_ingestor_leaves_it(fleet: &mut Fleet, changes: &[Placed]) {
    fleet.read_to_end("two", changes);
    fleet.settle("two");
    check_reads(&fleet.caller(1), changes);
    let logged = end(fleet, "two");
    assert_eq!(logged.len(), changes.iter().filter(|change| change.is_judged()).count());
    assert_eq!(compare(changes, &logged), logged.len());
    fleet.check_blocks(&logged);

    let two = fleet.stored("two");
    fleet.configure("one");
    for place in [INGESTORS[0], SCORERS[0], SCORERS[1], MONITOR] {
        fleet.begin(place);
    }
    fleet.await_decisions("one", changes);
    fleet.reads(INGESTORS[0], 4);
    fleet.wait_until("the end of the topics", |fleet| fleet.positions("one") == fleet.positions("two"));
    let one = fleet.stored("one");
    assert!(one.len() > 2_000, "{} states and rows", one.len());
    let differing = one.iter().filter(|(key, value)| two.get(*key) != Some(value)).count();
    assert_eq!((differing, one.len()), (0, two.len()));
}

/// Ends all; what the monitor wrote.
pub(super) fn end(fleet: &mut Fleet, namespace: &str) -> Vec<DecisionRecord> {
    fleet.end_all();
    fleet.logged(namespace).into_values().collect()
}

#[test]
fn roles_produce_decisions_and_dead_letters_whoever_dies() {
    let kafka = Kafka::start();
    let mut fleet = Fleet::fed("sinks", Some(feed(&kafka)));
    let payments =
        crate::parity::payments(&fleet.place.path("."), "--transactions 1200 --customers 60 --terminals 120");
    let changes = placed(&payments, 72);
    fleet.begin_all();
    fleet.reads(INGESTORS[0], 2);
    let pieces: Vec<&[Placed]> = changes.chunks(changes.len() / 6 + 1).collect();
    let broken: i32 = 6;
    for (at, piece) in (0..broken).zip(&pieces) {
        produce(&kafka, piece);
        // To every partition of both topics in turn something that nobody can read.
        kafka.send("payments", at % 4, "broken", Some("no json"));
        kafka.flush();
        let dying = [SCORERS[0], SCORERS[1], INGESTORS[1], SCORERS[0], INGESTORS[0], SCORERS[1]];
        fleet.kill(dying[usize::try_from(at).unwrap()]);
        fleet.wait(Duration::from_millis(150));
        fleet.begin_all();
    }
    let judged = changes.iter().filter(|change| change.is_judged()).count();
    let all = judged + pieces.len();
    fleet.wait_until(&format!("{all} decisions"), |fleet| fleet.decisions("sinks") >= all);
    fleet.settle("sinks");
    let logged: BTreeMap<String, DecisionRecord> =
        end(&mut fleet, "sinks").into_iter().map(|record| (record.decision_id.to_string(), record)).collect();
    assert_eq!(logged.len(), all);

    // At least once, in order; a repeat is the same record at the same place of the log.
    let mut places: BTreeMap<u64, String> = BTreeMap::new();
    for (key, headers, record) in kafka.read("decisions") {
        let (id, place) = (&headers["decision_id"], headers["log_position"].parse().unwrap());
        assert_eq!(record, serde_json::to_value(&logged[id]).unwrap());
        assert_eq!(json!(key), record["event_id"]);
        let earlier = places.insert(place, id.clone());
        assert!(earlier.is_none_or(|earlier| earlier == *id), "two decisions at {place}");
    }
    let produced: BTreeSet<&String> = places.values().collect();
    assert_eq!(produced, logged.keys().collect());
    assert_eq!(places.len(), all);

    let letters: BTreeMap<u64, DeadLetter> = kafka
        .read("dead")
        .into_iter()
        .map(|(key, headers, letter)| {
            let letter: DeadLetter = serde_json::from_value(letter).unwrap();
            assert_eq!(key, format!("payments/{}/{}", letter.partition, letter.position));
            assert_eq!(headers["reason"], letter.reason.code());
            (headers["log_position"].parse().unwrap(), letter)
        })
        .collect();
    let places: BTreeSet<(u32, u64)> = letters.values().map(|letter| (letter.partition, letter.position)).collect();
    assert_eq!((letters.len(), places.len()), (pieces.len(), pieces.len()), "{letters:?}");
    assert_eq!(fleet.redis.say(&["XLEN", "{sinks}:log:dead-letters"]), "0", "what is produced is forgotten");
}
