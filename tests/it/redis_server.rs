//! Redis servers that tests start themselves, in folders of their own, behind a socket in them.
//!
//! A server ends with the process that started it, however that ends: it waits for the other end of a pipe to close.

use std::io::{BufRead as _, BufReader};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Starts a server, says its process id, and kills it when standard input ends.
const WATCH: &str = "\"$@\" >/dev/null 2>&1 & echo $!; read -r _; kill -9 $!; wait";

/// Where a server keeps its append-only files.
const FILES: &str = "appendonlydir";

/// A server that keeps an append-only file.
#[derive(Debug)]
pub(crate) struct RedisServer {
    folder: TempDir,
    arguments: Vec<String>,
    running: Option<Child>,
}

impl RedisServer {
    pub(crate) fn start() -> Self {
        Self::start_with(&[])
    }

    /// Starts one with these arguments beside its own.
    pub(crate) fn start_with(arguments: &[&str]) -> Self {
        let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        let mut server = Self { folder: TempDir::new().unwrap(), arguments, running: None };
        server.begin();
        server
    }

    /// Starts it (again) on what its folder holds.
    pub(crate) fn begin(&mut self) {
        let mut watch = Command::new("sh")
            .args(["-c", WATCH, "sh", "redis-server", "--port", "0", "--daemonize", "no", "--appendonly", "yes"])
            // With a sync every second a write may wait behind a slow one, and what was answered is gone with the process.
            .args(["--appendfsync", "always", "--save", "", "--unixsocket"])
            .arg(self.socket())
            .arg("--dir")
            .arg(self.folder.path())
            .args(&self.arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut started = String::new();
        BufReader::new(watch.stdout.take().unwrap()).read_line(&mut started).unwrap();
        self.running = Some(watch);
        // Refused until it listens.
        let is_there = (0..50_000_000).any(|_| UnixStream::connect(self.socket()).is_ok());
        assert!(is_there, "the server does not listen");
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("socket")
    }

    pub(crate) fn url(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    pub(crate) fn runs(&self) -> bool {
        self.running.is_some()
    }

    /// Kills it with signal 9; what it wrote to its file is there when it begins again.
    pub(crate) fn kill(&mut self) {
        let Some(mut running) = self.running.take() else { return };
        drop(running.stdin.take());
        running.wait().unwrap();
    }

    /// Stands still until what is returned is called.
    pub(crate) fn pause(&self) -> impl FnOnce() + use<> {
        let said = self.say(&["INFO", "server"]);
        let pid = said.lines().find_map(|line| line.strip_prefix("process_id:"));
        let pid = pid.expect("it says its process id").trim().to_owned();
        let send = move |signal: &str| assert!(Command::new("kill").args([signal, &pid]).status().unwrap().success());
        send("-STOP");
        move || send("-CONT")
    }

    /// What it has on disk: nothing is being written meanwhile.
    pub(crate) fn copy(&self) -> TempDir {
        let copy = TempDir::new().unwrap();
        let copied = Command::new("cp").arg("-a").arg(self.files()).arg(copy.path()).status().unwrap();
        assert!(copied.success());
        copy
    }

    /// Puts back what was copied, in place of what a server that does not run left.
    pub(crate) fn restore(&self, copy: &TempDir) {
        assert!(!self.runs());
        std::fs::remove_dir_all(self.files()).unwrap();
        let copied =
            Command::new("cp").arg("-a").arg(copy.path().join(FILES)).arg(self.folder.path()).status().unwrap();
        assert!(copied.success());
    }

    fn files(&self) -> PathBuf {
        self.folder.path().join(FILES)
    }

    /// Asks the server beside the program.
    pub(crate) fn say(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").arg("-s").arg(self.socket()).args(words).output().unwrap();
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.kill();
    }
}
