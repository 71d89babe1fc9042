//! One call of an architecture on shapes: the weights it wants, and which values it needs how long.

use randori_kernels::{Error, Result};
use randori_sdk::seam::{Architecture, Id};

use super::{Call, TracedCarried, TracedWeight, Tracer};

impl std::fmt::Display for Call {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Call::Embed => f.write_str("embedding"),
            Call::Block(layer) => write!(f, "block {layer}"),
            Call::Head => f.write_str("head"),
        }
    }
}

/// The weights that this call asks for; `width` is the hidden state's, and `carried` crosses
/// blocks.
pub(crate) fn weights_of(
    arch: &dyn Architecture,
    call: Call,
    width: usize,
    carried: &[TracedCarried],
) -> Result<Vec<TracedWeight>> {
    let (mut tracer, input) = match call {
        Call::Embed => (Tracer::default(), Vec::new()),
        Call::Block(layer) => (Tracer::behind(carried, layer), vec![width]),
        Call::Head => (Tracer::default(), vec![width]),
    };
    tracer.run(arch, call, input).map_err(Error::rule)?;
    Ok(tracer.trace.weights)
}

/// The embedding whose weight the head multiplies with too (`model.embed_tokens`), where there is
/// one: [`Trace::tied`](super::Trace::tied) for who has no trace, by two calls.
///
/// # Errors
/// What the architecture refuses.
pub(crate) fn tied_embedding(arch: &dyn Architecture) -> Result<Option<String>> {
    let mut tracer = Tracer::default();
    let x = tracer.run(arch, Call::Embed, Vec::new());
    let hidden = x.and_then(|x| tracer.shape(x)).map_err(Error::rule)?;
    tracer.run(arch, Call::Head, hidden).map_err(Error::rule)?;
    Ok(tracer.trace.tied().map(str::to_string))
}

/// Which values a block needs no more once it has made value `out`: index `out`. The same ops run
/// on tensors in the same order, so the tape may drop them there. `None` for a block that the trace
/// refuses, or with a mixture of experts (whose ops depend on the tokens). `carried` is what
/// crosses blocks.
pub(crate) fn last_uses(
    arch: &dyn Architecture,
    layer: usize,
    width: usize,
    carried: &[TracedCarried],
) -> Option<Vec<Vec<Id>>> {
    let mut tracer = Tracer::behind(carried, layer);
    let result = tracer.run(arch, Call::Block(layer), vec![width]).ok()?;
    let count = tracer.values.len();
    if tracer.mixes {
        return None;
    }
    let mut last = vec![0; count + 1];
    for (id, out) in tracer.uses.into_inner() {
        last[id as usize] = out; // in order: the last one stays
    }
    let mut over = vec![Vec::new(); count + 2];
    for (id, out) in last.iter().enumerate().skip(1) {
        if id != result as usize {
            over[*out as usize].push(id as Id);
        }
    }
    over[0].clear(); // never used
    Some(over)
}
