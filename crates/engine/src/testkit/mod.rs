//! What tests of this crate, of the extension and fuzzers share: seeded randomness, generators, schedules.

pub mod rng;

pub use rng::Rng;
