//! The dead-letter file: one JSON object per line, rotated by size.
//!
//! Layout: `PATH` is the newest file, `PATH.1` the one before, up to `PATH.N`. A line is a [`DeadLetter`] without any
//! clock in it.
//!
//! Invariants:
//! - After [`DeadLetterFile::flush`] returns, every letter given to [`DeadLetterFile::write`] survives power failure:
//!   flush, then commit the offset. A crash between the two replays the letters, and those that are found in the
//!   newest two files with the same bytes are not written twice.
//! - A file never ends in half a line once it was opened: what a crash left is cut off, its record is replayed.

use std::collections::{BTreeMap, HashMap};
use std::fs::{File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};

use interdict_store::error::Class;

use super::DeadLetter;

/// How much is kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bounds {
    /// A file that has reached this many bytes is rotated.
    pub file_bytes_max: u64,
    /// How many files there are at most, the newest included; the oldest is deleted with a warning.
    pub files_max: usize,
    /// How many letters per source and partition are remembered to recognise a replay.
    pub remembered_max: usize,
}

impl Default for Bounds {
    /// Eight files of 64 MiB, a quarter of a million letters or more; a replay reaches back one checkpoint, which is
    /// far less than 65,536 letters.
    fn default() -> Self {
        Self { file_bytes_max: 64 << 20, files_max: 8, remembered_max: 65_536 }
    }
}

/// An error of the dead-letter file: intake must wait, or letters would be lost.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} the dead-letter file {}: {source}; free space or mend its rights, intake goes on by itself", path.display())]
pub struct DeadLetterError {
    action: &'static str,
    path: PathBuf,
    source: std::io::Error,
}

impl DeadLetterError {
    /// How to react: the same letters may be written again.
    #[must_use]
    pub fn class(&self) -> Class {
        Class::Transient
    }
}

/// Hashes of letters by position and row.
type Hashes = BTreeMap<(u64, Option<u32>), u64>;

/// Appends dead letters to a file, once each.
#[derive(Debug)]
pub struct DeadLetterFile {
    path: PathBuf,
    bounds: Bounds,
    file: File,
    bytes: u64,
    seen: HashMap<(String, u32), Hashes>,
    line: Vec<u8>,
}

impl DeadLetterFile {
    /// Opens or creates the file at `path`, cuts off half a line at its end and remembers the letters in it.
    ///
    /// # Errors
    /// Transient: the file cannot be read or written.
    pub fn open(path: &Path, bounds: Bounds) -> Result<Self, DeadLetterError> {
        let fail = |action| move |source| DeadLetterError { action, path: path.to_owned(), source };
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder).map_err(fail("create the folder of"))?;
        }
        let file = OpenOptions::new().create(true).append(true).open(path).map_err(fail("open"))?;
        let mut opened = Self { path: path.to_owned(), bounds, file, bytes: 0, seen: HashMap::new(), line: Vec::new() };
        let older = opened.rotated(1);
        if older.exists() {
            opened.remember(&older).map_err(fail("read"))?;
        }
        opened.bytes = opened.remember(path).map_err(fail("read"))?;
        opened.file.set_len(opened.bytes).map_err(fail("repair"))?;
        opened.sync_folder()?;
        Ok(opened)
    }

    /// Appends the letters that were not written before; returns how many were new. They are durable after
    /// [`Self::flush`]. After an error none or some are written, and the same call may be made again.
    ///
    /// # Errors
    /// Transient: the disk is full or the file cannot be written.
    pub fn write(&mut self, letters: &[DeadLetter]) -> Result<usize, DeadLetterError> {
        let mut count = 0;
        for letter in letters {
            self.line.clear();
            serde_json::to_writer(&mut self.line, letter).expect("a letter is strings and numbers");
            self.line.push(b'\n');
            let hash = hash_of(&self.line[..self.line.len() - 1]);
            if self.was_seen(letter, hash) {
                continue;
            }
            self.append()?;
            self.note(letter, hash);
            count += 1;
        }
        Ok(count)
    }

    /// Makes every written letter durable.
    ///
    /// # Errors
    /// Transient: the disk refused; the offset must not be committed.
    pub fn flush(&mut self) -> Result<(), DeadLetterError> {
        self.file.sync_data().map_err(|source| self.failed("flush", source))
    }

    fn append(&mut self) -> Result<(), DeadLetterError> {
        if self.bytes > 0 && self.bytes + self.line.len() as u64 > self.bounds.file_bytes_max {
            self.rotate()?;
        }
        if let Err(source) = self.file.write_all(&self.line) {
            // Half a line must not stay in front of the letters that a retry writes.
            let _repaired_on_open = self.file.set_len(self.bytes);
            return Err(self.failed("write", source));
        }
        self.bytes += self.line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> Result<(), DeadLetterError> {
        self.flush()?;
        let last = self.rotated(self.bounds.files_max.saturating_sub(1).max(1));
        if last.exists() {
            tracing::warn!(path = %last.display(), "oldest dead letters deleted, the dead-letter files are full");
        }
        for index in (1..self.bounds.files_max.saturating_sub(1).max(1)).rev() {
            let from = self.rotated(index);
            if from.exists() {
                std::fs::rename(&from, self.rotated(index + 1)).map_err(|source| self.failed("rotate", source))?;
            }
        }
        std::fs::rename(&self.path, self.rotated(1)).map_err(|source| self.failed("rotate", source))?;
        self.file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.path)
            .map_err(|source| self.failed("open", source))?;
        self.bytes = 0;
        self.sync_folder()
    }

    /// Makes the names of new and renamed files durable.
    fn sync_folder(&self) -> Result<(), DeadLetterError> {
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let synced = File::open(folder).and_then(|folder| folder.sync_all());
        synced.map_err(|source| self.failed("flush the folder of", source))
    }

    fn rotated(&self, index: usize) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(format!(".{index}"));
        PathBuf::from(name)
    }

    fn failed(&self, action: &'static str, source: std::io::Error) -> DeadLetterError {
        DeadLetterError { action, path: self.path.clone(), source }
    }

    /// Notes every letter of a file; returns the bytes up to the end of its last whole line.
    fn remember(&mut self, path: &Path) -> std::io::Result<u64> {
        let mut reader = BufReader::new(File::open(path)?);
        let mut line = Vec::new();
        let mut whole = 0;
        loop {
            line.clear();
            let read = reader.read_until(b'\n', &mut line)?;
            if line.pop() != Some(b'\n') {
                return Ok(whole);
            }
            whole += read as u64;
            if let Ok(letter) = serde_json::from_slice::<DeadLetter>(&line) {
                self.note(&letter, hash_of(&line));
            }
        }
    }

    fn was_seen(&self, letter: &DeadLetter, hash: u64) -> bool {
        let positions = self.seen.get(&(letter.source.clone(), letter.partition));
        positions.and_then(|positions| positions.get(&(letter.position, letter.row))) == Some(&hash)
    }

    fn note(&mut self, letter: &DeadLetter, hash: u64) {
        let positions = self.seen.entry((letter.source.clone(), letter.partition)).or_default();
        positions.insert((letter.position, letter.row), hash);
        if positions.len() > self.bounds.remembered_max {
            positions.pop_first();
        }
    }
}

fn hash_of(line: &[u8]) -> u64 {
    let mut hasher = DefaultHasher::new();
    line.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests;
