//! crdt_db: ordinary PostgreSQL tables, made mergeable.
//!
//! Data goes one way. Remote: bytes → wire → graph and oplog → merge → row patches → rows ([`push`], [`apply`]).
//! Local: trigger → [`capture`] → [`flush`] → [`store`]. The engine (`crates/engine`) decides, this crate acts.
//!
//! | module | does |
//! |---|---|
//! | [`pg`] | everything unsafe: PostgreSQL's memory, in and out |
//! | [`error`] | errors with their SQLSTATEs |
//! | [`functions`] | the functions that SQL sees |
//! | [`catalog`] | docs, peers, tracked tables |
//! | [`docstate`] | what sessions share in memory |
//! | [`track`] and [`ddl`] | docs and tracked tables; partitions that come and go |
//! | [`capture`] | plain SQL into operations |
//! | [`flush`] | operations into the log at commit |
//! | [`store`] | the log |
//! | [`keys`], [`key_page`] and [`key_search`] | which runs touch which rows |
//! | [`push`] and [`seen`] | events from outside; requests that were accepted before |
//! | [`ingest`] | a batch into a doc, all or nothing |
//! | [`materialize`] | what a batch does to rows |
//! | [`competition`] | what the log has on them, as far as it matters |
//! | [`apply`] and [`generic`] | row patches into rows, of tables and of docs |
//! | [`derive`] | what tables made of them, as events |
//! | [`committed`] and [`pager`] | the log as others may see it |
//! | [`pull`] and [`sync`] | what a replica does not have; how versions stand to each other |
//! | [`settings`] | `crdt_db.*` |
//! | [`registers`] | ephemeral registers in shared memory |
//! | [`ephemeral`] | the functions that set and read them |
//! | [`broadcast`] | who listens, and what there is to tell |
//! | [`notifier`] | the background worker that tells |
//! | [`history`], [`verify`] and [`repair`] | what happened to a row; where table and log disagree |
//! | [`buckets`] | operations by row, more of them than memory holds |
#![deny(unsafe_code)]

#[cfg(not(panic = "unwind"))]
compile_error!("a panic must unwind: anything else takes the server down");

mod apply;
mod broadcast;
mod buckets;
mod buffer;
mod capture;
mod catalog;
mod committed;
mod competition;
mod ddl;
mod derive;
mod docstate;
mod ephemeral;
mod error;
mod flush;
mod functions;
mod generic;
mod history;
mod ingest;
mod key_merge;
mod key_page;
mod key_search;
mod keys;
mod materialize;
mod notifier;
mod pager;
mod pg;
mod progress;
mod pull;
mod push;
mod registers;
mod repair;
mod rows;
mod seen;
mod settings;
mod spans;
mod store;
mod sync;
mod tail;
mod touched;
mod track;
mod verify;

::pgrx::pg_module_magic!();
::pgrx::extension_sql_file!("../sql/crdt_db.sql", name = "crdt_db");

/// What the server calls when it loads the library.
#[pgrx::pg_guard]
pub extern "C-unwind" fn _PG_init() {
    pg::entry::init();
    pg::executor::init();
    let preloading = pg::shmem::preloading();
    settings::init(preloading);
    if preloading {
        pg::shmem::init(
            || {
                docstate::request();
                registers::request();
                broadcast::request();
                progress::request();
            },
            || {
                docstate::startup();
                registers::startup();
                broadcast::startup();
                progress::startup();
            },
        );
    }
    pg::utility::init(pg::utility::Callbacks {
        before: broadcast::before_statement,
        after: broadcast::after_statement,
    });
    pg::worker::init(pg::worker::Main {
        begin: broadcast::worker_begins,
        run: notifier::run,
        end: broadcast::worker_ended,
    });
    pg::inval::init();
    pg::xact::init(pg::xact::Callbacks {
        before_commit: flush::before_commit,
        ended: flush::ended,
        sub_aborted: flush::sub_aborted,
        sub_committed: flush::sub_committed,
    });
}
