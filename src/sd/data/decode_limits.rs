//! How large a picture may be, and how much memory its reading may take. Asked before anything is allocated; unaware of formats.

use anyhow::ensure;

/// The most pixels of a picture: twice what the largest cameras make, and 600 MB in memory.
const MOST_PIXELS: u64 = 200_000_000;
/// The longest side: what a JPEG can have at most.
const LONGEST_SIDE: u32 = 65_535;

/// The most bytes that a picture may take while it is read: 8-bit RGB of the largest one. A file of a few thousand bytes may claim as much.
pub(super) const MOST_WORKING: u64 = 600_000_000;

/// The most memory that a decoder may take beside the pixels.
pub(super) const MOST_BESIDE: u64 = 64 << 20;

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

/// As `check_size`, of the bytes that so many pixels take while they become RGB: `stored` of all, and `beside` for each.
pub(super) fn check_working(pixels: u64, stored: u64, beside: u64) -> anyhow::Result<()> {
    let bytes = pixels.saturating_mul(beside).saturating_add(stored);
    let (megabytes, most) = (bytes / 1_000_000, MOST_WORKING / 1_000_000);
    ensure!(
        bytes <= MOST_WORKING,
        "reading the picture would take {megabytes} MB, and {most} MB are given to one: make it smaller, or save it as 8-bit RGB"
    );
    Ok(())
}

/// Bytes beside each stored pixel: RGB, unless that is what is stored, and its opacity.
pub(super) fn beside(is_rgb_of_8_bits: bool, has_alpha: bool) -> u64 {
    if is_rgb_of_8_bits { 0 } else { 3 + u64::from(has_alpha) }
}
