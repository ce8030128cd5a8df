//! What tests of this crate, of the extension and fuzzers share: seeded randomness, and the convergence suite.
//!
//! | file | holds |
//! |---|---|
//! | `rng.rs` | [`Rng`] |
//! | `backend.rs` | [`Backend`]: what the suite needs of a replica or hub; the engine's own |
//! | `world.rs` | [`World`]: replicas, the network between them, one random schedule |
//! | `oracle.rs` | what must be shown, from a log alone |
//! | `faults.rs` | crashes, restored backups and a hostile author |
//! | `transport.rs` | what a network does to a batch |
//! | `corrupt.rs` | what a hostile author does to one |
//! | `ledger.rs` | [`Ledger`]: what was acknowledged, and whether it is still there |
//! | `fuzz.rs` | what a fuzzer feeds with bytes |
//! | `exhaustive.rs` | a model so small that every order can be tried |
//! | `suite.rs` | many schedules on many threads |

pub mod fuzz;
pub mod oracle;
pub mod rng;

mod backend;
mod corrupt;
mod exhaustive;

mod faults;
mod ledger;
mod suite;
mod transport;
mod world;

pub use backend::{Backend, Receipt, Refusal, Will, Write, memory};
pub use corrupt::corrupt;
pub use exhaustive::{Model, Tried};

pub use ledger::Ledger;
pub use rng::{Rng, seeds};
pub use suite::{Report, check_all, run_one};
pub use world::{Stats, World};
