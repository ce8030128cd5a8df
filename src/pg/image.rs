//! The image of a jsonb: the bytes that PostgreSQL stores (utils/jsonb.h), read and written here and not by its functions, at a
//! tenth of the cost. What is not plain (nested deeper than [`DEPTH`], no UTF-8, numbers without digits) is left to PostgreSQL:
//! everything here answers `None` then. `tests/regress/sql/jsonb_images.sql` compares both.
//!
//! A container is a word with the number of its members and what it is; a word for each member, of an object first all
//! keys and then all values; and the members' bytes in the same order. A member's word says its kind, and how many bytes it
//! has, or, in the first word and every 32nd after it, where they end. Keys are sorted by length, then byte by byte. A
//! number, stored as a numeric, and a container begin at a multiple of four, counted from the first byte of the whole;
//! what is skipped before counts as theirs. A scalar alone is an array of one, with a flag.

use std::cmp::Ordering;

use super::forms;

/// Deeper nesting is PostgreSQL's: it knows how much stack there is.
const DEPTH: usize = 64;
/// Longer text is PostgreSQL's: lengths have 28 bits.
const MOST_TEXT: usize = 1 << 24;

const COUNT: u32 = 0x0fff_ffff;
const SCALAR: u32 = 0x1000_0000;
const OBJECT: u32 = 0x2000_0000;
const ARRAY: u32 = 0x4000_0000;

const LENGTH: u32 = 0x0fff_ffff;
const KIND: u32 = 0x7000_0000;
const IS_END: u32 = 0x8000_0000;
/// Members between two that say where they end.
const STRIDE: usize = 32;

/// What a member is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Kind(u32);

impl Kind {
    const STRING: Kind = Kind(0);
    const NUMBER: Kind = Kind(0x1000_0000);
    const FALSE: Kind = Kind(0x2000_0000);
    const TRUE: Kind = Kind(0x3000_0000);
    const NULL: Kind = Kind(0x4000_0000);
    const CONTAINER: Kind = Kind(0x5000_0000);

    fn is_aligned(self) -> bool {
        self == Kind::NUMBER || self == Kind::CONTAINER
    }
}

// ------------------------------------------------------------------------------------------------------------- reading

fn word(image: &[u8], at: usize) -> Option<u32> {
    image.get(at..)?.first_chunk().map(|bytes| u32::from_ne_bytes(*bytes))
}

/// The members of a container.
#[derive(Clone)]
struct Members<'a> {
    words: &'a [u8],
    bytes: &'a [u8],
    /// How many were read, and where the next one's bytes begin.
    read: usize,
    start: usize,
}

impl<'a> Members<'a> {
    fn of(container: &'a [u8], count: usize) -> Option<Members<'a>> {
        let (words, bytes) = container.get(4..)?.split_at_checked(4 * count)?;
        Some(Members { words, bytes, read: 0, start: 0 })
    }

    /// The next one's kind and bytes.
    fn next(&mut self) -> Option<(Kind, &'a [u8])> {
        let entry = word(self.words, 4 * self.read)?;
        let (kind, length) = (Kind(entry & KIND), (entry & LENGTH) as usize);
        let end = if entry & IS_END != 0 { length } else { self.start + length };
        // What is before these bytes is whole words: a multiple of four here is one of the whole.
        let from = if kind.is_aligned() { self.start.next_multiple_of(4) } else { self.start };
        let bytes = self.bytes.get(from..end)?;
        self.read += 1;
        self.start = end;
        Some((kind, bytes))
    }
}

/// Appends the text of a jsonb, as PostgreSQL writes it. After `None` something may have been appended.
pub fn write_text(root: &[u8], out: &mut String) -> Option<()> {
    match scalar(root)? {
        Some((kind, bytes)) => write_member(kind, bytes, DEPTH, out),
        None => write_container(root, DEPTH, out),
    }
}

/// The scalar that a jsonb is, if it is one.
fn scalar(root: &[u8]) -> Option<Option<(Kind, &[u8])>> {
    if word(root, 0)? & SCALAR == 0 {
        return Some(None);
    }
    Members::of(root, 1)?.next().map(Some)
}

fn write_container(container: &[u8], depth: usize, out: &mut String) -> Option<()> {
    let depth = depth.checked_sub(1)?;
    let header = word(container, 0)?;
    let count = (header & COUNT) as usize;
    if header & OBJECT == 0 {
        let mut members = Members::of(container, count)?;
        out.push('[');
        for i in 0..count {
            out.push_str(if i > 0 { ", " } else { "" });
            let (kind, bytes) = members.next()?;
            write_member(kind, bytes, depth, out)?;
        }
        out.push(']');
        return Some(());
    }
    let mut keys = Members::of(container, 2 * count)?;
    let mut values = keys.clone();
    for _ in 0..count {
        values.next()?;
    }
    out.push('{');
    for i in 0..count {
        out.push_str(if i > 0 { ", " } else { "" });
        write_string(keys.next()?.1, out)?;
        out.push_str(": ");
        let (kind, bytes) = values.next()?;
        write_member(kind, bytes, depth, out)?;
    }
    out.push('}');
    Some(())
}

fn write_member(kind: Kind, bytes: &[u8], depth: usize, out: &mut String) -> Option<()> {
    match kind {
        Kind::STRING => write_string(bytes, out)?,
        Kind::NUMBER => forms::numeric(varlena(bytes)?, out).then_some(())?,
        Kind::FALSE => out.push_str("false"),
        Kind::TRUE => out.push_str("true"),
        Kind::NULL => out.push_str("null"),
        Kind::CONTAINER => write_container(bytes, depth, out)?,
        _ => return None,
    }
    Some(())
}

fn write_string(bytes: &[u8], out: &mut String) -> Option<()> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let text = str::from_utf8(bytes).ok()?;
    out.push('"');
    if !bytes.iter().any(|b| matches!(b, b'"' | b'\\' | 0..b' ')) {
        out.push_str(text);
        out.push('"');
        return Some(());
    }
    let mut plain = 0;
    for (i, byte) in bytes.iter().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            b' '.. => continue,
            b'\x08' => "\\b",
            b'\x0c' => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            _ => "\\u00",
        };
        out.push_str(&text[plain..i]);
        out.push_str(escape);
        if escape.len() > 2 {
            out.extend([byte >> 4, byte & 15].map(|nibble| char::from(HEX[nibble as usize])));
        }
        plain = i + 1;
    }
    out.push_str(&text[plain..]);
    out.push('"');
    Some(())
}

// ------------------------------------------------------------------------------------------------------------- writing

/// A value of an object.
pub enum Part<'a> {
    /// A string.
    Text(&'a str),
    /// A number, as decimal digits with at most one sign and one point.
    Number(&'a str),
    /// A number of thousandths.
    Thousandths(u64),
    /// A jsonb, by its image.
    Image(&'a [u8]),
    /// A jsonb, by the text that PostgreSQL writes for it.
    Json(&'a str),
}

/// The image of an object, after as many bytes as a varlena's header has. Fields come as jsonb sorts them.
pub fn object(fields: &[(&str, Part<'_>)]) -> Option<Vec<u8>> {
    debug_assert!(fields.is_sorted_by(|a, b| compare_keys(a.0, b.0) == Ordering::Less));
    let size: usize = fields.iter().map(|(name, part)| name.len() + 16 + part.most_bytes()).sum();
    let mut out = Vec::with_capacity(HEADER + 4 + size);
    out.extend_from_slice(&[0; HEADER]);
    let mut object = Open::begin(&mut out, OBJECT, fields.len(), 2 * fields.len());
    for (name, _) in fields {
        out.extend_from_slice(name.as_bytes());
        object.end_member(&mut out, Kind::STRING);
    }
    for (_, part) in fields {
        let kind = part.append(&mut out)?;
        object.end_member(&mut out, kind);
    }
    Some(out)
}

impl Part<'_> {
    /// Bytes it takes, if it is plain: more are no mistake.
    fn most_bytes(&self) -> usize {
        match self {
            Part::Text(text) | Part::Number(text) => text.len(),
            Part::Thousandths(_) => 16,
            Part::Image(image) => image.len(),
            Part::Json(text) => 3 * text.len(),
        }
    }

    fn append(&self, out: &mut Vec<u8>) -> Option<Kind> {
        match self {
            Part::Text(text) => {
                out.extend_from_slice(text.as_bytes());
                Some(Kind::STRING)
            }
            Part::Number(digits) => append_number(out, |out| forms::append_numeric(digits.as_bytes(), out)),
            Part::Thousandths(n) => append_number(out, |out| {
                forms::append_thousandths(*n, out);
                Some(())
            }),
            Part::Image(root) => append_image(root, out),
            Part::Json(text) => append_json(text, out),
        }
    }
}

fn compare_keys(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn align(out: &mut Vec<u8>) {
    out.resize(out.len().next_multiple_of(4), 0);
}

/// A container that is being written.
struct Open {
    /// Where the next member's word is.
    word: usize,
    /// How many members have ended.
    ended: usize,
    /// Where the first member's bytes begin, and the next one's.
    first: usize,
    start: usize,
}

impl Open {
    fn begin(out: &mut Vec<u8>, what: u32, count: usize, members: usize) -> Open {
        align(out);
        out.extend_from_slice(&(what | count as u32).to_ne_bytes());
        let word = out.len();
        out.resize(word + 4 * members, 0);
        Open { word, ended: 0, first: out.len(), start: out.len() }
    }

    /// Notes that everything since the last member's end is the next one.
    fn end_member(&mut self, out: &mut [u8], kind: Kind) {
        let end = out.len();
        let length = if self.ended.is_multiple_of(STRIDE) {
            IS_END | (end - self.first) as u32
        } else {
            (end - self.start) as u32
        };
        out[self.word..self.word + 4].copy_from_slice(&(kind.0 | length).to_ne_bytes());
        self.word += 4;
        self.ended += 1;
        self.start = end;
    }
}

/// A jsonb becomes a member as it is, but for a scalar's shell.
fn append_image(root: &[u8], out: &mut Vec<u8>) -> Option<Kind> {
    let (kind, bytes) = scalar(root)?.unwrap_or((Kind::CONTAINER, root));
    if kind.is_aligned() {
        align(out);
    }
    out.extend_from_slice(bytes);
    Some(kind)
}

/// Appends a numeric around what `digits` appends.
fn append_number(out: &mut Vec<u8>, digits: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Option<Kind> {
    align(out);
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    digits(out)?;
    let header = varlena_header(out.len() - start);
    out[start..start + HEADER].copy_from_slice(&header);
    Some(Kind::NUMBER)
}

// ----------------------------------------------------------------------------------------------------- text to members

/// Appends a jsonb from its text. `None` for text that PostgreSQL would write in another way.
fn append_json(text: &str, out: &mut Vec<u8>) -> Option<Kind> {
    if text.len() > MOST_TEXT {
        return None;
    }
    let mut reader = Reader { text, at: 0, nodes: Vec::with_capacity(16) };
    reader.read(DEPTH)?;
    if reader.at < text.len() {
        return None;
    }
    append_node(&reader.nodes, 0, out)
}

/// A value as it was read. Members of a container follow it, of an object keys and values in turns.
struct Node<'a> {
    kind: Kind,
    /// Of a string what is between the quotes, of a number its digits.
    text: &'a str,
    /// Of a container: which, how many members or pairs, and the node after all of them.
    what: u32,
    count: usize,
    end: usize,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    nodes: Vec<Node<'a>>,
}

impl<'a> Reader<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn eat(&mut self, what: &str) -> bool {
        let here = self.text.as_bytes()[self.at..].starts_with(what.as_bytes());
        self.at += if here { what.len() } else { 0 };
        here
    }

    fn expect(&mut self, what: &str) -> Option<()> {
        self.eat(what).then_some(())
    }

    fn read(&mut self, depth: usize) -> Option<()> {
        match self.peek()? {
            b'{' => self.read_container(OBJECT, "}", depth),
            b'[' => self.read_container(ARRAY, "]", depth),
            b'"' => self.read_string(),
            b't' => self.read_word("true", Kind::TRUE),
            b'f' => self.read_word("false", Kind::FALSE),
            b'n' => self.read_word("null", Kind::NULL),
            _ => self.read_number(),
        }
    }

    fn push(&mut self, kind: Kind, from: usize, to: usize) -> Option<()> {
        let text = self.text.get(from..to)?;
        self.nodes.push(Node { kind, text, what: 0, count: 0, end: self.nodes.len() + 1 });
        Some(())
    }

    fn read_container(&mut self, what: u32, close: &str, depth: usize) -> Option<()> {
        let depth = depth.checked_sub(1)?;
        let own = self.nodes.len();
        self.push(Kind::CONTAINER, self.at, self.at)?;
        self.at += 1;
        let mut count = 0;
        let mut last_key = None;
        while !self.eat(close) {
            if count > 0 {
                self.expect(", ")?;
            }
            if what == OBJECT {
                let key = self.nodes.len();
                self.read_string()?;
                // Sorted, each once. Of keys with escapes that cannot be told from here.
                let text = self.nodes[key].text;
                let sorted = last_key.is_none_or(|last| compare_keys(last, text) == Ordering::Less);
                if text.contains('\\') || !sorted {
                    return None;
                }
                last_key = Some(text);
                self.expect(": ")?;
            }
            self.read(depth)?;
            count += 1;
        }
        let end = self.nodes.len();
        let node = &mut self.nodes[own];
        (node.what, node.count, node.end) = (what, count, end);
        Some(())
    }

    fn read_string(&mut self) -> Option<()> {
        self.expect("\"")?;
        let from = self.at;
        loop {
            match self.peek()? {
                b'"' => break,
                b'\\' => self.at += 2,
                0..b' ' => return None,
                _ => self.at += 1,
            }
        }
        self.push(Kind::STRING, from, self.at)?;
        self.at += 1;
        Some(())
    }

    fn read_word(&mut self, text: &str, kind: Kind) -> Option<()> {
        self.expect(text)?;
        self.push(kind, self.at, self.at)
    }

    fn read_number(&mut self) -> Option<()> {
        let rest = &self.text.as_bytes()[self.at..];
        let len = rest.iter().take_while(|b| matches!(b, b'0'..=b'9' | b'.' | b'-')).count();
        self.at += len;
        self.push(Kind::NUMBER, self.at - len, self.at)
    }
}

fn append_node(nodes: &[Node<'_>], at: usize, out: &mut Vec<u8>) -> Option<Kind> {
    let node = &nodes[at];
    match node.kind {
        Kind::STRING => append_string(node.text, out)?,
        Kind::NUMBER => return append_number(out, |out| forms::append_numeric(node.text.as_bytes(), out)),
        Kind::CONTAINER => append_container(nodes, at, out)?,
        _ => {}
    }
    Some(node.kind)
}

fn append_container(nodes: &[Node<'_>], at: usize, out: &mut Vec<u8>) -> Option<()> {
    let node = &nodes[at];
    let is_object = node.what == OBJECT;
    let members = if is_object { 2 * node.count } else { node.count };
    let mut container = Open::begin(out, node.what, node.count, members);
    if is_object {
        let mut key = at + 1;
        while key < node.end {
            out.extend_from_slice(nodes[key].text.as_bytes());
            container.end_member(out, Kind::STRING);
            key = nodes[key + 1].end;
        }
    }
    let skipped = usize::from(is_object);
    let mut value = at + 1 + skipped;
    while value < node.end {
        let kind = append_node(nodes, value, out)?;
        container.end_member(out, kind);
        value = nodes[value].end + skipped;
    }
    Some(())
}

/// Appends what a string means.
fn append_string(text: &str, out: &mut Vec<u8>) -> Option<()> {
    let mut rest = text.as_bytes();
    while let Some(at) = rest.iter().position(|b| *b == b'\\') {
        out.extend_from_slice(&rest[..at]);
        let (escape, after) = rest[at + 1..].split_first()?;
        rest = after;
        out.push(match escape {
            b'"' | b'\\' => *escape,
            b'b' => b'\x08',
            b'f' => b'\x0c',
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => {
                let (digits, after) = rest.split_at_checked(4)?;
                rest = after;
                u8::from_str_radix(str::from_utf8(digits).ok()?, 16).ok().filter(|b| *b < b' ')?
            }
            _ => return None,
        });
    }
    out.extend_from_slice(rest);
    Some(())
}

// ------------------------------------------------------------------------------------------------------------ varlenas

/// Bytes of a varlena's header that says its length in four of them.
pub const HEADER: usize = 4;

/// The header of a varlena of so many bytes, the header among them.
pub fn varlena_header(bytes: usize) -> [u8; HEADER] {
    let length = bytes as u32;
    if cfg!(target_endian = "little") { (length << 2).to_ne_bytes() } else { length.to_ne_bytes() }
}

/// What is in a varlena with such a header.
fn varlena(bytes: &[u8]) -> Option<&[u8]> {
    bytes.starts_with(&varlena_header(bytes.len())).then(|| &bytes[HEADER..])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(text: &str) -> Option<Vec<u8>> {
        object(&[("value", Part::Json(text))])
    }

    /// What the field of such an object says.
    fn text(object: &[u8]) -> Option<String> {
        let mut out = String::new();
        write_text(&object[HEADER..], &mut out)?;
        Some(out.strip_prefix("{\"value\": ")?.strip_suffix('}')?.to_owned())
    }

    fn round(text_before: &str) {
        let whole = image(text_before).unwrap_or_else(|| panic!("is not plain: {text_before}"));
        assert_eq!(text(&whole).as_deref(), Some(text_before));
    }

    struct Random(u64);

    impl Random {
        fn below(&mut self, bound: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % bound
        }

        fn string(&mut self) -> String {
            let most = [3, 3, 20, 400][self.below(4)];
            let len = self.below(most);
            (0..len).map(|_| ["a", "b", "ß", "😀", "\\\"", "\\\\", "\\n", "\\u001f", "\u{7f}"][self.below(9)]).collect()
        }

        fn value(&mut self, depth: usize, out: &mut String) {
            match self.below(if depth == 0 { 5 } else { 7 }) {
                0 => out.push_str("null"),
                1 => out.push_str(["true", "false"][self.below(2)]),
                2 | 3 => {
                    let most = [10, 100_000, 1 << 31][self.below(3)];
                    let whole = self.below(most);
                    out.push_str(&if whole > 0 && self.below(2) == 0 {
                        format!("-{whole}")
                    } else {
                        whole.to_string()
                    });
                    if self.below(2) == 0 {
                        out.push('.');
                        (0..=self.below(90)).for_each(|_| out.push(char::from(b'0' + self.below(10) as u8)));
                    }
                }
                4 => {
                    let string = self.string();
                    out.extend(["\"", &string, "\""]);
                }
                kind => {
                    let count = [0, 1, 5, 40][self.below(4)];
                    out.push_str(["{", "["][kind - 5]);
                    for i in 0..count {
                        out.push_str(if i > 0 { ", " } else { "" });
                        if kind == 5 {
                            out.push_str(&format!("\"{}{:03}\": ", "k".repeat(i % 40 / 10), i));
                        }
                        self.value(depth - 1, out);
                    }
                    out.push_str(["}", "]"][kind - 5]);
                }
            }
        }
    }

    #[test]
    fn texts_come_back() {
        let mut random = Random(7);
        for _ in 0..3_000 {
            let mut text = String::new();
            random.value(4, &mut text);
            round(&text);
        }
        let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
        round(&nested(DEPTH - 1));
        assert_eq!(image(&nested(DEPTH + 1)), None);
    }

    #[test]
    fn what_postgresql_would_write_otherwise_is_left_to_it() {
        for text in [
            "",
            " 1",
            "1 ",
            "01x",
            "+1",
            "1.",
            ".5",
            "1e5",
            "-",
            "1-1",
            "1..2",
            "nul",
            "\"a",
            "\"\\",
            "\"\\x\"",
            "\"\\u00\"",
            "\"\\u0041\"",
            "\"\n\"",
            "\"\\ß\"",
            "[1,2]",
            "[1, 2",
            "[1 2]",
            "[, 1]",
            "[1, ]",
            "{\"a\":1}",
            "{\"a\": 1,}",
            "{\"b\": 1, \"a\": 1}",
            "{\"a\": 1, \"a\": 1}",
            "{\"bb\": 1, \"c\": 1}",
            "{\"\\n\": 1}",
            "{1: 1}",
            "{\"a\"}",
            "]",
            "[}",
        ] {
            assert_eq!(image(text), None, "{text}");
        }
    }

    #[test]
    fn an_image_becomes_a_member() {
        for text_before in ["1", "-1.50", "\"a\"", "null", "true", "[]", "{}", "[1, \"a\", 2]", "{\"a\": [1]}"] {
            // The member's own image: of a scalar an array of one with the flag.
            let mut root = vec![0; HEADER];
            let mut reader = Reader { text: text_before, at: 0, nodes: Vec::new() };
            reader.read(DEPTH).unwrap();
            if reader.nodes[0].kind == Kind::CONTAINER {
                append_node(&reader.nodes, 0, &mut root).unwrap();
            } else {
                let mut shell = Open::begin(&mut root, ARRAY | SCALAR, 1, 1);
                let kind = append_node(&reader.nodes, 0, &mut root).unwrap();
                shell.end_member(&mut root, kind);
            }
            let mut out = String::new();
            write_text(&root[HEADER..], &mut out).unwrap();
            assert_eq!(out, text_before);
            let whole = object(&[
                ("k", Part::Text("odd")),
                ("value", Part::Image(&root[HEADER..])),
                ("number", Part::Number("7")),
            ]);
            out.clear();
            write_text(&whole.unwrap()[HEADER..], &mut out).unwrap();
            assert_eq!(out, format!("{{\"k\": \"odd\", \"value\": {text_before}, \"number\": 7}}"));
        }
    }

    #[test]
    fn damaged_images_are_refused() {
        let mut random = Random(3);
        for _ in 0..20_000 {
            let mut text_before = String::new();
            random.value(2, &mut text_before);
            let mut whole = image(&text_before).unwrap();
            for _ in 0..=random.below(3) {
                let at = HEADER + random.below(whole.len() - HEADER);
                whole[at] = random.below(256) as u8;
            }
            whole.truncate(whole.len() - random.below(3));
            // Any answer will do.
            let _ = text(&whole);
        }
    }
}
