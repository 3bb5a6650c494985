//! Fetching libtorch: from a server on the loopback and from folders, with small wheels made here. Nothing leaves the machine.

mod command;
mod fetching;
mod hostile;
mod server;

use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;
use std::time::Duration;

use loramill::computer::libtorch::client::{Client, Patience, Route};
use loramill::computer::libtorch::fetch::{Fetched, fetch};
use loramill::computer::libtorch::folder::Depth;
use loramill::computer::libtorch::index::Source;
use loramill::computer::libtorch::plan::{Outlook, Trust, plan};
use loramill::computer::libtorch::sha256::Sha256;
use loramill::computer::libtorch::wheel::{Flavour, Pin, Release, Takes, Wheel};
use serde_json::json;
use server::{Manner, Server};
use zip::write::SimpleFileOptions;

pub const TORCH: &str = "torch-2.9.1-cp311-cp311-fake.whl";
pub const CUDART: &str = "nvidia_cuda_runtime_cu12-12.8.90-py3-none-fake.whl";

const UNWANTED: &str = "torch/lib/libtorch_python.so";

/// Bytes that do not compress.
pub fn noise(seed: u32, length: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        (state >> 9) as u8
    };
    (0..length).map(next).collect()
}

/// The members of a small torch: headers, 4 MB that nobody wants, libraries.
pub fn torch_members() -> Vec<(String, Vec<u8>)> {
    let header = |number| (format!("torch/include/c10/a{number}.h"), format!("// {number}\n").repeat(30).into_bytes());
    let mut members: Vec<_> = (0..40).map(header).collect();
    members.push((UNWANTED.to_string(), noise(1, 4 << 20)));
    members.push(("torch/lib/libc10.so".to_string(), noise(2, 30_000)));
    members.push(("torch/lib/libtorch_cpu.so".to_string(), noise(3, 900_000)));
    members
}

pub fn cudart_members() -> Vec<(String, Vec<u8>)> {
    vec![
        ("nvidia/cuda_runtime/include/cuda.h".to_string(), b"#pragma once\n".to_vec()),
        ("nvidia/cuda_runtime/lib/libcudart.so.12".to_string(), noise(4, 50_000)),
    ]
}

/// The RECORD of some members.
pub fn record(members: &[(String, Vec<u8>)]) -> String {
    let rows = members.iter().map(|(path, bytes)| format!("{path},sha256={},{}\n", for_record(&Sha256::of(bytes)), bytes.len()));
    rows.collect()
}

/// URL-safe base64 without padding, of 32 bytes.
fn for_record(hash: &Sha256) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let hex = hash.to_string() + "0";
    let bits: String = hex.chars().map(|digit| format!("{:04b}", digit.to_digit(16).expect("hexadecimal"))).collect();
    (0..43)
        .map(|at| LETTERS[usize::from_str_radix(&bits[at * 6..(at * 6 + 6).min(bits.len())], 2).expect("bits")] as char)
        .collect()
}

/// A wheel as a file: its members, and the RECORD given.
pub fn packed(file: &str, members: &[(String, Vec<u8>)], record: &str) -> Vec<u8> {
    let mut archive = zip::ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Deflated);
    for (path, bytes) in members {
        archive.start_file(path.as_str(), options).expect("started");
        archive.write_all(bytes).expect("written");
    }
    let mut parts = file.split('-');
    let name = format!("{}-{}.dist-info/RECORD", parts.next().expect("a name"), parts.next().expect("a version"));
    archive.start_file(name, options).expect("started");
    archive.write_all(record.as_bytes()).expect("written");
    archive.finish().expect("finished").into_inner()
}

/// What is known of a wheel if these bytes are the published ones.
pub fn pin(bytes: &[u8], record: &str) -> Option<Pin> {
    Some(Pin { sha256: Sha256::of(bytes), size: bytes.len() as u64, record: Sha256::of(record.as_bytes()) })
}

/// Two small wheels, as published, and a place to fetch them to.
pub struct Bench {
    pub release: Release,
    pub torch: Vec<u8>,
    pub cudart: Vec<u8>,
    pub server: Server,
    pub folder: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        let (torch_record, cudart_record) = (record(&torch_members()), record(&cudart_members()));
        let torch = packed(TORCH, &torch_members(), &torch_record);
        let cudart = packed(CUDART, &cudart_members(), &cudart_record);
        let takes = Takes::new(&["torch/include/**", "torch/lib/*.so"], &[UNWANTED]).expect("patterns");
        let wheels = vec![
            Wheel { project: "torch".into(), file: TORCH.into(), pin: pin(&torch, &torch_record), takes },
            Wheel {
                project: "nvidia-cuda-runtime-cu12".into(),
                file: CUDART.into(),
                pin: pin(&cudart, &cudart_record),
                takes: Takes::new(&["nvidia/*/lib/*.so*"], &[]).expect("patterns"),
            },
        ];
        let written = vec![("torch/lib/libtorch.so", "INPUT(libtorch_cpu.so)\n")];
        let release = Release { flavour: Flavour::Cpu, wheels, written, index: "" };
        let folder = tempfile::tempdir().expect("a folder");
        Self { release, torch, cudart, server: Server::start(), folder }
    }

    /// Serves both wheels by an index of JSON that names their hashes.
    pub fn serve(&self, torch: Manner, cudart: Manner) {
        for (wheel, bytes, manner) in self.release.wheels.iter().zip([&self.torch, &self.cudart]).zip([torch, cudart]).map(flat) {
            self.serve_as(wheel, bytes, bytes, manner);
        }
    }

    /// Serves `bytes` where the index names the hash of `published`.
    pub fn serve_as(&self, wheel: &Wheel, bytes: &[u8], published: &[u8], manner: Manner) {
        let file = json!({
            "filename": wheel.file,
            "url": format!("/files/{}", wheel.file),
            "hashes": { "sha256": Sha256::of(published).to_string() },
        });
        let page = json!({ "name": wheel.project, "files": [{ "filename": "other.whl", "url": "x" }, file] }).to_string();
        let path = format!("/simple/{}/", wheel.project);
        self.server.put(&path, "application/vnd.pypi.simple.v1+json", page.as_bytes(), Manner::default());
        self.server.put(&format!("/files/{}", wheel.file), "application/zip", bytes, manner);
    }

    pub fn index(&self) -> Source {
        Source::parse(&self.server.url("/simple/"))
    }

    pub fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("libtorch")
    }

    pub fn partial(&self) -> std::path::PathBuf {
        self.folder.path().join("libtorch.partial")
    }

    pub fn outlook(&self, source: &Source, trust: Trust, depth: Depth) -> anyhow::Result<Outlook> {
        plan(self.release.clone(), source, client(), &self.target(), trust, depth)
    }

    /// Fetches what is missing.
    pub fn fetch(&self, source: &Source) -> anyhow::Result<Fetched> {
        match self.outlook(source, Trust::Pins, Depth::Sizes)? {
            Outlook::Needed(planned) => fetch(*planned, &mut |_| {}),
            Outlook::Complete(_) => panic!("it is complete"),
        }
    }

    /// What failed, in the words of the user; and that nothing took the place of the folder.
    pub fn failure(&self, source: &Source) -> String {
        let error = format!("{:#}", self.fetch(source).expect_err("it is refused"));
        assert!(!self.target().exists(), "{error}");
        error
    }

    pub fn assert_complete(&self) {
        let wanted = torch_members().into_iter().filter(|(path, _)| path != UNWANTED).chain(cudart_members().into_iter().skip(1));
        for (path, bytes) in wanted {
            assert_eq!(fs::read(self.target().join(&path)).expect(&path), bytes, "{path}");
        }
        let script = fs::read_to_string(self.target().join("torch/lib/libtorch.so")).expect("written");
        assert_eq!(script, "INPUT(libtorch_cpu.so)\n");
        for absent in [UNWANTED, "nvidia/cuda_runtime/include", "wheels", "torch/build-version"] {
            assert!(!self.target().join(absent).exists(), "{absent}");
        }
        assert!(!self.partial().exists());
    }
}

/// One that asks four times, without waiting.
pub fn client() -> Client {
    Client::new(Patience(vec![Duration::ZERO; 3]), Route::Direct)
}

fn flat<A, B, C>(((a, b), c): ((A, B), C)) -> (A, B, C) {
    (a, b, c)
}

/// The paths of all files below a folder.
pub fn files_below(folder: &Path) -> Vec<String> {
    let entries = walkdir::WalkDir::new(folder).sort_by_file_name().into_iter().flatten();
    let files = entries.filter(|entry| entry.file_type().is_file());
    files.map(|entry| entry.path().strip_prefix(folder).expect("below").display().to_string()).collect()
}
