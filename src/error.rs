//! Errors as people and clients meet them: one SQLSTATE, one message with the numbers or names in it, a hint where one
//! helps. Class `CR` holds the states of this extension; where PostgreSQL has a state for the case, it is used.

use std::borrow::Cow;

/// Five characters of SQLSTATE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SqlState(pub &'static [u8; 5]);

/// The states raised here. `docs/errors.md` lists them for users.
pub mod state {
    use super::SqlState;

    pub const MALFORMED: SqlState = SqlState(b"CR001");
    pub const LIMIT: SqlState = SqlState(b"CR002");
    pub const CLOCK_RANGE: SqlState = SqlState(b"CR003");
    pub const GAP: SqlState = SqlState(b"CR004");
    pub const UNKNOWN_DEP: SqlState = SqlState(b"CR005");
    pub const LAMPORT: SqlState = SqlState(b"CR006");
    pub const PEER_OWNED: SqlState = SqlState(b"CR007");
    pub const EQUIVOCATION: SqlState = SqlState(b"CR008");
    pub const PEER_RESERVED: SqlState = SqlState(b"CR009");
    pub const CYCLE: SqlState = SqlState(b"CR010");
    pub const FORMAT: SqlState = SqlState(b"CR011");
    pub const UNKNOWN_OP: SqlState = SqlState(b"CR012");
    pub const ROOT: SqlState = SqlState(b"CR013");
    pub const CORRUPT: SqlState = SqlState(b"CR014");
    pub const KEY_CHANGED: SqlState = SqlState(b"CR015");
    pub const ROW_BUSY: SqlState = SqlState(b"CR016");
    pub const NOT_TRACKED: SqlState = SqlState(b"CR017");
    pub const NO_KEY: SqlState = SqlState(b"CR018");
    pub const UNTRACKABLE: SqlState = SqlState(b"CR019");
    pub const ALREADY_TRACKED: SqlState = SqlState(b"CR020");
    pub const VALUE: SqlState = SqlState(b"CR021");
    pub const NO_DOC_VALUE: SqlState = SqlState(b"CR022");
    pub const PUSHED_DOCS: SqlState = SqlState(b"CR023");
    pub const TIMESTAMP: SqlState = SqlState(b"CR024");

    pub const UNDEFINED_TABLE: SqlState = SqlState(b"42P01");
    pub const UNDEFINED_OBJECT: SqlState = SqlState(b"42704");
    pub const INVALID_PARAMETER: SqlState = SqlState(b"22023");
    pub const NULL_NOT_ALLOWED: SqlState = SqlState(b"22004");
    pub const NOT_PREREQUISITE: SqlState = SqlState(b"55000");
    pub const ACTIVE_TRANSACTION: SqlState = SqlState(b"25001");
    pub const READ_ONLY: SqlState = SqlState(b"25006");
    pub const PRIVILEGE: SqlState = SqlState(b"42501");
    pub const UNTRANSLATABLE: SqlState = SqlState(b"22P05");
    pub const OUT_OF_MEMORY: SqlState = SqlState(b"53200");
    pub const NOT_SUPPORTED: SqlState = SqlState(b"0A000");
    pub const INTERNAL: SqlState = SqlState(b"XX000");
}

/// One error, ready to be shown.
#[derive(Debug)]
pub struct Error {
    /// Its state.
    pub state: SqlState,
    /// What happened, with names and numbers.
    pub message: String,
    /// More, where it helps.
    pub detail: Option<String>,
    /// What to do.
    pub hint: Option<Cow<'static, str>>,
}

/// The extension's result.
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    /// An error without detail or hint.
    pub fn new(state: SqlState, message: impl Into<String>) -> Self {
        Error { state, message: message.into(), detail: None, hint: None }
    }

    /// Adds a hint.
    pub fn hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds a detail.
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }
}

/// What to do about a request that holds too much.
pub const IN_SEVERAL: &str = "Send it in several requests.";

impl From<crdt_engine::Error> for Error {
    fn from(e: crdt_engine::Error) -> Self {
        use crdt_engine::Error as E;
        let (state, hint) = match &e {
            E::Malformed { .. } => (state::MALFORMED, Some("docs/format.md describes requests, in JSON and binary.")),
            E::DuplicateColumn { .. } => (state::MALFORMED, Some("An insert names each column once.")),
            E::TooLarge { splits, .. } => (state::LIMIT, splits.then_some(IN_SEVERAL)),
            E::OutOfMemory { .. } => (state::OUT_OF_MEMORY, None),
            E::NulCharacter { .. } => (state::UNTRANSLATABLE, Some("PostgreSQL cannot hold \\u0000 in text.")),
            E::UnknownOpType { .. } => {
                let hint = "In JSON this server takes \"insert\", \"update\", \"delete\" and \"skip\", and with a payload, \
                            which it keeps and does not apply, \"void\", \"add\", \"path\" and \"text\".";
                (state::UNKNOWN_OP, Some(hint))
            }
            E::Unsupported { .. } => (state::FORMAT, Some("The sender speaks a newer format: upgrade this server.")),
            E::ClockRange { .. } => {
                let hint = "Counters and lamports count events, from 0. They end at 2^53-1, up to which a double holds \
                            every integer.";
                (state::CLOCK_RANGE, Some(hint))
            }
            E::BrokenGraph { .. } => (state::CORRUPT, None),
            E::CounterGap { .. } => (state::GAP, Some("Send the missing events first.")),
            E::UnknownDep { .. } => (state::UNKNOWN_DEP, Some("Send the events it depends on first.")),
            E::SelfDep { .. } => {
                let hint = "deps name events that were there before. The peer's own previous one goes without saying.";
                (state::CYCLE, Some(hint))
            }
            E::LamportOrder { .. } | E::LamportBound { .. } => {
                let hint = "Pull, set the clock to the greatest lamport seen, and make the events anew.";
                (state::LAMPORT, Some(hint))
            }
            E::UnknownRoot { .. } => (state::ROOT, Some("Send the event it derives from first.")),
            E::RootOrder { .. } => {
                (state::ROOT, Some("Derived updates are written by hubs: forward their runs as they came."))
            }
            E::Equivocation { .. } => {
                (state::EQUIVOCATION, Some("Two replicas write under one name: give one of them a new peer_id."))
            }
        };
        let error = Error::new(state, e.to_string());
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}
