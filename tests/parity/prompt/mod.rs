//! The tokenizer against transformers' CLIPTokenizer.

use loramill::sd::prompt::tokenizer::Tokenizer;

use crate::parity::Fixture;

#[test]
fn nasty_prompts_give_the_tokens_of_transformers() {
    let fixture = Fixture::read("prompt");
    let prompts: Vec<String> = serde_json::from_str(&fixture.metadata("prompts")).unwrap();
    assert!(prompts.len() > 30);
    let differing: Vec<&String> = prompts
        .iter()
        .enumerate()
        .filter(|(i, prompt)| {
            !Tokenizer::clip().encode(prompt).into_iter().map(i64::from).eq(fixture.integers(&format!("tokens.{i}")))
        })
        .map(|(_, prompt)| prompt)
        .collect();
    assert!(differing.is_empty(), "{differing:?}");
}
