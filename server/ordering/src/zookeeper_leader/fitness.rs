//! Whether this replica is fit to lead, and has a way to the one that does: what it says of itself in the election.
//!
//! A session with ZooKeeper says nothing of either. One that leads and can't append, or that most others can't reach, would lead for
//! ever and nobody would append anything.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::Standing;
use super::election::Own;
use crate::znode_log::ZnodeLog;

/// How long a replica may be without a session that carries appends, or without a way to the one that leads, before it says so: more
/// than a new connection takes, less than an append may.
const TROUBLE_AFTER: Duration = Duration::from_secs(5);
/// How long one that the others did not reach comes last: what they say of it ends with its lead, and is then known no more.
const REST: Duration = Duration::from_secs(60);
/// Nothing tells of time that passes: it is looked at this often.
const LOOK: Duration = Duration::from_millis(500);

/// What is seen at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Sight {
    /// A session that carries appends is connected. True if none at all is: then it is ZooKeeper that is not to be reached.
    appends: bool,
    /// The epoch of another one that leads, as long as there is no way to it.
    without_way: Option<i32>,
    /// It leads, and most others do not reach it.
    cut_off: bool,
}

/// What was seen before.
#[derive(Debug, Default)]
struct Fitness {
    no_appends_since: Option<Instant>,
    without_way_since: Option<(i32, Instant)>,
    rests_until: Option<Instant>,
}

impl Fitness {
    /// Whether it is unfit to lead, and the epoch of the one that leads if it does not reach that.
    fn judge(&mut self, sight: Sight, now: Instant) -> (bool, Option<i32>) {
        let lasts = |since: Instant| now.saturating_duration_since(since) >= TROUBLE_AFTER;
        self.no_appends_since = (!sight.appends).then(|| self.no_appends_since.unwrap_or(now));
        let before = self.without_way_since;
        self.without_way_since = sight.without_way.map(|epoch| match before {
            Some((of, since)) if of == epoch => (of, since),
            _ => (epoch, now),
        });
        if sight.cut_off {
            self.rests_until = Some(now + REST);
        }
        let rests = self.rests_until.is_some_and(|until| now < until);
        let unreached = self.without_way_since.filter(|(_, since)| lasts(*since)).map(|(epoch, _)| epoch);
        (rests || self.no_appends_since.is_some_and(lasts), unreached)
    }
}

/// Keeps what this replica says of itself up to date.
pub(super) async fn keep(
    log: ZnodeLog,
    own: watch::Sender<Own>,
    standing: watch::Receiver<Standing>,
    mut cut_off: watch::Receiver<bool>,
) {
    let mut fitness = Fitness::default();
    loop {
        let sight = Sight {
            appends: log.has_lane() || log.control().connected().is_none(),
            without_way: standing
                .borrow()
                .other()
                .filter(|leader| log.line(leader.life()).is_none())
                .map(|leader| leader.epoch),
            cut_off: *cut_off.borrow_and_update(),
        };
        let (unfit, unreached) = fitness.judge(sight, Instant::now());
        own.send_if_modified(|own| {
            let about = &mut own.about;
            let changed = (about.unfit, about.unreached) != (unfit, unreached);
            (about.unfit, about.unreached) = (unfit, unreached);
            changed
        });
        tokio::select! {
            changed = cut_off.changed() => if changed.is_err() {
                return;
            },
            () = sleep(LOOK) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FINE: Sight = Sight { appends: true, without_way: None, cut_off: false };

    #[test]
    fn what_lasts_is_said() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut fitness = Fitness::default();
        let mute = Sight { appends: false, ..FINE };
        assert_eq!(fitness.judge(mute, at(0)), (false, None), "it has just begun");
        assert_eq!(fitness.judge(mute, at(4)), (false, None));
        assert_eq!(fitness.judge(mute, at(5)), (true, None));
        assert_eq!(fitness.judge(FINE, at(6)), (false, None), "it is over at once");
        assert_eq!(fitness.judge(mute, at(7)), (false, None), "it begins anew");
        let without = |epoch| Sight { without_way: Some(epoch), ..FINE };
        assert_eq!(fitness.judge(without(3), at(10)), (false, None));
        assert_eq!(fitness.judge(without(4), at(14)), (false, None), "another leader has its own time");
        assert_eq!(fitness.judge(without(4), at(18)), (false, None));
        assert_eq!(fitness.judge(without(4), at(19)), (false, Some(4)));
        assert_eq!(fitness.judge(FINE, at(20)), (false, None));
    }

    #[test]
    fn one_that_was_not_reached_comes_last_for_a_while() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut fitness = Fitness::default();
        assert_eq!(fitness.judge(Sight { cut_off: true, ..FINE }, at(0)), (true, None));
        assert_eq!(fitness.judge(FINE, at(59)), (true, None), "it leads no longer, and is not better for that");
        assert_eq!(fitness.judge(FINE, at(60)), (false, None));
    }
}
