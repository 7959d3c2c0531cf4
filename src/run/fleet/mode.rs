//! In which of two ways a namespace is worked on.

use std::sync::Arc;
use std::time::Duration;

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

/// Sees that the namespace is worked on in no other way; what is returned keeps it so until `stop`. All processes of a mode hold the lease
/// together, so none gives it back.
pub(crate) async fn hold_mode(
    store: &Arc<RedisStore>,
    mode: Mode,
    time_to_live: Duration,
    stop: CancellationToken,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + Send + 'static> {
    let (holder, others) = match mode {
        Mode::Fleet => ("fleet", "a process without --role"),
        Mode::Alone => ("alone", "processes with --role"),
    };
    let holder = Uuid::new_v5(&Uuid::NAMESPACE_OID, holder.as_bytes());
    let claimant = Claimant { store: Arc::clone(store), name: "mode".to_owned(), holder, time_to_live };
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
