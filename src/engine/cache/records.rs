//! Records: which key gave which outputs. Unaware of how a log lies on the disk and of what a key stands for.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::cache::artifact::{Artifact, Fields};
use crate::cache::digest::Digest;
use crate::cache::encoding::{Reader, Writer};

/// What one key gave. A key may have several, from devices that give other bits.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    pub key: Digest,
    /// What the key was made of, in the order of the manifest: names and canonical values. `explain` is the difference of two
    /// such lists.
    pub components: Vec<(String, String)>,
    pub outputs: Vec<Output>,
    /// How long it took.
    pub seconds: f64,
    /// How the user ended it early: "stopped at epoch 43 of 100".
    pub ended: Option<String>,
    /// Things that do not decide the result but may explain it: device, build, threads.
    pub facts: BTreeMap<String, String>,
}

/// One output of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    pub name: OutputName,
    pub origin: Option<OutputName>,
    pub fields: Fields,
    pub attributes: BTreeMap<String, String>,
}

/// The name of an output, written so that it follows when the piece of work it came from gets another name: names are in no key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum OutputName {
    /// The name of the piece of work with this text after it: `-flip`, or nothing.
    Suffix(String),
    /// A name of its own: `grid`.
    Own(String),
}

impl OutputName {
    /// How `name` relates to the piece of work called `work`.
    pub fn of(name: &str, work: &str) -> Self {
        match name.strip_prefix(work) {
            Some(suffix) => Self::Suffix(suffix.to_string()),
            None => Self::Own(name.to_string()),
        }
    }

    /// The name, now that the piece of work is called `work`.
    pub fn resolve(&self, work: &str) -> String {
        match self {
            Self::Suffix(suffix) => format!("{work}{suffix}"),
            Self::Own(name) => name.clone(),
        }
    }
}

/// Whether a record says all that its key gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Completeness {
    Complete,
    /// Published before the end.
    Partial,
}

impl Record {
    /// Of all outputs.
    pub fn artifacts(&self) -> impl Iterator<Item = &Artifact> {
        self.outputs.iter().flat_map(|output| output.fields.values())
    }

    /// All but the key, which the log stores beside it. The same record always gives the same bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::default();
        writer.number(self.components.len() as u64);
        for (name, value) in &self.components {
            writer.text(name);
            writer.text(value);
        }
        writer.number(self.outputs.len() as u64);
        for output in &self.outputs {
            encode_name(&mut writer, Some(&output.name));
            encode_name(&mut writer, output.origin.as_ref());
            writer.artifacts(&output.fields);
            writer.texts(&output.attributes);
        }
        writer.float(self.seconds);
        writer.optional_text(self.ended.as_deref());
        writer.texts(&self.facts);
        writer.bytes
    }

    /// Reads what `encode` gave; an error if the bytes are not exactly one record.
    pub(crate) fn decode(key: Digest, bytes: &[u8]) -> Result<Self> {
        let mut reader = Reader::new(bytes);
        let count = reader.count()?;
        let components =
            (0..count).map(|_| Ok((reader.text()?.to_string(), reader.text()?.to_string()))).collect::<Result<_>>()?;
        let outputs = decode_outputs(&mut reader)?;
        let seconds = reader.float()?;
        let ended = reader.optional_text()?.map(str::to_string);
        let facts = reader.texts()?;
        reader.finish()?;
        Ok(Self { key, components, outputs, seconds, ended, facts })
    }

    /// The outputs alone of an encoded record; what follows them is not looked at.
    pub(crate) fn decode_outputs(bytes: &[u8]) -> Result<Vec<Output>> {
        let mut reader = Reader::new(bytes);
        for _ in 0..reader.count()? {
            reader.text()?;
            reader.text()?;
        }
        decode_outputs(&mut reader)
    }
}

fn decode_outputs(reader: &mut Reader<'_>) -> Result<Vec<Output>> {
    let count = reader.count()?;
    (0..count)
        .map(|_| {
            let Some(name) = decode_name(reader)? else { bail!("an output has no name") };
            let origin = decode_name(reader)?;
            Ok(Output { name, origin, fields: reader.artifacts()?, attributes: reader.texts()? })
        })
        .collect()
}

fn encode_name(writer: &mut Writer, name: Option<&OutputName>) {
    match name {
        None => writer.number(0),
        Some(OutputName::Suffix(text)) => {
            writer.number(1);
            writer.text(text);
        }
        Some(OutputName::Own(text)) => {
            writer.number(2);
            writer.text(text);
        }
    }
}

fn decode_name(reader: &mut Reader<'_>) -> Result<Option<OutputName>> {
    Ok(match reader.number()? {
        0 => None,
        1 => Some(OutputName::Suffix(reader.text()?.to_string())),
        2 => Some(OutputName::Own(reader.text()?.to_string())),
        other => bail!("unknown form {other} of a name"),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn sample(number: u64) -> Record {
        let key = Digest::of(&number.to_le_bytes());
        let image = Artifact { digest: Digest::of(b"image"), size: number, extension: "png".into() };
        let output = |name: &str| Output {
            name: OutputName::of(name, "IMG_1"),
            origin: (name != "IMG_1").then(|| OutputName::of("IMG_1", "IMG_1")),
            fields: Fields::from([("image", image.clone())]),
            attributes: BTreeMap::from([("epoch".to_string(), number.to_string())]),
        };
        Record {
            key,
            components: vec![("kind".into(), "flip".into()), ("input image".into(), Digest::of(b"photo").to_hex())],
            outputs: vec![output("IMG_1"), output("IMG_1-flip"), output("grid")],
            seconds: 0.25,
            ended: (number % 2 == 1).then(|| "stopped at epoch 43 of 100".to_string()),
            facts: BTreeMap::from([("device".to_string(), "cpu".to_string())]),
        }
    }

    #[test]
    fn a_record_comes_back_as_it_was() {
        for number in 0..2 {
            let record = sample(number);
            assert_eq!(Record::decode(record.key, &record.encode()).unwrap(), record);
        }
    }

    #[test]
    fn a_record_cut_anywhere_is_an_error() {
        let bytes = sample(1).encode();
        for length in 0..bytes.len() {
            assert!(Record::decode(sample(1).key, &bytes[..length]).is_err(), "cut at {length}");
        }
    }

    #[test]
    fn outputs_follow_the_name_of_their_work() {
        let name = OutputName::of("IMG_1-flip", "IMG_1");
        assert_eq!(name.resolve("beach/7"), "beach/7-flip");
        assert_eq!(OutputName::of("grid", "IMG_1").resolve("beach/7"), "grid");
    }
}
