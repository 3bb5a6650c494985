//! Questions to the TIFF structure of EXIF blocks and TIFF files: does it name Adobe RGB, which profile has it, is it a raw photo. Unaware of pixels.

use anyhow::bail;

/// An entry of a directory.
struct Entry {
    tag: u16,
    kind: u16,
    count: u32,
    value: [u8; 4],
}

/// The block, and the order of bytes in its numbers.
struct Tiff<'b> {
    bytes: &'b [u8],
    is_little: bool,
}

impl<'b> Tiff<'b> {
    fn of(bytes: &'b [u8]) -> Option<Self> {
        match bytes.get(..4)? {
            b"II*\0" => Some(Self { bytes, is_little: true }),
            b"MM\0*" => Some(Self { bytes, is_little: false }),
            _ => None,
        }
    }

    fn u16(&self, bytes: [u8; 2]) -> u16 {
        if self.is_little { u16::from_le_bytes(bytes) } else { u16::from_be_bytes(bytes) }
    }

    fn u32(&self, bytes: [u8; 4]) -> u32 {
        if self.is_little { u32::from_le_bytes(bytes) } else { u32::from_be_bytes(bytes) }
    }

    fn first(&self) -> Vec<Entry> {
        self.bytes.get(4..8).map(|at| self.directory(self.u32([at[0], at[1], at[2], at[3]]))).unwrap_or_default()
    }

    /// The entries of the directory at `at`, as far as they are there.
    fn directory(&self, at: u32) -> Vec<Entry> {
        let Some(rest) = self.bytes.get(at as usize..) else { return Vec::new() };
        let Some(&[a, b]) = rest.first_chunk::<2>() else { return Vec::new() };
        let entries = rest[2..].as_chunks::<12>().0.iter().take(self.u16([a, b]).into());
        let entry = |e: &[u8; 12]| Entry {
            tag: self.u16([e[0], e[1]]),
            kind: self.u16([e[2], e[3]]),
            count: self.u32([e[4], e[5], e[6], e[7]]),
            value: [e[8], e[9], e[10], e[11]],
        };
        entries.map(entry).collect()
    }

    /// A directory that an entry of another leads to.
    fn below(&self, entries: &[Entry], tag: u16) -> Vec<Entry> {
        entries.iter().find(|entry| entry.tag == tag).map(|entry| self.directory(self.u32(entry.value))).unwrap_or_default()
    }

    /// A small number, in whichever form it is written.
    fn number(&self, entry: &Entry) -> u32 {
        const SHORT: u16 = 3;
        if entry.kind == SHORT { self.u16([entry.value[0], entry.value[1]]).into() } else { self.u32(entry.value) }
    }
}

/// True of a camera's photo in Adobe RGB: DCF's option file says so in EXIF, `InteroperabilityIndex` R03 (DCF 2.0, 3.4), or `ColorSpace` 2.
pub(super) fn names_adobe_rgb(exif: &[u8]) -> bool {
    const EXIF_DIRECTORY: u16 = 0x8769;
    const INTEROPERABILITY_DIRECTORY: u16 = 0xa005;
    const INTEROPERABILITY_INDEX: u16 = 1;
    const COLOUR_SPACE: u16 = 0xa001;
    let Some(tiff) = Tiff::of(exif) else { return false };
    let first = tiff.first();
    let camera = tiff.below(&first, EXIF_DIRECTORY);
    let below = tiff.below(&camera, INTEROPERABILITY_DIRECTORY);
    below.iter().any(|entry| entry.tag == INTEROPERABILITY_INDEX && entry.count == 4 && entry.value.starts_with(b"R03"))
        || camera.iter().any(|entry| entry.tag == COLOUR_SPACE && tiff.number(entry) == 2)
}

/// The colour profile of a TIFF file.
pub(super) fn profile_of_tiff(bytes: &[u8]) -> Option<&[u8]> {
    const COLOUR_PROFILE: u16 = 0x8773;
    let tiff = Tiff::of(bytes)?;
    let entry = tiff.first().into_iter().find(|entry| entry.tag == COLOUR_PROFILE)?;
    bytes.get(tiff.u32(entry.value) as usize..)?.get(..entry.count as usize)
}

/// A raw photo in a TIFF's clothes decodes to its thumbnail.
pub(super) fn refuse_raw_photo(bytes: &[u8]) -> anyhow::Result<()> {
    const NEW_SUBFILE_TYPE: u16 = 254;
    const DNG_VERSION: u16 = 0xc612;
    let Some(tiff) = Tiff::of(bytes) else { return Ok(()) };
    let first = tiff.first();
    let is_reduced = |entry: &Entry| entry.tag == NEW_SUBFILE_TYPE && tiff.number(entry) & 1 == 1;
    let is_raw = first.iter().any(|entry| entry.tag == DNG_VERSION || is_reduced(entry)) || bytes.get(8..10) == Some(b"CR");
    if is_raw {
        bail!("this is a raw photo, of which only the preview is a picture; develop it to a JPEG, or take it out of the folder");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A block whose EXIF directory has these entries, and an interoperability index.
    fn block(colour_space: u16, index: &[u8; 4]) -> Vec<u8> {
        let mut block = b"MM\0*\0\0\0\x08".to_vec();
        let entry = |tag: u16, kind: u16, count: u32, value: [u8; 4]| {
            [&tag.to_be_bytes()[..], &kind.to_be_bytes(), &count.to_be_bytes(), &value].concat()
        };
        block.extend([&[0, 1], &entry(0x8769, 4, 1, 26u32.to_be_bytes())[..], &[0; 4]].concat());
        block.extend([0, 2]);
        block.extend(entry(0xa001, 3, 1, [(colour_space >> 8) as u8, colour_space as u8, 0, 0]));
        block.extend(entry(0xa005, 4, 1, 56u32.to_be_bytes()));
        block.extend([0; 4]);
        block.extend([&[0, 1], &entry(1, 2, 4, *index)[..], &[0; 4]].concat());
        block
    }

    #[test]
    fn adobe_rgb_is_named_by_the_index_or_by_its_number() {
        assert!(names_adobe_rgb(&block(0xffff, b"R03\0")));
        assert!(names_adobe_rgb(&block(2, b"R98\0")));
        assert!(!names_adobe_rgb(&block(0xffff, b"R98\0")));
        assert!(!names_adobe_rgb(&block(1, b"R98\0")));
        let whole = block(2, b"R03\0");
        for length in 0..whole.len() {
            names_adobe_rgb(&whole[..length]);
        }
    }
}
