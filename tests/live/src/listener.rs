//! A connection that listens, and what it knows from what it heard.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use fallible_iterator::FallibleIterator;
use postgres::Client;
use serde_json::Value;

use crate::Cluster;
use crate::session::PATIENCE;

/// Bytes of a message, at most.
const MAX_MESSAGE: usize = 7_900;

/// A notification.
#[derive(Clone, Debug)]
pub struct Message {
    /// The channel.
    pub channel: String,
    /// What it says.
    pub payload: Value,
    /// How long it is, in bytes.
    pub len: usize,
    /// When it was heard.
    pub at: Instant,
}

impl Message {
    /// The position it tells everything up to.
    pub fn position(&self) -> i64 {
        self.payload["position"].as_i64().unwrap_or_else(|| panic!("no position in {}", self.payload))
    }

    /// The doc it is about.
    pub fn doc(&self) -> i64 {
        self.payload["doc"].as_i64().unwrap_or_else(|| panic!("no doc in {}", self.payload))
    }

    /// What happened to a register, if this tells of it: `join`, `update` or `leave`, and the entry or null.
    pub fn event(&self, namespace: &str, key: &str) -> Option<(&str, &Value)> {
        let event = self.payload["events"][namespace][key].as_str()?;
        Some((event, &self.payload["entries"][namespace][key]))
    }
}

/// A connection that listens. It can be used for statements too.
pub struct Listener {
    /// The connection.
    pub client: Client,
    /// Everything heard so far.
    pub heard: Vec<Message>,
    /// Registers of each doc as they were told: by doc, namespace and key.
    pub shown: BTreeMap<(i64, String, String), Value>,
    /// Docs of which something changed that was not told.
    pub unknown: Vec<i64>,
    /// Docs to be taken whole; `None`: all of them.
    resets: Vec<Option<i64>>,
}

impl Listener {
    /// Listens to these channels of a database.
    pub fn on(cluster: &Cluster, database: &str, channels: &[&str]) -> Listener {
        Listener::with(cluster.connect(database), channels)
    }

    /// Listens on this connection.
    pub fn with(mut client: Client, channels: &[&str]) -> Listener {
        for channel in channels {
            client.batch_execute(&format!("LISTEN {channel}")).expect("LISTEN");
        }
        Listener { client, heard: Vec::new(), shown: BTreeMap::new(), unknown: Vec::new(), resets: Vec::new() }
    }

    /// Listens for so long.
    pub fn listen_for(&mut self, time: Duration) -> &[Message] {
        let from = self.heard.len();
        let until = Instant::now() + time;
        while self.take(until.saturating_duration_since(Instant::now())) {}
        &self.heard[from..]
    }

    /// Listens until what was heard so far, first to last, has what is looked for, and answers that. Panics with `what` when it
    /// takes too long.
    pub fn hear<T>(&mut self, what: &str, mut look: impl FnMut(&Listener) -> Option<T>) -> T {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look(self) {
                return found;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() || !self.take(left) {
                panic!(
                    "waited {PATIENCE:?} for {what}; heard the last of {}: {:?}",
                    self.heard.len(),
                    self.heard.last()
                );
            }
        }
    }

    /// Listens until a register is told with this value.
    pub fn hear_value(&mut self, doc: i64, namespace: &str, key: &str, value: &Value) {
        let name = (doc, namespace.to_owned(), key.to_owned());
        let shows = |listener: &Listener| listener.shown.get(&name).is_some_and(|entry| entry["value"] == *value);
        loop {
            self.hear(&format!("{name:?} to be {value}"), |l| (shows(l) || !l.resets.is_empty()).then_some(()));
            if shows(self) {
                return;
            }
            self.take_whole();
        }
    }

    /// Asks for docs that are to be taken whole.
    fn take_whole(&mut self) {
        let mut docs: Vec<i64> = self.shown.keys().map(|name| name.0).filter(|_| self.resets.contains(&None)).collect();
        docs.extend(self.resets.drain(..).flatten());
        for doc in docs {
            self.shown.retain(|name, _| name.0 != doc);
            let sql = "SELECT crdt.ephemeral_since($1, NULL) -> 'entries'";
            let entries: Value = self.client.query_one(sql, &[&doc]).expect("crdt.ephemeral_since").get(0);
            self.apply_entries(doc, &entries);
        }
    }

    /// Listens until the next event of a register after the first `from` messages.
    pub fn hear_event(&mut self, from: usize, namespace: &str, key: &str) -> (String, Value) {
        self.hear(&format!("an event of {namespace}/{key}"), |listener| {
            let messages = listener.heard[from..].iter();
            messages
                .filter_map(|m| m.event(namespace, key))
                .map(|(event, entry)| (event.to_owned(), entry.clone()))
                .next()
        })
    }

    fn take(&mut self, time: Duration) -> bool {
        let next = self.client.notifications().timeout_iter(time).next().expect("the connection");
        let Some(notification) = next else { return false };
        let text = notification.payload();
        assert!(text.len() <= MAX_MESSAGE, "{} bytes", text.len());
        let payload = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
        let channel = notification.channel().to_owned();
        let message = Message { channel, payload, len: text.len(), at: Instant::now() };
        if message.channel == "crdt_ephemeral" {
            self.apply(&message);
        }
        self.heard.push(message);
        true
    }

    fn apply(&mut self, message: &Message) {
        if message.payload.get("reset").is_some() {
            self.resets.push(message.payload["doc"].as_i64());
        } else if let Some(entries) = message.payload.get("entries") {
            self.apply_entries(message.doc(), entries);
        } else {
            self.unknown.push(message.doc());
        }
    }

    fn apply_entries(&mut self, doc: i64, entries: &Value) {
        for (namespace, keys) in entries.as_object().expect("namespaces") {
            for (key, entry) in keys.as_object().expect("keys") {
                let name = (doc, namespace.clone(), key.clone());
                match entry {
                    Value::Null => self.shown.remove(&name),
                    entry => self.shown.insert(name, entry.clone()),
                };
            }
        }
    }
}
