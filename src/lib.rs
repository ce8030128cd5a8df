//! crdt_db: mergeable tables for PostgreSQL.
::pgrx::pg_module_magic!();
