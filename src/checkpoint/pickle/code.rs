//! Which names in a pickle mean that it runs code where Python loads it. Nothing is ever run here, so this protects nobody from the pickle:
//! it tells the user what the file is. Names that are not listed are passed over like any other stranger.
//!
//! What is listed: what picklescan 1.0.5 and fickling 0.1.12 hold for dangerous, as far as it is no plain data (`builtins.set`,
//! `types.SimpleNamespace`, `uuid.UUID`), and torch's own ways to run what lies in a pickle.

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
    ("torch.fx", &["immutable_collections.immutable_dict", "immutable_collections.immutable_list"]),
    ("types", &["MappingProxyType", "NoneType", "SimpleNamespace"]),
    ("uuid", &["UUID", "SafeUUID"]),
];

/// Single names of modules that have others which are needed.
const NAMES: &[(&str, &[&str])] = &[
    ("numpy", &["load", "fromfile", "memmap"]),
    ("numpy.lib.npyio", &["load", "fromregex"]),
    ("numpy.lib._npyio_impl", &["load", "fromregex"]),
    ("pandas", &["read_pickle", "eval"]),
    ("tensorflow", &["py_function"]),
    ("torch", &["load", "compile"]),
    ("torch.distributed.elastic.rendezvous.api", &["basichandlers"]),
    ("torch.serialization", &["load", "_load", "_legacy_load"]),
    ("torch.storage", &["_load_from_bytes"]),
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

/// Whether a global of a pickle stands for code, as `module` and `name` give it. A name with dots leads from one attribute to the next: each
/// of them counts, because modules are attributes of modules (`posixpath` has `os`).
pub(super) fn is_code(module: &str, name: &str) -> bool {
    let mut attributes = name.split('.');
    let first = attributes.next().unwrap_or_default();
    is_code_of(module, name, first) || leads_to_code(first, attributes)
}

fn is_code_of(module: &str, name: &str, first: &str) -> bool {
    if matches!(module, "builtins" | "__builtin__") {
        let is_exception = ["Error", "Exception", "Warning"].iter().any(|ending| first.ends_with(ending));
        return !is_exception && !BUILTIN_DATA.contains(&first);
    }
    if let Some((_, names)) = NAMES.iter().find(|(known, _)| *known == module)
        && names.contains(&first)
    {
        return true;
    }
    // `torch.fx` for `torch.fx.graph_module`.
    let above = std::iter::successors(Some(module), |module| module.rsplit_once('.').map(|(above, _)| above));
    let Some(listed) = above.into_iter().find(|above| MODULES.contains(above)) else { return false };
    let below = module.strip_prefix(listed).unwrap_or_default().trim_start_matches('.');
    let path = if below.is_empty() { name.to_string() } else { format!("{below}.{name}") };
    !DATA.iter().any(|(known, names)| *known == listed && names.contains(&path.as_str()))
}

/// Whether attributes of a global lead into a module of the list, or to what every object has for its own making.
fn leads_to_code<'a>(first: &'a str, further: impl Iterator<Item = &'a str>) -> bool {
    let mut further = further.peekable();
    let is_path = further.peek().is_some();
    // As `random._os`.
    let is_module = |name: &str| MODULES.contains(&name) || MODULES.contains(&name.trim_start_matches('_'));
    let is_hidden = |name: &str| name.starts_with("__") && name.ends_with("__");
    let is_builtin =
        |name: &str| matches!(name, "eval" | "exec" | "getattr" | "setattr" | "compile" | "open" | "system" | "popen");
    (is_path && (is_module(first) || is_hidden(first)))
        || further.any(|name| is_module(name) || is_hidden(name) || is_builtin(name))
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
