//! Feature definitions: streams, entities, groups of features and derived features, as the user declares them.
//!
//! [`Definitions::read`] checks a configuration file as a whole; what it returns is consistent: every index is in
//! range, every column exists with a fitting type, every expression compiles. The engine relies on that.

mod kinds;
pub mod plan;
mod read;

pub use read::Draft;

use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use jiff::tz::TimeZone;
use sha2::{Digest, Sha256};

use crate::config::ConfigFile;
use crate::expression::Expression;
use crate::time::Span;
use crate::value::ColumnType;

/// How many windows a group may have: every feature is read once per window.
pub(crate) const WINDOWS_MAX: usize = 16;

/// Everything a deployment's `interdict.toml` declares about streams and features.
#[derive(Clone, Debug)]
pub struct Definitions {
    /// Streams in file order; a stream's index is its identity within one process.
    pub streams: Vec<Arc<Stream>>,
    /// Entities in file order.
    pub entities: Vec<Entity>,
    /// Groups in file order.
    pub groups: Vec<Group>,
    /// Derived features in file order; one may use those before it.
    pub derived: Vec<Derived>,
    /// Every feature a vector holds: those of the groups in order, then the derived ones. A feature's index here
    /// is its index in every vector.
    pub features: Vec<FeatureName>,
    /// How far out of clock order two events may be for one decision to see both (DESIGN 3.3).
    pub disorder: Span,
    /// How much is retained beyond the widest window, for readers behind the writer.
    pub slack: Span,
    /// How far an event may lie beyond its arrival before it is refused.
    pub future_max: Span,
}

/// The name, place and type of one feature of the vector.
#[derive(Clone, PartialEq, Debug)]
pub struct FeatureName {
    /// `customer_spend.tx_count_7d`, or a derived feature's bare name.
    pub name: Arc<str>,
    /// What its value is when present.
    pub kind: crate::expression::Type,
}

impl FeatureName {
    /// The name in flat tables: `customer_spend__tx_count_7d`.
    #[must_use]
    pub fn column_name(&self) -> String {
        self.name.replace('.', "__")
    }
}

/// One column of a stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Column {
    /// Its name in the source.
    pub name: String,
    /// What it holds.
    pub kind: ColumnType,
    /// Whether its text is replaced by a keyed hash at decoding.
    pub sensitive: bool,
}

/// What a DELETE does to state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnDelete {
    /// The event is taken out of every window.
    Retract,
    /// Nothing: archival jobs delete old rows.
    Ignore,
}

/// What a TRUNCATE does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnTruncate {
    /// Intake stops with a message.
    Stop,
    /// All rows of the stream and all states that it feeds are forgotten.
    Clear,
    /// Nothing.
    Ignore,
}

/// What becomes of a request that no change of the source ever matches.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum OnUnmatched {
    /// It stays in the windows as an attempt.
    Keep,
    /// It leaves no trace in the windows: a request is evaluated and not added.
    Drop,
}

/// A stream of rows with a time, or of labels for the rows of another stream.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its index in [`Definitions::streams`].
    pub index: usize,
    /// Its name.
    pub name: String,
    /// Columns in declared order.
    pub columns: Vec<Column>,
    /// The column of the event id.
    pub id: usize,
    /// The column of the event time; for a label stream, of the report time.
    pub time: Option<usize>,
    /// The zone of instants that come without one; UTC unless declared.
    pub zone: TimeZone,
    /// The column whose equal values share a source partition.
    pub partition_by: Option<usize>,
    /// The bool column of the row's own label.
    pub label: Option<usize>,
    /// The column of that label's report time.
    pub label_time: Option<usize>,
    /// For a label stream: the index of the stream it labels, and the bool column with the label.
    pub labels: Option<LabelsOf>,
    /// Rows never change: no row records are kept.
    pub append_only: bool,
    /// What a DELETE does.
    pub on_delete: OnDelete,
    /// What a TRUNCATE does.
    pub on_truncate: OnTruncate,
    /// What becomes of requests that stay alone.
    pub on_unmatched: OnUnmatched,
    /// The column with the currency of money columns.
    pub currency: Option<usize>,
    /// Which changes are judged; `None`: the stream only builds state.
    pub judge: Option<Judge>,
    /// The source's name for the table or topic, where it differs from the stream's name (`public.transactions`).
    pub source_table: Option<String>,
    pub(crate) mask_key: Option<[u8; 32]>,
}

/// Which stream a label stream labels.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LabelsOf {
    /// The labelled stream.
    pub stream: usize,
    /// The bool column that holds the label.
    pub value: usize,
}

/// Which changes of a stream are judged.
#[derive(Clone, Debug)]
pub enum Judge {
    /// Every row when it first appears.
    Insert,
    /// A row the first time this condition over `before.COLUMN` and `after.COLUMN` holds. Slots of the expression: the columns before,
    /// then the columns after.
    When(Arc<Expression>),
}

impl Stream {
    /// A stream of the given columns with every option at its default and a fixed secret, for the tests of other
    /// crates: definitions of a deployment come from [`Definitions::read`].
    #[doc(hidden)]
    #[must_use]
    pub fn of_columns(name: &str, columns: Vec<Column>, id: usize, time: Option<usize>) -> Self {
        Self {
            index: 0,
            name: name.to_owned(),
            columns,
            id,
            time,
            zone: TimeZone::UTC,
            partition_by: None,
            label: None,
            label_time: None,
            labels: None,
            append_only: false,
            on_delete: OnDelete::Retract,
            on_truncate: OnTruncate::Stop,
            on_unmatched: OnUnmatched::Keep,
            currency: None,
            judge: None,
            source_table: None,
            mask_key: Some([7; 32]),
        }
    }

    /// The index of the column called `name`.
    #[must_use]
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The keyed hash (HMAC-SHA256, the first 16 bytes in hex) that stands for a sensitive text.
    ///
    /// # Panics
    /// Never for definitions that passed the check: a sensitive column without a secret is a mistake there.
    #[must_use]
    pub fn mask(&self, text: &str) -> String {
        let key = self.mask_key.expect("checked: a stream with sensitive columns has the secret");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes any key length");
        mac.update(text.as_bytes());
        mac.finalize().into_bytes()[..16].iter().fold(String::with_capacity(32), |mut hex, byte| {
            use std::fmt::Write as _;
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    }

    /// Whether a row that its table no longer holds is gone here too, however it went: what is left of it where nobody told how.
    #[must_use]
    pub fn follows_removals(&self) -> bool {
        self.labels.is_none() && self.on_delete == OnDelete::Retract && self.on_truncate != OnTruncate::Ignore
    }
}

/// A customer, card, terminal, ...: what history is kept of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Entity {
    /// Its name.
    pub name: String,
    /// Names of the columns that make its key, in order.
    pub key: Vec<String>,
}

impl Entity {
    /// The first column of its key that events of `stream` do not have: none of them is of this entity then.
    #[must_use]
    pub fn missing_in(&self, stream: &Stream) -> Option<&str> {
        self.key.iter().find(|name| stream.column(name).is_none()).map(String::as_str)
    }
}

/// Features of one entity from one stream.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The entity whose history it is.
    pub entity: usize,
    /// The stream whose events it holds.
    pub stream: usize,
    /// Columns of the stream that make the entity's key.
    pub key: Vec<usize>,
    /// Only events for which this holds.
    pub filter: Option<Arc<Expression>>,
    /// Windows or the latest row.
    pub kind: GroupKind,
    /// Identity of the definition: the first 8 bytes of the SHA-256 of its canonical text.
    pub hash: u64,
    /// Index of its first feature in [`Definitions::features`].
    pub first_feature: usize,
}

/// The two kinds of group.
#[derive(Clone, Debug)]
pub enum GroupKind {
    /// Aggregations over windows.
    Windowed {
        /// Ascending, at least one.
        windows: Vec<Span>,
        /// How far back every window ends.
        delay: Span,
        /// In declared order; the vector holds each one for every window: feature-major
        /// (`tx_count_1d, tx_count_7d, amount_avg_1d, ...`).
        features: Vec<WindowedFeature>,
    },
    /// Values of the latest row.
    Table {
        /// Name and expression over the row's columns.
        features: Vec<(String, Arc<Expression>)>,
    },
}

/// One aggregation of a windowed group.
#[derive(Clone, Debug)]
pub struct WindowedFeature {
    /// Its name, without the window.
    pub name: String,
    /// What is computed.
    pub aggregation: Aggregation,
    /// The value of an empty window instead of the aggregation's own.
    pub default: Option<f64>,
}

/// What is aggregated: a column or an expression over columns of the event.
#[derive(Clone, Debug)]
pub enum Operand {
    /// A column of the stream.
    Column(usize),
    /// An expression whose slots are the stream's columns.
    Expression(Arc<Expression>),
}

/// What a windowed feature computes. Nulls are left out by every aggregation with an operand.
#[derive(Clone, Debug)]
pub enum Aggregation {
    /// `count()`: events.
    Count,
    /// `sum(x)`.
    Sum(Operand),
    /// `mean(x)`.
    Mean(Operand),
    /// `min(x)`.
    Min(Operand),
    /// `max(x)`.
    Max(Operand),
    /// `stddev(x)`: of the sample (n - 1), null below two values.
    Stddev(Operand),
    /// `first(x)`: the earliest value that is not null.
    First(Operand),
    /// `last(x)`: the latest value that is not null.
    Last(Operand),
    /// `distinct_count(x)`.
    DistinctCount(Operand),
    /// `quantile(x, q)`: linear between the two nearest ranks (type 7 of Hyndman and Fan).
    Quantile(Operand, f64),
    /// `most_frequent(x)`: ties go to the smallest value.
    MostFrequent(Operand),
    /// `time_since_last()`: seconds from the latest event other than the judged one to the as-of.
    TimeSinceLast,
    /// `time_since_first()`: seconds from the earliest event to the as-of.
    TimeSinceFirst,
    /// `share(label)`: of the events, those reported as fraud by the as-of.
    ShareLabel,
    /// `share(condition)`: of the events, those for which it holds.
    Share(Operand),
    /// `decayed_count("1d")`: sum over the window of 2^(-age / half-life).
    DecayedCount(Span),
    /// `decayed_sum(x, "1d")`: the same, weighted with x.
    DecayedSum(Operand, Span),
    /// `travel_speed(latitude, longitude)`: km/h between the last two events, great circle, time taken as at least one second.
    TravelSpeed(Operand, Operand),
}

/// A feature computed at decision time from the event and other features.
#[derive(Clone, Debug)]
pub struct Derived {
    /// Its name.
    pub name: String,
    /// Slots: the columns of the judged stream, then all features of [`Definitions::features`].
    pub expression: Arc<Expression>,
    /// The stream whose events have it.
    pub stream: usize,
    /// Its identity: a hash of its definition and of the definitions it is computed from.
    pub hash: u64,
}

impl Definitions {
    /// Reads and checks the streams, entities, groups and derived features of `file`. Every mistake is noted in
    /// the file; `None` when there was one that leaves no usable definitions. `secret` keys the hash of sensitive columns.
    #[must_use]
    pub fn read(file: &ConfigFile, secret: Option<&[u8]>) -> Option<Self> {
        read::read(file, secret)
    }

    /// Reads what [`Self::read`] reads, as far as it goes: what else a file says can be checked against it.
    #[must_use]
    pub fn draft(file: &ConfigFile, secret: Option<&[u8]>) -> Draft {
        read::draft(file, secret)
    }

    /// Identity of all definitions together: what a bundle's feature schema names.
    #[must_use]
    pub fn schema_hash(&self) -> String {
        let mut digest = Sha256::new();
        for feature in &self.features {
            digest.update(feature.name.as_bytes());
            digest.update([0]);
        }
        for group in &self.groups {
            digest.update(group.hash.to_be_bytes());
        }
        for derived in &self.derived {
            digest.update(derived.hash.to_be_bytes());
        }
        digest.finalize()[..8].iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"))
    }

    /// The stream called `name`.
    #[must_use]
    pub fn stream(&self, name: &str) -> Option<&Arc<Stream>> {
        self.streams.iter().find(|stream| stream.name == name)
    }

    /// The index of the entity called `name`.
    #[must_use]
    pub fn entity(&self, name: &str) -> Option<usize> {
        self.entities.iter().position(|entity| entity.name == name)
    }

    /// Whether events of some judged stream have the key of an entity: whether lists and actions reach anybody by it.
    #[must_use]
    pub fn is_reached(&self, entity: &Entity) -> bool {
        self.streams.iter().any(|stream| stream.judge.is_some() && entity.missing_in(stream).is_none())
    }

    /// The index of the feature called `name` in every vector.
    #[must_use]
    pub fn feature(&self, name: &str) -> Option<usize> {
        self.features.iter().position(|feature| &*feature.name == name)
    }
}
