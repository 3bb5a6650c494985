//! A name or text out of a model file in a message: the file decides its length, a line what is shown of it.

/// The letters of a name or text that a message has room for.
const SHOWN_LETTERS: usize = 200;

/// A name or text out of a file for a message, of a length that a line has room for.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN_LETTERS) {
        Some((end, _)) => format!("{}… ({} bytes)", &text[..end], text.len()),
        None => text.to_string(),
    }
}
