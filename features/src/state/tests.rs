//! Tests of states.
