//! Which files are pictures: by the ends of their names, and where these say little by their first bytes. Decodes nothing.
//!
//! TIFF and BMP are read because `image` brings their decoders in Rust. AVIF and HEIC need C libraries, dav1d and libheif, which
//! nobody has who has only Rust: they are counted, and the note names a program that converts them.

use std::ffi::OsStr;
use std::io::Read as _;
use std::path::Path;

use crate::cache::regular_file::{self, Links};

/// The formats that are read, for messages.
pub const READ: &str = "JPEG, PNG, WebP, TIFF and BMP";

/// The most bytes of a picture file.
pub const MOST_BYTES: u64 = 512 << 20;

/// What a picture file holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Jpeg,
    Png,
    WebP,
    Tiff,
    Bmp,
    Heic,
    Avif,
    JpegXl,
    Gif,
    Photoshop,
    /// What cameras store before they make a picture of it.
    Raw,
    Other,
}

/// Names end so.
const ENDINGS: &[(Kind, &[&str])] = &[
    // Browsers save `jfif`; `jpg_large` and its like are what Twitter served.
    (
        Kind::Jpeg,
        &["jpg", "jpeg", "jpe", "jfif", "jfi", "jif", "pjpeg", "pjp", "jpg_large", "jpg-large", "jpeg_large", "jpglarge"],
    ),
    (Kind::Png, &["png", "apng"]),
    (Kind::WebP, &["webp"]),
    (Kind::Tiff, &["tif", "tiff"]),
    (Kind::Bmp, &["bmp", "dib"]),
    (Kind::Heic, &["heic", "heif", "hif", "heics"]),
    (Kind::Avif, &["avif", "avifs"]),
    (Kind::JpegXl, &["jxl"]),
    (Kind::Gif, &["gif"]),
    (Kind::Photoshop, &["psd", "psb"]),
    (
        Kind::Raw,
        &[
            "raw", "dng", "cr2", "cr3", "crw", "nef", "nrw", "arw", "srf", "sr2", "raf", "orf", "rw2", "rwl", "pef", "srw",
            "x3f", "3fr", "fff", "iiq", "erf", "mrw", "kdc", "dcr", "mos", "mef", "gpr",
        ],
    ),
    (Kind::Other, &["jp2", "j2k", "jpx", "jxr", "wdp", "tga", "exr", "hdr", "ico", "ppm", "pgm", "xcf", "kra", "svg", "qoi"]),
];

/// Endings of files that lie beside photos and are none: not opened to see.
const OTHER_FILES: &[&str] = &[
    "txt",
    "caption",
    "caption2",
    "tags",
    "json",
    "jsonl",
    "yaml",
    "yml",
    "toml",
    "md",
    "csv",
    "tsv",
    "xml",
    "xmp",
    "aae",
    "html",
    "htm",
    "pdf",
    "doc",
    "docx",
    "npz",
    "npy",
    "pt",
    "pth",
    "ckpt",
    "safetensors",
    "bin",
    "onnx",
    "gguf",
    "mp4",
    "mov",
    "m4v",
    "avi",
    "mkv",
    "webm",
    "mp3",
    "m4a",
    "wav",
    "zip",
    "rar",
    "7z",
    "tar",
    "gz",
    "xz",
    "zst",
    "exe",
    "dll",
    "sh",
    "py",
    "bat",
    "ini",
    "db",
    "sqlite",
    "log",
    "url",
    "lnk",
    "lock",
];

/// Endings of files that editors and browsers keep beside a file that they write, and of copies.
pub const PASSING: &[&str] = &["swp", "swo", "swx", "tmp", "temp", "part", "crdownload", "download", "bak", "orig", "kate-swp"];

/// Folders in which systems keep thumbnails and what was deleted: of Synology and QNAP, of macOS' archives, of Windows, of
/// Linux's file systems.
const JUNK_FOLDERS: &[&str] = &[
    "@eadir",
    "@tmp",
    "@__thumb",
    "@recycle",
    "@recently-snapshot",
    "@synoresource",
    "@sharebin",
    "#recycle",
    "#snapshot",
    "__macosx",
    "$recycle.bin",
    "recycler",
    "system volume information",
    "lost+found",
];

impl Kind {
    /// Among those that are decoded.
    pub const fn is_read(self) -> bool {
        matches!(self, Self::Jpeg | Self::Png | Self::WebP | Self::Tiff | Self::Bmp)
    }

    /// The usual end of such a file's name, without the dot.
    pub const fn extension(self) -> &'static str {
        match self {
            Self::Jpeg => "jpg",
            Self::Png => "png",
            Self::WebP => "webp",
            Self::Tiff => "tif",
            Self::Bmp => "bmp",
            Self::Heic => "heic",
            Self::Avif => "avif",
            Self::JpegXl => "jxl",
            Self::Gif => "gif",
            Self::Photoshop => "psd",
            Self::Raw => "dng",
            Self::Other => "",
        }
    }

    /// For counts: "3 HEIC".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Jpeg => "JPEG",
            Self::Png => "PNG",
            Self::WebP => "WebP",
            Self::Tiff => "TIFF",
            Self::Bmp => "BMP",
            Self::Heic => "HEIC",
            Self::Avif => "AVIF",
            Self::JpegXl => "JPEG XL",
            Self::Gif => "GIF",
            Self::Photoshop => "PSD",
            Self::Raw => "raw",
            Self::Other => "other",
        }
    }

    /// For a sentence about one file: "this is a HEIC".
    pub const fn with_article(self) -> &'static str {
        match self {
            Self::Jpeg => "a JPEG",
            Self::Png => "a PNG",
            Self::WebP => "a WebP",
            Self::Tiff => "a TIFF",
            Self::Bmp => "a BMP",
            Self::Heic => "a HEIC",
            Self::Avif => "an AVIF",
            Self::JpegXl => "a JPEG XL",
            Self::Gif => "a GIF",
            Self::Photoshop => "a PSD",
            Self::Raw => "a raw photo",
            Self::Other => "a picture of another format",
        }
    }

    /// By the first bytes.
    pub fn of(bytes: &[u8]) -> Option<Self> {
        let starts = |magic: &[u8]| bytes.starts_with(magic);
        let at_4 = |magic: &[u8]| bytes.get(4..).is_some_and(|rest| rest.starts_with(magic));
        Some(match bytes {
            _ if starts(b"\xff\xd8\xff") => Self::Jpeg,
            _ if starts(b"\x89PNG\r\n\x1a\n") => Self::Png,
            _ if starts(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Self::WebP,
            _ if starts(b"II*\0") || starts(b"MM\0*") => Self::Tiff,
            _ if starts(b"GIF8") => Self::Gif,
            _ if starts(b"8BPS") => Self::Photoshop,
            _ if starts(b"FUJIFILMCCD-RAW") || at_4(b"ftypcrx") || starts(b"IIRO") || starts(b"IIU\0") => Self::Raw,
            _ if at_4(b"ftyphe") || at_4(b"ftypmif1") => Self::Heic,
            _ if at_4(b"ftypavi") => Self::Avif,
            _ if starts(b"\xff\x0a") || at_4(b"JXL ") => Self::JpegXl,
            // Two letters begin many a text: the four bytes behind the size are 0 in a BMP.
            _ if starts(b"BM") && bytes.get(6..10) == Some(&[0; 4]) => Self::Bmp,
            _ => return None,
        })
    }
}

/// What the name of a file says, and where that is not enough its first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// By a usual ending, whatever is in it.
    ByName(Kind),
    /// By what is in it.
    ByContents(Kind),
    NoPicture,
}

impl Told {
    /// What lies at `path`; opens files of unusual endings, and those of formats that are not read.
    pub fn of(path: &Path) -> Self {
        let ending = path.extension().unwrap_or_default().to_ascii_lowercase();
        let is_among = |known: &[&str]| known.iter().any(|known| ending == *known);
        let named = named_kind(path);
        match named {
            Some(kind) if kind.is_read() => return Self::ByName(kind),
            None if is_among(OTHER_FILES) || is_among(PASSING) || is_backup(path) => return Self::NoPicture,
            _ => {}
        }
        // A raw photo in a TIFF's clothes stays one, and a BMP is too easily taken for one.
        let is_sure = |kind: &Kind| matches!(kind, Kind::Jpeg | Kind::Png | Kind::WebP);
        match (start_of(path), named) {
            (Some(kind), _) if is_sure(&kind) => Self::ByContents(kind),
            (_, Some(named)) => Self::ByName(named),
            (Some(Kind::Tiff | Kind::Bmp) | None, None) => Self::NoPicture,
            (Some(kind), None) => Self::ByContents(kind),
        }
    }

    /// Whether it is a picture that can be decoded.
    pub fn is_readable(self) -> bool {
        matches!(self, Self::ByName(kind) | Self::ByContents(kind) if kind.is_read())
    }
}

/// The kind of picture that the ending of a name stands for.
pub fn named_kind(path: &Path) -> Option<Kind> {
    let ending = path.extension()?.to_ascii_lowercase();
    ENDINGS.iter().find(|(_, endings)| endings.iter().any(|known| ending == *known)).map(|(kind, _)| *kind)
}

fn is_backup(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.as_encoded_bytes().ends_with(b"~"))
}

/// By the first bytes of a file that can be opened.
fn start_of(path: &Path) -> Option<Kind> {
    let mut start = [0; 16];
    let read = regular_file::open(path, Links::Followed).and_then(|mut file| file.read(&mut start)).ok()?;
    Kind::of(&start[..read])
}

/// Whether a folder of this name holds what a system keeps for itself.
pub fn is_junk_folder(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| JUNK_FOLDERS.contains(&name.to_lowercase().as_str()))
}

/// Of a folder called as kohya's scripts want it, `10_concept`: how often each of its pictures is taken, and the rest of the
/// name.
pub fn repeats_of(folder: &str) -> Option<(u32, &str)> {
    let (number, concept) = folder.split_once('_')?;
    // Four digits are a year.
    let is_number = (1..=3).contains(&number.len()) && number.bytes().all(|digit| digit.is_ascii_digit());
    Some((number.parse().ok().filter(|_| is_number)?, concept)).filter(|(_, concept)| !concept.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_file_is_stands_in_its_name_or_else_in_its_first_bytes() {
        const JPEG: &[u8] = b"\xff\xd8\xff\xe0\0\x10JFIF";
        let folder = tempfile::tempdir().expect("a temporary folder");
        for (name, contents, told) in [
            ("a.jpg", b"text".as_slice(), Told::ByName(Kind::Jpeg)),
            ("a.JFIF", JPEG, Told::ByName(Kind::Jpeg)),
            ("a.jpg_large", JPEG, Told::ByName(Kind::Jpeg)),
            ("a.jpg!d", JPEG, Told::ByContents(Kind::Jpeg)),
            ("noending", JPEG, Told::ByContents(Kind::Jpeg)),
            ("a.heic", JPEG, Told::ByContents(Kind::Jpeg)),
            ("a.heic", b"\0\0\0\x18ftypheic", Told::ByName(Kind::Heic)),
            ("a.x", b"\0\0\0\x18ftypheic", Told::ByContents(Kind::Heic)),
            ("a.nef", b"MM\0*", Told::ByName(Kind::Raw)),
            ("a.thing", b"II*\0", Told::NoPicture),
            ("a.txt", JPEG, Told::NoPicture),
            ("a.jpg~", JPEG, Told::NoPicture),
            ("a.part", JPEG, Told::NoPicture),
            ("readme", b"BM, he said", Told::NoPicture),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, contents).expect("written");
            assert_eq!(Told::of(&path), told, "{name}");
        }
    }

    #[test]
    fn formats_are_told_by_their_first_bytes() {
        for (bytes, kind) in [
            (b"\x89PNG\r\n\x1a\n\0\0".as_slice(), Kind::Png),
            (b"RIFF\x1a\0\0\0WEBPVP8 ", Kind::WebP),
            (b"II*\0\x08\0\0\0", Kind::Tiff),
            (b"MM\0*\0\0\0\x08", Kind::Tiff),
            (b"BM\x36\0\x0c\0\0\0\0\0\x36\0", Kind::Bmp),
            (b"GIF89a", Kind::Gif),
            (b"8BPS\0\x01", Kind::Photoshop),
            (b"FUJIFILMCCD-RAW 0201", Kind::Raw),
            (b"\0\0\0\x18ftypcrx ", Kind::Raw),
            (b"IIRO\x08\0\0\0", Kind::Raw),
            (b"\0\0\0\x18ftypheix", Kind::Heic),
            (b"\0\0\0\x18ftypmif1", Kind::Heic),
            (b"\0\0\0\x1cftypavif", Kind::Avif),
            (b"\0\0\0\x1cftypavis", Kind::Avif),
            (b"\xff\x0a\xfa", Kind::JpegXl),
            (b"\0\0\0\x0cJXL \r\n", Kind::JpegXl),
        ] {
            assert_eq!(Kind::of(bytes), Some(kind), "{bytes:?}");
        }
        for other in [b"RIFF\x1a\0\0\0WAVE".as_slice(), b"\0\0\0\x18ftypisom", b"words", b""] {
            assert_eq!(Kind::of(other), None, "{other:?}");
        }
    }

    #[test]
    fn numbers_of_repeats_are_told_from_other_names() {
        assert_eq!(repeats_of("10_red star"), Some((10, "red star")));
        for other in ["2024_summer", "2024-05_x", "_x", "10_", "star_10", "+1_x"] {
            assert_eq!(repeats_of(other), None, "{other}");
        }
    }
}
