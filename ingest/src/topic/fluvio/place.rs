//! Where the reading of one partition stands, and what a record at some offset means for it.
//!
//! Offsets of a Fluvio partition are dense, so an offset beyond the expected one says that the client left records out: a response of the
//! server is cut within a batch, the client drops the cut batch's tail and goes on behind its declared end (present in every published
//! client; fixed by fluvio-community/fluvio pull request 4627). And a stream whose responses are smaller than a batch stops without an
//! error. Both are mended by opening the stream again at the expected offset, asking for more at once where that was not enough.
//!
//! Invariant: what is taken is exactly every offset from the first expected one on, in order.

/// What is asked of the server at once, in bytes: 64 batches of 256 KB fit, so that few are cut.
pub(super) const BYTES: i32 = 16 << 20;
/// What is asked at most, where a stream would not go on with less.
const BYTES_MAX: i32 = 128 << 20;
/// How often a stream is opened at the same place before the records count as gone.
const ATTEMPTS_MAX: u32 = 5;

/// The place of a partition.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    expected: u64,
    bytes: i32,
    /// How often the stream was opened at `expected` in vain.
    attempts: u32,
}

/// What is to be done with a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is the next one.
    Take,
    /// It was taken before.
    Drop,
    /// Records before it are missing: open the stream again at the expected offset.
    Reopen,
    /// They are missing however often it is opened.
    Lost,
}

impl Place {
    /// Reading begins at `expected`.
    pub(super) fn at(expected: u64, bytes: i32) -> Self {
        Self { expected, bytes, attempts: 0 }
    }

    /// The offset that comes next.
    pub(super) fn expected(&self) -> u64 {
        self.expected
    }

    /// How much to ask of the server at once.
    pub(super) fn bytes(&self) -> i32 {
        self.bytes
    }

    /// Judges the record at `offset`; it counts as taken where that is the verdict.
    pub(super) fn judge(&mut self, offset: u64) -> Verdict {
        if offset < self.expected {
            return Verdict::Drop;
        }
        if offset == self.expected {
            self.expected += 1;
            self.attempts = 0;
            return Verdict::Take;
        }
        self.reopen()
    }

    /// Nothing comes although the partition goes on behind the expected offset.
    pub(super) fn stalled(&mut self) -> Verdict {
        self.bytes = self.bytes.saturating_mul(2).min(BYTES_MAX);
        self.reopen()
    }

    fn reopen(&mut self) -> Verdict {
        if self.attempts > 0 {
            self.bytes = self.bytes.saturating_mul(2).min(BYTES_MAX);
        }
        self.attempts += 1;
        if self.attempts > ATTEMPTS_MAX { Verdict::Lost } else { Verdict::Reopen }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_taken_in_order_and_once() {
        let mut place = Place::at(5, BYTES);
        for (offset, expected) in [(5, Verdict::Take), (5, Verdict::Drop), (4, Verdict::Drop), (6, Verdict::Take)] {
            assert_eq!(place.judge(offset), expected, "offset {offset}");
        }
        assert_eq!(place.expected(), 7);
    }

    #[test]
    fn a_gap_moves_nothing_and_is_given_up_only_after_attempts_that_ask_for_more() {
        let mut place = Place::at(5, 1 << 20);
        for _ in 0..ATTEMPTS_MAX {
            assert_eq!(place.judge(9), Verdict::Reopen);
            assert_eq!(place.expected(), 5);
        }
        assert_eq!(place.bytes(), 16 << 20);
        assert_eq!(place.judge(9), Verdict::Lost);
    }

    #[test]
    fn progress_forgives_earlier_gaps() {
        let mut place = Place::at(0, BYTES);
        for offset in 0..100 {
            assert_eq!(place.judge(offset + 3), Verdict::Reopen);
            assert_eq!(place.judge(offset), Verdict::Take);
        }
        assert_eq!(place.bytes(), BYTES, "one gap at a time needs no larger answers");
    }

    #[test]
    fn a_stall_asks_for_more_within_a_bound() {
        let mut place = Place::at(0, 64 << 20);
        assert_eq!(place.stalled(), Verdict::Reopen);
        assert_eq!(place.stalled(), Verdict::Reopen);
        assert_eq!(place.bytes(), BYTES_MAX);
    }
}
