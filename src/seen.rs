//! Large requests that were accepted before: a client that did not get its answer sends the same again, and need not pay
//! for it twice. One digest a peer is kept; a request that is not found here is simply looked at event by event.

use xxhash_rust::xxh3::xxh3_128;

use crate::catalog;
use crate::error::Result;
use crate::pg::spi::{self, Param};

/// Smaller requests are compared faster than they would be remembered.
const WORTH_BYTES: usize = 64 << 10;

/// A request's digest, when it is worth having one. It is no defence against its own sender, who could only skip a
/// comparison of his own events; the role is kept beside it, so it says nothing about anybody else's.
pub fn digest(request: &[u8]) -> Option<[u8; 16]> {
    (request.len() >= WORTH_BYTES).then(|| xxh3_128(request).to_be_bytes())
}

/// How many events the request had, if this role's request with this digest was accepted before.
pub fn events(doc: i64, digest: &[u8; 16]) -> Result<Option<u64>> {
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            let rows = c.run(
                "SELECT events, actor FROM crdt.accepted_request WHERE doc = $1 AND digest = $2",
                &[Param::i64(doc), Param::bytes(digest)],
                false,
            )?;
            Ok((!rows.is_empty()).then(|| (rows.i64(0, 1), rows.text(0, 2))))
        })
    })
    .map(|found| {
        let (events, actor) = found?;
        (*actor? == *spi::current_user_name()).then_some(events? as u64)
    })
}

/// Remembers an accepted request.
pub fn remember(doc: i64, peer: &str, digest: &[u8; 16], events: u64) -> Result<()> {
    let actor = spi::current_user_name();
    spi::as_role(catalog::names()?.owner, || {
        spi::connect(|c| {
            c.run(
                "INSERT INTO crdt.accepted_request (doc, peer, digest, events, actor) VALUES ($1, $2, $3, $4, $5) \
                 ON CONFLICT (doc, peer) DO UPDATE \
                 SET digest = excluded.digest, events = excluded.events, actor = excluded.actor",
                &[
                    Param::i64(doc),
                    Param::text(peer),
                    Param::bytes(digest),
                    Param::i64(events as i64),
                    Param::text(&actor),
                ],
                false,
            )
            .map(|_| ())
        })
    })
}
