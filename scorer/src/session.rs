//! One ONNX session: one thread, one input buffer, one run at a time.
//!
//! Invariants:
//! - A session belongs to one worker; nothing is shared or locked on the way to a score.
//! - Every score that leaves here is finite; anything else is an error.

use std::fmt;

use ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ort::session::{HasSelectedOutputs, OutputSelector, RunOptions};
use ort::value::{Outlet, TensorElementType, TensorRef, ValueType};

use crate::runtime::Runtime;

/// Most rows one run takes; larger micro-batches are cut. The largest size at which activation compares bits.
pub const BATCH_ROWS_MAX: usize = 128;

/// Why a model cannot be used, or did not give a score.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The bytes are no model that ONNX Runtime takes.
    #[error("the model cannot be read: {0}; it may be truncated or no ONNX file: write the bundle again")]
    Unreadable(#[source] ort::Error),
    /// A session option was refused.
    #[error("ONNX Runtime refused a session option: {0}")]
    Option(String),
    /// The model has several inputs.
    #[error("the model has {count} inputs; it must have one, [N, F] of float32")]
    Inputs {
        /// How many.
        count: usize,
    },
    /// The model's input has another type or shape.
    #[error("the model's input '{name}' is {found}; it must be [N, F] of float32")]
    InputType {
        /// Its name.
        name: String,
        /// What it is.
        found: String,
    },
    /// The model takes another number of inputs than the bundle lists.
    #[error(
        "the model takes {model} values per row, bundle.toml lists {bundle} [[input]]; they come from different trainings"
    )]
    Width {
        /// Of the model.
        model: i64,
        /// Of the bundle.
        bundle: usize,
    },
    /// The output that the bundle names does not exist.
    #[error("the model has no output '{wanted}'; it has {}: write output = one of them in bundle.toml", .present.join(", "))]
    NoOutput {
        /// What the bundle names.
        wanted: String,
        /// What there is.
        present: Vec<String>,
    },
    /// The output is a list of maps.
    #[error("the model's output '{name}' is a sequence of maps; convert the model with zipmap=False")]
    Zipmap {
        /// The output.
        name: String,
    },
    /// The output is of another type or shape.
    #[error("the model's output '{name}' is {found}; it must be float32, [N, 2], [N, 1] or [N]")]
    OutputType {
        /// The output.
        name: String,
        /// What it is.
        found: String,
    },
    /// A run failed.
    #[error("the model failed on {rows} rows: {source}")]
    Run {
        /// How many rows it was given.
        rows: usize,
        /// Why.
        source: ort::Error,
    },
    /// The model's answer is no probability.
    #[error("the model gave {score}, which is no probability")]
    NotAProbability {
        /// What it gave.
        score: f32,
    },
}

/// A model ready to run on one thread.
pub struct Session {
    session: ort::session::Session,
    options: RunOptions<HasSelectedOutputs>,
    output: String,
    width: usize,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("output", &self.output).field("width", &self.width).finish_non_exhaustive()
    }
}

impl Session {
    /// Opens `model` (the bytes of an ONNX file) for rows of `width` values; scores are read from `output`.
    ///
    /// # Errors
    /// As [`ModelError`] says, none of them worth a retry: the bundle must be written anew.
    pub fn open(runtime: &Runtime, model: &[u8], width: usize, output: &str) -> Result<Self, ModelError> {
        let session = builder(runtime)?.commit_from_memory(model).map_err(ModelError::Unreadable)?;
        check_input(session.inputs(), width)?;
        check_output(session.outputs(), output)?;
        let options = RunOptions::new()
            .map_err(|error| ModelError::Option(error.to_string()))?
            .with_outputs(OutputSelector::no_default().with(output));
        Ok(Self { session, options, output: output.to_owned(), width })
    }

    /// How many values a row has.
    #[must_use]
    pub fn width(&self) -> usize {
        self.width
    }

    /// Scores `rows` (row-major, a multiple of the width) in one run and appends a probability per row.
    /// Allocates what ONNX Runtime allocates; appends nothing on failure.
    ///
    /// # Errors
    /// [`ModelError::Run`], [`ModelError::OutputType`], [`ModelError::NotAProbability`].
    pub fn run(&mut self, rows: &[f32], scores: &mut Vec<f64>) -> Result<(), ModelError> {
        let count = rows.len() / self.width;
        if count == 0 {
            return Ok(());
        }
        let failed = |source| ModelError::Run { rows: count, source };
        let input = TensorRef::from_array_view(([count, self.width], rows)).map_err(failed)?;
        let outputs = self.session.run_with_options(ort::inputs![input], &self.options).map_err(failed)?;
        let wrong = |found: String| ModelError::OutputType { name: self.output.clone(), found };
        let value = outputs.get(&self.output).ok_or_else(|| wrong("absent".to_owned()))?;
        let (shape, values) = value.try_extract_tensor::<f32>().map_err(failed)?;
        let columns = values.len() / count;
        if columns * count != values.len() || !(1..=2).contains(&columns) {
            return Err(wrong(format!("of shape {shape} for {count} rows")));
        }
        let last = values.chunks_exact(columns).map(|row| row[columns - 1]);
        if let Some(score) = last.clone().find(|score| !(0.0..=1.0).contains(score)) {
            return Err(ModelError::NotAProbability { score });
        }
        scores.extend(last.map(f64::from));
        Ok(())
    }
}

/// One thread, nothing spins, operators one after the other: parallelism is by sessions.
fn builder(runtime: &Runtime) -> Result<SessionBuilder, ModelError> {
    let refused = |error: ort::Error<SessionBuilder>| ModelError::Option(error.to_string());
    let builder =
        ort::session::Session::builder(runtime.environment()).map_err(|error| ModelError::Option(error.to_string()))?;
    let builder = builder.with_optimization_level(GraphOptimizationLevel::All).map_err(refused)?;
    let builder = builder.with_intra_threads(1).map_err(refused)?;
    let builder = builder.with_inter_threads(1).map_err(refused)?;
    let builder = builder.with_parallel_execution(false).map_err(refused)?;
    let builder = builder.with_intra_op_spinning(false).map_err(refused)?;
    builder.with_inter_op_spinning(false).map_err(refused)
}

fn check_input(inputs: &[Outlet], width: usize) -> Result<(), ModelError> {
    let [input] = inputs else {
        return Err(ModelError::Inputs { count: inputs.len() });
    };
    match input.dtype() {
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. } if shape.len() == 2 => {
            let columns = shape[1];
            if columns >= 0 && usize::try_from(columns) != Ok(width) {
                return Err(ModelError::Width { model: columns, bundle: width });
            }
            Ok(())
        }
        other => Err(ModelError::InputType { name: input.name().to_owned(), found: other.to_string() }),
    }
}

fn check_output(outputs: &[Outlet], wanted: &str) -> Result<(), ModelError> {
    let Some(output) = outputs.iter().find(|output| output.name() == wanted) else {
        let present = outputs.iter().map(|output| format!("'{}'", output.name())).collect();
        return Err(ModelError::NoOutput { wanted: wanted.to_owned(), present });
    };
    match output.dtype() {
        ValueType::Sequence(_) | ValueType::Map { .. } => Err(ModelError::Zipmap { name: wanted.to_owned() }),
        ValueType::Tensor { ty: TensorElementType::Float32, shape, .. }
            if shape.len() == 1 || (shape.len() == 2 && shape[1] <= 2) =>
        {
            Ok(())
        }
        other => Err(ModelError::OutputType { name: wanted.to_owned(), found: other.to_string() }),
    }
}
