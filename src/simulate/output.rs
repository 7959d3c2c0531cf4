//! Files and standard output.

use std::fs::{self, File};
use std::io::BufWriter;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::format::Sink;

/// Writes are gathered to this size.
const BUFFER_BYTES: usize = 256 * 1024;

/// Under which name a file grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Placement {
    /// Under a temporary name beside its own, which it takes when complete.
    Whole,
    /// Under its own name, for readers that follow it.
    InPlace,
}

/// One output.
#[derive(Debug)]
pub(super) struct Output {
    path: PathBuf,
    placement: Placement,
}

impl Output {
    /// Names the output; its folder must exist. A device or a pipe is written to, not replaced.
    pub(super) fn new(path: &Path, placement: Placement) -> Self {
        let is_replaced = fs::metadata(path).map_or(true, |there| there.is_file());
        Self { path: path.to_owned(), placement: if is_replaced { placement } else { Placement::InPlace } }
    }

    pub(super) fn is_standard(&self) -> bool {
        self.path == Path::new("-")
    }

    fn written_path(&self) -> PathBuf {
        match self.placement {
            Placement::InPlace => self.path.clone(),
            Placement::Whole => {
                let mut name = self.path.clone().into_os_string();
                name.push(".tmp");
                name.into()
            }
        }
    }

    /// Where to write.
    pub(super) fn sink(&self) -> anyhow::Result<Sink> {
        if self.is_standard() {
            return Ok(Box::new(BufWriter::with_capacity(BUFFER_BYTES, std::io::stdout())));
        }
        let path = self.written_path();
        let file = File::create(&path)
            .with_context(|| format!("cannot create {}; does its folder exist and is it writable?", path.display()))?;
        Ok(Box::new(BufWriter::with_capacity(BUFFER_BYTES, file)))
    }

    /// Gives a complete file its name.
    pub(super) fn publish(&self) -> anyhow::Result<()> {
        if self.is_standard() || self.placement == Placement::InPlace {
            return Ok(());
        }
        let written = self.written_path();
        fs::rename(&written, &self.path)
            .with_context(|| format!("cannot rename {} to {}", written.display(), self.path.display()))
    }

    /// What to say when writing fails.
    pub(super) fn describe(&self) -> String {
        format!(
            "cannot write {}",
            if self.is_standard() { "standard output".into() } else { self.path.to_string_lossy() }
        )
    }
}
