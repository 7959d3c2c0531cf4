//! The decoder without a server: any bytes, and frames made by hand.

use std::sync::Arc;

use interdict_features::change::Op;
use interdict_features::time::Span;
use proptest::prelude::*;

use super::changes::{Broken, Changes};
use super::check::Found;
use super::message::{Message, parse};
use super::table::{Catalog, Lacking, Table, Unfit};
use crate::fixture::{chargebacks, shown, transactions};
use crate::source::config::postgres::ColumnsBefore;

/// A cell of a frame.
#[derive(Clone, Debug)]
enum Cell {
    Null,
    Unchanged,
    Text(String),
}

fn text(frame: &mut Vec<u8>, text: &str) {
    frame.extend_from_slice(text.as_bytes());
    frame.push(0);
}

fn relation(id: u32, table: &str, columns: &[(&str, u32)]) -> Vec<u8> {
    let mut frame = vec![b'R'];
    frame.extend_from_slice(&id.to_be_bytes());
    text(&mut frame, "public");
    text(&mut frame, table);
    frame.push(b'd');
    frame.extend_from_slice(&u16::try_from(columns.len()).unwrap().to_be_bytes());
    for (name, kind) in columns {
        frame.push(0);
        text(&mut frame, name);
        frame.extend_from_slice(&kind.to_be_bytes());
        frame.extend_from_slice(&(-1_i32).to_be_bytes());
    }
    frame
}

fn tuple(frame: &mut Vec<u8>, tag: u8, cells: &[Cell]) {
    frame.push(tag);
    frame.extend_from_slice(&u16::try_from(cells.len()).unwrap().to_be_bytes());
    for cell in cells {
        match cell {
            Cell::Null => frame.push(b'n'),
            Cell::Unchanged => frame.push(b'u'),
            Cell::Text(text) => {
                frame.push(b't');
                frame.extend_from_slice(&u32::try_from(text.len()).unwrap().to_be_bytes());
                frame.extend_from_slice(text.as_bytes());
            }
        }
    }
}

fn row(tag: u8, id: u32, tuples: &[(u8, &[Cell])]) -> Vec<u8> {
    let mut frame = vec![tag];
    frame.extend_from_slice(&id.to_be_bytes());
    for (tag, cells) in tuples {
        tuple(&mut frame, *tag, cells);
    }
    frame
}

fn cells(texts: &[&str]) -> Vec<Cell> {
    let cell = |text: &&str| match *text {
        "-" => Cell::Null,
        "~" => Cell::Unchanged,
        text => Cell::Text(text.to_owned()),
    };
    texts.iter().map(cell).collect()
}

const CHARGEBACKS: [(&str, u32); 3] = [("is_fraud", 16), ("note", 25), ("id", 20)];

fn changes() -> Changes {
    let table = |name: &str, stream| Table {
        schema: "public".to_owned(),
        name: name.to_owned(),
        stream,
        before: ColumnsBefore::default(),
        retention: Span::DAY,
    };
    Changes::new(
        "payments",
        Catalog::new(vec![table("transactions", transactions()), table("chargebacks", chargebacks())]),
    )
}

fn rows(changes: &mut Changes) -> Vec<String> {
    let delivery = changes.take();
    let rows = delivery.batches.iter().flat_map(|batch| {
        batch.iter().map(|(change, row)| format!("{:?} {} {}", change.op, change.version.minor, shown(&row)))
    });
    rows.collect()
}

#[test]
fn columns_are_found_by_name_in_any_order() {
    let mut changes = changes();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.begin(100, 0);
    changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "x", "5"]))]), Lacking::Mistake).unwrap();
    changes.frame(&row(b'D', 7, &[(b'K', &cells(&["-", "-", "5"]))]), Lacking::Mistake).unwrap();
    assert_eq!(rows(&mut changes), ["Insert 1 5|1", "Delete 2 5|-"]);
}

#[test]
fn the_position_moves_with_the_end_of_a_transaction() {
    let mut changes = changes();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.go_on_after(50);
    changes.begin(100, 0);
    changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "-", "5"]))]), Lacking::Mistake).unwrap();
    changes.read_up_to(90);
    assert!(!changes.take_idle(), "the transaction is not complete");
    assert_eq!(changes.take().position, 50);
    assert!(changes.commit(120).is_some());
    assert_eq!(changes.take().position, 120);
    changes.read_up_to(110);
    assert!(!changes.take_idle());
    changes.read_up_to(130);
    assert!(changes.take_idle());
    assert_eq!(changes.take().position, 130);
}

#[test]
fn a_connection_that_begins_anew_delivers_nothing_twice() {
    let mut changes = changes();
    let mut again = |rows_seen: usize| {
        changes.reconnected();
        changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
        changes.begin(100, 0);
        for id in 1..=rows_seen {
            let id = id.to_string();
            changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "-", &id]))]), Lacking::Mistake).unwrap();
        }
        rows(&mut changes)
    };
    assert_eq!(again(2), ["Insert 1 1|1", "Insert 2 2|1"]);
    assert_eq!(again(3), ["Insert 3 3|1"]);
    assert_eq!(again(1), [] as [&str; 0]);
}

#[test]
fn frames_that_make_no_sense_are_refused() {
    let mut changes = changes();
    let insert = row(b'I', 7, &[(b'N', &cells(&["t", "-", "5"]))]);
    assert!(matches!(changes.frame(&insert, Lacking::Mistake), Err(Broken::Frame(_))), "outside of a transaction");
    changes.begin(100, 0);
    assert!(matches!(changes.frame(&insert, Lacking::Mistake), Err(Broken::Frame(_))), "of an unknown table");
    for frame in [&b""[..], b"Z", b"I", b"IxxxxK", b"T\xff\xff\xff\xff\0", b"Rxxxx"] {
        assert!(parse(frame).is_err(), "{frame:?}");
    }
    let unfit = changes.frame(&relation(8, "chargebacks", &[("id", 20)]), Lacking::Mistake);
    assert!(matches!(unfit, Err(Broken::Table(Unfit::Missing { .. }))));
    let unfit = changes.frame(&relation(8, "chargebacks", &[("id", 20), ("is_fraud", 701)]), Lacking::Null);
    assert!(matches!(unfit, Err(Broken::Table(Unfit::Type { kind: 701, .. }))));
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t"]))]), Lacking::Mistake).unwrap();
    let delivery = changes.take();
    assert_eq!((delivery.records, delivery.dead.len()), (1, 1), "a row of another width is a dead letter");
}

#[test]
fn a_delete_without_its_id_is_a_dead_letter() {
    let mut changes = changes();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.begin(100, 0);
    changes.frame(&row(b'D', 7, &[(b'K', &cells(&["t", "-", "-"]))]), Lacking::Mistake).unwrap();
    let delivery = changes.take();
    assert_eq!(delivery.dead[0].reason.code(), "row_missing");
    assert_eq!((delivery.dead[0].position, delivery.dead[0].row), (100, Some(1)));
}

#[test]
fn keys_that_rows_left_are_told_where_the_table_tells() {
    let mut stream = (*transactions()).clone();
    stream.partition_by = stream.column("customer");
    let columns = [("id", 20), ("at", 1184), ("customer", 25), ("amount", 1700), ("is_fraud", 16), ("score", 701)];
    let row_of = |id: &str, customer: &str| cells(&[id, "2026-01-01 00:00:00+00", customer, "1", "-", "-"]);
    let key_of = |id: &str| cells(&[id, "-", "-", "-", "-", "-"]);
    let check = |frame: Vec<u8>, expected: &[(usize, usize, &str)]| {
        let table = Table {
            schema: "public".to_owned(),
            name: "transactions".to_owned(),
            stream: stream.clone().into(),
            before: ColumnsBefore::default(),
            retention: Span::DAY,
        };
        let mut changes = Changes::new("payments", Catalog::new(vec![table]));
        changes.note_keys();
        changes.frame(&relation(7, "transactions", &columns), Lacking::Mistake).unwrap();
        changes.begin(100, 0);
        changes.frame(&row(b'I', 7, &[(b'N', &row_of("1", "a"))]), Lacking::Mistake).unwrap();
        changes.frame(&frame, Lacking::Mistake).unwrap();
        let left = changes.take().left;
        let left: Vec<_> = left.iter().map(|left| (left.change.0, left.change.1, left.key.as_str())).collect();
        assert_eq!(left, expected);
    };
    let update = |tag, old: Vec<Cell>, new: Vec<Cell>| row(b'U', 7, &[(tag, &old), (b'N', &new)]);
    check(update(b'O', row_of("1", "a"), row_of("1", "b")), &[(0, 1, "a")]);
    check(update(b'O', row_of("1", "a"), row_of("1", "a")), &[]);
    check(update(b'O', row_of("1", "-"), row_of("1", "b")), &[(0, 1, "1")]);
    check(update(b'O', row_of("1", "a"), row_of("1", "-")), &[(0, 1, "a")]);
    check(row(b'U', 7, &[(b'N', &row_of("1", "b"))]), &[]);
    check(row(b'D', 7, &[(b'O', &row_of("1", "a"))]), &[(0, 1, "a")]);
    check(row(b'D', 7, &[(b'O', &row_of("1", "-"))]), &[(0, 1, "1")]);
    check(row(b'D', 7, &[(b'K', &key_of("1"))]), &[]);
    // Another id is another row: the old one is gone from where it was.
    check(update(b'O', row_of("1", "a"), row_of("2", "b")), &[(0, 1, "a")]);
    check(update(b'K', key_of("1"), row_of("2", "b")), &[]);
}

fn partitioned(id: u32) -> Found {
    Found { id, is_partitioned: true, filter: None, entry: None }
}

#[test]
fn a_row_that_moves_to_another_partition_is_one_update() {
    let frames = |rows: &[(u8, &str)]| {
        let mut frames = vec![relation(7, "chargebacks", &CHARGEBACKS)];
        frames.extend(rows.iter().map(|(tag, id)| match tag {
            b'D' => row(b'D', 7, &[(b'K', &cells(&["-", "-", id]))]),
            _ => row(b'I', 7, &[(b'N', &cells(&["t", "-", id]))]),
        }));
        frames
    };
    let check = |rows_of: &[(u8, &str)], expected: &[&str]| {
        let mut changes = changes();
        changes.know_tables(vec![partitioned(6), partitioned(7)]);
        // A connection that ends anywhere changes nothing.
        for sent in [rows_of.len() - 1, rows_of.len()] {
            changes.reconnected();
            changes.begin(100, 0);
            for frame in frames(&rows_of[..sent]) {
                changes.frame(&frame, Lacking::Mistake).unwrap();
            }
        }
        changes.commit(200);
        assert_eq!(rows(&mut changes), expected);
    };
    check(&[(b'D', "1"), (b'I', "1")], &["Update 2 1|1"]);
    check(&[(b'D', "1"), (b'I', "2")], &["Delete 1 1|-", "Insert 2 2|1"]);
    check(&[(b'D', "1"), (b'D', "2"), (b'I', "2")], &["Delete 1 1|-", "Update 3 2|1"]);
    check(&[(b'I', "1"), (b'D', "1")], &["Insert 1 1|1", "Delete 2 1|-"]);
    check(&[(b'D', "1"), (b'I', "1"), (b'I', "1")], &["Update 2 1|1", "Insert 3 1|1"]);
}

#[test]
fn rows_of_other_tables_are_counted_and_keep_their_numbers() {
    let mut changes = changes();
    changes.frame(&relation(6, "other", &[("id", 20)]), Lacking::Mistake).unwrap();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.begin(100, 0);
    changes.frame(&row(b'I', 6, &[(b'N', &cells(&["1"]))]), Lacking::Mistake).unwrap();
    changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "-", "5"]))]), Lacking::Mistake).unwrap();
    let delivery = changes.take();
    assert_eq!((delivery.records, delivery.skipped), (2, 1));
    let (change, _) = delivery.batches[0].get(0);
    assert_eq!((change.op, change.version.minor), (Op::Insert, 2));
}

fn cell() -> impl Strategy<Value = Cell> {
    prop_oneof![
        Just(Cell::Null),
        Just(Cell::Unchanged),
        ".{0,20}".prop_map(Cell::Text),
        prop::sample::select(vec!["5", "t", "2026-01-01 00:00:00+00", "NaN", "-0.10", "infinity"])
            .prop_map(|text| Cell::Text(text.to_owned())),
    ]
}

/// Frames that are right, so that mutations of them go deep.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let width = || prop::collection::vec(cell(), 0..8);
    let tag = prop::sample::select(vec![b'I', b'U', b'D']);
    let tags = prop::sample::select(vec![vec![b'N'], vec![b'K', b'N'], vec![b'O', b'N'], vec![b'K'], vec![b'O']]);
    let rows = (tag, 5_u32..9, tags, width(), width()).prop_map(|(tag, id, tags, one, two)| {
        let tuples: Vec<(u8, &[Cell])> =
            tags.iter().zip([&one[..], &two[..]]).map(|(tag, cells)| (*tag, cells)).collect();
        row(tag, id, &tuples)
    });
    let names = prop::sample::select(vec!["transactions", "chargebacks", "other"]);
    let columns = prop::collection::vec(
        (
            prop::sample::select(vec!["id", "at", "customer", "amount", "is_fraud", "score"]),
            prop::sample::select(vec![16_u32, 20, 25, 1184, 1700]),
        ),
        0..8,
    );
    let relations = (5_u32..9, names, columns).prop_map(|(id, name, columns)| relation(id, name, &columns));
    prop_oneof![4 => rows, 2 => relations, 1 => prop::collection::vec(any::<u8>(), 0..60)]
}

proptest! {
    #[test]
    fn any_frames_are_accounted_for(
        frames in prop::collection::vec((frame(), prop::option::of((any::<prop::sample::Index>(), any::<u8>()))), 0..40),
    ) {
        let mut changes = changes();
        changes.frame(&relation(5, "transactions", &[("id", 20), ("at", 1184), ("customer", 25), ("amount", 1700), ("is_fraud", 16), ("score", 701)]), Lacking::Mistake).unwrap();
        changes.know_tables(vec![partitioned(5), partitioned(7)]);
        changes.begin(100, i64::MAX);
        for (mut frame, mutation) in frames {
            if let Some((at, byte)) = mutation && !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            if let Ok(Message::Insert { new, .. }) = parse(&frame) {
                prop_assert_eq!(new.cells().count(), new.columns(), "a tuple that was parsed can be walked");
            }
            let _refused_or_taken = changes.frame(&frame, Lacking::Null);
        }
        changes.commit(101);
        let delivery = changes.take();
        let rows: usize = delivery.batches.iter().map(|batch| batch.len()).sum();
        prop_assert_eq!(rows as u64 + delivery.dead.len() as u64 + delivery.skipped, delivery.records);
        let versions: Vec<_> = delivery.batches.iter().flat_map(|batch| batch.iter().map(|(change, _)| change.version)).collect();
        prop_assert!(versions.is_sorted());
    }

    #[test]
    fn any_bytes_are_a_message_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _parsed = parse(&bytes).map(|message| format!("{message:?}"));
    }
}

#[test]
fn streams_share_nothing_but_the_order_of_their_rows() {
    let mut changes = changes();
    let width: Vec<(&str, u32)> =
        vec![("id", 20), ("at", 1184), ("customer", 25), ("amount", 1700), ("is_fraud", 16), ("score", 701)];
    changes.frame(&relation(5, "transactions", &width), Lacking::Mistake).unwrap();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    changes.begin(100, 0);
    for id in ["1", "2"] {
        changes
            .frame(
                &row(b'I', 5, &[(b'N', &cells(&[id, "2026-01-01 00:00:00+00", "c", "1.50", "-", "-"]))]),
                Lacking::Mistake,
            )
            .unwrap();
        changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "-", id]))]), Lacking::Mistake).unwrap();
    }
    let delivery = changes.take();
    let names: Vec<&str> = delivery.batches.iter().map(|batch| batch.stream().name.as_str()).collect();
    assert_eq!(names, ["transactions", "chargebacks", "transactions", "chargebacks"]);
    assert!(Arc::ptr_eq(delivery.batches[0].stream(), delivery.batches[2].stream()));
}

#[test]
fn more_relations_than_are_remembered_cost_no_captured_table() {
    let mut changes = changes();
    changes.frame(&relation(7, "chargebacks", &CHARGEBACKS), Lacking::Mistake).unwrap();
    for id in 100..40_000 {
        changes.frame(&relation(id, "partition", &[("id", 20)]), Lacking::Mistake).unwrap();
    }
    changes.begin(100, 0);
    changes.frame(&row(b'I', 7, &[(b'N', &cells(&["t", "-", "5"]))]), Lacking::Mistake).unwrap();
    changes.frame(&row(b'I', 100, &[(b'N', &cells(&["1"]))]), Lacking::Mistake).unwrap();
    let delivery = changes.take();
    assert_eq!((delivery.records, delivery.skipped), (2, 1));
    changes.reconnected();
    changes.begin(200, 0);
    let unknown = changes.frame(&row(b'I', 100, &[(b'N', &cells(&["1"]))]), Lacking::Mistake);
    assert!(matches!(unknown, Err(Broken::Frame(_))), "a new connection describes what it sends");
}
