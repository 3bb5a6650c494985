//! What a picture file says of its colours, and what becomes of them. Unaware of formats.

use image::RgbImage;

use crate::sd::data::colour::{ColourModel, Conversion};

/// What a file says of its colours.
#[derive(Debug)]
pub(super) enum Named {
    Nothing,
    Profile(Vec<u8>),
    AdobeRgb,
    DisplayP3,
    /// Why that cannot be known.
    Unreadable(String),
}

/// What became of the colours that a file names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Colours {
    /// They are sRGB, by name or for want of one.
    Srgb,
    /// They were others, and are sRGB now.
    Converted,
    /// Why they were taken as sRGB although the file names others.
    NotUnderstood(String),
}

/// Brings a picture of RGB or grey numbers to sRGB.
pub(super) fn to_srgb(picture: &mut RgbImage, model: ColourModel, named: Named) -> Colours {
    let conversion = match named {
        Named::Nothing => return Colours::Srgb,
        Named::Unreadable(why) => return Colours::NotUnderstood(why),
        Named::AdobeRgb => Conversion::of_adobe_rgb(),
        Named::DisplayP3 => Conversion::of_display_p3(),
        Named::Profile(profile) => match Conversion::of(&profile, model) {
            Ok(conversion) => conversion,
            Err(error) => return Colours::NotUnderstood(format!("{error:#}")),
        },
    };
    conversion.apply(picture);
    if matches!(conversion, Conversion::None) { Colours::Srgb } else { Colours::Converted }
}
