//! Powers of two, as the exponentials of softmax are taken here.

/// `2ˣ` for `x` at most 0, to 2e-7 relative; 0 below -127.
///
/// The coefficients are those of the series of `2ʳ`, up to the sixth power: on [-1/2, 1/2] what is left out is below 2e-7 of the
/// result.
#[inline(always)]
pub(super) fn exp2(x: f32) -> f32 {
    // Adding 1.5 · 2²³ rounds to the nearest integer, which then sits in the low bits.
    const ROUND: f32 = 12_582_912.0;
    let clamped = if x < -127.0 { -127.0 } else { x };
    let shifted = clamped + ROUND;
    let r = clamped - (shifted - ROUND);
    let mut p = 1.540_353e-4f32;
    p = p.mul_add(r, 1.333_355_8e-3);
    p = p.mul_add(r, 9.618_129e-3);
    p = p.mul_add(r, 5.550_411e-2);
    p = p.mul_add(r, 2.402_265e-1);
    p = p.mul_add(r, std::f32::consts::LN_2);
    p = p.mul_add(r, 1.0);
    // At -127 the bits are those of 0.
    p * f32::from_bits((shifted.to_bits() << 23).wrapping_add(0x3f80_0000))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn powers_of_two_agree_with_the_exact_ones() {
        for i in 0..=12_600 {
            let x = -i as f32 / 100.0;
            let exact = f64::from(x).exp2();
            let error = (f64::from(exp2(x)) - exact).abs() / exact;
            assert!(error < 2e-7, "2^{x} is off by {error}");
        }
        assert_eq!((exp2(0.0), exp2(-127.0), exp2(f32::NEG_INFINITY)), (1.0, 0.0, 0.0));
    }

    #[test]
    fn a_power_of_not_a_number_is_not_a_number() {
        assert!(exp2(f32::NAN).is_nan());
    }
}
