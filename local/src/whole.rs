//! The whole stack at once: up, down, delete.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use futures::future::try_join_all;
use nix::sys::signal::Signal;

use crate::launch::{Layout, Programs};
use crate::member::Member;
use crate::process;
use crate::stack::{Ended, MemberStatus, POLL, Running, Stack, remove_tree};

/// How long every process may take to vanish after the last SIGKILL of `down`.
const SWEEP_WAIT: Duration = Duration::from_secs(10);
/// How often a wait that sees no change says what it is waiting for.
const REPEAT: Duration = Duration::from_secs(15);
/// How many lines of a dead member's log an error shows.
const LOG_LINES: usize = 8;

/// Gets a line for each step, with the time since the beginning.
pub type Progress<'a> = &'a mut (dyn FnMut(Duration, &str) + Send);

impl Stack {
    /// Starts what does not run and waits until every replica serves clients, at most `limit` in all.
    pub async fn up(&self, limit: Duration, progress: Progress<'_>) -> Result<()> {
        let begin = Instant::now();
        let deadline = begin + limit;
        self.refuse_frozen().await?;
        let members = self.settings().members();
        // What is missing for the last to start is said before the first is started.
        for member in &members {
            Programs::find(self.settings(), *member)?;
        }
        let (replicas, base): (Vec<Member>, Vec<Member>) =
            members.into_iter().partition(|member| matches!(member, Member::Replica(_)));
        self.start_all(&base, begin, progress).await?;
        self.wait_ready(&base, deadline, begin, progress).await?;
        self.start_all(&replicas, begin, progress).await?;
        self.wait_ready(&replicas, deadline, begin, progress).await
    }

    async fn refuse_frozen(&self) -> Result<()> {
        for member in self.settings().members() {
            let status = self.status(member).await;
            ensure!(status.running != Running::Frozen, "{member} is frozen: 'thaw {member}' first");
        }
        Ok(())
    }

    async fn start_all(&self, members: &[Member], begin: Instant, progress: Progress<'_>) -> Result<()> {
        for member in members {
            let said = if self.start(*member).await? { "started" } else { "runs already" };
            progress(begin.elapsed(), &format!("{member}: {said}"));
        }
        Ok(())
    }

    /// Waits until each of `members` is ready. A member that dies meanwhile ends the wait with the end of its log.
    pub async fn wait_ready(
        &self,
        members: &[Member],
        deadline: Instant,
        begin: Instant,
        progress: Progress<'_>,
    ) -> Result<()> {
        let mut waiting = members.to_vec();
        let mut said: BTreeMap<Member, String> = BTreeMap::new();
        let mut last = Instant::now();
        loop {
            let mut open = Vec::new();
            for member in waiting {
                let status = self.status(member).await;
                self.refuse_dead(&status)?;
                if status.answer.ready {
                    progress(begin.elapsed(), &format!("{member}: ready ({})", status.answer.detail));
                    continue;
                }
                let detail = status.answer.detail;
                if said.get(&member) != Some(&detail) {
                    progress(begin.elapsed(), &format!("{member}: {detail}"));
                    said.insert(member, detail);
                    last = Instant::now();
                }
                open.push(member);
            }
            let names: Vec<String> = open.iter().map(ToString::to_string).collect();
            if open.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!(
                    "not ready in {:.0} s: {}. All processes still run; see their logs in {}, wait with 'up' again, or \
                     end them by 'down'",
                    begin.elapsed().as_secs_f64(),
                    names.join(", "),
                    self.layout.logs().display()
                );
            }
            if last.elapsed() >= REPEAT {
                progress(begin.elapsed(), &format!("still waiting for {}", names.join(", ")));
                last = Instant::now();
            }
            waiting = open;
            tokio::time::sleep(POLL).await;
        }
    }

    fn refuse_dead(&self, status: &MemberStatus) -> Result<()> {
        let member = status.member;
        let log = self.log(member);
        match status.running {
            Running::Yes | Running::Frozen => Ok(()),
            Running::No => bail!("{member} was stopped meanwhile"),
            Running::Died => {
                bail!("{member} ended; the end of {}:\n{}", log.display(), process::last_lines(&log, LOG_LINES))
            }
        }
    }

    /// How every member is, in the order of [`crate::settings::Settings::members`].
    pub async fn status_all(&self) -> Vec<MemberStatus> {
        let mut all = Vec::new();
        for member in self.settings().members() {
            all.push(self.status(member).await);
        }
        all
    }

    /// Stops everything, replicas first, ZooKeeper last, each tier at once; kills what does not stop in time, and
    /// leaves no process of the stack behind. The data stays.
    pub async fn down(&self, progress: Progress<'_>) -> Result<()> {
        let begin = Instant::now();
        let _lock = self.lock().await?;
        let members = self.settings().members();
        let is_replica = |member: &Member| matches!(member, Member::Replica(_));
        let is_zookeeper = |member: &Member| matches!(member, Member::Zookeeper(_));
        let (replicas, base): (Vec<_>, Vec<_>) = members.into_iter().partition(is_replica);
        let (zookeepers, cassandras): (Vec<_>, Vec<_>) = base.into_iter().partition(is_zookeeper);
        for tier in [replicas, cassandras, zookeepers] {
            for (member, ended) in self.stop_tier(&tier).await? {
                let said = match ended {
                    Ended::WasNotRunning => "was not running",
                    Ended::Gracefully => "stopped",
                    Ended::Killed => "killed: it did not stop by itself",
                };
                progress(begin.elapsed(), &format!("{member}: {said}"));
            }
        }
        let left = self.all_processes();
        for process in &left {
            progress(begin.elapsed(), &format!("process {}: killed, a leftover", process.pid));
            process::send(process, Signal::SIGKILL)?;
        }
        ensure!(process::gone(&left, SWEEP_WAIT).await, "processes are left: {left:?}");
        Ok(())
    }

    async fn stop_tier(&self, tier: &[Member]) -> Result<Vec<(Member, Ended)>> {
        let futures = tier.iter().map(|member| async { self.stop_locked(*member).await.map(|end| (*member, end)) });
        try_join_all(futures).await
    }

    /// Removes everything in the folder of the stack, which must be down.
    pub async fn delete(self) -> Result<()> {
        ensure!(self.all_processes().is_empty(), "the stack is running: 'down' first");
        let layout = Layout { dir: self.layout.dir.clone() };
        for member in self.settings.members() {
            remove_tree(&layout.member(member))?;
        }
        remove_tree(&layout.logs())?;
        for name in ["agent-token", "superuser-password", "lock", "stack.json"] {
            let _ = std::fs::remove_file(layout.dir.join(name));
        }
        // Stays if someone else put something into it.
        let _ = std::fs::remove_dir(&layout.dir);
        Ok(())
    }
}
