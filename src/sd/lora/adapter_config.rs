//! How strongly a LoRA acts where its tensors do not say: what peft writes into `adapter_config.json` beside a file, and diffusers into a
//! file's metadata. Unaware of tensors.

use std::collections::BTreeMap;

use anyhow::{Context, Result, anyhow, bail, ensure};
use regex::bytes::{RegexBuilder, RegexSet, RegexSetBuilder, SetMatches};
use serde_json::{Map, Value};

use crate::sd::checkpoint::modules::ModulePath;

/// Where peft keeps it: beside the adapter's file.
pub const FILE_NAME: &str = "adapter_config.json";

/// A list of every layer of a large model takes some tens of kilobytes.
pub const MAX_SIZE: u64 = 1 << 20;

/// diffusers' key in a file's metadata.
pub const METADATA: &str = "lora_adapter_metadata";

/// Rank and alpha of layers, as somebody noted them.
#[derive(Clone, Debug, Default)]
pub struct AdapterConfig {
    notes: Map<String, Value>,
    patterns: Patterns,
    /// diffusers notes for each network under its name: `unet.lora_alpha`.
    by_network: bool,
}

impl PartialEq for AdapterConfig {
    fn eq(&self, other: &Self) -> bool {
        (&self.notes, self.by_network) == (&other.notes, other.by_network)
    }
}

/// A LoRA of SDXL has some hundreds of layers; nobody writes a pattern for each.
const MOST_PATTERNS: usize = 2000;

/// So many of them may be more than a path, of so many letters each: people write a few by hand.
const MOST_EXPRESSIONS: usize = 100;
const LONGEST_EXPRESSION: usize = 500;

/// What all regular expressions of a file may take together, ready to match. `.*\.attn\d\.to_q` takes 1 KiB.
const LARGEST_EXPRESSIONS: usize = 64 << 10;

/// The patterns of layers that a file notes. Nearly all are paths of layers, which need no regular expression.
#[derive(Clone, Debug, Default)]
struct Patterns {
    expressions: RegexSet,
    /// By pattern, its place among the expressions.
    places: BTreeMap<String, usize>,
}

impl Patterns {
    fn of(notes: &Map<String, Value>) -> Result<Self> {
        let of_layers = notes.iter().filter(|(name, _)| name.ends_with("_pattern")).filter_map(|(_, value)| value.as_object());
        let mut expressions = Vec::new();
        let mut places = BTreeMap::new();
        for (count, pattern) in of_layers.flat_map(Map::keys).enumerate() {
            ensure!(count < MOST_PATTERNS, "it has more than {MOST_PATTERNS} patterns of layers");
            if is_path(pattern) || places.contains_key(pattern) {
                continue;
            }
            ensure!(expressions.len() < MOST_EXPRESSIONS, "it has more than {MOST_EXPRESSIONS} {TOO_MUCH}");
            ensure!(pattern.len() <= LONGEST_EXPRESSION, "it has {} letters in one of the {TOO_MUCH}", pattern.len());
            let expression = format!("^(?:.*\\.)?(?:{pattern})$");
            // Paths of layers are ASCII, and the letters of all scripts take a hundred times the room.
            let compiled = RegexBuilder::new(&expression).unicode(false).size_limit(LARGEST_EXPRESSIONS).build();
            match compiled {
                Ok(_) => {}
                Err(regex::Error::CompiledTooBig(_)) => bail!("`{pattern}` is too large for one of the {TOO_MUCH}"),
                Err(error) => {
                    return Err(error).with_context(|| format!("`{pattern}` is noted as a pattern of layers and is none"));
                }
            }
            places.insert(pattern.clone(), expressions.len());
            expressions.push(expression);
        }
        let set = RegexSetBuilder::new(&expressions).unicode(false).size_limit(LARGEST_EXPRESSIONS).build();
        let expressions = set.map_err(|_| anyhow!("together they are too large for {TOO_MUCH}"))?;
        Ok(Self { expressions, places })
    }

    /// The expressions that take `path`.
    fn matching(&self, path: &str) -> SetMatches {
        self.expressions.matches(path.as_bytes())
    }
}

const TOO_MUCH: &str = "patterns of layers that are more than a path: write the paths of the layers instead";

/// Whether a pattern is nothing but a path, maybe anchored in front as diffusers does. Its dots stand for any character.
fn is_path(pattern: &str) -> bool {
    let path = pattern.strip_prefix('^').unwrap_or(pattern);
    path.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Whether a pattern that `is_path` takes the end of `path`, from one of its dots on.
fn takes(pattern: &str, path: &str) -> bool {
    let (wanted, is_anchored) = pattern.strip_prefix('^').map_or((pattern, false), |wanted| (wanted, true));
    let Some((before, end)) = path.len().checked_sub(wanted.len()).and_then(|at| path.as_bytes().split_at_checked(at)) else {
        return false;
    };
    let begins = before.is_empty() || (!is_anchored && before.ends_with(b"."));
    begins && wanted.bytes().zip(end).all(|(wanted, found)| wanted == b'.' || wanted == *found)
}

impl AdapterConfig {
    fn new(notes: Map<String, Value>, by_network: bool) -> Result<Self> {
        let patterns = Patterns::of(&notes)?;
        Ok(Self { notes, patterns, by_network })
    }

    /// What peft wrote into `adapter_config.json`.
    ///
    /// # Errors
    /// If it is no JSON object, or belongs to an adapter that is no LoRA.
    pub fn of_file(bytes: &[u8]) -> Result<Self> {
        let read = || -> Result<Self> {
            ensure!(bytes.len() as u64 <= MAX_SIZE, "it has {} bytes: at most {MAX_SIZE} are read", bytes.len());
            let notes: Map<String, Value> = serde_json::from_slice(bytes).context("it is no JSON object")?;
            let kind = notes.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
            ensure!(kind.eq_ignore_ascii_case("lora"), "it belongs to an adapter of the type {kind:?}: LoRA is read");
            ensure!(notes.get("use_dora") != Some(&Value::Bool(true)), "it belongs to a DoRA (`use_dora`): LoRA is read");
            Self::new(notes, false)
        };
        read().with_context(|| format!("reading `{FILE_NAME}`"))
    }

    /// What diffusers noted in a file's metadata; `None` if it did not.
    ///
    /// # Errors
    /// If that is no JSON object.
    pub fn of_metadata(metadata: &BTreeMap<String, String>) -> Result<Option<Self>> {
        let Some(text) = metadata.get(METADATA) else { return Ok(None) };
        let notes = serde_json::from_str(text).with_context(|| format!("its `{METADATA}` is no JSON object"))?;
        Self::new(notes, true).with_context(|| format!("its `{METADATA}`")).map(Some)
    }

    /// The alpha that gives a layer of `rank` its scale by alpha / rank; `None` if nothing is noted. A rank-stabilised LoRA
    /// (`use_rslora`) has alpha / √rank: Kalajdzievski 2023.
    ///
    /// # Errors
    /// If what is noted makes no sense, or is for layers of another rank.
    pub fn alpha(&self, module: &ModulePath, rank: usize) -> Result<Option<f32>> {
        let matching = self.patterns.matching(&module.path);
        let of_layer = |name, patterns| self.of_layer(name, patterns, module, &matching);
        let Some(alpha) = of_layer("lora_alpha", "alpha_pattern")? else { return Ok(None) };
        if let Some(noted) = of_layer("r", "rank_pattern")? {
            ensure!(
                noted == rank as f64,
                "rank {noted} is noted for `{module}`, which has rank {rank}: the note belongs to another LoRA"
            );
        }
        let is_stabilised = self.get("use_rslora", module) == Some(&Value::Bool(true));
        Ok(Some(if is_stabilised { alpha * (rank as f64).sqrt() } else { alpha } as f32))
    }

    fn get(&self, name: &str, module: &ModulePath) -> Option<&Value> {
        if !self.by_network {
            return self.notes.get(name);
        }
        let full = module.diffusers();
        let network = full.split('.').next().expect("split gives at least one part");
        self.notes.get(&format!("{network}.{name}"))
    }

    /// A number for all layers, or one for those that a pattern takes: a regular expression of the end of a path, as peft matches it.
    /// `matching` are the expressions that take the path.
    fn of_layer(&self, name: &str, patterns: &str, module: &ModulePath, matching: &SetMatches) -> Result<Option<f64>> {
        if let Some(Value::Object(patterns)) = self.get(patterns, module) {
            for (pattern, value) in patterns {
                let is_taken = match self.patterns.places.get(pattern) {
                    Some(place) => matching.matched(*place),
                    None => takes(pattern, &module.path),
                };
                if is_taken {
                    return number(name, value).map(Some);
                }
            }
        }
        match self.get(name, module) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => number(name, value).map(Some),
        }
    }
}

fn number(name: &str, value: &Value) -> Result<f64> {
    match value.as_f64() {
        Some(number) if number.is_finite() => Ok(number),
        _ => bail!("`{name}` is noted as {value}: expected a number"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::checkpoint::modules::Network;

    fn alpha(json: &str, path: &str, rank: usize) -> Result<Option<f32>> {
        AdapterConfig::of_file(json.as_bytes())?.alpha(&ModulePath::new(Network::Unet, path), rank)
    }

    #[test]
    fn alpha_is_what_peft_would_scale_by() {
        let plain = r#"{"peft_type": "LORA", "r": 4, "lora_alpha": 16, "use_rslora": false}"#;
        assert_eq!(alpha(plain, "mid_block.attn1.to_q", 4).unwrap(), Some(16.0));
        // alpha / √r: 16 / 2 is 8 times, as alpha 32 at rank 4 is.
        let stabilised = r#"{"r": 4, "lora_alpha": 16, "use_rslora": true}"#;
        assert_eq!(alpha(stabilised, "mid_block.attn1.to_q", 4).unwrap(), Some(32.0));
        let patterns = r#"{"r": 4, "lora_alpha": 16, "alpha_pattern": {"attn1.to_q": 2, "up_blocks.*to_k": 3}, "rank_pattern": {"to_q": 8}}"#;
        assert_eq!(alpha(patterns, "mid_block.attn1.to_q", 8).unwrap(), Some(2.0));
        assert_eq!(alpha(patterns, "up_blocks.1.attn2.to_k", 4).unwrap(), Some(3.0));
        assert_eq!(alpha(patterns, "up_blocks.1.attn2.to_v", 4).unwrap(), Some(16.0));
        assert_eq!(alpha("{}", "mid_block.attn1.to_q", 4).unwrap(), None);
    }

    #[test]
    fn a_path_of_a_layer_and_a_pattern_take_what_peft_takes() {
        let takes = |pattern: &str, path: &str| {
            let json = serde_json::json!({ "lora_alpha": 1, "alpha_pattern": { pattern: 2 } }).to_string();
            alpha(&json, path, 4).unwrap() == Some(2.0)
        };
        for (pattern, path) in [
            ("to_q", "mid_block.attn1.to_q"),
            ("attn1.to_q", "attn1.to_q"),
            ("attn1.to_q", "mid_block.attn1.to_q"),
            ("attn..to_q", "mid_block.attn1.to_q"),
            ("^attn1.to_q", "attn1.to_q"),
            (r"attn\d\.to_q", "mid_block.attn1.to_q"),
            ("mid.*", "mid_block.attn1.to_q"),
            ("^mid.*", "mid_block.attn1.to_q"),
            ("to_q|to_k", "mid_block.attn1.to_k"),
            (r"up_blocks\.[0-3]\..*\.(to_q|to_k|ff\.net\.0\.proj)", "up_blocks.1.attentions.0.to_k"),
        ] {
            assert!(takes(pattern, path), "{pattern} {path}");
        }
        for (pattern, path) in [
            ("o_q", "mid_block.attn1.to_q"),
            ("attn1", "mid_block.attn1.to_q"),
            ("^attn1.to_q", "mid_block.attn1.to_q"),
            ("mid_block.attn1.to_q.more", "mid_block.attn1.to_q"),
            (r"\d\.to_q", "mid_block.attn1.to_q"),
        ] {
            assert!(!takes(pattern, path), "{pattern} {path}");
        }
    }

    #[test]
    fn patterns_that_would_take_much_memory_are_refused() {
        let of = |patterns: Vec<String>| {
            let patterns: Map<String, Value> = patterns.into_iter().map(|pattern| (pattern, 2.into())).collect();
            AdapterConfig::of_file(serde_json::json!({ "alpha_pattern": patterns }).to_string().as_bytes())
        };
        let layers = |number| format!("^down_blocks.{number}.attentions.0.transformer_blocks.0.attn1.to_q");
        assert!(of((0..1900).map(layers).collect()).is_ok());
        assert!(of((0..20).map(|number| format!(r".*blocks\.{number}\..*\.(to_q|to_k)")).collect()).is_ok());
        for patterns in [
            (0..1900).map(|number| format!(r"\w{{60}}x{number}")).collect(),
            (0..1900).map(|number| format!(r"(?u)\w{{60}}x{number}")).collect(),
            vec![r"(\w{1000}){1000}".to_string()],
        ] {
            let error = format!("{:#}", of(patterns).unwrap_err());
            assert!(error.contains("write the paths of the layers instead"), "{error}");
        }
    }

    #[test]
    fn a_note_that_cannot_be_of_this_lora_is_refused() {
        let refused = |json: &str| format!("{:#}", alpha(json, "to_q", 4).unwrap_err());
        assert!(refused(r#"{"r": 8, "lora_alpha": 16}"#).contains("rank 8 is noted for `lora_unet_to_q`, which has rank 4"));
        assert!(refused(r#"{"lora_alpha": "16"}"#).ends_with("`lora_alpha` is noted as \"16\": expected a number"));
        assert!(refused(r#"{"peft_type": "IA3"}"#).contains("an adapter of the type \"IA3\""));
        assert!(refused(r#"{"use_dora": true}"#).contains("belongs to a DoRA"));
        assert!(refused("[1]").contains("it is no JSON object"));
        assert!(
            refused(r#"{"lora_alpha": 1, "alpha_pattern": {"(": 2}}"#).contains("is noted as a pattern of layers and is none")
        );
    }
}
