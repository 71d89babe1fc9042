//! compressed-tensors (llm-compressor's, vLLM's), by the names of its settings: `format`, and of a
//! group of modules `num_bits`, `type`, `symmetric`, `strategy`, `group_size`, `block_structure`.
//!
//! In `pack-quantized` a module has `weight_packed`, words of integers to which 2^(bits - 1) is
//! added, and `weight_shape`; in `int-quantized`, `float-quantized` and `naive-quantized` `weight`
//! as 8-bit integers or floats; in all `weight_scale`, and `weight_zero_point` where `symmetric` is
//! false.

use serde_json::Value;

use super::{
    Packed,
    codes::Codes,
    fp8,
    grid::Grid,
    matrix::Picked,
    module::{Module, drop_activations, join_all, modules},
    number::Number,
    scales::{Scales, Zeros},
    settings::Settings,
};
use crate::{
    Index, Result,
    auxiliary::{AuxTensor, Read},
};

/// What the configuration says of weights.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Scheme {
    /// Whether integers are packed in words.
    pub(super) words: bool,
    pub(super) bits: u32,
    pub(super) float: bool,
    pub(super) symmetric: bool,
    pub(super) grid: Grid,
}

/// Joins every module's tensors, and drops the scales of quantised activations, keys and values.
/// The answer is whether there are such.
///
/// # Errors
/// A setting that means another arrangement; tensors that are missing, do not fit, or contradict
/// the settings.
pub(super) fn join(index: &mut Index, settings: &Settings) -> Result<bool> {
    let scheme = declared(settings)?;
    let mut activations = settings.get("kv_cache_scheme").is_some();
    if activations {
        drop_activations(index, &["k_scale", "v_scale"]);
    }
    for side in ["input", "output"] {
        if any_group(settings, &format!("{side}_activations"))? {
            let parts = ["scale", "zero_point"].map(|part| format!("{side}_{part}"));
            drop_activations(index, &parts.each_ref().map(String::as_str));
            activations = true;
        }
    }
    let ignored = settings.list("ignore")?;
    let read = |module: &Module<'_>| match ignored.contains(&module.name) {
        true => Err("ignore of the configuration names it, but it is quantised".into()),
        false => scheme.matrix(module),
    };
    let codes = if scheme.words {
        "weight_packed"
    } else {
        "weight"
    };
    let by = if scheme.words { codes } else { "weight_scale" };
    let beside = ["weight_scale", "weight_zero_point", "weight_shape"];
    let modules = modules(index, by);
    join_all(index, settings, &modules, codes, &beside, &[], read)?;
    Ok(activations)
}

/// Every group of modules.
fn groups<'a>(settings: &Settings<'a>) -> Result<Vec<Settings<'a>>> {
    let Some(all) = settings.section("config_groups")? else {
        return settings.refuse("config_groups", "how codes are read depends on it");
    };
    let each = all.names().map(|name| match all.section(name)? {
        Some(group) => Ok(group),
        None => all.refuse(name, "it must be an object"),
    });
    each.collect()
}

fn any_group(settings: &Settings, key: &str) -> Result<bool> {
    Ok(groups(settings)?
        .iter()
        .any(|group| group.get(key).is_some()))
}

/// What holds for all modules that are quantised.
pub(super) fn declared(settings: &Settings) -> Result<Scheme> {
    if settings.text("quantization_status")? != Some("compressed") {
        return settings.refuse("quantization_status", "compressed weights can be read");
    }
    settings.refuse_set(&["transform_config"], "rotated weights cannot be read")?;
    if let Some(sparsity) = settings.section("sparsity_config")?
        && !["dense", ""].contains(&sparsity.text("format")?.unwrap_or_default())
    {
        return sparsity.refuse("format", "sparse weights cannot be read; dense can");
    }
    let mut schemes: Vec<Scheme> = Vec::new();
    for group in groups(settings)? {
        if let Some(weights) = group.section("weights")? {
            let format = match group.text("format")? {
                Some(format) => format,
                None => settings.text("format")?.unwrap_or_default(),
            };
            schemes.push(scheme(settings, &weights, format)?);
        }
    }
    match schemes.as_slice() {
        [] => settings.refuse("config_groups", "no group has weights"),
        [one, others @ ..] if others.iter().all(|other| other == one) => Ok(*one),
        _ => settings.error("groups whose weights are stored in different ways cannot be read"),
    }
}

fn scheme(settings: &Settings, weights: &Settings, format: &str) -> Result<Scheme> {
    let float = match weights.text("type")? {
        Some("int") => false,
        Some("float") => true,
        _ => return weights.refuse("type", "int and float can be read"),
    };
    let words = match (format, float) {
        ("pack-quantized", false) => true,
        ("int-quantized" | "naive-quantized", false) => false,
        ("float-quantized" | "naive-quantized", true) => false,
        _ => {
            return settings.error(&format!(
                "format {format:?} of weights of the type {} cannot be read; pack-quantized, \
                 int-quantized and naive-quantized integers can, and float-quantized and \
                 naive-quantized floats",
                if float { "float" } else { "int" }
            ));
        }
    };
    let bits = match (float, words) {
        (true, _) => weights.bits("num_bits", &[8])?,
        _ => weights.bits("num_bits", &[2, 3, 4, 5, 6, 7, 8])?,
    };
    let symmetric = weights.stated("symmetric")?;
    if float && !symmetric {
        return weights.refuse("symmetric", "floats with zero points cannot be read");
    }
    if !matches!(weights.get("dynamic"), None | Some(Value::Bool(false))) {
        return weights.refuse("dynamic", "weights have scales in the file");
    }
    match weights.get("actorder") {
        None | Some(Value::Bool(false)) => {}
        Some(Value::String(order)) if ["weight", "static"].contains(&order.as_str()) => {}
        Some(_) => {
            let why = "null, weight and static, which leave columns where they are, can be read";
            return weights.refuse("actorder", why);
        }
    }
    Ok(Scheme {
        words,
        bits,
        float,
        symmetric,
        grid: grid(weights)?,
    })
}

fn grid(weights: &Settings) -> Result<Grid> {
    let group = weights.whole("group_size")?;
    Ok(match (weights.text("strategy")?, group) {
        (Some("tensor"), _) => Grid::Tensor,
        (Some("channel"), _) => Grid::Channel,
        (Some("group"), Some(n)) if n > 0 => match usize::try_from(n) {
            Ok(n) => Grid::Group(n),
            Err(_) => return weights.refuse("group_size", "no row is so long"),
        },
        (Some("group"), _) => return weights.refuse("group_size", "groups have a size above 0"),
        (Some("block"), _) => match weights.pair("block_structure")? {
            Some(block) => Grid::Block(block),
            None => return weights.refuse("block_structure", "blocks have a size"),
        },
        _ => {
            let why = "tensor, channel, group and block can be read";
            return weights.refuse("strategy", why);
        }
    })
}

impl Scheme {
    /// What such weights are called.
    pub(super) fn kind(&self) -> &'static str {
        match (self.float, self.words) {
            (true, _) => "compressed-tensors' FP8",
            (_, true) => "compressed-tensors' packed integers",
            (_, false) => "compressed-tensors' 8-bit integers",
        }
    }

    fn matrix(&self, module: &Module<'_>) -> Read<Packed> {
        let scales = module.part("weight_scale")?;
        if self.float {
            return fp8::float(module, scales, Some(self.grid), false, self.kind());
        }
        let (codes, stored) = self.codes(module)?;
        let (down, along) = self.grid.shared(&scales, stored)?;
        scales.dense(&scales.shape)?;
        let mut scales = Scales::new(scales, down, along);
        let zeros = self.zeros(module, &scales, codes, stored)?;
        if self.bits == 8 && zeros.is_none() {
            scales = scales.see_halves()?;
        }
        let number = match (self.words, &zeros) {
            (false, _) => Number::Signed,
            (true, Some(zeros)) if !zeros.signed => Number::Less(0), // both have what is added
            (true, _) => Number::Less(1 << (self.bits - 1)),
        };
        Ok(Packed {
            kind: self.kind(),
            stored,
            codes,
            number,
            scales,
            zeros,
            groups: None,
            picked: Picked::all(stored[0]),
        })
    }

    /// How the codes lie, and the shape of the matrix.
    fn codes(&self, module: &Module<'_>) -> Read<(Codes, [usize; 2])> {
        if !self.words {
            let weight = module.part("weight")?;
            return match weight.shape[..] {
                [rows, columns] if rows > 0 && columns > 0 => {
                    weight.expect("I8", 1, &[rows, columns])?;
                    Ok((Codes::Bytes, [rows, columns]))
                }
                _ => Err(format!("its weight has the shape {:?}", weight.shape)),
            };
        }
        let (packed, shape) = (module.part("weight_packed")?, module.part("weight_shape")?);
        let said: Vec<usize> = shape
            .integers()?
            .into_iter()
            .filter_map(|n| usize::try_from(n).ok().filter(|&n| n > 0))
            .collect();
        let (&[rows, columns], &[_, width]) = (&said[..], &packed.shape[..]) else {
            return Err(format!(
                "weight_shape holds {said:?}, and weight_packed has the shape {:?}; both must be \
                 matrices",
                packed.shape
            ));
        };
        let codes = self.words(columns, width)?;
        match codes.shape(rows, columns) {
            Some(wanted) => packed.expect("I32", 4, &wanted)?,
            None => return Err(format!("its weight_shape is {said:?}")),
        }
        Ok((codes, [rows, columns]))
    }

    /// How a row of so many codes lies in words of this number: since version 0.18 as one stream,
    /// before in each word as many as are whole.
    fn words(&self, columns: usize, width: usize) -> Read<Codes> {
        let bits = self.bits;
        let (stream, whole) = (Codes::Stream { bits }, Codes::Whole { bits });
        let is = |codes: Codes| codes.shape(1, columns).map(|[_, width]| width) == Some(width);
        let each = 32 / bits as usize;
        let alike = 32 % bits == 0 || columns <= each;
        match (is(stream), is(whole)) {
            (true, true) if !alike => Err(format!(
                "rows of {columns} codes of {bits} bits take {width} words both as a stream and \
                 with {each} in each word: which it is cannot be told"
            )),
            (true, _) => Ok(stream),
            (false, true) => Ok(whole),
            (false, false) => Err(format!(
                "weight_packed has rows of {width} words, which are not {columns} codes of {bits} \
                 bits"
            )),
        }
    }

    /// Zero points, where there are any.
    fn zeros(
        &self,
        module: &Module<'_>,
        scales: &Scales,
        codes: Codes,
        stored: [usize; 2],
    ) -> Read<Option<Zeros>> {
        let tensor = match (self.symmetric, module.has("weight_zero_point")) {
            (true, None) => return Ok(None),
            (true, Some(zeros)) => return none(&zeros).map(|()| None),
            (false, None) => {
                return Err("symmetric is false, but the file lacks its weight_zero_point".into());
            }
            (false, Some(zeros)) => zeros,
        };
        let packed = self.words && matches!(self.grid, Grid::Group(_) | Grid::Channel);
        if !packed {
            tensor.expect("I8", 1, &scales.tensor.shape)?;
            return Ok(Some(Zeros {
                tensor,
                codes: Codes::Bytes,
                turned: false,
                signed: true,
                added: 0,
            }));
        }
        if matches!(codes, Codes::Whole { .. }) {
            return Err(format!(
                "zero points of {} bits in words of whole values (before version 0.18) cannot be \
                 read",
                self.bits
            ));
        }
        let codes = Codes::Down { bits: self.bits };
        let wanted = codes.shape(scales.across(stored), stored[0]);
        tensor.expect("I32", 4, &wanted.unwrap_or_default())?;
        Ok(Some(Zeros {
            tensor,
            codes,
            turned: true,
            signed: false,
            added: 0,
        }))
    }
}

/// Checks that zero points beside symmetric codes are none.
fn none(zeros: &AuxTensor) -> Read<()> {
    match zeros.read()?.iter().all(|&byte| byte == 0) {
        true => Ok(()),
        false => Err("symmetric is true, but a weight_zero_point is not 0".into()),
    }
}
