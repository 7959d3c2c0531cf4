//! A deployment over a Redis as its users start it: a configuration in a folder of its own, this program as processes of their own.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

/// The Redis that a bench may fill and empty.
#[derive(clap::Args, Clone, Debug)]
pub(super) struct Redis {
    /// An empty Redis on this machine; what is in it afterwards is removed [default: INTERDICT_REDIS]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Have it keep an append-only file that is synced every second (it goes on syncing so); otherwise it keeps none meanwhile
    #[arg(long)]
    pub(super) append_only: bool,
}

impl Redis {
    /// Its URL; it holds nothing.
    pub(super) fn url(&self) -> anyhow::Result<String> {
        #[expect(clippy::disallowed_methods, reason = "the server is configuration")]
        let variable = std::env::var("INTERDICT_REDIS").ok();
        let url = self.redis.clone().or(variable);
        let url = url.context("no Redis: add --redis redis://HOST:PORT, or run this by `make bench-redis`")?;
        ensure_empty(&url)?;
        Ok(url)
    }

    /// Has the server at `url` keep on disk what is asked for, until what is returned is dropped.
    pub(super) fn keep(&self, url: &str) -> anyhow::Result<Kept> {
        let was = ask(url, "INFO persistence")?.lines().any(|line| line == "aof_enabled:1");
        let kept = Kept { url: url.to_owned(), was, is: self.append_only };
        if was != self.append_only {
            ask(url, set_append_only(self.append_only))?;
        }
        if self.append_only {
            ask(url, "CONFIG SET appendfsync everysec")?;
        }
        Ok(kept)
    }
}

/// Puts back whether a server keeps an append-only file.
#[derive(Debug)]
pub(super) struct Kept {
    url: String,
    was: bool,
    is: bool,
}

impl Drop for Kept {
    fn drop(&mut self) {
        if self.was != self.is
            && let Err(error) = ask(&self.url, set_append_only(self.was))
        {
            tracing::warn!(%error, "the Redis keeps the setting appendonly of this bench");
        }
    }
}

fn set_append_only(is_kept: bool) -> &'static str {
    if is_kept { "CONFIG SET appendonly yes" } else { "CONFIG SET appendonly no" }
}

pub(super) fn ensure_empty(url: &str) -> anyhow::Result<()> {
    let held = ask(url, "DBSIZE")?;
    ensure!(held == ":0", "the Redis at {url} is not empty ({held} keys): a bench fills and empties it");
    Ok(())
}

/// One command of plain words to the server at `url`, and its answer as it comes.
pub(super) fn ask(url: &str, command: &str) -> anyhow::Result<String> {
    let address = url.strip_prefix("redis://").with_context(|| format!("{url}: benches take redis://HOST:PORT"))?;
    let mut connection = TcpStream::connect(address).with_context(|| format!("{url} cannot be reached"))?;
    connection.write_all(format!("{command}\r\n").as_bytes())?;
    let mut reader = BufReader::new(connection);
    let mut head = String::new();
    reader.read_line(&mut head)?;
    let head = head.trim_end().to_owned();
    ensure!(!head.starts_with('-'), "{command}: {head}");
    let Some(length) = head.strip_prefix('$') else { return Ok(head) };
    let mut text = vec![0; length.parse()?];
    reader.read_exact(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Seconds of processor time that the server has used.
pub(super) fn server_seconds(url: &str) -> anyhow::Result<f64> {
    let told = ask(url, "INFO cpu")?;
    let figures = told.lines().filter_map(|line| line.split_once(':'));
    let of = figures.filter(|(name, _)| ["used_cpu_user", "used_cpu_sys"].contains(name));
    Ok(of.filter_map(|(_, seconds)| seconds.parse::<f64>().ok()).sum())
}

/// A folder with a configuration.
#[derive(Debug)]
pub(super) struct Deployment {
    folder: TempDir,
}

impl Deployment {
    /// `text` as `interdict.toml`.
    pub(super) fn new(text: &str) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("interdict.toml"), text)?;
        Ok(Self { folder })
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// This program with `arguments`, within the folder.
    pub(super) fn command(&self, arguments: &[&str]) -> anyhow::Result<Command> {
        let mut command = Command::new(std::env::current_exe()?);
        command.current_dir(self.folder.path()).args(arguments);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        Ok(command)
    }

    /// Runs this program to its end; what it said.
    pub(super) fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let ended = self.command(arguments)?.output()?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        ensure!(ended.status.success(), "interdict {} ended with {}:\n{said}", arguments.join(" "), ended.status);
        Ok(said)
    }

    /// Starts this program as a server on a free port.
    pub(super) fn serve(&self, arguments: &[&str]) -> anyhow::Result<Server> {
        let mut command = self.command(arguments)?;
        // A source that is its standard input does not end before it does.
        let mut child = command.stdin(Stdio::piped()).spawn()?;
        let errors = BufReader::new(child.stderr.take().context("standard error is a pipe")?);
        let mut server = Server { child, address: String::new() };
        server.address = address(errors)?;
        Ok(server)
    }
}

/// Where a server says that it serves; the rest of what it says is read and dropped.
fn address(errors: BufReader<ChildStderr>) -> anyhow::Result<String> {
    let mut lines = errors.lines();
    let mut said = String::new();
    loop {
        let Some(line) = lines.next().transpose()? else { bail!("the server did not start:\n{said}") };
        if let Some((_, address)) = line.split_once("serving address=") {
            let address = address.trim().to_owned();
            std::thread::spawn(move || lines.for_each(drop));
            return Ok(address);
        }
        said.push_str(&line);
        said.push('\n');
    }
}

/// A running server; ends with this.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    pub(super) address: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The configuration of `file` with its features in the Redis at `url` and its bundle found from anywhere.
pub(super) fn over_redis(file: &Path, url: &str) -> anyhow::Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let home = file.parent().unwrap_or(Path::new("")).canonicalize()?;
    let store = "[store]\npath = \"data\"\n";
    ensure!(text.contains(store), "{}: no embedded [store] with path = \"data\" to put into Redis", file.display());
    let bundle = Value::from(home.join("bundle").display().to_string());
    let text = text.replace(store, &format!("[store]\ntype = \"redis\"\nurl = \"{url}\"\n"));
    Ok(text.replace("bundle = \"bundle\"", &format!("bundle = {bundle}")).replace("127.0.0.1:8080", "127.0.0.1:0"))
}
