//! Scaling: Lanczos with Pillow's filter and rounding, on the processor's vector units. Unaware of files.

use std::cell::RefCell;

use fast_image_resize::images::{TypedImage, TypedImageRef};
use fast_image_resize::pixels::U8x3;
use fast_image_resize::{FilterType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops};

/// A rectangle in a picture, in pixels that need not be whole.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Area {
    pub left: f64,
    pub top: f64,
    pub width: f64,
    pub height: f64,
}

impl Area {
    /// All of `picture`.
    pub fn whole(picture: &RgbImage) -> Self {
        Self { left: 0.0, top: 0.0, width: picture.width().into(), height: picture.height().into() }
    }

    /// The largest area of the aspect `width : height` in the middle of a picture.
    pub fn centred(picture: &RgbImage, width: u32, height: u32) -> Self {
        let (full_width, full_height) = (f64::from(picture.width()), f64::from(picture.height()));
        let aspect = f64::from(width) / f64::from(height);
        // The smaller of both: a rounding error must not reach outside the picture.
        let (inner_width, inner_height) = ((full_height * aspect).min(full_width), (full_width / aspect).min(full_height));
        Self {
            left: (full_width - inner_width) / 2.0,
            top: (full_height - inner_height) / 2.0,
            width: inner_width,
            height: inner_height,
        }
    }
}

/// Fills `width` × `height` and cuts what hangs over, in the middle: webui's "crop and resize", Pillow's `ImageOps.fit`.
pub fn crop(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    lanczos(picture, Area::centred(picture, width, height), width, height)
}

/// Squeezes the whole picture into `width` × `height`: webui's "just resize".
pub fn stretch(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    lanczos(picture, Area::whole(picture), width, height)
}

/// Fits the whole picture inside and repeats its outermost pixels up to the border: webui's "resize and fill".
pub fn pad(picture: &RgbImage, width: u32, height: u32) -> RgbImage {
    let (full_width, full_height) = (u64::from(picture.width()), u64::from(picture.height()));
    let (target_width, target_height) = (u64::from(width), u64::from(height));
    // The products stay below 2^33; a side of a very long picture may come out as 0 and is then 1.
    let (inner_width, inner_height) = if target_width * full_height < target_height * full_width {
        (width, (target_width * full_height / full_width).max(1) as u32)
    } else {
        ((target_height * full_width / full_height).max(1) as u32, height)
    };
    let inner = stretch(picture, inner_width, inner_height);
    let (left, top) = ((width - inner_width) / 2, (height - inner_height) / 2);
    RgbImage::from_fn(width, height, |x, y| {
        *inner.get_pixel(x.saturating_sub(left).min(inner_width - 1), y.saturating_sub(top).min(inner_height - 1))
    })
}

/// Scales an area of the picture to `width` × `height` with Pillow's `LANCZOS`: a windowed sinc of three lobes that widens when it
/// shrinks, in fixed point, so that every processor gives the same bytes.
pub fn lanczos(picture: &RgbImage, area: Area, width: u32, height: u32) -> RgbImage {
    scaled(picture, area, width, height, ResizeAlg::Convolution(FilterType::Lanczos3))
}

/// Enlarges to a whole multiple with square pixels: to look at, not to train on.
pub fn enlarge(picture: &RgbImage, times: u32) -> RgbImage {
    imageops::resize(picture, picture.width() * times, picture.height() * times, imageops::FilterType::Nearest)
}

fn scaled(picture: &RgbImage, area: Area, width: u32, height: u32, algorithm: ResizeAlg) -> RgbImage {
    thread_local! {
        // Keeps its buffers from picture to picture.
        static RESIZER: RefCell<Resizer> = RefCell::new(Resizer::new());
    }
    // With the type of a pixel known here, the code for all others is not compiled.
    let source = TypedImageRef::<U8x3>::from_buffer(picture.width(), picture.height(), picture).expect("three bytes a pixel");
    let mut pixels = vec![0; 3 * width as usize * height as usize];
    let mut target = TypedImage::<U8x3>::from_buffer(width, height, &mut pixels).expect("three bytes a pixel");
    let options = ResizeOptions::new().resize_alg(algorithm).crop(area.left, area.top, area.width, area.height);
    RESIZER.with_borrow_mut(|resizer| {
        resizer.resize_typed(&source, &mut target, &options).expect("the area lies inside the picture");
    });
    RgbImage::from_raw(width, height, pixels).expect("three bytes a pixel")
}
