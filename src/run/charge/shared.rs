//! Charge of a store that several processes reach.

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::port::{Commit, Committed, Store};

use super::super::fleet::Turn;
use super::super::patience::patiently;
use super::moves::{self, alone, is_shared};

/// What the name of the position begins with that says how often charge was taken.
pub(crate) const POSITIONS: &str = "charge/";
/// Its name where charge is of a namespace.
pub(in super::super) const ENGINE: &str = "charge/engine";

/// What a process without a role says that has lost a namespace to roles.
pub(in super::super) const ROLES_TOOK_OVER: &str =
    "processes with --role have taken this namespace over since this one began: stop them, or this one";
const ANOTHER_TOOK_OVER: &str =
    "another process has taken over what this one does, which knows the newest no more; start it again, it stands by";

/// Whether this process is in charge of what it works on.
#[derive(Clone, Debug)]
pub(crate) enum Charge {
    /// No other process can reach the store.
    Sole,
    /// Others may be at work, and this one has changed nothing yet.
    Open(Turn),
    /// It is, since charge was taken for this number of times.
    Taken(u64),
}

impl Charge {
    /// Whether no other process can reach the store.
    pub(in super::super) const fn is_sole(&self) -> bool {
        matches!(self, Self::Sole)
    }

    /// Whether others may be at work, and this process has changed nothing yet.
    pub(in super::super) const fn is_open(&self) -> bool {
        matches!(self, Self::Open(_))
    }

    /// Takes charge from whichever process without a role has it. A store that no other process reaches needs none.
    ///
    /// # Errors
    /// As [`patiently`], and that processes with roles have it since this one began.
    pub(in super::super) async fn take(&self, store: &impl Store, stop: &Stop) -> anyhow::Result<Self> {
        match self {
            Self::Sole => {}
            // It is held, or lost: nobody takes it back.
            Self::Taken(_) => {
                let told = "the store does not answer; whether this process is in charge is asked later";
                self.commit(store, stop, told, Commit::default()).await?;
            }
            Self::Open(turn) => {
                return alone(store, stop, async |least| turn.number(stop, least).await).await.map(Self::Taken);
            }
        }
        Ok(self.clone())
    }

    /// Makes a commit that is refused once another process has taken charge, again and again where the store fails for a while.
    ///
    /// # Errors
    /// As [`patiently`], and that another process has taken charge.
    pub(in super::super) async fn commit(
        &self,
        store: &impl Store,
        stop: &Stop,
        told: &str,
        mut commit: Commit,
    ) -> anyhow::Result<Committed> {
        if let Self::Taken(number) = self {
            // The first to be looked at: what else does not fit follows from it.
            commit.offsets.insert(0, moves::held(*number));
        }
        let committed = patiently(stop, told, async || store.commit(commit.clone()).await).await;
        committed.map_err(|error| match error.downcast_ref() {
            Some(StoreError::Fenced { source_name, stored, .. }) if source_name == ENGINE => {
                let by_roles = stored.is_some_and(is_shared);
                error.context(if by_roles { ROLES_TOOK_OVER } else { ANOTHER_TOOK_OVER })
            }
            _ => error,
        })
    }
}
