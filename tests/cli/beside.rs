//! Commands that only look, while a run goes on in another process.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::Stdio;

use super::{claim_items_of, command, loramill, said};

const PIPELINE: &str =
    "concept: star\ninputs: { photos: images/ }\nstages:\n  crop: { images: photos }\n  resize: { images: crop, size: 32 }\n";

#[test]
fn status_plan_and_explain_answer_while_a_run_goes_on() {
    let folder = tempfile::tempdir().expect("a folder");
    let folder = folder.path();
    fs::write(folder.join("pipeline.yaml"), PIPELINE).expect("written");
    fs::create_dir(folder.join("images")).expect("made");
    let photo = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images/star-01.png");
    fs::copy(photo, folder.join("images/star-01.png")).expect("copied");
    assert_eq!(said(&loramill(folder, &["run", "-q"])).0, 0);

    // A run that is forced to do again what this process claims to be at waits in the middle.
    let (_cache, held) = claim_items_of(folder, "crop");
    let mut run = command(folder, &["run", "--force", "crop", "--progress", "plain"]);
    let mut run = run.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("the program starts");
    let mut lines = BufReader::new(run.stderr.take().expect("piped")).lines().map(|line| line.expect("UTF-8"));
    let mut heard = Vec::new();
    while !heard.last().is_some_and(|line: &String| line.contains("waiting for its result")) {
        heard.push(lines.next().unwrap_or_else(|| panic!("it ended: {heard:?}")));
    }

    let (code, stdout, stderr) = said(&loramill(folder, &["status"]));
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(&format!("process {} on ", run.id())) && stdout.contains(" is running this pipeline"), "{stdout}");
    assert!(stdout.contains("fresh crop"), "{stdout}");
    let (code, stdout, stderr) = said(&loramill(folder, &["status", "--json"]));
    let status: serde_json::Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((code, &status["run"]["process"]), (0, &serde_json::Value::from(run.id())), "{stderr}");
    assert_eq!(said(&loramill(folder, &["plan", "--exit-code"])).0, 0);
    assert_eq!(said(&loramill(folder, &["explain", "crop"])).0, 0);
    assert_eq!(said(&loramill(folder, &["explain", "out/crop/star-01.png"])).0, 0);
    assert!(run.try_wait().expect("it can be asked").is_none(), "it goes on meanwhile");

    drop(held);
    for _ in lines.by_ref() {}
    assert!(run.wait().expect("it ends").success());
    let (_, stdout, _) = said(&loramill(folder, &["status"]));
    assert!(!stdout.contains("is running"), "{stdout}");
}
