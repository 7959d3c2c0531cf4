//! Starting what carries actions out and produces to topics: one process at a time each.

use std::sync::Arc;
use std::time::Duration;

use interdict_ingest::topic::sink::{SinkMetrics, What};
use interdict_scorer::action::delivery::Limits as DeliveryLimits;
use interdict_scorer::action::metrics::Metrics as DeliveryMetrics;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::super::Role;
use super::super::super::delivering::{deliver, open_receivers};
use super::super::super::sinks::{Feeder, Produce};
use super::super::topics;
use super::Process;

/// How often whoever carries actions out looks for those that other processes left.
const OUTBOX_LOOK: Duration = Duration::from_millis(5);

impl Process<'_> {
    /// Carries actions out while no other process does. What receivers refuse now is a mistake that refuses the start; what they refuse
    /// once the system works ends nobody, since the next one to take over would be refused as well.
    pub(super) async fn deliver(&mut self) -> anyhow::Result<()> {
        let metrics = DeliveryMetrics::register(&mut self.registry);
        let receivers = Arc::new(open_receivers(self.setup).await?);
        let limits = DeliveryLimits { intents: self.setup.store.outbox_capacity(), ..DeliveryLimits::default() };
        let store = Arc::clone(&self.online);
        let (outbox, stop, claimant) = (Arc::clone(&self.outbox), self.stop_rest.clone(), self.claimant("outbox"));
        self.tasks.spawn(async move {
            let work = |held: CancellationToken| {
                let (receivers, store) = (Arc::clone(&receivers), Arc::clone(&store));
                let (outbox, metrics) = (Arc::clone(&outbox), metrics.clone());
                async move {
                    let looks = held.child_token();
                    let looking = look_often(Arc::clone(&outbox), looks.clone());
                    let delivering = deliver(store, receivers, limits, metrics, (outbox, held));
                    let delivering = async { delivering.await.inspect_err(|_| looks.cancel()) };
                    tokio::join!(delivering, looking).0
                }
            };
            Box::pin(claimant.while_held(&stop, work)).await
        });
        Ok(())
    }

    /// Starts the sinks of the roles played: ingestors produce dead letters, scorers decisions.
    pub(super) async fn produce(&mut self, roles: &[Role]) -> anyhow::Result<()> {
        let produce = Produce::read(self.setup, &*self.online).await?;
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

/// Wakes whoever waits for actions, again and again until `stop`: those of other processes wake nobody here.
async fn look_often(outbox: Arc<Notify>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = tokio::time::sleep(OUTBOX_LOOK) => outbox.notify_one(),
            () = stop.cancelled() => return,
        }
    }
}
