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
    Q4K,
    Q5K,
    Q6K,
}

/// Per block format: ggml's id and name, values per block, bytes per block.
const BLOCKS: [(Block, u32, &str, usize, usize); 8] = [
    (Block::Q4_0, 2, "Q4_0", 32, 18),
    (Block::Q4_1, 3, "Q4_1", 32, 20),
    (Block::Q5_0, 6, "Q5_0", 32, 22),
    (Block::Q5_1, 7, "Q5_1", 32, 24),
    (Block::Q8_0, 8, "Q8_0", 32, 34),
    (Block::Q4K, 12, "Q4_K", 256, 144),
    (Block::Q5K, 13, "Q5_K", 256, 176),
    (Block::Q6K, 14, "Q6_K", 256, 210),
];

impl Block {
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
        let blocks = BLOCKS.map(|(block, ..)| Kind::Block(block));
        dense.into_iter().chain(blocks).find(|kind| kind.id() == id)
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
        assert_eq!((Kind::of(10), Kind::of(19)), (None, None));
    }
}
