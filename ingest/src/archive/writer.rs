//! Cuts what a source delivers into files and has them published.
//!
//! Invariants:
//! - Files are sealed only where everything taken is covered by a position: never within a transaction or a snapshot.
//! - Sealed files are published once the store is at their position; until then further changes wait behind them.
//! - What failed may be tried again and goes on where it stopped.

use interdict_features::change::{Change, ChangeBatch, Row};
use interdict_features::time::Timestamp;
use parquet::errors::ParquetError;

use super::Places;
use super::config::ArchiveOptions;
use super::error::ArchiveError;
use super::folder::{Owner, SourceFolder, Staged};
use super::rows::{Partition, Rows};

/// What was published since the writer began.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ArchiveCounts {
    /// Changes.
    pub rows: u64,
    /// Files.
    pub files: u64,
    /// Bytes of them.
    pub bytes: u64,
}

/// Files on disk that are not published yet.
#[derive(Debug, Default)]
struct Waiting {
    files: Vec<Staged>,
    counts: ArchiveCounts,
}

/// A snapshot whose rows wait.
#[derive(Clone, Copy, Debug)]
struct Begun {
    /// Its place in the log.
    lsn: u64,
    /// How many files waited before it, and what is in them: a snapshot may come in the place of lost changes.
    files: usize,
    counts: ArchiveCounts,
}

/// Files that complete the archive up to a position.
#[derive(Debug)]
struct Sealed {
    waiting: Waiting,
    position: u64,
}

/// Writes the changes of one source to Parquet, each exactly once. Calls block on the disk: not for an async thread.
#[derive(Debug)]
pub struct Writer {
    folder: SourceFolder,
    owner: Owner,
    options: ArchiveOptions,
    places: Places,
    open: Vec<(Partition, Rows)>,
    rows: usize,
    bytes: usize,
    /// A file that is encoded and not staged yet.
    encoded: Option<Encoded>,
    waiting: Waiting,
    sealed: Option<Sealed>,
    /// When the first thing came that is not sealed.
    since: Option<Timestamp>,
    /// The source's position.
    position: u64,
    /// Everything taken is covered by it.
    is_whole: bool,
    /// What was archived at the beginning.
    archived: u64,
    snapshot: Option<Begun>,
    counts: ArchiveCounts,
}

#[derive(Debug)]
struct Encoded {
    bytes: Vec<u8>,
    rows: u64,
    file: String,
}

impl Writer {
    /// Begins to archive the source of `owner`, which is stored up to `stored` (0: its beginning), into `folder`, which was taken before the
    /// store was asked. Returns the writer and the position after which the source goes on: what comes up to `stored` is for the archive alone.
    ///
    /// # Errors
    /// Fatal when the folder cannot be gone on with; Transient when a file operation fails.
    pub fn begin(
        mut folder: SourceFolder,
        owner: Owner,
        stored: u64,
        places: Places,
        options: ArchiveOptions,
    ) -> Result<(Self, u64), ArchiveError> {
        let archived = folder.begin(stored)?;
        if places == Places::Log && archived == 0 && stored > 0 {
            return Err(ArchiveError::BehindSnapshot { path: folder.path().to_owned() });
        }
        let position = archived.min(stored);
        let writer = Self {
            folder,
            owner,
            options,
            places,
            open: Vec::new(),
            rows: 0,
            bytes: 0,
            encoded: None,
            waiting: Waiting::default(),
            sealed: None,
            since: None,
            position,
            is_whole: true,
            archived,
            snapshot: None,
            counts: ArchiveCounts::default(),
        };
        Ok((writer, position))
    }

    /// Has steps on the disk fail from now on.
    #[cfg(test)]
    pub(super) fn fail_with(&mut self, probe: super::folder::Probe) {
        self.folder.fail_with(probe);
    }

    /// Every change up to it is published, and on disk.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.folder.position()
    }

    /// Changes that were taken and are not published.
    #[must_use]
    pub fn waiting_rows(&self) -> u64 {
        let sealed = self.sealed.as_ref().map_or(0, |sealed| sealed.waiting.counts.rows);
        self.rows as u64 + self.encoded.as_ref().map_or(0, |file| file.rows) + self.waiting.counts.rows + sealed
    }

    /// What was published since the writer began.
    #[must_use]
    pub fn counts(&self) -> ArchiveCounts {
        self.counts
    }

    /// Sees that there is room for a delivery of `batches`, after which the source stands at `position`. What was read of a snapshot that was
    /// cut off is dropped once another one begins or ends.
    ///
    /// # Errors
    /// Transient when the disk takes nothing: to be called again. Fatal when rows cannot be encoded.
    pub fn make_room(&mut self, batches: &[ChangeBatch], position: u64) -> Result<(), ArchiveError> {
        let lsn = super::snapshot_of(batches).filter(|_| self.places == Places::Log);
        // The end of the first snapshot is its place in the log.
        let current = if self.position == 0 && position > 0 { Some(position) } else { lsn };
        if let (Some(begun), Some(current)) = (self.snapshot, current)
            && begun.lsn != current
        {
            self.drop_snapshot(begun)?;
        }
        if let (None, Some(lsn)) = (self.snapshot, lsn) {
            self.spill()?;
            self.snapshot = Some(Begun { lsn, files: self.waiting.files.len(), counts: self.waiting.counts });
        }
        let is_full = self.rows >= self.options.rows_max
            || self.bytes >= self.options.bytes_max
            || self.open.len() >= self.options.files_max;
        if is_full { self.spill() } else { Ok(()) }
    }

    /// Takes changes of one delivery, after which the source stands at `position`, at `now`; call [`Self::make_room`] before. What was
    /// archived already is passed over.
    ///
    /// # Errors
    /// Fatal: a stream's columns have no type in Parquet.
    pub fn push(&mut self, batches: &[ChangeBatch], position: u64, now: Timestamp) -> Result<(), ArchiveError> {
        let moved = position > self.position;
        self.position = self.position.max(position);
        for (change, row) in batches.iter().flat_map(ChangeBatch::iter) {
            if !self.places.covers(self.archived, change) {
                self.take(change, &row, batches).map_err(|source| ArchiveError::Encode { source })?;
            }
        }
        let last = batches.iter().rev().find_map(|batch| batch.iter().last());
        if let Some((change, _)) = last {
            self.is_whole = self.places.covers(self.position, change);
        } else if moved {
            self.is_whole = true;
        }
        if moved || self.rows > 0 {
            self.since.get_or_insert(now);
        }
        Ok(())
    }

    fn take(&mut self, change: &Change, row: &Row<'_>, batches: &[ChangeBatch]) -> Result<(), ParquetError> {
        let partition = Partition::of(change, row);
        let place = match self.open.iter().rposition(|(known, _)| *known == partition) {
            Some(place) => place,
            None => {
                let stream = batches.iter().map(ChangeBatch::stream).find(|stream| stream.index == row.stream.index);
                let stream = stream.expect("a row is of its batch's stream");
                self.open.push((partition, Rows::of(stream)?));
                self.open.len() - 1
            }
        };
        self.bytes += self.open[place].1.push(change, row);
        self.rows += 1;
        Ok(())
    }

    /// Whether files are to be sealed at `now`, and can be.
    #[must_use]
    pub fn is_due(&self, now: Timestamp) -> bool {
        let is_old = self.since.is_some_and(|since| now.since(since) >= self.options.age_max);
        let is_full = self.rows as u64 + self.waiting.counts.rows >= self.options.rows_max as u64;
        self.can_seal() && (is_old || is_full)
    }

    fn can_seal(&self) -> bool {
        self.sealed.is_none() && self.is_whole && self.since.is_some() && self.position > self.folder.position()
    }

    /// Seals everything taken, if nothing sealed waits already and nothing taken is part of a greater whole.
    ///
    /// # Errors
    /// As [`Self::make_room`].
    pub fn seal(&mut self) -> Result<(), ArchiveError> {
        if !self.can_seal() {
            return Ok(());
        }
        self.spill()?;
        self.sealed = Some(Sealed { waiting: std::mem::take(&mut self.waiting), position: self.position });
        self.since = None;
        self.snapshot = None;
        Ok(())
    }

    /// Whether sealed files wait for the store: nothing else can be sealed meanwhile.
    #[must_use]
    pub fn is_sealed(&self) -> bool {
        self.sealed.is_some()
    }

    /// Notes on disk what completes a snapshot, before the store passes it; seals it first. Nothing may be sealed before.
    ///
    /// # Errors
    /// As [`Self::make_room`].
    pub fn prepare(&mut self) -> Result<(), ArchiveError> {
        self.seal()?;
        match &self.sealed {
            Some(sealed) => self.folder.prepare(&sealed.waiting.files, sealed.position),
            None => Ok(()),
        }
    }

    /// Publishes what is sealed if the store is at its position; whether anything was.
    ///
    /// # Errors
    /// Transient when the disk fails: to be called again. Fatal when a file has gone.
    pub fn publish(&mut self, stored: u64) -> Result<bool, ArchiveError> {
        let Some(sealed) = self.sealed.take_if(|sealed| sealed.position <= stored) else { return Ok(false) };
        if let Err(error) = self.folder.publish(&sealed.waiting.files, sealed.position) {
            self.sealed = Some(sealed);
            return Err(error);
        }
        let counts = sealed.waiting.counts;
        self.counts.rows += counts.rows;
        self.counts.files += counts.files;
        self.counts.bytes += counts.bytes;
        Ok(true)
    }

    /// Encodes and stages every open file.
    fn spill(&mut self) -> Result<(), ArchiveError> {
        loop {
            if let Some(encoded) = &self.encoded {
                let staged = self.folder.stage(&encoded.bytes)?;
                let counts = &mut self.waiting.counts;
                counts.rows += encoded.rows;
                counts.files += 1;
                counts.bytes += encoded.bytes.len() as u64;
                self.waiting.files.push(Staged { staged, file: encoded.file.clone() });
                self.encoded = None;
            }
            if self.open.is_empty() {
                return Ok(());
            }
            let (partition, rows) = self.open.remove(0);
            self.rows -= rows.rows;
            self.bytes -= rows.bytes;
            // Parts tell files apart that begin and end in one transaction.
            let part = self.waiting.files.len();
            let name = format!("{:020}-{:020}-{part:05}.parquet", rows.first, rows.last);
            let file = format!("{}/{name}", partition.folder(&rows.stream));
            let count = rows.rows as u64;
            let bytes = rows.encode(&self.facts()).map_err(|source| ArchiveError::Encode { source })?;
            self.encoded = Some(Encoded { bytes, rows: count, file });
        }
    }

    /// What every file says of itself.
    fn facts(&self) -> [(&'static str, String); 4] {
        let Owner { namespace, source, incarnation } = self.owner.clone();
        [("format", "1".to_owned()), ("namespace", namespace), ("source", source), ("incarnation", incarnation)]
    }

    /// Drops what was read of a snapshot that was cut off.
    fn drop_snapshot(&mut self, begun: Begun) -> Result<(), ArchiveError> {
        self.folder.discard(&self.waiting.files[begun.files..])?;
        self.waiting.files.truncate(begun.files);
        self.waiting.counts = begun.counts;
        self.open.clear();
        (self.rows, self.bytes, self.encoded, self.snapshot) = (0, 0, None, None);
        Ok(())
    }
}
