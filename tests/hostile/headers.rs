//! safetensors whose header lies in one field, and LoRAs whose tensors do.

use serde_json::json;

use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::Ground;
use crate::hostile::pickles::CONVERT;

const FAMILY: &str = "safetensors";
const LORA: &str = "lora";

/// Length, header and `data` zeros.
pub fn safetensors(header: &str, data: usize) -> Vec<u8> {
    with_length(header.len() as u64, header.as_bytes(), data)
}

fn with_length(length: u64, header: &[u8], data: usize) -> Vec<u8> {
    [&length.to_le_bytes(), header, &vec![0; data]].concat()
}

/// A tensor `w` of four floats, whose entry is `entry`.
fn one(entry: &str) -> Vec<u8> {
    safetensors(&format!("{{\"w\":{entry}}}"), 16)
}

fn model(ground: &Ground, bytes: &[u8]) {
    ground.write("model.ckpt", bytes);
    ground.write("pipeline.yaml", CONVERT.replace("safetensors", "ckpt"));
}

fn case(name: impl Into<String>, bytes: Vec<u8>) -> Case {
    Case::new(FAMILY, name, move |ground: &Ground| model(ground, &bytes)).lines(&["run", "explain model.ckpt", "check"])
}

/// Refused by `run` and `explain`; `check` may leave the file alone.
fn refused(name: impl Into<String>, bytes: Vec<u8>) -> Case {
    Case::new(FAMILY, name, move |ground: &Ground| model(ground, &bytes)).lines(&["run", "explain model.ckpt"]).refused("")
}

const GOOD: &str = r#"{"w":{"dtype":"F32","shape":[4],"data_offsets":[0,16]}}"#;

/// Entries that contradict themselves or the file.
const ENTRIES: &[(&str, &str)] = &[
    ("no entry", "null"),
    ("a number", "1"),
    ("a list", "[]"),
    ("an empty entry", "{}"),
    ("no shape", r#"{"dtype":"F32","data_offsets":[0,16]}"#),
    ("no offsets", r#"{"dtype":"F32","shape":[4]}"#),
    ("no type", r#"{"shape":[4],"data_offsets":[0,16]}"#),
    ("a type that is null", r#"{"dtype":null,"shape":[4],"data_offsets":[0,16]}"#),
    ("a type that is a number", r#"{"dtype":5,"shape":[4],"data_offsets":[0,16]}"#),
    ("a shape that is null", r#"{"dtype":"F32","shape":null,"data_offsets":[0,16]}"#),
    ("a shape that is text", r#"{"dtype":"F32","shape":"4","data_offsets":[0,16]}"#),
    ("a negative side", r#"{"dtype":"F32","shape":[-4],"data_offsets":[0,16]}"#),
    ("a side with a point", r#"{"dtype":"F32","shape":[4.5],"data_offsets":[0,16]}"#),
    ("a side of 1e300", r#"{"dtype":"F32","shape":[1e300],"data_offsets":[0,16]}"#),
    ("a side beyond 64 bits", r#"{"dtype":"F32","shape":[99999999999999999999],"data_offsets":[0,16]}"#),
    ("a side of 64 bits", r#"{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16]}"#),
    ("a product that overflows", r#"{"dtype":"F32","shape":[9223372036854775807,4],"data_offsets":[0,16]}"#),
    ("a product that overflows to sixteen", r#"{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,16]}"#),
    ("a shape that is too small", r#"{"dtype":"F32","shape":[3],"data_offsets":[0,16]}"#),
    ("a shape that is too large", r#"{"dtype":"F32","shape":[5],"data_offsets":[0,16]}"#),
    ("no elements", r#"{"dtype":"F32","shape":[0],"data_offsets":[0,16]}"#),
    ("a narrower type", r#"{"dtype":"F16","shape":[4],"data_offsets":[0,16]}"#),
    ("a wider type", r#"{"dtype":"F64","shape":[4],"data_offsets":[0,16]}"#),
    ("offsets turned round", r#"{"dtype":"F32","shape":[4],"data_offsets":[16,0]}"#),
    ("a gap in front", r#"{"dtype":"F32","shape":[3],"data_offsets":[4,16]}"#),
    ("a gap behind", r#"{"dtype":"F32","shape":[3],"data_offsets":[0,12]}"#),
    ("an end behind the file", r#"{"dtype":"F32","shape":[8],"data_offsets":[0,32]}"#),
    ("a start behind the file", r#"{"dtype":"F32","shape":[4],"data_offsets":[1000,1016]}"#),
    ("offsets of 64 bits", r#"{"dtype":"F32","shape":[4],"data_offsets":[18446744073709551599,18446744073709551615]}"#),
    ("a negative offset", r#"{"dtype":"F32","shape":[4],"data_offsets":[-16,0]}"#),
    ("one offset", r#"{"dtype":"F32","shape":[4],"data_offsets":[0]}"#),
    ("three offsets", r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16,16]}"#),
    ("offsets that are text", r#"{"dtype":"F32","shape":[4],"data_offsets":["0","16"]}"#),
    ("two shapes", r#"{"dtype":"F32","shape":[4],"shape":[4],"data_offsets":[0,16]}"#),
];

/// Whole headers that contradict themselves.
fn headers() -> Vec<(&'static str, Vec<u8>)> {
    let entry = r#"{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    let other = entry.replace("[0,8]", "[8,16]");
    let deep = |open: &str, close: &str| format!("{{\"w\":{}1{}}}", open.repeat(20_000), close.repeat(20_000));
    vec![
        ("a header that is a list", safetensors("[]", 0)),
        ("a header that is text", safetensors("\"a\"", 0)),
        ("a header without an end", safetensors("{\"w\":", 0)),
        ("a header with something behind", safetensors(&format!("{GOOD}{{}}"), 16)),
        ("a header that is no text", with_length(8, b"{\"\xff\xfe\":1", 0)),
        ("a byte order mark", safetensors(&format!("\u{feff}{GOOD}"), 16)),
        ("lists in lists", safetensors(&deep("[", "]"), 0)),
        ("mappings in mappings", safetensors(&deep("{\"a\":", "}"), 0)),
        ("a tensor twice", safetensors(&format!("{{\"w\":{entry},\"w\":{other}}}"), 16)),
        ("a tensor twice, once by an escape", safetensors(&format!("{{\"w\":{entry},\"\\u0077\":{other}}}"), 16)),
        ("tensors that overlap", safetensors(&format!("{{\"v\":{entry},\"w\":{}}}", entry.replace("[0,8]", "[4,12]")), 12)),
        ("tensors in one place", safetensors(&format!("{{\"v\":{entry},\"w\":{entry}}}"), 8)),
        ("half a surrogate", safetensors("{\"\\ud800\":1}", 0)),
        ("metadata twice", safetensors(r#"{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}"#, 0)),
        ("metadata twice, once by an escape", safetensors(r#"{"__metadata__":{"a":"b"},"\u005f_metadata__":{"a":"c"}}"#, 0)),
        ("metadata that is a tensor", safetensors(&format!("{{\"__metadata__\":{entry}}}"), 8)),
        ("metadata that is a list", safetensors(r#"{"__metadata__":[]}"#, 0)),
        ("metadata of numbers", safetensors(r#"{"__metadata__":{"a":1}}"#, 0)),
        ("a length of 0", with_length(0, GOOD.as_bytes(), 16)),
        ("a length of 1", with_length(1, GOOD.as_bytes(), 16)),
        ("one byte too few", with_length(GOOD.len() as u64 - 1, GOOD.as_bytes(), 16)),
        ("one byte too many", with_length(GOOD.len() as u64 + 1, GOOD.as_bytes(), 16)),
        ("a length of the whole file", with_length(GOOD.len() as u64 + 16, GOOD.as_bytes(), 16)),
        ("a length beyond the file", with_length(1 << 20, GOOD.as_bytes(), 16)),
        ("a length of 100 MB", with_length(100_000_000, GOOD.as_bytes(), 16)),
        ("a length of 2 GB", with_length(1 << 31, GOOD.as_bytes(), 16)),
        ("a length of 63 bits", with_length(i64::MAX as u64, GOOD.as_bytes(), 16)),
        ("a length of 64 bits", with_length(u64::MAX, GOOD.as_bytes(), 16)),
        ("a length that overflows by eight", with_length(u64::MAX - 7, GOOD.as_bytes(), 16)),
        ("data missing", safetensors(GOOD, 15)),
        ("data left over", safetensors(GOOD, 17)),
    ]
}

/// What safetensors itself accepts or passes over.
fn harmless() -> Vec<(String, Vec<u8>)> {
    let unknown = r#"{"dtype":"F32","shape":[4],"data_offsets":[0,16],"note":{"by":"a later version"}}"#;
    let mut files = vec![
        ("unknown fields".to_string(), one(unknown)),
        ("a space in front".to_string(), safetensors(&format!(" {GOOD}"), 16)),
        ("metadata that is null".to_string(), safetensors(&GOOD.replacen('{', "{\"__metadata__\":null,", 1), 16)),
    ];
    for (name, text) in [
        ("a name of a megabyte", "n".repeat(1 << 20)),
        ("a name with an escape", "\\u001b]0;owned\\u0007\\u001b[31m".to_string()),
        ("a name that turns the line round", "\u{202e}thgir".to_string()),
        ("a name that is a path", "../../victim/made".to_string()),
        ("a name that is absolute", "/tmp/loramill-hostile-made".to_string()),
        ("a name with a null", "a\\u0000b".to_string()),
        ("no name", String::new()),
    ] {
        files.push((name.to_string(), safetensors(&GOOD.replacen('w', &text, 1), 16)));
    }
    for (name, text) in [
        ("metadata of a megabyte", "n".repeat(1 << 20)),
        ("metadata with an escape", "\\u001b]0;owned\\u0007\\u009b31m".to_string()),
        ("metadata that turns the line round", "\u{202e}thgir\u{2066}".to_string()),
    ] {
        let header = GOOD.replacen('{', &format!("{{\"__metadata__\":{{\"ss_output_name\":\"{text}\",\"{text}\":\"x\"}},"), 1);
        files.push((name.to_string(), safetensors(&header, 16)));
    }
    files
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = ENTRIES.iter().map(|(name, entry)| refused(*name, one(entry))).collect();
    cases.extend(headers().into_iter().map(|(name, bytes)| refused(name, bytes)));
    cases.extend(harmless().into_iter().map(|(name, bytes)| case(name, bytes)));
    for dtype in ["", "f32", "F33", "BOOL", "F8_E4M3", "F8_E5M2", "F4", "F6_E2M3", "C64", "U16", "I4", "\\u001b[31mF32"] {
        cases.push(case(format!("type {dtype:?}"), one(&format!(r#"{{"dtype":"{dtype}","shape":[4],"data_offsets":[0,16]}}"#))));
    }
    let sides = |count: usize| one(&format!(r#"{{"dtype":"F32","shape":[{}4],"data_offsets":[0,16]}}"#, "1,".repeat(count)));
    cases.push(case("a hundred thousand sides", sides(100_000)));
    let many: Vec<String> = (0..20_000).map(|n| format!(r#""{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#)).collect();
    cases.push(case("twenty thousand empty tensors", safetensors(&format!("{{{}}}", many.join(",")), 0)).heavy());
    let whole = safetensors(&GOOD.replacen('{', "{\"__metadata__\":{\"format\":\"pt\"},", 1), 16);
    cases.extend(damage::cuts(FAMILY, &whole, 20).into_iter().map(|(name, bytes)| refused(name, bytes)));
    cases.extend(damage::changes(FAMILY, &whole, 30).into_iter().map(|(name, bytes)| case(name, bytes)));
    cases.extend(loras());
    cases
}

/// A LoRA of one module by its tensors: name behind the module, shape, values.
struct Factors(Vec<(&'static str, Vec<u64>, Vec<f32>)>);

const MODULE: &str = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q";

impl Factors {
    fn good() -> Self {
        let factor = |name, shape: [u64; 2]| (name, shape.to_vec(), vec![0.5; 64]);
        Self(vec![("alpha", vec![], vec![2.0]), factor("lora_down.weight", [2, 32]), factor("lora_up.weight", [32, 2])])
    }

    fn changed(name: &str, shape: &[u64], values: &[f32]) -> Self {
        let mut factors = Self::good();
        let place = factors.0.iter_mut().find(|(known, _, _)| *known == name).expect("one of the three");
        (place.1, place.2) = (shape.to_vec(), values.to_vec());
        factors
    }

    fn file(&self, metadata: serde_json::Value) -> Vec<u8> {
        let mut header = json!({ "__metadata__": metadata });
        let mut data = Vec::new();
        for (name, shape, values) in &self.0 {
            let begin = data.len();
            data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
            let entry = json!({ "dtype": "F32", "shape": shape, "data_offsets": [begin, data.len()] });
            header[format!("{MODULE}.{name}")] = entry;
        }
        let text = header.to_string();
        [&(text.len() as u64).to_le_bytes(), text.as_bytes(), &data].concat()
    }
}

fn loras() -> Vec<Case> {
    let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
    let plain = || json!({ "ss_network_dim": "2" });
    let mut files: Vec<(&str, Vec<u8>)> = Vec::new();
    let mut add = |name, factors: Factors, metadata| files.push((name, factors.file(metadata)));
    add("alpha is not a number", Factors::changed("alpha", &[], &[f32::NAN]), plain());
    add("alpha is infinite", Factors::changed("alpha", &[], &[f32::INFINITY]), plain());
    add("alpha is negative", Factors::changed("alpha", &[], &[-1e30]), plain());
    add("alpha is nothing", Factors::changed("alpha", &[0], &[]), plain());
    add("alpha is a list", Factors::changed("alpha", &[4], &[1.0; 4]), plain());
    add("down is not a number", Factors::changed("lora_down.weight", &[2, 32], &[f32::NAN; 64]), plain());
    add("up is infinite", Factors::changed("lora_up.weight", &[32, 2], &[f32::NEG_INFINITY; 64]), plain());
    add("values that overflow", Factors::changed("lora_up.weight", &[32, 2], &[f32::MAX; 64]), plain());
    add("rank 0", Factors::changed("lora_down.weight", &[0, 32], &[]), plain());
    add("down is one number", Factors::changed("lora_down.weight", &[], &[1.0]), plain());
    add("down has three sides", Factors::changed("lora_down.weight", &[2, 16, 2], &[1.0; 64]), plain());
    add("down is a convolution of nothing", Factors::changed("lora_down.weight", &[2, 32, 0, 0], &[]), plain());
    add("down is nothing wide", Factors::changed("lora_down.weight", &[2, 0], &[]), plain());
    add("up is nothing high", Factors::changed("lora_up.weight", &[0, 2], &[]), plain());
    add("up of another rank", Factors::changed("lora_up.weight", &[16, 4], &[1.0; 64]), plain());
    add("up has one side", Factors::changed("lora_up.weight", &[64], &[1.0; 64]), plain());
    add("rank beyond the layer", Factors::changed("lora_down.weight", &[64, 1], &[1.0; 64]), plain());
    add("no up", Factors(Factors::good().0.into_iter().take(2).collect()), plain());
    add("no down", Factors(Factors::good().0.into_iter().skip(2).collect()), plain());
    add("nothing", Factors(Vec::new()), plain());
    add("alpha pattern is no JSON", Factors::good(), json!({ "lora_adapter_metadata": "{" }));
    add("alpha pattern is a list", Factors::good(), json!({ "lora_adapter_metadata": "[]" }));
    add("alpha pattern is deep", Factors::good(), json!({ "lora_adapter_metadata": nested(100_000) }));
    let bomb: serde_json::Map<_, _> = (0..1900).map(|number| (format!("\\w{{60}}x{number}"), json!(1))).collect();
    let bomb = json!({ "unet.alpha_pattern": bomb }).to_string();
    add("alpha pattern is a bomb", Factors::good(), json!({ "lora_adapter_metadata": bomb }));
    add("alpha pattern is huge", Factors::good(), json!({ "lora_adapter_metadata": "{\"unet.lora_alpha\":1e999}" }));
    add("tags are deep", Factors::good(), json!({ "ss_tag_frequency": nested(100_000) }));
    add("a rank in metadata of 1e99", Factors::good(), json!({ "ss_network_dim": "1e99", "ss_network_alpha": "-0" }));
    add("account of its making is no JSON", Factors::good(), json!({ "loramill": "{", "ss_training_comment": "\u{1b}[2J" }));
    add("account of its making is deep", Factors::good(), json!({ "loramill": nested(100_000) }));
    add(
        "metadata with escapes",
        Factors::good(),
        json!({ "ss_output_name": "\u{1b}]0;x\u{7}", "\u{1b}[31m": "\u{9b}31m\u{202e}" }),
    );
    let mut cases: Vec<Case> = files.into_iter().map(|(name, bytes)| lora(name.to_string(), bytes)).collect();
    let whole = Factors::good().file(plain());
    cases.extend(damage::changes(LORA, &whole[..whole.len() - 500], 15).into_iter().map(|(name, bytes)| lora(name, bytes)));
    for name in [
        "../../victim/made",
        "lora_unet_\u{1b}[31m",
        "lora_te_text_model_encoder_layers_99999999999999999999_mlp_fc1",
        "lora_unet_",
    ] {
        let text = json!({ format!("{name}.lora_down.weight"): { "dtype": "F32", "shape": [1, 1], "data_offsets": [0, 4] } })
            .to_string();
        cases.push(lora(format!("module {}", name.escape_debug()), safetensors(&text, 4)));
    }
    cases
}

fn lora(name: String, bytes: Vec<u8>) -> Case {
    let build = move |ground: &Ground| {
        ground.write("lora.safetensors", &bytes);
        let text = "concept: star\ninputs: { lora: lora.safetensors }\nstages:\n  convert: { lora: lora, to: safetensors, layout: diffusers }\n";
        ground.write("pipeline.yaml", text);
    };
    Case::new(LORA, name, build).lines(&["run", "explain lora.safetensors", "check"])
}
