//! Stands between a store and its server: counts what goes over the wire, holds it and loses it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use tempfile::TempDir;

use super::server_process::Server;
use crate::redis::config::RedisConfig;

/// What happens to what comes by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Traffic {
    Passes,
    /// The next answer is lost and its connection with it.
    LosesAnAnswer,
    /// Requests of connections that are there stand still.
    HoldsRequests,
    /// Answers stand still.
    HoldsAnswers,
}

#[derive(Default)]
struct Counters {
    connections: AtomicU64,
    /// Pieces in which requests came.
    requests: AtomicU64,
    /// How often a request came after an answer (or first).
    turns: AtomicU64,
}

struct Shared {
    upstream: PathBuf,
    traffic: Mutex<Traffic>,
    changed: Condvar,
    counters: Counters,
}

/// Stands between a store and its server.
pub(super) struct Proxy {
    folder: TempDir,
    shared: Arc<Shared>,
}

impl Proxy {
    pub(super) fn before(upstream: &Path) -> Self {
        let folder = TempDir::new().unwrap();
        let listener = UnixListener::bind(folder.path().join("proxy")).unwrap();
        let shared = Arc::new(Shared {
            upstream: upstream.to_owned(),
            traffic: Mutex::new(Traffic::Passes),
            changed: Condvar::new(),
            counters: Counters::default(),
        });
        let accepting = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming() {
                let Ok(server) = UnixStream::connect(&accepting.upstream) else { continue };
                accepting.carry(client.unwrap(), server);
            }
        });
        Self { folder, shared }
    }

    pub(super) fn config(&self, server: &Server) -> RedisConfig {
        let url = format!("unix://{}", self.folder.path().join("proxy").display());
        let namespace = server.config().namespace;
        RedisConfig { wait: Duration::from_secs(30), ..RedisConfig::new(&namespace, &[&url]).unwrap() }
    }

    pub(super) fn set(&self, traffic: Traffic) {
        *self.shared.traffic.lock().unwrap() = traffic;
        self.shared.changed.notify_all();
    }

    /// Connections that were made through it.
    pub(super) fn connections(&self) -> u64 {
        self.shared.counters.connections.load(Ordering::SeqCst)
    }

    /// Turns and pieces of requests so far.
    pub(super) fn counted(&self) -> (u64, u64) {
        let counters = &self.shared.counters;
        (counters.turns.load(Ordering::SeqCst), counters.requests.load(Ordering::SeqCst))
    }
}

impl Shared {
    fn carry(self: &Arc<Self>, client: UnixStream, server: UnixStream) {
        self.counters.connections.fetch_add(1, Ordering::SeqCst);
        let is_first = Arc::new(std::sync::atomic::AtomicBool::new(true));
        let (mut from, mut to) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let (shared, asks) = (Arc::clone(self), Arc::clone(&is_first));
        let born_under = *self.traffic.lock().unwrap();
        std::thread::spawn(move || {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                shared.counters.requests.fetch_add(1, Ordering::SeqCst);
                shared.counters.turns.fetch_add(u64::from(asks.swap(false, Ordering::SeqCst)), Ordering::SeqCst);
                let mut traffic = shared.traffic.lock().unwrap();
                while *traffic == Traffic::HoldsRequests && born_under != Traffic::HoldsRequests {
                    traffic = shared.changed.wait(traffic).unwrap();
                }
                drop(traffic);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _gone = to.shutdown(std::net::Shutdown::Write);
        });
        let shared = Arc::clone(self);
        std::thread::spawn(move || {
            let (mut from, mut to) = (server, client);
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = from.read(&mut buffer) {
                let mut traffic = shared.traffic.lock().unwrap();
                while *traffic == Traffic::HoldsAnswers {
                    traffic = shared.changed.wait(traffic).unwrap();
                }
                if *traffic == Traffic::LosesAnAnswer {
                    *traffic = Traffic::Passes;
                    break;
                }
                drop(traffic);
                is_first.store(true, Ordering::SeqCst);
                if to.write_all(&buffer[..count]).is_err() {
                    break;
                }
            }
            let _gone = (to.shutdown(std::net::Shutdown::Both), from.shutdown(std::net::Shutdown::Both));
        });
    }
}
