//! In which of two ways a namespace is worked on.

use std::sync::Arc;
use std::time::Duration;

use interdict_store::error::StoreError;
use interdict_store::redis::RedisStore;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::lease::Claimant;

/// How a namespace is worked on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Mode {
    /// By roles, none of which trusts its memory.
    Fleet,
    /// By one process that plays every role, and those that stand by for it.
    Alone,
}

const LEASE: &str = "mode";

impl Mode {
    /// Who holds the lease in the name of all that work in this way.
    fn holder(self) -> Uuid {
        let name = match self {
            Self::Fleet => "fleet",
            Self::Alone => "alone",
        };
        Uuid::new_v5(&Uuid::NAMESPACE_OID, name.as_bytes())
    }
}

/// Whether the namespace is worked on in this way, or was a moment ago.
pub(super) async fn is_held(store: &RedisStore, mode: Mode) -> Result<bool, StoreError> {
    let held = store.leases(LEASE, LEASE).await?;
    Ok(held.iter().any(|lease| lease.name == LEASE && lease.holder == mode.holder()))
}

/// Sees that the namespace is worked on in no other way; what is returned keeps it so until `stop`. All processes of a mode hold the lease
/// together, so none gives it back.
pub(crate) async fn hold_mode(
    store: &Arc<RedisStore>,
    mode: Mode,
    time_to_live: Duration,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let others = match mode {
        Mode::Fleet => "a process without --role",
        Mode::Alone => "processes with --role",
    };
    let holder = mode.holder();
    let claimant = Claimant { store: Arc::clone(store), name: LEASE.to_owned(), holder, time_to_live };
    anyhow::ensure!(
        store.lease(&claimant.name, holder, time_to_live).await?.is_some(),
        "{others} works on this namespace, or did {} seconds ago at most: stop it first, or choose another namespace",
        time_to_live.as_secs_f64().ceil()
    );
    Ok(async move {
        let never = CancellationToken::new();
        tokio::select! {
            kept = claimant.keep(&never) => {
                anyhow::ensure!(kept?, "{others} took this namespace over: stop that, or this one");
                Ok(())
            }
            () = stop.cancelled() => Ok(()),
        }
    })
}
