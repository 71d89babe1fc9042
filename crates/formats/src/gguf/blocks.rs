//! ggml's number formats: their names and sizes.

use half::f16;

use crate::{Dtype, Error, Result};

/// A format of blocks whose values share a scale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "ggml's names")]
pub enum Block {
    Q4_0,
    Q4_1,
    Q5_0,
    Q5_1,
    Q8_0,
    Q2K,
    Q3K,
    Q4K,
    Q5K,
    Q6K,
    Iq1S,
    Iq1M,
    Iq2Xxs,
    Iq2Xs,
    Iq2S,
    Iq3Xxs,
    Iq3S,
    Iq4Nl,
    Iq4Xs,
    Tq1_0,
    Tq2_0,
    Mxfp4,
    Nvfp4,
    Q1_0,
    Q2_0,
}

/// Per block format: ggml's id and name, values per block, bytes per block.
const BLOCKS: [(Block, u32, &str, usize, usize); 25] = [
    (Block::Q4_0, 2, "Q4_0", 32, 18),
    (Block::Q4_1, 3, "Q4_1", 32, 20),
    (Block::Q5_0, 6, "Q5_0", 32, 22),
    (Block::Q5_1, 7, "Q5_1", 32, 24),
    (Block::Q8_0, 8, "Q8_0", 32, 34),
    (Block::Q2K, 10, "Q2_K", 256, 84),
    (Block::Q3K, 11, "Q3_K", 256, 110),
    (Block::Q4K, 12, "Q4_K", 256, 144),
    (Block::Q5K, 13, "Q5_K", 256, 176),
    (Block::Q6K, 14, "Q6_K", 256, 210),
    (Block::Iq1S, 19, "IQ1_S", 256, 50),
    (Block::Iq1M, 29, "IQ1_M", 256, 56),
    (Block::Iq2Xxs, 16, "IQ2_XXS", 256, 66),
    (Block::Iq2Xs, 17, "IQ2_XS", 256, 74),
    (Block::Iq2S, 22, "IQ2_S", 256, 82),
    (Block::Iq3Xxs, 18, "IQ3_XXS", 256, 98),
    (Block::Iq3S, 21, "IQ3_S", 256, 110),
    (Block::Iq4Nl, 20, "IQ4_NL", 32, 18),
    (Block::Iq4Xs, 23, "IQ4_XS", 256, 136),
    (Block::Tq1_0, 34, "TQ1_0", 256, 54),
    (Block::Tq2_0, 35, "TQ2_0", 256, 66),
    (Block::Mxfp4, 39, "MXFP4", 32, 17),
    (Block::Nvfp4, 40, "NVFP4", 64, 36),
    (Block::Q1_0, 41, "Q1_0", 128, 18),
    (Block::Q2_0, 42, "Q2_0", 64, 18),
];

impl Block {
    /// All formats.
    pub const ALL: [Block; BLOCKS.len()] = {
        let mut all = [Block::Q4_0; BLOCKS.len()];
        let mut i = 0;
        while i < all.len() {
            all[i] = BLOCKS[i].0;
            i += 1;
        }
        all
    };

    fn row(self) -> (Block, u32, &'static str, usize, usize) {
        BLOCKS[self as usize]
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        self.row().2
    }

    /// Values per block.
    pub fn values(self) -> usize {
        self.row().3
    }

    /// Bytes per block.
    pub fn bytes(self) -> usize {
        self.row().4
    }
}

/// A ggml number format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Dense numbers.
    Dense(Dtype),
    /// Quantised blocks.
    Block(Block),
}

impl Kind {
    /// ggml's id.
    pub fn id(self) -> u32 {
        match self {
            Kind::Dense(Dtype::F32) => 0,
            Kind::Dense(Dtype::F16) => 1,
            Kind::Dense(Dtype::Bf16) => 30,
            Kind::Block(block) => block.row().1,
        }
    }

    /// The format with this id; `None` for an unsupported one.
    pub fn of(id: u32) -> Option<Kind> {
        let dense = Dtype::ALL.map(Kind::Dense);
        let blocks = Block::ALL.map(Kind::Block);
        dense.into_iter().chain(blocks).find(|kind| kind.id() == id)
    }

    /// Name, and why it cannot be read, of a number that [`Kind::of`] does not have.
    pub fn unknown(id: u32) -> String {
        let name = match id {
            4 => "Q4_2, which llama.cpp reads no more",
            5 => "Q4_3, which llama.cpp reads no more",
            9 => "Q8_1, which is for activations",
            15 => "Q8_K, which is for activations",
            24 => "I8",
            25 => "I16",
            26 => "I32",
            27 => "I64",
            28 => "F64",
            31..=33 => "a repacked Q4_0, which llama.cpp reads no more",
            36..=38 => "a repacked IQ4_NL, which llama.cpp reads no more",
            _ => return format!("number {id} of ggml"),
        };
        format!("number {id} of ggml ({name})")
    }

    /// ggml's name.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Dense(dtype) => dtype.tag(),
            Kind::Block(block) => block.name(),
        }
    }

    /// Bytes of `values` values (whole rows).
    pub fn bytes(self, values: usize) -> u64 {
        match self {
            Kind::Dense(dtype) => values as u64 * dtype.width(),
            Kind::Block(block) => (values / block.values()) as u64 * block.bytes() as u64,
        }
    }

    /// Checks that the format can represent these values of the tensor `name`. The scales of blocks
    /// are f16, at most 65,504, and a block cannot represent NaN or infinity.
    ///
    /// # Errors
    /// The first value that it cannot represent.
    pub fn check(self, name: &str, values: &[f32]) -> Result<()> {
        let wrong = match self {
            Kind::Block(_) => values.iter().find(|v| !f16::from_f32(**v).is_finite()),
            Kind::Dense(_) => None, // `Dtype::encode` checks
        };
        match wrong {
            Some(v) => Err(Error::rule(format!(
                "{name}: {v} is beyond f16, which {} is made of; export as bf16 or f32",
                self.name()
            ))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_is_that_of_its_format() {
        for (i, (block, ..)) in BLOCKS.into_iter().enumerate() {
            assert_eq!(block as usize, i);
            assert_eq!(Kind::of(Kind::Block(block).id()), Some(Kind::Block(block)));
            assert_eq!(
                Kind::Block(block).bytes(512),
                512 / block.values() as u64 * block.bytes() as u64
            );
        }
        for dtype in Dtype::ALL {
            assert_eq!(Kind::of(Kind::Dense(dtype).id()), Some(Kind::Dense(dtype)));
        }
        assert_eq!((Kind::of(9), Kind::of(43)), (None, None));
    }
}
