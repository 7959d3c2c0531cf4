//! Walks over keys or fields in pages. A cursor is a place in the tables of one process of the server, so a walk that
//! another one has to go on with begins anew: it would miss what stood there before the cursor.

use redis::Value;

use super::answer;
use crate::error::StoreError;

/// A walk on its way.
pub(super) struct Walk {
    cursor: Vec<u8>,
    /// Which session the cursor is of.
    session: Option<u64>,
}

/// What a page is worth, and how the walk goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Step {
    /// There are more pages.
    Page,
    /// It was the last page.
    End,
    /// The page is of another server than those before it: everything begins anew.
    Anew,
}

impl Walk {
    pub(super) fn new() -> Self {
        Self { cursor: b"0".to_vec(), session: None }
    }

    /// From where the next page is asked for.
    pub(super) fn cursor(&self) -> &[u8] {
        &self.cursor
    }

    /// Goes behind a page that `session` answered with the cursor of the next one.
    pub(super) fn step(&mut self, session: u64, cursor: Value) -> Result<Step, StoreError> {
        if self.session.is_some_and(|earlier| earlier != session) {
            *self = Self::new();
            return Ok(Step::Anew);
        }
        self.session = Some(session);
        self.cursor = answer::some_bytes("cursor", cursor)?;
        Ok(if self.cursor == b"0" { Step::End } else { Step::Page })
    }
}
