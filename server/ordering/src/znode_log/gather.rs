//! Entries that are ready at the same time go into the log in one transaction, each at a place of its own: what ZooKeeper's
//! servers pay for is the transaction (a proposal, a sync to disk and a commit on each of them) far more than what is in it.
//! Entries of other replicas come along, if those have handed theirs over ([`super::push`]).
//!
//! One transaction is on its way at a time, and what comes meanwhile waits for the next one. Writers of many requests that took
//! part lately are about to write again, for all their clients were answered at the same moment: the next one waits for them, a
//! little. Where few ask, a transaction less is worth nobody's wait.

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
/// Requests from which an entry waits for others.
pub(super) const SEVERAL: usize = 4;
/// The wait for those that took part lately, in times of the last transaction. With half of its time three replicas with 64
/// inserts in flight made one each, about 200 a second; with twice, 130 to 180, for a fifth less of processor time for
/// each insert.
const WAIT: u32 = 2;
/// Longest such wait.
const LONGEST_WAIT: Duration = Duration::from_millis(10);

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
            while waiting.len() < ENTRIES && !company.is_complete(&waiting, Instant::now()) {
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
        let (writers, started) = (that_wait(&parts), Instant::now());
        Transaction::new(inner, parts, None).run().await;
        company.took_part(writers, started.elapsed(), Instant::now());
    }
}

/// The writers of entries with many requests.
fn that_wait<'a>(parts: impl IntoIterator<Item = &'a Part>) -> BTreeSet<u32> {
    parts.into_iter().filter(|part| part.waits).map(|part| part.writer.replica).collect()
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

    /// A transaction of these has ended, which took so long: nobody waits for longer than twice that.
    fn took_part(&mut self, writers: BTreeSet<u32>, took: Duration, now: Instant) {
        self.before = std::mem::replace(&mut self.last, writers);
        self.until = now + (took * WAIT).min(LONGEST_WAIT);
    }

    /// Whether these wait no longer: one of them does not, or all are there.
    fn is_complete<'a>(&self, parts: impl IntoIterator<Item = &'a Part> + Copy, now: Instant) -> bool {
        let present = that_wait(parts);
        now >= self.until
            || parts.into_iter().any(|part| !part.waits)
            || self.last.is_subset(&present) && self.before.is_subset(&present)
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

    fn part(replica: u32, bytes: usize, waits: bool) -> Part {
        let writer = Writer { replica, node: format!("i-{replica}") };
        Part::new(writer, Bytes::from(vec![0; bytes]), waits, Instant::now()).0
    }

    #[test]
    fn those_that_took_part_are_waited_for() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let of = |replicas: &[u32]| BTreeSet::from_iter(replicas.iter().copied());
        let parts = |replicas: &[u32]| replicas.iter().map(|&replica| part(replica, 1, true)).collect::<Vec<_>>();
        let mut company = Company::new(start);
        assert!(company.is_complete(&parts(&[2]), start), "the first waits for nobody");
        company.took_part(of(&[2]), Duration::from_millis(8), at(8));
        assert!(company.is_complete(&parts(&[2]), at(8)), "who writes alone waits for nobody");
        company.took_part(of(&[0, 1]), Duration::from_millis(4), at(16));
        assert!(!company.is_complete(&parts(&[0, 1]), at(17)), "2 was there a moment ago");
        assert!(company.is_complete(&parts(&[0, 1, 2]), at(17)));
        assert!(!company.is_complete(&parts(&[0]), at(23)));
        assert!(company.is_complete(&parts(&[0]), at(24)), "they don't come");
        let mut with_few = parts(&[0]);
        with_few.push(part(1, 1, false));
        assert!(company.is_complete(&with_few, at(17)), "few requests wait for nobody");
        company.took_part(of(&[0]), Duration::from_secs(9), at(9_000));
        assert_eq!(company.until(), at(9_000) + LONGEST_WAIT, "ZooKeeper was away");
        assert_eq!(that_wait(&[part(3, 1, true), part(4, 1, false)]), of(&[3]), "nor are they waited for");
    }

    #[test]
    fn a_transaction_is_bounded() {
        let mut waiting =
            VecDeque::from([(0, 60), (1, 40), (2, 1), (0, 200), (1, 1)].map(|(who, bytes)| part(who, bytes, true)));
        let sizes = |parts: Vec<Part>| parts.iter().map(|part| part.entry.len()).collect::<Vec<_>>();
        assert_eq!(sizes(together(&mut waiting, 100)), [60, 40]);
        assert_eq!(sizes(together(&mut waiting, 100)), [1]);
        assert_eq!(sizes(together(&mut waiting, 100)), [200], "one alone goes as it is");
        assert_eq!(sizes(together(&mut waiting, 100)), [1]);
        assert!(together(&mut waiting, 100).is_empty());
    }
}
