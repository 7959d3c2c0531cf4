//! The envelope of a change event, borrowed from the line in one pass.

use std::borrow::Cow;
use std::fmt;

use interdict_features::change::Version;
use interdict_features::decode::unquote;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::dead_letter::Fault;

use super::not_json;
use crate::decoder::json::Name;
use crate::republish::CONNECTOR;

/// `{"value":{"payload":{..}}}` is the deepest wrapping there is.
const WRAPPERS_MAX: u8 = 2;

/// What a line holds, wrappers taken off.
#[derive(Default)]
pub(super) struct Envelope<'a> {
    pub(super) op: Option<Cow<'a, str>>,
    pub(super) before: Option<&'a str>,
    pub(super) after: Option<&'a str>,
    pub(super) key: Option<&'a str>,
    /// The schema that stood beside the envelope.
    pub(super) schema: Option<&'a str>,
    /// The schema that stood beside the key.
    pub(super) key_schema: Option<&'a str>,
    pub(super) source: Source<'a>,
    pub(super) total_order: Option<u32>,
    marks: Marks,
}

/// Where a change comes from.
#[derive(Default)]
pub(super) struct Source<'a> {
    pub(super) schema: Option<Cow<'a, str>>,
    pub(super) table: Option<Cow<'a, str>>,
    /// This program wrote the record.
    pub(super) is_own: bool,
    /// Which secret its sensitive texts are hashed under.
    pub(super) secret: Option<Cow<'a, str>>,
    lsn: Option<u64>,
    sequence_lsn: Option<u64>,
    ts_ms: Option<i64>,
    ts_us: Option<i64>,
}

/// What tells lines without a row apart.
#[derive(Clone, Copy, Default)]
struct Marks {
    is_tombstone: bool,
    has_status: bool,
    has_time: bool,
    has_other: bool,
}

/// What kind of message a line is.
pub(super) enum Shape<'e> {
    /// A change with this operation.
    Change(&'e str),
    /// A tombstone, heartbeat or transaction marker.
    NoRow,
    /// Something else.
    Foreign,
}

impl<'a> Envelope<'a> {
    pub(super) fn parse(text: &'a str) -> Result<Self, Fault> {
        let mut envelope = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        let seed = Layer { envelope: &mut envelope, depth: 0 };
        seed.deserialize(&mut deserializer).and_then(|()| deserializer.end()).map_err(|error| not_json(&error))?;
        Ok(envelope)
    }

    /// Takes the key's wrapper off. `beside` is what arrived beside the value; a key within the value wins.
    pub(super) fn unwrap_key(&mut self, beside: Option<&'a str>) -> Result<(), Fault> {
        self.key = self.key.or(beside).filter(|_| !self.source.is_own);
        if let Some(wrapped) = self.key {
            let key = Wrapped::parse(wrapped)?;
            if let Some(payload) = key.payload {
                (self.key, self.key_schema) = (Some(payload), key.schema);
            }
        }
        Ok(())
    }

    /// The version that the LSN of the change gives it.
    pub(super) fn lsn_version(&self) -> Option<Version> {
        self.source.lsn().map(|major| Version { major, minor: self.total_order.unwrap_or(0) })
    }

    pub(super) fn shape(&self) -> Shape<'_> {
        match &self.op {
            Some(op) => Shape::Change(op),
            None if self.marks.is_tombstone || self.marks.has_status => Shape::NoRow,
            None if self.marks.has_time && !self.marks.has_other && self.after.is_none() => Shape::NoRow,
            None => Shape::Foreign,
        }
    }
}

impl Source<'_> {
    /// The LSN of the change itself.
    pub(super) fn lsn(&self) -> Option<u64> {
        self.lsn.or(self.sequence_lsn)
    }

    /// When the database changed the row, in microseconds.
    pub(super) fn changed_micros(&self) -> Option<i64> {
        let micros = self.ts_us.or_else(|| self.ts_ms?.checked_mul(1_000));
        micros.filter(|micros| *micros > 0)
    }
}

/// `{"schema":..,"payload":..}` of a key.
#[derive(Default)]
struct Wrapped<'a> {
    schema: Option<&'a str>,
    payload: Option<&'a str>,
}

impl<'a> Wrapped<'a> {
    fn parse(text: &'a str) -> Result<Self, Fault> {
        if !text.starts_with('{') {
            return Ok(Self::default());
        }
        let mut wrapped = Self::default();
        let mut deserializer = serde_json::Deserializer::from_str(text);
        WrappedSeed(&mut wrapped).deserialize(&mut deserializer).map_err(|error| not_json(&error))?;
        Ok(wrapped)
    }
}

struct WrappedSeed<'s, 'a>(&'s mut Wrapped<'a>);

impl<'de> DeserializeSeed<'de> for WrappedSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WrappedSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            let raw: &RawValue = map.next_value()?;
            match &*name {
                "schema" => self.0.schema = Some(raw.get()),
                "payload" => self.0.payload = Some(raw.get()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// One layer of a line: the envelope or something wrapped around it.
struct Layer<'s, 'a> {
    envelope: &'s mut Envelope<'a>,
    depth: u8,
}

impl<'de> DeserializeSeed<'de> for Layer<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Layer<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a change event")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        self.envelope.marks.is_tombstone = true;
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let envelope = self.envelope;
        while let Some(Name(name)) = map.next_key()? {
            match &*name {
                "payload" | "value" if self.depth < WRAPPERS_MAX => {
                    map.next_value_seed(Layer { envelope: &mut *envelope, depth: self.depth + 1 })?;
                }
                "schema" => envelope.schema = present(map.next_value()?),
                "key" => envelope.key = present(map.next_value()?),
                "before" => envelope.before = present(map.next_value()?),
                "after" => envelope.after = present(map.next_value()?),
                "op" => envelope.op = text(map.next_value()?),
                "source" => map.next_value_seed(SourceSeed(&mut envelope.source))?,
                "transaction" => {
                    let raw: &RawValue = map.next_value()?;
                    envelope.total_order = total_order(raw.get());
                }
                "status" => envelope.marks.has_status = text(map.next_value()?).is_some(),
                "ts_ms" | "ts_us" | "ts_ns" => {
                    envelope.marks.has_time = true;
                    let _clock_of_the_connector: IgnoredAny = map.next_value()?;
                }
                _ => {
                    envelope.marks.has_other = true;
                    let _unused: IgnoredAny = map.next_value()?;
                }
            }
        }
        Ok(())
    }
}

struct SourceSeed<'s, 'a>(&'s mut Source<'a>);

impl<'de> DeserializeSeed<'de> for SourceSeed<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for SourceSeed<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the source of a change")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Name(name)) = map.next_key()? {
            match &*name {
                "schema" => self.0.schema = text(map.next_value()?),
                "table" => self.0.table = text(map.next_value()?),
                "connector" => self.0.is_own = text(map.next_value()?).as_deref() == Some(CONNECTOR),
                "secret" => self.0.secret = text(map.next_value()?),
                "lsn" => self.0.lsn = number(map.next_value()?),
                "sequence" => self.0.sequence_lsn = sequence_lsn(map.next_value()?),
                "ts_ms" => self.0.ts_ms = number(map.next_value()?),
                "ts_us" => self.0.ts_us = number(map.next_value()?),
                _ => {
                    let _unused: IgnoredAny = map.next_value()?;
                }
            }
        }
        Ok(())
    }
}

#[derive(serde::Deserialize)]
struct Transaction<'a> {
    #[serde(borrow)]
    total_order: Option<&'a RawValue>,
}

fn total_order(raw: &str) -> Option<u32> {
    let transaction: Option<Transaction<'_>> = serde_json::from_str(raw).ok()?;
    number(transaction?.total_order?)
}

fn present(raw: &RawValue) -> Option<&str> {
    (raw.get() != "null").then(|| raw.get())
}

fn text(raw: &RawValue) -> Option<Cow<'_, str>> {
    unquote(raw.get()).ok()
}

/// A number, or the text of one: connectors write both.
fn number<T: std::str::FromStr>(raw: &RawValue) -> Option<T> {
    raw.get().trim_matches('"').parse().ok()
}

/// The second item of `"[\"<last commit>\",\"<current>\"]"`.
fn sequence_lsn(raw: &RawValue) -> Option<u64> {
    let text = unquote(raw.get()).ok()?;
    let items: Vec<Option<Cow<'_, str>>> = serde_json::from_str(&text).ok()?;
    items.into_iter().nth(1)??.parse().ok()
}
