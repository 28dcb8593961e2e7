//! What replicas say to each other on the connections of pushed entries.

use std::cell::OnceCell;

use replicateddb_ordering::znode_log::fuzzing::{Said, receiver, sender};
use tokio::runtime::{Builder, Runtime};

use super::seeds::join;
use crate::source::Source;

/// Frames of one input, at most.
const FRAMES: usize = 48;

thread_local! {
    /// Its clock stands still, and goes on where nothing else is left to be done.
    static RUNTIME: OnceCell<Runtime> = const { OnceCell::new() };
}

/// Warms up what stays.
fn with_runtime<T>(what: impl FnOnce(&Runtime) -> T) -> T {
    let made = || Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime");
    RUNTIME.with(|runtime| what(runtime.get_or_init(made)))
}

pub fn run(input: &[u8]) {
    let mut source = Source(input);
    let bits = source.byte();
    let said = match bits & 2 {
        0 => {
            let mut frames = Vec::new();
            while !source.is_empty() && frames.len() < FRAMES {
                frames.push(source.short_bytes());
            }
            Said::Frames(frames)
        }
        _ => Said::Bytes(source.rest()),
    };
    with_runtime(|runtime| match bits & 1 {
        0 => assert!(runtime.block_on(sender(said)) <= FRAMES),
        _ => assert!(runtime.block_on(receiver(said)) <= FRAMES),
    });
}

pub fn seeds() -> Vec<Vec<u8>> {
    let frames = |bits: u8, frames: &[&[u8]]| {
        let frames = frames.iter().map(|frame| join(&[&[frame.len() as u8], *frame]));
        std::iter::once(vec![bits]).chain(frames).collect::<Vec<_>>().concat()
    };
    let carry = b"\x04\0\0\0\0\0\0\0\x05\x01\0\0\0\x01\x03i-1entry";
    let entry = b"\x01\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x09entry";
    let carried = b"\x05\0\0\0\0\0\0\0\x05\x00\0\0\0\x01\0\0\0\x02\0\0\0\0\0\0\0\x09";
    vec![
        frames(0, &[&[3], &[3], carry, carry, &[3], carry]),
        frames(0, &[carry, &[9]]),
        frames(1, &[&[0], entry, &[2, 0, 0, 0, 0, 0, 0, 0, 9], &[2], entry]),
        frames(1, &[carried]),
        b"\x02\x00\x00\x00\x11\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\xaa\x03".to_vec(),
        b"\x03\x00\xff\xff\xff\x00".to_vec(),
        b"\x03\x00\x00\x00\x00".to_vec(),
    ]
}
