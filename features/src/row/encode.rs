//! The bytes of row records.
//!
//! Layout of the bytes, format 1: `u8` format, `u8` flags (2 bits of presence, then 4 base, 8 first, 16 snapshot, 32 carried columns
//! and 64 truncation follow, 128 it was judged as another row), varint version, base, first, snapshot, truncation (each major and minor, plus one), varint judgements; of a live or lost row a bitmap of nulls over
//! the needed columns, each present one (integers zigzag, doubles as eight bytes, texts as length and bytes) and the carried columns
//! (varint count, then column and version plus one, 0 where none sent it); then varint number of reports and each as origin and value
//! (`u8`), version, report time. A base or first that does not follow equals the version.

use super::{Carried, Origin, Presence, REPORTS_MAX, Report, RowRecord};
use crate::bytes::{Damaged, Reader, put_signed, put_varint};
use crate::change::{TextArena, Version};
use crate::definition::Stream;
use crate::time::Timestamp;
use crate::value::{ColumnType, UNCHANGED};

const FORMAT: u8 = 1;
const HAS_BASE: u8 = 4;
const HAS_FIRST: u8 = 8;
const HAS_SNAPSHOT: u8 = 16;
const HAS_CARRIED: u8 = 32;
const HAS_CLEARED: u8 = 64;
const IS_REOPENED: u8 = 128;

/// What is written of a record.
#[derive(Clone, Copy, Debug)]
pub(super) struct Image<'a> {
    pub(super) presence: Presence,
    pub(super) version: Version,
    pub(super) base: Version,
    pub(super) snapshot: Version,
    pub(super) first: Version,
    pub(super) cleared: Version,
    pub(super) judgements: u32,
    pub(super) is_reopened: bool,
    pub(super) cells: &'a [i64],
    pub(super) text: &'a TextArena,
    pub(super) carried: &'a [Carried],
    pub(super) reports: &'a [Report],
}

impl Image<'_> {
    pub(super) fn encode(&self, stream: &Stream, needed: &[usize], out: &mut Vec<u8>) {
        let presence = match self.presence {
            Presence::Unseen => 0,
            Presence::Live => 1,
            Presence::Deleted => 2,
            Presence::Lost => 3,
        };
        let carried = || self.carried.iter().filter(|carried| needed.contains(&carried.column));
        let mut flags = presence;
        flags |= if self.base == self.version { 0 } else { HAS_BASE };
        flags |= if self.first == self.version { 0 } else { HAS_FIRST };
        flags |= if self.snapshot == Version::REQUEST { 0 } else { HAS_SNAPSHOT };
        flags |= if carried().next().is_none() { 0 } else { HAS_CARRIED };
        flags |= if self.cleared == Version::REQUEST { 0 } else { HAS_CLEARED };
        flags |= if self.is_reopened { IS_REOPENED } else { 0 };
        out.extend([FORMAT, flags]);
        put_version(out, self.version);
        let optional = [
            (HAS_BASE, self.base),
            (HAS_FIRST, self.first),
            (HAS_SNAPSHOT, self.snapshot),
            (HAS_CLEARED, self.cleared),
        ];
        for (flag, version) in optional {
            if flags & flag != 0 {
                put_version(out, version);
            }
        }
        put_varint(out, u64::from(self.judgements));
        if self.presence.has_cells() {
            for eight in needed.chunks(8) {
                let is_null = |column: &usize| self.cells[*column] <= UNCHANGED;
                out.push(
                    eight.iter().enumerate().fold(0, |byte, (bit, column)| byte | u8::from(is_null(column)) << bit),
                );
            }
            for &column in needed {
                let cell = self.cells[column];
                if cell <= UNCHANGED {
                    continue;
                }
                match stream.columns[column].kind {
                    ColumnType::Double => out.extend(cell.to_le_bytes()),
                    ColumnType::Text | ColumnType::Uuid => {
                        let text = self.text.get(cell);
                        put_varint(out, text.len() as u64);
                        out.extend(text.as_bytes());
                    }
                    _ => put_signed(out, cell),
                }
            }
        }
        if flags & HAS_CARRIED != 0 {
            put_varint(out, carried().count() as u64);
            for carried in carried() {
                put_varint(out, carried.column as u64);
                out.push(u8::from(carried.from.is_some()));
                put_version(out, carried.from.unwrap_or_default());
            }
        }
        put_varint(out, self.reports.len() as u64);
        for report in self.reports {
            let value = report.value.map_or(0, |value| 1 + u8::from(value));
            let dated = u8::from(report.reported.is_some());
            out.push(u8::from(report.origin == Origin::Stream) | value << 1 | dated << 3);
            put_version(out, report.version);
            if let Some(reported) = report.reported {
                put_signed(out, reported.micros());
            }
        }
    }
}

impl RowRecord {
    /// Appends the record's bytes; of the columns only `needed` are kept.
    pub fn encode(&self, stream: &Stream, needed: &[usize], out: &mut Vec<u8>) {
        let image = Image {
            presence: self.presence,
            version: self.version,
            base: self.base,
            snapshot: self.snapshot,
            first: self.first,
            cleared: self.cleared,
            judgements: self.judgements,
            is_reopened: self.is_reopened,
            cells: &self.cells,
            text: &self.text,
            carried: &self.carried,
            reports: &self.reports,
        };
        image.encode(stream, needed, out);
    }

    /// Reads a record's bytes into `self`.
    ///
    /// # Errors
    /// [`Damaged`] when they are no record of this stream and these columns.
    pub fn decode(&mut self, stream: &Stream, needed: &[usize], bytes: &[u8]) -> Result<(), Damaged> {
        self.reset(stream);
        let mut from = Reader::new(bytes);
        if from.byte()? != FORMAT {
            return Err(Damaged);
        }
        let flags = from.byte()?;
        self.presence = match flags & 3 {
            0 => Presence::Unseen,
            1 => Presence::Live,
            2 => Presence::Deleted,
            _ => Presence::Lost,
        };
        self.is_reopened = flags & IS_REOPENED != 0;
        self.version = version(&mut from)?;
        self.base = if flags & HAS_BASE == 0 { self.version } else { version(&mut from)? };
        self.first = if flags & HAS_FIRST == 0 { self.version } else { version(&mut from)? };
        if flags & HAS_SNAPSHOT != 0 {
            self.snapshot = version(&mut from)?;
        }
        if flags & HAS_CLEARED != 0 {
            self.cleared = version(&mut from)?;
        }
        self.judgements = u32::try_from(from.varint()?).map_err(|_wide| Damaged)?;
        if self.presence.has_cells() {
            let nulls = from.take(needed.len().div_ceil(8))?;
            for (at, &column) in needed.iter().enumerate() {
                if nulls[at / 8] >> (at % 8) & 1 == 1 {
                    continue;
                }
                self.cells[column] = match stream.columns[column].kind {
                    ColumnType::Double => from.word()?,
                    ColumnType::Text | ColumnType::Uuid => {
                        let length = from.length(usize::MAX)?;
                        let text = std::str::from_utf8(from.take(length)?).map_err(|_not_utf8| Damaged)?;
                        self.text.push(text)
                    }
                    _ => from.signed()?,
                };
            }
        }
        if flags & HAS_CARRIED != 0 {
            for _ in 0..from.length(stream.columns.len())? {
                let column = usize::try_from(from.varint()?).map_err(|_wide| Damaged)?;
                let is_known = from.byte()? != 0;
                let known = version(&mut from)?;
                if column >= stream.columns.len() {
                    return Err(Damaged);
                }
                self.carried.push(Carried { column, from: is_known.then_some(known) });
            }
        }
        for _ in 0..from.length(REPORTS_MAX)? {
            let head = from.byte()?;
            let origin = if head & 1 == 1 { Origin::Stream } else { Origin::Row };
            let value = match head >> 1 & 3 {
                0 => None,
                value => Some(value == 2),
            };
            let version = version(&mut from)?;
            let reported = if head >> 3 & 1 == 1 { Some(Timestamp::from_micros(from.signed()?)) } else { None };
            self.reports.push(Report { origin, version, value, reported });
        }
        if from.is_empty() { Ok(()) } else { Err(Damaged) }
    }
}

/// Both parts plus one, so that [`Version::MAX`] takes two bytes.
fn put_version(out: &mut Vec<u8>, version: Version) {
    put_varint(out, version.major.wrapping_add(1));
    put_varint(out, u64::from(version.minor.wrapping_add(1)));
}

fn version(from: &mut Reader<'_>) -> Result<Version, Damaged> {
    let major = from.varint()?.wrapping_sub(1);
    let minor = u32::try_from(from.varint()?).map_err(|_wide| Damaged)?.wrapping_sub(1);
    Ok(Version { major, minor })
}
