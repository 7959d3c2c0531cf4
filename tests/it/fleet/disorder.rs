//! Topics whose producers repeat themselves and let newer versions overtake older ones, while processes die: one decision for each event.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::topics::{INGESTORS, SCORERS, end, feed, produce};
use super::{Fleet, MONITOR};
use crate::kafka::Kafka;
use crate::parity::partitions::{Placed, check_reads, compare, disordered};

/// Longer than the session of the group.
const PAUSE: Duration = Duration::from_millis(3_300);

/// What goes wrong once a piece is produced.
enum Disturbance {
    Kill(&'static [usize]),
    Pause(usize),
    Redis,
}

const DISTURBANCES: [Disturbance; 6] = [
    Disturbance::Kill(&[INGESTORS[0]]),
    Disturbance::Kill(&[SCORERS[0], MONITOR]),
    Disturbance::Pause(INGESTORS[1]),
    Disturbance::Redis,
    Disturbance::Kill(&SCORERS),
    Disturbance::Kill(&[INGESTORS[1], SCORERS[1]]),
];

impl Fleet {
    fn disturb(&mut self, disturbance: &Disturbance) {
        match disturbance {
            Disturbance::Kill(places) => places.iter().for_each(|place| self.kill(*place)),
            Disturbance::Pause(place) => {
                self.process(*place).signal("STOP");
                self.wait(PAUSE);
                self.process(*place).signal("CONT");
            }
            Disturbance::Redis => {
                self.redis.kill();
                self.redis.begin();
            }
        }
    }
}

/// How many changes stand there again, how many behind a newer one of their partition, and how many of these behind a newer one of their row.
fn disorder(changes: &[Placed]) -> [usize; 3] {
    let mut of_row: BTreeMap<(&str, String), BTreeSet<u64>> = BTreeMap::new();
    let mut of_partition: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    let [mut again, mut behind, mut overtaken] = [0; 3];
    for change in changes {
        let version = change.version();
        let versions = of_row.entry((change.topic, change.key())).or_default();
        let newest = of_partition.entry((change.topic, change.partition)).or_default();
        if versions.contains(&version) {
            again += 1;
        } else {
            behind += usize::from(*newest > version);
            overtaken += usize::from(versions.last().is_some_and(|newest| *newest > version));
        }
        versions.insert(version);
        *newest = version.max(*newest);
    }
    [again, behind, overtaken]
}

#[test]
fn what_comes_again_and_out_of_order_is_decided_once_whoever_dies() {
    let kafka = Kafka::start();
    let mut fleet = Fleet::fed("disorder", Some(feed(&kafka)));
    let options = "--transactions 2400 --customers 60 --terminals 120";
    let payments = crate::parity::payments(&fleet.place.path("."), options);
    let changes = disordered(&payments, 73);
    let disorder = disorder(&changes);
    assert!(disorder.iter().zip([80, 50, 5]).all(|(count, least)| *count > least), "{disorder:?}");

    fleet.begin_all();
    fleet.reads(INGESTORS[0], 2);
    let mut pieces = changes.chunks(changes.len() / DISTURBANCES.len() + 1);
    for disturbance in &DISTURBANCES {
        produce(&kafka, pieces.next().unwrap_or_default());
        fleet.wait(Duration::from_millis(150));
        fleet.disturb(disturbance);
        fleet.revive();
    }
    fleet.read_to_end("disorder", &changes);
    fleet.settle("disorder");
    check_reads(&fleet.ready(1), &changes);
    let logged = end(&mut fleet, "disorder");

    // Every event is decided, once for each time that it came to be; which of two inserts was judged is not told where both are there.
    let mut inserts: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for (id, version) in changes.iter().filter_map(Placed::inserted) {
        inserts.entry(id.to_string()).or_default().insert(version);
    }
    let mut decisions: BTreeMap<String, usize> = BTreeMap::new();
    logged.iter().for_each(|record| *decisions.entry(record.event_id.clone()).or_default() += 1);
    assert_eq!(decisions.len(), inserts.len());
    for (event, count) in &decisions {
        assert!((1..=inserts[event].len()).contains(count), "{count} decisions on {event}");
    }
    assert_eq!(compare(&changes, &logged), logged.len());
    fleet.check_blocks(&logged);
}
