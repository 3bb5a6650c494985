//! The curves of a colour profile, followed to a place (ICC.1). Unaware of pictures and of what a curve is for.

use anyhow::{bail, ensure};
use moxcms::ToneReprCurve;

/// A curve of a profile at `x`, 0 to 1; ICC.1, curveType and parametricCurveType.
pub(super) fn along(curve: &ToneReprCurve, x: f64) -> anyhow::Result<f64> {
    let y = match curve {
        ToneReprCurve::Lut(values) => match values.as_slice() {
            [] => x,
            // A gamma of 8 whole bits and 8 behind the point.
            [gamma] => x.powf(f64::from(*gamma) / 256.0),
            values => between(values, x),
        },
        ToneReprCurve::Parametric(numbers) => {
            let numbers: Vec<f64> = numbers.iter().map(|number| f64::from(*number)).collect();
            let power = |a: f64, b: f64, g: f64| (a * x + b).max(0.0).powf(g);
            match *numbers.as_slice() {
                [g] => x.max(0.0).powf(g),
                [g, a, b] => {
                    if a * x + b >= 0.0 {
                        power(a, b, g)
                    } else {
                        0.0
                    }
                }
                [g, a, b, c] => {
                    if a * x + b >= 0.0 {
                        power(a, b, g) + c
                    } else {
                        c
                    }
                }
                [g, a, b, c, d] => {
                    if x >= d {
                        power(a, b, g)
                    } else {
                        c * x
                    }
                }
                [g, a, b, c, d, e, f] => {
                    if x >= d {
                        power(a, b, g) + e
                    } else {
                        c * x + f
                    }
                }
                _ => bail!("a curve of it has {} numbers", numbers.len()),
            }
        }
    };
    ensure!(y.is_finite(), "a curve of it leaves the numbers");
    Ok(y)
}

/// A table of 16-bit values at `x`, 0 to 1, with a straight line between neighbours.
pub(super) fn between(values: &[u16], x: f64) -> f64 {
    let place = x.clamp(0.0, 1.0) * (values.len() - 1) as f64;
    let at = place as usize;
    let (low, high) = (f64::from(values[at]), f64::from(values[(at + 1).min(values.len() - 1)]));
    (low + (high - low) * (place - at as f64)) / 65_535.0
}
