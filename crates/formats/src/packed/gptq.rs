//! GPTQ (arXiv 2210.17323) as AutoGPTQ and GPTQModel store it, by the names of their settings:
//! `bits`, `group_size`, `sym`, `desc_act`, `checkpoint_format`.
//!
//! A module has `qweight` (in · bits / 32, out), `scales` (groups, out), `qzeros` (groups, out ·
//! bits / 32) and `g_idx`, the group of each input. `gptq` stores zero points less one, `gptq_v2`
//! as they are.

use std::sync::Arc;

use super::{
    Packed,
    codes::Codes,
    matrix::Picked,
    module::{Module, join_all, modules},
    number::Number,
    scales::{Scales, Zeros},
    settings::Settings,
};
use crate::{
    Index, Result,
    auxiliary::{AuxTensor, Read},
};

/// What the configuration says.
#[derive(Debug)]
pub(super) struct Gptq {
    pub(super) bits: u32,
    /// `None`: one group a row.
    pub(super) group: Option<usize>,
    pub(super) symmetric: bool,
    pub(super) act_order: bool,
    /// What stored zero points lack.
    added: u8,
}

/// Joins every module's tensors.
///
/// # Errors
/// A setting that is absent or means another arrangement; tensors that are missing, do not fit, or
/// contradict the settings.
pub(super) fn join(index: &mut Index, settings: &Settings) -> Result<()> {
    let said = declared(settings)?;
    let skipped = settings.list("modules_to_not_convert")?;
    let modules = modules(index, "qweight");
    let beside = ["scales", "qzeros", "g_idx"];
    let read = |module: &Module<'_>| said.matrix(module);
    join_all(
        index, settings, &modules, "qweight", &beside, &skipped, read,
    )
}

pub(super) fn declared(settings: &Settings) -> Result<Gptq> {
    let bits = settings.bits("bits", &[2, 3, 4, 8])?;
    let mut added = None;
    for key in ["checkpoint_format", "format"] {
        // files older than the second format do not name the first
        let lack = match settings.text(key)?.map(str::to_lowercase).as_deref() {
            None => continue,
            Some("gptq") => 1,
            Some("gptq_v2") => 0,
            Some(_) => return settings.refuse(key, "gptq and gptq_v2 can be read"),
        };
        if added.is_some_and(|other| other != lack) {
            return settings.refuse(key, "checkpoint_format says another one");
        }
        added = Some(lack);
    }
    if settings.text("pack_dtype")?.is_some_and(|t| t != "int32") {
        return settings.refuse("pack_dtype", "int32 can be read");
    }
    let others = ["is_marlin_format", "adapter", "rotation"];
    settings.refuse_set(&others, "such a file cannot be read")?;
    if let Some(modules) = settings.section("dynamic")?
        && !modules.names().all(|rule| rule.starts_with("-:"))
    {
        return settings.refuse(
            "dynamic",
            "modules with settings of their own cannot be read",
        );
    }
    Ok(Gptq {
        bits,
        group: settings.group("group_size")?,
        symmetric: settings.stated("sym")?,
        act_order: settings.stated("desc_act")?,
        added: added.unwrap_or(1),
    })
}

impl Gptq {
    fn matrix(&self, module: &Module<'_>) -> Read<Packed> {
        let (codes, scales) = (module.part("qweight")?, module.part("scales")?);
        let (&[words, rows], &[groups, _]) = (&codes.shape[..], &scales.shape[..]) else {
            return Err(format!(
                "qweight has the shape {:?} and scales {:?}; both must be matrices",
                codes.shape, scales.shape
            ));
        };
        let order = module.has("g_idx").map(|t| t.integers()).transpose()?;
        let columns = match &order {
            Some(order) => order.len(),
            None => words.saturating_mul(32) / self.bits as usize,
        };
        let group = self.group.unwrap_or(columns);
        let (down, along) = (
            Codes::Down { bits: self.bits },
            Codes::Stream { bits: self.bits },
        );
        if rows == 0 || columns == 0 || groups != columns.div_ceil(group) {
            return Err(format!(
                "{columns} inputs in groups of {group} are not {groups} groups of scales"
            ));
        }
        fits(&codes, down, [rows, columns])?;
        scales.dense(&[groups, rows])?;
        let mut scales = Scales::new(scales, 1, group);
        scales.turned = true;
        let zeros = Zeros {
            tensor: module.part("qzeros")?,
            codes: along,
            turned: true,
            signed: false,
            added: self.added,
        };
        fits(&zeros.tensor, along, [groups, rows])?;
        let zeros = self.zeros(zeros, rows, groups)?;
        let middle = 1u8 << (self.bits - 1);
        if self.bits == 8 && zeros.is_none() {
            scales = scales.see_halves()?;
        }
        Ok(Packed {
            kind: kind(self.bits),
            stored: [rows, columns],
            codes: down,
            number: Number::Less(if zeros.is_none() { middle } else { 0 }),
            scales,
            zeros,
            groups: self.order(order, columns, group)?,
            picked: Picked::all(rows),
        })
    }

    /// Zero points, where they are not the middle of all codes.
    fn zeros(&self, zeros: Zeros, rows: usize, groups: usize) -> Read<Option<Zeros>> {
        let (middle, most) = (1u16 << (self.bits - 1), (1u16 << self.bits) - 1);
        let stored = zeros.stored(rows, groups)?;
        let of = |code: &u8| u16::from(*code) + u16::from(self.added);
        if self.symmetric {
            return match stored.iter().map(of).find(|&zero| zero != middle) {
                None => Ok(None),
                Some(zero) => Err(format!(
                    "sym is true, so that all zero points must be {middle}, and one is {zero}"
                )),
            };
        }
        // programs read it as 2^bits, as 0, or carry it into the next one
        match stored.iter().map(of).any(|zero| zero > most) {
            true => Err(format!(
                "a zero point is stored as {most}, less one, of which programs make different \
                 numbers; quantise the model in checkpoint_format gptq_v2"
            )),
            false => Ok(Some(zeros)),
        }
    }

    /// The group of each column, where they are not one after another.
    fn order(
        &self,
        order: Option<Vec<i64>>,
        columns: usize,
        group: usize,
    ) -> Read<Option<Arc<Vec<u32>>>> {
        let Some(order) = order else {
            return match self.act_order {
                true => Err("desc_act is true, but the file lacks its g_idx".into()),
                false => Ok(None),
            };
        };
        let groups = columns.div_ceil(group);
        let known = |&g: &i64| u32::try_from(g).ok().filter(|&g| (g as usize) < groups);
        let Some(order) = order.iter().map(known).collect::<Option<Vec<u32>>>() else {
            return Err(format!("g_idx names a group that is not one of {groups}"));
        };
        let mut pairs = order.iter().enumerate();
        if pairs.all(|(column, &g)| g as usize == column / group) {
            return Ok(None);
        }
        match self.act_order {
            true => Ok(Some(Arc::new(order))),
            false => Err(format!(
                "desc_act is false, but g_idx is not each input's number divided by {group}"
            )),
        }
    }
}

pub(super) fn kind(bits: u32) -> &'static str {
    match bits {
        2 => "GPTQ's 2 bits",
        3 => "GPTQ's 3 bits",
        4 => "GPTQ's 4 bits",
        _ => "GPTQ's 8 bits",
    }
}

/// Checks that a tensor of words is that of a matrix of this shape.
pub(super) fn fits(tensor: &AuxTensor, codes: Codes, [rows, columns]: [usize; 2]) -> Read<()> {
    match codes.shape(rows, columns) {
        Some(shape) => tensor.expect("I32", 4, &shape),
        None => Err(format!(
            "{}: no words hold a matrix of {rows} x {columns} codes",
            tensor.name
        )),
    }
}
