//! AWQ (arXiv 2306.00978) as AutoAWQ's `gemm` version stores it, by the names of its settings:
//! `bits`, `group_size`, `zero_point`, `version`.
//!
//! A module has `qweight` (in, out / 8), `scales` (groups, out) and `qzeros` (groups, out / 8). A
//! word's eight codes are those of the outputs 0, 2, 4, 6, 1, 3, 5, 7; zero points are as they are.

use super::{
    Packed,
    codes::Codes,
    gptq::fits,
    matrix::Picked,
    module::{Module, join_all, modules},
    number::Number,
    scales::{Scales, Zeros},
    settings::Settings,
};
use crate::{Index, Result, auxiliary::Read};

/// Joins every module's tensors.
///
/// # Errors
/// A setting that means another arrangement; tensors that are missing or do not fit.
pub(super) fn join(index: &mut Index, settings: &Settings) -> Result<()> {
    let group = declared(settings)?;
    let skipped = settings.list("modules_to_not_convert")?;
    let modules = modules(index, "qweight");
    let beside = ["scales", "qzeros"];
    let read = |module: &Module<'_>| matrix(module, group);
    join_all(
        index, settings, &modules, "qweight", &beside, &skipped, read,
    )
}

/// Inputs of a group; `None`: all.
pub(super) fn declared(settings: &Settings) -> Result<Option<usize>> {
    settings.bits("bits", &[4])?;
    let group = settings.group("group_size")?;
    if !settings.stated("zero_point")? {
        return settings.refuse("zero_point", "codes with zero points can be read");
    }
    for key in ["version", "format", "checkpoint_format"] {
        let said = settings.text(key)?.map(str::to_lowercase);
        if said.is_some_and(|said| said != "gemm") {
            return settings.refuse(key, "gemm can be read");
        }
    }
    if settings.text("backend")? == Some("llm-awq") {
        return settings.refuse("backend", "its order of codes is another one than gemm's");
    }
    Ok(group)
}

fn matrix(module: &Module<'_>, group: Option<usize>) -> Read<Packed> {
    let (codes, scales) = (module.part("qweight")?, module.part("scales")?);
    let (&[columns, _], &[groups, rows]) = (&codes.shape[..], &scales.shape[..]) else {
        return Err(format!(
            "qweight has the shape {:?} and scales {:?}; both must be matrices",
            codes.shape, scales.shape
        ));
    };
    let group = group.unwrap_or(columns);
    if rows == 0 || columns == 0 || groups.checked_mul(group) != Some(columns) {
        return Err(format!(
            "{columns} inputs are not {groups} groups of {group}"
        ));
    }
    fits(&codes, Codes::Awq, [rows, columns])?;
    scales.dense(&[groups, rows])?;
    let mut scales = Scales::new(scales, 1, group);
    scales.turned = true;
    let zeros = Zeros {
        tensor: module.part("qzeros")?,
        codes: Codes::Awq,
        turned: false,
        signed: false,
        added: 0,
    };
    fits(&zeros.tensor, Codes::Awq, [rows, groups])?;
    Ok(Packed {
        kind: "AWQ's 4 bits",
        stored: [rows, columns],
        codes: Codes::Awq,
        number: Number::Less(0),
        scales,
        zeros: Some(zeros),
        groups: None,
        picked: Picked::all(rows),
    })
}
