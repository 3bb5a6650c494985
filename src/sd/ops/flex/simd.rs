//! Elementary functions and sums that the compiler turns into vector instructions.
//!
//! The same additions and multiplications in the same order on every machine, without fused multiply-add, so that results
//! agree to the last bit between machines.

/// Accumulators of a sum: as many as the widest vector unit has lanes, twice over to hide its latency.
const LANES: usize = 32;

/// Defines a function whose body is compiled once for each kind of vector unit; a call takes the one for this machine.
///
/// Functions that the body calls must be `#[inline(always)]`: what is not inlined stays compiled for the oldest machines, which is also
/// why a function that takes a closure cannot do this.
macro_rules! vectorized {
    ($(#[$attribute:meta])* fn $name:ident<'a>($($argument:ident: $type:ty),* $(,)?) $body:block) => {
        $(#[$attribute])*
        fn $name<'a>($($argument: $type),*) {
            struct Loop<'a> {
                $($argument: $type),*
            }

            impl macerator::WithSimd for Loop<'_> {
                type Output = ();

                #[inline(always)]
                fn with_simd<S: macerator::Simd>(self) {
                    let Self { $($argument),* } = self;
                    $body
                }
            }

            macerator::AutoArch::new().dispatch(Loop { $($argument),* });
        }
    };
}
pub(super) use vectorized;

/// `eˣ`, to about 1e-7 relative; 0 below -87.3.
///
/// The polynomial and the split of ln 2 are those of Cephes' expf.
#[inline(always)]
pub(super) fn exp(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to the nearest integer, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = x.clamp(-87.3, 88.3);
    let shifted = clamped * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = clamped - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut p = 1.987_569_1e-4;
    p = p * r + 1.398_2e-3;
    p = p * r + 8.333_452e-3;
    p = p * r + 4.166_579_6e-2;
    p = p * r + 1.666_666_5e-1;
    p = p * r + 0.5;
    let fraction = p * r * r + r + 1.0;
    let power = f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000));
    if x < -87.3 { 0.0 } else { fraction * power }
}

/// `1 / (1 + e⁻ˣ)`.
#[inline(always)]
pub(super) fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + exp(-x))
}

/// The error function, to 4e-7 absolute (six units in the last place of 1): the rational approximation of Eigen and XLA on [-4, 4].
#[inline(always)]
pub(super) fn erf(x: f32) -> f32 {
    let x = x.clamp(-4.0, 4.0);
    let x2 = x * x;
    let mut p = -2.726_142_3e-10;
    p = p * x2 + 2.770_681_4e-8;
    p = p * x2 - 2.101_024e-6;
    p = p * x2 - 5.692_506_4e-5;
    p = p * x2 - 7.349_906e-4;
    p = p * x2 - 2.954_6e-3;
    p = p * x2 - 1.609_603_3e-2;
    let mut q = -1.456_607_2e-5;
    q = q * x2 - 2.133_740_5e-4;
    q = q * x2 - 1.682_827e-3;
    q = q * x2 - 7.373_329_3e-3;
    q = q * x2 - 1.426_473_9e-2;
    x * p / q
}

/// The sum of `term(i)` over 0 to `count`, in a fixed order.
#[inline(always)]
pub(super) fn sum(count: usize, term: impl Fn(usize) -> f32) -> f32 {
    let mut lanes = [0.0f32; LANES];
    let whole = count - count % LANES;
    for start in (0..whole).step_by(LANES) {
        for (lane, total) in lanes.iter_mut().enumerate() {
            *total += term(start + lane);
        }
    }
    for (lane, i) in (whole..count).enumerate() {
        lanes[lane] += term(i);
    }
    let mut width = LANES / 2;
    while width > 0 {
        for lane in 0..width {
            lanes[lane] += lanes[lane + width];
        }
        width /= 2;
    }
    lanes[0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_agrees_with_the_exact_one() {
        for i in -8_700..=8_800 {
            let x = i as f32 / 100.0;
            let exact = f64::from(x).exp();
            let error = (f64::from(exp(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "exp({x}) is off by {error}");
        }
        assert_eq!(exp(f32::NEG_INFINITY), 0.0);
        assert_eq!(exp(0.0), 1.0);
    }

    #[test]
    fn exp_of_not_a_number_is_not_a_number() {
        assert!(exp(f32::NAN).is_nan());
        assert!(erf(f32::NAN).is_nan());
    }

    #[test]
    fn erf_agrees_with_its_series() {
        for i in -400..=400 {
            let x = f64::from(i) / 100.0;
            // 2/√π · Σ (-1)ⁿ x²ⁿ⁺¹ / (n! (2n + 1)): in f64 good to 1e-10 up to 4.
            let (mut term, mut total) = (x, x);
            for n in 1..120 {
                term *= -x * x / f64::from(n);
                total += term / f64::from(2 * n + 1);
            }
            let exact = total * std::f64::consts::FRAC_2_SQRT_PI;
            assert!((f64::from(erf(x as f32)) - exact).abs() < 4e-7, "erf({x})");
        }
    }

    #[test]
    fn a_sum_takes_every_value() {
        for count in [0, 1, 31, 32, 33, 100] {
            let values: Vec<f32> = (0..count).map(|i| i as f32).collect();
            assert_eq!(sum(count, |i| values[i]), (0..count).sum::<usize>() as f32);
        }
    }
}
