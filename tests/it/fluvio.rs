//! The program on a real Fluvio, built with `fluvio-server`: `INTERDICT_FLUVIO` names its stream controller (`make fluvio` starts one).

use std::time::Duration;

use fluvio::metadata::topic::TopicSpec;
use fluvio::{Fluvio, FluvioClusterConfig, TopicProducerConfigBuilder};

use crate::place::{Caller, DEFINITIONS, Place, debezium, row};
use crate::topics::wait_for;

const PARTITIONS: i64 = 2;
const PAYMENTS: i64 = 20_000;

/// Makes a topic and fills its partitions with payments, a customer's in one of them.
async fn fill(endpoint: &str, topic: &str) {
    let settings = FluvioClusterConfig::new(endpoint.to_owned());
    let client = Fluvio::connect_with_config(&settings).await.unwrap();
    let spec = TopicSpec::new_computed(u32::try_from(PARTITIONS).unwrap(), 1, None);
    client.admin().await.create(topic.to_owned(), false, spec).await.unwrap();
    for partition in 0..PARTITIONS {
        let mut config = TopicProducerConfigBuilder::default();
        let config = config.set_specific_partitioner(u32::try_from(partition).unwrap()).build().unwrap();
        let mut tries = 0;
        let producer = loop {
            match client.topic_producer_with_config(topic, config.clone()).await {
                Ok(producer) => break producer,
                Err(error) => assert!(tries < 100, "{error:#}"),
            }
            tries += 1;
            tokio::time::sleep(Duration::from_millis(100)).await;
        };
        for id in (1..=PAYMENTS).filter(|id| id % 50 % PARTITIONS == partition) {
            let line = debezium("c", id.unsigned_abs(), &row(id, id, id % 50, "10.00"));
            producer.send(format!("{{\"transaction_id\":{id}}}"), line.trim_end()).await.unwrap();
        }
        producer.flush().await.unwrap();
    }
}

#[test]
#[expect(clippy::disallowed_methods, reason = "the cluster is named by the environment")]
fn fluvio_is_read_whole_by_a_process_that_is_killed() {
    let endpoint = std::env::var("INTERDICT_FLUVIO").expect("INTERDICT_FLUVIO names a stream controller");
    let topic = format!("payments-{}", std::process::id());
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(fill(&endpoint, &topic));
    let place = Place::new(&format!(
        "{DEFINITIONS}\n[source]\nname = \"payments\"\ntype = \"fluvio\"\nendpoint = \"{endpoint}\"\ntopic = \"{topic}\"\n\
         format = \"debezium\"\nstream = \"transactions\"\ntime_unit = \"us\"\n[http]\nbind = \"127.0.0.1:0\"\n"
    ));
    for _ in 0..3 {
        let mut process = place.start("run");
        process.wait_for("serving");
        process.work(Duration::from_millis(1_500));
        process.kill();
    }
    let mut process = place.start("run");
    let caller = Caller::new(&process.address());
    for partition in 0..PARTITIONS {
        wait_for(&caller, PAYMENTS - partition..PAYMENTS - partition + 1);
    }
    process.terminate();
    let (status, log) = process.end();
    assert!(status.success(), "{log}");
    let remains = place.remains();
    assert_eq!(i64::try_from(remains.decisions.len()).unwrap(), PAYMENTS);
    assert_eq!(i64::try_from(remains.rows.len()).unwrap(), PAYMENTS);
}
