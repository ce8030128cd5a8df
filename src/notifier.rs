//! The background worker of a database: tells listeners what changed, one batch for each doc and tick. It sleeps as long as
//! nothing changes and nothing expires, and leaves when nobody has listened for a while.

use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use crdt_engine::ephemeral::{Scope, message, store};
use crdt_engine::wire::json;

use crate::broadcast::{self, Channel, Database};
use crate::catalog;
use crate::committed::{HEAD_BUDGET, Log};
use crate::error::{Result, state};
use crate::pg::spi;
use crate::pg::{self, worker};
use crate::registers::{self, Counted, Registers};
use crate::settings;

/// Without a listener the worker leaves after this.
const LINGER: Duration = Duration::from_secs(10);
/// After a batch that could not be sent.
const BACK_OFF: Duration = Duration::from_secs(1);
/// Docs announced in one go when all of them are.
const EVERY_DOC_PAGE: i64 = 1_000;

/// The worker's life.
pub fn run() {
    let (Some(database), Some(registers)) = (broadcast::own(), registers::registers()) else { return };
    if !installed() {
        return;
    }
    let mut notifier = Notifier { database, registers, every_doc: None };
    let mut idle_since = Instant::now();
    loop {
        let begun = Instant::now();
        let pending_since = database.take_pending();
        store::turn(&registers, registers.now(), &Counted);
        match notifier.tell() {
            Ok(told) => {
                if told > 0 {
                    database.stats().notifications.fetch_add(told, SeqCst);
                    note_lag(database, pending_since);
                }
                if told > 0 || pending_since.is_some() {
                    idle_since = begun;
                }
            }
            Err(_) if !installed() => return,
            Err(why) => {
                database.stats().failures.fetch_add(1, SeqCst);
                worker::log(&format!("could not notify, will try again: {why}"));
                database.put_back(pending_since.unwrap_or_else(pg::now_micros));
                if !rest(database, BACK_OFF) {
                    break;
                }
                shorten_queue();
                continue;
            }
        }
        if !rest(database, settings::notify_interval().saturating_sub(begun.elapsed())) {
            break;
        }
        let deserted = !database.has_listeners(Channel::Ephemeral) && !database.has_listeners(Channel::Changes);
        if deserted && idle_since.elapsed() >= LINGER && database.may_leave() {
            return;
        }
        let busy = database.is_pending() || (notifier.is_announcing() && !deserted);
        if !busy && !sleep(database, &registers, deserted) {
            break;
        }
    }
    // Told to end: by an administrator, for a statement that wants nobody here, or with the server.
    database.succeed();
}

/// Has PostgreSQL drop what all listeners have read from its queue of notifications. It does so when one is sent, which a full
/// queue prevents for ever, and when it is asked how full the queue is.
fn shorten_queue() {
    let sql = "SELECT pg_catalog.pg_notification_queue_usage()";
    let _ = worker::transaction(|| spi::connect(|c| c.run(sql, &[], true).map(|_| ())));
}

/// Is the extension there? Where it is not, LISTEN starts workers in vain.
fn installed() -> bool {
    worker::transaction(|| Ok(catalog::names().is_ok())).unwrap_or(false)
}

/// Waits out the tick: what changes meanwhile is told in the next one. False when the worker is to end. Waits a moment also when
/// the tick is over: only a wait tells whether somebody wants the worker to end, or the configuration read again.
fn rest(database: &Database, time: Duration) -> bool {
    let until = Instant::now() + time;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if !worker::wait(Some(left.max(Duration::from_millis(1)))) || database.must_leave() {
            return false;
        }
        if until <= Instant::now() {
            return true;
        }
    }
}

/// Sleeps until something changes or expires. False when the worker is to end.
fn sleep(database: &Database, registers: &Registers, deserted: bool) -> bool {
    worker::show_activity(c"waiting for changes");
    let due = store::next_due(registers).map(|due| Duration::from_millis(due.saturating_sub(registers.now()) + 1));
    let timeout = match (due, deserted) {
        (_, true) => Some(LINGER),
        (due, false) => due,
    };
    worker::wait(timeout) && !database.must_leave()
}

fn note_lag(database: &Database, pending_since: Option<i64>) {
    if let Some(since) = pending_since {
        let lag = (pg::now_micros() - since).max(0) as u64;
        database.stats().lag.store(lag, SeqCst);
        database.stats().longest_lag.fetch_max(lag, SeqCst);
    }
}

struct Notifier {
    database: &'static Database,
    registers: Registers,
    /// A request to announce every doc that is being met: which, and the last doc announced.
    every_doc: Option<(u32, i64)>,
}

impl Notifier {
    fn is_announcing(&self) -> bool {
        self.database.every_doc().is_some()
    }

    /// Tells what there is to tell. Returns how many messages went out.
    fn tell(&mut self) -> std::result::Result<u64, String> {
        self.database.set_telling(true);
        let told = self.tell_registers().and_then(|told| Ok(told + self.tell_commits()?));
        self.database.set_telling(false);
        told
    }

    /// What changed in registers.
    fn tell_registers(&self) -> std::result::Result<u64, String> {
        if !self.database.has_listeners(Channel::Ephemeral) {
            return Ok(0);
        }
        let since = self.database.sent();
        let changed = store::changed_docs(&self.registers, pg::database(), since).map_err(|e| e.to_string())?;
        let (until, scopes) = changed;
        let (forgotten, any) = self.database.take_forgotten();
        if scopes.is_empty() && forgotten.is_empty() && !any {
            self.database.set_sent(until);
            return Ok(0);
        }
        let told = worker::transaction(|| {
            catalog::names()?;
            self.registers.take_over(self.database, catalog::log_oid());
            let resets = self.tell_resets(&forgotten, any, until);
            let scopes =
                scopes.iter().filter(|scope| scope.log == catalog::log_oid() && !forgotten.contains(&scope.doc));
            scopes.map(|scope| self.tell_doc(*scope, since, until)).sum::<Result<u64>>().map(|told| told + resets)
        });
        match told.is_ok() {
            true => self.database.set_sent(until),
            false => self.database.put_back_forgotten(&forgotten, any),
        }
        told
    }

    /// What changed in a doc.
    fn tell_doc(&self, scope: Scope, since: u64, until: u64) -> Result<u64> {
        let (hash, now) = (self.registers.scope_hash(scope), self.registers.now());
        let changes = store::since(&self.registers, scope, hash, since, Some(until), now)?;
        if changes.found.records.is_empty() && !changes.too_old {
            return Ok(0);
        }
        let payload = shows_payload(scope.doc)?;
        let texts = message::messages(scope.doc, &changes, since, self.registers.base(), payload)?;
        texts.iter().for_each(|text| worker::notify(Channel::Ephemeral.name(), text));
        Ok(texts.len() as u64)
    }

    /// That docs are to be taken whole, `any`: all of them. What was in them is forgotten already.
    fn tell_resets(&self, docs: &[i64], any: bool, until: u64) -> u64 {
        let all = any.then_some(None).into_iter();
        let mut told = 0;
        for doc in docs.iter().copied().map(Some).chain(all) {
            worker::notify(Channel::Ephemeral.name(), &message::reset(doc, self.registers.base() + until));
            told += 1;
        }
        told
    }

    /// Docs that commits have changed.
    fn tell_commits(&mut self) -> std::result::Result<u64, String> {
        if !self.database.has_listeners(Channel::Changes) {
            return Ok(0);
        }
        let changed = broadcast::take_changed(pg::database(), Channel::Changes);
        if self.every_doc.is_none() {
            self.every_doc = self.database.every_doc().map(|asked| (asked, i64::MIN));
        }
        if changed.is_empty() && self.every_doc.is_none() {
            return Ok(0);
        }
        let told = worker::transaction(|| self.announce(&changed));
        match told {
            Ok((told, every_doc)) => {
                if let (Some((asked, _)), None) = (self.every_doc, every_doc) {
                    self.database.every_doc_done(asked);
                }
                self.every_doc = every_doc;
                Ok(told)
            }
            Err(why) => {
                broadcast::docs_changed(changed.into_iter());
                Err(why)
            }
        }
    }

    /// Announces these docs, and a page of all docs if that was asked for. Returns where the next page begins.
    fn announce(&self, changed: &[i64]) -> Result<(u64, Option<(u32, i64)>)> {
        let mut docs = changed.to_vec();
        let mut every_doc = None;
        if let Some((asked, after)) = self.every_doc {
            let page = catalog::docs_after(after, EVERY_DOC_PAGE)?;
            if page.len() as i64 == EVERY_DOC_PAGE {
                every_doc = page.last().map(|last| (asked, *last));
            }
            docs.extend(page);
        }
        docs.sort_unstable();
        docs.dedup();
        for doc in &docs {
            worker::notify(Channel::Changes.name(), &commit_message(*doc)?);
        }
        Ok((docs.len() as u64, every_doc))
    }
}

fn commit_message(doc: i64) -> Result<String> {
    let bare = format!("{{\"doc\":{doc}}}");
    if !shows_payload(doc)? {
        return Ok(bare);
    }
    let log = match Log::open(doc) {
        Ok(log) => log,
        Err(e) if e.state == state::UNDEFINED_OBJECT => return Ok(bare),
        Err(e) => return Err(e),
    };
    let mut out = format!("{{\"doc\":{doc},\"frontier\":");
    json::write_frontier(&mut out, &log.frontier(&log.heads(HEAD_BUDGET)?)?)?;
    out.push('}');
    Ok(if out.len() <= message::MAX_MESSAGE { out } else { bare })
}

/// May notifications about a doc say what changed?
fn shows_payload(doc: i64) -> Result<bool> {
    Ok(settings::notify_payload() && catalog::shows_payload(doc)?)
}
