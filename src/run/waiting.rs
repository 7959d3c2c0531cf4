//! How many deliveries wait for the engine, asked when somebody looks: it is told also while the engine waits itself.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use tokio::sync::mpsc;

use super::core::Intake;

/// Looks at a queue without keeping it open.
#[derive(Debug)]
struct Waiting(mpsc::WeakSender<Intake>);

/// Shows in `registry` what waits in the queue of `intake`.
pub(crate) fn register(intake: &mpsc::Sender<Intake>, registry: &mut Registry) {
    registry.register_collector(Box::new(Waiting(intake.downgrade())));
}

impl Collector for Waiting {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let waiting = self.0.upgrade().map_or(0, |intake| intake.max_capacity() - intake.capacity());
        let gauge = ConstGauge::new(i64::try_from(waiting).unwrap_or(i64::MAX));
        let help = "Deliveries of sources that wait for the engine";
        let shown =
            encoder.encode_descriptor("interdict_ingest_waiting_deliveries", help, None, gauge.metric_type())?;
        gauge.encode(shown)
    }
}
