//! Picture files in: they become upright 8-bit sRGB. Unaware of where the bytes come from.
//!
//! What a file may hold beside 8-bit RGB, and what becomes of it:
//!
//! | in the file | result |
//! | --- | --- |
//! | EXIF orientation, all eight | turned upright, as every viewer shows it |
//! | grey, palette | the same colour in RGB |
//! | 16 bits a channel | scaled to 8 bits with rounding |
//! | a colour profile | converted to sRGB as Pillow's `ImageCms` does, see `colour`; one that cannot be read is said, and the numbers are taken as sRGB |
//! | Adobe RGB named in EXIF (`R03`), Display P3 by PNG's `cICP` | converted as by a profile |
//! | PNG's `gAMA` and `cHRM` | left alone, as Pillow does |
//! | transparency | laid over a colour, or dropped: the stored colour counts then, as in webui's `convert('RGB')` |
//! | CMYK, YCCK (JPEG) | by its profile; without one `R = C · K / 255` of Adobe's inverted inks, as Pillow reads it |
//! | several frames | the first one |
//!
//! The format is told from the contents, never from the name: a PNG called `x.jpg` is a PNG.

use std::io::Cursor;

use anyhow::{bail, ensure};
use image::codecs::bmp::BmpDecoder;
use image::codecs::tiff::TiffDecoder;
use image::codecs::webp::WebPDecoder;
use image::metadata::Orientation;
use image::{ColorType, DynamicImage, ExtendedColorType, ImageDecoder, ImageError, Limits, RgbImage};

use crate::engine::inputs::picture_files::{Kind, MOST_BYTES, READ};
use crate::sd::data::colour::ColourModel;
use crate::sd::data::decode_limits::{MOST_BESIDE, MOST_WORKING, beside, check_size, check_working};
use crate::sd::data::named_colours::{Colours, Named, to_srgb};
use crate::sd::data::png_in::to_8_bits;
use crate::sd::data::{exif, jpeg, png_in};

/// What lies behind transparent parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Background {
    /// Red, green and blue, sRGB.
    Colour([u8; 3]),
    /// The colour that the file has there, whatever it is.
    Stored,
}

impl Background {
    /// What stages lay transparent parts over unless their params say otherwise.
    pub const WHITE: Self = Self::Colour([255; 3]);
}

/// A picture as it will be used, and what was in the file beside it.
#[derive(Debug)]
pub struct Decoded {
    /// Upright, sRGB.
    pub picture: RgbImage,
    pub format: Kind,
    /// The file stores the picture turned or mirrored, and says so.
    pub was_turned: bool,
    /// Some pixel was not opaque.
    pub was_transparent: bool,
    pub colours: Colours,
}

impl Decoded {
    /// Whether the pixels are those of the file, in its order.
    pub fn is_as_stored(&self) -> bool {
        !self.was_turned && !self.was_transparent && self.colours != Colours::Converted
    }
}

/// Reads a picture file; transparent parts are laid over white. Errors say what is wrong and what to do; the caller adds which file it is.
pub fn decode(bytes: &[u8]) -> anyhow::Result<Decoded> {
    decode_over(bytes, Background::WHITE)
}

/// As `decode`, with what lies behind transparent parts.
pub fn decode_over(bytes: &[u8], background: Background) -> anyhow::Result<Decoded> {
    ensure!(bytes.len() as u64 <= MOST_BYTES, "the file has {} MB; at most {} MB are read", bytes.len() >> 20, MOST_BYTES >> 20);
    let format = format_of(bytes)?;
    let given_up = |error| given_up(error, format);
    match format {
        Kind::Jpeg => {
            let (picture, orientation, colours) = jpeg::decode(bytes)?;
            Ok(Decoded {
                was_turned: is_turn(orientation),
                was_transparent: false,
                picture: upright(picture, orientation),
                format,
                colours,
            })
        }
        Kind::Png => {
            let (stored, orientation, named) = png_in::decode(bytes).map_err(given_up)?;
            Ok(finish(stored, orientation, named, background, format))
        }
        Kind::WebP => {
            let (stored, orientation, named) = from_decoder(WebPDecoder::new(Cursor::new(bytes))).map_err(given_up)?;
            Ok(finish(stored, orientation, named, background, format))
        }
        Kind::Tiff => {
            exif::refuse_raw_photo(bytes)?;
            let decoder = TiffDecoder::new(Cursor::new(bytes)).map_err(|error| given_up(error.into()))?;
            let is_of_inks = matches!(decoder.original_color_type(), ExtendedColorType::Cmyk8 | ExtendedColorType::Cmyk16);
            ensure!(!is_of_inks, "this is a TIFF of inks (CMYK); save it as RGB");
            let (stored, orientation, _) = from_decoder(Ok(decoder)).map_err(given_up)?;
            // The decoder does not find it where Pillow and libtiff write it.
            let named = exif::profile_of_tiff(bytes).map_or(Named::Nothing, |profile| Named::Profile(profile.to_vec()));
            Ok(finish(stored, orientation, named, background, format))
        }
        Kind::Bmp => {
            let (stored, orientation, named) = from_decoder(BmpDecoder::new(Cursor::new(bytes))).map_err(given_up)?;
            Ok(finish(stored, orientation, named, background, format))
        }
        _ => bail!("this is {}; {READ} can be read: convert it, or take it out of the folder", format.with_article()),
    }
}

/// Why a decoder gave up, and what to do. What is said here already stays as it is.
fn given_up(error: anyhow::Error, format: Kind) -> anyhow::Error {
    let name = format.name();
    let (of_image, of_png) = (error.downcast_ref(), error.downcast_ref());
    let said = match (of_image, of_png) {
        (None, None) => return error,
        (Some(ImageError::Limits(_)), _) | (_, Some(png::DecodingError::LimitsExceeded)) => {
            format!(
                "the {name} needs more memory than is given to one picture; save it again without what it carries beside the pixels"
            )
        }
        (Some(ImageError::Unsupported(_)), _) => {
            format!("this is a kind of {name} that is not read; save it as PNG, or take it out of the folder")
        }
        _ => format!("the {name} is damaged or ends early; copy it again, or take it out of the folder"),
    };
    error.context(said)
}

/// From the first bytes; the error says what the file is instead.
fn format_of(bytes: &[u8]) -> anyhow::Result<Kind> {
    if let Some(kind) = Kind::of(bytes) {
        return Ok(kind);
    }
    ensure!(!bytes.is_empty(), "the file is empty; copy it again, or take it out of the folder");
    ensure!(!bytes.starts_with(b"version https://git-lfs"), "this is a git-lfs pointer, not the picture; run `git lfs pull`");
    if std::str::from_utf8(&bytes[..bytes.len().min(64)]).is_ok() {
        bail!("this is a text file, not a picture; take it out of the folder");
    }
    bail!("this is no picture known here; {READ} can be read: convert it, or take it out of the folder")
}

fn from_decoder(decoder: image::ImageResult<impl ImageDecoder>) -> anyhow::Result<(DynamicImage, Orientation, Named)> {
    let mut decoder = decoder?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into())?;
    let colours = decoder.color_type();
    let pixels = u64::from(width) * u64::from(height);
    check_working(pixels, decoder.total_bytes(), beside(colours == ColorType::Rgb8, colours.has_alpha()))?;
    let mut limits = Limits::no_limits();
    limits.max_alloc = Some(MOST_WORKING + MOST_BESIDE);
    decoder.set_limits(limits)?;
    // A damaged EXIF block costs the orientation, not the picture.
    let orientation = decoder.orientation().unwrap_or(Orientation::NoTransforms);
    let named = match decoder.icc_profile() {
        Ok(Some(profile)) => Named::Profile(profile),
        Ok(None) => Named::Nothing,
        Err(error) => Named::Unreadable(error.to_string()),
    };
    Ok((DynamicImage::from_decoder(decoder)?, orientation, named))
}

fn finish(stored: DynamicImage, orientation: Orientation, named: Named, background: Background, format: Kind) -> Decoded {
    let was_transparent = match &stored {
        DynamicImage::ImageRgba8(picture) => picture.pixels().any(|pixel| pixel[3] < u8::MAX),
        DynamicImage::ImageLumaA8(picture) => picture.pixels().any(|pixel| pixel[1] < u8::MAX),
        DynamicImage::ImageRgba16(picture) => picture.pixels().any(|pixel| pixel[3] < u16::MAX),
        DynamicImage::ImageLumaA16(picture) => picture.pixels().any(|pixel| pixel[1] < u16::MAX),
        _ => false,
    };
    let model = if stored.color().has_color() { ColourModel::Rgb } else { ColourModel::Grey };
    let behind = match background {
        Background::Colour(behind) => was_transparent.then(|| (opacity(&stored), behind)),
        Background::Stored => None,
    };
    let mut picture = stored.into_rgb8();
    let colours = to_srgb(&mut picture, model, named);
    if let Some((opacity, behind)) = behind {
        for (pixel, opacity) in picture.pixels_mut().zip(opacity) {
            pixel.0 = [0, 1, 2].map(|channel| laid_over(pixel.0[channel], behind[channel], opacity));
        }
    }
    Decoded { was_turned: is_turn(orientation), picture: upright(picture, orientation), format, was_transparent, colours }
}

/// Of each pixel.
fn opacity(stored: &DynamicImage) -> Vec<u8> {
    match stored {
        DynamicImage::ImageRgba8(picture) => picture.pixels().map(|pixel| pixel[3]).collect(),
        DynamicImage::ImageLumaA8(picture) => picture.pixels().map(|pixel| pixel[1]).collect(),
        DynamicImage::ImageRgba16(picture) => picture.pixels().map(|pixel| to_8_bits(pixel[3])).collect(),
        DynamicImage::ImageLumaA16(picture) => picture.pixels().map(|pixel| to_8_bits(pixel[1])).collect(),
        other => vec![u8::MAX; other.width() as usize * other.height() as usize],
    }
}

/// As Pillow's `paste` with a mask rounds it.
fn laid_over(front: u8, behind: u8, opacity: u8) -> u8 {
    let [front, behind, opacity] = [front, behind, opacity].map(u32::from);
    ((front * opacity + behind * (255 - opacity) + 127) / 255) as u8
}

fn is_turn(orientation: Orientation) -> bool {
    orientation != Orientation::NoTransforms
}

fn upright(picture: RgbImage, orientation: Orientation) -> RgbImage {
    if !is_turn(orientation) {
        return picture;
    }
    let mut picture = DynamicImage::ImageRgb8(picture);
    picture.apply_orientation(orientation);
    picture.into_rgb8()
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
        // Red, green, blue and opacity, of 16 bits each.
        let claiming = |width: u32, height: u32| {
            let mut png = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
            png.extend([width.to_be_bytes(), height.to_be_bytes()].concat());
            png.extend([16, 6, 0, 0, 0]);
            let mut crc = flate2::Crc::new();
            crc.update(&png[12..]);
            png.extend(crc.sum().to_be_bytes());
            png.extend(b"\0\0\0\0IDAT\x35\xaf\x06\x1e");
            problem(&png)
        };
        for (problem, told) in [
            (claiming(65_535, 65_535), "the picture claims 65535×65535 pixels"),
            (claiming(14_000, 14_000), "reading the picture would take 2352 MB, and 600 MB are given to one"),
        ] {
            assert!(problem.contains(told) && !problem.contains("damaged"), "{problem}");
        }
    }

    #[test]
    fn what_is_only_too_large_or_of_another_kind_is_not_called_damaged() {
        use image::error::{LimitError, LimitErrorKind, UnsupportedError, UnsupportedErrorKind};
        let limits = ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory));
        let unsupported = UnsupportedError::from_format_and_kind(
            image::error::ImageFormatHint::Unknown,
            UnsupportedErrorKind::GenericFeature("layers".into()),
        );
        for (error, format, told) in [
            (limits.into(), Kind::WebP, "the WebP needs more memory than is given to one picture"),
            (png::DecodingError::LimitsExceeded.into(), Kind::Png, "the PNG needs more memory than is given to one picture"),
            (ImageError::Unsupported(unsupported).into(), Kind::Tiff, "this is a kind of TIFF that is not read"),
        ] {
            let error: anyhow::Error = given_up(error, format);
            let said = error.to_string();
            assert!(said.starts_with(told) && !said.contains("damaged"), "{said}");
        }
    }

    #[test]
    fn half_transparent_parts_mix_with_the_background() {
        assert_eq!([0, 255, 128].map(|opacity| laid_over(10, 210, opacity)), [210, 10, 110]);
    }
}
