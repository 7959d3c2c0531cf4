//! The configuration of a deployment: one file, read once, every mistake reported at once.
//!
//! Paths in the file are relative to the file's folder, those of sources to the working directory.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use interdict_features::config::{ConfigFile, Problem, Problems, Section};
use interdict_features::definition::Definitions;
use interdict_features::time::Span;
use interdict_ingest::archive::config::ArchiveConfig;
use interdict_ingest::source::config::SourceConfig;
use interdict_ingest::topic::sink::{ActionTopic, SinkConfig, Sinks};
use interdict_monitor::config::MonitorConfig;
use interdict_scorer::http::config::HttpSettings;
use interdict_scorer::policy::Policy;
#[cfg(feature = "redis")]
use interdict_store::redis::config::RedisConfig;

use crate::run::trimming::Keep;

/// Everything a deployment declares.
#[derive(Debug)]
pub(crate) struct Setup {
    /// Separates one system's keys, offsets and decisions from another's.
    pub(crate) namespace: String,
    pub(crate) definitions: Arc<Definitions>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) sources: Vec<SourceConfig>,
    pub(crate) sinks: Vec<SinkConfig>,
    /// The topics that actions tell.
    pub(crate) action_topics: Vec<ActionTopic>,
    /// Where every change goes in Parquet.
    pub(crate) archive: Option<ArchiveConfig>,
    pub(crate) http: HttpSettings,
    /// Whether the file has an `[http]` section: without one nothing is served.
    pub(crate) serves_http: bool,
    pub(crate) monitor: Option<MonitorConfig>,
    pub(crate) store: StoreSettings,
    /// How long the store's logs are kept.
    pub(crate) keep: Keep,
    pub(crate) engine: EngineSettings,
    /// The folder that relative paths start from.
    pub(crate) folder: PathBuf,
}

/// The `[store]` section.
#[derive(Clone, Debug)]
pub(crate) enum StoreSettings {
    /// In a folder.
    Embedded(EmbeddedSettings),
    /// In a Redis.
    #[cfg(feature = "redis")]
    Redis {
        /// Where and how.
        config: Box<RedisConfig>,
        /// How long after it was stored a source may forget a position: the last moments of a Redis go with its machine or a fail-over,
        /// and are read again from the source.
        replay_window: Span,
        /// How long what one process of several does is left undone after it died.
        lease: Duration,
    },
}

impl StoreSettings {
    /// How long after it was stored a source may forget a position.
    pub(crate) fn replay_window(&self) -> Duration {
        match self {
            Self::Embedded(_) => Duration::ZERO,
            #[cfg(feature = "redis")]
            Self::Redis { replay_window, .. } => Duration::from_micros(replay_window.micros().unsigned_abs()),
        }
    }

    /// How long a lease outlives its last renewal.
    #[cfg(feature = "redis")]
    pub(crate) fn lease(&self) -> Duration {
        match self {
            Self::Embedded(_) => LEASE,
            Self::Redis { lease, .. } => *lease,
        }
    }

    /// Unfinished actions at most.
    pub(crate) fn outbox_capacity(&self) -> usize {
        match self {
            Self::Embedded(settings) => settings.outbox_capacity,
            #[cfg(feature = "redis")]
            Self::Redis { config, .. } => config.outbox_capacity,
        }
    }
}

/// The longest time between two checkpoints while there is more to take in; one that has nothing to do makes them sooner.
const CHECKPOINT: Span = Span::from_micros(250_000);

/// A Redis that writes its file every second loses two seconds at most; a fail-over loses what its replica lags.
#[cfg(feature = "redis")]
const REPLAY_WINDOW: Span = Span::from_micros(30_000_000);

/// A process is missed for so long at most, unless configured.
#[cfg(feature = "redis")]
const LEASE: Duration = Duration::from_secs(6);

/// Shorter leases end while a busy machine thinks of something else.
#[cfg(feature = "redis")]
const LEASE_MIN: Duration = Duration::from_millis(500);

#[cfg(feature = "redis")]
const LEASE_MAX: Duration = Duration::from_secs(600);

/// `type = "embedded"`, the default.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EmbeddedSettings {
    /// Folder of the embedded store.
    pub(crate) path: PathBuf,
    /// Memory for blocks read from disk.
    pub(crate) cache_bytes: u64,
    /// Unfinished actions at most.
    pub(crate) outbox_capacity: usize,
}

/// The `[engine]` section.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct EngineSettings {
    /// Threads that work on a batch.
    pub(crate) shards: usize,
    /// Memory for row records and states.
    pub(crate) memory_bytes: usize,
    /// The longest time between two checkpoints.
    pub(crate) checkpoint: Span,
    /// File of dead letters.
    pub(crate) dead_letters: PathBuf,
}

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SetupError {
    /// The file cannot be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file has mistakes.
    #[error("{0}")]
    Mistakes(Problems),
}

impl SetupError {
    /// The mistakes, where there are any to be listed.
    pub(crate) fn problems(&self) -> &[Problem] {
        match self {
            Self::Mistakes(problems) => &problems.0,
            Self::Read { .. } => &[],
        }
    }
}

impl Setup {
    /// Reads and checks the file at `path`.
    pub(crate) fn load(path: &Path) -> Result<Self, SetupError> {
        let source = std::fs::read(path).map_err(|source| SetupError::Read { path: path.to_owned(), source })?;
        let name = path.display().to_string();
        let folder = path.parent().unwrap_or(Path::new("")).to_owned();
        let Ok(source) = String::from_utf8(source) else {
            let problem = Problem {
                file: name,
                line: 1,
                column: 1,
                message: "the file is not UTF-8 text".to_owned(),
                help: "save it as UTF-8".to_owned(),
            };
            return Err(SetupError::Mistakes(Problems(vec![problem])));
        };
        Self::parse(&name, &source, folder).map_err(SetupError::Mistakes)
    }

    /// Checks `source`, which the user knows as `name`; relative paths start from `folder`.
    pub(crate) fn parse(name: &str, source: &str, folder: PathBuf) -> Result<Self, Problems> {
        let file = ConfigFile::parse(name, source)?;
        let namespace = read_namespace(&file);
        let secret = read_secret(&file, &folder);
        let (store, keep) = read_store(&file, &namespace, &folder);
        let engine = read_engine(&file, &folder);
        let serves_http = file.section("http").is_some();
        let http = HttpSettings::read(&file).located(&folder);
        let monitor = MonitorConfig::read(&file, &folder);
        let Sinks { logs: sinks, actions: action_topics } = interdict_ingest::topic::sink::read(&file, &folder);
        let definitions = Definitions::read(&file, secret.as_deref());
        let read = definitions.map(|definitions| {
            crate::check::tiled_states(&file, &definitions);
            let policy = Policy::read(&file, &definitions);
            let sources = interdict_ingest::source::config::read(&file, &definitions.streams);
            let archive = ArchiveConfig::read(&file, &folder, &definitions.streams, &sources);
            (definitions, policy, sources, archive)
        });
        if read.is_none() {
            for section in ["scorer", "rule", "action", "source", "archive"] {
                file.root().know(section);
            }
        }
        file.finish().map_err(|found| match &read {
            Some(_) => found,
            None => with_mistakes_beside(name, source, secret.as_deref(), found),
        })?;
        let Some((definitions, Some(policy), sources, archive)) = read else {
            unreachable!("definitions and policy are there when no mistake was noted");
        };
        Ok(Self {
            namespace,
            definitions: Arc::new(definitions),
            policy: Arc::new(policy.located(&folder)),
            sources,
            sinks,
            action_topics,
            archive,
            http,
            serves_http,
            monitor,
            store,
            keep,
            engine,
            folder,
        })
    }
}

/// Adds to the mistakes `found` in a file whose definitions have some what is wrong with its policy and sources, but for what may follow
/// from those.
fn with_mistakes_beside(name: &str, source: &str, secret: Option<&[u8]>, mut found: Problems) -> Problems {
    let Ok(file) = ConfigFile::parse(name, source) else { return found };
    let draft = Definitions::draft(&file, secret);
    let _policy = Policy::read(&file, draft.definitions());
    let _sources = interdict_ingest::source::config::read(&file, &draft.definitions().streams);
    for section in file.root().keys() {
        file.root().know(&section.value);
    }
    if let Err(all) = file.finish() {
        // Whether a stream is judged may be what is wrong with it.
        let is_certain = |it: &Problem| !draft.is_doubtful(&it.message) && !it.message.contains("judged");
        let beside = all.0.into_iter().filter(|it| !found.0.contains(it) && is_certain(it));
        let beside: Vec<Problem> = beside.collect();
        found.0.extend(beside);
        found.0.sort();
    }
    found
}

fn read_namespace(file: &ConfigFile) -> String {
    let namespace = file.root().spanned_text("namespace");
    let Some(namespace) = namespace else { return "default".to_owned() };
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    if namespace.value.is_empty() || namespace.value.len() > 64 || !namespace.value.chars().all(is_plain) {
        let message = format!("'{}' is no namespace", namespace.value);
        file.report(namespace.span, message, "write 1 to 64 letters, digits, '-' and '_'");
    }
    namespace.value
}

/// The secret that keys the hash of sensitive columns.
#[expect(clippy::disallowed_methods, reason = "this is where configuration is read")]
fn read_secret(file: &ConfigFile, folder: &Path) -> Option<Vec<u8>> {
    let section = file.section("secrets")?;
    let mut secret = None;
    if let Some(name) = section.spanned_text("sensitive_env") {
        match std::env::var(&name.value) {
            Ok(value) if value.len() >= 16 => secret = Some(value.into_bytes()),
            Ok(_) => file.report(name.span, format!("the secret in {} is short", name.value), "use at least 16 bytes"),
            Err(_) => file.report(name.span, format!("{} is not set", name.value), "set it, or use sensitive_file"),
        }
    }
    if let Some(path) = section.spanned_text("sensitive_file") {
        match std::fs::read(folder.join(&path.value)) {
            Ok(value) if value.trim_ascii().len() >= 16 => secret = Some(value.trim_ascii().to_vec()),
            Ok(_) => file.report(path.span, format!("the secret in {} is short", path.value), "use at least 16 bytes"),
            Err(error) => {
                file.report(path.span, format!("{} cannot be read: {error}", path.value), "name a readable file");
            }
        }
    }
    section.finish();
    secret
}

fn read_store(
    file: &ConfigFile,
    #[cfg_attr(not(feature = "redis"), expect(unused_variables, reason = "a folder has no namespace"))] namespace: &str,
    folder: &Path,
) -> (StoreSettings, Keep) {
    let mut keep = Keep::default();
    let mut settings = EmbeddedSettings { path: folder.join("data"), cache_bytes: 128 << 20, outbox_capacity: 10_000 };
    if let Some(section) = file.section("store") {
        keep = read_keep(&section);
        #[cfg(feature = "redis")]
        if section.choice("type", &["embedded", "redis"]) == Some(1) {
            let config = RedisConfig::read(&section, namespace, folder);
            let replay_window = section.span_of_time("replay_window").unwrap_or(REPLAY_WINDOW);
            let lease = section.span_of_time("lease").map_or(LEASE, |lease| {
                let lease = Duration::from_micros(lease.micros().unsigned_abs());
                if !(LEASE_MIN..=LEASE_MAX).contains(&lease) {
                    let help = format!("write a time from {LEASE_MIN:?} to {LEASE_MAX:?}");
                    section.report("lease", "'lease' is out of range", help);
                }
                lease
            });
            section.finish();
            // Without one a mistake was noted, and these settings are never used.
            let store = config.map_or(StoreSettings::Embedded(settings), |config| StoreSettings::Redis {
                config: Box::new(config),
                replay_window,
                lease,
            });
            return (store, keep);
        }
        #[cfg(not(feature = "redis"))]
        if section.text("type").is_some_and(|kind| kind == "redis") {
            section.report("type", "this program was built without Redis", "build it with --features redis");
        }
        if let Some(path) = section.text("path") {
            settings.path = folder.join(path);
        }
        if let Some(megabytes) = section.integer("cache_mb", 8..=1_048_576) {
            settings.cache_bytes = megabytes.unsigned_abs() << 20;
        }
        if let Some(capacity) = section.integer("outbox_capacity", 1..=10_000_000) {
            settings.outbox_capacity = usize::try_from(capacity).unwrap_or(usize::MAX);
        }
        section.finish();
    }
    (StoreSettings::Embedded(settings), keep)
}

fn read_keep(section: &Section<'_>) -> Keep {
    let default = Keep::default();
    Keep {
        input: section.span_of_time("input_log_keep").unwrap_or(default.input),
        audit: section.span_of_time("audit_log_keep").unwrap_or(default.audit),
    }
}

fn read_engine(file: &ConfigFile, folder: &Path) -> EngineSettings {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut settings = EngineSettings {
        shards: cores,
        memory_bytes: 2 << 30,
        checkpoint: CHECKPOINT,
        dead_letters: folder.join("dead-letters.jsonl"),
    };
    if let Some(section) = file.section("engine") {
        if let Some(shards) = section.integer("shards", 1..=256) {
            settings.shards = usize::try_from(shards).unwrap_or(1);
        }
        if let Some(megabytes) = section.integer("memory_mb", 16..=16_777_216) {
            settings.memory_bytes = usize::try_from(megabytes).unwrap_or(usize::MAX).saturating_mul(1 << 20);
        }
        if let Some(interval) = section.span_of_time("checkpoint") {
            settings.checkpoint = interval;
        }
        if let Some(path) = section.text("dead_letters") {
            settings.dead_letters = folder.join(path);
        }
        section.finish();
    }
    settings
}
