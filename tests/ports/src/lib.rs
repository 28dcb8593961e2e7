//! Ports of the loopback interface for the servers that tests start, stop and start again.
//!
//! A port that the kernel has chosen (one bound as port 0) is one of those that it gives to outgoing connections, too:
//! while a server is down, any connection of this machine may take its port, and the server can't come back. The ports of
//! this crate lie outside that range, and are given to nobody else who asks here, in this process or another.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::Path;
use std::process;
use std::sync::{Mutex, PoisonError};

/// What is given away: below Linux' range for outgoing connections (`net.ipv4.ip_local_port_range`, from 32 768) and
/// Kubernetes' range of node ports (from 30 000).
pub const RANGE: Range<u16> = 12_000..30_000;

/// The locks of the ports that this process was given. It holds them until it ends: a server may come back at any time.
static HELD: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// `N` ports at which nobody listens on the loopback interface, and that nobody else is given while this process lives.
///
/// # Panics
/// If the locks' folder can't be written to, or no port of [`RANGE`] is left.
pub fn reserve<const N: usize>() -> [u16; N] {
    let folder = std::env::temp_dir().join("replicateddb-ports");
    fs::create_dir_all(&folder).unwrap_or_else(|error| panic!("creating {}: {error}", folder.display()));
    let mut held = HELD.lock().unwrap_or_else(PoisonError::into_inner);
    // Processes begin at places of their own, so that few ask for the same ones.
    let start = usize::try_from(process::id()).unwrap_or_default() * 61;
    let mut candidates = RANGE.cycle().skip(start % RANGE.len()).take(RANGE.len());
    [(); N].map(|()| {
        let found = candidates.find_map(|port| Some((port, take(&folder, port)?)));
        let (port, lock) = found.unwrap_or_else(|| panic!("no port of {RANGE:?} can be had"));
        held.push(lock);
        port
    })
}

/// The lock of a port, if it is free.
fn take(folder: &Path, port: u16) -> Option<File> {
    let lock = File::create(folder.join(port.to_string())).ok()?;
    lock.try_lock().ok()?;
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok()?;
    Some(lock)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn nobody_is_given_a_port_twice_nor_one_in_use() {
        let [used] = reserve();
        let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, used)).unwrap();
        let folder = std::env::temp_dir().join("replicateddb-ports");
        assert!(take(&folder, used).is_none(), "the lock is held");

        let threads = [(); 8].map(|()| std::thread::spawn(reserve::<16>));
        let given: Vec<u16> = threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect();
        let distinct: BTreeSet<u16> = given.iter().copied().collect();
        assert_eq!(distinct.len(), given.len());
        assert!(!distinct.contains(&used) && distinct.iter().all(|port| RANGE.contains(port)));
    }

    #[test]
    fn a_port_that_somebody_listens_at_is_not_free() {
        let folder = tempfile::tempdir().unwrap();
        let [port] = reserve();
        let _server = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
        assert!(take(folder.path(), port).is_none());
    }
}
