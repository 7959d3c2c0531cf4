//! What an alert says: a CloudEvents 1.0 body whose id is the webhook id.

use interdict_features::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::drift::detector::{Detector, Transition};
use crate::drift::verdict::{Batch, ColumnDrift, Test};

/// Columns told of in one event; the body stays far below 20 kB.
const COLUMNS_MAX: usize = 10;
/// Characters of a column's name that are told.
const NAME_CHARS_MAX: usize = 200;

/// A time from firing to resolved.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Episode {
    /// The same from firing to resolved.
    pub alert_id: String,
    /// Since when.
    pub since: Timestamp,
}

impl Episode {
    /// The episode that a batch begins. Its id depends on model and records alone.
    #[must_use]
    pub fn begin(model: &str, version: &str, batch: &Batch, now: Timestamp) -> Self {
        let name = format!("{}:{model}{}:{version}{}", model.len(), version.len(), batch.span.first_position);
        let alert_id = uuid::Uuid::new_v5(&uuid::Uuid::NAMESPACE_OID, name.as_bytes()).to_string();
        Self { alert_id, since: now }
    }
}

/// One event of an episode.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AlertEvent {
    /// Unique and the same in every attempt and to every webhook; holds no point.
    pub id: String,
    /// JSON.
    pub body: String,
}

impl AlertEvent {
    /// The event of a change of state that the detector's last batch caused.
    #[must_use]
    pub fn new(episode: &Episode, transition: Transition, detector: &Detector, batch: &Batch, now: Timestamp) -> Self {
        let (state, seq) = match transition {
            Transition::Firing => ("firing", 1),
            Transition::Resolved => ("resolved", 2),
        };
        let id = format!("{}-{state}", episode.alert_id);
        let reference = detector.reference();
        let drifted = batch.drifted();
        let columns: Vec<_> = drifted.iter().take(COLUMNS_MAX).map(|column| told(column, detector)).collect();
        let body = json!({
            "specversion": "1.0",
            "id": id,
            "source": "/interdict/monitor",
            "type": format!("com.interdict.drift.{state}"),
            "time": now,
            "datacontenttype": "application/json",
            "data": {
                "alert_id": episode.alert_id,
                "seq": seq,
                "state": state,
                "since": episode.since,
                "model": shortened(&reference.model),
                "version": shortened(&reference.version),
                "n_cur": batch.rows,
                "n_ref": reference.rows(),
                "window": {
                    "first_position": batch.span.first_position,
                    "last_position": batch.span.last_position,
                    "start": batch.span.since,
                    "end": now,
                },
                "false_alarm_rate": detector.options().false_alarm_rate,
                "drifted_columns": drifted.len(),
                "columns": columns,
            },
        });
        Self { id, body: body.to_string() }
    }
}

fn told(column: &ColumnDrift, detector: &Detector) -> serde_json::Value {
    let by_psi = column.drifted_by == Some(Test::Psi);
    json!({
        "feature": shortened(&column.name),
        "test": column.drifted_by,
        "statistic": if by_psi { column.psi.value } else { column.ks.distance },
        "effect": if by_psi { column.psi.excess } else { column.ks.distance },
        "threshold": if by_psi { detector.options().psi_floor } else { column.ks_threshold },
        "log10_p": if by_psi { column.psi.log10_p } else { column.ks.log10_p },
        "psi": column.psi.value,
        "ks": column.ks.distance,
        "null_ratio": column.null_ratio,
        "reference_null_ratio": column.reference_null_ratio,
        "hits": column.hits,
    })
}

fn shortened(text: &str) -> String {
    text.chars().take(NAME_CHARS_MAX).collect()
}
