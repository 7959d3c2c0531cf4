//! The functions an expression may call, and how their calls are checked.

use cel::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue};
use jiff::tz::TimeZone;
use regex::{Regex, RegexBuilder};

use super::ExpressionError;
use super::check::{Checker, Uniform, double_of, unify, unsupported};
use super::tree::{
    BoolOperation, Curve, DoubleOperation, Extreme, IntOperation, Node, Part, Search, Time, TimeOperation, Tree,
};
use crate::config::suggestion;
use crate::time::Timestamp;

/// Functions written `f(x)`, with an example.
const FUNCTIONS: [(&str, &str); 26] = [
    ("abs", "abs(amount)"),
    ("ceil", "ceil(amount)"),
    ("coalesce", "coalesce(amount, 0.0)"),
    ("date", "date(tx_datetime)"),
    ("day", "day(tx_datetime)"),
    ("double", "double(count)"),
    ("exp", "exp(x)"),
    ("floor", "floor(amount)"),
    ("hour", "hour(tx_datetime)"),
    ("int", "int(amount)"),
    ("ln", "ln(amount)"),
    ("log", "log(amount)"),
    ("log10", "log10(amount)"),
    ("matches", "matches(email, '@example[.]com$')"),
    ("max", "max(amount, 1.0)"),
    ("min", "min(amount, 100.0)"),
    ("minute", "minute(tx_datetime)"),
    ("month", "month(tx_datetime)"),
    ("pow", "pow(amount, 2.0)"),
    ("round", "round(amount)"),
    ("second", "second(tx_datetime)"),
    ("size", "size(name)"),
    ("sqrt", "sqrt(amount)"),
    ("timestamp", "timestamp('2026-01-31T00:00:00Z')"),
    ("weekday", "weekday(tx_datetime) >= 5"),
    ("year", "year(tx_datetime)"),
];

/// Functions written `text.f(x)`, with an example.
const METHODS: [(&str, &str); 5] = [
    ("contains", "name.contains('test')"),
    ("endsWith", "email.endsWith('.ru')"),
    ("matches", "email.matches('@example[.]com$')"),
    ("size", "name.size()"),
    ("startsWith", "card.startsWith('4')"),
];

/// The largest compiled regular expression in bytes, and of the scratch memory it may keep.
const REGEX_BYTES_MAX: usize = 256 * 1024;

/// Checks the call of a function or method.
pub(super) fn call(checker: &mut Checker<'_>, call: &CallExpr) -> Result<Tree, ExpressionError> {
    let name = call.func_name.as_str();
    match (call.target.as_deref(), call.args.as_slice()) {
        (None, [instant]) if name == "timestamp" => return timestamp(instant),
        (None, [text, pattern]) | (Some(text), [pattern]) if name == "matches" => {
            return matches(checker, text, pattern);
        }
        _ => {}
    }
    let known: &[(&str, &str)] = if call.target.is_some() { &METHODS } else { &FUNCTIONS };
    let Some((_, example)) = known.iter().find(|(known, _)| *known == name) else {
        return Err(unknown(call));
    };
    let mut arguments = Vec::with_capacity(call.args.len() + 1);
    for argument in call.target.as_deref().into_iter().chain(&call.args) {
        arguments.push(checker.value(argument)?);
    }
    let kinds = arguments.iter().map(|argument| argument.kind().to_string()).collect::<Vec<_>>().join(", ");
    apply(name, arguments).ok_or_else(|| {
        ExpressionError::new(format!("'{name}' cannot take ({kinds})"), format!("write it as in {example}"))
    })
}

fn unknown(call: &CallExpr) -> ExpressionError {
    let name = &call.func_name;
    if call.target.is_some() {
        if let Some((_, example)) = FUNCTIONS.iter().find(|(known, _)| known == name) {
            return ExpressionError::new(format!("'.{name}' is a function"), format!("write {example}"));
        }
        let part = match name.as_str() {
            "getFullYear" => Some("year(x)"),
            "getMonth" => Some("month(x), which counts from 1"),
            "getDate" | "getDayOfMonth" => Some("day(x), which counts from 1"),
            "getDayOfWeek" => Some("weekday(x), where Monday is 0"),
            "getHours" => Some("hour(x)"),
            "getMinutes" => Some("minute(x)"),
            "getSeconds" => Some("second(x)"),
            _ => None,
        };
        let known = || suggestion(name, METHODS.iter().map(|(known, _)| *known));
        let help = part.map_or_else(known, |part| format!("write {part}"));
        return ExpressionError::new(format!("unknown method '.{name}()'"), help);
    }
    if let Some((_, example)) = METHODS.iter().find(|(known, _)| known == name) {
        return ExpressionError::new(format!("'{name}' follows its text"), format!("write {example}"));
    }
    if name == "duration" {
        return unsupported("duration", "the difference of two timestamps gives seconds: a - b > 3600.0");
    }
    let help = suggestion(name, FUNCTIONS.iter().map(|(known, _)| *known));
    ExpressionError::new(format!("unknown function '{name}'"), help)
}

/// The call of a known function; `None` when the arguments do not fit.
fn apply(name: &str, mut arguments: Vec<Tree>) -> Option<Tree> {
    match name {
        "min" => return extreme(Extreme::Least, arguments),
        "max" => return extreme(Extreme::Greatest, arguments),
        "coalesce" => return coalesce(arguments),
        _ => {}
    }
    let second = if arguments.len() == 2 { arguments.pop() } else { None };
    let first = arguments.pop().filter(|_| arguments.is_empty())?;
    match second {
        None => apply_one(name, first),
        Some(second) => apply_two(name, first, second),
    }
}

fn apply_one(name: &str, argument: Tree) -> Option<Tree> {
    if let Some(part) = part_of(name) {
        return if let Tree::Time(node) = argument { Some(IntOperation::Part(part, node).into()) } else { None };
    }
    Some(match (name, argument) {
        ("date", Tree::Time(node)) => TimeOperation::Date(node).into(),
        ("size", Tree::Text(node)) => IntOperation::Length(node).into(),
        ("int", Tree::Time(node)) => IntOperation::EpochSeconds(node).into(),
        ("int", Tree::Double(node)) => IntOperation::Truncate(node).into(),
        ("int" | "floor" | "ceil" | "round", whole @ Tree::Int(_)) => whole,
        ("abs", Tree::Int(node)) => IntOperation::Abs(node).into(),
        ("double", number) => Tree::Double(double_of(number)?),
        (name, number) => DoubleOperation::Curve(curve_of(name)?, double_of(number)?).into(),
    })
}

fn apply_two(name: &str, first: Tree, second: Tree) -> Option<Tree> {
    if name == "pow" {
        return Some(DoubleOperation::Power(double_of(first)?, double_of(second)?).into());
    }
    let how = match name {
        "startsWith" => Search::StartsWith,
        "endsWith" => Search::EndsWith,
        "contains" => Search::Contains,
        _ => return None,
    };
    match (first, second) {
        (Tree::Text(text), Tree::Text(part)) => Some(BoolOperation::Search(how, text, part).into()),
        _ => None,
    }
}

fn part_of(name: &str) -> Option<Part> {
    Some(match name {
        "second" => Part::Second,
        "minute" => Part::Minute,
        "hour" => Part::Hour,
        "weekday" => Part::Weekday,
        "day" => Part::Day,
        "month" => Part::Month,
        "year" => Part::Year,
        _ => return None,
    })
}

fn curve_of(name: &str) -> Option<Curve> {
    Some(match name {
        "abs" => Curve::Abs,
        "floor" => Curve::Floor,
        "ceil" => Curve::Ceil,
        "round" => Curve::Round,
        "sqrt" => Curve::Sqrt,
        "ln" | "log" => Curve::Ln,
        "log10" => Curve::Log10,
        "exp" => Curve::Exp,
        _ => return None,
    })
}

fn extreme(which: Extreme, arguments: Vec<Tree>) -> Option<Tree> {
    if arguments.len() < 2 {
        return None;
    }
    match unify(arguments)? {
        Uniform::Int(nodes) => Some(IntOperation::Extreme(which, nodes.into()).into()),
        Uniform::Double(nodes) => Some(DoubleOperation::Extreme(which, nodes.into()).into()),
        Uniform::Time(nodes) => Some(TimeOperation::Extreme(which, nodes.into()).into()),
        Uniform::Bool(_) | Uniform::Text(_) => None,
    }
}

fn coalesce(arguments: Vec<Tree>) -> Option<Tree> {
    if arguments.len() < 2 {
        return None;
    }
    Some(match unify(arguments)? {
        Uniform::Int(nodes) => Tree::Int(Node::Coalesce(nodes.into())),
        Uniform::Double(nodes) => Tree::Double(Node::Coalesce(nodes.into())),
        Uniform::Bool(nodes) => Tree::Bool(Node::Coalesce(nodes.into())),
        Uniform::Text(nodes) => Tree::Text(Node::Coalesce(nodes.into())),
        Uniform::Time(nodes) => Tree::Time(Node::Coalesce(nodes.into())),
    })
}

fn timestamp(argument: &IdedExpr) -> Result<Tree, ExpressionError> {
    let help = "write timestamp('2026-01-31T00:00:00Z')";
    let Expr::Literal(LiteralValue::String(text)) = &argument.expr else {
        return Err(ExpressionError::new("timestamp takes a text written out", help));
    };
    match Timestamp::parse(text.inner(), &TimeZone::UTC) {
        Some(instant) => Ok(Tree::Time(Node::<Time>::Constant(instant.micros()))),
        None => Err(ExpressionError::new(format!("'{}' is no instant", text.inner()), help)),
    }
}

fn matches(checker: &mut Checker<'_>, text: &IdedExpr, pattern: &IdedExpr) -> Result<Tree, ExpressionError> {
    let help = "write a regular expression in quotes: email.matches('@example[.]com$')";
    let Tree::Text(text) = checker.value(text)? else {
        return Err(ExpressionError::new("'matches' searches a text", help));
    };
    let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
        return Err(ExpressionError::new("'matches' takes a pattern written out", help));
    };
    let regex = compiled(pattern.inner())?;
    Ok(BoolOperation::Matches(text, regex).into())
}

fn compiled(pattern: &str) -> Result<Regex, ExpressionError> {
    RegexBuilder::new(pattern)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .nest_limit(32)
        .build()
        .map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => ExpressionError::new(
                format!("the pattern '{pattern}' needs more than {REGEX_BYTES_MAX} bytes"),
                "use smaller repetitions, and [a-z0-9] instead of \\w",
            ),
            other => {
                let text = other.to_string();
                let reason = text.lines().last().unwrap_or("").trim_start_matches("error: ").to_owned();
                ExpressionError::new(format!("the pattern '{pattern}' is no regular expression: {reason}"), "mend it")
            }
        })
}
