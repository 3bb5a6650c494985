//! What travels, what is kept, and that a second attempt goes on where the first ended.

use std::fs;
use std::path::Path;

use loramill::computer::libtorch::fetch::fetch;
use loramill::computer::libtorch::folder::{Depth, Extent};
use loramill::computer::libtorch::index::Source;
use loramill::computer::libtorch::plan::{Outlook, Trust, plan};
use loramill::computer::libtorch::sha256::Sha256;

use super::server::{Manner, Server};
use super::{Bench, CUDART, TORCH, client};

const PLAIN: Manner = Manner { no_ranges: false, cuts: 0, breaks_down_at: None };
const WHOLE: Manner = Manner { no_ranges: true, ..PLAIN };

fn needed(outlook: Outlook) -> Box<loramill::computer::libtorch::plan::Plan> {
    match outlook {
        Outlook::Needed(planned) => planned,
        Outlook::Complete(_) => panic!("it is complete"),
    }
}

#[test]
fn only_wanted_members_travel_where_the_server_gives_ranges() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    let planned = needed(bench.outlook(&bench.index(), Trust::Pins, Depth::Sizes).unwrap());
    assert!(!bench.partial().exists(), "a plan writes nothing");
    // 900 kB and 30 kB of noise, 40 headers; and 50 kB of noise.
    assert!((980_000..1_100_000).contains(&planned.download()), "{}", planned.download());
    let mut seen = 0;
    let fetched = fetch(*planned, &mut |progress| {
        assert!(progress.travelled >= seen);
        seen = progress.travelled;
    })
    .unwrap();
    bench.assert_complete();
    assert!(seen > 900_000 && fetched.travelled < 2 << 20, "{seen} {}", fetched.travelled);
    // 40 headers of 30 comments, three libraries, the linker script.
    assert_eq!(fetched.extent, Extent { files: 44, bytes: 980_000 + 30 * (10 * 5 + 30 * 6) });
}

#[test]
fn where_the_server_gives_no_ranges_the_whole_wheel_is_fetched() {
    let bench = Bench::new();
    bench.serve(WHOLE, PLAIN);
    let fetched = bench.fetch(&bench.index()).unwrap();
    bench.assert_complete();
    assert!(fetched.travelled > bench.torch.len() as u64, "{}", fetched.travelled);
}

#[test]
fn a_connection_that_is_cut_is_made_again() {
    for manner in [Manner { cuts: 3, ..PLAIN }, Manner { cuts: 3, ..WHOLE }] {
        let bench = Bench::new();
        bench.serve(manner, PLAIN);
        bench.fetch(&bench.index()).unwrap();
        bench.assert_complete();
    }
}

#[test]
fn a_server_that_only_cuts_is_given_up_with_its_address_and_a_remedy() {
    for manner in [Manner { cuts: usize::MAX, ..PLAIN }, Manner { cuts: usize::MAX, ..WHOLE }] {
        let bench = Bench::new();
        bench.serve(manner, PLAIN);
        let error = bench.failure(&bench.index());
        for told in [&bench.server.url(&format!("/files/{TORCH}")), "in each of 4 attempts", "HTTPS_PROXY", "--from"] {
            assert!(error.contains(told), "{error}");
        }
    }
}

#[test]
fn a_second_run_asks_nobody_and_writes_nothing() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    let fetched = bench.fetch(&bench.index()).unwrap();
    bench.server.take_log();
    for depth in [Depth::Sizes, Depth::Bytes] {
        match bench.outlook(&bench.index(), Trust::Pins, depth).unwrap() {
            Outlook::Complete(extent) => assert_eq!(extent, fetched.extent),
            Outlook::Needed(_) => panic!("nothing is needed"),
        }
    }
    assert_eq!(bench.server.take_log(), []);
}

#[test]
fn after_an_interruption_only_the_rest_travels() {
    for manner in [PLAIN, WHOLE] {
        let bench = Bench::new();
        // A probe and the index's promise; then the second server breaks down, without ranges after the probe.
        bench.serve(manner, Manner { breaks_down_at: Some(1), ..WHOLE });
        let error = bench.failure(&bench.index());
        assert!(error.contains("503") && error.contains(CUDART), "{error}");
        assert!(bench.partial().join("torch/lib/libtorch_cpu.so").exists());
        bench.serve(manner, PLAIN);
        let fetched = bench.fetch(&bench.index()).unwrap();
        bench.assert_complete();
        // The directories of both wheels are read again; of torch nothing else is.
        assert!(fetched.travelled < 1 << 20, "{}", fetched.travelled);
    }
}

#[test]
fn a_folder_of_wheels_needs_no_server() {
    let bench = Bench::new();
    let wheels = bench.folder.path().join("wheels");
    fs::create_dir(&wheels).unwrap();
    fs::write(wheels.join(TORCH), &bench.torch).unwrap();
    let source = Source::Folder(wheels.clone());
    let error = bench.failure(&source);
    assert!(error.contains(CUDART) && error.contains("nvidia-cuda-runtime-cu12"), "{error}");
    fs::write(wheels.join(CUDART), &bench.cudart).unwrap();
    let fetched = bench.fetch(&source).unwrap();
    bench.assert_complete();
    assert_eq!(fetched.travelled, 0);
}

#[test]
fn a_changed_file_is_found_by_reading_and_fetched_alone() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    bench.fetch(&bench.index()).unwrap();
    let library = bench.target().join("torch/lib/libc10.so");
    let mut bytes = fs::read(&library).unwrap();
    bytes[1000] ^= 1;
    fs::write(&library, bytes).unwrap();
    assert!(matches!(bench.outlook(&bench.index(), Trust::Pins, Depth::Sizes).unwrap(), Outlook::Complete(_)));
    let planned = needed(bench.outlook(&bench.index(), Trust::Pins, Depth::Bytes).unwrap());
    assert!(planned.damage.as_deref().is_some_and(|damage| damage.contains("torch/lib/libc10.so")), "{:?}", planned.damage);
    assert!((30_000..40_000).contains(&planned.download()), "{}", planned.download());
    fetch(*planned, &mut |_| {}).unwrap();
    bench.assert_complete();
}

#[test]
fn a_file_that_is_gone_is_missed_at_once() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    for path in ["torch/include/c10/a7.h", "torch/lib/libtorch.so", "torch-2.9.1.dist-info/RECORD"] {
        if !bench.target().exists() {
            bench.fetch(&bench.index()).unwrap();
        }
        fs::remove_file(bench.target().join(path)).unwrap();
        let planned = needed(bench.outlook(&bench.index(), Trust::Pins, Depth::Sizes).unwrap());
        assert!(planned.download() < 20_000, "{path}: {}", planned.download());
        fetch(*planned, &mut |_| {}).unwrap();
        bench.assert_complete();
    }
}

#[test]
fn a_folder_with_something_else_is_left_alone() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    fs::create_dir(bench.target()).unwrap();
    fs::write(bench.target().join("precious"), "of a person").unwrap();
    let error = format!("{:#}", bench.fetch(&bench.index()).unwrap_err());
    assert!(error.contains("--into"), "{error}");
    assert_eq!(super::files_below(bench.folder.path()), ["libtorch/precious"]);
}

#[test]
fn two_at_once_do_not_mix() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    fs::create_dir(bench.partial()).unwrap();
    let other = fs::File::open(bench.partial()).unwrap();
    other.lock().unwrap();
    let error = bench.failure(&bench.index());
    assert!(error.contains("another `loramill libtorch`"), "{error}");
    drop(other);
    bench.fetch(&bench.index()).unwrap();
    bench.assert_complete();
}

#[test]
fn who_finds_it_done_by_another_in_the_meantime_is_content() {
    let bench = Bench::new();
    bench.serve(PLAIN, PLAIN);
    let planned = needed(bench.outlook(&bench.index(), Trust::Pins, Depth::Sizes).unwrap());
    let first = bench.fetch(&bench.index()).unwrap();
    assert_eq!(fetch(*planned, &mut |_| {}).unwrap().extent, first.extent);
    bench.assert_complete();
}

/// A page as PyTorch's own index has them.
fn serve_html(bench: &Bench, server: &Server, fragment: &str, manner: Manner) {
    let page = format!("<html><body>\n<a href=\"../../files/{TORCH}{fragment}\">{TORCH}</a><br/>\n</body></html>");
    server.put("/whl/torch/", "text/html", page.as_bytes(), Manner::default());
    server.put(&format!("/files/{TORCH}"), "application/zip", &bench.torch, manner);
}

#[test]
fn a_wheel_without_a_pin_is_fetched_whole_and_on_demand_only() {
    let mut bench = Bench::new();
    bench.release.wheels.truncate(1);
    bench.release.wheels[0].pin = None;
    let source = Source::parse(&bench.server.url("/whl"));
    let failure = |bench: &Bench, trust| format!("{:#}", bench.outlook(&source, trust, Depth::Sizes).err().expect("refused"));
    serve_html(&bench, &bench.server, "", PLAIN);
    assert!(failure(&bench, Trust::Pins).contains("--trust-index"));
    assert!(failure(&bench, Trust::Index).contains("gives no SHA-256"));

    serve_html(&bench, &bench.server, &format!("#sha256={}", Sha256::of(b"another")), PLAIN);
    let planned = needed(bench.outlook(&source, Trust::Index, Depth::Sizes).unwrap());
    let error = format!("{:#}", fetch(*planned, &mut |_| {}).unwrap_err());
    assert!(error.contains("not what was published") && error.contains(&Sha256::of(&bench.torch).to_string()), "{error}");

    serve_html(&bench, &bench.server, &format!("#sha256={}", Sha256::of(&bench.torch)), PLAIN);
    // Half of it is there from an earlier attempt.
    let begun = bench.partial().join("wheels").join(TORCH);
    fs::create_dir_all(begun.parent().unwrap()).unwrap();
    let half = bench.torch.len() / 2;
    fs::write(&begun, &bench.torch[..half]).unwrap();
    let planned = needed(bench.outlook(&source, Trust::Index, Depth::Sizes).unwrap());
    assert_eq!(planned.download(), (bench.torch.len() - half) as u64);
    let fetched = fetch(*planned, &mut |_| {}).unwrap();
    assert_eq!(fetched.travelled, (bench.torch.len() - half) as u64);
    assert!(!bench.target().join("wheels").exists());
    assert!(matches!(bench.outlook(&source, Trust::Index, Depth::Bytes).unwrap(), Outlook::Complete(_)));
}

#[test]
fn the_password_of_an_index_is_for_the_index_alone() {
    let bench = Bench::new();
    let files = Server::start();
    for (wheel, bytes) in bench.release.wheels.iter().zip([&bench.torch, &bench.cudart]) {
        let page = format!("<a href=\"{}\">{}</a>", files.url(&format!("/files/{}", wheel.file)), wheel.file);
        bench.server.put(&format!("/simple/{}/", wheel.project), "text/html", page.as_bytes(), Manner::default());
        files.put(&format!("/files/{}", wheel.file), "application/zip", bytes, PLAIN);
    }
    let mut client = client();
    let url = client.log_in(&bench.server.url("/simple").replace("http://", "http://me:secret@"));
    let into: &Path = &bench.target();
    plan(bench.release.clone(), &Source::parse(&url), client, into, Trust::Pins, Depth::Sizes).unwrap();
    let (of_index, of_files) = (bench.server.take_log(), files.take_log());
    assert!(of_index.len() == 2 && !of_files.is_empty());
    // Python: base64.b64encode(b"me:secret").
    assert!(of_index.iter().all(|asked| asked.authorization.as_deref() == Some("Basic bWU6c2VjcmV0")), "{of_index:?}");
    assert!(of_files.iter().all(|asked| asked.authorization.is_none()), "{of_files:?}");
}
