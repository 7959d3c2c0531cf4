//! Whole-system tests: the program as people run it.

mod demo;
