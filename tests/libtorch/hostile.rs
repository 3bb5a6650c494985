//! Files that are not what was published: none of them ends in the folder.

use std::fs;

use loramill::computer::libtorch::index::Source;
use loramill::computer::libtorch::sha256::Sha256;

use super::server::Manner;
use super::{Bench, CUDART, TORCH, files_below, packed, pin, record, torch_members};

/// Serves a torch of other bytes, of which size and whole hash are taken for the published ones, as far as they can be.
fn with_torch(torch: Vec<u8>, record: &str) -> Bench {
    let mut bench = Bench::new();
    bench.release.wheels[0].pin = pin(&torch, record);
    bench.torch = torch;
    bench.serve(Manner::default(), Manner::default());
    bench
}

#[test]
fn a_member_with_wrong_bytes_is_named_and_does_not_stay() {
    let mut members = torch_members();
    let published = record(&members);
    members[41].1[5] ^= 1;
    assert_eq!(members[41].0, "torch/lib/libc10.so");
    let bench = with_torch(packed(TORCH, &members, &published), &published);
    let error = bench.failure(&bench.index());
    for told in ["`torch/lib/libc10.so`", &Sha256::of(&members[41].1).to_string(), TORCH, "--from"] {
        assert!(error.contains(told), "{error}");
    }
    // What was checked before stays for the next attempt; the member does not.
    let left = files_below(&bench.partial());
    assert_eq!(left.len(), 40);
    assert!(left.iter().all(|path| path.starts_with("torch/include/")), "{left:?}");
}

#[test]
fn a_member_of_another_size_is_named_before_anything_is_fetched() {
    let mut members = torch_members();
    let published = record(&members);
    members[41].1.push(0);
    let bench = with_torch(packed(TORCH, &members, &published), &published);
    let error = bench.failure(&bench.index());
    assert!(error.contains("`torch/lib/libc10.so`") && error.contains("30001 bytes, by RECORD 30000"), "{error}");
    assert!(!bench.partial().exists());
}

#[test]
fn a_member_that_inflates_to_more_than_it_says_is_stopped_there() {
    let mut members = torch_members();
    let published = record(&members);
    members[41].1 = vec![0; 64 << 20];
    let mut torch = packed(TORCH, &members, &published);
    // The size in the directory, APPNOTE.TXT 4.3.12, which is all that can be compared beforehand.
    let name = b"torch/lib/libc10.so";
    let entry =
        (0..torch.len() - 46).rev().find(|at| torch[*at..].starts_with(b"PK\x01\x02") && torch[at + 46..].starts_with(name));
    let size = entry.expect("it has an entry") + 24;
    torch[size..size + 4].copy_from_slice(&30_000u32.to_le_bytes());
    let bench = with_torch(torch, &published);
    let error = bench.failure(&bench.index());
    assert!(error.contains("`torch/lib/libc10.so`") && error.contains("more than the 30000 bytes"), "{error}");
    assert!(!bench.partial().join("torch/lib/libc10.so").exists());
}

#[test]
fn a_wrong_record_is_refused() {
    let mut members = torch_members();
    let published = record(&members);
    members[41].1[5] ^= 1;
    // Both were changed together.
    let bench = with_torch(packed(TORCH, &members, &record(&members)), &published);
    let error = bench.failure(&bench.index());
    for told in ["RECORD", &Sha256::of(published.as_bytes()).to_string(), &Sha256::of(record(&members).as_bytes()).to_string()] {
        assert!(error.contains(told), "{error}");
    }
    assert!(!bench.partial().exists());
}

#[test]
fn a_wheel_of_another_size_is_refused() {
    let bench = Bench::new();
    bench.serve(Manner::default(), Manner::default());
    for no_ranges in [false, true] {
        let longer = [&bench.torch[..], b"x"].concat();
        bench.serve_as(&bench.release.wheels[0], &longer, &bench.torch, Manner { no_ranges, ..Manner::default() });
        let error = bench.failure(&bench.index());
        assert!(error.contains(&format!("has {} bytes, the published one {}", longer.len(), bench.torch.len())), "{error}");
    }
}

#[test]
fn a_whole_wheel_of_other_bytes_is_refused_and_does_not_stay() {
    let bench = Bench::new();
    bench.serve(Manner::default(), Manner::default());
    let mut other = bench.torch.clone();
    other[2 << 20] ^= 1;
    bench.serve_as(&bench.release.wheels[0], &other, &bench.torch, Manner { no_ranges: true, ..Manner::default() });
    let error = bench.failure(&bench.index());
    assert!(error.contains(&Sha256::of(&other).to_string()) && error.contains(&Sha256::of(&bench.torch).to_string()), "{error}");
    assert_eq!(files_below(&bench.partial()), Vec::<String>::new());
}

#[test]
fn an_index_that_names_another_hash_is_refused_before_its_wheel_is_touched() {
    let bench = Bench::new();
    bench.serve_as(&bench.release.wheels[0], &bench.torch, b"another", Manner::default());
    let error = bench.failure(&bench.index());
    assert!(error.contains(&Sha256::of(b"another").to_string()) && error.contains("another file"), "{error}");
    assert!(bench.server.take_log().iter().all(|asked| asked.path.starts_with("/simple/")));
}

#[test]
fn an_index_without_the_wheel_is_named() {
    let bench = Bench::new();
    let error = bench.failure(&bench.index());
    assert!(error.contains("/simple/torch/") && error.contains("404"), "{error}");
    bench.server.put("/simple/torch/", "text/html", b"<a href=\"x\">x</a>", Manner::default());
    let error = bench.failure(&bench.index());
    assert!(error.contains(TORCH) && error.contains("--from"), "{error}");
}

#[test]
fn a_path_that_leads_out_of_the_folder_is_refused() {
    for path in ["torch/include/../../../escaped.h", "torch/include//etc/escaped.h", "torch/include/..\\..\\escaped.h"] {
        let mut members = torch_members();
        members.push((path.to_string(), b"escaped".to_vec()));
        let published = record(&members);
        let bench = with_torch(packed(TORCH, &members, &published), &published);
        let error = bench.failure(&bench.index());
        assert!(error.contains("outside of its folder") && error.contains("escaped.h"), "{error}");
        assert_eq!(files_below(bench.folder.path()), Vec::<String>::new());
    }
}

#[test]
fn a_link_in_the_way_is_not_written_through() {
    let bench = Bench::new();
    bench.serve(Manner::default(), Manner::default());
    let precious = bench.folder.path().join("precious");
    fs::write(&precious, "of a person").unwrap();
    fs::create_dir_all(bench.partial().join("torch/lib")).unwrap();
    std::os::unix::fs::symlink(&precious, bench.partial().join("torch/lib/libc10.so")).unwrap();
    bench.fetch(&bench.index()).unwrap();
    bench.assert_complete();
    assert_eq!(fs::read_to_string(&precious).unwrap(), "of a person");
}

#[test]
fn what_is_no_wheel_is_named() {
    let bench = Bench::new();
    let wheels = bench.folder.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    fs::write(wheels.join(CUDART), &bench.cudart).unwrap();
    fs::write(wheels.join(TORCH), vec![0; bench.torch.len()]).unwrap();
    let error = bench.failure(&Source::Folder(wheels.clone()));
    assert!(error.contains("reading the wheel") && error.contains(TORCH), "{error}");
    fs::write(wheels.join(TORCH), b"short").unwrap();
    let error = bench.failure(&Source::Folder(wheels));
    assert!(error.contains("it has 5 bytes"), "{error}");
}
