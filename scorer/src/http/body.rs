//! Bodies: read within bounds, parsed as one JSON object, every wrong field reported at once.
//!
//! Values stay raw JSON until a field is asked for, so that one bad value does not hide the others, and a number keeps
//! its own digits on the way into a decimal column.
//!
//! Invariant: a problem names a field and what is expected of it, never what it held.

use std::fmt;

use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use interdict_features::config::suggestion;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use tokio::time::{Instant, timeout_at};

use super::backend::FieldProblem;
use super::error::ApiError;

/// Names of unknown fields are shown up to here.
const NAME_CHARS_MAX: usize = 64;

/// Reads a body to its end.
pub(super) async fn read(body: Body, bytes_max: usize, deadline: Instant) -> Result<Bytes, ApiError> {
    let announced = http_body::Body::size_hint(&body).lower();
    if announced > u64::try_from(bytes_max).unwrap_or(u64::MAX) {
        return Err(ApiError::BodyTooLarge { bytes_max });
    }
    match timeout_at(deadline, Limited::new(body, bytes_max).collect()).await {
        Err(_elapsed) => Err(ApiError::BodyTimeout),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(ApiError::BodyTooLarge { bytes_max }),
        Ok(Err(_broken)) => Err(ApiError::BodyBroken),
        Ok(Ok(collected)) => Ok(collected.to_bytes()),
    }
}

/// The members of one JSON object in the order they were sent.
#[derive(Debug)]
pub(super) struct Object<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The fields of a request, asked for one by one.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    prefix: &'static str,
    members: Vec<(String, &'a RawValue)>,
    asked: Vec<&'static str>,
    problems: Vec<FieldProblem>,
}

impl<'a> Fields<'a> {
    /// Parses a body.
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(bytes).map_err(|_not_utf8| ApiError::NotUtf8)?;
        let object: Object<'a> = serde_json::from_str(text)
            .map_err(|error| ApiError::NotJson { line: error.line(), column: error.column() })?;
        Ok(Self::of("", object))
    }

    fn of(prefix: &'static str, object: Object<'a>) -> Self {
        let mut fields = Self { prefix, members: object.0, asked: Vec::new(), problems: Vec::new() };
        let mut names: Vec<&str> = fields.members.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        let twice: Vec<String> =
            names.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| shown(pair[0])).collect();
        for name in twice {
            fields.problem(&name, "given twice");
        }
        fields
    }

    /// Notes a problem with a field.
    pub(super) fn problem(&mut self, name: &str, problem: impl Into<String>) {
        self.problems.push(FieldProblem { field: format!("{}{name}", self.prefix), problem: problem.into() });
    }

    /// Takes over problems that were found elsewhere.
    pub(super) fn extend(&mut self, problems: Vec<FieldProblem>) {
        self.problems.extend(problems);
    }

    /// A field's raw JSON; `None` when it is absent.
    pub(super) fn raw(&mut self, name: &'static str) -> Option<&'a RawValue> {
        self.asked.push(name);
        self.members.iter().find(|(member, _)| member == name).map(|(_, value)| *value)
    }

    /// A field's raw JSON; absence is a problem.
    pub(super) fn required(&mut self, name: &'static str) -> Option<&'a RawValue> {
        let raw = self.raw(name);
        if raw.is_none() {
            self.problem(name, "required");
        }
        raw
    }

    /// A text; `None` when it is absent, null or no text (a problem then).
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let raw = self.raw(name)?;
        match serde_json::from_str::<Option<String>>(raw.get()) {
            Ok(text) => text,
            Err(_other_type) => {
                self.problem(name, "must be a string");
                None
            }
        }
    }

    /// A text of 1 to `bytes_max` bytes; absence is a problem.
    pub(super) fn required_text(&mut self, name: &'static str, bytes_max: usize) -> Option<String> {
        let raw = self.required(name)?;
        match serde_json::from_str::<String>(raw.get()) {
            Ok(text) if !text.is_empty() && text.len() <= bytes_max => Some(text),
            Ok(_) => {
                self.problem(name, format!("must have 1 to {bytes_max} bytes"));
                None
            }
            Err(_other_type) => {
                self.problem(name, "must be a string");
                None
            }
        }
    }

    /// An object.
    pub(super) fn required_object(&mut self, name: &'static str) -> Option<Object<'a>> {
        let raw = self.required(name)?;
        let object = serde_json::from_str(raw.get()).ok();
        if object.is_none() {
            self.problem(name, "must be an object");
        }
        object
    }

    /// An integer within a range.
    pub(super) fn integer(&mut self, name: &'static str, range: std::ops::RangeInclusive<usize>) -> Option<usize> {
        let raw = self.raw(name)?;
        let value = serde_json::from_str::<usize>(raw.get()).ok().filter(|value| range.contains(value));
        if value.is_none() {
            self.problem(name, format!("must be an integer from {} to {}", range.start(), range.end()));
        }
        value
    }

    /// Every problem, those of unknown fields included.
    pub(super) fn into_problems(mut self) -> Vec<FieldProblem> {
        let unknown: Vec<(String, String)> = self
            .members
            .iter()
            .filter(|(name, _)| !self.asked.contains(&name.as_str()))
            .map(|(name, _)| {
                let hint = suggestion(&shown(name), self.asked.iter().copied());
                (shown(name), format!("unknown; {hint}"))
            })
            .collect();
        for (name, problem) in unknown {
            self.problem(&name, problem);
        }
        self.problems
    }

    /// Ends the reading.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        let problems = self.into_problems();
        if problems.is_empty() { Ok(()) } else { Err(ApiError::Fields(problems)) }
    }
}

/// A field's name as a client sent it, fit to be shown.
pub(super) fn shown(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}
