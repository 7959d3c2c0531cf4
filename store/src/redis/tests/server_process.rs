//! Real servers for the tests: each in a folder of its own, gone with the test that started it.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::redis::RedisStore;
use crate::redis::config::RedisConfig;

/// Starts a server, says its process id, and kills it when standard input ends: with the test, however that ends. The
/// folder that is named goes with it.
const WATCH: &str = "\"$@\" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $!; wait; \
    if [ -n \"$GOES_TOO\" ]; then rm -rf \"$GOES_TOO\"; fi";

/// A server in a folder.
pub(super) struct Server {
    folder: TempDir,
    arguments: Vec<String>,
    goes_too: OsString,
    running: Option<Running>,
}

struct Running {
    watch: Child,
    stdin: Option<ChildStdin>,
    pid: Pid,
}

/// Runs a future on a runtime of its own.
pub(super) fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap().block_on(future)
}

impl Server {
    /// The one that tests share which need nothing special.
    pub(super) fn shared() -> &'static Self {
        static SHARED: OnceLock<Server> = OnceLock::new();
        SHARED.get_or_init(|| Self::lasting(&["--save", "", "--appendonly", "no"]))
    }

    /// One for a static: nothing static is dropped at the end, so the watch clears up.
    pub(super) fn lasting(arguments: &[&str]) -> Self {
        let mut server = Self::stopped(arguments);
        server.goes_too = server.folder.path().to_owned().into_os_string();
        server.begin();
        server
    }

    /// Starts a server with these arguments beside its socket and folder.
    pub(super) fn start(arguments: &[&str]) -> Self {
        let mut server = Self::stopped(arguments);
        server.begin();
        server
    }

    fn stopped(arguments: &[&str]) -> Self {
        Self {
            folder: TempDir::new().unwrap(),
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
            goes_too: OsString::new(),
            running: None,
        }
    }

    /// Starts it (again) on what its folder holds.
    pub(super) fn begin(&mut self) {
        assert!(self.running.is_none(), "it runs");
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "sh", "redis-server", "--port", "0", "--daemonize", "no"])
            .arg("--unixsocket")
            .arg(self.socket())
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .env("GOES_TOO", &self.goes_too)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let pid = Pid::from_raw(line.trim().parse().unwrap()).unwrap();
        let stdin = watch.stdin.take();
        self.running = Some(Running { watch, stdin, pid });
        // Refused until it listens.
        let mut attempts = 0_u32;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            attempts += 1;
            assert!(attempts < 50_000_000, "the server does not listen");
            std::thread::yield_now();
        }
    }

    pub(super) fn signal(&self, signal: Signal) {
        kill_process(self.running.as_ref().expect("it runs").pid, signal).unwrap();
    }

    /// Kills it with signal 9.
    pub(super) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        let mut stdin = running.stdin.take().unwrap();
        // The watch may be gone with the process group already.
        let _is_told = stdin.write_all(b"\n");
        drop(stdin);
        running.watch.wait().unwrap();
    }

    pub(super) fn runs(&self) -> bool {
        self.running.is_some()
    }

    pub(super) fn folder(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    /// A configuration with a namespace that nobody has used.
    pub(super) fn config(&self) -> RedisConfig {
        let url = format!("unix://{}", self.socket().display());
        RedisConfig { wait: Duration::from_secs(30), ..RedisConfig::new(&new_namespace(), &[&url]).unwrap() }
    }

    pub(super) async fn store(&self) -> RedisStore {
        RedisStore::connect(self.config()).await.unwrap()
    }

    /// Asks the server beside the store.
    pub(super) fn say(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// A namespace that nobody has used.
pub(super) fn new_namespace() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("test-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Waits until something comes to pass.
pub(super) async fn until(mut is_so: impl AsyncFnMut() -> bool) {
    tokio::time::timeout(Duration::from_secs(120), async {
        while !is_so().await {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("it comes to pass");
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
