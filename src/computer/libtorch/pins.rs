//! The wheels that are libtorch, and what is known of each beforehand. Unaware of how they are fetched.
//!
//! Hashes and sizes of wheels are those that <https://pypi.org/simple/torch/> and the pages of its neighbours gave on 2026-11-26; each
//! RECORD was read out of that wheel. Which NVIDIA wheels belong to torch 2.9.1 says `Requires-Dist` in its METADATA. For C++ the Python
//! version of a wheel makes no difference.

use anyhow::{Context as _, Result, bail};

use crate::computer::libtorch::sha256::Sha256;
use crate::computer::libtorch::wheel::{Flavour, Pin, Release, Takes, Wheel};

/// The PyTorch that is fetched. burn-tch 0.22.1 is written for the interfaces of 2.9.
pub const TORCH: &str = "2.9.1";

/// Python's package index, in the form of PEP 503 and 691.
pub const PYPI: &str = "https://pypi.org/simple";

/// PyTorch's own index of builds for ROCm 6.4, the later one of the two that 2.9.1 was built for.
pub const PYTORCH_ROCM: &str = "https://download.pytorch.org/whl/rocm6.4";

/// What there is for a processor and a machine, as `std::env::consts::ARCH` names it.
///
/// # Errors
/// There is none.
pub fn release(flavour: Flavour, machine: &str) -> Result<Release> {
    let (rows, written, index): (&[Row], &[(&str, &str)], _) = match (flavour, machine) {
        (Flavour::Cpu, "x86_64") => (CPU_X86_64, LINKER_SCRIPT, PYPI),
        (Flavour::Cpu, "aarch64") => (CPU_AARCH64, &[], PYPI),
        (Flavour::Cuda, "x86_64") => (CUDA_X86_64, &[], PYPI),
        (Flavour::Rocm, "x86_64") => (ROCM_X86_64, &[], PYTORCH_ROCM),
        _ => bail!(
            "PyTorch {TORCH} has no wheel with `{}` for `{machine}`: build PyTorch there and name it with `LIBTORCH=DIR`",
            flavour.word()
        ),
    };
    let wheels = rows.iter().map(Row::wheel).collect::<Result<_>>()?;
    Ok(Release { flavour, wheels, written: written.to_vec(), index })
}

/// A wheel as the tables below write it.
struct Row {
    project: &'static str,
    file: &'static str,
    /// SHA-256 of the file, its size, SHA-256 of its RECORD.
    pin: Option<(&'static str, u64, &'static str)>,
    takes: &'static [&'static str],
    leaves: &'static [&'static str],
}

impl Row {
    fn wheel(&self) -> Result<Wheel> {
        let hash = |text| Sha256::from_hex(text).with_context(|| format!("the pin of `{}` is no SHA-256", self.file));
        let pin = match self.pin {
            Some((sha256, size, record)) => Some(Pin { sha256: hash(sha256)?, size, record: hash(record)? }),
            None => None,
        };
        let (project, file) = (self.project.to_string(), self.file.to_string());
        Ok(Wheel { project, file, pin, takes: Takes::new(self.takes, self.leaves)? })
    }
}

/// The real `libtorch.so` of this wheel does nothing but name `libtorch_cpu.so` and `libtorch_cuda.so`; the latter has 1 GB.
const LINKER_SCRIPT: &[(&str, &str)] = &[("torch/lib/libtorch.so", "INPUT(libtorch_cpu.so)\n")];

/// Everything in it is for both processors; which parts are taken makes the difference.
const TORCH_X86_64: (&str, &str, Option<(&str, u64, &str)>) = (
    "torch",
    "torch-2.9.1-cp311-cp311-manylinux_2_28_x86_64.whl",
    Some((
        "d033ff0ac3f5400df862a51bdde9bad83561f3739ea0046e68f5401ebfa67c1b",
        899_821_446,
        "0ee1a542560c9030c0558ac2508e077b4d702951e42cb72dc9ccb8c2fa3cd4db",
    )),
);

/// `libtorch_cpu.so` of this wheel is linked to `libcupti` and `libcudart`, which load without a driver.
const CPU_X86_64: &[Row] = &[
    Row {
        project: TORCH_X86_64.0,
        file: TORCH_X86_64.1,
        pin: TORCH_X86_64.2,
        takes: &["torch/include/**", "torch/lib/libc10.so", "torch/lib/libgomp.so.1", "torch/lib/libtorch_cpu.so"],
        leaves: &[],
    },
    Row { takes: &["nvidia/cuda_cupti/lib/libcupti.so.12"], ..CUPTI },
    Row { takes: &["nvidia/cuda_runtime/lib/libcudart.so.12"], ..CUDART },
];

/// Built without CUDA; brings its OpenBLAS and Compute Library in `torch.libs`.
const CPU_AARCH64: &[Row] = &[Row {
    project: "torch",
    file: "torch-2.9.1-cp311-cp311-manylinux_2_28_aarch64.whl",
    pin: Some((
        "62b3fd888277946918cba4478cf849303da5359f0fb4e3bfb86b0533ba2eaf8d",
        104_220_430,
        "e6e38d572c62ccc195c98564d07298e6d845028d09a66c719f6c4e909372088a",
    )),
    takes: &["torch/include/**", "torch/lib/libc10.so", "torch/lib/libtorch.so", "torch/lib/libtorch_cpu.so", "torch.libs/*.so*"],
    leaves: &[],
}];

const NVIDIA: &[&str] = &["nvidia/*/lib/*.so*"];

const CUPTI: Row = Row {
    project: "nvidia-cuda-cupti-cu12",
    file: "nvidia_cuda_cupti_cu12-12.8.90-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    pin: Some((
        "ea0cb07ebda26bb9b29ba82cda34849e73c166c18162d3913575b0c9db9a6182",
        10_248_621,
        "e1a55034c9d3dda12dd291ff09cbcfcfc071caba74dc2e70cca6b2868074e299",
    )),
    takes: NVIDIA,
    leaves: &[],
};

const CUDART: Row = Row {
    project: "nvidia-cuda-runtime-cu12",
    file: "nvidia_cuda_runtime_cu12-12.8.90-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
    pin: Some((
        "adade8dcbd0edf427b7204d480d6066d33902cab2a4707dcfc48a2d0fd44ab90",
        954_765,
        "72c54ba9d7f4cea35edf4eac02bdc1ac23d494f316c39c812c1ee3ede09049bf",
    )),
    takes: NVIDIA,
    leaves: &[],
};

const fn nvidia(project: &'static str, file: &'static str, pin: (&'static str, u64, &'static str)) -> Row {
    Row { project, file, pin: Some(pin), takes: NVIDIA, leaves: &[] }
}

/// `libcaffe2_nvrtc.so` and `libtorch_cuda_linalg.so` are loaded when first needed; what only Python needs is left.
const CUDA_X86_64: &[Row] = &[
    Row {
        project: TORCH_X86_64.0,
        file: TORCH_X86_64.1,
        pin: TORCH_X86_64.2,
        takes: &["torch/include/**", "torch/lib/*.so*"],
        leaves: &["torch/lib/libshm.so", "torch/lib/libtorch_global_deps.so", "torch/lib/libtorch_python.so"],
    },
    nvidia(
        "nvidia-cublas-cu12",
        "nvidia_cublas_cu12-12.8.4.1-py3-none-manylinux_2_27_x86_64.whl",
        (
            "8ac4e771d5a348c551b2a426eda6193c19aa630236b418086020df5ba9667142",
            594_346_921,
            "8fc0da696d08e7744afdecee8cbc29810648da0b2019976b45e2e46662c536da",
        ),
    ),
    CUPTI,
    nvidia(
        "nvidia-cuda-nvrtc-cu12",
        "nvidia_cuda_nvrtc_cu12-12.8.93-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        (
            "a7756528852ef889772a84c6cd89d41dfa74667e24cca16bb31f8f061e3e9994",
            88_040_029,
            "09ca64cb723fb8f60b442dc6b0fa5b708f8edaa19280c047f9f09646da50d054",
        ),
    ),
    CUDART,
    nvidia(
        "nvidia-cudnn-cu12",
        "nvidia_cudnn_cu12-9.10.2.21-py3-none-manylinux_2_27_x86_64.whl",
        (
            "949452be657fa16687d0930933f032835951ef0892b37d2d53824d1a84dc97a8",
            706_758_467,
            "c0e43f156c35d88467f7ba009eebccd91c7213fefb860a79b090d1ee1e6b9327",
        ),
    ),
    nvidia(
        "nvidia-cufft-cu12",
        "nvidia_cufft_cu12-11.3.3.83-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "4d2dd21ec0b88cf61b62e6b43564355e5222e4a3fb394cac0db101f2dd0d4f74",
            193_118_695,
            "10a42677d316d62b223c89bd16626339212305c9edc630d346a893d036bac598",
        ),
    ),
    nvidia(
        "nvidia-cufile-cu12",
        "nvidia_cufile_cu12-1.13.1.3-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "1d069003be650e131b21c932ec3d8969c1715379251f8d23a1860554b1cb24fc",
            1_197_834,
            "38bc33ea8a91f18c7ca6f7a89e299b62bfad912fb6b94f889a64dc2798b76927",
        ),
    ),
    nvidia(
        "nvidia-curand-cu12",
        "nvidia_curand_cu12-10.3.9.90-py3-none-manylinux_2_27_x86_64.whl",
        (
            "b32331d4f4df5d6eefa0554c565b626c7216f87a06a4f56fab27c3b68a830ec9",
            63_619_976,
            "809381514927c34e9faa7cf97c8becb5a73837672d276bd15e304a3eaf3eecc3",
        ),
    ),
    nvidia(
        "nvidia-cusolver-cu12",
        "nvidia_cusolver_cu12-11.7.3.90-py3-none-manylinux_2_27_x86_64.whl",
        (
            "4376c11ad263152bd50ea295c05370360776f8c3427b30991df774f9fb26c450",
            267_506_905,
            "6db8abb03a8ceff726c35b600b6abfdf0915721575c65c6833d42858ab2771d0",
        ),
    ),
    nvidia(
        "nvidia-cusparse-cu12",
        "nvidia_cusparse_cu12-12.5.8.93-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "1ec05d76bbbd8b61b06a80e1eaf8cf4959c3d4ce8e711b65ebd0443bb0ebb13b",
            288_216_466,
            "bbf887b1d645c5deb6624e2167817f4c4dc1dbd6f0f75f1917726ee5f1993b27",
        ),
    ),
    nvidia(
        "nvidia-cusparselt-cu12",
        "nvidia_cusparselt_cu12-0.7.1-py3-none-manylinux2014_x86_64.whl",
        (
            "f1bb701d6b930d5a7cea44c19ceb973311500847f81b634d802b7b539dc55623",
            287_193_691,
            "881c8aed4c2de9a78e6048555348dc7fdbbe2aa407bb02bf0a9d275c3baceec3",
        ),
    ),
    nvidia(
        "nvidia-nccl-cu12",
        "nvidia_nccl_cu12-2.27.5-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "ad730cf15cb5d25fe849c6e6ca9eb5b76db16a80f13f425ac68d8e2e55624457",
            322_348_229,
            "d99f2213e821d7578e4c77731d44bb4ea2cc5427b5639bd9aa142188f6dae7e9",
        ),
    ),
    nvidia(
        "nvidia-nvjitlink-cu12",
        "nvidia_nvjitlink_cu12-12.8.93-py3-none-manylinux2010_x86_64.manylinux_2_12_x86_64.whl",
        (
            "81ff63371a7ebd6e6451970684f916be2eab07321b73c9d244dc2b4da7f73b88",
            39_254_836,
            "63ed5dea679139e01b9f8e56f0897d5d98e6158cb4624862935cd3bd84620918",
        ),
    ),
    nvidia(
        "nvidia-nvshmem-cu12",
        "nvidia_nvshmem_cu12-3.3.20-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "d00f26d3f9b2e3c3065be895e3059d6479ea5c638a3f38c9fec49b1b9dd7c1e5",
            124_657_145,
            "0a098bbb6502ffe5b453771378548b18bbeec330961f55735330ed4760c40fac",
        ),
    ),
    nvidia(
        "nvidia-nvtx-cu12",
        "nvidia_nvtx_cu12-12.8.90-py3-none-manylinux2014_x86_64.manylinux_2_17_x86_64.whl",
        (
            "5b17e2001cc0d751a5bc2c6ec6d26ad95913324a4adb86788c944f8ce9ba441f",
            89_954,
            "964bb3c3efca6fe0b7980a2ed69e52de9e8412c613d61a0dba69c1bce6ec377f",
        ),
    ),
];

/// Brings ROCm itself in `torch/lib`, and MIOpen's tuning in `torch/share`. PyTorch's index gives its hash; two independent witnesses of it
/// were not found, so it is not pinned.
const ROCM_X86_64: &[Row] = &[Row {
    project: "torch",
    file: "torch-2.9.1+rocm6.4-cp313-cp313-manylinux_2_28_x86_64.whl",
    pin: None,
    takes: &["torch/include/**", "torch/{lib,share}/**"],
    leaves: &["torch/lib/libshm*", "torch/lib/libshm*/**", "torch/lib/libtorch_global_deps.so", "torch/lib/libtorch_python.so"],
}];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::computer::libtorch::record::Member;

    #[test]
    fn every_table_can_be_read() {
        let all = [
            (Flavour::Cpu, "x86_64", 3),
            (Flavour::Cpu, "aarch64", 1),
            (Flavour::Cuda, "x86_64", 16),
            (Flavour::Rocm, "x86_64", 1),
        ];
        for (flavour, machine, count) in all {
            let release = release(flavour, machine).unwrap();
            assert_eq!(release.wheels.len(), count);
            for wheel in &release.wheels {
                assert_eq!(wheel.pin.is_none(), flavour == Flavour::Rocm, "{}", wheel.file);
                assert!(wheel.file.starts_with(&wheel.project.replace('-', "_")), "{}", wheel.file);
            }
        }
        let error = release(Flavour::Rocm, "aarch64").unwrap_err().to_string();
        assert!(error.contains("`rocm`") && error.contains("LIBTORCH=DIR"), "{error}");
    }

    #[test]
    fn of_rocm_everything_is_taken_but_what_python_needs() {
        let wheel = release(Flavour::Rocm, "x86_64").unwrap().wheels.remove(0);
        let taken =
            ["torch/include/a/b.h", "torch/lib/librocblas.so", "torch/lib/rocblas/library/x.dat", "torch/share/miopen/db/y"];
        let left = ["torch/__init__.py", "torch/lib/libtorch_python.so", "torch/lib/libshm/err.h", "torch/lib/libshm.so"];
        let member = |path: &&str| Member { path: (*path).to_string(), sha256: Sha256::of(b""), size: 0 };
        let wanted = wheel.wanted(taken.iter().chain(&left).map(member).collect()).unwrap();
        assert_eq!(wanted.iter().map(|member| member.path.as_str()).collect::<Vec<_>>(), taken);
    }
}
