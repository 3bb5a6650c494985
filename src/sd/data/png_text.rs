//! Texts inside a PNG file: how a picture remembers the prompt it was made with. Unaware of what the text means.
//!
//! webui, ComfyUI and Civitai look for the keyword `parameters`. As Pillow does, a text of Latin-1 letters goes into a `tEXt` chunk and
//! any other into an `iTXt` chunk in UTF-8.

use std::io::Cursor;

use anyhow::Context;
use image::RgbImage;
use png::Decoder;

use crate::sd::data::encode;

/// Where webui keeps prompt and settings.
pub const PARAMETERS: &str = "parameters";

/// The picture as a PNG file that carries `text` under `keyword` (1 to 79 Latin-1 letters).
pub fn png_with_text(picture: &RgbImage, keyword: &str, text: &str) -> Vec<u8> {
    encode::png_with(picture, |encoder| {
        // A chunk of Latin-1 ends at the first zero byte; no prompt has one on purpose.
        let text = text.replace('\0', "");
        let is_latin_1 = text.chars().all(|letter| u32::from(letter) <= 0xff);
        let added = if is_latin_1 {
            encoder.add_text_chunk(keyword.to_string(), text)
        } else {
            encoder.add_itxt_chunk(keyword.to_string(), text)
        };
        added.expect("the first frame has not been written");
    })
}

/// The text under `keyword`, if the PNG file has one.
pub fn read_text(png: &[u8], keyword: &str) -> anyhow::Result<Option<String>> {
    let damaged = || format!("reading the text `{keyword}` of a PNG: the file is damaged or no PNG");
    let mut reader = Decoder::new(Cursor::new(png)).read_info().with_context(damaged)?;
    // Texts may stand behind the pixels.
    reader.finish().with_context(damaged)?;
    let info = reader.info();
    if let Some(chunk) = info.utf8_text.iter().find(|chunk| chunk.keyword == keyword) {
        return Ok(Some(chunk.get_text().with_context(damaged)?));
    }
    if let Some(chunk) = info.uncompressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword) {
        return Ok(Some(chunk.text.clone()));
    }
    match info.compressed_latin1_text.iter().find(|chunk| chunk.keyword == keyword) {
        Some(chunk) => Ok(Some(chunk.get_text().with_context(damaged)?)),
        None => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::data::decode::decode;

    const INFOTEXT: &str =
        "a red star\nNegative prompt: blurry\nSteps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 42, Size: 64x64";

    fn chunk_names(png: &[u8]) -> Vec<String> {
        let (mut at, mut names) = (8, Vec::new());
        while let Some(head) = png.get(at..at + 8) {
            names.push(String::from_utf8_lossy(&head[4..]).into_owned());
            at += 12 + u32::from_be_bytes([head[0], head[1], head[2], head[3]]) as usize;
        }
        names
    }

    #[test]
    fn a_latin_text_is_a_plain_chunk_and_reads_back() {
        let picture = RgbImage::from_pixel(4, 3, image::Rgb([9, 8, 7]));
        for text in [INFOTEXT, "café, Müller"] {
            let png = png_with_text(&picture, PARAMETERS, text);
            assert_eq!(chunk_names(&png), ["IHDR", "tEXt", "IDAT", "IEND"]);
            assert_eq!(read_text(&png, PARAMETERS).unwrap().as_deref(), Some(text));
            assert_eq!(decode(&png).unwrap().picture, picture);
        }
    }

    #[test]
    fn any_other_text_is_an_international_chunk_and_reads_back() {
        let png = png_with_text(&RgbImage::new(1, 1), PARAMETERS, "雨の中の星 – ☆");
        assert_eq!(chunk_names(&png), ["IHDR", "iTXt", "IDAT", "IEND"]);
        assert_eq!(read_text(&png, PARAMETERS).unwrap().as_deref(), Some("雨の中の星 – ☆"));
    }

    #[test]
    fn a_picture_without_the_text_has_none() {
        assert_eq!(read_text(&encode::png(&RgbImage::new(2, 2)), PARAMETERS).unwrap(), None);
        assert!(read_text(b"no png", PARAMETERS).is_err());
    }
}
