//! Python's `random.Random(seed).sample`, in which few-shot examples are drawn: the Mersenne
//! Twister (Matsumoto and Nishimura 1998, MT19937), seeded and cut to a range as CPython does it.

const WORDS: usize = 624;
const AHEAD: usize = 397;

/// A stream of random numbers, the same as Python's for the same seed.
pub struct PythonRandom {
    state: [u32; WORDS],
    at: usize,
}

impl PythonRandom {
    /// `random.Random(seed)`, for a seed of 32 bits.
    pub fn new(seed: u32) -> PythonRandom {
        let mut random = PythonRandom {
            state: [0; WORDS],
            at: WORDS,
        };
        random.fill(19_650_218);
        random.mix(seed);
        random
    }

    /// The generator's own seeding, which Python's begins with.
    fn fill(&mut self, seed: u32) {
        let mut last = seed;
        for (i, word) in self.state.iter_mut().enumerate() {
            if i > 0 {
                last = (last ^ (last >> 30))
                    .wrapping_mul(1_812_433_253)
                    .wrapping_add(i as u32);
            }
            *word = last;
        }
    }

    /// Seeding by a key of one word.
    fn mix(&mut self, key: u32) {
        let state = &mut self.state;
        let mut i = 1;
        let wrap = |state: &mut [u32; WORDS], i: &mut usize| {
            *i += 1;
            if *i >= WORDS {
                state[0] = state[WORDS - 1];
                *i = 1;
            }
        };
        for _ in 0..WORDS {
            let last = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ last.wrapping_mul(1_664_525)).wrapping_add(key);
            wrap(state, &mut i);
        }
        for _ in 1..WORDS {
            let last = state[i - 1] ^ (state[i - 1] >> 30);
            state[i] = (state[i] ^ last.wrapping_mul(1_566_083_941)).wrapping_sub(i as u32);
            wrap(state, &mut i);
        }
        state[0] = 0x8000_0000;
    }

    /// The next 32 bits.
    fn next(&mut self) -> u32 {
        if self.at == WORDS {
            self.twist();
        }
        let mut word = self.state[self.at];
        self.at += 1;
        word ^= word >> 11;
        word ^= (word << 7) & 0x9d2c_5680;
        word ^= (word << 15) & 0xefc6_0000;
        word ^ (word >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let joined =
                (self.state[i] & 0x8000_0000) | (self.state[(i + 1) % WORDS] & 0x7fff_ffff);
            let odd = if joined & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + AHEAD) % WORDS] ^ (joined >> 1) ^ odd;
        }
        self.at = 0;
    }

    /// A whole number below `n`, which is less than 2^32.
    fn below(&mut self, n: usize) -> usize {
        let bits = usize::BITS - n.leading_zeros();
        if bits == 0 {
            return 0;
        }
        loop {
            let drawn = (self.next() >> (32 - bits.min(32))) as usize;
            if drawn < n {
                return drawn;
            }
        }
    }

    /// The places of `k` of `n` things in the order in which `sample` draws them; `None` where
    /// there are fewer.
    pub fn sample(&mut self, n: usize, k: usize) -> Option<Vec<usize>> {
        if k > n {
            return None;
        }
        // Python keeps a list of all or a set of those drawn, whichever it takes for smaller
        let mut size = 21;
        if k > 5 {
            let mut power = 1;
            while power < k * 3 {
                power *= 4;
            }
            size += power;
        }
        if n <= size {
            let mut left: Vec<usize> = (0..n).collect();
            return Some(
                (0..k)
                    .map(|i| left.swap_remove(self.below(n - i)))
                    .collect(),
            );
        }
        let mut drawn = Vec::with_capacity(k);
        while drawn.len() < k {
            let one = self.below(n);
            if !drawn.contains(&one) {
                drawn.push(one);
            }
        }
        Some(drawn)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What CPython 3.11 prints for the same calls, one after the other, of one `Random(1234)`.
    #[test]
    fn samples_are_pythons() {
        let mut random = PythonRandom::new(1234);
        assert_eq!(random.sample(7473, 5).unwrap(), [6374, 3610, 957, 61, 742]);
        assert_eq!(random.sample(10, 4).unwrap(), [9, 0, 1, 8]);
        assert_eq!(random.sample(21, 6).unwrap(), [11, 7, 0, 18, 17, 20]);
        assert_eq!(random.sample(100, 5).unwrap(), [82, 79, 61, 78, 59]);
        assert_eq!(
            random.sample(1119, 26).unwrap(),
            [
                304, 186, 374, 234, 29, 1030, 996, 511, 132, 1108, 954, 140, 182, 1054, 94, 552,
                129, 619, 985, 727, 545, 510, 409, 928, 1085, 39
            ]
        );
        assert_eq!(
            random.sample(30, 25).unwrap(),
            [
                16, 2, 0, 10, 4, 22, 15, 21, 12, 5, 1, 28, 23, 20, 18, 8, 3, 17, 27, 29, 19, 14,
                24, 26, 7
            ]
        );
        assert_eq!(random.sample(5, 5).unwrap(), [3, 0, 1, 2, 4]);
        assert_eq!(random.sample(1048576, 3).unwrap(), [371915, 569735, 324157]);
        assert_eq!(random.sample(3, 4), None);
    }
}
