use std::path::Path;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::contract::{self, Subject};

struct Folder(TempDir);

impl Folder {
    fn new() -> Self {
        Self(TempDir::new().unwrap())
    }
}

impl Subject for Folder {
    type Store = EmbeddedStore;

    async fn open(&self) -> EmbeddedStore {
        open(self.0.path())
    }
}

fn open(path: &Path) -> EmbeddedStore {
    let options = EmbeddedOptions { cache_bytes: 1024 * 1024, outbox_capacity: contract::OUTBOX_CAPACITY };
    EmbeddedStore::open(path, options).unwrap()
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_twin(actions in contract::model::actions()) {
        block_on(contract::model::check(&Folder::new(), actions));
    }
}
