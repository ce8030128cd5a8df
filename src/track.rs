//! Which tables are tracked.

/// The peer of docs made at need.
pub const DEFAULT_PEER: &str = "hub";
