//! Writes pickles and zip archives in which every field may lie. Unaware of what is hostile about it.

use std::io::Write as _;

use flate2::write::DeflateEncoder;
use flate2::{Compression, Crc};

/// A pickle under construction. The names are those of Python's `pickletools`.
#[derive(Clone, Default)]
pub struct Pickle(Vec<u8>);

impl Pickle {
    pub fn protocol(version: u8) -> Self {
        Self(vec![0x80, version])
    }

    /// Opcodes as they are.
    pub fn op(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// BINUNICODE.
    pub fn text(self, text: &str) -> Self {
        self.op([b'X']).op((text.len() as u32).to_le_bytes()).op(text)
    }

    /// GLOBAL.
    pub fn global(self, module: &str, name: &str) -> Self {
        self.op(format!("c{module}\n{name}\n"))
    }

    /// LONG1 of 8 bytes.
    pub fn int(self, value: i64) -> Self {
        self.op([0x8a, 8]).op(value.to_le_bytes())
    }

    /// The persistent id of a storage.
    pub fn storage(self, class: &str, key: &str, elements: i64) -> Self {
        self.op("(").text("storage").global("torch", class).text(key).text("cpu").int(elements).op("tQ")
    }

    pub fn ints(self, values: &[i64]) -> Self {
        values.iter().fold(self.op("("), |pickle, value| pickle.int(*value)).op("t")
    }

    /// A tensor of floats that shows `shape` of the storage `key`.
    pub fn tensor(self, key: &str, elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Self {
        self.global("torch._utils", "_rebuild_tensor_v2")
            .op("(")
            .storage("FloatStorage", key, elements)
            .int(offset)
            .ints(shape)
            .ints(strides)
            .op(b"\x89}tR")
    }

    pub fn then(self, more: &Self) -> Self {
        self.op(&more.0)
    }

    /// STOP.
    pub fn end(self) -> Vec<u8> {
        self.op(".").0
    }
}

/// What a header of a zip member says.
#[derive(Clone, Debug, Default)]
pub struct Header {
    pub name: Vec<u8>,
    pub flags: u16,
    /// 0 stored, 8 deflated.
    pub method: u16,
    pub crc: u32,
    /// In the file, and after inflating; bytes.
    pub packed: u32,
    pub size: u32,
    pub extra: Vec<u8>,
}

/// A member: its two headers, which need not agree, and its bytes in the file.
#[derive(Clone, Debug, Default)]
pub struct Member {
    pub local: Header,
    pub central: Header,
    pub data: Vec<u8>,
    /// Where the directory says that it lies.
    pub offset: Option<u32>,
}

impl Member {
    pub fn stored(name: &str, data: &[u8]) -> Self {
        let mut crc = Crc::new();
        crc.update(data);
        let length = data.len() as u32;
        let header = Header { name: name.into(), crc: crc.sum(), packed: length, size: length, ..Header::default() };
        Self { local: header.clone(), central: header, data: data.to_vec(), offset: None }
    }

    pub fn deflated(name: &str, contents: &[u8]) -> Self {
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::best());
        encoder.write_all(contents).and_then(|()| encoder.try_finish()).expect("into memory");
        let data = encoder.finish().expect("into memory");
        let mut member = Self::stored(name, contents);
        member.both(|header| (header.method, header.packed) = (8, data.len() as u32));
        Self { data, ..member }
    }

    pub fn both(&mut self, change: impl Fn(&mut Header)) {
        change(&mut self.local);
        change(&mut self.central);
    }

    pub fn changed(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }
}

/// What the end of a zip says of its directory; `None` is the truth.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub entries: Option<u16>,
    pub size: Option<u32>,
    pub offset: Option<u32>,
    pub disk: u16,
    pub comment_length: Option<u16>,
    pub comment: Vec<u8>,
    /// Between directory and end.
    pub before: Vec<u8>,
}

pub fn zip(members: &[Member], end: &End) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut directory = Vec::new();
    for member in members {
        let offset = member.offset.unwrap_or(bytes.len() as u32);
        bytes.extend(b"PK\x03\x04\x14\0");
        bytes.extend(fields(&member.local));
        bytes.extend(&member.local.name);
        bytes.extend(&member.local.extra);
        bytes.extend(&member.data);
        directory.extend(b"PK\x01\x02\x14\x03\x14\0");
        directory.extend(fields(&member.central));
        // No comment, disk 0, no attributes.
        directory.extend([0; 10]);
        directory.extend(offset.to_le_bytes());
        directory.extend(&member.central.name);
        directory.extend(&member.central.extra);
    }
    let start = bytes.len() as u32;
    let entries = end.entries.unwrap_or(members.len() as u16);
    bytes.extend(&directory);
    bytes.extend(&end.before);
    bytes.extend(b"PK\x05\x06");
    bytes.extend(end.disk.to_le_bytes());
    bytes.extend(end.disk.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(entries.to_le_bytes());
    bytes.extend(end.size.unwrap_or(directory.len() as u32).to_le_bytes());
    bytes.extend(end.offset.unwrap_or(start).to_le_bytes());
    bytes.extend(end.comment_length.unwrap_or(end.comment.len() as u16).to_le_bytes());
    bytes.extend(&end.comment);
    bytes
}

/// Flags, method, time, sums and lengths, as both headers have them.
fn fields(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(header.flags.to_le_bytes());
    bytes.extend(header.method.to_le_bytes());
    bytes.extend([0, 0, 0x21, 0]);
    for number in [header.crc, header.packed, header.size] {
        bytes.extend(number.to_le_bytes());
    }
    bytes.extend((header.name.len() as u16).to_le_bytes());
    bytes.extend((header.extra.len() as u16).to_le_bytes());
    bytes
}

/// The members of a file as `torch.save` makes it.
pub fn torch_members(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<Member> {
    let mut members = vec![Member::stored("a/data.pkl", pickle), Member::stored("a/version", b"3\n")];
    members.extend(storages.iter().map(|(key, bytes)| Member::stored(&format!("a/data/{key}"), bytes)));
    members
}

/// A file as `torch.save` makes it.
pub fn torch(pickle: &[u8], storages: &[(&str, Vec<u8>)]) -> Vec<u8> {
    zip(&torch_members(pickle, storages), &End::default())
}

/// A file as `torch.save` made it before 1.6: five pickles, then each storage after its number of elements.
pub fn legacy_torch(parts: [Vec<u8>; 5], storages: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = parts.concat();
    for storage in storages {
        bytes.extend((storage.len() as u64 / 4).to_le_bytes());
        bytes.extend(storage);
    }
    bytes
}

/// The parts of a harmless older file around `object`, with no storages.
pub fn legacy_parts(object: Vec<u8>) -> [Vec<u8>; 5] {
    let magic = Pickle::protocol(2).op(b"\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19").end();
    let protocol = Pickle::protocol(2).op(b"M\xe9\x03").end();
    [magic, protocol, Pickle::protocol(2).op("}").end(), object, Pickle::protocol(2).op("]").end()]
}
