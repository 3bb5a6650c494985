//! A tensor as bytes: element type, shape, little-endian contents. Unaware of files.

use anyhow::{Result, bail, ensure};
use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

/// The type of one element. The order is the one in which safetensors' own writer lays tensors out, smallest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dtype {
    Bool,
    U8,
    I8,
    F8E5M2,
    F8E4M3,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    F64,
    I64,
    U64,
}

impl Dtype {
    const ALL: [Self; 15] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::F64 | Self::I64 | Self::U64 => 8,
        }
    }

    /// As in a safetensors header: `F16`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bool => "BOOL",
            Self::U8 => "U8",
            Self::I8 => "I8",
            Self::F8E5M2 => "F8_E5M2",
            Self::F8E4M3 => "F8_E4M3",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.name() == name)
    }

    /// The class of PyTorch's pickles, in module `torch`. `None` for types that had no storage class of their own.
    pub const fn storage(self) -> Option<&'static str> {
        Some(match self {
            Self::Bool => "BoolStorage",
            Self::U8 => "ByteStorage",
            Self::I8 => "CharStorage",
            Self::I16 => "ShortStorage",
            Self::F16 => "HalfStorage",
            Self::Bf16 => "BFloat16Storage",
            Self::I32 => "IntStorage",
            Self::F32 => "FloatStorage",
            Self::F64 => "DoubleStorage",
            Self::I64 => "LongStorage",
            Self::F8E5M2 | Self::F8E4M3 | Self::U16 | Self::U32 | Self::U64 => return None,
        })
    }

    pub fn from_storage(class: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.storage() == Some(class))
    }

    /// A floating-point type this program computes with.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }
}

/// Type and shape of a tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
}

impl TensorInfo {
    /// The number of elements; `None` if it overflows.
    pub fn elements(&self) -> Option<usize> {
        self.shape.iter().try_fold(1usize, |product, side| product.checked_mul(*side))
    }

    /// The number of bytes; `None` if it overflows.
    pub fn byte_length(&self) -> Option<usize> {
        self.elements()?.checked_mul(self.dtype.size())
    }
}

/// A tensor in memory, contiguous, little-endian.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorData {
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub bytes: Vec<u8>,
}

impl TensorData {
    /// An `F32` tensor; `values` in row-major order, as many as `shape` says.
    pub fn from_f32(shape: &[usize], values: &[f32]) -> Self {
        debug_assert_eq!(shape.iter().product::<usize>(), values.len());
        let bytes = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes }
    }

    pub fn info(&self) -> TensorInfo {
        TensorInfo { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// The values in f32. Integers convert too; 8-bit floats are an error.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        fn map<const N: usize>(bytes: &[u8], f: impl Fn([u8; N]) -> f32) -> Vec<f32> {
            bytes.as_chunks::<N>().0.iter().map(|chunk| f(*chunk)).collect()
        }
        let bytes = &self.bytes;
        Ok(match self.dtype {
            Dtype::F32 => map(bytes, f32::from_le_bytes),
            Dtype::F16 => {
                let halves: Vec<f16> = bytes.as_chunks().0.iter().map(|chunk| f16::from_le_bytes(*chunk)).collect();
                let mut values = vec![0.0; halves.len()];
                halves.convert_to_f32_slice(&mut values);
                values
            }
            Dtype::Bf16 => map(bytes, |chunk| bf16::from_le_bytes(chunk).to_f32()),
            Dtype::F64 => map(bytes, |chunk| f64::from_le_bytes(chunk) as f32),
            Dtype::Bool | Dtype::U8 => map(bytes, |[byte]| f32::from(byte)),
            Dtype::I8 => map(bytes, |chunk| f32::from(i8::from_le_bytes(chunk))),
            Dtype::I16 => map(bytes, |chunk| f32::from(i16::from_le_bytes(chunk))),
            Dtype::U16 => map(bytes, |chunk| f32::from(u16::from_le_bytes(chunk))),
            Dtype::I32 => map(bytes, |chunk| i32::from_le_bytes(chunk) as f32),
            Dtype::U32 => map(bytes, |chunk| u32::from_le_bytes(chunk) as f32),
            Dtype::I64 => map(bytes, |chunk| i64::from_le_bytes(chunk) as f32),
            Dtype::U64 => map(bytes, |chunk| u64::from_le_bytes(chunk) as f32),
            Dtype::F8E5M2 | Dtype::F8E4M3 => bail!("{} cannot be converted to 32-bit floats here", self.dtype.name()),
        })
    }

    /// The same values in another floating-point type, rounded to nearest even. Tensors that hold no floats keep their type, and a
    /// finite value that would become infinite is an error. Doubles go through f32, as PyTorch takes them.
    pub fn cast(self, dtype: Dtype) -> Result<Self> {
        ensure!(dtype.is_float(), "{} is no floating-point type to cast to", dtype.name());
        if self.dtype == dtype || !self.dtype.is_float() {
            return Ok(self);
        }
        let values = self.to_f32()?;
        if self.dtype == Dtype::F64 {
            let doubles = self.bytes.as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk));
            check_finite(doubles.zip(values.iter().map(|value| f64::from(*value))), Dtype::F32)?;
        }
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Dtype::F64 => values.iter().flat_map(|value| f64::from(*value).to_le_bytes()).collect(),
            Dtype::Bf16 => {
                let halves: Vec<bf16> = values.iter().map(|value| bf16::from_f32(*value)).collect();
                check_finite(values.iter().zip(&halves).map(|(from, to)| (f64::from(*from), to.to_f64())), dtype)?;
                halves.iter().flat_map(|half| half.to_le_bytes()).collect()
            }
            _ => {
                let mut halves = vec![f16::ZERO; values.len()];
                halves.convert_from_f32_slice(&values);
                check_finite(values.iter().zip(&halves).map(|(from, to)| (f64::from(*from), to.to_f64())), dtype)?;
                halves.iter().flat_map(|half| half.to_le_bytes()).collect()
            }
        };
        Ok(Self { dtype, shape: self.shape, bytes })
    }
}

fn check_finite(pairs: impl Iterator<Item = (f64, f64)>, dtype: Dtype) -> Result<()> {
    for (from, to) in pairs {
        if from.is_finite() && !to.is_finite() {
            bail!("the value {from:e} is too large for {}: keep a wider type (fp32, bf16)", dtype.name());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves_survive_the_way_through_f32() {
        let bytes: Vec<u8> = (0..=u16::MAX).filter(|bits| !f16::from_bits(*bits).is_nan()).flat_map(u16::to_le_bytes).collect();
        let tensor = TensorData { dtype: Dtype::F16, shape: vec![bytes.len() / 2], bytes };
        let there = tensor.clone().cast(Dtype::F32).unwrap();
        assert_eq!(there.cast(Dtype::F16).unwrap(), tensor);
    }

    #[test]
    fn a_value_too_large_for_halves_is_an_error() {
        let error = TensorData::from_f32(&[2], &[1.0, 70000.0]).cast(Dtype::F16).unwrap_err();
        assert_eq!(error.to_string(), "the value 7e4 is too large for F16: keep a wider type (fp32, bf16)");
    }

    #[test]
    fn integers_keep_their_type() {
        let tensor = TensorData { dtype: Dtype::I64, shape: vec![1], bytes: 7i64.to_le_bytes().to_vec() };
        assert_eq!(tensor.clone().cast(Dtype::F16).unwrap(), tensor);
        assert_eq!(tensor.to_f32().unwrap(), [7.0]);
    }
}
