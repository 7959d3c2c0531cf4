//! In which of two ways a namespace is worked on.

use std::sync::Arc;
use std::time::Duration;

use interdict_ingest::source::stop::Stop;
use interdict_store::error::StoreError;
use interdict_store::redis::RedisStore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::super::charge;
use super::super::filling::OTHERS_BEGAN;
use super::super::patience::patiently;
use super::lease::Claimant;

/// How a namespace is worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// By roles, none of which trusts its memory.
    Fleet,
    /// By one process that plays every role, and those that stand by for it.
    Alone,
    /// By `backfill --fill-store` and nobody else.
    Filling,
}

const LEASE: &str = "mode";
/// The lease of the one process without a role that works where no slot of a database says which one does.
const ONLY: &str = "only";

/// What a process with a role says that has lost a namespace to one without.
pub(super) const ALONE_TOOK_OVER: &str =
    "a process without --role has taken this namespace over since this one began: stop that, or this one";

impl Mode {
    /// Who holds the lease in the name of all that work in this way; whoever fills a store holds it in his own.
    fn holder(self) -> Uuid {
        let name = match self {
            Self::Fleet => "fleet",
            Self::Alone => "alone",
            Self::Filling => return Uuid::new_v4(),
        };
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }

    /// Who works in this way.
    const fn told(self) -> &'static str {
        match self {
            Self::Fleet => "processes with --role",
            Self::Alone => "a process without --role",
            Self::Filling => "`interdict backfill --fill-store`",
        }
    }

    /// What is said where the namespace is worked on in another way by now.
    const fn taken_over(self) -> &'static str {
        match self {
            Self::Fleet => ALONE_TOOK_OVER,
            Self::Alone => charge::ROLES_TOOK_OVER,
            Self::Filling => OTHERS_BEGAN,
        }
    }
}

/// Whether the namespace is worked on in this way, or was a moment ago.
pub(super) async fn is_held(store: &RedisStore, mode: Mode) -> Result<bool, StoreError> {
    Ok(held_by(store).await? == Some(mode.holder()))
}

async fn held_by(store: &RedisStore) -> Result<Option<Uuid>, StoreError> {
    // Nothing is forgotten: turns are told apart by what stands there.
    let held = store.leases(LEASE, None).await?;
    Ok(held.into_iter().find(|lease| lease.name == LEASE).map(|lease| lease.holder))
}

/// A way of working that processes have taken up together.
#[derive(Clone, Debug)]
pub(crate) struct Turn {
    mode: Mode,
    claimant: Claimant,
    only: Option<Only>,
}

/// That no other process without a role works on the namespace, where no slot of a database says which one does: a consumer group would share
/// topics out, callers would take one for the other, and each of the two trusts its memory.
#[derive(Clone, Debug)]
pub(crate) struct Only(Claimant);

impl Only {
    /// Waits for one that was killed, which holds it until its time is over.
    ///
    /// # Errors
    /// That another process works; those of [`RedisStore::lease`].
    pub(crate) async fn begin(store: &Arc<RedisStore>, time_to_live: Duration) -> anyhow::Result<Self> {
        let holder = Uuid::new_v4();
        let claimant = Claimant { store: Arc::clone(store), name: ONLY.to_owned(), holder, time_to_live };
        let acquired = tokio::time::timeout(time_to_live * 2, claimant.acquire(&CancellationToken::new())).await;
        anyhow::ensure!(
            acquired.unwrap_or(Ok(false))?,
            "another process without --role works on this namespace: stop it first, or choose another namespace"
        );
        Ok(Self(claimant))
    }

    /// Keeps it so until `stop`.
    pub(crate) async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        anyhow::ensure!(self.0.keep(&stop).await?, ANOTHER_WORKS);
        Ok(())
    }
}

const ANOTHER_WORKS: &str = "another process without --role works on this namespace now: stop that, or this one";

impl Turn {
    /// Sees that the namespace is worked on in no other way.
    ///
    /// # Errors
    /// That it is; those of [`RedisStore::lease`].
    pub(crate) async fn begin(store: &Arc<RedisStore>, mode: Mode, time_to_live: Duration) -> anyhow::Result<Self> {
        let claimant =
            Claimant { store: Arc::clone(store), name: LEASE.to_owned(), holder: mode.holder(), time_to_live };
        if store.lease(LEASE, claimant.holder, time_to_live).await?.is_none() {
            let others = held_by(store).await?.map_or("another process", |holder| {
                let known = [Mode::Fleet, Mode::Alone].into_iter().find(|mode| mode.holder() == holder);
                known.unwrap_or(Mode::Filling).told()
            });
            anyhow::bail!(
                "{others} works on this namespace, or did {} seconds ago at most: stop it first, or choose another namespace",
                time_to_live.as_secs_f64().ceil()
            );
        }
        Ok(Self { mode, claimant, only: None })
    }

    /// Keeps it so until `stop`. All processes of a mode hold the lease together, so none of several gives it back.
    pub(crate) async fn keep(self, stop: CancellationToken) -> anyhow::Result<()> {
        let never = CancellationToken::new();
        tokio::select! {
            kept = self.claimant.keep(&never) => {
                anyhow::ensure!(kept?, self.mode.taken_over());
                Ok(())
            }
            () = stop.cancelled() => Ok(()),
        }
    }

    /// Lets others begin at once, where nobody else works in this way.
    pub(crate) async fn end(self) {
        self.claimant.release(&[LEASE.to_owned()]).await;
    }

    /// The same for a process that is the only one of its kind.
    pub(crate) fn of(self, only: Only) -> Self {
        Self { only: Some(only), ..self }
    }

    /// Its number: of two turns the later one's is greater. None below `least` is handed out, which the store has seen: what a fail-over
    /// took back is passed over.
    ///
    /// # Errors
    /// That the namespace is worked on in the other way by now, or by another process in this one; as [`patiently`].
    pub(crate) async fn number(&self, stop: &Stop, least: u64) -> anyhow::Result<u64> {
        if let Some(Only(claimant)) = &self.only {
            anyhow::ensure!(ask(claimant, stop, 0).await?.is_some(), ANOTHER_WORKS);
        }
        ask(&self.claimant, stop, least).await?.ok_or_else(|| anyhow::anyhow!(self.mode.taken_over()))
    }
}

/// Asks for a lease, or renews it: its epoch, `least` or more; `None` where another one holds it.
async fn ask(claimant: &Claimant, stop: &Stop, least: u64) -> anyhow::Result<Option<u64>> {
    let Claimant { store, name, holder, time_to_live } = claimant;
    let told = "the store does not answer; who may work on the namespace is asked later";
    let lease = patiently(stop, told, async || store.lease_from(name, *holder, *time_to_live, least).await).await?;
    Ok(lease.map(|lease| lease.epoch))
}
