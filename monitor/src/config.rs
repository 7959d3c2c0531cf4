//! The `[monitor]` section.
//!
//! ```toml
//! [monitor]
//! log_dir = "decisions"          # required; alerts wait in _alerts.json there
//! batch_rows = 10000             # a file is written with so many rows
//! batch_age = "60s"              # or when its first row is this old
//! drift_rows = 500               # rows of one drift batch
//! drift_rows_min = 200           # a batch of at least so many is judged
//! drift_age = "10m"              # when its first row is this old
//! drift_false_alarm_rate = 0.001 # per batch, over all columns and tests
//! drift_psi = 0.2                # least effects worth an alert
//! drift_ks = 0.1
//! drift_hits = 2                 # a column drifted in 2
//! drift_of = 3                   # of its last 3 batches fires
//!
//! [[monitor.webhook]]
//! url = "https://alerts.example.com/interdict"
//! secret_env = "INTERDICT_WEBHOOK_SECRET"   # or secret_file = "..."; whsec_ and base64, several in a row while rotating
//! ```

use std::path::{Path, PathBuf};

use interdict_features::config::{ConfigFile, Section};
use interdict_features::time::Span;

use crate::alert::Webhook;
use crate::alert::signature::Secret;
use crate::drift::verdict::DriftOptions;
use crate::log::LogOptions;

/// The most webhooks.
const WEBHOOKS_MAX: usize = 16;

/// What the monitor does, checked.
#[derive(Clone, Debug)]
pub struct MonitorConfig {
    /// Folder of the decision log.
    pub log_dir: PathBuf,
    /// When its files are written.
    pub log: LogOptions,
    /// When drift is found.
    pub drift: DriftOptions,
    /// Where alerts go.
    pub webhooks: Vec<Webhook>,
}

impl MonitorConfig {
    /// The defaults, with the log in `log_dir` and no webhooks.
    #[must_use]
    pub fn at(log_dir: impl Into<PathBuf>) -> Self {
        Self {
            log_dir: log_dir.into(),
            log: LogOptions::default(),
            drift: DriftOptions::default(),
            webhooks: Vec::new(),
        }
    }

    /// Reads `[monitor]`, with the secrets that it names; relative paths start from `folder`. `None` when the file has no such section. Mistakes are
    /// noted in `file`, so the value counts only when [`ConfigFile::finish`] succeeds.
    #[must_use]
    pub fn read(file: &ConfigFile, folder: &Path) -> Option<Self> {
        let section = file.section("monitor")?;
        section.require("log_dir", "\"decisions\"");
        let log_dir = section.text("log_dir").unwrap_or_default();
        let mut config = Self::at(folder.join(&log_dir));
        if section.has("log_dir") && log_dir.is_empty() {
            section.report("log_dir", "'log_dir' in [monitor] is empty", "name a folder");
        }
        if let Some(rows) = count(&section, "batch_rows", 1_000_000) {
            config.log.rows_max = rows;
        }
        if let Some(age) = span(&section, "batch_age") {
            config.log.age_max = age;
        }
        config.drift = read_drift(&section);
        let webhooks = section.array("webhook");
        if webhooks.len() > WEBHOOKS_MAX {
            let help = format!("at most {WEBHOOKS_MAX}; fan out behind one of them");
            section.report("webhook", format!("{} webhooks", webhooks.len()), help);
        }
        config.webhooks = webhooks.into_iter().filter_map(|webhook| read_webhook(webhook, folder)).collect();
        section.finish();
        Some(config)
    }
}

fn read_drift(section: &Section<'_>) -> DriftOptions {
    let defaults = DriftOptions::default();
    let small = |key, default| count(section, key, 32).and_then(|n| u32::try_from(n).ok()).unwrap_or(default);
    let rows_max = count(section, "drift_rows", 100_000);
    let rows_min = count(section, "drift_rows_min", 100_000);
    let drift = DriftOptions {
        rows_max: rows_max.unwrap_or_else(|| defaults.rows_max.max(rows_min.unwrap_or(0))),
        rows_min: rows_min.unwrap_or_else(|| defaults.rows_min.min(rows_max.unwrap_or(usize::MAX))),
        age_max: span(section, "drift_age").unwrap_or(defaults.age_max),
        false_alarm_rate: section.number("drift_false_alarm_rate", 1e-9..=0.5).unwrap_or(defaults.false_alarm_rate),
        psi_floor: section.number("drift_psi", 0.0..=100.0).unwrap_or(defaults.psi_floor),
        ks_floor: section.number("drift_ks", 0.0..=1.0).unwrap_or(defaults.ks_floor),
        hits: small("drift_hits", defaults.hits),
        of: small("drift_of", defaults.of),
    };
    if drift.rows_min > drift.rows_max {
        let message = format!("'drift_rows_min' is {}, over drift_rows of {}", drift.rows_min, drift.rows_max);
        section.report("drift_rows_min", message, "write at most drift_rows");
    }
    if drift.hits > drift.of {
        let message = format!("drift_hits = {} of drift_of = {} batches never fires", drift.hits, drift.of);
        section.report("drift_hits", message, "write at most drift_of");
    }
    drift
}

fn read_webhook(section: Section<'_>, folder: &Path) -> Option<Webhook> {
    section.require("url", "\"https://alerts.example.com/interdict\"");
    let url = section.text("url").and_then(|text| {
        let url = reqwest::Url::parse(&text).ok();
        let url = url.filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
        if url.is_none() {
            section.report("url", "'url' is no http or https address", "write url = \"https://host/path\"");
        }
        url
    });
    let secrets = read_secrets(&section, folder);
    section.finish();
    Some(Webhook { url: url?, secrets: secrets?.into() })
}

fn read_secrets(section: &Section<'_>, folder: &Path) -> Option<Vec<Secret>> {
    let (key, text) = match (section.text("secret_env"), section.text("secret_file")) {
        (Some(name), None) => ("secret_env", environment(section, &name)?),
        (None, Some(path)) => match std::fs::read_to_string(folder.join(&path)) {
            Ok(text) => ("secret_file", text),
            Err(error) => {
                let message = format!("'{path}' cannot be read: {error}");
                section.report("secret_file", message, "write the path of a file with the secret");
                return None;
            }
        },
        _ => {
            let help = "add secret_env = \"NAME\" or secret_file = \"path\"";
            section.report("url", "a webhook needs one of 'secret_env' and 'secret_file'", help);
            return None;
        }
    };
    let secrets: Option<Vec<Secret>> = text.split_whitespace().map(Secret::parse).collect();
    let secrets = secrets.filter(|secrets| (1..=4).contains(&secrets.len()));
    if secrets.is_none() {
        let help =
            "write whsec_ and the base64 of 24 to 64 random bytes; up to four, divided by spaces, while rotating";
        section.report(key, format!("what '{key}' names holds no webhook secret"), help);
    }
    secrets
}

#[expect(clippy::disallowed_methods, reason = "this is where the monitor's configuration is read")]
fn environment(section: &Section<'_>, name: &str) -> Option<String> {
    let text = std::env::var(name).ok();
    if text.is_none() {
        let message = format!("environment variable '{name}' is not set");
        section.report("secret_env", message, format!("set {name}, or use secret_file"));
    }
    text
}

fn count(section: &Section<'_>, key: &str, most: i64) -> Option<usize> {
    section.integer(key, 1..=most).and_then(|count| usize::try_from(count).ok())
}

fn span(section: &Section<'_>, key: &str) -> Option<Span> {
    let span = section.span_of_time(key)?;
    if span > Span::ZERO && span <= Span::DAY {
        return Some(span);
    }
    section.report(key, format!("'{key}' in [monitor] is {span}"), "write a time over 0s, at most 1d");
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSwMfKQ9r8GKYo=";

    #[test]
    fn reads_every_key() {
        let folder = tempfile::tempdir().unwrap();
        let secret = folder.path().join("secret");
        std::fs::write(&secret, format!("{SECRET}\n{SECRET}\n")).unwrap();
        let source = format!(
            "[monitor]\nlog_dir = 'd'\nbatch_rows = 7\nbatch_age = '2s'\ndrift_rows = 50\ndrift_rows_min = 40\n\
             drift_age = '1m'\ndrift_false_alarm_rate = 0.01\ndrift_psi = 0.3\ndrift_ks = 0.2\ndrift_hits = 3\n\
             drift_of = 5\n[[monitor.webhook]]\nurl = 'http://127.0.0.1:1/x'\nsecret_file = '{}'\n",
            secret.display()
        );
        let file = ConfigFile::parse("c.toml", &source).unwrap();
        let config = MonitorConfig::read(&file, Path::new("")).unwrap();
        file.finish().unwrap();
        assert_eq!(config.log.rows_max, 7);
        assert_eq!(config.log.age_max, Span::from_micros(2_000_000));
        assert_eq!((config.drift.rows_max, config.drift.rows_min), (50, 40));
        assert_eq!((config.drift.hits, config.drift.of), (3, 5));
        assert_eq!(config.webhooks.len(), 1);
        assert_eq!(config.webhooks[0].secrets.len(), 2);
        assert!(!format!("{config:?}").contains("MfKQ"));
    }

    #[test]
    fn reports_every_mistake_at_once() {
        let source = "[monitor]\nbatch_rows = 0\nbatch_age = '0s'\ndrift_hits = 4\ndrift_rows_mn = 3\ndrift_rows = 10\n\
                      drift_rows_min = 20\ndrift_psi = 'x'\n[[monitor.webhook]]\nurl = 'ftp://x'\n\
                      secret_env = 'INTERDICT_TEST_UNSET'\n[[monitor.webhook]]\nurl = 'http://x'\n\
                      secret_file = '/dev/null'\n[[monitor.webhook]]\nsecret = 'x'\n";
        let file = ConfigFile::parse("c.toml", source).unwrap();
        let _config = MonitorConfig::read(&file, Path::new(""));
        let problems = file.finish().unwrap_err().to_string();
        for wanted in [
            "no 'log_dir'",
            "'batch_rows'",
            "'batch_age'",
            "never fires",
            "did you mean 'drift_rows_min'",
            "over drift_rows of 10",
            "'drift_psi'",
            "no http or https address",
            "'INTERDICT_TEST_UNSET' is not set",
            "holds no webhook secret",
            "no 'url'",
            "unknown key 'secret'",
            "one of 'secret_env' and 'secret_file'",
        ] {
            assert!(problems.contains(wanted), "{wanted} is not in\n{problems}");
        }
    }

    #[test]
    fn a_file_without_the_section_has_no_monitor() {
        let file = ConfigFile::parse("c.toml", "").unwrap();
        assert!(MonitorConfig::read(&file, Path::new("")).is_none());
    }
}
