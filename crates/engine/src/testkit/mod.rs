//! What tests of this crate, of the extension and fuzzers share: seeded randomness, and the convergence suite.
//!
//! | file | holds |
//! |---|---|
//! | `rng.rs` | [`Rng`] |
//! | `backend.rs` | [`Backend`]: what the suite needs of a replica or hub; the engine's own |
//! | `world.rs` | [`World`]: replicas, the network between them, one random schedule |
//! | `oracle.rs` | what must be shown, from a log alone |
//! | `transport.rs` | what a network does to a batch |
//! | `suite.rs` | many schedules on many threads |

pub mod oracle;
pub mod rng;

mod backend;
mod suite;
mod transport;
mod world;

pub use backend::{Backend, Receipt, Refusal, Will, Write, memory};
pub use rng::Rng;
pub use suite::{Report, check_all, run_one};
pub use world::{Stats, World};
