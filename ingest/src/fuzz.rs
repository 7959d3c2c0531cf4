//! What the fuzz targets drive: the decoders of this crate, with any bytes. Compiled for tests and for `fuzz/` only.
//!
//! Invariant: no bytes make a decoder panic; every line becomes one row, a fault, or carries none by nature.

use std::io::Write as _;
use std::path::Path;

use crate::decoder::{LineDecoder, Outcome};
use crate::fixture::{chargebacks, transactions};
use crate::history::HistoryFile;
use crate::source::config::Reading;

/// Rows as JSON, one a line.
pub fn json(bytes: &[u8]) {
    lines(LineDecoder::json(transactions(), &Reading::default()), bytes);
}

/// CSV with its header.
pub fn csv(bytes: &[u8]) {
    lines(LineDecoder::csv(transactions(), &Reading::default()), bytes);
}

/// Debezium envelopes, one a line.
pub fn debezium(bytes: &[u8]) {
    lines(LineDecoder::debezium(&[transactions(), chargebacks()], &Reading::default()), bytes);
}

fn lines(mut decoder: LineDecoder, bytes: &[u8]) {
    let mut rows = 0;
    for (position, line) in (0..).zip(bytes.split(|byte| *byte == b'\n')) {
        if decoder.wants_header() {
            if decoder.set_header(Path::new("fuzz"), line).is_err() {
                return;
            }
        } else if let Ok(Outcome::Row) = decoder.decode(line, position) {
            rows += 1;
        }
    }
    let taken: usize = decoder.take_batches().iter().map(interdict_features::change::ChangeBatch::len).sum();
    assert_eq!(taken, rows, "a faulty line leaves no row");
}

/// A Parquet file of history.
///
/// # Panics
/// No temporary file can be written.
pub fn parquet(bytes: &[u8]) {
    let mut file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.write_all(bytes).expect("a temporary file takes bytes");
    let Ok(history) = HistoryFile::open(file.path(), transactions()) else { return };
    for group in 0..history.row_groups().min(8) {
        let _rows = history.read_group(group);
    }
}

#[cfg(feature = "postgres")]
pub use crate::source::postgres::fuzz::pgoutput;

#[cfg(test)]
mod tests {
    use crate::fuzz_corpus::replay;

    #[test]
    fn corpus_of_json_rows() {
        replay("json", super::json);
    }

    #[test]
    fn corpus_of_csv() {
        replay("csv", super::csv);
    }

    #[test]
    fn corpus_of_debezium_envelopes() {
        replay("debezium", super::debezium);
    }

    #[test]
    fn corpus_of_parquet_history() {
        replay("parquet", super::parquet);
    }

    #[cfg(feature = "postgres")]
    #[test]
    fn corpus_of_pgoutput_messages() {
        replay("pgoutput", super::pgoutput);
    }
}
