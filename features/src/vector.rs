//! What a read of features returns.

use serde::{Deserialize, Serialize};

use crate::value::Value;

/// Qualities of a feature's value beside the value itself. Several may hold.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Flags(u8);

impl Flags {
    /// Nothing to remark.
    pub const NONE: Self = Self(0);
    /// The event names no key of the entity (null).
    pub const NO_KEY: Self = Self(1);
    /// Nothing is known of the key.
    pub const NO_STATE: Self = Self(2);
    /// The window begins before what is retained.
    pub const TRUNCATED: Self = Self(4);
    /// Older events were read from tiles; the edge may be off by up to `edge_events` events.
    pub const TILED: Self = Self(8);
    /// A retracted value, or a label reported after the as-of, may still be contained in a tile.
    pub const INEXACT: Self = Self(16);
    /// The state had not reached the event's position by the deadline.
    pub const STALE: Self = Self(32);

    /// Both together.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` hold.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether nothing is to remark.
    #[must_use]
    pub const fn is_none(&self) -> bool {
        self.0 == 0
    }
}

/// The value of one feature as of one instant.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Reading {
    /// The value; null where the window is empty (and no default says otherwise) or the feature is missing.
    pub value: Value,
    /// Its qualities.
    #[serde(default, skip_serializing_if = "Flags::is_none")]
    pub flags: Flags,
    /// For a tiled read: how many events lie in tiles that the window's edges cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub edge_events: u32,
}

impl Reading {
    /// No value for the reason that `flags` give.
    pub const MISSING: Self = Self { value: Value::Null, flags: Flags::NONE, edge_events: 0 };
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}
