//! Git repositories whose own configuration names programs, and repositories that git itself cannot read to an end.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::hostile::case::Case;
use crate::hostile::ground::Ground;
use crate::hostile::links::Thing;

const FAMILY: &str = "git";

const LINES: &[&str] = &[
    "gc --yes",
    "restore HEAD~1",
    "restore HEAD",
    "gc",
    "plan",
    "run",
    "status",
    "explain crop",
    "explain out/resize/star-00.png",
    "edits list",
];

/// Lines of `.git/config`; `$` stands for a program that would do harm.
const CONFIGS: &[(&str, &str)] = &[
    ("fsmonitor", "[core]\n\tfsmonitor = $\n"),
    ("fsmonitor with a version", "[core]\n\tfsmonitor = $\n\tfsmonitorHookVersion = 2\n\tuntrackedCache = true\n"),
    ("hooks elsewhere", "[core]\n\thooksPath = $.hooks\n"),
    (
        "pager",
        "[core]\n\tpager = $\n[pager]\n\tlog = $\n\tshow = $\n\trev-list = $\n\tls-files = $\n\tworktree = $\n\tdiff-tree = $\n",
    ),
    ("editors", "[core]\n\teditor = $\n[sequence]\n\teditor = $\n"),
    ("ssh", "[core]\n\tsshCommand = $\n[ssh]\n\tvariant = simple\n"),
    ("a proxy", "[core]\n\tgitProxy = $\n"),
    ("passwords", "[core]\n\taskPass = $\n[credential]\n\thelper = !$\n"),
    ("alternate refs", "[core]\n\talternateRefsCommand = $\n"),
    ("an external diff", "[diff]\n\texternal = $\n[diff \"x\"]\n\tcommand = $\n"),
    ("textconv", "[diff \"x\"]\n\ttextconv = $\n\tcachetextconv = true\n\tbinary = true\n"),
    ("filters", "[filter \"x\"]\n\tclean = $\n\tsmudge = $\n\trequired = true\n"),
    ("a filter process", "[filter \"x\"]\n\tprocess = $\n\trequired = true\n"),
    ("a merge driver", "[merge \"x\"]\n\tdriver = $ %O %A %B\n\trecursive = x\n[merge]\n\tdefault = x\n"),
    (
        "aliases",
        "[alias]\n\trev-list = !$\n\tls-files = !$\n\tworktree = !$\n\tdiff-tree = !$\n\tcat-file = !$\n\trev-parse = !$\n\tstatus = !$\n",
    ),
    ("an alias with capitals", "[alias]\n\tRev-List = !$\n\tCAT-FILE = !$\n"),
    ("gpg", "[gpg]\n\tprogram = $\n[gpg \"ssh\"]\n\tprogram = $\n[log]\n\tshowSignature = true\n[commit]\n\tgpgSign = true\n"),
    ("an interactive filter", "[interactive]\n\tdiffFilter = $\n"),
    ("trailers", "[trailer \"x\"]\n\tcommand = $\n\tcmd = $\n"),
    ("a browser", "[browser \"x\"]\n\tcmd = $\n[help]\n\tautocorrect = immediate\n\tbrowser = x\n[man \"x\"]\n\tcmd = $\n"),
    ("a pack hook", "[uploadpack]\n\tpackObjectsHook = $\n"),
    ("a template", "[init]\n\ttemplateDir = $.hooks\n"),
    ("a submodule that is updated", "[submodule \"x\"]\n\tupdate = !$\n\turl = ext::$ %S\n\tactive = true\n"),
    ("an archive", "[tar \"x\"]\n\tcommand = $\n"),
    ("a sendemail", "[sendemail]\n\tsmtpServer = $\n\ttoCmd = $\n"),
    (
        "an index that is refreshed",
        "[core]\n\tfsmonitor = $\n\tpreloadIndex = true\n[index]\n\tthreads = 4\n[status]\n\tsubmoduleSummary = true\n",
    ),
    ("maintenance", "[gc]\n\tauto = 1\n\tautoDetach = true\n[maintenance]\n\tauto = true\n[gc]\n\trecentObjectsHook = $\n"),
    ("included", "[include]\n\tpath = ../evil.config\n"),
    ("included by a branch", "[includeIf \"onbranch:main\"]\n\tpath = ../evil.config\n"),
    ("included by a folder", "[includeIf \"gitdir:/\"]\n\tpath = ../evil.config\n"),
    (
        "included by a remote",
        "[remote \"o\"]\n\turl = https://x/y\n[includeIf \"hasconfig:remote.*.url:https://x/**\"]\n\tpath = ../evil.config\n",
    ),
    ("of the work tree", "[extensions]\n\tworktreeConfig = true\n"),
    (
        "a promised object by ext",
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = ext::$ %S\n\tpromisor = true\n\tpartialclonefilter = blob:none\n[protocol \"ext\"]\n\tallow = always\n",
    ),
    (
        "a promised object by uploadpack",
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = .\n\tuploadpack = $\n\tpromisor = true\n\tpartialclonefilter = blob:none\n",
    ),
    (
        "a promised object by ssh",
        "[core]\n\trepositoryformatversion = 1\n\tsshCommand = $\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = ssh://localhost/x\n\tpromisor = true\n",
    ),
    (
        "a promised object by a helper",
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = x\n\tvcs = $\n\tpromisor = true\n",
    ),
    (
        "a promised object over the network",
        "[core]\n\trepositoryformatversion = 1\n[extensions]\n\tpartialClone = o\n[remote \"o\"]\n\turl = http://127.0.0.1:9/x\n\tpromisor = true\n[http]\n\tproxy = http://127.0.0.1:9\n",
    ),
    ("an address that is another", "[url \"ext::$ %S \"]\n\tinsteadOf = https://\n[protocol \"ext\"]\n\tallow = always\n"),
    ("a work tree elsewhere", "[core]\n\tworktree = ../../victim\n"),
    ("attributes that are a device", "[core]\n\tattributesFile = /dev/zero\n\texcludesFile = /dev/zero\n"),
    ("no text", "[core]\n\tfsmonitor = \u{1b}]0;owned\u{7}\n[x\n"),
    ("a trace into the victim", "[trace2]\n\teventTarget = $.trace\n\tnormalTarget = $.trace\n\tperfTarget = $.trace\n"),
    ("a refs backend of an unknown kind", "[core]\n\trepositoryformatversion = 1\n[extensions]\n\trefStorage = \u{1b}[31mx\n"),
    ("bare", "[core]\n\tbare = true\n"),
];

/// The repository with a program in all places that need no configuration, and attributes that call filters by name.
fn armed(ground: &Ground, config: &str) {
    ground.repository();
    let program = ground.path(".git/evil");
    let witness = ground.victim().join("executed");
    let script = format!("#!/bin/sh\ntouch '{}'\ncat 2>/dev/null\n", witness.display());
    executable(ground, ".git/evil", &script);
    executable(ground, ".git/evil.hooks/post-index-change", &script);
    executable(ground, ".git/evil.hooks/reference-transaction", &script);
    executable(ground, ".git/evil.hooks/fsmonitor-watchman", &script);
    ground.write(".gitattributes", "* diff=x filter=x merge=x working-tree-encoding=utf-16\n");
    let path = program.display().to_string();
    ground.write("evil.config", CONFIGS[0].1.replace('$', &path));
    ground.write(".git/config.worktree", CONFIGS[0].1.replace('$', &path));
    let config = config.replace('$', &path);
    let before = fs::read_to_string(ground.path(".git/config")).expect("it was made");
    ground.write(".git/config", format!("{before}{config}"));
    if config.contains("promisor") {
        forget_a_blob(ground);
    }
}

/// Takes the committed locks out of the store of objects, as a partial clone has it.
fn forget_a_blob(ground: &Ground) {
    let listed = std::process::Command::new("git")
        .args([
            "-C",
            &ground.project().display().to_string(),
            "-c",
            "core.fsmonitor=false",
            "rev-parse",
            "HEAD:pipeline.lock",
            "HEAD~1:pipeline.lock",
        ])
        .env("GIT_CONFIG_COUNT", "0")
        .env("GIT_NO_LAZY_FETCH", "1")
        .output()
        .expect("git starts");
    for name in String::from_utf8_lossy(&listed.stdout).lines().filter(|line| line.len() == 40) {
        let _ = fs::remove_file(ground.path(&format!(".git/objects/{}/{}", &name[..2], &name[2..])));
    }
}

fn executable(ground: &Ground, path: &str, text: &str) {
    ground.write(path, text);
    fs::set_permissions(ground.path(path), fs::Permissions::from_mode(0o755)).expect("our own");
}

pub fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = CONFIGS
        .iter()
        .map(|(name, config)| Case::new(FAMILY, *name, move |ground: &Ground| armed(ground, config)).lines(LINES))
        .collect();
    for hook in [
        "post-index-change",
        "reference-transaction",
        "post-checkout",
        "pre-auto-gc",
        "fsmonitor-watchman",
        "query-watchman",
        "post-rewrite",
    ] {
        let build = move |ground: &Ground| {
            armed(ground, "");
            let script = fs::read_to_string(ground.path(".git/evil")).expect("just written");
            executable(ground, &format!(".git/hooks/{hook}"), &script);
        };
        cases.push(Case::new(FAMILY, format!("the hook {hook}"), build).lines(LINES));
    }
    cases.extend(elsewhere());
    cases.extend(endless());
    cases
}

/// Repositories that are found in other ways than by `.git` in the project.
fn elsewhere() -> Vec<Case> {
    let fsmonitor = CONFIGS[0].1;
    let by_file = move |ground: &Ground| {
        armed(ground, fsmonitor);
        fs::rename(ground.path(".git"), ground.path("store")).expect("moved");
        ground.write(".git", "gitdir: store\n");
        let config = fs::read_to_string(ground.path("store/config")).expect("it was made");
        ground.write("store/config", config.replace("/.git/evil", "/store/evil"));
    };
    let by_link = move |ground: &Ground| {
        armed(ground, fsmonitor);
        fs::rename(ground.path(".git"), ground.path("store")).expect("moved");
        ground.link(".git", ground.path("store"));
    };
    let by_root = move |ground: &Ground| {
        armed(ground, fsmonitor);
        let root = ground.project();
        fs::create_dir_all(ground.path("inner")).expect("made");
        for name in ["cache", "captions", "images", "out", "pipeline.yaml", "pipeline.lock"] {
            fs::rename(ground.path(name), ground.path("inner").join(name)).expect("moved");
        }
        ground.write("inner/cache/roots/planted", root.display().to_string());
    };
    let bare = move |ground: &Ground| {
        armed(ground, fsmonitor);
        for entry in fs::read_dir(ground.path(".git")).expect("it was made") {
            let path = entry.expect("readable").path();
            fs::rename(&path, ground.project().join(path.file_name().expect("a name"))).expect("moved");
        }
        fs::remove_dir(ground.path(".git")).expect("empty now");
        let config = fs::read_to_string(ground.path("config")).expect("it was made");
        ground.write("config", config.replace("/.git/evil", "/evil").replace("bare = false", "bare = true"));
    };
    let work_tree = move |ground: &Ground| {
        armed(ground, fsmonitor);
        // A work tree of which git says that it lies in the victim's folder.
        ground.write(".git/worktrees/x/gitdir", ground.victim().join(".git").display().to_string() + "\n");
        ground.write(".git/worktrees/x/commondir", "../..\n");
        ground.write(".git/worktrees/x/HEAD", "ref: refs/heads/main\n");
    };
    let submodule = move |ground: &Ground| {
        armed(ground, fsmonitor);
        ground.write(".gitmodules", "[submodule \"x\"]\n\tpath = x\n\turl = ext::touch%20x\n\tupdate = !touch x\n");
        fs::create_dir_all(ground.path("x")).expect("made");
        ground.write("x/.git", "gitdir: ../.git\n");
        ground.write("x/pipeline.lock", "");
    };
    let alternates = |ground: &Ground| {
        armed(ground, "");
        ground.write(".git/objects/info/alternates", format!("{}\n/dev/zero\n", ground.victim().join("objects").display()));
    };
    let in_path = |ground: &Ground| {
        armed(ground, "");
        let script = fs::read_to_string(ground.path(".git/evil")).expect("just written");
        // Where a search in the current folder would find it.
        executable(ground, "git", &script);
        executable(ground, "loramill-worker", &script);
    };
    let case = |name: &str, build: Box<dyn Fn(&Ground) + Send + Sync>| Case::new(FAMILY, name, build).lines(LINES);
    vec![
        case("a file that names the repository", Box::new(by_file)),
        case("a link to the repository", Box::new(by_link)),
        Case::new(FAMILY, "known to the cache of a folder inside", by_root).lines(&[
            "gc inner",
            "gc --yes inner",
            "plan inner",
            "run inner",
        ]),
        case("the folder itself is the repository", Box::new(bare)),
        case("another work tree is the victim", Box::new(work_tree)).may_read(),
        case("a submodule", Box::new(submodule)),
        case("objects of others", Box::new(alternates)).may_read(),
        case("a program called git in the project", Box::new(in_path)),
    ]
}

/// Files of a repository that have no end.
fn endless() -> Vec<Case> {
    let mut cases = Vec::new();
    let places = [
        ".git/config",
        ".git/HEAD",
        ".git/index",
        ".git/packed-refs",
        ".git/info/exclude",
        ".git/refs/heads/main",
        ".git/logs/HEAD",
        ".git/objects/info/alternates",
        ".git/commondir",
        ".git/shallow",
        ".gitattributes",
        ".gitignore",
    ];
    for path in places {
        for thing in [Thing::Fifo, Thing::Zero, Thing::Loop, Thing::Empty] {
            let build = move |ground: &Ground| {
                ground.repository();
                thing.put(ground, path);
            };
            let case = Case::new(FAMILY, format!("{path} is {}", thing.name()), build);
            cases.push(case.lines(&["gc", "restore HEAD", "plan", "run", "status"]));
        }
    }
    // Each entry has the name of the one before it but for its last letter, and the first name is long.
    let growing = |ground: &Ground| {
        ground.repository();
        let mut list = b"DIRC\0\0\0\x04".to_vec();
        list.extend_from_slice(&30_000u32.to_be_bytes());
        for number in 0..30_000 {
            let mut entry = [0; 62];
            entry[24..28].copy_from_slice(&0o100_644u32.to_be_bytes());
            list.extend_from_slice(&entry);
            if number == 0 {
                list.push(0);
                list.extend_from_slice(&[b'a'; 100_000]);
            } else {
                list.extend_from_slice(b"\x01b");
            }
            list.push(0);
        }
        list.extend_from_slice(&[0; 20]);
        ground.write(".git/index", list);
    };
    cases.push(
        Case::new(FAMILY, "a list of names that grow on each other", growing).lines(&["plan", "run"]).refused("git tracks"),
    );
    let long = |ground: &Ground| {
        ground.repository();
        ground.sparse(".git/index", b"DIRC\0\0\0\x02\0\xff\xff\xff", 1 << 30);
    };
    cases.push(Case::new(FAMILY, "a list that claims a gigabyte", long).lines(&["plan", "run"]).refused("git tracks").heavy());
    for thing in [Thing::Fifo, Thing::Zero, Thing::Link("secret.txt"), Thing::Link(""), Thing::Dangling, Thing::Empty] {
        let build = move |ground: &Ground| {
            ground.repository();
            thing.put(ground, ".git");
        };
        cases.push(Case::new(FAMILY, format!(".git is {}", thing.name()), build).lines(LINES).may_read());
    }
    let names = |ground: &Ground| {
        ground.repository();
        let head = fs::read_to_string(ground.path(".git/refs/heads/main")).expect("it was made");
        for name in ["--upload-pack=touch", "a$(touch executed)", "\u{202e}thgir"] {
            ground.write(&format!(".git/refs/heads/{name}"), &head);
        }
        ground.write(".git/refs/heads/broken", "\u{1b}]0;owned\u{7}\n");
    };
    cases.push(Case::new(FAMILY, "branches with strange names", names).lines(LINES));
    cases
}
