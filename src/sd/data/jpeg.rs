//! JPEG in: zune-jpeg, with a look at the markers beforehand: whether the file is whole, and whether the decoder reads such a file rightly, neither
//! of which it asks itself. Unaware of other formats.

use anyhow::{Context, bail, ensure};
use image::RgbImage;
use image::metadata::Orientation;
use zune_core::bytestream::ZCursor;
use zune_core::colorspace::ColorSpace;
use zune_core::options::DecoderOptions;
use zune_jpeg::JpegDecoder;
use zune_jpeg::errors::DecodeErrors;

use crate::sd::data::colour::{ColourModel, Conversion};
use crate::sd::data::decode_limits::{check_size, check_working};
use crate::sd::data::exif::names_adobe_rgb;
use crate::sd::data::named_colours::{Colours, Named, to_srgb};

/// No whole JPEG has more pixels for each of its bytes: six blocks with a bit each make a group.
const MOST_PIXELS_A_BYTE: usize = 512;

const OF_ANOTHER_KIND: &str =
    "this is a kind of JPEG that is not read; save it again as a usual one, or take it out of the folder";

/// The picture in the order of the file, how it is to be turned, and what became of its colours.
pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<(RgbImage, Orientation, Colours)> {
    decode_with(bytes, DecoderOptions::default())
}

fn decode_with(bytes: &[u8], options: DecoderOptions) -> anyhow::Result<(RgbImage, Orientation, Colours)> {
    // Not strict: cameras leave stray bytes between segments, and every viewer forgives them.
    let options = options.set_strict_mode(false).jpeg_set_out_colorspace(ColorSpace::RGB);
    let options = options.set_max_width(usize::from(u16::MAX)).set_max_height(usize::from(u16::MAX));
    let mut decoder = JpegDecoder::new_with_options(ZCursor::new(bytes), options);
    let outline = Outline::of(bytes)?;
    outline.check()?;
    decoder.decode_headers().map_err(given_up)?;
    let (width, height) = decoder.dimensions().expect("the headers were read");
    check_size(width as u64, height as u64)?;
    // Each group of 16×16 pixels takes some bits of each of its blocks.
    let is_there = width * height / MOST_PIXELS_A_BYTE <= bytes.len();
    ensure!(is_there, "the JPEG claims {width}×{height} pixels and ends early; copy it again, or take it out of the folder");
    let pixels = width as u64 * height as u64;
    check_working(pixels, outline.coefficients(pixels), 3)?;
    let exif = decoder.exif().cloned();
    let orientation = exif.as_deref().and_then(Orientation::from_exif_chunk).unwrap_or(Orientation::NoTransforms);
    let stored = decoder.input_colorspace().filter(|stored| matches!(stored, ColorSpace::CMYK | ColorSpace::YCCK));
    let mut named = outline.profile();
    if let (Some(stored), Named::Profile(profile)) = (stored, &named) {
        match Conversion::of(profile, ColourModel::Cmyk) {
            Ok(conversion) => {
                check_working(pixels, outline.coefficients(pixels), 4 + 3)?;
                decoder.set_options(options.jpeg_set_out_colorspace(stored));
                let mut pixels = vec![0; width * height * 4];
                decoder.decode_into(&mut pixels).map_err(given_up)?;
                to_inks(&mut pixels, stored);
                let pixels = conversion.apply_to_inks(&pixels)?;
                let picture = RgbImage::from_raw(width as u32, height as u32, pixels).expect("three bytes for four inks");
                return Ok((picture, orientation, Colours::Converted));
            }
            Err(error) => named = Named::Unreadable(format!("{error:#}")),
        }
    }
    if matches!(named, Named::Nothing) && exif.is_some_and(|exif| names_adobe_rgb(&exif)) {
        named = Named::AdobeRgb;
    }
    let mut pixels = vec![0; width * height * 3];
    decoder.decode_into(&mut pixels).map_err(given_up)?;
    let mut picture = RgbImage::from_raw(width as u32, height as u32, pixels).expect("three bytes a pixel were asked for");
    let model = if outline.components.len() == 1 { ColourModel::Grey } else { ColourModel::Rgb };
    let colours = to_srgb(&mut picture, model, named);
    Ok((picture, orientation, colours))
}

/// Why the decoder gave up, and what to do.
fn given_up(error: DecodeErrors) -> anyhow::Error {
    let said = match &error {
        DecodeErrors::Unsupported(_) => OF_ANOTHER_KIND,
        _ => "the JPEG is damaged; copy it again, or take it out of the folder",
    };
    anyhow::Error::new(error).context(said)
}

/// What is stored as inks: Adobe's files hold them inverted, and every reader takes all files for Adobe's. With 255 for full ink afterwards.
fn to_inks(pixels: &mut [u8], stored: ColorSpace) {
    for pixel in pixels.as_chunks_mut::<4>().0 {
        let [y, cb, cr, k] = *pixel;
        *pixel = if stored == ColorSpace::YCCK {
            // JFIF's matrix gives the complements of the stored inks.
            let (y, cb, cr) = (f32::from(y), f32::from(cb) - 128.0, f32::from(cr) - 128.0);
            let ink = |value: f32| (value + 0.5).clamp(0.0, 255.0) as u8;
            [ink(y + 1.402 * cr), ink(y - 0.344_136 * cb - 0.714_136 * cr), ink(y + 1.772 * cb), 255 - k]
        } else {
            pixel.map(|stored| 255 - stored)
        };
    }
}

/// What the markers tell before anything is decoded.
#[derive(Debug, Default)]
struct Outline<'b> {
    is_sequential: bool,
    /// Its frame is lossless, hierarchical, by arithmetic coding, or has other than 8 bits.
    is_of_another_kind: bool,
    /// Samples of each component across and down in a group.
    components: Vec<(u8, u8)>,
    /// How many components the first scan has.
    in_first_scan: usize,
    /// Parts of the colour profile: number, of how many, bytes.
    profile: Vec<(u8, u8, &'b [u8])>,
}

impl<'b> Outline<'b> {
    /// Walks the markers to the end of the picture. A file that stops before it would otherwise decode to a picture with a grey rest.
    fn of(bytes: &'b [u8]) -> anyhow::Result<Self> {
        let ends_early =
            || format!("the JPEG ends early, after {} bytes; copy it again, or take it out of the folder", bytes.len());
        let mut outline = Self::default();
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
                return Ok(outline);
            }
            let length = bytes.get(at + 1..at + 3).with_context(ends_early)?;
            let next = at + 1 + usize::from(u16::from_be_bytes([length[0], length[1]]));
            ensure!(next <= bytes.len(), ends_early());
            outline.note(marker, bytes.get(at + 3..next).unwrap_or_default());
            at = next;
        }
    }

    fn note(&mut self, marker: u8, segment: &'b [u8]) {
        const FRAMES: [u8; 3] = [0xc0, 0xc1, 0xc2];
        const PROGRESSIVE: u8 = 0xc2;
        const SCAN: u8 = 0xda;
        const APPLICATION_2: u8 = 0xe2;
        // Among the numbers of frames are those of the tables of Huffman and arithmetic coding, and one that is reserved.
        let is_frame = matches!(marker, 0xc0..=0xcf) && !matches!(marker, 0xc4 | 0xc8 | 0xcc);
        let has_other_bits = || segment.first().is_some_and(|bits| *bits != 8);
        self.is_of_another_kind |= is_frame && (!FRAMES.contains(&marker) || has_other_bits());
        if FRAMES.contains(&marker) && self.components.is_empty() {
            self.is_sequential = marker != PROGRESSIVE;
            // After depth, height, width and count.
            let components = segment.get(6..).unwrap_or_default().as_chunks::<3>().0.iter();
            self.components = components.map(|[_, sampling, _]| (sampling >> 4, sampling & 15)).collect();
        } else if marker == SCAN && self.in_first_scan == 0 {
            self.in_first_scan = segment.first().copied().unwrap_or_default().into();
        } else if marker == APPLICATION_2
            && let Some([number, of, part @ ..]) = segment.strip_prefix(b"ICC_PROFILE\0")
        {
            self.profile.push((*number, *of, part));
        }
    }

    /// The bytes that the decoder keeps until the last of several scans: coefficients of 16 bits.
    fn coefficients(&self, pixels: u64) -> u64 {
        let samples = |(across, down): &(u8, u8)| u64::from(*across) * u64::from(*down);
        let densest = self.components.iter().map(samples).max().unwrap_or(1).max(1);
        let all: u64 = self.components.iter().map(samples).sum();
        if self.is_sequential { 0 } else { 2 * pixels * all / densest }
    }

    /// Refuses what zune-jpeg 0.5 has no decoder for, which it tells as damage, and what it decodes to another picture.
    fn check(&self) -> anyhow::Result<()> {
        const REMEDY: &str = "; open it in an image editor and save it again, or take it out of the folder";
        ensure!(!self.is_of_another_kind, OF_ANOTHER_KIND);
        let [luma, chroma @ ..] = self.components.as_slice() else { return Ok(()) };
        let is_denser = |component: &&(u8, u8)| component.0 > luma.0 || component.1 > luma.1;
        ensure!(
            !chroma.iter().any(|component| is_denser(&component)),
            "the JPEG has more samples of colour than of brightness, which is not read here{REMEDY}"
        );
        let is_scan_by_scan = self.is_sequential && self.in_first_scan < self.components.len();
        ensure!(
            !is_scan_by_scan,
            "the JPEG is a sequential one whose colours lie in scans of their own, which is not read here{REMEDY}"
        );
        Ok(())
    }

    /// The parts in their order; ICC.1, annex B.4.
    fn profile(&self) -> Named {
        let mut parts = self.profile.clone();
        parts.sort_by_key(|part| part.0);
        let Some(&(_, of, _)) = parts.first() else { return Named::Nothing };
        let are_all =
            parts.len() == usize::from(of) && parts.iter().zip(1..=of).all(|(part, number)| part.0 == number && part.1 == of);
        if !are_all {
            return Named::Unreadable(format!("of the {of} parts of its profile {} are there", parts.len()));
        }
        Named::Profile(parts.iter().flat_map(|part| part.2).copied().collect())
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
    fn a_kind_of_jpeg_that_is_not_read_is_not_called_damaged() {
        let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny/images/star-00.jpg")).unwrap();
        let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        // Lossless, hierarchical, and with arithmetic coding; and one of 12 bits.
        for (marker, bits) in [(0xc3, 8), (0xc5, 8), (0xc9, 8), (0xca, 8), (0xcf, 8), (0xc1, 12)] {
            (bytes[frame + 1], bytes[frame + 4]) = (marker, bits);
            let problem = decode(&bytes).unwrap_err().to_string();
            assert!(problem.starts_with("this is a kind of JPEG that is not read"), "{marker:x}: {problem}");
        }
    }

    #[test]
    fn a_jpeg_that_claims_more_pixels_than_its_bytes_can_hold_is_refused() {
        let mut bytes = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny/images/star-00.jpg")).unwrap();
        let frame = bytes.windows(2).position(|marker| marker == [0xff, 0xc0]).unwrap();
        // Behind marker, length and depth: height and width.
        bytes[frame + 5..frame + 9].copy_from_slice(&[2_000u16.to_be_bytes(), 2_000u16.to_be_bytes()].concat());
        let problem = decode(&bytes).unwrap_err().to_string();
        assert!(problem.starts_with("the JPEG claims 2000×2000 pixels and ends early"), "{problem}");
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
