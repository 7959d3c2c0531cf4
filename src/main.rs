//! The `interdict` command line.
fn main() {}
