//! gpt-oss's experts in MXFP4 (OCP's microscaling formats): 32 values of four bits (E2M1) that
//! share an exponent of two.
//!
//! A stack X of all experts' matrices is stored as `X_blocks` (experts, out, in / 32, 16), the
//! first of two values in a byte's low half, and `X_scales` (experts, out, in / 32). It is (out,
//! in), the transpose of the dense stack.

use super::{
    Packed, codes::Codes, matrix::Picked, number::Number, scales::Scales, settings::Settings,
};
use crate::{Error, Format, Index, Result, auxiliary::Read};

/// Values that share an exponent.
pub(super) const BLOCK: usize = 32;
/// What it is called.
pub(super) const KIND: &str = "MXFP4";

/// Joins every stack's tensors.
///
/// # Errors
/// Tensors that are missing or do not fit, a configuration that names MXFP4 in vain.
pub(super) fn join(index: &mut Index, settings: &Settings) -> Result<()> {
    let names = index.tensors.keys();
    let stacks = names.filter_map(|name| name.strip_suffix("_blocks"));
    let stacks: Vec<String> = stacks.map(str::to_string).collect();
    if stacks.is_empty() {
        return settings.error("no tensor of the model is called …_blocks");
    }
    for name in stacks {
        let read = stack(index, &name);
        let (shape, packed) =
            read.map_err(|what| Error::rule(format!("{name} (mxfp4): {what}")))?;
        index.tensors.remove(&format!("{name}_scales"));
        if let Some(mut stored) = index.tensors.remove(&format!("{name}_blocks")) {
            stored.shape = shape;
            stored.format = Format::Packed(Box::new(packed));
            index.add(name, stored)?;
        }
    }
    Ok(())
}

/// The shape (experts, out, in) of a stack, and the matrix of its first expert.
fn stack(index: &Index, name: &str) -> Read<(Vec<usize>, Packed)> {
    let part = |part: &str| {
        let name = format!("{name}_{part}");
        let found = index.auxiliary(&name);
        found.ok_or_else(|| format!("the file lacks {name}"))
    };
    let (blocks, scales) = (part("blocks")?, part("scales")?);
    let &[experts, rows, across, _] = &blocks.shape[..] else {
        return Err(format!("its blocks have the shape {:?}", blocks.shape));
    };
    blocks.expect("U8", 1, &[experts, rows, across, BLOCK / 2])?;
    scales.expect("U8", 1, &[experts, rows, across])?;
    if blocks.len == 0 {
        return Err(format!("its blocks have the shape {:?}", blocks.shape));
    }
    let columns = across * BLOCK;
    let mut scales = Scales::new(scales, 1, BLOCK);
    scales.exponents = true;
    let stack = Packed {
        kind: KIND,
        stored: [rows, columns],
        codes: Codes::Nibbles,
        number: Number::E2m1,
        scales,
        zeros: None,
        groups: None,
        picked: Picked::all(rows),
    };
    let first = stack.expert(0, 0, 1, rows);
    Ok((vec![experts, rows, columns], first))
}
