//! Check that trained tensors are finite: one NaN in them would turn every logit into NaN.

use candle_core::Tensor;

use crate::{Error, Result};

/// Refuses a tensor (f32) that holds an infinity or NaN.
///
/// # Errors
/// The tensor's name, the first such value and its index.
pub fn finite(name: &str, tensor: &Tensor) -> Result<()> {
    let values = tensor.flatten_all()?.to_vec1::<f32>()?;
    match values.iter().position(|value| !value.is_finite()) {
        None => Ok(()),
        Some(at) => Err(Error::rule(format!(
            "{name} holds {} at index {at}; a weight must be a finite number: the file is damaged, or its training diverged",
            values[at]
        ))),
    }
}
