//! A tensor as bytes: element type, shape, little-endian contents. Unaware of files.

use std::fmt::Debug;

use anyhow::{Result, anyhow, bail, ensure};
use bytemuck::Zeroable;
use bytemuck::allocation::try_zeroed_vec;
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
    /// Powers of two, as scales of other tensors have it.
    F8E8M0,
    I16,
    U16,
    F16,
    Bf16,
    I32,
    U32,
    F32,
    /// A complex number of two `F32`.
    C64,
    F64,
    I64,
    U64,
}

impl Dtype {
    const ALL: [Self; 17] = [
        Self::Bool,
        Self::U8,
        Self::I8,
        Self::F8E5M2,
        Self::F8E4M3,
        Self::F8E8M0,
        Self::I16,
        Self::U16,
        Self::F16,
        Self::Bf16,
        Self::I32,
        Self::U32,
        Self::F32,
        Self::C64,
        Self::F64,
        Self::I64,
        Self::U64,
    ];

    /// Bytes of one element.
    pub const fn size(self) -> usize {
        match self {
            Self::Bool | Self::U8 | Self::I8 | Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 => 1,
            Self::I16 | Self::U16 | Self::F16 | Self::Bf16 => 2,
            Self::I32 | Self::U32 | Self::F32 => 4,
            Self::C64 | Self::F64 | Self::I64 | Self::U64 => 8,
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
            Self::F8E8M0 => "F8_E8M0",
            Self::I16 => "I16",
            Self::U16 => "U16",
            Self::F16 => "F16",
            Self::Bf16 => "BF16",
            Self::I32 => "I32",
            Self::U32 => "U32",
            Self::F32 => "F32",
            Self::C64 => "C64",
            Self::F64 => "F64",
            Self::I64 => "I64",
            Self::U64 => "U64",
        }
    }

    /// The type that a safetensors header calls `name`; `None` if it is unknown here.
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
            Self::C64 => "ComplexFloatStorage",
            Self::F64 => "DoubleStorage",
            Self::I64 => "LongStorage",
            Self::F8E5M2 | Self::F8E4M3 | Self::F8E8M0 | Self::U16 | Self::U32 | Self::U64 => return None,
        })
    }

    /// The type of a storage class of PyTorch's pickles: `F16` of `HalfStorage`. `None` if it is unknown here.
    pub fn from_storage(class: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dtype| dtype.storage() == Some(class))
    }

    /// By the name of a `torch.dtype`: `float8_e4m3fn`. Newer types have no storage class and are named so in pickles.
    pub fn from_torch(name: &str) -> Option<Self> {
        Some(match name {
            "bool" => Self::Bool,
            "uint8" => Self::U8,
            "int8" => Self::I8,
            "float8_e5m2" => Self::F8E5M2,
            "float8_e4m3fn" => Self::F8E4M3,
            "float8_e8m0fnu" => Self::F8E8M0,
            "int16" => Self::I16,
            "uint16" => Self::U16,
            "float16" => Self::F16,
            "bfloat16" => Self::Bf16,
            "int32" => Self::I32,
            "uint32" => Self::U32,
            "float32" => Self::F32,
            "complex64" => Self::C64,
            "float64" => Self::F64,
            "int64" => Self::I64,
            "uint64" => Self::U64,
            _ => return None,
        })
    }

    /// A floating-point type this program computes with and casts to.
    pub const fn is_float(self) -> bool {
        matches!(self, Self::F16 | Self::Bf16 | Self::F32 | Self::F64)
    }

    /// A real number of 8 bits, which is read and never written from another type.
    pub const fn is_float8(self) -> bool {
        matches!(self, Self::F8E5M2 | Self::F8E4M3)
    }

    /// A type whose values are real numbers with a point: those of weights.
    pub const fn holds_floats(self) -> bool {
        self.is_float() || self.is_float8()
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

    /// The shape for a message, of a length that a line has room for.
    pub fn sides(&self) -> String {
        sides(&self.shape)
    }
}

/// Sides or strides for a message, at most eight of them.
pub(super) fn sides<T: Debug>(sides: &[T]) -> String {
    match sides.get(..8) {
        Some(first) if sides.len() > 8 => format!("{first:?} and {} more sides", sides.len() - 8),
        _ => format!("{sides:?}"),
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

    /// As `from_f32`, of as many values as a model file says.
    ///
    /// # Errors
    /// If memory does not suffice.
    pub fn of_f32(shape: &[usize], values: &[f32]) -> Result<Self> {
        let bytes = little_endian(values, |value| value.to_le_bytes())?;
        Ok(Self { dtype: Dtype::F32, shape: shape.to_vec(), bytes })
    }

    /// Type and shape, as headers list them.
    pub fn info(&self) -> TensorInfo {
        TensorInfo { dtype: self.dtype, shape: self.shape.clone() }
    }

    /// The values in f32. Integers convert too. 8-bit floats are exact.
    ///
    /// # Errors
    /// If the type holds no real numbers (`C64`, `F8_E8M0`), or memory does not suffice.
    pub fn to_f32(&self) -> Result<Vec<f32>> {
        let mut values = zeros(self.bytes.len() / self.dtype.size())?;
        self.widen_into(&mut values)?;
        Ok(values)
    }

    /// As [`Self::to_f32`], into as many values as there are.
    pub(super) fn widen_into(&self, values: &mut [f32]) -> Result<()> {
        fn fill<const N: usize>(values: &mut [f32], bytes: &[u8], f: impl Fn([u8; N]) -> f32) {
            values.iter_mut().zip(bytes.as_chunks::<N>().0).for_each(|(value, chunk)| *value = f(*chunk));
        }
        let bytes = &self.bytes;
        match self.dtype {
            Dtype::F32 => fill(values, bytes, f32::from_le_bytes),
            Dtype::F16 => {
                let halves: Vec<f16> = collected(bytes.as_chunks().0.iter().map(|chunk| f16::from_le_bytes(*chunk)))?;
                halves.convert_to_f32_slice(values);
            }
            Dtype::Bf16 => fill(values, bytes, |chunk| bf16::from_le_bytes(chunk).to_f32()),
            Dtype::F64 => fill(values, bytes, |chunk| f64::from_le_bytes(chunk) as f32),
            Dtype::F8E5M2 => fill(values, bytes, |[byte]| e5m2(byte)),
            Dtype::F8E4M3 => fill(values, bytes, |[byte]| e4m3(byte)),
            Dtype::Bool | Dtype::U8 => fill(values, bytes, |[byte]| f32::from(byte)),
            Dtype::I8 => fill(values, bytes, |chunk| f32::from(i8::from_le_bytes(chunk))),
            Dtype::I16 => fill(values, bytes, |chunk| f32::from(i16::from_le_bytes(chunk))),
            Dtype::U16 => fill(values, bytes, |chunk| f32::from(u16::from_le_bytes(chunk))),
            Dtype::I32 => fill(values, bytes, |chunk| i32::from_le_bytes(chunk) as f32),
            Dtype::U32 => fill(values, bytes, |chunk| u32::from_le_bytes(chunk) as f32),
            Dtype::I64 => fill(values, bytes, |chunk| i64::from_le_bytes(chunk) as f32),
            Dtype::U64 => fill(values, bytes, |chunk| u64::from_le_bytes(chunk) as f32),
            Dtype::C64 | Dtype::F8E8M0 => bail!("{} cannot be converted to 32-bit floats here", self.dtype.name()),
        }
        Ok(())
    }

    /// The same values in another floating-point type, rounded to nearest even. Tensors that hold no floats keep their type, and a
    /// finite value that would become infinite is an error. Doubles go through f32, as PyTorch takes them.
    ///
    /// # Errors
    /// If `dtype` is no floating-point type of 16 bits or more, a value is too large for it, or memory does not suffice.
    pub fn cast(self, dtype: Dtype) -> Result<Self> {
        if self.dtype == dtype || !self.dtype.holds_floats() {
            return Ok(self);
        }
        let no_float = || anyhow!("{} is no floating-point type to cast to", dtype.name());
        ensure!(dtype.is_float(), no_float());
        let values = self.to_f32()?;
        if self.dtype == Dtype::F64 {
            let doubles = self.bytes.as_chunks().0.iter().map(|chunk| f64::from_le_bytes(*chunk));
            check_finite(doubles.zip(values.iter().map(|value| f64::from(*value))), Dtype::F32)?;
        }
        let bytes: Vec<u8> = match dtype {
            Dtype::F32 => little_endian(&values, |value| value.to_le_bytes())?,
            Dtype::F64 => little_endian(&values, |value| f64::from(*value).to_le_bytes())?,
            Dtype::Bf16 => {
                let halves: Vec<bf16> = collected(values.iter().map(|value| bf16::from_f32(*value)))?;
                check_finite(values.iter().zip(&halves).map(|(from, to)| (f64::from(*from), to.to_f64())), dtype)?;
                little_endian(&halves, |half| half.to_le_bytes())?
            }
            Dtype::F16 => {
                let mut halves = collected(std::iter::repeat_n(f16::ZERO, values.len()))?;
                halves.convert_from_f32_slice(&values);
                check_finite(values.iter().zip(&halves).map(|(from, to)| (f64::from(*from), to.to_f64())), dtype)?;
                little_endian(&halves, |half| half.to_le_bytes())?
            }
            Dtype::Bool
            | Dtype::U8
            | Dtype::I8
            | Dtype::F8E5M2
            | Dtype::F8E4M3
            | Dtype::F8E8M0
            | Dtype::I16
            | Dtype::U16
            | Dtype::I32
            | Dtype::U32
            | Dtype::C64
            | Dtype::I64
            | Dtype::U64 => return Err(no_float()),
        };
        Ok(Self { dtype, shape: self.shape, bytes })
    }

    /// How many values are NaN, and how many infinite. Of a complex number each part counts; integers are neither.
    pub fn not_finite(&self) -> (usize, usize) {
        fn count<const N: usize>(
            bytes: &[u8],
            is_odd: impl Fn([u8; N]) -> bool,
            is_nan: impl Fn([u8; N]) -> bool,
        ) -> (usize, usize) {
            let chunks = bytes.as_chunks::<N>().0;
            // Once over all of it in the usual case.
            if !chunks.iter().fold(false, |odd, chunk| odd | is_odd(*chunk)) {
                return (0, 0);
            }
            let nan = chunks.iter().filter(|chunk| is_nan(**chunk)).count();
            (nan, chunks.iter().filter(|chunk| is_odd(**chunk)).count() - nan)
        }
        let half = |chunk| u16::from_le_bytes(chunk) & 0x7fff;
        let single = |chunk| u32::from_le_bytes(chunk) & 0x7fff_ffff;
        let double = |chunk| u64::from_le_bytes(chunk) & (u64::MAX >> 1);
        let bytes = &self.bytes;
        match self.dtype {
            Dtype::F16 => count(bytes, |chunk| half(chunk) >= 0x7c00, |chunk| half(chunk) > 0x7c00),
            Dtype::Bf16 => count(bytes, |chunk| half(chunk) >= 0x7f80, |chunk| half(chunk) > 0x7f80),
            Dtype::F32 | Dtype::C64 => count(bytes, |chunk| single(chunk) >= 0x7f80_0000, |chunk| single(chunk) > 0x7f80_0000),
            Dtype::F64 => {
                count(bytes, |chunk| double(chunk) >= 0x7ff0_0000_0000_0000, |chunk| double(chunk) > 0x7ff0_0000_0000_0000)
            }
            Dtype::F8E5M2 => count(bytes, |[byte]| byte & 0x7f >= 0x7c, |[byte]| byte & 0x7f > 0x7c),
            // It has no infinity, and one NaN of either sign.
            Dtype::F8E4M3 => (self.bytes.iter().filter(|byte| **byte & 0x7f == 0x7f).count(), 0),
            // Scales of other tensors, exponents alone: not looked into.
            Dtype::F8E8M0 => (0, 0),
            Dtype::Bool | Dtype::U8 | Dtype::I8 | Dtype::I16 | Dtype::U16 | Dtype::I32 | Dtype::U32 | Dtype::I64 | Dtype::U64 => {
                (0, 0)
            }
        }
    }
}

/// A vector of what an iterator of known length gives. A model file's numbers decide the length: what does not fit into memory is an
/// error and does not end the program.
fn collected<T>(values: impl ExactSizeIterator<Item = T>) -> Result<Vec<T>> {
    let mut vector = room(values.len())?;
    vector.extend(values);
    Ok(vector)
}

/// An empty vector with room for so many values.
pub(super) fn room<T>(count: usize) -> Result<Vec<T>> {
    let mut vector = Vec::new();
    vector.try_reserve_exact(count).map_err(|_| no_memory::<T>(count))?;
    Ok(vector)
}

/// So many zeros, which are no memory yet before somebody writes there.
pub(super) fn zeros<T: Zeroable>(count: usize) -> Result<Vec<T>> {
    try_zeroed_vec(count).map_err(|()| no_memory::<T>(count))
}

fn no_memory<T>(count: usize) -> anyhow::Error {
    anyhow!("there is no memory for {} bytes", count.saturating_mul(size_of::<T>()))
}

fn little_endian<T, const N: usize>(values: &[T], bytes: impl Fn(&T) -> [u8; N]) -> Result<Vec<u8>> {
    let mut all = room(values.len().saturating_mul(N))?;
    values.iter().for_each(|value| all.extend_from_slice(&bytes(value)));
    Ok(all)
}

/// 1 sign, 5 exponent and 2 fraction bits: the upper half of an `F16`.
fn e5m2(byte: u8) -> f32 {
    f16::from_bits(u16::from(byte) << 8).to_f32()
}

/// 1 sign, 4 exponent (bias 7) and 3 fraction bits, without infinity: `float8_e4m3fn` of PyTorch. Source: Micikevicius et al., "FP8 formats
/// for deep learning", table 1.
fn e4m3(byte: u8) -> f32 {
    let (exponent, fraction) = (i32::from(byte >> 3 & 0xf), f32::from(byte & 7));
    let magnitude = match (exponent, byte & 7) {
        (0xf, 7) => f32::NAN,
        (0, _) => fraction * 2f32.powi(-9),
        _ => (8.0 + fraction) * 2f32.powi(exponent - 10),
    };
    if byte & 0x80 == 0 { magnitude } else { -magnitude }
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

    /// Values that PyTorch gives for these bytes: `torch.tensor([…], dtype=torch.uint8).view(torch.float8_e4m3fn).float()`.
    #[test]
    fn eight_bit_floats_have_their_values_in_every_wider_type() {
        let f8 = |dtype, bytes: &[u8]| TensorData { dtype, shape: vec![bytes.len()], bytes: bytes.to_vec() };
        let e4m3 = f8(Dtype::F8E4M3, &[0x00, 0x01, 0x08, 0x38, 0x39, 0x7e, 0xfe, 0x80, 0xb8]);
        let right = [0.0, 0.001953125, 0.015625, 1.0, 1.125, 448.0, -448.0, -0.0, -1.0];
        assert_eq!(e4m3.to_f32().unwrap(), right);
        let e5m2 = f8(Dtype::F8E5M2, &[0x00, 0x01, 0x3c, 0x3d, 0x7b, 0xfb]);
        assert_eq!(e5m2.to_f32().unwrap(), [0.0, 2f32.powi(-16), 1.0, 1.25, 57344.0, -57344.0]);
        for dtype in [Dtype::F16, Dtype::Bf16, Dtype::F32, Dtype::F64] {
            let wide = e4m3.clone().cast(dtype).unwrap();
            assert_eq!((wide.dtype, wide.to_f32().unwrap().as_slice()), (dtype, right.as_slice()));
        }
        let error = TensorData::from_f32(&[1], &[1.0]).cast(Dtype::F8E4M3).unwrap_err();
        assert_eq!(error.to_string(), "F8_E4M3 is no floating-point type to cast to");
    }

    #[test]
    fn what_is_not_finite_is_counted_in_every_type() {
        let wide = TensorData::from_f32(&[5], &[1.0, f32::NAN, f32::INFINITY, -f32::INFINITY, f32::MAX]);
        assert_eq!(wide.not_finite(), (1, 2));
        for dtype in [Dtype::Bf16, Dtype::F64] {
            let values = [-f32::NAN, f32::NAN, f32::INFINITY, 0.0];
            assert_eq!(TensorData::from_f32(&[4], &values).cast(dtype).unwrap().not_finite(), (2, 1));
        }
        let f8 = |dtype, bytes: &[u8]| TensorData { dtype, shape: vec![bytes.len()], bytes: bytes.to_vec() };
        assert_eq!(f8(Dtype::F8E4M3, &[0x7f, 0xff, 0x7e, 0x78]).not_finite(), (2, 0));
        assert_eq!(f8(Dtype::F8E5M2, &[0x7f, 0xfd, 0x7c, 0x7b]).not_finite(), (2, 1));
        assert_eq!(f8(Dtype::U8, &[0x7f, 0xff]).not_finite(), (0, 0));
    }

    #[test]
    fn what_does_not_fit_into_memory_is_an_error() {
        assert_eq!(room::<u8>(1 << 62).unwrap_err().to_string(), "there is no memory for 4611686018427387904 bytes");
    }
}
