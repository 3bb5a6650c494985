//! A sheet of labelled pictures: prompts down the side, epochs along the top. Unaware of what made the pictures.

use image::{Rgb, RgbImage, imageops};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

use crate::sd::data::resize;

const PAPER: Rgb<u8> = Rgb([250, 250, 248]);
const INK: Rgb<u8> = Rgb([38, 38, 42]);
/// Where a picture is missing.
const EMPTY: Rgb<u8> = Rgb([228, 228, 226]);

/// Around the sheet, in pixels.
const MARGIN: u32 = 24;
/// Between pictures, and between a label and its picture.
const GAP: u32 = 12;
/// Smaller pictures are enlarged by a whole number until their longer side has this many pixels: 64 px show three times as large.
const SMALLEST_SIDE: u32 = 160;
/// From this side on labels are set in 24 instead of 16 pixels.
const LARGE_SIDE: u32 = 320;
/// A sheet with more pixels gets smaller pictures: 40 Mpx is what image viewers open without waiting.
const MOST_PIXELS: u64 = 40_000_000;
/// Letters in a line of a row's label.
const LABEL_LETTERS: usize = 24;

/// Draws `cells` in `rows.len()` × `columns.len()` places, row by row, with `rows` at the left and `columns` at the top.
///
/// No labels on a side means one row or column without a label. A missing cell is a grey field. Pictures may differ in size; each
/// stands in the middle of its place. Letters beyond Latin show as a replacement mark.
pub fn draw(rows: &[String], columns: &[String], cells: &[Option<RgbImage>]) -> RgbImage {
    let (row_count, column_count) = (rows.len().max(1), columns.len().max(1));
    let largest = |side: fn(&RgbImage) -> u32| cells.iter().flatten().map(side).max().unwrap_or(SMALLEST_SIDE).max(1);
    let (width, height) = (largest(RgbImage::width), largest(RgbImage::height));
    let scale = scale(width, height, row_count * column_count);
    let scaled = |side: u32| ((f64::from(side) * scale).round() as u32).max(1);
    let (cell_width, cell_height) = (scaled(width), scaled(height));

    let font = Font::for_side(cell_width.min(cell_height));
    let row_labels: Vec<Vec<String>> = rows.iter().map(|label| wrap(label, LABEL_LETTERS)).collect();
    let column_labels: Vec<Vec<String>> = columns.iter().map(|label| wrap(label, font.letters_in(cell_width))).collect();
    let label_width = row_labels.iter().flatten().map(|line| font.width(line)).max().unwrap_or(0);
    let label_height = column_labels.iter().map(|lines| font.height(lines)).max().unwrap_or(0);
    let left = MARGIN + if label_width > 0 { label_width + GAP } else { 0 };
    let top = MARGIN + if label_height > 0 { label_height + GAP } else { 0 };
    // A long prompt makes its row higher rather than being cut.
    let row_heights: Vec<u32> =
        (0..row_count).map(|row| row_labels.get(row).map_or(0, |lines| font.height(lines)).max(cell_height)).collect();

    let sheet_width = left + column_count as u32 * (cell_width + GAP) - GAP + MARGIN;
    let sheet_height = top + row_heights.iter().map(|height| height + GAP).sum::<u32>() - GAP + MARGIN;
    let mut sheet = RgbImage::from_pixel(sheet_width, sheet_height, PAPER);

    for (column, lines) in column_labels.iter().enumerate() {
        let middle = left + column as u32 * (cell_width + GAP) + cell_width / 2;
        for (index, line) in lines.iter().enumerate() {
            let y = top - GAP - font.height(lines) + index as u32 * font.line_height();
            font.write(&mut sheet, line, middle.saturating_sub(font.width(line) / 2), y);
        }
    }
    let mut y = top;
    for (row, &row_height) in row_heights.iter().enumerate() {
        if let Some(lines) = row_labels.get(row) {
            let first = y + (row_height - font.height(lines)) / 2;
            for (index, line) in lines.iter().enumerate() {
                font.write(&mut sheet, line, MARGIN, first + index as u32 * font.line_height());
            }
        }
        for column in 0..column_count {
            let x = left + column as u32 * (cell_width + GAP);
            match cells.get(row * column_count + column).and_then(Option::as_ref) {
                Some(picture) => {
                    let picture = match scale {
                        1.0.. => resize::enlarge(picture, scale as u32),
                        _ => resize::stretch(picture, scaled(picture.width()), scaled(picture.height())),
                    };
                    let (dx, dy) = ((cell_width - picture.width()) / 2, (row_height - picture.height()) / 2);
                    imageops::replace(&mut sheet, &picture, i64::from(x + dx), i64::from(y + dy));
                }
                None => {
                    let empty = RgbImage::from_pixel(cell_width, cell_height, EMPTY);
                    imageops::replace(&mut sheet, &empty, i64::from(x), i64::from(y + (row_height - cell_height) / 2));
                }
            }
        }
        y += row_height + GAP;
    }
    sheet
}

/// How much larger than life pictures are shown: a whole number, or up to 1 where the sheet would get too large.
fn scale(width: u32, height: u32, count: usize) -> f64 {
    let enlarged = SMALLEST_SIDE.div_ceil(width.max(height)).max(1);
    let pixels = u64::from(width * enlarged) * u64::from(height * enlarged) * count as u64;
    if pixels <= MOST_PIXELS {
        return f64::from(enlarged);
    }
    (MOST_PIXELS as f64 / (f64::from(width) * f64::from(height) * count as f64)).sqrt().min(1.0)
}

/// Breaks a label between words into lines of at most `letters`; a longer word is broken inside.
fn wrap(label: &str, letters: usize) -> Vec<String> {
    let letters = letters.max(1);
    let mut lines = Vec::new();
    for paragraph in label.lines() {
        let mut line: Vec<char> = Vec::new();
        for word in paragraph.split_whitespace() {
            let mut word: Vec<char> = word.chars().collect();
            if !line.is_empty() && line.len() + 1 + word.len() > letters {
                lines.push(line.drain(..).collect());
            }
            while word.len() > letters {
                lines.push(word.drain(..letters).collect());
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.append(&mut word);
        }
        lines.push(line.into_iter().collect());
    }
    lines
}

struct Font(RasterHeight);

impl Font {
    fn for_side(side: u32) -> Self {
        Self(if side >= LARGE_SIDE { RasterHeight::Size24 } else { RasterHeight::Size16 })
    }

    fn letter_width(&self) -> u32 {
        get_raster_width(FontWeight::Regular, self.0) as u32
    }

    fn line_height(&self) -> u32 {
        self.0.val() as u32 + 3
    }

    fn letters_in(&self, width: u32) -> usize {
        (width / self.letter_width()) as usize
    }

    fn width(&self, line: &str) -> u32 {
        line.chars().count() as u32 * self.letter_width()
    }

    fn height(&self, lines: &[String]) -> u32 {
        lines.len() as u32 * self.line_height()
    }

    /// Writes `line` with its upper left corner at `x`, `y`; what lies outside the sheet is cut.
    fn write(&self, sheet: &mut RgbImage, line: &str, x: u32, y: u32) {
        for (index, letter) in line.chars().enumerate() {
            let raster = |letter| get_raster(letter, FontWeight::Regular, self.0);
            let Some(glyph) = raster(letter).or_else(|| raster('\u{fffd}')) else { continue };
            let left = x + index as u32 * self.letter_width();
            for (dy, row) in glyph.rows().enumerate() {
                for (dx, &coverage) in row.iter().enumerate() {
                    if let Some(pixel) = sheet.get_pixel_mut_checked(left + dx as u32, y + dy as u32) {
                        for (value, ink) in pixel.0.iter_mut().zip(INK.0) {
                            let (paper, ink, coverage) = (u32::from(*value), u32::from(ink), u32::from(coverage));
                            *value = ((paper * (255 - coverage) + ink * coverage + 127) / 255) as u8;
                        }
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(labels: &[&str]) -> Vec<String> {
        labels.iter().map(|label| label.to_string()).collect()
    }

    #[test]
    fn every_picture_stands_in_its_place_enlarged_by_a_whole_number() {
        let colour = |n: u8| Rgb([n * 40, 255 - n * 40, n]);
        let cells: Vec<_> = (0..6).map(|n| Some(RgbImage::from_pixel(64, 64, colour(n)))).collect();
        let sheet = draw(&labels(&["one", "two"]), &labels(&["base", "10", "20"]), &cells);
        for n in 0..6u8 {
            let of_this = sheet.enumerate_pixels().filter(|(.., pixel)| **pixel == colour(n));
            let (xs, ys): (Vec<u32>, Vec<u32>) = of_this.map(|(x, y, _)| (x, y)).unzip();
            let (left, top) = (xs.iter().min().unwrap(), ys.iter().min().unwrap());
            assert_eq!(
                (xs.iter().max().unwrap() - left + 1, ys.iter().max().unwrap() - top + 1, xs.len()),
                (192, 192, 192 * 192)
            );
            let first = sheet.enumerate_pixels().find(|(.., pixel)| **pixel == colour(0)).unwrap();
            assert_eq!((left - first.0, top - first.1), (u32::from(n % 3) * 204, u32::from(n / 3) * 204));
        }
    }

    #[test]
    fn a_missing_picture_is_a_grey_field() {
        let sheet = draw(&[], &[], &[None, None]);
        assert_eq!(sheet.dimensions(), (160 + 48, 160 + 48));
        assert_eq!(*sheet.get_pixel(100, 100), EMPTY);
    }

    #[test]
    fn long_labels_are_wrapped_between_words_and_never_cut() {
        assert_eq!(wrap("a red star on a white background", 12), ["a red star", "on a white", "background"]);
        assert_eq!(wrap("incomprehensibilities, yes", 10), ["incomprehe", "nsibilitie", "s, yes"]);
        let prompt = "a photo of a man standing in the rain at night, ".repeat(12);
        let sheet = draw(&[prompt], &[], &[Some(RgbImage::new(64, 64))]);
        assert!(sheet.height() > 26 * 19, "the row is as high as its label: {}", sheet.height());
    }

    #[test]
    fn a_sheet_of_very_many_pictures_stays_small_enough_to_open() {
        let cells = vec![Some(RgbImage::new(512, 512)); 30 * 16];
        let rows: Vec<String> = (0..30).map(|row| format!("prompt {row}")).collect();
        let columns: Vec<String> = (0..16).map(|column| column.to_string()).collect();
        let (width, height) = draw(&rows, &columns, &cells).dimensions();
        assert!(u64::from(width) * u64::from(height) < 50_000_000, "{width}×{height}");
    }
}
