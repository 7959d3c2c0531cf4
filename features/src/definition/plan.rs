//! What `interdict plan` prints: how long events are kept, how many stay exact, and what states and row records take.

use serde::{Serialize, Serializer};

use super::GroupKind;
use crate::config::ConfigFile;
use crate::engine::Plan;
use crate::state::TILED_BYTES_MAX;
use crate::time::Span;
use crate::value::ColumnType;

/// What the definitions ask of the stores. Sizes leave out texts, which are as long as the source sends them.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StoragePlan {
    /// In the order of the definitions.
    pub groups: Vec<GroupStorage>,
    /// In the order of the definitions.
    pub streams: Vec<StreamStorage>,
}

/// One group's state per key.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct GroupStorage {
    /// Its name.
    pub group: String,
    /// The entity whose keys have one each.
    pub entity: String,
    /// The stream whose events it holds.
    pub stream: String,
    /// Identity of the definition, 16 hex digits.
    pub hash: String,
    /// How many places of the vector it fills.
    pub features: usize,
    /// How long an event is kept beyond the newest of its key: delay, widest window and slack. `None`: for ever.
    #[serde(serialize_with = "optional_span")]
    pub retention: Option<Span>,
    /// The most bytes that one raw event takes.
    pub raw_event_bytes_max: usize,
    /// Events that are held raw, and so exactly, at the least.
    pub raw_events: usize,
    /// How wide the tiles of each window are, for keys with more events than that.
    pub tiles: Vec<Tiles>,
    /// The most bytes that a state takes, when every tile is filled.
    pub state_bytes_max: usize,
}

/// The tiles of one window.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Tiles {
    /// The window.
    #[serde(serialize_with = "span")]
    pub window: Span,
    /// The width of its tiles: a tiled read may be off by the events of one.
    #[serde(serialize_with = "span")]
    pub width: Span,
}

/// One stream's row records.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct StreamStorage {
    /// Its name.
    pub stream: String,
    /// How long a row can matter.
    #[serde(serialize_with = "span")]
    pub retention: Span,
    /// The most bytes that the record of a row takes that got one label. `None`: no records are kept.
    pub record_bytes_max: Option<usize>,
}

/// What compiled definitions ask of the stores.
#[must_use]
pub fn storage(plan: &Plan) -> StoragePlan {
    let definitions = &plan.definitions;
    let groups = definitions.groups.iter().zip(&plan.programs).map(|(group, program)| {
        let windows = if let GroupKind::Windowed { windows, .. } = &group.kind { windows.as_slice() } else { &[] };
        GroupStorage {
            group: group.name.clone(),
            entity: definitions.entities[group.entity].name.clone(),
            stream: definitions.streams[group.stream].name.clone(),
            hash: format!("{:016x}", group.hash),
            features: program.width(),
            retention: program.retention(),
            raw_event_bytes_max: program.slot_bytes(),
            raw_events: program.raw_events_max(),
            tiles: windows.iter().zip(program.tile_widths()).map(|(&window, width)| Tiles { window, width }).collect(),
            state_bytes_max: program.tiled_bytes_max(),
        }
    });
    let streams = definitions.streams.iter().zip(&plan.streams).map(|(stream, compiled)| StreamStorage {
        stream: stream.name.clone(),
        retention: compiled.retention,
        record_bytes_max: compiled
            .keeps_records
            .then(|| record_bytes(compiled.needed.iter().map(|column| stream.columns[*column].kind))),
    });
    StoragePlan { groups: groups.collect(), streams: streams.collect() }
}

impl StoragePlan {
    /// Notes a mistake in `file`, which declares the groups, for every group whose state may pass the bound.
    pub fn report_too_large(&self, file: &ConfigFile) {
        let sections = file.array("group");
        for group in self.groups.iter().filter(|group| group.state_bytes_max > TILED_BYTES_MAX) {
            let section = sections.iter().find(|section| section.text("name").as_deref() == Some(&group.group));
            let message = format!("a state of group '{}' may take {} bytes", group.group, group.state_bytes_max);
            let help = format!(
                "at most {TILED_BYTES_MAX} are allowed: move its short windows, or distinct_count and quantile, into a group of their own"
            );
            file.report(section.and_then(|section| section.span()), message, help);
        }
    }
}

/// By the layout of row records: two bytes of head, three versions of at most 15 bytes, five of judgements, a bit
/// per column for null, and one report of 26 bytes with its count.
fn record_bytes(columns: impl ExactSizeIterator<Item = ColumnType>) -> usize {
    let head = 2 + 3 * 15 + 5 + columns.len().div_ceil(8) + 1 + 26;
    let one = |kind| match kind {
        ColumnType::Bool => 1,
        ColumnType::Double => 8,
        ColumnType::Text | ColumnType::Uuid => 2,
        ColumnType::Int | ColumnType::Timestamp | ColumnType::Decimal { .. } => 10,
    };
    head + columns.map(one).sum::<usize>()
}

fn span<S: Serializer>(span: &Span, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(span)
}

fn optional_span<S: Serializer>(span: &Option<Span>, serializer: S) -> Result<S::Ok, S::Error> {
    match span {
        Some(span) => serializer.collect_str(span),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::change::{Change, ChangeBatch, Op, Version};
    use crate::definition::Definitions;
    use crate::row::RowRecord;
    use crate::time::Timestamp;

    const SOURCE: &str = r#"
[stream.payments]
id = "id"
time = "at"
label = "fraud"
columns = { id = "int64", at = "timestamp", card = "int64", amount = "decimal(2)", fraud = "bool" }
[entity.card]
key = "card"
[[group]]
name = "spend"
entity = "card"
delay = "7d"
windows = ["1d", "30d"]
features = { n = "count()", avg = "mean(amount)" }
[[group]]
name = "profile"
kind = "table"
entity = "card"
features = { last = "amount" }
"#;

    fn plan_of(source: &str) -> (ConfigFile, StoragePlan) {
        let file = ConfigFile::parse("interdict.toml", source).expect("it is TOML");
        let definitions = Definitions::read(&file, None).expect("it is right");
        let storage = storage(&Plan::compile(Arc::new(definitions)));
        (file, storage)
    }

    #[test]
    fn retention_is_delay_and_widest_window_and_slack() {
        let (file, storage) = plan_of(SOURCE);
        let spend = &storage.groups[0];
        assert_eq!(spend.retention.map(|span| span.to_string()).as_deref(), Some("889h"));
        assert_eq!((spend.features, storage.groups[1].features), (4, 1));
        assert!(spend.tiles.iter().all(|tiles| tiles.width.micros() * 100 <= tiles.window.micros()));
        assert_eq!(spend.tiles.len(), 2);
        assert!(spend.raw_events * spend.raw_event_bytes_max <= 8 * 1024);
        assert_eq!(storage.groups[1].retention, None);
        assert!(storage.streams[0].record_bytes_max.is_some_and(|bytes| bytes < 200));
        let json = serde_json::to_value(&storage).expect("it is JSON");
        assert_eq!(json["groups"][0]["tiles"][1]["window"], "30d");
        assert_eq!(json["groups"][1]["retention"], serde_json::Value::Null);
        storage.report_too_large(&file);
        assert_eq!(file.problem_count(), 0);
    }

    #[test]
    fn groups_beyond_the_bound_are_reported_where_they_stand() {
        let (file, storage) = plan_of(&SOURCE.replace("[\"1d\", \"30d\"]", "[\"1s\", \"30d\"]"));
        storage.report_too_large(&file);
        let _asked = (file.sections("stream"), file.sections("entity"));
        let problems = file.finish().expect_err("the tiles of one second are too many").0;
        assert_eq!((problems.len(), problems[0].line), (1, 9));
        assert!(problems[0].message.starts_with("a state of group 'spend' may take"));
    }

    #[test]
    fn the_largest_record_with_one_label_fits_its_bound() {
        let file = ConfigFile::parse("interdict.toml", SOURCE).expect("it is TOML");
        let plan = Plan::compile(Arc::new(Definitions::read(&file, None).expect("it is right")));
        let stream = &plan.definitions.streams[0];
        let mut batch = ChangeBatch::new(Arc::clone(stream), 0);
        for major in [u64::MAX - 1, u64::MAX] {
            let mut row = batch.begin();
            for column in 0..stream.columns.len() {
                row.set_cell(column, if stream.columns[column].kind == ColumnType::Bool { 1 } else { i64::MAX });
            }
            row.set_cell(1, Timestamp::MAX.micros());
            let version = Version { major, minor: u32::MAX };
            row.finish(Change { op: Op::Update, version, arrival: Some(Timestamp::MAX), position: major });
        }
        let mut record = RowRecord::default();
        record.reset(stream);
        for (change, row) in batch.iter() {
            record.apply(change, row).expect("each is newer");
        }
        let mut bytes = Vec::new();
        record.encode(stream, &plan.streams[0].needed, &mut bytes);
        let bound = storage(&plan).streams[0].record_bytes_max.expect("records are kept");
        assert!(bytes.len() <= bound, "{} bytes are more than {bound}", bytes.len());
    }
}
