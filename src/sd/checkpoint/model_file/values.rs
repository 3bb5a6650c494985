//! The values of a tensor in f32, read and widened piece by piece on all cores. Unaware of what they are for.

use std::os::unix::fs::FileExt as _;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result, ensure};
use flate2::Crc;
use rayon::prelude::*;

use crate::sd::checkpoint::contents::{DAMAGED, Place};
use crate::sd::checkpoint::model_file::{ModelFile, length_of};
use crate::sd::checkpoint::tensor::{Dtype, TensorData, TensorInfo, zeros};

/// Elements that one core reads and widens at a time: their bytes and values stay in its cache.
const PIECE: usize = 1 << 16;

impl ModelFile {
    /// The values of one tensor in f32, row-major.
    ///
    /// # Errors
    /// As of [`Self::read`], or if the type holds no real numbers.
    pub fn read_f32(&self, name: &str) -> Result<Vec<f32>> {
        self.read_values(name, None)
    }

    /// The values of one tensor as another type has them, in f32, row-major.
    ///
    /// # Errors
    /// As of [`Self::read_f32`], or if a finite value would become infinite.
    pub fn read_rounded(&self, name: &str, dtype: Dtype) -> Result<Vec<f32>> {
        self.read_values(name, Some(dtype))
    }

    fn read_values(&self, name: &str, dtype: Option<Dtype>) -> Result<Vec<f32>> {
        let info = self.info(name)?;
        let place = &self.contents.places[name];
        let values = match self.is_plain(place) {
            true => self.read_pieces(info, place, dtype),
            false => self.read_bytes(info, place).and_then(|bytes| {
                let mut values = room_for(info)?;
                widen(TensorData { dtype: info.dtype, shape: info.shape.clone(), bytes }, dtype, &mut values)?;
                Ok(values)
            }),
        };
        values.with_context(|| format!("reading tensor `{name}` of `{}`", self.path.display()))
    }

    /// Whether its bytes lie in the file as they are, one after the other.
    fn is_plain(&self, place: &Place) -> bool {
        place.strides.is_none() && self.contents.storages[place.storage].deflated.is_none()
    }

    fn read_pieces(&self, info: &TensorInfo, place: &Place, dtype: Option<Dtype>) -> Result<Vec<f32>> {
        let (size, length) = (info.dtype.size(), length_of(info)?);
        let storage = &self.contents.storages[place.storage];
        let crc = self.crc_to_compare(place.storage, place.start, length)?;
        let mut values = room_for(info)?;
        let read = |(number, values): (usize, &mut [f32])| -> Result<Crc> {
            let mut bytes = zeros(values.len() * size)?;
            self.file.read_exact_at(&mut bytes, storage.start + place.start + (number * PIECE * size) as u64)?;
            let mut sum = Crc::new();
            if crc.is_some() {
                sum.update(&bytes);
            }
            widen(TensorData { dtype: info.dtype, shape: vec![values.len()], bytes }, dtype, values)?;
            Ok(sum)
        };
        let sums: Vec<Crc> = values.par_chunks_mut(PIECE).enumerate().map(read).collect::<Result<_>>()?;
        if let Some(crc) = crc {
            let mut sum = Crc::new();
            sums.iter().for_each(|piece| sum.combine(piece));
            ensure!(sum.sum() == crc, DAMAGED);
            self.checked[place.storage].store(true, Ordering::Relaxed);
        }
        Ok(values)
    }
}

/// So many zeros as the tensor has values.
fn room_for(info: &TensorInfo) -> Result<Vec<f32>> {
    zeros(info.elements().context("its size overflows")?)
}

/// Writes the values of a tensor after rounding them to another type where that is asked for.
fn widen(tensor: TensorData, rounded: Option<Dtype>, values: &mut [f32]) -> Result<()> {
    let tensor = match rounded {
        Some(dtype) => tensor.cast(dtype).context("rounding it")?,
        None => tensor,
    };
    tensor.widen_into(values)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fs;
    use std::path::Path;

    use super::*;
    use crate::sd::checkpoint::{ckpt, safetensors};

    /// Values of more than three pieces, which 16 bits round.
    fn tensor(dtype: Dtype) -> TensorData {
        let values: Vec<f32> = (0..3 * PIECE + 7).map(|place| (place as f32).sin() * 100.0).collect();
        TensorData::from_f32(&[values.len()], &values).cast(dtype).unwrap()
    }

    fn written(path: &Path, tensor: TensorData) -> ModelFile {
        let tensors = BTreeMap::from([("x".to_string(), tensor)]);
        match path.extension().unwrap().to_str() {
            Some("ckpt") => ckpt::write(path, &tensors).unwrap(),
            _ => safetensors::write(path, &tensors, &BTreeMap::new()).unwrap(),
        }
        ModelFile::open(path).unwrap()
    }

    #[test]
    fn values_read_by_pieces_are_those_of_the_whole_tensor() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a.safetensors", "a.ckpt"] {
            for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
                let (expected, path) = (tensor(dtype), folder.path().join(name));
                let file = written(&path, expected.clone());
                assert_eq!(file.read_f32("x").unwrap(), expected.to_f32().unwrap(), "{name} {dtype:?}");
                for rounded in [Dtype::F16, Dtype::Bf16] {
                    let expected = expected.clone().cast(rounded).unwrap().to_f32().unwrap();
                    assert_eq!(file.read_rounded("x", rounded).unwrap(), expected, "{name} {dtype:?} as {rounded:?}");
                }
            }
        }
    }

    #[test]
    fn damage_in_the_last_piece_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.ckpt");
        let tensor = tensor(Dtype::F32);
        let last = tensor.bytes[tensor.bytes.len() - 16..].to_vec();
        written(&path, tensor);
        let mut bytes = fs::read(&path).unwrap();
        let place = bytes.windows(last.len()).position(|window| window == last).unwrap();
        bytes[place] ^= 1;
        fs::write(&path, bytes).unwrap();
        let file = ModelFile::open(&path).unwrap();
        for _ in 0..2 {
            let error = format!("{:#}", file.read_f32("x").unwrap_err());
            assert!(error.contains(DAMAGED), "{error}");
        }
    }

    #[test]
    fn a_value_too_large_to_be_rounded_is_an_error_wherever_it_lies() {
        let folder = tempfile::tempdir().unwrap();
        let mut values = vec![1.0; 2 * PIECE];
        values[2 * PIECE - 1] = 1e6;
        let file = written(&folder.path().join("a.safetensors"), TensorData::from_f32(&[2 * PIECE], &values));
        assert!(file.read_rounded("x", Dtype::F16).is_err());
        assert_eq!(file.read_rounded("x", Dtype::Bf16).unwrap()[0], 1.0);
    }
}
