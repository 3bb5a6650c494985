//! Small files that make much of themselves: each meets a budget of its reader, in little time.

use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use loramill::sd::checkpoint::model_file::ModelFile;
use loramill::sd::checkpoint::tensor::Dtype;
use zip::CompressionMethod;

use crate::formats::crafted::{archive, crafted, dictionary, long, refused, tensor, text, with_header};

/// Ten times of what it takes: the other tests take their share of the machine.
fn at_once<T>(what: impl FnOnce() -> T) -> T {
    let began = Instant::now();
    let found = what();
    assert!(began.elapsed() < Duration::from_secs(20), "it took {:?}", began.elapsed());
    found
}

/// `MEMOIZE` of what is on the stack, for `BINGET`.
fn remembered(index: u8) -> [u8; 2] {
    [b'q', index]
}

#[test]
fn long_names_joined_again_and_again_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    // A dictionary with one key of 1 MB, in which 10,000 numbers lie.
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, &"a".repeat(1 << 20));
    pickle.extend(b"](");
    pickle.extend(b"K\x01".repeat(10_000));
    pickle.extend(b"es.");
    let error = at_once(|| refused(folder.path(), &pickle, &[]));
    assert_eq!(error, "the names in the pickle have more than 67108864 letters together");
    // The same key, remembered, for each of 100,000 values; only the last of them counts.
    let mut pickle = b"\x80\x02}(".to_vec();
    text(&mut pickle, &"a".repeat(1 << 20));
    pickle.extend(remembered(0));
    pickle.extend(b"K\x01");
    pickle.extend(b"h\x00K\x01".repeat(100_000));
    pickle.extend(b"u.");
    assert_eq!(at_once(|| refused(folder.path(), &pickle, &[])), error);
}

#[test]
fn pairs_copied_into_dictionaries_again_and_again_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut pickle = b"\x80\x02](".to_vec();
    pickle.extend(b"K\x01K\x02\x86".repeat(100_000));
    pickle.push(b'e');
    pickle.extend(remembered(0));
    pickle.extend(b"0ccollections\nOrderedDict\n");
    pickle.extend(remembered(1));
    pickle.extend(b"0](");
    pickle.extend(b"h\x01h\x00\x85R".repeat(21));
    pickle.extend(b"e.");
    let error = at_once(|| refused(folder.path(), &pickle, &[]));
    assert!(error.ends_with("more than 2000000 pairs given to OrderedDict"), "{error}");
}

#[test]
fn more_tensors_than_a_model_has_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut pickle = b"\x80\x02](".to_vec();
    pickle.extend(tensor("0", 0, 0, &[0], &[1]));
    pickle.extend(remembered(0));
    pickle.extend(b"h\x00".repeat(200_000));
    pickle.extend(b"e.");
    let error = at_once(|| refused(folder.path(), &pickle, &[("data/0", Vec::new())]));
    assert_eq!(error, "it has more than 200000 tensors");
}

#[test]
fn one_long_text_in_many_places_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let mut pickle = b"\x80\x02](".to_vec();
    text(&mut pickle, &"a".repeat(4 << 20));
    pickle.extend(remembered(0));
    pickle.extend(b"h\x00".repeat(100_000));
    pickle.extend(b"e.");
    let error = at_once(|| refused(folder.path(), &pickle, &[]));
    assert_eq!(error, "the names in the pickle have more than 67108864 letters together");
    // As a class, of which each is put together from module and name.
    let mut pickle = b"\x80\x02](".to_vec();
    text(&mut pickle, &"a".repeat(4 << 20));
    pickle.extend(remembered(0));
    pickle.extend(b"h\x00\x93h\x00h\x00\x93h\x00h\x00\x93e.");
    let error = at_once(|| refused(folder.path(), &pickle, &[]));
    assert!(error.ends_with("the names of classes have more than 8388608 letters together"), "{error}");
}

#[test]
fn many_tensors_of_many_sides_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    // One tuple of 64 ones, as shape and as strides of 100,000 tensors.
    let mut pickle = b"\x80\x02](ctorch._utils\n_rebuild_tensor_v2\nq\x00((".to_vec();
    text(&mut pickle, "storage");
    pickle.extend(b"ctorch\nFloatStorage\n");
    text(&mut pickle, "0");
    text(&mut pickle, "cpu");
    long(&mut pickle, 4);
    pickle.extend(b"tQK\x00(");
    pickle.extend(b"K\x01".repeat(64));
    pickle.extend(b"tq\x012\x89}tq\x02R");
    pickle.extend(b"h\x00h\x02R".repeat(100_000));
    pickle.extend(b"e.");
    let error = at_once(|| refused(folder.path(), &pickle, &[("data/0", vec![0; 16])]));
    assert!(error.ends_with("its tensors have more than 2000000 sides together"), "{error}");
}

#[test]
fn a_storage_shown_again_and_again_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let elements = 1 << 18;
    let storage = [("data/0", vec![0; 4 << 18])];
    let of = |count: usize, shape: &[i64], strides: &[i64]| {
        let names: Vec<String> = (0..count).map(|index| format!("t{index:04}")).collect();
        dictionary(names.iter().map(|name| (name.as_str(), tensor("0", elements, 0, shape, strides))))
    };
    // Tied weights are no bomb.
    assert_eq!(crafted(folder.path(), &of(4, &[elements], &[1]), &storage).unwrap().tensors().len(), 4);
    let error = at_once(|| refused(folder.path(), &of(900, &[elements], &[1]), &storage));
    assert_eq!(
        error,
        "its tensors show the 1048576 bytes that it holds so often that they take 943718400: no model does that; save it again with a \
         storage for each tensor (`tensor.clone()`)"
    );
    // Two elements far from each other, for which all that lies between is read.
    let error = at_once(|| refused(folder.path(), &of(900, &[2], &[elements - 1]), &storage));
    assert!(error.contains("so often that they take 943718400"), "{error}");
}

#[test]
fn a_zip_that_inflates_to_much_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crafted.ckpt");
    archive(&path, b"}.", &[("data/0", vec![0; 64 << 20])], CompressionMethod::Deflated);
    let error = ModelFile::open(&path).unwrap_err();
    assert!(format!("{error:#}").ends_with("its members would inflate to more than 16 times the file: no model does that"));
}

#[test]
fn a_deflated_storage_that_is_inflated_again_and_again_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("crafted.ckpt");
    let elements = 4 << 20;
    let names: Vec<String> = (0..1000).map(|index| format!("t{index:04}")).collect();
    let pickle = dictionary(names.iter().map(|name| (name.as_str(), tensor("0", elements, elements - 1, &[1], &[1]))));
    // What does not deflate makes the file large enough for the other budget.
    let mut state = 1u64;
    let noise = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    });
    let members = [("data/0", vec![0; 16 << 20]), ("data/1", noise.take(2 << 20).collect())];
    archive(&path, &pickle, &members, CompressionMethod::Deflated);
    let error = at_once(|| ModelFile::open(&path).unwrap_err());
    assert!(format!("{error:#}").contains("holds so often that they take 16777216000: no model does that"), "{error:#}");
}

/// A file of so many bytes that takes none on the disk.
fn sparse(path: &Path, header: &str, length: u64) -> ModelFile {
    let mut file = std::fs::File::create(path).unwrap();
    file.write_all(&(header.len() as u64).to_le_bytes()).unwrap();
    file.write_all(header.as_bytes()).unwrap();
    file.set_len(8 + header.len() as u64 + length).unwrap();
    ModelFile::open(path).unwrap()
}

#[test]
fn a_tensor_of_more_than_a_gibibyte_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let header = |bytes: u64| format!(r#"{{"a":{{"dtype":"U8","shape":[{bytes}],"data_offsets":[0,{bytes}]}}}}"#);
    let bytes = (1u64 << 30) + 1;
    let file = sparse(&folder.path().join("large.safetensors"), &header(bytes), bytes);
    let error = at_once(|| file.read("a").unwrap_err());
    assert!(format!("{error:#}").ends_with("it takes 1073741825 bytes, and a tensor may take 1073741824"), "{error:#}");
}

#[test]
fn a_header_that_is_too_long_is_refused_before_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    let error = with_header(&path, &format!("{{{}}}", " ".repeat(16 << 20)), 0).unwrap_err();
    assert!(format!("{error:#}").ends_with("the header claims 16777218 bytes; at most 16777216 are read"), "{error:#}");
    // As long as may be: 335,000 tensors.
    let mut header = String::from("{");
    for index in 0..280_000 {
        header += &format!(r#""{index}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}},"#);
    }
    header.pop();
    header.push('}');
    assert!(header.len() <= 16 << 20, "{}", header.len());
    let file = at_once(|| with_header(&path, &header, 0).unwrap());
    assert_eq!((file.tensors().len(), file.info("7").unwrap().dtype), (280_000, Dtype::U8));
}

#[test]
fn a_message_about_a_long_name_is_short() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("long.safetensors");
    let name = "a".repeat(1 << 20);
    for header in [
        format!(r#"{{"{name}":{{"dtype":"U8","shape":[9],"data_offsets":[0,1]}}}}"#),
        format!(r#"{{"{name}":1}}"#),
        format!(r#"{{"a":"{name}"}}"#),
        format!(r#"{{"a":{{"dtype":"U8","shape":[{}1],"data_offsets":[0,0]}}}}"#, "1,".repeat(100_000)),
    ] {
        let error = format!("{:#}", with_header(&path, &header, 1).unwrap_err());
        assert!(error.len() < 1000, "{} bytes: {}", error.len(), &error[..1000]);
    }
    let mut pickle = b"\x80\x02}".to_vec();
    text(&mut pickle, &name);
    pickle.extend(tensor("0", 4, 4, &[1], &[1]));
    pickle.extend(b"s.");
    assert!(refused(folder.path(), &pickle, &[("data/0", vec![0; 16])]).len() < 1000);
}
