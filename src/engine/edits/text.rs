//! The text of a caption file: the one form that keys and comparisons use, and what keeps a file from being one. Unaware of
//! items.

use std::fmt;

/// Larger files are not captions.
pub(crate) const LARGEST: u64 = 1 << 20;

/// Why a file is not a usable text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unusable {
    NotUtf8 {
        looks_like_utf16: bool,
    },
    ConflictMarkers,
    TooLarge,
    /// NUL or another control character that no text holds.
    Control,
}

impl fmt::Display for Unusable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotUtf8 { looks_like_utf16: true } => "is UTF-16: save it as UTF-8",
            Self::NotUtf8 { looks_like_utf16: false } => "is not UTF-8 text: save it as UTF-8",
            Self::ConflictMarkers => "has conflict markers of a merge: keep one version, then run again",
            Self::Control => "holds NUL or other control characters, as UTF-16 does: save it as UTF-8",
            Self::TooLarge => "is larger than 1 MiB, which is no caption",
        })
    }
}

/// The text without a byte order mark, with LF ends and without space at the end of a line or of the text.
pub fn normalise(bytes: &[u8]) -> Result<String, Unusable> {
    if bytes.len() as u64 > LARGEST {
        return Err(Unusable::TooLarge);
    }
    let looks_like_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
    let text = std::str::from_utf8(bytes).map_err(|_| Unusable::NotUtf8 { looks_like_utf16 })?;
    if text.chars().any(is_foreign) {
        return Err(Unusable::Control);
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    if lines.iter().any(|line| line.starts_with("<<<<<<<") || line.starts_with(">>>>>>>")) {
        return Err(Unusable::ConflictMarkers);
    }
    let mut text = lines.join("\n");
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Control characters that no editor puts into a text. UTF-16 without a byte order mark has them in place of the high bytes of
/// its letters.
fn is_foreign(letter: char) -> bool {
    letter < ' ' && !matches!(letter, '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// How a normalised text lies in a file: with an end to its last line, as editors and git like it.
pub(crate) fn file_form(text: &str) -> String {
    if text.is_empty() { String::new() } else { format!("{text}\n") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_editors_do_to_a_text_does_not_change_it() {
        for form in ["a star\non white", "\u{feff}a star\r\non white\r\n", "a star  \non white\t\n\n", "a star\ron white"] {
            assert_eq!(normalise(form.as_bytes()).unwrap(), "a star\non white", "{form:?}");
        }
        assert_eq!(normalise(b"  a star").unwrap(), "  a star");
        assert_eq!(normalise(b" \n\n").unwrap(), "");
        assert_eq!(normalise(b"").unwrap(), "");
    }

    #[test]
    fn a_normalised_text_in_its_file_form_normalises_to_itself() {
        for text in ["", "a star", "a star\n\n  on white"] {
            assert_eq!(normalise(file_form(text).as_bytes()).unwrap(), text);
        }
    }

    #[test]
    fn what_is_no_caption_says_why() {
        assert_eq!(normalise(b"caf\xe9"), Err(Unusable::NotUtf8 { looks_like_utf16: false }));
        assert_eq!(normalise(b"\xff\xfea\0"), Err(Unusable::NotUtf8 { looks_like_utf16: true }));
        assert_eq!(normalise(b"<<<<<<< HEAD\na\n=======\nb\n>>>>>>> x\n"), Err(Unusable::ConflictMarkers));
        let utf16 = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>();
        for bytes in [utf16("a star"), utf16("\u{437}\u{432}\u{435}"), b"a\0".to_vec(), b"a\x1b[31m".to_vec()] {
            assert_eq!(normalise(&bytes), Err(Unusable::Control), "{bytes:?}");
        }
        assert_eq!(normalise(b"a\tb\x0cc").unwrap(), "a\tb\x0cc");
        assert_eq!(normalise(&vec![b'a'; LARGEST as usize + 1]), Err(Unusable::TooLarge));
    }
}
