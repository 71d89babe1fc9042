//! Ops that keep a state of a sequence.

use std::mem::offset_of;

use super::{Graph, Session, Tensor};
use crate::abi;

impl<'g> Graph<'g> {
    /// Causal depthwise convolution along each sequence: every channel of a token becomes the sum
    /// of `name.weight` (channels, 1, taps) times its values at the last `taps` tokens, the last
    /// tap being the token's own; with `bias` also + `name.bias`: (tokens, channels) -> (tokens,
    /// channels).
    #[track_caller]
    pub fn conv(&self, name: &str, x: Tensor<'g>, taps: usize, bias: bool) -> Tensor<'g> {
        let name = self.join(name);
        call!(self.session, conv(name.text(), x.id, taps, u32::from(bias)))
    }

    /// The gated delta rule (arXiv 2412.06464) along each sequence: q and k (tokens, key heads,
    /// dk), v (tokens, heads, dv), `strength` and `decay` (tokens, heads) -> (tokens, heads, dv). A
    /// token turns a head's state, (dk, dv) and 0 before the first, into S = e^decay·S, then
    /// S + k ⊗ strength·(v - Sᵀk), and reads Sᵀq. Consecutive heads share a head of q and k. The
    /// caller norms and scales q and k.
    #[track_caller]
    pub fn delta_rule(
        &self,
        q: Tensor<'g>,
        k: Tensor<'g>,
        v: Tensor<'g>,
        strength: Tensor<'g>,
        decay: Tensor<'g>,
    ) -> Tensor<'g> {
        let inputs = [q, k, v, strength, decay].map(|input| input.id);
        call!(self.session, delta_rule(inputs.as_ptr()))
    }
}
