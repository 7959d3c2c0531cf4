//! Sends alerts over HTTP and reports what became of them. Holds nothing: what is lost with it is sent again.

use std::time::Duration;

use interdict_features::time::{Span, Timestamp};
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Webhook;
use super::signature::signature;
use crate::error::MonitorError;

/// Deliveries on their way at a time, and the bound of both channels.
pub(crate) const IN_FLIGHT_MAX: usize = 16;
/// Standard Webhooks asks for 15 to 30 seconds.
const TIMEOUT: Duration = Duration::from_secs(15);
/// A receiver cannot put us off longer.
const RETRY_AFTER_MAX: Span = Span::DAY;

/// One attempt to deliver one event to one webhook.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The event's id.
    pub id: String,
    /// Its body.
    pub body: String,
    /// Where it goes.
    pub webhook: Webhook,
    /// The time of the attempt, which is signed.
    pub attempted: Timestamp,
}

/// What became of an attempt.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// 2xx.
    Taken,
    /// 410: never send to it again.
    Gone,
    /// Anything else, redirects included, which are not followed.
    Failed {
        /// What the receiver asked for.
        retry_after: Option<Span>,
        /// For the log; holds no URL.
        why: String,
    },
}

/// An attempt and what became of it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// The event's id.
    pub id: String,
    /// [`Webhook::name`].
    pub webhook: String,
    /// What became of it.
    pub answer: Answer,
}

/// The monitor's ends of the channels to a courier.
#[derive(Debug)]
pub struct Dispatch {
    pub(crate) deliveries: mpsc::Sender<Delivery>,
    pub(crate) reports: mpsc::Receiver<Report>,
}

/// The async task that delivers.
#[derive(Debug)]
pub struct Courier {
    client: reqwest::Client,
    deliveries: mpsc::Receiver<Delivery>,
    reports: mpsc::Sender<Report>,
}

impl Courier {
    /// Makes a courier and the ends of its channels.
    ///
    /// # Errors
    /// Fatal when the client for HTTP cannot be made.
    pub fn new() -> Result<(Self, Dispatch), MonitorError> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(TIMEOUT)
            .user_agent(concat!("interdict/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let (to_courier, deliveries) = mpsc::channel(IN_FLIGHT_MAX);
        let (reports, from_courier) = mpsc::channel(IN_FLIGHT_MAX);
        Ok((Self { client, deliveries, reports }, Dispatch { deliveries: to_courier, reports: from_courier }))
    }

    /// Delivers until `stop` is cancelled or the monitor is gone. What is on its way then is given up: it is still in
    /// the outbox and is sent again, under the same id, by the next run.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut running = JoinSet::new();
        loop {
            let delivery = tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = running.join_next() => continue,
                delivery = self.deliveries.recv(), if running.len() < IN_FLIGHT_MAX => delivery,
            };
            let Some(delivery) = delivery else {
                while running.join_next().await.is_some() {}
                return;
            };
            let (client, reports) = (self.client.clone(), self.reports.clone());
            running.spawn(async move {
                let report = Report {
                    answer: attempt(&client, &delivery).await,
                    webhook: delivery.webhook.name(),
                    id: delivery.id,
                };
                if reports.send(report).await.is_err() {
                    tracing::debug!("the monitor stopped before an alert's answer came");
                }
            });
        }
    }
}

async fn attempt(client: &reqwest::Client, delivery: &Delivery) -> Answer {
    let timestamp = delivery.attempted.micros().div_euclid(Span::SECOND.micros());
    let sent = client
        .post(delivery.webhook.url.clone())
        .header(CONTENT_TYPE, "application/cloudevents+json; charset=utf-8")
        .header("webhook-id", &delivery.id)
        .header("webhook-timestamp", timestamp)
        .header("webhook-signature", signature(&delivery.webhook.secrets, &delivery.id, timestamp, &delivery.body))
        .body(delivery.body.clone())
        .send()
        .await;
    match sent {
        Ok(response) if response.status().is_success() => Answer::Taken,
        Ok(response) if response.status() == StatusCode::GONE => Answer::Gone,
        Ok(response) => {
            let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse::<u32>().ok());
            let retry_after =
                asked.map(|seconds| Span::from_micros(i64::from(seconds) * 1_000_000).min(RETRY_AFTER_MAX));
            Answer::Failed { retry_after, why: format!("answered {}", response.status()) }
        }
        Err(error) => Answer::Failed { retry_after: None, why: error.without_url().to_string() },
    }
}
