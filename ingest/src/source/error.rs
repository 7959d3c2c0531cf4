//! What stops a source, and what to do about it.

use std::path::PathBuf;

use interdict_features::value::ColumnType;
use interdict_store::error::Class;

/// An error that ends a source: a single record that cannot be read is a dead letter instead.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file operation failed.
    #[error("cannot {action} {}: {source}; see that the file exists and that this user may read it", path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// No file matches.
    #[error("no Parquet file at {}; name a file, a folder with *.parquet in it, or a pattern such as data/2018-*.parquet", path.display())]
    NoFiles {
        /// What was asked for.
        path: PathBuf,
    },
    /// The file is not Parquet, or its end is missing.
    #[error(
        "{} is no complete Parquet file: {source}; its end is missing or it is another format: write it again (a Parquet file is readable only once its writer has closed it)",
        path.display()
    )]
    NotParquet {
        /// The file.
        path: PathBuf,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// A row group cannot be read.
    #[error(
        "row group {group} of {} cannot be read ({source}); the {rows_before} rows before it were delivered: write the file again or leave the group out, then go on from row {rows_before}",
        path.display()
    )]
    RowGroup {
        /// The file.
        path: PathBuf,
        /// Which group, from 0.
        group: usize,
        /// Rows of the source before the part that cannot be read.
        rows_before: u64,
        /// Why.
        source: parquet::errors::ParquetError,
    },
    /// The stream declares a column that the file lacks.
    #[error(
        "{} has no column '{column}', which [stream.{stream}] declares as {declared}; it has: {}. Add the column to the file, or mend its name in [stream.{stream}] columns",
        path.display(), found.join(", ")
    )]
    MissingColumn {
        /// The file.
        path: PathBuf,
        /// The stream.
        stream: String,
        /// The column.
        column: String,
        /// Its declared type.
        declared: ColumnType,
        /// The columns of the file, at most 32.
        found: Vec<String>,
    },
    /// A column's type does not convert exactly to the declared one.
    #[error(
        "column '{column}' of {} is {found}, [stream.{stream}] declares it as {declared}; write {column} = \"{suggested}\" there, or write the column as {declared}",
        path.display()
    )]
    ColumnType {
        /// The file.
        path: PathBuf,
        /// The stream.
        stream: String,
        /// The column.
        column: String,
        /// The type in the file.
        found: Box<str>,
        /// The declared type.
        declared: ColumnType,
        /// What to declare instead.
        suggested: Box<str>,
    },
    /// The first line of a CSV file is no header.
    #[error("the first line of {} is no CSV header: {why}; its first line must name every column once", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// A followed file became shorter.
    #[error(
        "{} became shorter ({bytes} bytes, {bytes_read} were read): it was truncated while followed. Records written since the last read may be gone; follow a file that only grows, and start the new content as a new source name",
        path.display()
    )]
    Truncated {
        /// The file.
        path: PathBuf,
        /// Its size now.
        bytes: u64,
        /// How far it was read.
        bytes_read: u64,
    },
    /// Another file stands at the followed path.
    #[error(
        "another file stands at {} now (rotated after {records} records, all of them delivered); start it as a new source name, or let the writer keep one file",
        path.display()
    )]
    Rotated {
        /// The path.
        path: PathBuf,
        /// Records delivered from the old file.
        records: u64,
    },
    /// The file holds fewer records than were already applied.
    #[error(
        "{} ends after {records} records, but {position} were already applied: it is not the file that was read before; use a new source name or namespace",
        path.display()
    )]
    PositionBeyondEnd {
        /// The file.
        path: PathBuf,
        /// How many records it holds.
        records: u64,
        /// Where reading was to go on.
        position: u64,
    },
    /// Standard input cannot be read from the middle.
    #[error("standard input cannot go on after record {position}; write it to a file and use type = \"file\"")]
    NoResume {
        /// Where reading was to go on.
        position: u64,
    },
    /// The configured stream does not exist (the configuration check says so earlier).
    #[error("source '{name}' is to feed stream '{stream}', which is not declared; add [stream.{stream}]")]
    UnknownStream {
        /// The source.
        name: String,
        /// The stream.
        stream: String,
    },
    /// The reading of a topic.
    #[error(transparent)]
    Topic(#[from] Box<crate::topic::error::TopicError>),
    /// The capture from PostgreSQL.
    #[cfg(feature = "postgres")]
    #[error(transparent)]
    Postgres(#[from] Box<super::postgres::error::PostgresError>),
}

impl SourceError {
    /// How to react.
    #[must_use]
    pub fn class(&self) -> Class {
        match self {
            Self::Io { source, .. } => match source.kind() {
                std::io::ErrorKind::Interrupted
                | std::io::ErrorKind::WouldBlock
                | std::io::ErrorKind::TimedOut
                | std::io::ErrorKind::StaleNetworkFileHandle => Class::Transient,
                _ => Class::Fatal,
            },
            Self::Topic(error) => error.class(),
            #[cfg(feature = "postgres")]
            Self::Postgres(error) => error.class(),
            _ => Class::Fatal,
        }
    }
}
