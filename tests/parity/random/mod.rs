//! `random` against torch's CPU generator.

use loramill::sd::random::Generator;

use crate::parity::{Fixture, assert_close, draw};

#[test]
fn ten_thousand_normals_of_each_seed_are_torchs_bit_for_bit() {
    let fixture = Fixture::read("random");
    for seed in [0, 1, 42, 420_420, (1 << 32) - 1, (1 << 32) + 5] {
        assert_eq!(Generator::new(seed).normal(10_000), fixture.values(&format!("normal.{seed}")), "seed {seed}");
    }
}

#[test]
fn draws_of_every_kind_follow_each_other_as_in_torch() {
    let fixture = Fixture::read("random");
    let expected = |name: &str| fixture.values(name);
    let integers = |name: &str| fixture.integers(name);
    let mut generator = Generator::new(3);
    // The small draws go through this program's own logarithm in double precision: one rounding to f32 may differ.
    let assert_ulp = |found: &[f32], expected: &[f32]| assert_close("small draw", found, expected, 0.0, f32::EPSILON);
    assert_ulp(&generator.normal(3), &expected("mixed.0"));
    assert_eq!(generator.normal(20), expected("mixed.1"));
    assert_ulp(&generator.normal(2), &expected("mixed.2"));
    assert_eq!(generator.uniform(700), expected("mixed.3"));
    assert_ulp(&generator.normal(4), &expected("mixed.4"));
    assert!(generator.integers(1000, 300).into_iter().map(i64::from).eq(integers("mixed.5")));
    assert!(generator.permutation(50).into_iter().map(|i| i as i64).eq(integers("mixed.6")));
    assert_ulp(&generator.normal(15), &expected("mixed.7"));
    assert_eq!(generator.normal(16), expected("mixed.8"));
    let small: Vec<f32> = (0..200).flat_map(|_| generator.normal(15)).collect();
    assert_ulp(&small, &expected("small"));
}

#[test]
fn weights_drawn_by_name_are_the_same_in_python() {
    assert_eq!(draw("unet.conv_in.weight", &[3, 5, 7], 0.02), Fixture::read("random").values("draw"));
}
