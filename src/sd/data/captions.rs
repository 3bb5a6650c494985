//! Texts of pictures: templates, what is put around them, and the sides they name. Unaware of files.

use std::sync::LazyLock;

use anyhow::{Context, ensure};
use regex::Regex;

use crate::engine::inputs::picture_files::repeats_of;

/// A caption with places for what differs from picture to picture.
///
/// `{name}` is the picture's name without its folders, `_` and `-` read as spaces; `{folder}` the folder it lies in, likewise, and empty
/// at the top; `{sidecar}` the text beside the photo, empty if there is none; `{{` and `}}` are braces.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
    text: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Text(String),
    Place(Place),
}

crate::choice! {
    /// What a template can ask for.
    pub enum Place {
        Name = "name",
        Folder = "folder",
        Sidecar = "sidecar",
    }
}

/// What is wrong with a template.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotATemplate {
    #[error("`{{{0}}}` is not a place of a template")]
    UnknownPlace(String),
    #[error("a brace is open or closed alone")]
    LoneBrace,
}

impl Template {
    /// Spaces around the name of a place do not count.
    ///
    /// # Errors
    /// If a place is unknown, or a brace is neither doubled nor part of a place.
    pub fn parse(text: &str) -> Result<Self, NotATemplate> {
        let mut parts = Vec::new();
        let mut plain = String::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            plain.push_str(&rest[..at]);
            let (brace, after) = (&rest[at..=at], &rest[at + 1..]);
            if let Some(after_both) = after.strip_prefix(brace) {
                plain.push_str(brace);
                rest = after_both;
                continue;
            }
            let (word, after) = after.split_once('}').filter(|_| brace == "{").ok_or(NotATemplate::LoneBrace)?;
            let place = Place::from_word(word.trim()).ok_or_else(|| NotATemplate::UnknownPlace(word.trim().to_string()))?;
            parts.push(Part::Text(std::mem::take(&mut plain)));
            parts.push(Part::Place(place));
            rest = after;
        }
        plain.push_str(rest);
        parts.push(Part::Text(plain));
        Ok(Self { parts, text: text.to_string() })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether `place` occurs in the template. Texts beside photos are only read for a template that asks for [`Place::Sidecar`].
    pub fn asks_for(&self, place: Place) -> bool {
        self.parts.contains(&Part::Place(place))
    }

    /// The caption, with what `value` gives for each place.
    pub fn fill<'a>(&self, value: impl Fn(Place) -> &'a str) -> String {
        self.parts
            .iter()
            .map(|part| match part {
                Part::Text(text) => text.as_str(),
                Part::Place(place) => value(*place),
            })
            .collect()
    }
}

/// Larger files are no captions.
pub const LARGEST: u64 = 1 << 20;

/// An error for a file that is too large for a caption: asked before it is read.
pub fn check_size(bytes: u64) -> anyhow::Result<()> {
    ensure!(bytes <= LARGEST, "the text is larger than 1 MiB, which is no caption");
    Ok(())
}

/// A word before a training of which no picture has a caption, if that is so. `None` stands for a picture without one.
pub fn all_empty<'c>(captions: impl IntoIterator<Item = Option<&'c str>>) -> Option<String> {
    let mut count = 0;
    for caption in captions {
        if caption.is_some_and(|caption| !caption.trim().is_empty()) {
            return None;
        }
        count += 1;
    }
    let all = if count == 1 { "the caption of the only picture is".to_string() } else { format!("all {count} captions are") };
    (count > 0).then(|| {
        format!("{all} empty: the concept is learned without words; put texts beside the photos or into `captions/`, if that is not meant")
    })
}

/// The text of a file in the form in which captions are compared and kept: UTF-8 without a byte order mark, lines ended by LF, no spaces
/// at the end of a line and no empty lines at the end.
pub fn normalise(bytes: &[u8]) -> anyhow::Result<String> {
    check_size(bytes.len() as u64)?;
    let text = std::str::from_utf8(bytes).context("the text is not UTF-8; save it as UTF-8")?;
    let is_foreign = |letter: char| letter < ' ' && !matches!(letter, '\t' | '\n' | '\r' | '\x0b' | '\x0c');
    ensure!(!text.chars().any(is_foreign), "the text holds NUL or other control characters, as UTF-16 does; save it as UTF-8");
    let text = text.trim_start_matches('\u{feff}').replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    let is_conflict = lines.iter().any(|line| line.starts_with("<<<<<<<") || line.starts_with(">>>>>>>"));
    ensure!(!is_conflict, "the text holds the markers of a merge conflict; choose one side");
    Ok(lines.join("\n").trim_end().to_string())
}

/// The last part of an item's name in words: `garden/red_star-2` is `red star 2`.
pub fn name_in_words(item: &str) -> String {
    in_words(item.rsplit('/').next().unwrap_or(item))
}

/// The folder of an item in words, without a number of repeats in front (`10_star`); empty at the top.
pub fn folder_in_words(item: &str) -> String {
    let folder = item.rsplit('/').nth(1).unwrap_or_default();
    in_words(repeats_of(folder).map_or(folder, |(_, concept)| concept))
}

fn in_words(text: &str) -> String {
    text.split(['_', '-', ' ']).filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
}

/// `text` with something before and after it, both as written. Around an empty text no comma or space is left at the seam.
pub fn surround(prefix: &str, text: &str, suffix: &str) -> String {
    if !text.is_empty() {
        return format!("{prefix}{text}{suffix}").trim_end().to_string();
    }
    const SEAM: [char; 2] = [',', ' '];
    let (prefix, suffix) = match (prefix.trim_matches(SEAM).is_empty(), suffix.trim_matches(SEAM).is_empty()) {
        (false, false) => (prefix, suffix.trim_start_matches(SEAM)),
        (false, true) => (prefix.trim_end_matches(SEAM), ""),
        (true, _) => ("", suffix.trim_matches(SEAM)),
    };
    format!("{prefix}{suffix}").trim_end().to_string()
}

/// `left` or `right`, if the caption says so as a word of its own: untrue of a mirror.
pub fn side_named(caption: &str) -> Option<&'static str> {
    static SIDES: LazyLock<Regex> =
        LazyLock::new(|| Regex::new(r"(?i)\b(?:(left)|right)(?:most|wards?|[- ]handed)?\b").expect("the pattern is valid"));
    SIDES.captures(caption).map(|found| if found.get(1).is_some() { "left" } else { "right" })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_is_filled_in_its_places() {
        let template = Template::parse("photo of {name} in {folder}{{1}}, {sidecar}").unwrap();
        let filled = template.fill(|place| match place {
            Place::Name => "a star",
            Place::Folder => "garden",
            Place::Sidecar => "at night",
        });
        assert_eq!(filled, "photo of a star in garden{1}, at night");
        assert!(template.asks_for(Place::Sidecar) && !Template::parse("{name}").unwrap().asks_for(Place::Sidecar));
    }

    #[test]
    fn a_wrong_place_or_a_lone_brace_is_an_error() {
        assert_eq!(Template::parse("a {nmae}"), Err(NotATemplate::UnknownPlace("nmae".into())));
        assert_eq!(Template::parse("a {name"), Err(NotATemplate::LoneBrace));
        assert_eq!(Template::parse("a } b"), Err(NotATemplate::LoneBrace));
        assert_eq!(Template::parse("{nmae}").unwrap_err().to_string(), "`{nmae}` is not a place of a template");
    }

    #[test]
    fn texts_of_all_editors_come_to_one_form() {
        assert_eq!(normalise(b"\xef\xbb\xbfa star, \r\nred  \r\n\r\n").unwrap(), "a star,\nred");
        assert_eq!(normalise(b"  \n").unwrap(), "");
        assert!(normalise(b"caf\xe9").unwrap_err().to_string().contains("UTF-8"));
        let utf16: Vec<u8> = "a star".encode_utf16().flat_map(u16::to_be_bytes).collect();
        assert!(normalise(&utf16).unwrap_err().to_string().contains("save it as UTF-8"));
        assert!(normalise(&vec![b'a'; LARGEST as usize + 1]).unwrap_err().to_string().contains("1 MiB"));
        assert!(normalise(b"a\n<<<<<<< ours\nb").unwrap_err().to_string().contains("conflict"));
    }

    #[test]
    fn a_word_is_said_only_if_no_picture_has_a_caption() {
        assert_eq!(all_empty([Some("a"), None]), None);
        assert_eq!(all_empty([]), None);
        assert!(all_empty([Some(" "), None]).unwrap().starts_with("all 2 captions are empty"));
        assert!(all_empty([None]).unwrap().starts_with("the caption of the only picture is empty"));
    }

    #[test]
    fn names_become_words() {
        assert_eq!(name_in_words("garden/red_star-2"), "red star 2");
        assert_eq!(folder_in_words("photos/10_red_star/x"), "red star");
        assert_eq!((folder_in_words("my_photos/red garden/x"), folder_in_words("x")), ("red garden".into(), String::new()));
    }

    #[test]
    fn an_empty_caption_leaves_no_comma_behind() {
        assert_eq!(surround("shrug, ", "a man", ", indoors"), "shrug, a man, indoors");
        assert_eq!(surround("shrug, ", "", ""), "shrug");
        assert_eq!(surround("shrug, ", "", ", indoors"), "shrug, indoors");
        assert_eq!(surround("", "", ", indoors"), "indoors");
        assert_eq!(surround("", "", ""), "");
    }

    #[test]
    fn sides_are_found_as_words_only() {
        assert_eq!(side_named("a man looking Left"), Some("left"));
        assert_eq!(side_named("the rightmost chair"), Some("right"));
        assert_eq!(side_named("bright copyright, leftover"), None);
    }
}
