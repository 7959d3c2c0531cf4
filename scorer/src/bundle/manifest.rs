//! `bundle.toml`: what a bundle is called, what its model is fed and where its thresholds lie.

use std::collections::{BTreeMap, BTreeSet};

use interdict_features::config::{ConfigFile, Problems, Section};
use interdict_features::decision::Thresholds;
use interdict_features::time::Timestamp;
use jiff::tz::TimeZone;

/// The format this version reads.
const FORMAT: i64 = 1;

/// A bundle's description.
#[derive(Clone, PartialEq, Debug)]
pub struct Manifest {
    /// The model's name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// When it was written.
    pub created: Timestamp,
    /// File name of the model.
    pub model: String,
    /// File name of the golden vectors.
    pub golden: String,
    /// File name of the reference sample.
    pub reference: String,
    /// The model's output that holds the score.
    pub output: String,
    /// The thresholds its author chose.
    pub thresholds: Thresholds,
    /// Hashes of the groups it was trained on, by name.
    pub groups: BTreeMap<String, u64>,
    /// Hashes of the derived features it was trained on, by name.
    pub derived: BTreeMap<String, u64>,
    /// What the model is fed, in its order.
    pub inputs: Vec<InputName>,
    /// Facts about the training, as TOML text: shown, never interpreted.
    pub training: String,
}

/// One input of the model by name.
#[derive(Clone, PartialEq, Debug)]
pub struct InputName {
    /// A windowed feature, a derived feature or a column of the judged event.
    pub name: String,
    /// What the model is given where the value is null; NaN where its author wrote `"nan"`.
    pub missing: f32,
}

impl Manifest {
    /// Reads `source`, which the user knows as `name`.
    ///
    /// # Errors
    /// All mistakes at once.
    pub fn read(name: &str, source: &str) -> Result<Self, Problems> {
        let file = ConfigFile::parse(name, source)?;
        let manifest = read(&file, source);
        file.finish()?;
        Ok(manifest.expect("a manifest without mistakes is complete"))
    }
}

fn read(file: &ConfigFile, source: &str) -> Option<Manifest> {
    let root = file.root();
    root.require("format", "1");
    if root.integer("format", 1..=i64::MAX).is_some_and(|format| format != FORMAT) {
        root.report(
            "format",
            "this version reads format 1",
            "use the version of interdict that the bundle was made for",
        );
    }
    let text = |key: &str, example: &str| {
        root.require(key, example);
        let text = root.text(key)?;
        if text.is_empty() {
            root.report(key, format!("'{key}' is empty"), format!("write {key} = {example}"));
        }
        Some(text)
    };
    let name = text("name", "\"handbook\"");
    let version = text("version", "\"1\"");
    let created = text("created", "\"2026-11-20T00:00:00Z\"").and_then(|text| {
        let created = Timestamp::parse(&text, &TimeZone::UTC);
        if created.is_none() {
            root.report("created", format!("'{text}' is no time"), "write it as 2026-11-20T00:00:00Z");
        }
        created
    });
    let file_name = |key: &str, example: &str| {
        let name = text(key, example)?;
        if name.contains(['/', '\\']) || name.starts_with('.') {
            root.report(key, format!("'{name}' is no plain file name"), "put the file into the bundle's folder");
        }
        Some(name)
    };
    let model = file_name("model", "\"model.onnx\"");
    let golden = file_name("golden", "\"golden.json\"");
    let reference = file_name("reference", "\"reference.parquet\"");
    let output = text("output", "\"probabilities\"");
    let thresholds = read_thresholds(file, &root);
    let groups = read_hashes(file, "groups", "group");
    let derived = read_hashes(file, "derived", "derived feature");
    let inputs = read_inputs(file, &root);
    let training = read_training(file, source);
    root.finish();
    Some(Manifest {
        name: name?,
        version: version?,
        created: created?,
        model: model?,
        golden: golden?,
        reference: reference?,
        output: output?,
        thresholds: thresholds?,
        groups,
        derived,
        inputs,
        training,
    })
}

fn read_thresholds(file: &ConfigFile, root: &Section<'_>) -> Option<Thresholds> {
    let Some(section) = file.section("thresholds") else {
        root.require("thresholds", "{ review = 0.5, block = 0.9 }");
        return None;
    };
    section.require("review", "0.5");
    section.require("block", "0.9");
    let review = section.number("review", 0.0..=1.0);
    let block = section.number("block", 0.0..=1.0);
    let thresholds = Thresholds { review: review?, block: block? };
    if thresholds.review > thresholds.block {
        section.report("review", "the review threshold lies over the block threshold", "write review <= block");
    }
    section.finish();
    Some(thresholds)
}

fn read_hashes(file: &ConfigFile, name: &str, of: &str) -> BTreeMap<String, u64> {
    let Some(section) = file.section(name) else {
        return BTreeMap::new();
    };
    let mut hashes = BTreeMap::new();
    for key in section.keys() {
        let Some(text) = section.text(&key.value) else { continue };
        match u64::from_str_radix(&text, 16) {
            Ok(hash) if text.len() == 16 => {
                hashes.insert(key.value, hash);
            }
            _ => section.report(
                &key.value,
                format!("'{text}' is no hash of a {of}"),
                "write the 16 hex digits that `interdict plan` prints",
            ),
        }
    }
    section.finish();
    hashes
}

fn read_inputs(file: &ConfigFile, root: &Section<'_>) -> Vec<InputName> {
    let mut inputs = Vec::new();
    let mut seen = BTreeSet::new();
    let sections = file.array("input");
    if sections.is_empty() {
        root.report("input", "the bundle lists no [[input]]", "add one per value of the model's row, in its order");
    }
    for section in sections {
        section.require("name", "\"customer_spend.tx_count_1d\"");
        section.require("missing", "0.0 or \"nan\"");
        let name = section.text("name");
        let missing = read_missing(&section);
        if let Some(name) = &name
            && !seen.insert(name.clone())
        {
            section.report("name", format!("input '{name}' stands here twice"), "list each input once");
        }
        if let (Some(name), Some(missing)) = (name, missing) {
            inputs.push(InputName { name, missing });
        }
        section.finish();
    }
    inputs
}

#[expect(clippy::cast_possible_truncation, reason = "models take float32, the nearest one is meant")]
fn read_missing(section: &Section<'_>) -> Option<f32> {
    if !section.is_text("missing") {
        return section.number("missing", f64::from(f32::MIN)..=f64::from(f32::MAX)).map(|value| value as f32);
    }
    let text = section.text("missing")?;
    if text == "nan" {
        return Some(f32::NAN);
    }
    section.report("missing", format!("'{text}' is no value of 'missing'"), "write a number or \"nan\"");
    None
}

fn read_training(file: &ConfigFile, source: &str) -> String {
    let Some(section) = file.section("training") else {
        return String::new();
    };
    let _shown_not_interpreted = section.keys();
    section.finish();
    let document = source.parse::<toml_edit::DocumentMut>().ok();
    document.and_then(|document| document.get("training").map(ToString::to_string)).unwrap_or_default()
}
