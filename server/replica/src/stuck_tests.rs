use uuid::Uuid;

use super::*;
use crate::record::Record;

const AFTER: Duration = Duration::from_secs(60);
const OWN: (u32, i64) = (0, 1);

/// A log in which records of some number of replicas stand already, and what is seen of it.
struct Log {
    state: State,
    at: Position,
    next: u64,
}

impl Log {
    fn new() -> Self {
        let mut log = Self { state: State::initial(Uuid::from_u128(7)), at: Position::START, next: 1 };
        for origin in [1, 0] {
            log.entry(origin, Record::bare(RecordKind::Dml));
        }
        log
    }

    fn entry(&mut self, origin: u32, mut record: Record) -> Vec<Admitted> {
        record.sequence = self.next;
        let entry = Entry { origin, incarnation: 1, floor: 1, records: vec![record] };
        let admitted = self.state.admit(self.at, 0, entry).unwrap();
        (self.at, self.next) = (self.at.next(), self.next + 1);
        admitted
    }
}

/// Fails for long enough.
async fn ripe(stuck: &Stuck, index: u64) {
    for _ in 0..FEWEST_ATTEMPTS {
        tokio::time::advance(AFTER / 2).await;
        stuck.failed(index, "oh no: 17");
    }
}

fn due(stuck: &Stuck, log: &Log) -> Vec<(u64, Complaint)> {
    stuck.due(&log.state, &BTreeSet::new(), OWN.0, AFTER)
}

/// What is due first, and comes to stand in the log.
fn said(stuck: &Stuck, log: &Log) -> (u64, Complaint) {
    let (index, complaint) = due(stuck, log).remove(0);
    stuck.told(index, &complaint, true);
    (index, complaint)
}

#[tokio::test(start_paused = true)]
async fn a_replica_complains_of_what_fails_alike_for_long() {
    let (stuck, log) = (Stuck::default(), Log::new());
    for _ in 0..10 {
        stuck.failed(1, "often");
    }
    assert_eq!(due(&stuck, &log), [], "not for long");
    tokio::time::advance(AFTER).await;
    stuck.failed(1, "now otherwise");
    assert_eq!(due(&stuck, &log), [], "not the same");
    ripe(&stuck, 1).await;
    let said = due(&stuck, &log);
    let (excused, heard) = (BTreeSet::new(), BTreeMap::new());
    let expected = Complaint { failure: Some("oh no: #".into()), excused, heard, round: 1 };
    assert_eq!(said, [(1, expected.clone())]);
    assert_eq!(due(&stuck, &log), [], "once");
    stuck.told(1, &expected, false);
    let again = due(&stuck, &log).remove(0).1;
    assert_eq!(again.failure, expected.failure, "it could not be ordered");
    let silent = BTreeSet::from([2]);
    assert_eq!(stuck.due(&log.state, &silent, OWN.0, AFTER), [], "another one is on its way");
    stuck.told(1, &again, true);
    let last = stuck.due(&log.state, &silent, OWN.0, AFTER).remove(0).1;
    assert_eq!(last.excused, silent);
    stuck.told(1, &again, false);
    tokio::time::advance(AFTER).await;
    assert_eq!(due(&stuck, &log), [], "of one before it nothing is to be learnt");
    stuck.told(1, &last, true);
    assert_eq!(due(&stuck, &log).len(), 1, "nobody has heard it");
}

#[tokio::test(start_paused = true)]
async fn success_waits_until_the_complaint_is_taken_back() {
    let (stuck, mut log) = (Stuck::default(), Log::new());
    stuck.failed(1, "once");
    assert_eq!(stuck.may_complete(1).await, Ok(()), "nobody was told");
    assert!(stuck.is_over());
    ripe(&stuck, 1).await;
    let complaint = said(&stuck, &log).1;
    let mut completing = std::pin::pin!(stuck.may_complete(1));
    assert!(futures::poll!(completing.as_mut()).is_pending());
    let withdrawal = said(&stuck, &log).1;
    assert_eq!(withdrawal.failure, None);
    let seen = log.entry(0, complaint.record(1));
    stuck.look(&seen, OWN);
    assert!(futures::poll!(completing.as_mut()).is_pending(), "the complaint stands");
    let of_another = log.entry(1, withdrawal.record(1));
    stuck.look(&of_another, OWN);
    assert!(futures::poll!(completing.as_mut()).is_pending(), "another replica's");
    let seen = log.entry(0, withdrawal.record(1));
    stuck.look(&seen, OWN);
    assert_eq!(completing.await, Ok(()));
}

/// With the log away for a day, say: what is said last is not lost, and waits for one before it at most.
#[tokio::test(start_paused = true)]
async fn a_withdrawal_finds_room() {
    let (stuck, log) = (Stuck::default(), Log::new());
    ripe(&stuck, 1).await;
    let (index, complaint) = due(&stuck, &log).remove(0);
    for _ in 0..1440 {
        ripe(&stuck, 1).await;
        assert_eq!(due(&stuck, &log), [], "that is on its way still");
    }
    let mut completing = std::pin::pin!(stuck.may_complete(1));
    assert!(futures::poll!(completing.as_mut()).is_pending());
    stuck.told(index, &complaint, true);
    let withdrawal = due(&stuck, &log).remove(0).1;
    assert_eq!(withdrawal.failure, None);
    stuck.told(index, &withdrawal, false);
    assert_eq!(due(&stuck, &log).remove(0).1.failure, None, "it is said until it stands there");
}

#[tokio::test(start_paused = true)]
async fn a_verdict_before_the_withdrawal_counts() {
    let (stuck, mut log) = (Stuck::default(), Log::new());
    ripe(&stuck, 1).await;
    let complaint = said(&stuck, &log).1;
    let mut completing = std::pin::pin!(stuck.may_complete(1));
    assert!(futures::poll!(completing.as_mut()).is_pending());
    let withdrawal = said(&stuck, &log).1;
    for (origin, said) in [(0, &complaint), (1, &complaint), (0, &withdrawal)] {
        let seen = log.entry(origin, said.record(1));
        stuck.look(&seen, OWN);
    }
    assert!(completing.await.unwrap_err().contains("oh no"));
    assert_eq!(stuck.verdict_on(1).as_deref(), Some("oh no: #"));
    assert_eq!(stuck.held_by(&State::initial(Uuid::from_u128(7))), None);
    let mut before = Log::new();
    assert_eq!(stuck.held_by(&before.state), Some(1), "executed");
    before.state.skip(1);
    assert_eq!(stuck.held_by(&before.state), None, "left out");
    assert_eq!(stuck.held_by(&log.state), None, "decided");
}

#[tokio::test(start_paused = true)]
async fn what_is_passed_without_being_executed_is_taken_back() {
    let (stuck, mut log) = (Stuck::default(), Log::new());
    ripe(&stuck, 1).await;
    let complaint = said(&stuck, &log).1;
    stuck.look(&log.entry(0, complaint.record(1)), OWN);
    stuck.failed(2, "not complained of");
    stuck.passed(2);
    let mut settled = std::pin::pin!(stuck.settled(2));
    assert!(futures::poll!(settled.as_mut()).is_pending());
    let (index, withdrawal) = said(&stuck, &log);
    assert_eq!((index, &withdrawal.failure), (1, &None));
    assert!(futures::poll!(settled.as_mut()).is_pending());
    stuck.look(&log.entry(0, withdrawal.record(1)), OWN);
    settled.await;
    assert!(stuck.is_over());
}

/// A client may have been told: whatever the store was put back to, and whoever has executed it, this life or an earlier one.
#[tokio::test(start_paused = true)]
async fn what_was_executed_before_is_not_complained_of() {
    type Execute = fn(&Stuck);
    let by: [(&str, Execute); 4] = [
        ("this life", |stuck| stuck.executed(2)),
        ("this life, out of turn", |stuck| [1, 2].iter().rev().for_each(|index| stuck.executed(*index))),
        ("an earlier one, which has stopped", |stuck| stuck.passed(2)),
        ("an earlier one", |stuck| stuck.earlier_executed(2)),
    ];
    for (who, execute) in by {
        let (stuck, mut log) = (Stuck::default(), Log::new());
        log.entry(0, Record::bare(RecordKind::Dml));
        execute(&stuck);
        stuck.passed(0);
        ripe(&stuck, 2).await;
        ripe(&stuck, 3).await;
        let due: Vec<_> = due(&stuck, &log).into_iter().map(|(index, _)| index).collect();
        assert_eq!(due, [3], "{who}");
        let text = stuck.text(&log.state, AFTER).unwrap();
        assert!(text.contains("record 2 fails: oh no: #; this replica has executed it before"), "{text}");
        assert!(!stuck.is_over(), "but others may have excused it: the verdict is looked for");
    }
}

#[tokio::test(start_paused = true)]
async fn a_record_fails_from_the_first_refusal_to_its_result() {
    let stuck = Stuck::default();
    assert!(!stuck.is_failing(2));
    stuck.failed(2, "oh no");
    assert!(stuck.is_failing(2) && !stuck.is_failing(3));
    stuck.may_complete(2).await.unwrap();
    assert!(!stuck.is_failing(2));
}
