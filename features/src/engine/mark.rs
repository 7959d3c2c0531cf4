//! Truncations and losses: what the engine remembers of each stream of rows as a whole.
//!
//! A truncation takes back every row with a lower version, and all states that the stream feeds, at once and at no cost: what is in memory
//! is forgotten, and what the store holds is told by its stamp when it is brought. A state written after a truncation carries the
//! truncation's version; one that carries a lower one, or none, is empty. A row record carries the newest truncation it has seen, and
//! one that has seen an older one gives up everything but what other streams told of the row and how often it was judged.
//!
//! A loss ([`Op::Lost`]) takes the states in the same way, and no row yet: each waits for the snapshot that follows, and only once that is
//! whole ([`Op::Settled`]) those that did not come are gone. A snapshot that is cut off is followed by another loss, so nothing is taken
//! for gone because half a snapshot did not hold it.
//!
//! Layout of a stamped state: `u8` 193, version of the truncation (varint major, varint minor), the state's bytes. Of a mark: `u8` 2, version
//! of the newest truncation or loss, of the newest one that is settled, newest version of any change; format 1 lacks the second, which
//! is the first.
//!
//! Invariant: a truncation that comes behind a newer change of its stream is not applied: its states no longer tell which rows it takes.
//! (Versions are noted where a stream's truncations clear it: elsewhere every commit would write the mark.)

use crate::bytes::{Damaged, Reader, put_varint};
use crate::change::{Change, Version};
use crate::definition::{OnTruncate, Stream};
use crate::row::{Cleared, Ignored};

use super::output::Outcome;

/// The first byte of a stamped state; no format of a state has this number.
const STAMPED: u8 = 193;
const FORMAT: u8 = 2;
/// Before losses.
const FORMAT_TRUNCATED: u8 = 1;

/// What is remembered of a stream.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Mark {
    /// What its rows and states are held against.
    pub(super) cleared: Cleared,
    /// The newest version of a change.
    newest: Version,
}

impl Mark {
    /// Notes the versions of changes that were applied. One that stands behind every version says nothing: a record that could not be read.
    pub(super) fn note<'a>(&mut self, changes: impl Iterator<Item = &'a Change>) {
        let is_of_row = |change: &&Change| !change.op.is_mark() && change.version != Version::MAX;
        let versions = changes.filter(is_of_row).map(|change| change.version);
        self.newest = versions.fold(self.newest, Version::max);
    }

    /// Takes a truncation at `version`; [`Outcome::Applied`] when everything older is to be forgotten.
    pub(super) fn truncate(&mut self, version: Version) -> Outcome {
        self.clear(Cleared { at: version, gone: version })
    }

    /// Takes a loss at `version`; [`Outcome::Applied`] when all states are to be forgotten and every row waits for its snapshot.
    pub(super) fn lose(&mut self, version: Version) -> Outcome {
        self.clear(Cleared { at: version, gone: self.cleared.gone })
    }

    fn clear(&mut self, cleared: Cleared) -> Outcome {
        if cleared.at == self.cleared.at {
            return Outcome::Ignored(Ignored::Duplicate);
        }
        if cleared.at < self.cleared.at {
            return Outcome::Ignored(Ignored::Outdated);
        }
        if cleared.at < self.newest {
            return Outcome::Truncated;
        }
        *self = Self { cleared, newest: cleared.at };
        Outcome::Applied
    }

    /// Takes the end of the snapshot behind the loss at `version`; [`Outcome::Applied`] when rows that still wait are gone.
    pub(super) fn settle(&mut self, version: Version) -> Outcome {
        if version != self.cleared.at {
            return Outcome::Ignored(Ignored::Outdated);
        }
        if self.cleared.gone == version {
            return Outcome::Ignored(Ignored::Duplicate);
        }
        self.cleared.gone = version;
        Outcome::Applied
    }

    pub(super) fn encode(self) -> Vec<u8> {
        let mut out = vec![FORMAT];
        for version in [self.cleared.at, self.cleared.gone, self.newest] {
            put_version(&mut out, version);
        }
        out
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, Damaged> {
        let mut from = Reader::new(bytes);
        let format = from.byte()?;
        if format != FORMAT && format != FORMAT_TRUNCATED {
            return Err(Damaged);
        }
        let at = version(&mut from)?;
        let gone = if format == FORMAT { version(&mut from)? } else { at };
        // What could not be read was noted once, as newer than everything.
        let newest = Some(version(&mut from)?).filter(|newest| *newest != Version::MAX).unwrap_or(at);
        let mark = Self { cleared: Cleared { at, gone }, newest };
        if from.is_empty() { Ok(mark) } else { Err(Damaged) }
    }
}

/// Whether truncations of a stream clear it.
pub(super) fn clears(stream: &Stream) -> bool {
    stream.on_truncate == OnTruncate::Clear
}

/// Begins the bytes of a state that was written after the truncation `cleared`.
pub(super) fn stamp(cleared: Version, out: &mut Vec<u8>) {
    if cleared != Version::REQUEST {
        out.push(STAMPED);
        put_version(out, cleared);
    }
}

/// The bytes of a state that holds nothing older than the truncation `cleared`; `None` when it was written before it.
pub(super) fn unstamped(cleared: Version, bytes: &[u8]) -> Result<Option<&[u8]>, Damaged> {
    let mut from = Reader::new(bytes);
    let (seen, state) = match bytes.first() {
        Some(&STAMPED) => {
            from.byte()?;
            let seen = version(&mut from)?;
            (seen, from.take(from.remaining())?)
        }
        _ => (Version::REQUEST, bytes),
    };
    Ok((seen >= cleared).then_some(state))
}

/// Of a stream's stored mark the newest truncation, and what tells whether a stored state was written before it: whoever brings such a
/// state takes it for none.
///
/// # Errors
/// [`Damaged`] when the bytes are no mark.
pub fn staleness(mark: &[u8]) -> Result<(Version, impl Fn(&[u8]) -> bool + Sync + use<>), Damaged> {
    let cleared = Mark::decode(mark)?.cleared.at;
    Ok((cleared, move |state: &[u8]| matches!(unstamped(cleared, state), Ok(None))))
}

/// Whether two marks clear the same, whatever came since.
#[must_use]
pub fn clear_alike(one: Option<&[u8]>, other: Option<&[u8]>) -> bool {
    let cleared = |mark: Option<&[u8]>| mark.map_or(Ok(Cleared::default()), |mark| Ok(Mark::decode(mark)?.cleared));
    matches!((cleared(one), cleared(other)), (Ok(one), Ok::<_, Damaged>(other)) if one == other)
}

fn put_version(out: &mut Vec<u8>, version: Version) {
    put_varint(out, version.major);
    put_varint(out, u64::from(version.minor));
}

fn version(from: &mut Reader<'_>) -> Result<Version, Damaged> {
    let major = from.varint()?;
    Ok(Version { major, minor: u32::try_from(from.varint()?).map_err(|_wide| Damaged)? })
}
