//! A PostgreSQL 15 of the tests' own: one for all that run at the same time, stopped with the last of them.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, Weak};

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

const PROGRAMS: &str = "/usr/lib/postgresql/15/bin";
/// Whoever connects as `secret` needs this; `interdict` and the superuser need none.
pub(super) const PASSWORD: &str = "correct horse battery staple";

/// A running server.
pub(super) struct Server {
    folder: TempDir,
    pub(super) port: u16,
    databases: AtomicUsize,
}

/// The ids of the user `postgres`, where the tests run as root: the server refuses to.
fn server_user() -> Option<(u32, u32)> {
    let id = |arguments: &[&str]| {
        let output = Command::new("id").args(arguments).output().expect("`id` is on the PATH");
        String::from_utf8(output.stdout).unwrap().trim().parse::<u32>().ok()
    };
    (id(&["-u"]) == Some(0)).then(|| {
        let user = (id(&["-u", "postgres"]), id(&["-g", "postgres"]));
        (user.0.expect("a user `postgres`: install postgresql-15"), user.1.expect("a group `postgres`"))
    })
}

fn run(program: &str, arguments: &[&str]) {
    let path = Path::new(PROGRAMS).join(program);
    assert!(path.exists(), "{} is missing: install postgresql-15", path.display());
    let mut command = match server_user() {
        None => Command::new(path),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command.args([format!("--reuid={uid}"), format!("--regid={gid}"), "--clear-groups".to_owned()]);
            command.arg(path);
            command
        }
    };
    // The server inherits what pg_ctl has: a pipe would be held open for as long as it runs.
    let status = command.args(arguments).current_dir("/").stdout(std::process::Stdio::null()).status().unwrap();
    assert!(status.success(), "{program} {arguments:?}: {status}");
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// The server of the tests that run now; started for the first.
    pub(super) fn shared() -> Arc<Self> {
        static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());
        let mut shared = SHARED.lock().unwrap();
        shared.upgrade().unwrap_or_else(|| {
            let server = Arc::new(Self::start("postgres"));
            *shared = Arc::downgrade(&server);
            server
        })
    }

    /// A server of one's own; `certificate` names who it is to those that connect with TLS.
    pub(super) fn start(certificate: &str) -> Self {
        let folder = tempfile::Builder::new().permissions(std::fs::Permissions::from_mode(0o755)).tempdir().unwrap();
        let server = Self { folder, port: free_port(), databases: AtomicUsize::new(0) };
        let data = server.path("data");
        std::fs::create_dir(&data).unwrap();
        server.give(&data);
        run("initdb", &["-D", data.to_str().unwrap(), "-U", "postgres", "--auth=trust", "-E", "UTF8", "--no-sync"]);
        let key = rcgen::generate_simple_self_signed(vec![certificate.to_owned()]).unwrap();
        for (name, pem) in [("server.crt", key.cert.pem()), ("server.key", key.signing_key.serialize_pem())] {
            std::fs::write(data.join(name), pem).unwrap();
            std::fs::set_permissions(data.join(name), std::fs::Permissions::from_mode(0o600)).unwrap();
            server.give(&data.join(name));
        }
        std::fs::write(
            data.join("pg_hba.conf"),
            "host all secret 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n",
        )
        .unwrap();
        server.resume();
        server
    }

    fn give(&self, path: &Path) {
        if let Some((uid, gid)) = server_user() {
            chown(path, Some(uid), Some(gid)).unwrap();
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The certificate by which the server is known.
    pub(super) fn certificate(&self) -> PathBuf {
        let copy = self.path("ca.pem");
        std::fs::copy(self.path("data/server.crt"), &copy).unwrap();
        copy
    }

    /// Starts it again after [`Self::crash`].
    pub(super) fn resume(&self) {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off -c ssl=on \
             -c max_connections=50 -c log_min_messages=fatal",
            self.port
        );
        let data = self.path("data");
        let log = data.join("log");
        let data = data.to_str().unwrap();
        run("pg_ctl", &["-D", data, "-l", log.to_str().unwrap(), "-o", &options, "-w", "-t", "60", "start"]);
    }

    /// Ends it as a crash would.
    pub(super) fn crash(&self) {
        run("pg_ctl", &["-D", self.path("data").to_str().unwrap(), "-m", "immediate", "-w", "-t", "60", "stop"]);
    }

    /// A connection of the superuser, who sees and breaks everything.
    pub(super) async fn connect(&self, database: &str) -> Client {
        let url = format!("postgres://postgres@127.0.0.1:{}/{database}", self.port);
        let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A new database with accounts 1 to 20, of which the user `interdict` may change those columns that a block needs.
    pub(super) async fn database(&self) -> (String, Client) {
        let name = format!("bank_{}", self.databases.fetch_add(1, Ordering::SeqCst));
        let postgres = self.connect("postgres").await;
        let roles = format!(
            "DO $$ BEGIN \
               PERFORM pg_advisory_xact_lock(1); \
               IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'interdict') THEN \
                 CREATE ROLE interdict LOGIN; CREATE ROLE secret LOGIN PASSWORD '{PASSWORD}' IN ROLE interdict; \
               END IF; END $$"
        );
        postgres.batch_execute(&roles).await.unwrap();
        postgres.batch_execute(&format!("CREATE DATABASE {name} STRATEGY file_copy")).await.unwrap();
        let client = self.connect(&name).await;
        client
            .batch_execute(
                "CREATE TABLE accounts (
                   id bigint PRIMARY KEY,
                   status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'blocked')),
                   told text,
                   blocks int NOT NULL DEFAULT 0,
                   unblocks int NOT NULL DEFAULT 0);
                 INSERT INTO accounts (id) SELECT generate_series(1, 20);
                 GRANT SELECT, UPDATE ON accounts TO interdict;
                 GRANT CREATE ON SCHEMA public TO interdict;",
            )
            .await
            .unwrap();
        (name, client)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.path("data");
        if data.join("postmaster.pid").exists() {
            run("pg_ctl", &["-D", data.to_str().unwrap(), "-m", "immediate", "-w", "-t", "60", "stop"]);
        }
    }
}
