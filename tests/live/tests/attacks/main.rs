//! Attacks that broke earlier designs, and that need crashes, restarts, several servers, limits or many sessions.
//!
//! | module | attacks |
//! |---|---|
//! | [`sessions`] | locks, cancels, crashes, prepared transactions, serializable transactions |
//! | [`interleavings`] | every order of the steps of two and three sessions |
//! | [`late_writes`] | writes of another extension at the end of a transaction |
//! | [`pushes`] | clocks that are pushed ahead, rolled back or honest |
//! | [`reading`] | pulls where pages of the write-ahead log end |
//! | [`resources`] | memory, disk, values that are not to be read |
//! | [`copies`] | dumps, copied files, standbys, point-in-time recovery |
//! | [`random_sql`] | random statements on random tables: foreign keys, partitions, triggers |
//! | [`lifecycle`] | the extension and its database come, go and change names |

mod copies;
mod interleavings;
mod late_writes;
mod lifecycle;
mod pushes;
mod random_sql;
mod reading;
mod resources;
mod sessions;
