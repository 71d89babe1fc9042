//! Attention over packed rows or a paged cache, with masks as lists of tiles.

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    attention::{Attention, BackwardInputs, BackwardOutputs},
    tiles::{KeyRun, Span},
};

use super::{
    lists::{ListsByWindow, WindowLists},
    memory::{float, gpu, ptr, room},
};
use crate::{Heads, Plan, Result, Run, SegmentMask};

/// The sizes of a call on q (tokens, heads · dim).
pub fn sizes(q: &Tensor, h: &Heads) -> Result<Attention> {
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
    h: &Heads,
    known: &ListsByWindow,
    spans: impl FnOnce() -> Vec<Span>,
) -> Result<(Tensor, Option<Tensor>)> {
    let a = sizes(q, h)?;
    #[cfg(feature = "flash-attn")]
    let spans = {
        let spans = spans();
        if let Some(out) = randori_cuda::gpu::flash::forward(&a, [q, k, v], &spans)? {
            return Ok((out, None));
        }
        || spans
    };
    let lists = WindowLists::of(known, a.tokens, h.window, spans)?;
    let (out, lse) = by_lists([q, k, v], h, &lists)?;
    Ok((out, Some(lse)))
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
    let run = |r: &Run| KeyRun {
        row: r.row,
        len: r.len,
        position: r.position,
    };
    let span = |mask: &SegmentMask| Span {
        row: mask.queries.row,
        len: mask.queries.len,
        position: mask.queries.position,
        keys: mask.keys.iter().map(run).collect(),
    };
    plan.masks.iter().map(span).collect()
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
    let lists = WindowLists::of(&plan.lists, a.tokens, h.window, || spans(plan))?;
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
