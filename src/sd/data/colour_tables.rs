//! The tables of a colour profile (`mft1`, `mft2`, `mAB `; ICC.1). Unaware of pictures.

use anyhow::{Context as _, ensure};
use moxcms::{DataColorSpace, LutDataType, LutMultidimensionalType, LutStore, LutType, LutWarehouse};

use crate::sd::data::colour_curves::{along, between};
use crate::sd::data::colour_grid::between_points;

/// White of the space between profiles, ICC.1's D50.
pub(super) const D50: [f64; 3] = [0.9642, 1.0, 0.8249];

/// Device numbers to the space between profiles.
pub struct ColourTables<'p> {
    tables: Tables<'p>,
    channels: usize,
    is_lab: bool,
    /// Lab of 16 bits as version 2 writes it, with 0xff00 for 100.
    is_lab_of_version_2: bool,
}

enum Tables<'p> {
    Plain {
        tables: &'p LutDataType,
        input: Vec<u16>,
        colours: Cube,
        output: Vec<u16>,
    },
    /// Curves, colours, curves, a matrix, curves.
    Curved {
        tables: &'p LutMultidimensionalType,
        colours: Option<Cube>,
    },
}

/// Colours on a grid of three or four dimensions; the last channel runs fastest.
struct Cube {
    points: Vec<usize>,
    /// 0 to 1, three for each point.
    values: Vec<f32>,
}

impl<'p> ColourTables<'p> {
    /// # Errors
    /// If the tables do not fit together, or are for another number of channels.
    pub fn of(tables: &'p LutWarehouse, space: DataColorSpace, are_inks: bool) -> anyhow::Result<Self> {
        let channels = if are_inks { 4 } else { 3 };
        ensure!(matches!(space, DataColorSpace::Lab | DataColorSpace::Xyz), "its tables lead to {space:?}");
        let is_lab = space == DataColorSpace::Lab;
        let (of, to) = match tables {
            LutWarehouse::Lut(tables) => (tables.num_input_channels, tables.num_output_channels),
            LutWarehouse::Multidimensional(tables) => (tables.num_input_channels, tables.num_output_channels),
        };
        ensure!(usize::from(of) == channels && to == 3, "its tables are for {of} numbers, and lead to {to}");
        let is_lab_of_version_2 = is_lab && matches!(tables, LutWarehouse::Lut(tables) if tables.lut_type == LutType::Lut16);
        let tables = match tables {
            LutWarehouse::Lut(tables) => {
                let points = vec![usize::from(tables.num_clut_grid_points); channels];
                let [input, output] = [&tables.input_table, &tables.output_table].map(sixteen);
                let entries = (usize::from(tables.num_input_table_entries), usize::from(tables.num_output_table_entries));
                ensure!(entries.0 >= 2 && input.len() == entries.0 * channels, "its tables are not whole");
                ensure!(entries.1 >= 2 && output.len() == entries.1 * 3, "its tables are not whole");
                Tables::Plain { tables, input, colours: Cube::of(points, &tables.clut_table)?, output }
            }
            LutWarehouse::Multidimensional(tables) => {
                let points = tables.grid_points[..channels].iter().map(|points| usize::from(*points)).collect();
                let colours = tables.clut.as_ref().map(|colours| Cube::of(points, colours)).transpose()?;
                ensure!(colours.is_some() || channels == 3, "its tables lack their colours");
                ensure!([0, channels].contains(&tables.a_curves.len()), "its tables lack curves");
                ensure!(
                    [&tables.b_curves, &tables.m_curves].iter().all(|curves| [0, 3].contains(&curves.len())),
                    "its tables lack curves"
                );
                Tables::Curved { tables, colours }
            }
        };
        Ok(Self { tables, channels, is_lab, is_lab_of_version_2 }).and_then(|tables| {
            // A curve that leaves the numbers does so at an end.
            tables.encoded([0.0; 4]).and_then(|_| tables.encoded([1.0; 4])).context("its tables cannot be followed")?;
            Ok(tables)
        })
    }

    /// Device numbers of a colour: 4 for inks, otherwise 3.
    pub fn channels(&self) -> usize {
        self.channels
    }

    /// XYZ of device numbers, each as a part of white's.
    pub fn colour(&self, numbers: [f64; 4]) -> [f64; 3] {
        let encoded = self.encoded(numbers).unwrap_or_default();
        if !self.is_lab {
            // 1.0 is written as 0x8000.
            let xyz = encoded.map(|value| value * 65_535.0 / 32_768.0);
            return [xyz[0] / D50[0], xyz[1] / D50[1], xyz[2] / D50[2]];
        }
        let full = if self.is_lab_of_version_2 { 65_535.0 / 65_280.0 } else { 1.0 };
        let [l, a, b] = [encoded[0] * full * 100.0, encoded[1] * full * 255.0 - 128.0, encoded[2] * full * 255.0 - 128.0];
        let y = (l + 16.0) / 116.0;
        let cubed = |root: f64| if root > 24.0 / 116.0 { root * root * root } else { 108.0 / 841.0 * (root - 16.0 / 116.0) };
        [cubed(y + a / 500.0), cubed(y), cubed(y - b / 200.0)]
    }

    /// As the profile writes the space between: 0 to 1.
    fn encoded(&self, numbers: [f64; 4]) -> anyhow::Result<[f64; 3]> {
        let numbers = &numbers[..self.channels];
        match &self.tables {
            Tables::Plain { tables, input, colours, output } => {
                let (entries, exits) =
                    (usize::from(tables.num_input_table_entries), usize::from(tables.num_output_table_entries));
                let shaped: Vec<f64> =
                    numbers.iter().zip(input.chunks_exact(entries)).map(|(x, table)| between(table, *x)).collect();
                let colour = colours.at(&shaped);
                Ok([0, 1, 2].map(|channel| between(&output[channel * exits..(channel + 1) * exits], colour[channel])))
            }
            Tables::Curved { tables, colours } => {
                let mut shaped = numbers.to_vec();
                for (x, curve) in shaped.iter_mut().zip(&tables.a_curves) {
                    *x = along(curve, *x)?.clamp(0.0, 1.0);
                }
                let mut colour = match colours {
                    Some(colours) => colours.at(&shaped),
                    None => [shaped[0], shaped[1], shaped[2]],
                };
                if !tables.m_curves.is_empty() {
                    for (x, curve) in colour.iter_mut().zip(&tables.m_curves) {
                        *x = along(curve, *x)?;
                    }
                    let (rows, bias) = (tables.matrix.v, tables.bias.v);
                    colour = [0, 1, 2]
                        .map(|row| rows[row][0] * colour[0] + rows[row][1] * colour[1] + rows[row][2] * colour[2] + bias[row]);
                }
                for (x, curve) in colour.iter_mut().zip(&tables.b_curves) {
                    *x = along(curve, x.clamp(0.0, 1.0))?;
                }
                Ok(colour)
            }
        }
    }
}

impl Cube {
    fn of(points: Vec<usize>, store: &LutStore) -> anyhow::Result<Self> {
        ensure!(points.iter().all(|points| *points >= 2), "its table of colours has a side without extent");
        let count = points.iter().product::<usize>() * 3;
        let values: Vec<f32> = match store {
            LutStore::Store8(values) => values.iter().map(|value| f32::from(*value) / 255.0).collect(),
            LutStore::Store16(values) => values.iter().map(|value| f32::from(*value) / 65_535.0).collect(),
        };
        ensure!(values.len() == count, "its table of colours has {} numbers in place of {count}", values.len());
        Ok(Self { points, values })
    }

    fn at(&self, numbers: &[f64]) -> [f64; 3] {
        let places: Vec<f32> =
            numbers.iter().zip(&self.points).map(|(x, points)| (x.clamp(0.0, 1.0) * (points - 1) as f64) as f32).collect();
        between_points(&self.values, &self.points, &places).map(f64::from)
    }
}

fn sixteen(store: &LutStore) -> Vec<u16> {
    match store {
        LutStore::Store8(values) => values.iter().map(|value| u16::from(*value) * 257).collect(),
        LutStore::Store16(values) => values.clone(),
    }
}
