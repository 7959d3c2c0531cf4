//! Tests of the engine, and through it of row records and states.

mod history;
mod model;
mod oracle;
mod world;
