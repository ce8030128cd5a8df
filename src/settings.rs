//! The extension's settings, `crdt_db.*`.

use std::ffi::CStr;
use std::time::Duration;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

static EPHEMERAL_MEMORY: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static EPHEMERAL_TTL: GucSetting<i32> = GucSetting::<i32>::new(30_000);
static EPHEMERAL_MAX_VALUE: GucSetting<i32> = GucSetting::<i32>::new(16 * 1024);
static EPHEMERAL_ROLE_SHARE: GucSetting<i32> = GucSetting::<i32>::new(75);
static MAX_TIMESTAMP_DRIFT: GucSetting<i32> = GucSetting::<i32>::new(300_000);
static NOTIFY_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(10);
static NOTIFY_PAYLOAD: GucSetting<bool> = GucSetting::<bool>::new(true);

/// The name of the setting that workers obey, which they read when they start.
const NOTIFY_PAYLOAD_NAME: &CStr = c"crdt_db.notify_payload";

/// A setting that is a number.
struct Number {
    name: &'static CStr,
    about: &'static CStr,
    more: &'static CStr,
    setting: &'static GucSetting<i32>,
    range: std::ops::RangeInclusive<i32>,
    context: GucContext,
    flags: GucFlags,
}

const DAY: i32 = 24 * 3_600 * 1_000;

/// Declares the settings. Those of shared memory can be set only while libraries are preloaded.
pub fn init(preloading: bool) {
    let fixed = Number {
        name: c"crdt_db.ephemeral_memory",
        about: c"Shared memory for ephemeral registers.",
        more: c"100,000 small registers take 16 MB.",
        setting: &EPHEMERAL_MEMORY,
        range: 256..=16 * 1024 * 1024,
        context: GucContext::Postmaster,
        flags: GucFlags::UNIT_KB,
    };
    let others = [
        Number {
            name: c"crdt_db.ephemeral_ttl",
            about: c"How long an ephemeral register stays that is not set again, unless its ttl says otherwise.",
            more: c"A removal is remembered as long.",
            setting: &EPHEMERAL_TTL,
            range: 1..=10 * DAY,
            context: GucContext::Userset,
            flags: GucFlags::UNIT_MS,
        },
        Number {
            name: c"crdt_db.ephemeral_max_value",
            about: c"The largest value of an ephemeral register.",
            more: c"As JSON text, in bytes.",
            setting: &EPHEMERAL_MAX_VALUE,
            range: 64..=8 * 1024 * 1024,
            context: GucContext::Suset,
            flags: GucFlags::UNIT_BYTE,
        },
        Number {
            name: c"crdt_db.ephemeral_role_share",
            about: c"How much of the memory for ephemeral registers one role may fill, in percent.",
            more: c"The memory is divided into shards, and the share holds for each of them.",
            setting: &EPHEMERAL_ROLE_SHARE,
            range: 1..=100,
            context: GucContext::Suset,
            flags: GucFlags::default(),
        },
        Number {
            name: c"crdt_db.max_timestamp_drift",
            about: c"How far ahead of the server's clock the timestamp of an ephemeral register may be.",
            more: c"",
            setting: &MAX_TIMESTAMP_DRIFT,
            range: 0..=10 * DAY,
            context: GucContext::Suset,
            flags: GucFlags::UNIT_MS,
        },
        Number {
            name: c"crdt_db.notify_interval",
            about: c"The shortest time between two notifications about one doc.",
            more: c"What changes meanwhile is told together.",
            setting: &NOTIFY_INTERVAL,
            range: 1..=60_000,
            context: GucContext::Sighup,
            flags: GucFlags::UNIT_MS,
        },
    ];
    if preloading {
        fixed.define();
    }
    others.into_iter().for_each(Number::define);
    GucRegistry::define_bool_guc(
        NOTIFY_PAYLOAD_NAME,
        c"Notifications say what changed, and not only that something did.",
        c"Any role of a database may LISTEN. See also crdt.set_notify_payload(doc, payload).",
        &NOTIFY_PAYLOAD,
        GucContext::Suset,
        GucFlags::default(),
    );
}

impl Number {
    fn define(self) {
        let (low, high) = self.range.into_inner();
        GucRegistry::define_int_guc(
            self.name,
            self.about,
            self.more,
            self.setting,
            low,
            high,
            self.context,
            self.flags,
        );
    }
}

fn millis(setting: &GucSetting<i32>) -> u64 {
    setting.get().unsigned_abs().into()
}

/// Bytes of shared memory for registers.
pub fn ephemeral_memory() -> usize {
    EPHEMERAL_MEMORY.get() as usize * 1024
}

/// How long a register stays, in milliseconds.
pub fn ephemeral_ttl() -> u64 {
    millis(&EPHEMERAL_TTL)
}

/// The largest value, in bytes.
pub fn ephemeral_max_value() -> usize {
    EPHEMERAL_MAX_VALUE.get() as usize
}

/// What one role may fill, in percent.
pub fn ephemeral_role_share() -> u32 {
    EPHEMERAL_ROLE_SHARE.get() as u32
}

/// How far ahead timestamps may be, in milliseconds.
pub fn max_timestamp_drift() -> u64 {
    millis(&MAX_TIMESTAMP_DRIFT)
}

/// The shortest time between two notifications about one doc.
pub fn notify_interval() -> Duration {
    Duration::from_millis(millis(&NOTIFY_INTERVAL))
}

/// Is this the name of [`notify_payload`]?
pub fn is_notify_payload(name: &str) -> bool {
    name.as_bytes().eq_ignore_ascii_case(NOTIFY_PAYLOAD_NAME.to_bytes())
}

/// Do notifications say what changed?
pub fn notify_payload() -> bool {
    NOTIFY_PAYLOAD.get()
}
