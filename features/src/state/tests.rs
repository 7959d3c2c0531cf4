//! Tests of states.

mod cursor;
