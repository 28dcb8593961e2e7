//! When restore points are due: by records and by bytes, and on each replica at other moments. Pure.

/// The golden ratio's fraction of 2^32.
const GOLDEN_RATIO: u32 = 0x9E37_79B9;

/// In which stretch of `records` records (or bytes) an index (or sum) is; each ends with a restore point. They begin elsewhere on each replica, or
/// all of a set would have their pauses, and the work of writing memtables, at the same moment. Multiples of the golden ratio
/// are far apart, however many there are (Knuth, The Art of Computer Programming, 6.4).
fn turn(replica: u32, records: u64, index: u64) -> u64 {
    let offset = (u128::from(records) * u128::from(replica.wrapping_mul(GOLDEN_RATIO))) >> u32::BITS;
    index.saturating_add(u64::try_from(offset).unwrap_or(0)) / records.max(1)
}

/// Whether a restore point is due at an index (or sum of bytes), the last one being at `last`: when a stretch ends, and after as
/// much as a stretch in any case. One that was just made (`made`) serves for the ends that follow within half a stretch: otherwise
/// the stretches of records and those of bytes had one each, shortly after each other.
pub(super) fn is_due(replica: u32, most: u64, last: u64, now: u64, made: bool) -> bool {
    let from = if made { last.saturating_add(most / 2) } else { last };
    now.saturating_sub(last) >= most || now >= from && turn(replica, most, from) != turn(replica, most, now)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Records of any size: never more than a stretch of records or of bytes, and one restore point for both kinds.
    #[test]
    fn one_restore_point_serves_records_and_bytes() {
        let (records, bytes) = (1000, 240_000);
        for size in [1, 100, 200, 230, 239, 240, 241, 250, 300, 500, 10_000] {
            for replica in 0..3 {
                let (mut last, mut made) = (0, Vec::new());
                for index in 1..=100_000 {
                    let due = |most, last, now| is_due(replica, most, last, now, !made.is_empty());
                    if due(records, last, index) || due(bytes, last * size, index * size) {
                        made.push(index - last);
                        last = index;
                    }
                }
                let most = records.min(bytes.div_ceil(size));
                assert!(made.iter().all(|distance| *distance <= most), "{size}, {replica}: {made:?}");
                let least = most * 2 / 5;
                assert!(made.iter().skip(1).all(|distance| *distance >= least), "{size}, {replica}: {made:?}");
            }
        }
    }

    /// A replica that ends again and again before its stretch does makes one all the same.
    #[test]
    fn a_stretch_ends_whatever_was_started_in_it() {
        let mut last_point = 0;
        for start in (0..10_000).step_by(300) {
            let due = (start..start + 300).find(|now| is_due(1, 1000, start, *now, false));
            assert!(start + 300 - last_point <= 1300, "{start}");
            last_point = due.unwrap_or(last_point);
        }
    }

    #[test]
    fn replicas_take_turns() {
        for (records, apart) in [(100_000, 20_000), (16, 3)] {
            let end = |replica| (0..=records).find(|index| turn(replica, records, *index) != turn(replica, records, 0));
            let ends: Vec<u64> = (0..3).map(|replica| end(replica).expect("each stretch ends")).collect();
            assert!(ends.iter().all(|end| (1..=records).contains(end)), "{ends:?}");
            let distances = [(0, 1), (0, 2), (1, 2)].map(|(a, b): (usize, usize)| ends[a].abs_diff(ends[b]));
            assert!(distances.iter().all(|distance| (apart..=records - apart).contains(distance)), "{ends:?}");
        }
    }
}
