//! Roles as processes of their own: a real PostgreSQL, a real Redis, two ingestors, two scorers and a monitor.

mod acting;
mod bursts;
mod chaos;
mod disorder;
#[cfg(feature = "fluvio-server")]
mod fluvio;
mod lists;
mod lost;
mod lost_tail;
mod modes;
mod monitors;
mod republish;
mod stopping;
mod topics;
mod truncated;
mod unblocks;
mod unread;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use interdict_features::decision::{DecisionRecord, decision_id};
use interdict_features::value::Value;
use uuid::Uuid;

use crate::archive::{archived, captured};
use crate::bank::Bank;
use crate::parity::captured::SCORER;
use crate::parity::twin::DEFINITIONS;
use crate::place::{Caller, Place, Process};
use crate::redis_server::RedisServer;

/// The processes of a fleet, each with its role. The last one takes part where it is asked for.
const PROCESSES: [&str; 6] = ["ingest", "ingest", "scorer", "scorer", "monitor", "monitor"];
const MONITOR: usize = 4;
/// The one with a configuration, and a folder, of its own.
const OTHER_MONITOR: usize = 5;

/// A bank, a Redis, and what works on them.
pub(crate) struct Fleet {
    pub(crate) bank: Bank,
    pub(crate) redis: RedisServer,
    pub(crate) place: Place,
    processes: Vec<Option<Process>>,
    /// Where the scorers answer.
    ports: [u16; 2],
    /// What is read instead of the bank's tables.
    feed: Option<String>,
    /// How many of [`PROCESSES`] take part.
    size: usize,
}

impl Fleet {
    /// Nothing runs yet but the servers.
    pub(crate) fn open(namespace: &str) -> Self {
        Self::fed(namespace, None)
    }

    /// One that reads `feed`, sources and sinks, instead of the bank's tables.
    pub(crate) fn fed(namespace: &str, feed: Option<String>) -> Self {
        let bank = Bank::open();
        bank.ask("ALTER SYSTEM SET wal_sender_timeout = '1s'; SELECT pg_reload_conf();");
        let redis = RedisServer::start();
        let place = Place::new("");
        let mut fleet = Self { bank, redis, place, processes: Vec::new(), ports: [0; 2], feed, size: OTHER_MONITOR };
        fleet.configure(namespace);
        fleet
    }

    /// With two monitors, the second of which writes to a folder of its own.
    pub(crate) fn with_two_monitors(self) -> Self {
        Self { size: PROCESSES.len(), ..self }
    }

    /// Another namespace, slot and log: nothing of what was before is known.
    pub(crate) fn configure(&mut self, namespace: &str) {
        let (bank, url) = (&self.bank, self.redis.url());
        let action = bank.action();
        // Topics are kept by their broker.
        let archive = match self.feed {
            Some(_) => String::new(),
            None => format!("[archive]\ndir = \"{namespace}-changes\"\nfile_rows = 300\nfile_age = \"100ms\"\n"),
        };
        let feed = self.feed.clone().unwrap_or_else(|| bank.source(namespace));
        let config = format!(
            "namespace = \"{namespace}\"\n{DEFINITIONS}{}\n{action}{}\n[store]\ntype = \"redis\"\nurl = \"{url}\"\nwait = \"2s\"\nlease = \"1s\"\n{archive}",
            SCORER.replace("log_dir = \"decisions\"", &format!("log_dir = \"{namespace}\"\nbatch_rows = 300")),
            feed.replacen("[[source]]", "[[action]]\nname = \"block_customer\"\non = \"block\"\nentity = \"customer\"\ntype = \"store\"\n\n[[source]]", 1),
        );
        self.place.write("interdict.toml", config);
        self.processes = PROCESSES.iter().map(|_| None).collect();
        self.ports = [free_port(), free_port()];
    }

    /// Starts the process at `place` of [`PROCESSES`] if it does not run.
    pub(crate) fn begin(&mut self, place: usize) {
        if self.processes[place].is_none() {
            let role = PROCESSES[place];
            let bind = match place {
                2 => format!("--bind 127.0.0.1:{}", self.ports[0]),
                3 => format!("--bind 127.0.0.1:{}", self.ports[1]),
                OTHER_MONITOR => format!("--bind 127.0.0.1:0 --config {}", self.other_config()),
                _ => "--bind 127.0.0.1:0".to_owned(),
            };
            self.processes[place] = Some(self.place.start(&format!("run --role {role} {bind}")));
        }
    }

    pub(crate) fn begin_all(&mut self) {
        (0..self.size).for_each(|place| self.begin(place));
    }

    /// The configuration with the other folder for decisions.
    fn other_config(&self) -> &'static str {
        let config = crate::place::text(&self.place.path("interdict.toml"));
        self.place.write("other-monitor.toml", config.replacen("log_dir = \"", "log_dir = \"other-", 1));
        "other-monitor.toml"
    }

    pub(crate) fn process(&mut self, place: usize) -> &mut Process {
        self.processes[place].as_mut().expect("it runs")
    }

    pub(crate) fn kill(&mut self, place: usize) {
        if let Some(process) = self.processes[place].take() {
            process.kill();
        }
    }

    /// Starts those again that have ended by themselves, as an init system would.
    pub(crate) fn revive(&mut self) {
        for place in 0..self.size {
            let has_ended =
                self.processes[place].as_mut().is_some_and(|process| !process.works(Duration::from_millis(1)));
            if has_ended {
                self.processes[place] = None;
            }
            self.begin(place);
        }
    }

    /// Ends all of them as an operator does; each must end well, but for one that came back to what another one had taken over meanwhile:
    /// that ends by itself, to be started again.
    pub(crate) fn end_all(&mut self) {
        let running: Vec<Process> = self.processes.iter_mut().filter_map(Option::take).collect();
        running.iter().for_each(Process::terminate);
        for process in running {
            let (status, log) = process.end();
            let told = ["another process writes to", "another process has taken", "another process is the monitor now"];
            let is_fenced = told.iter().any(|told| log.contains(told));
            // Whoever has not come to say anything yet knows of no signal.
            assert!(status.success() || is_fenced || log.is_empty(), "{log}");
        }
    }

    /// Has each monitor open its folder once more: what one wrote and could not tell of before it died is told of, or taken out, then.
    pub(crate) fn reopen_folders(&mut self) {
        for monitor in [MONITOR, OTHER_MONITOR] {
            self.begin(monitor);
            self.process(monitor).wait_for("monitoring");
            self.end_all();
        }
    }

    /// Somebody who asks the scorer `number`.
    pub(crate) fn caller(&self, number: usize) -> Caller {
        Caller::new(&format!("127.0.0.1:{}", self.ports[number]))
    }

    /// As [`Self::caller`], once that process serves: it may have begun a moment ago.
    pub(crate) fn ready(&self, number: usize) -> Caller {
        let caller = self.caller(number);
        caller.until(|caller| {
            let (status, _) = caller.try_send("GET", "/health/ready", &[], "")?;
            (status == 200).then_some(())
        });
        caller
    }

    /// Lets what runs work for so long.
    #[expect(clippy::disallowed_methods, reason = "a test may let time pass")]
    pub(crate) fn wait(&self, time: Duration) {
        std::thread::sleep(time);
    }

    /// Begins anew: empty tables, no slots, another namespace.
    pub(crate) fn renew(&mut self, namespace: &str) {
        self.bank.ask(
            "TRUNCATE transactions, chargebacks; UPDATE accounts SET status = 'active', blocks = 0 WHERE status <> 'active' OR blocks <> 0;\n\
             SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots;\nDROP TABLE IF EXISTS interdict_ledger;",
        );
        self.redis.say(&["FLUSHALL"]);
        self.configure(namespace);
    }

    /// Waits until no work and no action is left, and a monitor has the lease: one that died keeps it for a while.
    pub(crate) fn settle(&mut self, namespace: &str) {
        for _ in 0..600 {
            self.revive();
            let has_lease = (MONITOR..self.size).any(|monitor| {
                let monitor = self.process(monitor);
                monitor.works(Duration::from_millis(1)) && monitor.said().contains("monitoring")
            });
            let left = ["ZCARD", "XLEN"].map(|ask| {
                let key = if ask == "ZCARD" { "outbox" } else { "work" };
                self.redis.say(&[ask, &format!("{{{namespace}}}:{key}")])
            });
            if has_lease && left == ["0", "0"] {
                return;
            }
            self.wait(Duration::from_millis(50));
        }
        panic!("work or actions are left in {namespace}\n{}", self.logs());
    }

    /// Waits until the first ingestor has read the snapshot and stored it: if it dies before, there is another snapshot, and what committed
    /// meanwhile is history in it, which nobody judges.
    pub(crate) fn stored_snapshot(&mut self, namespace: &str) {
        self.process(0).wait_for("the snapshot is read");
        let offsets = format!("{{{namespace}}}:offsets");
        for _ in 0..600 {
            if !["", "0"].contains(&self.redis.say(&["HGET", &offsets, "0:bank"]).as_str()) {
                return;
            }
            self.wait(Duration::from_millis(50));
        }
        panic!("the snapshot is not stored in {namespace}\n{}", self.logs());
    }

    /// What the processes that run have said.
    pub(crate) fn logs(&mut self) -> String {
        let mut logs = String::new();
        for (process, role) in self.processes.iter_mut().zip(PROCESSES) {
            if let Some(process) = process {
                process.works(Duration::from_millis(1));
                logs.push_str(&format!("--- {role}\n{}\n", process.said()));
            }
        }
        logs
    }

    /// Waits for the decision on a payment.
    pub(crate) fn decided(&mut self, namespace: &str, payment: i64) {
        let id = decision_id(namespace, "transactions", &payment.to_string(), 0);
        let path = format!("/v1/decisions/{id}");
        for _ in 0..600 {
            self.revive();
            let caller = self.caller(0);
            if let Some((200, _)) = caller.try_send("GET", &path, &[], "") {
                return;
            }
            self.wait(Duration::from_millis(50));
        }
        panic!("no decision on payment {payment}\n{}", self.logs());
    }

    /// Whom decisions condemned is blocked, once for each of them; nobody else is.
    pub(crate) fn check_blocks(&self, records: &[DecisionRecord]) {
        self.check_acts(records, &BTreeSet::new());
    }

    /// As [`Fleet::check_blocks`], where people acted on the customers `acted` besides: these are left as whatever was decided last.
    pub(crate) fn check_acts(&self, records: &[DecisionRecord], acted: &BTreeSet<i64>) {
        let mut condemned = BTreeSet::new();
        let is_condemning = |record: &&DecisionRecord| record.actions.iter().any(|it| it.action == "block_account");
        for record in records.iter().filter(is_condemning) {
            let Value::Int(customer) = record.event["customer_id"] else { panic!("{record:?}") };
            condemned.insert(format!("{}|{customer}", record.decision_id));
        }
        assert!(!condemned.is_empty(), "nobody is to be blocked");
        let lines =
            "SELECT decision_id, entity_key, kind, outcome FROM interdict_ledger ORDER BY decided_at, kind = 'unblock'";
        let mut accounts: BTreeMap<i64, (usize, &str)> = BTreeMap::new();
        for line in self.bank.ask(lines).lines() {
            let [id, key, kind, outcome] = line.split('|').collect::<Vec<_>>()[..] else { panic!("{line}") };
            let customer: i64 = key.parse().unwrap();
            let is_acted = acted.contains(&customer);
            let is_decided = kind == "block" && condemned.remove(&format!("{id}|{key}"));
            assert!(is_decided || (is_acted && kind != "block"), "nobody asked for {line}");
            assert!(outcome == "done" || (is_acted && outcome == "superseded"), "{line}");
            if outcome == "done" {
                let (blocks, status) = accounts.entry(customer).or_default();
                *blocks += usize::from(kind != "unblock");
                *status = if kind == "unblock" { "active" } else { "blocked" };
            }
        }
        assert!(condemned.is_empty(), "not in the ledger: {condemned:?}");
        let rows = "SELECT id, status, blocks FROM accounts WHERE status <> 'active' OR blocks <> 0 ORDER BY id";
        let is_touched = |(_, (blocks, _)): &(&i64, &(usize, &str))| *blocks > 0;
        let touched = accounts.iter().filter(is_touched);
        let expected: Vec<String> = touched.map(|(id, (blocks, status))| format!("{id}|{status}|{blocks}")).collect();
        assert_eq!(self.bank.ask(rows).lines().collect::<Vec<_>>(), expected);
    }

    /// Waits until the archive has a payment: who is told to end while another one takes the slot leaves his last moments to the next start.
    pub(crate) fn await_archived(&mut self, namespace: &str, payment: i64) {
        let dir = self.place.path(&format!("{namespace}-changes"));
        let has_it = |_: &mut Self| archived(&dir, "bank", "transactions").iter().any(|row| row.id == Some(payment));
        self.wait_until(&format!("payment {payment} in the archive"), has_it);
    }

    /// The archive holds every change that the server remembers, once and in order.
    pub(crate) fn check_archive(&self, namespace: &str) {
        let dir = self.place.path(&format!("{namespace}-changes"));
        for table in ["transactions", "chargebacks"] {
            captured::check(archived(&dir, "bank", table), &captured::remembered(&self.bank, table));
        }
    }

    /// The decisions in Parquet, each once and in one folder.
    pub(crate) fn logged(&self, namespace: &str) -> BTreeMap<Uuid, DecisionRecord> {
        let mut decisions = BTreeMap::new();
        let folders = [namespace.to_owned(), format!("other-{namespace}")].map(|folder| self.place.path(&folder));
        for folder in folders.iter().filter(|folder| folder.exists()) {
            for entry in interdict_monitor::log::read(folder).unwrap() {
                let record = entry.unwrap().record;
                let earlier = decisions.insert(record.decision_id, record);
                assert!(earlier.is_none(), "one decision stands in Parquet twice: {earlier:?}");
            }
        }
        decisions
    }
}

/// A port that stays free while its process is down: below those that the system gives to others.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let first = std::process::id() * 16 % 16_000;
    let mut ports = (0..16_000).map(|_| 12_000 + (first + NEXT.fetch_add(1, Ordering::Relaxed)) % 16_000);
    let free = ports.find_map(|port| {
        let port = u16::try_from(port).unwrap();
        std::net::TcpListener::bind(("127.0.0.1", port)).is_ok().then_some(port)
    });
    free.expect("some port is free")
}
