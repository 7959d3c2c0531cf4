//! Lines of a file or of standard input, bounded in length, with a growing file followed.
//!
//! Invariants:
//! - Memory is bounded by [`LINE_BYTES_MAX`] whatever the input holds; a longer line is skipped and reported as one line.
//! - While a file is followed, a line without its line break is not handed out: its writer is not done.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::dead_letter::PAYLOAD_BYTES_MAX;

use super::config::{AtEnd, Input};
use super::error::SourceError;

/// The longest line, in bytes: well above a change of a wide table with its schema, little enough to hold in memory.
pub const LINE_BYTES_MAX: usize = 4 << 20;

/// How much is asked of the system at once.
const READ_BYTES: usize = 256 << 10;

/// What stands at the reader's place.
#[derive(Debug)]
pub(crate) enum Line<'a> {
    /// A line without its line break.
    Whole(&'a [u8]),
    /// A line past [`LINE_BYTES_MAX`]: its beginning.
    TooLong(&'a [u8]),
    /// Nothing more, or nothing yet while following.
    End,
}

/// Reads lines one by one.
pub(crate) struct LineReader {
    path: PathBuf,
    input: Opened,
    at_end: AtEnd,
    buffer: Vec<u8>,
    start: usize,
    /// Bytes from `start` on that hold no line break.
    scanned: usize,
    end: usize,
    bytes_read: u64,
    /// The beginning of a line that is being skipped.
    skipping: Option<Vec<u8>>,
}

enum Opened {
    File(File),
    Stdin(std::io::Stdin),
}

impl LineReader {
    /// Opens the input at its beginning.
    pub(crate) fn open(input: &Input, at_end: AtEnd) -> Result<Self, SourceError> {
        let (path, input) = match input {
            Input::Stdin => (PathBuf::from("standard input"), Opened::Stdin(std::io::stdin())),
            Input::Path(path) => {
                let io = |source| SourceError::Io { action: "open", path: path.clone(), source };
                (path.clone(), Opened::File(File::open(path).map_err(io)?))
            }
        };
        Ok(Self {
            path,
            input,
            at_end,
            buffer: Vec::new(),
            start: 0,
            scanned: 0,
            end: 0,
            bytes_read: 0,
            skipping: None,
        })
    }

    /// What to call the input in messages.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// From now on the end of the file is its end: a line without line break there is handed out.
    pub(crate) fn end_at_end(&mut self) {
        self.at_end = AtEnd::Stop;
    }

    /// Whether the next line can be had without waiting for a writer.
    pub(crate) fn is_ready(&mut self) -> bool {
        matches!(self.input, Opened::File(_)) || self.line_break().is_some()
    }

    /// The next line.
    pub(crate) fn next(&mut self) -> Result<Line<'_>, SourceError> {
        loop {
            if let Some(length) = self.line_break() {
                return Ok(self.take(length, length + 1));
            }
            let length = self.end - self.start;
            if self.skipping.is_some() || length > LINE_BYTES_MAX {
                self.skip(length);
            }
            if self.fill()? == 0 {
                let length = self.end - self.start;
                let is_last = self.at_end == AtEnd::Stop && (length > 0 || self.skipping.is_some());
                return Ok(if is_last { self.take(length, length) } else { Line::End });
            }
        }
    }

    /// How many bytes were read from a file that is shorter now, or whether another file stands at its path.
    pub(crate) fn look(&self) -> Result<Look, SourceError> {
        let Opened::File(file) = &self.input else {
            return Ok(Look::Same);
        };
        let io = |source| SourceError::Io { action: "look at", path: self.path.clone(), source };
        let opened = file.metadata().map_err(io)?;
        if opened.len() < self.bytes_read {
            return Err(SourceError::Truncated {
                path: self.path.clone(),
                bytes: opened.len(),
                bytes_read: self.bytes_read,
            });
        }
        match std::fs::metadata(&self.path) {
            Ok(there) if (there.dev(), there.ino()) != (opened.dev(), opened.ino()) => Ok(Look::Rotated),
            Ok(_) => Ok(Look::Same),
            // Between a writer's rename and its new file there is none.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Look::Same),
            Err(error) => Err(io(error)),
        }
    }

    fn line_break(&mut self) -> Option<usize> {
        let from = self.start + self.scanned;
        match memchr::memchr(b'\n', &self.buffer[from..self.end]) {
            Some(at) => Some(self.scanned + at),
            None => {
                self.scanned = self.end - self.start;
                None
            }
        }
    }

    fn take(&mut self, length: usize, consumed: usize) -> Line<'_> {
        let from = self.start;
        self.start += consumed;
        self.scanned = 0;
        if let Some(mut beginning) = self.skipping.take() {
            let room = PAYLOAD_BYTES_MAX.saturating_sub(beginning.len()).min(length);
            beginning.extend_from_slice(&self.buffer[from..from + room]);
            // The bytes just consumed are free to hold the excerpt until the next call.
            self.buffer.splice(..0, beginning.iter().copied());
            self.start += beginning.len();
            self.end += beginning.len();
            return Line::TooLong(&self.buffer[..beginning.len()]);
        }
        let line = &self.buffer[from..from + length];
        if line.len() > LINE_BYTES_MAX {
            return Line::TooLong(&line[..PAYLOAD_BYTES_MAX]);
        }
        Line::Whole(line.strip_suffix(b"\r").unwrap_or(line))
    }

    fn skip(&mut self, length: usize) {
        let from = self.start;
        let beginning = self.skipping.get_or_insert_with(Vec::new);
        let room = PAYLOAD_BYTES_MAX.saturating_sub(beginning.len()).min(length);
        beginning.extend_from_slice(&self.buffer[from..from + room]);
        self.start = self.end;
        self.scanned = 0;
    }

    fn fill(&mut self) -> Result<usize, SourceError> {
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buffer.len() - self.end < READ_BYTES {
            self.buffer.resize(self.end + READ_BYTES, 0);
        }
        let room = &mut self.buffer[self.end..];
        let read = loop {
            let read = match &mut self.input {
                Opened::File(file) => file.read(room),
                Opened::Stdin(stdin) => stdin.read(room),
            };
            match read {
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(source) => return Err(SourceError::Io { action: "read", path: self.path.clone(), source }),
                Ok(read) => break read,
            }
        };
        self.end += read;
        self.bytes_read += read as u64;
        Ok(read)
    }
}

/// What became of a followed file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Look {
    /// It is still the file at its path.
    Same,
    /// Another file stands at its path.
    Rotated,
}
