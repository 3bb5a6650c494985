//! Which names in a pickle mean that it runs code where Python loads it. Nothing is ever run here, so this protects nobody from the pickle:
//! it tells the user what the file is. Names that are not listed are passed over like any other stranger.
//!
//! What is listed: what picklescan 1.0.5 and fickling 0.1.12 hold for dangerous, as far as it is no plain data (`builtins.set`,
//! `types.SimpleNamespace`, `uuid.UUID`, the paths of `pathlib`), and torch's and numpy's own ways to read, write and fetch files.
//!
//! Python splits a name at its dots, so `torch` with `hub.load` is `torch.hub` with `load`: module and name are one path here.

/// Modules of which nothing is needed for weights, with all that is below them.
const MODULES: &[&str] = &[
    "__builtins__",
    "_aix_support",
    "_ctypes",
    "_frozen_importlib",
    "_frozen_importlib_external",
    "_imp",
    "_io",
    "_operator",
    "_osx_support",
    "_pickle",
    "_posixsubprocess",
    "_pyrepl",
    "_signal",
    "_socket",
    "_sqlite3",
    "_ssl",
    "_thread",
    "aiohttp",
    "asyncio",
    "atexit",
    "bdb",
    "cPickle",
    "cProfile",
    "cloudpickle",
    "code",
    "codeop",
    "commands",
    "compileall",
    "ctypes",
    "difflib",
    "dill",
    "distutils",
    "doctest",
    "ensurepip",
    "filecmp",
    "fileinput",
    "ftplib",
    "functools",
    "gc",
    "glob",
    "http",
    "httplib",
    "idlelib",
    "imaplib",
    "imp",
    "importlib",
    "inspect",
    "io",
    "joblib",
    "lib2to3",
    "linecache",
    "logging",
    "marshal",
    "mmap",
    "multiprocessing",
    "nntplib",
    "nt",
    "ntpath",
    "numpy.ctypeslib",
    "numpy.distutils",
    "numpy.f2py",
    "numpy.testing",
    "operator",
    "os",
    "pandas.io",
    "pathlib",
    "pdb",
    "pexpect",
    "pickle",
    "pip",
    "pkgutil",
    "platform",
    "poplib",
    "posix",
    "posixpath",
    "profile",
    "pty",
    "py_compile",
    "pydoc",
    "requests",
    "runpy",
    "select",
    "selectors",
    "setuptools",
    "shelve",
    "shutil",
    "signal",
    "site",
    "six.moves",
    "smtplib",
    "socket",
    "socketserver",
    "sqlite3",
    "ssl",
    "subprocess",
    "sys",
    "syslog",
    "tarfile",
    "telnetlib",
    "tempfile",
    "test",
    "threading",
    "timeit",
    "torch._dynamo",
    "torch._inductor",
    "torch.compile",
    "torch.fx",
    "torch.hub",
    "torch.jit",
    "torch.package",
    "torch.utils._config_module",
    "torch.utils.bottleneck",
    "torch.utils.collect_env",
    "torch.utils.cpp_extension",
    "torch.utils.data.datapipes.utils.decoder",
    "torch.utils.model_zoo",
    "trace",
    "types",
    "unittest",
    "urllib",
    "urllib2",
    "uuid",
    "venv",
    "webbrowser",
    "xmlrpc",
    "zipfile",
    "zipimport",
];

/// Of these modules, what is plain data all the same.
const DATA: &[(&str, &[&str])] = &[
    ("io", &["BytesIO", "StringIO"]),
    ("_io", &["BytesIO", "StringIO"]),
    ("logging", &["getLogger", "Logger"]),
    ("pathlib", PATHS),
    ("torch.fx", &["immutable_collections.immutable_dict", "immutable_collections.immutable_list"]),
    ("types", &["MappingProxyType", "NoneType", "SimpleNamespace"]),
    ("uuid", &["UUID", "SafeUUID"]),
];

/// What Lightning keeps the folders of a training in. Python 3.13 has them in a module below.
const PATHS: &[&str] = &[
    "Path",
    "PosixPath",
    "PurePath",
    "PurePosixPath",
    "PureWindowsPath",
    "WindowsPath",
    "_local.Path",
    "_local.PosixPath",
    "_local.PurePath",
    "_local.PurePosixPath",
    "_local.PureWindowsPath",
    "_local.WindowsPath",
];

/// Single names of modules that have others which are needed, wherever below the module they stand: `numpy.lib.npyio.load` is `numpy.load`.
const NAMES: &[(&str, &[&str])] = &[
    ("codecs", &["open"]),
    (
        "numpy",
        &[
            "DataSource",
            "fromfile",
            "fromregex",
            "genfromtxt",
            "load",
            "loadtxt",
            "memmap",
            "open_memmap",
            "runstring",
            "save",
            "savetxt",
            "savez",
            "savez_compressed",
        ],
    ),
    ("pandas", &["eval", "read_pickle", "to_pickle"]),
    ("tensorflow", &["py_function"]),
    (
        "torch",
        &[
            "_legacy_load",
            "_load",
            "_load_for_lite_interpreter",
            "_load_from_bytes",
            "compile",
            "download_url_to_file",
            "import_ir_module",
            "load",
            "load_state_dict_from_url",
            "load_url",
            "save",
        ],
    ),
    ("torch.distributed.elastic.rendezvous.api", &["basichandlers"]),
];

/// Names by which other modules have what is listed: `import numpy as np`, `from pathlib import Path`.
const ALIASES: &[(&str, &str)] = &[
    ("Path", "pathlib.Path"),
    ("PosixPath", "pathlib.PosixPath"),
    ("WindowsPath", "pathlib.WindowsPath"),
    ("mp", "multiprocessing"),
    ("np", "numpy"),
    ("pd", "pandas"),
    ("tf", "tensorflow"),
];

/// The builtins that make plain data. All others are held for code, as fickling does.
const BUILTIN_DATA: &[&str] = &[
    "Ellipsis",
    "NotImplemented",
    "NoneType",
    "abs",
    "all",
    "any",
    "ascii",
    "basestring",
    "bin",
    "bool",
    "bytearray",
    "bytes",
    "callable",
    "chr",
    "complex",
    "dict",
    "divmod",
    "enumerate",
    "filter",
    "float",
    "format",
    "frozenset",
    "hash",
    "hex",
    "id",
    "int",
    "isinstance",
    "issubclass",
    "iter",
    "len",
    "list",
    "long",
    "map",
    "max",
    "min",
    "next",
    "object",
    "oct",
    "ord",
    "pow",
    "range",
    "repr",
    "reversed",
    "round",
    "set",
    "slice",
    "sorted",
    "str",
    "sum",
    "tuple",
    "type",
    "unichr",
    "unicode",
    "xrange",
    "zip",
];

/// Whether a global of a pickle stands for code, as `module` and `name` give it. A name with dots leads from one attribute to the next, and
/// modules are attributes of modules (`posixpath` has `os`): the path from each of the name's parts on counts as the whole does.
pub(super) fn is_code(module: &str, name: &str) -> bool {
    let path: Vec<&str> = module.split('.').chain(name.split('.')).collect();
    let first = module.split('.').count();
    if path.len() > DEEPEST {
        return true;
    }
    let attributes = &path[first..];
    let is_hidden = |name: &str| name.starts_with("__") && name.ends_with("__");
    is_listed(&path)
        || (attributes.len() > 1 && attributes.iter().any(|name| is_hidden(name)))
        || attributes[1..].iter().any(|name| ACTING.contains(name))
        || (0..attributes.len()).any(|from| leads_to_code(path[0], &attributes[from..], from == 0))
}

/// No class lies deeper. Each further part of a path costs a look at the lists.
const DEEPEST: usize = 64;

/// Attributes that run or change something, whatever has them.
const ACTING: &[&str] = &[
    "compile",
    "eval",
    "exec",
    "getattr",
    "hardlink_to",
    "open",
    "popen",
    "rmdir",
    "setattr",
    "symlink_to",
    "system",
    "unlink",
    "write_bytes",
    "write_text",
];

/// Whether a path leads from an attribute of a module below `root` to what is listed. The first attribute alone is only called like it.
fn leads_to_code(root: &str, path: &[&str], is_first: bool) -> bool {
    if is_first && path.len() == 1 {
        return false;
    }
    // As `random._os`, and `torch.onnx` has `torch.jit` as `jit`.
    let plain = path[0].trim_start_matches('_');
    let alias = ALIASES.iter().find(|(alias, _)| *alias == path[0]).map(|(_, known)| *known);
    let below = MODULES.iter().copied().filter(|known| known.ends_with(path[0])).filter(|known| {
        let (above, last) = known.rsplit_once('.').unwrap_or_default();
        last == path[0] && above.split('.').next() == Some(root)
    });
    is_listed(path)
        || (plain != path[0] && is_listed(&instead(plain, path)))
        || alias.into_iter().chain(below).any(|known| is_listed(&instead(known, path)))
}

/// A path with `known` in the place of its first part.
fn instead<'a>(known: &'a str, path: &[&'a str]) -> Vec<&'a str> {
    known.split('.').chain(path[1..].iter().copied()).collect()
}

/// Whether a path is, or lies below, what the lists hold for code.
fn is_listed(path: &[&str]) -> bool {
    // Behind the path of `known`.
    let behind = |known: &str| {
        // Most differ in their first letters.
        known.strip_prefix(*path.first()?)?;
        let length = known.split('.').count();
        path.split_at_checked(length).filter(|(above, _)| known.split('.').eq(above.iter().copied())).map(|(_, behind)| behind)
    };
    if let ["builtins" | "__builtin__", name, ..] = path {
        let is_exception = ["Error", "Exception", "Warning"].iter().any(|ending| name.ends_with(ending));
        return !is_exception && !BUILTIN_DATA.contains(name);
    }
    let is_data = |known: &str, behind: &[&str]| {
        let names = DATA.iter().find(|(module, _)| *module == known).map_or(&[][..], |(_, names)| names);
        names.iter().any(|name| name.split('.').eq(behind.iter().copied()))
    };
    MODULES.iter().any(|known| behind(known).is_some_and(|behind| !is_data(known, behind)))
        || NAMES.iter().any(|(known, names)| behind(known).is_some_and(|behind| behind.iter().any(|part| names.contains(part))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_runs_programs_opens_files_or_reaches_further_is_code() {
        for (module, name) in [
            ("os", "system"),
            ("posix", "system"),
            ("nt", "startfile"),
            ("os.path", "join"),
            ("subprocess", "Popen"),
            ("sys", "modules"),
            ("builtins", "exec"),
            ("builtins", "eval"),
            ("builtins", "getattr"),
            ("builtins", "__import__"),
            ("__builtin__", "apply"),
            ("__builtin__", "execfile"),
            ("__builtin__", "open"),
            ("runpy", "run_path"),
            ("socket", "create_connection"),
            ("operator", "attrgetter"),
            ("functools", "partial"),
            ("importlib", "import_module"),
            ("cloudpickle.cloudpickle", "_make_function"),
            ("types", "CodeType"),
            ("types", "FunctionType"),
            ("torch.hub", "load"),
            ("torch", "load"),
            ("torch.storage", "_load_from_bytes"),
            ("torch.fx.graph_module", "reduce_graph_module"),
            ("torch.jit.unsupported_tensor_ops", "execWrapper"),
            ("numpy.testing._private.utils", "runstring"),
            ("uuid", "_get_command_stdout"),
            ("logging", "FileHandler"),
            ("_io", "FileIO"),
            // By a way round.
            ("collections", "_sys.modules.get"),
            ("posixpath", "os.system"),
            ("random", "_os.system"),
            ("torch", "os.system"),
            ("torch.nn.modules.module", "Module.__class__"),
            ("some.module", "thing.__globals__"),
            // The same name cut elsewhere, or met in another module.
            ("torch", "hub.load"),
            ("torch", "utils.cpp_extension.load"),
            ("torch", "jit.load"),
            ("torch", "serialization.load"),
            ("torch", "storage._load_from_bytes"),
            ("torch", "fx.graph_module.reduce_graph_module"),
            ("torch.storage", "torch.load"),
            ("torch.nn.modules.module", "torch.hub.load"),
            ("torch.onnx.utils", "jit.load"),
            ("numpy", "testing._private.utils.runstring"),
            ("numpy", "lib.npyio.load"),
            ("torch.utils.tensorboard._utils", "np.load"),
            ("collections", "abc.builtins.eval"),
            ("codecs", "builtins.exec"),
            ("six.moves", "builtins.eval"),
            // Files.
            ("pathlib", "Path.write_text"),
            ("pathlib", "os.system"),
            ("pathlib._local", "PosixPath.unlink"),
            ("torch.hub", "Path.touch"),
            ("torch.utils", "Path.rename"),
            ("codecs", "open"),
            ("torch", "save"),
            ("torch.serialization", "save"),
            ("torch.utils.model_zoo", "load_url"),
            ("torch", "utils.model_zoo.load_url"),
            ("numpy", "save"),
            ("torch", &"torch.".repeat(1_000_000)),
        ] {
            assert!(is_code(module, name), "{module} {name}");
        }
    }

    #[test]
    fn what_real_checkpoints_hold_is_none() {
        for (module, name) in [
            ("collections", "OrderedDict"),
            ("torch._utils", "_rebuild_tensor_v2"),
            ("torch", "FloatStorage"),
            ("torch.optim.adamw", "AdamW"),
            ("pytorch_lightning.callbacks.model_checkpoint", "ModelCheckpoint"),
            ("numpy.core.multiarray", "scalar"),
            ("numpy", "dtype"),
            ("omegaconf.dictconfig", "DictConfig"),
            ("typing", "Any"),
            ("argparse", "Namespace"),
            ("pathlib", "PosixPath"),
            ("pathlib", "Path"),
            ("pathlib._local", "PosixPath"),
            ("some.module", "Path"),
            ("some.module", "trace"),
            ("torch", "device"),
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("torch._tensor", "_rebuild_from_type_v2"),
            ("torch.optim.lr_scheduler", "LambdaLR"),
            ("torch.fx.immutable_collections", "immutable_dict"),
            ("torch._C._nn", "gelu"),
            ("torch.nn.modules.activation", "SiLU"),
            ("numpy.core.multiarray", "_reconstruct"),
            ("numpy._core.numeric", "_frombuffer"),
            ("numpy.random._pickle", "__randomstate_ctor"),
            ("codecs", "lookup"),
            ("builtins", "set"),
            ("builtins", "ValueError"),
            ("types", "SimpleNamespace"),
            ("uuid", "UUID"),
            ("io", "BytesIO"),
            ("logging", "getLogger"),
            ("_codecs", "encode"),
            ("copyreg", "_reconstructor"),
            ("some.module", "Outer.Inner"),
            ("tests.models", "Net"),
            ("transformers.code", "Thing"),
        ] {
            assert!(!is_code(module, name), "{module} {name}");
        }
    }
}
