//! How much memory the JVM gets.

use std::path::Path;

/// Bytes in a MiB.
pub const MIB: u64 = 1 << 20;
/// Smallest heap Cassandra does useful work with.
const MIN_HEAP: u64 = 192 * MIB;
/// Largest heap that is chosen without being asked for.
const MAX_HEAP: u64 = 8192 * MIB;
/// What the JVM and the agent need besides the heap, as measured: 290 MiB resident with a heap of 256 MiB untouched.
const BESIDES: u64 = 256 * MIB;

/// Memory for the JVM, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// Heap (`-Xms`, `-Xmx`).
    pub heap: u64,
    /// Direct buffers (`-XX:MaxDirectMemorySize`).
    pub direct: u64,
}

impl Memory {
    /// The direct memory that goes with a heap.
    pub fn with_heap(heap: u64) -> Self {
        Self { heap, direct: (heap / 4).clamp(64 * MIB, 1024 * MIB) }
    }
}

/// Chooses the memory: the heap that was asked for, else by the container's limit, else a quarter of the machine's.
///
/// # Errors
/// If the container's limit is too small for any Cassandra, or the heap asked for does not fit into it.
pub fn choose(heap: Option<u64>, limit: Option<u64>, machine: u64) -> Result<Memory, String> {
    if let Some(heap) = heap {
        if heap < MIN_HEAP {
            return Err(format!("a heap of {} MiB is too small: give at least {} MiB", heap / MIB, MIN_HEAP / MIB));
        }
        if let Some(limit) = limit.filter(|limit| heap + BESIDES > *limit) {
            let (heap, limit, besides) = (heap / MIB, limit / MIB, BESIDES / MIB);
            return Err(format!("a heap of {heap} MiB and {besides} MiB besides it exceed the limit of {limit} MiB"));
        }
        return Ok(Memory::with_heap(heap));
    }
    let Some(limit) = limit else {
        return Ok(Memory::with_heap((machine / 4).clamp(MIN_HEAP, MAX_HEAP)));
    };
    // Of what is left beside the fixed part, the heap takes 60 %: direct buffers, metaspace, compiled code, index
    // summaries and bloom filters grow with it. Measured: 812 MiB resident with a heap of 512 MiB after load.
    let heap = limit.saturating_sub(BESIDES) / 10 * 6;
    if heap < MIN_HEAP {
        let least = (MIN_HEAP / 6 * 10 + BESIDES) / MIB;
        return Err(format!("a memory limit of {} MiB is too small: give at least {least} MiB", limit / MIB));
    }
    Ok(Memory::with_heap(heap.min(MAX_HEAP)))
}

/// Parses a size: a number of bytes with an optional suffix `k`, `m`, `g`, `Ki`, `Mi`, `Gi`, `KiB` ... (all binary).
///
/// # Errors
/// If it is none, or too large.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits);
    let factor = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "ki" | "kib" => 1 << 10,
        "m" | "mi" | "mib" => MIB,
        "g" | "gi" | "gib" => 1 << 30,
        _ => return Err(format!("{text:?} is no size: expected a number with k, m or g")),
    };
    let number: u64 = number.parse().map_err(|_| format!("{text:?} is no size: expected a number with k, m or g"))?;
    number.checked_mul(factor).ok_or_else(|| format!("{text:?} is too large"))
}

/// Reads the memory limit of a control group from its file: a number, or `max` for none.
fn parse_limit(text: &str) -> Option<u64> {
    // Version 1 writes "no limit" as a number near 2^63.
    text.trim().parse().ok().filter(|limit| *limit < 1 << 60)
}

/// The container's memory limit in bytes, if it has one: control groups version 2, then 1.
pub fn limit(cgroup_root: &Path) -> Option<u64> {
    ["memory.max", "memory/memory.limit_in_bytes"]
        .iter()
        .find_map(|file| std::fs::read_to_string(cgroup_root.join(file)).ok().and_then(|text| parse_limit(&text)))
}

/// The machine's memory in bytes, from the text of `/proc/meminfo`.
pub fn machine(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1024 * MIB;

    #[test]
    fn heap_by_limit() {
        for (heap, limit, expected) in [
            (None, Some(GIB), Ok(460)),
            (None, Some(2 * GIB), Ok(1075)),
            (None, Some(4 * GIB), Ok(2304)),
            (None, Some(64 * GIB), Ok(8192)),
            (None, Some(512 * MIB), Err(())),
            (None, None, Ok(4096)),
            (Some(256 * MIB), None, Ok(256)),
            (Some(256 * MIB), Some(GIB), Ok(256)),
            (Some(GIB), Some(GIB), Err(())),
            (Some(64 * MIB), None, Err(())),
        ] {
            let got = choose(heap, limit, 16 * GIB).map(|memory| memory.heap / MIB).map_err(|_| ());
            assert_eq!(got, expected, "{heap:?} {limit:?}");
        }
    }

    #[test]
    fn the_parts_fit_into_the_limit() {
        for limit in [640, 768, 1024, 1536, 2048, 4096, 16384, 65536] {
            if let Ok(memory) = choose(None, Some(limit * MIB), 0) {
                assert!(memory.heap + memory.direct / 2 + 200 * MIB <= limit * MIB, "{limit}");
            }
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("1024", Some(1024)),
            ("512m", Some(512 * MIB)),
            ("1G", Some(GIB)),
            ("2Gi", Some(2 * GIB)),
            ("3 MiB", None),
            ("", None),
            ("m", None),
            ("-1", None),
            ("99999999999g", None),
        ] {
            assert_eq!(parse_size(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn limits_of_both_versions_of_control_groups() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(limit(dir.path()), None);
        std::fs::create_dir(dir.path().join("memory")).unwrap();
        std::fs::write(dir.path().join("memory/memory.limit_in_bytes"), "1073741824\n").unwrap();
        assert_eq!(limit(dir.path()), Some(GIB));
        std::fs::write(dir.path().join("memory/memory.limit_in_bytes"), "9223372036854771712\n").unwrap();
        assert_eq!(limit(dir.path()), None);
        std::fs::write(dir.path().join("memory.max"), "2147483648\n").unwrap();
        assert_eq!(limit(dir.path()), Some(2 * GIB));
        std::fs::write(dir.path().join("memory.max"), "max\n").unwrap();
        assert_eq!(limit(dir.path()), None);
        assert_eq!(machine("MemTotal:       1024 kB\nMemFree: 1 kB\n"), Some(1 << 20));
        assert_eq!(machine("nothing"), None);
    }
}
