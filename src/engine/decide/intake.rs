//! The pipeline's inputs as items: everything that is read from disk, by content. Unaware of who reads it.

use std::collections::{BTreeMap, HashMap};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use smol_str::SmolStr;

use crate::cache::Cache;
use crate::cache::digest::Digest;
use crate::cache::regular_file::{self, Links};
use crate::edits::text;
use crate::graph::pipeline::{Pipeline, Producer};
use crate::graph::stage_id::StageId;
use crate::inputs::input::{Found, Input};
use crate::inputs::listing::{InputFile, is_lfs_pointer};
use crate::inputs::picture_files::{MOST_BYTES, READ};
use crate::kind::item::{Artifact, Fields, Item, ItemSet};
use crate::kind::item_tree::{Given, ItemTree};
use crate::lock_file::LockFile;

/// What is read whole is a picture, a text or a list of boxes; models are read in parts.
const LARGEST: u64 = 1 << 30;
/// Below this size a file may be a git-lfs pointer.
const POINTER_SIZE: u64 = 1024;

/// What the inputs hold.
#[derive(Debug, Default)]
pub struct Intake {
    /// By the index of the input; those that nobody needs are missing.
    pub given: BTreeMap<usize, Given>,
    /// Where the files lie, by content.
    pub places: HashMap<Digest, PathBuf>,
    /// Inputs that are not here: by the digest that the lock names, the input and the places where it was looked for.
    pub absent: HashMap<Digest, AbsentInput>,
    /// One row of the lock for each input that is one thing: name, digest, size.
    pub rows: BTreeMap<String, (Digest, u64)>,
}

/// A model that is not on this computer: only a stage that must run needs it.
#[derive(Clone, Debug)]
pub struct AbsentInput {
    pub name: String,
    pub written: String,
    pub looked_in: Vec<PathBuf>,
}

impl Intake {
    /// Where contents lie; of several files with the same the one that belongs to the item `name`.
    pub fn place(&self, pipeline: &Pipeline, digest: &Digest, name: Option<&str>) -> Option<PathBuf> {
        let of_item = |(index, given): (&usize, &Given)| {
            let Found::Photos { files, .. } = &pipeline.inputs.get(*index)?.found else { return None };
            let file = files.iter().find(|file| Some(file.name.as_str()) == name)?;
            let Given::Whole(tree) = given else { return None };
            let item = tree.items_at_hand().iter().find(|item| item.name == file.name)?;
            let (field, _) = item.fields.iter().find(|(_, artifact)| artifact.digest == *digest)?;
            if field == "sidecar" { file.sidecar.clone() } else { Some(file.image.clone()) }
        };
        self.given.iter().find_map(of_item).or_else(|| self.places.get(digest).cloned())
    }
}

impl AbsentInput {
    /// For a stage that must run.
    pub fn error(&self) -> anyhow::Error {
        let places: Vec<String> = self.looked_in.iter().map(|place| format!("`{}`", place.display())).collect();
        let looked = if places.is_empty() { String::new() } else { format!("; looked in {}", places.join(", ")) };
        anyhow::anyhow!("input `{}` is not here: `{}` was not found{looked}", self.name, self.written)
    }
}

/// Reads the inputs that the stages `needed` use. `locked` gives the digest and size that the lock holds for an input.
pub fn read(
    pipeline: &Pipeline,
    needed: &[StageId],
    cache: &Cache,
    locked: &dyn Fn(&str) -> Option<(Digest, u64)>,
) -> Result<Intake> {
    // With the most bytes that all who read it take.
    let mut used: BTreeMap<usize, u64> = BTreeMap::new();
    for stage in needed.iter().map(|&stage| &pipeline.stages[stage]) {
        for edge in &stage.edges {
            if let Producer::Input(index) = edge.from {
                let most = used.entry(index).or_insert(u64::MAX);
                *most = stage.stage.most_bytes(&edge.reads.param).map_or(*most, |bytes| bytes.min(*most));
            }
        }
    }
    let mut intake = Intake::default();
    for (index, most) in used {
        let input = &pipeline.inputs[index];
        let given = match &input.found {
            Found::Photos { folder, files, skipped, .. } => {
                if files.is_empty() && !skipped.is_empty() {
                    bail!(
                        "`skip:` leaves out all {} photos of input `{}`: nothing is left to train on",
                        skipped.len(),
                        input.name
                    );
                }
                photos(input, folder, files, cache, &mut intake)?
            }
            Found::File(path) => file(input, path, most, cache, &mut intake)?,
            Found::Absent(looked_in) => absent(input, looked_in, locked, &mut intake),
        };
        intake.given.insert(index, given);
    }
    Ok(intake)
}

fn photos<'f>(input: &Input, folder: &Path, files: &'f [InputFile], cache: &Cache, intake: &mut Intake) -> Result<Given> {
    let of_photo = |file: &'f InputFile| {
        [Some((file.image.as_path(), MOST_BYTES)), file.sidecar.as_deref().map(|text| (text, text::LARGEST))]
    };
    let paths: Vec<(&Path, u64)> = files.iter().flat_map(of_photo).flatten().collect();
    let mut digests = cache.digest_files(&paths).into_iter();
    let mut artifact = |path: &Path, intake: &mut Intake| -> Result<Artifact> {
        let (digest, size) = digests.next().expect("one for each path")?;
        intake.places.insert(digest, path.to_path_buf());
        Ok(Artifact { digest, size, extension: extension(path) })
    };
    let mut items = ItemSet::with_capacity(files.len());
    for file in files {
        let image = artifact(&file.image, intake)?;
        let mut fields = Fields::new();
        if let Some(sidecar) = &file.sidecar {
            fields.insert("sidecar".into(), artifact(sidecar, intake)?);
        }
        fields.insert("photo".into(), image.clone());
        fields.insert("image".into(), image);
        items.push(input_item(file.name.clone(), fields));
    }
    if items.is_empty() {
        bail!("input `{}`: no photos in `{}` ({READ} are read)", input.name, folder.display());
    }
    let size = items.iter().filter_map(|item| item.fields.get("image")).map(|image| image.size).sum();
    let tree = ItemTree::of(items);
    intake.rows.insert(input.name.clone(), (tree.digest, size));
    Ok(Given::Whole(tree))
}

fn file(input: &Input, path: &Path, most: u64, cache: &Cache, intake: &mut Intake) -> Result<Given> {
    let digested = cache.digest_files(&[(path, most)]).pop().expect("one for each path");
    let (digest, size) = digested.with_context(|| format!("input `{}`", input.name))?;
    if size < POINTER_SIZE && is_lfs_pointer(path) {
        bail!("input `{}`: `{}` is a git-lfs pointer, not the file: run `git lfs pull`", input.name, path.display());
    }
    // Models are often links to a store that names files by their digest: the path as given has the extension.
    intake.places.insert(digest, path.to_path_buf());
    intake.rows.insert(input.name.clone(), (digest, size));
    Ok(Given::Whole(ItemTree::of(vec![file_item(input, digest, size, extension(path))])))
}

fn absent(input: &Input, looked_in: &[PathBuf], locked: &dyn Fn(&str) -> Option<(Digest, u64)>, intake: &mut Intake) -> Given {
    let absent = AbsentInput { name: input.name.clone(), written: input.written.clone(), looked_in: looked_in.to_vec() };
    match locked(&input.name) {
        Some((digest, size)) => {
            intake.absent.insert(digest, absent);
            intake.rows.insert(input.name.clone(), (digest, size));
            let extension = extension(Path::new(&input.written));
            Given::Whole(ItemTree::of(vec![file_item(input, digest, size, extension)]))
        }
        None => {
            let digest = unknown_digest(&input.name, "file", "");
            intake.absent.insert(digest, absent);
            let extension = extension(Path::new(&input.written));
            Given::Part(vec![file_item(input, digest, 0, extension)].into())
        }
    }
}

/// Stands for contents that nobody knows yet. No contents have such a digest.
pub fn unknown_digest(producer: &str, item: &str, field: &str) -> Digest {
    let mut hasher = blake3::Hasher::new_derive_key("loramill 2026-11 unknown contents v1");
    for part in [producer, item, field] {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().into()
}

fn file_item(input: &Input, digest: Digest, size: u64, extension: SmolStr) -> Item {
    let fields = Fields::from([("file", Artifact { digest, size, extension })]);
    input_item(input.name.clone(), fields)
}

fn input_item(name: String, fields: Fields) -> Item {
    let mut hasher = blake3::Hasher::new_derive_key("loramill 2026-11 input item v1");
    for (field, artifact) in &fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
        hasher.update(artifact.digest.as_bytes());
    }
    Item { name, origin: None, fields, attributes: BTreeMap::new(), key: hasher.finalize().into() }
}

/// In lower case, without the dot.
fn extension(path: &Path) -> SmolStr {
    path.extension().map(|e| e.to_string_lossy().to_lowercase().into()).unwrap_or_default()
}

/// The bytes of an input file, which must still be those that were hashed: no more of them are read than there were then.
pub fn read_unchanged(path: &Path, digest: &Digest, size: u64) -> Result<Vec<u8>> {
    // A person may keep photos elsewhere and link to them.
    let bytes = match regular_file::read(path, Links::Followed, size.min(LARGEST)) {
        Err(error) if error.kind() == ErrorKind::FileTooLarge && size <= LARGEST => Vec::new(),
        read => read.with_context(|| format!("reading `{}`", path.display()))?,
    };
    if bytes.len() as u64 != size || Digest::of(&bytes) != *digest {
        bail!("`{}` was changed while the run was reading it: run again", path.display());
    }
    Ok(bytes)
}

/// The inputs of the stages `needed`; of what is not here the lock says what it was.
pub(crate) fn read_inputs(pipeline: &Pipeline, needed: &[StageId], cache: &Cache, lock: &LockFile) -> Result<Intake> {
    read(pipeline, needed, cache, &|name| {
        let row = lock.inputs.get(name)?.last()?;
        Some((row.digest, row.size))
    })
}
