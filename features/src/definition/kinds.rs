//! What type of value an aggregation gives.

use crate::expression::Type;
use crate::value::ColumnType;

use super::{Aggregation, Operand, Stream};

/// What a column is to an expression: decimals are doubles in major units, UUIDs are texts.
pub(crate) const fn type_of(column: ColumnType) -> Type {
    match column {
        ColumnType::Int => Type::Int,
        ColumnType::Double | ColumnType::Decimal { .. } => Type::Double,
        ColumnType::Bool => Type::Bool,
        ColumnType::Text | ColumnType::Uuid => Type::Text,
        ColumnType::Timestamp => Type::Timestamp,
    }
}

impl Operand {
    /// The type of what is aggregated.
    ///
    /// # Panics
    /// When it names a column that `stream` does not have: it belongs to another stream then.
    #[must_use]
    pub fn kind(&self, stream: &Stream) -> Type {
        match self {
            Self::Column(index) => type_of(stream.columns[*index].kind),
            Self::Expression(expression) => expression.kind(),
        }
    }
}

impl Aggregation {
    /// The type of its value when it has one; sums and extremes of integers are integers.
    ///
    /// # Panics
    /// When an operand belongs to another stream than `stream`.
    #[must_use]
    pub fn kind(&self, stream: &Stream) -> Type {
        match self {
            Self::Count | Self::DistinctCount(_) => Type::Int,
            Self::Sum(of)
            | Self::Min(of)
            | Self::Max(of)
            | Self::First(of)
            | Self::Last(of)
            | Self::MostFrequent(of) => of.kind(stream),
            Self::Mean(_)
            | Self::Stddev(_)
            | Self::Quantile(..)
            | Self::TimeSinceLast
            | Self::TimeSinceFirst
            | Self::ShareLabel
            | Self::Share(_)
            | Self::DecayedCount(_)
            | Self::DecayedSum(..)
            | Self::TravelSpeed(..) => Type::Double,
        }
    }

    /// What it aggregates, in the order it was written.
    pub fn operands(&self) -> impl Iterator<Item = &Operand> {
        let (first, second) = match self {
            Self::Count | Self::TimeSinceLast | Self::TimeSinceFirst | Self::ShareLabel | Self::DecayedCount(_) => {
                (None, None)
            }
            Self::Sum(of)
            | Self::Mean(of)
            | Self::Min(of)
            | Self::Max(of)
            | Self::Stddev(of)
            | Self::First(of)
            | Self::Last(of)
            | Self::DistinctCount(of)
            | Self::Quantile(of, _)
            | Self::MostFrequent(of)
            | Self::Share(of)
            | Self::DecayedSum(of, _) => (Some(of), None),
            Self::TravelSpeed(latitude, longitude) => (Some(latitude), Some(longitude)),
        };
        first.into_iter().chain(second)
    }
}
