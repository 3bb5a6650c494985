//! What a saved state costs a training: the copy in memory, for which its steps wait, and the writing beside them.
//!
//! ```text
//! cargo bench --no-default-features --bench state -- [MEGABYTES=25] [--rounds 9]
//! ```
//!
//! `MEGABYTES` are those of the factors; their two moments come to them. A LoRA of rank 8 for all modules of SD 1.5 has 25, the example's 1.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use loramill::sd::lora::network::Factor;
use loramill::sd::training::adamw::Moments;
use loramill::sd::training::saver::Saver;
use loramill::sd::training::state::{StateFolder, TrainingState};

/// Numbers of a factor: a module of SD 1.5 has two of about this size.
const FACTOR: usize = 12_000;

fn main() {
    let (mut megabytes, mut rounds) = (25, 9);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--rounds" => rounds = arguments.next().expect("--rounds takes a number").parse().expect("a number"),
            // cargo adds it.
            "--bench" => {}
            number => megabytes = number.parse().expect("the size in megabytes"),
        }
    }
    let state = state(megabytes * 1_000_000 / 4);
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder can be written");
    let mut saver = Saver::new(&StateFolder::new(folder.path()));
    let (mut copying, mut writing) = (Vec::new(), Vec::new());
    for seen in 0..=rounds {
        let began = Instant::now();
        let copy = TrainingState { seen, ..state.clone() };
        let copied = began.elapsed();
        saver.begin(copy).expect("the folder can be written");
        saver.finish().expect("the folder can be written");
        // The first is for warming up.
        if seen > 0 {
            copying.push(copied);
            writing.push(saver.took());
        }
    }
    println!("{megabytes} MB of factors, medians of {rounds}: {:?} to copy, {:?} to write", median(copying), median(writing));
}

fn state(numbers: usize) -> TrainingState {
    let count = numbers.div_ceil(FACTOR);
    let values = |index: usize| (0..FACTOR).map(|place| (index * 31 + place) as f32 * 1e-5).collect::<Vec<f32>>();
    let factor = |index| Factor { name: format!("module_{index}.lora_up.weight"), shape: vec![FACTOR], values: values(index) };
    let moments = |index| Moments { mean: values(index), square: values(index) };
    TrainingState {
        seen: 0,
        steps: 0,
        factors: (0..count).map(factor).collect(),
        moments: (0..count).map(moments).collect(),
        loss_scale: None,
        notes: BTreeMap::new(),
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}
