//! List entries that ended.

use interdict_features::decision::ListKind;
use interdict_features::time::Timestamp;

use super::server_process::{Server, block_on};
use super::*;
use crate::port::{ListEntry, ListWrite};

fn second(second: i64) -> Timestamp {
    Timestamp::from_micros(second * 1_000_000)
}

fn entry(key: u64, expires: Option<i64>) -> ListEntry {
    ListEntry {
        list: ListKind::AutomaticBlock,
        entity: EntityRef { entity: "card".to_owned(), key: key.to_string() },
        reason: String::new(),
        decision: None,
        author: "decision".to_owned(),
        created: second(0),
        expires: expires.map(second),
    }
}

#[test]
fn entries_that_ended_go_and_others_stay() {
    block_on(async {
        let store = Server::shared().store().await;
        let set = |entry| ListWrite::Set(entry);
        // More than one page.
        let lists =
            (0..3_000).map(|key| set(entry(key, Some(10 + i64::from(key % 2 == 0))))).chain([set(entry(9_000, None))]);
        store.commit(Commit { lists: lists.collect(), ..Commit::default() }).await.unwrap();
        assert_eq!(store.forget_ended(second(9)).await.unwrap(), 0);
        assert_eq!(store.forget_ended(second(10)).await.unwrap(), 1_500, "an entry does not bind at its end");
        let left = store.lists().await.unwrap();
        assert_eq!(left.len(), 1_501);
        assert!(left.iter().all(|entry| entry.expires != Some(second(10))));
        assert_eq!(store.forget_ended(second(11)).await.unwrap(), 1_500);
        assert_eq!(store.lists().await.unwrap(), [entry(9_000, None)]);
    });
}

#[test]
fn an_entry_that_was_renewed_since_it_was_read_stays() {
    block_on(async {
        let store = Server::shared().store().await;
        let set = async |entry: &ListEntry| {
            let lists = vec![ListWrite::Set(entry.clone())];
            store.commit(Commit { lists, ..Commit::default() }).await.unwrap();
        };
        let (read, renewed) = (entry(1, Some(10)), entry(1, Some(20)));
        set(&read).await;
        let field = layout::list_field(read.list, &read.entity).unwrap();
        let json = layout::to_json("list entry", &read).unwrap();
        set(&renewed).await;
        let question = scripts::ENDED.question(&store.layout, &[store.layout.lists()], &[&field, &json]);
        let answered = store.link.ask(Lane::Write, &question).await.unwrap();
        assert_eq!(answer::number("ended entries", &answered[0]).unwrap(), 0);
        assert_eq!(store.lists().await.unwrap(), [renewed]);
    });
}
