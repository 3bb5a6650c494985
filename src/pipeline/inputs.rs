//! What lies in an input: the photos of a folder with their names and sidecars. Reads names and sizes, decodes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;
use walkdir::WalkDir;

/// The fields of a photo's item; `sidecar` is missing where no text lies beside it.
pub const FIELDS: &[&str] = &["image", "photo", "sidecar"];

/// What the image decoder reads, by extension in lower case.
const PICTURES: &[&str] = &["jpg", "jpeg", "png", "webp"];

/// Pictures that people have and that are not read: worth a word, where other files are passed over.
const OTHER_PICTURES: &[&str] =
    &["heic", "heif", "avif", "bmp", "tif", "tiff", "gif", "jxl", "psd", "raw", "dng", "cr2", "nef", "arw"];

/// What a git-lfs pointer begins with; <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Pointers are smaller than this by their specification.
const LFS_POINTER_SIZE: u64 = 1024;

/// One photo of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Path below the folder without extension, NFC, with `/`.
    pub name: String,
    pub image: PathBuf,
    /// The `.txt` file beside it with the same stem.
    pub sidecar: Option<PathBuf>,
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order of their names.
    pub files: Vec<InputFile>,
    /// Pictures in a format that is not read.
    pub unread: Vec<PathBuf>,
    /// The names of photos that are left out. Nothing is known of their contents, and nothing can be wrong with them.
    pub skipped: BTreeSet<String>,
}

/// Why a folder cannot be an input. `Display` says it to the user.
#[derive(Debug, thiserror::Error)]
pub enum Unusable {
    #[error("reading `{}`: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("`{}` and `{}` would both be the item `{name}`: rename one of them", first.display(), second.display())]
    SameName { name: String, first: PathBuf, second: PathBuf },
    #[error("`{}` is a git-lfs pointer, not the picture: run `git lfs pull`", path.display())]
    Pointer { path: PathBuf },
    #[error("the name of `{}` is not valid UTF-8: rename it", path.display())]
    NotText { path: PathBuf },
}

/// The photos below `folder` in the order of their names.
pub fn list(folder: &Path) -> anyhow::Result<Vec<InputFile>> {
    let (listing, mut problems) = survey(folder, &|_| false);
    if problems.is_empty() { Ok(listing.files) } else { Err(problems.swap_remove(0).into()) }
}

/// What lies below `folder`, and everything that is wrong with it. Hidden files and folders are passed over, and so are photos of whose names
/// `is_skipped` is true.
pub fn survey(folder: &Path, is_skipped: &(dyn Fn(&str) -> bool + Sync)) -> (Listing, Vec<Unusable>) {
    let mut listing = Listing::default();
    let mut problems = Vec::new();
    let mut paths = Vec::new();
    for entry in WalkDir::new(folder).follow_links(true).into_iter().filter_entry(is_visible) {
        match entry {
            Ok(entry) if entry.file_type().is_file() => paths.push(entry.into_path()),
            Ok(_) => {}
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_path_buf();
                problems.push(Unusable::Unreadable { path, source: error.into() });
            }
        }
    }
    let mut sidecars = HashMap::new();
    let met: Vec<Met> = paths.into_par_iter().with_min_len(64).map(|path| Met::of(folder, path, is_skipped)).collect();
    for met in met {
        match met {
            Met::Photo { file, is_pointer } => {
                if is_pointer {
                    problems.push(Unusable::Pointer { path: file.image.clone() });
                }
                listing.files.push(file);
            }
            Met::Skipped(name) => drop(listing.skipped.insert(name)),
            Met::Sidecar { name, path } => drop(sidecars.insert(name, path)),
            Met::OtherPicture(path) => listing.unread.push(path),
            Met::NotText(path) => problems.push(Unusable::NotText { path }),
            Met::Nothing => {}
        }
    }
    listing.files.sort_by(|a, b| (&a.name, &a.image).cmp(&(&b.name, &b.image)));
    listing.unread.sort();
    if !sidecars.is_empty() {
        for file in &mut listing.files {
            file.sidecar = sidecars.remove(&file.name);
        }
    }
    problems.extend(equal_names(&listing.files));
    (listing, problems)
}

/// What a file in a folder of photos is.
enum Met {
    Photo {
        file: InputFile,
        is_pointer: bool,
    },
    /// The name of a photo that is left out.
    Skipped(String),
    Sidecar {
        name: String,
        path: PathBuf,
    },
    OtherPicture(PathBuf),
    /// Its name.
    NotText(PathBuf),
    Nothing,
}

impl Met {
    fn of(folder: &Path, path: PathBuf, is_skipped: &dyn Fn(&str) -> bool) -> Self {
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        let is_among = |known: &[&str]| known.iter().any(|known| extension == *known);
        let is_picture = is_among(PICTURES);
        if !is_picture && extension != "txt" {
            return if is_among(OTHER_PICTURES) { Self::OtherPicture(path) } else { Self::Nothing };
        }
        let Some(name) = item_name(folder, &path) else { return Self::NotText(path) };
        if !is_picture {
            return Self::Sidecar { name, path };
        }
        if is_skipped(&name) {
            return Self::Skipped(name);
        }
        let is_pointer = fs::metadata(&path).is_ok_and(|m| m.len() < LFS_POINTER_SIZE) && is_lfs_pointer(&path);
        Self::Photo { file: InputFile { name, image: path, sidecar: None }, is_pointer }
    }
}

/// False of hidden files and folders, wherever the folder itself lies.
pub(crate) fn is_visible(entry: &walkdir::DirEntry) -> bool {
    entry.depth() == 0 || !entry.file_name().as_encoded_bytes().starts_with(b".")
}

/// Whether a file of this name would be read from a folder of photos: a picture, or a text beside one.
pub fn is_read(path: &Path) -> bool {
    let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    PICTURES.contains(&extension.as_str()) || extension == "txt"
}

/// Path of `file` below `folder` without its extension, NFC, with `/`; `None` if it is not UTF-8.
pub fn item_name(folder: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(folder).unwrap_or(file).with_extension("");
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    let name = parts?.join("/");
    Some(if name.is_ascii() { name } else { name.nfc().collect() })
}

/// True of the small text that git-lfs leaves where a file has not been fetched.
pub fn is_lfs_pointer(path: &Path) -> bool {
    let mut start = [0; LFS_POINTER.len()];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == LFS_POINTER
}

/// Names that are equal, or would be on a file system that ignores case.
fn equal_names(files: &[InputFile]) -> Vec<Unusable> {
    let mut seen: HashMap<String, &InputFile> = HashMap::with_capacity(files.len());
    let mut problems = Vec::new();
    for file in files {
        let name = &file.name;
        let folded = if name.is_ascii() { name.to_ascii_lowercase() } else { name.to_lowercase().nfc().collect() };
        match seen.get(&folded) {
            Some(first) => problems.push(Unusable::SameName {
                name: file.name.clone(),
                first: first.image.clone(),
                second: file.image.clone(),
            }),
            None => {
                seen.insert(folded, file);
            }
        }
    }
    problems
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn folder(files: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        for file in files {
            let path = folder.path().join(file);
            fs::create_dir_all(path.parent().expect("below the folder")).expect("created");
            fs::write(path, b"x").expect("written");
        }
        folder
    }

    #[test]
    fn photos_are_named_by_their_path_without_extension_and_sorted() {
        let folder =
            folder(&["b.JPG", "day 2/a.png", "a.webp", "a.txt", "notes.txt", ".hidden.png", ".git/x.png", "day 2/x.y.jpeg"]);
        let files = list(folder.path()).expect("listed");
        let names: Vec<&str> = files.iter().map(|f| f.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "day 2/a", "day 2/x.y"]);
        assert_eq!(files[0].sidecar.as_deref(), Some(folder.path().join("a.txt").as_path()));
        assert!(files[1..].iter().all(|f| f.sidecar.is_none()));
    }

    #[test]
    fn names_that_differ_in_case_or_extension_only_are_an_error_that_names_both_files() {
        let folder = folder(&["IMG.jpg", "img.png", "a.png", "a.jpg"]);
        let (_, problems) = survey(folder.path(), &|_| false);
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), 2, "{texts:?}");
        assert!(texts[0].contains("a.jpg") && texts[0].contains("a.png"), "{texts:?}");
        assert!(texts[1].contains("IMG.jpg") && texts[1].contains("img.png"), "{texts:?}");
        assert!(list(folder.path()).is_err());
    }

    #[test]
    fn composed_and_decomposed_letters_are_one_name() {
        let folder = folder(&["caf\u{e9}.jpg", "cafe\u{301}.png"]);
        let (listing, problems) = survey(folder.path(), &|_| false);
        assert!(listing.files.iter().all(|f| f.name == "caf\u{e9}"));
        assert!(matches!(problems[..], [Unusable::SameName { .. }]));
    }

    #[test]
    fn a_git_lfs_pointer_is_told_from_a_picture() {
        let folder = folder(&["b.jpg"]);
        fs::write(folder.path().join("a.jpg"), "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
            .expect("written");
        let error = list(folder.path()).expect_err("a pointer");
        assert!(error.to_string().contains("a.jpg") && error.to_string().contains("git lfs pull"), "{error}");
    }

    #[test]
    fn formats_that_are_not_read_are_counted_and_other_files_are_not() {
        let folder = folder(&["a.heic", "b.BMP", "c.jpg", "readme.md"]);
        let (listing, problems) = survey(folder.path(), &|_| false);
        assert_eq!((listing.files.len(), listing.unread.len(), problems.len()), (1, 2, 0));
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(list(Path::new("/nonexistent/photos")).is_err());
    }
}
