//! Loads a Redis with commits and reads, and prints how fast they went: `redis_load URL [COMMITS]`.
//!
//! A commit is 200 states of 900 bytes and 100 row records of 200 bytes over 100,000 keys; a read is three entities of
//! two groups, one decision and three entities' list entries.

#![expect(clippy::print_stdout, reason = "what it is for")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use interdict_features::decision::EntityRef;
use interdict_store::port::{Commit, OffsetMove, Query, RowKey, RowWrite, StateQuery, StateWrite, Store};
use interdict_store::redis::RedisStore;
use interdict_store::redis::config::RedisConfig;
use tokio::time::Instant;
use uuid::Uuid;

const KEYS: u64 = 100_000;
const STATES: u64 = 200;
const ROWS: u64 = 100;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().ok_or("name a Redis: redis_load redis://localhost:6379 [COMMITS]")?;
    let commits: u64 = arguments.next().map_or(Ok(2000), |count| count.parse())?;
    let namespace = format!("load-{}", std::process::id());
    let store = Arc::new(RedisStore::connect(RedisConfig::new(&namespace, &[&url])?).await?);
    println!("on disk: {}", store.persistence());

    for writers in [1, 4] {
        let begin = Instant::now();
        let mut running = tokio::task::JoinSet::new();
        for writer in 0..writers {
            let store = Arc::clone(&store);
            let source = format!("source-{writers}-{writer}");
            running.spawn(async move {
                for number in 1..=commits / writers {
                    store.commit(commit(&source, number)).await?;
                }
                Ok::<_, interdict_store::error::StoreError>(())
            });
        }
        for done in running.join_all().await {
            done?;
        }
        say(&format!("{writers} writers"), commits, begin.elapsed());
    }
    reads(&store, "reads alone").await?;
    let busy = Arc::clone(&store);
    let writing = tokio::spawn(async move {
        for number in 1.. {
            if busy.commit(commit("beside reads", number)).await.is_err() {
                return;
            }
        }
    });
    reads(&store, "reads beside a writer").await?;
    writing.abort();
    let begin = Instant::now();
    for _ in 0..10 {
        let large = Commit { states: (0..10_000).map(|key| state(key, 1)).collect(), ..Commit::default() };
        store.commit(large).await?;
    }
    println!("one commit of 10,000 states, mean of 10: {:?}", begin.elapsed() / 10);
    Ok(())
}

fn commit(source: &str, number: u64) -> Commit {
    let from = number.checked_sub(1).filter(|from| *from > 0);
    let row = |at: u64| {
        let id = (number * ROWS + at).to_be_bytes().into();
        RowWrite {
            key: RowKey { stream: "transactions".into(), id },
            bytes: Some(Bytes::from(vec![5; 200])),
            expires: None,
            expected: None,
        }
    };
    Commit {
        states: (0..STATES).map(|at| state((number * STATES + at).wrapping_mul(7919) % KEYS, at % 2)).collect(),
        rows: (0..ROWS).map(row).collect(),
        offsets: vec![OffsetMove { source: source.to_owned(), partition: 0, from, to: number }],
        ..Commit::default()
    }
}

fn state(key: u64, group: u64) -> StateWrite {
    let key = key.to_be_bytes().into();
    StateWrite {
        entity: "customer".into(),
        key,
        group,
        bytes: Some(Bytes::from(vec![7; 900])),
        expires: None,
        expected: None,
    }
}

async fn reads(store: &RedisStore, what: &str) -> Result<(), Box<dyn std::error::Error>> {
    let mut times = Vec::new();
    for number in 0..5000_u64 {
        let wanted = |at: u64| StateQuery {
            entity: "customer".into(),
            key: ((number * 3 + at) * 7919 % KEYS).to_be_bytes().into(),
            groups: [0, 1].into(),
        };
        let entity = |at: u64| EntityRef { entity: "customer".to_owned(), key: (number + at).to_string() };
        let query = Query {
            states: (0..3).map(wanted).collect(),
            rows: Vec::new(),
            decisions: vec![Uuid::from_u64_pair(1, number)],
            lists: (0..3).map(entity).collect(),
        };
        let begin = Instant::now();
        store.fetch(&query).await?;
        times.push(begin.elapsed());
    }
    times.sort_unstable();
    let at = |share: usize| times[times.len() * share / 1000];
    println!("{what}: p50 {:?}, p99 {:?}, p99.9 {:?}", at(500), at(990), at(999));
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "figures to read")]
fn say(what: &str, commits: u64, took: Duration) {
    let rate = commits as f64 / took.as_secs_f64();
    println!(
        "{what}: {commits} commits in {took:?}, {rate:.0} commits/s, {:.0} states/s and {:.0} rows/s",
        rate * STATES as f64,
        rate * ROWS as f64
    );
}
