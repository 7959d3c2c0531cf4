//! Frames of `pgoutput` for the fuzz target.

use interdict_features::time::Span;

use super::changes::Changes;
use super::table::{Catalog, Lacking, Table};
use crate::fixture::{chargebacks, transactions};

/// Frames of one transaction, each behind its length in two bytes.
pub fn pgoutput(mut bytes: &[u8]) {
    let table = |name: &str, stream| {
        let (schema, name) = ("public".to_owned(), name.to_owned());
        Table { schema, name, stream, before: Default::default(), retention: Span::DAY }
    };
    let tables = vec![table("transactions", transactions()), table("chargebacks", chargebacks())];
    let mut changes = Changes::new("fuzz", Catalog::new(tables));
    changes.begin(100, 0);
    while let Some((length, rest)) = bytes.split_first_chunk::<2>() {
        let (frame, rest) = rest.split_at(rest.len().min(usize::from(u16::from_be_bytes(*length))));
        bytes = rest;
        let _broken = changes.frame(frame, Lacking::Mistake);
    }
    changes.commit(200);
    let records = changes.records();
    let delivery = changes.take();
    let rows: usize = delivery.batches.iter().map(interdict_features::change::ChangeBatch::len).sum();
    assert!(rows as u64 + delivery.dead.len() as u64 + delivery.skipped >= records, "every record is told of");
}
