//! Pictures out: 8-bit RGB PNG at the fast level. Unaware of where the bytes go.
//!
//! The fast level is fdeflate's: a Huffman table made for filtered photos and runs of zeros, nothing else. Photos come out within a tenth
//! of zlib's level 1 in size and take a twentieth of its time; the bytes depend on the pixels alone, on every machine.

use image::RgbImage;
use png::{BitDepth, ColorType, DeflateCompression, Encoder, Filter};

/// The most pixels that `png_between_stages` leaves uncompressed.
const STORED_PIXELS: u64 = 1 << 20;

/// The picture as a PNG file.
pub fn png(picture: &RgbImage) -> Vec<u8> {
    png_with(picture, |_| {})
}

/// The picture as a PNG file that the next stage reads soon and that few people look at.
///
/// Up to a megapixel it is not compressed: writing and reading it back then takes a tenth of the time, and sets of many thousands are
/// made of small pictures. Photos from a camera are fewer and a dozen times larger; their files would fill the disk, so they are
/// compressed.
pub fn png_between_stages(picture: &RgbImage) -> Vec<u8> {
    if u64::from(picture.width()) * u64::from(picture.height()) > STORED_PIXELS {
        return png(picture);
    }
    png_with(picture, |encoder| {
        encoder.set_deflate_compression(DeflateCompression::NoCompression);
        encoder.set_filter(Filter::NoFilter);
    })
}

/// As `png`, with what `prepare` adds to the file's head.
pub(super) fn png_with(picture: &RgbImage, prepare: impl FnOnce(&mut Encoder<'_, &mut Vec<u8>>)) -> Vec<u8> {
    const ROOM_FOR_HEAD: usize = 1024;
    let mut bytes = Vec::with_capacity(picture.len() / 4 * 3 + ROOM_FOR_HEAD);
    let mut encoder = Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    // One filter for all rows: to choose the best for each takes a third of the time and saves a tenth of the bytes.
    encoder.set_filter(Filter::Up);
    prepare(&mut encoder);
    let mut writer = encoder.write_header().expect("writing to memory cannot fail, and a picture has pixels");
    writer.write_image_data(picture).expect("an `RgbImage` has three bytes a pixel");
    writer.finish().expect("all pixels were written");
    bytes
}

#[cfg(test)]
mod tests {
    use image::Rgb;

    use super::*;
    use crate::engine::cache::digest::Digest;
    use crate::sd::data::decode::decode;

    #[test]
    fn a_written_picture_reads_back_pixel_for_pixel() {
        for (width, height) in [(1, 1), (3, 2), (64, 64), (257, 5)] {
            let picture = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (x * y) as u8, (x ^ y) as u8]));
            for bytes in [png(&picture), png_between_stages(&picture)] {
                let read = decode(&bytes).unwrap();
                assert_eq!(read.picture, picture);
                assert!(!read.was_turned && !read.was_transparent);
            }
        }
    }

    #[test]
    fn noise_costs_no_more_than_its_pixels() {
        let mut state = 1u32;
        let mut noise = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 24) as u8
        };
        let picture = RgbImage::from_fn(100, 100, |_, _| Rgb([noise(), noise(), noise()]));
        assert!(png(&picture).len() < 30_000 + 400, "{}", png(&picture).len());
    }

    #[test]
    fn the_bytes_of_a_picture_never_change() {
        // These bytes are in caches: another digest means that every image stage needs a new version.
        let picture = RgbImage::from_fn(96, 64, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, ((x * x + y * y) / 40) as u8]));
        assert_eq!(Digest::of(&png(&picture)).short(), "ca3dcb05c610");
        assert_eq!(Digest::of(&png_between_stages(&picture)).short(), "f67f21ba17b0");
    }
}
