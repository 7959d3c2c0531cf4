//! A PostgreSQL with accounts, of a test's own.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A server with a database `bank` and accounts 1 to 20; stopped when dropped.
pub(crate) struct Bank {
    folder: TempDir,
    port: u16,
}

/// A program of the server, as the user `postgres` where the tests run as root: the server refuses to.
fn program(name: &str) -> Command {
    let path = Path::new(PROGRAMS).join(name);
    assert!(path.exists(), "{} is missing: install postgresql-15", path.display());
    let Some((uid, gid)) = server_user() else { return Command::new(path) };
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]).arg(path);
    command
}

fn server_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
    };
    (id(&["-u"]) == Some(0)).then(|| (id(&["-u", "postgres"]).unwrap(), id(&["-g", "postgres"]).unwrap()))
}

fn run(mut command: Command) {
    let status = command.current_dir("/").stdout(Stdio::null()).status().unwrap();
    assert!(status.success(), "{command:?}: {status}");
}

impl Bank {
    pub(crate) fn open() -> Self {
        let folder = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let bank = Self { folder, port };
        std::fs::create_dir(bank.data()).unwrap();
        if let Some((uid, gid)) = server_user() {
            chown(bank.data(), Some(uid), Some(gid)).unwrap();
        }
        let mut initdb = program("initdb");
        initdb.args(["-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync", "-D"]).arg(bank.data());
        run(initdb);
        bank.start();
        bank.ask_in("postgres", "CREATE DATABASE bank");
        bank.ask_in("postgres", "CREATE ROLE interdict LOGIN");
        bank.ask(
            "CREATE TABLE accounts (id bigint PRIMARY KEY, status text DEFAULT 'active', blocks int DEFAULT 0); \
             INSERT INTO accounts SELECT generate_series(1, 20); GRANT SELECT, UPDATE ON accounts TO interdict; \
             GRANT CREATE ON SCHEMA public TO interdict",
        );
        bank
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    pub(crate) fn start(&self) {
        let mut start = program("pg_ctl");
        let port = self.port;
        let options = format!("-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off");
        start.args(["-w", "-t", "60", "-o", &options, "-l"]).arg(self.data().join("log"));
        start.arg("-D").arg(self.data()).arg("start");
        run(start);
    }

    /// Ends the server as a crash would.
    pub(crate) fn crash(&self) {
        let mut stop = program("pg_ctl");
        stop.args(["-w", "-t", "60", "-m", "immediate", "-D"]).arg(self.data()).arg("stop");
        run(stop);
    }

    /// What a statement answers: rows by line, columns divided by `|`.
    pub(crate) fn ask(&self, sql: &str) -> String {
        self.ask_in("bank", sql)
    }

    fn ask_in(&self, database: &str, sql: &str) -> String {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", self.port);
        let output = program("psql").current_dir("/").args(["-XqAt", "-c", sql, &url]).output().unwrap();
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    /// Asks until the answer is `expected`.
    pub(crate) fn wait_for(&self, sql: &str, expected: &str) {
        let mut last = String::new();
        let is_there = (0..5_000).any(|_| {
            last = self.ask(sql);
            last == expected
        });
        assert!(is_there, "{sql}: '{last}' and never '{expected}'");
    }

    /// The action that blocks in it.
    pub(crate) fn action(&self) -> String {
        format!(
            "[[action]]\nname = \"block_account\"\ntype = \"postgres\"\non = \"block\"\nentity = \"customer\"\n\
             url = \"postgres://interdict@127.0.0.1:{}/bank\"\n\
             block = \"UPDATE accounts SET status = 'blocked', blocks = blocks + 1 WHERE id = $1\"\n\
             unblock = \"UPDATE accounts SET status = 'active' WHERE id = $1\"\n\
             retry_first = \"10ms\"\nretry_max = \"50ms\"\n",
            self.port
        )
    }
}

impl Drop for Bank {
    fn drop(&mut self) {
        if self.data().join("postmaster.pid").exists() {
            self.crash();
        }
    }
}
