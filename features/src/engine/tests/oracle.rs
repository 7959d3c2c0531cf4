//! The oracle: every aggregation by its definition, from a plain list of events, once more for every read.

#![allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small whole numbers")]

use crate::change::Version;
use crate::definition::{Aggregation, GroupKind, Operand as Source, Stream, WindowedFeature};
use crate::engine::{OwnedKey, Plan, key_of};
use crate::expression::{Operand, Type};
use crate::time::Timestamp;
use crate::value::{ColumnType, UNCHANGED, Value, double_of};
use crate::vector::Flags;

use super::model::Event;

/// When and for which event something is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Instant {
    pub(super) time: i64,
    /// The judged event and the place it has among events of its own stream and time.
    pub(super) subject: Option<(usize, i64, Version)>,
}

/// What a feature should read.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Expected {
    pub(super) value: Value,
    pub(super) flags: Flags,
    /// How far a double may be off.
    pub(super) tolerance: f64,
}

/// A value of one event; decimals are minor units and digits after the point.
#[derive(Clone, PartialEq, Debug)]
enum Cell {
    Int(i64, u8),
    Double(f64),
    Bool(bool),
    Text(String),
    Timestamp(i64),
}

impl Cell {
    fn number(&self) -> f64 {
        match self {
            Self::Int(value, scale) => *value as f64 / 10_f64.powi(i32::from(*scale)),
            Self::Double(value) => *value,
            Self::Bool(_) | Self::Text(_) | Self::Timestamp(_) => panic!("not a number"),
        }
    }

    fn value(&self) -> Value {
        match self {
            Self::Int(value, 0) => Value::Int(*value),
            Self::Int(..) => Value::Double(self.number()),
            Self::Double(value) => Value::Double(*value),
            Self::Bool(value) => Value::Bool(*value),
            Self::Text(value) => Value::Text(value.as_str().into()),
            Self::Timestamp(micros) => Value::Text(Timestamp::from_micros(*micros).to_string().into()),
        }
    }

    fn is_below(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Int(a, _), Self::Int(b, _)) => a < b,
            (Self::Text(a), Self::Text(b)) => a < b,
            _ => self.number() < other.number(),
        }
    }
}

/// The events of `group` under `key`.
pub(super) fn members<'e>(plan: &Plan, group: usize, key: &OwnedKey, events: &'e [Event]) -> Vec<&'e Event> {
    let group = &plan.definitions.groups[group];
    let stream = &plan.definitions.streams[group.stream];
    let mut buffer = Vec::new();
    let mut is_member = |event: &&Event| {
        event.stream == group.stream
            && key_of(event.row(stream), &group.key, &mut buffer).is_some_and(|own| OwnedKey::from(own) == *key)
            && group.filter.as_ref().is_none_or(|filter| filter.evaluate(&event.row(stream)) == Operand::Bool(true))
    };
    let mut members: Vec<&Event> = events.iter().filter(|event| is_member(event)).collect();
    members.sort_by_key(|event| (event.time, event.first, event.id.cast_unsigned()));
    members
}

/// Reads every feature of `group` for every window, feature-major.
pub(super) fn read(plan: &Plan, group: usize, members: &[&Event], at: Instant) -> Vec<Expected> {
    let declared = &plan.definitions.groups[group];
    let stream = &plan.definitions.streams[declared.stream];
    let flags = if members.is_empty() { Flags::NO_STATE } else { Flags::NONE };
    match &declared.kind {
        GroupKind::Windowed { windows, delay, features } => {
            let upper = at.time - delay.micros();
            let is_seen = |event: &&&Event| match at.subject {
                Some((stream, id, first))
                    if delay.micros() == 0 && stream == declared.stream && event.time == upper =>
                {
                    event.first <= first || event.id == id
                }
                _ => true,
            };
            let seen: Vec<&Event> = members.iter().filter(is_seen).copied().collect();
            let read = |(feature, window): (&WindowedFeature, i64)| {
                let within: Vec<&Event> =
                    seen.iter().filter(|event| event.time > upper - window && event.time <= upper).copied().collect();
                let (value, tolerance) = windowed(stream, feature, &within, upper, at);
                Expected { value, flags, tolerance }
            };
            features
                .iter()
                .flat_map(|feature| windows.iter().map(move |window| (feature, window.micros())))
                .map(read)
                .collect()
        }
        GroupKind::Table { features } => {
            let latest = members.iter().rfind(|event| event.time <= at.time);
            let value = |(_, expression): &(String, std::sync::Arc<crate::expression::Expression>)| {
                latest
                    .and_then(|event| operand(stream, event, &Source::Expression(std::sync::Arc::clone(expression))))
                    .map_or(Value::Null, |cell| cell.value())
            };
            features.iter().map(|feature| Expected { value: value(feature), flags, tolerance: 0.0 }).collect()
        }
    }
}

fn operand(stream: &Stream, event: &Event, source: &Source) -> Option<Cell> {
    let row = event.row(stream);
    match source {
        Source::Column(column) => {
            let word = row.cells[*column];
            (word > UNCHANGED).then(|| match stream.columns[*column].kind {
                ColumnType::Int => Cell::Int(word, 0),
                ColumnType::Decimal { scale } => Cell::Int(word, scale),
                ColumnType::Double => Cell::Double(double_of(word)),
                ColumnType::Bool => Cell::Bool(word != 0),
                ColumnType::Text | ColumnType::Uuid => Cell::Text(row.text.get(word).to_owned()),
                ColumnType::Timestamp => Cell::Timestamp(word),
            })
        }
        Source::Expression(expression) => match expression.evaluate(&row) {
            Operand::Null => None,
            Operand::Int(value) => Some(Cell::Int(value, 0)),
            Operand::Double(value) => Some(Cell::Double(value)),
            Operand::Bool(value) => Some(Cell::Bool(value)),
            Operand::Text(value) => Some(Cell::Text(value.to_owned())),
            Operand::Timestamp(value) => Some(Cell::Timestamp(value)),
        },
    }
}

fn windowed(stream: &Stream, feature: &WindowedFeature, within: &[&Event], upper: i64, at: Instant) -> (Value, f64) {
    let cells = |source: &Source| within.iter().filter_map(|event| operand(stream, event, source)).collect::<Vec<_>>();
    let numbers = |source: &Source| cells(source).iter().map(Cell::number).collect::<Vec<f64>>();
    let seconds = |micros: i64| Value::Double(micros as f64 / 1e6);
    let weight = |event: &Event, half_life: i64| (-((upper - event.time) as f64) / half_life as f64).exp2();
    let largest = |numbers: &[f64]| numbers.iter().fold(0.0_f64, |most, number| most.max(number.abs()));
    let (value, scale) = match &feature.aggregation {
        Aggregation::Count => (Value::Int(within.len() as i64), 0.0),
        Aggregation::Sum(source) => sum(&cells(source)),
        Aggregation::Mean(source) => {
            let numbers = numbers(source);
            (
                double((!numbers.is_empty()).then(|| numbers.iter().sum::<f64>() / numbers.len() as f64)),
                largest(&numbers),
            )
        }
        Aggregation::Stddev(source) => {
            let numbers = numbers(source);
            (double(deviation(&numbers)), 0.0)
        }
        Aggregation::Min(source) => (best(cells(source), |new, best| new.is_below(best)), 0.0),
        Aggregation::Max(source) => (best(cells(source), |new, best| best.is_below(new)), 0.0),
        Aggregation::First(source) => (cells(source).first().map_or(Value::Null, Cell::value), 0.0),
        Aggregation::Last(source) => (cells(source).last().map_or(Value::Null, Cell::value), 0.0),
        Aggregation::DistinctCount(source) => (Value::Int(runs(cells(source)).len() as i64), 0.0),
        Aggregation::Quantile(source, q) => (double(quantile(numbers(source), *q)), 0.0),
        Aggregation::MostFrequent(source) => {
            let mut runs = runs(cells(source));
            runs.sort_by(|(a, n), (b, m)| {
                m.cmp(n).then(if a.is_below(b) { std::cmp::Ordering::Less } else { std::cmp::Ordering::Greater })
            });
            (runs.first().map_or(Value::Null, |(cell, _)| cell.value()), 0.0)
        }
        Aggregation::TimeSinceLast => {
            let other =
                |event: &&&Event| at.subject.is_none_or(|(stream, id, _)| (stream, id) != (event.stream, event.id));
            (within.iter().rfind(other).map_or(Value::Null, |event| seconds(upper - event.time)), 0.0)
        }
        Aggregation::TimeSinceFirst => (within.first().map_or(Value::Null, |event| seconds(upper - event.time)), 0.0),
        Aggregation::ShareLabel => (share(within.iter().map(|event| event.label(at.time) == Some(true))), 0.0),
        Aggregation::Share(source) => {
            (share(within.iter().map(|event| operand(stream, event, source) == Some(Cell::Bool(true)))), 0.0)
        }
        Aggregation::DecayedCount(half_life) => {
            (Value::Double(within.iter().map(|event| weight(event, half_life.micros())).sum()), 0.0)
        }
        Aggregation::DecayedSum(source, half_life) => {
            let terms: Vec<f64> = within
                .iter()
                .filter_map(|event| Some(operand(stream, event, source)?.number() * weight(event, half_life.micros())))
                .collect();
            (double((!terms.is_empty()).then(|| terms.iter().sum())), largest(&terms))
        }
        Aggregation::TravelSpeed(latitude, longitude) => (double(speed(stream, within, latitude, longitude)), 0.0),
    };
    let is_void = value == Value::Null
        || match feature.aggregation {
            Aggregation::Count | Aggregation::DistinctCount(_) => value == Value::Int(0),
            Aggregation::DecayedCount(_) => within.is_empty(),
            _ => false,
        };
    let value = match feature.default {
        Some(default) if is_void && feature.aggregation.kind(stream) == Type::Int => Value::Int(default as i64),
        Some(default) if is_void => Value::Double(default),
        _ => value,
    };
    let size = if let Value::Double(value) = value { value.abs() } else { 0.0 };
    (value, (size.max(scale)) * 1e-9)
}

fn double(value: Option<f64>) -> Value {
    value.map_or(Value::Null, Value::Double)
}

fn sum(cells: &[Cell]) -> (Value, f64) {
    match cells.first() {
        None => (Value::Null, 0.0),
        Some(Cell::Int(_, scale)) => {
            let sum: i128 =
                cells.iter().map(|cell| if let Cell::Int(value, _) = cell { i128::from(*value) } else { 0 }).sum();
            let exact = if *scale == 0 {
                Value::Int(i64::try_from(sum).unwrap())
            } else {
                Value::Double(sum as f64 / 10_f64.powi(i32::from(*scale)))
            };
            (exact, 0.0)
        }
        Some(_) => {
            let numbers: Vec<f64> = cells.iter().map(Cell::number).collect();
            (Value::Double(numbers.iter().sum()), numbers.iter().fold(0.0, |most, number| f64::max(most, number.abs())))
        }
    }
}

fn deviation(numbers: &[f64]) -> Option<f64> {
    let n = numbers.len() as f64;
    let mean = numbers.iter().sum::<f64>() / n;
    (numbers.len() > 1).then(|| (numbers.iter().map(|number| (number - mean).powi(2)).sum::<f64>() / (n - 1.0)).sqrt())
}

fn best(cells: Vec<Cell>, is_better: impl Fn(&Cell, &Cell) -> bool) -> Value {
    cells
        .into_iter()
        .reduce(|best, new| if is_better(&new, &best) { new } else { best })
        .map_or(Value::Null, |cell| cell.value())
}

fn runs(cells: Vec<Cell>) -> Vec<(Cell, usize)> {
    let mut runs: Vec<(Cell, usize)> = Vec::new();
    for cell in cells {
        match runs.iter_mut().find(|(known, _)| *known == cell) {
            Some((_, count)) => *count += 1,
            None => runs.push((cell, 1)),
        }
    }
    runs
}

fn quantile(mut numbers: Vec<f64>, q: f64) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let rank = q * numbers.len().checked_sub(1)? as f64;
    let (below, above) = (numbers[rank.floor() as usize], numbers[rank.ceil() as usize]);
    Some(below + (above - below) * rank.fract())
}

fn share(holds: impl Iterator<Item = bool>) -> Value {
    let holds: Vec<bool> = holds.collect();
    double((!holds.is_empty()).then(|| holds.iter().filter(|holds| **holds).count() as f64 / holds.len() as f64))
}

/// By the law of cosines on unit vectors, which shares nothing with the haversine formula.
fn speed(stream: &Stream, within: &[&Event], latitude: &Source, longitude: &Source) -> Option<f64> {
    let vector = |(latitude, longitude): (f64, f64)| {
        let (latitude, longitude) = (latitude.to_radians(), longitude.to_radians());
        [latitude.cos() * longitude.cos(), latitude.cos() * longitude.sin(), latitude.sin()]
    };
    let mut placed = within.iter().rev().filter_map(|event| {
        let place = (operand(stream, event, latitude)?.number(), operand(stream, event, longitude)?.number());
        Some((event.time, vector(place)))
    });
    let ((to, a), (from, b)) = (placed.next()?, placed.next()?);
    let chord = (0..3).map(|axis| (a[axis] - b[axis]).powi(2)).sum::<f64>().sqrt();
    let kilometres = 2.0 * (chord / 2.0).asin() * 6_371.008_8;
    Some(kilometres / ((to - from) as f64 / 1e6).max(1.0) * 3_600.0)
}
