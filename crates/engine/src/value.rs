//! Values of cells.

/// One value, borrowed. What JSON scalars cannot carry without loss travels as [`ValueRef::Json`] or as text.
#[derive(Clone, Copy, Debug)]
pub enum ValueRef<'a> {
    /// JSON `null`, SQL NULL.
    Null,
    /// JSON `true` or `false`.
    Bool(bool),
    /// A JSON number that is an integer of 64 bits.
    Int(i64),
    /// Any other finite JSON number whose shortest text is the text that was sent.
    Float(f64),
    /// A JSON string.
    Text(&'a str),
    /// The text of a JSON object or array, or of a number that neither `Int` nor `Float` holds exactly (`1.10`,
    /// `1e400`). Never the text of null, a bool, a string, or a number one of the others holds.
    Json(&'a str),
}

impl PartialEq for ValueRef<'_> {
    /// Bit for bit: `0.0` and `-0.0` differ, so do `1` and `1.0`, and JSON texts that differ in a blank.
    fn eq(&self, other: &Self) -> bool {
        use ValueRef::*;
        match (*self, *other) {
            (Null, Null) => true,
            (Bool(a), Bool(b)) => a == b,
            (Int(a), Int(b)) => a == b,
            (Float(a), Float(b)) => a.to_bits() == b.to_bits(),
            (Text(a), Text(b)) | (Json(a), Json(b)) => a == b,
            _ => false,
        }
    }
}

impl Eq for ValueRef<'_> {}
