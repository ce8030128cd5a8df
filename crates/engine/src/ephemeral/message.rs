//! Registers as JSON, and the messages that tell listeners of changes.

use std::collections::BTreeSet;
use std::fmt::Write;

#[cfg(test)]
mod tests;

use super::store::{Changes, Found, Record};
use crate::error::{Error, Result};
use crate::scan::write_string;

/// Bytes of a message: PostgreSQL's NOTIFY carries less than 8,000.
pub const MAX_MESSAGE: usize = 7_900;

fn text(bytes: &[u8]) -> Result<&str> {
    std::str::from_utf8(bytes).map_err(|_| Error::Malformed { at: "register".into(), what: "not UTF-8".into() })
}

/// Appends a register: `{"key","value","timestamp","peer"}`.
pub fn write_entry(out: &mut String, found: &Found, record: &Record) -> Result<()> {
    write_record(out, found, record, true)
}

fn write_record(out: &mut String, found: &Found, record: &Record, value: bool) -> Result<()> {
    let value = if value { Some(text(found.value(record))?) } else { None };
    write_parts(out, text(found.key(record))?, value, record.timestamp, text(found.peer(record))?)
}

/// As [`write_entry`], of its parts; the value is JSON, or left out.
pub fn write_parts(out: &mut String, key: &str, value: Option<&str>, timestamp: f64, peer: &str) -> Result<()> {
    out.push_str("{\"key\":");
    write_string(out, key)?;
    if let Some(value) = value {
        out.push_str(",\"value\":");
        out.push_str(value);
    }
    // Finite by admission; written without exponent, as the shortest decimal that reads back equal.
    let _ = write!(out, ",\"timestamp\":{timestamp}");
    out.push_str(",\"peer\":");
    write_string(out, peer)?;
    out.push('}');
    Ok(())
}

/// What a change is to somebody who knew the doc up to `since`.
pub fn event(record: &Record, since: u64) -> &'static str {
    match record.live {
        false => "leave",
        true if record.joined > since => "join",
        true => "update",
    }
}

/// Appends `{"ns":{"key":…}}` of records that are sorted by namespace, each written by `item`.
pub fn write_nested(
    out: &mut String,
    found: &Found,
    records: &[Record],
    mut item: impl FnMut(&mut String, &Record) -> Result<()>,
) -> Result<()> {
    out.push('{');
    let mut current: Option<&[u8]> = None;
    for record in records {
        let namespace = found.namespace(record);
        match current == Some(namespace) {
            true => out.push(','),
            false => {
                if current.replace(namespace).is_some() {
                    out.push_str("},");
                }
                write_string(out, text(namespace)?)?;
                out.push_str(":{");
            }
        }
        write_string(out, text(found.key(record))?)?;
        out.push(':');
        item(out, record)?;
    }
    if current.is_some() {
        out.push('}');
    }
    out.push('}');
    Ok(())
}

/// Sorts records as [`write_nested`] wants them.
pub fn sort_by_name(found: &mut Found) {
    let mut records = std::mem::take(&mut found.records);
    records.sort_by(|a, b| (found.namespace(a), found.key(a)).cmp(&(found.namespace(b), found.key(b))));
    found.records = records;
}

/// Appends `"entries":{"ns":{"key":entry|null}},"events":{"ns":{"key":"join"|"update"|"leave"}}`; `value` tells whose
/// value is written.
pub fn write_changes(
    out: &mut String,
    found: &Found,
    records: &[Record],
    since: u64,
    value: impl Fn(&Record) -> bool,
) -> Result<()> {
    out.push_str("\"entries\":");
    write_nested(out, found, records, |out, record| match record.live {
        true => write_record(out, found, record, value(record)),
        false => {
            out.push_str("null");
            Ok(())
        }
    })?;
    out.push_str(",\"events\":");
    write_nested(out, found, records, |out, record| {
        let _ = write!(out, "\"{}\"", event(record, since));
        Ok(())
    })
}

/// The message that a doc, or every doc of the database, is to be taken whole: something of it was forgotten.
pub fn reset(doc: Option<i64>, position: u64) -> String {
    let doc = doc.map_or("null".into(), |doc| doc.to_string());
    format!("{{\"doc\":{doc},\"position\":{position},\"reset\":true}}")
}

/// The messages that tell of a doc's changes after `since`, none longer than [`MAX_MESSAGE`]. `base` is added to positions.
///
/// Each carries the position up to which it and those before it tell everything. A register whose value does not fit is told
/// without it, one whose name does not fit is not named: the position says that something changed. Without `payload`
/// there is one message with doc and position alone.
pub fn messages(doc: i64, changes: &Changes, since: u64, base: u64, payload: bool) -> Result<Vec<String>> {
    let bare = |position: u64| format!("{{\"doc\":{doc},\"position\":{}}}", base + position);
    if changes.too_old {
        return Ok(vec![reset(Some(doc), base + changes.position)]);
    }
    if !payload {
        return Ok(vec![bare(changes.position)]);
    }
    let found = &changes.found;
    let mut records = found.records.clone();
    records.sort_by_key(|record| record.position);
    let frame = bare(u64::MAX >> 1).len() + ",\"entries\":{},\"events\":{}".len();
    let mut out = Vec::new();
    let mut from = 0;
    while from < records.len() {
        // As many as fit, by sizes that add up to what is written, or a few commas more.
        let mut to = from;
        let mut size = frame;
        let mut namespaces = BTreeSet::new();
        let mut fits = Vec::new();
        while to < records.len() {
            let record = &records[to];
            let name = size_of_namespace(found, record)?;
            let without = size_of_one(found, record, since)?;
            let with = without + size_of_value(found, record);
            let value = frame + name + with <= MAX_MESSAGE;
            let named = if namespaces.contains(found.namespace(record)) { 0 } else { name };
            let this = named + if value { with } else { without };
            if to > from && size + this > MAX_MESSAGE {
                break;
            }
            namespaces.insert(found.namespace(record));
            fits.push(value);
            size += this;
            to += 1;
        }
        let position = if to == records.len() { changes.position } else { records[to - 1].position };
        let mut part: Vec<(Record, bool)> = records[from..to].iter().copied().zip(fits).collect();
        part.sort_by(|(a, _), (b, _)| (found.namespace(a), found.key(a)).cmp(&(found.namespace(b), found.key(b))));
        let named: Vec<Record> = part.iter().map(|(record, _)| *record).collect();
        let mut message = format!("{{\"doc\":{doc},\"position\":{},", base + position);
        let with_value = |record: &Record| part.iter().any(|(r, value)| r.position == record.position && *value);
        write_changes(&mut message, found, &named, since, with_value)?;
        message.push('}');
        out.push(if message.len() <= MAX_MESSAGE { message } else { bare(position) });
        from = to;
    }
    Ok(out)
}

/// Bytes that a namespace takes in a message that tells of any of its registers.
fn size_of_namespace(found: &Found, record: &Record) -> Result<usize> {
    Ok(2 * (size_of_string(found.namespace(record))? + ":{},".len()))
}

/// Bytes a register takes besides, without its value.
fn size_of_one(found: &Found, record: &Record, since: u64) -> Result<usize> {
    let mut entry = String::from("null");
    if record.live {
        entry.clear();
        write_record(&mut entry, found, record, false)?;
    }
    let names = 2 * (size_of_string(found.key(record))? + ":,".len());
    Ok(names + entry.len() + event(record, since).len() + "\"\"".len())
}

fn size_of_value(found: &Found, record: &Record) -> usize {
    if record.live { ",\"value\":".len() + found.value(record).len() } else { 0 }
}

fn size_of_string(bytes: &[u8]) -> Result<usize> {
    let mut out = String::new();
    write_string(&mut out, text(bytes)?)?;
    Ok(out.len())
}
