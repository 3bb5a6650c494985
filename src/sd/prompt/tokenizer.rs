//! CLIP's byte-pair tokenizer. Unaware of how many tokens the text encoder takes.
//!
//! Text is cleaned as `transformers`' `CLIPTokenizer` does: composed to NFC, white space runs to one space, lower case letter by letter.
//! Neither repairs wrongly decoded text (ftfy), unescapes HTML nor strips accents, which OpenAI's first tokenizer did.
//!
//! The vocabulary, bpe_simple_vocab_16e6.txt.gz, is that of OpenAI's CLIP (<https://github.com/openai/CLIP>), Copyright (c) 2021 OpenAI,
//! under the MIT licence.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::io::Read as _;
use std::sync::LazyLock;

use flate2::read::GzDecoder;
use regex::Regex;
use unicode_normalization::UnicodeNormalization as _;

/// Begins every chunk.
pub const START: u32 = 49_406;

/// Ends every chunk; SD 1.x pads with it too.
pub const END: u32 = 49_407;

/// Each byte as a symbol, and each again as the last of a word.
const BYTE_SYMBOLS: u32 = 512;

static VOCABULARY: &[u8] = include_bytes!("bpe_simple_vocab_16e6.txt.gz");

static CLIP: LazyLock<Tokenizer> = LazyLock::new(Tokenizer::from_embedded);

/// Turns text into tokens of CLIP's vocabulary.
pub struct Tokenizer {
    /// Two neighbours and the token they merge to. Tokens are numbered in the order in which merges apply.
    merges: HashMap<(u32, u32), u32>,
    /// The symbol of each byte inside a word.
    symbols: [u32; 256],
    words: Regex,
}

impl Tokenizer {
    /// The tokenizer of SD 1.x and 2.x. The first call unpacks the vocabulary.
    pub fn clip() -> &'static Self {
        &CLIP
    }

    /// The tokens of `text`, without start and end.
    pub fn encode(&self, text: &str) -> Vec<u32> {
        let mut tokens = Vec::new();
        let mut rest = text;
        // The marks of start and end stand for themselves wherever they are written.
        while let Some((at, mark, token)) = first_mark(rest) {
            self.encode_plain(&rest[..at], &mut tokens);
            tokens.push(token);
            rest = &rest[at + mark.len()..];
        }
        self.encode_plain(rest, &mut tokens);
        tokens
    }

    fn encode_plain(&self, text: &str, tokens: &mut Vec<u32>) {
        let composed: String = text.nfc().flat_map(char::to_lowercase).collect();
        for word in self.words.find_iter(&composed) {
            self.encode_word(word.as_str().as_bytes(), tokens);
        }
    }

    /// Merges the pair that comes first in the vocabulary until none is left.
    fn encode_word(&self, word: &[u8], tokens: &mut Vec<u32>) {
        let mut parts: Vec<Part> = word
            .iter()
            .enumerate()
            .map(|(i, byte)| Part { token: Some(self.symbols[usize::from(*byte)]), left: i.checked_sub(1), right: Some(i + 1) })
            .collect();
        let Some(last) = parts.last_mut() else { return };
        last.token = last.token.map(|symbol| symbol + 256);
        last.right = None;

        // Candidates by merged token, then place; those overtaken by another merge no longer match and are passed over.
        let mut candidates = BinaryHeap::new();
        let candidate = |parts: &[Part], left: usize| {
            let (a, b) = (parts[left].token?, parts[parts[left].right?].token?);
            Some(Reverse((*self.merges.get(&(a, b))?, left)))
        };
        candidates.extend((0..parts.len()).filter_map(|left| candidate(&parts, left)));
        while let Some(Reverse((merged, left))) = candidates.pop() {
            if candidate(&parts, left) != Some(Reverse((merged, left))) {
                continue;
            }
            let right = parts[left].right.expect("a candidate has a right neighbour");
            let after = parts[right].right;
            parts[right].token = None;
            parts[left].token = Some(merged);
            parts[left].right = after;
            if let Some(after) = after {
                parts[after].left = Some(left);
            }
            candidates.extend(candidate(&parts, left));
            candidates.extend(parts[left].left.and_then(|before| candidate(&parts, before)));
        }
        tokens.extend(parts.iter().filter_map(|part| part.token));
    }

    fn from_embedded() -> Self {
        let mut text = String::new();
        GzDecoder::new(VOCABULARY).read_to_string(&mut text).expect("the embedded vocabulary is whole");

        // Printable bytes are numbered first and stand for themselves; the others stand as the characters from 256 on.
        let printable = |byte: &u8| matches!(byte, 33..=126 | 161..=172 | 174..=255);
        let bytes = (0..=255).filter(printable).chain((0..=255).filter(|byte| !printable(byte)));
        let mut symbols = [0; 256];
        let mut tokens: HashMap<String, u32> = HashMap::new();
        for (symbol, byte) in (0_u32..).zip(bytes) {
            symbols[usize::from(byte)] = symbol;
            let hidden = char::from_u32(256 + symbol.saturating_sub(188)).expect("far below the surrogates");
            let character = if printable(&byte) { char::from(byte) } else { hidden };
            tokens.insert(character.to_string(), symbol);
            tokens.insert(format!("{character}</w>"), symbol + 256);
        }

        // The first line is a comment; lines past those that fill the vocabulary were never used.
        let mut merges = HashMap::new();
        for (token, line) in (BYTE_SYMBOLS..START).zip(text.lines().skip(1)) {
            let (a, b) = line.split_once(' ').expect("a merge is two symbols");
            merges.insert((tokens[a], tokens[b]), token);
            tokens.insert(format!("{a}{b}"), token);
        }
        let words = Regex::new(r"'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+").expect("the pattern is well-formed");
        Self { merges, symbols, words }
    }
}

/// A run of bytes within a word; merged ones give up their token to their left neighbour.
struct Part {
    token: Option<u32>,
    left: Option<usize>,
    right: Option<usize>,
}

fn first_mark(text: &str) -> Option<(usize, &'static str, u32)> {
    [("<|startoftext|>", START), ("<|endoftext|>", END)]
        .into_iter()
        .filter_map(|(mark, token)| text.find(mark).map(|at| (at, mark, token)))
        .min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_words_are_one_token_each() {
        assert_eq!(Tokenizer::clip().encode("a photo of a cat"), [320, 1125, 539, 320, 2368]);
        assert_eq!(Tokenizer::clip().encode("  A\tPHOTO\n of a  CAT "), [320, 1125, 539, 320, 2368]);
        assert_eq!(Tokenizer::clip().encode(""), [0; 0]);
    }

    #[test]
    fn a_very_long_word_takes_no_quadratic_time() {
        let started = std::time::Instant::now();
        let tokens = Tokenizer::clip().encode(&"ab".repeat(200_000));
        assert!(tokens.len() < 400_000);
        // A quadratic merge takes minutes; this takes a tenth of a second.
        assert!(started.elapsed().as_secs() < 20, "{:?}", started.elapsed());
    }
}
