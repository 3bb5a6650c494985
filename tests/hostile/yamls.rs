//! Pipeline files that multiply, nest, name other folders, or ask for more than a machine has.

use crate::hostile::case::Case;
use crate::hostile::ground::{Ground, PIPELINE};

const FAMILY: &str = "yaml";

const LINES: &[&str] = &["run", "check", "plan", "graph", "status"];

fn pipeline(name: impl Into<String>, text: String) -> Case {
    let build = move |ground: &Ground| {
        ground.photos();
        ground.write("pipeline.yaml", &text);
    };
    Case::new(FAMILY, name, build).lines(LINES)
}

/// A pipeline of the given stages over two photos.
fn stages(name: impl Into<String>, text: &str) -> Case {
    pipeline(name, format!("concept: star\ninputs: {{ photos: images/ }}\nstages:\n{text}"))
}

pub fn cases() -> Vec<Case> {
    let mut cases = bombs();
    cases.extend(syntax());
    cases.extend(places());
    cases.extend(numbers());
    cases
}

fn bombs() -> Vec<Case> {
    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = format!("*a{}", level - 1);
        laughs.push_str(&format!("a{level}: &a{level} [{}]\n", [before.as_str(); 10].join(", ")));
    }
    let merged: String = (1..30).map(|n| format!("m{n}: &m{n} {{ <<: [*m{0}, *m{0}], k{n}: 1 }}\n", n - 1)).collect();
    let blocks: String = (0..2000).map(|level| format!("{}a:\n", " ".repeat(level))).collect();
    let doubled = |count: usize| -> String { (1..count).map(|n| format!("  v{n}: ${{v{0}}}${{v{0}}}\n", n - 1)).collect() };
    let axes = |count: usize, values: usize| -> String {
        let list = (1..=values).map(|n| n.to_string()).collect::<Vec<_>>().join(", ");
        (0..count).map(|n| format!("      size{n}: [{list}]\n")).collect()
    };
    vec![
        pipeline("a billion laughs", format!("{laughs}{PIPELINE}")).refused_by_all(),
        pipeline("merged mappings", format!("m0: &m0 {{ k0: 1 }}\n{merged}{PIPELINE}")).refused_by_all(),
        pipeline("an anchor in itself", format!("a: &a [*a, *a]\n{PIPELINE}")).refused_by_all(),
        pipeline("a hundred thousand brackets", format!("a: {}", "[".repeat(100_000))).refused_by_all(),
        pipeline("a hundred thousand braces", format!("a: {}", "{a: ".repeat(100_000))).refused_by_all(),
        pipeline("a hundred thousand dashes", format!("a:\n  {}x", "- ".repeat(100_000))).refused_by_all(),
        pipeline("a hundred thousand questions", "? ".repeat(100_000)).refused_by_all(),
        pipeline("two thousand blocks", blocks).refused_by_all(),
        pipeline("a hundred thousand anchors", (0..100_000).map(|n| format!("k{n}: &a{n} x\n")).collect()).refused_by_all(),
        pipeline("three hundred thousand values", format!("a: [{}]", "1, ".repeat(300_000))).refused_by_all(),
        pipeline("a key of a megabyte", format!("? {}\n: 1\n", "k".repeat(1 << 20))).refused_by_all(),
        pipeline("an anchor of a megabyte", format!("a: &{0} 1\nb: *{0}\n", "k".repeat(1 << 20))).refused_by_all(),
        pipeline("a tag of a megabyte", format!("a: !{} 1\n", "k".repeat(1 << 20))).refused_by_all(),
        pipeline("five megabytes of comments", format!("{PIPELINE}{}", "# a comment\n".repeat(450_000))).refused_by_all(),
        pipeline("four megabytes on one line", format!("a: \"{}\"", "x".repeat(4_000_000))).refused_by_all(),
        pipeline("two million dashes", "- \n".repeat(1_300_000)).refused_by_all().heavy(),
        pipeline("variables that double", format!("vars:\n  v0: xxxxxxxxxx\n{}{PIPELINE}", doubled(60))).refused_by_all(),
        pipeline("variables in a circle", format!("vars: {{ a: \"${{b}}\", b: \"${{a}}\" }}\n{PIPELINE}")).refused_by_all(),
        pipeline("a variable of many dollars", format!("vars: {{ a: \"{}\" }}\n{PIPELINE}", "${".repeat(50_000)))
            .refused_by_all(),
        stages(
            "a matrix of ten axes",
            &format!("  crop: {{ images: photos }}\n  resize:\n    images: crop\n    matrix:\n{}", axes(10, 10)),
        )
        .refused_by_all(),
        stages(
            "a matrix of a hundred thousand values",
            &format!(
                "  crop: {{ images: photos }}\n  resize:\n    images: crop\n    matrix:\n{}",
                axes(1, 100_000).replace("size0", "size")
            ),
        )
        .refused_by_all(),
        stages("three thousand stages", &{
            let stage = |n: usize| {
                format!(
                    "  s{n}: {{ kind: flip, images: {} }}\n",
                    if n == 0 { "photos".to_string() } else { format!("s{}", n - 1) }
                )
            };
            (0..3000).map(stage).collect::<String>()
        })
        .heavy(),
        stages("flips of flips, twenty deep", &{
            let stage = |n: usize| {
                format!(
                    "  s{n}: {{ kind: flip, images: {} }}\n",
                    if n == 0 { "photos".to_string() } else { format!("s{}", n - 1) }
                )
            };
            (0..20).map(stage).collect::<String>()
        })
        .heavy(),
        stages(
            "a template of a megabyte",
            &format!("  caption: {{ images: photos, model: template, template: \"{}\" }}\n", "{name} ".repeat(150_000)),
        ),
        stages(
            "braces without an end",
            &format!("  caption: {{ images: photos, model: template, template: \"{}\" }}\n", "{".repeat(100_000)),
        ),
    ]
}

fn syntax() -> Vec<Case> {
    let mut cases = Vec::new();
    for tag in [
        "!!python/object/apply:os.system [\"touch executed\"]",
        "!!python/name:os.system",
        "!!python/module:os",
        "!ruby/object:Gem::Installer {i: x}",
        "!!javax.script.ScriptEngineManager []",
        "!include /etc/passwd",
        "!!binary AAAA",
        "!env HOME",
        "!<tag:yaml.org,2002:python/object:x> 1",
    ] {
        cases.push(pipeline(format!("the tag {tag}"), format!("{PIPELINE}note: {tag}\n")).refused_by_all());
    }
    for (name, text) in [
        ("nothing", ""),
        ("a null", "\0"),
        ("a byte order mark and nothing", "\u{feff}"),
        ("escapes in a comment", "# \u{1b}]0;owned\u{7}\nconcept: [\n"),
        ("escapes in a key", "\"\\e]0;owned\\a\": 1\nconcept: star\n"),
        (
            "escapes in a value",
            "concept: \"\\e[31m\\x9b31m\"\ninputs: { photos: images/ }\nstages: { crop: { images: photos } }\n",
        ),
        ("a raw escape in a value", "concept: star\nstages: { crop: { images: \u{1b}[2J } }\n"),
        ("a raw C1 control", "concept: star\nstages: { \u{9b}31m: { images: photos } }\n"),
        ("a turned line", "concept: star\nstages: { \u{202e}porc: { images: photos } }\n"),
        ("a turned line in an unknown key", "\u{2066}\u{202e}evil: 1\nconcept: star\n"),
        ("line separators", "concept: star\u{2028}stages:\u{2029} {}\u{85}\n"),
        ("a carriage return over the line", "concept: star\r\u{1b}[2Kstages: { x: { kind: crap\rcrop } }\n"),
        ("two documents", "concept: star\n---\nconcept: two\n"),
        ("a directive", "%YAML 9.9\n%TAG ! tag:x,1:\n---\nconcept: star\n"),
        ("tabs", "\tconcept:\tstar\n"),
        ("infinities", "concept: .inf\nseed: .nan\nstages: { crop: { images: photos } }\n"),
        (
            "a seed beyond 64 bits",
            "concept: star\nseed: 99999999999999999999999999\ninputs: { photos: images/ }\nstages: { crop: { images: photos } }\n",
        ),
    ] {
        cases.push(pipeline(name, text.to_string()));
    }
    let utf16 =
        |ground: &Ground| ground.write("pipeline.yaml", PIPELINE.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<u8>>());
    cases.push(Case::new(FAMILY, "UTF-16", utf16).lines(LINES).refused_by_all());
    let binary = |ground: &Ground| ground.write("pipeline.yaml", (0..=255).collect::<Vec<u8>>().repeat(1000));
    cases.push(Case::new(FAMILY, "every byte", binary).lines(LINES).refused_by_all());
    for (name, bytes) in crate::hostile::damage::changes("yaml", PIPELINE.as_bytes(), 20) {
        let build = move |ground: &Ground| {
            ground.photos();
            ground.write("pipeline.yaml", &bytes);
        };
        cases.push(Case::new(FAMILY, name, build).lines(&["check", "plan", "run"]));
    }
    cases
}

/// Names that are paths, and inputs that are elsewhere.
fn places() -> Vec<Case> {
    let mut cases = Vec::new();
    for name in [
        "../../victim/made",
        "/tmp/loramill-hostile-made",
        "..",
        ".",
        "",
        "~",
        "a/b",
        ".git",
        "cache",
        "-rf",
        "a\u{0}b",
        "$(touch executed)",
    ] {
        let quoted = serde_json::to_string(name).expect("text");
        cases.push(stages(
            format!("a stage called {}", name.escape_debug()),
            &format!("  {quoted}: {{ kind: crop, images: photos }}\n"),
        ));
        let concept = PIPELINE.replace("concept: star", &format!("concept: {quoted}"));
        cases.push(pipeline(format!("a concept called {}", name.escape_debug()), concept));
    }
    for path in [
        "/dev/zero",
        "/dev/tty",
        "/proc/self/mem",
        "/proc/self/fd/0",
        "/proc/kcore",
        "/sys/kernel",
        "model://../../victim/secret.txt",
        "model:///etc/passwd",
        "model://a/../../../../etc/passwd",
        "hf://x/../../../etc",
        "file:///etc/passwd",
        "http://127.0.0.1:9/x",
        "~root/x",
        "\\\\host\\share",
        "images/../../../../../../../dev/zero",
        "a\u{1b}]0;owned\u{7}",
        "$HOME",
        "${HOME}",
        "images/\u{0}",
        "-",
        "|touch executed",
    ] {
        let quoted = serde_json::to_string(path).expect("text");
        let photos = PIPELINE.replace("images/", &quoted);
        cases.push(pipeline(format!("photos in {}", path.escape_debug()), photos).may_read());
        let text =
            format!("concept: star\ninputs: {{ base: {quoted} }}\nstages: {{ convert: {{ from: base, to: safetensors }} }}\n");
        cases.push(pipeline(format!("a model in {}", path.escape_debug()), text).may_read());
    }
    cases.push(pipeline("a thousand patterns", PIPELINE.replace("images/", &format!("images/{}x", "**/".repeat(1000)))));
    cases.push(pipeline("patterns that multiply", PIPELINE.replace("images/", &format!("images/{}x", "*a".repeat(100)))));
    let set = |ground: &Ground| ground.fresh();
    let lines: &[&[&str]] = &[
        &["run", "--set", "resize.size=99999999999999999999"],
        &["run", "--set", "stages.x=../../victim"],
        &["run", "--set", "concept=../../victim"],
        &["run", "--set", "\u{1b}[31m=1"],
        &["run", "--force", "resize=[[[[[["],
        &["explain", "../../victim/secret.txt"],
        &["explain", "/dev/zero"],
        &["skip", "../../victim/secret"],
        &["skip", "\u{1b}]0;owned\u{7}"],
        &["edits", "drop", "../../victim/captions/star-00"],
        &["edits", "show", "\u{1b}]0;owned\u{7}"],
        &["restore", "--upload-pack=touch"],
        &["restore", "\u{1b}]0;owned\u{7}"],
        &["gc", "--forget", "../../victim"],
        &["stages", "\u{1b}]0;owned\u{7}"],
        &["do", "convert", "from=/dev/zero", "to=safetensors", "-o", "out"],
        &["do", "crop", "images=images", "-o", "\u{1b}[31m"],
        &["do", "\u{202e}porc", "images=images", "-o", "out"],
    ];
    cases.push(lines.iter().fold(Case::new(FAMILY, "command lines", set), |case, line| case.line(line)).may_read());
    cases
}

/// Params beyond all measure.
fn numbers() -> Vec<Case> {
    let mut cases = Vec::new();
    for size in [
        "0",
        "-1",
        "1",
        "100000",
        "1000000",
        "4294967295",
        "18446744073709551615",
        "1e300",
        ".nan",
        ".inf",
        "[1, 100000000]",
        "null",
        "\"x\"",
    ] {
        cases.push(stages(format!("a size of {size}"), &format!("  resize: {{ images: photos, size: {size} }}\n")));
    }
    for drawn in [
        "[0, 0, 1e308, 1e308]",
        "[-1e308, -1e308, 1e308, 1e308]",
        "[.nan, 0, 1, 1]",
        "[0, 0, .inf, 1]",
        "[0, 0, 1e-300, 1e-300]",
        "[5, 5, -5, -5]",
        "[1000000, 1000000, 5, 5]",
        "{ x: 0.5, y: 0.5, w: 1e-9, h: 1e-9 }",
        "{ x: 5, y: 5, w: 5, h: 5 }",
        "[0, 0, 4294967296, 4294967296]",
        "[]",
        "{ \"\\e[31m\": 1 }",
    ] {
        let build = move |ground: &Ground| {
            ground.photos();
            ground.write("pipeline.yaml", "concept: star\ninputs: { photos: images/ }\nstages:\n  crop: { images: photos }\n  resize: { images: crop, size: 32 }\n");
            ground.write("crops.yaml", format!("star-00: {drawn}\n"));
        };
        cases.push(Case::new(FAMILY, format!("a box of {drawn}"), build).lines(&["check", "run"]));
    }
    for retry in ["-1", "4294967296", "1000000"] {
        cases.push(stages(format!("retried {retry} times"), &format!("  crop: {{ images: photos, retry: {retry} }}\n")));
    }
    cases
}
