//! Choice of each tensor's ggml format for a file's quantisation.

use std::{fmt, str::FromStr};

use crate::{
    Dtype, Error, Result,
    gguf::{Block, Kind},
};

/// Quantisation of a GGUF's matrices; norms and biases are always F32.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GgufQuant {
    /// 4 bytes per weight, lossless.
    F32,
    /// 2 bytes per weight.
    F16,
    /// 2 bytes per weight.
    Bf16,
    /// 8.5 bits per weight.
    Q8_0,
    /// 4.5 bits per weight, one scale for 32.
    Q4_0,
    /// 4.5 bits per weight, scales and offsets for 32 in blocks of 256.
    Q4K,
    /// 6.6 bits per weight, in blocks of 256.
    Q6K,
    /// 5.5 bits per weight, one scale for 32.
    Q5_0,
    /// 6 bits per weight, scale and offset for 32.
    Q5_1,
    /// 5.5 bits per weight, scales and offsets for 32 in blocks of 256.
    Q5K,
    /// 4.5 bits per weight, levels that are not evenly spaced, one scale for 32.
    Iq4Nl,
    /// 3.4 bits per weight, scales for 16 in blocks of 256.
    Q3K,
    /// 2.6 bits per weight, scales and offsets for 16 in blocks of 256.
    Q2K,
}

impl fmt::Display for GgufQuant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GgufQuant::NAMES[*self as usize])
    }
}

impl FromStr for GgufQuant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut all = GgufQuant::ALL.into_iter().zip(GgufQuant::NAMES);
        let found = all.find(|(_, name)| name.eq_ignore_ascii_case(text));
        found.map(|(quant, _)| quant).ok_or_else(|| {
            let names = GgufQuant::NAMES.join(", ");
            Error::rule(format!("{text:?} is no GGUF quantisation; {names} are"))
        })
    }
}

impl GgufQuant {
    /// Names for users, in the order of the variants.
    pub const NAMES: [&str; 13] = [
        "f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k", "q5_0", "q5_1", "q5_k", "iq4_nl",
        "q3_k", "q2_k",
    ];

    /// All, in the order of the variants.
    pub const ALL: [GgufQuant; 13] = {
        use GgufQuant::*;
        [
            F32, F16, Bf16, Q8_0, Q4_0, Q4K, Q6K, Q5_0, Q5_1, Q5K, Iq4Nl, Q3K, Q2K,
        ]
    };

    /// llama.cpp's id of a file that is mostly in this format (`general.file_type`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufQuant::F32 => 0,
            GgufQuant::F16 => 1,
            GgufQuant::Q4_0 => 2,
            GgufQuant::Q8_0 => 7,
            GgufQuant::Q5_0 => 8,
            GgufQuant::Q5_1 => 9,
            // Q3_K_S and so on: no layer gets more bits than the others
            GgufQuant::Q3K => 11,
            GgufQuant::Q4K => 14,
            GgufQuant::Q5K => 16,
            GgufQuant::Q6K => 18,
            GgufQuant::Q2K => 21,
            GgufQuant::Iq4Nl => 25,
            GgufQuant::Bf16 => 32,
        }
    }

    /// The format that llama.cpp's quantiser would choose without its per-layer exceptions.
    ///
    /// Vectors stay F32. The head is Q6_K in every file of fewer bits, since its errors enter the
    /// logits directly. Rows that blocks of 256 do not divide get blocks of 32: Q4_0 for Q2_K and
    /// Q3_K, Q5_0 for Q4_K, Q5_1 for Q5_K, Q8_0 for Q6_K; rows that 32 does not divide either, F16.
    pub(super) fn choose(self, role: Role, columns: usize) -> Kind {
        use Block::{Iq4Nl, Q2K, Q3K, Q4_0, Q4K, Q5_0, Q5_1, Q5K, Q6K, Q8_0};
        let wanted = match (role, self) {
            (Role::Vector, _) | (_, GgufQuant::F32) => return Kind::Dense(Dtype::F32),
            (_, GgufQuant::F16) => return Kind::Dense(Dtype::F16),
            (_, GgufQuant::Bf16) => return Kind::Dense(Dtype::Bf16),
            (_, GgufQuant::Q8_0) => Q8_0,
            (_, GgufQuant::Q6K) | (Role::Output, _) => Q6K,
            (_, GgufQuant::Q4_0) => Q4_0,
            (_, GgufQuant::Q4K) => Q4K,
            (_, GgufQuant::Q5_0) => Q5_0,
            (_, GgufQuant::Q5_1) => Q5_1,
            (_, GgufQuant::Q5K) => Q5K,
            (_, GgufQuant::Iq4Nl) => Iq4Nl,
            (_, GgufQuant::Q3K) => Q3K,
            (_, GgufQuant::Q2K) => Q2K,
        };
        let smaller = match wanted {
            Q2K | Q3K => Q4_0,
            Q4K => Q5_0,
            Q5K => Q5_1,
            Q6K => Q8_0,
            other => other,
        };
        [wanted, smaller]
            .into_iter()
            .find(|block| columns.is_multiple_of(block.values()))
            .map_or(Kind::Dense(Dtype::F16), Kind::Block)
    }
}

/// The role of a tensor, on which its format depends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A vector: norm, bias.
    Vector,
    /// The head: `output`, or a tied embedding.
    Output,
    /// Any other matrix.
    Matrix,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_role_and_row() {
        let kind = |quant: GgufQuant, role, n| quant.choose(role, n).name();
        assert_eq!(kind(GgufQuant::Q4K, Role::Matrix, 512), "Q4_K");
        assert_eq!(kind(GgufQuant::Q4K, Role::Output, 512), "Q6_K");
        assert_eq!(kind(GgufQuant::Q4K, Role::Matrix, 576), "Q5_0");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Output, 576), "Q8_0");
        assert_eq!(kind(GgufQuant::Q6K, Role::Matrix, 96), "Q8_0");
        assert_eq!(kind(GgufQuant::Q8_0, Role::Output, 512), "Q8_0");
        assert_eq!(kind(GgufQuant::Q2K, Role::Matrix, 512), "Q2_K");
        assert_eq!(kind(GgufQuant::Q2K, Role::Matrix, 96), "Q4_0");
        assert_eq!(kind(GgufQuant::Q3K, Role::Output, 96), "Q8_0");
        assert_eq!(kind(GgufQuant::Q5K, Role::Matrix, 96), "Q5_1");
        assert_eq!(kind(GgufQuant::Iq4Nl, Role::Matrix, 96), "IQ4_NL");
        assert_eq!(kind(GgufQuant::Iq4Nl, Role::Output, 512), "Q6_K");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Matrix, 40), "F16");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Vector, 64), "F32");
        assert_eq!(kind(GgufQuant::F32, Role::Output, 64), "F32");
        for (quant, name) in GgufQuant::ALL.into_iter().zip(GgufQuant::NAMES) {
            assert_eq!(quant.to_string(), name);
            let parsed = name.parse::<GgufQuant>().map(|q| q.to_string());
            assert_eq!(parsed.unwrap_or_default(), name);
        }
    }
}
