use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::contract::{self, Subject};
use crate::port::StateWrite;

mod crash;
mod damage;

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Subject for Folder {
    type Store = EmbeddedStore;

    async fn open(&self) -> EmbeddedStore {
        open(self.0.path()).unwrap()
    }
}

fn open(path: &Path) -> Result<EmbeddedStore, StoreError> {
    let options = EmbeddedOptions { cache_bytes: 1024 * 1024, outbox_capacity: contract::OUTBOX_CAPACITY };
    EmbeddedStore::open(path, options)
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

fn state(key: u64, body: Vec<u8>) -> StateWrite {
    let key = key.to_be_bytes().into();
    StateWrite { entity: "card".into(), key, group: 1, bytes: Some(body.into()), expires: None, expected: None }
}

fn states(keys: std::ops::Range<u64>) -> Query {
    let query =
        |key: u64| crate::port::StateQuery { entity: "card".into(), key: key.to_be_bytes().into(), groups: [1].into() };
    Query { states: keys.map(query).collect(), ..Query::default() }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_twin(actions in contract::model::actions()) {
        block_on(contract::model::check(&Folder::new(), actions));
    }
}

#[test]
fn keeps_the_contract() {
    block_on(contract::cases::check_all(Folder::new));
}

#[test]
fn one_of_many_racing_claims_wins_and_readers_see_commits_whole() {
    const THREADS: u64 = 4;
    const ROUNDS: u64 = 50;
    const KEYS: u64 = 64;
    let folder = Folder::new();
    let store = block_on(folder.open());
    let claimed = std::thread::scope(|scope| {
        let write = |thread: u64| {
            let mut claimed = 0;
            for round in 0..ROUNDS {
                let record = Bytes::from(thread.to_string());
                let id = Uuid::from_u64_pair(0, round);
                let claim =
                    crate::port::Claim { id, record, entities: Vec::new(), intents: Vec::new(), lists: Vec::new() };
                let body = (thread * ROUNDS + round).to_be_bytes().to_vec();
                let states = (0..KEYS).map(|key| state(key, body.clone())).collect();
                let answer = store.commit_now(&Commit { claims: vec![claim], states, ..Commit::default() }).unwrap();
                claimed += u64::from(matches!(answer.claims[0], crate::port::ClaimOutcome::Claimed { .. }));
            }
            claimed
        };
        let writers: Vec<_> = (0..THREADS).map(|thread| scope.spawn(move || write(thread))).collect();
        while !writers.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            let fetched = store.fetch_now(&states(0..KEYS)).unwrap().states;
            assert!(fetched.windows(2).all(|pair| pair[0] == pair[1]), "a commit was seen in part");
        }
        writers.into_iter().map(|writer| writer.join().unwrap()).sum::<u64>()
    });
    assert_eq!(claimed, ROUNDS);
    assert_eq!(store.read_log_now(LogName::DECISIONS, 0, 1000).unwrap().len() as u64, ROUNDS);
}

#[test]
fn recent_decisions_are_pruned_on_disk() {
    let folder = Folder::new();
    let store = block_on(folder.open());
    let entity = EntityRef { entity: "card".to_owned(), key: "busy".to_owned() };
    for number in 0..3000 {
        let (id, entities) = (Uuid::from_u64_pair(1, number), vec![entity.clone()]);
        let claim = crate::port::Claim { id, record: Bytes::new(), entities, intents: Vec::new(), lists: Vec::new() };
        store.commit_now(&Commit { claims: vec![claim], ..Commit::default() }).unwrap();
    }
    let kept = store.read(|engine| Ok(fjall::Readable::len(&engine.snapshot(), &engine.recent).unwrap())).unwrap();
    // Pruned with chance 1/64 per claim: 1,500 without one have a chance of 6e-11.
    assert!((100..1600).contains(&kept), "{kept}");
}
