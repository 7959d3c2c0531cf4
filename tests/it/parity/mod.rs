//! Stream, backfill, batch evaluation, audit and requests over the same disturbed history: the same bits for the same events seen.
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    reason = "amounts and counts are small"
)]

mod binary;
pub(crate) mod captured;
pub(crate) mod history;
mod kept;
pub(crate) mod partitions;
mod side;
pub(crate) mod twin;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use arrow_array::cast::AsArray as _;
use arrow_array::types::{Decimal128Type, Int64Type, TimestampMicrosecondType};
use interdict_features::backfill::{Column, Events, Features};
use interdict_features::change::{Op, Version};
use interdict_features::engine::{Evaluate, Plan};
use interdict_features::state::{AsOf, Readout, ReadoutKind};
use interdict_features::value::Value;
use interdict_features::vector::Flags;
use rand::{RngExt as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use crate::program::interdict;
use history::{DAY, Delivery, Payment, What, deliveries};
use side::{Read, Side, Vector, batch, plan};
use twin::{DEFINITIONS, Entity, Expected, Instant, Twin};

/// Deliveries between two comparisons.
const STEP: usize = 16_384;
/// Every so-manieth new row is asked for before it comes.
const REQUESTS: u64 = 4;

/// The simulator's payments, and which of them are frauds.
pub(crate) fn payments(folder: &Path, options: &str) -> Vec<(Payment, bool)> {
    let options = format!("simulate --seed 5 {options} --output in.parquet");
    interdict(folder, &options.split(' ').collect::<Vec<_>>()).ok();
    let table = crate::backfill::read(&folder.join("in.parquet"));
    let ints = |name: &str| table.column_by_name(name).unwrap().as_primitive::<Int64Type>().values().to_vec();
    let (ids, customers, terminals) = (ints("transaction_id"), ints("customer_id"), ints("terminal_id"));
    let times = table.column_by_name("tx_datetime").unwrap().as_primitive::<TimestampMicrosecondType>().values();
    let amounts = table.column_by_name("amount").unwrap().as_primitive::<Decimal128Type>().values();
    let frauds = table.column_by_name("is_fraud").unwrap().as_boolean();
    let payment = |at: usize| {
        let cents = i64::try_from(amounts[at]).unwrap();
        let (customer, terminal) = (customers[at], terminals[at]);
        (Payment { id: ids[at], time: times[at], customer, terminal, cents, label: None }, frauds.value(at))
    };
    (0..table.num_rows()).map(payment).collect()
}

/// What was compared.
#[derive(Default, Debug)]
struct Compared {
    changes: usize,
    judged: usize,
    values: usize,
    truncated: usize,
    tiled: usize,
    requests: usize,
    ties: usize,
    /// Inserts that came behind their deletes.
    gone: usize,
}

fn bits(readout: &Readout) -> Option<u64> {
    (readout.kind != ReadoutKind::Null).then_some(readout.bits.cast_unsigned())
}

impl Compared {
    /// The values of a read are those of the twin, unless the read itself says why not.
    fn values(&mut self, expected: &[Expected], found: &[Readout], of: &dyn std::fmt::Debug) {
        for (at, (expected, found)) in expected.iter().zip(found).enumerate() {
            let is_derived = at >= 27;
            if found.flags.has(Flags::TILED) || (is_derived && (expected.is_truncated || expected.was_dropped)) {
                self.tiled += usize::from(found.flags.has(Flags::TILED));
                continue;
            }
            let is_truncated = found.flags.has(Flags::TRUNCATED);
            if !is_derived {
                let may_be = expected.is_truncated || expected.was_dropped;
                assert!(is_truncated <= may_be && is_truncated >= expected.is_truncated, "{at} of {of:?}: {found:?}");
            }
            if is_truncated {
                self.truncated += 1;
            } else {
                self.values += 1;
                assert_eq!(bits(found), expected.bits, "feature {at} of {of:?}: {found:?}, {expected:?}");
            }
        }
    }
}

/// What the audit knows of a decision: where it stood, and how far the other partition had been applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Seen {
    position: u64,
    reports: u64,
}

/// Decisions made again as the audit does: before each the label stream up to what it names, then its own partition up to itself.
struct Audit {
    side: Side,
    rows: Vec<(usize, Delivery)>,
    reports: Vec<(usize, Delivery)>,
}

impl Audit {
    /// Applies what came after the last decision.
    fn finish(&mut self) {
        self.side.batch(&std::mem::take(&mut self.reports), Evaluate::Nothing, |_| panic!("a report is not judged"));
        self.side.batch(&std::mem::take(&mut self.rows), Evaluate::Judged, |_| panic!("every decision was made again"));
    }

    fn advance(&mut self, deliveries: &[(usize, Delivery)], logged: &[(Seen, Read)]) {
        let (reports, rows): (Vec<(usize, Delivery)>, Vec<_>) =
            deliveries.iter().partition(|(_, delivery)| delivery.is_report());
        self.rows.extend(rows);
        self.reports.extend(reports);
        for run in logged.chunk_by(|(a, _), (b, _)| a.reports == b.reports) {
            let (last, _) = run[run.len() - 1];
            let reports = self.reports.iter().take_while(|(_, report)| report.position <= last.reports).count();
            let rows = self.rows.iter().take_while(|(_, row)| row.position <= last.position).count();
            let reports: Vec<_> = self.reports.drain(..reports).collect();
            self.side.batch(&reports, Evaluate::Nothing, |_| panic!("a report is not judged"));
            let rows: Vec<_> = self.rows.drain(..rows).collect();
            let mut expected = run.iter().map(|(_, read)| read);
            self.side.batch(&rows, Evaluate::Judged, |made| assert_eq!(Some(&made), expected.next()));
            assert_eq!(expected.next(), None, "every decision is made again");
        }
    }
}

/// A request before a row's first version, and what a decision at that moment sees when it is behind all events of its time.
struct Request {
    payment: Payment,
    received: i64,
    expected: Option<Vec<Expected>>,
}

/// Takes deliveries in batches of one stream, some with a request before them. What was requested and kept is not judged once more when
/// its row comes: it is evaluated for the comparison.
fn serve(
    side: &mut Side,
    deliveries: &[(usize, Delivery)],
    evaluate: Evaluate,
    requests: &HashMap<usize, Request>,
    logged: &HashMap<usize, &Vector>,
) {
    let mut from = 0;
    let mut compare = |read: Read| {
        if let Some(vector) = logged.get(&read.index) {
            assert_eq!(read.vector, **vector, "delivery {}", read.index);
        }
    };
    for to in 0..=deliveries.len() {
        let request = deliveries.get(to).and_then(|(index, _)| requests.get(index));
        let ends = to == deliveries.len() || deliveries[to].1.is_report() != deliveries[from].1.is_report();
        if ends || request.is_some() {
            side.batch(&deliveries[from..to], evaluate, &mut compare);
            from = to;
        }
        let Some(request) = request else { continue };
        let vector = side.request(&request.payment, request.received);
        match &request.expected {
            None => assert_eq!(Some(&&vector), logged.get(&deliveries[to].0), "a request for {:?}", request.payment),
            Some(expected) => Compared::default().values(expected, &vector.readouts, &request.payment),
        }
    }
}

/// All sides of one run.
struct Run {
    plan: Arc<Plan>,
    stream: Side,
    audit: Audit,
    dropping: Side,
    keeping: Side,
    twin: Twin,
    chance: ChaCha8Rng,
    compared: Compared,
    reports: u64,
}

impl Run {
    fn new(seed: u64) -> Self {
        let keeping = plan(DEFINITIONS);
        let dropping = plan(&DEFINITIONS.replacen("judge =", "on_unmatched = \"drop\"\njudge =", 1));
        Self {
            stream: Side::new(&keeping, 2),
            audit: Audit { side: Side::new(&keeping, 3), rows: Vec::new(), reports: Vec::new() },
            dropping: Side::new(&dropping, 1),
            keeping: Side::new(&keeping, 2),
            plan: keeping,
            twin: Twin::default(),
            chance: ChaCha8Rng::seed_from_u64(seed),
            compared: Compared::default(),
            reports: 0,
        }
    }

    fn step(&mut self, deliveries: &[(usize, Delivery)]) {
        let reads = self.stream(deliveries);
        let (logged, requests) = self.count(deliveries, reads);
        let vectors: HashMap<usize, &Vector> = logged.iter().map(|(_, read)| (read.index, &read.vector)).collect();
        let Self { audit, dropping, keeping, .. } = self;
        std::thread::scope(|scope| {
            scope.spawn(|| serve(dropping, deliveries, Evaluate::Judged, &requests, &vectors));
            audit.advance(deliveries, &logged);
            serve(keeping, deliveries, Evaluate::Everything, &requests, &vectors);
        });
        self.compared.changes += deliveries.len();
        self.compared.judged += logged.len();
        self.compared.requests += requests.len();
    }

    /// The stream: batches as they happen to come, a checkpoint and an empty memory now and then.
    fn stream(&mut self, deliveries: &[(usize, Delivery)]) -> Vec<Read> {
        let mut reads = Vec::new();
        let mut left = deliveries;
        while !left.is_empty() {
            let most = self.chance.random_range(1..600);
            let is_report = left[0].1.is_report();
            let end = left.iter().take(most).take_while(|(_, next)| next.is_report() == is_report).count();
            self.stream.batch(&left[..end], Evaluate::Judged, |read| reads.push(read));
            left = &left[end..];
        }
        if self.chance.random_bool(0.3) {
            self.stream.forget();
        }
        reads
    }

    /// The twin: the same events one by one, every read counted by definition.
    fn count(
        &mut self,
        deliveries: &[(usize, Delivery)],
        reads: Vec<Read>,
    ) -> (Vec<(Seen, Read)>, HashMap<usize, Request>) {
        let mut reads = reads.into_iter().peekable();
        let (mut logged, mut requests) = (Vec::new(), HashMap::new());
        let (mut expected, mut behind) = (Vec::new(), Vec::new());
        for (index, delivery) in deliveries {
            let is_new = !self.twin.knows(delivery.id());
            self.twin.apply(delivery);
            self.reports += u64::from(delivery.is_report());
            let Some(read) = reads.next_if(|read| read.index == *index) else { continue };
            let (payment, as_of) = match (self.twin.row(delivery.id()), delivery.what) {
                (Some((payment, first)), _) => (payment, self.twin.vector(&payment, first, &mut expected)),
                // Its delete came before it.
                (None, What::Row(Op::Insert, payment)) => {
                    self.compared.gone += 1;
                    (payment, self.twin.vector_of_gone(payment, delivery.lsn, &mut expected))
                }
                _ => panic!("{delivery:?} was judged"),
            };
            assert_eq!(read.vector.as_of, as_of, "{payment:?}");
            self.compared.values(&expected, &read.vector.readouts, delivery);
            if let What::Row(Op::Insert, payment) = delivery.what
                && is_new
                && delivery.lsn % REQUESTS == 0
            {
                self.twin.vector(&payment, u64::MAX, &mut behind);
                let expected = (behind != expected).then(|| behind.clone());
                self.compared.ties += usize::from(expected.is_some());
                requests.insert(*index, Request { payment, received: delivery.commit, expected });
            }
            logged.push((Seen { position: delivery.position, reports: self.reports }, read));
        }
        assert_eq!(reads.next(), None);
        (logged, requests)
    }

    /// Whatever way the changes came, the states are those of the changes in order of commit, each once. Only where the event that
    /// pushed others out of the retention did not stay may one order have kept what another dropped: then the reads say so.
    fn compare_states(&mut self, changes: &[Delivery], last: i64) {
        let mut ordered = Side::new(&self.plan, 2);
        for run in changes.chunk_by(|a, b| a.is_report() == b.is_report()) {
            let run: Vec<_> = run.iter().map(|change| (0, *change)).collect();
            ordered.batch(&run, Evaluate::Nothing, |_| {});
        }
        self.audit.finish();
        let whole = ordered.states();
        for side in [&mut self.stream, &mut self.audit.side, &mut self.keeping, &mut self.dropping] {
            let states = side.states();
            assert_eq!(states.len(), whole.len());
            let differing: Vec<_> = states.iter().filter(|(key, bytes)| whole.get(key) != Some(bytes)).collect();
            let now = AsOf::instant(last);
            let is_raw = |side: &mut Side, entity: usize, key: i64| {
                !side.read(Entity::ALL[entity], key, now).iter().any(|readout| readout.flags.has(Flags::TILED))
            };
            let differing: Vec<_> =
                differing.into_iter().filter(|((entity, key), _)| is_raw(side, *entity, *key)).collect();
            assert!(differing.len() < whole.len() / 200, "{} of {} states", differing.len(), whole.len());
            for ((entity, key), _) in differing {
                for at in (0..300).map(|part| last - part * DAY / 8) {
                    let as_of = AsOf::instant(at);
                    let reads = [&mut *side, &mut ordered].map(|side| side.read(Entity::ALL[*entity], *key, as_of));
                    let is_known =
                        |readout: &Readout| !readout.flags.has(Flags::TRUNCATED) && !readout.flags.has(Flags::TILED);
                    for (a, b) in reads[0].iter().zip(&reads[1]).filter(|(a, b)| is_known(a) && is_known(b)) {
                        assert_eq!(a, b, "{entity} {key} at {at}");
                    }
                }
            }
        }
    }

    /// The columns of backfill are what the final states read as of each event, and what the twin counts.
    fn compare_backfill(&mut self, changes: &[Delivery]) -> usize {
        let (reports, rows): (Vec<Delivery>, Vec<Delivery>) = changes.iter().partition(|change| change.is_report());
        let batches = rows.chunks(100_000).map(|rows| batch(&self.plan, false, rows.iter())).collect();
        let reports = batch(&self.plan, true, reports.iter());
        let plan = Arc::clone(&self.plan);
        let events = Events::settle(&plan, 0, batches, &[reports]).unwrap();
        let features = Features::evaluate(&plan, &events);
        let (mut count, mut read) = (0, 0);
        for (at, chunk) in events.chunks().iter().enumerate() {
            let columns = features.chunk(at);
            let live = (chunk.from..chunk.to).filter(|&row| events.is_event(chunk.batch, row));
            for (place, row) in live.enumerate() {
                let cells = events.batches()[chunk.batch].row(row).cells;
                let (payment, first) = self.twin.row(cells[0]).expect("a live row");
                assert_eq!((cells[1], Version::new(first)), (payment.time, events.position(chunk.batch, row)));
                count += 1;
                read += self.compare_event(&payment, first, &columns, place);
            }
        }
        assert_eq!(count, self.twin.rows().count());
        read
    }

    /// How many readings of the final states were compared.
    fn compare_event(&mut self, payment: &Payment, first: u64, columns: &[Column], place: usize) -> usize {
        let (mut found, mut compared) = (columns.iter().map(|column| value_bits(&column.reading(place).value)), 0);
        let mut expected = Vec::new();
        for entity in Entity::ALL {
            let as_of =
                AsOf { time: payment.time, version: Version::new(first), subject: Some(payment.id.cast_unsigned()) };
            let instant = Instant { time: payment.time, subject: Some((payment.id, first)) };
            let is_counted = payment.id % 4 == 0;
            expected.clear();
            if is_counted {
                self.twin.read(entity, entity.key(payment), instant, &mut expected);
            }
            for (at, readout) in self.stream.read(entity, entity.key(payment), as_of).iter().enumerate() {
                let found = found.next().unwrap();
                if is_counted {
                    assert_eq!(found, expected[at].bits, "{entity:?} {at} of {payment:?}");
                }
                if !readout.flags.has(Flags::TRUNCATED) && !readout.flags.has(Flags::TILED) {
                    assert_eq!(found, bits(readout), "{entity:?} {at} of {payment:?}: {readout:?}");
                    compared += 1;
                }
            }
        }
        compared
    }

    /// Reads of the final states at any instant.
    fn compare_instants(&mut self, from: i64, to: i64) {
        for entity in Entity::ALL {
            let mut keys: Vec<i64> = self.twin.keys(entity).collect();
            keys.sort_unstable();
            for key in keys {
                for _ in 0..3 {
                    let time = self.chance.random_range(from..to);
                    let mut expected = Vec::new();
                    self.twin.read(entity, key, Instant { time, subject: None }, &mut expected);
                    let found = self.stream.read(entity, key, AsOf::instant(time));
                    self.compared.values(&expected, &found, &(entity, key, time));
                }
            }
        }
    }
}

fn value_bits(value: &Value) -> Option<u64> {
    match value {
        Value::Null => None,
        Value::Int(value) => Some(value.cast_unsigned()),
        Value::Double(value) => Some(value.to_bits()),
        Value::Bool(value) => Some(u64::from(*value)),
        Value::Text(_) => panic!("no feature is a text"),
    }
}

/// Each change once, in order of commit.
fn once(deliveries: &[Delivery]) -> Vec<Delivery> {
    let mut changes = deliveries.to_vec();
    changes.sort_by_key(|change| change.lsn);
    changes.dedup_by_key(|change| change.lsn);
    changes
}

#[test]
fn a_million_disturbed_events_have_the_same_bits_on_every_way() {
    let folder = tempfile::tempdir().unwrap();
    let payments = payments(folder.path(), "--transactions 1000000 --customers 5000 --terminals 10000");
    let deliveries = deliveries(&payments, 9);
    let mut run = Run::new(10);
    let names: Vec<String> = run.plan.definitions.features.iter().map(|named| named.name.to_string()).collect();
    assert_eq!(names, twin::names());
    for (at, step) in deliveries.chunks(STEP).enumerate() {
        let numbered: Vec<(usize, Delivery)> = (at * STEP..).zip(step.iter().copied()).collect();
        run.step(&numbered);
    }
    let changes = once(&deliveries);
    let last = payments[payments.len() - 1].0.time;
    run.compare_states(&changes, last);
    run.compare_instants(last - 20 * DAY, last + 20 * DAY);
    let read = run.compare_backfill(&changes);
    let compared = &run.compared;
    println!("{compared:?}, {read} readings of final states");
    assert!(compared.changes > 1_200_000 && compared.judged > 990_000, "{compared:?}");
    assert!(compared.requests > 200_000 && compared.tiled < compared.values / 200 && compared.gone > 0, "{compared:?}");
    assert!(compared.truncated < compared.values / 50 && read > 4_000_000, "{compared:?} {read}");
}
