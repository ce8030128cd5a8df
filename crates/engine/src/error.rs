//! What can be wrong with what came from outside. Each variant is one SQLSTATE in the extension.

/// An error of the engine.
#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// Not of the shape the wire format asks for.
    Malformed {
        /// Where, as a path or a byte offset.
        at: String,
        /// What is wrong there.
        what: String,
    },
    /// Over a limit.
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        bytes: u64,
        /// The limit, in the same unit.
        limit: u64,
    },
    /// Memory could not be had.
    OutOfMemory {
        /// How much was asked for.
        bytes: usize,
    },
    /// Text with a NUL character, which PostgreSQL cannot hold.
    NulCharacter {
        /// Where.
        at: String,
    },
    /// A type of operation that this version does not know: it cannot be skipped, later counters would shift.
    UnknownOpType {
        /// Where.
        at: String,
        /// The type as it was sent.
        name: String,
    },
    /// A binary format of a later version, or one that needs something this version cannot do.
    Unsupported {
        /// What is not supported: `format version`, `critical features`.
        what: &'static str,
        /// Its number.
        value: u64,
    },
    /// An insert that names a column twice.
    DuplicateColumn {
        /// Where.
        at: String,
        /// The column.
        name: String,
    },
    /// A counter or lamport outside of 0 to 2^53-1.
    ClockRange {
        /// Which number.
        what: &'static str,
        /// As it was sent.
        value: String,
    },
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Malformed { at, what } if at.is_empty() => write!(f, "malformed request: {what}"),
            Error::Malformed { at, what } => write!(f, "malformed request at {at}: {what}"),
            Error::TooLarge { what, bytes, limit } => write!(f, "{what}: {bytes} exceeds the limit of {limit}"),
            Error::OutOfMemory { bytes } => write!(f, "out of memory for {bytes} bytes"),
            Error::NulCharacter { at } => write!(f, "text with a NUL character (\\u0000) at {at}"),
            Error::UnknownOpType { at, name } => write!(f, "unknown operation type {name:?} at {at}"),
            Error::Unsupported { what, value } => write!(f, "unsupported {what}: {value:#x}"),
            Error::DuplicateColumn { at, name } => write!(f, "column {name:?} is named twice at {at}"),
            Error::ClockRange { what, value } => {
                write!(f, "{what} {value} is outside of 0 to {}", crate::id::MAX_CLOCK)
            }
        }
    }
}

impl Error {
    /// The same error, said to be at `outer` followed by where it already is.
    pub(crate) fn inside(mut self, outer: &str) -> Self {
        match &mut self {
            Error::Malformed { at, .. }
            | Error::NulCharacter { at }
            | Error::UnknownOpType { at, .. }
            | Error::DuplicateColumn { at, .. } => {
                let dot = if at.is_empty() || at.starts_with('[') || outer.is_empty() { "" } else { "." };
                *at = format!("{outer}{dot}{at}");
            }
            Error::TooLarge { .. }
            | Error::OutOfMemory { .. }
            | Error::Unsupported { .. }
            | Error::ClockRange { .. } => {}
        }
        self
    }
}

impl std::error::Error for Error {}
