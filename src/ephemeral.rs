//! The SQL functions of ephemeral registers: set, get, merge, remove, what changed since, clear. Nothing of it is
//! transactional, none of it is written to disk.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::SeqCst;

use crdt_engine::Limits;
use crdt_engine::ephemeral::register::{MAX_KEY, MAX_NAMESPACE, MAX_PEER, MAX_TTL};
use crdt_engine::ephemeral::{Found, Full, Role, Scope, Write, Written, message, store};
use crdt_engine::wire::json::write_string;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::broadcast::{self, Channel, Database};
use crate::catalog::{self, Doc};
use crate::error::{Error, Result, state};
use crate::flush;
use crate::pg::function::{Args, Col, Out, Rows};
use crate::pg::image::Part;
use crate::pg::jsonb;
use crate::pg::spi::{self, Param};
use crate::pg::{self, FROM_1970_TO_2000};
use crate::registers::{self, Counted, Registers};
use crate::settings;

/// The registers of a doc, and where this database's are counted.
struct Place {
    registers: Registers,
    database: &'static Database,
    scope: Scope,
    doc: std::rc::Rc<Doc>,
    /// When the call came, in microseconds since 1970.
    came: i64,
}

impl Place {
    /// Errors with 42704 when there is no such doc.
    fn of(args: &Args<'_>) -> Result<Place> {
        let doc = catalog::doc(args.i64(0, "doc")?)?;
        let (registers, database) = memory()?;
        let scope = Scope { db: pg::database(), log: catalog::log_oid(), doc: doc.doc };
        Ok(Place { registers, database, scope, doc, came: pg::now_micros() })
    }

    fn hash(&self) -> u64 {
        self.registers.scope_hash(self.scope)
    }

    /// When the call came, in milliseconds since the memory was made.
    fn now(&self) -> u64 {
        self.registers.millis_at(self.came)
    }

    /// The same since 1970.
    fn clock(&self) -> f64 {
        self.came as f64 / 1_000.0
    }

    /// Lets a write compete.
    fn write(&self, new: &New<'_>) -> Result<Competed> {
        let write = Write {
            name: self.registers.name(self.scope, new.namespace, new.key),
            timestamp: new.timestamp.unwrap_or_else(|| self.clock()),
            own_clock: new.timestamp.is_none(),
            peer: new.peer.as_bytes(),
            value: new.value.as_bytes(),
            ttl: new.ttl,
            role: Role { number: pg::current_role(), blocks: self.registers.role_blocks() },
        };
        let (written, found) = store::set(&self.registers, &write, self.now(), &Counted)?;
        let stats = self.database.stats();
        match written {
            Ok(Written::Won { timestamp, .. }) => {
                stats.sets.fetch_add(1, SeqCst);
                broadcast::register_changed(self.database);
                Ok(Competed::Won(timestamp))
            }
            Ok(Written::Lost) => {
                stats.losses.fetch_add(1, SeqCst);
                Ok(Competed::Lost(found))
            }
            Err(full) => {
                stats.refusals.fetch_add(1, SeqCst);
                Err(self.full(full, new))
            }
        }
    }

    fn full(&self, full: Full, new: &New<'_>) -> Error {
        let (key, bytes) = (new.key, new.value.len());
        let text = match full {
            Full::Memory => {
                format!("no room for register \"{key}\" with a value of {bytes} bytes: shared memory is full")
            }
            Full::Role => format!(
                "no room for register \"{key}\" with a value of {bytes} bytes: role \"{}\" fills its {} percent of shared memory",
                spi::current_user_name(),
                settings::ephemeral_role_share()
            ),
        };
        Error::new(state::OUT_OF_MEMORY, text).hint(match full {
            Full::Memory => "Raise crdt_db.ephemeral_memory and restart the server, or let registers expire sooner.",
            Full::Role => "Raise crdt_db.ephemeral_role_share, or let registers expire sooner.",
        })
    }
}

/// What became of a write.
enum Competed {
    /// The register shows it, with this timestamp.
    Won(f64),
    /// The register as it stands, which may have been removed.
    Lost(Found),
}

/// A write as it was asked for.
struct New<'a> {
    namespace: &'a str,
    key: &'a str,
    value: &'a str,
    /// `None`: now.
    timestamp: Option<f64>,
    peer: &'a str,
    ttl: u64,
}

impl New<'_> {
    /// Errors for what no register can hold, by the clock `now`. Nothing has been changed by then.
    fn check(&self, now: f64) -> Result<()> {
        check_name(self.namespace, self.key)?;
        check_length("peer", self.peer, 1, MAX_PEER)?;
        check_value(self.value.len())?;
        if !(1..=MAX_TTL).contains(&self.ttl) {
            return Err(Error::new(
                state::INVALID_PARAMETER,
                format!("ttl of {} ms must be between 1 ms and 10 days", self.ttl as i64),
            ));
        }
        let Some(timestamp) = self.timestamp else { return Ok(()) };
        let bad = |what: String, hint: &'static str| {
            Err(Error::new(state::TIMESTAMP, format!("timestamp {timestamp:?} {what}")).hint(hint))
        };
        if !timestamp.is_finite() || timestamp < 0.0 {
            return bad(
                "must be a number of milliseconds since 1970".into(),
                "Send what the client's clock says, or leave the timestamp out.",
            );
        }
        let drift = settings::max_timestamp_drift();
        if timestamp > now + drift as f64 {
            let ahead = (timestamp - now).round();
            return bad(
                format!("is {ahead:?} ms ahead of the server's clock, the limit is {drift}"),
                "Set the client's clock, or leave the timestamp out. See crdt_db.max_timestamp_drift.",
            );
        }
        Ok(())
    }
}

/// An entry as SQL sees it.
fn entry(key: &str, value: Part<'_>, timestamp: f64, peer: &str) -> Result<Out> {
    let digits;
    let timestamp = match thousandths(timestamp) {
        Some(thousandths) => Part::Thousandths(thousandths),
        None => {
            digits = timestamp.to_string();
            Part::Number(&digits)
        }
    };
    jsonb::object(&[("key", Part::Text(key)), ("peer", Part::Text(peer)), ("value", value), ("timestamp", timestamp)])
}

/// The register that was found, if it shows a value.
fn entry_found(found: &Found) -> Result<Out> {
    let Some(record) = found.records.first().filter(|record| record.live) else { return Ok(Out::Null) };
    let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
    let value = Part::Json(text(found.value(record)));
    entry(text(found.key(record)), value, record.timestamp, text(found.peer(record)))
}

/// The thousandths whose shortest decimal also is the shortest one that is read as this timestamp. `None` where that cannot
/// be told.
fn thousandths(timestamp: f64) -> Option<u64> {
    // Below this, until the year 2109, doubles lie closer to each other than thousandths do: no two of these are read as one.
    const FINE: f64 = (1u64 << 42) as f64;
    let thousandths = (timestamp * 1_000.0).round();
    ((0.0..FINE).contains(&timestamp) && thousandths / 1_000.0 == timestamp).then_some(thousandths as u64)
}

fn check_name(namespace: &str, key: &str) -> Result<()> {
    check_length("ns", namespace, 1, MAX_NAMESPACE)?;
    check_length("key", key, 1, MAX_KEY)
}

fn check_length(what: &str, text: &str, least: usize, most: usize) -> Result<()> {
    if (least..=most).contains(&text.len()) {
        return Ok(());
    }
    Err(Error::new(state::LIMIT, format!("{what} has {} bytes, allowed are {least} to {most}", text.len())))
}

/// The text of a value counts, not the jsonb, which takes up to four times as much of memory.
fn check_value(bytes: usize) -> Result<()> {
    let most = settings::ephemeral_max_value();
    if bytes > most { Err(value_too_long(&bytes.to_string(), most)) } else { Ok(()) }
}

fn value_too_long(bytes: &str, most: usize) -> Error {
    Error::new(state::LIMIT, format!("value has {bytes} bytes as text, crdt_db.ephemeral_max_value allows {most}"))
        .hint("Put what is large into a table and its key into the register, or raise crdt_db.ephemeral_max_value.")
}

fn here() -> Result<(Registers, &'static Database)> {
    catalog::names()?;
    memory()
}

/// The same, when the catalog has just been asked.
fn memory() -> Result<(Registers, &'static Database)> {
    let registers = registers::registers().ok_or_else(flush::not_preloaded)?;
    let database = broadcast::own().ok_or_else(broadcast::too_many_databases)?;
    registers.take_over(database, catalog::log_oid());
    Ok((registers, database))
}

/// `crdt.ephemeral_set(doc, ns, key, value, timestamp, peer, ttl)`
pub fn set(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let (namespace, key) = (args.str(1, "ns")?, args.str(2, "key")?);
    let most = settings::ephemeral_max_value();
    // Large ones are refused before their text is written: it has a quarter as many bytes at least.
    let value = args.jsonb(3, "value", 8 * most).map_err(|e| match e.state {
        state::LIMIT => value_too_long(&format!("more than {most}"), most),
        _ => e,
    })?;
    let peer = args.opt_str(5, "peer")?;
    let new = New {
        namespace: &namespace,
        key: &key,
        value: &value,
        timestamp: args.opt_f64(4),
        peer: peer.as_deref().unwrap_or(&place.doc.peer),
        ttl: args.opt_millis(6).map_or_else(settings::ephemeral_ttl, |ms| ms as u64),
    };
    new.check(place.clock())?;
    match place.write(&new)? {
        Competed::Won(timestamp) => entry(new.key, Part::Image(args.jsonb_image(3, "value")?), timestamp, new.peer),
        Competed::Lost(found) => entry_found(&found),
    }
}

/// `crdt.ephemeral_get(doc, ns, key)`
pub fn get(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let (namespace, key) = (args.str(1, "ns")?, args.str(2, "key")?);
    let name = place.registers.name(place.scope, &namespace, &key);
    let found = store::get(&place.registers, &name, place.now())?;
    entry_found(&found)
}

/// `crdt.ephemeral_get_all(doc, ns)`
pub fn get_all(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let namespace = args.str(1, "ns")?;
    let mut found = store::list(&place.registers, place.scope, place.hash(), Some(namespace.as_bytes()), place.now())?;
    message::sort_by_name(&mut found);
    let mut out = String::from("{");
    for (i, record) in found.records.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        write_string(&mut out, &String::from_utf8_lossy(found.key(record)))?;
        out.push(':');
        message::write_entry(&mut out, &found, record)?;
    }
    out.push('}');
    Ok(Out::Jsonb(out))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, expecting = "an entry")]
struct Given<'a> {
    /// As in entries that this server hands out; the key it is under counts.
    #[serde(rename = "key")]
    _key: Option<String>,
    #[serde(borrow)]
    value: &'a RawValue,
    /// Read by ourselves, so that what is wrong with it is said of its key.
    #[serde(borrow)]
    timestamp: &'a RawValue,
    peer: String,
}

impl Given<'_> {
    fn as_write<'a>(&'a self, namespace: &'a str, key: &'a str) -> Result<New<'a>> {
        let timestamp = self.timestamp.get();
        let number = timestamp.parse().map_err(|_| malformed("timestamp is not a number".into()));
        Ok(New {
            namespace,
            key,
            value: self.value.get(),
            timestamp: Some(number?),
            peer: &self.peer,
            ttl: settings::ephemeral_ttl(),
        })
    }
}

fn malformed(what: String) -> Error {
    Error::new(state::MALFORMED, what)
        .hint("The shape is {\"ns\":{\"key\":{\"value\":…,\"timestamp\":ms,\"peer\":\"name\"}}}.")
}

/// The same error, which says where among the entries; of names that may be too long their beginning.
fn within(namespace: &str, key: &str, error: Error) -> Error {
    let [namespace, key] = [namespace, key].map(|name| name.chars().take(60).collect::<String>());
    Error { message: format!("entries: \"{namespace}\".\"{key}\": {}", error.message), ..error }
}

/// `crdt.ephemeral_merge(doc, entries)`
pub fn merge(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let text = args.jsonb(1, "entries", Limits::default().request_bytes)?;
    let given: BTreeMap<String, BTreeMap<String, Given<'_>>> =
        serde_json::from_str(&text).map_err(|e| malformed(format!("entries: {e}")))?;
    let all = given.iter().flat_map(|(namespace, keys)| keys.iter().map(move |(key, given)| (namespace, key, given)));
    // All of them, before the first one changes anything.
    for (namespace, key, given) in all.clone() {
        let checked = given.as_write(namespace, key).and_then(|new| new.check(place.clock()));
        checked.map_err(|e| within(namespace, key, e))?;
    }
    let mut out = String::from("{");
    let mut open = None;
    for (namespace, key, given) in all {
        pg::entry::check_interrupts();
        let new = given.as_write(namespace, key)?;
        let Competed::Won(timestamp) = place.write(&new)? else { continue };
        if open.replace(new.namespace) != Some(new.namespace) {
            close_object(&mut out);
            separate(&mut out);
            write_string(&mut out, new.namespace)?;
            out.push_str(":{");
        }
        separate(&mut out);
        write_string(&mut out, new.key)?;
        out.push(':');
        message::write_parts(&mut out, new.key, Some(new.value), timestamp, new.peer)?;
    }
    close_object(&mut out);
    out.push('}');
    Ok(Out::Jsonb(out))
}

fn separate(out: &mut String) {
    if !out.ends_with('{') {
        out.push(',');
    }
}

/// Ends the object of a namespace, if one was begun.
fn close_object(out: &mut String) {
    if out.len() > 1 {
        out.push('}');
    }
}

/// `crdt.ephemeral_remove(doc, ns, key)`
pub fn remove(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let (namespace, key) = (args.str(1, "ns")?, args.str(2, "key")?);
    let name = place.registers.name(place.scope, &namespace, &key);
    let gone = store::remove(&place.registers, &name, place.clock(), place.now(), &Counted);
    if gone {
        broadcast::register_changed(place.database);
    }
    Ok(Out::Bool(gone))
}

/// `crdt.ephemeral_since(doc, position)`
pub fn since(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let registers = place.registers;
    let now = place.now();
    // Whoever asks hears of what has expired also where nobody listens, and no worker turns the wheel.
    store::turn_a_portion(&registers, now, &Counted);
    let position = args.opt_i64(1).and_then(|outside| registers.known_position(outside));
    let position = position.filter(|position| place.database.has_reached(*position));
    let mut changes = match position {
        Some(position) => store::since(&registers, place.scope, place.hash(), position, None, now)?,
        None => store::everything(&registers, place.scope, place.hash(), now)?,
    };
    message::sort_by_name(&mut changes.found);
    let mut out = format!("{{\"position\":{},", registers.base() + changes.position);
    if changes.too_old {
        out.push_str("\"reset\":true,");
    }
    let since = position.filter(|_| !changes.too_old).unwrap_or(0);
    message::write_changes(&mut out, &changes.found, &changes.found.records, since, |_| true)?;
    out.push('}');
    Ok(Out::Jsonb(out))
}

/// `crdt.ephemeral_clear(doc, ns)`
pub fn clear(args: &Args<'_>) -> Result<Out> {
    let place = Place::of(args)?;
    let namespace = args.opt_str(1, "ns")?;
    let registers = place.registers;
    let namespace = namespace.as_deref().map(str::as_bytes);
    let cleared = store::clear(&registers, place.scope, place.hash(), namespace, place.now(), &Counted);
    if cleared > 0 {
        broadcast::register_changed(place.database);
    }
    Ok(Out::I64(cleared as i64))
}

/// `crdt.ephemeral_entries()`: the live registers of this database.
pub fn entries(args: &Args<'_>) -> Result<Out> {
    let (registers, _) = here()?;
    let found = store::list_all(&registers, pg::database(), catalog::log_oid(), registers.now())?;
    let mut rows = Rows::new(args)?;
    for record in &found.records {
        pg::entry::check_interrupts();
        let text = |bytes| std::str::from_utf8(bytes).unwrap_or_default();
        rows.push(&[
            Col::I64(record.scope.doc),
            Col::Text(text(found.namespace(record))),
            Col::Text(text(found.key(record))),
            Col::Jsonb(text(found.value(record))),
            Col::Text(text(found.peer(record))),
            Col::Time((record.timestamp * 1_000.0) as i64 - FROM_1970_TO_2000),
            Col::Time((registers.base() + record.deadline * 1_000) as i64 - FROM_1970_TO_2000),
            Col::I64((registers.base() + record.position) as i64),
        ]);
    }
    Ok(Out::Null)
}

/// `crdt.ephemeral_stats()`: one line of counts of this database.
pub fn stats(args: &Args<'_>) -> Result<Out> {
    let (registers, database) = here()?;
    let usage = store::usage(&registers, pg::database());
    let stats = database.stats();
    let count = |of: &std::sync::atomic::AtomicU64| Col::I64(of.load(SeqCst) as i64);
    let mut rows = Rows::new(args)?;
    rows.push(&[
        Col::I64(usage.entries as i64),
        Col::I64(usage.bytes as i64),
        count(&stats.sets),
        count(&stats.losses),
        count(&stats.expiries),
        count(&stats.evictions),
        count(&stats.refusals),
        count(&stats.notifications),
        count(&stats.failures),
        count(&stats.lag),
        count(&stats.longest_lag),
        Col::I64(database.listeners(Channel::Ephemeral).into()),
        Col::I64(database.listeners(Channel::Changes).into()),
        database.worker().map_or(Col::Null, |pid| Col::I64(pid.into())),
        Col::Time(stats.reset_at.load(SeqCst) - FROM_1970_TO_2000),
    ]);
    Ok(Out::Null)
}

/// `crdt.stat_ephemeral_reset()`
pub fn reset_stats(_args: &Args<'_>) -> Result<Out> {
    here()?.1.stats().clear();
    Ok(Out::Null)
}

/// `crdt.set_notify_payload(doc, payload)`
pub fn set_notify_payload(args: &Args<'_>) -> Result<Out> {
    let doc = catalog::doc(args.i64(0, "doc")?)?.doc;
    let payload = args.bool(1, "payload")?;
    let owner = catalog::names()?.owner;
    let sql = match payload {
        true => "UPDATE crdt.doc SET notify_payload = true WHERE doc = $1",
        false => "UPDATE crdt.doc SET notify_payload = false WHERE doc = $1",
    };
    spi::as_role(owner, || spi::connect(|c| c.run(sql, &[Param::i64(doc)], false)))?;
    Ok(Out::Null)
}

#[cfg(test)]
mod tests {
    use super::thousandths;

    #[test]
    fn thousandths_are_the_shortest_decimals() {
        let check = |timestamp: f64| {
            let Some(n) = thousandths(timestamp) else { return };
            let text = format!("{}.{:03}", n / 1_000, n % 1_000);
            assert_eq!(text.trim_end_matches('0').trim_end_matches('.'), timestamp.to_string());
        };
        let mut seed = 1u64;
        for i in 0..200_000 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let timestamp = (seed >> [2, 12, 22, 40, 60][i % 5]) as f64 / 1_000.0;
            let near = [timestamp, timestamp.next_up(), timestamp.trunc(), f64::from_bits(seed >> 1)];
            near.into_iter().for_each(check);
        }
        let edges = [0.0, 0.001, 0.1, 5e-324, 4_398_046_511_103.999, 4_398_046_511_104.0, f64::MAX, f64::NAN, -1.0];
        edges.into_iter().for_each(check);
        assert_eq!(thousandths(1_795_358_755_496.31), Some(1_795_358_755_496_310));
    }
}
