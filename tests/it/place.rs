//! A folder with a configuration, the processes run in it, and what they leave behind.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use interdict_features::decision::DecisionRecord;
use interdict_features::time::Timestamp;
use interdict_ingest::dead_letter::DeadLetter;
use interdict_store::embedded::{EmbeddedOptions, EmbeddedStore};
use interdict_store::port::ListEntry;
use serde_json::Value;
use tempfile::TempDir;
use uuid::Uuid;

/// A process that shows nothing for so long hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Streams, features and rules of card payments, without a model.
pub(crate) const DEFINITIONS: &str = r#"
[stream.transactions]
id = "transaction_id"
time = "tx_datetime"
partition_by = "customer_id"
label = "is_fraud"
judge = "insert"
columns = { transaction_id = "int64", tx_datetime = "timestamp", customer_id = "int64", terminal_id = "int64", amount = "decimal(2)", is_fraud = "bool" }

[entity.customer]
key = "customer_id"

[entity.terminal]
key = "terminal_id"

[[group]]
name = "customer_spend"
entity = "customer"
windows = ["1h", "1d"]
features = { tx_count = "count()", amount_avg = "mean(amount)" }

[[group]]
name = "terminal_risk"
entity = "terminal"
delay = "1h"
windows = ["1d"]
features = { tx_count = "count()", fraud_ratio = "share(label)" }

[scorer]
default = "review"

[[rule]]
id = "burst"
when = "customer_spend.tx_count_1d >= 6"
outcome = "block"
reason = "six payments within a day"
condemns = "customer"

[[rule]]
id = "large"
when = "amount > 100.0"
outcome = "review"
reason = "an amount over 100"

[[action]]
name = "block_customer"
on = "block"
entity = "customer"
type = "store"

[store]
path = "data"

[monitor]
log_dir = "decisions"
batch_rows = 400
"#;

/// A temporary folder with `interdict.toml` in it.
pub(crate) struct Place {
    folder: TempDir,
}

impl Place {
    pub(crate) fn new(config: &str) -> Self {
        let place = Self { folder: TempDir::new().unwrap() };
        place.write("interdict.toml", config);
        place
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), text).unwrap();
    }

    pub(crate) fn append(&self, name: &str, text: impl AsRef<[u8]>) {
        use std::io::Write as _;
        let file = std::fs::File::options().create(true).append(true).open(self.path(name));
        file.unwrap().write_all(text.as_ref()).unwrap();
    }

    /// The program in this folder, with its arguments divided by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_interdict"));
        command.args(arguments.split_whitespace()).current_dir(self.folder.path());
        command.env("NO_COLOR", "1").env_remove("INTERDICT_LOG");
        command
    }

    pub(crate) fn start(&self, arguments: &str) -> Process {
        Process::start(self.command(arguments))
    }

    /// Runs to the end; it must succeed.
    pub(crate) fn run(&self, arguments: &str) -> String {
        let (status, log) = self.start(arguments).end();
        assert!(status.success(), "{arguments}: {status}\n{log}");
        log
    }

    /// Runs to the end; it must fail with exit code 1. What it said.
    pub(crate) fn fail(&self, arguments: &str) -> String {
        let (status, log) = self.start(arguments).end();
        assert_eq!(status.code(), Some(1), "{arguments}:\n{log}");
        log
    }

    pub(crate) fn store(&self) -> EmbeddedStore {
        EmbeddedStore::open(&self.path("data"), EmbeddedOptions::default()).unwrap()
    }

    /// The dead letters, by position.
    pub(crate) fn letters(&self) -> Vec<DeadLetter> {
        let text = std::fs::read_to_string(self.path("dead-letters.jsonl")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The decisions in Parquet, each once, without clocks; each must be the stored one.
    pub(crate) fn decisions(&self, store: &EmbeddedStore) -> BTreeMap<Uuid, DecisionRecord> {
        let mut decisions = BTreeMap::new();
        for entry in interdict_monitor::log::read(&self.path("decisions")).unwrap() {
            let record = entry.unwrap().record;
            let stored = store.decision_now(record.decision_id).unwrap().expect("it is stored under its id");
            let stored: DecisionRecord = serde_json::from_slice(&stored.record).unwrap();
            assert_eq!(stored, record, "Parquet and store hold the same record");
            let earlier = decisions.insert(record.decision_id, record.without_clocks());
            assert!(earlier.is_none(), "one decision stands in Parquet twice: {earlier:?}");
        }
        decisions
    }

    /// Everything a run leaves behind, clocks apart.
    pub(crate) fn remains(&self) -> Remains {
        let store = self.store();
        let without_clock = |entry: ListEntry| ListEntry { created: Timestamp::default(), ..entry };
        Remains {
            states: store.states_now().unwrap(),
            rows: row_records(&store),
            lists: store.lists_now().unwrap().into_iter().map(without_clock).collect(),
            decisions: self.decisions(&store),
            letters: self.letters(),
        }
    }
}

/// The row records, but for the clocks of partitions: these say how they were read.
pub(crate) fn row_records(store: &EmbeddedStore) -> Vec<(Bytes, Bytes)> {
    let mut rows = store.rows_now().unwrap();
    rows.retain(|(key, _)| !key.windows(7).any(|part| part == b"@clocks"));
    rows
}

/// What a run leaves behind.
#[derive(Debug)]
pub(crate) struct Remains {
    pub(crate) states: Vec<(Bytes, Bytes)>,
    pub(crate) rows: Vec<(Bytes, Bytes)>,
    pub(crate) lists: Vec<ListEntry>,
    pub(crate) decisions: BTreeMap<Uuid, DecisionRecord>,
    pub(crate) letters: Vec<DeadLetter>,
}

impl Remains {
    /// Both runs left the same behind.
    pub(crate) fn assert_equals(&self, other: &Self) {
        for (id, record) in &other.decisions {
            assert_eq!(self.decisions.get(id), Some(record), "decision {id}");
        }
        assert_eq!(self.decisions.len(), other.decisions.len(), "decisions");
        assert_eq!(self.lists, other.lists);
        assert_eq!(self.letters, other.letters);
        assert_eq!(self.rows, other.rows, "row records");
        assert_eq!(self.states, other.states, "states");
    }
}

/// A running program; killed when dropped.
pub(crate) struct Process {
    child: Child,
    lines: Receiver<String>,
    log: String,
    /// Up to where in `log` it was waited for lines.
    heard: usize,
}

impl Process {
    pub(crate) fn start(mut command: Command) -> Self {
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(child.stderr.take().unwrap());
        let (sender, lines) = sync_channel(65_536);
        std::thread::spawn(move || {
            for line in errors.split(b'\n') {
                let Ok(line) = line else { break };
                if sender.send(String::from_utf8_lossy(&line).into_owned()).is_err() {
                    break;
                }
            }
        });
        Self { child, lines, log: String::new(), heard: 0 }
    }

    pub(crate) fn stdin(&mut self) -> std::process::ChildStdin {
        self.child.stdin.take().unwrap()
    }

    /// The next line that contains `text`, after the one waited for before.
    pub(crate) fn wait_for(&mut self, text: &str) -> String {
        let (line, end) = self.find(self.heard, text);
        self.heard = end;
        line
    }

    /// The first line at or after `from` that contains `text`, and where it ends in the log.
    #[expect(clippy::disallowed_methods, reason = "a test waits in real time")]
    fn find(&mut self, mut from: usize, text: &str) -> (String, usize) {
        // A process that goes on saying other things is not listened to for ever.
        let end = Instant::now() + PATIENCE * 5;
        loop {
            while let Some(length) = self.log[from..].find('\n') {
                let line = &self.log[from..from + length];
                from += length + 1;
                if line.contains(text) {
                    return (line.to_owned(), from);
                }
            }
            match self.lines.recv_timeout(PATIENCE.min(end.saturating_duration_since(Instant::now()))) {
                Ok(line) => self.note(&line),
                Err(error) => panic!("no '{text}' ({error}) in:\n{}", self.log),
            }
        }
    }

    fn note(&mut self, line: &str) {
        self.log.push_str(line);
        self.log.push('\n');
    }

    /// Lets it work for so long; it must not end by itself.
    pub(crate) fn work(&mut self, time: Duration) {
        assert!(self.works(time), "ended by itself:\n{}", self.log);
    }

    /// Lets it work for so long; whether it still does.
    pub(crate) fn works(&mut self, time: Duration) -> bool {
        let mut left = time;
        let step = Duration::from_millis(1);
        loop {
            match self.lines.recv_timeout(left) {
                Ok(line) => {
                    self.note(&line);
                    left = left.saturating_sub(step);
                }
                Err(RecvTimeoutError::Timeout) => return true,
                Err(RecvTimeoutError::Disconnected) => return false,
            }
        }
    }

    /// kill -9, and what it said until then.
    pub(crate) fn kill(mut self) -> String {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.drain();
        std::mem::take(&mut self.log)
    }

    /// SIGTERM, as an operator or an init system sends it.
    pub(crate) fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends it a signal, such as STOP or CONT.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(format!("-{signal}")).arg(self.child.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// All that it has said until now.
    pub(crate) fn said_so_far(&mut self) -> &str {
        while let Ok(line) = self.lines.try_recv() {
            self.note(&line);
        }
        &self.log
    }

    /// What it has said as far as was listened.
    pub(crate) fn said(&self) -> &str {
        &self.log
    }

    /// Asks it to end as an operator does, which it does well; its log.
    pub(crate) fn stop(self) -> String {
        self.terminate();
        let (status, log) = self.end();
        assert!(status.success(), "{log}");
        log
    }

    /// Waits for its end.
    pub(crate) fn end(mut self) -> (ExitStatus, String) {
        drop(self.child.stdin.take());
        self.drain();
        let status = self.child.wait().unwrap();
        (status, std::mem::take(&mut self.log))
    }

    fn drain(&mut self) {
        loop {
            match self.lines.recv_timeout(PATIENCE) {
                Ok(line) => self.note(&line),
                Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => panic!("silent and not at its end:\n{}", self.log),
            }
        }
    }

    /// The address it serves on, whenever it said so.
    pub(crate) fn address(&mut self) -> String {
        let (line, _) = self.find(0, "serving");
        let at = line.find("address=").unwrap();
        line[at + "address=".len()..].trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_before = self.child.kill();
        let _ended_before = self.child.wait();
    }
}

/// A caller of a running process.
pub(crate) struct Caller {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    base: String,
}

impl Caller {
    pub(crate) fn new(address: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { runtime, client: reqwest::Client::new(), base: format!("http://{address}") }
    }

    /// Another caller of the same process, with connections of its own.
    pub(crate) fn apart(&self) -> Self {
        Self::new(self.address())
    }

    /// The address of the process.
    pub(crate) fn address(&self) -> &str {
        self.base.trim_start_matches("http://")
    }

    /// Status and body; `None` when the connection broke.
    pub(crate) fn try_send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<(u16, String)> {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let mut request = self.client.request(method, format!("{}{path}", self.base)).body(body.to_owned());
        request = request.header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        self.runtime.block_on(async {
            let answer = request.send().await.ok()?;
            let status = answer.status().as_u16();
            Some((status, answer.text().await.ok()?))
        })
    }

    pub(crate) fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &Value) -> (u16, Value) {
        let (status, text) = self.try_send(method, path, headers, &body.to_string()).expect("an answer");
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send("POST", path, &[], body)
    }

    pub(crate) fn get(&self, path: &str) -> (u16, Value) {
        self.send("GET", path, &[], &Value::Null)
    }

    /// Asks until `is_there` says so: for what happens on another thread of the process.
    #[expect(clippy::disallowed_methods, reason = "a test ends in real time")]
    pub(crate) fn until<T>(&self, mut ask: impl FnMut(&Self) -> Option<T>) -> T {
        let began = Instant::now();
        loop {
            if let Some(found) = ask(self) {
                return found;
            }
            assert!(began.elapsed() < PATIENCE, "it does not come");
        }
    }
}

/// A Debezium line: `op` of a transaction at `lsn`.
pub(crate) fn debezium(op: &str, lsn: u64, row: &Value) -> String {
    let (before, after) = if op == "d" { (row, &Value::Null) } else { (&Value::Null, row) };
    let time = row["tx_datetime"].as_i64().unwrap() / 1_000;
    let line = serde_json::json!({
        "before": before, "after": after, "op": op, "ts_ms": time,
        "source": { "connector": "postgresql", "schema": "public", "table": "transactions", "lsn": lsn, "ts_ms": time, "txId": lsn },
    });
    format!("{line}\n")
}

/// A transaction's row as Debezium writes it, `second`s into a day.
pub(crate) fn row(id: i64, second: i64, customer: i64, amount: &str) -> Value {
    serde_json::json!({
        "transaction_id": id, "tx_datetime": 1_750_000_000_000_000_i64 + second * 1_000_000, "customer_id": customer,
        "terminal_id": customer % 7, "amount": amount, "is_fraud": null,
    })
}

pub(crate) fn text(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap()
}
