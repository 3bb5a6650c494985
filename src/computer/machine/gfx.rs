//! The targets that AMD's compiler names, `gfx1031` and its like: which cards they are, and which of them may run code that was built for
//! another. Does not know what this computer has.

use std::fmt;

/// What machine code of an AMD GPU is compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gfx {
    pub major: u8,
    pub minor: u8,
    pub stepping: u8,
}

impl Gfx {
    /// `gfx1031` is 10, 3, 1; `gfx90a` is 9, 0, 10.
    pub const fn new(major: u8, minor: u8, stepping: u8) -> Self {
        Self { major, minor, stepping }
    }

    /// From the kernel's `gfx_target_version`, `major * 10000 + minor * 100 + stepping`; `None` for 0, which is a processor's.
    pub fn from_target_version(version: u64) -> Option<Self> {
        let part = |value: u64| u8::try_from(value).ok();
        let (major, minor, stepping) = (part(version / 10_000)?, part(version / 100 % 100)?, part(version % 100)?);
        (major > 0 && minor < 16 && stepping < 16).then_some(Self { major, minor, stepping })
    }

    /// From a name such as `gfx90a`: the last two digits are hexadecimal.
    pub fn named(name: &str) -> Option<Self> {
        let digits = name.strip_prefix("gfx")?;
        if !digits.is_ascii() || !(3..=4).contains(&digits.len()) {
            return None;
        }
        let (major, rest) = digits.split_at(digits.len() - 2);
        let hexadecimal = |at: usize| u8::from_str_radix(&rest[at..=at], 16).ok();
        Some(Self { major: major.parse().ok()?, minor: hexadecimal(0)?, stepping: hexadecimal(1)? })
    }

    /// From an override such as `10.3.0`. As strict as the runtime, which takes three decimal numbers and nothing else.
    pub fn from_override(value: &str) -> Option<Self> {
        let mut parts = value.split('.').map(|part| part.parse::<u8>().ok().filter(|_| part.bytes().all(|b| b.is_ascii_digit())));
        let gfx = Self { major: parts.next()??, minor: parts.next()??, stepping: parts.next()?? };
        (parts.next().is_none() && gfx.minor < 16 && gfx.stepping < 16).then_some(gfx)
    }

    /// What `HSA_OVERRIDE_GFX_VERSION` calls it: `10.3.0`.
    pub fn as_override(self) -> String {
        format!("{}.{}.{}", self.major, self.minor, self.stepping)
    }

    /// What is known of it; `None` for targets that no row is about.
    pub fn known(self) -> Option<&'static Target> {
        TARGETS.iter().find(|target| target.gfx == self)
    }

    /// Part of a processor, with the computer's memory; of unlisted targets it is not known, and taken as false.
    pub fn is_integrated(self) -> bool {
        self.known().is_some_and(|target| target.is_integrated)
    }

    /// Whether the card computes in bfloat16 itself: RDNA 3 and later, CDNA. RDNA 2 and Vega do not.
    pub const fn computes_bf16(self) -> bool {
        self.major >= 11 || matches!((self.major, self.minor, self.stepping), (9, 0, 8 | 10) | (9, 4..=5, _))
    }
}

impl fmt::Display for Gfx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "gfx{}{:x}{:x}", self.major, self.minor, self.stepping)
    }
}

/// A row of what is known.
pub struct Target {
    pub gfx: Gfx,
    /// Cards people own.
    pub examples: &'static str,
    pub is_integrated: bool,
    /// Whose code it runs where the libraries have none for it.
    pub stand_in: Option<StandIn>,
    pub support: Support,
    /// What people met with.
    pub remark: Option<&'static str>,
}

/// Another target whose code a card is told to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StandIn {
    pub gfx: Gfx,
    pub likeness: Likeness,
}

/// How the instruction set of a stand-in compares with that of the card.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Likeness {
    /// The instruction sets are the same.
    Same,
    /// They are not: crashes, hangs and wrong numbers were reported.
    Differs,
}

/// What may be said of a target. There is no `Tested`: nobody has run loramill on any of these yet, and only the self-test may say that a
/// card gives right numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Support {
    /// PyTorch's builds for ROCm run on it, natively or by a stand-in with the same instructions.
    Expected,
    /// Some people succeed, others report faults.
    Doubtful,
    /// Nothing is known.
    Unknown,
}

impl Support {
    /// For the JSON of `loramill doctor`.
    pub const fn word(self) -> &'static str {
        match self {
            Support::Expected => "expected",
            Support::Doubtful => "doubtful",
            Support::Unknown => "unknown",
        }
    }
}

const RDNA2: Gfx = Gfx::new(10, 3, 0);
const RDNA3: Gfx = Gfx::new(11, 0, 0);
const SAME_AS_RDNA2: Option<StandIn> = Some(StandIn { gfx: RDNA2, likeness: Likeness::Same });
const UNLIKE_RDNA2: Option<StandIn> = Some(StandIn { gfx: RDNA2, likeness: Likeness::Differs });
const SAME_AS_RDNA3: Option<StandIn> = Some(StandIn { gfx: RDNA3, likeness: Likeness::Same });

/// No 2-component dot product, which code for RDNA 2 uses.
const NAVI1: &str = "code for gfx1030 crashes or gives NaN on some of these cards: libraries built for the card are better";
const LITTLE_GPU: &str = "a display unit rather than a GPU for training: it is hidden beside a discrete card";
const HIDDEN_BESIDE_A_CARD: &str = "small, with the computer's memory: it is hidden beside a discrete card";

const fn discrete(gfx: Gfx, examples: &'static str, stand_in: Option<StandIn>, support: Support) -> Target {
    Target { gfx, examples, is_integrated: false, stand_in, support, remark: None }
}

const fn integrated(gfx: Gfx, examples: &'static str, stand_in: Option<StandIn>, support: Support) -> Target {
    Target { gfx, examples, is_integrated: true, stand_in, support, remark: None }
}

const fn but(target: Target, remark: &'static str) -> Target {
    Target { remark: Some(remark), ..target }
}

/// Sources: the LLVM AMDGPU guide for names, TheRock's `SUPPORTED_GPUS` and PyTorch's build lists for support, stable-diffusion-webui's
/// `webui.sh` and SD.Next's `rocm.py` for stand-ins and integrated ones, and the issues that the remarks name.
pub const TARGETS: &[Target] = &[
    discrete(Gfx::new(9, 0, 0), "Radeon RX Vega 56, 64", None, Support::Doubtful),
    integrated(Gfx::new(9, 0, 2), "Raven Ridge, Picasso", None, Support::Unknown),
    discrete(Gfx::new(9, 0, 6), "Radeon VII, Instinct MI50, MI60", None, Support::Doubtful),
    discrete(Gfx::new(9, 0, 8), "Instinct MI100", None, Support::Expected),
    discrete(Gfx::new(9, 0, 10), "Instinct MI210, MI250", None, Support::Expected),
    integrated(
        Gfx::new(9, 0, 12),
        "Renoir, Cezanne",
        Some(StandIn { gfx: Gfx::new(9, 0, 0), likeness: Likeness::Differs }),
        Support::Doubtful,
    ),
    discrete(Gfx::new(9, 4, 2), "Instinct MI300", None, Support::Expected),
    discrete(Gfx::new(9, 5, 0), "Instinct MI350", None, Support::Unknown),
    but(discrete(Gfx::new(10, 1, 0), "Radeon RX 5600 XT, 5700, 5700 XT", UNLIKE_RDNA2, Support::Doubtful), NAVI1),
    but(discrete(Gfx::new(10, 1, 1), "Radeon Pro 5600M", UNLIKE_RDNA2, Support::Doubtful), NAVI1),
    but(discrete(Gfx::new(10, 1, 2), "Radeon RX 5500, 5500 XT", UNLIKE_RDNA2, Support::Doubtful), NAVI1),
    integrated(Gfx::new(10, 1, 3), "BC-250", None, Support::Unknown),
    discrete(RDNA2, "Radeon RX 6800, 6800 XT, 6900 XT, 6950 XT, Pro W6800", None, Support::Expected),
    but(
        discrete(Gfx::new(10, 3, 1), "Radeon RX 6700, 6700 XT, 6750 XT, 6800M", SAME_AS_RDNA2, Support::Expected),
        "gradients of convolutions faulted in some versions of MIOpen (its issue 3540): the self-test covers them",
    ),
    discrete(Gfx::new(10, 3, 2), "Radeon RX 6600, 6600 XT, 6650 XT, 6700S", SAME_AS_RDNA2, Support::Expected),
    but(
        integrated(Gfx::new(10, 3, 3), "Steam Deck", SAME_AS_RDNA2, Support::Doubtful),
        "gradients were wrong without an error (unsloth's pull request 8412): trust nothing before the self-test",
    ),
    but(discrete(Gfx::new(10, 3, 4), "Radeon RX 6400, 6500 XT", SAME_AS_RDNA2, Support::Expected), "4 GB is little"),
    but(integrated(Gfx::new(10, 3, 5), "Radeon 680M", SAME_AS_RDNA2, Support::Doubtful), HIDDEN_BESIDE_A_CARD),
    but(integrated(Gfx::new(10, 3, 6), "Ryzen 7000 and 9000 desktop", SAME_AS_RDNA2, Support::Doubtful), LITTLE_GPU),
    discrete(RDNA3, "Radeon RX 7900 XT, 7900 XTX, Pro W7900", None, Support::Expected),
    but(
        discrete(Gfx::new(11, 0, 1), "Radeon RX 7700 XT, 7800 XT", SAME_AS_RDNA3, Support::Expected),
        "`11.0.1` did not work where `11.0.0` did (stable-diffusion-webui's issue 13534)",
    ),
    discrete(Gfx::new(11, 0, 2), "Radeon RX 7600, 7600 XT", SAME_AS_RDNA3, Support::Expected),
    but(
        integrated(
            Gfx::new(11, 0, 3),
            "Radeon 760M, 780M",
            Some(StandIn { gfx: RDNA3, likeness: Likeness::Differs }),
            Support::Doubtful,
        ),
        "page faults and hangs are reported (PyTorch's issue 179653)",
    ),
    but(integrated(Gfx::new(11, 5, 0), "Radeon 880M, 890M", None, Support::Doubtful), "wants ROCm 7"),
    but(integrated(Gfx::new(11, 5, 1), "Radeon 8050S, 8060S", None, Support::Doubtful), "wants ROCm 7"),
    integrated(Gfx::new(11, 5, 2), "Radeon 840M, 860M", None, Support::Unknown),
    integrated(Gfx::new(11, 5, 3), "Radeon 820M", None, Support::Unknown),
    but(discrete(Gfx::new(12, 0, 0), "Radeon RX 9060 XT", None, Support::Expected), "wants ROCm 6.4"),
    but(discrete(Gfx::new(12, 0, 1), "Radeon RX 9070, 9070 XT", None, Support::Expected), "wants ROCm 6.4"),
];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn the_kernels_numbers_are_the_compilers_names() {
        let cases = [
            (100_300, "gfx1030"),
            (100_301, "gfx1031"),
            (100_302, "gfx1032"),
            (90_010, "gfx90a"),
            (90_012, "gfx90c"),
            (90_402, "gfx942"),
            (110_000, "gfx1100"),
            (110_003, "gfx1103"),
            (110_501, "gfx1151"),
            (120_001, "gfx1201"),
        ];
        for (version, name) in cases {
            let gfx = Gfx::from_target_version(version).unwrap();
            assert_eq!(gfx.to_string(), name);
            assert_eq!(Gfx::named(name), Some(gfx));
        }
        assert_eq!(Gfx::from_target_version(0), None, "a processor");
        assert_eq!(Gfx::from_target_version(u64::MAX), None);
        for name in ["gfx", "gfx1", "1030", "gfx10300", "gfxé30", "gfx103z"] {
            assert_eq!(Gfx::named(name), None, "{name}");
        }
    }

    #[test]
    fn an_override_is_three_decimal_numbers() {
        assert_eq!(Gfx::from_override("10.3.0"), Some(Gfx::new(10, 3, 0)));
        assert_eq!(Gfx::from_override(&Gfx::new(9, 0, 10).as_override()), Some(Gfx::new(9, 0, 10)));
        for wrong in ["", "10.3", "10.3.0.0", "gfx1030", "1030", "10.3.x", " 10.3.0", "+10.3.0", "10.3.16"] {
            assert_eq!(Gfx::from_override(wrong), None, "`{wrong}`");
        }
    }

    #[test]
    fn each_target_has_one_row_and_a_stand_in_of_its_own_generation() {
        let names: BTreeSet<Gfx> = TARGETS.iter().map(|target| target.gfx).collect();
        assert_eq!(names.len(), TARGETS.len());
        for target in TARGETS {
            let Some(stand_in) = target.stand_in else { continue };
            assert_ne!(stand_in.gfx, target.gfx);
            // The runtime refuses, or the driver crashes, across generations.
            assert_eq!(stand_in.gfx.major, target.gfx.major, "{}", target.gfx);
            assert!(stand_in.gfx.known().is_some_and(|row| row.stand_in.is_none()), "{}", target.gfx);
        }
    }

    #[test]
    fn bfloat16_is_arithmetic_of_rdna3_and_cdna() {
        for (name, computes) in
            [("gfx1031", false), ("gfx900", false), ("gfx90c", false), ("gfx90a", true), ("gfx1100", true), ("gfx1201", true)]
        {
            assert_eq!(Gfx::named(name).unwrap().computes_bf16(), computes, "{name}");
        }
    }
}
