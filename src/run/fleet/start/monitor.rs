//! Starting the monitor.

use std::sync::{Arc, Mutex};

use anyhow::anyhow;
use interdict_monitor::config::MonitorConfig;
use interdict_monitor::metrics::Metrics as MonitorMetrics;
use interdict_monitor::monitor::Monitor;
use tokio_util::sync::CancellationToken;

use super::super::super::sinks::{Produce, Until};
use super::super::super::watching;
use super::super::topics;
use super::{Ending, MONITOR, Model, Process};

impl Process<'_> {
    /// Starts the monitor once no other process is one; false when told to stop before.
    pub(super) async fn monitor(
        &mut self,
        model: Option<&Model>,
        (config, metrics): (MonitorConfig, MonitorMetrics),
        told_to_stop: impl Future<Output = ()>,
    ) -> anyhow::Result<bool> {
        let claimant = self.claimant("monitor");
        let told = CancellationToken::new();
        let is_mine = tokio::select! {
            is_mine = claimant.acquire(&told) => is_mine?,
            // What else this process does may end meanwhile.
            ended = self.ended(told_to_stop) => {
                ended?;
                false
            }
        };
        if !is_mine {
            return Ok(false);
        }
        let reference = model.map(|(_, active, bundle)| watching::reference(active, bundle)).transpose()?;
        let (opened, courier) = Monitor::open(config, reference, metrics)?;
        self.tasks.spawn(watching::alert(courier, self.stop_rest.clone()));
        let shown = Arc::new(Mutex::new(None));
        let produce = Produce::read(self.setup, &*self.online).await?;
        if !produce.is_empty() {
            self.tasks.spawn(topics::watch(produce.clone(), Arc::clone(&self.online), self.stop_rest.clone()));
        }
        let until = Until { stop: self.stop_rest.clone(), lost: CancellationToken::new() };
        let lost = until.lost.clone();
        let thread = watching::start(opened, &self.online, Arc::clone(&self.logged), &shown, produce, until).await?;
        let ends = self.ends.0.clone();
        let watch = move || {
            let _told_also_by_a_panic = Ending { name: MONITOR, ends };
            thread.join().unwrap_or_else(|_panic| Err(anyhow!("the monitor's thread panicked")))
        };
        self.threads.push((MONITOR, std::thread::Builder::new().name("monitor-watch".to_owned()).spawn(watch)?));
        let stop = self.stop_rest.clone();
        self.tasks.spawn(async move {
            let is_kept = claimant.keep(&stop).await;
            if !matches!(is_kept, Ok(true)) {
                lost.cancel();
            }
            anyhow::ensure!(is_kept?, "another process is the monitor now; start this one again");
            Ok(())
        });
        tracing::info!("monitoring");
        Ok(true)
    }
}
