//! The `[http]` section: where the edge listens, who may use it, and every bound it keeps.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use interdict_features::config::{ConfigFile, Section};

use super::keys::Keyring;

/// Whether `/metrics` asks for a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum MetricsAccess {
    /// A key with the role `read`, where keys are configured.
    #[default]
    Keyed,
    /// Nobody is asked.
    Open,
}

/// A certificate chain and its key, both PEM.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TlsFiles {
    /// The chain, the server's certificate first.
    pub certificate: PathBuf,
    /// Its private key.
    pub key: PathBuf,
}

/// Where the keys come from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum KeysFrom {
    /// Nowhere: only a loopback address may be bound.
    None,
    /// A file.
    File(PathBuf),
    /// The environment variable of this name; it holds what the file would.
    Environment(String),
}

/// How the edge listens and what it bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HttpSettings {
    /// `bind`: address and port; port 0 takes a free one.
    pub bind: SocketAddr,
    /// `keys_file` or `keys_env`.
    pub keys: KeysFrom,
    /// `tls_cert` and `tls_key`.
    pub tls: Option<TlsFiles>,
    /// `metrics = "keyed" | "open"`.
    pub metrics: MetricsAccess,
    /// `body_bytes_max`: a larger body is answered 413.
    pub body_bytes_max: usize,
    /// `requests_max`: so many requests under `/v1` are answered at once; the next ones are shed with 503.
    pub requests_max: usize,
    /// `connections_max`: so many connections are open; the next ones wait in the kernel's queue.
    pub connections_max: usize,
    /// `headers_max`: so many headers a request may have; more are answered 431.
    pub headers_max: usize,
    /// `header_bytes_max`: so many bytes the head of a request may have; more are answered 431.
    pub header_bytes_max: usize,
    /// `header_time`: by then the head of a request must be here, and so long a connection may idle.
    pub header_time: Duration,
    /// `deadline`: for decisions whose request names none.
    pub deadline: Duration,
    /// `request_time`: the deadline of all other requests that name none.
    pub request_time: Duration,
    /// `grace`: so long after the deadline the edge answers 503 by itself.
    pub grace: Duration,
    /// `drain_time`: so long a shutdown waits for requests in flight.
    pub drain_time: Duration,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            bind: SocketAddr::from(([127, 0, 0, 1], 8080)),
            keys: KeysFrom::None,
            tls: None,
            metrics: MetricsAccess::Keyed,
            body_bytes_max: 64 * 1024,
            requests_max: 256,
            connections_max: 1024,
            headers_max: 64,
            header_bytes_max: 16 * 1024,
            header_time: Duration::from_secs(15),
            deadline: Duration::from_millis(500),
            request_time: Duration::from_secs(5),
            grace: Duration::from_millis(50),
            drain_time: Duration::from_secs(10),
        }
    }
}

impl HttpSettings {
    /// Reads `[http]`. Every mistake is noted in the file; what is absent or wrong has its default.
    #[must_use]
    pub fn read(file: &ConfigFile) -> Self {
        let mut settings = Self::default();
        let Some(section) = file.section("http") else {
            return settings;
        };
        settings.read_access(&section);
        settings.read_bounds(&section);
        section.finish();
        settings
    }

    fn read_access(&mut self, section: &Section<'_>) {
        if let Some(text) = section.text("bind") {
            match text.parse() {
                Ok(bind) => self.bind = bind,
                Err(_not_an_address) => section.report(
                    "bind",
                    "'bind' must be an IP address and a port",
                    "write bind = \"127.0.0.1:8080\" (a name such as localhost is not resolved here)",
                ),
            }
        }
        self.keys = match (section.text("keys_file"), section.text("keys_env")) {
            (Some(_), Some(_)) => {
                section.report("keys_env", "both 'keys_file' and 'keys_env'", "write one of them");
                KeysFrom::None
            }
            (Some(path), None) => KeysFrom::File(path.into()),
            (None, Some(name)) => KeysFrom::Environment(name),
            (None, None) => KeysFrom::None,
        };
        self.tls = match (section.text("tls_cert"), section.text("tls_key")) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate: certificate.into(), key: key.into() }),
            (None, None) => None,
            (certificate, _) => {
                let (has, lacks) =
                    if certificate.is_some() { ("tls_cert", "tls_key") } else { ("tls_key", "tls_cert") };
                section.report(has, format!("'{has}' without '{lacks}'"), format!("add {lacks} = \"FILE.pem\""));
                None
            }
        };
        if section.choice("metrics", &["keyed", "open"]) == Some(1) {
            self.metrics = MetricsAccess::Open;
        }
        let has_keys = section.has("keys_file") || section.has("keys_env");
        if !self.bind.ip().is_loopback() && !has_keys {
            section.report(
                "bind",
                "an address other than loopback needs keys",
                "add keys_file = \"keys.toml\" or keys_env = \"INTERDICT_KEYS\", or bind 127.0.0.1",
            );
        }
    }

    fn read_bounds(&mut self, section: &Section<'_>) {
        let counts: [(&str, &mut usize, i64, i64); 5] = [
            ("body_bytes_max", &mut self.body_bytes_max, 1024, 16 * 1024 * 1024),
            ("requests_max", &mut self.requests_max, 1, 65_536),
            ("connections_max", &mut self.connections_max, 1, 65_536),
            ("headers_max", &mut self.headers_max, 8, 1024),
            ("header_bytes_max", &mut self.header_bytes_max, 8192, 1024 * 1024),
        ];
        for (key, value, least, most) in counts {
            if let Some(Ok(count)) = section.integer(key, least..=most).map(usize::try_from) {
                *value = count;
            }
        }
        let times: [(&str, &mut Duration, Duration, Duration); 5] = [
            ("header_time", &mut self.header_time, Duration::from_millis(100), Duration::from_secs(600)),
            ("deadline", &mut self.deadline, Duration::from_millis(1), Duration::from_secs(60)),
            ("request_time", &mut self.request_time, Duration::from_millis(1), Duration::from_secs(60)),
            ("grace", &mut self.grace, Duration::from_millis(1), Duration::from_secs(10)),
            ("drain_time", &mut self.drain_time, Duration::ZERO, Duration::from_secs(600)),
        ];
        for (key, value, least, most) in times {
            let Some(span) = section.span_of_time(key) else {
                continue;
            };
            let time = Duration::from_micros(u64::try_from(span.micros()).unwrap_or_default());
            if time < least || time > most {
                let least = if least.is_zero() { "0s".to_owned() } else { format!("{least:?}") };
                let help = format!("write a time from {least} to {most:?}");
                section.report(key, format!("'{key}' is out of range"), help);
            } else {
                *value = time;
            }
        }
    }

    /// The settings with their paths taken from `folder`, the one their configuration file stands in.
    #[must_use]
    pub fn located(mut self, folder: &Path) -> Self {
        if let KeysFrom::File(path) = &mut self.keys {
            *path = folder.join(&*path);
        }
        if let Some(tls) = &mut self.tls {
            tls.certificate = folder.join(&tls.certificate);
            tls.key = folder.join(&tls.key);
        }
        self
    }

    /// Loads the keys that the settings name. `environment` looks a variable up.
    ///
    /// # Errors
    /// [`KeysError`]: the operator mends the file or the variable and starts again.
    pub fn load_keys(&self, environment: impl FnOnce(&str) -> Option<String>) -> Result<Keyring, KeysError> {
        let (name, source) = match &self.keys {
            KeysFrom::None => return Ok(Keyring::default()),
            KeysFrom::File(path) => {
                let source =
                    std::fs::read_to_string(path).map_err(|source| KeysError::File { path: path.clone(), source })?;
                (path.display().to_string(), source)
            }
            KeysFrom::Environment(name) => {
                let source = environment(name).ok_or_else(|| KeysError::Variable { name: name.clone() })?;
                (format!("${name}"), source)
            }
        };
        Ok(Keyring::parse(&name, &source)?)
    }
}

/// Why the keys cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    /// The file cannot be read.
    #[error("the keys file {path} cannot be read: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The variable is not set.
    #[error("the environment variable {name} with the keys is not set")]
    Variable {
        /// Its name.
        name: String,
    },
    /// The keys have mistakes.
    #[error(transparent)]
    Mistakes(#[from] interdict_features::config::Problems),
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mistakes(source: &str) -> String {
        let file = ConfigFile::parse("interdict.toml", source).unwrap();
        let _settings = HttpSettings::read(&file);
        file.finish().map_or_else(|problems| problems.to_string(), |()| String::new())
    }

    #[test]
    fn absent_section_gives_the_defaults() {
        let file = ConfigFile::parse("interdict.toml", "").unwrap();
        assert_eq!(HttpSettings::read(&file), HttpSettings::default());
        assert!(HttpSettings::default().bind.ip().is_loopback());
    }

    #[test]
    fn every_key_is_read() {
        let source = "[http]\nbind = \"0.0.0.0:9\"\nkeys_env = \"K\"\ntls_cert = \"c\"\ntls_key = \"k\"\n\
            metrics = \"open\"\nbody_bytes_max = 2048\nrequests_max = 2\nconnections_max = 3\nheaders_max = 9\n\
            header_bytes_max = 9000\nheader_time = \"1s\"\ndeadline = \"20ms\"\nrequest_time = \"2s\"\n\
            grace = \"5ms\"\ndrain_time = \"4s\"\n";
        assert_eq!(mistakes(source), "");
        let settings = HttpSettings::read(&ConfigFile::parse("interdict.toml", source).unwrap());
        let expected = HttpSettings {
            bind: "0.0.0.0:9".parse().unwrap(),
            keys: KeysFrom::Environment("K".to_owned()),
            tls: Some(TlsFiles { certificate: "c".into(), key: "k".into() }),
            metrics: MetricsAccess::Open,
            body_bytes_max: 2048,
            requests_max: 2,
            connections_max: 3,
            headers_max: 9,
            header_bytes_max: 9000,
            header_time: Duration::from_secs(1),
            deadline: Duration::from_millis(20),
            request_time: Duration::from_secs(2),
            grace: Duration::from_millis(5),
            drain_time: Duration::from_secs(4),
        };
        assert_eq!(settings, expected);
    }

    #[test]
    fn all_mistakes_are_told_at_once() {
        let text = mistakes(
            "[http]\nbind = \"localhost:1\"\nkeys_file = \"a\"\nkeys_env = \"b\"\ntls_cert = \"c\"\nmetrics = \"x\"\n\
             body_bytes_max = 1\nrequests_max = 0\ndeadline = \"2m\"\ngrace = 5\nbimd = 1\n",
        );
        for part in [
            "'bind' must be",
            "both 'keys_file'",
            "'tls_cert' without 'tls_key'",
            "no value of 'metrics'",
            "'body_bytes_max'",
            "'requests_max'",
            "'deadline' is out of range",
            "'grace'",
            "unknown key 'bimd'",
            "9 mistakes",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    #[test]
    fn another_address_without_keys_is_a_mistake() {
        assert!(mistakes("[http]\nbind = \"0.0.0.0:8080\"\n").contains("needs keys"));
        assert_eq!(mistakes("[http]\nbind = \"[::1]:8080\"\n"), "");
    }

    #[test]
    fn keys_come_from_where_the_settings_say() {
        let source = format!("key = [{{ name = \"a\", sha256 = \"{}\", roles = [\"read\"] }}]", "ab".repeat(32));
        let settings = HttpSettings { keys: KeysFrom::Environment("K".to_owned()), ..HttpSettings::default() };
        let keys = settings.load_keys(|name| (name == "K").then(|| source.clone())).unwrap();
        assert!(!keys.is_empty());
        assert!(matches!(settings.load_keys(|_| None), Err(KeysError::Variable { .. })));
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("keys.toml");
        let settings = HttpSettings { keys: KeysFrom::File(path.clone()), ..HttpSettings::default() };
        assert!(matches!(settings.load_keys(|_| None), Err(KeysError::File { .. })));
        std::fs::write(&path, "[[key]]\n").unwrap();
        assert!(matches!(settings.load_keys(|_| None), Err(KeysError::Mistakes(_))));
        std::fs::write(&path, &source).unwrap();
        assert!(!settings.load_keys(|_| None).unwrap().is_empty());
        assert!(HttpSettings::default().load_keys(|_| None).unwrap().is_empty());
    }
}
