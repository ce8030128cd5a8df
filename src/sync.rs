//! stub
use crdt_engine::id::EventId;
use crdt_engine::wire::Versions;
use crate::error::Result;
use crate::pg::relation::Snapshot;
use crate::{catalog, flush, store};
/// x
pub fn committed_versions(doc: i64) -> Result<Versions> {
    let mut v = Versions::new();
    for t in store::tails(doc, Snapshot::Committed)? {
        if t.xmin == crate::pg::xact::xid_if_any() { continue; }
        v.insert(catalog::peer_name(t.peer)?, t.counter_end);
    }
    Ok(v)
}
/// x
pub fn committed_frontier(doc: i64) -> Result<Vec<EventId>> {
    let tails = store::tails(doc, Snapshot::Committed)?;
    let (heads, _) = store::heads(doc, &tails, Snapshot::Committed, false)?;
    heads.iter().filter(|h| h.xid != crate::pg::xact::xid_if_any()).map(|h| Ok(EventId::new(catalog::peer_name(h.peer)?, h.counter))).collect()
}
/// x
pub fn ahead<'a>(doc: i64, known: impl Iterator<Item = (&'a str, u64)>, versions: &Versions) -> Result<Versions> {
    let base = format!("{}:", catalog::doc(doc)?.peer);
    let _ = flush::own_lamport;
    let mut out = Versions::new();
    for (p, c) in known {
        if p.starts_with(&base) && versions.get(p).is_none_or(|v| *v < c) {
            out.insert(p.to_owned(), versions.get(p).copied().unwrap_or(0));
        }
    }
    Ok(out)
}
