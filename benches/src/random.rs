//! The Mersenne Twister (MT19937) as Python's `random.Random(seed)` runs it, so that a trace written
//! here has the same frames in the same order as one written by a Python script.

const N: usize = 624;
const M: usize = 397;

/// A generator with the state of `random.Random(seed)`.
pub struct Random {
    state: [u32; N],
    at: usize,
}

impl Random {
    /// Seeded like Python with a small integer (`init_by_array` of one word).
    pub fn new(seed: u32) -> Self {
        let mut state = [0_u32; N];
        state[0] = 19_650_218;
        for i in 1..N {
            let before = state[i - 1];
            state[i] = 1_812_433_253_u32.wrapping_mul(before ^ before >> 30).wrapping_add(i as u32);
        }
        let mut i = 1;
        for _ in 0..N {
            let before = state[i - 1];
            let mixed = (before ^ before >> 30).wrapping_mul(1_664_525);
            state[i] = (state[i] ^ mixed).wrapping_add(seed);
            i = Self::step(&mut state, i);
        }
        for _ in 0..N - 1 {
            let before = state[i - 1];
            let mixed = (before ^ before >> 30).wrapping_mul(1_566_083_941);
            state[i] = (state[i] ^ mixed).wrapping_sub(i as u32);
            i = Self::step(&mut state, i);
        }
        state[0] = 0x8000_0000;
        Self { state, at: N }
    }

    fn step(state: &mut [u32; N], i: usize) -> usize {
        if i + 1 < N {
            return i + 1;
        }
        state[0] = state[N - 1];
        1
    }

    /// The next 32 random bits.
    pub fn next_u32(&mut self) -> u32 {
        if self.at == N {
            self.twist();
        }
        let mut y = self.state[self.at];
        self.at += 1;
        y ^= y >> 11;
        y ^= y << 7 & 0x9d2c_5680;
        y ^= y << 15 & 0xefc6_0000;
        y ^ y >> 18
    }

    fn twist(&mut self) {
        for i in 0..N {
            let y = self.state[i] & 0x8000_0000 | self.state[(i + 1) % N] & 0x7fff_ffff;
            let odd = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.state[i] = self.state[(i + M) % N] ^ y >> 1 ^ odd;
        }
        self.at = 0;
    }

    /// A number below `limit`, which must not be 0 (`_randbelow_with_getrandbits`).
    pub fn below(&mut self, limit: u32) -> u32 {
        let bits = 32 - limit.leading_zeros();
        loop {
            let number = self.next_u32() >> (32 - bits);
            if number < limit {
                return number;
            }
        }
    }

    /// `random.shuffle`.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for i in (1..list.len()).rev() {
            let j = self.below(i as u32 + 1) as usize;
            list.swap(i, j);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_the_generator_of_python() {
        // python3 -c 'import random; r=random.Random(1); print([r.getrandbits(32) for _ in range(3)])'
        let mut random = Random::new(1);
        assert_eq!(
            [0; 3].map(|_: u32| random.next_u32()),
            [577_090_037, 2_444_712_010, 3_639_700_191]
        );
    }

    #[test]
    fn shuffle_is_that_of_python() {
        // python3 -c 'import random; l=list(range(10)); random.Random(1).shuffle(l); print(l)'
        let mut list: Vec<u32> = (0..10).collect();
        Random::new(1).shuffle(&mut list);
        assert_eq!(list, [6, 8, 9, 7, 5, 3, 0, 4, 1, 2]);
    }
}
