//! Walks in pages.

use redis::Value;

use crate::redis::walk::{Step, Walk};

#[test]
fn a_walk_that_another_server_goes_on_with_begins_anew() {
    let cursor = |text: &str| Value::BulkString(text.as_bytes().to_vec());
    let mut walk = Walk::new();
    // Session, its answer, what the page is, where the next one begins.
    let pages = [
        (1, "17", Step::Page, "17"),
        (1, "5", Step::Page, "5"),
        (2, "9", Step::Anew, "0"),
        (2, "21", Step::Page, "21"),
        (3, "0", Step::Anew, "0"),
        (4, "3", Step::Page, "3"),
        (4, "0", Step::End, "0"),
    ];
    for (session, answered, step, next) in pages {
        assert_eq!(walk.step(session, cursor(answered)).unwrap(), step);
        assert_eq!(walk.cursor(), next.as_bytes());
    }
    assert!(walk.step(4, Value::Nil).is_err());
}
