//! The pictures that the example is measured by: 16 stars and 40 of the shapes that the base knows, as examples/tiny/reference/star_test.py
//! asks for them.
//!
//! One thing differs on purpose: there eight or ten pictures share one drawing of noise, here each picture has a seed of its own. So
//! single pictures differ from star_test.py's and the counts are comparable.

use image::RgbImage;

use loramill::sd::diffusion::prediction::Prediction;
use loramill::sd::diffusion::sampler::Sampler;
use loramill::sd::drawing::picture::Request;
use loramill::sd::drawing::studio::{LoraFile, Studio};

use crate::measure::{classify, colours};

/// Colour and ground of the stars; each pair is drawn twice.
const STARS: [(&str, &str); 8] = [
    ("red", "white"),
    ("yellow", "blue"),
    ("green", "black"),
    ("blue", "yellow"),
    ("purple", "white"),
    ("orange", "black"),
    ("white", "red"),
    ("black", "yellow"),
];

/// Size, colour, shape and ground, drawn at random by star_test.py's `base_knows`.
const SHAPES: [(&str, &str, &str, &str); 40] = [
    ("small", "orange", "circle", "blue"),
    ("large", "blue", "square", "black"),
    ("large", "orange", "triangle", "purple"),
    ("small", "green", "ring", "blue"),
    ("large", "black", "cross", "green"),
    ("small", "black", "circle", "green"),
    ("large", "yellow", "square", "red"),
    ("large", "blue", "triangle", "purple"),
    ("large", "black", "ring", "white"),
    ("large", "purple", "cross", "green"),
    ("large", "black", "circle", "red"),
    ("small", "yellow", "square", "white"),
    ("small", "orange", "triangle", "black"),
    ("large", "yellow", "ring", "orange"),
    ("large", "black", "cross", "red"),
    ("small", "white", "circle", "green"),
    ("large", "yellow", "square", "white"),
    ("large", "red", "triangle", "white"),
    ("large", "yellow", "ring", "blue"),
    ("large", "green", "cross", "white"),
    ("large", "green", "circle", "purple"),
    ("small", "yellow", "square", "white"),
    ("large", "black", "triangle", "green"),
    ("large", "blue", "ring", "green"),
    ("large", "red", "cross", "blue"),
    ("large", "purple", "circle", "orange"),
    ("large", "green", "square", "black"),
    ("small", "yellow", "triangle", "green"),
    ("large", "orange", "ring", "black"),
    ("large", "orange", "cross", "red"),
    ("small", "white", "circle", "green"),
    ("small", "yellow", "square", "purple"),
    ("large", "black", "triangle", "white"),
    ("small", "red", "ring", "yellow"),
    ("large", "yellow", "cross", "green"),
    ("small", "purple", "circle", "blue"),
    ("large", "purple", "square", "orange"),
    ("small", "green", "triangle", "purple"),
    ("large", "red", "ring", "yellow"),
    ("small", "white", "cross", "blue"),
];

/// How many pictures came out as they were asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Right {
    pub shape: usize,
    pub colour: usize,
    pub ground: usize,
}

/// Of 16 pictures with the prompt `star, a red star on white` and its like, with 16 seeds from `first_seed` on.
pub fn stars(studio: &mut Studio, loras: &[LoraFile], first_seed: u64) -> Right {
    let asked = STARS.iter().chain(&STARS).map(|(colour, ground)| {
        let prompt = format!("star, a {colour} star on {ground}");
        Asked { prompt, shape: "star", colour, ground }
    });
    count(studio, loras, asked, first_seed)
}

/// Of 40 pictures with the prompt `a large red circle on a white background` and its like, seeds 5 to 44.
pub fn shapes(studio: &mut Studio, loras: &[LoraFile]) -> Right {
    let asked = SHAPES.iter().map(|(size, colour, shape, ground)| {
        let prompt = format!("a {size} {colour} {shape} on a {ground} background");
        Asked { prompt, shape, colour, ground }
    });
    count(studio, loras, asked, 5)
}

struct Asked {
    prompt: String,
    shape: &'static str,
    colour: &'static str,
    ground: &'static str,
}

fn count(studio: &mut Studio, loras: &[LoraFile], asked: impl Iterator<Item = Asked>, first_seed: u64) -> Right {
    let mut right = Right::default();
    for (seed, asked) in (first_seed..).zip(asked) {
        let picture = draw(studio, loras, &asked.prompt, seed);
        let (colour, ground) = colours(&picture);
        right.shape += usize::from(classify(&picture).0 == asked.shape);
        right.colour += usize::from(colour == Some(asked.colour));
        right.ground += usize::from(ground == asked.ground);
    }
    right
}

/// With star_test.py's settings: 20 Euler steps, guidance 5.
fn draw(studio: &mut Studio, loras: &[LoraFile], prompt: &str, seed: u64) -> RgbImage {
    let request = Request {
        prompt: prompt.to_string(),
        negative: String::new(),
        sampler: Sampler::Euler,
        steps: 20,
        guidance: 5.0,
        width: 64,
        height: 64,
        seed,
        clip_skip: 1,
        prediction: Prediction::Epsilon,
    };
    studio.draw(&request, loras, None, &mut |_| Ok(())).unwrap().picture
}

#[test]
fn the_base_draws_the_shapes_it_knows_and_hardly_a_star() {
    let base = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/tiny/models/tiny-sd.safetensors");
    let mut studio = Studio::open(base.as_ref(), None, &loramill::sd::device::named("cpu").unwrap()).unwrap();
    // star_test.py counts 39, 40 and 40 of 40, and 3 stars of 16.
    let known = shapes(&mut studio, &[]);
    assert!(known.shape >= 36 && known.colour >= 38 && known.ground >= 38, "{known:?} of 40");
    let stars = stars(&mut studio, &[], 1);
    assert!(stars.shape <= 6, "{stars:?} of 16");
}
