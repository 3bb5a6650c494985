//! A training on disk: all that is needed to go on after a kill as if nothing had happened. Unaware of how steps are computed.
//!
//! Order, noise and timesteps follow from the number of images seen, so a state is that number, the factors and their moments. A file is
//! its own BLAKE3 digest, then a safetensors file; it is written beside and renamed, and the newest two are kept.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use safetensors::SafeTensors;

use crate::engine::cache::regular_file::{self, Links};
use crate::sd::checkpoint::safetensors::write_into;
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo};
use crate::sd::lora::network::Factor;
use crate::sd::training::adamw::Moments;
use crate::sd::training::loss_scale::LossScale;

/// Files of an older layout are not read.
const LAYOUT: &str = "1";
const KEPT: usize = 2;
/// What a state takes beside its numbers, at most: names, shapes and notes.
const MOST_BESIDE: u64 = 64 << 20;

/// Where a training stands between two steps.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainingState {
    /// Images seen so far.
    pub seen: u64,
    /// Optimiser steps so far.
    pub steps: u64,
    pub factors: Vec<Factor>,
    /// Of each factor.
    pub moments: Vec<Moments>,
    /// Where the loss is scaled.
    pub loss_scale: Option<LossScale>,
    /// Notes of whoever runs the training, by name: the checkpoints that exist already.
    pub notes: BTreeMap<String, String>,
}

/// The states of one training.
#[derive(Clone, Debug)]
pub struct StateFolder(PathBuf);

impl StateFolder {
    /// Touches no file yet. The other methods return an error unless `folder` exists.
    pub fn new(folder: &Path) -> Self {
        Self(folder.to_path_buf())
    }

    /// Makes the state durable, then removes all but the newest two.
    pub fn save(&self, state: &TrainingState) -> Result<()> {
        let path = self.0.join(format!("{:012}.state", state.seen));
        let write = || -> Result<()> {
            let mut file = tempfile::Builder::new().prefix(".unfinished-").tempfile_in(&self.0)?;
            // The digest is known when all is written.
            file.write_all(&[0; blake3::OUT_LEN])?;
            let mut hashing = Hashing { out: file.as_file_mut(), hasher: blake3::Hasher::new() };
            state.write_into(&mut hashing)?;
            let digest = hashing.hasher.finalize();
            file.seek(SeekFrom::Start(0))?;
            file.write_all(digest.as_bytes())?;
            file.as_file().sync_all()?;
            file.persist(&path)?;
            fs::File::open(&self.0)?.sync_all()?;
            Ok(())
        };
        write().with_context(|| format!("saving the training's state to `{}`", path.display()))?;
        for old in self.states()?.into_iter().skip(KEPT) {
            fs::remove_file(&old).with_context(|| format!("removing the old training state `{}`", old.display()))?;
        }
        Ok(())
    }

    /// Sound states of a training of `factors` that `fits` accepts, the newest of them; damaged ones, and those that are larger than such
    /// a state, count as absent.
    pub fn newest(&self, factors: &[Factor], fits: impl Fn(&TrainingState) -> bool) -> Result<Option<TrainingState>> {
        // Each number with its two moments.
        let numbers: u64 = factors.iter().map(|factor| factor.values.len() as u64 * 3 * size_of::<f32>() as u64).sum();
        for path in self.states()? {
            let bytes = match regular_file::read(&path, Links::Refused, numbers + MOST_BESIDE) {
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::FileTooLarge => continue,
                Err(error) => return Err(error).with_context(|| format!("reading the training state `{}`", path.display())),
            };
            if let Ok(state) = TrainingState::from_bytes(&bytes)
                && fits(&state)
            {
                return Ok(Some(state));
            }
        }
        Ok(None)
    }

    /// Images seen by each state, newest first: by the names of the files, whatever is in them.
    pub fn seen(&self) -> Result<Vec<u64>> {
        let seen = |path: PathBuf| path.file_stem()?.to_str()?.parse().ok();
        Ok(self.states()?.into_iter().filter_map(seen).collect())
    }

    /// The state files, newest first.
    fn states(&self) -> Result<Vec<PathBuf>> {
        let listed = || format!("listing the training states in `{}`", self.0.display());
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.0).with_context(listed)? {
            let entry = entry.with_context(listed)?;
            let path = entry.path();
            if entry.file_type().with_context(listed)?.is_file() && path.extension().is_some_and(|extension| extension == "state")
            {
                found.push(path);
            }
        }
        found.sort();
        found.reverse();
        Ok(found)
    }
}

impl TrainingState {
    /// Whether its factors are those of `others` but for their values.
    pub fn has_shapes_of(&self, others: &[Factor]) -> bool {
        self.factors
            .iter()
            .map(|factor| (&factor.name, &factor.shape))
            .eq(others.iter().map(|factor| (&factor.name, &factor.shape)))
    }

    /// Tensor by tensor: a state is as large as what a training holds on the host, and does not lie there a third time.
    fn write_into(&self, out: &mut impl Write) -> Result<()> {
        let mut tensors = BTreeMap::new();
        let mut values: BTreeMap<String, &[f32]> = BTreeMap::new();
        for (index, (factor, moments)) in self.factors.iter().zip(&self.moments).enumerate() {
            for (kind, numbers) in [("value", &factor.values), ("mean", &moments.mean), ("square", &moments.square)] {
                // The number keeps the order.
                let name = format!("{index:05} {kind} {}", factor.name);
                tensors.insert(name.clone(), TensorInfo { dtype: Dtype::F32, shape: factor.shape.clone() });
                values.insert(name, numbers);
            }
        }
        let mut metadata: BTreeMap<String, String> =
            self.notes.iter().map(|(name, note)| (format!("note {name}"), note.clone())).collect();
        metadata.extend([
            ("layout".to_string(), LAYOUT.to_string()),
            ("seen".to_string(), self.seen.to_string()),
            ("steps".to_string(), self.steps.to_string()),
        ]);
        if let Some(scale) = self.loss_scale {
            metadata.insert("loss scale".to_string(), scale.factor().to_string());
            metadata.insert("loss scale for".to_string(), scale.steps().to_string());
        }
        write_into(out, &tensors, &metadata, |name| Ok(TensorData::from_f32(&tensors[name].shape, values[name])))
    }

    fn from_bytes(bytes: &[u8]) -> Result<Self> {
        let (digest, contents) = bytes.split_at_checked(blake3::OUT_LEN).context("cut off")?;
        ensure!(blake3::hash(contents).as_bytes() == digest, "damaged");
        let (_, header) = SafeTensors::read_metadata(contents)?;
        let metadata: &HashMap<String, String> = header.metadata().as_ref().context("without numbers")?;
        ensure!(metadata.get("layout").map(String::as_str) == Some(LAYOUT), "of another layout");
        let number = |name: &str| -> Result<u64> { Ok(metadata.get(name).context("without a number")?.parse()?) };
        let file = SafeTensors::deserialize(contents)?;
        let mut names: Vec<&str> = file.names();
        names.sort();
        let (mut factors, mut moments) = (Vec::new(), Vec::new());
        // Sorted, each factor's tensors stand together: mean, square, value.
        for three in names.chunks(3) {
            let [mean, square, value] = three else { anyhow::bail!("a factor lacks a part") };
            let read = |name: &str| -> Result<Vec<f32>> {
                Ok(file.tensor(name)?.data().as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
            };
            let name = value.split_once(" value ").context("a factor lacks its values")?.1.to_string();
            factors.push(Factor { name, shape: file.tensor(value)?.shape().to_vec(), values: read(value)? });
            moments.push(Moments { mean: read(mean)?, square: read(square)? });
        }
        let loss_scale = metadata.get("loss scale").map(|factor| -> Result<_> {
            let steps = metadata.get("loss scale for").context("without a number")?;
            LossScale::saved(factor.parse()?, steps.parse()?)
        });
        let notes = metadata.iter().filter_map(|(name, note)| Some((name.strip_prefix("note ")?.to_string(), note.clone())));
        Ok(Self {
            seen: number("seen")?,
            steps: number("steps")?,
            factors,
            moments,
            loss_scale: loss_scale.transpose()?,
            notes: notes.collect(),
        })
    }
}

/// Passes bytes on and takes their digest.
struct Hashing<'a> {
    out: &'a mut fs::File,
    hasher: blake3::Hasher,
}

impl Write for Hashing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sd::lora::network::{LoraNetwork, Target};

    fn state(seen: u64) -> TrainingState {
        let target = |name: &str| Target { name: name.into(), inputs: 4, outputs: 3, convolution: false };
        // More than ten, so that numbers as text would fall out of order; names against the order.
        let targets = (0..12).rev().map(|i| target(&format!("module_{i}"))).collect();
        let network = LoraNetwork::new(targets, 2, 2.0, seen);
        let moments =
            network.factors.iter().map(|f| Moments { mean: f.values.clone(), square: vec![0.5; f.values.len()] }).collect();
        let notes = BTreeMap::from([("e010".to_string(), "abc \"quoted\"".to_string())]);
        // Only some are.
        let loss_scale = (seen > 8).then(|| LossScale::saved(1024.0, 17).unwrap());
        TrainingState { seen, steps: seen / 4, factors: network.factors, moments, loss_scale, notes }
    }

    #[test]
    fn a_state_comes_back_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::new(folder.path());
        states.save(&state(96)).unwrap();
        let found = states.newest(&state(8).factors, |_| true).unwrap().unwrap();
        assert_eq!(found, state(96));
        assert!(found.has_shapes_of(&state(8).factors));
        assert!(!found.has_shapes_of(&state(8).factors[1..]));
    }

    #[test]
    fn the_newest_two_are_kept() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::new(folder.path());
        for seen in [4, 8, 1200, 96] {
            states.save(&state(seen)).unwrap();
        }
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 2);
        assert_eq!(states.newest(&state(8).factors, |_| true).unwrap().unwrap().seen, 1200);
    }

    #[test]
    fn a_damaged_state_gives_way_to_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::new(folder.path());
        states.save(&state(4)).unwrap();
        states.save(&state(8)).unwrap();
        let newest = folder.path().join("000000000008.state");
        let sound = fs::read(&newest).unwrap();
        for damaged in [&sound[..sound.len() / 2], &[0; 10], &[&sound[..sound.len() - 1], &[!sound[sound.len() - 1]]].concat()] {
            fs::write(&newest, damaged).unwrap();
            assert_eq!(states.newest(&state(8).factors, |_| true).unwrap().unwrap().seen, 4);
        }
    }

    #[test]
    fn a_state_that_does_not_fit_gives_way_to_one_that_does() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::new(folder.path());
        states.save(&state(4)).unwrap();
        states.save(&state(8)).unwrap();
        assert_eq!(states.newest(&state(8).factors, |state| state.seen < 8).unwrap().unwrap().seen, 4);
        assert_eq!(states.newest(&state(8).factors, |state| state.seen < 4).unwrap(), None);
    }

    #[test]
    fn what_no_training_left_gives_way_too() {
        let folder = tempfile::tempdir().unwrap();
        let states = StateFolder::new(folder.path());
        states.save(&state(4)).unwrap();
        fs::create_dir(folder.path().join("000000000016.state")).unwrap();
        std::os::unix::fs::symlink("/dev/zero", folder.path().join("000000000017.state")).unwrap();
        fs::File::create(folder.path().join("000000000018.state")).unwrap().set_len(20 << 30).unwrap();
        assert_eq!(states.newest(&state(8).factors, |_| true).unwrap().unwrap().seen, 4);
    }
}
