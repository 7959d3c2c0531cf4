//! The whole system: the real binary, real files, a real store, real HTTP.
#![allow(clippy::unwrap_used, reason = "tests")]

mod broken;
mod crash;
mod disk;
mod place;
mod requests;
mod resume;
mod webhook;
