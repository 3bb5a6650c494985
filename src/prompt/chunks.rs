//! Tokens cut into the rows that the text encoder reads: a start, 75 tokens, an end. Unaware of the words behind them.

use crate::prompt::tokenizer::{END, START};

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

/// As many rows as the prompt needs; as stable-diffusion-webui, a row ends at a comma if one of its last 20 tokens is one.
pub fn broken_at_commas(tokens: &[u32], padding: Padding) -> Vec<Vec<u32>> {
    let mut rows = Vec::new();
    let mut chunk: Vec<u32> = Vec::new();
    let mut last_comma = None;
    for &token in tokens {
        if token == COMMA {
            last_comma = Some(chunk.len());
        } else if let Some(comma) = last_comma
            && chunk.len() == CHUNK
            && CHUNK - comma <= COMMA_BACKTRACK
        {
            let moved = chunk.split_off(comma + 1);
            rows.push(row(&chunk, padding));
            chunk = moved;
            last_comma = None;
        }
        if chunk.len() == CHUNK {
            rows.push(row(&chunk, padding));
            chunk.clear();
            last_comma = None;
        }
        chunk.push(token);
    }
    if !chunk.is_empty() || rows.is_empty() {
        rows.push(row(&chunk, padding));
    }
    rows
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

    #[test]
    fn an_empty_prompt_is_one_row() {
        for rows in [filled(&[], 3, Padding::End).rows, broken_at_commas(&[], Padding::End)] {
            assert_eq!(rows.len(), 1);
            assert_eq!(rows[0][..3], [START, END, END]);
            assert_eq!(rows[0].len(), ROW);
        }
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
        let tokens: Vec<u32> = (1000..1150).collect();
        assert_eq!(broken_at_commas(&tokens, Padding::End).len(), 2);
        assert_eq!(filled(&tokens, 9, Padding::End).rows.len(), 2);
    }

    #[test]
    fn a_row_breaks_after_a_comma_near_its_end() {
        let mut tokens: Vec<u32> = (1000..1100).collect();
        tokens[60] = COMMA;
        let rows = broken_at_commas(&tokens, Padding::End);
        assert_eq!(rows[0][61..64], [COMMA, END, END]);
        assert_eq!(rows[1][1], tokens[61]);
        assert_eq!(rows[1][39..42], [tokens[99], END, END]);
    }

    #[test]
    fn a_comma_far_from_the_end_breaks_nothing() {
        let mut tokens: Vec<u32> = (1000..1100).collect();
        tokens[54] = COMMA;
        let rows = broken_at_commas(&tokens, Padding::End);
        assert_eq!(rows[0][75..], [tokens[74], END]);
        assert_eq!(rows[1][1], tokens[75]);
    }
}
