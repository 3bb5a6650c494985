//! What names, texts and other programs say must not steer the terminal: every command is fed with such, and what it writes is looked at.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::path::{Path, PathBuf};

use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use super::{PIPELINE, command};
use crate::git::git;

/// ESC, the beginning of all sequences, as a C0 and as a C1 control, in a title that ends with BEL; and what turns the direction of text.
const HOSTILE: &str = "x\u{1b}]0;owned\u{7}\u{9b}31m\u{202e}y\u{2066}\u{7f}";

/// What may stand in a text, which is refused with controls in it.
const TEXT: &str = "x\u{202e}y\u{2066}z\u{200b}";

/// A folder with a hostile name, and below it a project in which everything that people name is hostile.
struct Project {
    _temp: tempfile::TempDir,
    folder: PathBuf,
}

impl Project {
    fn new() -> Self {
        let temp = tempfile::tempdir().expect("a folder");
        let folder = temp.path().join(HOSTILE);
        fs::create_dir_all(folder.join("images")).expect("made");
        let project = Self { _temp: temp, folder };
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images");
        fs::copy(examples.join("star-00.jpg"), project.at(&format!("images/{HOSTILE}.jpg"))).expect("copied");
        fs::copy(examples.join("star-01.png"), project.at("images/star-01.png")).expect("copied");
        project.write(&format!("images/{HOSTILE}.txt"), &format!("left {TEXT}"));
        project.write("images/star-01.txt", &format!("{TEXT} on white"));
        project.write("pipeline.yaml", PIPELINE);
        // A cache that git tracks is refused.
        project.write(".gitignore", "/cache\n/out\n");
        git(&project.folder, &["init", "-q", "-b", "main"]);
        project
    }

    fn at(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.at(name), text).expect("written");
    }

    /// Runs a command whose output must be harmless, and says what it wrote to standard output.
    fn hear(&self, arguments: &[&str]) -> String {
        let output = command(&self.folder, arguments).output().expect("the program starts");
        for bytes in [&output.stdout, &output.stderr] {
            let text = String::from_utf8(bytes.clone()).unwrap_or_else(|_| panic!("{arguments:?} writes no UTF-8"));
            let steers = text.chars().find(|&c| is_steering(c));
            assert!(steers.is_none(), "{arguments:?} writes {steers:?}:\n{text:?}");
        }
        assert!(output.status.code().is_some_and(|code| code < 3), "{arguments:?}: {:?}", output.status);
        let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(!said.contains("panicked"), "{arguments:?}: {said}");
        String::from_utf8(output.stdout).expect("looked at")
    }

    fn hear_all(&self, commands: &[&[&str]]) {
        for arguments in commands {
            self.hear(arguments);
        }
    }

    /// As `hear`, of a command that writes JSON, an object or one a line.
    fn hear_json(&self, arguments: &[&str]) {
        let text = self.hear(arguments);
        let is_value = |text: &str| serde_json::from_str::<serde_json::Value>(text).is_ok();
        assert!(!text.is_empty() && (is_value(&text) || text.lines().all(is_value)), "{arguments:?} writes {text:?}");
    }
}

fn is_steering(character: char) -> bool {
    (character.is_control() && !matches!(character, '\n' | '\t'))
        || matches!(character, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[test]
fn no_command_lets_names_and_texts_of_a_project_through() {
    let project = Project::new();
    let item = format!("resize/{HOSTILE}");
    let photo = format!("images/{HOSTILE}.jpg");
    project.hear_all(&[
        &["check"],
        &["plan"],
        &["status"],
        &["graph"],
        &["graph", "--dot"],
        &["explain", "resize"],
        &["explain", &item],
    ]);
    project.hear_json(&["run", "--progress", "json"]);
    git(&project.folder, &["add", "-A"]);
    git(&project.folder, &["commit", "-qm", HOSTILE]);
    project.hear_all(&[&["run"], &["status"], &["plan"], &["explain", &item], &["explain", &photo], &["explain", "caption"]]);
    // Texts of people, which stand in the machine's place.
    project.write(&format!("captions/{HOSTILE}.txt"), &format!("a {TEXT} star\nright {TEXT}"));
    project.write("captions/gone.txt", TEXT);
    project.write("captions/star-01.txt", TEXT);
    project.hear_all(&[&["plan"], &["edits", "list"], &["edits", "list", "--all"], &["run"], &["edits", "diff"]]);
    project.write(&format!("images/{HOSTILE}.txt"), &format!("other {TEXT} words"));
    let list = ["edits", "list"];
    project.hear_all(&[&["run"], &list, &["edits", "show", HOSTILE, "--new"], &["edits", "diff"], &["edits", "merge", HOSTILE]]);
    project.hear_all(&[
        &["edits", "accept", "--all"],
        &["edits", "drop", HOSTILE],
        &["edits", "prune"],
        &["edits", "show", "none"],
    ]);
    for json in [
        &["plan", "--json"][..],
        &["status", "--json"],
        &["edits", "list", "--json"],
        &["explain", &item, "--json"],
        &["gc", "--json"],
        &["fsck", "--json"],
    ] {
        project.hear_json(json);
    }
    // A photo that cannot be read, and one that is gone.
    project.write("images/broken\u{1b}[2J\u{202e}.png", "no picture");
    project.hear_all(&[
        &["run", "--keep-going"],
        &["status"],
        &["explain", "crop"],
        &["skip", "broken\u{1b}[2J\u{202e}"],
        &["skip", HOSTILE],
    ]);
    project.hear_json(&["run", "--keep-going", "--progress", "json"]);
    fs::remove_file(project.at(&photo)).expect("removed");
    fs::remove_file(project.at("images/broken\u{1b}[2J\u{202e}.png")).expect("removed");
    project.hear_all(&[&["plan"], &["run"], &["explain", "crop"], &["restore", "HEAD"], &["restore", HOSTILE], &["restore"]]);
    project.hear_all(&[&["stop"], &["gc"], &["gc", "--yes"], &["gc", "--forget", HOSTILE], &["fsck", "--full"]]);
    project.hear_all(&[&["init", HOSTILE], &["stages", HOSTILE], &["run", HOSTILE], &["plan", "--set", HOSTILE], &[HOSTILE]]);
}

#[test]
fn no_message_about_a_file_lets_its_texts_through() {
    let project = Project::new();
    project.hear(&["run"]);
    // Names that YAML may hold, and a lock does.
    let quoted = serde_json::to_string(HOSTILE).expect("JSON").replace('\u{7f}', "").replace('\u{9b}', "\\u009b");
    for text in [
        format!("concept: star\ninputs: {{ photos: images/ }}\nstages: {{ {quoted}: {{ kind: crop, images: photos }} }}\n"),
        format!(
            "concept: {quoted}\ninputs: {{ {quoted}: {quoted} }}\nstages: {{ crop: {{ images: {quoted}, {quoted}: {quoted} }} }}\n"
        ),
        "concept: star # \u{1b}[2J\ninputs: { photos: images/ }\nstages: { crop: { images: photos, size: \u{202e}12 } }\n"
            .to_string(),
        format!("{HOSTILE}: ["),
    ] {
        project.write("pipeline.yaml", &text);
        project.hear_all(&[&["check"], &["run"], &["plan"], &["explain", "crop"], &["restore"]]);
    }
    project.write("pipeline.yaml", PIPELINE);
    let digest = "1".repeat(64);
    let name = format!("x{}", "%1b]0;owned%07%c2%9b31m%e2%80%ae");
    project.write("pipeline.lock", &format!("stage {name} key={digest} out={digest} n=3\nedit {name}/{name} photo={digest} key={digest}\nstage {HOSTILE} key={digest} out={digest} n=1\n"));
    project.hear_all(&[&["restore"], &["status"], &["plan"], &["gc"], &["edits", "list"], &["run"]]);
    // What git says of a folder with such a name and a repository that it cannot read.
    project.write(".git/config", &format!("[core]\n\t{HOSTILE}"));
    project.hear_all(&[&["gc"], &["restore", "HEAD"], &["restore", "--", HOSTILE]]);
}

/// A model file of 2 × 2 zeros under each of the names, with these metadata.
fn model_file(path: &Path, names: &[&str], metadata: &[(&str, &str)]) {
    let mut header = serde_json::Map::new();
    let metadata: serde_json::Map<_, _> = metadata.iter().map(|(name, value)| (name.to_string(), (*value).into())).collect();
    header.insert("__metadata__".to_string(), metadata.into());
    for (index, name) in names.iter().enumerate() {
        let place = serde_json::json!({ "dtype": "F32", "shape": [2, 2], "data_offsets": [index * 16, index * 16 + 16] });
        header.insert(name.to_string(), place);
    }
    let header = serde_json::Value::from(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(header.as_bytes());
    bytes.extend(std::iter::repeat_n(0, 16 * names.len()));
    fs::write(path, bytes).expect("written");
}

#[test]
fn no_message_about_a_model_lets_its_names_through() {
    let project = Project::new();
    let module = format!("lora_unet_{HOSTILE}.lora_up.weight");
    model_file(
        &project.at("model.safetensors"),
        &[HOSTILE, "model.diffusion_model.input_blocks.0.0.weight"],
        &[(HOSTILE, HOSTILE)],
    );
    model_file(
        &project.at("lora.safetensors"),
        &[&module, "lora_unet_x.alpha"],
        &[("ss_output_name", HOSTILE), ("ss_tag_frequency", HOSTILE)],
    );
    fs::write(project.at("torch.ckpt"), format!("\u{80}\u{2}c{HOSTILE}\n{HOSTILE}\n.")).expect("written");
    fs::write(project.at("cut.safetensors"), format!("{HOSTILE}{HOSTILE}")).expect("written");
    for file in ["model.safetensors", "lora.safetensors", "torch.ckpt", "cut.safetensors"] {
        let (from, base, lora) = (format!("from={file}"), format!("base={file}"), "lora=lora.safetensors");
        project.hear_all(&[&["explain", file], &["do", "convert", &from, "to=safetensors", "-o", "out1"]]);
        project.hear_all(&[
            &["do", "merge", &base, lora, "-o", "out2"],
            &["do", "extract", &base, "tuned=model.safetensors", "-o", "out3"],
        ]);
        project.hear(&["do", "sample", &base, lora, "prompts=[\"x\"]", "-o", HOSTILE]);
    }
    project.hear_all(&[&["do", HOSTILE, "-o", "x"], &["do", "crop", &format!("images={HOSTILE}"), "-o", "x"]]);
    project.hear_json(&["explain", "lora.safetensors", "--json"]);
}

#[test]
fn bars_and_lines_on_a_terminal_have_colours_of_ours_alone() {
    let project = Project::new();
    project.write("images/broken\u{1b}[2J\u{202e}.png", "no picture");
    let holder = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a terminal");
    grantpt(&holder).expect("granted");
    unlockpt(&holder).expect("unlocked");
    let name = ptsname(&holder, Vec::new()).expect("a name").into_string().expect("plain");
    let terminal = OpenOptions::new().read(true).write(true).open(name).expect("the other end");
    let end = || terminal.try_clone().expect("another end");
    let mut screen = File::from(holder);
    let mut command = command(&project.folder, &["run", "--keep-going"]);
    let mut run = command.env("TERM", "xterm").stdout(end()).stderr(end()).spawn().expect("the program starts");
    drop((command, terminal));
    let mut shown = Vec::new();
    // Ends with an error once nobody holds the other end.
    let mut buffer = [0; 4096];
    let reader = std::thread::spawn(move || {
        while let Ok(count @ 1..) = screen.read(&mut buffer) {
            shown.extend_from_slice(&buffer[..count]);
        }
        shown
    });
    run.wait().expect("it ends");
    let shown = String::from_utf8(reader.join().expect("read")).expect("UTF-8");
    assert!(shown.contains("\u{1b}[1;31m") && shown.contains(r"broken\u{1b}[2J\u{202e}"), "{shown:?}");
    for theirs in ["\u{1b}[2J", "\u{1b}]", "\u{7}", "\u{9b}", "\u{202e}", "\u{2066}"] {
        assert!(!shown.contains(theirs), "{theirs:?} in {shown:?}");
    }
}
