//! Members of one consumer group over one store: partitions move, and every record is taken once.

use std::time::{Duration, Instant};

use interdict_ingest::source::stop::Stop;

use crate::kafka::Kafka;
use crate::rig::{Member, Rig as _, Stored, config, expected, payments, source, values};

const PARTITIONS: u32 = 4;

/// Works in turns until `is_done`.
fn work(members: &mut [Member], stored: &mut Stored, is_done: impl Fn(&[Member], &Stored) -> bool) {
    let began = Instant::now();
    while !is_done(members, stored) {
        members.iter_mut().for_each(|member| {
            member.step(stored);
        });
        let owned: Vec<&Vec<u32>> = members.iter().map(|member| &member.owned).collect();
        assert!(began.elapsed() < Duration::from_secs(90), "{} records, {owned:?} owned", stored.records());
    }
}

#[test]
fn partitions_move_to_a_second_member_and_back() {
    let kafka = Kafka::start();
    let topic = kafka.create(PARTITIONS);
    let config = config(kafka.broker(), &topic);
    let join = || Member::join(source(&config, &payments(), &Stop::default()));
    let produce = |ids: std::ops::Range<u64>| {
        for partition in 0..PARTITIONS {
            kafka.produce(&topic, partition, &values(partition, ids.clone()));
        }
    };
    produce(0..500);
    let mut stored = Stored::default();
    let mut members = vec![join()];
    work(&mut members, &mut stored, |_, stored| stored.records() == 2_000);
    assert_eq!(members[0].owned, [0, 1, 2, 3]);

    members.push(join());
    work(&mut members, &mut stored, |members, _| members.iter().all(|member| member.owned.len() == 2));
    produce(500..1_000);
    work(&mut members, &mut stored, |_, stored| stored.records() == 4_000);

    // One leaves; its partitions come back.
    drop(members.remove(0));
    produce(1_000..1_500);
    work(&mut members, &mut stored, |members, stored| members[0].owned.len() == 4 && stored.records() == 6_000);
    for partition in 0..PARTITIONS {
        assert_eq!(stored.ids[&partition], expected(partition, 0..1_500), "partition {partition}");
    }
}
