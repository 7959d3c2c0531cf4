//! From names in `bundle.toml` to places in the event and its vector.

use interdict_features::definition::{Definitions, Stream};
use interdict_features::expression::Type;
use interdict_features::value::ColumnType;

use crate::bundle::manifest::InputName;
use crate::subject::{Subject, column_number};

/// Where a value is found.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Place {
    /// A column of the judged stream.
    Column(usize),
    /// A feature, by its index in every vector.
    Feature(usize),
}

/// One input of a model.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Input {
    /// Where its value is.
    pub place: Place,
    /// What the model is given where there is none.
    pub missing: f32,
}

/// Why a name is no input.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InputError {
    /// Nothing is called so.
    #[error("input '{name}' is neither a feature nor a column of stream '{stream}'; {help}")]
    Unknown {
        /// The name.
        name: String,
        /// The judged stream.
        stream: String,
        /// The nearest known name.
        help: String,
    },
    /// Text and instants are no numbers.
    #[error("input '{name}' is {kind}; models take numbers: declare a derived feature that makes one of it")]
    NotANumber {
        /// The name.
        name: String,
        /// What it is.
        kind: String,
    },
    /// A derived feature of the events of another stream.
    #[error("input '{name}' is derived from events of another stream than '{stream}'")]
    OtherStream {
        /// The name.
        name: String,
        /// The judged stream.
        stream: String,
    },
}

/// Finds the place of `input` for events of `stream`.
///
/// # Errors
/// As [`InputError`] says.
pub fn resolve(input: &InputName, definitions: &Definitions, stream: &Stream) -> Result<Input, InputError> {
    let name = || input.name.clone();
    if let Some(index) = definitions.feature(&input.name) {
        let kind = definitions.features[index].kind;
        if matches!(kind, Type::Text | Type::Timestamp) {
            return Err(InputError::NotANumber { name: name(), kind: kind.to_string() });
        }
        if definitions.derived.iter().any(|derived| derived.name == input.name && derived.stream != stream.index) {
            return Err(InputError::OtherStream { name: name(), stream: stream.name.clone() });
        }
        return Ok(Input { place: Place::Feature(index), missing: input.missing });
    }
    let Some(column) = stream.column(&input.name) else {
        let known = definitions.features.iter().map(|feature| &*feature.name);
        let known = known.chain(stream.columns.iter().map(|column| column.name.as_str()));
        let help = interdict_features::config::suggestion(&input.name, known);
        return Err(InputError::Unknown { name: name(), stream: stream.name.clone(), help });
    };
    let kind = stream.columns[column].kind;
    if matches!(kind, ColumnType::Text | ColumnType::Uuid | ColumnType::Timestamp) {
        return Err(InputError::NotANumber { name: name(), kind: format!("of type {kind}") });
    }
    Ok(Input { place: Place::Column(column), missing: input.missing })
}

impl Input {
    /// What the model is given for `subject`.
    #[must_use]
    pub fn value(&self, subject: &Subject<'_>) -> f32 {
        let value = match self.place {
            Place::Column(column) => column_number(&subject.row, column),
            Place::Feature(feature) => subject.vector.get(feature).and_then(|reading| reading.value.number()),
        };
        self.of(value)
    }

    /// What the model is given for `value`: golden vectors and events come through here alike.
    #[must_use]
    #[expect(clippy::cast_possible_truncation, reason = "models take float32: the nearest one, as in training")]
    pub fn of(&self, value: Option<f64>) -> f32 {
        value.map_or(self.missing, |value| value as f32)
    }
}
