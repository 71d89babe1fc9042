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
}

impl fmt::Display for GgufQuant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(GgufQuant::NAMES[*self as usize])
    }
}

impl FromStr for GgufQuant {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        use GgufQuant::{Bf16, F16, F32, Q4_0, Q4K, Q6K, Q8_0};
        let all = [F32, F16, Bf16, Q8_0, Q4_0, Q4K, Q6K].into_iter();
        let found = all.zip(GgufQuant::NAMES);
        let mut found = found.filter(|(_, name)| name.eq_ignore_ascii_case(text));
        found.next().map(|(quant, _)| quant).ok_or_else(|| {
            let names = GgufQuant::NAMES.join(", ");
            Error::rule(format!("{text:?} is no GGUF quantisation; {names} are"))
        })
    }
}

impl GgufQuant {
    /// Names for users, in the order of the variants.
    pub const NAMES: [&str; 7] = ["f32", "f16", "bf16", "q8_0", "q4_0", "q4_k", "q6_k"];

    /// llama.cpp's id of a file that is mostly in this format (`general.file_type`).
    pub(super) fn file_type(self) -> u32 {
        match self {
            GgufQuant::F32 => 0,
            GgufQuant::F16 => 1,
            GgufQuant::Q4_0 => 2,
            GgufQuant::Q8_0 => 7,
            GgufQuant::Q4K => 14, // Q4_K_S: no layer gets more bits than the others
            GgufQuant::Q6K => 18,
            GgufQuant::Bf16 => 32,
        }
    }

    /// The format that llama.cpp's quantiser would choose without its per-layer exceptions.
    ///
    /// Vectors stay F32. The head is Q6_K in every file of 4-bit blocks, since its errors enter the
    /// logits directly. Rows that blocks of 256 do not divide get Q5_0 for Q4_K and Q8_0 for Q6_K
    /// (blocks of 32); rows that 32 does not divide either, F16.
    pub(super) fn choose(self, role: Role, columns: usize) -> Kind {
        use Block::{Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        let wanted = match (role, self) {
            (Role::Vector, _) | (_, GgufQuant::F32) => return Kind::Dense(Dtype::F32),
            (_, GgufQuant::F16) => return Kind::Dense(Dtype::F16),
            (_, GgufQuant::Bf16) => return Kind::Dense(Dtype::Bf16),
            (_, GgufQuant::Q8_0) => Q8_0,
            (_, GgufQuant::Q6K) | (Role::Output, _) => Q6K,
            (_, GgufQuant::Q4_0) => Q4_0,
            (_, GgufQuant::Q4K) => Q4K,
        };
        let smaller = match wanted {
            Q4K => Q5_0,
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
        assert_eq!(kind(GgufQuant::Q4_0, Role::Matrix, 40), "F16");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Vector, 64), "F32");
        assert_eq!(kind(GgufQuant::F32, Role::Output, 64), "F32");
        for name in GgufQuant::NAMES {
            let parsed = name.parse::<GgufQuant>().map(|q| q.to_string());
            assert_eq!(parsed.unwrap_or_default(), name);
        }
    }
}
