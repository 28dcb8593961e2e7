//! Decisions, and nothing but: what the agent finds at start, what to do about it, what to put back, what to delete.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::exchange::LEASES;
use crate::api::{Clean, Code, Damaged, Held, MAX_RESTORE_POINT_ID, Refusal, RestorePoint, Rewind};

/// Largest restore point that is read as a whole, to check its files' checksums, whenever it is put back: a few seconds.
const READ_AT_ONCE: u64 = 4 << 30;

/// The goal of a rewind, as it is written down before the rewind touches anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The restore point to put back; `None` empties the directory and deletes the restore points.
    pub restore_point: Option<String>,
}

/// What lies on the disk when the agent starts, before any JVM runs.
#[derive(Debug, Clone, Default)]
pub struct Observed {
    /// Neither the agent's state nor anything of Cassandra's is there: a new volume.
    pub fresh: bool,
    /// A rewind was under way.
    pub intent: Option<Intent>,
    /// The clean mark.
    pub clean: Option<Clean>,
    /// Several replicas share Cassandra.
    pub shared: bool,
}

/// What to do at the agent's start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AtStart {
    /// Do this rewind (again) to its end; then the directory is clean, and the JVM may start on it.
    Rewind(Intent),
    /// The directory is clean: the JVM may start on it.
    Start,
    /// The directory is dirty: start nothing before the replica has had it rewound.
    WaitForRewind,
    /// Start the JVM on whatever is there, and again whenever it ends: replicas that share it look after their data.
    KeepUp,
}

/// Decides what to do at the agent's start.
///
/// A mark that holds for a generation ended with that generation's JVM, which can't be alive: the agent has the lock.
pub fn at_start(observed: &Observed) -> AtStart {
    if observed.shared {
        return AtStart::KeepUp;
    }
    match (&observed.intent, &observed.clean) {
        (Some(intent), _) => AtStart::Rewind(intent.clone()),
        (None, Some(Clean { held: Held::Drained, .. })) => AtStart::Start,
        (None, Some(Clean { held: Held::Generation { .. }, .. })) => AtStart::WaitForRewind,
        (None, None) if observed.fresh => AtStart::Rewind(Intent { restore_point: None }),
        (None, None) => AtStart::WaitForRewind,
    }
}

/// Decides whether the mark is worth anything while the JVM of `running` (or none) runs.
pub fn mark_holds(clean: &Clean, running: Option<u64>) -> bool {
    match (clean.held, running) {
        (Held::Generation { generation }, Some(running)) => generation == running,
        (Held::Drained, None) => true,
        (Held::Generation { .. }, None) | (Held::Drained, Some(_)) => false,
    }
}

/// Decides whether a restore point's content is read and checked before it is put back. A large one is the second time in
/// a row: nothing came of the first, be it that Cassandra did not start on it or that it died of what it read.
pub fn read_before(point: &RestorePoint, last_put_back: Option<&str>) -> bool {
    point.files.bytes <= READ_AT_ONCE || last_put_back == Some(&point.id)
}

/// Decides whether a rewind may use what is here.
///
/// # Errors
/// If that is distrusted, and would be.
pub fn check_trusted(to: &Rewind, distrusted: Option<&str>) -> Result<(), Refusal> {
    match distrusted {
        Some(reason) if *to != Rewind::Empty => Err(Refusal {
            code: Code::Distrusted,
            message: format!("nothing of this store is put back, it is to be emptied or replaced: {reason}"),
        }),
        _ => Ok(()),
    }
}

/// Decides what a rewind puts back. `points` are the committed restore points; `damaged` are those among them that were
/// found to be, and those that can't be read.
///
/// # Errors
/// If the one asked for is unknown or damaged, or all are damaged: emptying the store instead would be a silent loss
/// of a base that the log may no longer reach back to.
pub fn rewind_to(to: &Rewind, points: &[RestorePoint], damaged: &[Damaged]) -> Result<Intent, Refusal> {
    let refuse = |code, message: String| Err(Refusal { code, message });
    let damage = |point: &RestorePoint| damaged.iter().find(|damaged| damaged.id == point.id);
    let all = || damaged.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    match to {
        Rewind::Empty => Ok(Intent { restore_point: None }),
        Rewind::RestorePoint { id } => match points.iter().find(|point| point.id == *id).map(damage) {
            Some(None) => Ok(Intent { restore_point: Some(id.clone()) }),
            Some(Some(damaged)) => refuse(Code::Damaged, damaged.to_string()),
            None => match damaged.iter().find(|damaged| damaged.id == *id) {
                Some(damaged) => refuse(Code::Damaged, damaged.to_string()),
                None => refuse(Code::UnknownRestorePoint, format!("there is no restore point {id}")),
            },
        },
        Rewind::Latest if points.is_empty() && damaged.is_empty() => Ok(Intent { restore_point: None }),
        Rewind::Latest => match points.iter().filter(|point| damage(point).is_none()).max_by_key(|p| p.sequence) {
            Some(point) => Ok(Intent { restore_point: Some(point.id.clone()) }),
            None => refuse(
                Code::Damaged,
                format!(
                    "every restore point is damaged; give the replica an empty volume, and it replays all: {}",
                    all()
                ),
            ),
        },
    }
}

/// Decides which of the committed restore points go when a new one was made: the damaged ones, and of the others all but
/// the `keep` newest, and a few more that are `leased`.
pub fn superseded(points: &[RestorePoint], damaged: &[Damaged], keep: usize, leased: &[String]) -> Vec<String> {
    let is_damaged = |point: &&RestorePoint| damaged.iter().any(|damaged| damaged.id == point.id);
    let (damaged, mut whole): (Vec<_>, Vec<_>) = points.iter().partition(is_damaged);
    whole.sort_by_key(|point| point.sequence);
    let surplus = whole.len().saturating_sub(keep);
    let surplus: Vec<_> = whole.into_iter().take(surplus).collect();
    let mut kept: Vec<_> =
        surplus.iter().filter(|point| leased.contains(&point.id)).map(|point| point.id.clone()).collect();
    // The newest of them.
    kept.drain(..kept.len().saturating_sub(LEASES));
    let gone = surplus.into_iter().filter(|point| !kept.contains(&point.id));
    damaged.into_iter().chain(gone).map(|point| point.id.clone()).collect()
}

/// Who calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Caller {
    /// Its log.
    pub log: Uuid,
    /// Its incarnation in that log: comparable within it alone.
    pub incarnation: i64,
}

/// Decides whether a caller may call, given the log that the store belongs to and the highest incarnation of the caller's
/// log that ever called (I6). `holds_nothing`: there is nothing in the store that another log would take away.
///
/// # Errors
/// If it is a lower incarnation, or of another log.
pub fn admit(caller: Caller, owner: Option<Uuid>, highest: Option<i64>, holds_nothing: bool) -> Result<(), Refusal> {
    if let Some(owner) = owner.filter(|owner| *owner != caller.log && !holds_nothing) {
        return Err(Refusal {
            code: Code::OtherLog,
            message: format!(
                "this store belongs to the log {}, the replica follows the log {}: the ordering tier lost its data, \
                 or another root is configured. Bring the old log back, or, to give up what only this store holds, \
                 replace its volume by an empty one",
                owner, caller.log
            ),
        });
    }
    if let Some(highest) = highest.filter(|highest| caller.incarnation < *highest) {
        let message = format!("incarnation {} was replaced by {highest}", caller.incarnation);
        return Err(Refusal { code: Code::StaleIncarnation, message });
    }
    Ok(())
}

/// Checks the id of a restore point: it becomes the name of a folder.
///
/// # Errors
/// If it has other characters than `a-z`, `0-9` and `-`, or a length out of bounds.
pub fn check_id(id: &str) -> Result<(), Refusal> {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    if !id.is_empty() && id.len() <= MAX_RESTORE_POINT_ID && id.bytes().all(allowed) {
        return Ok(());
    }
    let message = format!("the id of a restore point is 1 to {MAX_RESTORE_POINT_ID} of a-z, 0-9 and -");
    Err(Refusal { code: Code::BadRequest, message })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::Files;

    fn clean(held: Held) -> Option<Clean> {
        Some(Clean { manifest: None, held })
    }

    fn intent(id: Option<&str>) -> Intent {
        Intent { restore_point: id.map(str::to_owned) }
    }

    fn point(id: &str, sequence: u64, index: u64) -> RestorePoint {
        RestorePoint { id: id.to_owned(), sequence, index, created_ms: 0, files: Files::default() }
    }

    fn damages(ids: &[&str]) -> Vec<Damaged> {
        ids.iter().map(|id| Damaged { id: (*id).to_owned(), detail: "x".into() }).collect()
    }

    #[test]
    fn start_never_uses_a_directory_that_is_neither_clean_nor_rewound() {
        let generation = Held::Generation { generation: 3 };
        let table = [
            (true, None, None, AtStart::Rewind(intent(None))),
            (false, None, None, AtStart::WaitForRewind),
            (false, None, clean(Held::Drained), AtStart::Start),
            (false, None, clean(generation), AtStart::WaitForRewind),
            (false, Some(intent(Some("a"))), None, AtStart::Rewind(intent(Some("a")))),
            // The crash came between marking and forgetting the intent.
            (false, Some(intent(Some("a"))), clean(Held::Drained), AtStart::Rewind(intent(Some("a")))),
            (false, Some(intent(None)), clean(generation), AtStart::Rewind(intent(None))),
        ];
        for (fresh, intent, clean, expected) in table {
            let own = Observed { fresh, intent, clean, shared: false };
            assert_eq!(at_start(&own), expected, "{own:?}");
            let shared = Observed { shared: true, ..own };
            assert_eq!(at_start(&shared), AtStart::KeepUp, "{shared:?}");
        }
    }

    #[test]
    fn a_mark_holds_for_its_own_generation_only() {
        let mark = |held| Clean { manifest: None, held };
        let of = |generation| Held::Generation { generation };
        for (held, running, expected) in [
            (of(3), Some(3), true),
            (of(3), Some(4), false),
            (of(3), None, false),
            (Held::Drained, None, true),
            (Held::Drained, Some(3), false),
        ] {
            assert_eq!(mark_holds(&mark(held), running), expected, "{held:?} {running:?}");
        }
    }

    #[test]
    fn rewind_takes_the_newest_whole_restore_point() {
        let latest = Rewind::Latest;
        let exactly = |id: &str| Rewind::RestorePoint { id: id.to_owned() };
        let both = || vec![point("a", 1, 10), point("b", 2, 20)];
        let table: [(_, _, &[&str], _); 13] = [
            (latest.clone(), vec![], &[], Ok(None)),
            (latest.clone(), both(), &[], Ok(Some("b"))),
            (latest.clone(), both(), &["b"], Ok(Some("a"))),
            (latest.clone(), both(), &["a", "b"], Err(Code::Damaged)),
            // A later restore point may be at a smaller index, after a rewind past a damaged one.
            (latest, vec![point("a", 2, 10), point("b", 1, 20)], &[], Ok(Some("a"))),
            (exactly("a"), both(), &["b"], Ok(Some("a"))),
            (exactly("a"), both(), &["a"], Err(Code::Damaged)),
            (exactly("c"), both(), &[], Err(Code::UnknownRestorePoint)),
            // Of those that can't be read nothing but the id is known.
            (Rewind::Latest, vec![], &["c"], Err(Code::Damaged)),
            (Rewind::Latest, both(), &["c"], Ok(Some("b"))),
            (exactly("c"), both(), &["c"], Err(Code::Damaged)),
            (Rewind::Empty, both(), &[], Ok(None)),
            (Rewind::Empty, both(), &["a", "b"], Ok(None)),
        ];
        for (to, points, damaged, expected) in table {
            let got = rewind_to(&to, &points, &damages(damaged)).map_err(|refusal| refusal.code);
            assert_eq!(got, expected.map(intent), "{to:?} {points:?}");
        }
    }

    #[test]
    fn what_is_distrusted_is_emptied_and_not_put_back() {
        let code = |to: Rewind, reason| check_trusted(&to, reason).map_err(|refusal| refusal.code);
        let one = || Rewind::RestorePoint { id: "a".into() };
        for to in [Rewind::Latest, one(), Rewind::Empty] {
            assert_eq!(code(to, None), Ok(()));
        }
        assert_eq!(code(Rewind::Latest, Some("x")), Err(Code::Distrusted));
        assert_eq!(code(one(), Some("x")), Err(Code::Distrusted));
        assert_eq!(code(Rewind::Empty, Some("x")), Ok(()));
    }

    #[test]
    fn a_large_restore_point_is_read_the_second_time() {
        let mut point = point("a", 1, 1);
        assert!(read_before(&point, None));
        point.files.bytes = READ_AT_ONCE + 1;
        assert!(!read_before(&point, None) && !read_before(&point, Some("b")));
        assert!(read_before(&point, Some("a")));
    }

    #[test]
    fn the_newest_restore_points_stay_and_damaged_ones_do_not_count() {
        let points = [point("c", 3, 5), point("a", 1, 9), point("b", 2, 7)];
        assert_eq!(superseded(&points, &[], 2, &[]), ["a"]);
        assert_eq!(superseded(&points, &[], 1, &[]), ["a", "b"]);
        assert!(superseded(&points, &[], 3, &[]).is_empty());
        assert_eq!(superseded(&points, &damages(&["b"]), 2, &[]), ["b"]);
        assert_eq!(superseded(&points, &damages(&["c"]), 1, &[]), ["c", "a"]);
        assert!(superseded(&[], &[], 2, &[]).is_empty());
        let leased = |ids: &[&str]| ids.iter().map(ToString::to_string).collect::<Vec<_>>();
        assert!(superseded(&points, &[], 2, &leased(&["a"])).is_empty(), "another agent is reading it");
        assert_eq!(superseded(&points, &damages(&["a"]), 2, &leased(&["a"])), ["a"]);
    }

    #[test]
    fn lower_incarnations_and_other_logs_are_refused() {
        let stale = Some(Code::StaleIncarnation);
        let log = Uuid::from_u128;
        let caller = |(number, incarnation)| Caller { log: log(number), incarnation };
        for (calls, owner, highest, holds_nothing, expected) in [
            ((7, 1), None, None, false, None),
            ((7, 5), Some(7), Some(5), false, None),
            ((7, 6), Some(7), Some(5), false, None),
            ((7, 4), Some(7), Some(5), false, stale),
            ((7, 4), Some(7), Some(5), true, stale),
            ((7, -1), Some(7), Some(0), false, stale),
            ((8, 6), Some(7), None, false, Some(Code::OtherLog)),
            ((8, 6), Some(7), None, true, None),
            // One that was replaced stays so, whatever was between.
            ((8, 6), Some(7), Some(9), true, stale),
        ] {
            let refused = admit(caller(calls), owner.map(log), highest, holds_nothing).err();
            assert_eq!(refused.map(|r| r.code), expected, "{calls:?} {owner:?} {highest:?} {holds_nothing}");
        }
        let refusal = admit(caller((8, 6)), Some(log(7)), None, false).unwrap_err();
        assert!([7, 8].iter().all(|number| refusal.message.contains(&log(*number).to_string())), "{refusal}");
    }

    #[test]
    fn ids_can_not_leave_their_folder() {
        let long = "a".repeat(MAX_RESTORE_POINT_ID + 1);
        for (id, expected) in
            [("a-1", true), ("", false), (".", false), ("..", false), ("a/b", false), ("A", false), (&long, false)]
        {
            assert_eq!(check_id(id).is_ok(), expected, "{id}");
        }
    }
}
