//! The `[archive]` section.
//!
//! ```toml
//! [archive]
//! dir = "archive"        # required; with --role all processes share it
//! file_rows = 100000     # files are written when so many rows wait, over all streams of a source
//! file_age = "60s"       # or when the first of them waits so long; a source is confirmed no sooner
//! ```

use std::path::{Path, PathBuf};
use std::sync::Arc;

use interdict_features::config::{ConfigFile, Section};
use interdict_features::definition::Stream;
use interdict_features::time::Span;

use super::rows::OWN;
use crate::source::config::{Input, SourceConfig, SourceKind};

/// When files are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ArchiveOptions {
    /// With this many rows.
    pub rows_max: usize,
    /// This long after the first row came.
    pub age_max: Span,
    /// With this many bytes in memory; bounds it, together with the changes of one delivery.
    pub bytes_max: usize,
    /// With this many files under construction: events of days far apart make a file each.
    pub files_max: usize,
}

impl Default for ArchiveOptions {
    /// 100,000 rows are some megabytes on disk: enough for a columnar reader, and little to hold in memory.
    fn default() -> Self {
        Self { rows_max: 100_000, age_max: Span::from_micros(60_000_000), bytes_max: 64 << 20, files_max: 64 }
    }
}

/// What is archived where, checked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ArchiveConfig {
    /// The archive's folder.
    pub dir: PathBuf,
    /// When its files are written.
    pub options: ArchiveOptions,
}

impl ArchiveConfig {
    /// Reads `[archive]`; a relative folder starts from `folder`. `None` when the file has no such section. Mistakes are noted in `file`, so
    /// the value counts only when [`ConfigFile::finish`] succeeds.
    #[must_use]
    pub fn read(file: &ConfigFile, folder: &Path, streams: &[Arc<Stream>], sources: &[SourceConfig]) -> Option<Self> {
        let section = file.section("archive")?;
        section.require("dir", "\"archive\"");
        let dir = section.text("dir").unwrap_or_default();
        if section.has("dir") && dir.is_empty() {
            section.report("dir", "'dir' in [archive] is empty", "name a folder");
        }
        let mut options = ArchiveOptions::default();
        if let Some(rows) = section.integer("file_rows", 1..=10_000_000) {
            options.rows_max = usize::try_from(rows).unwrap_or(options.rows_max);
        }
        if let Some(age) = section.span_of_time("file_age") {
            if age <= Span::ZERO || age > Span::DAY {
                let message = format!("'file_age' in [archive] is {age}");
                section.report("file_age", message, "write a time over 0s, at most 1d");
            }
            options.age_max = age;
        }
        check_sources(&section, sources);
        check_columns(&section, streams);
        section.finish();
        Some(Self { dir: folder.join(dir), options })
    }
}

fn check_sources(section: &Section<'_>, sources: &[SourceConfig]) {
    if sources.is_empty() {
        let help = "add a [source]; what comes over HTTP is in the store's input log and in the decision log";
        section.report_key("dir", "[archive] has nothing to archive: there is no source", help);
    }
    for source in sources {
        if matches!(&source.kind, SourceKind::File(file) if file.input == Input::Stdin) {
            let message = format!("source '{}' cannot be archived: standard input cannot be read again", source.name);
            section.report_key("dir", message, "read from a file, or remove [archive]");
        }
        if matches!(&source.kind, SourceKind::Topic(_)) {
            let message = format!("source '{}' cannot be archived: it is a topic", source.name);
            section.report_key("dir", message, "let the broker keep the topic, or remove [archive]");
        }
    }
}

fn check_columns(section: &Section<'_>, streams: &[Arc<Stream>]) {
    for stream in streams {
        for column in stream.columns.iter().filter(|column| OWN.contains(&column.name.as_str())) {
            let message = format!(
                "[stream.{}] has a column '{}', which archived rows have of their own",
                stream.name, column.name
            );
            section.report_key("dir", message, "give the column another name, or remove [archive]");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fixture::transactions;

    const SOURCE: &str = "[source]\ntype = 'file'\npath = 'a.json'\nformat = 'json'\n";

    fn read(text: &str) -> (Option<ArchiveConfig>, String) {
        let file = ConfigFile::parse("c.toml", text).unwrap();
        let streams = [transactions()];
        let sources = crate::source::config::read(&file, &streams);
        let config = ArchiveConfig::read(&file, Path::new("/etc/bank"), &streams, &sources);
        (config, file.finish().err().map(|problems| problems.to_string()).unwrap_or_default())
    }

    #[test]
    fn reads_every_key() {
        let (config, mistakes) = read(&format!("{SOURCE}[archive]\ndir = 'changes'\nfile_rows = 7\nfile_age = '2s'\n"));
        let config = config.unwrap();
        assert_eq!((mistakes.as_str(), config.dir.to_str()), ("", Some("/etc/bank/changes")));
        assert_eq!((config.options.rows_max, config.options.age_max), (7, Span::from_micros(2_000_000)));
        assert_eq!(read(SOURCE).0, None);
    }

    #[test]
    fn reports_every_mistake_with_its_line() {
        let (_, mistakes) = read(&format!("{SOURCE}[archive]\nfile_rows = 0\nfile_age = '0s'\nfolder = 'x'\n"));
        for wanted in ["c.toml:6:", "no 'dir'", "'file_rows'", "'file_age'", "unknown key 'folder'"] {
            assert!(mistakes.contains(wanted), "{wanted} is not in\n{mistakes}");
        }
        let stdin = "[source]\ntype = 'stdin'\nformat = 'json'\n[archive]\ndir = 'a'\n";
        let (_, mistakes) = read(stdin);
        assert!(mistakes.contains("c.toml:5:1: source 'source' cannot be archived"), "{mistakes}");
        let topic =
            "[source]\ntype = 'kafka'\nbrokers = 'b:9092'\ntopic = 't'\nformat = 'json'\n[archive]\ndir = 'a'\n";
        let (_, mistakes) = read(topic);
        assert!(mistakes.contains("it is a topic"), "{mistakes}");
        let (_, mistakes) = read("[archive]\ndir = ''\n");
        assert!(mistakes.contains("there is no source") && mistakes.contains("is empty"), "{mistakes}");
    }
}
