//! Starting what carries actions out and produces to topics: one process at a time each.

use std::sync::Arc;
use std::time::Duration;

use interdict_ingest::topic::sink::{SinkMetrics, What};
use interdict_scorer::action::delivery::{Delivery, Limits as DeliveryLimits};
use interdict_scorer::action::metrics::Metrics as DeliveryMetrics;
use interdict_scorer::action::receiver::Receivers;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::super::Role;
use super::super::super::sinks::{Feeder, Produce};
use super::super::super::system::{self, Shell};
use super::super::topics;
use super::Process;

/// How often whoever carries actions out looks for those that other processes left.
const OUTBOX_LOOK: Duration = Duration::from_millis(5);

/// How often receivers that refuse something are asked whether they still do.
const INSPECT: Duration = Duration::from_secs(60);

impl Process<'_> {
    /// Carries actions out while no other process does. What receivers refuse now is a mistake that refuses the start; what they refuse
    /// once the system works ends nobody, since the next one to take over would be refused as well.
    pub(super) async fn deliver(&mut self) -> anyhow::Result<()> {
        let metrics = DeliveryMetrics::register(&mut self.registry);
        let receivers = Arc::new(system::open_receivers(&self.setup.policy).await?);
        let limits = DeliveryLimits { intents: self.setup.store.outbox_capacity(), ..DeliveryLimits::default() };
        let store = Arc::clone(&self.online);
        let (outbox, stop, claimant) = (Arc::clone(&self.outbox), self.stop_rest.clone(), self.claimant("outbox"));
        self.tasks.spawn(async move {
            let deliver = |held: CancellationToken| {
                let (receivers, store) = (Arc::clone(&receivers), Arc::clone(&store));
                let (outbox, metrics) = (Arc::clone(&outbox), metrics.clone());
                async move {
                    let delivery = Delivery::new(store, Arc::clone(&receivers), limits, Shell, metrics.clone());
                    let mistakes = receivers.inspect(&metrics).await;
                    let looking = look_often(Arc::clone(&outbox), held.clone());
                    let inspecting = inspect_until_mended(&receivers, mistakes, &metrics, &held);
                    let (delivered, (), ()) = tokio::join!(delivery.run(outbox, held.clone()), looking, inspecting);
                    Ok(delivered?)
                }
            };
            Box::pin(claimant.while_held(&stop, deliver)).await
        });
        Ok(())
    }

    /// Starts the sinks of the roles played: ingestors produce dead letters, scorers decisions.
    pub(super) async fn produce(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        let produce = Produce::read(self.setup, &self.online).await?;
        if produce.is_empty() {
            return Ok(());
        }
        let metrics = SinkMetrics::register(&mut self.registry);
        for (role, what) in [(Role::Ingest, What::DeadLetters), (Role::Scorer, What::Decisions)] {
            for config in self.setup.sinks.iter().filter(|sink| roles.contains(&role) && sink.what == what) {
                let feeder = Feeder::open(self.setup, config, &self.online, &produce, &metrics)?;
                let claimant = self.claimant(&format!("sink/{}", config.name));
                self.tasks.spawn(topics::produce(feeder, claimant, self.stop_rest.clone()));
            }
        }
        Ok(())
    }
}

/// Asks receivers that refuse something again and again, so that it is known when it is mended.
async fn inspect_until_mended(
    receivers: &Receivers,
    mistakes: usize,
    metrics: &DeliveryMetrics,
    stop: &CancellationToken,
) {
    let mut mistakes = mistakes;
    while mistakes > 0 {
        tokio::select! {
            () = tokio::time::sleep(INSPECT) => mistakes = receivers.inspect(metrics).await,
            () = stop.cancelled() => return,
        }
    }
}

/// Wakes whoever waits for actions, again and again until `stop`: those of other processes wake nobody here.
async fn look_often(outbox: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(OUTBOX_LOOK) => outbox.notify_one(),
            () = stop.cancelled() => return,
        }
    }
}
