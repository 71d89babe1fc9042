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
}
