//! What is to be delivered, in one small JSON file that is replaced as a whole.
//!
//! A delivery is tried at once and then after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h, 14 h, 20 h and 24 h (Standard
//! Webhooks), up to a fifth later so that many senders do not meet; a longer `Retry-After` is kept. Then it is given up.
//!
//! Invariants:
//! - Nothing is handed out that is not on disk.
//! - At most [`PENDING_MAX`] deliveries wait; the oldest gives way, counted and logged.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::{Path, PathBuf};

use interdict_features::time::{Span, Timestamp};
use serde::{Deserialize, Serialize};

use super::Webhook;
use super::courier::{Answer, Delivery, IN_FLIGHT_MAX, Report};
use super::event::{AlertEvent, Episode};
use crate::error::MonitorError;

/// Deliveries that may wait: over a hundred episodes for one webhook.
pub const PENDING_MAX: usize = 256;
/// Waits after the first attempt and those that follow, seconds.
const WAITS: [i64; 9] = [5, 300, 1_800, 7_200, 18_000, 36_000, 50_400, 72_000, 86_400];
const FORMAT: u32 = 1;

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Pending {
    id: String,
    webhook: String,
    body: String,
    attempts: usize,
    due: Timestamp,
    #[serde(skip)]
    is_in_flight: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
struct Saved {
    format: u32,
    /// The open episode.
    episode: Option<Episode>,
    /// Drift was judged up to this position when the state last changed.
    judged: Option<u64>,
    pending: Vec<Pending>,
    /// Webhooks that answered 410.
    disabled: Vec<String>,
}

/// What became of deliveries since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct DeliveryCounts {
    /// Taken by the receiver.
    pub taken: u64,
    /// Attempts that failed and are tried again.
    pub retried: u64,
    /// Given up after the last attempt.
    pub given_up: u64,
    /// Not sent: the webhook is gone or no longer configured.
    pub disabled: u64,
    /// Gave way to newer ones.
    pub displaced: u64,
}

/// Alerts on their way to webhooks, and the open episode.
#[derive(Debug)]
pub struct Outbox {
    path: PathBuf,
    webhooks: Vec<Webhook>,
    saved: Saved,
    is_unsaved: bool,
    counts: DeliveryCounts,
}

impl Outbox {
    /// Opens the outbox in the file `path`, empty when there is none. Deliveries to webhooks that are no longer
    /// configured are dropped and counted.
    ///
    /// # Errors
    /// Fatal when the file is not an outbox's, Transient when it cannot be read.
    pub fn open(path: &Path, webhooks: Vec<Webhook>) -> Result<Self, MonitorError> {
        let corrupt = |why: String| MonitorError::Corrupt { path: path.to_owned(), why };
        let saved = match fs::read(path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map_err(|error| corrupt(format!("{error}; remove it to start without waiting alerts")))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Saved { format: FORMAT, ..Saved::default() },
            Err(error) => return Err(MonitorError::io("reading", path, error)),
        };
        if saved.format != FORMAT {
            return Err(corrupt(format!("its format is {}, this version writes {FORMAT}", saved.format)));
        }
        let counts = DeliveryCounts::default();
        let mut outbox = Self { path: path.to_owned(), webhooks, saved, is_unsaved: false, counts };
        let names: Vec<_> = outbox.webhooks.iter().map(Webhook::name).collect();
        outbox.forget(|pending| !names.contains(&pending.webhook), "its webhook is no longer configured");
        for webhook in names.iter().filter(|name| outbox.saved.disabled.contains(name)) {
            tracing::error!(webhook, outbox = %path.display(), "webhook is disabled: it once answered 410; give it another url, or remove it from 'disabled' in the outbox");
        }
        Ok(outbox)
    }

    /// The open episode.
    #[must_use]
    pub fn episode(&self) -> Option<&Episode> {
        self.saved.episode.as_ref()
    }

    /// The position up to which drift had been judged when the state last changed: a replay up to it says nothing new.
    #[must_use]
    pub fn judged(&self) -> Option<u64> {
        self.saved.judged
    }

    /// Takes an event for every webhook that is not disabled, and the episode that is open from now on. An event that
    /// waits already is not taken again. It is sent once [`Self::save`] has succeeded.
    pub fn add(&mut self, event: &AlertEvent, episode: Option<Episode>, judged: u64, now: Timestamp) {
        self.saved.episode = episode;
        self.saved.judged = Some(judged);
        self.is_unsaved = true;
        for webhook in self.webhooks.iter().map(Webhook::name) {
            let is_known = self.saved.pending.iter().any(|known| known.id == event.id && known.webhook == webhook);
            if self.saved.disabled.contains(&webhook) {
                self.counts.disabled += 1;
                continue;
            }
            if is_known {
                continue;
            }
            if self.saved.pending.len() >= PENDING_MAX {
                let oldest = self.saved.pending.remove(0);
                self.counts.displaced += 1;
                tracing::error!(
                    id = oldest.id,
                    webhook = oldest.webhook,
                    "outbox of alerts is full, the oldest gave way"
                );
            }
            self.saved.pending.push(Pending {
                id: event.id.clone(),
                webhook,
                body: event.body.clone(),
                attempts: 0,
                due: now,
                is_in_flight: false,
            });
        }
    }

    /// Writes the file when something changed.
    ///
    /// # Errors
    /// Transient: nothing is lost, call again. Until then nothing is handed out.
    pub fn save(&mut self) -> Result<(), MonitorError> {
        if !self.is_unsaved {
            return Ok(());
        }
        let bytes = serde_json::to_vec(&self.saved)?;
        let temporary = self.path.with_extension("json.tmp");
        let io = |what, path: &Path| {
            let path = path.to_owned();
            move |error| MonitorError::io(what, &path, error)
        };
        let mut file = File::create(&temporary).map_err(io("creating", &temporary))?;
        file.write_all(&bytes).and_then(|()| file.sync_all()).map_err(io("writing", &temporary))?;
        fs::rename(&temporary, &self.path).map_err(io("replacing", &self.path))?;
        if let Some(folder) = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("syncing", folder))?;
        }
        self.is_unsaved = false;
        Ok(())
    }

    /// Hands out what is due, at most 16 on their way at a time. Each comes back by [`Self::settle`] or
    /// [`Self::hand_back`].
    pub fn due(&mut self, now: Timestamp) -> Vec<Delivery> {
        if self.is_unsaved {
            return Vec::new();
        }
        let in_flight = self.saved.pending.iter().filter(|pending| pending.is_in_flight).count();
        let mut deliveries = Vec::new();
        for pending in &mut self.saved.pending {
            if in_flight + deliveries.len() >= IN_FLIGHT_MAX {
                break;
            }
            let webhook = self.webhooks.iter().find(|webhook| webhook.name() == pending.webhook);
            if let Some(webhook) = webhook.filter(|_| pending.due <= now && !pending.is_in_flight) {
                pending.is_in_flight = true;
                let (id, body) = (pending.id.clone(), pending.body.clone());
                deliveries.push(Delivery { id, body, webhook: webhook.clone(), attempted: now });
            }
        }
        deliveries
    }

    /// Takes back what could not be given to the courier; it stays due.
    pub fn hand_back(&mut self, delivery: &Delivery) {
        let webhook = delivery.webhook.name();
        for pending in &mut self.saved.pending {
            if pending.id == delivery.id && pending.webhook == webhook {
                pending.is_in_flight = false;
            }
        }
    }

    /// Takes what became of an attempt.
    pub fn settle(&mut self, report: &Report, now: Timestamp) {
        let found = self.saved.pending.iter().position(|p| p.id == report.id && p.webhook == report.webhook);
        let Some(index) = found else {
            return;
        };
        self.is_unsaved = true;
        let (id, webhook) = (&report.id, &report.webhook);
        match &report.answer {
            Answer::Taken => {
                self.saved.pending.remove(index);
                self.counts.taken += 1;
            }
            Answer::Gone => {
                tracing::error!(webhook, "webhook answered 410 and is disabled; configure another url");
                self.saved.disabled.push(webhook.clone());
                self.forget(|pending| pending.webhook == *webhook, "its webhook is gone");
            }
            Answer::Failed { retry_after, why } => {
                let pending = &mut self.saved.pending[index];
                pending.is_in_flight = false;
                let Some(wait) = wait_after(id, pending.attempts) else {
                    tracing::error!(id, webhook, why, "alert was given up after the last attempt");
                    self.saved.pending.remove(index);
                    self.counts.given_up += 1;
                    return;
                };
                pending.attempts += 1;
                pending.due = now.plus(retry_after.map_or(wait, |asked| asked.max(wait)));
                self.counts.retried += 1;
                tracing::warn!(id, webhook, why, due = %pending.due, "alert was not taken and is sent again");
            }
        }
    }

    /// Deliveries that wait or are on their way.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.saved.pending.len()
    }

    /// What became of deliveries since the start.
    #[must_use]
    pub fn counts(&self) -> DeliveryCounts {
        self.counts
    }

    fn forget(&mut self, is_void: impl Fn(&Pending) -> bool, why: &str) {
        let before = self.saved.pending.len();
        self.saved.pending.retain(|pending| !is_void(pending));
        let forgotten = before - self.saved.pending.len();
        if forgotten > 0 {
            tracing::error!(alerts = forgotten, why, "alerts are not delivered");
            self.counts.disabled += forgotten as u64;
            self.is_unsaved = true;
        }
    }
}

/// How long to wait after attempt `attempts` (from 0) failed; `None` after the last. Drawn from the id, so that a
/// restart changes nothing.
fn wait_after(id: &str, attempts: usize) -> Option<Span> {
    let seconds = *WAITS.get(attempts)?;
    let drawn = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, format!("{id}{attempts}").as_bytes());
    let part = i64::from(drawn.as_bytes()[0]);
    Some(Span::from_micros(seconds * 1_000_000 + seconds * 1_000_000 * part / (5 * 256)))
}
