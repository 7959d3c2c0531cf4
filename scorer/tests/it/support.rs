//! What the tests share: definitions, bundles on disk, events.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use interdict_features::change::{Change, ChangeBatch, Op, Version};
use interdict_features::config::{ConfigFile, Problems};
use interdict_features::decision::{EntityRef, SeenPosition};
use interdict_features::definition::{
    Aggregation, Column, Definitions, Derived, Entity, FeatureName, Group, GroupKind, Judge, Operand, Stream,
    WindowedFeature,
};
use interdict_features::expression::{Expression, Scope, Type};
use interdict_features::time::{Span, Timestamp};
use interdict_features::value::{ColumnType, NULL, Value};
use interdict_features::vector::{Flags, Reading};
use interdict_scorer::policy::Policy;
use interdict_scorer::runtime::{LIBRARY_VARIABLE, Runtime};
use interdict_scorer::subject::{Context, Subject};

pub(crate) const GROUP_HASH: u64 = 0x0123_4567_89ab_cdef;
const DERIVED_HASH: u64 = 0xfedc_ba98_7654_3210;

/// The library, loaded once. Fails with what to do where it is missing.
pub(crate) fn runtime() -> Runtime {
    static RUNTIME: OnceLock<Runtime> = OnceLock::new();
    let load = || {
        let named = std::env::var_os(LIBRARY_VARIABLE).map(PathBuf::from);
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let path = Runtime::locate(named.as_deref(), &[root]).unwrap_or_else(|error| panic!("{error}"));
        Runtime::load(&path).unwrap_or_else(|error| panic!("{error}"))
    };
    RUNTIME.get_or_init(load).clone()
}

pub(crate) fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// Transactions of customers at terminals; features `customer_spend.{tx_count,amount_avg}_{1d,7d}` and `is_large`.
pub(crate) fn definitions() -> Definitions {
    let column = |name: &str, kind| Column { name: name.to_owned(), kind, sensitive: false };
    let columns = vec![
        column("transaction_id", ColumnType::Int),
        column("tx_datetime", ColumnType::Timestamp),
        column("customer_id", ColumnType::Int),
        column("terminal_id", ColumnType::Int),
        column("amount", ColumnType::Decimal { scale: 2 }),
        column("country", ColumnType::Text),
    ];
    let mut stream = Stream::of_columns("transactions", columns, 0, Some(1));
    stream.judge = Some(Judge::Insert);
    let mut logins = Stream::of_columns("logins", vec![column("login_id", ColumnType::Int)], 0, None);
    logins.index = 1;
    let entity = |name: &str, key: &str| Entity { name: name.to_owned(), key: vec![key.to_owned()] };
    let windowed = |name: &str, aggregation| WindowedFeature { name: name.to_owned(), aggregation, default: None };
    let group = Group {
        name: "customer_spend".to_owned(),
        entity: 0,
        stream: 0,
        key: vec![2],
        filter: None,
        kind: GroupKind::Windowed {
            windows: vec![Span::DAY, Span::from_micros(7 * Span::DAY.micros())],
            delay: Span::ZERO,
            features: vec![
                windowed("tx_count", Aggregation::Count),
                windowed("amount_avg", Aggregation::Mean(Operand::Column(4))),
            ],
        },
        hash: GROUP_HASH,
        first_feature: 0,
    };
    let mut scope = Scope::default();
    scope.declare("amount", 4, Type::Double);
    let derived = Derived {
        name: "is_large".to_owned(),
        expression: Arc::new(Expression::compile("amount > 500.0", &scope).unwrap()),
        stream: 0,
        hash: DERIVED_HASH,
    };
    let feature = |name: &str, kind| FeatureName { name: name.into(), kind };
    Definitions {
        streams: vec![Arc::new(stream), Arc::new(logins)],
        entities: vec![entity("customer", "customer_id"), entity("terminal", "terminal_id")],
        groups: vec![group],
        derived: vec![derived],
        features: vec![
            feature("customer_spend.tx_count_1d", Type::Int),
            feature("customer_spend.tx_count_7d", Type::Int),
            feature("customer_spend.amount_avg_1d", Type::Double),
            feature("customer_spend.amount_avg_7d", Type::Double),
            feature("is_large", Type::Bool),
        ],
        disorder: Span::SECOND,
        slack: Span::HOUR,
        future_max: Span::DAY,
    }
}

pub(crate) fn read_policy(text: &str) -> Result<Policy, Problems> {
    let file = ConfigFile::parse("interdict.toml", text)?;
    let policy = Policy::read(&file, &definitions());
    file.finish()?;
    Ok(policy.expect("no problems, so a policy"))
}

/// The bundle of `forest.onnx` over (count, average, amount).
pub(crate) const MANIFEST: &str = r#"
format = 1
name = "forest"
version = "1"
created = "2026-11-20T00:00:00Z"
model = "model.onnx"
golden = "golden.json"
reference = "reference.parquet"
output = "probabilities"
[thresholds]
review = 0.5
block = 0.8
[groups]
customer_spend = "0123456789abcdef"
[[input]]
name = "customer_spend.tx_count_1d"
missing = 0.0
[[input]]
name = "customer_spend.amount_avg_7d"
missing = 0
[[input]]
name = "amount"
missing = 0.0
[training]
rows = 2000
auc = 0.9
"#;

/// A bundle folder with `manifest`, the model of the test data called `model`, and its golden vectors.
pub(crate) fn write_bundle(folder: &Path, manifest: &str, model: &str) {
    std::fs::write(folder.join("bundle.toml"), manifest).unwrap();
    std::fs::copy(data(model), folder.join("model.onnx")).unwrap();
    std::fs::copy(data("golden.json"), folder.join("golden.json")).unwrap();
    std::fs::write(folder.join("reference.parquet"), b"PAR1").unwrap();
}

/// An event under construction.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) customer: Option<i64>,
    pub(crate) amount_cents: i64,
    pub(crate) country: Option<&'static str>,
    pub(crate) vector: Vec<Reading>,
    pub(crate) entities: Vec<EntityRef>,
}

pub(crate) fn reading(value: Value) -> Reading {
    Reading { value, ..Reading::MISSING }
}

pub(crate) fn flagged(value: Value, flags: Flags) -> Reading {
    Reading { value, flags, edge_events: 0 }
}

pub(crate) fn customer(key: &str) -> EntityRef {
    EntityRef { entity: "customer".to_owned(), key: key.to_owned() }
}

impl Event {
    pub(crate) fn new(count: i64, average: f64, amount_cents: i64) -> Self {
        let double = |value| reading(Value::Double(value));
        Self {
            customer: Some(7),
            amount_cents,
            country: Some("NL"),
            vector: vec![
                reading(Value::Int(count)),
                reading(Value::Int(count)),
                double(average),
                double(average),
                reading(Value::Bool(amount_cents > 50_000)),
            ],
            entities: vec![customer("7"), EntityRef { entity: "terminal".to_owned(), key: "3".to_owned() }],
        }
    }

    pub(crate) fn batch(&self, definitions: &Definitions) -> ChangeBatch {
        let mut batch = ChangeBatch::new(Arc::clone(&definitions.streams[0]), 0);
        let mut row = batch.begin();
        row.set_cell(0, 1001);
        row.set_cell(1, 1_700_000_000_000_000);
        row.set_cell(2, self.customer.unwrap_or(NULL));
        row.set_cell(3, 3);
        row.set_cell(4, self.amount_cents);
        if let Some(country) = self.country {
            row.set_text(5, country).unwrap();
        }
        row.finish(Change { op: Op::Insert, version: Version::new(1), arrival: None, position: 1 });
        batch
    }

    /// Calls `with` with the event as a subject.
    pub(crate) fn judged<T>(&self, definitions: &Definitions, with: impl FnOnce(&Subject<'_>) -> T) -> T {
        let batch = self.batch(definitions);
        let context = context();
        with(&Subject { row: batch.row(0), vector: &self.vector, entities: &self.entities, context: &context })
    }
}

pub(crate) fn context() -> Context {
    let position = SeenPosition { partition: "file/0".to_owned(), position: 1 };
    Context {
        event_id: "1001".to_owned(),
        judgement: 0,
        position: position.clone(),
        seen: vec![position],
        event_time: Some(Timestamp::from_micros(1_700_000_000_000_000)),
        arrival_time: None,
        as_of: [("customer".to_owned(), Timestamp::from_micros(1_700_000_000_000_000))].into(),
        idempotency_key: None,
        deadline_micros: None,
        left_micros: None,
        late: false,
    }
}

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_micros(1_700_000_000_000_000 + second * 1_000_000)
}
