//! PostgreSQL servers that tests start themselves, in folders of their own, on free ports.
//!
//! A server ends with the process that started it, however that ends: it waits for the other end of a pipe to close.

use std::io::Write as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Where Debian keeps the programs.
const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";

/// A running server.
#[derive(Debug)]
pub(crate) struct PostgresServer {
    folder: tempfile::TempDir,
    pub(crate) port: u16,
    watchdog: Child,
}

impl PostgresServer {
    /// Starts a server with logical replication, trust for everyone, and these further settings.
    #[expect(clippy::disallowed_methods, reason = "a test may wait, with a bound")]
    pub(crate) fn start(settings: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("pg").tempdir().expect("a folder");
        let path = folder.path().to_owned();
        own(&path);
        let made = run_as_server(
            "initdb",
            &["-D", &text(&path.join("data")), "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
        );
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        let port = free_port();
        let mut configuration = format!(
            "port = {port}\nlisten_addresses = 'localhost'\nunix_socket_directories = '{}'\nwal_level = logical\nfsync = off\n\
             max_wal_senders = 60\nmax_replication_slots = 60\nmax_connections = 150\nshared_buffers = 32MB\n\
             autovacuum = off\nmax_prepared_transactions = 5\nlog_min_messages = fatal\n",
            path.display()
        );
        for setting in settings {
            configuration.push_str(setting);
            configuration.push('\n');
        }
        let file = path.join("data/postgresql.conf");
        std::fs::OpenOptions::new()
            .append(true)
            .open(&file)
            .expect("its settings")
            .write_all(configuration.as_bytes())
            .expect("settings");
        let watchdog = watchdog(&path);
        let server = Self { folder, port, watchdog };
        server.begin();
        let deadline = Instant::now() + Duration::from_secs(30);
        while !server.try_sql("postgres", "SELECT 1").status.success() {
            assert!(Instant::now() < deadline, "the server does not start");
            std::thread::yield_now();
        }
        server
    }

    /// The folder of its data.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The folder of its socket.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn begin(&self) {
        self.control(&["start", "-w", "-t", "60"]);
    }

    /// Runs `pg_ctl`.
    pub(crate) fn control(&self, arguments: &[&str]) {
        let (data, log) = (text(&self.data()), text(&self.folder.path().join("log")));
        let mut all = vec!["-D", &data, "-l", &log, "-s"];
        all.extend_from_slice(arguments);
        let done = run_as_server("pg_ctl", &all);
        assert!(done.status.success(), "pg_ctl {arguments:?}: {}", std::fs::read_to_string(&log).unwrap_or_default());
    }

    /// Runs statements as superuser; the rows as lines of cells by `|`.
    pub(crate) fn sql(&self, database: &str, statements: &str) -> Vec<String> {
        let done = self.try_sql(database, statements);
        assert!(done.status.success(), "{statements}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8_lossy(&done.stdout).lines().map(str::to_owned).collect()
    }

    pub(crate) fn try_sql(&self, database: &str, statements: &str) -> Output {
        let mut psql = Command::new(format!("{PROGRAMS}/psql"))
            .args(["-h", "localhost", "-p", &self.port.to_string(), "-U", "postgres", "-d", database])
            .args(["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-f", "-"])
            .env_remove("PGPASSWORD")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("psql of Debian's postgresql-client-15");
        psql.stdin.take().expect("a pipe").write_all(statements.as_bytes()).expect("statements");
        psql.wait_with_output().expect("psql")
    }

    /// Makes a database of its own for a test.
    pub(crate) fn database(&self, name: &str) {
        self.sql("postgres", &format!("CREATE DATABASE {name}"));
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        drop(self.watchdog.stdin.take());
        drop(self.watchdog.wait());
    }
}

fn watchdog(folder: &Path) -> Child {
    let script = format!(
        "read _; kill -QUIT $(head -1 '{0}/data/postmaster.pid'); while [ -e '{0}/data/postmaster.pid' ]; do sleep 0.05; done; rm -rf '{0}'",
        folder.display()
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    // A signal to the test's group must not end it before the server.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().expect("a shell")
}

/// The server refuses to run as root.
fn run_as_server(program: &str, arguments: &[&str]) -> Output {
    let path = format!("{PROGRAMS}/{program}");
    let mut command = if is_root() {
        let mut command = Command::new("setpriv");
        command.args(["--reuid=postgres", "--regid=postgres", "--clear-groups", "--", &path]);
        command
    } else {
        Command::new(&path)
    };
    command.args(arguments).current_dir("/").env("LC_ALL", "C").stdin(Stdio::null());
    // The server keeps its outputs open: they must not be pipes that somebody waits on.
    if program == "pg_ctl" {
        command.stdout(Stdio::null()).stderr(Stdio::null());
    }
    command.output().unwrap_or_else(|error| panic!("{path} of Debian's postgresql-15: {error}"))
}

/// Gives a folder to the user that servers run as.
pub(crate) fn own(folder: &Path) {
    if is_root() {
        let done = Command::new("chown").arg("postgres").arg(folder).status().expect("chown");
        assert!(done.success());
    }
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0)
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).expect("a free port").local_addr().expect("its address").port()
}

fn text(path: &Path) -> String {
    path.to_str().expect("UTF-8").to_owned()
}
