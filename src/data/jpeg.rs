//! JPEG in: zune-jpeg, with a check that the file is whole, which it leaves out. Unaware of other formats.

use anyhow::{Context, bail, ensure};
use image::RgbImage;
use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;

use crate::data::decode::check_size;

/// The picture as stored, and how it is to be turned.
pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<(RgbImage, Orientation)> {
    decode_with(bytes, DecoderOptions::default())
}

fn decode_with(bytes: &[u8], options: DecoderOptions) -> anyhow::Result<(RgbImage, Orientation)> {
    const DAMAGED: &str = "the JPEG is damaged; copy it again, or take it out of the folder";
    // Not strict: cameras leave stray bytes between segments, and every viewer forgives them.
    let options = options.set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::RGB);
    let options = options.set_max_width(usize::from(u16::MAX)).set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    check_whole(bytes)?;
    decoder.decode_headers().context(DAMAGED)?;
    let (width, height) = decoder.dimensions().expect("the headers were read");
    check_size(width as u64, height as u64)?;
    let mut pixels = vec![0; width * height * 3];
    decoder.decode_into(&mut pixels).context(DAMAGED)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms);
    let picture = RgbImage::from_raw(width as u32, height as u32, pixels).expect("three bytes a pixel were asked for");
    Ok((picture, orientation))
}

/// Walks the markers to the end of the picture. A file that stops before it would otherwise decode to a picture with a grey rest.
fn check_whole(bytes: &[u8]) -> anyhow::Result<()> {
    let ends_early = || format!("the JPEG ends early, after {} bytes; copy it again, or take it out of the folder", bytes.len());
    let mut at = 2;
    loop {
        // Everything up to the next marker is padding, or picture data in which 0xff is followed by 0 or by a restart marker.
        let marker = loop {
            let rest = bytes.get(at..).unwrap_or_default();
            let Some(next) = rest.iter().position(|&byte| byte == 0xff) else { bail!(ends_early()) };
            at += next + 1;
            match bytes.get(at) {
                None => bail!(ends_early()),
                Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
                Some(0xff) => {}
                Some(&marker) => break marker,
            }
        };
        const END_OF_IMAGE: u8 = 0xd9;
        if marker == END_OF_IMAGE {
            return Ok(());
        }
        let length = bytes.get(at + 1..at + 3).with_context(ends_early)?;
        at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
        ensure!(at <= bytes.len(), ends_early());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_processor_reads_the_same_pixels() {
        // zune-jpeg has two sets of routines: with vector instructions, and without.
        for path in ["images/star-00.jpg", "images/star-05.jpg", "images/star-21.jpg"] {
            let bytes = std::fs::read(format!("{}/examples/tiny/{path}", env!("CARGO_MANIFEST_DIR"))).unwrap();
            let plain = decode_with(&bytes, DecoderOptions::default().set_use_unsafe(false)).unwrap();
            assert_eq!(decode(&bytes).unwrap(), plain, "{path}");
        }
    }

    #[test]
    fn a_jpeg_cut_anywhere_is_refused() {
        let bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny/images/star-00.jpg")).unwrap();
        for length in (3..bytes.len()).step_by(7).chain([bytes.len() - 1]) {
            let problem = decode(&bytes[..length]).unwrap_err().to_string();
            assert!(problem.contains("ends early"), "cut to {length}: {problem}");
        }
    }
}
