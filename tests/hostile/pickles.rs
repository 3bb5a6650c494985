//! Pickles that would run a program: every dangerous call, and every way to write one down.

use crate::hostile::archives::{End, Member, Pickle, legacy_parts, legacy_torch, torch, torch_members, zip};
use crate::hostile::case::Case;
use crate::hostile::damage;
use crate::hostile::ground::Ground;

const FAMILY: &str = "pickle calls";

/// A pipeline that converts one model file.
pub const CONVERT: &str = "\
concept: star
inputs: { base: model.ckpt }
stages:
  convert: { from: base, to: safetensors }
";

/// What is tried on a model file.
pub const LINES: &[&str] = &["run", "explain model.ckpt", "check"];

/// What a model file that would run a program is refused with.
const CODE: &str = "carries code";

/// Calls that run programs, open files or sockets, or find other calls; as picklescan and fickling list them, and a few that they lacked at
/// some time.
const CALLS: &[(&str, &[&str])] = &[
    ("os", &["system", "popen", "execv", "spawnv", "posix_spawn", "remove", "rename", "rmdir", "kill", "putenv", "fdopen"]),
    ("posix", &["system", "popen", "execve", "unlink"]),
    ("nt", &["system", "popen", "startfile"]),
    ("subprocess", &["Popen", "call", "run", "check_output", "getoutput"]),
    ("sys", &["exit", "setprofile", "modules"]),
    ("builtins", &["exec", "eval", "compile", "getattr", "setattr", "__import__", "open", "globals", "breakpoint"]),
    ("__builtin__", &["exec", "eval", "execfile", "getattr", "apply", "file", "__import__"]),
    ("runpy", &["_run_code", "run_path", "run_module"]),
    ("socket", &["socket", "create_connection"]),
    ("importlib", &["import_module", "reload"]),
    ("shutil", &["rmtree", "copyfile", "move"]),
    ("pickle", &["loads", "load", "Unpickler"]),
    ("_pickle", &["loads"]),
    ("cPickle", &["loads"]),
    ("dill", &["loads"]),
    ("marshal", &["loads"]),
    ("types", &["CodeType", "FunctionType"]),
    ("ctypes", &["CDLL"]),
    ("code", &["InteractiveInterpreter", "interact"]),
    ("pty", &["spawn"]),
    ("commands", &["getoutput"]),
    ("timeit", &["timeit"]),
    ("cProfile", &["run", "runctx"]),
    ("profile", &["run"]),
    ("pdb", &["run"]),
    ("bdb", &["Bdb"]),
    ("trace", &["Trace"]),
    ("asyncio", &["create_subprocess_shell"]),
    ("multiprocessing.util", &["spawnv_passfds"]),
    ("operator", &["attrgetter", "methodcaller", "itemgetter"]),
    ("functools", &["partial", "reduce"]),
    ("webbrowser", &["open"]),
    ("urllib.request", &["urlopen", "urlretrieve"]),
    ("http.client", &["HTTPSConnection"]),
    ("httplib", &["HTTPSConnection"]),
    ("requests.api", &["get"]),
    ("aiohttp.client", &["ClientSession"]),
    ("smtplib", &["SMTP"]),
    ("ftplib", &["FTP"]),
    ("xmlrpc.client", &["ServerProxy"]),
    ("ssl", &["get_server_certificate"]),
    ("pydoc", &["pipepager", "locate"]),
    ("pkgutil", &["resolve_name"]),
    ("zipimport", &["zipimporter"]),
    ("pip", &["main"]),
    ("venv", &["create"]),
    ("ensurepip", &["bootstrap"]),
    ("idlelib.run", &["Executive"]),
    ("lib2to3.pgen2.pgen", &["generate_grammar"]),
    ("distutils.file_util", &["write_file"]),
    ("io", &["open", "FileIO"]),
    ("_io", &["FileIO", "open"]),
    ("uuid", &["_get_command_stdout"]),
    ("_osx_support", &["_find_build_tool"]),
    ("platform", &["popen"]),
    ("numpy.testing._private.utils", &["runstring"]),
    ("numpy", &["load"]),
    ("torch", &["load"]),
    ("torch.hub", &["load"]),
    ("torch.serialization", &["load"]),
    ("torch.jit", &["load"]),
    ("torch.utils.cpp_extension", &["load_inline"]),
    ("torch._inductor.codecache", &["compile_file"]),
    ("torch.utils.bottleneck.__main__", &["run_cprofile"]),
    ("torch.utils.collect_env", &["run"]),
    ("torch.fx.experimental.symbolic_shapes.ShapeEnv", &["evaluate_guards_expression"]),
    ("joblib", &["load"]),
    ("pandas", &["read_pickle"]),
    ("torch", &["hub.load", "jit.load", "serialization.load", "utils.cpp_extension.load", "save"]),
    ("torch.storage", &["torch.load"]),
    ("torch.nn.modules.module", &["torch.hub.load"]),
    ("torch.utils.model_zoo", &["load_url"]),
    ("numpy", &["lib.npyio.load", "testing._private.utils.runstring"]),
    ("pathlib", &["Path.write_text"]),
    ("codecs", &["open"]),
];

/// The arguments that `os.system` gets.
fn command(ground: &Ground) -> String {
    format!("touch {}", ground.victim().join("executed").display())
}

/// Writes the file and a pipeline that converts it.
pub fn model(ground: &Ground, bytes: &[u8]) {
    ground.write("model.ckpt", bytes);
    ground.write("pipeline.yaml", CONVERT);
}

/// A dictionary with a tensor of four floats, open for more: storage `0` has 16 bytes.
pub fn begun() -> Pickle {
    Pickle::protocol(2).op("}").text("w").tensor("0", 4, 0, &[4], &[1]).op("s")
}

pub fn storage() -> [(&'static str, Vec<u8>); 1] {
    [("0", vec![0; 16])]
}

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for (module, names) in CALLS {
        for name in *names {
            cases.push(call(module, name));
        }
    }
    cases.extend(ways());
    cases.extend(containers());
    cases.extend(damaged());
    cases
}

/// A call as a value beside a tensor.
fn call(module: &'static str, name: &'static str) -> Case {
    let build = move |ground: &Ground| {
        let pickle = begun().text("x").global(module, name).op("(").text(&command(ground)).op("tRs").end();
        model(ground, &torch(&pickle, &storage()));
    };
    Case::new(FAMILY, format!("{module} {name}"), build).lines(LINES).refused(CODE)
}

/// One call in all ways in which the language of pickles can say it; `$` stands for the text that is its argument.
fn ways() -> Vec<Case> {
    type Write = fn(&str) -> Vec<u8>;
    let ways: &[(&str, Write)] = &[
        ("is-the-state-dict", |c| Pickle::protocol(2).global("os", "system").op("(").text(c).op("tR").end()),
        ("protocol-0", |c| Pickle::default().op(format!("cos\nsystem\n(S'{c}'\ntR")).end()),
        ("stack-global", |c| begun().text("x").text("os").text("system").op([0x93]).text(c).op(b"\x85Rs").end()),
        ("stack-global-from-memo", |c| {
            let named = begun().text("os").op("q\x05").op("0").text("system").op("q\x06").op("0");
            named.text("x").op(b"h\x05h\x06\x93").text(c).op(b"\x85Rs").end()
        }),
        ("inst", |c| begun().text("x").op("(").text(c).op("ios\nsystem\n").op("s").end()),
        ("obj", |c| begun().text("x").op("(").global("os", "system").text(c).op("os").end()),
        ("newobj", |c| begun().text("x").global("os", "system").text(c).op(b"\x85\x81s").end()),
        ("newobj-ex", |c| Pickle::protocol(4).op("}").text("x").global("os", "system").text(c).op(b"\x85}\x92s").end()),
        ("popped-again", |c| Pickle::protocol(2).global("os", "system").text(c).op(b"\x85R0").then(&begun()).end()),
        ("popped-with-a-mark", |c| Pickle::protocol(2).op("(").global("os", "system").text(c).op(b"\x85R1").then(&begun()).end()),
        ("as-a-key", |c| begun().global("os", "system").text(c).op(b"\x85RNs").end()),
        ("in-a-list", |c| begun().text("x").op("]").global("os", "system").text(c).op(b"\x85Ras").end()),
        ("in-a-set", |c| Pickle::protocol(4).op(b"}\x8c\x01x\x8f(").global("os", "system").text(c).op(b"\x85R\x90s").end()),
        ("as-an-offset", |c| {
            let start = Pickle::protocol(2).op("}").text("w").global("torch._utils", "_rebuild_tensor_v2").op("(");
            let storage = start.storage("FloatStorage", "0", 4).global("os", "system").text(c).op(b"\x85R");
            storage.ints(&[4]).ints(&[1]).op(b"\x89}tRs").end()
        }),
        ("in-a-persistent-id", |c| {
            begun().text("x").op("(").text("storage").global("os", "system").text(c).op(b"\x85RtQs").end()
        }),
        ("as-a-persistent-id", |c| begun().text("x").global("os", "system").text(c).op(b"\x85RQs").end()),
        ("in-an-ordered-dict", |c| {
            let begun = begun().text("x").global("collections", "OrderedDict").op("(]").global("os", "system").text(c);
            begun.op(b"\x85RatRs").end()
        }),
        ("as-state", |c| {
            let begun = begun().text("x").global("collections", "OrderedDict").op(")R");
            begun.global("os", "system").text(c).op(b"\x85Rbs").end()
        }),
        ("as-state-of-a-class", |c| begun().text("x").global("os", "system").text(c).op("bs").end()),
        ("by-getattr-of-import", |c| {
            let os = Pickle::default().global("builtins", "__import__").text("os").op(b"\x85R");
            let system = Pickle::default().global("builtins", "getattr").then(&os).text("system").op(b"\x86R");
            begun().text("x").then(&system).text(c).op(b"\x85Rs").end()
        }),
        ("called-later-by-the-memo", |c| {
            begun().global("os", "system").op("q\x07").op("0").text("x").op("h\x07").text(c).op(b"\x85Rs").end()
        }),
        ("with-a-far-memo", |c| {
            begun()
                .global("os", "system")
                .op(b"r\xff\xff\xff\xff0")
                .text("x")
                .op(b"j\xff\xff\xff\xff")
                .text(c)
                .op(b"\x85Rs")
                .end()
        }),
        ("with-a-text-memo", |c| {
            begun().global("os", "system").op("p99999999999\n0").text("x").op("g99999999999\n").text(c).op(b"\x85Rs").end()
        }),
        ("over-an-older-memo", |c| {
            let harmless = begun().global("collections", "OrderedDict").op("q\x01").op("0");
            harmless.global("os", "system").op("q\x01").op("0").text("x").op("h\x01").text(c).op(b"\x85Rs").end()
        }),
        ("doubled", |c| begun().text("x").global("os", "system").op("20").text(c).op(b"\x85Rs").end()),
        ("framed", |c| {
            Pickle::protocol(4).op(b"\x95\x08\0\0\0\0\0\0\0}").text("x").global("os", "system").text(c).op(b"\x85Rs").end()
        }),
        ("two-protocols", |c| begun().op(b"\x80\x04").text("x").global("os", "system").text(c).op(b"\x85Rs").end()),
        ("dotted-name", |c| {
            let torch = Pickle::protocol(4).op("}").text("x").text("torch").text("os.system").op([0x93]);
            torch.text(c).op(b"\x85Rs").end()
        }),
        ("dotted-name-of-a-harmless-module", |c| {
            let dotted = Pickle::protocol(4).op("}").text("x").text("collections").text("_sys.modules").op([0x93]);
            dotted.text(c).op(b"\x85Rs").end()
        }),
        ("dotted-torch-utils", |c| {
            Pickle::protocol(4).op("}").text("x").global("torch._utils", "sys.exit").text(c).op(b"\x85Rs").end()
        }),
        ("as-a-reduce-of-a-reduce", |c| {
            let partial = begun().text("x").global("functools", "partial").global("os", "system").text(c).op(b"\x86R");
            partial.op(")Rs").end()
        }),
        ("by-map", |c| {
            let map = begun().text("x").global("builtins", "map").global("os", "system").op("]").text(c).op(b"a\x86R");
            Pickle::default().then(&map).op("s").end()
        }),
        ("deep-in-tuples", |c| {
            let call = begun().text("x").global("os", "system").text(c).op(b"\x85R");
            (0..1000).fold(call, |pickle, _| pickle.op([0x85])).op("s").end()
        }),
    ];
    let case = |(name, write): &(&'static str, Write)| {
        let write = *write;
        let build = move |ground: &Ground| model(ground, &torch(&write(&command(ground)), &storage()));
        Case::new(FAMILY, format!("os.system {name}"), build).lines(LINES).refused(CODE)
    };
    ways.iter().map(case).collect()
}

fn system(ground: &Ground) -> Vec<u8> {
    Pickle::protocol(2).global("os", "system").op("(").text(&command(ground)).op("tR").end()
}

/// The call in other places of a file than its one pickle.
fn containers() -> Vec<Case> {
    let mut cases = Vec::new();
    for (place, name) in ["magic", "protocol", "system", "object", "keys"].iter().enumerate() {
        let build = move |ground: &Ground| {
            let mut parts = legacy_parts(begun().end());
            parts[place] = if place == 0 { [parts[0].clone(), system(ground)].concat() } else { system(ground) };
            model(ground, &legacy_torch(parts, &[vec![0; 16]]));
        };
        let case = Case::new(FAMILY, format!("older format, {name}"), build).lines(LINES);
        cases.push(if *name == "object" || *name == "system" { case.refused("") } else { case });
    }
    let bare = |ground: &Ground| model(ground, &system(ground));
    cases.push(Case::new(FAMILY, "a bare pickle", bare).lines(LINES).refused(""));
    let behind = |ground: &Ground| model(ground, &torch(&[begun().end(), system(ground)].concat(), &storage()));
    cases.push(Case::new(FAMILY, "behind the end of the pickle", behind).lines(LINES));
    for name in ["a/other.pkl", "b/data.pkl", "a/.data/data.pkl", "a/constants.pkl", "a/code/__torch__.py", "data.pkl"] {
        let build = move |ground: &Ground| {
            let mut members = torch_members(&begun().end(), &storage());
            members.push(Member::stored(name, &system(ground)));
            model(ground, &zip(&members, &End::default()));
        };
        cases.push(Case::new(FAMILY, format!("in another member, {name}"), build).lines(LINES));
    }
    let twice = |ground: &Ground| {
        let mut members = torch_members(&begun().end(), &storage());
        members.push(Member::stored("a/data.pkl", &system(ground)));
        model(ground, &zip(&members, &End::default()));
    };
    cases.push(Case::new(FAMILY, "in a second data.pkl", twice).lines(LINES).refused(""));
    let lora = |ground: &Ground| {
        ground.write("lora.pt", torch(&system(ground), &[]));
        let text = "concept: star\ninputs: { lora: lora.pt }\nstages:\n  convert: { lora: lora, to: safetensors }\n";
        ground.write("pipeline.yaml", text);
    };
    cases.push(Case::new(FAMILY, "in a LoRA", lora).lines(&["run", "explain lora.pt"]).refused(CODE));
    cases
}

fn damaged() -> Vec<Case> {
    let whole =
        |ground: &Ground| begun().text("x").text("os").text("system").op([0x93]).text(&command(ground)).op(b"\x85Rs").end();
    // The command's length depends on the ground; where a file is damaged does not.
    let sample = begun().text("x").text("os").text("system").op([0x93]).text("touch").op(b"\x85Rs").end();
    let cut = damage::cuts("system", &sample, 20).into_iter().map(|(name, bytes)| {
        let length = bytes.len();
        let build = move |ground: &Ground| {
            let whole = whole(ground);
            model(ground, &torch(&whole[..length.min(whole.len())], &storage()));
        };
        Case::new("pickle damage", name, build).lines(&["run"]).refused("")
    });
    let changed = damage::changes("system", &sample, 40);
    let changed = changed.into_iter().map(|(name, bytes)| {
        Case::new("pickle damage", name, move |ground: &Ground| model(ground, &torch(&bytes, &storage()))).lines(&["run"])
    });
    let tensors = begun().end();
    let harmless = damage::changes("tensors", &tensors, 30).into_iter().map(|(name, bytes)| {
        Case::new("pickle damage", name, move |ground: &Ground| model(ground, &torch(&bytes, &storage()))).lines(&["run"])
    });
    cut.chain(changed).chain(harmless).collect()
}
