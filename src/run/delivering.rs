//! Carrying actions out, and asking meanwhile whether their receivers still take them.

use std::sync::Arc;
use std::time::Duration;

use interdict_scorer::action::delivery::{Delivery, Limits};
use interdict_scorer::action::metrics::Metrics;
use interdict_scorer::action::receiver::Receivers;
use interdict_store::online::OnlineStore;
use prometheus_client::registry::Registry;
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::setup::Setup;

use super::core::Core;
use super::sources::environment;
use super::system::Shell;
use super::telling;

/// How often receivers are asked.
const LOOK: Duration = Duration::from_secs(60);

/// Carries actions out until `stop`; `wake` is notified of new ones.
pub(crate) async fn deliver(
    store: Arc<OnlineStore>,
    receivers: Arc<Receivers>,
    limits: Limits,
    metrics: Metrics,
    (wake, stop): (Arc<Notify>, CancellationToken),
) -> anyhow::Result<()> {
    let delivery = Delivery::new(store, Arc::clone(&receivers), limits, Shell, metrics.clone());
    let watches = stop.child_token();
    let delivering = async {
        let ended = delivery.run(wake, stop).await;
        watches.cancel();
        ended
    };
    let (ended, ()) = tokio::join!(delivering, receivers.watch(&metrics, LOOK, &watches));
    Ok(ended?)
}

/// Who carries the policy's actions out, checked.
pub(crate) async fn open_receivers(setup: &Setup) -> anyhow::Result<Receivers> {
    let topics = telling::producers(&setup.action_topics)?;
    let receivers = Receivers::open(&setup.policy, &environment, &topics)?;
    receivers.check().await?;
    Ok(receivers)
}

/// Carries actions out once this process has charge: whoever has it before does so himself. The first that the outbox is notified of is
/// charge ([`Core::catch_up`]): nothing is committed before.
pub(crate) async fn start(
    setup: &Setup,
    core: &Core<OnlineStore>,
    registry: &mut Registry,
    stop: &CancellationToken,
    tasks: &mut JoinSet<anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let receivers = open_receivers(setup).await?;
    let metrics = Metrics::register(registry);
    let limits = Limits { intents: setup.store.outbox_capacity(), ..Limits::default() };
    let (store, wake, stop) = (Arc::clone(&core.store), Arc::clone(&core.outbox), stop.clone());
    let awaits_charge = core.charge.is_open();
    tasks.spawn(async move {
        if awaits_charge {
            tokio::select! {
                () = wake.notified() => {}
                () = stop.cancelled() => return Ok(()),
            }
        }
        deliver(store, receivers.into(), limits, metrics, (wake, stop)).await
    });
    Ok(())
}
