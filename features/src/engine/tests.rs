//! Tests of the engine, and through it of row records and states.

mod bytes;
mod history;
mod hot;
mod losses;
mod model;
mod oracle;
mod promises;
mod rows;
mod truncations;
mod world;
