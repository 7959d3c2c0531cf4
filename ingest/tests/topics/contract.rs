//! What every topic promises.

use interdict_ingest::source::stop::Stop;
use interdict_ingest::topic::metrics::TopicMetrics;
use interdict_store::error::Class;
use prometheus_client::registry::Registry;

use crate::rig::{Member, PATIENCE, Rig, Stored, config, expected, exported, payments, row, source, values, watched};

/// Every promise, over one broker.
pub(crate) fn holds(rig: &impl Rig) {
    partitions_come_in_order_and_go_on_where_they_were_left(rig);
    the_lag_is_shown_while_nothing_is_taken_and_falls_to_nothing(rig);
    a_record_that_cannot_be_read_is_a_dead_letter_and_nothing_else_is_lost(rig);
    a_partition_ends_before_a_position_that_was_stored(rig);
    several_partitions_need_a_column_to_partition_by(rig);
    a_topic_that_does_not_exist_is_told(rig);
    a_stopped_source_returns_at_once(rig);
}

fn partitions_come_in_order_and_go_on_where_they_were_left(rig: &impl Rig) {
    let topic = rig.create(3);
    for partition in 0..3 {
        rig.produce(&topic, partition, &values(partition, 0..1_000));
    }
    let config = config(rig.broker(), &topic);
    let mut stored = Stored::default();
    let mut first = Member::join(source(&config, &payments(), &Stop::default()));
    assert_eq!(first.source.partitions(), 3);
    first.work_until(&mut stored, |_, stored| stored.records() >= 1_700);
    let (incarnation, left) = (first.incarnation.clone(), stored.clone());
    drop(first);

    for partition in 0..3 {
        rig.produce(&topic, partition, &values(partition, 1_000..1_200));
    }
    let mut second = Member::join(source(&config, &payments(), &Stop::default()));
    assert_eq!(second.incarnation, incarnation);
    second.work_until(&mut stored, |_, stored| stored.records() >= 3_600);
    for partition in 0..3 {
        assert_eq!(stored.ids[&partition], expected(partition, 0..1_200), "partition {partition}");
        assert!(left.positions.get(&partition).is_none_or(|left| *left <= stored.positions[&partition]));
    }
    // Nothing behind the end: the lag is none, once the broker has told its ends.
    second.work_until(&mut stored, |member, _| {
        let lag = member.source.lag();
        lag.len() == 3 && lag.iter().all(|lag| lag.records == 0 && lag.seconds.to_bits() == 0)
    });
    assert_eq!(stored.records(), 3_600);
}

fn the_lag_is_shown_while_nothing_is_taken_and_falls_to_nothing(rig: &impl Rig) {
    let topic = rig.create(1);
    rig.produce(&topic, 0, &values(0, 0..2_000));
    let mut registry = Registry::default();
    let metrics = TopicMetrics::register(&mut registry);
    let of_topic = config(rig.broker(), &topic);
    let mut member = Member::join(watched(&of_topic, &payments(), &Stop::default(), &metrics));
    member.batch = 100;
    let mut stored = Stored::default();
    member.work_until(&mut stored, |_, stored| stored.records() > 0);
    // From here on the reader is held up; what comes meanwhile is seen too.
    let mut ages = Vec::new();
    for end in [2_000, 2_300] {
        rig.produce(&topic, 0, &values(0, 2_000..end));
        let waiting = (end - stored.records() as u64) as f64;
        let began = std::time::Instant::now();
        while exported(&registry, "lag_records") != Some(waiting) {
            assert!(began.elapsed() < PATIENCE, "{:?} of {waiting}", exported(&registry, "lag_records"));
            member.source.held_up();
        }
        ages.push(exported(&registry, "lag_seconds").unwrap());
    }
    assert!(ages[0] > 0.0 && ages[0] < ages[1], "{ages:?}");
    assert_eq!(exported(&registry, "connected"), Some(1.0));
    member.work_until(&mut stored, |_, stored| stored.records() == 2_300);
    member.work_until(&mut stored, |_, _| {
        ["lag_records", "lag_seconds"].iter().all(|name| exported(&registry, name) == Some(0.0))
    });
    assert_eq!(stored.ids[&0], expected(0, 0..2_300));
}

fn a_record_that_cannot_be_read_is_a_dead_letter_and_nothing_else_is_lost(rig: &impl Rig) {
    let topic = rig.create(1);
    rig.produce(&topic, 0, &[row(1), "no json".to_owned(), row(2), r#"{"id":3}"#.to_owned(), row(4)]);
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config(rig.broker(), &topic), &payments(), &Stop::default()));
    member.work_until(&mut stored, |_, stored| stored.records() >= 5);
    assert_eq!(stored.ids[&0], [1, 2, 4]);
    assert_eq!(stored.letters, [(0, 1, "bad_json"), (0, 3, "missing_column")]);
}

fn a_partition_ends_before_a_position_that_was_stored(rig: &impl Rig) {
    let topic = rig.create(1);
    rig.produce(&topic, 0, &values(0, 0..10));
    let mut stored = Stored::default();
    let mut member = Member::join(source(&config(rig.broker(), &topic), &payments(), &Stop::default()));
    stored.positions.insert(0, 9);
    member.work_until(&mut stored, |member, _| member.owned == [0]);
    drop(member);
    let mut source = source(&config(rig.broker(), &topic), &payments(), &Stop::default());
    source.incarnation().unwrap();
    if source.sharing() == interdict_ingest::topic::Sharing::Told {
        source.assign(&[0]).unwrap();
    }
    while source.next(10, crate::rig::WAIT).unwrap().is_none() {}
    let error = source.resume(0, Some(10)).unwrap_err();
    assert_eq!(error.class(), Class::Fatal);
    assert!(error.to_string().contains("ends before 10, but 10 was already applied"), "{error}");
}

fn several_partitions_need_a_column_to_partition_by(rig: &impl Rig) {
    let topic = rig.create(2);
    rig.produce(&topic, 0, &values(0, 0..1));
    let mut loose = (*payments()[0]).clone();
    loose.partition_by = None;
    loose.judge = Some(interdict_features::definition::Judge::Insert);
    let streams = [std::sync::Arc::new(loose)];
    let mut config = config(rig.broker(), &topic);
    let error = source(&config, &streams, &Stop::default()).incarnation().unwrap_err();
    assert!(error.to_string().contains("write partition_by"), "{error}");
    config.bursts = interdict_ingest::source::config::topic::Bursts::Missed;
    assert!(source(&config, &streams, &Stop::default()).incarnation().unwrap().is_some());
}

fn a_topic_that_does_not_exist_is_told(rig: &impl Rig) {
    let config = config(rig.broker(), "no-such-topic");
    let error = source(&config, &payments(), &Stop::default()).incarnation().unwrap_err();
    assert_eq!(error.class(), Class::Rejected, "{error}");
    assert!(error.to_string().contains("there is no topic 'no-such-topic'"), "{error}");
}

fn a_stopped_source_returns_at_once(rig: &impl Rig) {
    let topic = rig.create(1);
    rig.produce(&topic, 0, &values(0, 0..10));
    let stop = Stop::default();
    let mut member = Member::join(source(&config(rig.broker(), &topic), &payments(), &stop));
    stop.stop();
    assert!(member.source.next(10, std::time::Duration::from_secs(60)).unwrap().is_none());
}
