//! What a colour profile makes of the numbers of a picture: 8-bit numbers in, 8-bit sRGB out. Unaware of picture formats.
//!
//! The rules are those of Little CMS, which Pillow's `ImageCms` uses, for a transform to its own sRGB by the perceptual intent: tables go
//! before primaries and curves where a profile has both, and the darkest colour of the profile becomes black (ICC's black point compensation,
//! which Little CMS applies because its sRGB is of version 4). All is reckoned here, in one order and without the fused operations that only
//! some processors have, so that every machine gives the same pixels; `moxcms` reads the profile.

use std::sync::LazyLock;

use anyhow::{Context as _, bail, ensure};
use moxcms::{ColorProfile, DataColorSpace, ParsingOptions, ProfileVersion, ToneReprCurve};

use crate::sd::data::colour_curves::along;
use crate::sd::data::colour_grid::Grid;
use crate::sd::data::colour_tables::{ColourTables, D50};

/// The most bytes of a profile. Those of printing presses have two or three million.
pub const MOST_PROFILE_BYTES: usize = 8 << 20;

/// The largest difference by which a profile may move a colour and still be sRGB: such profiles differ in how their curve is rounded.
const SAME: u8 = 1;

/// XYZ of linear RGB under D65 adapted to D50 by Bradford's matrix, turned round: IEC 61966-2-1's primaries, as ICC profiles state them.
const TO_LINEAR_SRGB: [[f64; 3]; 3] = [
    [3.133_856_1, -1.616_866_7, -0.490_614_6],
    [-0.978_768_4, 1.916_141_5, 0.033_454_0],
    [0.071_945_3, -0.228_991_4, 1.405_242_7],
];

/// Perceptual black of version 4, ICC.1's reference medium, as parts of white's XYZ.
const PERCEPTUAL_BLACK: [f64; 3] = [0.003_473_1; 3];

/// What the channels of a pixel are before its profile is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ColourModel {
    /// One, given as three equal ones.
    Grey,
    Rgb,
    /// 255 is full ink.
    Cmyk,
}

/// How the numbers of a picture become sRGB.
#[derive(Debug)]
pub enum Conversion {
    /// They are sRGB.
    None,
    /// By the first number alone.
    Grey(Box<[u8; 256]>),
    /// Curves, primaries, curves.
    Primaries { linear: Box<[[f32; 256]; 3]>, matrix: [[f32; 3]; 3] },
    /// Three or four numbers by a table of colours.
    Table(Grid),
}

impl Conversion {
    /// Of a picture of `model` whose file holds `profile`.
    ///
    /// # Errors
    /// If the profile is damaged, or is one for other numbers.
    pub fn of(profile: &[u8], model: ColourModel) -> anyhow::Result<Self> {
        ensure!(
            profile.len() <= MOST_PROFILE_BYTES,
            "it has {} MB; at most {} are read",
            profile.len() >> 20,
            MOST_PROFILE_BYTES >> 20
        );
        let options = ParsingOptions { max_profile_size: MOST_PROFILE_BYTES + 1, ..ParsingOptions::default() };
        let profile = ColorProfile::new_from_slice_with_options(profile, options).context("it is damaged")?;
        let fits = match profile.color_space {
            DataColorSpace::Rgb => model != ColourModel::Cmyk,
            DataColorSpace::Gray => model == ColourModel::Grey,
            DataColorSpace::Cmyk => model == ColourModel::Cmyk,
            _ => false,
        };
        ensure!(fits, "it is one for {:?}, and the picture has other numbers", profile.color_space);
        let conversion = match &profile.lut_a_to_b_perceptual {
            Some(tables) => {
                let is_of_version_4 = profile.version() >= ProfileVersion::V4_0;
                let tables = ColourTables::of(tables, profile.pcs, model == ColourModel::Cmyk)?;
                Self::of_tables(&tables, is_of_version_4.then_some(PERCEPTUAL_BLACK))
            }
            None if profile.color_space == DataColorSpace::Gray => {
                let curve = linearised(profile.gray_trc.as_ref().context("it has no curve")?)?;
                // Between profiles a grey is a luminance, or a lightness.
                Self::of_curve(if profile.pcs == DataColorSpace::Lab { curve.map(luminance) } else { curve })
            }
            None => Self::of_primaries(&profile)?,
        };
        Ok(if model != ColourModel::Cmyk && conversion.changes_nothing() { Self::None } else { conversion })
    }

    /// Adobe RGB (1998), which many cameras name without enclosing it.
    pub fn of_adobe_rgb() -> Self {
        Self::of_primaries(&ColorProfile::new_adobe_rgb()).expect("a profile of moxcms' own")
    }

    /// Display P3: its primaries with the curve of sRGB.
    pub fn of_display_p3() -> Self {
        Self::of_primaries(&ColorProfile::new_display_p3()).expect("a profile of moxcms' own")
    }

    /// `curve`: the luminance of each number.
    fn of_curve(curve: [f64; 256]) -> Self {
        let black = Black::at([curve[0]; 3]);
        let mut table = Box::new([0; 256]);
        for (to, linear) in table.iter_mut().zip(curve) {
            let [compensated, _, _] = black.compensated([linear; 3]);
            *to = (srgb(compensated) * 255.0).round() as u8;
        }
        Self::Grey(table)
    }

    fn of_primaries(profile: &ColorProfile) -> anyhow::Result<Self> {
        let curves = [&profile.red_trc, &profile.green_trc, &profile.blue_trc];
        let [Some(red), Some(green), Some(blue)] = curves else { bail!("it has neither tables nor curves") };
        let curves = [red, green, blue];
        let columns = [profile.red_colorant, profile.green_colorant, profile.blue_colorant].map(|xyz| [xyz.x, xyz.y, xyz.z]);
        ensure!(columns.iter().flatten().all(|number| number.is_finite() && number.abs() < 4.0), "its primaries are no colours");
        let linear = [linearised(red)?, linearised(green)?, linearised(blue)?];
        let xyz = |linear: [f64; 3]| {
            [0, 1, 2]
                .map(|row| (columns[0][row] * linear[0] + columns[1][row] * linear[1] + columns[2][row] * linear[2]) / D50[row])
        };
        let darkest = linear.map(|curve| curve[0]);
        if darkest != [0.0; 3] {
            let black = Black::at(xyz(darkest));
            // Every curve was followed along its whole length above.
            let part = |channel: usize, x: f64| along(curves[channel], x).unwrap_or_default().clamp(0.0, 1.0);
            return Ok(Self::Table(Grid::of_three(|[r, g, b]| shown(xyz([part(0, r), part(1, g), part(2, b)]), &black))));
        }
        let mut matrix = [[0.0; 3]; 3];
        for (row, to) in matrix.iter_mut().zip(&TO_LINEAR_SRGB) {
            for (cell, column) in row.iter_mut().zip(&columns) {
                *cell = (to[0] * column[0] + to[1] * column[1] + to[2] * column[2]) as f32;
            }
        }
        Ok(Self::Primaries { linear: Box::new(linear.map(|curve| curve.map(|value| value as f32))), matrix })
    }

    /// `black`: what becomes black, if it is not the darkest colour.
    fn of_tables(tables: &ColourTables<'_>, black: Option<[f64; 3]>) -> Self {
        if tables.channels() == 4 {
            let black = Black::at(black.unwrap_or_else(|| tables.colour([1.0; 4])));
            return Self::Table(Grid::of_four(|inks| shown(tables.colour(inks), &black)));
        }
        let black = Black::at(black.unwrap_or_else(|| tables.colour([0.0; 4])));
        Self::Table(Grid::of_three(|[r, g, b]| shown(tables.colour([r, g, b, 0.0]), &black)))
    }

    /// Whether no colour of a coarse grid, and no grey, moves by more than rounding.
    fn changes_nothing(&self) -> bool {
        let greys = (0..=255u8).map(|grey| [grey; 3]);
        if let Self::Grey(_) = self {
            return greys.clone().all(|grey| self.rgb(grey, &ENCODED)[0].abs_diff(grey[0]) <= SAME);
        }
        let step = |number: u32| (number * 51) as u8;
        let colours = (0..6 * 6 * 6).map(|at| [step(at / 36), step(at / 6 % 6), step(at % 6)]);
        greys
            .chain(colours)
            .all(|colour| self.rgb(colour, &ENCODED).iter().zip(colour).all(|(after, before)| after.abs_diff(before) <= SAME))
    }

    /// Every pixel of a picture of 8-bit RGB; a grey one has three equal numbers.
    pub fn apply(&self, pixels: &mut [u8]) {
        if !matches!(self, Self::None) {
            let encoded: &[u8] = &ENCODED;
            let mut last = ([0; 3], self.rgb([0; 3], encoded));
            for pixel in pixels.as_chunks_mut::<3>().0 {
                // Neighbours are often equal.
                if *pixel != last.0 {
                    last = (*pixel, self.rgb(*pixel, encoded));
                }
                *pixel = last.1;
            }
        }
    }

    /// `encoded`: that of `ENCODED`, which is looked up once for a picture.
    fn rgb(&self, pixel: [u8; 3], encoded: &[u8]) -> [u8; 3] {
        match self {
            Self::None => pixel,
            Self::Grey(table) => [table[usize::from(pixel[0])]; 3],
            Self::Primaries { linear, matrix } => {
                let [r, g, b] = [0, 1, 2].map(|channel| linear[channel][usize::from(pixel[channel])]);
                let of =
                    |row: &[f32; 3]| encoded[((row[0] * r + row[1] * g + row[2] * b).clamp(0.0, 1.0) * STEPS + 0.5) as usize];
                [of(&matrix[0]), of(&matrix[1]), of(&matrix[2])]
            }
            Self::Table(grid) => grid.rgb(pixel),
        }
    }

    /// Inks as 8-bit sRGB; 255 is full ink.
    ///
    /// # Errors
    /// If this is no conversion of four inks.
    pub fn apply_to_inks(&self, inks: &[u8]) -> anyhow::Result<Vec<u8>> {
        let Self::Table(grid) = self else { bail!("it has no tables for four inks") };
        let mut pixels = Vec::with_capacity(inks.len() / 4 * 3);
        for inks in inks.as_chunks::<4>().0 {
            pixels.extend_from_slice(&grid.inks(*inks).context("its tables are for three numbers")?);
        }
        Ok(pixels)
    }
}

/// The colour that becomes black, as parts of white's XYZ.
struct Black([f64; 3]);

/// Of lightness 50: what is lighter is nobody's black.
const LIGHTEST_BLACK: f64 = 0.184_2;

impl Black {
    fn at(xyz: [f64; 3]) -> Self {
        Self(xyz.map(|part| if part.is_finite() { part.clamp(0.0, LIGHTEST_BLACK) } else { 0.0 }))
    }

    /// White stays.
    fn compensated(&self, xyz: [f64; 3]) -> [f64; 3] {
        [0, 1, 2].map(|at| (xyz[at] - self.0[at]) / (1.0 - self.0[at]))
    }
}

/// sRGB, 0 to 1, of a colour given as parts of white's XYZ.
fn shown(xyz: [f64; 3], black: &Black) -> [f64; 3] {
    let [x, y, z] = black.compensated(xyz);
    TO_LINEAR_SRGB.map(|row| srgb(row[0] * D50[0] * x + row[1] * D50[1] * y + row[2] * D50[2] * z))
}

/// CIE's luminance of a lightness, both 0 to 1.
fn luminance(lightness: f64) -> f64 {
    let root = (lightness * 100.0 + 16.0) / 116.0;
    if root > 24.0 / 116.0 { root * root * root } else { 108.0 / 841.0 * (root - 16.0 / 116.0) }
}

/// Linear light, 0 to 1, as sRGB, 0 to 1.
fn srgb(linear: f64) -> f64 {
    let linear = if linear.is_finite() { linear.clamp(0.0, 1.0) } else { 0.0 };
    if linear <= 0.003_130_8 { 12.92 * linear } else { 1.055 * linear.powf(1.0 / 2.4) - 0.055 }
}

/// Steps of linear light: near black ten of them are one of 8-bit sRGB.
const STEPS: f32 = 32_767.0;

static ENCODED: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let encoded = |step: u16| (srgb(f64::from(step) / f64::from(STEPS)) * 255.0).round() as u8;
    (0..=32_767).map(encoded).collect()
});

/// The linear light of each 8-bit number.
fn linearised(curve: &ToneReprCurve) -> anyhow::Result<[f64; 256]> {
    let mut table = [0.0; 256];
    for (number, value) in table.iter_mut().enumerate() {
        *value = along(curve, number as f64 / 255.0)?.clamp(0.0, 1.0);
    }
    Ok(table)
}
