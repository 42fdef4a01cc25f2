//! The one source of chance: `SplitMix64`, written out here so that a seed means the same run for ever, whatever becomes
//! of a library's generators.

use crate::Time;

/// A stream of numbers that is a function of its seed.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        let mut rng = Self(seed ^ 0x5ee3_7a9b_01c2_d4f6);
        // Neighbouring seeds would begin alike.
        rng.next();
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `n`, which is above 0.
    pub fn below(&mut self, n: usize) -> usize {
        let n = u64::try_from(n).unwrap_or(1).max(1);
        usize::try_from(self.next() % n).unwrap_or(0)
    }

    /// A number from `low` to `high`, both included.
    pub fn between(&mut self, low: Time, high: Time) -> Time {
        let width = u64::try_from(high - low).unwrap_or(0) + 1;
        low + Time::try_from(self.next() % width).unwrap_or(0)
    }

    /// True in `per_mille` of a thousand cases.
    pub fn chance(&mut self, per_mille: u16) -> bool {
        per_mille > 0 && self.next() % 1_000 < u64::from(per_mille)
    }
}
