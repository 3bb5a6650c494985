//! Pictures out: 8-bit RGB PNG at the fast level. Unaware of where the bytes go.
//!
//! The fast level is fdeflate's: a Huffman table made for filtered photos and runs of zeros, nothing else. Files are within a tenth of
//! zlib's level 1 in size and take a tenth of its time; the bytes depend on the pixels alone, on every machine.

use image::RgbImage;
use png::{BitDepth, ColorType, DeflateCompression, Encoder, Filter};

/// The picture as a PNG file.
pub fn png(picture: &RgbImage) -> Vec<u8> {
    png_with(picture, |_| {})
}

/// As `png`, with what `prepare` adds to the file's head.
pub(super) fn png_with(picture: &RgbImage, prepare: impl FnOnce(&mut Encoder<'_, &mut Vec<u8>>)) -> Vec<u8> {
    const ROOM_FOR_HEAD: usize = 1024;
    let mut bytes = Vec::with_capacity(picture.len() / 4 * 3 + ROOM_FOR_HEAD);
    let mut encoder = Encoder::new(&mut bytes, picture.width(), picture.height());
    encoder.set_color(ColorType::Rgb);
    encoder.set_depth(BitDepth::Eight);
    encoder.set_deflate_compression(DeflateCompression::FdeflateUltraFast);
    encoder.set_filter(Filter::Adaptive);
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
    use crate::cache::digest::Digest;
    use crate::data::decode::decode;

    #[test]
    fn a_written_picture_reads_back_pixel_for_pixel() {
        for (width, height) in [(1, 1), (3, 2), (64, 64), (257, 5)] {
            let picture = RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7 + y) as u8, (x * y) as u8, (x ^ y) as u8]));
            let read = decode(&png(&picture)).unwrap();
            assert_eq!(read.picture, picture);
            assert!(!read.was_turned && !read.was_transparent);
        }
    }

    #[test]
    fn the_bytes_of_a_picture_never_change() {
        // These bytes are in caches: another digest means that every image stage needs a new version.
        let picture = RgbImage::from_fn(96, 64, |x, y| Rgb([(x * 2) as u8, (y * 3) as u8, ((x * x + y * y) / 40) as u8]));
        assert_eq!(Digest::of(&png(&picture)).short(), "62f65698ec84");
    }
}
