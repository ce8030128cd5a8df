//! What can be wrong with what came from outside. Each variant is one SQLSTATE in the extension.

use crate::id::EventId;

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
        /// Is it the sum of what a request holds? Two of half the size may pass then.
        splits: bool,
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
    /// The graph does not hang together: a broken log, or a version that names an event nobody has.
    BrokenGraph {
        /// What is wrong.
        what: &'static str,
        /// The peer's local number.
        peer: u32,
        /// The peer's counter.
        counter: u64,
    },
    /// A run that does not follow what is known of its peer.
    CounterGap {
        /// The peer.
        peer: String,
        /// The counter that comes next.
        expected: u64,
        /// The counter that came.
        got: u64,
    },
    /// A run made on top of an event that neither the log nor the request holds.
    UnknownDep {
        /// The run's first event.
        event: EventId,
        /// What it names.
        dep: EventId,
    },
    /// A run made on top of itself.
    SelfDep {
        /// The run's first event.
        event: EventId,
        /// The event of its own future that it names.
        dep: EventId,
    },
    /// An event that is not later than one it was made on top of. A circle of deps has such an event.
    LamportOrder {
        /// The event.
        event: EventId,
        /// Its lamport.
        lamport: u64,
        /// What it was made on top of.
        parent: EventId,
        /// That event's lamport.
        parent_lamport: u64,
    },
    /// A lamport further ahead than an honest clock can be.
    LamportBound {
        /// The event.
        event: EventId,
        /// Its lamport.
        lamport: u64,
        /// The greatest that would have been accepted.
        bound: u64,
    },
    /// A derived update of an event that neither the log nor the request holds.
    UnknownRoot {
        /// The update.
        event: EventId,
        /// What it names.
        root: EventId,
    },
    /// A derived update whose run does not begin later than the event it names, or that gives that event another lamport.
    RootOrder {
        /// The update.
        event: EventId,
        /// The lamport its run begins with.
        lamport: u64,
        /// What it names.
        root: EventId,
        /// That event's lamport.
        root_lamport: u64,
    },
    /// Two contents for one event.
    Equivocation {
        /// The event.
        event: EventId,
        /// Digest of the content known first.
        known: u64,
        /// Digest of the content that came now.
        got: u64,
    },
}

/// The engine's result.
pub type Result<T> = std::result::Result<T, Error>;

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Error::Malformed { at, what } if at.is_empty() => write!(f, "malformed request: {what}"),
            Error::Malformed { at, what } => write!(f, "malformed request at {at}: {what}"),
            Error::TooLarge { what, bytes, limit, .. } => write!(f, "{what}: {bytes} exceeds the limit of {limit}"),
            Error::OutOfMemory { bytes } => write!(f, "out of memory for {bytes} bytes"),
            Error::NulCharacter { at } => write!(f, "text with a NUL character (\\u0000) at {at}"),
            Error::UnknownOpType { at, name } => write!(f, "unknown operation type {name:?} at {at}"),
            Error::Unsupported { what, value } => write!(f, "unsupported {what}: {value:#x}"),
            Error::DuplicateColumn { at, name } => write!(f, "column {name:?} is named twice at {at}"),
            Error::ClockRange { what, value } => {
                write!(f, "{what} {value} is outside of 0 to {}", crate::id::MAX_CLOCK)
            }
            Error::BrokenGraph { what, peer, counter } => {
                write!(f, "broken event graph: {what}, at event {counter} of local peer {peer}")
            }
            Error::CounterGap { peer, expected, got } => {
                write!(f, "events of peer {peer:?} leave a gap: expected counter {expected}, got {got}")
            }
            Error::UnknownDep { event, dep } => write!(f, "event {event} depends on {dep}, which is not known"),
            Error::SelfDep { event, dep } => write!(f, "event {event} depends on {dep}, its own future"),
            Error::LamportOrder { event, lamport, parent, parent_lamport } => {
                write!(f, "lamport {lamport} of event {event} is not above {parent_lamport} of {parent}, its parent")
            }
            Error::LamportBound { event, lamport, bound } => {
                write!(f, "lamport {lamport} of event {event} exceeds the bound of {bound}")
            }
            Error::UnknownRoot { event, root } => write!(f, "event {event} derives from {root}, which is not known"),
            Error::RootOrder { event, lamport, root, root_lamport } => {
                write!(
                    f,
                    "event {event}, of a run that begins at lamport {lamport}, derives from {root} at {root_lamport}, \
                     which is not older"
                )
            }
            Error::Equivocation { event, known, got } => {
                write!(f, "event {event} is known with other content: digest {known:016x}, not {got:016x}")
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
            _ => {}
        }
        self
    }
}

impl std::error::Error for Error {}
