//! The scripts that run inside the server, where one is atomic. They are loaded with every connection and again where a
//! server has forgotten them; nothing of a script runs that a server does not know.
//!
//! Invariant: a script runs only where the whole slot of the namespace is. Every call names a key of the slot that is
//! never there beside its own, so a node of a cluster that has given the slot away, or is moving it key by key to another
//! one, refuses the call before the script begins. Its other keys, which no call names, could be gone in its middle.

use std::sync::LazyLock;

use redis::{Cmd, Pipeline};

use super::layout::Layout;

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
    pub(super) fn call(&self, layout: &Layout, command: &mut Cmd, keys: &[Vec<u8>]) {
        command.arg("EVALSHA").arg(&self.hash).arg(keys.len() + 1);
        for key in keys {
            command.arg(key.as_slice());
        }
        command.arg(layout.probe());
    }

    /// A call of the script in a pipeline of its own.
    pub(super) fn question(&self, layout: &Layout, keys: &[Vec<u8>], arguments: &[&[u8]]) -> Pipeline {
        let mut command = Cmd::new();
        self.call(layout, &mut command, keys);
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
/// Acquires, renews or gives back a lease.
pub(super) static LEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/lease.lua")));
/// Lists leases.
pub(super) static LEASES: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/leases.lua")));
/// Begins a sweep.
pub(super) static SWEEP_BEGIN: LazyLock<Script> =
    LazyLock::new(|| Script::new(include_str!("scripts/sweep_begin.lua")));
/// Sweeps some keys.
pub(super) static SWEEP_STEP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sweep_step.lua")));
/// Ends a sweep.
pub(super) static SWEEP_END: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/sweep_end.lua")));

/// Reads a page of states.
pub(super) static PRUNE_PAGE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/prune_page.lua")));
/// Removes states that nobody has written since they were read.
pub(super) static PRUNE_DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/prune_drop.lua")));

/// Removes list entries that ended.
pub(super) static ENDED: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/ended.lua")));

fn all() -> [&'static Script; 15] {
    [
        &COMMIT,
        &OFFSETS,
        &OUTBOX,
        &DECISIONS,
        &RECENT,
        &REGISTER,
        &ALIAS,
        &LEASE,
        &LEASES,
        &SWEEP_BEGIN,
        &SWEEP_STEP,
        &SWEEP_END,
        &PRUNE_PAGE,
        &PRUNE_DROP,
        &ENDED,
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
