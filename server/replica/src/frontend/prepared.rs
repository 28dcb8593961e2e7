//! What the process remembers of prepared statements.
//!
//! A prepared id is the digest of keyspace and text, the same on every connection and every replica, so one cache
//! serves all sessions. An id that isn't there is answered UNPREPARED, and drivers prepare again.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::plan::Plan;

/// A statement that the local Cassandra has prepared.
#[derive(Debug)]
pub struct Prepared {
    /// As the client sent it.
    pub text: String,
    /// The session's keyspace when it was prepared; unqualified names belong to it for ever.
    pub keyspace: Option<String>,
    /// What to do with it when it is executed.
    pub plan: Plan,
}

impl Prepared {
    /// What it takes of [`PREPARED_BYTES`](super::limits::PREPARED_BYTES): what is known of a text may be many times as long.
    fn bytes(&self) -> usize {
        let known = match &self.plan {
            Plan::Read(statement) => statement.bytes(),
            Plan::Write(write) => write.statement.bytes(),
            Plan::Topology(select) => select.bytes(),
            Plan::Local | Plan::Use | Plan::Refuse(_) | Plan::Unknown => 0,
        };
        self.text.len() + known
    }
}

/// A statement of which more is known than is remembered of all prepared ones together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this statement can't be prepared: what is known of it takes {bytes} bytes, and all prepared statements together may take {limit}. \
     Execute it as it is, or prepare smaller ones: of a batch each member alone, for a BATCH of the protocol"
)]
pub struct TooLarge {
    /// What it takes, bytes.
    pub bytes: usize,
    /// What all may take, bytes.
    pub limit: usize,
}

/// A bounded cache: what was prepared longest ago goes first.
#[derive(Debug)]
pub struct PreparedCache {
    max_entries: usize,
    max_bytes: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<Bytes, Arc<Prepared>>,
    order: VecDeque<Bytes>,
    bytes: usize,
}

impl PreparedCache {
    /// A cache of at most `max_entries` statements of at most `max_bytes` bytes together.
    pub fn new(max_entries: usize, max_bytes: usize) -> Self {
        Self { max_entries, max_bytes, inner: Mutex::default() }
    }

    /// The statement of an id, if it is remembered.
    pub fn get(&self, id: &[u8]) -> Option<Arc<Prepared>> {
        self.lock().by_id.get(id).cloned()
    }

    /// Remembers a statement. The same id again replaces the old entry and keeps its place.
    ///
    /// # Errors
    /// It alone takes more than all may: it is not remembered, and nothing is forgotten for it.
    pub fn insert(&self, id: &[u8], prepared: Prepared) -> Result<(), TooLarge> {
        let (id, bytes) = (Bytes::copy_from_slice(id), prepared.bytes());
        if bytes > self.max_bytes {
            return Err(TooLarge { bytes, limit: self.max_bytes });
        }
        let mut inner = self.lock();
        inner.bytes += bytes;
        if let Some(old) = inner.by_id.insert(id.clone(), Arc::new(prepared)) {
            inner.bytes -= old.bytes();
        } else {
            inner.order.push_back(id);
        }
        while inner.order.len() > self.max_entries || inner.bytes > self.max_bytes {
            let Some(oldest) = inner.order.pop_front() else { break };
            if let Some(gone) = inner.by_id.remove(&oldest) {
                inner.bytes -= gone.bytes();
            }
        }
        Ok(())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn len(cache: &PreparedCache) -> usize {
        cache.lock().order.len()
    }

    fn statement(text: &str) -> Prepared {
        Prepared { text: text.to_owned(), keyspace: None, plan: Plan::Local }
    }

    #[test]
    fn i7_bounded_by_entries_and_by_bytes() {
        let cache = PreparedCache::new(2, 1000);
        for id in [b"a", b"b", b"c"] {
            cache.insert(id, statement("x")).expect("small");
        }
        assert!(cache.get(b"a").is_none() && cache.get(b"b").is_some() && cache.get(b"c").is_some());
        assert_eq!(len(&cache), 2);

        let cache = PreparedCache::new(100, 10);
        cache.insert(b"a", statement("123456")).expect("small");
        cache.insert(b"b", statement("1234")).expect("small");
        assert_eq!(len(&cache), 2);
        cache.insert(b"c", statement("1")).expect("small");
        assert!(cache.get(b"a").is_none());
        let too_large = cache.insert(b"d", statement(&"y".repeat(11)));
        assert_eq!(too_large, Err(TooLarge { bytes: 11, limit: 10 }));
        assert_eq!(len(&cache), 2, "nothing is forgotten for it");
        cache.insert(b"d", statement(&"y".repeat(10))).expect("as large as may be");
        assert_eq!(len(&cache), 1);
    }

    #[test]
    fn i7_what_is_known_of_a_text_counts() {
        let text = format!("BEGIN BATCH {} APPLY BATCH", "DELETE FROM a.t WHERE k = ?;".repeat(1000));
        let prepared = Prepared { keyspace: None, plan: super::super::plan::plan(&text, None), text };
        assert!(prepared.bytes() > 10 * prepared.text.len());
        let cache = PreparedCache::new(2, prepared.bytes() - 1);
        assert!(cache.insert(b"a", prepared).is_err());
        assert_eq!((len(&cache), cache.lock().bytes), (0, 0));
    }

    #[test]
    fn the_same_id_again_counts_once() {
        let cache = PreparedCache::new(2, 10);
        for _ in 0..20 {
            cache.insert(b"a", statement("12345")).expect("small");
        }
        assert_eq!(len(&cache), 1);
        cache.insert(b"b", statement("12345")).expect("small");
        assert_eq!(len(&cache), 2);
    }
}
