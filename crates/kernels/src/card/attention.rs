//! Attention over packed rows or a paged cache, with masks as lists of tiles.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    attention::{Attention, BackwardInputs, BackwardOutputs},
    sinks::Sinks,
    tiles::{KeyRun, Span},
};

use super::{
    lists::{ListsByWindow, WindowLists},
    memory::{float, gpu, ptr, room},
};
use crate::{Error, Heads, Plan, Result, Run, SegmentMask, chunks};

/// The sizes of a call on q (tokens, heads · dim).
///
/// # Errors
/// Heads whose values are not as wide as their keys: no kernel computes them.
pub fn sizes(q: &Tensor, h: &Heads) -> Result<Attention> {
    if h.value_dim != h.dim {
        return Err(Error::rule(format!(
            "attention over keys of {} features and values of {} is not supported on a GPU: both \
             must be as wide",
            h.dim, h.value_dim
        )));
    }
    Ok(Attention {
        float: float(q)?,
        tokens: q.dims()[0],
        heads: h.heads,
        kv_heads: h.kv_heads,
        dim: h.dim,
        scale: h.scale,
        window: (h.window != usize::MAX).then_some(h.window),
        softcap: h.softcap,
    })
}

/// Attention of q over k and v under the mask of the spans: by candle-flash-attn where it is built
/// in and applies, else by this project's kernels. Also returns log Σ e^score (heads, tokens),
/// which candle-flash-attn does not keep.
pub fn forward(
    [q, k, v]: [&Tensor; 3],
    sinks: Option<&Tensor>,
    h: &Heads,
    known: &ListsByWindow,
    spans: impl FnOnce() -> Vec<Span>,
) -> Result<(Tensor, Option<Tensor>)> {
    let a = sizes(q, h)?;
    let spans = || within_chunks(spans(), h);
    #[cfg(feature = "flash-attn")]
    let spans = {
        let spans = spans();
        // sinks need log Σ e^score
        if sinks.is_none()
            && let Some(out) = randori_cuda::gpu::flash::forward(&a, [q, k, v], &spans)?
        {
            return Ok((out, None));
        }
        || spans
    };
    let lists = WindowLists::of(known, a.tokens, (h.window, h.chunk), spans)?;
    let (out, lse) = by_lists([q, k, v], h, &lists)?;
    if let Some(values) = sinks {
        let added = at_work(&a, values, &out, &lse)?;
        added.add(gpu()?)?;
    }
    Ok((out, Some(lse)))
}

/// Sinks beside attention's results.
fn at_work(a: &Attention, sinks: &Tensor, out: &Tensor, lse: &Tensor) -> Result<Sinks> {
    Ok(Sinks {
        float: float(out)?,
        tokens: a.tokens,
        heads: a.heads,
        dim: a.dim,
        sinks: ptr(sinks)?,
        out: ptr(out)?,
        lse: ptr(lse)?,
    })
}

/// The gradient to the sinks, from attention's results with them and the gradient to the first.
pub fn sinks_gradient(
    sinks: &Tensor,
    h: &Heads,
    (out, lse): (&Tensor, &Option<Tensor>),
    dout: &Tensor,
) -> Result<Tensor> {
    let lost = || Error::rule("attention with sinks has kept no statistics");
    let lse = lse.as_ref().ok_or_else(lost)?;
    let a = sizes(out, h)?;
    let gradient = room(sinks, sinks.dims())?; // every value is written
    let to = ptr(&gradient)?;
    at_work(&a, sinks, out, lse)?.gradient(gpu()?, ptr(dout)?, to)?;
    Ok(gradient)
}

/// The spans with their queries cut by chunks, where there are some.
fn within_chunks(spans: Vec<Span>, h: &Heads) -> Vec<Span> {
    let Some(chunk) = h.chunk else {
        return spans;
    };
    let cut = |span: Span| {
        let queries = Run {
            row: span.row,
            len: span.len,
            position: span.position,
        };
        let keys = span.keys.iter().map(|k| Run {
            row: k.row,
            len: k.len,
            position: k.position,
        });
        let keys: Vec<Run> = keys.collect();
        let parts = chunks::parts(queries, &keys, chunk).into_iter();
        parts.map(|(queries, keys)| over(queries, &keys))
    };
    spans.into_iter().flat_map(cut).collect()
}

/// Attention by this project's kernels: the result, and log Σ e^score (heads, tokens).
fn by_lists([q, k, v]: [&Tensor; 3], h: &Heads, lists: &WindowLists) -> Result<(Tensor, Tensor)> {
    let a = sizes(q, h)?;
    let gpu = gpu()?;
    let out = room(q, q.dims())?; // every query of every block is written
    let lse = gpu.room(&[h.heads, a.tokens], DType::F32)?;
    crate::work::count((2 * h.heads, lists.pairs(), h.dim));
    let (queries, to) = (lists.queries.addresses()?, ptr(&out)?);
    a.forward(gpu, ptr(q)?, ptr(k)?, ptr(v)?, queries, to, ptr(&lse)?)?;
    Ok((out, lse))
}

/// The mask of packed rows as spans.
pub fn spans(plan: &Plan) -> Vec<Span> {
    let span = |mask: &SegmentMask| over(mask.queries, &mask.keys);
    plan.masks.iter().map(span).collect()
}

/// A run of queries over runs of keys.
fn over(queries: Run, keys: &[Run]) -> Span {
    let run = |r: &Run| KeyRun {
        row: r.row,
        len: r.len,
        position: r.position,
    };
    Span {
        row: queries.row,
        len: queries.len,
        position: queries.position,
        keys: keys.iter().map(run).collect(),
    }
}

/// The gradients to q, k and v, from the result, log Σ e^score if it was kept, and the gradient to
/// the result.
pub fn backward(
    plan: &Plan,
    [q, k, v]: [&Tensor; 3],
    h: &Heads,
    (out, lse): (&Tensor, &Option<Tensor>),
    dout: &Tensor,
) -> Result<[Tensor; 3]> {
    let a = sizes(q, h)?;
    let mask = || within_chunks(spans(plan), h);
    let lists = WindowLists::of(&plan.lists, a.tokens, (h.window, h.chunk), mask)?;
    let keys = lists.keys(k.dims()[0])?;
    let gpu = gpu()?;
    // every row is in some block of the lists, and all rows of blocks are written
    let (dq, dk, dv) = (room(q, q.dims())?, room(k, k.dims())?, room(v, v.dims())?);
    let delta = gpu.room(&[h.heads, a.tokens], DType::F32)?;
    // candle-flash-attn keeps nothing: then the forward pass is repeated
    let (out, lse) = match lse {
        Some(lse) => (out.clone(), lse.clone()),
        None => by_lists([q, k, v], h, &lists)?,
    };
    let inputs = BackwardInputs {
        q: ptr(q)?,
        k: ptr(k)?,
        v: ptr(v)?,
        out: ptr(&out)?,
        lse: ptr(&lse)?,
        dout: ptr(dout)?,
    };
    let outputs = BackwardOutputs {
        q: ptr(&dq)?,
        k: ptr(&dk)?,
        v: ptr(&dv)?,
        delta: ptr(&delta)?,
    };
    crate::work::count((5 * h.heads, lists.pairs(), h.dim));
    let queries = lists.queries.addresses()?;
    a.backward(gpu, &inputs, queries, keys.addresses()?, &outputs)?;
    Ok([dq, dk, dv])
}
