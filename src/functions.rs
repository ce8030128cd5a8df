//! The functions that SQL sees, one line each. Their SQL declarations are in `sql/crdt_db.sql`.
//!
//! A symbol that a released version declared is never removed: the library must serve a catalog that has not been
//! upgraded yet.

use crate::pg::function::function;

function!(preloaded_wrapper, pg_finfo_preloaded_wrapper, crate::track::preloaded);
function!(capture_wrapper, pg_finfo_capture_wrapper, crate::capture::trigger_function);
function!(create_doc_wrapper, pg_finfo_create_doc_wrapper, crate::track::create_doc);
function!(doc_wrapper, pg_finfo_doc_wrapper, crate::track::doc);
function!(push_wrapper, pg_finfo_push_wrapper, crate::push::push);
function!(push_binary_wrapper, pg_finfo_push_binary_wrapper, crate::push::push_binary);
function!(doc_insert_wrapper, pg_finfo_doc_insert_wrapper, crate::push::doc_insert);
function!(doc_update_wrapper, pg_finfo_doc_update_wrapper, crate::push::doc_update);
function!(doc_delete_wrapper, pg_finfo_doc_delete_wrapper, crate::push::doc_delete);
function!(doc_merge_remote_wrapper, pg_finfo_doc_merge_remote_wrapper, crate::push::doc_merge_remote);
function!(rows_wrapper, pg_finfo_rows_wrapper, crate::generic::rows);
function!(on_ddl_wrapper, pg_finfo_on_ddl_wrapper, crate::ddl::on_ddl);
function!(track_wrapper, pg_finfo_track_wrapper, crate::track::track);
function!(untrack_wrapper, pg_finfo_untrack_wrapper, crate::track::untrack);

function!(pull_wrapper, pg_finfo_pull_wrapper, crate::pull::pull);
function!(pull_binary_wrapper, pg_finfo_pull_binary_wrapper, crate::pull::pull_binary);
function!(doc_get_pending_wrapper, pg_finfo_doc_get_pending_wrapper, crate::pull::doc_get_pending);
function!(frontier_wrapper, pg_finfo_frontier_wrapper, crate::sync::frontier);
function!(version_wrapper, pg_finfo_version_wrapper, crate::sync::version);
function!(doc_sync_state_wrapper, pg_finfo_doc_sync_state_wrapper, crate::sync::doc_sync_state);
function!(lca_wrapper, pg_finfo_lca_wrapper, crate::sync::lca);
function!(compare_wrapper, pg_finfo_compare_wrapper, crate::sync::compare);
function!(events_since_wrapper, pg_finfo_events_since_wrapper, crate::sync::events_since);
function!(history_wrapper, pg_finfo_history_wrapper, crate::history::history);
function!(verify_wrapper, pg_finfo_verify_wrapper, crate::verify::verify);
function!(repair_wrapper, pg_finfo_repair_wrapper, crate::repair::repair);
function!(progress_entries_wrapper, pg_finfo_progress_entries_wrapper, crate::progress::entries);
function!(run_deps_wrapper, pg_finfo_run_deps_wrapper, crate::history::run_deps);
function!(run_ops_wrapper, pg_finfo_run_ops_wrapper, crate::history::run_ops);

function!(ephemeral_set_wrapper, pg_finfo_ephemeral_set_wrapper, crate::ephemeral::set);
function!(ephemeral_get_wrapper, pg_finfo_ephemeral_get_wrapper, crate::ephemeral::get);
function!(ephemeral_get_all_wrapper, pg_finfo_ephemeral_get_all_wrapper, crate::ephemeral::get_all);
function!(ephemeral_merge_wrapper, pg_finfo_ephemeral_merge_wrapper, crate::ephemeral::merge);
function!(ephemeral_remove_wrapper, pg_finfo_ephemeral_remove_wrapper, crate::ephemeral::remove);
function!(ephemeral_since_wrapper, pg_finfo_ephemeral_since_wrapper, crate::ephemeral::since);
function!(ephemeral_clear_wrapper, pg_finfo_ephemeral_clear_wrapper, crate::ephemeral::clear);
function!(ephemeral_entries_wrapper, pg_finfo_ephemeral_entries_wrapper, crate::ephemeral::entries);
function!(ephemeral_stats_wrapper, pg_finfo_ephemeral_stats_wrapper, crate::ephemeral::stats);
function!(stat_ephemeral_reset_wrapper, pg_finfo_stat_ephemeral_reset_wrapper, crate::ephemeral::reset_stats);
function!(set_notify_payload_wrapper, pg_finfo_set_notify_payload_wrapper, crate::ephemeral::set_notify_payload);
