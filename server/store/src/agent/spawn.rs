//! What has to happen in the child between fork and exec.
#![allow(unsafe_code)] // `pre_exec` is unsafe: its closure may only make async-signal-safe calls. No safe way exists to
// set a parent-death signal without a helper program in the image.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal::Signal;
use nix::unistd::{Pid, getpid, getppid};

/// Memory a process may pin, bytes: too little for the heap, so that Cassandra's attempt to pin it all fails.
const MEMLOCK: u64 = 64 << 10;
/// `CAP_IPC_LOCK`, by which root pins memory without a limit.
const CAP_IPC_LOCK: libc::c_ulong = 14;
/// How late the process's timers may be, ns. A thread of Cassandra's pools that has run out of work sleeps for 10 µs again and
/// again before it really sleeps (`SEPWorker.doWaitSpin`), and as long as one does nobody else is woken for a request. With the
/// kernel's usual 50 µs that takes a fifth of a processor for each Cassandra that is neither idle nor busy. Measured by changing
/// it under load, docs/benchmarks.md: 200 µs, 400 and 700 took less and less; with 700 a request that comes alone waited
/// longer.
const TIMER_SLACK_NS: u64 = 400_000;

/// Makes the child die by SIGKILL together with the thread that spawns it, keeps it from pinning its memory, and lets its
/// timers be a little late.
///
/// The kernel ties the signal to the parent *thread*: the command must be spawned by a thread that lives as long as
/// the process.
pub fn tie_to_parent(command: &mut Command) {
    let parent = getpid();
    // SAFETY: the closure makes plain system calls only: no allocation, no lock, no panic.
    unsafe {
        command.pre_exec(move || prepare(parent).map_err(Into::into));
    }
}

fn prepare(parent: Pid) -> Result<(), Errno> {
    prctl::set_pdeathsig(Signal::SIGKILL)?;
    // The parent may have died before that call: then no signal will come.
    if getppid() != parent {
        return Err(Errno::ESRCH);
    }
    prctl::set_timerslack(TIMER_SLACK_NS)?;
    setrlimit(Resource::RLIMIT_MEMLOCK, MEMLOCK, MEMLOCK)?;
    // SAFETY: a plain system call without pointers. Only root may and need make it, so its result does not matter.
    unsafe { libc::prctl(libc::PR_CAPBSET_DROP, CAP_IPC_LOCK, 0, 0, 0) };
    Ok(())
}
