//! The texts of a training, from captions to the rows of tokens that the text encoder reads. Unaware of networks.

use crate::sd::prompt::chunks::{Padding, filled};
use crate::sd::prompt::tokenizer::Tokenizer;
use crate::sd::training::instance_prompt::InstancePrompt;

/// How captions become tokens.
#[derive(Clone, Debug)]
pub struct Texts {
    pub prompt: InstancePrompt,
    /// Rows that every text fills, so that texts of all lengths fit into one batch; at least 1.
    pub rows: usize,
}

/// A caption on its way to the text encoder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    /// With template and tokens.
    pub text: String,
    pub rows: Vec<Vec<u32>>,
    /// Tokens at the end that no row holds.
    pub cut: usize,
}

impl Texts {
    /// Applies the template to `caption` and fills exactly `rows` rows of 77 tokens: a short text is followed by empty rows, a long one is cut.
    pub fn of(&self, caption: &str) -> Text {
        let text = self.prompt.text(caption);
        let mut chunks = filled(&Tokenizer::clip().encode(&text), self.rows, Padding::End);
        let empty = filled(&[], 1, Padding::End).rows;
        while chunks.rows.len() < self.rows {
            chunks.rows.extend_from_slice(&empty);
        }
        Text { text, rows: chunks.rows, cut: chunks.cut }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::prompt::chunks::ROW;
    use crate::sd::training::instance_prompt::Doubling;

    fn texts(rows: usize) -> Texts {
        Texts { prompt: InstancePrompt::new("[filewords]", "", "", Doubling::Never), rows }
    }

    #[test]
    fn every_text_fills_the_same_rows() {
        for caption in ["", "a star", &"star ".repeat(80), &"star ".repeat(500)] {
            let text = texts(2).of(caption);
            assert_eq!(text.rows.iter().map(Vec::len).collect::<Vec<_>>(), [ROW, ROW], "{caption}");
        }
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        assert_eq!(texts(1).of(&"star ".repeat(75)).cut, 0);
        assert_eq!(texts(1).of(&"star ".repeat(80)).cut, 5);
        assert_eq!(texts(2).of(&"star ".repeat(80)).cut, 0);
    }
}
