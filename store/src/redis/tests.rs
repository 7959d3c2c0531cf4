use proptest::prelude::*;

use super::*;
use crate::contract::{self, Subject};
use server_process::{Server, block_on};

mod cluster;
mod cluster_process;
mod crash;
mod ended;
mod fail_over;
mod migration;
mod node;
mod proxy;
mod refusals;
mod server_process;
mod settings;
mod several;
mod walk;
mod wire;

/// A namespace of its own on the server that all tests of this process share.
struct Namespace(RedisConfig);

impl Namespace {
    fn new() -> Self {
        Self(Server::shared().config())
    }
}

impl Subject for Namespace {
    type Store = RedisStore;

    async fn open(&self) -> RedisStore {
        let config = RedisConfig { outbox_capacity: contract::OUTBOX_CAPACITY, ..self.0.clone() };
        RedisStore::connect(config).await.unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_twin(actions in contract::model::actions()) {
        block_on(contract::model::check(&Namespace::new(), actions));
    }
}

#[test]
fn keeps_the_contract() {
    block_on(contract::cases::check_all(Namespace::new));
}

/// A server of its own that dies between any two steps that open the store.
struct Killed {
    server: std::sync::Mutex<Server>,
    config: RedisConfig,
}

impl Killed {
    fn new() -> Self {
        let server = Server::start(&["--save", "", "--appendonly", "yes", "--appendfsync", "always"]);
        let config = RedisConfig { outbox_capacity: contract::OUTBOX_CAPACITY, ..server.config() };
        Self { server: std::sync::Mutex::new(server), config }
    }
}

impl Subject for Killed {
    type Store = RedisStore;

    async fn open(&self) -> RedisStore {
        {
            let mut server = self.server.lock().unwrap();
            server.kill();
            server.begin();
        }
        RedisStore::connect(self.config.clone()).await.unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn agrees_with_its_twin_over_deaths_of_the_server(actions in contract::model::actions()) {
        block_on(contract::model::check(&Killed::new(), actions));
    }
}
