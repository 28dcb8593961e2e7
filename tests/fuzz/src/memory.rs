//! Counts what each thread has of the heap.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

/// The system's allocator, counted.
struct Counting;

#[global_allocator]
static ALLOCATOR: Counting = Counting;

thread_local! {
    /// Bytes that this thread has taken and not given back. Negative where it gives back what others took.
    static HELD: Cell<isize> = const { Cell::new(0) };
    /// The most of it since it was last set back.
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

/// The most bytes of the heap that this thread has had at once while it did this, beside what it had before.
pub fn peak_of(what: impl FnOnce()) -> usize {
    let before = HELD.get();
    PEAK.set(before);
    what();
    usize::try_from(PEAK.get() - before).unwrap_or_default()
}

fn count(taken: usize, given_back: usize) {
    // While a thread ends there may be nothing to count in.
    let _ = HELD.try_with(|held| {
        let now = held.get().wrapping_add_unsigned(taken).wrapping_sub_unsigned(given_back);
        held.set(now);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(now)));
    });
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its trait; each call goes to the system's as it came")]
// SAFETY: every method is the system allocator's, with the same arguments.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_at_once_is_counted() {
        let peak = peak_of(|| {
            for _ in 0..10 {
                drop(std::hint::black_box(vec![1_u8; 5000]));
            }
            let mut grown = std::hint::black_box(Vec::with_capacity(4000));
            grown.push(1_u8);
            grown.reserve(9999);
            drop(std::hint::black_box(grown));
        });
        assert!((10_000..20_000).contains(&peak), "{peak}");
        assert_eq!(peak_of(|| ()), 0);
    }
}
