//! Evaluation of the typed tree. `None` is null everywhere.
//!
//! Invariant: nothing here panics or allocates (a regular expression takes its scratch memory from a pool that it
//! keeps); a double that is not finite becomes null where it arises.

use std::cmp::Ordering;

use super::calendar;
use super::tree::{
    Arithmetic, Bool, BoolOperation, Comparison, Curve, Double, DoubleOperation, Extreme, Int, IntOperation, Kind,
    Node, Search, Text, TextOperation, Time, TimeOperation, Tree,
};
use super::{Operand, Slots};

impl<K: Kind> Node<K> {
    #[inline]
    pub(super) fn value<'a>(&'a self, input: &'a impl Slots) -> Option<K::Value<'a>> {
        match self {
            Self::Slot(index) => K::of_operand(input.slot(*index)),
            Self::Constant(constant) => Some(K::of_constant(constant)),
            Self::Null => None,
            Self::Operation(operation) => K::operate(operation, input),
            Self::Choose(choice) => {
                let (condition, then, otherwise) = &**choice;
                if condition.value(input)? { then.value(input) } else { otherwise.value(input) }
            }
            Self::Coalesce(nodes) => nodes.iter().find_map(|node| node.value(input)),
        }
    }
}

impl Tree {
    pub(super) fn value<'a>(&'a self, input: &'a impl Slots) -> Operand<'a> {
        match self {
            Self::Int(node) => node.value(input).map_or(Operand::Null, Operand::Int),
            Self::Double(node) => node.value(input).map_or(Operand::Null, Operand::Double),
            Self::Bool(node) => node.value(input).map_or(Operand::Null, Operand::Bool),
            Self::Text(node) => node.value(input).map_or(Operand::Null, Operand::Text),
            Self::Time(node) => node.value(input).map_or(Operand::Null, Operand::Timestamp),
        }
    }
}

impl Kind for Int {
    type Constant = i64;
    type Operation = IntOperation;
    type Value<'a> = i64;

    fn of_operand(operand: Operand<'_>) -> Option<i64> {
        if let Operand::Int(value) = operand { Some(value) } else { None }
    }

    fn of_constant(constant: &i64) -> i64 {
        *constant
    }

    fn operate<'a>(operation: &'a IntOperation, input: &'a impl Slots) -> Option<i64> {
        match operation {
            IntOperation::Arithmetic(by, left, right) => {
                let (left, right) = (left.value(input)?, right.value(input)?);
                match by {
                    Arithmetic::Add => left.checked_add(right),
                    Arithmetic::Subtract => left.checked_sub(right),
                    Arithmetic::Multiply => left.checked_mul(right),
                    Arithmetic::Divide => left.checked_div(right),
                    Arithmetic::Remainder => left.checked_rem(right),
                }
            }
            IntOperation::Negate(node) => node.value(input)?.checked_neg(),
            IntOperation::Abs(node) => node.value(input)?.checked_abs(),
            IntOperation::Extreme(which, nodes) => {
                extreme(nodes, input, |a, b| if *which == Extreme::Least { a.min(b) } else { a.max(b) })
            }
            IntOperation::Part(part, node) => Some(calendar::part(*part, node.value(input)?)),
            IntOperation::EpochSeconds(node) => Some(node.value(input)?.div_euclid(calendar::SECOND)),
            IntOperation::Truncate(node) => truncated(node.value(input)?),
            IntOperation::Length(node) => i64::try_from(node.value(input)?.chars().count()).ok(),
        }
    }
}

impl Kind for Double {
    type Constant = f64;
    type Operation = DoubleOperation;
    type Value<'a> = f64;

    fn of_operand(operand: Operand<'_>) -> Option<f64> {
        match operand {
            Operand::Double(value) => finite(value),
            Operand::Int(value) => Some(value as f64),
            _ => None,
        }
    }

    fn of_constant(constant: &f64) -> f64 {
        *constant
    }

    fn operate<'a>(operation: &'a DoubleOperation, input: &'a impl Slots) -> Option<f64> {
        match operation {
            DoubleOperation::OfInt(node) => Some(node.value(input)? as f64),
            DoubleOperation::Arithmetic(by, left, right) => {
                let (left, right) = (left.value(input)?, right.value(input)?);
                // A zero divisor gives an infinity or no number, which is null like every result that is not finite.
                finite(match by {
                    Arithmetic::Add => left + right,
                    Arithmetic::Subtract => left - right,
                    Arithmetic::Multiply => left * right,
                    Arithmetic::Divide => left / right,
                    Arithmetic::Remainder => left % right,
                })
            }
            DoubleOperation::Negate(node) => Some(-node.value(input)?),
            // Not f64::min and max: which of 0.0 and -0.0 they give is not fixed.
            DoubleOperation::Extreme(Extreme::Least, nodes) => extreme(nodes, input, |a, b| if b < a { b } else { a }),
            DoubleOperation::Extreme(Extreme::Greatest, nodes) => {
                extreme(nodes, input, |a, b| if b > a { b } else { a })
            }
            DoubleOperation::Curve(curve, node) => {
                let value = node.value(input)?;
                finite(match curve {
                    Curve::Abs => value.abs(),
                    Curve::Floor => value.floor(),
                    Curve::Ceil => value.ceil(),
                    Curve::Round => value.round(),
                    Curve::Sqrt => value.sqrt(),
                    Curve::Ln => value.ln(),
                    Curve::Log10 => value.log10(),
                    Curve::Exp => value.exp(),
                })
            }
            DoubleOperation::Power(base, exponent) => finite(base.value(input)?.powf(exponent.value(input)?)),
            DoubleOperation::SecondsBetween(later, earlier) => {
                Some(later.value(input)?.checked_sub(earlier.value(input)?)? as f64 / 1e6)
            }
        }
    }
}

impl Kind for Bool {
    type Constant = bool;
    type Operation = BoolOperation;
    type Value<'a> = bool;

    fn of_operand(operand: Operand<'_>) -> Option<bool> {
        if let Operand::Bool(value) = operand { Some(value) } else { None }
    }

    fn of_constant(constant: &bool) -> bool {
        *constant
    }

    fn operate<'a>(operation: &'a BoolOperation, input: &'a impl Slots) -> Option<bool> {
        match operation {
            BoolOperation::And(left, right) => match left.value(input) {
                Some(false) => Some(false),
                Some(true) => right.value(input),
                None => right.value(input).filter(|right| !right),
            },
            BoolOperation::Or(left, right) => match left.value(input) {
                Some(true) => Some(true),
                Some(false) => right.value(input),
                None => right.value(input).filter(|right| *right),
            },
            BoolOperation::Not(node) => Some(!node.value(input)?),
            BoolOperation::IsNull(tree) => Some(tree.value(input) == Operand::Null),
            BoolOperation::IsPresent(tree) => Some(tree.value(input) != Operand::Null),
            BoolOperation::CompareInt(by, left, right) => Some(by.holds(left.value(input)?.cmp(&right.value(input)?))),
            BoolOperation::CompareDouble(by, left, right) => {
                Some(by.holds(left.value(input)?.partial_cmp(&right.value(input)?)?))
            }
            BoolOperation::CompareIntDouble(by, left, right) => {
                Some(by.holds(int_to_double(left.value(input)?, right.value(input)?)))
            }
            BoolOperation::CompareTime(by, left, right) => Some(by.holds(left.value(input)?.cmp(&right.value(input)?))),
            BoolOperation::CompareText(by, left, right) => compare_text(*by, left.value(input)?, right.value(input)?),
            BoolOperation::CompareBool(by, left, right) => Some(by.holds(left.value(input)?.cmp(&right.value(input)?))),
            BoolOperation::IntIn(node, list) => Some(list.binary_search(&node.value(input)?).is_ok()),
            BoolOperation::TimeIn(node, list) => Some(list.binary_search(&node.value(input)?).is_ok()),
            BoolOperation::DoubleIn(node, list) => {
                let value = node.value(input)?;
                Some(list.iter().any(|element| element.partial_cmp(&value) == Some(Ordering::Equal)))
            }
            BoolOperation::TextIn(node, list) => {
                let value = node.value(input)?;
                Some(list.binary_search_by(|element| (**element).cmp(value)).is_ok())
            }
            BoolOperation::Search(how, text, part) => {
                let (text, part) = (text.value(input)?, part.value(input)?);
                Some(match how {
                    Search::StartsWith => text.starts_with(part),
                    Search::EndsWith => text.ends_with(part),
                    Search::Contains => text.contains(part),
                })
            }
            BoolOperation::Matches(node, regex) => Some(regex.is_match(node.value(input)?)),
        }
    }
}

impl Kind for Text {
    type Constant = Box<str>;
    type Operation = TextOperation;
    type Value<'a> = &'a str;

    fn of_operand(operand: Operand<'_>) -> Option<&str> {
        if let Operand::Text(value) = operand { Some(value) } else { None }
    }

    fn of_constant(constant: &Box<str>) -> &str {
        constant
    }

    fn operate<'a>(operation: &'a TextOperation, _input: &'a impl Slots) -> Option<&'a str> {
        match *operation {}
    }
}

impl Kind for Time {
    type Constant = i64;
    type Operation = TimeOperation;
    type Value<'a> = i64;

    fn of_operand(operand: Operand<'_>) -> Option<i64> {
        if let Operand::Timestamp(value) = operand { Some(value) } else { None }
    }

    fn of_constant(constant: &i64) -> i64 {
        *constant
    }

    fn operate<'a>(operation: &'a TimeOperation, input: &'a impl Slots) -> Option<i64> {
        match operation {
            TimeOperation::Extreme(which, nodes) => {
                extreme(nodes, input, |a, b| if *which == Extreme::Least { a.min(b) } else { a.max(b) })
            }
            TimeOperation::Date(node) => calendar::midnight(node.value(input)?),
        }
    }
}

fn finite(value: f64) -> Option<f64> {
    value.is_finite().then_some(value)
}

/// Null when one of the values is null.
fn extreme<'a, K: Kind>(
    nodes: &'a [Node<K>],
    input: &'a impl Slots,
    choose: impl Fn(K::Value<'a>, K::Value<'a>) -> K::Value<'a>,
) -> Option<K::Value<'a>> {
    let (first, rest) = nodes.split_first()?;
    rest.iter().try_fold(first.value(input)?, |best, node| Some(choose(best, node.value(input)?)))
}

#[inline]
fn compare_text(by: Comparison, left: &str, right: &str) -> Option<bool> {
    Some(match by {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        _ => by.holds(left.cmp(right)),
    })
}

/// 2^63, the first double above every integer.
const INT_END: f64 = 9_223_372_036_854_775_808.0;

/// The integer part towards zero; null beyond 64 bits.
#[expect(clippy::cast_possible_truncation, reason = "within the range of integers, checked first")]
pub(super) fn truncated(value: f64) -> Option<i64> {
    (-INT_END..INT_END).contains(&value).then_some(value as i64)
}

/// Compares exactly, where a cast of either side would round.
fn int_to_double(int: i64, double: f64) -> Ordering {
    match truncated(double) {
        Some(whole) => int.cmp(&whole).then_with(|| 0.0.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)),
        None if double > 0.0 => Ordering::Less,
        None => Ordering::Greater,
    }
}
