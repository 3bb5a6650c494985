//! What lies in an input: the photos of a folder with their names and sidecars. Reads names and sizes, decodes nothing.

use std::collections::{BTreeSet, HashMap};
use std::ffi::OsStr;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use rayon::prelude::*;
use unicode_normalization::UnicodeNormalization;
use walkdir::WalkDir;

use crate::cache::locate::repository_around;
use crate::cache::regular_file::{self, Links};
use crate::inputs::picture_files::{Kind, MOST_BYTES, Told, is_junk_folder, named_kind};

/// The fields of a photo's item; `sidecar` is missing where no text lies beside it.
pub const FIELDS: &[&str] = &["image", "photo", "sidecar"];

/// What a git-lfs pointer begins with; <https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md>.
const LFS_POINTER: &[u8] = b"version https://git-lfs.github.com/spec/";

/// Pointers are smaller than this by their specification.
const LFS_POINTER_SIZE: u64 = 1024;

/// More than any set of photos has; a link to the root of a disk leads to more.
const MOST_ENTRIES: usize = 200_000;

/// One photo of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputFile {
    /// Path below the folder without extension, NFC, with `/`.
    pub name: String,
    pub image: PathBuf,
    /// The text beside it, once `sidecars` has paired them.
    pub sidecar: Option<PathBuf>,
}

/// What a folder holds.
#[derive(Clone, Debug, Default)]
pub struct Listing {
    /// In the order of their names.
    pub files: Vec<InputFile>,
    /// Pictures in a format that is not read.
    pub unread: Vec<(Kind, PathBuf)>,
    /// Pictures by their contents whose names, without their endings, belong to photos: `IMG_1.jpg_original` beside `IMG_1.jpg`.
    pub copies: Vec<PathBuf>,
    /// The names of photos that are left out. Nothing is known of their contents, and nothing can be wrong with them.
    pub skipped: BTreeSet<String>,
    /// The files that are no pictures: texts of photos are among them.
    pub beside: Vec<PathBuf>,
    /// Links to folders outside of the project, which are followed.
    pub folders_outside: Vec<PathBuf>,
    /// Links to files outside of the project that are no pictures, which are not read.
    pub texts_outside: Vec<PathBuf>,
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
    #[error("the name of {path:?} is not valid UTF-8: rename it")]
    NotText { path: PathBuf },
    #[error("the name of {path:?} holds a line break: rename it")]
    LineBreak { path: PathBuf },
    #[error("`{}` has {} MB, and photos of up to {} MB are read: make it smaller, or leave it out by `skip:`", path.display(), size >> 20, MOST_BYTES >> 20)]
    TooLarge { path: PathBuf, size: u64 },
    #[error("`{}` holds more than {MOST_ENTRIES} files and folders, the most that are looked at: name the folder of the photos, and take links \
             to large folders out of it", path.display())]
    TooMany { path: PathBuf },
    #[error("`{}` is called like a photo and is no file: take it out of the folder", path.display())]
    NoFile { path: PathBuf },
}

/// The photos below `folder` in the order of their names.
pub fn list(folder: &Path) -> anyhow::Result<Vec<InputFile>> {
    let (listing, mut problems) = survey(folder, &|_| false);
    if problems.is_empty() { Ok(listing.files) } else { Err(problems.swap_remove(0).into()) }
}

/// What lies below `folder`, and everything that is wrong with it. Passed over are hidden files and folders, those in which
/// systems keep thumbnails and what was deleted, and photos of whose names `is_skipped` is true. Links are followed: people keep
/// photos elsewhere. Other files that lie outside of the project are left out, unless a photo's link leads to the same folder:
/// their text would be copied into the project.
pub fn survey(folder: &Path, is_skipped: &(dyn Fn(&str) -> bool + Sync)) -> (Listing, Vec<Unusable>) {
    let mut listing = Listing::default();
    let mut problems = Vec::new();
    let mut paths = Vec::new();
    let mut links = LinksBelow::default();
    let entries = WalkDir::new(folder).follow_links(true).into_iter().filter_entry(is_visible);
    for (count, entry) in entries.enumerate() {
        if count > MOST_ENTRIES {
            return (Listing::default(), vec![Unusable::TooMany { path: folder.to_path_buf() }]);
        }
        match entry {
            Ok(entry) if entry.file_type().is_file() => {
                links.note(&entry);
                paths.push(entry.into_path());
            }
            Ok(entry) if entry.file_type().is_dir() => links.note(&entry),
            Ok(entry) => {
                let path = entry.into_path();
                let is_skipped = item_name(folder, &path).is_some_and(|name| is_skipped(&name));
                if named_kind(&path).is_some_and(Kind::is_read) && !is_skipped {
                    problems.push(Unusable::NoFile { path });
                }
            }
            Err(error) => {
                let path = error.path().unwrap_or(folder).to_path_buf();
                problems.push(Unusable::Unreadable { path, source: error.into() });
            }
        }
    }
    let mut unusual = Vec::new();
    let met: Vec<Met> = paths.into_par_iter().with_min_len(64).map(|path| Met::of(folder, path, is_skipped)).collect();
    for met in met {
        match met {
            Met::Photo { file, problem } => {
                problems.extend(problem);
                listing.files.push(file);
            }
            Met::Unusual(file) => unusual.push(file),
            Met::Skipped(name) => drop(listing.skipped.insert(name)),
            Met::Other(path) => listing.beside.push(path),
            Met::OtherPicture(kind, path) => listing.unread.push((kind, path)),
            Met::NotText(path) => problems.push(Unusable::NotText { path }),
            Met::LineBreak(path) => problems.push(Unusable::LineBreak { path }),
        }
    }
    take_unusual(unusual, &mut listing);
    links.take_outside(folder, &mut listing);
    listing.files.sort_by(|a, b| (&a.name, &a.image).cmp(&(&b.name, &b.image)));
    listing.unread.sort();
    problems.extend(equal_names(&listing.files));
    (listing, problems)
}

/// What a file in a folder of photos is.
enum Met {
    Photo {
        file: InputFile,
        problem: Option<Unusable>,
    },
    /// A photo by its contents alone.
    Unusual(InputFile),
    /// The name of a photo that is left out.
    Skipped(String),
    OtherPicture(Kind, PathBuf),
    /// Its name.
    NotText(PathBuf),
    /// The name of a picture or a text: it would break the lines that name it.
    LineBreak(PathBuf),
    Other(PathBuf),
}

impl Met {
    fn of(folder: &Path, path: PathBuf, is_skipped: &dyn Fn(&str) -> bool) -> Self {
        let is_text = is_text(&path);
        let told = if is_text { Told::NoPicture } else { Told::of(&path) };
        if has_line_break(folder, &path) && (is_text || !matches!(told, Told::NoPicture)) {
            return Self::LineBreak(path);
        }
        match told {
            Told::NoPicture if is_text && item_name(folder, &path).is_none() => return Self::NotText(path),
            Told::NoPicture => return Self::Other(path),
            Told::ByName(kind) | Told::ByContents(kind) if !kind.is_read() => return Self::OtherPicture(kind, path),
            _ => {}
        }
        let Some(name) = item_name(folder, &path) else { return Self::NotText(path) };
        if is_skipped(&name) {
            return Self::Skipped(name);
        }
        if matches!(told, Told::ByContents(_)) {
            return Self::Unusual(InputFile { name, image: path, sidecar: None });
        }
        let size = fs::metadata(&path).map_or(0, |found| found.len());
        let problem = if size > MOST_BYTES {
            Some(Unusable::TooLarge { path: path.clone(), size })
        } else {
            (size < LFS_POINTER_SIZE && is_lfs_pointer(&path)).then(|| Unusable::Pointer { path: path.clone() })
        };
        Self::Photo { file: InputFile { name, image: path, sidecar: None }, problem }
    }
}

/// The links below a folder; there are rarely any.
#[derive(Default)]
struct LinksBelow {
    folders: Vec<PathBuf>,
    files: BTreeSet<PathBuf>,
}

impl LinksBelow {
    fn note(&mut self, entry: &walkdir::DirEntry) {
        // Where the folder itself is a link, its user made it one.
        if entry.depth() > 0 && entry.path_is_symlink() {
            if entry.file_type().is_dir() {
                self.folders.push(entry.path().to_path_buf());
            } else {
                self.files.insert(entry.path().to_path_buf());
            }
        }
    }

    fn take_outside(mut self, folder: &Path, listing: &mut Listing) {
        if self.folders.is_empty() && self.files.is_empty() {
            return;
        }
        let target = |path: &Path| fs::canonicalize(path).unwrap_or_default();
        // Outside of a repository the pipeline lies beside the folder. Where nothing can be found, all is outside.
        let project =
            target(folder).parent().and_then(|above| repository_around(above).ok()).unwrap_or_else(|| folder.to_path_buf());
        self.folders.retain(|path| !target(path).starts_with(&project));
        self.folders.sort();
        listing.folders_outside = self.folders;
        let is_outside = |path: &PathBuf| self.files.contains(path) && !target(path).starts_with(&project);
        if !listing.beside.iter().any(is_outside) {
            return;
        }
        let photos = listing.files.iter().map(|file| &file.image).filter(|image| self.files.contains(*image));
        let beside_photos: BTreeSet<PathBuf> = photos.filter_map(|image| Some(target(image).parent()?.to_path_buf())).collect();
        let is_beside_none = |path: &PathBuf| target(path).parent().is_none_or(|folder| !beside_photos.contains(folder));
        listing.texts_outside = listing.beside.extract_if(.., |path| is_outside(path) && is_beside_none(path)).collect();
        listing.texts_outside.sort();
    }
}

/// Adds photos that only their contents tell, unless a photo or one that is left out has their name: programs keep copies so.
fn take_unusual(unusual: Vec<InputFile>, listing: &mut Listing) {
    if unusual.is_empty() {
        return;
    }
    let taken: BTreeSet<String> =
        listing.files.iter().map(|file| &file.name).chain(&listing.skipped).map(|name| folded(name)).collect();
    for file in unusual {
        if taken.contains(&folded(&file.name)) {
            listing.copies.push(file.image);
        } else {
            listing.files.push(file);
        }
    }
    listing.copies.sort();
}

/// False of hidden files and folders, and of those that a system keeps for itself, wherever the folder itself lies.
pub(crate) fn is_visible(entry: &walkdir::DirEntry) -> bool {
    entry.depth() == 0 || is_visible_name(entry.file_name())
}

/// As `is_visible`, of a part of a path below the folder.
pub fn is_visible_name(name: &OsStr) -> bool {
    !name.as_encoded_bytes().starts_with(b".") && !is_junk_folder(name)
}

/// Whether a file would be read from a folder of photos as a picture.
pub fn is_picture(path: &Path) -> bool {
    !is_text(path) && Told::of(path).is_readable()
}

/// By its name, so that no text is opened to see that it is no picture.
fn is_text(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("txt"))
}

/// Path of `file` below `folder` without its extension, NFC, with `/`; `None` if it is not UTF-8.
pub fn item_name(folder: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(folder).unwrap_or(file).with_extension("");
    let parts: Option<Vec<&str>> = below.iter().map(|part| part.to_str()).collect();
    let name = parts?.join("/");
    Some(if name.is_ascii() { name } else { name.nfc().collect() })
}

/// Other control characters are shown as escapes.
fn has_line_break(folder: &Path, file: &Path) -> bool {
    file.strip_prefix(folder).unwrap_or(file).as_os_str().as_encoded_bytes().contains(&b'\n')
}

/// True of the small text that git-lfs leaves where a file has not been fetched.
pub fn is_lfs_pointer(path: &Path) -> bool {
    let mut start = [0; LFS_POINTER.len()];
    let read = regular_file::open(path, Links::Followed).and_then(|mut file| file.read_exact(&mut start));
    read.is_ok() && start == LFS_POINTER
}

/// Names that are equal, or would be on a file system that ignores case.
fn equal_names(files: &[InputFile]) -> Vec<Unusable> {
    let mut seen: HashMap<String, &InputFile> = HashMap::with_capacity(files.len());
    let mut problems = Vec::new();
    for file in files {
        let folded = folded(&file.name);
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

/// The name as file systems see it that ignore case.
fn folded(name: &str) -> String {
    if name.is_ascii() { name.to_ascii_lowercase() } else { name.to_lowercase().nfc().collect() }
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
        let folder = folder(&["a.heic", "b.NEF", "c.jpg", "readme.md", "d.bmp", "e.jfif", "f.tiff"]);
        let (listing, problems) = survey(folder.path(), &|_| false);
        assert_eq!((listing.files.len(), problems.len()), (4, 0));
        assert_eq!(listing.unread.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), [Kind::Heic, Kind::Raw]);
    }

    #[test]
    fn a_jpeg_under_another_ending_is_a_photo_unless_it_is_a_copy_of_one() {
        let folder = folder(&["a.jpg", "c.dat"]);
        for name in ["a.jpg_original", "b.jpg_1", "plain"] {
            fs::write(folder.path().join(name), b"\xff\xd8\xff\xe0").expect("written");
        }
        let (listing, problems) = survey(folder.path(), &|_| false);
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!((names, problems.len()), (vec!["a", "b", "plain"], 0));
        assert_eq!(listing.copies, [folder.path().join("a.jpg_original")]);
        assert!(is_picture(&folder.path().join("plain")) && !is_picture(&folder.path().join("c.dat")));
    }

    #[test]
    fn thumbnails_and_trash_of_systems_are_no_photos() {
        let folder = folder(&[
            "a.jpg",
            "@eaDir/a.jpg/SYNOPHOTO_THUMB_M.jpg",
            "__MACOSX/a.jpg",
            "$RECYCLE.BIN/x.png",
            "day/#recycle/b.jpg",
        ]);
        let names: Vec<String> = list(folder.path()).expect("listed").into_iter().map(|file| file.name).collect();
        assert_eq!(names, ["a"]);
    }

    #[test]
    fn texts_that_links_bring_from_elsewhere_are_left_out_but_for_those_of_linked_photos() {
        use std::os::unix::fs::symlink;
        let above =
            folder(&["project/images/a.jpg", "project/texts/a.txt", "mine/b.jpg", "mine/b.txt", "secret/c.txt", "day/d.jpg"]);
        let images = above.path().join("project/images");
        fs::create_dir(above.path().join("project/.git")).expect("made");
        for (target, name) in [
            ("../texts/a.txt", "a.txt"),
            ("../../mine/b.jpg", "b.jpg"),
            ("../../mine/b.txt", "b.txt"),
            ("../../secret/c.txt", "c.txt"),
            ("../../day", "day"),
        ] {
            symlink(target, images.join(name)).expect("linked");
        }
        let (listing, problems) = survey(&images, &|_| false);
        let names: Vec<&str> = listing.files.iter().map(|file| file.name.as_str()).collect();
        assert_eq!((names, problems.len()), (vec!["a", "b", "day/d"], 0));
        assert_eq!(listing.texts_outside, [images.join("c.txt")]);
        assert_eq!(listing.folders_outside, [images.join("day")]);
        let mut beside = listing.beside;
        beside.sort();
        assert_eq!(beside, [images.join("a.txt"), images.join("b.txt")]);
    }

    #[test]
    fn a_folder_that_leads_to_half_a_disk_is_refused_before_any_file_is_opened() {
        let above = folder(&["images/a.jpg"]);
        let many = above.path().join("many");
        fs::create_dir(&many).expect("made");
        (0..500).for_each(|number| drop(fs::File::create(many.join(number.to_string())).expect("made")));
        for number in 0..400 {
            std::os::unix::fs::symlink(&many, above.path().join(format!("images/{number}"))).expect("linked");
        }
        let (listing, problems) = survey(&above.path().join("images"), &|_| false);
        assert!(listing.files.is_empty() && matches!(problems[..], [Unusable::TooMany { .. }]), "{problems:?}");
    }

    #[test]
    fn a_name_of_several_lines_is_refused_and_the_icon_of_finder_is_not() {
        let folder = folder(&["a.jpg", "Icon\r", "b\nerror: c.png", "d\n.txt", "e\n.heic"]);
        let (listing, problems) = survey(folder.path(), &|_| false);
        let texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert_eq!((listing.files.len(), texts.len()), (1, 3), "{texts:?}");
        assert!(texts.iter().all(|text| !text.contains('\n') && text.contains("rename it")), "{texts:?}");
    }

    #[test]
    fn a_photo_too_large_or_no_file_is_an_error_before_it_is_opened_unless_it_is_skipped() {
        let folder = folder(&["a.jpg"]);
        fs::File::create(folder.path().join("large.jpg")).expect("made").set_len(3 << 30).expect("sparse");
        let pipe = folder.path().join("pipe.png");
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, rustix::fs::Mode::from_raw_mode(0o600), 0)
            .expect("made");
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("zero.webp")).expect("linked");
        let (_, problems) = survey(folder.path(), &|_| false);
        let mut texts: Vec<String> = problems.iter().map(ToString::to_string).collect();
        texts.sort();
        assert_eq!(texts.len(), 3, "{texts:?}");
        assert!(texts[0].contains("large.jpg` has 3072 MB") && texts[0].contains("`skip:`"), "{texts:?}");
        assert!(texts[1].contains("pipe.png` is called like a photo") && texts[2].contains("zero.webp"), "{texts:?}");
        let (listing, problems) = survey(folder.path(), &|name| name != "a");
        assert_eq!((listing.files.len(), listing.skipped.len(), problems.len()), (1, 1, 0));
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        assert!(list(Path::new("/nonexistent/photos")).is_err());
    }
}
