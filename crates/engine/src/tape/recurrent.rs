//! Ops that keep a state of a sequence, run eagerly.

use randori_kernels::Kernels;
use randori_sdk::seam::{Id, OpResult};

use super::{Context, ConvOp, Op, Tape, forward::trailing, rules, say};

impl<K: Kernels> Tape<'_, '_, K> {
    /// Where the next recurrent op of a block over cached sequences has its states; `None` of
    /// packed rows.
    fn next_states(&mut self) -> Option<(&mut K::Cache, (usize, usize))> {
        match &mut self.context {
            Context::Cached {
                cache,
                layer,
                recurrent,
                ..
            } => {
                let place = (*layer, *recurrent);
                *recurrent += 1;
                Some((&mut **cache, place))
            }
            Context::Packed | Context::Alone | Context::Picked(_) => None,
        }
    }

    /// A convolution along each sequence.
    pub(super) fn convolve(&mut self, name: &str, x: Id, taps: usize, bias: bool) -> OpResult {
        let (value, x_needs) = self.by_token("conv", x)?;
        let shape = rules::conv(name, trailing(&value), taps)?;
        self.sequences("conv", &value)?;
        let pass = self.pass;
        let kernels = pass.kernels;
        let weight = pass.vector(format!("{name}.weight"), &shape)?;
        let bias = self.bias(name, shape[0], bias)?;
        let w = &weight.values;
        let y = match self.next_states() {
            Some((cache, at)) => kernels.cached_convolve(cache, at, &value, w),
            None => kernels.convolve(&pass.plan, &value, w),
        };
        let y = y.map_err(say)?;
        if let Some(bias) = &bias {
            kernels.add_bias(&y, &bias.values).map_err(say)?;
        }
        let own_bias = bias.as_ref().is_some_and(|b| b.own.is_some());
        let x_value = weight.own.is_some().then_some(value);
        let needs = x_needs || own_bias || x_value.is_some();
        self.push(y, needs, || {
            Op::Conv(Box::new(ConvOp {
                x,
                x_value,
                weight,
                bias,
            }))
        })
    }

    /// The gated delta rule of q, k, v, strengths and decays.
    pub(super) fn scan(&mut self, ids: [Id; 5]) -> OpResult {
        let mut values = Vec::with_capacity(ids.len());
        let mut needs = false;
        for id in ids {
            let (value, needed) = self.by_token("delta_rule", id)?;
            self.sequences("delta_rule", &value)?;
            needs |= needed;
            values.push(value);
        }
        let values: [K::Tensor; 5] = values
            .try_into()
            .map_err(|_| "delta_rule takes five values")?;
        rules::delta_rule(values.each_ref().map(trailing))?;
        let (pass, inputs) = (self.pass, values.each_ref());
        let out = match self.next_states() {
            Some((cache, at)) => pass.kernels.cached_delta_rule(cache, at, inputs),
            None => pass.kernels.delta_rule(&pass.plan, inputs),
        };
        let out = out.map_err(say)?;
        self.push(out, needs, || Op::DeltaRule { ids, values })
    }
}
