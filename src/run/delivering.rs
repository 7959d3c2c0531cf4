//! Carrying actions out, and asking meanwhile whether their receivers still take them.

use std::sync::Arc;
use std::time::Duration;

use interdict_scorer::action::delivery::{Delivery, Limits};
use interdict_scorer::action::metrics::Metrics;
use interdict_scorer::action::receiver::Receivers;
use interdict_store::online::OnlineStore;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::system::Shell;

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
