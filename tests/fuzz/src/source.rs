//! Takes what a structured input is made of from bytes. When they have come to an end all that is taken is zeros.

/// Bytes from a place on.
#[derive(Debug, Clone)]
pub struct Source<'a>(pub &'a [u8]);

impl<'a> Source<'a> {
    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A byte.
    pub fn byte(&mut self) -> u8 {
        match self.0.split_first() {
            Some((first, rest)) => {
                self.0 = rest;
                *first
            }
            None => 0,
        }
    }

    /// A number of so many bytes.
    fn number(&mut self, bytes: usize) -> u64 {
        (0..bytes).fold(0, |number, _| number << 8 | u64::from(self.byte()))
    }

    /// Two bytes.
    pub fn short(&mut self) -> u16 {
        self.number(2) as u16
    }

    /// Four bytes.
    pub fn int(&mut self) -> u32 {
        self.number(4) as u32
    }

    /// Eight bytes.
    pub fn long(&mut self) -> u64 {
        self.number(8)
    }

    /// A small number most of the time, and any in between.
    pub fn any_long(&mut self) -> u64 {
        match self.byte() {
            255 => self.long(),
            254 => u64::MAX - u64::from(self.byte()),
            small => u64::from(small),
        }
    }

    /// One bit.
    pub fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    /// Below a bound, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        usize::from(self.byte()) % bound
    }

    /// One of them.
    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// So many bytes, or what is left.
    pub fn take(&mut self, length: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(length.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length of one byte, and as many bytes.
    pub fn short_bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.byte());
        self.take(length)
    }

    /// A length of two bytes, and as many bytes.
    pub fn bytes(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        self.take(length)
    }

    /// Text with a length of one byte.
    pub fn text(&mut self) -> String {
        String::from_utf8_lossy(self.short_bytes()).into_owned()
    }

    /// All that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }
}
