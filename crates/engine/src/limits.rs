//! How much one request may hold. Every limit is checked before memory is taken for what it limits.

use crate::error::{Error, Result};

/// Limits of one request, or of one blob of operations. [`Limits::default`] suits bytes from a client;
/// [`Limits::trusted`] is for bytes the log wrote itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a request as it arrives. Default 64 MiB.
    pub request_bytes: usize,
    /// Operations of a request. Default 1,000,000.
    pub ops: usize,
    /// Cells of a request. Run-length encoding can say a million NULLs in four bytes, so they are counted apart; each
    /// takes 24 bytes of memory. Default 4,000,000.
    pub cells: usize,
    /// Event ids in `deps` and frontiers of a request together. Default 100,000.
    pub deps: usize,
    /// Event ids in the `deps` of one run. Default 1,000.
    pub deps_per_run: usize,
    /// Runs of a request, and entries of a version vector. Default 200,000.
    pub runs: usize,
    /// Different table and column names of a request, and columns of one run. Default 65,536.
    pub names: usize,
    /// Bytes of one table, column, peer or type name. Default 256: 63 characters of four bytes.
    pub name_bytes: usize,
    /// Bytes of one row id. Default 8 KiB: PostgreSQL's longest key (2,704 bytes), escaped.
    pub row_id_bytes: usize,
    /// Bytes of one value. Default 32 MiB.
    pub value_bytes: usize,
    /// Nesting of one JSON value, and of the parts of a request that are skipped. Default 128.
    pub depth: usize,
    /// Bytes that a request may expand to: what comes out of LZ4, and, counted apart, texts once dictionaries are resolved.
    /// Default 256 MiB.
    pub decompressed_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            request_bytes: 64 << 20,
            ops: 1_000_000,
            cells: 4_000_000,
            deps: 100_000,
            deps_per_run: 1_000,
            runs: 200_000,
            names: 65_536,
            name_bytes: 256,
            row_id_bytes: 8 << 10,
            value_bytes: 32 << 20,
            depth: 128,
            decompressed_bytes: 256 << 20,
        }
    }
}

impl Limits {
    /// No limit but the encodings' own (4 GiB of text in an [`crate::OpBuf`]): for bytes that the log wrote, whose
    /// values PostgreSQL has already accepted.
    pub fn trusted() -> Self {
        let max = usize::MAX;
        Limits {
            request_bytes: max,
            ops: max,
            cells: max,
            deps: max,
            deps_per_run: max,
            runs: max,
            names: max,
            name_bytes: max,
            row_id_bytes: max,
            value_bytes: max,
            depth: max,
            decompressed_bytes: max,
        }
    }
}

/// `size <= limit`, or the error that says both: of one thing, which does not become smaller in a smaller request.
pub(crate) fn within(what: &'static str, size: usize, limit: usize) -> Result<()> {
    check(what, size, limit, false)
}

/// The same of what the things in a request add up to.
pub(crate) fn within_sum(what: &'static str, size: usize, limit: usize) -> Result<()> {
    check(what, size, limit, true)
}

fn check(what: &'static str, size: usize, limit: usize, splits: bool) -> Result<()> {
    if size <= limit {
        return Ok(());
    }
    Err(Error::TooLarge { what, bytes: size as u64, limit: limit as u64, splits })
}

/// What of a request's limits has been used: one request may be made of many blobs.
#[derive(Clone, Debug)]
pub(crate) struct Budget<'l> {
    pub limits: &'l Limits,
    pub ops: usize,
    pub cells: usize,
    pub deps: usize,
    pub text: usize,
    pub expanded: usize,
}

impl<'l> Budget<'l> {
    pub fn new(limits: &'l Limits) -> Self {
        Budget { limits, ops: 0, cells: 0, deps: 0, text: 0, expanded: 0 }
    }

    pub fn add_ops(&mut self, n: usize) -> Result<()> {
        self.ops = self.ops.saturating_add(n);
        within_sum("operations in a request", self.ops, self.limits.ops)
    }

    pub fn add_cells(&mut self, n: usize) -> Result<()> {
        self.cells = self.cells.saturating_add(n);
        within_sum("cells in a request", self.cells, self.limits.cells)
    }

    pub fn add_deps(&mut self, n: usize) -> Result<()> {
        self.deps = self.deps.saturating_add(n);
        within_sum("event ids in a request", self.deps, self.limits.deps)
    }

    /// Bytes that come out of LZ4: many small blobs may each expand 255 times, and expanding takes time.
    pub fn add_expanded(&mut self, n: usize) -> Result<()> {
        self.expanded = self.expanded.saturating_add(n);
        within_sum("bytes to decompress", self.expanded, self.limits.decompressed_bytes)
    }

    pub fn add_text(&mut self, n: usize) -> Result<()> {
        self.text = self.text.saturating_add(n);
        within_sum("bytes of decoded text", self.text, self.limits.decompressed_bytes)
    }
}
