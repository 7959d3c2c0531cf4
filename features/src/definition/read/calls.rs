//! Aggregation calls such as `mean(amount)`, `share(amount > 100.0)` or `decayed_sum(amount, '1d')`.

use super::super::{Aggregation, Operand};
use super::streams::StreamDraft;
use super::{Mistake, SPAN_MAX, compile, position_of};
use crate::config::suggestion;
use crate::expression::{Scope, Type};
use crate::time::Span;

/// The aggregations, each with an example.
const AGGREGATIONS: [(&str, &str); 17] = [
    ("count", "count()"),
    ("sum", "sum(amount)"),
    ("mean", "mean(amount)"),
    ("min", "min(amount)"),
    ("max", "max(amount)"),
    ("stddev", "stddev(amount)"),
    ("first", "first(country)"),
    ("last", "last(country)"),
    ("distinct_count", "distinct_count(country)"),
    ("quantile", "quantile(amount, 0.95)"),
    ("most_frequent", "most_frequent(country)"),
    ("time_since_last", "time_since_last()"),
    ("time_since_first", "time_since_first()"),
    ("share", "share(label), or share(amount > 100.0)"),
    ("decayed_count", "decayed_count('1d')"),
    ("decayed_sum", "decayed_sum(amount, '1d')"),
    ("travel_speed", "travel_speed(latitude, longitude)"),
];

/// Other systems' names of what we have.
const SYNONYMS: [(&str, &str); 12] = [
    ("avg", "mean(x)"),
    ("average", "mean(x)"),
    ("std", "stddev(x)"),
    ("stdev", "stddev(x)"),
    ("median", "quantile(x, 0.5)"),
    ("percentile", "quantile(x, 0.95)"),
    ("mode", "most_frequent(x)"),
    ("count_distinct", "distinct_count(x)"),
    ("nunique", "distinct_count(x)"),
    ("unique", "distinct_count(x)"),
    ("ratio", "share(condition)"),
    ("total", "sum(x)"),
];

/// What operands an aggregation takes.
#[derive(Clone, Copy, PartialEq)]
enum Takes {
    Number,
    Double,
    Condition,
    Anything,
}

/// Reads an aggregation over the events of a stream; `Ok(None)` when it uses names in doubt.
pub(super) fn read(source: &str, draft: &StreamDraft, scope: &Scope) -> Result<Option<Aggregation>, Mistake> {
    let (name, arguments) = split(source)?;
    let Some((_, example)) = AGGREGATIONS.iter().find(|(known, _)| *known == name) else {
        return Err(unknown(name));
    };
    let call = Call { name, example, draft, scope };
    match arguments.as_slice() {
        [] => call.without_operand().map(Some),
        [half_life] if name == "decayed_count" => Ok(Some(Aggregation::DecayedCount(call.half_life(half_life)?))),
        ["label"] if name == "share" => call.share_of_label().map(Some),
        [operand] => Ok(match call.operand(operand, call.takes()?)? {
            Some(operand) => Some(call.with_operand(operand)?),
            None => None,
        }),
        [first, second] => call.with_two(first, second),
        _ => Err(call.wrong_arguments()),
    }
}

/// One call while it is checked.
struct Call<'c> {
    name: &'c str,
    example: &'c str,
    draft: &'c StreamDraft,
    scope: &'c Scope,
}

impl Call<'_> {
    fn wrong_arguments(&self) -> Mistake {
        let help = match self.name {
            "count" => {
                "write count(); to count some events only, use share(condition), or a group with where".to_owned()
            }
            _ => format!("write {}", self.example),
        };
        Mistake::new(format!("'{}' is given the wrong number of arguments", self.name), help)
    }

    fn without_operand(&self) -> Result<Aggregation, Mistake> {
        match self.name {
            "count" => Ok(Aggregation::Count),
            "time_since_last" => Ok(Aggregation::TimeSinceLast),
            "time_since_first" => Ok(Aggregation::TimeSinceFirst),
            _ => Err(self.wrong_arguments()),
        }
    }

    fn takes(&self) -> Result<Takes, Mistake> {
        match self.name {
            "sum" | "mean" | "min" | "max" | "stddev" => Ok(Takes::Number),
            "first" | "last" | "distinct_count" | "most_frequent" => Ok(Takes::Anything),
            "share" => Ok(Takes::Condition),
            _ => Err(self.wrong_arguments()),
        }
    }

    fn with_operand(&self, operand: Operand) -> Result<Aggregation, Mistake> {
        Ok(match self.name {
            "sum" => Aggregation::Sum(operand),
            "mean" => Aggregation::Mean(operand),
            "min" => Aggregation::Min(operand),
            "max" => Aggregation::Max(operand),
            "stddev" => Aggregation::Stddev(operand),
            "first" => Aggregation::First(operand),
            "last" => Aggregation::Last(operand),
            "distinct_count" => Aggregation::DistinctCount(operand),
            "most_frequent" => Aggregation::MostFrequent(operand),
            "share" => Aggregation::Share(operand),
            _ => return Err(self.wrong_arguments()),
        })
    }

    fn with_two(&self, first: &str, second: &str) -> Result<Option<Aggregation>, Mistake> {
        match self.name {
            "quantile" => {
                let at = self.quantile(second)?;
                Ok(self.operand(first, Takes::Number)?.map(|operand| Aggregation::Quantile(operand, at)))
            }
            "decayed_sum" => {
                let half_life = self.half_life(second)?;
                Ok(self.operand(first, Takes::Number)?.map(|operand| Aggregation::DecayedSum(operand, half_life)))
            }
            "travel_speed" => {
                let latitude = self.operand(first, Takes::Double)?;
                let longitude = self.operand(second, Takes::Double)?;
                Ok(latitude.zip(longitude).map(|(latitude, longitude)| Aggregation::TravelSpeed(latitude, longitude)))
            }
            _ => Err(self.wrong_arguments()),
        }
    }

    fn share_of_label(&self) -> Result<Aggregation, Mistake> {
        if self.draft.has_labels {
            return Ok(Aggregation::ShareLabel);
        }
        let message = format!("stream '{}' has no label", self.draft.stream.name);
        Err(Mistake::new(message, "add label = \"COLUMN\" to it, or a stream of labels for it"))
    }

    fn operand(&self, text: &str, takes: Takes) -> Result<Option<Operand>, Mistake> {
        if text.is_empty() {
            return Err(Mistake::new(
                format!("'{}' has an empty argument", self.name),
                format!("write {}", self.example),
            ));
        }
        if self.draft.doubt.covers(text) {
            return Ok(None);
        }
        let stream = &self.draft.stream;
        let column = position_of(&stream.columns, text).filter(|_| self.scope.get(text).is_some());
        let operand = match column {
            Some(column) => Operand::Column(column),
            None => match compile(text, self.scope, &self.draft.doubt)? {
                Some(expression) => Operand::Expression(expression),
                None => return Ok(None),
            },
        };
        let kind = operand.kind(stream);
        let (is_fitting, expected) = match takes {
            Takes::Number => (matches!(kind, Type::Int | Type::Double), "a number"),
            // A decimal is a double to expressions, but no coordinate.
            Takes::Double => (kind == Type::Double && !self.is_decimal(&operand), "a double"),
            Takes::Condition => (kind == Type::Bool, "a condition"),
            Takes::Anything => (true, ""),
        };
        if is_fitting {
            return Ok(Some(operand));
        }
        let what = match &operand {
            Operand::Column(column) => stream.columns[*column].kind.to_string(),
            Operand::Expression(_) => kind.to_string(),
        };
        let help = match takes {
            Takes::Condition => format!("write a comparison: {}({text} > 100.0)", self.name),
            Takes::Double => "declare the column as \"double\" (degrees)".to_owned(),
            _ if kind == Type::Text => format!("texts have distinct_count({text}) and most_frequent({text})"),
            _ if kind == Type::Bool => format!("conditions have share({text})"),
            _ => format!("write {}", self.example),
        };
        Err(Mistake::new(format!("'{}' takes {expected}, but '{text}' is {what}", self.name), help))
    }

    fn is_decimal(&self, operand: &Operand) -> bool {
        use crate::value::ColumnType::Decimal;
        matches!(operand, Operand::Column(column) if matches!(self.draft.stream.columns[*column].kind, Decimal { .. }))
    }

    fn quantile(&self, text: &str) -> Result<f64, Mistake> {
        match text.parse::<f64>() {
            Ok(at) if at > 0.0 && at < 1.0 => Ok(at),
            _ => {
                let help = format!("write a number between 0 and 1: {}", self.example);
                Err(Mistake::new(format!("'{text}' is no quantile"), help))
            }
        }
    }

    fn half_life(&self, text: &str) -> Result<Span, Mistake> {
        let quoted = ['\'', '"'].iter().find_map(|quote| text.strip_prefix(*quote)?.strip_suffix(*quote));
        let Some(half_life) = quoted.and_then(Span::parse) else {
            let message = format!("'{text}' is no half-life");
            return Err(Mistake::new(message, format!("write a length of time in quotes: {}", self.example)));
        };
        if half_life <= Span::ZERO || half_life > SPAN_MAX {
            let message = format!("the half-life is {half_life}");
            return Err(Mistake::new(message, format!("write more than 0s and at most {SPAN_MAX}")));
        }
        Ok(half_life)
    }
}

fn unknown(name: &str) -> Mistake {
    let help = match SYNONYMS.iter().find(|(synonym, _)| *synonym == name) {
        Some((_, ours)) => format!("write {ours}"),
        None => suggestion(name, AGGREGATIONS.iter().map(|(known, _)| *known)),
    };
    Mistake::new(format!("unknown aggregation '{name}'"), help)
}

/// Splits `name(argument, argument)`; commas, brackets and quotes within arguments are theirs.
fn split(source: &str) -> Result<(&str, Vec<&str>), Mistake> {
    let source = source.trim();
    let no_call = || {
        Mistake::new(
            format!("'{source}' is no aggregation"),
            "write one call: count(), mean(amount), share(amount > 100.0); [[derived]] combines them",
        )
    };
    let (name, rest) = source.split_once('(').ok_or_else(no_call)?;
    let name = name.trim_end();
    if name.is_empty() || !name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') {
        return Err(no_call());
    }
    let inner = rest.strip_suffix(')').ok_or_else(no_call)?;
    let (mut arguments, mut start, mut depth, mut quote, mut is_escaped) = (Vec::new(), 0, 0_usize, None, false);
    for (index, character) in inner.char_indices() {
        match (quote, character) {
            _ if is_escaped => is_escaped = false,
            (Some(_), '\\') => is_escaped = true,
            (Some(open), _) if open == character => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(character),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.checked_sub(1).ok_or_else(no_call)?,
            (None, ',') if depth == 0 => {
                arguments.push(inner[start..index].trim());
                start = index + 1;
            }
            _ => {}
        }
    }
    if !(arguments.is_empty() && inner.trim().is_empty()) {
        arguments.push(inner[start..].trim());
    }
    Ok((name, arguments))
}
