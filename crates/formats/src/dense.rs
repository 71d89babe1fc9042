//! Dense number formats of 2 or 4 bytes, little-endian.

use half::{bf16, f16};

use crate::{Error, Result};

/// Dtype of dense numbers, in files and in memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Dtype {
    /// 4 bytes per weight.
    #[default]
    F32,
    /// 2 bytes, f32's range.
    Bf16,
    /// 2 bytes, more precision than bf16, up to 65,504.
    F16,
}

impl Dtype {
    /// All dtypes.
    pub const ALL: [Dtype; 3] = [Dtype::F32, Dtype::Bf16, Dtype::F16];

    /// Bytes per number.
    pub fn width(self) -> u64 {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// Name in safetensors and ggml.
    pub fn tag(self) -> &'static str {
        match self {
            Dtype::F32 => "F32",
            Dtype::Bf16 => "BF16",
            Dtype::F16 => "F16",
        }
    }

    /// Name in PyTorch and `config.json`.
    pub fn torch_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float32",
            Dtype::Bf16 => "bfloat16",
            Dtype::F16 => "float16",
        }
    }

    /// Encodes values of the tensor `name`, each rounded to nearest.
    ///
    /// # Errors
    /// A number beyond f16: 65,504 is its largest, and a silent infinity would surface as NaN much
    /// later.
    pub fn encode(self, name: &str, values: &[f32]) -> Result<Vec<u8>> {
        self.check(name, values)?;
        Ok(match self {
            Dtype::F32 => values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            Dtype::Bf16 => values
                .iter()
                .flat_map(|v| bf16::from_f32(*v).to_le_bytes())
                .collect(),
            Dtype::F16 => values
                .iter()
                .flat_map(|v| f16::from_f32(*v).to_le_bytes())
                .collect(),
        })
    }

    /// Rounds values in place to those that the encoded bytes hold.
    ///
    /// # Errors
    /// As [`Dtype::encode`].
    pub fn round(self, name: &str, values: &mut [f32]) -> Result<()> {
        self.check(name, values)?;
        match self {
            Dtype::F32 => {}
            Dtype::Bf16 => values
                .iter_mut()
                .for_each(|v| *v = bf16::from_f32(*v).to_f32()),
            Dtype::F16 => values
                .iter_mut()
                .for_each(|v| *v = f16::from_f32(*v).to_f32()),
        }
        Ok(())
    }

    /// Calls `push` with every number in the bytes, in order.
    ///
    /// # Errors
    /// Any error of `push`.
    pub fn decode<E>(
        self,
        bytes: &[u8],
        push: &mut impl FnMut(f32) -> std::result::Result<(), E>,
    ) -> std::result::Result<(), E> {
        let (fours, pairs) = (bytes.as_chunks::<4>().0, bytes.as_chunks::<2>().0);
        match self {
            Dtype::F32 => fours.iter().try_for_each(|b| push(f32::from_le_bytes(*b))),
            Dtype::Bf16 => pairs
                .iter()
                .try_for_each(|b| push(bf16::from_le_bytes(*b).to_f32())),
            Dtype::F16 => pairs
                .iter()
                .try_for_each(|b| push(f16::from_le_bytes(*b).to_f32())),
        }
    }

    /// Decodes every number in the bytes.
    pub fn values(self, bytes: &[u8]) -> Vec<f32> {
        let mut all = Vec::with_capacity(bytes.len() / self.width() as usize);
        let pushed: std::result::Result<(), std::convert::Infallible> =
            self.decode(bytes, &mut |v| {
                all.push(v);
                Ok(())
            });
        let Ok(()) = pushed;
        all
    }

    fn check(self, name: &str, values: &[f32]) -> Result<()> {
        let beyond = |v: &&f32| v.is_finite() && !f16::from_f32(**v).is_finite();
        let checked = if self == Dtype::F16 { values } else { &[] };
        match checked.iter().find(beyond) {
            Some(v) => Err(Error::rule(format!(
                "{name}: {v} is beyond f16; export as bf16 or f32"
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn what_is_decoded_is_what_was_rounded() {
        let values = [1.0f32, -0.1, 65_504.0, 1e-7, 0.333_333_34, f32::INFINITY];
        for dtype in Dtype::ALL {
            let bytes = dtype.encode("w", &values).unwrap();
            assert_eq!(bytes.len() as u64, dtype.width() * values.len() as u64);
            let mut rounded = values;
            dtype.round("w", &mut rounded).unwrap();
            assert_eq!(dtype.values(&bytes), rounded, "{dtype:?}");
            assert_eq!(rounded == values, dtype == Dtype::F32);
        }
    }

    #[test]
    fn beyond_f16_is_an_error() {
        let to = |d: Dtype| d.encode("w", &[1.0, 7e4]);
        assert!(to(Dtype::F16).unwrap_err().to_string().contains("w: 70000"));
        assert!(to(Dtype::F32).is_ok() && to(Dtype::Bf16).is_ok());
        assert!(Dtype::F16.round("w", &mut [7e4]).is_err());
    }
}
