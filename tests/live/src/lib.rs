//! What the tests in `tests/` stand on: scratch clusters, sessions that run beside each other, and the server's log.
//!
//! | module | holds |
//! |---|---|
//! | [`cluster`] | a PostgreSQL server of one's own: start, restart, crash, read its log |
//! | [`session`] | a connection on a thread of its own, so that a test can wait until it is blocked |
//! | [`listener`] | a connection that listens, and what it knows from what it heard |
//! | [`resource`] | limits of one server process, as the operating system sets them |
//! | [`expect`] | errors by SQLSTATE, rows as text |
//! | [`log`] | whether the log is in order
//! | [`sample`] | a small tracked table and requests for it |
//! | [`hub`] | a database as a replica of the engine's convergence suite |
//!
//! The clusters are those of `scripts/cluster`, on the private server tree that `scripts/build` makes. Without it every
//! test fails and says so: nothing is skipped.
#![forbid(unsafe_code)]
#![deny(missing_docs)]

pub mod cluster;
pub mod expect;
pub mod hub;
pub mod listener;
pub mod log;
pub mod resource;
pub mod sample;
pub mod session;

pub use cluster::Cluster;
pub use session::{Pending, Session};
