//! Acts in a real PostgreSQL that the tests start themselves.

mod acts;
mod faults;
mod model;
mod order;
mod proxy;
mod refusals;
mod rig;
mod server;
mod start;
