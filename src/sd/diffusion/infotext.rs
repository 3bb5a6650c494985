//! The text in a picture that says how it was drawn, as stable-diffusion-webui writes and reads it. Unaware of PNG files.
//!
//! The prompt; `Negative prompt: …` where there is one; then `Key: value` pairs in one line. It is a function of what decides the picture:
//! no file names, no program version.

use std::fmt;
use std::sync::LazyLock;

use regex::Regex;

/// `Key: value` with an optional comma; webui's `re_param_code`.
static PAIR: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r#"\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)"#).expect("the pattern is well-formed"));

/// A last line with fewer pairs belongs to the prompt.
const FEWEST_PAIRS: usize = 3;

/// How a picture was drawn, in webui's words.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Infotext {
    pub prompt: String,
    pub negative: String,
    /// `Steps`, `Sampler` and so on, in the order of writing.
    pub pairs: Vec<(String, String)>,
}

impl Infotext {
    /// Begins without pairs. An empty `negative` is left out of the text.
    pub fn new(prompt: impl Into<String>, negative: impl Into<String>) -> Self {
        Self { prompt: prompt.into(), negative: negative.into(), pairs: Vec::new() }
    }

    /// Adds `key: value` behind the other pairs.
    pub fn pair(mut self, key: &str, value: impl ToString) -> Self {
        self.pairs.push((key.to_string(), value.to_string()));
        self
    }

    /// The value of the first pair with this key, spelled as webui spells it: `CFG scale`.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value.as_str())
    }

    /// Reads what `Display` or webui wrote. Any text is one: without settings it is all prompt.
    pub fn parse(text: &str) -> Self {
        let mut lines: Vec<&str> = text.trim().split('\n').collect();
        let pairs: Vec<(String, String)> = lines.last().map_or(Vec::new(), |last| {
            PAIR.captures_iter(last).map(|found| (found[1].to_string(), unquoted(&found[2]))).collect()
        });
        let pairs = if pairs.len() >= FEWEST_PAIRS { pairs } else { Vec::new() };
        if !pairs.is_empty() {
            lines.pop();
        }
        let (mut prompt, mut negative) = (Vec::new(), None::<Vec<&str>>);
        for line in lines.into_iter().map(str::trim) {
            match (line.strip_prefix("Negative prompt:"), &mut negative) {
                (Some(first), None) => negative = Some(vec![first.trim()]),
                (_, Some(negative)) => negative.push(line),
                (None, None) => prompt.push(line),
            }
        }
        Self { prompt: prompt.join("\n"), negative: negative.unwrap_or_default().join("\n"), pairs }
    }
}

impl fmt::Display for Infotext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.prompt)?;
        if !self.negative.is_empty() {
            write!(f, "\nNegative prompt: {}", self.negative)?;
        }
        let pairs: Vec<String> = self.pairs.iter().map(|(key, value)| format!("{key}: {}", quoted(value))).collect();
        write!(f, "\n{}", pairs.join(", "))
    }
}

/// As a JSON string where the value would break the line of pairs.
fn quoted(value: &str) -> String {
    if value.contains([',', '\n', ':']) { serde_json::Value::from(value).to_string() } else { value.to_string() }
}

/// What is not quite a JSON string stays as it is, as in webui.
fn unquoted(value: &str) -> String {
    let value = value.trim();
    if value.len() < 2 || !value.starts_with('"') {
        return value.to_string();
    }
    serde_json::from_str(value).unwrap_or_else(|_| value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> Infotext {
        Infotext::new("a photo of a man (shrug)", "blurry: very, text\nsecond line")
            .pair("Steps", 20)
            .pair("Sampler", "Euler a")
            .pair("CFG scale", 7.5)
            .pair("Seed", 420_420_u64)
            .pair("Size", "512x768")
    }

    #[test]
    fn the_text_is_webuis() {
        let expected = "a photo of a man (shrug)\nNegative prompt: blurry: very, text\nsecond line\n\
                        Steps: 20, Sampler: Euler a, CFG scale: 7.5, Seed: 420420, Size: 512x768";
        assert_eq!(example().to_string(), expected);
        assert_eq!(Infotext { negative: String::new(), ..example() }.to_string().lines().count(), 2);
    }

    #[test]
    fn what_was_written_is_read_back() {
        for info in [
            example(),
            example().pair("Note", r#"a "quoted", b: c\"#).pair("Line", "x\ny"),
            Infotext { negative: String::new(), ..example() },
        ] {
            assert_eq!(Infotext::parse(&info.to_string()), info);
        }
    }

    #[test]
    fn a_last_line_with_two_pairs_is_prompt() {
        let info = Infotext::parse("a cat\nSteps: 20, Sampler: Euler");
        assert_eq!(info.prompt, "a cat\nSteps: 20, Sampler: Euler");
        assert!(info.pairs.is_empty());
    }

    #[test]
    fn a_text_of_webui_with_quotes_is_understood() {
        let info = Infotext::parse(
            "cat\nSteps: 20, Sampler: DPM++ 2M Karras, Lora hashes: \"one: 1234, two: 5678\", Size: 64x64, Version: v1.8.0",
        );
        assert_eq!(info.get("Lora hashes"), Some("one: 1234, two: 5678"));
        assert_eq!(info.get("Sampler"), Some("DPM++ 2M Karras"));
        assert_eq!((info.get("Version"), info.get("Seed")), (Some("v1.8.0"), None));
    }
}
