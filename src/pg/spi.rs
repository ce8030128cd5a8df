//! SQL from inside: as the extension's owner under a fixed `search_path`, or as the caller.

use std::cell::RefCell;
use std::ffi::{CStr, CString};
use std::rc::Rc;

use pgrx::pg_sys::{self, Datum, Oid};

use super::{datum, inval};
use crate::error::{Error, Result, state};

/// A parameter: its type and value.
#[derive(Clone, Copy)]
pub struct Param {
    oid: Oid,
    datum: Option<Datum>,
}

impl Param {
    /// A bigint.
    pub fn i64(v: i64) -> Param {
        Param { oid: pg_sys::INT8OID, datum: Some(Datum::from(v)) }
    }

    /// A bigint or NULL.
    pub fn opt_i64(v: Option<i64>) -> Param {
        Param { oid: pg_sys::INT8OID, datum: v.map(Datum::from) }
    }

    /// An OID as regclass.
    pub fn regclass(v: Oid) -> Param {
        Param { oid: pg_sys::REGCLASSOID, datum: Some(Datum::from(v)) }
    }

    /// A text.
    pub fn text(v: &str) -> Param {
        Param { oid: pg_sys::TEXTOID, datum: Some(datum::text_datum(v)) }
    }

    /// A bytea.
    pub fn bytes(v: &[u8]) -> Param {
        Param { oid: pg_sys::BYTEAOID, datum: Some(datum::bytes_datum(v)) }
    }

    /// A text or NULL.
    pub fn opt_text(v: Option<&str>) -> Param {
        Param { oid: pg_sys::TEXTOID, datum: v.map(datum::text_datum) }
    }

    /// An array of `elem` (one of the built-in types that have a fixed array type here).
    pub(super) fn array(array_type: Oid, datum: Datum) -> Param {
        Param { oid: array_type, datum: Some(datum) }
    }

    /// A bigint[].
    pub fn i64s(values: &[i64]) -> Param {
        datum::i64_array(values)
    }

    /// A text[].
    pub fn texts<'a>(values: impl ExactSizeIterator<Item = Option<&'a str>>) -> Param {
        datum::text_array(values)
    }
}

/// The rows of a query. Values are read by column number from 1.
pub struct Rows {
    table: *mut pg_sys::SPITupleTable,
    count: u64,
    /// Rows written or read.
    pub processed: u64,
}

impl Rows {
    /// How many rows there are to read.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// None.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    fn datum(&self, row: usize, col: i32) -> Option<Datum> {
        assert!(row < self.len());
        // SAFETY: the row is inside the result, which lives until `connect` ends.
        unsafe {
            let tuple = *(*self.table).vals.add(row);
            let mut null = false;
            let datum = pg_sys::SPI_getbinval(tuple, (*self.table).tupdesc, col, &mut null);
            (!null).then_some(datum)
        }
    }

    /// A bigint, or an xid8.
    pub fn i64(&self, row: usize, col: i32) -> Option<i64> {
        self.datum(row, col).map(|d| d.value() as i64)
    }

    /// An OID or regclass.
    pub fn oid(&self, row: usize, col: i32) -> Option<Oid> {
        self.datum(row, col).map(|d| Oid::from(d.value() as u32))
    }

    /// A text or bytea, detoasted.
    pub fn bytes(&self, row: usize, col: i32) -> Option<Vec<u8>> {
        self.datum(row, col).map(datum::varlena_bytes)
    }

    /// A text.
    pub fn text(&self, row: usize, col: i32) -> Option<String> {
        self.bytes(row, col).map(|b| String::from_utf8_lossy(&b).into_owned())
    }

    /// A name.
    pub fn name(&self, row: usize, col: i32) -> Option<String> {
        // SAFETY: a name is NUL-terminated.
        self.datum(row, col).map(|d| unsafe { CStr::from_ptr(d.cast_mut_ptr()) }.to_string_lossy().into_owned())
    }

    /// The value in the form it travels in, appended as `scratch` where it has no form of its own.
    pub(crate) fn raw(&self, row: usize, col: i32) -> Option<Datum> {
        self.datum(row, col)
    }
}

/// A connection to SPI; everything read lives as long.
pub struct Connection(());

/// Runs `body` with a connection.
pub fn connect<R>(body: impl FnOnce(&Connection) -> Result<R>) -> Result<R> {
    // SAFETY: finished below; an error on its way is cleaned up by the (sub)transaction's end.
    unsafe {
        if pg_sys::SPI_connect() != pg_sys::SPI_OK_CONNECT as i32 {
            return Err(Error::new(state::INTERNAL, "SPI_connect failed"));
        }
        let result = body(&Connection(()));
        pg_sys::SPI_finish();
        result
    }
}

/// Rows fetched at a time through a cursor.
const FETCH: i64 = 1000;

impl Connection {
    /// Calls `each` with every row of a query under a snapshot that sees our writes (in REPEATABLE READ the
    /// transaction's), fetching some at a time.
    pub fn each(&self, sql: &str, params: &[Param], each: impl FnMut(&Rows, usize) -> Result<()>) -> Result<()> {
        self.fetch(sql, params, false, each)
    }

    /// The same under the active snapshot, whatever the isolation level.
    pub fn each_now(&self, sql: &str, params: &[Param], each: impl FnMut(&Rows, usize) -> Result<()>) -> Result<()> {
        self.fetch(sql, params, true, each)
    }

    fn fetch(
        &self,
        sql: &str,
        params: &[Param],
        read_only: bool,
        mut each: impl FnMut(&Rows, usize) -> Result<()>,
    ) -> Result<()> {
        let mut call = Call::new(sql, params)?;
        // SAFETY: as in `run`; the portal is closed below or by the transaction's end.
        unsafe {
            let portal = pg_sys::SPI_cursor_open_with_args(
                std::ptr::null(),
                call.text.as_ptr(),
                call.count(),
                call.types.as_mut_ptr(),
                call.values.as_mut_ptr(),
                call.nulls.as_ptr(),
                read_only,
                0,
            );
            loop {
                pg_sys::SPI_cursor_fetch(portal, true, FETCH);
                let table = pg_sys::SPI_tuptable;
                let rows = Rows { table, count: pg_sys::SPI_processed, processed: 0 };
                for i in 0..rows.len() {
                    each(&rows, i)?;
                }
                pg_sys::SPI_freetuptable(table);
                super::entry::check_interrupts();
                if rows.is_empty() {
                    break;
                }
            }
            pg_sys::SPI_cursor_close(portal);
        }
        Ok(())
    }

    /// Runs an UPDATE that may write columns GENERATED ALWAYS AS IDENTITY, as an INSERT may with OVERRIDING SYSTEM VALUE:
    /// while it is analysed, the relation's cached descriptor calls them BY DEFAULT.
    pub fn run_over_identity(&self, relid: Oid, sql: &str, params: &[Param]) -> Result<Rows> {
        let mut call = Call::new(sql, params)?;
        let plan = super::types::identity_by_default(relid, || {
            // SAFETY: as in `run`. Analysis runs no code of the application.
            unsafe { pg_sys::SPI_prepare(call.text.as_ptr(), call.count(), call.types.as_mut_ptr()) }
        });
        if plan.is_null() {
            return Err(Error::new(state::INTERNAL, format!("SPI could not prepare: {sql}")));
        }
        // SAFETY: the plan takes these parameters.
        unsafe {
            let code = pg_sys::SPI_execute_plan(plan, call.values.as_mut_ptr(), call.nulls.as_ptr(), false, 0);
            if code < 0 {
                return Err(Error::new(state::INTERNAL, format!("SPI failed with {code} in: {sql}")));
            }
            Ok(Rows { table: std::ptr::null_mut(), count: 0, processed: pg_sys::SPI_processed })
        }
    }

    /// Runs one statement. `read_only`: under the active snapshot; otherwise under one of now that sees our writes, also in
    /// REPEATABLE READ: what is tracked, and where partitions and triggers are, must not be taken from an old one.
    pub fn run(&self, sql: &str, params: &[Param], read_only: bool) -> Result<Rows> {
        let mut call = Call::new(sql, params)?;
        // SAFETY: arrays are as long as `nargs`; the statement is NUL-terminated.
        unsafe {
            let code = if !read_only && super::xact::repeatable_read() {
                let plan = pg_sys::SPI_prepare(call.text.as_ptr(), call.count(), call.types.as_mut_ptr());
                let (values, nulls) = (call.values.as_mut_ptr(), call.nulls.as_ptr());
                let (now, none) = (pg_sys::GetLatestSnapshot(), std::ptr::null_mut());
                match plan.is_null() {
                    true => pg_sys::SPI_result,
                    false => pg_sys::SPI_execute_snapshot(plan, values, nulls, now, none, false, true, 0),
                }
            } else {
                pg_sys::SPI_execute_with_args(
                    call.text.as_ptr(),
                    call.count(),
                    call.types.as_mut_ptr(),
                    call.values.as_mut_ptr(),
                    call.nulls.as_ptr(),
                    read_only,
                    0,
                )
            };
            if code < 0 {
                return Err(Error::new(state::INTERNAL, format!("SPI failed with {code} in: {sql}")));
            }
            let table = pg_sys::SPI_tuptable;
            let processed = pg_sys::SPI_processed;
            Ok(Rows { table, count: if table.is_null() { 0 } else { (*table).numvals }, processed })
        }
    }
}

/// A statement and its parameters as SPI takes them: arrays of the same length.
struct Call {
    text: CString,
    types: Vec<Oid>,
    values: Vec<Datum>,
    nulls: Vec<std::ffi::c_char>,
}

impl Call {
    fn new(sql: &str, params: &[Param]) -> Result<Call> {
        let null = |p: &Param| if p.datum.is_none() { b'n' } else { b' ' };
        Ok(Call {
            text: CString::new(sql).map_err(|_| Error::new(state::INTERNAL, "NUL in a statement"))?,
            types: params.iter().map(|p| p.oid).collect(),
            values: params.iter().map(|p| p.datum.unwrap_or(Datum::from(0usize))).collect(),
            nulls: params.iter().map(|p| null(p) as std::ffi::c_char).collect(),
        })
    }

    fn count(&self) -> i32 {
        self.types.len() as i32
    }
}

/// Runs statements with the rights of `owner` and a `search_path` of `pg_catalog`, whoever called; put back at the end,
/// also when an error leaves.
pub fn as_role<R>(owner: Oid, body: impl FnOnce() -> R) -> R {
    struct Restore {
        user: Oid,
        context: i32,
        nest: i32,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            // SAFETY: what `as_role` read. On error the transaction's end restores settings, so only the user is put
            // back then.
            unsafe {
                if !std::thread::panicking() {
                    pg_sys::AtEOXact_GUC(true, self.nest);
                }
                pg_sys::SetUserIdAndSecContext(self.user, self.context);
            }
        }
    }
    // SAFETY: as security definer functions do.
    unsafe {
        let (mut user, mut context) = (pg_sys::InvalidOid, 0);
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        let nest = pg_sys::NewGUCNestLevel();
        let restore = Restore { user, context, nest };
        pg_sys::SetUserIdAndSecContext(owner, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        set_local(c"search_path", c"pg_catalog, pg_temp");
        set_local(c"row_security", c"off");
        let result = body();
        drop(restore);
        result
    }
}

/// Runs `body` under a `search_path` of `pg_catalog`.
pub(super) fn with_fixed_path<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: as above; on error the transaction's end restores the setting.
    unsafe {
        let nest = pg_sys::NewGUCNestLevel();
        set_local(c"search_path", c"pg_catalog, pg_temp");
        let result = body();
        pg_sys::AtEOXact_GUC(true, nest);
        result
    }
}

/// Runs `body` under the settings that input functions of values need.
pub fn with_input_settings<R>(body: impl FnOnce() -> R) -> R {
    // SAFETY: as above.
    unsafe {
        let nest = pg_sys::NewGUCNestLevel();
        set_local(c"array_nulls", c"on");
        set_local(c"xmloption", c"content");
        let result = body();
        pg_sys::AtEOXact_GUC(true, nest);
        result
    }
}

unsafe fn set_local(name: &CStr, value: &CStr) {
    // SAFETY: inside a nest level, so it ends with it.
    unsafe {
        pg_sys::set_config_option(
            name.as_ptr(),
            value.as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
            pg_sys::GucAction::GUC_ACTION_SAVE,
            true,
            0,
            false,
        );
    }
}

thread_local! {
    /// The user whose name was asked for last, how many changes of roles had been seen by then, and the name.
    static USER: RefCell<Option<(Oid, u64, Rc<str>)>> = const { RefCell::new(None) };
}

/// The current user's name.
pub fn current_user_name() -> Rc<str> {
    // SAFETY: plain reads.
    let user = unsafe { pg_sys::GetUserId() };
    let changes = inval::role_changes();
    let known = USER.with_borrow(|known| match known {
        Some((of, at, name)) if (*of, *at) == (user, changes) => Some(name.clone()),
        _ => None,
    });
    known.unwrap_or_else(|| {
        // SAFETY: the user exists.
        let name = unsafe { CStr::from_ptr(pg_sys::GetUserNameFromId(user, false)) };
        let name: Rc<str> = name.to_string_lossy().into();
        USER.set(Some((user, changes, name.clone())));
        name
    })
}

/// May the current user act as `role`?
pub fn is_member_of(role: &str) -> bool {
    let Ok(name) = CString::new(role) else { return false };
    // SAFETY: look-ups by name and OID.
    unsafe {
        let oid = pg_sys::get_role_oid(name.as_ptr(), true);
        oid != pg_sys::InvalidOid && pg_sys::has_privs_of_role(pg_sys::GetUserId(), oid)
    }
}

/// Does the current user own the relation, directly or as a member?
pub fn owns_relation(relid: Oid) -> bool {
    #[cfg(not(any(feature = "pg16", feature = "pg17", feature = "pg18")))]
    // SAFETY: a look-up by OID.
    unsafe {
        pg_sys::pg_class_ownercheck(relid, pg_sys::GetUserId())
    }
    #[cfg(any(feature = "pg16", feature = "pg17", feature = "pg18"))]
    // SAFETY: a look-up by OID.
    unsafe {
        pg_sys::object_ownercheck(pg_sys::RelationRelationId, relid, pg_sys::GetUserId())
    }
}

/// May the current user read all of the relation: as its owner, or by a grant and past row security?
pub fn reads_relation(relid: Oid) -> bool {
    if owns_relation(relid) {
        return true;
    }
    // SAFETY: look-ups by OID.
    unsafe {
        let granted = pg_sys::pg_class_aclcheck(relid, pg_sys::GetUserId(), pg_sys::ACL_SELECT as pg_sys::AclMode);
        let security = pg_sys::check_enable_rls(relid, pg_sys::InvalidOid, true);
        granted == pg_sys::AclResult::ACLCHECK_OK && security != pg_sys::CheckEnableRlsResult::RLS_ENABLED as i32
    }
}
