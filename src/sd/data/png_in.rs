//! PNG in. Texts are passed over, and a profile is inflated up to a limit: neither is needed to its full claimed size. Unaware of other formats.

use std::io::{Cursor, Read as _};

use anyhow::{Context as _, bail, ensure};
use flate2::read::ZlibDecoder;
use image::metadata::Orientation;
use image::{DynamicImage, GrayAlphaImage, GrayImage, RgbImage, RgbaImage};
use png::{BitDepth, ColorType, Decoder, Transformations};

use crate::sd::data::colour::MOST_PROFILE_BYTES;
use crate::sd::data::decode_limits::{MOST_BESIDE, beside, check_size, check_working};
use crate::sd::data::named_colours::Named;

/// The picture as stored, how it is to be turned, and what it says of its colours.
pub(super) fn decode(bytes: &[u8]) -> anyhow::Result<(DynamicImage, Orientation, Named)> {
    let mut decoder = Decoder::new_with_limits(Cursor::new(bytes), png::Limits { bytes: MOST_BESIDE as usize });
    // Both would be inflated without a limit of their own.
    decoder.set_ignore_text_chunk(true);
    decoder.set_ignore_iccp_chunk(true);
    decoder.set_transformations(Transformations::EXPAND);
    let header = decoder.read_header_info()?;
    check_size(header.width.into(), header.height.into())?;
    let mut reader = decoder.read_info()?;
    let is_whole = |palette: &[u8]| palette.len().is_multiple_of(3);
    ensure!(
        reader.info().palette.as_deref().is_none_or(is_whole),
        "the PNG's palette ends inside a colour; copy it again, or take it out of the folder"
    );
    let (width, height) = reader.info().size();
    let (colours, depth) = reader.output_color_type();
    let exif = reader.info().exif_metadata.as_ref();
    let orientation = exif.and_then(|exif| Orientation::from_exif_chunk(exif)).unwrap_or(Orientation::NoTransforms);
    let size = reader.output_buffer_size().context("the PNG claims more pixels than fit into memory; make it smaller")?;
    let is_rgb = (colours, depth) == (ColorType::Rgb, BitDepth::Eight);
    let has_alpha = matches!(colours, ColorType::Rgba | ColorType::GrayscaleAlpha);
    check_working(u64::from(width) * u64::from(height), size as u64, beside(is_rgb, has_alpha))?;
    let mut stored = vec![0; size];
    reader.next_frame(&mut stored)?;
    let picture = match depth {
        BitDepth::Eight => of_8_bits(colours, width, height, stored),
        BitDepth::Sixteen => of_8_bits(colours, width, height, halved(stored)),
        depth => bail!("the PNG has {} bits a channel; save it again with 8", depth as u8),
    };
    Ok((
        picture.context("the PNG has other pixels than it says; copy it again, or take it out of the folder")?,
        orientation,
        named(bytes)?,
    ))
}

fn of_8_bits(colours: ColorType, width: u32, height: u32, stored: Vec<u8>) -> Option<DynamicImage> {
    match colours {
        ColorType::Grayscale => GrayImage::from_raw(width, height, stored).map(DynamicImage::ImageLuma8),
        ColorType::GrayscaleAlpha => GrayAlphaImage::from_raw(width, height, stored).map(DynamicImage::ImageLumaA8),
        ColorType::Rgb => RgbImage::from_raw(width, height, stored).map(DynamicImage::ImageRgb8),
        ColorType::Rgba => RgbaImage::from_raw(width, height, stored).map(DynamicImage::ImageRgba8),
        ColorType::Indexed => None,
    }
}

/// Numbers of 16 bits, each in the place of its own half.
fn halved(mut stored: Vec<u8>) -> Vec<u8> {
    let count = stored.len() / 2;
    for at in 0..count {
        stored[at] = to_8_bits(u16::from_be_bytes([stored[2 * at], stored[2 * at + 1]]));
    }
    stored.truncate(count);
    stored
}

/// To the nearest.
pub(super) fn to_8_bits(number: u16) -> u8 {
    ((u32::from(number) + 128) / 257) as u8
}

/// What the chunks before the pixels say of the colours; `cICP` goes before `iCCP`, and both before all else (PNG, third edition, 4.3).
fn named(bytes: &[u8]) -> anyhow::Result<Named> {
    let mut named = Named::Nothing;
    let mut at = 8;
    while let Some(head) = bytes.get(at..at + 8) {
        let length = u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        let Some(data) = bytes.get(at + 8..).and_then(|rest| rest.get(..length)) else { break };
        match &head[4..] {
            b"IDAT" | b"IEND" => break,
            b"cICP" => return by_code_points(data),
            b"iCCP" if matches!(named, Named::Nothing) => named = profile(data),
            _ => {}
        }
        at += 12 + length;
    }
    Ok(named)
}

/// Primaries, curve, matrix and range by the numbers of ITU-T H.273.
fn by_code_points(data: &[u8]) -> anyhow::Result<Named> {
    const SRGB_CURVE: u8 = 13;
    let [primaries, curve, _, _] = *data else { return Ok(Named::Unreadable("its `cICP` is damaged".into())) };
    ensure!(![16, 18].contains(&curve), "this is an HDR picture (PQ or HLG): export it for ordinary screens");
    Ok(match (primaries, curve) {
        (1, SRGB_CURVE) => Named::Nothing,
        (12, SRGB_CURVE) => Named::DisplayP3,
        _ => Named::Unreadable(format!("its `cICP` names primaries {primaries} and curve {curve}")),
    })
}

/// A name of 1 to 79 bytes, a zero, the method, and the profile compressed.
fn profile(data: &[u8]) -> Named {
    let compressed = data.iter().take(80).position(|&byte| byte == 0).and_then(|end| data.get(end + 2..));
    let Some(compressed) = compressed else { return Named::Unreadable("its `iCCP` is damaged".into()) };
    let mut profile = Vec::new();
    match ZlibDecoder::new(compressed).take(MOST_PROFILE_BYTES as u64 + 1).read_to_end(&mut profile) {
        Ok(_) if profile.len() > MOST_PROFILE_BYTES => {
            Named::Unreadable(format!("its profile has more than {} MB", MOST_PROFILE_BYTES >> 20))
        }
        Ok(_) => Named::Profile(profile),
        Err(_) => Named::Unreadable("its profile is damaged".into()),
    }
}
