//! How a tensor's numbers are written: which of ggml's formats, its bytes, and what those bytes hold.

use candle_core::{
    Device, Tensor,
    quantized::{GgmlDType, QTensor},
};
use half::{bf16, f16};

use super::GgufQuant;
use crate::{Error, Result};

/// One of ggml's formats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    F32,
    F16,
    Bf16,
    /// Q4_0, Q5_0, Q8_0, Q4_K, Q6_K
    Block(GgmlDType),
}

/// Which matrix it is, as far as its format depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// A vector: norm, bias.
    Vector,
    /// Makes the logits: `output`, or an embedding that serves as that too.
    Output,
    /// Every other matrix.
    Matrix,
}

impl Kind {
    /// The format that llama.cpp's quantiser would choose without its per-layer exceptions.
    ///
    /// Vectors stay F32. The matrix that makes the logits is Q6_K in every file of 4-bit blocks, since its errors go
    /// straight into the probabilities. Rows that blocks of 256 do not divide get Q5_0 for Q4_K and Q8_0 for Q6_K (blocks
    /// of 32); rows that 32 does not divide either, F16.
    pub fn choose(quant: GgufQuant, role: Role, columns: usize) -> Kind {
        use GgmlDType::{Q4_0, Q4K, Q5_0, Q6K, Q8_0};
        let wanted = match (role, quant) {
            (Role::Vector, _) | (_, GgufQuant::F32) => return Kind::F32,
            (_, GgufQuant::F16) => return Kind::F16,
            (_, GgufQuant::Bf16) => return Kind::Bf16,
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
            .find(|d| columns.is_multiple_of(d.block_size()))
            .map_or(Kind::F16, Kind::Block)
    }

    /// ggml's number.
    pub fn id(self) -> u32 {
        match self {
            Kind::F32 => 0,
            Kind::F16 => 1,
            Kind::Bf16 => 30,
            Kind::Block(GgmlDType::Q4_0) => 2,
            Kind::Block(GgmlDType::Q5_0) => 6,
            Kind::Block(GgmlDType::Q8_0) => 8,
            Kind::Block(GgmlDType::Q4K) => 12,
            Kind::Block(_) => 14, // Q6_K: `choose` makes no other
        }
    }

    pub fn name(self) -> &'static str {
        match self.id() {
            0 => "F32",
            1 => "F16",
            30 => "BF16",
            2 => "Q4_0",
            6 => "Q5_0",
            8 => "Q8_0",
            12 => "Q4_K",
            _ => "Q6_K",
        }
    }

    /// Bytes of so many values (whole rows).
    pub fn bytes(self, values: usize) -> u64 {
        let values = values as u64;
        match self {
            Kind::F32 => values * 4,
            Kind::F16 | Kind::Bf16 => values * 2,
            Kind::Block(d) => values / d.block_size() as u64 * d.type_size() as u64,
        }
    }

    /// The bytes of these values (whole rows). Every block depends on its own values only, so that the work is shared
    /// among threads without changing a bit.
    pub fn encode(self, name: &str, values: &[f32]) -> Result<Vec<u8>> {
        self.check(name, values)?;
        match self {
            Kind::F32 => Ok(values.iter().flat_map(|v| v.to_le_bytes()).collect()),
            Kind::F16 => Ok(values
                .iter()
                .flat_map(|&v| f16::from_f32(v).to_le_bytes())
                .collect()),
            Kind::Bf16 => Ok(values
                .iter()
                .flat_map(|&v| bf16::from_f32(v).to_le_bytes())
                .collect()),
            Kind::Block(d) => {
                let parts = shared(d, values, |v| Ok(quantised(v, d)?.data()?.into_owned()))?;
                Ok(parts.concat())
            }
        }
    }

    /// What the file holds of these values (whole rows): the bytes decoded again.
    pub fn held(self, name: &str, values: &[f32]) -> Result<Vec<f32>> {
        self.check(name, values)?;
        match self {
            Kind::F32 => Ok(values.to_vec()),
            Kind::F16 => Ok(values.iter().map(|&v| f16::from_f32(v).to_f32()).collect()),
            Kind::Bf16 => Ok(values.iter().map(|&v| bf16::from_f32(v).to_f32()).collect()),
            Kind::Block(d) => {
                let parts = shared(d, values, |v| {
                    let back = quantised(v, d)?.dequantize(&Device::Cpu)?;
                    Ok(back.flatten_all()?.to_vec1::<f32>()?)
                })?;
                Ok(parts.concat())
            }
        }
    }

    /// f16 holds the values, or the blocks' scales: 65,504 is its largest number. A block has no way to say NaN or
    /// infinity.
    fn check(self, name: &str, values: &[f32]) -> Result<()> {
        let wrong: fn(f32) -> bool = match self {
            Kind::F32 | Kind::Bf16 => return Ok(()),
            Kind::F16 => |v| v.is_finite() && !f16::from_f32(v).is_finite(),
            Kind::Block(_) => |v| !f16::from_f32(v).is_finite(),
        };
        match values.iter().find(|v| wrong(**v)) {
            Some(v) => Err(Error::rule(format!(
                "{name}: {v} is beyond f16, which {} is made of; export as bf16 or f32",
                self.name()
            ))),
            None => Ok(()),
        }
    }
}

fn quantised(values: &[f32], d: GgmlDType) -> Result<QTensor> {
    let t = Tensor::from_slice(values, values.len(), &Device::Cpu)?;
    Ok(QTensor::quantize(&t, d)?)
}

/// Runs `work` over equal parts of whole blocks, one to a thread; answers in order.
fn shared<T: Send>(
    d: GgmlDType,
    values: &[f32],
    work: impl Fn(&[f32]) -> Result<Vec<T>> + Sync,
) -> Result<Vec<Vec<T>>> {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let blocks = values.len() / d.block_size();
    let part = blocks.div_ceil(threads).max(64) * d.block_size();
    std::thread::scope(|scope| {
        let running: Vec<_> = values
            .chunks(part)
            .map(|chunk| {
                let work = &work;
                scope.spawn(move || work(chunk))
            })
            .collect();
        running
            .into_iter()
            .map(|t| {
                t.join()
                    .map_err(|_| Error::rule("a thread that quantises has crashed"))?
            })
            .collect()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format_follows_role_and_row() {
        let kind = |q, role, n| Kind::choose(q, role, n).name();
        assert_eq!(kind(GgufQuant::Q4K, Role::Matrix, 512), "Q4_K");
        assert_eq!(kind(GgufQuant::Q4K, Role::Output, 512), "Q6_K");
        assert_eq!(kind(GgufQuant::Q4K, Role::Matrix, 576), "Q5_0");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Output, 576), "Q8_0");
        assert_eq!(kind(GgufQuant::Q6K, Role::Matrix, 96), "Q8_0");
        assert_eq!(kind(GgufQuant::Q8_0, Role::Output, 512), "Q8_0");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Matrix, 40), "F16");
        assert_eq!(kind(GgufQuant::Q4_0, Role::Vector, 64), "F32");
        assert_eq!(kind(GgufQuant::F32, Role::Output, 64), "F32");
    }

    #[test]
    fn the_blocks_rows_fall_back_to_are_those_of_llama_cpp() {
        let theirs = include_str!("../../tests/fixtures/blocks.json");
        let theirs: serde_json::Value = serde_json::from_str(theirs).unwrap_or_default();
        let numbers: Vec<f32> = randori_lora::splitmix(7, "golden", 1024)
            .map(|u| (u - 0.5) as f32)
            .collect();
        for d in [GgmlDType::Q5_0, GgmlDType::Q8_0] {
            let ours = Kind::Block(d).encode("w", &numbers).unwrap_or_default();
            let ours: String = ours.iter().map(|b| format!("{b:02x}")).collect();
            assert_eq!(theirs[Kind::Block(d).name()]["bytes"], ours);
        }
    }

    #[test]
    fn what_f16_cannot_say_is_an_error() {
        for (quant, value, fine) in [
            (GgufQuant::F16, 7e4, false),
            (GgufQuant::F16, f32::INFINITY, true),
            (GgufQuant::Q8_0, 7e4, false),
            (GgufQuant::Q4K, f32::NAN, false),
            (GgufQuant::Bf16, 7e4, true),
            (GgufQuant::F32, f32::NAN, true),
        ] {
            let mut values = vec![0.5f32; 256];
            values[7] = value;
            let kind = Kind::choose(quant, Role::Matrix, 256);
            assert_eq!(
                kind.encode("w", &values).is_ok(),
                fine,
                "{quant:?} of {value}"
            );
            assert_eq!(
                kind.held("w", &values).is_ok(),
                fine,
                "{quant:?} of {value}"
            );
        }
    }
}
