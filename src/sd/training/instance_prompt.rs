//! From an image's caption to the text that the text encoder learns it by: `[filewords]` and tokens. Unaware of tokenizers.
//!
//! The rules are those of sd_dreambooth_extension's `FilenameTextGetter` (`dreambooth/utils/image_utils.py`, February 2023), except that
//! a rule does not write a token that is there already: the original made `zxy zxy man` of `zxy man`. `compat` brings that back.

use regex::{Regex, RegexBuilder};

/// What the place of the caption is called in a template.
pub const FILEWORDS: &str = "[filewords]";

/// A template with the tokens that its result must carry.
#[derive(Clone, Debug)]
pub struct InstancePrompt {
    template: String,
    instance: Option<Token>,
    class: Option<Token>,
    doubling: Doubling,
}

/// What happens to a token that the text has already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Doubling {
    /// It stays as it is.
    Never,
    /// sd_dreambooth_extension writes it again.
    AsDreambooth,
}

impl Doubling {
    /// How often a token may be written into one text.
    fn limit(self) -> usize {
        match self {
            Self::Never => 1,
            Self::AsDreambooth => usize::MAX,
        }
    }
}

/// A word or words, found whatever their case.
#[derive(Clone, Debug)]
struct Token {
    text: String,
    pattern: Regex,
}

impl InstancePrompt {
    /// - `template`: its `[filewords]` is replaced by the caption
    /// - `instance`: names the concept: `zxy`; empty for none
    /// - `class`: what the concept is one of: `man`; empty for none
    pub fn new(template: &str, instance: &str, class: &str, doubling: Doubling) -> Self {
        Self { template: template.to_string(), instance: Token::new(instance), class: Token::new(class), doubling }
    }

    /// The text for an image with this caption.
    pub fn text(&self, caption: &str) -> String {
        // Backslashes escape brackets in webui's prompts; a text to learn by has no such syntax.
        let caption = caption.trim().replace('\\', "");
        let text = self.template.replace(FILEWORDS, &caption);
        let text = match (&self.instance, &self.class) {
            (Some(instance), Some(class)) => self.with_both(&text, instance, class),
            (Some(instance), None) if self.doubling == Doubling::Never && instance.occurs(&text) => text,
            (Some(instance), None) => format!("{}, {text}", instance.text),
            (None, _) => text,
        };
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        // A caption that is empty leaves a comma behind.
        if caption.is_empty() { text.trim_end_matches([',', ' ']).to_string() } else { text }
    }

    fn with_both(&self, text: &str, instance: &Token, class: &Token) -> String {
        let both = format!("{} {}", instance.text, class.text);
        match (class.occurs(text), instance.occurs(text), self.doubling) {
            (true, true, Doubling::Never) => text.to_string(),
            (true, true, Doubling::AsDreambooth) => class.replace(text, &both, usize::MAX),
            (true, false, doubling) => class.replace(&class.without_article(text, doubling.limit()), &both, doubling.limit()),
            (false, true, doubling) => instance.replace(text, &both, doubling.limit()),
            (false, false, _) => format!("{both}, {text}"),
        }
    }
}

impl Token {
    fn new(text: &str) -> Option<Self> {
        let text = text.trim();
        let pattern = RegexBuilder::new(&regex::escape(text)).case_insensitive(true).build();
        (!text.is_empty()).then(|| Self { text: text.to_string(), pattern: pattern.expect("an escaped text is a pattern") })
    }

    /// Where it stands as whole words, from left to right.
    fn places<'a>(&'a self, text: &'a str) -> impl Iterator<Item = std::ops::Range<usize>> + 'a {
        let in_word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        self.pattern.find_iter(text).map(|found| found.range()).filter(move |place| {
            let found = &text[place.clone()];
            let (before, after) = (text[..place.start].chars().next_back(), text[place.end..].chars().next());
            !(in_word(before) && in_word(found.chars().next()) || in_word(after) && in_word(found.chars().next_back()))
        })
    }

    fn occurs(&self, text: &str) -> bool {
        self.places(text).next().is_some()
    }

    fn replace(&self, text: &str, with: &str, limit: usize) -> String {
        let (mut result, mut end) = (String::new(), 0);
        for place in self.places(text).take(limit) {
            result.push_str(&text[end..place.start]);
            result.push_str(with);
            end = place.end;
        }
        result + &text[end..]
    }

    /// `a man` becomes `man`: the token that comes before it takes the article's place.
    fn without_article(&self, text: &str, limit: usize) -> String {
        let articles = Regex::new(r"(?i)(^|\W)(?:an|a|the)\s+$").expect("the pattern is right");
        let (mut result, mut end) = (String::new(), 0);
        for place in self.places(text).take(limit) {
            let before = &text[end..place.start];
            result.push_str(&articles.replace(before, "$1"));
            result.push_str(&text[place.clone()]);
            end = place.end;
        }
        result + &text[end..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prompt(template: &str, class: &str, doubling: Doubling) -> InstancePrompt {
        InstancePrompt::new(template, "zxy", class, doubling)
    }

    #[test]
    fn dreambooths_texts_are_repeated_where_asked_for() {
        // Replayed with the extension's own function.
        for (template, class, caption, expected) in [
            ("[filewords]", "man", "a man in a hat", "zxy man in a hat"),
            ("[filewords]", "man", "zxy man in a hat", "zxy zxy man in a hat"),
            ("[filewords]", "man", "zxy in a hat", "zxy man in a hat"),
            ("[filewords]", "man", "a red house", "zxy man, a red house"),
            ("[filewords]", "man", "the man, manly", "zxy man, manly"),
            ("photo of [filewords]", "man", "a man", "photo of zxy man"),
            ("[filewords]", "", "a man in a hat", "zxy, a man in a hat"),
            ("photo of zxy man", "man", "unused", "photo of zxy zxy man"),
            ("[filewords]", "1girl", "1girl, solo", "zxy 1girl, solo"),
        ] {
            assert_eq!(prompt(template, class, Doubling::AsDreambooth).text(caption), expected);
        }
    }

    #[test]
    fn a_token_is_never_doubled() {
        for (template, class, caption, expected) in [
            ("[filewords]", "man", "a man in a hat", "zxy man in a hat"),
            ("[filewords]", "man", "zxy man in a hat", "zxy man in a hat"),
            ("[filewords]", "man", "Zxy, a man in a hat", "Zxy, a man in a hat"),
            ("[filewords]", "man", "a man beside a man", "zxy man beside a man"),
            ("photo of zxy man", "man", "unused", "photo of zxy man"),
            ("zxy, [filewords]", "", "a man", "zxy, a man"),
            ("zxy, [filewords]", "", "zxy with a hat", "zxy, zxy with a hat"),
            ("[filewords]", "", "zxyz", "zxy, zxyz"),
        ] {
            assert_eq!(prompt(template, class, Doubling::Never).text(caption), expected);
        }
    }

    #[test]
    fn an_empty_caption_leaves_the_token_alone() {
        assert_eq!(prompt("zxy, [filewords]", "", Doubling::Never).text(" "), "zxy");
        assert_eq!(prompt("[filewords]", "", Doubling::Never).text(""), "zxy");
        assert_eq!(InstancePrompt::new("[filewords]", "", "", Doubling::Never).text(""), "");
    }

    #[test]
    fn tokens_may_hold_what_patterns_use() {
        let prompt = InstancePrompt::new("[filewords]", "<my+cat>", "cat", Doubling::Never);
        assert_eq!(prompt.text("a cat, sitting"), "<my+cat> cat, sitting");
        assert_eq!(prompt.text("<my+cat> sitting"), "<my+cat> sitting");
    }

    #[test]
    fn backslashes_and_repeated_spaces_go() {
        let prompt = InstancePrompt::new("[filewords]", "", "", Doubling::Never);
        assert_eq!(prompt.text(r"samus  \(metroid\),  helmet "), "samus (metroid), helmet");
    }
}
