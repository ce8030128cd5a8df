//! Statements that concern the extension though they name none of its objects: LISTEN, COMMIT PREPARED, settings of databases
//! and roles, and those that want nobody connected to a database.

use std::ffi::CStr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::OnceLock;

use pgrx::pg_sys;
use pgrx::pg_sys::ffi::pg_guard_ffi_boundary;
use pgrx::prelude::*;

use super::{entry, executor};
use crate::error::Result;

/// Such a statement.
pub enum Statement<'a> {
    /// `LISTEN channel`
    Listen(&'a str),
    /// `COMMIT PREPARED`
    CommitPrepared,
    /// A database that nobody else may be connected to meanwhile. It is gone afterwards if the flag says so.
    Alone(u32, bool),
    /// A setting, or all of them, is changed for a database, or for a role in one or in all.
    AlterSetting(Option<&'a str>, Option<u32>),
}

/// What is done about them.
pub struct Callbacks {
    /// Before the statement runs.
    pub before: fn(&Statement<'_>) -> Result<()>,
    /// After it, whether it succeeded.
    pub after: fn(&Statement<'_>, bool),
}

static CALLBACKS: OnceLock<Callbacks> = OnceLock::new();
static mut NEXT: pg_sys::ProcessUtility_hook_type = None;

/// Hooks in, once, from `_PG_init`.
pub fn init(callbacks: Callbacks) {
    if CALLBACKS.set(callbacks).is_ok() {
        // SAFETY: the library is loaded by a process with one thread.
        unsafe {
            NEXT = pg_sys::ProcessUtility_hook;
            pg_sys::ProcessUtility_hook = Some(process);
        }
    }
}

/// The arguments that hooks pass on.
#[derive(Clone, Copy)]
#[repr(C)]
struct Call {
    stmt: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    #[cfg(not(feature = "pg13"))]
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
}

mod raw {
    use pgrx::pg_sys;
    unsafe extern "C-unwind" {
        // Declared here and not taken from pgrx: errors of ordinary statements are to pass through whole.
        pub fn standard_ProcessUtility(
            stmt: *mut pg_sys::PlannedStmt,
            query: *const std::ffi::c_char,
            #[cfg(not(feature = "pg13"))] read_only_tree: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            params: pg_sys::ParamListInfo,
            env: *mut pg_sys::QueryEnvironment,
            dest: *mut pg_sys::DestReceiver,
            qc: *mut pg_sys::QueryCompletion,
        );
    }
}

impl Call {
    /// # Safety
    /// The arguments are what PostgreSQL handed over.
    unsafe fn pass_on(self) {
        // SAFETY: the caller's promise.
        unsafe {
            let next = NEXT.unwrap_or(raw::standard_ProcessUtility);
            next(
                self.stmt,
                self.query,
                #[cfg(not(feature = "pg13"))]
                self.read_only_tree,
                self.context,
                self.params,
                self.env,
                self.dest,
                self.qc,
            );
        }
    }
}

unsafe extern "C-unwind" fn process(
    stmt: *mut pg_sys::PlannedStmt,
    query: *const std::ffi::c_char,
    #[cfg(not(feature = "pg13"))] read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    params: pg_sys::ParamListInfo,
    env: *mut pg_sys::QueryEnvironment,
    dest: *mut pg_sys::DestReceiver,
    qc: *mut pg_sys::QueryCompletion,
) {
    let call = Call {
        stmt,
        query,
        #[cfg(not(feature = "pg13"))]
        read_only_tree,
        context,
        params,
        env,
        dest,
        qc,
    };
    // SAFETY: PostgreSQL's own arguments. On the common path nothing on this frame needs dropping when an error passes.
    unsafe {
        let node = (*stmt).utilityStmt;
        if concerns_us(node) {
            watched(call)
        } else if writes_rows(node) {
            executor::utility(|| call.pass_on())
        } else {
            call.pass_on()
        }
    }
}

/// # Safety
/// `node` is a statement.
unsafe fn writes_rows(node: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the caller's promise: a node is what its tag says.
    unsafe {
        match (*node).type_ {
            T_CopyStmt => (*node.cast::<pg_sys::CopyStmt>()).is_from,
            T_TruncateStmt => true,
            _ => false,
        }
    }
}

/// # Safety
/// `node` is a statement.
unsafe fn concerns_us(node: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the caller's promise: a node is what its tag says.
    unsafe {
        match (*node).type_ {
            T_ListenStmt | T_DropdbStmt | T_CreatedbStmt | T_AlterDatabaseStmt => true,
            T_AlterDatabaseSetStmt | T_AlterRoleSetStmt => true,
            T_RenameStmt => (*node.cast::<pg_sys::RenameStmt>()).renameType == pg_sys::ObjectType::OBJECT_DATABASE,
            T_TransactionStmt => {
                let kind = (*node.cast::<pg_sys::TransactionStmt>()).kind;
                kind == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
            }
            _ => false,
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn watched(call: Call) {
    let body = || {
        // SAFETY: the statement is what its tag says, and lives until it was run.
        let statement = unsafe { statement_of((*call.stmt).utilityStmt) };
        if let (Some(statement), Some(callbacks)) = (&statement, CALLBACKS.get()) {
            (callbacks.before)(statement)?;
        }
        // SAFETY: PostgreSQL's arguments; an error becomes a panic, so that `after` hears of it.
        let run = || unsafe { pg_guard_ffi_boundary(|| call.pass_on()) };
        let result = catch_unwind(AssertUnwindSafe(run));
        if let (Some(statement), Some(callbacks)) = (&statement, CALLBACKS.get()) {
            (callbacks.after)(statement, result.is_ok());
        }
        result.unwrap_or_else(|panic| resume_unwind(panic));
        Ok(())
    };
    entry::entry(body);
}

/// # Safety
/// `node` is a statement that concerns us.
unsafe fn statement_of<'a>(node: *mut pg_sys::Node) -> Option<Statement<'a>> {
    use pg_sys::NodeTag::*;
    // SAFETY: the caller's promise: a node is what its tag says.
    unsafe {
        match (*node).type_ {
            T_ListenStmt => {
                let name = CStr::from_ptr((*node.cast::<pg_sys::ListenStmt>()).conditionname);
                name.to_str().ok().map(Statement::Listen)
            }
            T_TransactionStmt => Some(Statement::CommitPrepared),
            T_AlterDatabaseSetStmt => {
                let alter = &*node.cast::<pg_sys::AlterDatabaseSetStmt>();
                alter_setting(alter.setstmt, alter.dbname)
            }
            T_AlterRoleSetStmt => {
                let alter = &*node.cast::<pg_sys::AlterRoleSetStmt>();
                alter_setting(alter.setstmt, alter.database)
            }
            T_DropdbStmt => database((*node.cast::<pg_sys::DropdbStmt>()).dbname, true),
            T_RenameStmt => database((*node.cast::<pg_sys::RenameStmt>()).subname, false),
            T_CreatedbStmt => {
                let template = option(c"template", (*node.cast::<pg_sys::CreatedbStmt>()).options);
                database(template.unwrap_or(c"template1".as_ptr().cast_mut()), false)
            }
            T_AlterDatabaseStmt => {
                let alter = &*node.cast::<pg_sys::AlterDatabaseStmt>();
                option(c"tablespace", alter.options).and_then(|_| database(alter.dbname, false))
            }
            _ => None,
        }
    }
}

/// # Safety
/// `name` is a NUL-terminated string; inside a transaction.
unsafe fn database<'a>(name: *const std::ffi::c_char, goes: bool) -> Option<Statement<'a>> {
    // SAFETY: the caller's promise.
    unsafe { database_oid(name) }.map(|oid| Statement::Alone(oid, goes))
}

/// # Safety
/// As for [`database`].
unsafe fn database_oid(name: *const std::ffi::c_char) -> Option<u32> {
    // SAFETY: the caller's promise.
    let oid = unsafe { pg_sys::get_database_oid(name, true) };
    (oid != pg_sys::InvalidOid).then(|| oid.to_u32())
}

/// # Safety
/// `set` is a statement, `db` a NUL-terminated string or null; inside a transaction.
unsafe fn alter_setting<'a>(set: *const pg_sys::VariableSetStmt, db: *const std::ffi::c_char) -> Option<Statement<'a>> {
    // SAFETY: the caller's promise; RESET ALL has no name.
    unsafe {
        let name = (*set).name;
        let name = if name.is_null() { None } else { Some(CStr::from_ptr(name).to_str().ok()?) };
        let db = if db.is_null() { None } else { Some(database_oid(db)?) };
        Some(Statement::AlterSetting(name, db))
    }
}

/// The text of an option of a statement.
///
/// # Safety
/// `options` is a list of DefElem.
unsafe fn option(name: &CStr, options: *mut pg_sys::List) -> Option<*mut std::ffi::c_char> {
    // SAFETY: the caller's promise; defGetString raises an error for what has no text.
    unsafe {
        let count = if options.is_null() { 0 } else { (*options).length };
        (0..count).find_map(|i| {
            let option = (*(*options).elements.add(i as usize)).ptr_value.cast::<pg_sys::DefElem>();
            (CStr::from_ptr((*option).defname) == name).then(|| pg_sys::defGetString(option))
        })
    }
}
