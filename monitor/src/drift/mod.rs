//! Drift of features and score against the bundle's reference sample.
//!
//! Records fill a window ([`window`]); a full window is one batch, compared with the reference by two tests per
//! feature: PSI over fixed bins ([`psi`]) and two-sample Kolmogorov-Smirnov ([`ks`]). [`verdict`] turns the tests of a
//! batch into drifted features within a stated false-alarm budget, and [`detector`] fires after several such batches.
//!
//! Invariants:
//! - Every statistic is finite for every input, null, constant and empty columns included.
//! - A verdict depends on the multiset of values alone: order of arrival and merging of windows change nothing.

pub mod detector;
pub mod ks;
pub mod psi;
pub mod reference;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;
pub mod verdict;
pub mod window;
