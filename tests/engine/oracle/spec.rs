//! Random pipelines as data, and as text. Unaware of what is fresh.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use crate::oracle::chance::Chance;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Echo,
    Cut,
    Twin,
    Join,
    Caption,
    Gather,
    Learn,
    Draw,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chosen {
    All,
    Epoch(u64),
    Last,
}

/// A stage as the file has it. A kind uses the params that it knows.
#[derive(Clone, Debug)]
pub struct StageSpec {
    pub name: String,
    pub kind: Kind,
    /// An input or a stage before.
    pub reads: String,
    /// `reads[*]`
    pub collects: bool,
    /// Of checkpoints.
    pub chosen: Chosen,
    /// `suffix` of echo, `prefix` of caption, `sign` of twin.
    pub text: String,
    /// `letters` of cut, `epochs` of learn, `rate` of learn with a matrix.
    pub number: u64,
    pub save_every: u64,
    pub rate: u64,
    pub prompts: Vec<&'static str>,
    pub with_base: bool,
    /// In no key.
    pub speed: u64,
    /// The epoch at which learn fails; in no key.
    pub fail_at: u64,
    /// Values of the one param that it varies.
    pub matrix: Vec<String>,
    pub by_default: bool,
}

#[derive(Clone, Debug)]
pub struct Spec {
    /// Each after the one it reads.
    pub stages: Vec<StageSpec>,
    /// Names of photos.
    pub skip: BTreeSet<String>,
    /// What `echo` calls its way to work.
    pub version: u32,
    /// Changes nothing.
    pub comment: String,
}

/// A stage with the value that its matrix, or that of one it reads, gives it.
#[derive(Clone, Debug)]
pub struct Instance {
    /// `s1[suffix=A]`
    pub name: String,
    /// With the value put in.
    pub stage: StageSpec,
    /// The instances it reads with their labels; none for one that reads photos.
    pub producers: Vec<(String, String)>,
    /// Below `out/`.
    pub folder: String,
}

impl Kind {
    pub const fn word(self) -> &'static str {
        match self {
            Kind::Echo => "echo",
            Kind::Cut => "cut",
            Kind::Twin => "twin",
            Kind::Join => "join",
            Kind::Caption => "caption",
            Kind::Gather => "gather",
            Kind::Learn => "learn",
            Kind::Draw => "draw",
        }
    }

    /// Runs once over all that it reads.
    pub const fn is_whole(self) -> bool {
        matches!(self, Kind::Gather | Kind::Learn)
    }

    /// Its items are photos still, each with what came with it.
    pub const fn maps_photos(self) -> bool {
        matches!(self, Kind::Echo | Kind::Cut | Kind::Twin | Kind::Join | Kind::Caption)
    }

    /// The param that its matrix varies.
    pub const fn axis(self) -> Option<&'static str> {
        match self {
            Kind::Echo => Some("suffix"),
            Kind::Cut => Some("letters"),
            Kind::Learn => Some("rate"),
            _ => None,
        }
    }

    pub const fn written(self) -> &'static str {
        match self {
            Kind::Caption => "caption",
            Kind::Learn => "lora",
            _ => "image",
        }
    }
}

impl StageSpec {
    fn new(name: String, kind: Kind, reads: String) -> Self {
        Self {
            name,
            kind,
            reads,
            collects: false,
            chosen: Chosen::All,
            text: "A".to_string(),
            number: 2,
            save_every: 2,
            rate: 1,
            prompts: vec!["a"],
            with_base: false,
            speed: 0,
            fail_at: 0,
            matrix: Vec::new(),
            by_default: true,
        }
    }

    fn with_value(&self, value: &str) -> Self {
        let mut stage = self.clone();
        match self.kind {
            Kind::Echo => stage.text = value.to_string(),
            Kind::Cut => stage.number = value.parse().expect("a number"),
            _ => stage.rate = value.parse().expect("a number"),
        }
        stage
    }

    fn line(&self, log: &str) -> String {
        let mut reads = self.reads.clone();
        reads.push_str(if self.collects { "[*]" } else { "" });
        match self.chosen {
            Chosen::All => {}
            Chosen::Epoch(epoch) => reads.push_str(&format!("@{epoch}")),
            Chosen::Last => reads.push_str("@last"),
        }
        let input = if self.kind == Kind::Draw { "lora" } else { "images" };
        let mut line = format!("  {}: {{ kind: {}, {input}: \"{reads}\", log: \"{log}\"", self.name, self.kind.word());
        let varies = |name: &str| !self.matrix.is_empty() && self.kind.axis() == Some(name);
        let mut put = |name: &str, value: String| {
            if !varies(name) {
                let _ = write!(line, ", {name}: {value}");
            }
        };
        match self.kind {
            Kind::Echo => {
                put("suffix", format!("\"{}\"", self.text));
                put("speed", self.speed.to_string());
            }
            Kind::Cut => put("letters", self.number.to_string()),
            Kind::Twin => put("sign", format!("\"{}\"", self.text)),
            Kind::Caption => put("prefix", format!("\"{}\"", self.text)),
            Kind::Learn => {
                put("epochs", self.number.to_string());
                put("save_every", self.save_every.to_string());
                put("rate", self.rate.to_string());
                put("fail_at", self.fail_at.to_string());
                if self.with_base {
                    put("base", "base".to_string());
                }
            }
            Kind::Draw => put("prompts", format!("[{}]", self.prompts.join(", "))),
            Kind::Join | Kind::Gather => {}
        }
        if let (Some(axis), false) = (self.kind.axis(), self.matrix.is_empty()) {
            let _ = write!(line, ", matrix: {{ {axis}: [{}] }}", self.matrix.join(", "));
        }
        if !self.by_default {
            line.push_str(", default: false");
        }
        line + " }\n"
    }
}

impl Spec {
    /// Two to seven stages, each reading photos or a stage before.
    pub fn random(chance: &mut Chance) -> Self {
        let mut spec = Self { stages: Vec::new(), skip: BTreeSet::new(), version: 1, comment: String::new() };
        let count = 2 + chance.below(6);
        for number in 0..count {
            let stage = spec.random_stage(number, chance);
            spec.stages.push(stage);
        }
        spec
    }

    fn random_stage(&self, number: usize, chance: &mut Chance) -> StageSpec {
        let reader = (!self.stages.is_empty() && chance.percent(80)).then(|| chance.pick(&self.stages));
        let of_photos = reader.is_none_or(|stage| self.is_of_photos(&stage.name));
        let reads = reader.map_or_else(|| "photos".to_string(), |stage| stage.name.clone());
        let kind = match reader {
            Some(stage) if stage.kind == Kind::Learn => Kind::Draw,
            _ if of_photos => *chance.pick(&[
                Kind::Echo,
                Kind::Echo,
                Kind::Cut,
                Kind::Cut,
                Kind::Twin,
                Kind::Join,
                Kind::Caption,
                Kind::Caption,
                Kind::Gather,
                Kind::Learn,
                Kind::Learn,
            ]),
            _ => *chance.pick(&[Kind::Echo, Kind::Cut, Kind::Twin, Kind::Gather]),
        };
        let is_varied = reader.is_some_and(|stage| !self.values(&stage.name).is_empty());
        let has_captions = self.stages.iter().any(|stage| stage.kind == Kind::Caption);
        // People edit the texts of one stage, and these have one place.
        let kind = if kind == Kind::Caption && (has_captions || is_varied) { Kind::Join } else { kind };
        let name = if kind == Kind::Caption { "caption".to_string() } else { format!("s{number}") };
        let mut stage = StageSpec::new(name, kind, reads);
        stage.collects = is_varied && chance.percent(40);
        if kind == Kind::Draw {
            stage.chosen = chance.pick(&[Chosen::All, Chosen::All, Chosen::Epoch(2), Chosen::Last]).clone();
        }
        stage.text = match kind {
            Kind::Twin => format!("t{number}"),
            _ => chance.pick(&["", "A", "B"]).to_string(),
        };
        stage.number = if kind == Kind::Learn { *chance.pick(&[2, 4]) } else { *chance.pick(&[1, 2, 9]) };
        stage.save_every = *chance.pick(&[1, 2]);
        stage.with_base = chance.percent(40);
        stage.by_default = chance.percent(85);
        let any_matrix = self.stages.iter().any(|stage| !stage.matrix.is_empty());
        if !any_matrix && kind.axis().is_some() && chance.percent(30) {
            stage.matrix = two_values(kind, chance);
        }
        stage
    }

    /// Whether its items are photos still.
    pub fn is_of_photos(&self, name: &str) -> bool {
        let stage = |name: &str| self.stages.iter().find(|stage| stage.name == name);
        match stage(name) {
            None => true,
            Some(stage) => stage.kind.maps_photos() && self.is_of_photos(&stage.reads),
        }
    }

    pub fn has_captions(&self) -> bool {
        self.stages.iter().any(|stage| stage.kind == Kind::Caption)
    }

    /// The values of a stage: those of its matrix, or of one that it follows.
    fn values(&self, name: &str) -> Vec<(String, String)> {
        let Some(stage) = self.stages.iter().find(|stage| stage.name == name) else { return Vec::new() };
        let axis = stage.kind.axis().unwrap_or_default();
        if !stage.matrix.is_empty() {
            return stage.matrix.iter().map(|value| (format!("{axis}={value}"), value.clone())).collect();
        }
        if stage.collects { Vec::new() } else { self.values(&stage.reads) }
    }

    /// The variants of all stages.
    pub fn instances(&self) -> Vec<Instance> {
        let mut instances = Vec::new();
        for stage in &self.stages {
            let called = |name: &str, label: &str| if label.is_empty() { name.to_string() } else { format!("{name}[{label}]") };
            let values = self.values(&stage.name);
            let theirs = self.values(&stage.reads);
            let plain = [(String::new(), String::new())];
            for (label, value) in if values.is_empty() { &plain[..] } else { &values } {
                let producers = match (self.stages.iter().any(|other| other.name == stage.reads), theirs.is_empty()) {
                    (false, _) => Vec::new(),
                    (true, true) => vec![(stage.reads.clone(), String::new())],
                    (true, false) if stage.collects => {
                        theirs.iter().map(|(label, _)| (called(&stage.reads, label), label.clone())).collect()
                    }
                    (true, false) => vec![(called(&stage.reads, label), String::new())],
                };
                let with_value = if stage.matrix.is_empty() { stage.clone() } else { stage.with_value(value) };
                let folder = if label.is_empty() { stage.name.clone() } else { format!("{}/{label}", stage.name) };
                instances.push(Instance { name: called(&stage.name, label), stage: with_value, producers, folder });
            }
        }
        instances
    }

    /// The file. Each stage has a log of its own below `logs`.
    pub fn to_text(&self, logs: &str) -> String {
        let skip: Vec<&str> = self.skip.iter().map(String::as_str).collect();
        let mut text = format!("{}concept: test\nskip: [{}]\n", self.comment, skip.join(", "));
        text.push_str("inputs: { photos: images/, base: base.safetensors }\nstages:\n");
        for stage in &self.stages {
            text.push_str(&stage.line(&format!("{logs}/{}", stage.name)));
        }
        text
    }
}

/// Two values for the matrix of a kind.
pub fn two_values(kind: Kind, chance: &mut Chance) -> Vec<String> {
    let all: &[&str] = if kind == Kind::Echo { &["A", "B", "C"] } else { &["1", "2", "3"] };
    let left_out = chance.below(all.len());
    all.iter().enumerate().filter(|(index, _)| *index != left_out).map(|(_, value)| value.to_string()).collect()
}
