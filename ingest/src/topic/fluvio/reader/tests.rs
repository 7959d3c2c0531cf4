//! The reader over a fake that loses and stalls as the published client was measured to.

use futures_util::stream::BoxStream;

use super::*;
use crate::fixture::transactions;
use crate::source::config::topic::{Bursts, SESSION, TopicConfig};
use crate::source::config::{Format, Reading};
use crate::topic::broker::{Broker, FluvioBroker, Tls};
use crate::topic::fluvio::place::BYTES;
use crate::topic::metrics::TopicMetrics;
use interdict_store::error::Class;

/// Bytes of a record with all that belongs to it.
const RECORD: i32 = 300;

/// A partition in batches, as its server holds it.
struct Fake {
    records: u64,
    /// Records of one batch.
    batch: u64,
    /// What the server sends at once at most, whatever it is asked for.
    bytes_max: i32,
    /// Streams that break after so many records.
    breaks_after: Option<u64>,
    opened: u32,
    /// A partition that is not opened, after this time.
    hangs: Option<(u32, Duration)>,
    /// How often that was tried.
    hung: u32,
}

impl Fake {
    /// The offsets that the client yields of a stream opened at `from`: of every response the whole batches and none of the cut one, after
    /// whose declared end it goes on. `None`: a batch that fits no response stalls the stream.
    fn yielded(&self, from: u64, bytes: i32) -> (Vec<u64>, bool) {
        let room = u64::try_from(bytes.min(self.bytes_max) / RECORD).unwrap();
        let mut offsets = Vec::new();
        let mut next = from;
        while next < self.records {
            // The server sends from the beginning of the batch that holds the offset.
            let start = next / self.batch * self.batch;
            let cut = (start + room).min(self.records);
            let whole = if cut == self.records { cut } else { cut / self.batch * self.batch };
            if whole <= next {
                return (offsets, true);
            }
            offsets.extend(next..whole);
            next = if cut == self.records { cut } else { whole + self.batch };
        }
        (offsets, false)
    }
}

impl Feed for Fake {
    type Records = BoxStream<'static, Result<Yielded, String>>;

    async fn open(&mut self, partition: u32, offset: u64, bytes: i32) -> Result<Self::Records, TopicError> {
        if let Some((_, time)) = self.hangs.filter(|(hangs, _)| *hangs == partition) {
            self.hung += 1;
            tokio::time::sleep(time).await;
            return Err(self.broken("it does not answer".to_owned()));
        }
        self.opened += 1;
        let (offsets, stalls) = self.yielded(offset, bytes);
        let yielded = |offset: u64| {
            let value = format!(r#"{{"id":{offset},"at":1,"customer":"c","amount":1.5,"is_fraud":null,"score":null}}"#);
            Ok(Yielded { offset, timestamp: None, key: None, value: Bytes::from(value) })
        };
        let records = futures_util::stream::iter(offsets.into_iter().map(yielded));
        if let Some(count) = self.breaks_after {
            let broken = futures_util::stream::iter([Err("the socket closed".to_owned())]);
            let few = futures_util::StreamExt::take(records, usize::try_from(count).unwrap());
            return Ok(Box::pin(futures_util::StreamExt::chain(few, broken)));
        }
        let _at_the_end_or_stalled_nothing_comes = stalls;
        Ok(Box::pin(futures_util::StreamExt::chain(records, futures_util::stream::pending())))
    }

    async fn bounds(&mut self, _partition: u32) -> Result<(u64, u64), TopicError> {
        Ok((0, self.records))
    }

    async fn keep(&mut self, _records: &mut Self::Records, _position: u64) {}

    fn deleted(&self, partition: u32, position: u64, first: u64) -> TopicError {
        TopicError::Deleted { topic: "payments".to_owned(), partition, position, first }
    }

    fn broken(&self, why: String) -> TopicError {
        TopicError::Broker { address: "fake".to_owned(), why, class: Class::Transient }
    }
}

fn decoder() -> TopicDecoder {
    let broker = Broker::Fluvio(FluvioBroker { endpoint: "fake:1".to_owned(), tls: Tls::default() });
    let config = TopicConfig {
        broker,
        topic: "payments".to_owned(),
        group: None,
        format: Format::Json,
        stream: None,
        tables: Vec::new(),
        reading: Reading { time_units: unit(), ..Reading::default() },
        bursts: Bursts::Seen,
        session: SESSION,
    };
    TopicDecoder::new("payments", &config, &[transactions()]).unwrap()
}

fn unit() -> crate::source::config::TimeUnits {
    crate::source::config::TimeUnits {
        default: Some(interdict_features::decode::TimeUnit::ALL[0]),
        columns: Vec::new(),
    }
}

/// Reads everything from `from` on: the offsets that came, how often a gap was mended, and how often a stall.
async fn read(fake: Fake, from: u64, bytes: i32) -> (Vec<u64>, u64, u64) {
    let patience = Patience { stall: Duration::from_millis(20), retry: Duration::from_millis(1) };
    let metrics = TopicMetrics::default().of("payments");
    let records = fake.records;
    let mut reader = Reader::new(fake, metrics.clone(), patience, Stop::default());
    reader.begin(0, Place::at(from, bytes), now());
    let mut decoder = decoder();
    let mut offsets = Vec::new();
    while offsets.last().is_none_or(|last| last + 1 < records) {
        reader.fill(&mut decoder, 4_096, Duration::from_millis(50)).await.unwrap();
        let delivery = decoder.take();
        assert!(delivery.dead.is_empty(), "{:?}", delivery.dead.first());
        for batch in &delivery.batches {
            offsets.extend((0..batch.len()).map(|at| batch.get(at).0.position));
        }
    }
    (offsets, metrics.gaps.get(), metrics.stalls.get())
}

fn fake(batch: u64) -> Fake {
    Fake { records: 100_000, batch, bytes_max: i32::MAX, breaks_after: None, opened: 0, hangs: None, hung: 0 }
}

#[tokio::test]
async fn the_fake_loses_what_was_measured() {
    // 100,000 records of 300 bytes in batches of 16 KB, read by 1 MiB: the published client received 98,762.
    let (offsets, _) = fake(54).yielded(0, 1 << 20);
    let lost = 100_000 - offsets.len();
    assert!((1_000..2_000).contains(&lost), "{lost} lost");
}

#[tokio::test]
async fn nothing_is_lost_whatever_is_asked_at_once() {
    for (batch, bytes) in [(54, 1 << 20), (54, 64 << 10), (870, 1 << 20), (870, 4 << 20), (54, BYTES)] {
        let (offsets, gaps, _) = read(fake(batch), 0, bytes).await;
        assert_eq!(offsets, (0..100_000).collect::<Vec<u64>>(), "batches of {batch}, {bytes} bytes");
        assert!(gaps > 0, "batches of {batch}, {bytes} bytes");
    }
}

#[tokio::test]
async fn reading_begins_in_the_middle_of_a_batch() {
    let (offsets, _, _) = read(fake(870), 1_001, 1 << 20).await;
    assert_eq!(offsets, (1_001..100_000).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_stream_that_stops_before_the_end_is_opened_for_more() {
    let (offsets, _, stalls) = read(fake(5_000), 0, 1 << 20).await;
    assert_eq!(offsets, (0..100_000).collect::<Vec<u64>>());
    assert!(stalls > 0);
}

#[tokio::test]
async fn a_stream_that_breaks_goes_on_where_it_was() {
    let mut fake = fake(54);
    (fake.records, fake.breaks_after) = (5_000, Some(700));
    let (offsets, _, _) = read(fake, 0, BYTES).await;
    assert_eq!(offsets, (0..5_000).collect::<Vec<u64>>());
}

/// A reader of as many partitions as are named, one of which is not opened.
fn hanging(partitions: &[u32], hangs: u32, stop: &Stop) -> Reader<Fake> {
    let mut fake = fake(54);
    fake.hangs = Some((hangs, Duration::from_millis(50)));
    let patience = Patience { stall: Duration::from_secs(60), retry: Duration::from_millis(20) };
    let mut reader = Reader::new(fake, TopicMetrics::default().of("payments"), patience, stop.clone());
    for &partition in partitions {
        reader.begin(partition, Place::at(0, BYTES), now());
    }
    reader
}

#[tokio::test]
async fn a_partition_that_cannot_be_opened_does_not_hold_up_the_others() {
    let mut reader = hanging(&[0, 1, 2], 1, &Stop::default());
    let mut decoder = decoder();
    for _ in 0..30 {
        reader.fill(&mut decoder, 100, Duration::from_millis(50)).await.unwrap();
        assert_eq!(decoder.take().records, 100);
    }
    assert!(reader.feed.hung < 15, "it was tried {} times", reader.feed.hung);
    assert!(reader.partitions[&2].records.is_some(), "what comes behind it is opened");
}

#[tokio::test]
async fn who_is_told_to_stop_opens_nothing_any_more() {
    let stop = Stop::default();
    let mut reader = hanging(&[1], 1, &stop);
    stop.stop();
    reader.fill(&mut decoder(), 100, Duration::from_secs(60)).await.unwrap();
    assert_eq!(reader.feed.hung, 0);
}
