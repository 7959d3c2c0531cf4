//! The HTTP edge over real sockets, in front of an in-memory backend that keeps the backend's contract.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says where")]

mod access;
mod broken;
mod description;
mod effects;
mod limits;
mod memory;
mod rig;
