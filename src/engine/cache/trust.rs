//! Whether a folder may be used as a cache: it may have come with somebody else's repository, or belong to somebody else. What
//! does not look as loramill leaves it is refused before anything in it is read or removed. Unaware of what the artifacts are.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::fs::{Dir, FileType};
use rustix::process::geteuid;

use crate::cache::git_index;
use crate::cache::locate::is_ours;
use crate::cache::place::{Place, Root};
use crate::cache::trouble::disk_trouble;

/// How the folder was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Named {
    /// It lies at or above the pipeline.
    ByChance,
    /// `--cache DIR`, `LORAMILL_CACHE`: it may belong to another user then, whom the user trusts.
    ByTheUser,
}

/// What may lie in a cache that no loramill has opened yet: the user keeps these in git, or put them there.
const BEFOREHAND: [&str; 4] = ["README.md", "CACHEDIR.TAG", ".gitignore", ".gitkeep"];
/// Every folder of a cache.
const FOLDERS: [&str; 8] = ["objects", "tmp", "locks", "roots", "runs", "state", "displaced", "outputs"];
/// Folders in which no link is made either. What was displaced is what a person had, and may be one.
const WITHOUT_LINKS: [&str; 7] = ["objects", "tmp", "locks", "roots", "runs", "state", "outputs"];
const FILES: [&str; 10] = [
    "records",
    "records.lock",
    "record-index",
    "stat-index",
    "stat-index.lock",
    "text-index",
    "text-index.lock",
    "evicted",
    "damaged",
    "displaced-ages",
];
const OTHER: &str = "or name another cache with `--cache DIR`";

/// Opens the folder, which is made if it is not there.
pub(crate) fn enter(path: &Path, named: Named) -> Result<Root> {
    let is_link = fs::symlink_metadata(path).is_ok_and(|found| found.is_symlink());
    if is_link && !path.is_dir() {
        bail!("`{}` is a link that leads to no folder: make the folder that it names, or remove it", path.display());
    }
    fs::create_dir_all(path).map_err(|error| disk_trouble(error, "creating", path))?;
    let root = Root::open(path).map_err(|error| disk_trouble(error, "opening", path))?;
    check_owner(&root, named)?;
    let top = entries(&root.folder()).with_context(|| format!("reading `{}`", root.path().display()))?;
    check_is_a_cache(&root, &top)?;
    check_links(&root, &top)?;
    check_git(path)?;
    Ok(root)
}

/// As git asks of a repository (`safe.directory`): what lies there decides what this user's runs take for results. A superuser
/// that `sudo` made may use what belongs to the user who asked for it.
fn check_owner(root: &Root, named: Named) -> Result<()> {
    let owner = rustix::fs::fstat(root.folder()).with_context(|| format!("reading `{}`", root.path().display()))?.st_uid;
    let me = geteuid();
    let asked_by = || std::env::var("SUDO_UID").ok().and_then(|user| user.parse::<u32>().ok());
    let is_mine = owner == me.as_raw() || (me.is_root() && asked_by() == Some(owner));
    ensure!(
        is_mine || named == Named::ByTheUser,
        "the cache `{}` belongs to another user (number {owner}): if you trust that user with your results, name it with `--cache DIR` or \
         in LORAMILL_CACHE, else name one of your own",
        root.path().display()
    );
    Ok(())
}

/// A folder of somebody's files would be taken for a cache and swept.
fn check_is_a_cache(root: &Root, top: &[Entry]) -> Result<()> {
    if is_ours(root.path()) || top.iter().all(|entry| BEFOREHAND.contains(&entry.name.as_str())) {
        return Ok(());
    }
    let is_known = |name: &str| {
        let name = name.strip_prefix(".loramill-").unwrap_or(name);
        BEFOREHAND.contains(&name) || FOLDERS.contains(&name) || FILES.contains(&name)
    };
    match top.iter().find(|entry| !is_known(&entry.name)) {
        // The tag was lost.
        None if top.iter().any(|entry| entry.name == "objects") => Ok(()),
        found => {
            let foreign = found.or(top.iter().find(|entry| !BEFOREHAND.contains(&entry.name.as_str())));
            let example = foreign.map(|entry| entry.name.as_str()).unwrap_or_default();
            bail!(
                "`{}` is not a cache of loramill and not empty (there is `{example}`): name an empty folder, or one that is not there yet",
                root.path().display()
            )
        }
    }
}

fn check_links(root: &Root, top: &[Entry]) -> Result<()> {
    let refuse = |path: PathBuf| -> Result<()> {
        bail!(
            "`{}` is a link, and loramill makes none in a cache: it could lead to other people's files; remove it, {OTHER}",
            path.display()
        )
    };
    if let Some(link) = top.iter().find(|entry| entry.kind.is_symlink()) {
        return refuse(root.path().join(&link.name));
    }
    for folder in top.iter().filter(|entry| WITHOUT_LINKS.contains(&entry.name.as_str()) && entry.kind.is_dir()) {
        let place = root.place(&folder.name);
        let open = place.open_folder().map_err(|error| disk_trouble(error, "opening", &place))?;
        let inside = entries(&open).with_context(|| format!("reading `{}`", place.display()))?;
        if let Some(link) = inside.iter().find(|entry| entry.kind.is_symlink()) {
            return refuse(place.join(&link.name));
        }
    }
    let is_wrong = |entry: &&Entry| FOLDERS.contains(&entry.name.as_str()) && !entry.kind.is_dir();
    if let Some(file) = top.iter().find(is_wrong) {
        bail!("`{}` is no folder: remove it, {OTHER}", root.path().join(&file.name).display());
    }
    Ok(())
}

/// What came with a repository is what others say that stages gave.
fn check_git(path: &Path) -> Result<()> {
    // The name in the repository, and where a link of that name leads.
    let as_named = path.parent().zip(path.file_name()).and_then(|(folder, name)| {
        let folder = if folder == Path::new("") { Path::new(".") } else { folder };
        Some(fs::canonicalize(folder).ok()?.join(name))
    });
    let real = fs::canonicalize(path).with_context(|| format!("looking for `{}`", path.display()))?;
    let mut places = vec![real.clone()];
    places.extend(as_named.filter(|place| *place != real));
    for place in places {
        let is_expected = |below: &str| BEFOREHAND.contains(&below);
        if let Some(tracked) = git_index::first_tracked(&place, &is_expected)? {
            let (what, then) = if tracked.is_empty() { ("as a link", "") } else { ("among others", "-r ") };
            let shown = if tracked.is_empty() { place.clone() } else { place.join(tracked) };
            bail!(
                "the cache `{}` came with its repository: git tracks `{}` {what}; what it holds was made elsewhere, so it is not used: \
                 take it out of git (`git rm {then}--cached`) and remove it, {OTHER}",
                place.display(),
                shown.display()
            );
        }
    }
    Ok(())
}

/// Refuses a folder of training's state in which something else than files lies.
pub(crate) fn check_files(folder: &Place) -> Result<()> {
    let open = folder.open_folder().map_err(|error| disk_trouble(error, "opening", folder))?;
    for entry in entries(&open).with_context(|| format!("reading `{}`", folder.display()))? {
        let path = folder.join(&entry.name);
        ensure!(
            entry.kind.is_file() || entry.kind.is_dir(),
            "`{}` is no file, and loramill makes nothing else there: remove it, {OTHER}",
            path.display()
        );
    }
    Ok(())
}

struct Entry {
    /// As far as it is text: no name of loramill's is anything else.
    name: String,
    kind: FileType,
}

fn entries(folder: &impl AsFd) -> rustix::io::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let mut kind = entry.file_type();
        if kind == FileType::Unknown {
            // There are file systems that do not tell it here.
            let found = rustix::fs::statat(folder, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW)?;
            kind = FileType::from_raw_mode(found.st_mode);
        }
        entries.push(Entry { name: name.to_string_lossy().into_owned(), kind });
    }
    Ok(entries)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cache::Cache;

    fn refusal(path: &Path) -> String {
        let error = Cache::open(path).map(drop).expect_err("it is refused");
        format!("{error:#}")
    }

    #[test]
    fn a_cache_with_a_link_is_refused_and_nothing_behind_it_is_touched() {
        let places = FOLDERS.into_iter().chain(FILES).chain([
            "objects/ab",
            "locks/sweep",
            "tmp/7",
            "tmp/7.lock",
            "roots/x",
            "runs/x.status",
            "state/x",
        ]);
        for place in places {
            let temp = tempfile::tempdir().unwrap();
            let (cache, victim) = (temp.path().join("cache"), temp.path().join("victim"));
            fs::create_dir_all(victim.join("7")).unwrap();
            for file in ["7.lock", "7/precious", "0.1.precious"] {
                fs::write(victim.join(file), "precious").unwrap();
            }
            drop(Cache::open(&cache).unwrap());
            let link = cache.join(place);
            let _ = fs::remove_dir_all(&link);
            let _ = fs::remove_file(&link);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            symlink(&victim, &link).unwrap();
            let error = refusal(&cache);
            assert!(error.contains(place) && error.contains("is a link") && error.contains("remove it"), "{place}: {error}");
            assert_eq!(walkdir::WalkDir::new(&victim).into_iter().count(), 5, "{place}");
            assert_eq!(fs::read_to_string(victim.join("7/precious")).unwrap(), "precious");
        }
    }

    #[test]
    fn the_cache_itself_may_be_a_link_which_is_resolved_once() {
        let temp = tempfile::tempdir().unwrap();
        let (link, real) = (temp.path().join("cache"), temp.path().join("real"));
        symlink("real", &link).unwrap();
        assert!(refusal(&link).contains("leads to no folder"));
        fs::create_dir(&real).unwrap();
        let cache = Cache::open(&link).unwrap();
        assert_eq!(cache.root(), fs::canonicalize(&real).unwrap());
        let stored = cache.batch().put_bytes(b"one").unwrap();
        let batch = cache.batch();
        batch.put_bytes(b"one").unwrap();
        fs::remove_file(&link).unwrap();
        symlink(temp.path(), &link).unwrap();
        batch.flush().unwrap();
        assert_eq!(cache.read(&stored.digest).unwrap(), b"one");
        assert!(!temp.path().join("objects").exists());
    }

    #[test]
    fn a_folder_of_other_files_is_no_cache_and_stays_as_it_is() {
        let temp = tempfile::tempdir().unwrap();
        fs::create_dir_all(temp.path().join("tmp/7")).unwrap();
        fs::write(temp.path().join("tmp/7.lock"), "").unwrap();
        fs::write(temp.path().join("CACHEDIR.TAG"), "Signature: 8a477f597d28d172789f06886806bc55\n# of cargo\n").unwrap();
        let error = refusal(temp.path());
        assert!(error.contains("not a cache of loramill") && error.contains("`tmp`"), "{error}");
        assert!(temp.path().join("tmp/7").exists());
        fs::write(temp.path().join("thesis.txt"), "").unwrap();
        assert!(refusal(temp.path()).contains("`thesis.txt`"));
    }

    #[test]
    fn state_with_anything_but_files_is_not_gone_on_from() {
        let temp = tempfile::tempdir().unwrap();
        let cache = Cache::open(temp.path()).unwrap();
        let key = crate::cache::digest::Digest::of(b"key");
        let folder = cache.state_folder(&key).unwrap();
        fs::write(folder.join("state"), "saved").unwrap();
        cache.state_folder(&key).unwrap();
        symlink("/dev/zero", folder.join("other")).unwrap();
        assert!(cache.state_folder(&key).unwrap_err().to_string().contains("is no file"));
    }
}
