//! `loramill edits` as a person types it, and README's session with it.

use std::fs;
use std::path::Path;
use std::process::Command;

use regex::Regex;
use serde_json::Value;

use super::{PIPELINE, loramill, said};

/// A pipeline over the example's pictures, below a folder: `stars/`.
fn stars() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let images = folder.path().join("stars/images");
    fs::create_dir_all(&images).expect("made");
    for entry in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/tiny/images")).expect("the example is there") {
        let entry = entry.expect("readable");
        fs::copy(entry.path(), images.join(entry.file_name())).expect("copied");
    }
    fs::write(folder.path().join("stars/pipeline.yaml"), PIPELINE).expect("written");
    folder
}

fn run(folder: &Path) {
    let (code, _, stderr) = said(&loramill(folder, &["run", "-q", "stars"]));
    assert_eq!(code, 0, "{stderr}");
}

fn edits(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    said(&loramill(folder, &[&["edits"], arguments].concat()))
}

#[test]
fn before_a_run_there_is_nothing_to_decide_and_that_is_said() {
    let stars = stars();
    let (code, _, stderr) = edits(stars.path(), &["accept", "stars"]);
    assert!(code == 2 && stderr.contains("name the items"), "{stderr}");
    let (code, stdout, _) = edits(stars.path(), &["list", "stars"]);
    assert_eq!((code, stdout.as_str()), (0, "stars/captions: 24 texts, 24 by the machine\n"));
    for (arguments, told) in [
        (&["accept", "stars", "--all"][..], "no text is stale\n"),
        (&["prune", "stars"], "every text has its photo\n"),
        (&["diff", "stars"], "every text is the machine's\n"),
    ] {
        assert_eq!(edits(stars.path(), arguments), (0, String::new(), told.to_string()), "{arguments:?}");
    }
    let (code, _, stderr) = edits(stars.path(), &["show", "stars", "star-3"]);
    assert!(code == 2 && stderr.contains("no text is called `star-3`: did you mean `star-"), "{stderr}");
    fs::write(stars.path().join("stars/pipeline.yaml"), "concept: x\ninputs: { p: images/ }\nstages:\n  crop: { images: p }\n")
        .expect("written");
    let (code, _, stderr) = edits(stars.path(), &["list", "stars"]);
    assert!(code == 2 && stderr.contains("no stage of this pipeline writes texts"), "{stderr}");
}

#[test]
fn the_json_of_a_list_has_every_text_with_its_provenance() {
    let stars = stars();
    run(stars.path());
    let captions = stars.path().join("stars/captions");
    fs::write(captions.join("star-03.txt"), "mine\n").expect("written");
    fs::write(captions.join("star-04-flip.txt"), "as a mirror shows it\n").expect("written");
    fs::write(captions.join("gone.txt"), "an orphan\n").expect("written");
    fs::write(captions.join("star-05.txt"), "<<<<<<< ours\n").expect("written");
    let (code, stdout, stderr) = edits(stars.path(), &["list", "stars", "--json"]);
    assert_eq!(code, 0, "{stderr}");
    let json: Value = serde_json::from_str(&stdout).expect("JSON");
    let stage = &json["stages"][0];
    assert_eq!((&stage["stage"], &stage["folder"]), (&Value::from("caption"), &Value::from("stars/captions")));
    let texts = stage["texts"].as_array().expect("a list");
    assert_eq!(texts.len(), 24 + 2);
    let text = |name: &str| texts.iter().find(|text| text["name"] == name).expect("a text");
    assert_eq!((&text("star-03")["provenance"], &text("star-03")["text"]), (&Value::from("edited"), &Value::from("mine")));
    assert_eq!(text("star-03")["file"], "stars/captions/star-03.txt");
    assert_eq!(text("star-03")["machine_before"], "a small black star on a orange background");
    assert_eq!(text("star-04-flip")["mirror_of"], "star-04");
    assert_eq!((&text("gone")["provenance"], &text("gone")["machine_now"]), (&Value::from("orphan"), &Value::Null));
    assert_eq!(text("star-06")["provenance"], "machine");
    assert!(text("star-05")["problem"].as_str().expect("a problem").contains("conflict markers"));

    let (_, stdout, _) = said(&loramill(stars.path(), &["status", "stars"]));
    let section = stdout.split("\n\n").nth(1).expect("a section for texts");
    let expected = "stars/captions: 26 texts, 22 by the machine, 2 edited, 1 without a photo, 1 that cannot be used\n   \
                    edited star-03, star-04-flip\n   orphan gone\n unusable `stars/captions/star-05.txt` has conflict markers of a \
                    merge: keep one version, then run again\n";
    assert_eq!(section, expected);
}

#[test]
fn to_ask_the_machine_writes_no_caption_and_no_lock() {
    let stars = stars();
    run(stars.path());
    let captions = stars.path().join("stars/captions");
    fs::write(captions.join("star-03.txt"), "mine\n").expect("written");
    let pipeline = PIPELINE.replace("model: sidecar", "model: template, template: 'picture of {name}'");
    fs::write(stars.path().join("stars/pipeline.yaml"), pipeline).expect("written");
    let before = (files(&captions), fs::read(stars.path().join("stars/pipeline.lock")).expect("there"));
    let (code, stdout, stderr) = edits(stars.path(), &["show", "stars", "stars/captions/star-03.txt", "--new"]);
    assert!(code == 0 && stdout.contains("it says now:      picture of star 03\n"), "{stdout}{stderr}");
    assert!(stderr.contains("no result yet for 1 of 24 items: star-03"), "{stderr}");
    let after = (files(&captions), fs::read(stars.path().join("stars/pipeline.lock")).expect("there"));
    assert_eq!(before, after);
    let (_, _, stderr) = edits(stars.path(), &["show", "stars", "star-03", "--new"]);
    assert_eq!(stderr, "", "once asked it is known");
}

#[test]
fn a_refused_decision_is_exit_code_1_and_the_others_are_taken() {
    let stars = stars();
    run(stars.path());
    let captions = stars.path().join("stars/captions");
    fs::write(captions.join("star-03.txt"), "mine\n").expect("written");
    fs::write(captions.join("gone.txt"), "an orphan\n").expect("written");
    let (code, _, stderr) = edits(stars.path(), &["drop", "stars", "gone", "star-03", "caption/star-04"]);
    let lines: Vec<&str> = stderr.lines().collect();
    assert_eq!((code, lines.len()), (1, 3), "{stderr}");
    assert_eq!(lines[0], "error: gone: its photo is gone: `prune` puts it away");
    let told = "star-03: the machine's text is in its place; yours is kept for 30 days as `stars/cache/displaced/";
    assert!(lines[1].starts_with(told), "{stderr}");
    assert_eq!(lines[2], "star-04 is the machine's text");
    let kept = lines[1].rsplit('`').nth(1).expect("a path");
    assert_eq!(fs::read_to_string(stars.path().join(kept)).expect("it is kept there"), "mine\n");
    assert_eq!(edits(stars.path(), &["prune", "stars"]).0, 0);
    assert!(!captions.join("gone.txt").exists());
}

#[test]
fn texts_that_are_gone_are_told_by_every_command_with_the_way_back() {
    let stars = stars();
    run(stars.path());
    let captions = stars.path().join("stars/captions");
    fs::write(captions.join("star-03.txt"), "mine\n").expect("written");
    run(stars.path());
    fs::remove_dir_all(&captions).expect("removed");
    let told = "1 text that people wrote is gone from `captions/`: star-03; put the folder back, or `loramill edits restore` writes what \
                runs used; `loramill edits drop --gone` lets the machine's take their place";
    for (arguments, expected) in [
        (&["check", "stars"][..], 0),
        (&["plan", "stars"], 0),
        (&["run", "stars"], 1),
        (&["run", "stars"], 1),
        (&["status", "stars"], 0),
        (&["edits", "list", "stars"], 0),
    ] {
        let (code, stdout, stderr) = said(&loramill(stars.path(), arguments));
        assert!((stdout + &stderr).contains(told) && code == expected, "{arguments:?} {code} {stderr}");
    }
    let (_, stdout, _) = edits(stars.path(), &["list", "stars"]);
    assert!(stdout.contains("     gone star-03  mine\n"), "{stdout}");
    let (_, stdout, _) = said(&loramill(stars.path(), &["plan", "stars"]));
    assert!(stdout.contains(&format!("must stop caption  {told}\n")), "{stdout}");
    let (_, stdout, _) = said(&loramill(stars.path(), &["status", "stars"]));
    assert!(stdout.contains(&format!(", 1 of people that are gone\n     gone {told}\n")), "{stdout}");
    let (code, _, stderr) = edits(stars.path(), &["restore", "stars"]);
    assert_eq!((code, stderr.as_str()), (0, "star-03: it lies in `stars/captions/star-03.txt` again\n"));
    run(stars.path());
    fs::remove_dir_all(&captions).expect("removed");
    let (code, _, stderr) = edits(stars.path(), &["drop", "stars", "--gone"]);
    let told = "caption: the machine's texts take the place of 1 text of people: star-03; the next run writes them\n";
    assert_eq!((code, stderr.as_str()), (0, told));
    run(stars.path());
    for arguments in [&["drop", "stars", "--gone"][..], &["restore", "stars"]] {
        assert_eq!(edits(stars.path(), arguments), (0, String::new(), "no text is gone\n".into()));
    }
    assert_eq!(edits(stars.path(), &["restore", "stars", "star-03"]).0, 2);
}

#[test]
fn texts_in_a_folder_that_no_stage_reads_are_told_by_every_command() {
    let stars = stars();
    run(stars.path());
    for (folder, texts) in [("captions-text", &["star-01.txt", "deep/star-02.txt"][..]), ("captions-none", &["notes.md"])] {
        for text in texts {
            let path = stars.path().join("stars").join(folder).join(text);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, "mine\n").expect("written");
        }
    }
    let told = "`captions-text/` holds 2 texts that no stage reads, and texts count in `captions/`: move them there, or name the stage \
                after the folder";
    for arguments in
        [&["check", "stars"][..], &["run", "stars"], &["run", "stars"], &["status", "stars"], &["edits", "list", "stars"]]
    {
        let (code, stdout, stderr) = said(&loramill(stars.path(), arguments));
        let said = stdout + &stderr;
        assert!(code == 0 && said.contains(told) && !said.contains("captions-none"), "{arguments:?} {said}");
    }
}

#[test]
fn texts_beside_photos_are_counted_by_check_and_by_run() {
    let stars = stars();
    let images = stars.path().join("stars/images");
    fs::rename(images.join("star-01.txt"), images.join("star-01.png.txt")).expect("renamed");
    fs::rename(images.join("star-02.txt"), images.join("STAR-02.txt")).expect("renamed");
    fs::rename(images.join("star-03.txt"), images.join("star-03.caption")).expect("renamed");
    fs::write(images.join("notes.txt"), "of the day").expect("written");
    let told = "`photos`: 21 of 24 photos have a text; 3 texts belong to no photo: `STAR-02.txt` (the photo is called `star-02.png`), \
                `notes.txt`, `star-01.png.txt` (the text of `star-01.png` is called `star-01.txt`); 1 text ends in `.caption`, which \
                `caption` reads with `endings: .caption`";
    for arguments in [&["check", "stars"][..], &["run", "stars"]] {
        let (code, stdout, stderr) = said(&loramill(stars.path(), arguments));
        assert!(code == 0 && (stdout + &stderr).contains(told), "{arguments:?} {stderr}");
    }
    // The same contents under other names are the same captions.
    let captions = files(&stars.path().join("stars/captions"));
    let with_endings = PIPELINE.replace("model: sidecar", "model: sidecar, endings: [.txt, .caption, .png.txt]");
    fs::write(stars.path().join("stars/pipeline.yaml"), with_endings).expect("written");
    run(stars.path());
    let read = |name: &str| fs::read_to_string(stars.path().join("stars/captions").join(name)).expect("there");
    assert!(read("star-01.txt").contains("star") && read("star-03.txt").contains("star"));
    assert_eq!(captions.iter().filter(|file| file.1.is_empty()).count(), 3, "they were empty before");
    fs::write(images.join("star-04.caption"), "a second one").expect("written");
    let (code, _, stderr) = said(&loramill(stars.path(), &["check", "stars"]));
    assert!(code == 2 && stderr.contains("star-04.png` has two texts: `"), "{code} {stderr}");
}

#[test]
fn endings_that_cannot_be_and_two_ways_to_read_one_folder_are_errors_with_their_place() {
    let stars = stars();
    for (endings, told) in [
        ("caption", "`caption` is not the ending of a text"),
        ("'../x.txt'", "is not the ending of a text"),
        ("[.txt, .png]", "files that end in `.png` are pictures"),
        ("[]", "there must be one ending at least"),
        ("7", "7"),
    ] {
        let with_endings = PIPELINE.replace("model: sidecar", &format!("model: sidecar, endings: {endings}"));
        fs::write(stars.path().join("stars/pipeline.yaml"), with_endings).expect("written");
        let (code, _, stderr) = said(&loramill(stars.path(), &["check", "stars"]));
        assert!(code == 2 && stderr.contains(told), "{endings}: {stderr}");
    }
    let both = PIPELINE.to_string() + "  tags: { kind: caption, images: resize, endings: .tags }\n";
    fs::write(stars.path().join("stars/pipeline.yaml"), both).expect("written");
    let (code, _, stderr) = said(&loramill(stars.path(), &["check", "stars"]));
    let told = "`tags` reads texts beside `photos` that end in `.tags`, and `caption` those that end in `.txt`";
    assert!(code == 2 && stderr.contains(told) && stderr.contains("a photo has one text"), "{stderr}");
}

#[test]
fn captions_without_a_photo_are_named_by_the_run_that_meets_them() {
    let stars = stars();
    run(stars.path());
    let captions = stars.path().join("stars/captions");
    fs::write(captions.join("gone.txt"), "an orphan\n").expect("written");
    fs::rename(captions.join("star-05.txt"), captions.join("star-05.TXT")).expect("renamed");
    let (code, stdout, stderr) = said(&loramill(stars.path(), &["run", "stars"]));
    let told = "caption: 1 text in `captions/` without a photo: `gone`; `loramill edits prune` puts such away";
    assert!(code == 0 && (stdout + &stderr).contains(told), "{stderr}");
    assert!(!captions.join("star-05.txt").exists(), "the one in capitals is the text of its photo");
}

fn files(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder)
        .expect("readable")
        .map(|entry| entry.expect("readable").path())
        .map(|path| (path.display().to_string(), fs::read(path).expect("readable")))
        .collect();
    files.sort();
    files
}

/// What README shows is what the program prints, but for times.
#[test]
fn the_session_in_the_readme_is_real() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = fs::read_to_string(root.join("README.md")).expect("there");
    let section = readme.split("## Captions are yours").nth(1).expect("README has a section on edits");
    let session = section.split("```console\n").nth(1).and_then(|rest| rest.split("\n```").next()).expect("a session");
    let stars = stars();
    let program = Path::new(env!("CARGO_BIN_EXE_loramill")).parent().expect("it lies in a folder");
    let path = format!("{}:{}", program.display(), std::env::var("PATH").expect("there is a PATH"));
    let mut steps = session.split("\n$ ");
    let first = steps.next().and_then(|step| step.strip_prefix("$ ")).expect("the session begins with a command");
    for step in std::iter::once(first).chain(steps) {
        let (command, expected) = step.split_once('\n').unwrap_or((step, ""));
        let output = Command::new("sh")
            .args(["-c", &format!("{command} 2>&1")])
            .current_dir(stars.path())
            .env("PATH", &path)
            .env("HOME", stars.path())
            .env_remove("LORAMILL_CACHE")
            .output()
            .expect("a shell");
        let told = String::from_utf8(output.stdout).expect("UTF-8");
        assert_eq!(without_times(told.trim_end()), without_times(expected.trim_end()), "$ {command}");
    }
}

/// Without seconds, and without the time in the name of a displaced file.
fn without_times(text: &str) -> String {
    let seconds = Regex::new(r"\b\d+\.\ds\b").expect("a pattern");
    let displaced = Regex::new(r"displaced/\d+\.\d+\.").expect("a pattern");
    displaced.replace_all(&seconds.replace_all(text, "TIME"), "displaced/TIME.").into_owned()
}

#[test]
fn texts_that_came_without_a_lock_are_compared_with_the_machines_before_they_are_called_edited() {
    let stars = stars();
    let captions = stars.path().join("stars/captions");
    fs::create_dir(&captions).expect("made");
    for entry in fs::read_dir(stars.path().join("stars/images")).expect("there") {
        let path = entry.expect("readable").path();
        if path.extension().is_some_and(|extension| extension == "txt") {
            fs::copy(&path, captions.join(path.file_name().expect("a file"))).expect("copied");
        }
    }
    fs::write(captions.join("star-03.txt"), "mine\n").expect("written");
    let status = || said(&loramill(stars.path(), &["status", "stars"])).1;
    assert!(status().contains("stars/captions: 24 texts, 24 that the next run compares with the machine's\n"), "{}", status());
    run(stars.path());
    assert!(status().contains("stars/captions: 24 texts, 23 by the machine, 1 edited\n   edited star-03\n"), "{}", status());
    assert_eq!(fs::read_to_string(captions.join("star-03.txt")).expect("there"), "mine\n");
}
