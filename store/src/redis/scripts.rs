//! The scripts that run inside the server, where one is atomic. They are loaded with every connection and again where a
//! server has forgotten them; nothing of a script runs that a server does not know.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline};

/// A script and the hash by which the server knows it.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// Writes a call of the script into an empty command; its arguments are appended by the caller.
    pub(super) fn call(&self, command: &mut Cmd, keys: &[Vec<u8>]) {
        command.arg("EVALSHA").arg(&self.hash).arg(keys.len());
        for key in keys {
            command.arg(key.as_slice());
        }
    }

    /// A call of the script in a pipeline of its own.
    pub(super) fn question(&self, keys: &[Vec<u8>], arguments: &[&[u8]]) -> Pipeline {
        let mut command = Cmd::new();
        self.call(&mut command, keys);
        for argument in arguments {
            command.arg(*argument);
        }
        let mut question = Pipeline::with_capacity(1);
        question.add_command(command);
        question
    }
}

/// Writes a commit.
pub(super) static COMMIT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/commit.lua")));
/// Binds a source and reads its offsets.
pub(super) static OFFSETS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/offsets.lua")));
/// Reads a page of the outbox.
pub(super) static OUTBOX: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/outbox.lua")));
/// Reads a page of the decision log.
pub(super) static DECISIONS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/decisions.lua")));
/// Reads an entity's newest decisions.
pub(super) static RECENT: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/recent.lua")));
/// Registers a bundle.
pub(super) static REGISTER: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/register.lua")));
/// Points an alias.
pub(super) static ALIAS: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/alias.lua")));
/// Begins a sweep.
pub(super) static SWEEP_BEGIN: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/sweep_begin.lua")));
/// Sweeps some keys.
pub(super) static SWEEP_STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sweep_step.lua")));
/// Ends a sweep.
pub(super) static SWEEP_END: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sweep_end.lua")));

/// Hands out work.
pub(super) static WORK_TAKE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/work_take.lua")));
/// Acquires or renews a lease.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lease.lua")));
/// Gives a lease up.
pub(super) static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/release.lua")));
/// Renews a member's presence.
pub(super) static JOIN: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/join.lua")));

fn all() -> [&'static Script; 14] {
    [
        &COMMIT,
        &OFFSETS,
        &OUTBOX,
        &DECISIONS,
        &RECENT,
        &REGISTER,
        &ALIAS,
        &SWEEP_BEGIN,
        &SWEEP_STEP,
        &SWEEP_END,
        &WORK_TAKE,
        &LEASE,
        &RELEASE,
        &JOIN,
    ]
}

/// The commands that load them.
pub(super) fn load() -> Pipeline {
    let mut pipeline = redis::pipe();
    for script in all() {
        pipeline.cmd("SCRIPT").arg("LOAD").arg(script.source);
    }
    pipeline
}
