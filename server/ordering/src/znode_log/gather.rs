//! Entries that are ready at the same time go into the log in one transaction, each at a place of its own: what ZooKeeper's
//! servers pay for is the transaction (a proposal, a sync to disk and a commit on each of them) far more than what is in it.
//! Entries of other replicas come along, if those have handed theirs over ([`super::push`]).
//!
//! One transaction is on its way at a time, and what comes meanwhile waits for the next one. Writers that took part lately are
//! about to write again, for all their clients were answered at the same moment: the next one waits for them, a little.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Weak;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::Inner;
use super::append::{Part, Transaction};

/// Entries waiting for their turn; more wait before it.
pub(super) const QUEUE: usize = 256;
/// Entries in one transaction.
pub(super) const ENTRIES: usize = 64;
/// Longest wait for those that took part lately.
const LONGEST_WAIT: Duration = Duration::from_millis(5);

/// Has entries appended until the log's last handle has gone.
pub(super) async fn run(inner: Weak<Inner>, mut queue: mpsc::Receiver<Part>) {
    let mut waiting = VecDeque::new();
    let mut company = Company::new(Instant::now());
    loop {
        // What the last one had no room for waits for nobody.
        if waiting.is_empty() {
            match queue.recv().await {
                Some(part) => waiting.push_back(part),
                None => return,
            }
            while waiting.len() < ENTRIES && !company.is_complete(&replicas(&waiting), Instant::now()) {
                match timeout_at(company.until(), queue.recv()).await {
                    Ok(Some(part)) => waiting.push_back(part),
                    Ok(None) => return,
                    Err(_) => break,
                }
            }
        }
        let Some(inner) = inner.upgrade() else { return };
        while waiting.len() < ENTRIES
            && let Ok(part) = queue.try_recv()
        {
            waiting.push_back(part);
        }
        let parts = together(&mut waiting, inner.config.max_entry_bytes);
        let (writers, started) = (replicas(&parts), Instant::now());
        Transaction::new(inner, parts, None).run().await;
        company.took_part(writers, started.elapsed(), Instant::now());
    }
}

fn replicas<'a>(parts: impl IntoIterator<Item = &'a Part>) -> BTreeSet<u32> {
    parts.into_iter().map(|part| part.writer.replica).collect()
}

/// The first that wait, as many as have no more than so many bytes together; at least one.
fn together(waiting: &mut VecDeque<Part>, max_bytes: usize) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut bytes = 0;
    while let Some(part) = waiting.pop_front() {
        bytes += part.entry.len();
        if bytes > max_bytes && !parts.is_empty() {
            waiting.push_front(part);
            break;
        }
        parts.push(part);
    }
    parts
}

/// Whom a transaction waits for, and until when. Pure: time comes from outside.
#[derive(Debug)]
struct Company {
    last: BTreeSet<u32>,
    /// Who took part in the one before: where two take turns, they come to go together.
    before: BTreeSet<u32>,
    until: Instant,
}

impl Company {
    fn new(now: Instant) -> Self {
        Self { last: BTreeSet::new(), before: BTreeSet::new(), until: now }
    }

    /// A transaction of these has ended, which took so long: nobody waits for longer than half of that.
    fn took_part(&mut self, writers: BTreeSet<u32>, took: Duration, now: Instant) {
        self.before = std::mem::replace(&mut self.last, writers);
        self.until = now + (took / 2).min(LONGEST_WAIT);
    }

    fn is_complete(&self, present: &BTreeSet<u32>, now: Instant) -> bool {
        now >= self.until || self.last.is_subset(present) && self.before.is_subset(present)
    }

    fn until(&self) -> Instant {
        self.until
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::super::append::Writer;
    use super::*;

    fn part(replica: u32, bytes: usize) -> Part {
        let writer = Writer { replica, node: format!("i-{replica}") };
        Part::new(writer, Bytes::from(vec![0; bytes]), Instant::now()).0
    }

    #[test]
    fn those_that_took_part_are_waited_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let of = |replicas: &[u32]| BTreeSet::from_iter(replicas.iter().copied());
        let mut company = Company::new(start);
        assert!(company.is_complete(&of(&[2]), start), "the first waits for nobody");
        company.took_part(of(&[2]), Duration::from_millis(8), at(8));
        assert!(company.is_complete(&of(&[2]), at(8)), "who writes alone waits for nobody");
        company.took_part(of(&[0, 1]), Duration::from_millis(8), at(16));
        assert!(!company.is_complete(&of(&[0, 1]), at(17)), "2 was there a moment ago");
        assert!(company.is_complete(&of(&[0, 1, 2]), at(17)));
        assert!(company.is_complete(&of(&[0]), at(20)), "they don't come");
        company.took_part(of(&[0]), Duration::from_secs(9), at(9_000));
        assert_eq!(company.until(), at(9_000) + LONGEST_WAIT, "ZooKeeper was away");
    }

    #[test]
    fn a_transaction_is_bounded() {
        let mut waiting = VecDeque::from([part(0, 60), part(1, 40), part(2, 1), part(0, 200), part(1, 1)]);
        let sizes = |parts: Vec<Part>| parts.iter().map(|part| part.entry.len()).collect::<Vec<_>>();
        assert_eq!(sizes(together(&mut waiting, 100)), [60, 40]);
        assert_eq!(sizes(together(&mut waiting, 100)), [1]);
        assert_eq!(sizes(together(&mut waiting, 100)), [200], "one alone goes as it is");
        assert_eq!(sizes(together(&mut waiting, 100)), [1]);
        assert!(together(&mut waiting, 100).is_empty());
    }
}
