//! Files cut and changed at points that a seed decides: the same ones every time.

/// splitmix64.
pub struct Chance(u64);

impl Chance {
    /// Numbers of their own for each `purpose`.
    pub fn new(purpose: &str) -> Self {
        Self(purpose.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)))
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Less than `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.number() % end.max(1) as u64) as usize
    }
}

/// `count` files that end too early, by what they are called.
pub fn cuts(purpose: &str, whole: &[u8], count: usize) -> Vec<(String, Vec<u8>)> {
    let mut chance = Chance::new(purpose);
    let mut cut = |_| {
        let length = chance.below(whole.len());
        (format!("{purpose}-cut-at-{length}"), whole[..length].to_vec())
    };
    let mut all: Vec<_> = (0..count).map(&mut cut).collect();
    // Two that happen to be cut at one place are one.
    all.sort();
    all.dedup();
    all
}

/// `count` files with a few bytes changed, doubled or left out.
pub fn changes(purpose: &str, whole: &[u8], count: usize) -> Vec<(String, Vec<u8>)> {
    let mut chance = Chance::new(&format!("{purpose} changed"));
    let mut changed = |number| {
        let mut bytes = whole.to_vec();
        for _ in 0..=chance.below(4) {
            let at = chance.below(bytes.len());
            match chance.below(6) {
                0 => bytes[at] = chance.below(256) as u8,
                1 => bytes[at] ^= 1 << chance.below(8),
                2 => bytes[at] = 0xff,
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, chance.below(256) as u8),
                _ => {
                    let from = chance.below(bytes.len());
                    let length = chance.below(16).min(bytes.len() - from.max(at));
                    bytes.copy_within(from..from + length, at);
                }
            }
        }
        (format!("{purpose}-changed-{number:02}"), bytes)
    };
    (1..=count).map(&mut changed).collect()
}
