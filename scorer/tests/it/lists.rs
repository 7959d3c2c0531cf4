use interdict_features::decision::ListKind;
use interdict_features::time::Timestamp;
use interdict_scorer::lists::{Lists, ListsFull};
use interdict_store::port::{ListEntry, ListWrite};
use uuid::Uuid;

use crate::support::{at, customer};

fn entry(list: ListKind, key: &str, expires: Option<Timestamp>) -> ListEntry {
    ListEntry {
        list,
        entity: customer(key),
        reason: format!("{list:?} of {key}"),
        decision: None,
        author: "test".to_owned(),
        created: at(0),
        expires,
    }
}

fn kinds(lists: &Lists, keys: &[&str], now: Timestamp) -> Vec<ListKind> {
    let entities: Vec<_> = keys.iter().map(|key| customer(key)).collect();
    lists.hits(&entities, now).into_iter().map(|hit| hit.list).collect()
}

#[test]
fn an_entry_counts_until_its_end_and_not_at_it() {
    let lists = Lists::new(10, [entry(ListKind::AutomaticBlock, "1", Some(at(10)))]);
    assert_eq!(kinds(&lists, &["1"], at(9)), [ListKind::AutomaticBlock]);
    assert_eq!(kinds(&lists, &["1"], at(10)), []);
    assert_eq!(kinds(&lists, &["2"], at(9)), []);
    let forever = Lists::new(10, [entry(ListKind::Allow, "1", None)]);
    assert_eq!(kinds(&forever, &["1"], Timestamp::MAX), [ListKind::Allow]);
}

#[test]
fn hits_come_in_the_order_in_which_they_bind() {
    let lists = Lists::new(
        10,
        [
            entry(ListKind::AutomaticBlock, "1", None),
            entry(ListKind::Allow, "2", None),
            entry(ListKind::ManualBlock, "3", None),
            entry(ListKind::ManualBlock, "1", None),
        ],
    );
    assert_eq!(
        kinds(&lists, &["1", "2", "3"], at(0)),
        [ListKind::ManualBlock, ListKind::ManualBlock, ListKind::Allow, ListKind::AutomaticBlock,]
    );
}

#[test]
fn writes_replace_and_remove() {
    let mut lists = Lists::new(2, []);
    assert!(lists.is_empty() && !lists.is_full());
    lists.apply(ListWrite::Set(entry(ListKind::Allow, "1", Some(at(1)))));
    lists.apply(ListWrite::Set(entry(ListKind::Allow, "1", None)));
    assert_eq!((lists.len(), kinds(&lists, &["1"], at(5))), (1, vec![ListKind::Allow]));
    lists.apply(ListWrite::Remove { list: ListKind::ManualBlock, entity: customer("1") });
    assert_eq!(lists.len(), 1);
    lists.apply(ListWrite::Remove { list: ListKind::Allow, entity: customer("1") });
    lists.apply(ListWrite::Remove { list: ListKind::Allow, entity: customer("1") });
    assert_eq!((lists.len(), kinds(&lists, &["1"], at(5))), (0, vec![]));
}

#[test]
fn full_lists_refuse_and_change_nothing_and_take_replacements() {
    let mut lists = Lists::new(1, [entry(ListKind::Allow, "1", None)]);
    let full = lists.set(entry(ListKind::Allow, "2", None)).unwrap_err();
    assert_eq!(full, ListsFull { capacity: 1 });
    assert!(full.to_string().contains("list_entries_max"));
    assert_eq!(kinds(&lists, &["1", "2"], at(0)), [ListKind::Allow]);
    lists.set(entry(ListKind::Allow, "1", Some(at(1)))).unwrap();
    assert_eq!(kinds(&lists, &["1"], at(1)), []);
}

#[test]
fn full_lists_take_every_block_of_a_decision_and_what_is_stored() {
    let stored = [entry(ListKind::AutomaticBlock, "1", None), entry(ListKind::AutomaticBlock, "2", Some(at(9)))];
    let mut lists = Lists::new(1, stored);
    lists.put(entry(ListKind::AutomaticBlock, "3", None));
    lists.put(entry(ListKind::AutomaticBlock, "3", None));
    assert_eq!((lists.len(), lists.is_full()), (3, true));
    assert_eq!(kinds(&lists, &["1", "2", "3"], at(0)), [ListKind::AutomaticBlock; 3]);
    assert!(lists.set(entry(ListKind::ManualBlock, "4", None)).is_err());
    lists.expire(at(9));
    lists.apply(ListWrite::Remove { list: ListKind::AutomaticBlock, entity: customer("1") });
    lists.apply(ListWrite::Remove { list: ListKind::AutomaticBlock, entity: customer("3") });
    assert_eq!((lists.len(), lists.is_full()), (0, false));
    lists.set(entry(ListKind::ManualBlock, "4", None)).unwrap();
}

#[test]
fn ended_entries_are_removed_with_what_the_store_must_remove() {
    let mut lists = Lists::new(
        10,
        [
            entry(ListKind::AutomaticBlock, "1", Some(at(10))),
            entry(ListKind::ManualBlock, "1", None),
            entry(ListKind::Allow, "2", Some(at(11))),
        ],
    );
    let removed = lists.expire(at(10));
    assert_eq!(removed, [ListWrite::Remove { list: ListKind::AutomaticBlock, entity: customer("1") }]);
    assert_eq!(lists.len(), 2);
    assert_eq!(lists.expire(at(11)).len(), 1);
    assert_eq!((lists.len(), kinds(&lists, &["1"], at(99))), (1, vec![ListKind::ManualBlock]));
}

#[test]
fn only_the_decision_that_blocked_withdraws_its_block() {
    let mine = Uuid::from_u128(1);
    let mut block = entry(ListKind::AutomaticBlock, "1", None);
    block.decision = Some(mine);
    let mut lists = Lists::new(10, [block, entry(ListKind::ManualBlock, "1", None)]);
    lists.withdraw(&customer("1"), Uuid::from_u128(2));
    assert_eq!(lists.len(), 2);
    lists.withdraw(&customer("1"), mine);
    assert_eq!(kinds(&lists, &["1"], at(0)), [ListKind::ManualBlock]);
    assert_eq!(lists.of(&customer("1")).count(), 1);
}
