//! The weights that ops ask for, on shapes.

use randori_sdk::seam::{Id, OpResult};

use super::{TracedWeight, Tracer, Use};
use crate::tape::rules;

impl Tracer {
    /// A weight of this full name and shape.
    pub(super) fn weight(
        &mut self,
        name: String,
        shape: Vec<usize>,
        used_as: Use,
    ) -> Result<(), String> {
        // a mixture has thousands
        let at = self.found.get(&name).copied();
        match at.map(|at| &self.trace.weights[at]) {
            Some(known) if known.shape == shape => Ok(()),
            Some(known) => Err(format!(
                "weight `{name}` is wanted with the shapes {:?} and {shape:?}",
                known.shape
            )),
            None => {
                self.found.insert(name.clone(), self.trace.weights.len());
                self.trace.weights.push(TracedWeight {
                    name,
                    shape,
                    used_as,
                });
                Ok(())
            }
        }
    }

    /// A norm with a weight.
    pub(super) fn norm(
        &mut self,
        name: &str,
        x: Id,
        eps: f64,
        bias: bool,
        used_as: Use,
    ) -> OpResult {
        let dims = self.by_token("a norm", x)?;
        let width = rules::norm(name, &dims, eps)?;
        self.weight(format!("{name}.weight"), vec![width], used_as)?;
        if bias {
            self.weight(format!("{name}.bias"), vec![width], Use::Bias)?;
        }
        self.save(&[x]);
        self.push(dims)
    }
}
