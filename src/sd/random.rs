//! PyTorch's CPU random numbers, bit for bit, on every machine. Unaware of tensors and of what the numbers are for.
//!
//! A Mersenne Twister (Matsumoto and Nishimura 1998) feeds the same steps as `torch.Generator(device="cpu")` on x86: sixteen numbers
//! at a time by Box-Muller with the single-precision polynomials of the Cephes library, or one at a time in double precision where
//! fewer than sixteen are drawn. All arithmetic is written out here or exact by IEEE 754, `mul_add` included, so no C library has a say.

use anyhow::{Context as _, bail};

const WORDS: usize = 624;
const SHIFT: usize = 397;

/// PyTorch's CPU generator.
#[derive(Clone, Debug, PartialEq)]
pub struct Generator {
    words: [u32; WORDS],
    /// The next word to give out; `WORDS` when all are used.
    next: usize,
    /// The second number of a pair drawn in double precision, kept for the next small draw.
    kept_normal: Option<f64>,
}

/// A generator of its own for each purpose, so that no draw depends on how many others came before: `stream(seed, "noise", step)`.
///
/// PyTorch knows no such streams: they are for what no other program has to repeat.
pub fn stream(seed: u64, purpose: &str, index: u64) -> Generator {
    let mut hasher = blake3::Hasher::new_derive_key("loramill 2026 random stream");
    hasher.update(&seed.to_le_bytes()).update(&index.to_le_bytes()).update(purpose.as_bytes());
    let digest = hasher.finalize();
    let [a, b, c, d, ..] = *digest.as_bytes();
    Generator::new(u64::from(u32::from_le_bytes([a, b, c, d])))
}

impl Generator {
    /// As `torch.manual_seed`: only the low 32 bits of the seed count.
    pub fn new(seed: u64) -> Self {
        let mut words = [0; WORDS];
        words[0] = seed as u32;
        for i in 1..WORDS {
            let last = words[i - 1];
            words[i] = (last ^ (last >> 30)).wrapping_mul(1_812_433_253).wrapping_add(i as u32);
        }
        Self { words, next: WORDS, kept_normal: None }
    }

    /// `torch.randn(count)`: standard normal numbers.
    pub fn normal(&mut self, count: usize) -> Vec<f32> {
        if count < 16 {
            return (0..count).map(|_| self.one_normal() as f32).collect();
        }
        let mut numbers = self.uniform(count);
        for block in numbers.as_chunks_mut().0 {
            box_muller(block);
        }
        // PyTorch fills the last sixteen anew where they overlap a full block.
        if !count.is_multiple_of(16) {
            let tail = numbers.last_chunk_mut().expect("there are at least sixteen");
            tail.fill_with(|| self.unit());
            box_muller(tail);
        }
        numbers
    }

    /// `torch.rand(count)`: multiples of 2⁻²⁴ in `[0, 1)`.
    pub fn uniform(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.unit()).collect()
    }

    /// `torch.randint(0, end, (count,))`: whole numbers in `[0, end)`. PyTorch draws 64 bits from 2²⁸ on; `end` must be less.
    pub fn integers(&mut self, end: u32, count: usize) -> Vec<u32> {
        assert!((1..1 << 28).contains(&end), "`end` is {end}, must be at least 1 and below 2^28");
        (0..count).map(|_| self.word() % end).collect()
    }

    /// `torch.randperm(count)`: the numbers `0..count` in random order.
    pub fn permutation(&mut self, count: usize) -> Vec<usize> {
        assert!(count < u32::MAX as usize / 20, "PyTorch draws 64 bits for permutations of {count}");
        let mut order: Vec<usize> = (0..count).collect();
        for i in 0..count.saturating_sub(1) {
            order.swap(i, i + self.word() as usize % (count - i));
        }
        order
    }

    /// All that decides the numbers to come, to be read by `restore`.
    pub fn save(&self) -> Vec<u8> {
        let mut bytes: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        bytes.extend((self.next as u32).to_le_bytes());
        bytes.push(u8::from(self.kept_normal.is_some()));
        bytes.extend(self.kept_normal.unwrap_or(0.0).to_le_bytes());
        bytes
    }

    /// # Errors
    /// If `bytes` do not come from `save`.
    pub fn restore(bytes: &[u8]) -> anyhow::Result<Self> {
        let (words, rest) = bytes.split_at_checked(WORDS * 4).context("the state of the random generator is cut off")?;
        let [a, b, c, d, kept, normal @ ..] = rest else { bail!("the state of the random generator is cut off") };
        let next = u32::from_le_bytes([*a, *b, *c, *d]) as usize;
        let normal = <[u8; 8]>::try_from(normal)
            .map(f64::from_le_bytes)
            .context("the state of the random generator has a wrong length")?;
        if next > WORDS || *kept > 1 || !normal.is_finite() {
            bail!("the state of the random generator is damaged");
        }
        let mut state = Self { words: [0; WORDS], next, kept_normal: (*kept == 1).then_some(normal) };
        for (word, bytes) in state.words.iter_mut().zip(words.as_chunks().0) {
            *word = u32::from_le_bytes(*bytes);
        }
        Ok(state)
    }

    /// 32 random bits.
    fn word(&mut self) -> u32 {
        if self.next == WORDS {
            self.twist();
        }
        let mut y = self.words[self.next];
        self.next += 1;
        y ^= y >> 11;
        y ^= (y << 7) & 0x9d2c_5680;
        y ^= (y << 15) & 0xefc6_0000;
        y ^ (y >> 18)
    }

    fn twist(&mut self) {
        for i in 0..WORDS {
            let y = (self.words[i] & 0x8000_0000) | (self.words[(i + 1) % WORDS] & 0x7fff_ffff);
            let flip = if y & 1 == 1 { 0x9908_b0df } else { 0 };
            self.words[i] = self.words[(i + SHIFT) % WORDS] ^ (y >> 1) ^ flip;
        }
        self.next = 0;
    }

    /// In `[0, 1)`, with 24 random bits.
    fn unit(&mut self) -> f32 {
        (self.word() & 0x00ff_ffff) as f32 * f32::EPSILON / 2.0
    }

    /// In `[0, 1)`, with 53 random bits.
    fn unit_f64(&mut self) -> f64 {
        let high = u64::from(self.word());
        let bits = (high << 32) | u64::from(self.word());
        (bits & ((1 << 53) - 1)) as f64 * (f64::EPSILON / 2.0)
    }

    /// A standard normal number by Box-Muller in double precision, as PyTorch draws fewer than sixteen.
    fn one_normal(&mut self) -> f64 {
        if let Some(kept) = self.kept_normal.take() {
            return kept;
        }
        let turn = self.unit_f64();
        let radius = (-2.0 * ln_f64(1.0 - self.unit_f64())).sqrt();
        let (sin, cos) = sin_cos_turn(turn);
        self.kept_normal = Some(radius * sin);
        radius * cos
    }
}

/// Sixteen uniform numbers in, sixteen standard normal ones out.
fn box_muller(block: &mut [f32; 16]) {
    const TAU: f32 = std::f32::consts::TAU;
    let (radii, turns) = block.split_at_mut(8);
    for (a, b) in radii.iter_mut().zip(turns) {
        let radius = (-2.0 * ln(1.0 - *a)).sqrt();
        let (sin, cos) = sin_cos(TAU * *b);
        // PyTorch multiplies by the deviation 1 and adds the mean 0, which turns −0 into 0.
        *a = radius * cos + 0.0;
        *b = radius * sin + 0.0;
    }
}

/// Natural logarithm of a number in `(0, 1]`; Cephes `logf` as PyTorch's AVX2 code has it, each product and sum fused as its compiler does.
#[expect(clippy::excessive_precision, reason = "coefficients stand as Cephes prints them")]
fn ln(x: f32) -> f32 {
    const COEFFICIENTS: [f32; 8] = [
        -1.151_461_031e-1,
        1.167_699_874e-1,
        -1.242_014_084_6e-1,
        1.424_932_278_7e-1,
        -1.666_805_766_5e-1,
        2.000_071_476_5e-1,
        -2.499_999_399_3e-1,
        3.333_333_117_4e-1,
    ];
    // x = m · 2^e with m in [√½, √2)
    let bits = x.to_bits();
    let mut exponent = ((bits >> 23) as i32 - 0x7e) as f32;
    let mut mantissa = f32::from_bits(bits & 0x007f_ffff | 0x3f00_0000);
    if mantissa < std::f32::consts::FRAC_1_SQRT_2 {
        exponent -= 1.0;
        mantissa += mantissa;
    }
    let m = mantissa - 1.0;
    let square = m * m;
    let polynomial = COEFFICIENTS.iter().fold(7.037_683_629_2e-2, |sum: f32, c| sum.mul_add(m, *c));
    let mut y = (polynomial * m).mul_add(square, exponent * -2.121_944_4e-4);
    y = (-square).mul_add(0.5, y);
    exponent.mul_add(0.693_359_375, m + y)
}

/// Sine and cosine of an angle in `[0, 2π]`; Cephes `sinf` and `cosf` as PyTorch's AVX2 code has them.
#[expect(clippy::excessive_precision, reason = "coefficients stand as Cephes prints them")]
fn sin_cos(x: f32) -> (f32, f32) {
    // The nearest even number of eighths of a turn, taken off in three parts so that nothing is lost.
    let eighths = ((x * (4.0 * std::f32::consts::FRAC_1_PI)) as i32 + 1) & !1;
    let j = eighths as f32;
    let r = j.mul_add(-0.785_156_25, x);
    let r = j.mul_add(-2.418_756_484_985_351_6e-4, r);
    let r = j.mul_add(-3.774_894_977_445_941e-8, r);
    let z = r * r;
    let c = 2.443_315_711_809_948e-5_f32.mul_add(z, -1.388_731_625_493_765e-3).mul_add(z, 4.166_664_568_298_827e-2);
    let c = (c * z).mul_add(z, -(z * 0.5)) + 1.0;
    let s = (-1.951_529_589_1e-4_f32).mul_add(z, 8.332_160_873_6e-3).mul_add(z, -1.666_665_461_1e-1);
    let s = (s * z).mul_add(r, r);
    let (sin, cos) = if eighths & 2 == 0 { (s, c) } else { (c, s) };
    (if eighths & 4 == 0 { sin } else { -sin }, if (eighths + 2) & 4 == 0 { cos } else { -cos })
}

/// Natural logarithm of a number in `(0, 1]`, by the series of the inverse hyperbolic tangent; within 2 ulp.
fn ln_f64(x: f64) -> f64 {
    // x = m · 2^e with m in [√½, √2)
    let bits = x.to_bits();
    let mut exponent = (bits >> 52) as i32 - 0x3fe;
    let mut m = f64::from_bits(bits & 0x000f_ffff_ffff_ffff | 0x3fe0_0000_0000_0000);
    if m < std::f64::consts::FRAC_1_SQRT_2 {
        exponent -= 1;
        m += m;
    }
    let s = (m - 1.0) / (m + 1.0);
    let square = s * s; // at most 0.0295: thirteen terms reach 1e-20
    let series = (0..13).rev().fold(0.0, |sum, n| sum * square + 1.0 / f64::from(2 * n + 1));
    f64::from(exponent) * std::f64::consts::LN_2 + 2.0 * s * series
}

/// Sine and cosine of `turn` whole turns, `turn` in `[0, 1)`, by Taylor's series in an eighth of a turn either way.
fn sin_cos_turn(turn: f64) -> (f64, f64) {
    let quarters = (turn * 4.0 + 0.5).floor();
    let x = (turn * 4.0 - quarters) * std::f64::consts::FRAC_PI_2;
    let square = x * x; // at most 0.617
    let sin = (1..10).rev().fold(1.0, |sum, n| 1.0 - sum * square / f64::from(2 * n * (2 * n + 1))) * x;
    let cos = (1..10).rev().fold(1.0, |sum, n| 1.0 - sum * square / f64::from(2 * n * (2 * n - 1)));
    match quarters as i32 % 4 {
        0 => (sin, cos),
        1 => (cos, -sin),
        2 => (-sin, -cos),
        _ => (-cos, sin),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_normals_of_known_seeds_are_pytorchs() {
        assert_eq!(Generator::new(1).normal(4 * 64 * 64)[..4], [-1.525_595_9, -0.750_231_8, -0.653_980_9, -1.609_484_8]);
        assert_eq!(Generator::new(420_420).normal(4 * 64 * 64)[..4], [-0.385_545_82, 0.371_184, -1.907_936_1, -0.766_135_34]);
        assert_eq!(Generator::new(0).normal(4), [1.540_996_1, -0.293_428_9, -2.178_789_4, 0.568_431_26]);
    }

    #[test]
    fn a_restored_generator_goes_on_where_the_saved_one_stood() {
        let mut generator = Generator::new(7);
        generator.normal(100);
        generator.normal(3);
        let mut restored = Generator::restore(&generator.save()).unwrap();
        assert_eq!(restored, generator);
        assert_eq!(restored.normal(5), generator.normal(5));
        assert_eq!(restored.integers(1000, 700), generator.integers(1000, 700));
    }

    #[test]
    fn a_damaged_state_is_refused() {
        let mut state = Generator::new(7).save();
        assert!(Generator::restore(&state[..100]).is_err());
        assert!(Generator::restore(&state[..state.len() - 1]).is_err());
        state[WORDS * 4 + 1] = 255;
        assert!(Generator::restore(&state).is_err());
    }

    #[test]
    fn streams_differ_by_seed_purpose_and_index() {
        let first = |seed, purpose, index| stream(seed, purpose, index).normal(16);
        assert_eq!(first(1, "noise", 0), first(1, "noise", 0));
        assert_ne!(first(1, "noise", 0), first(2, "noise", 0));
        assert_ne!(first(1, "noise", 0), first(1, "order", 0));
        assert_ne!(first(1, "noise", 0), first(1, "noise", 1));
    }
}
