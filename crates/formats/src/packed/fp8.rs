//! Weights in 8-bit floats (E4M3) with scales that multiply: `fp8` (DeepSeek's and Qwen's blocks,
//! and one scale a matrix or a row) and `fbgemm_fp8` (one a row), by the names of their settings:
//! `weight_block_size`, `fmt`, `scale_fmt`.
//!
//! A module has `weight` (out, in) and `weight_scale_inv`, or `weight_scale`, which means the same.
//! The last block of rows or columns may be cut.

use super::{
    Packed,
    codes::Codes,
    grid::Grid,
    matrix::Picked,
    module::{Module, drop_activations, join_all},
    number::Number,
    scales::Scales,
    settings::Settings,
};
use crate::{
    Error, Format, Index, Result,
    auxiliary::{AuxTensor, Read},
};

const SCALES: [&str; 2] = ["weight_scale_inv", "weight_scale"];
/// The number format in safetensors.
pub(super) const E4M3: &str = "F8_E4M3";

/// Joins every module's tensors, and drops the scales of quantised activations.
///
/// # Errors
/// A setting that means another arrangement; tensors that are missing or do not fit.
pub(super) fn join(index: &mut Index, settings: &Settings) -> Result<()> {
    let blocks = declared(settings)?;
    let exponents = settings.text("scale_fmt")? == Some("ue8m0");
    let mut skipped = settings.list("modules_to_not_convert")?;
    skipped.extend(settings.list("ignored_layers")?);
    drop_activations(
        index,
        &["input_scale", "activation_scale", "input_scale_ub"],
    );
    let modules = modules(index)?;
    if modules.is_empty() {
        return settings.error("no weight of the model is in 8-bit floats");
    }
    let read = |module: &Module<'_>| matrix(module, blocks, exponents);
    join_all(index, settings, &modules, "weight", &SCALES, &skipped, read)
}

/// What the configuration says of blocks; `None`: nothing.
pub(super) fn declared(settings: &Settings) -> Result<Option<Grid>> {
    if settings.method == "fbgemm_fp8" {
        return Ok(Some(Grid::Channel));
    }
    if settings.text("fmt")?.is_some_and(|fmt| fmt != "e4m3") {
        return settings.refuse("fmt", "e4m3 can be read");
    }
    let known = |of: &[&str], said: Option<&str>| said.is_none_or(|said| of.contains(&said));
    if !known(&["float", "ue8m0"], settings.text("scale_fmt")?) {
        return settings.refuse("scale_fmt", "float and ue8m0 can be read");
    }
    if !known(&["fp8"], settings.text("expert_dtype")?) {
        return settings.refuse("expert_dtype", "fp8 can be read");
    }
    if !known(&["dynamic", "static"], settings.text("activation_scheme")?) {
        return settings.refuse("activation_scheme", "dynamic and static are known");
    }
    Ok(settings.pair("weight_block_size")?.map(Grid::Block))
}

/// The modules whose weight is in 8-bit floats.
fn modules(index: &Index) -> Result<Vec<String>> {
    let mut modules = Vec::new();
    for (name, tensor) in &index.tensors {
        let Format::Other(format) = &tensor.format else {
            continue;
        };
        if !format.starts_with("F8_E4M3") && !format.starts_with("F8_E5M2") {
            continue;
        }
        match name.strip_suffix(".weight") {
            Some(module) => modules.push(module.to_string()),
            None => {
                return Err(Error::rule(format!(
                    "{name} is stored as {format}; of 8-bit floats the weights of single modules \
                     can be read"
                )));
            }
        }
    }
    Ok(modules)
}

fn matrix(module: &Module<'_>, blocks: Option<Grid>, exponents: bool) -> Read<Packed> {
    let found: Vec<AuxTensor> = SCALES.iter().filter_map(|part| module.has(part)).collect();
    let [scales] = &found[..] else {
        return Err(format!(
            "it has {} of weight_scale_inv and weight_scale; one is wanted",
            found.len()
        ));
    };
    float(module, scales.clone(), blocks, exponents, "FP8")
}

/// A matrix in 8-bit floats. `grid` is what shares a scale; `None`: all, or a row.
pub(super) fn float(
    module: &Module<'_>,
    scales: AuxTensor,
    grid: Option<Grid>,
    exponents: bool,
    kind: &'static str,
) -> Read<Packed> {
    let codes = module.part("weight")?;
    let &[rows, columns] = &codes.shape[..] else {
        return Err(format!("its weight has the shape {:?}", codes.shape));
    };
    if rows == 0 || columns == 0 {
        return Err(format!("its weight has the shape {:?}", codes.shape));
    }
    codes.expect(E4M3, 1, &[rows, columns])?;
    let grid = grid.map_or_else(|| Grid::of(&scales, rows), Ok)?;
    let (down, along) = grid.shared(&scales, [rows, columns])?;
    // bytes are exponents only where the configuration says so
    let bytes = scales.format == "F8_E8M0" || exponents && scales.format == "U8";
    match bytes {
        true => scales.whole(1)?,
        false => scales.dense(&scales.shape)?,
    }
    let mut scales = Scales::new(scales, down, along);
    scales.exponents = bytes;
    Ok(Packed {
        kind,
        stored: [rows, columns],
        codes: Codes::Bytes,
        number: Number::E4m3,
        scales,
        zeros: None,
        groups: None,
        picked: Picked::all(rows),
    })
}
