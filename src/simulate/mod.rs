//! `interdict simulate`: seeded transactions with known frauds, in every format the sources read.

pub(crate) mod generator;
