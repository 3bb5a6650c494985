//! Where to cut a picture: the largest box of an aspect, or a hand-drawn box grown to it. Unaware of files.

use anyhow::ensure;
use image::RgbImage;

/// The shape of a box.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Aspect {
    /// That of the picture, or of the drawn box.
    Keep,
    /// Width to height, both at least 1.
    Ratio(u32, u32),
}

/// Whole pixels inside a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PixelBox {
    pub left: u32,
    pub top: u32,
    pub width: u32,
    pub height: u32,
}

/// A box as a person drew it on the upright picture: left, top, width, height.
///
/// In pixels; four numbers of at most 1 are shares of the picture's width and height.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DrawnBox(pub [f64; 4]);

impl DrawnBox {
    /// The pixels it touches in a picture of that size; what reaches outside is left off.
    fn in_picture(&self, width: u32, height: u32) -> anyhow::Result<PixelBox> {
        let are_shares = self.0.iter().all(|number| *number <= 1.0);
        let (across, down) = if are_shares { (f64::from(width), f64::from(height)) } else { (1.0, 1.0) };
        let [left, top, box_width, box_height] = self.0;
        let touched = |from: f64, length: f64, unit: f64, full: u32| {
            // A hair's breadth of rounding does not touch the next pixel.
            const HAIR: f64 = 1e-6;
            let start = (from * unit + HAIR).floor().clamp(0.0, full.into()) as u32;
            let end = ((from + length) * unit - HAIR).ceil().clamp(0.0, full.into()) as u32;
            (start, end.saturating_sub(start))
        };
        let ((left, width_inside), (top, height_inside)) =
            (touched(left, box_width, across, width), touched(top, box_height, down, height));
        ensure!(
            width_inside > 0 && height_inside > 0,
            "the box {:?} lies outside the picture of {width}×{height} pixels; boxes are [left, top, width, height] on the upright photo",
            self.0
        );
        Ok(PixelBox { left, top, width: width_inside, height: height_inside })
    }
}

/// The largest box of `aspect` in the middle of a picture.
pub fn centred(width: u32, height: u32, aspect: Aspect) -> PixelBox {
    let Aspect::Ratio(across, down) = aspect else {
        return PixelBox { left: 0, top: 0, width, height };
    };
    let box_width = width.min(scaled(height, across, down));
    let box_height = height.min(scaled(width, down, across));
    PixelBox { left: (width - box_width) / 2, top: (height - box_height) / 2, width: box_width, height: box_height }
}

/// A drawn box grown to `aspect` on both sides alike, moved where the picture ends; it never loses a pixel that was drawn.
///
/// Where the picture is too small for the aspect, the box takes all there is and keeps another shape.
pub fn grown(drawn: DrawnBox, width: u32, height: u32, aspect: Aspect) -> anyhow::Result<PixelBox> {
    let drawn = drawn.in_picture(width, height)?;
    let Aspect::Ratio(across, down) = aspect else { return Ok(drawn) };
    let grow = |start: u32, length: u32, wanted: u32, full: u32| {
        let length_grown = wanted.clamp(length, full);
        let start_grown = start.saturating_sub((length_grown - length) / 2).min(full - length_grown);
        (start_grown, length_grown)
    };
    let (left, box_width) = grow(drawn.left, drawn.width, scaled(drawn.height, across, down), width);
    let (top, box_height) = grow(drawn.top, drawn.height, scaled(drawn.width, down, across), height);
    Ok(PixelBox { left, top, width: box_width, height: box_height })
}

/// Whether a box has the shape asked for, give or take the rounding to whole pixels.
pub fn has_aspect(area: PixelBox, aspect: Aspect) -> bool {
    match aspect {
        Aspect::Keep => true,
        Aspect::Ratio(across, down) => {
            area.width.abs_diff(scaled(area.height, across, down)) <= 1
                || area.height.abs_diff(scaled(area.width, down, across)) <= 1
        }
    }
}

/// `length · to / from`, rounded, at least 1.
fn scaled(length: u32, to: u32, from: u32) -> u32 {
    let (length, to, from) = (u64::from(length), u64::from(to), u64::from(from));
    ((length * to + from / 2) / from).clamp(1, u32::MAX.into()) as u32
}

/// The pixels of a box that lies inside the picture.
pub fn cut(picture: &RgbImage, area: PixelBox) -> RgbImage {
    let row_bytes = picture.width() as usize * 3;
    let (from, length) = (area.left as usize * 3, area.width as usize * 3);
    let rows = picture.chunks_exact(row_bytes).skip(area.top as usize).take(area.height as usize);
    let mut pixels = Vec::with_capacity(length * area.height as usize);
    rows.for_each(|row| pixels.extend_from_slice(&row[from..from + length]));
    RgbImage::from_raw(area.width, area.height, pixels).expect("the box lies inside the picture")
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;

    const SQUARE: Aspect = Aspect::Ratio(1, 1);

    fn of(area: PixelBox) -> [u32; 4] {
        [area.left, area.top, area.width, area.height]
    }

    #[test]
    fn the_largest_box_of_the_aspect_stands_in_the_middle() {
        assert_eq!(of(centred(1024, 768, SQUARE)), [128, 0, 768, 768]);
        assert_eq!(of(centred(600, 1000, SQUARE)), [0, 200, 600, 600]);
        assert_eq!(of(centred(1920, 1080, Aspect::Ratio(2, 3))), [600, 0, 720, 1080]);
        assert_eq!(of(centred(1000, 500, Aspect::Ratio(16, 9))), [55, 0, 889, 500]);
        assert_eq!(of(centred(30, 20, Aspect::Keep)), [0, 0, 30, 20]);
        assert_eq!(of(centred(1, 1, Aspect::Ratio(65535, 1))), [0, 0, 1, 1]);
    }

    #[test]
    fn a_rough_box_grows_to_the_aspect_and_moves_inside_the_picture() {
        let grow = |drawn, aspect| of(grown(DrawnBox(drawn), 1000, 800, aspect).unwrap());
        assert_eq!(grow([400.0, 300.0, 100.0, 200.0], SQUARE), [350, 300, 200, 200]);
        assert_eq!(grow([0.0, 300.0, 100.0, 200.0], SQUARE), [0, 300, 200, 200]);
        assert_eq!(grow([900.0, 700.0, 100.0, 40.0], SQUARE), [900, 670, 100, 100]);
        assert_eq!(grow([400.0, 300.0, 100.0, 200.0], Aspect::Keep), [400, 300, 100, 200]);
        assert_eq!(grow([0.25, 0.5, 0.5, 0.25], SQUARE), [250, 250, 500, 500]);
    }

    #[test]
    fn no_drawn_pixel_is_ever_lost() {
        for seed in 0..2000u32 {
            let draw =
                |salt: u32, below: u32| seed.wrapping_mul(2_654_435_761).wrapping_add(salt * 40_503).rotate_left(salt) % below;
            let (width, height) = (1 + draw(1, 400), 1 + draw(2, 400));
            let (left, top) = (draw(3, width), draw(4, height));
            let drawn = [left, top, 1 + draw(5, width - left), 1 + draw(6, height - top)];
            let aspect = Aspect::Ratio(1 + draw(7, 4), 1 + draw(8, 4));
            let numbers = drawn.map(|number| f64::from(number) + if drawn.iter().all(|n| *n <= 1) { 1e-9 } else { 0.0 });
            if numbers.iter().all(|number| *number <= 1.0) {
                continue;
            }
            let area = grown(DrawnBox(numbers), width, height, aspect).unwrap();
            assert!(area.left <= drawn[0] && area.top <= drawn[1], "{drawn:?} in {width}×{height}: {area:?}");
            assert!(area.left + area.width >= drawn[0] + drawn[2] && area.top + area.height >= drawn[1] + drawn[3]);
            assert!(area.left + area.width <= width && area.top + area.height <= height);
        }
    }

    #[test]
    fn a_box_outside_the_picture_is_an_error_with_both_sizes() {
        let problem = grown(DrawnBox([2000.0, 0.0, 10.0, 10.0]), 640, 480, SQUARE).unwrap_err().to_string();
        assert!(problem.contains("[2000.0, 0.0, 10.0, 10.0]") && problem.contains("640×480"), "{problem}");
    }

    #[test]
    fn cutting_takes_exactly_the_box() {
        let picture = RgbImage::from_fn(7, 5, |x, y| Rgb([x as u8, y as u8, 0]));
        let cut = cut(&picture, PixelBox { left: 2, top: 1, width: 3, height: 4 });
        assert_eq!(cut.dimensions(), (3, 4));
        assert!(cut.enumerate_pixels().all(|(x, y, pixel)| *pixel == Rgb([x as u8 + 2, y as u8 + 1, 0])));
    }
}
