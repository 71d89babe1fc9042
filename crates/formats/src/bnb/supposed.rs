//! What a folder of which only the configuration is known has of a projection.

use serde_json::Value;

use super::{
    BLOCK, Bnb4, NESTED, NF4_LEVELS,
    declared::{Declared, refuse_eight_bit},
    matrix::Nested,
};
use crate::{Index, Result, auxiliary::AuxTensor};

/// The format of its matrices, and the modules that are dense; `None`: all are.
///
/// # Errors
/// As [`super::join`], of what the configuration alone shows.
pub(crate) fn supposed(config: &Value) -> Result<Option<(Bnb4, Vec<String>)>> {
    let declared = Declared::of(config)?;
    refuse_eight_bit(&Index::default(), declared.as_ref())?;
    let Some(declared) = declared.filter(|d| d.load_in_4bit) else {
        return Ok(None);
    };
    let double = declared.bnb_4bit_use_double_quant == Some(true);
    let four = Bnb4 {
        block: BLOCK,
        levels: NF4_LEVELS,
        absmax: AuxTensor::absent(),
        nested: double.then(|| Nested {
            absmax: AuxTensor::absent(),
            map: [0.0; 256].into(),
            block: NESTED,
            offset: 0.0,
        }),
    };
    Ok(Some((
        four,
        declared.llm_int8_skip_modules.unwrap_or_default(),
    )))
}
