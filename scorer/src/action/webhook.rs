//! One try of one webhook.

use std::path::PathBuf;
use std::time::Duration;

use interdict_features::time::Timestamp;
use interdict_store::error::Class;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER, USER_AGENT};

use super::signature::{Secret, SecretError};
use crate::policy::{SecretSource, WebhookConfig};

/// Why a webhook cannot be set up.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WebhookError {
    /// The variable with the secret is not set.
    #[error("action '{action}': the environment has no {variable}; set it to the signing secret")]
    NoVariable {
        /// The action.
        action: String,
        /// The variable.
        variable: String,
    },
    /// The file with the secret cannot be read.
    #[error("action '{action}': the secret in {path} cannot be read: {source}")]
    Unreadable {
        /// The action.
        action: String,
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What was found is no secret.
    #[error("action '{action}': {source}")]
    Secret {
        /// The action.
        action: String,
        /// Why.
        source: SecretError,
    },
    /// No client could be made.
    #[error("no HTTP client for webhooks: {0}; are there root certificates on this machine?")]
    Client(#[from] reqwest::Error),
}

/// Why a try did not succeed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SendError {
    /// No answer came.
    #[error("no answer: {0}")]
    NoAnswer(String),
    /// The receiver answered otherwise than 2xx.
    #[error("answered {status}")]
    Status {
        /// What it answered.
        status: StatusCode,
        /// How long it asks to be left alone.
        retry_after: Option<Duration>,
    },
}

impl SendError {
    /// Whether another try may go through. A redirect is never followed and a wrong address is no matter of time; 408,
    /// 425, 429 and every 5xx are.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::NoAnswer(_) => Class::Transient,
            Self::Status { status, .. } => match status.as_u16() {
                408 | 425 | 429 | 500..=599 => Class::Transient,
                _ => Class::Rejected,
            },
        }
    }

    /// What the receiver asked for.
    #[must_use]
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NoAnswer(_) => None,
            Self::Status { retry_after, .. } => *retry_after,
        }
    }
}

/// A receiver with its secret, ready to be sent to.
#[derive(Clone, Debug)]
pub struct Webhook {
    url: String,
    secret: Secret,
    timeout: Duration,
    client: reqwest::Client,
}

/// A client for webhooks: no redirects, no cookies, a few idle connections.
///
/// # Errors
/// [`WebhookError::Client`].
pub fn client() -> Result<reqwest::Client, WebhookError> {
    let builder = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).pool_max_idle_per_host(4);
    Ok(builder.build()?)
}

impl Webhook {
    /// Reads the secret of action `action` and makes it ready. `environment` gives the values of variables.
    ///
    /// # Errors
    /// As [`WebhookError`] says; the process should not start then.
    pub fn open(
        action: &str,
        config: &WebhookConfig,
        client: &reqwest::Client,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, WebhookError> {
        let action = || action.to_owned();
        let text =
            match &config.secret {
                SecretSource::Environment(variable) => environment(variable)
                    .ok_or_else(|| WebhookError::NoVariable { action: action(), variable: variable.clone() })?,
                SecretSource::File(path) => std::fs::read_to_string(path)
                    .map_err(|source| WebhookError::Unreadable { action: action(), path: path.clone(), source })?,
            };
        let secret = Secret::parse(&text).map_err(|source| WebhookError::Secret { action: action(), source })?;
        Ok(Self { url: config.url.clone(), secret, timeout: config.timeout, client: client.clone() })
    }

    /// Sends `body` under the id `id` at `now`, once. Returns the status of success. When the future is dropped, the
    /// receiver may or may not have it.
    ///
    /// # Errors
    /// [`SendError`], with its class.
    pub async fn send(&self, id: &str, body: &str, now: Timestamp) -> Result<StatusCode, SendError> {
        let timestamp_s = now.micros().div_euclid(1_000_000);
        let request = self
            .client
            .post(&self.url)
            .timeout(self.timeout)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("interdict/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp_s.to_string())
            .header("webhook-signature", self.secret.sign(id, timestamp_s, body))
            .body(body.to_owned());
        // The error's own text would show the URL, which may carry a token.
        let response = request.send().await.map_err(|error| SendError::NoAnswer(describe(&error.without_url())))?;
        let status = response.status();
        if status.is_success() {
            return Ok(status);
        }
        Err(SendError::Status { status, retry_after: retry_after(response.headers(), now) })
    }
}

fn describe(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

/// Seconds, or an HTTP date.
fn retry_after(headers: &HeaderMap, now: Timestamp) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = jiff::fmt::rfc2822::parse(text).ok()?.timestamp().as_microsecond();
    Some(Duration::from_micros(u64::try_from(date - now.micros()).unwrap_or(0)))
}
