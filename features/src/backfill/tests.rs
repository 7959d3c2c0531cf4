//! Tests of the columnar evaluation against the engine.
