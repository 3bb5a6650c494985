//! Files made to do harm, and files that are merely broken: an error or harmless contents, never a panic, never code, never more memory
//! than the file could need.

use std::path::Path;

use loramill::sd::checkpoint::model_file::ModelFile;
use zip::write::SimpleFileOptions;

use crate::formats::containers::fixture;
use crate::formats::crafted::{crafted, dictionary, refused, tensor, with_header};

const FIXTURES: &[&str] = &[
    "plain.safetensors",
    "zip.pt",
    "legacy.pt",
    "views.pt",
    "views-legacy.pt",
    "lightning.ckpt",
    "lightning-legacy.ckpt",
    "protocol4.pt",
    "deflated.pt",
    "nested.pt",
];

/// Opens a file and reads all it has; returns the error, if there is one.
fn read_all(path: &Path) -> anyhow::Result<()> {
    let length = std::fs::metadata(path)?.len() as usize;
    let file = ModelFile::open(path)?;
    for (name, info) in file.tensors() {
        let bytes = info.byte_length().expect("checked when the file was opened");
        // What can be inflated from the file, or shown repeatedly from one element.
        assert!(bytes <= 16 * length + (1 << 20) + (8 << 20), "{name} takes {bytes} bytes from a file of {length}");
        if let Ok(tensor) = file.read(name) {
            assert_eq!(tensor.bytes.len(), bytes);
        }
    }
    Ok(())
}

#[test]
fn a_file_cut_short_anywhere_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cut");
    for name in FIXTURES {
        let bytes = std::fs::read(fixture(name)).unwrap();
        std::fs::write(&path, &bytes).unwrap();
        let file = std::fs::File::options().write(true).open(&path).unwrap();
        for length in (0..bytes.len()).rev() {
            file.set_len(length as u64).unwrap();
            let error = read_all(&path).err().unwrap_or_else(|| panic!("{name} cut to {length} bytes was read"));
            assert!(format!("{error:#}").contains("cut"), "the path is in every error");
        }
    }
}

#[test]
fn ten_thousand_random_mutations_do_no_harm() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated");
    // Without the checksums of zips, which would keep most mutations out: 0 says that there is none.
    let unsealed = |name: &&str| {
        let mut bytes = std::fs::read(fixture(name)).unwrap();
        for (signature, crc) in [(b"PK\x03\x04", 14), (b"PK\x01\x02", 16), (b"PK\x07\x08", 4)] {
            let headers: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(signature)).collect();
            headers.into_iter().for_each(|at| bytes[at + crc..][..4].fill(0));
        }
        bytes
    };
    let originals: Vec<Vec<u8>> = FIXTURES.iter().map(unsealed).collect();
    let mut state = 1u64;
    let mut below = |limit: usize| {
        // xorshift64*: any numbers will do, as long as they are the same every time.
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        (state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % limit
    };
    let mut read = 0;
    for round in 0..10_000 {
        let mut bytes = originals[round % originals.len()].clone();
        for _ in 0..=below(4) {
            let at = below(bytes.len());
            match below(6) {
                0 => bytes[at] = below(256) as u8,
                1 => bytes[at] ^= 1 << below(8),
                2 => bytes[at] = 0xff,
                3 => drop(bytes.remove(at)),
                4 => bytes.insert(at, below(256) as u8),
                _ => {
                    let from = below(bytes.len());
                    let length = below(16).min(bytes.len() - from.max(at));
                    bytes.copy_within(from..from + length, at);
                }
            }
        }
        std::fs::write(&path, &bytes).unwrap();
        read += usize::from(read_all(&path).is_ok());
    }
    // Most mutations hit names or numbers, and some of those leave a readable file.
    assert!(read > 500, "only {read} files were read: the mutations are too coarse to reach the inside");
}

/// A dictionary with one tensor `t` of floats.
fn tensor_pickle(elements: i64, offset: i64, shape: &[i64], strides: &[i64]) -> Vec<u8> {
    dictionary([("t", tensor("0", elements, offset, shape, strides))])
}

#[test]
fn a_pickle_that_calls_the_shell_calls_nothing_and_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let witness = folder.path().join("witness");
    let command = format!("touch {}", witness.display());
    for (module, name) in [("os", "system"), ("posix", "system"), ("builtins", "eval"), ("subprocess", "Popen")] {
        let says = format!(
            "this file carries code: its pickle names `{module}.{name}`, which weights do not need; get the model as safetensors"
        );
        // As a value beside a tensor, as the state of an object, and in the place of the state dict.
        let value = format!("}}(S'x'\nc{module}\n{name}\n(S'{command}'\ntRu.");
        let state = format!("}}(S'y'\nccollections\nOrderedDict\n)R(S'{command}'\ntc{module}\n{name}\nbu.");
        let whole = format!("}}S'state_dict'\nc{module}\n{name}\n(S'{command}'\ntRs.");
        for pickle in [value, state, whole] {
            assert_eq!(refused(folder.path(), pickle.as_bytes(), &[]), says);
        }
        // In the older format, where the object comes fourth.
        let mut legacy = std::fs::read(fixture("legacy.pt")).unwrap();
        let at = legacy.windows(14).position(|window| window == b"ctorch._utils\n").unwrap();
        legacy.splice(at..at, format!("c{module}\n{name}\n0").bytes());
        let path = folder.path().join("legacy.ckpt");
        std::fs::write(&path, &legacy).unwrap();
        assert!(format!("{:#}", ModelFile::open(&path).unwrap_err()).ends_with(&says));
    }
    assert!(!witness.exists());
}

#[test]
fn what_other_programs_left_in_a_checkpoint_is_counted() {
    let remark = |name: &str| ModelFile::open(&fixture(name)).unwrap().remark();
    for name in ["lightning.ckpt", "lightning-legacy.ckpt"] {
        let told = remark(name).unwrap().replace(&fixture(name).display().to_string(), "FILE");
        assert_eq!(
            told,
            "2 objects of other programs in `FILE` were passed over: \
             `pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint` (2)"
        );
    }
    assert_eq!(remark("zip.pt"), None);
    assert_eq!(remark("plain.safetensors"), None);
}

#[test]
fn a_state_dict_that_is_no_dictionary_is_refused_and_one_of_a_class_of_its_own_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let call = b"}(S'state_dict'\nceasydict\nEasyDict\n)RS'optimizer'\n}u.";
    let says = "its `state_dict` is made by `easydict.EasyDict`, which is not supported: save it as a plain dictionary";
    assert_eq!(refused(folder.path(), call, &[]), says);
    let mut pickle = b"}S'state_dict'\nceasydict\nEasyDict\n)R(S't'\n".to_vec();
    pickle.extend(tensor("0", 4, 0, &[4], &[1]));
    pickle.extend(b"us.");
    let file = crafted(folder.path(), &pickle, &[("data/0", vec![0; 16])]).unwrap();
    assert_eq!(file.read_f32("t").unwrap(), [0.0; 4]);
}

#[test]
fn a_tensor_larger_than_its_storage_is_refused_before_it_is_allocated() {
    let folder = tempfile::tempdir().unwrap();
    let storage = [("data/0", vec![0; 16])];
    let leaves = |elements, offset, shape: &[i64], strides: &[i64]| {
        let error = crafted(folder.path(), &tensor_pickle(elements, offset, shape, strides), &storage).unwrap_err();
        format!("{error:#}").split_once("tensor `t`: ").expect("the error names the tensor").1.to_string()
    };
    assert_eq!(crafted(folder.path(), &tensor_pickle(4, 0, &[4], &[1]), &storage).unwrap().read_f32("t").unwrap(), [0.0; 4]);
    assert_eq!(leaves(4, 0, &[1 << 40], &[0]), "its shape [1099511627776] has 1099511627776 elements, and its storage only 4");
    assert_eq!(leaves(4, 0, &[i64::MAX, 16], &[0, 0]), "its shape overflows");
    assert_eq!(leaves(4, 1, &[4], &[1]), "its view of shape [4], strides [1], offset 1 leaves its storage of 4 elements");
    assert_eq!(
        leaves(4, 0, &[2], &[i64::MAX]),
        format!("its view of shape [2], strides [{}], offset 0 leaves its storage of 4 elements", i64::MAX)
    );
    assert_eq!(leaves(5, 0, &[5], &[1]), "its storage has 5 elements of 4 bytes, and member `a/data/0` holds 16 bytes");
    assert_eq!(
        leaves(i64::MAX, 0, &[1], &[1]),
        format!("its storage has {} elements of 4 bytes, and member `a/data/0` holds 16 bytes", i64::MAX)
    );
    // Negative numbers make no tensor; it is then missing, with the reason.
    let file = crafted(folder.path(), &tensor_pickle(4, -1, &[4], &[1]), &storage).unwrap();
    assert!(format!("{:#}", file.read("t").unwrap_err()).contains("it is made by `torch._utils._rebuild_tensor_v2`"));
    let error = crafted(folder.path(), &tensor_pickle(4, 0, &[4], &[1]), &[]).unwrap_err();
    assert!(format!("{error:#}").ends_with("tensor `t`: its bytes, member `a/data/0`, are missing"));
}

#[test]
fn lists_that_multiply_themselves_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    // Ten references to ten references to …: 10^30 values in 800 bytes.
    let mut pickle = b"\x80\x02]q\x00".to_vec();
    for level in 0u8..30 {
        pickle.extend(b"](");
        pickle.extend([b'h', level].repeat(10));
        pickle.extend([b'e', b'q', level + 1]);
    }
    pickle.push(b'.');
    let error = crafted(folder.path(), &pickle, &[]).unwrap_err();
    assert!(format!("{error:#}").ends_with("the pickle names values more than 1000000 times over"));
    let itself = b"\x80\x02}q\x00X\x01\0\0\0ah\x00s.";
    let deep = vec!["a"; 32].join(".");
    assert_eq!(
        refused(folder.path(), itself, &[]),
        format!("dictionaries and lists are nested more than 32 deep, as at `{deep}`")
    );
}

#[test]
fn broken_safetensors_say_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |length: u64, header: &str, data: usize| {
        let path = folder.path().join("broken.safetensors");
        std::fs::write(&path, [&length.to_le_bytes(), header.as_bytes(), &vec![0; data]].concat()).unwrap();
        format!("{:#}", ModelFile::open(&path).unwrap_err()).split_once("safetensors`: ").unwrap().1.to_string()
    };
    let whole = |header: &str, data: usize| refused(header.len() as u64, header, data);
    assert_eq!(refused(1 << 40, "{}", 0), "the header claims 1099511627776 bytes; at most 16777216 are read");
    assert_eq!(refused(50, "{}", 0), "the header claims 50 bytes and the file has 10: it is cut short or no safetensors file");
    let one = |name: &str, dtype: &str, shape: &str, begin: u64, end: u64| {
        format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape},\"data_offsets\":[{begin},{end}]}}")
    };
    let overlap = format!("{{{},{}}}", one("a", "F32", "[2]", 0, 8), one("b", "F32", "[2]", 4, 12));
    assert_eq!(whole(&overlap, 12), "tensor `b` begins at byte 4 of the data, expected 8: tensors overlap or leave a gap");
    let gap = format!("{{{}}}", one("a", "F32", "[2]", 8, 16));
    assert_eq!(whole(&gap, 16), "tensor `a` begins at byte 8 of the data, expected 0: tensors overlap or leave a gap");
    let size = format!("{{{}}}", one("a", "F32", "[3]", 0, 8));
    assert_eq!(whole(&size, 8), "tensor `a`: F32 of shape [3] takes 12 bytes, its offsets 0 to 8 give another number");
    let huge = format!("{{{}}}", one("a", "F32", "[9223372036854775807,4]", 0, 8));
    assert_eq!(whole(&huge, 8), "tensor `a`: its shape [9223372036854775807, 4] overflows");
    let short = format!("{{{}}}", one("a", "F32", "[2]", 0, 8));
    assert_eq!(
        whole(&short, 4),
        "the header describes 8 bytes of tensors and the file holds 4: it is cut short, download it again"
    );
    let twice = format!("{{{},{}}}", one("a", "U8", "[0]", 0, 0), one("a", "U8", "[0]", 0, 0));
    assert!(whole(&twice, 0).contains("tensor `a` comes twice"));
    assert!(whole(r#"{"__metadata__":{"a":"b"},"__metadata__":{"a":"c"}}"#, 0).contains("`__metadata__` comes twice"));
    assert!(whole(r#"{"__metadata__":null,"__metadata__":{}}"#, 0).contains("`__metadata__` comes twice"));
    assert!(whole(r#"{"__metadata__":{"a":1}}"#, 0).contains("invalid type: integer"));
    assert!(whole(&format!("{{\"a\":{}", "[".repeat(100_000)), 0).starts_with("the safetensors header is not valid"));
    assert!(whole("{\"a\":1}", 0).contains("tensor `a`: invalid type"));
}

/// Each is given to safetensors' own reader too.
#[test]
fn what_safetensors_reads_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let entry = r#""a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}"#;
    for header in [
        format!("{{{entry}}}"),
        format!(" \n {{{entry}}}"),
        format!("{}{{{entry}}}  ", " ".repeat(1000)),
        format!(r#"{{"__metadata__":null,{entry}}}"#),
        format!(r#"{{"__metadata__":{{}},{entry}}}"#),
        format!(r#"{{{entry},"__metadata__":{{"format":"pt","format":"np"}}}}"#),
        r#"{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"device":{"type":["cuda"]},"more":null}}"#.to_string(),
        r#"{"z":{"dtype":"U8","shape":[0,9],"data_offsets":[0,0]},"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}"#
            .to_string(),
    ] {
        let file = with_header(&path, &header, 8).unwrap_or_else(|error| panic!("{header}: {error:#}"));
        assert_eq!(file.read_f32("a").unwrap(), [0.0; 2], "{header}");
        let bytes = std::fs::read(&path).unwrap();
        safetensors::SafeTensors::deserialize(&bytes).unwrap_or_else(|error| panic!("{header}: {error}"));
    }
}

#[test]
fn what_is_no_model_is_said_to_be_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.ckpt");
    let refused = |bytes: &[u8]| {
        std::fs::write(&path, bytes).unwrap();
        format!("{:#}", ModelFile::open(&path).unwrap_err()).split_once("model.ckpt`: ").unwrap().1.to_string()
    };
    assert_eq!(refused(b""), "the file is empty");
    assert_eq!(
        refused(b"version https://git-lfs.github.com/spec/v1\n"),
        "this is a git-lfs pointer, not the model: run `git lfs pull`"
    );
    assert!(refused(b"<!DOCTYPE html>").starts_with("neither safetensors nor a file written by `torch.save`"));
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    archive.start_file("photo.jpg", SimpleFileOptions::default()).unwrap();
    let photos = archive.finish().unwrap().into_inner();
    assert_eq!(refused(&photos), "the zip archive has no `data.pkl`: it is not a model written by `torch.save`");
}
