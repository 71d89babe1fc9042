//! What a folder of which only the configuration is known stores of a projection, as its
//! `quantization_config` has it: so much memory is then counted as the folder itself would take.

use std::sync::Arc;

use randori_sdk::dialect::Values;
use serde_json::Value;

use super::{
    Packed, awq,
    codes::Codes,
    compressed::{self, Scheme},
    fp8,
    gptq::{self, Gptq},
    grid::Grid,
    matrix::Picked,
    mxfp4,
    number::Number,
    scales::{Scales, Zeros},
    settings::Settings,
};
use crate::{
    Format, Result, Stored,
    auxiliary::AuxTensor,
    bnb::{self, Bnb4, is_skipped},
};

/// A format by its settings, and the modules that have another one.
#[derive(Debug)]
pub struct Supposed {
    method: Method,
    /// Modules that are dense, by their name or its end.
    skipped: Vec<String>,
    /// The same by expressions that match from a name's start.
    expressions: Vec<String>,
    /// Whether floats beside the codes have 16 bits.
    halves: bool,
}

#[derive(Debug)]
enum Method {
    Gptq(Gptq),
    /// Inputs of a group.
    Awq(Option<usize>),
    Fp8(Option<Grid>),
    Compressed(Scheme),
    Mxfp4,
    Bnb(Box<Bnb4>),
}

impl Supposed {
    /// What a configuration says; `None`: that the weights are dense.
    ///
    /// # Errors
    /// As [`super::join`], of what the configuration alone shows.
    pub fn of(config: &Value) -> Result<Option<Supposed>> {
        let section = config.get("quantization_config").and_then(Value::as_object);
        let method = section.and_then(|keys| keys.get("quant_method")?.as_str());
        let dtype = ["dtype", "torch_dtype"].map(|key| config.get(key).and_then(Value::as_str));
        let mut of = Supposed {
            method: Method::Mxfp4,
            skipped: Vec::new(),
            expressions: Vec::new(),
            halves: !dtype.contains(&Some("float32")),
        };
        let bitsandbytes = |of: Supposed| {
            let said = bnb::supposed(config)?;
            Ok(said.map(|(four, skipped)| Supposed {
                method: Method::Bnb(Box::new(four)),
                skipped,
                ..of
            }))
        };
        let (Some(keys), Some(method)) = (section, method) else {
            return bitsandbytes(of);
        };
        let settings = Settings::new(method, keys);
        let mut lists = &["modules_to_not_convert"][..];
        of.method = match method {
            "gptq" => {
                let dynamic = settings.section("dynamic")?;
                let rules = dynamic.iter().flat_map(Settings::names);
                let rules = rules.filter_map(|rule| rule.strip_prefix("-:"));
                of.expressions = rules.map(str::to_owned).collect();
                Method::Gptq(gptq::declared(&settings)?)
            }
            "awq" => Method::Awq(awq::declared(&settings)?),
            "fp8" | "fbgemm_fp8" => {
                lists = &["modules_to_not_convert", "ignored_layers"];
                Method::Fp8(fp8::declared(&settings)?)
            }
            "compressed-tensors" => {
                lists = &["ignore"];
                Method::Compressed(compressed::declared(&settings)?)
            }
            "mxfp4" => {
                lists = &[]; // experts are, and nothing else is
                Method::Mxfp4
            }
            _ => return bitsandbytes(of),
        };
        for list in lists {
            for module in settings.list(list)? {
                match module.strip_prefix("re:") {
                    Some(expression) => of.expressions.push(expression.to_owned()),
                    None => of.skipped.push(module.to_owned()),
                }
            }
        }
        Ok(Some(of))
    }

    /// The projection `module` (out, in) of a block as it is stored; `None`: it stays dense. So it
    /// is taken to where an expression for modules that are dense cannot be understood.
    pub fn matrix(&self, module: &str, shape: [usize; 2]) -> Option<Stored> {
        let skipped = self.skipped.iter().any(|skip| is_skipped(module, skip));
        let matched = |e: &String| matches(e, module) != Some(false);
        if skipped || self.expressions.iter().any(matched) {
            return None;
        }
        let [rows, columns] = shape;
        let count = (rows * columns) as u64;
        let (len, format) = match &self.method {
            Method::Bnb(four) => (count.div_ceil(2), Format::Bnb4(four.clone())),
            _ => {
                let packed = self.packed(module, shape)?;
                let len = (count * u64::from(packed.codes.bits())).div_ceil(8);
                (len, Format::Packed(Box::new(packed)))
            }
        };
        Some(Stored {
            file: 0,
            start: 0,
            len,
            shape: shape.to_vec(),
            format,
            order: None,
            columns: None,
            factor: 1.0,
            values: Values::Same,
        })
    }

    fn packed(&self, module: &str, shape @ [rows, columns]: [usize; 2]) -> Option<Packed> {
        let width = if self.halves { 2 } else { 4 };
        Some(match &self.method {
            Method::Gptq(said) => {
                let group = said.group.unwrap_or(columns);
                let (bits, along) = (said.bits, Codes::Stream { bits: said.bits });
                let mut packed = plain(gptq::kind(bits), Codes::Down { bits }, shape, (1, group));
                packed.scales.halves = true; // they are stored so
                packed.scales.tensor.len = 2 * packed.scales.count(shape) as u64;
                match said.symmetric {
                    true => packed.number = Number::Less(1 << (bits - 1)),
                    false => packed = with_zeros(packed, along),
                }
                packed.groups = said.act_order.then(Arc::default);
                packed
            }
            Method::Awq(group) => {
                let group = group.unwrap_or(columns);
                if !columns.is_multiple_of(group) || !rows.is_multiple_of(8) {
                    return None;
                }
                let mut packed = plain("AWQ's 4 bits", Codes::Awq, shape, (1, group));
                packed.scales.tensor.len = 2 * packed.scales.count(shape) as u64;
                with_zeros(packed, Codes::Awq)
            }
            Method::Fp8(grid) => {
                let shared = grid.unwrap_or(Grid::Channel).sizes(shape)?;
                let mut packed = plain("FP8", Codes::Bytes, shape, shared);
                packed.number = Number::E4m3;
                packed.scales.tensor.len = 4 * packed.scales.count(shape) as u64;
                packed
            }
            Method::Compressed(said) => {
                let codes = match said.words {
                    true => Codes::Stream { bits: said.bits },
                    false => Codes::Bytes,
                };
                let mut packed = plain(said.kind(), codes, shape, said.grid.sizes(shape)?);
                packed.number = match (said.float, said.words) {
                    (true, _) => Number::E4m3,
                    (_, true) => Number::Less(1 << (said.bits - 1)),
                    (_, false) => Number::Signed,
                };
                packed.scales.halves = self.halves;
                packed.scales.tensor.len = width * packed.scales.count(shape) as u64;
                match said.symmetric {
                    true => packed,
                    false => with_zeros(packed, codes),
                }
            }
            Method::Mxfp4 if module.contains(".experts.") && columns.is_multiple_of(32) => {
                let shared = (1, mxfp4::BLOCK);
                let mut packed = plain(mxfp4::KIND, Codes::Nibbles, shape, shared);
                packed.number = Number::E2m1;
                packed.scales.exponents = true;
                packed.scales.tensor.len = packed.scales.count(shape) as u64;
                packed
            }
            Method::Mxfp4 | Method::Bnb(_) => return None,
        })
    }
}

/// A matrix without zero points; `shared` are the rows and columns that share a scale.
fn plain(kind: &'static str, codes: Codes, shape: [usize; 2], shared: (usize, usize)) -> Packed {
    Packed {
        kind,
        stored: shape,
        codes,
        number: Number::Less(0),
        scales: Scales::new(AuxTensor::absent(), shared.0, shared.1),
        zeros: None,
        groups: None,
        picked: Picked::all(shape[0]),
    }
}

/// The same with a zero point for every scale.
fn with_zeros(mut packed: Packed, codes: Codes) -> Packed {
    let mut tensor = AuxTensor::absent();
    let bits = packed.scales.count(packed.stored) as u64 * u64::from(codes.bits());
    tensor.len = bits.div_ceil(8);
    packed.zeros = Some(Zeros {
        tensor,
        codes,
        turned: false,
        signed: false,
        added: 0,
    });
    packed
}

/// Whether an expression matches a name from its start; `None` where it has more than literal
/// text, any text (`.*`), a start and an end.
fn matches(expression: &str, name: &str) -> Option<bool> {
    let inner = expression.strip_prefix('^').unwrap_or(expression);
    let (inner, whole) = match inner.strip_suffix('$') {
        Some(inner) => (inner, true),
        None => (inner, false),
    };
    let pieces: Vec<String> = inner.split(".*").map(|p| p.replace("\\.", ".")).collect();
    let special = |piece: &String| piece.contains(|c| "\\[](){}|+?*^$".contains(c));
    if pieces.iter().any(special) {
        return None;
    }
    let Some(mut rest) = name.strip_prefix(pieces[0].as_str()) else {
        return Some(false);
    };
    for (i, piece) in pieces.iter().enumerate().skip(1) {
        if whole && i + 1 == pieces.len() {
            return Some(rest.ends_with(piece.as_str()));
        }
        match rest.find(piece.as_str()) {
            Some(at) => rest = &rest[at + piece.len()..],
            None => return Some(false),
        }
    }
    Some(!whole || rest.is_empty())
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn expressions_match_from_the_start() {
        let gate = "model.layers.10.mlp.gate";
        for (expression, wanted) in [
            ("lm_head", Some(false)),
            (".*mlp.gate$", Some(true)),
            (r"^model\.layers\.10\.", Some(true)),
            (r"model\.layers\.1\..*", Some(false)),
            ("mlp.gate", Some(false)),
            (".*gate_proj", Some(false)),
            (".*mlp$", Some(false)),
            (".*layers.*mlp", Some(true)),
            ("model.layers.10.mlp.gate$", Some(true)),
            ("model.layers.10$", Some(false)),
            (".*(gate|router)$", None),
            (r".*layers\.\d+", None),
        ] {
            assert_eq!(matches(expression, gate), wanted, "{expression}");
        }
    }
}
