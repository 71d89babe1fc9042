//! Scales of a 4-bit matrix, the largest magnitude of each block: in f32, or quantised to 8 bits
//! (double quantisation).
//!
//! Rounding is that of bitsandbytes 0.50 on the CPU, bit for bit. What decides the bytes there:
//! - the offset is torch's f32 mean (sum in 8 lanes x 4 rows x 4 levels, as its vector code for x86
//!   sums; a machine with other lanes, several threads over more than 32,767 scales, or a GPU sums
//!   in another order and may differ by an ulp);
//! - codes come from a table of 65,536 steps over [-1, 1], where a GPU searches for the nearest
//!   entry: the two differ in about one code in a thousand, by one entry, which affects only how
//!   near the 8-bit scale is.

use std::sync::{Arc, LazyLock};

use super::dynamic::SIGNED;
use crate::{Error, Result};

/// Number of scales per scale of scales, when quantising.
pub const NESTED: usize = 256;
/// Steps of the table by which bitsandbytes finds 8-bit codes on the CPU.
const STEPS: usize = 65_536;

/// The scale of each block of weights.
#[derive(Debug, Clone, PartialEq)]
pub enum Nf4Scales {
    /// One f32 per block.
    Plain(Vec<f32>),
    /// 8-bit codes: a scale is offset + map\[code\] · (scale of its block of codes).
    Double {
        /// One code per block of weights.
        codes: Vec<u8>,
        /// One f32 per `block` codes.
        scales: Vec<f32>,
        /// Mean of the scales, subtracted before quantisation.
        offset: f32,
        /// Values of the codes.
        map: Arc<[f32; 256]>,
        /// Number of codes per f32 scale.
        block: usize,
    },
}

impl Nf4Scales {
    /// Quantises f32 scales.
    pub(crate) fn double(plain: &[f32]) -> Self {
        let offset = sum(plain) / plain.len().max(1) as f32;
        let mut codes = Vec::with_capacity(plain.len());
        let mut scales = Vec::with_capacity(plain.len().div_ceil(NESTED));
        for block in plain.chunks(NESTED) {
            let scale = block.iter().fold(0f32, |m, s| m.max((s - offset).abs()));
            let inverse = 1.0 / scale;
            codes.extend(block.iter().map(|s| match scale {
                0.0 => 0,
                _ => CODES[step((s - offset) * inverse)],
            }));
            scales.push(scale);
        }
        Nf4Scales::Double {
            codes,
            scales,
            offset,
            map: SIGNED.clone(),
            block: NESTED,
        }
    }

    /// Checks stored scales against the number of blocks.
    pub(crate) fn check(&self, blocks: usize) -> Result<()> {
        let (count, what) = match self {
            Nf4Scales::Plain(s) => (s.len(), "absmax"),
            Nf4Scales::Double { codes, .. } => (codes.len(), "the quantised absmax"),
        };
        if count != blocks {
            return Err(Error::rule(format!(
                "{what} has {count} entries, {blocks} blocks of weights want {blocks}"
            )));
        }
        let Nf4Scales::Double { scales, block, .. } = self else {
            return Ok(());
        };
        if *block == 0 || scales.len() != count.div_ceil(*block) {
            return Err(Error::rule(format!(
                "nested_absmax has {} entries for {count} scales in blocks of {block}",
                scales.len()
            )));
        }
        Ok(())
    }

    /// Size in memory, in bytes, without the map, which is shared.
    pub fn bytes(&self) -> usize {
        match self {
            Nf4Scales::Plain(s) => 4 * s.len(),
            Nf4Scales::Double { codes, scales, .. } => codes.len() + 4 * scales.len() + 4,
        }
    }

    /// The scale of block `index` of the weights.
    #[inline]
    pub fn at(&self, index: usize) -> f32 {
        match self {
            Nf4Scales::Plain(s) => s[index],
            Nf4Scales::Double {
                codes,
                scales,
                offset,
                map,
                block,
            } => map[usize::from(codes[index])] * scales[index / block] + offset,
        }
    }
}

/// Bytes of the scales of `count` weights in blocks of `block`: in f32, or in 8 bits with an f32
/// per `nested` of them and one for all.
pub fn scale_bytes(count: u64, block: usize, nested: Option<usize>) -> u64 {
    let scales = count.div_ceil(block.max(1) as u64);
    match nested {
        Some(nested) => scales + 4 * scales.div_ceil(nested.max(1) as u64) + 4,
        None => 4 * scales,
    }
}

/// The table index of a value in [-1, 1].
fn step(v: f32) -> usize {
    // `as` converts NaN to 0
    ((v.clamp(-1.0, 1.0) + 1.0) * 0.5 * (STEPS - 1) as f32 + 0.5) as usize
}

/// Code of the map entry nearest to each step; the lower of two as near.
static CODES: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut code = 0usize;
    let entry = |i: usize| {
        let v = -1.0 + (2.0 * i as f32) / (STEPS - 1) as f32;
        while code < 255 && 0.5 * (SIGNED[code] + SIGNED[code + 1]) < v {
            code += 1;
        }
        code as u8
    };
    (0..STEPS).map(entry).collect()
});

/// Lanes of torch's vectors (256 bits, on every machine).
const LANES: usize = 8;
/// Rows of vectors that torch sums in parallel.
const ROWS: usize = 4;
/// Levels of torch's cascade sum: sums of 2^p, 2^2p, … rows are added separately, which reduces
/// rounding errors.
const LEVELS: usize = 4;

type Wide = [[f32; LANES]; ROWS];

/// The sum of f32 numbers in the order in which torch adds them.
fn sum(values: &[f32]) -> f32 {
    if values.len() < LANES {
        let (rows, rest) = values.split_at(values.len() / ROWS * ROWS);
        let first = rows.first().copied().unwrap_or(0.0);
        let first = rest.iter().fold(first, |total, v| total + v);
        return rows.iter().skip(1).fold(first, |total, v| total + v);
    }
    let vectors = values.len() / LANES;
    let (whole, rest) = values.split_at(vectors * LANES);
    let groups = whole.len() / (LANES * ROWS);
    let (grouped, single) = whole.split_at(groups * LANES * ROWS);
    let mut rows = cascade(grouped, groups);
    for vector in single.chunks_exact(LANES) {
        add(&mut rows[0], vector);
    }
    let [mut first, others @ ..] = rows;
    others.iter().for_each(|row| add(&mut first, row));
    rest.iter().chain(&first).fold(0.0, |total, v| total + v)
}

/// Sums groups of ROWS vectors, row by row.
fn cascade(values: &[f32], groups: usize) -> Wide {
    let mut levels: [Wide; LEVELS] = [[[0.0; LANES]; ROWS]; LEVELS];
    let log = usize::BITS - groups.saturating_sub(1).leading_zeros(); // of the next power of two
    let power = (log / LEVELS as u32).max(4);
    let whole = groups >> power << power;
    for (i, group) in values.chunks_exact(LANES * ROWS).enumerate() {
        add_group(&mut levels[0], group.as_chunks::<LANES>().0);
        let done = i + 1;
        if done > whole || !done.is_multiple_of(1 << power) {
            continue;
        }
        for level in 1..LEVELS {
            let below = std::mem::take(&mut levels[level - 1]);
            add_group(&mut levels[level], &below);
            let mask = ((1usize << power) - 1) << (level as u32 * power);
            if done & mask != 0 {
                break;
            }
        }
    }
    let [mut total, others @ ..] = levels;
    others.iter().for_each(|level| add_group(&mut total, level));
    total
}

fn add_group(to: &mut Wide, group: &[[f32; LANES]]) {
    to.iter_mut()
        .zip(group)
        .for_each(|(row, vector)| add(row, vector));
}

fn add(to: &mut [f32; LANES], vector: &[f32]) {
    to.iter_mut().zip(vector).for_each(|(a, b)| *a += b);
}
