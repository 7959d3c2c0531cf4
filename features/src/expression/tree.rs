//! The typed tree an expression is lowered to: one node type per value type, so that evaluation checks no tags.
//!
//! Invariant: a tree is at most [`super::parse::DEPTH_MAX`] deep, so that walking it fits any stack.

use std::cmp::Ordering;
use std::fmt::Debug;

use regex::Regex;

use super::{Operand, Slots, Type};

/// A type of value: what its constants, operations and values are.
pub(super) trait Kind: Clone + Debug {
    type Constant: Clone + Debug;
    type Operation: Clone + Debug;
    type Value<'a>: Copy;

    /// The value of a slot; null when the slot holds another type.
    fn of_operand(operand: Operand<'_>) -> Option<Self::Value<'_>>;
    fn of_constant(constant: &Self::Constant) -> Self::Value<'_>;
    fn operate<'a>(operation: &'a Self::Operation, input: &'a impl Slots) -> Option<Self::Value<'a>>;
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Int;
#[derive(Clone, Copy, Debug)]
pub(super) struct Double;
#[derive(Clone, Copy, Debug)]
pub(super) struct Bool;
#[derive(Clone, Copy, Debug)]
pub(super) struct Text;
#[derive(Clone, Copy, Debug)]
pub(super) struct Time;

/// One node whose value is a `K` or null.
#[derive(Clone, Debug)]
pub(super) enum Node<K: Kind> {
    Slot(u32),
    Constant(K::Constant),
    Null,
    Choose(Box<(Node<Bool>, Node<K>, Node<K>)>),
    Coalesce(Box<[Node<K>]>),
    Operation(Box<K::Operation>),
}

/// A whole expression, by the type of its value.
#[derive(Clone, Debug)]
pub(super) enum Tree {
    Int(Node<Int>),
    Double(Node<Double>),
    Bool(Node<Bool>),
    Text(Node<Text>),
    Time(Node<Time>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessEqual,
    Greater,
    GreaterEqual,
}

/// A part of an instant in UTC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Part {
    Second,
    Minute,
    Hour,
    Weekday,
    Day,
    Month,
    Year,
}

/// A function of one double.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Curve {
    Abs,
    Floor,
    Ceil,
    Round,
    Sqrt,
    Ln,
    Log10,
    Exp,
}

/// Which end of several values is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Extreme {
    Least,
    Greatest,
}

/// What is searched for in a text, and where.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Search {
    StartsWith,
    EndsWith,
    Contains,
}

#[derive(Clone, Debug)]
pub(super) enum IntOperation {
    Arithmetic(Arithmetic, Node<Int>, Node<Int>),
    Negate(Node<Int>),
    Abs(Node<Int>),
    Extreme(Extreme, Box<[Node<Int>]>),
    Part(Part, Node<Time>),
    EpochSeconds(Node<Time>),
    Truncate(Node<Double>),
    Length(Node<Text>),
}

#[derive(Clone, Debug)]
pub(super) enum DoubleOperation {
    OfInt(Node<Int>),
    Arithmetic(Arithmetic, Node<Double>, Node<Double>),
    Negate(Node<Double>),
    Extreme(Extreme, Box<[Node<Double>]>),
    Curve(Curve, Node<Double>),
    Power(Node<Double>, Node<Double>),
    SecondsBetween(Node<Time>, Node<Time>),
}

#[derive(Clone, Debug)]
pub(super) enum BoolOperation {
    And(Node<Bool>, Node<Bool>),
    Or(Node<Bool>, Node<Bool>),
    Not(Node<Bool>),
    IsNull(Tree),
    IsPresent(Tree),
    CompareInt(Comparison, Node<Int>, Node<Int>),
    CompareDouble(Comparison, Node<Double>, Node<Double>),
    CompareIntDouble(Comparison, Node<Int>, Node<Double>),
    CompareTime(Comparison, Node<Time>, Node<Time>),
    CompareText(Comparison, Node<Text>, Node<Text>),
    CompareBool(Comparison, Node<Bool>, Node<Bool>),
    /// The lists are sorted.
    IntIn(Node<Int>, Box<[i64]>),
    DoubleIn(Node<Double>, Box<[f64]>),
    TimeIn(Node<Time>, Box<[i64]>),
    TextIn(Node<Text>, Box<[Box<str>]>),
    Search(Search, Node<Text>, Node<Text>),
    Matches(Node<Text>, Regex),
}

#[derive(Clone, Debug)]
pub(super) enum TimeOperation {
    Extreme(Extreme, Box<[Node<Time>]>),
    /// Midnight in UTC of the instant's day.
    Date(Node<Time>),
}

/// Text is only read, never made: making it would allocate.
#[derive(Clone, Copy, Debug)]
pub(super) enum TextOperation {}

impl Tree {
    pub(super) fn kind(&self) -> Type {
        match self {
            Self::Int(_) => Type::Int,
            Self::Double(_) => Type::Double,
            Self::Bool(_) => Type::Bool,
            Self::Text(_) => Type::Text,
            Self::Time(_) => Type::Timestamp,
        }
    }

    pub(super) fn slot(index: u32, kind: Type) -> Self {
        match kind {
            Type::Int => Self::Int(Node::Slot(index)),
            Type::Double => Self::Double(Node::Slot(index)),
            Type::Bool => Self::Bool(Node::Slot(index)),
            Type::Text => Self::Text(Node::Slot(index)),
            Type::Timestamp => Self::Time(Node::Slot(index)),
        }
    }
}

macro_rules! operations {
    ($($operation:ident => $tree:ident($kind:ident)),* $(,)?) => {
        $(impl From<$operation> for Tree {
            fn from(operation: $operation) -> Self {
                Self::$tree(Node::Operation(Box::new(operation)))
            }
        }
        impl From<$operation> for Node<$kind> {
            fn from(operation: $operation) -> Self {
                Self::Operation(Box::new(operation))
            }
        })*
    };
}
operations! {
    IntOperation => Int(Int),
    DoubleOperation => Double(Double),
    BoolOperation => Bool(Bool),
    TimeOperation => Time(Time),
}

impl Comparison {
    pub(super) fn holds(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Less => order.is_lt(),
            Self::LessEqual => order.is_le(),
            Self::Greater => order.is_gt(),
            Self::GreaterEqual => order.is_ge(),
        }
    }

    /// The comparison with its sides exchanged.
    pub(super) fn mirrored(self) -> Self {
        match self {
            Self::Equal => Self::Equal,
            Self::NotEqual => Self::NotEqual,
            Self::Less => Self::Greater,
            Self::LessEqual => Self::GreaterEqual,
            Self::Greater => Self::Less,
            Self::GreaterEqual => Self::LessEqual,
        }
    }
}
