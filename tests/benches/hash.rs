//! How fast a large file is hashed that the stat index does not know, beside `b3sum`, with the page cache warm and two threads each.
//!
//! ```text
//! cargo bench --no-default-features --bench hash -- [GIGABYTES=4] [--b3sum PROGRAM] [--rounds 7]
//! ```

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use loramill::engine::cache::Cache;
use loramill::sd::random::Generator;

const THREADS: usize = 2;

fn main() {
    let (mut gigabytes, mut program, mut rounds) = (4, None, 7);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--b3sum" => program = arguments.next(),
            "--rounds" => rounds = arguments.next().expect("--rounds takes a number").parse().expect("a number"),
            // cargo adds it.
            "--bench" => {}
            number => gigabytes = number.parse().expect("the size in gigabytes"),
        }
    }
    rayon::ThreadPoolBuilder::new().num_threads(THREADS).build_global().expect("the first pool");
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("the folder can be written");
    let file = folder.path().join("file");
    write(&file, gigabytes);

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..=rounds {
        let began = Instant::now();
        // An index of its own each time, so that nothing is known.
        let cache = Cache::open(&folder.path().join(format!("cache-{round}"))).expect("the cache opens");
        let (digest, _) = cache.digest_file(&file).expect("the file can be read");
        ours.push(began.elapsed().as_secs_f64());
        if let Some(program) = &program {
            let began = Instant::now();
            let said = Command::new(program).args(["--num-threads", "2", "--no-names"]).arg(&file).output().expect("b3sum runs");
            theirs.push(began.elapsed().as_secs_f64());
            assert_eq!(String::from_utf8_lossy(&said.stdout).trim(), digest.to_hex());
        }
    }
    let ours = report("loramill", &mut ours, gigabytes);
    if !theirs.is_empty() {
        println!("loramill / b3sum: {:.2} of the throughput", report("b3sum", &mut theirs, gigabytes) / ours);
    }
}

/// The median of all rounds but the first, which warms the page cache.
fn report(name: &str, seconds: &mut Vec<f64>, gigabytes: usize) -> f64 {
    seconds.remove(0);
    seconds.sort_by(f64::total_cmp);
    let median = seconds[seconds.len() / 2];
    let (least, most) = (seconds[0], seconds[seconds.len() - 1]);
    println!("{name}: {median:.2} s ({least:.2} to {most:.2}), {:.2} GB/s", gigabytes as f64 / median);
    median
}

fn write(path: &Path, gigabytes: usize) {
    let piece: Vec<u8> = Generator::new(1).integers(256, 1_000_000).into_iter().map(|byte| byte as u8).collect();
    let mut file = File::create(path).expect("made");
    for _ in 0..gigabytes * 1000 {
        file.write_all(&piece).expect("written");
    }
}
