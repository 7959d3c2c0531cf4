//! Golden vectors: rows with the scores and outcomes that the model gave where it was trained.
//!
//! Layout (JSON): `{"vectors": [[number|null, ...], ...], "scores": [...], "outcomes": ["approve"|"review"|"block", ...]}`.

use interdict_features::decision::Outcome;
use serde::Deserialize;

/// How many vectors a bundle carries: fewer prove little, more slow activation down.
pub const VECTORS: std::ops::RangeInclusive<usize> = 20..=200;

/// Rows with what they must score.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Golden {
    /// Per row, per model input: the value, `None` where it is missing.
    pub vectors: Vec<Vec<Option<f64>>>,
    /// Per row: the probability of fraud.
    pub scores: Vec<f64>,
    /// Per row: what the bundle's thresholds make of it.
    pub outcomes: Vec<Outcome>,
}

/// Why golden vectors prove nothing.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GoldenError {
    /// Not the JSON that is asked for.
    #[error("not golden vectors: {0}")]
    Json(#[from] serde_json::Error),
    /// The three lists differ in length.
    #[error("{vectors} vectors, {scores} scores and {outcomes} outcomes; each vector needs one of both")]
    Lengths {
        /// Vectors given.
        vectors: usize,
        /// Scores given.
        scores: usize,
        /// Outcomes given.
        outcomes: usize,
    },
    /// Too few or too many.
    #[error("{count} vectors; give {} to {}", VECTORS.start(), VECTORS.end())]
    Count {
        /// How many there are.
        count: usize,
    },
    /// A vector has another width than the bundle's inputs.
    #[error("vector {row} has {found} values, bundle.toml lists {expected} [[input]]")]
    Width {
        /// Which, from 0.
        row: usize,
        /// Its width.
        found: usize,
        /// The bundle's.
        expected: usize,
    },
    /// A score is no probability.
    #[error("score {row} is {score}; scores are probabilities from 0 to 1")]
    Score {
        /// Which, from 0.
        row: usize,
        /// What it is.
        score: f64,
    },
}

impl Golden {
    /// Reads golden vectors of `width` values each.
    ///
    /// # Errors
    /// As [`GoldenError`] says.
    pub fn read(bytes: &[u8], width: usize) -> Result<Self, GoldenError> {
        let golden: Self = serde_json::from_slice(bytes)?;
        let (vectors, scores, outcomes) = (golden.vectors.len(), golden.scores.len(), golden.outcomes.len());
        if vectors != scores || vectors != outcomes {
            return Err(GoldenError::Lengths { vectors, scores, outcomes });
        }
        if !VECTORS.contains(&vectors) {
            return Err(GoldenError::Count { count: vectors });
        }
        for (row, vector) in golden.vectors.iter().enumerate() {
            if vector.len() != width {
                return Err(GoldenError::Width { row, found: vector.len(), expected: width });
            }
        }
        for (row, &score) in golden.scores.iter().enumerate() {
            if !(0.0..=1.0).contains(&score) {
                return Err(GoldenError::Score { row, score });
            }
        }
        Ok(golden)
    }
}
