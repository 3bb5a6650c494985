//! Zip archives that lie in one field, around a harmless model.

use crate::hostile::archives::{End, Member, torch, torch_members, zip};
use crate::hostile::bombs::deflated_zeros;
use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::Ground;
use crate::hostile::pickles::{begun, model, storage};

const FAMILY: &str = "zip";

/// The members of a harmless model: its pickle, a version, four floats.
fn members() -> Vec<Member> {
    torch_members(&begun().end(), &storage())
}

/// What is different about an archive.
type Change = fn(&mut Vec<Member>, &mut End);

/// Archives that another reader would take for other contents: refused.
const REFUSED: &[(&str, Change)] = &[
    ("crc of the pickle", |members, _| members[0].both(|header| header.crc ^= 1)),
    ("crc of a tensor", |members, _| members[2].both(|header| header.crc ^= 1)),
    ("two pickles of one name", |members, _| members.push(members[0].clone())),
    ("two storages of one name", |members, _| members.push(Member::stored("a/data/0", &[1; 16]))),
    ("overlapping members", |members, _| members[2].offset = Some(0)),
    ("a member inside another", |members, _| members[1].offset = Some(40)),
    ("a member in the directory", |members, _| members[2].offset = Some(u32::MAX)),
    ("encrypted", |members, _| members[0].both(|header| header.flags |= 1)),
    ("strongly encrypted", |members, _| members[0].both(|header| header.flags |= 0x41)),
    ("compressed by an unknown method", |members, _| members[0].both(|header| header.method = 99)),
    ("compressed by bzip2", |members, _| members[2].both(|header| header.method = 12)),
    ("compressed by zstd", |members, _| members[2].both(|header| header.method = 93)),
    ("stored with two sizes", |members, _| members[2].both(|header| header.size = 1 << 30)),
    ("stored with a size of 4 GB", |members, _| {
        members[2].both(|header| (header.size, header.packed) = (u32::MAX - 1, u32::MAX - 1));
    }),
    ("no pickle", |members, _| drop(members.remove(0))),
    ("no members", |members, _| members.clear()),
    ("fewer members than it says", |_, end| end.entries = Some(9)),
    ("fewer members counted than there are", |_, end| end.entries = Some(1)),
    ("65,535 members", |_, end| end.entries = Some(u16::MAX)),
    ("a directory behind the end", |_, end| end.offset = Some(u32::MAX - 1)),
    ("a directory at the start", |_, end| end.offset = Some(0)),
    ("on another disk", |_, end| end.disk = 3),
];

/// Archives of which more than one reading is right, or whose lie concerns nobody.
const EITHER: &[(&str, Change)] = &[
    ("one name in two cases of slashes", |members, _| members.push(Member::stored("a\\data.pkl", b"}."))),
    ("another name in the local header", |members, _| members[0].local.name = b"a/data.pkx".to_vec()),
    ("a longer name in the local header", |members, _| members[0].local.name = b"a/data.pkl-and-more".to_vec()),
    ("a directory of 4 GB", |_, end| end.size = Some(u32::MAX - 1)),
    ("crc in the local header alone", |members, _| members[2].local.crc ^= 1),
    ("crc in the directory alone", |members, _| members[2].central.crc ^= 1),
    ("size in the local header alone", |members, _| members[2].local.size = 1 << 30),
    ("method in the local header alone", |members, _| members[2].local.method = 8),
    ("flags in the local header alone", |members, _| members[2].local.flags = 1),
    ("a data descriptor that is not there", |members, _| members[2].both(|header| header.flags |= 8)),
    ("a name with a null", |members, _| members[1].both(|header| header.name = b"a/ver\0sion".to_vec())),
    ("a name that is no text", |members, _| members[1].both(|header| header.name = b"a/\xff\xfe".to_vec())),
    ("a name with an escape", |members, _| members[1].both(|header| header.name = b"a/\x1b]0;owned\x07".to_vec())),
    ("no name", |members, _| members[1].both(|header| header.name.clear())),
    ("a name of 65,535 bytes", |members, _| members[1].both(|header| header.name = vec![b'n'; 65_535])),
    ("extra fields of 65,535 bytes", |members, _| members[1].both(|header| header.extra = vec![0; 65_535])),
    ("an extra field longer than it is", |members, _| members[1].both(|header| header.extra = b"\x01\0\xff\xffxx".to_vec())),
    ("a 64-bit size of everything", |members, _| {
        members[2].central.size = u32::MAX;
        members[2].central.packed = u32::MAX;
        members[2].central.extra = [&b"\x01\0\x10\0"[..], &[0xff; 16]].concat();
    }),
    ("a 64-bit offset of everything", |members, _| {
        members[2].offset = Some(u32::MAX);
        members[2].central.extra = [&b"\x01\0\x08\0"[..], &[0xff; 8]].concat();
    }),
    ("a comment longer than the file", |_, end| end.comment_length = Some(u16::MAX)),
    ("a comment that is another end", |_, end| {
        end.comment = [&b"PK\x05\x06"[..], &[0; 18]].concat();
    }),
    ("a comment of 65,535 bytes", |_, end| end.comment = vec![b'c'; 65_535]),
    ("a 64-bit end that is nowhere", |_, end| end.before = [&b"PK\x06\x07\0\0\0\0"[..], &[0xff; 8], b"\x01\0\0\0"].concat()),
    ("a 64-bit end at the start", |_, end| end.before = [&b"PK\x06\x07\0\0\0\0"[..], &[0; 8], b"\x01\0\0\0"].concat()),
    ("a 64-bit end that claims everything", |members, end| {
        let start: usize = members.iter().map(|member| 30 + member.local.name.len() + member.data.len()).sum();
        let directory: usize = members.iter().map(|member| 46 + member.central.name.len()).sum();
        let at = (start + directory) as u64;
        let record = [&b"PK\x06\x06\x2c\0\0\0\0\0\0\0\x2d\0\x2d\0"[..], &[0; 8], &[0xff; 32]].concat();
        end.before = [&record[..], b"PK\x06\x07\0\0\0\0", &at.to_le_bytes(), b"\x01\0\0\0"].concat();
        (end.entries, end.size, end.offset) = (Some(u16::MAX), Some(u32::MAX), Some(u32::MAX));
    }),
    ("bytes between directory and end", |_, end| end.before = vec![0; 1000]),
    ("two folders", |members, _| members.push(Member::stored("b/data.pkl", b"}."))),
    ("a folder in a folder", |members, _| members.iter_mut().for_each(|m| m.both(|h| h.name = [b"b/", &h.name[..]].concat()))),
    ("big-endian", |members, _| members.push(Member::stored("a/byteorder", b"big"))),
    ("a byte order of a megabyte", |members, _| members.push(Member::stored("a/byteorder", &vec![b'b'; 1 << 20]))),
];

/// Names that would lie elsewhere if anybody unpacked them.
const NAMES: &[&str] =
    &["../../victim/made", "/tmp/loramill-hostile-made", "a/../../../victim/made", "C:\\made", "a/data/../../../victim/made"];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (name, change) in REFUSED.iter().chain(EITHER) {
        let build = move |ground: &Ground| {
            let (mut members, mut end) = (members(), End::default());
            change(&mut members, &mut end);
            model(ground, &zip(&members, &end));
        };
        let case = Case::new(FAMILY, *name, build).lines(&["run", "explain model.ckpt"]);
        let must_be_refused = REFUSED.iter().any(|(refused, _)| refused == name);
        cases.push(if must_be_refused { case.refused("") } else { case });
    }
    for name in NAMES {
        let build = move |ground: &Ground| {
            let mut members = members();
            members.push(Member::stored(name, b"made"));
            model(ground, &zip(&members, &End::default()));
        };
        cases.push(Case::new(FAMILY, format!("a member called {name}"), build).lines(&["run", "explain model.ckpt"]));
    }
    cases.extend(deflated());
    let whole = zip(&members(), &End::default());
    for (name, bytes) in damage::cuts("zip", &whole, 20) {
        cases.push(Case::new(FAMILY, name, move |ground: &Ground| model(ground, &bytes)).lines(&["run"]).refused(""));
    }
    for (name, bytes) in damage::changes("zip", &whole, 30) {
        cases.push(Case::new(FAMILY, name, move |ground: &Ground| model(ground, &bytes)).lines(&["run"]));
    }
    cases
}

fn deflated() -> Vec<Case> {
    type Write = fn() -> Vec<Member>;
    let archives: &[(&str, Write)] = &[
        ("deflated, larger than it says", || {
            let mut members = torch_members(&begun().end(), &[]);
            members.push(Member::deflated("a/data/0", &[0; 32]).changed(|member| member.both(|header| header.size = 16)));
            members
        }),
        ("deflated, smaller than it says", || {
            let mut members = torch_members(&begun().end(), &[]);
            members.push(Member::deflated("a/data/0", &[0; 8]).changed(|member| member.both(|header| header.size = 16)));
            members
        }),
        ("deflated, nonsense", || {
            let mut members = torch_members(&begun().end(), &[]);
            members.push(Member::deflated("a/data/0", &[0; 16]).changed(|member| member.data.fill(0xff)));
            members
        }),
        ("a bomb", || {
            let mut members = torch_members(&begun().end(), &[]);
            members.push(Member::deflated("a/data/0", &[0; 16]).changed(|member| {
                member.data = deflated_zeros(64 << 20);
                let packed = member.data.len() as u32;
                member.both(|header| (header.packed, header.size) = (packed, 64 << 20));
            }));
            members
        }),
    ];
    let case = |(name, write): &(&'static str, Write)| {
        let write = *write;
        let build = move |ground: &Ground| model(ground, &zip(&write(), &End::default()));
        Case::new(FAMILY, *name, build).lines(&["run"]).refused("")
    };
    let mut cases: Vec<Case> = archives.iter().map(case).collect();
    let many = |ground: &Ground| {
        let mut members = members();
        members.extend((0..20_000).map(|number| Member::stored(&format!("a/{number}"), b"")));
        model(ground, &zip(&members, &End::default()));
    };
    cases.push(Case::new(FAMILY, "twenty thousand members", many).lines(&["run"]));
    // All of its bytes are there, and its checksum is theirs.
    let unended = |ground: &Ground| {
        let mut members = torch_members(&begun().end(), &[]);
        members.push(Member::deflated("a/data/0", &[0; 16]).changed(|member| {
            member.data.pop();
            let packed = member.data.len() as u32;
            member.both(|header| header.packed = packed);
        }));
        model(ground, &zip(&members, &End::default()));
    };
    cases.push(Case::new(FAMILY, "deflated, no end", unended).lines(&["run"]));
    let prefixed = |ground: &Ground| {
        // As a program that unpacks itself has it: the offsets count from the start of the archive.
        model(ground, &[&b"PK\x03\x04 and something else "[..], &torch(&begun().end(), &storage())].concat());
    };
    cases.push(Case::new(FAMILY, "something in front", prefixed).lines(&["run"]));
    cases
}
