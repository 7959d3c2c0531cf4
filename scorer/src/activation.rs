//! Activation: a bundle becomes a model in force only where it fits the definitions and scores as it did in training.
//!
//! Invariant: an [`Active`] has scored every golden vector within [`SCORE_TOLERANCE`] and flipped no outcome, with the
//! library, the machine and the code path that will score events.

use std::sync::Arc;

use interdict_features::decision::{Outcome, Thresholds};
use interdict_features::definition::{Definitions, Group, GroupKind, Stream};

use crate::bundle::Bundle;
use crate::bundle::manifest::Manifest;
use crate::input::{Input, InputError, Place, resolve};
use crate::runtime::Runtime;
use crate::session::{BATCH_ROWS_MAX, ModelError, Session};

/// How far a golden vector's score may lie from what the author saw: float32 sums in another order differ by less,
/// another model or another feature by more.
pub const SCORE_TOLERANCE: f64 = 1e-5;
/// The batch sizes whose scores must be equal to the last bit for a model to be run in batches (DESIGN 3.6).
const BATCH_SIZES: [usize; 2] = [7, BATCH_ROWS_MAX];
/// How many differing golden vectors an error lists.
const DIFFERENCES_LISTED: usize = 5;

/// How many rows one run of a model may take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Batching {
    /// Up to [`BATCH_ROWS_MAX`]: scores do not depend on the company.
    Together,
    /// One: the model's bits change with the batch.
    OneByOne,
}

/// A model in force. Shared by all workers; each opens its own session of it.
#[derive(Clone, Debug)]
pub struct Active {
    /// What its `bundle.toml` says.
    pub manifest: Arc<Manifest>,
    /// SHA-256 of its bundle, hex.
    pub hash: Arc<str>,
    /// Whose events it judges: index in `Definitions::streams`.
    pub stream: usize,
    /// Where its inputs are found, in its order.
    pub inputs: Arc<[Input]>,
    /// Whether rows may share a run.
    pub batching: Batching,
    model: Arc<[u8]>,
}

/// One way in which a bundle does not fit the definitions.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// An input cannot be fed.
    #[error("{0}")]
    Input(#[from] InputError),
    /// The bundle was trained on a group that is not defined.
    #[error("group '{group}' is not defined; add it as it was in training, or train again")]
    NoGroup {
        /// The group.
        group: String,
    },
    /// The group is defined otherwise than in training.
    #[error(
        "group '{group}' is defined as {defined:016x}, the model was trained on {trained:016x}; train again, or keep the old definition beside the new one"
    )]
    GroupHash {
        /// The group.
        group: String,
        /// Its hash here.
        defined: u64,
        /// Its hash in the bundle.
        trained: u64,
    },
    /// The bundle was trained on a derived feature that is not defined.
    #[error("feature '{feature}' is not derived; add it as it was in training, or train again")]
    NoDerived {
        /// The feature.
        feature: String,
    },
    /// The feature is derived otherwise than in training, or from groups that are defined otherwise.
    #[error(
        "feature '{feature}' is derived as {defined:016x}, the model was trained on {trained:016x}; train again, or derive it as in training and give the new one another name"
    )]
    DerivedHash {
        /// The feature.
        feature: String,
        /// Its hash here.
        defined: u64,
        /// Its hash in the bundle.
        trained: u64,
    },
    /// An input is a derived feature whose hash the bundle does not give.
    #[error(
        "input '{input}' is derived, and its hash is not in [derived] of bundle.toml; `interdict plan` prints the hash it has here"
    )]
    DerivedUnnamed {
        /// The input.
        input: String,
    },
    /// An input comes from a group whose hash the bundle does not give.
    #[error("input '{input}' comes from group '{group}', whose hash is not in [groups] of bundle.toml")]
    GroupUnnamed {
        /// The input.
        input: String,
        /// Its group.
        group: String,
    },
}

/// One golden vector that came out otherwise.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Difference {
    /// Which, from 0.
    pub row: usize,
    /// The score it must have.
    pub expected: f64,
    /// The score it got.
    pub got: f64,
    /// The outcome it must have.
    pub outcome_expected: Outcome,
    /// The outcome it got.
    pub outcome: Outcome,
}

/// Why a bundle is not activated.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ActivationError {
    /// The bundle does not fit the definitions; everything that does not fit.
    #[error("bundle '{bundle}' does not fit the definitions:\n{}", lines(.mismatches))]
    Schema {
        /// Name and version.
        bundle: String,
        /// All of them.
        mismatches: Vec<Mismatch>,
    },
    /// The model cannot be run.
    #[error("bundle '{bundle}': {source}")]
    Model {
        /// Name and version.
        bundle: String,
        /// Why.
        source: ModelError,
    },
    /// Golden vectors came out otherwise than in training.
    #[error(
        "bundle '{bundle}': {count} of {total} golden vectors differ from training by more than {SCORE_TOLERANCE} or change the outcome{}; the model, its thresholds or the ONNX Runtime library are not those it was made with",
        listing(.differences)
    )]
    Golden {
        /// Name and version.
        bundle: String,
        /// How many differ.
        count: usize,
        /// How many there are.
        total: usize,
        /// The first of them.
        differences: Vec<Difference>,
    },
}

fn lines(mismatches: &[Mismatch]) -> String {
    mismatches.iter().map(|mismatch| format!("  {mismatch}")).collect::<Vec<_>>().join("\n")
}

fn listing(differences: &[Difference]) -> String {
    differences.iter().fold(String::new(), |text, difference| {
        let Difference { row, expected, got, outcome_expected, outcome } = difference;
        format!("{text}\n  vector {row}: {got} ({outcome:?}), expected {expected} ({outcome_expected:?})")
    })
}

/// What a score is by `thresholds`: at or over one counts as over it.
#[must_use]
pub fn outcome_of(score: f64, thresholds: &Thresholds) -> Outcome {
    if score >= thresholds.block {
        Outcome::Block
    } else if score >= thresholds.review {
        Outcome::Review
    } else {
        Outcome::Approve
    }
}

/// Puts a bundle in force for the events of stream `stream` (index in `Definitions::streams`): finds its inputs,
/// scores its golden vectors, and finds out whether it may score in batches. Takes a session's start and some 600
/// runs: a matter of milliseconds to a second, not for an async thread.
///
/// # Errors
/// As [`ActivationError`] says; the model in force before stays.
pub fn activate(
    runtime: &Runtime,
    bundle: &Bundle,
    definitions: &Definitions,
    stream: usize,
) -> Result<Active, ActivationError> {
    let name = || format!("{} {}", bundle.manifest.name, bundle.manifest.version);
    let inputs = fit(&bundle.manifest, definitions, &definitions.streams[stream])
        .map_err(|mismatches| ActivationError::Schema { bundle: name(), mismatches })?;
    let failed = |source| ActivationError::Model { bundle: name(), source };
    let mut session = Session::open(runtime, &bundle.model, inputs.len(), &bundle.manifest.output).map_err(failed)?;
    let rows = golden_rows(bundle, &inputs);
    let scores = run_in(&mut session, &rows, 1).map_err(failed)?;
    compare(bundle, &scores[..bundle.golden.scores.len()])?;
    let batching = batching(&mut session, &rows, &scores);
    Ok(Active {
        manifest: Arc::new(bundle.manifest.clone()),
        hash: bundle.hash.as_str().into(),
        stream,
        inputs: inputs.into(),
        batching,
        model: Arc::clone(&bundle.model),
    })
}

impl Active {
    /// A session for one worker.
    ///
    /// # Errors
    /// As [`Session::open`]; what activated once fails here only for want of memory.
    pub fn session(&self, runtime: &Runtime) -> Result<Session, ModelError> {
        Session::open(runtime, &self.model, self.inputs.len(), &self.manifest.output)
    }
}

fn fit(manifest: &Manifest, definitions: &Definitions, stream: &Stream) -> Result<Vec<Input>, Vec<Mismatch>> {
    let mut mismatches = Vec::new();
    let mut inputs = Vec::with_capacity(manifest.inputs.len());
    for (name, trained) in &manifest.groups {
        match definitions.groups.iter().find(|group| group.name == *name) {
            None => mismatches.push(Mismatch::NoGroup { group: name.clone() }),
            Some(group) if group.hash != *trained => {
                mismatches.push(Mismatch::GroupHash { group: name.clone(), defined: group.hash, trained: *trained })
            }
            Some(_) => {}
        }
    }
    for (name, &trained) in &manifest.derived {
        match definitions.derived.iter().find(|derived| derived.name == *name) {
            None => mismatches.push(Mismatch::NoDerived { feature: name.clone() }),
            Some(derived) if derived.hash != trained => {
                mismatches.push(Mismatch::DerivedHash { feature: name.clone(), defined: derived.hash, trained });
            }
            Some(_) => {}
        }
    }
    for name in &manifest.inputs {
        match resolve(name, definitions, stream) {
            Ok(input) => {
                if is_derived(input.place, definitions) && !manifest.derived.contains_key(&name.name) {
                    mismatches.push(Mismatch::DerivedUnnamed { input: name.name.clone() });
                }
                if let Some(group) = group_of(input.place, definitions)
                    && !manifest.groups.contains_key(&group.name)
                {
                    let (input, group) = (name.name.clone(), group.name.clone());
                    mismatches.push(Mismatch::GroupUnnamed { input, group });
                }
                inputs.push(input);
            }
            Err(error) => mismatches.push(error.into()),
        }
    }
    if mismatches.is_empty() { Ok(inputs) } else { Err(mismatches) }
}

fn is_derived(place: Place, definitions: &Definitions) -> bool {
    let Place::Feature(feature) = place else { return false };
    feature >= definitions.features.len() - definitions.derived.len()
}

fn group_of(place: Place, definitions: &Definitions) -> Option<&Group> {
    let Place::Feature(feature) = place else { return None };
    definitions.groups.iter().find(|group| {
        let width = match &group.kind {
            GroupKind::Windowed { windows, features, .. } => windows.len() * features.len(),
            GroupKind::Table { features } => features.len(),
        };
        (group.first_feature..group.first_feature + width).contains(&feature)
    })
}

/// The golden vectors as the model is given them, repeated until the largest batch is full.
fn golden_rows(bundle: &Bundle, inputs: &[Input]) -> Vec<f32> {
    let vectors = &bundle.golden.vectors;
    let count = vectors.len().max(BATCH_ROWS_MAX);
    let rows = vectors.iter().cycle().take(count);
    rows.flat_map(|vector| vector.iter().zip(inputs).map(|(value, input)| input.of(*value))).collect()
}

fn run_in(session: &mut Session, rows: &[f32], batch: usize) -> Result<Vec<f64>, ModelError> {
    let mut scores = Vec::with_capacity(rows.len() / session.width());
    for chunk in rows.chunks(batch * session.width()) {
        session.run(chunk, &mut scores)?;
    }
    Ok(scores)
}

fn compare(bundle: &Bundle, scores: &[f64]) -> Result<(), ActivationError> {
    let golden = &bundle.golden;
    let judged = scores.iter().zip(&golden.scores).zip(&golden.outcomes).enumerate();
    let mut found: Vec<Difference> = judged
        .map(|(row, ((&got, &expected), &outcome_expected))| {
            let outcome = outcome_of(got, &bundle.manifest.thresholds);
            Difference { row, expected, got, outcome_expected, outcome }
        })
        .filter(|it| (it.got - it.expected).abs() > SCORE_TOLERANCE || it.outcome != it.outcome_expected)
        .collect();
    if found.is_empty() {
        return Ok(());
    }
    let count = found.len();
    found.truncate(DIFFERENCES_LISTED);
    let bundle_name = format!("{} {}", bundle.manifest.name, bundle.manifest.version);
    Err(ActivationError::Golden { bundle: bundle_name, count, total: scores.len(), differences: found })
}

/// A model that refuses a batch, or gives other bits in one, is run one row at a time.
fn batching(session: &mut Session, rows: &[f32], alone: &[f64]) -> Batching {
    let is_equal = |batch| {
        run_in(session, rows, batch)
            .is_ok_and(|together| together.iter().map(|it| it.to_bits()).eq(alone.iter().map(|it| it.to_bits())))
    };
    if BATCH_SIZES.into_iter().all(is_equal) { Batching::Together } else { Batching::OneByOne }
}
