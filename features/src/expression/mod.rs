//! CEL expressions over typed slots: filters, conditions, derived features, judge conditions and rules.
//!
//! The text is parsed by the crate `cel`; what follows is our own, for three reasons its interpreter cannot meet: types are checked before the first event
//! (a mistake is reported by `interdict check`, with what to write instead), null in arithmetic and division by zero give null
//! (DESIGN section 4), and evaluation allocates nothing.
//!
//! Invariant: an [`Expression`] that compiled never fails; it gives a value of its type or null.

use std::collections::HashMap;

/// The type of an expression or a slot.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Type {
    /// 64-bit integer.
    Int,
    /// Finite double; decimals are doubles in major units.
    Double,
    /// true or false.
    Bool,
    /// Text, UUIDs included.
    Text,
    /// An instant.
    Timestamp,
}

/// A value while an expression is evaluated.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Operand<'a> {
    /// Absent.
    Null,
    /// An integer.
    Int(i64),
    /// A finite double.
    Double(f64),
    /// A bool.
    Bool(bool),
    /// Text.
    Text(&'a str),
    /// Microseconds since the epoch.
    Timestamp(i64),
}

/// Gives the values of slots.
pub trait Slots {
    /// The value of slot `index`; null when there is none.
    fn slot(&self, index: u32) -> Operand<'_>;
}

/// The names an expression may use.
#[derive(Clone, Debug, Default)]
pub struct Scope {
    names: HashMap<String, (u32, Type)>,
}

impl Scope {
    /// Declares `name` (dots allowed: `customer_spend.tx_count_7d`) as slot `index` of type `kind`.
    pub fn declare(&mut self, name: impl Into<String>, index: u32, kind: Type) {
        self.names.insert(name.into(), (index, kind));
    }

    /// The declared names.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The slot and type of `name`.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<(u32, Type)> {
        self.names.get(name).copied()
    }
}

/// Why a text is no expression of its scope.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ExpressionError {
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: String,
}

/// A compiled, type-checked expression. Cheap to share, evaluated without allocation.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    kind: Type,
    slots: Vec<u32>,
}

impl Expression {
    /// Compiles `source` against `scope`.
    ///
    /// # Errors
    /// The first mistake: not CEL, an unknown name (with the nearest known one), a type that does not fit, or a
    /// part of CEL that is not supported (macros, maps, messages).
    pub fn compile(_source: &str, _scope: &Scope) -> Result<Self, ExpressionError> {
        Err(ExpressionError { message: "not supported".to_owned(), help: String::new() })
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its values.
    #[must_use]
    pub fn kind(&self) -> Type {
        self.kind
    }

    /// The slots it reads, ascending, each once.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Its value where the slots have the values of `input`.
    #[must_use]
    pub fn evaluate<'a>(&'a self, _input: &'a impl Slots) -> Operand<'a> {
        Operand::Null
    }
}
