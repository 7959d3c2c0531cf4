//! Batches in parts.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use super::ChangeBatch;

impl ChangeBatch {
    /// A copy of the changes in `rows`.
    ///
    /// # Panics
    /// When `rows` reaches beyond the batch.
    #[must_use]
    pub fn part(&self, rows: Range<usize>) -> Self {
        let mut part = Self::new(Arc::clone(self.stream()), self.partition());
        part.reserve(rows.len());
        for row in rows {
            let (change, cells) = self.get(row);
            part.push_row(cells, *change);
        }
        part
    }

    /// The batch as parts to be applied one after the other, in which a truncation (as every [`super::Op::is_mark`]) stands alone: what
    /// comes before it is applied before it. A batch without one is its only part, and is not copied.
    pub fn parts(&self) -> impl Iterator<Item = Cow<'_, Self>> {
        let mut from = 0;
        std::iter::from_fn(move || {
            if from >= self.len() {
                return None;
            }
            let is_mark = |at: &usize| self.get(*at).0.op.is_mark();
            let to = match (from..self.len()).find(is_mark) {
                Some(at) if at == from => at + 1,
                Some(at) => at,
                None => self.len(),
            };
            let rows = std::mem::replace(&mut from, to)..to;
            let is_whole = rows == (0..self.len());
            Some(if is_whole { Cow::Borrowed(self) } else { Cow::Owned(self.part(rows)) })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Change, Op, Version};
    use crate::definition::{Column, Stream};
    use crate::value::ColumnType;

    #[test]
    fn a_truncation_stands_alone() {
        let column = Column { name: "id".to_owned(), kind: ColumnType::Int, sensitive: false };
        let stream = Arc::new(Stream::of_columns("s", vec![column], 0, None));
        let check = |ops: &str, expected: &[&str]| {
            let mut batch = ChangeBatch::new(Arc::clone(&stream), 0);
            for (position, op) in (0_u64..).zip(ops.chars()) {
                let op = match op {
                    't' => Op::Truncate,
                    'l' => Op::Lost,
                    's' => Op::Settled,
                    _ => Op::Insert,
                };
                batch.begin().finish(Change { op, version: Version::new(position), arrival: None, position });
            }
            let letter = |op| match op {
                Op::Truncate => 't',
                Op::Lost => 'l',
                Op::Settled => 's',
                _ => 'c',
            };
            let letters = |part: Cow<'_, ChangeBatch>| part.iter().map(|(change, _)| letter(change.op)).collect();
            let parts: Vec<String> = batch.parts().map(letters).collect();
            assert_eq!(parts, expected, "{ops}");
            let positions = batch.parts().flat_map(|part| part.iter().map(|row| row.0.position).collect::<Vec<_>>());
            assert!(positions.eq(0..batch.len() as u64), "{ops}");
        };
        check("", &[]);
        check("ccc", &["ccc"]);
        check("t", &["t"]);
        check("cctcttc", &["cc", "t", "c", "t", "t", "c"]);
        check("clccs", &["c", "l", "cc", "s"]);
    }
}
