//! The reference sample: what the model's inputs looked like when it was made.
//!
//! Each column keeps its values sorted (for KS) and fixed bins with their counts (for PSI). The bins, made from the
//! reference alone:
//! - one for null (and NaN, which no decision record can hold);
//! - one for every atom, a value that at least 5 % of the rows have (zeros, caps, flags);
//! - intervals between decile-type edges of the other values, de-duplicated, open to both infinities, each meant to
//!   hold at least 5 % of the rows. Where all values are atoms one empty interval is left for values never seen.

use std::fs::File;
use std::path::Path;

use arrow_array::cast::AsArray;
use arrow_array::types::{Decimal128Type, Float32Type, Float64Type};
use arrow_array::{Array, downcast_integer_array};
use arrow_schema::DataType;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::MonitorError;

/// The most rows a reference may have; 31 columns of it are 250 MB.
const ROWS_MAX: usize = 1_000_000;
/// The most columns.
const COLUMNS_MAX: usize = 2_000;
/// A value that one row in so many has is an atom; also the least mass an interval is meant to hold.
const ATOM_ONE_IN: usize = 20;
const INTERVALS_MAX: usize = 10;

/// Name of the score's column.
pub const SCORE: &str = "score";

/// The bins of one column.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Bins {
    atoms: Vec<f64>,
    edges: Vec<f64>,
}

impl Bins {
    /// Makes bins for `sorted` values out of `rows` rows, the rest of which are null.
    pub(super) fn of(sorted: &[f64], rows: usize) -> Self {
        let mass = rows.div_ceil(ATOM_ONE_IN).max(1);
        let (mut atoms, mut rest) = (Vec::new(), Vec::new());
        #[expect(clippy::float_cmp, reason = "an atom is one value, bit for bit")]
        for run in sorted.chunk_by(|a, b| a == b) {
            if run.len() >= mass && run.len() > 1 {
                atoms.push(run[0]);
            } else {
                rest.extend_from_slice(run);
            }
        }
        let intervals = (rest.len() / mass).clamp(1, INTERVALS_MAX);
        let mut edges: Vec<f64> = (1..intervals).map(|cut| rest[cut * rest.len() / intervals]).collect();
        edges.dedup();
        Self { atoms, edges }
    }

    pub(crate) fn count(&self) -> usize {
        self.atoms.len() + self.edges.len() + 2
    }

    /// The bin of a value, NaN being null.
    pub(crate) fn of_value(&self, value: f64) -> usize {
        if value.is_nan() {
            return 0;
        }
        match self.atoms.binary_search_by(|atom| atom.total_cmp(&value)) {
            Ok(atom) => 1 + atom,
            Err(_) => 1 + self.atoms.len() + self.edges.partition_point(|edge| *edge <= value),
        }
    }
}

/// One column of the reference.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Column {
    pub(crate) name: String,
    pub(crate) sorted: Vec<f64>,
    pub(crate) bins: Bins,
    pub(crate) counts: Vec<u64>,
}

impl Column {
    pub(super) fn new(name: String, values: impl Iterator<Item = Option<f64>>) -> Self {
        let (mut sorted, mut rows) = (Vec::new(), 0);
        for value in values {
            rows += 1;
            sorted.extend(value.map(normal).filter(|value| !value.is_nan()));
        }
        sorted.sort_unstable_by(f64::total_cmp);
        let bins = Bins::of(&sorted, rows);
        let mut counts = vec![0; bins.count()];
        counts[0] = (rows - sorted.len()) as u64;
        for value in &sorted {
            counts[bins.of_value(*value)] += 1;
        }
        Self { name, sorted, bins, counts }
    }
}

/// The numbers of a column; `None` when it holds none.
#[expect(clippy::cast_precision_loss, reason = "a reference is of doubles")]
fn doubles(array: &dyn Array) -> Option<Vec<Option<f64>>> {
    let values = downcast_integer_array!(
        array => array.iter().map(|value| value.map(|value| value as f64)).collect(),
        DataType::Boolean => array.as_boolean().iter().map(|value| value.map(f64::from)).collect(),
        DataType::Float32 => array.as_primitive::<Float32Type>().iter().map(|value| value.map(f64::from)).collect(),
        DataType::Float64 => array.as_primitive::<Float64Type>().iter().collect(),
        DataType::Decimal128(_, scale) => {
            let unit = 10_f64.powi(i32::from(*scale));
            array.as_primitive::<Decimal128Type>().iter().map(|value| value.map(|value| value as f64 / unit)).collect()
        }
        _ => return None,
    );
    Some(values)
}

/// -0.0 and 0.0 are one value.
pub(crate) fn normal(value: f64) -> f64 {
    value + 0.0
}

/// A reference sample of one model version.
#[derive(Clone, PartialEq, Debug)]
pub struct Reference {
    /// The model's name.
    pub model: String,
    /// Its version.
    pub version: String,
    pub(crate) columns: Vec<Column>,
    rows: usize,
}

impl Reference {
    /// Reads a bundle's `reference.parquet`: a numeric column per model input, named as in flat tables, and `score`.
    ///
    /// # Errors
    /// Transient when the file cannot be opened, Fatal when it is no Parquet, Rejected when it has no rows, more
    /// than a million, or a column that is not numeric.
    pub fn load(path: &Path, model: &str, version: &str) -> Result<Self, MonitorError> {
        let refused = |why: String| MonitorError::Reference { path: path.to_owned(), why };
        let undecodable = |source| MonitorError::Decode { path: path.to_owned(), source };
        let file = File::open(path).map_err(|error| MonitorError::io("opening", path, error))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(undecodable)?;
        let rows = usize::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
        if rows == 0 || rows > ROWS_MAX || builder.schema().fields().len() > COLUMNS_MAX {
            let why = format!("it has {rows} rows; write a sample of 1 to {ROWS_MAX} rows (10,000 is good)");
            return Err(refused(why));
        }
        let reader = builder.build().map_err(undecodable)?;
        let schema = arrow_array::RecordBatchReader::schema(&reader);
        let batches: Vec<_> = reader.collect::<Result<_, _>>().map_err(|error| undecodable(error.into()))?;
        let mut columns = Vec::new();
        for (index, field) in schema.fields().iter().enumerate() {
            let parts: Option<Vec<_>> = batches.iter().map(|batch| doubles(batch.column(index))).collect();
            let Some(parts) = parts else {
                let why = format!("column '{}' is {}; write doubles", field.name(), field.data_type());
                return Err(refused(why));
            };
            columns.push(Column::new(field.name().clone(), parts.into_iter().flatten()));
        }
        Ok(Self { model: model.to_owned(), version: version.to_owned(), columns, rows })
    }

    /// Makes a reference of columns in memory, named as in flat tables; null where missing.
    #[must_use]
    pub fn from_columns(model: &str, version: &str, columns: Vec<(String, Vec<Option<f64>>)>) -> Self {
        let rows = columns.first().map_or(0, |(_, values)| values.len());
        let columns = columns.into_iter().map(|(name, values)| Column::new(name, values.into_iter())).collect();
        Self { model: model.to_owned(), version: version.to_owned(), columns, rows }
    }

    /// Rows of the sample.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Names of the columns, in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().map(|column| column.name.as_str())
    }
}
