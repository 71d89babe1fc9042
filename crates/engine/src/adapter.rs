//! A stored adapter on its base: held against the base's projections before it plays.

use std::sync::Arc;

use randori_lora::{LoraSpec, Targets, peft};

use crate::{Base, Error, Params, Player, Result, trace};

impl Player {
    /// Base with an adapter that was trained earlier (what `peft::load` answers).
    ///
    /// # Errors
    /// A projection that the adapter's targets name and its tensors lack, a tensor of a projection that the base does not
    /// have, a shape that does not fit: an adapter of another model must not play as the bare base.
    pub fn with_adapter(base: Arc<Base>, spec: LoraSpec, params: Params) -> Result<Player> {
        let all = matches!(spec.targets, Targets::AllLinear);
        let projections: Vec<(String, usize, usize)> = trace(base.arch.as_ref())?
            .linears
            .into_iter()
            .filter(|l| l.layer.is_some() || !all)
            .map(|l| (l.name, l.inputs, l.outputs))
            .collect();
        peft::fits(&spec, &params, &projections).map_err(|e| Error::rule(e.to_string()))?;
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }
}
