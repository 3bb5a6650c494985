//! Aspect-ratio buckets: sizes of about equal area, so that pictures of many shapes learn together and little is cut off them. Knows nothing of
//! pixels.
//!
//! The rules are kohya's: `make_bucket_resolutions` in library/model_util.py and `select_bucket` in library/train_util.py, sd-scripts at 48d368fa,
//! with upscaling allowed as it is there by default.

use std::collections::BTreeSet;

/// What buckets there are. Lengths in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// No bucket has more pixels than a square of this side.
    pub side: u32,
    /// Shortest and longest side of a bucket: multiples of `step`, with `side` from the one to the other.
    pub min: u32,
    pub max: u32,
    /// Every side is a multiple of this.
    pub step: u32,
}

impl Buckets {
    /// Width and height of every bucket, in order.
    pub fn sizes(&self) -> Vec<(u32, u32)> {
        let Self { side, min, max, step } = *self;
        let whole = |length: u32| length / step * step;
        let mut sizes = BTreeSet::from([(whole(side), whole(side))]);
        for width in (min..=max).step_by(step as usize) {
            let height = whole(side * side / width).min(max);
            if height >= min {
                sizes.extend([(width, height), (height, width)]);
            }
        }
        sizes.into_iter().collect()
    }

    /// The bucket of a picture: the one of its size, else that whose width / height is nearest to the picture's.
    pub fn of(&self, width: u32, height: u32) -> (u32, u32) {
        let sizes = self.sizes();
        if sizes.contains(&(width, height)) {
            return (width, height);
        }
        let aspect = |(width, height): (u32, u32)| f64::from(width) / f64::from(height);
        let distance = |size| (aspect(size) - aspect((width, height))).abs();
        sizes.into_iter().min_by(|a, b| distance(*a).total_cmp(&distance(*b))).expect("the square is always among them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const USUAL: Buckets = Buckets { side: 512, min: 256, max: 1024, step: 64 };

    #[test]
    fn buckets_are_kohyas() {
        // What `make_bucket_resolutions((512, 512))` gives.
        let expected = [
            (256, 832),
            (256, 896),
            (256, 960),
            (256, 1024),
            (320, 704),
            (320, 768),
            (384, 640),
            (448, 576),
            (512, 512),
            (576, 448),
            (640, 384),
            (704, 320),
            (768, 320),
            (832, 256),
            (896, 256),
            (960, 256),
            (1024, 256),
        ];
        assert_eq!(USUAL.sizes(), expected);
        // What `make_bucket_resolutions((640, 640), 320, 960, 32)` gives first, last and in number.
        let other = Buckets { side: 640, min: 320, max: 960, step: 32 }.sizes();
        assert_eq!((other[0], other[other.len() - 1], other.len()), ((320, 960), (960, 416), 27));
    }

    #[test]
    fn a_picture_gets_the_bucket_that_kohya_gives_it() {
        // Sizes of photos, and what `BucketManager(False, (512, 512), 256, 1024, 64).select_bucket` chose.
        for (photo, bucket) in [
            ((3000, 2000), (640, 384)),
            ((2000, 3000), (384, 640)),
            ((4032, 3024), (576, 448)),
            ((3024, 4032), (448, 576)),
            ((1080, 1080), (512, 512)),
            ((448, 576), (448, 576)),
            ((1920, 1080), (640, 384)),
            ((1080, 1920), (384, 640)),
            ((100, 900), (256, 1024)),
            ((5000, 300), (1024, 256)),
            ((640, 512), (576, 448)),
            ((1000, 999), (512, 512)),
            ((513, 640), (448, 576)),
        ] {
            assert_eq!(USUAL.of(photo.0, photo.1), bucket, "{photo:?}");
        }
    }
}
