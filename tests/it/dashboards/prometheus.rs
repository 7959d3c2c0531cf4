//! A real Prometheus in a folder of its own, on a free port. It ends with the test that started it.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

use crate::place::Caller;

/// Starts a server and ends it when standard input does.
const WATCH: &str = "\"$@\" 2>\"$LOG\" >&2 & read -r _; kill -9 $!; wait";

pub(super) struct Prometheus {
    folder: TempDir,
    caller: Caller,
    watch: Child,
}

impl Prometheus {
    /// Starts on the configuration at `config`, once it listens on `address`.
    pub(super) fn start(config: &Path, address: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let watch = Command::new("sh")
            .args(["-c", WATCH, "sh", "prometheus"])
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
            .arg(format!("--web.listen-address={address}"))
            .env("LOG", folder.path().join("log"))
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        let server = Self { folder, caller: Caller::new(address), watch };
        for _ in 0..200_000 {
            match server.caller.try_send("GET", "/-/ready", &[], "") {
                Some((200, _)) => return server,
                _ => std::thread::yield_now(),
            }
        }
        panic!("Prometheus (of Debian's package prometheus: make servers) does not start: {}", server.log());
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// What its API answers.
    pub(super) fn ask(&self, path: &str, parameters: &[(&str, &str)]) -> Value {
        let url = reqwest::Url::parse_with_params(&format!("http://-{path}"), parameters).unwrap();
        let (_, answer) = self.caller.get(&format!("{path}?{}", url.query().unwrap_or_default()));
        assert_eq!(answer["status"], "success", "{parameters:?}: {answer}\n{}", self.log());
        answer["data"].clone()
    }

    /// The series that an expression has now.
    pub(super) fn now(&self, expression: &str) -> Vec<Value> {
        self.ask("/api/v1/query", &[("query", expression)])["result"].as_array().unwrap().clone()
    }

    /// Asks until an expression has series now: for what it scrapes in time.
    #[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
    pub(super) fn wait_for(&self, expression: &str) {
        let deadline = Instant::now() + Duration::from_secs(90);
        while self.now(expression).is_empty() {
            assert!(Instant::now() < deadline, "it does not come: {expression}");
            std::thread::yield_now();
        }
    }

    /// The names of all metrics it has scraped or recorded.
    pub(super) fn names(&self) -> Vec<String> {
        let names = self.ask("/api/v1/label/__name__/values", &[]);
        names.as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned()).collect()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        drop(self.watch.stdin.take());
        drop(self.watch.wait());
    }
}

/// An address on which nothing listens.
pub(super) fn free_address() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}
