//! Which texts beside the photos of a folder belong to which photo, and which to none. Looks at names alone.
//!
//! The text of `IMG_1.jpg` is `IMG_1` with one of the endings that a stage asks for, `.txt` unless it says otherwise. Names are
//! compared in NFC and letter by letter; a text whose name differs in case only is no photo's, but where it lies beside one that
//! fits, nobody can say which of the two is meant.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use unicode_normalization::UnicodeNormalization as _;

use crate::graph::pipeline::{LoadedStage, Producer};
use crate::graph::stage_id::StageVec;
use crate::inputs::input::{Found, Input};
use crate::inputs::listing::{InputFile, is_picture};
use crate::kind::endings::Endings;
use crate::syntax::diagnostic::Diagnostics;

/// What other programs put captions into: sd-scripts of kohya-ss takes `.caption` by default, its taggers write `.txt`.
const KNOWN: &[&str] = &[".caption", ".captions", ".cap", ".tags", ".tag", ".txt"];
/// Of more texts only the number is printed.
const TOLD: usize = 5;

/// Gives the photos of all inputs their texts. What is worth a word goes to `remarks`; two texts for one photo are an error.
pub fn pair_all(inputs: &mut [Input], stages: &StageVec<LoadedStage>, remarks: &mut Vec<String>, diagnostics: &mut Diagnostics) {
    for (index, input) in inputs.iter_mut().enumerate() {
        let Found::Photos { folder, files, beside, skipped, notes } = &mut input.found else { continue };
        remarks.append(notes);
        let mut asking = stages.values().filter_map(|stage| Some((stage, stage.stage.sidecar_endings()?)));
        let mut asking = asking.by_ref().filter(|(stage, _)| reaches(stage, index, stages));
        let first = asking.next();
        let endings = first.map_or_else(Endings::usual, |(_, endings)| endings.clone());
        if let (Some((first, _)), Some((other, theirs))) = (first, asking.find(|(_, theirs)| **theirs != endings)) {
            let message = format!(
                "`{}` reads texts beside `{}` that end in {}, and `{}` those that end in {}",
                other.name,
                input.name,
                theirs.listed(),
                first.name,
                endings.listed()
            );
            diagnostics.report(&other.span, message).also(&first.span, "the other is here").hint(
                "a photo has one text: name the folder a second time under `inputs:`, and let one of the two stages start there",
            );
        }
        let pairs = pair(folder, files, skipped, beside, endings.list());
        if let Some((stage, _)) = first {
            for (photo, one, other) in &pairs.twice {
                diagnostics
                    .report(
                        &input.span,
                        format!("`{}` has two texts: `{}` and `{}`", photo.display(), one.display(), other.display()),
                    )
                    .hint("remove one of them, or give it another name");
            }
            remarks.extend(pairs.sentence(&input.name, files.len(), &stage.name));
        }
    }
}

/// Whether a stage reads the input at `index`, itself or by the stages that it reads.
fn reaches(stage: &LoadedStage, index: usize, stages: &StageVec<LoadedStage>) -> bool {
    stage.edges.iter().any(|edge| match edge.from {
        Producer::Input(input) => input == index,
        Producer::Stage(producer) => reaches(&stages[producer], index, stages),
    })
}

/// What was found beside photos.
#[derive(Debug, Default)]
pub struct Pairs {
    /// Photos with a text.
    paired: usize,
    /// Texts that belong to no photo, with a word about why where that is known.
    unpaired: Vec<(PathBuf, Option<String>)>,
    /// A photo and two texts that could be its.
    pub twice: Vec<(PathBuf, PathBuf, PathBuf)>,
    /// Texts of photos with endings that nobody asked for.
    unread: BTreeMap<&'static str, usize>,
}

/// Sets the text of each photo of a folder. `skipped`: the names of photos that are left out, whose texts are nobody else's;
/// `beside`: the files that are no pictures.
pub fn pair(folder: &Path, files: &mut [InputFile], skipped: &BTreeSet<String>, beside: &[PathBuf], endings: &[String]) -> Pairs {
    let mut pairs = Pairs::default();
    files.iter_mut().for_each(|file| file.sidecar = None);
    if beside.is_empty() {
        return pairs;
    }
    let places: HashMap<String, usize> = files.iter().enumerate().map(|(place, file)| (folded(&file.name), place)).collect();
    let mut claims: BTreeMap<usize, Vec<(bool, PathBuf)>> = BTreeMap::new();
    let mut beside: Vec<&PathBuf> = beside.iter().collect();
    beside.sort_unstable();
    for path in beside {
        let mut is_text = false;
        let mut claim = None;
        for stem in endings.iter().filter_map(|ending| stem(folder, path, ending)).filter(|stem| !skipped.contains(stem)) {
            is_text = true;
            let place = places.get(&folded(&stem)).copied();
            claim = place.map(|place| (place, files[place].name == stem)).or(claim);
        }
        match claim {
            Some((place, fits)) => claims.entry(place).or_default().push((fits, path.clone())),
            None if is_text => {
                let why = endings.iter().find_map(|ending| of_a_photo_with_its_ending(folder, path, ending, files, &places));
                pairs.unpaired.push((path.clone(), why));
            }
            None => {
                let known = KNOWN.iter().find(|ending| {
                    stem(folder, path, ending)
                        .is_some_and(|stem| places.get(&folded(&stem)).is_some_and(|&p| files[p].name == stem))
                });
                known.into_iter().for_each(|ending| *pairs.unread.entry(ending).or_default() += 1);
            }
        }
    }
    for (place, claims) in claims {
        let file = &mut files[place];
        if let [(_, one), (_, other), ..] = claims.as_slice() {
            pairs.twice.push((file.image.clone(), one.clone(), other.clone()));
        }
        for (fits, path) in claims {
            if fits && file.sidecar.is_none() {
                file.sidecar = Some(path);
                pairs.paired += 1;
            } else if !fits {
                pairs.unpaired.push((path, Some(format!("the photo is called `{}`", name_of(&file.image)))));
            }
        }
    }
    pairs.unpaired.sort_unstable();
    pairs
}

impl Pairs {
    /// What is worth a word: photos without a text where others have one, and texts without a photo.
    pub fn sentence(&self, input: &str, photos: usize, stage: &str) -> Option<String> {
        let mut parts = Vec::new();
        if self.paired < photos && (self.paired > 0 || !self.unpaired.is_empty()) {
            let have = if self.paired == 1 { "has" } else { "have" };
            parts.push(format!("{} of {photos} photos {have} a text", self.paired));
        }
        if !self.unpaired.is_empty() {
            let told = self.unpaired.iter().take(TOLD).map(|(path, why)| match why {
                Some(why) => format!("`{}` ({why})", name_of(path)),
                None => format!("`{}`", name_of(path)),
            });
            let more = self.unpaired.len().saturating_sub(TOLD);
            let more = if more > 0 { format!(" and {more} more") } else { String::new() };
            let texts =
                if self.unpaired.len() == 1 { "1 text belongs" } else { &format!("{} texts belong", self.unpaired.len()) };
            parts.push(format!("{texts} to no photo: {}{more}", told.collect::<Vec<_>>().join(", ")));
        }
        for (ending, count) in &self.unread {
            let texts = if *count == 1 { "1 text ends" } else { &format!("{count} texts end") };
            parts.push(format!("{texts} in `{ending}`, which `{stage}` reads with `endings: {ending}`"));
        }
        (!parts.is_empty()).then(|| format!("`{input}`: {}", parts.join("; ")))
    }
}

/// Why a text whose name holds that of a picture with its ending belongs to no photo.
fn of_a_photo_with_its_ending(
    folder: &Path,
    path: &Path,
    ending: &str,
    files: &[InputFile],
    places: &HashMap<String, usize>,
) -> Option<String> {
    let photo = stem(folder, path, ending).filter(|photo| is_picture(Path::new(photo)))?;
    let name = Path::new(&photo).with_extension("").to_str()?.to_string();
    let file = &files[*places.get(&folded(&name))?];
    let right = Path::new(&file.name).file_name()?.to_str()?;
    Some(format!("the text of `{}` is called `{right}{ending}`", name_of(&file.image)))
}

/// The path of a text below the folder without `ending`, as items are called; `None` if it ends otherwise. Endings are compared
/// without regard to case.
fn stem(folder: &Path, path: &Path, ending: &str) -> Option<String> {
    let below = path.strip_prefix(folder).unwrap_or(path);
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    let name = parts?.join("/");
    let at = name.len().checked_sub(ending.len()).filter(|at| name.is_char_boundary(*at))?;
    let (stem, end) = name.split_at(at);
    let is_named = !stem.is_empty() && !stem.ends_with('/');
    (is_named && end.eq_ignore_ascii_case(ending)).then(|| stem.nfc().collect())
}

fn folded(name: &str) -> String {
    if name.is_ascii() { name.to_ascii_lowercase() } else { name.to_lowercase().nfc().collect() }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::inputs::listing::survey;

    fn paired(names: &[&str], endings: &[&str]) -> (Vec<InputFile>, Pairs) {
        let folder = tempfile::tempdir().unwrap();
        for name in names {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        let (listing, problems) = survey(folder.path(), &|name| name == "skipped");
        assert!(problems.is_empty(), "{problems:?}");
        let mut files = listing.files;
        let endings: Vec<String> = endings.iter().map(ToString::to_string).collect();
        let pairs = pair(folder.path(), &mut files, &listing.skipped, &listing.beside, &endings);
        (files, pairs)
    }

    fn texts(files: &[InputFile]) -> Vec<String> {
        files.iter().filter_map(|file| file.sidecar.as_deref().map(name_of)).collect()
    }

    #[test]
    fn texts_that_belong_to_no_photo_are_counted_and_named() {
        let names = [
            "a.png",
            "img_1.png",
            "c.jpg",
            "c.txt",
            "d.jpg",
            "a.png.txt",
            "IMG_1.txt",
            "notes.txt",
            "x/e.png",
            "x/e.TXT",
            "skipped.png",
            "skipped.txt",
        ];
        let (files, pairs) = paired(&names, &[".txt"]);
        assert_eq!(texts(&files), ["c.txt", "e.TXT"]);
        assert_eq!(
            pairs.sentence("photos", files.len(), "caption").unwrap(),
            "`photos`: 2 of 5 photos have a text; 3 texts belong to no photo: `IMG_1.txt` (the photo is called `img_1.png`), \
             `a.png.txt` (the text of `a.png` is called `a.txt`), `notes.txt`"
        );
        let many: Vec<String> = (0..7).map(|n| format!("{n}.txt")).collect();
        let names: Vec<&str> = ["a.png"].into_iter().chain(many.iter().map(String::as_str)).collect();
        let (files, pairs) = paired(&names, &[".txt"]);
        assert!(pairs.sentence("photos", files.len(), "caption").unwrap().ends_with("`3.txt`, `4.txt` and 2 more"));
        let (files, pairs) = paired(&["a.png", "a.txt", "b.png", "b.txt"], &[".txt"]);
        assert_eq!((texts(&files).len(), pairs.sentence("photos", 2, "caption")), (2, None));
        let (_, pairs) = paired(&["a.png", "b.png"], &[".txt"]);
        assert_eq!(pairs.sentence("photos", 2, "caption"), None, "texts may come from elsewhere");
    }

    #[test]
    fn other_endings_are_read_if_they_are_asked_for_and_told_if_not() {
        let names = ["a.png", "a.caption", "b.png", "b.caption", "b.txt", "c.png", "c.png.txt", "c.json"];
        let (files, pairs) = paired(&names, &[".txt"]);
        assert_eq!(texts(&files), ["b.txt"]);
        let told = pairs.sentence("photos", 3, "caption").unwrap();
        assert!(told.ends_with("; 2 texts end in `.caption`, which `caption` reads with `endings: .caption`"), "{told}");
        let (files, pairs) = paired(&names, &[".caption", ".png.txt"]);
        assert_eq!(texts(&files), ["a.caption", "b.caption", "c.png.txt"]);
        assert!(pairs.twice.is_empty());
    }

    #[test]
    fn two_texts_for_one_photo_are_found_whatever_tells_their_names_apart() {
        for (one, other, endings) in [
            ("caf\u{e9}.txt", "cafe\u{301}.txt", &[".txt"][..]),
            ("caf\u{e9}.txt", "caf\u{e9}.TXT", &[".txt"]),
            ("caf\u{e9}.txt", "CAF\u{c9}.txt", &[".txt"]),
            ("caf\u{e9}.txt", "caf\u{e9}.caption", &[".txt", ".caption"]),
        ] {
            let (_, pairs) = paired(&["caf\u{e9}.png", one, other], endings);
            assert_eq!(pairs.twice.len(), 1, "{one} {other}");
        }
    }
}
