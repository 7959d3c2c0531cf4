//! CEL expressions over typed slots: filters, conditions, derived features, judge conditions and rules.
//!
//! The text is parsed by the crate `cel`; what follows is our own, for three reasons its interpreter cannot meet: types are checked before the first event
//! (a mistake is reported by `interdict check`, with what to write instead), null in arithmetic and division by zero give null
//! (DESIGN section 4), and evaluation allocates nothing.
//!
//! Where we go beyond CEL: integers mix with doubles and become doubles; `%` takes doubles; the difference of two
//! timestamps is their distance in seconds; null tests apply to every type. Integer division truncates towards
//! zero, as in CEL. `a && b` is false when one side is false and null when only null stands against it; `||` likewise.
//!
//! Invariant: an [`Expression`] that compiled never fails; it gives a value of its type or null. Overflow, division by zero
//! and results that are not finite are null.
//! Invariant: compiling and evaluating take bounded time and stack for every text.

mod calendar;
mod check;
mod evaluate;
mod functions;
mod membership;
mod parse;
#[cfg(test)]
mod tests;
mod tree;

use std::collections::HashMap;
use std::fmt;

use tree::Tree;

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

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Int => "an integer",
            Self::Double => "a double",
            Self::Bool => "a bool",
            Self::Text => "a text",
            Self::Timestamp => "a timestamp",
        })
    }
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
    refused: HashMap<String, String>,
}

impl Scope {
    /// Declares `name` (dots allowed: `customer_spend.tx_count_7d`) as slot `index` of type `kind`.
    pub fn declare(&mut self, name: impl Into<String>, index: u32, kind: Type) {
        self.names.insert(name.into(), (index, kind));
    }

    /// Makes the use of `name` a mistake that says `why`. A declaration of the same name wins.
    pub fn refuse(&mut self, name: impl Into<String>, why: impl Into<String>) {
        self.refused.insert(name.into(), why.into());
    }

    /// Why `name` may not be used, where that was said.
    #[must_use]
    pub fn refusal(&self, name: &str) -> Option<&str> {
        self.refused.get(name).map(String::as_str)
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

impl ExpressionError {
    fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// A compiled, type-checked expression, evaluated without allocation.
#[derive(Clone, Debug)]
pub struct Expression {
    source: String,
    slots: Vec<u32>,
    tree: Tree,
}

impl Expression {
    /// Compiles `source` against `scope`.
    ///
    /// # Errors
    /// The first mistake: not CEL, an unknown name (with the nearest known one), a type that does not fit, or a
    /// part of CEL that is not supported (macros, maps, messages).
    pub fn compile(source: &str, scope: &Scope) -> Result<Self, ExpressionError> {
        let parsed = parse::parse(source)?;
        let (tree, slots) = check::check(&parsed, scope)?;
        Ok(Self { source: source.to_owned(), slots, tree })
    }

    /// The names that `source` uses, whether or not they are declared anywhere; each once, sorted.
    ///
    /// # Errors
    /// `source` is not CEL, or beyond the limits.
    pub fn names(source: &str) -> Result<Vec<String>, ExpressionError> {
        Ok(check::names(&parse::parse(source)?))
    }

    /// The text it was compiled from.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The type of its values.
    #[must_use]
    pub fn kind(&self) -> Type {
        self.tree.kind()
    }

    /// The slots it reads, ascending, each once.
    #[must_use]
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }

    /// Its value where the slots have the values of `input`. A slot that gives a value of another type than was
    /// declared counts as null; integers are taken for doubles.
    #[must_use]
    pub fn evaluate<'a>(&'a self, input: &'a impl Slots) -> Operand<'a> {
        self.tree.value(input)
    }

    /// Whether it is a bool that is true; for filters and conditions, where null does not hit.
    #[must_use]
    pub fn holds(&self, input: &impl Slots) -> bool {
        matches!(self.tree.value(input), Operand::Bool(true))
    }
}
