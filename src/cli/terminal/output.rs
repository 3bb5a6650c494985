//! What reaches the terminal: the one file that writes to standard output and standard error. Unaware of what is said.
//!
//! Names of photos, items, tensors and modules, captions, and what other programs say come from files that anybody may have made,
//! and a terminal obeys what it is sent. So that no place can forget it, whatever is written is escaped here, and colours are put
//! around it here. A line feed and a tab are written as they are.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::io::{self, IsTerminal, Write};

use serde::Serialize;

/// Whether a terminal, or who reads, is led by a character: controls (ESC, which begins all sequences, and C1, which are such
/// beginnings alone), those that turn or end the direction of what follows, and those that are not seen. After Unicode's list for
/// programs' sources (<https://www.unicode.org/reports/tr55/>).
const fn leads(character: char) -> bool {
    matches!(
        character,
        '\0'..='\u{1f}'
            | '\u{7f}'..='\u{9f}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'
            | '\u{200e}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Text of others as it can be shown: `\u{1b}` in place of what would lead a terminal.
pub fn escaped(text: &str) -> Cow<'_, str> {
    let is_escaped = |character: char| leads(character) && !matches!(character, '\n' | '\t');
    if !text.chars().any(is_escaped) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if is_escaped(character) { shown.extend(character.escape_unicode()) } else { shown.push(character) }
    }
    Cow::Owned(shown)
}

/// JSON in which no character leads a terminal. They stand in texts alone, where JSON has an escape for each.
fn escaped_json(json: &str) -> String {
    let mut shown = String::with_capacity(json.len());
    for character in json.chars() {
        if leads(character) && character != '\n' {
            let mut units = [0; 2];
            for unit in character.encode_utf16(&mut units) {
                let _ = write!(shown, "\\u{unit:04x}");
            }
        } else {
            shown.push(character);
        }
    }
    shown
}

/// How a piece of text stands out on a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paint {
    Bold,
    Red,
    Green,
    Yellow,
    Cyan,
    BoldRed,
    BoldGreen,
    BoldYellow,
    BoldBlue,
    BoldCyan,
}

impl Paint {
    /// ANSI's "select graphic rendition".
    const fn code(self) -> &'static str {
        match self {
            Self::Bold => "1",
            Self::Red => "31",
            Self::Green => "32",
            Self::Yellow => "33",
            Self::Cyan => "36",
            Self::BoldRed => "1;31",
            Self::BoldGreen => "1;32",
            Self::BoldYellow => "1;33",
            Self::BoldBlue => "1;34",
            Self::BoldCyan => "1;36",
        }
    }
}

/// Text that may be written as it is: what it was made of is escaped, and colours were put around that.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Painted {
    text: String,
    colours: bool,
}

impl Painted {
    /// Starts empty. Without `colours`, `paint` adds plain text.
    pub const fn new(colours: bool) -> Self {
        Self { text: String::new(), colours }
    }

    /// Appends the text, escaped and without colours.
    pub fn add(&mut self, text: &str) {
        self.text.push_str(&escaped(text));
    }

    /// Appends the text, escaped; with colours if this text takes them.
    pub fn paint(&mut self, paint: Paint, text: &str) {
        if self.colours {
            let _ = write!(self.text, "\u{1b}[{}m{}\u{1b}[0m", paint.code(), escaped(text));
        } else {
            self.add(text);
        }
    }

    /// Whether there is nothing to print.
    pub fn is_empty(&self) -> bool {
        self.text.is_empty()
    }

    /// Without the last of two empty lines.
    pub(crate) fn without_empty_end(mut self) -> Self {
        if self.text.ends_with("\n\n") {
            self.text.pop();
        }
        self
    }
}

impl fmt::Display for Painted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// Data for the user or another program, on standard output. A reader that has gone away (`| head`) ends the program quietly.
pub fn print(text: &str) -> anyhow::Result<()> {
    write_out(&escaped(text))
}

/// As `print`, with colours.
pub fn print_painted(text: &Painted) -> anyhow::Result<()> {
    write_out(&text.text)
}

/// As `print`, a value as JSON over several lines.
pub fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    write_out(&escaped_json(&format!("{}\n", serde_json::to_string_pretty(value)?)))
}

/// As `print`, a value as JSON on one line.
pub fn print_json_line(value: &impl Serialize) -> anyhow::Result<()> {
    write_out(&json_line(value)?)
}

/// As `print_json_line`, of an event of a run, which goes on also when its reader has gone away.
pub(crate) fn tell_json_line(value: &impl Serialize) {
    if let Ok(line) = json_line(value) {
        let mut stdout = io::stdout().lock();
        let _ = stdout.write_all(line.as_bytes()).and_then(|()| stdout.flush());
    }
}

fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(escaped_json(&serde_json::to_string(value)?) + "\n")
}

fn write_out(text: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

/// A message on standard error. It is lost if that is closed: there is nowhere left to say so.
pub(crate) fn tell(text: &str) {
    tell_as_it_is(&escaped(text));
}

/// As `tell`, with colours.
pub(crate) fn tell_painted(text: &Painted) {
    tell_as_it_is(&text.text);
}

/// An error line on standard error, also with `--quiet`.
pub(crate) fn complain(problem: &str) {
    let mut line = Painted::new(errors_take_colours());
    line.paint(Paint::BoldRed, "error");
    line.add(&format!(": {problem}\n"));
    tell_painted(&line);
}

fn tell_as_it_is(text: &str) {
    let _ = io::stderr().lock().write_all(text.as_bytes());
}

/// Whether what is written to standard output may have colours.
pub(crate) fn output_takes_colours() -> bool {
    takes_colours(&io::stdout())
}

/// Whether what is written to standard error may have colours.
pub(crate) fn errors_take_colours() -> bool {
    takes_colours(&io::stderr())
}

/// Colours are for terminals, and not for users who declined them: <https://no-color.org>.
fn takes_colours(stream: &impl IsTerminal) -> bool {
    stream.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}]0;title\u{7}b\u{9b}31mc\u{202e}d\u{2066}e\re\u{7f}\u{feff}\u{e0041}\u{8}";

    #[test]
    fn nothing_that_leads_a_terminal_is_left() {
        let shown = escaped(HOSTILE);
        assert_eq!(shown, r"a\u{1b}]0;title\u{7}b\u{9b}31mc\u{202e}d\u{2066}e\u{d}e\u{7f}\u{feff}\u{e0041}\u{8}");
        assert!(matches!(escaped("Gr\u{fc}\u{df}e, \u{732b}\u{2026}\n\t\u{1f431}\u{200d}"), Cow::Borrowed(_)));
    }

    #[test]
    fn colours_stand_around_what_was_escaped() {
        for (colours, expected) in [(true, "x\\u{1b}\u{1b}[1;31my\\u{9b}\u{1b}[0m"), (false, r"x\u{1b}y\u{9b}")] {
            let mut text = Painted::new(colours);
            text.add("x\u{1b}");
            text.paint(Paint::BoldRed, "y\u{9b}");
            assert_eq!(text.to_string(), expected);
        }
    }

    #[test]
    fn json_stays_json_and_says_the_same() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, "\u{10ffff}\n"] });
        for text in [escaped_json(&serde_json::to_string_pretty(&value).unwrap()), json_line(&value).unwrap()] {
            assert_eq!(escaped(&text), text.as_str());
            assert_eq!(serde_json::from_str::<serde_json::Value>(&text).unwrap(), value);
        }
    }
}
