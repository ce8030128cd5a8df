//! Texts that say a number: integers, decimals and UUIDs; dates and timestamps are in [`super::times`]. Each parser accepts
//! exactly what its writer writes, so that a column kept as numbers comes back letter by letter.

/// Where a writer puts its text.
#[derive(Clone, Debug)]
pub(crate) struct Scratch {
    pub(super) bytes: [u8; 48],
    pub(super) len: usize,
}

impl Scratch {
    pub fn new() -> Self {
        Scratch { bytes: [0; 48], len: 0 }
    }

    /// What was written.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.bytes[..self.len]).expect("writers write ASCII")
    }

    pub(super) fn push(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    pub(super) fn digits(&mut self, mut n: u64, width: usize) {
        for at in (self.len..self.len + width).rev() {
            self.bytes[at] = b'0' + (n % 10) as u8;
            n /= 10;
        }
        self.len += width;
    }

    /// Writes an integer as [`decimal`] reads it with this scale.
    pub fn decimal(&mut self, n: i64, scale: u8) {
        self.len = 0;
        if n < 0 {
            self.push(b'-');
        }
        let n = n.unsigned_abs();
        let power = 10u64.pow(scale.min(MAX_SCALE) as u32);
        let whole = n / power;
        self.digits(whole, whole.checked_ilog10().unwrap_or(0) as usize + 1);
        if scale > 0 {
            self.push(b'.');
            self.digits(n % power, scale as usize);
        }
    }

    /// Writes 16 bytes as [`uuid`] reads them.
    pub fn uuid(&mut self, bytes: &[u8]) {
        self.len = 0;
        for (i, b) in bytes.iter().take(16).enumerate() {
            if matches!(i, 4 | 6 | 8 | 10) {
                self.push(b'-');
            }
            self.push(b"0123456789abcdef"[(b >> 4) as usize]);
            self.push(b"0123456789abcdef"[(b & 15) as usize]);
        }
    }
}

/// The greatest scale of a decimal.
pub(crate) const MAX_SCALE: u8 = 18;

/// The scale of a decimal text: digits after the point.
pub(crate) fn scale(text: &str) -> Option<u8> {
    match text.bytes().rev().position(|b| b == b'.') {
        Some(digits @ 1..=18) => Some(digits as u8),
        Some(_) => None,
        None => Some(0),
    }
}

/// The 16 bytes of a UUID in its usual form, lower case.
pub(crate) fn uuid(text: &str) -> Option<[u8; 16]> {
    let from: &[u8; 36] = text.as_bytes().try_into().ok()?;
    let mut bytes = [0; 16];
    let mut at = 0;
    for (i, byte) in bytes.iter_mut().enumerate() {
        if matches!(i, 4 | 6 | 8 | 10) {
            if from[at] != b'-' {
                return None;
            }
            at += 1;
        }
        *byte = nibble(from[at])? << 4 | nibble(from[at + 1])?;
        at += 2;
    }
    Some(bytes)
}

fn nibble(b: u8) -> Option<u8> {
    match b {
        b'0'..=b'9' => Some(b - b'0'),
        b'a'..=b'f' => Some(b - b'a' + 10),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scan::decimal;

    #[test]
    fn decimals() {
        for (text, scale, n) in [
            ("0", 0, Some(0)),
            ("-1", 0, Some(-1)),
            ("-9223372036854775808", 0, Some(i64::MIN)),
            ("9223372036854775807", 0, Some(i64::MAX)),
            ("9223372036854775808", 0, None),
            ("99999999999999999999", 0, None),
            ("12.50", 2, Some(1250)),
            ("-0.05", 2, Some(-5)),
            ("0.000000000000000001", 18, Some(1)),
            ("-0.00", 2, None),
            ("-0", 0, None),
            ("01", 0, None),
            ("00.1", 1, None),
            (".5", 1, None),
            ("+1", 0, None),
            ("", 0, None),
            ("-", 0, None),
            ("1.5", 0, None),
            ("1.5", 2, None),
            ("1e5", 0, None),
        ] {
            assert_eq!(decimal(text, scale), n, "{text}");
            if let Some(n) = n {
                let mut scratch = Scratch::new();
                scratch.decimal(n, scale);
                assert_eq!(scratch.text(), text);
            }
        }
    }

    #[test]
    fn uuids() {
        let text = "0f1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0";
        let mut scratch = Scratch::new();
        scratch.uuid(&uuid(text).unwrap());
        assert_eq!(scratch.text(), text);
        for no in ["", "0F1e2d3c-4b5a-6978-8796-a5b4c3d2e1f0", "0f1e2d3c+4b5a-6978-8796-a5b4c3d2e1f0"] {
            assert_eq!(uuid(no), None);
        }
    }
}
