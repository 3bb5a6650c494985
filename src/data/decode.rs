//! Picture files in: JPEG, PNG and WebP become upright 8-bit RGB. Unaware of where the bytes come from.
//!
//! What a file may hold beside 8-bit RGB, and what becomes of it:
//!
//! | in the file | result |
//! | --- | --- |
//! | EXIF orientation, all eight | turned upright, as every viewer shows it |
//! | grey, palette | the same colour in RGB |
//! | 16 bits a channel | scaled to 8 bits with rounding |
//! | transparency | dropped: the stored colour counts, as in webui's `convert('RGB')`, so that a folder trains as it did there |
//! | CMYK, YCCK (JPEG) | Adobe's inverted inks, `R = C · K / 255`, as Pillow reads it |
//! | colour profile | left alone: numbers are taken as sRGB, as webui and every trainer do |
//! | several frames | the first one |
//!
//! The format is told from the contents, never from the name: a PNG called `x.jpg` is a PNG.

use std::io::Cursor;

use anyhow::{Context, bail, ensure};
use image::codecs::png::PngDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, Limits, RgbImage};

use crate::data::jpeg;

/// The most pixels of a picture: twice what the largest cameras make, and 600 MB in memory.
pub const MOST_PIXELS: u64 = 200_000_000;
/// The most bytes of a picture file.
pub const MOST_BYTES: usize = 512 << 20;
/// The longest side: what a JPEG can have at most.
const LONGEST_SIDE: u32 = 65_535;

/// A picture as it will be used, and what was in the file beside it.
#[derive(Debug)]
pub struct Decoded {
    /// Upright.
    pub picture: RgbImage,
    pub format: Format,
    /// The file stores the picture turned or mirrored, and says so.
    pub was_turned: bool,
    /// Some pixel was not opaque.
    pub was_transparent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Jpeg,
    Png,
    WebP,
}

impl Format {
    /// The usual end of such a file's name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
        }
    }

    /// From the first bytes; the error says what the file is instead.
    fn of(bytes: &[u8]) -> anyhow::Result<Self> {
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        let at_4 = |magic: &[u8]| bytes.get(4..).is_some_and(|rest| rest.starts_with(magic));
        if starts(b"\xff\xd8\xff") {
            return Ok(Self::Jpeg);
        }
        if starts(b"\x89PNG\r\n\x1a\n") {
            return Ok(Self::Png);
        }
        if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") {
            return Ok(Self::WebP);
        }
        ensure!(!bytes.is_empty(), "the file is empty; copy it again, or take it out of the folder");
        ensure!(!starts(b"version https://git-lfs"), "this is a git-lfs pointer, not the picture; run `git lfs pull`");
        let known = if starts(b"GIF8") {
            "a GIF"
        } else if starts(b"BM") {
            "a BMP"
        } else if starts(b"II*\0") || starts(b"MM\0*") {
            "a TIFF or a raw photo"
        } else if at_4(b"ftyphe") || at_4(b"ftypmif1") {
            "a HEIC"
        } else if at_4(b"ftypavi") {
            "an AVIF"
        } else if starts(b"\xff\x0a") || at_4(b"JXL ") {
            "a JPEG XL"
        } else if std::str::from_utf8(&bytes[..bytes.len().min(64)]).is_ok() {
            bail!("this is a text file, not a picture; take it out of the folder");
        } else {
            bail!("this is no picture known here; JPEG, PNG and WebP can be read: convert it, or take it out of the folder");
        };
        bail!("this is {known}; JPEG, PNG and WebP can be read: convert it, or take it out of the folder")
    }
}

/// Reads a picture file. Errors say what is wrong and what to do; the caller adds which file it is.
pub fn decode(bytes: &[u8]) -> anyhow::Result<Decoded> {
    ensure!(bytes.len() <= MOST_BYTES, "the file has {} MB; at most {} MB are read", bytes.len() >> 20, MOST_BYTES >> 20);
    let format = Format::of(bytes)?;
    match format {
        Format::Jpeg => {
            let (picture, orientation) = jpeg::decode(bytes)?;
            Ok(upright(DynamicImage::ImageRgb8(picture), orientation, format))
        }
        Format::Png => {
            let decoder = PngDecoder::with_limits(Cursor::new(bytes), limits());
            from_decoder(decoder, format).context("the PNG is damaged or ends early; copy it again, or take it out of the folder")
        }
        Format::WebP => {
            let decoder = WebPDecoder::new(Cursor::new(bytes));
            from_decoder(decoder, format)
                .context("the WebP is damaged or ends early; copy it again, or take it out of the folder")
        }
    }
}

/// Width and height before any allocation of the size they ask for.
pub(super) fn check_size(width: u64, height: u64) -> anyhow::Result<()> {
    ensure!(width > 0 && height > 0, "the picture has no pixels ({width}×{height}); take it out of the folder");
    let fits = width <= u64::from(LONGEST_SIDE) && height <= u64::from(LONGEST_SIDE) && width * height <= MOST_PIXELS;
    ensure!(
        fits,
        "the picture claims {width}×{height} pixels; up to {} million and {LONGEST_SIDE} a side are read: make it smaller",
        MOST_PIXELS / 1_000_000
    );
    Ok(())
}

/// What a decoder may allocate: 16-bit RGBA of the largest picture, and some.
fn limits() -> Limits {
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_PIXELS * 8 + (64 << 20));
    limits
}

fn from_decoder(decoder: image::ImageResult<impl ImageDecoder>, format: Format) -> anyhow::Result<Decoded> {
    let mut decoder = decoder?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    decoder.set_limits(limits())?;
    // A damaged EXIF block costs the orientation, not the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    Ok(upright(DynamicImage::from_decoder(decoder)?, orientation, format))
}

fn upright(mut stored: DynamicImage, orientation: Orientation, format: Format) -> Decoded {
    let was_transparent = match &stored {
        DynamicImage::ImageRgba8(picture) => picture.pixels().any(|pixel| pixel[3] < u8::MAX),
        DynamicImage::ImageLumaA8(picture) => picture.pixels().any(|pixel| pixel[1] < u8::MAX),
        DynamicImage::ImageRgba16(picture) => picture.pixels().any(|pixel| pixel[3] < u16::MAX),
        DynamicImage::ImageLumaA16(picture) => picture.pixels().any(|pixel| pixel[1] < u16::MAX),
        _ => false,
    };
    stored.apply_orientation(orientation);
    Decoded { picture: stored.into_rgb8(), format, was_turned: orientation != Orientation::NoTransforms, was_transparent }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(bytes: &[u8]) -> String {
        format!("{:#}", decode(bytes).unwrap_err())
    }

    #[test]
    fn what_is_no_picture_is_told_by_its_contents() {
        assert!(problem(b"").contains("empty"));
        assert!(problem(b"version https://git-lfs.github.com/spec/v1\noid sha256:00").contains("`git lfs pull`"));
        assert!(problem(b"GIF89a......").contains("a GIF"));
        assert!(problem(b"\0\0\0\x18ftypheic").contains("a HEIC"));
        assert!(problem(b"just words").contains("text file"));
        assert!(problem(b"\x00\xf3\x99\xf3\xfa\xfb\xfc").contains("no picture known here"));
    }

    #[test]
    fn a_picture_that_claims_to_be_huge_is_refused_before_memory_is_taken() {
        let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
        png.extend([0, 0, 0xff, 0xff, 0, 0, 0xff, 0xff, 16, 6, 0, 0, 0]);
        let crc = flate2::Crc::new();
        let mut crc = crc;
        crc.update(&png[12..]);
        png.extend(crc.sum().to_be_bytes());
        png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
        assert!(problem(&png).contains("65535×65535"), "{}", problem(&png));
    }
}
