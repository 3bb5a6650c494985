//! Model files that are small and cost much: memory, time or disk.

use std::fs::File;
use std::io::Write as _;

use flate2::{Compress, Compression, FlushCompress};

use crate::hostile::archives::{End, Header, Member, Pickle, torch, torch_members, zip};
use crate::hostile::case::Case;
use crate::hostile::ground::Ground;
use crate::hostile::pickles::{CONVERT, begun, model, storage};

const FAMILY: &str = "bombs";

pub fn cases() -> Vec<Case> {
    let mut cases = light();
    cases.extend(heavy().into_iter().map(Case::heavy));
    cases.extend(sparse().into_iter().map(Case::heavy));
    cases
}

fn pickle(name: &str, write: impl Fn() -> Vec<u8> + Send + Sync + 'static) -> Case {
    Case::new(FAMILY, name, move |ground: &Ground| model(ground, &torch(&write(), &storage())))
        .lines(&["run", "explain model.ckpt"])
}

/// What claims to be large, and what is and takes milliseconds to refuse.
fn light() -> Vec<Case> {
    let mut cases = Vec::new();
    let claims: &[(&str, &[u8])] = &[
        ("text of 4 GB", b"X\xff\xff\xff\xff"),
        ("text of 16 EB", b"\x8d\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("text of half the numbers", b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7f"),
        ("bytes of 4 GB", b"B\xff\xff\xff\xff"),
        ("bytes of 16 EB", b"\x8e\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("byte array of 16 EB", b"\x96\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("number of 4 GB", b"\x8b\xff\xff\xff\xff"),
        ("number of minus one byte", b"\x8b\xff\xff\xff\x7f"),
        ("frame of 16 EB", b"\x95\xff\xff\xff\xff\xff\xff\xff\xff"),
        ("memo that is not there", b"j\xff\xff\xff\xff"),
        ("buffers of another stream", b"\x97\x98"),
    ];
    for (name, bytes) in claims {
        let (bytes, begun) = (bytes.to_vec(), begun());
        let case = pickle(name, move || begun.clone().op(&bytes).end());
        // What frames say of their length need not be believed.
        cases.push(if name.starts_with("frame") { case } else { case.refused("") });
    }
    cases.push(
        pickle("lists that multiply themselves", || {
            let start = Pickle::protocol(2).op(b"]q\x00");
            let level = |pickle: Pickle, level: u8| pickle.op("](").op([b'h', level].repeat(10)).op([b'e', b'q', level + 1]);
            (0..30).fold(start, level).end()
        })
        .heavy(),
    );
    cases.push(pickle("a list that holds itself", || Pickle::protocol(2).op(b"]q\x00h\x00a").end()));
    cases.push(pickle("a dictionary that holds itself", || Pickle::protocol(2).op(b"}q\x00").text("a").op(b"h\x00s").end()));
    cases.push(pickle("a hundred thousand nested tuples", || Pickle::protocol(2).op(")").op(vec![0x85; 100_000]).end()));
    cases.push(pickle("a hundred thousand nested lists", || {
        Pickle::protocol(2).op(vec![b']'; 100_000]).op(vec![b'a'; 99_999]).end()
    }));
    cases.push(pickle("a hundred thousand marks", || Pickle::protocol(2).op(vec![b'('; 100_000]).end()));
    cases.push(pickle("a line without an end", || Pickle::protocol(2).op("c").op(vec![b'x'; 1 << 20]).op("").end()).refused(""));
    cases.push(pickle("a number of a million digits", || begun().text("x").op("L").op(vec![b'9'; 1 << 20]).op("L\ns").end()));
    cases.push(pickle("a name of a megabyte", || {
        let name = "n".repeat(1 << 20);
        Pickle::protocol(2).op("}").text(&name).tensor("0", 4, 0, &[4], &[1]).op("s").end()
    }));
    cases.push(pickle("pairs copied out of one list", || {
        let pair = (0..1000).fold(Pickle::protocol(2).op("](").clone(), |pickle, _| pickle.op("K\x01K\x02").op([0x86]));
        let listed = pair.op(b"eq\x010").global("collections", "OrderedDict").op(b"q\x020]");
        (0..5000).fold(listed, |pickle, _| pickle.op(b"h\x02h\x01\x85Ra")).end()
    }));
    for (name, shape, strides) in [
        ("a shape that overflows", &[i64::MAX, 16][..], &[0, 0][..]),
        ("a shape of a terabyte", &[1 << 40], &[0]),
        ("a stride that overflows", &[2], &[i64::MAX]),
        ("a negative side", &[-1], &[1]),
        ("a negative stride", &[4], &[-1]),
        ("no elements and a terabyte", &[0, 1 << 40], &[1, 1]),
    ] {
        let (shape, strides) = (shape.to_vec(), strides.to_vec());
        let write = move || Pickle::protocol(2).op("}").text("w").tensor("0", 4, 0, &shape, &strides).op("s").end();
        cases.push(pickle(name, write));
    }
    for (name, elements, offset) in [
        ("more elements than bytes", 5, 0),
        ("all elements that there are", i64::MAX, 0),
        ("minus one element", -1, 0),
        ("an offset behind the end", 4, 4),
        ("the last offset", 4, i64::MAX),
        ("a negative offset", 4, -4),
    ] {
        let write = move || Pickle::protocol(2).op("}").text("w").tensor("0", elements, offset, &[4], &[1]).op("s").end();
        cases.push(pickle(name, write));
    }
    cases.push(pickle("sixty-five sides", || {
        let sides = [1; 65];
        Pickle::protocol(2).op("}").text("w").tensor("0", 4, 0, &sides, &sides).op("s").end()
    }));
    cases
}

fn heavy() -> Vec<Case> {
    vec![
        pickle("names joined of long keys", || {
            let key = "k".repeat(1 << 20);
            let keys = (0..4).fold(Pickle::protocol(2).text(&key).op(b"q\x000"), |pickle, _| pickle.op(b"}h\x00"));
            let leaves = keys.op("](").op(b"K\x01".repeat(300_000)).op("e");
            leaves.op("ssss").end()
        }),
        pickle("one text as a hundred thousand values", || {
            let text = Pickle::protocol(2).text(&"t".repeat(1 << 20)).op(b"q\x000}(");
            (0..100_000u32).fold(text, |pickle, number| pickle.op([b'J']).op(number.to_le_bytes()).op(b"h\x00")).op("u").end()
        }),
        pickle("tensors of sixty-four sides", || {
            let sides = Pickle::default().op("(").op(b"K\x01".repeat(64)).op("t");
            let arguments =
                Pickle::default().op("(").storage("FloatStorage", "0", 4).op("K\0").then(&sides).then(&sides).op(b"\x89}t");
            let start =
                Pickle::protocol(2).global("torch._utils", "_rebuild_tensor_v2").op(b"q\x000").then(&arguments).op(b"q\x010}(");
            (0..700_000u32).fold(start, |pickle, number| pickle.text(&format!("{number:06}")).op(b"h\x00h\x01R")).op("u").end()
        }),
        pickle("two million objects", || Pickle::protocol(2).op(vec![b'N'; 2_100_000]).end()),
        pickle("sixteen million marks", || Pickle::protocol(2).op(vec![b'('; 16_000_000]).end()),
        pickle("three million places in the memo", || {
            let start = Pickle::protocol(2).op("N");
            (0..3_000_000u32).fold(start, |pickle, number| pickle.op("r").op(number.to_le_bytes())).end()
        }),
        pickle("elements shown a million times", || {
            let start = Pickle::protocol(2).op("}(");
            let shown = |pickle: Pickle, number| pickle.text(&format!("{number}")).tensor("0", 4, 0, &[1 << 20], &[0]);
            (0..300).fold(start, shown).op("u").end()
        }),
        Case::new(FAMILY, "one storage as nine hundred tensors", |ground: &Ground| {
            let elements = 1 << 18;
            let start = Pickle::protocol(2).op("}(");
            let shown = |pickle: Pickle, number| pickle.text(&format!("{number}")).tensor("0", elements, 0, &[elements], &[1]);
            let pickle = (0..900).fold(start, shown).op("u").end();
            model(ground, &torch(&pickle, &[("0", vec![0; 4 * elements as usize])]));
        })
        .lines(&["run"]),
        Case::new(FAMILY, "the end of a deflated storage, again and again", |ground: &Ground| {
            let elements = 5 << 20;
            let start = Pickle::protocol(2).op("}(");
            let shown =
                |pickle: Pickle, number| pickle.text(&format!("{number}")).tensor("0", elements, elements - 1, &[1], &[1]);
            let pickle = (0..5000).fold(start, shown).op("u").end();
            let mut members = torch_members(&pickle, &[]);
            members.push(Member::deflated("a/data/0", &vec![0; 4 * elements as usize]));
            // Room for what inflates: no more than sixteen times of the file.
            members.push(Member::stored("a/room", &vec![0; 1 << 20]));
            model(ground, &zip(&members, &End::default()));
        })
        .lines(&["run"]),
        Case::new(FAMILY, "a deflated pickle of a gigabyte", |ground: &Ground| {
            let mut member = Member::deflated("a/data.pkl", b"}.");
            member.data = deflated_zeros(1 << 30);
            let packed = member.data.len() as u32;
            member.both(|header: &mut Header| (header.packed, header.size) = (packed, 1 << 30));
            model(ground, &zip(&[member], &End::default()));
        })
        .lines(&["run"])
        .refused(""),
        Case::new(FAMILY, "a deflated pickle that says it is small", |ground: &Ground| {
            let mut member = Member::deflated("a/data.pkl", b"}.");
            member.data = deflated_zeros(1 << 30);
            let packed = member.data.len() as u32;
            member.both(|header: &mut Header| (header.packed, header.size) = (packed, 2));
            model(ground, &zip(&[member], &End::default()));
        })
        .lines(&["run"])
        .refused(""),
    ]
}

/// A piece of zeros that is deflated once and then repeated, in bytes.
const PIECE: u64 = 1 << 16;

/// So many zeros, deflated; a multiple of `PIECE`.
pub fn deflated_zeros(count: u64) -> Vec<u8> {
    assert!(count.is_multiple_of(PIECE), "{count} is no multiple of {PIECE}");
    let mut compress = Compress::new(Compression::fast(), false);
    let mut piece = move || {
        let mut bytes = Vec::with_capacity(1 << 12);
        // Ends on a whole byte, and nothing in the next piece depends on what is in this one.
        compress.compress_vec(&[0; PIECE as usize], &mut bytes, FlushCompress::Full).expect("it has room");
        bytes
    };
    let mut bytes = piece().repeat((count / PIECE) as usize);
    // An empty last block.
    bytes.extend([3, 0]);
    bytes
}

/// Files that are long and take no room.
fn sparse() -> Vec<Case> {
    let lines = &["check", "run", "explain model.ckpt"];
    let mut cases = Vec::new();
    for (name, start, length) in [
        ("20 GB of zeros", &b""[..], 20 << 30),
        ("20 GB behind the start of a zip", b"PK\x03\x04", 20 << 30),
        ("20 GB behind the start of an older file", b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.", 20 << 30),
        ("20 GB behind an empty header", b"\x08\0\0\0\0\0\0\0{}      ", 20 << 30),
        ("20 GB behind the start of a pickle", b"\x80\x02}", 20 << 30),
    ] {
        let build = move |ground: &Ground| {
            ground.sparse("model.ckpt", start, length);
            ground.write("pipeline.yaml", CONVERT);
        };
        // A file of 20 GB is read to know its digest where nothing refuses it before; that it is read at all is its size's right.
        cases.push(Case::new(FAMILY, name, build).lines(&lines[2..]).refused(""));
    }
    for (name, whole) in [("a header of 90 MB, one name", true), ("a header of 90 MB, a million tensors", false)] {
        let build = move |ground: &Ground| {
            large_header(ground, whole);
            ground.write("pipeline.yaml", CONVERT);
        };
        cases.push(Case::new(FAMILY, name, build).lines(lines).refused(""));
    }
    cases
}

/// Written piece by piece: what this process holds counts as memory of those that it starts.
fn large_header(ground: &Ground, one_name: bool) {
    const LENGTH: u64 = 90_000_000;
    ground.write("model.ckpt", LENGTH.to_le_bytes());
    let mut file = std::io::BufWriter::new(File::options().append(true).open(ground.path("model.ckpt")).expect("just made"));
    let mut written = 1;
    file.write_all(b"{").expect("written");
    let entry = r#":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}"#;
    if one_name {
        file.write_all(b"\"").expect("written");
        for _ in 0..89 {
            file.write_all(&[b'n'; 1_000_000]).expect("written");
        }
        file.write_all(format!("\"{entry}").as_bytes()).expect("written");
        written += 89_000_002 + entry.len() as u64;
    } else {
        for number in 0.. {
            let text = format!("{}\"{number:07}\"{entry}", if number == 0 { "" } else { "," });
            if written + text.len() as u64 + 1 > LENGTH {
                break;
            }
            file.write_all(text.as_bytes()).expect("written");
            written += text.len() as u64;
        }
    }
    file.write_all(b"}").expect("written");
    let padding = vec![b' '; (LENGTH - written - 1) as usize];
    file.write_all(&padding).expect("written");
}
