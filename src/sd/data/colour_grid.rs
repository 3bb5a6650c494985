//! Colours on a grid of three or four numbers, and those between its points. Unaware of profiles.
//!
//! The grid is laid out as Little CMS lays it out for 8-bit pixels (`OptimizeByComputingLinearization`, `OptimizeByResampling` in cmsopt.c of 2.16),
//! so that what lies between its points comes out as there: near the edge of what sRGB can show, that is several steps from what the profile says.

/// Points along each side.
const POINTS_OF_3: usize = 33;
const POINTS_OF_4: usize = 17;

/// Greys by which the points of three numbers are spread.
const GREYS: usize = 4096;

/// sRGB of pixels of 8-bit numbers.
#[derive(Debug)]
pub struct Grid {
    points: usize,
    /// Where on each side a number lies, of a point to the next.
    places: Vec<[f32; 256]>,
    /// 0 to 1, three for each point; the last number runs fastest.
    values: Vec<f32>,
}

impl Grid {
    /// Of three numbers; `srgb` gives the colour of each three, all from 0 to 1.
    pub fn of_three(srgb: impl Fn([f64; 3]) -> [f64; 3]) -> Self {
        let spread = Spread::of(&srgb).unwrap_or_else(Spread::even);
        let at = |side: usize, point: usize| spread.inverse(side, point as f64 / (POINTS_OF_3 - 1) as f64);
        let mut values = Vec::with_capacity(POINTS_OF_3.pow(3) * 3);
        for first in 0..POINTS_OF_3 {
            for second in 0..POINTS_OF_3 {
                for third in 0..POINTS_OF_3 {
                    values.extend(srgb([at(0, first), at(1, second), at(2, third)]).map(kept));
                }
            }
        }
        // White stays white.
        let last = values.len() - 3;
        values[last..].fill(1.0);
        let places = (0..3).map(|side| spread.places(side, POINTS_OF_3)).collect();
        Self { points: POINTS_OF_3, places, values }
    }

    /// Of four inks; `srgb` gives the colour of each four, all from 0 to 1.
    pub fn of_four(srgb: impl Fn([f64; 4]) -> [f64; 3]) -> Self {
        let mut values = Vec::with_capacity(POINTS_OF_4.pow(4) * 3);
        let at = |point: usize| point as f64 / (POINTS_OF_4 - 1) as f64;
        for point in 0..POINTS_OF_4.pow(4) {
            let along = |side: u32| at(point / POINTS_OF_4.pow(3 - side) % POINTS_OF_4);
            values.extend(srgb([along(0), along(1), along(2), along(3)]).map(kept));
        }
        // Paper is white.
        values[..3].fill(1.0);
        let even = std::array::from_fn(|number| (number as f64 / 255.0 * (POINTS_OF_4 - 1) as f64) as f32);
        Self { points: POINTS_OF_4, places: vec![even; 4], values }
    }

    /// Of three numbers.
    pub fn rgb(&self, pixel: [u8; 3]) -> [u8; 3] {
        let places = [0, 1, 2].map(|side| self.places[side][usize::from(pixel[side])]);
        rounded(between_points(&self.values, &[self.points; 3], &places))
    }

    /// Of four inks; `None` if this is a grid of three numbers.
    pub fn inks(&self, pixel: [u8; 4]) -> Option<[u8; 3]> {
        if self.places.len() != 4 {
            return None;
        }
        let places = [0, 1, 2, 3].map(|side| self.places[side][usize::from(pixel[side])]);
        Some(rounded(between_points(&self.values, &[self.points; 4], &places)))
    }
}

/// With 16 bits.
fn kept(value: f64) -> f32 {
    ((value * 65_535.0).round() / 65_535.0) as f32
}

fn rounded(colour: [f32; 3]) -> [u8; 3] {
    colour.map(|value| (value * 255.0 + 0.5) as u8)
}

/// How the points are spread along each side: even in what greys come to.
struct Spread([Vec<f64>; 3]);

impl Spread {
    /// `None` where greys do not tell.
    fn of(srgb: &impl Fn([f64; 3]) -> [f64; 3]) -> Option<Self> {
        let mut curves = [vec![0.0; GREYS], vec![0.0; GREYS], vec![0.0; GREYS]];
        for grey in 0..GREYS {
            let colour = srgb([grey as f64 / (GREYS - 1) as f64; 3]);
            for (curve, value) in curves.iter_mut().zip(colour) {
                curve[grey] = (value * 65_535.0).round();
            }
        }
        curves.iter_mut().for_each(|curve| straighten_ends(curve));
        curves
            .iter()
            .all(|curve| is_suitable(curve))
            .then(|| Self(curves.map(|curve| curve.iter().map(|v| v / 65_535.0).collect())))
    }

    fn even() -> Self {
        let line: Vec<f64> = (0..GREYS).map(|grey| grey as f64 / (GREYS - 1) as f64).collect();
        Self([line.clone(), line.clone(), line])
    }

    fn places(&self, side: usize, points: usize) -> [f32; 256] {
        let curve = &self.0[side];
        std::array::from_fn(|number| {
            let place = number as f64 / 255.0 * (GREYS - 1) as f64;
            let low = (place as usize).min(GREYS - 2);
            let value = curve[low] + (curve[low + 1] - curve[low]) * (place - low as f64);
            (value.clamp(0.0, 1.0) * (points - 1) as f64) as f32
        })
    }

    /// The number that comes to `value`.
    fn inverse(&self, side: usize, value: f64) -> f64 {
        let curve = &self.0[side];
        let above = curve.partition_point(|at| *at <= value).clamp(1, GREYS - 1);
        let (low, high) = (curve[above - 1], curve[above]);
        let share = if high > low { ((value - low) / (high - low)).clamp(0.0, 1.0) } else { 0.0 };
        ((above - 1) as f64 + share) / (GREYS - 1) as f64
    }
}

/// The first and the last fiftieth of a curve become lines from black and to white.
fn straighten_ends(curve: &mut [f64]) {
    let part = (curve.len() as f64 * 0.02 + 0.5) as usize;
    let end = curve.len() - part - 1;
    let slope = curve[part] / part as f64;
    for (at, value) in curve[..part].iter_mut().enumerate() {
        *value = (at as f64 * slope).round();
    }
    let (last, slope) = (curve[end], (65_535.0 - curve[end]) / part as f64);
    for (at, value) in curve[end..].iter_mut().enumerate() {
        *value = (last + at as f64 * slope).round().min(65_535.0);
    }
}

/// Whether a curve rises, give or take rounding, and does not stand at an end for long.
fn is_suitable(curve: &[f64]) -> bool {
    let rises = curve.windows(2).all(|pair| pair[0] - pair[1] <= 2.0);
    let at = |end: f64| curve.iter().filter(|value| **value == end).count();
    rises && at(0.0) <= curve.len() / 20 && at(65_535.0) <= curve.len() / 20
}

/// Between the points of a grid: of four numbers a straight line along the first, of the three others the tetrahedron in which the place lies.
pub(super) fn between_points(values: &[f32], points: &[usize], places: &[f32]) -> [f32; 3] {
    let stride = |side: usize| points[side + 1..].iter().product::<usize>() * 3;
    let split = |side: usize| {
        let low = (places[side] as usize).min(points[side] - 1);
        let step = if low + 1 < points[side] { stride(side) } else { 0 };
        (low * stride(side), step, places[side] - low as f32)
    };
    let first = points.len() - 3;
    let mut sides = [split(first), split(first + 1), split(first + 2)];
    let base: usize = sides.iter().map(|side| side.0).sum();
    // From the corner along the side of which most is left, then along the next.
    sides.sort_by(|a, b| b.2.total_cmp(&a.2));
    let tetrahedron = |start: usize| {
        let corners = [start, start + sides[0].1, start + sides[0].1 + sides[1].1, start + sides[0].1 + sides[1].1 + sides[2].1];
        let weights = [1.0 - sides[0].2, sides[0].2 - sides[1].2, sides[1].2 - sides[2].2, sides[2].2];
        [0, 1, 2].map(|channel| {
            let part = |corner: usize| weights[corner] * values[corners[corner] + channel];
            part(0) + part(1) + part(2) + part(3)
        })
    };
    if first == 0 {
        return tetrahedron(base);
    }
    let (low, step, share) = split(0);
    let (below, above) = (tetrahedron(base + low), tetrahedron(base + low + step));
    [0, 1, 2].map(|channel| below[channel] + (above[channel] - below[channel]) * share)
}
