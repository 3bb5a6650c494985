//! Tokens cut into the rows that the text encoder reads: a start, 75 tokens, an end. Unaware of the words behind them.

use crate::sd::prompt::emphasis::Part;
use crate::sd::prompt::tokenizer::{END, START, Tokenizer};

/// Tokens of a prompt in one row.
pub const CHUNK: usize = 75;

/// Tokens that the text encoder reads at a time: `CHUNK` with start and end.
pub const ROW: usize = CHUNK + 2;

/// `,` as a word of its own.
const COMMA: u32 = 267;

/// How far before the end of a chunk stable-diffusion-webui looks for a comma to break at; its `comma_padding_backtrack`.
const COMMA_BACKTRACK: usize = 20;

/// What fills a row after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// The end token again: SD 1.x.
    End,
    /// Token 0: SD 2.x.
    Zero,
}

/// The rows of one prompt, and how much of it they leave out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunks {
    /// Each `ROW` tokens.
    pub rows: Vec<Vec<u32>>,
    /// Number of tokens at the end of the prompt that no row holds.
    pub cut: usize,
}

/// At most `limit` rows (75, 150 or 225 tokens) filled one after the other, as trainers do; the rest is cut, and counted.
pub fn filled(tokens: &[u32], limit: usize, padding: Padding) -> Chunks {
    let kept = &tokens[..tokens.len().min(limit * CHUNK)];
    let mut rows: Vec<Vec<u32>> = kept.chunks(CHUNK).map(|chunk| row(chunk, padding)).collect();
    if rows.is_empty() {
        rows.push(row(&[], padding));
    }
    Chunks { rows, cut: tokens.len() - kept.len() }
}

/// A row with the weight of each token.
#[derive(Clone, Debug, PartialEq)]
pub struct WeightedRow {
    /// `ROW` tokens.
    pub tokens: Vec<u32>,
    /// Of each of `tokens`; 1 for start, end and padding.
    pub weights: Vec<f32>,
}

/// As many rows as the prompt needs; as in stable-diffusion-webui, a row ends at a comma if one of its last 20 tokens is one, and at a
/// break.
pub fn weighted(parts: &[Part], padding: Padding) -> Vec<WeightedRow> {
    let mut rows = Vec::new();
    let mut chunk: Vec<(u32, f32)> = Vec::new();
    let mut last_comma = None;
    for part in parts {
        let Part::Text(text, weight) = part else {
            rows.push(weighted_row(&chunk, padding));
            chunk.clear();
            last_comma = None;
            continue;
        };
        for token in Tokenizer::clip().encode(text) {
            if token == COMMA {
                last_comma = Some(chunk.len());
            } else if let Some(comma) = last_comma
                && chunk.len() == CHUNK
                && CHUNK - comma <= COMMA_BACKTRACK
            {
                let moved = chunk.split_off(comma + 1);
                rows.push(weighted_row(&chunk, padding));
                chunk = moved;
                last_comma = None;
            }
            if chunk.len() == CHUNK {
                rows.push(weighted_row(&chunk, padding));
                chunk.clear();
                last_comma = None;
            }
            chunk.push((token, *weight as f32));
        }
    }
    if !chunk.is_empty() || rows.is_empty() {
        rows.push(weighted_row(&chunk, padding));
    }
    rows
}

fn weighted_row(chunk: &[(u32, f32)], padding: Padding) -> WeightedRow {
    let (tokens, inner): (Vec<u32>, Vec<f32>) = chunk.iter().copied().unzip();
    let mut weights = vec![1.0];
    weights.extend(inner);
    weights.resize(ROW, 1.0);
    WeightedRow { tokens: row(&tokens, padding), weights }
}

fn row(chunk: &[u32], padding: Padding) -> Vec<u32> {
    let fill = match padding {
        Padding::End => END,
        Padding::Zero => 0,
    };
    let mut row = vec![START];
    row.extend(chunk);
    row.push(END);
    row.resize(ROW, fill);
    row
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `count` words of one token each, with commas at the places given.
    fn prompt(count: usize, commas: &[usize]) -> Vec<Part> {
        let words: Vec<&str> = (0..count).map(|i| if commas.contains(&i) { "," } else { "cat" }).collect();
        vec![Part::Text(words.join(" "), 1.0)]
    }

    /// Tokens of the prompt in each row.
    fn lengths(parts: &[Part]) -> Vec<usize> {
        let length = |row: &WeightedRow| row.tokens.iter().position(|token| *token == END).unwrap() - 1;
        weighted(parts, Padding::End).iter().map(length).collect()
    }

    #[test]
    fn an_empty_prompt_is_one_row() {
        let filled_row = filled(&[], 3, Padding::End).rows;
        assert_eq!(filled_row, [weighted(&[], Padding::End)[0].tokens.clone()]);
        assert_eq!(filled_row[0][..3], [START, END, END]);
        assert_eq!(filled_row[0].len(), ROW);
        assert_eq!(filled(&[], 1, Padding::Zero).rows[0][1..4], [END, 0, 0]);
    }

    #[test]
    fn what_does_not_fit_is_counted() {
        let tokens: Vec<u32> = (1000..1160).collect();
        let one = filled(&tokens, 1, Padding::End);
        assert_eq!((one.rows.len(), one.cut), (1, 85));
        assert_eq!(one.rows[0][75..], [1074, END]);
        let three = filled(&tokens, 3, Padding::End);
        assert_eq!((three.rows.len(), three.cut), (3, 0));
        assert_eq!(three.rows[2][..12], [&[START][..], &tokens[150..], &[END]].concat());
    }

    #[test]
    fn a_prompt_that_ends_full_opens_no_empty_row() {
        assert_eq!(lengths(&prompt(150, &[])), [75, 75]);
        assert_eq!(filled(&[320; 150], 9, Padding::End).rows.len(), 2);
    }

    #[test]
    fn a_row_breaks_after_a_comma_near_its_end_only() {
        assert_eq!(lengths(&prompt(100, &[60])), [61, 39]);
        assert_eq!(lengths(&prompt(100, &[55])), [56, 44]);
        assert_eq!(lengths(&prompt(100, &[54])), [75, 25]);
        // A comma that itself comes first in the next row moves nothing.
        assert_eq!(lengths(&prompt(100, &[60, 75])), [75, 25]);
    }

    #[test]
    fn a_break_ends_the_row() {
        let parts = [Part::Text("a cat".into(), 1.0), Part::Break, Part::Text("a dog, a cow".into(), 1.0)];
        assert_eq!(lengths(&parts), [2, 5]);
    }

    #[test]
    fn each_token_carries_the_weight_of_its_part() {
        let rows = weighted(&[Part::Text("a ".into(), 1.0), Part::Text("red cat".into(), 1.5)], Padding::End);
        assert_eq!(rows[0].weights[..5], [1.0, 1.0, 1.5, 1.5, 1.0]);
        assert_eq!(rows[0].weights.len(), ROW);
    }
}
