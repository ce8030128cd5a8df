//! Rows of tables that exist only in a doc.

use crate::capture::RowNow;
use crate::catalog::Table;
use crate::error::Result;

/// Does the doc already hold this row in this state? Then tracking the table adds nothing.
pub fn knows(_table: &Table, _row: &RowNow) -> Result<bool> {
    Ok(false)
}

/// Rows that a doc holds under the table's name move into the table.
pub fn adopt(_table: &Table) -> Result<()> {
    Ok(())
}
