//! The functions that SQL sees, one line each. Their SQL declarations are in `sql/crdt_db.sql`.
//!
//! A symbol that a released version declared is never removed: the library must serve a catalog that has not been
//! upgraded yet.

use crate::pg::function::function;

function!(preloaded_wrapper, pg_finfo_preloaded_wrapper, crate::track::preloaded);
function!(capture_wrapper, pg_finfo_capture_wrapper, crate::capture::trigger_function);
function!(create_doc_wrapper, pg_finfo_create_doc_wrapper, crate::track::create_doc);
function!(doc_wrapper, pg_finfo_doc_wrapper, crate::track::doc);
function!(track_wrapper, pg_finfo_track_wrapper, crate::track::track);
function!(untrack_wrapper, pg_finfo_untrack_wrapper, crate::track::untrack);
