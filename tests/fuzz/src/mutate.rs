//! Variations of inputs, the same for the same number to begin with.

/// Numbers where lengths and counts go wrong.
const EDGES: [&[u8]; 10] = [
    &[0],
    &[0x7f],
    &[0x80],
    &[0xff],
    &[0xff, 0xff],
    &[0, 0, 0, 0],
    &[0x7f, 0xff, 0xff, 0xff],
    &[0x80, 0, 0, 0],
    &[0xff, 0xff, 0xff, 0xff],
    &[0xff, 0xff, 0xff, 0xfe],
];
/// Changes of one input, at most.
const CHANGES: u64 = 6;
/// Bytes that are moved, doubled or left out at once, at most.
const PART: u64 = 64;

/// Makes variations.
#[derive(Debug)]
pub struct Mutator {
    state: u64,
}

impl Mutator {
    /// Begins with a number.
    pub fn new(seed: u64) -> Self {
        Self { state: seed | 1 }
    }

    /// The next number (xorshift64*).
    fn next(&mut self) -> u64 {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    /// A variation of one of them, of at most `longest` bytes. `words` are put in at times.
    pub fn variation(&mut self, of: &[Vec<u8>], words: &[&str], longest: usize) -> Vec<u8> {
        let mut made = of.get(self.below(of.len())).cloned().unwrap_or_default();
        for _ in 0..=self.next() % CHANGES {
            self.change(&mut made, of, words);
        }
        made.truncate(longest);
        made
    }

    fn change(&mut self, made: &mut Vec<u8>, of: &[Vec<u8>], words: &[&str]) {
        let at = self.below(made.len() + 1);
        let part = at..(at + 1 + self.below(PART as usize)).min(made.len());
        match self.next() % 9 {
            0 => {
                if let Some(byte) = made.get_mut(at) {
                    *byte ^= 1 << self.below(8);
                }
            }
            1 => {
                if let Some(byte) = made.get_mut(at) {
                    *byte = byte.wrapping_add_signed([-1, 1, -16, 16][self.below(4)]);
                }
            }
            2 => {
                let edge = EDGES[self.below(EDGES.len())];
                let end = (at + edge.len()).min(made.len());
                made.splice(at..end, edge.iter().copied());
            }
            3 => {
                made.drain(part);
            }
            4 => {
                let copy = made[part].to_vec();
                made.splice(at..at, copy);
            }
            5 => {
                let copy = made[part].to_vec();
                let times = self.below(16);
                made.splice(at..at, copy.repeat(times));
            }
            6 if !words.is_empty() => {
                made.splice(at..at, words[self.below(words.len())].bytes());
            }
            7 => {
                let other = &of[self.below(of.len())];
                let from = self.below(other.len() + 1);
                made.truncate(at);
                made.extend_from_slice(&other[from..]);
            }
            _ => made.insert(at, self.next() as u8),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variations_are_the_same_for_the_same_seed() {
        let of = [b"first".to_vec(), b"second one".to_vec(), Vec::new()];
        let made = |seed| {
            let mut mutator = Mutator::new(seed);
            (0..1000).map(|_| mutator.variation(&of, &["word"], 99)).collect::<Vec<_>>()
        };
        assert_eq!(made(5), made(5));
        assert_ne!(made(5), made(7));
        assert!(made(5).iter().all(|made| made.len() <= 99));
    }
}
