//! The tokens a replica shows to drivers.
//!
//! Every replica holds all data, so tokens decide only which replica a token-aware driver tries first. They are a
//! pure function of the replica's id: they don't move when members come and go, and every replica computes the same
//! ones for its peers.

/// Tokens shown per replica. Enough to spread partitions evenly over a handful of replicas.
pub const TOKENS_PER_REPLICA: u64 = 64;

/// The Murmur3 tokens of the replica `id`, ascending, as the decimal text the system tables hold.
pub fn tokens(id: u32) -> Vec<String> {
    let mut values: Vec<i64> = (0..TOKENS_PER_REPLICA).map(|slot| token(id, slot)).collect();
    values.sort_unstable();
    values.iter().map(i64::to_string).collect()
}

/// One token in each of `TOKENS_PER_REPLICA` equal arcs of the ring, at a place within the arc mixed from id and slot.
fn token(id: u32, slot: u64) -> i64 {
    let arc = u64::MAX / TOKENS_PER_REPLICA;
    let offset = mix((u64::from(id) << 32) | slot) % arc;
    let unsigned = slot * arc + offset;
    // i64::MIN is not a token of the Murmur3 partitioner.
    ((unsigned ^ (1 << 63)) as i64).max(i64::MIN + 1)
}

/// The finaliser of splitmix64: neighbouring inputs give unrelated outputs.
fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn tokens_are_stable_distinct_and_valid() {
        let mut all = BTreeMap::new();
        for id in 0..9 {
            assert_eq!(tokens(id), tokens(id));
            for token in tokens(id) {
                let value: i64 = token.parse().expect("a token is an integer");
                assert!(value > i64::MIN);
                assert_eq!(all.insert(value, id), None, "token {value} twice");
            }
        }
        assert_eq!(all.len() as u64, 9 * TOKENS_PER_REPLICA);
    }

    #[test]
    fn ownership_is_even() {
        for replicas in [2u32, 3, 5] {
            let mut ring: Vec<(i64, u32)> = (0..replicas)
                .flat_map(|id| tokens(id).into_iter().map(move |t| (t.parse().expect("integer"), id)))
                .collect();
            ring.sort_unstable();
            let mut owned = vec![0f64; replicas as usize];
            let mut previous = ring.last().expect("not empty").0;
            for (token, id) in ring {
                owned[id as usize] += token.wrapping_sub(previous) as u64 as f64;
                previous = token;
            }
            for share in owned {
                let part = share / u64::MAX as f64 * f64::from(replicas);
                assert!((0.75..1.25).contains(&part), "{replicas} replicas: a share of {part}");
            }
        }
    }
}
