//! Attention over a packed plan or a paged cache, by the lists of `randori_cuda::ops::tiles`.

use std::sync::{Arc, Mutex, PoisonError};

use candle_core::{DType, Tensor};
use randori_cuda::ops::{
    attention::{Attention, BackwardInputs, BackwardOutputs, DeviceLists},
    tiles::{KeyRun, Lists, Span},
};

use super::{float, gpu, ptr, room};
use crate::{Heads, Plan, Result, Run, Sight as Seen};

/// A list on the GPU.
struct Uploaded {
    blocks: Tensor,
    count: usize,
    runs: Tensor,
}

impl Uploaded {
    fn new(lists: &Lists) -> Result<Uploaded> {
        let gpu = gpu()?;
        let mut runs = lists.runs.concat();
        if runs.is_empty() {
            runs.push(0); // an address at least
        }
        Ok(Uploaded {
            blocks: gpu.upload(&lists.blocks.concat())?,
            count: lists.blocks.len(),
            runs: gpu.upload(&runs)?,
        })
    }

    fn met(&self) -> Result<DeviceLists> {
        Ok(DeviceLists {
            blocks: ptr(&self.blocks)?,
            count: self.count,
            runs: ptr(&self.runs)?,
        })
    }
}

/// The lists of one pass under one window: who sees whom, and the inverse when a backward pass has
/// asked for it.
pub struct Sight {
    window: usize,
    lists: Lists,
    queries: Uploaded,
    keys: Mutex<Option<Arc<Uploaded>>>,
}

/// Those of a pass, by window.
pub type Sights = Mutex<Vec<Arc<Sight>>>;

/// Found, or made from the spans.
fn sight(
    known: &Sights,
    rows: usize,
    window: usize,
    spans: impl FnOnce() -> Vec<Span>,
) -> Result<Arc<Sight>> {
    let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sight) = known.iter().find(|s| s.window == window) {
        return Ok(sight.clone());
    }
    let limit = (window != usize::MAX).then_some(window);
    let lists = Lists::queries(&spans(), rows, limit)?;
    let sight = Arc::new(Sight {
        window,
        queries: Uploaded::new(&lists)?,
        lists,
        keys: Mutex::default(),
    });
    known.push(sight.clone());
    Ok(sight)
}

/// Sizes of a call on q (tokens, heads · dim).
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

/// q against k and v over packed rows or a cache, by candle-flash-attn where there is that, else by
/// a list.
pub fn by_lists(
    [q, k, v]: [&Tensor; 3],
    h: &Heads,
    sights: &Sights,
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
    let sight = sight(sights, a.tokens, h.window, spans)?;
    by_own([q, k, v], h, &sight)
}

/// By our kernels, which keep log Σ e^score.
fn by_own([q, k, v]: [&Tensor; 3], h: &Heads, sight: &Sight) -> Result<(Tensor, Option<Tensor>)> {
    let a = sizes(q, h)?;
    let gpu = gpu()?;
    let out = room(q, q.dims())?; // every query of every block is written
    let lse = gpu.room(&[h.heads, a.tokens], DType::F32)?;
    let pairs = visible(&sight.lists);
    crate::work::count((2 * h.heads, pairs, h.dim));
    a.forward(
        gpu,
        ptr(q)?,
        ptr(k)?,
        ptr(v)?,
        sight.queries.met()?,
        ptr(&out)?,
        ptr(&lse)?,
    )?;
    Ok((out, Some(lse)))
}

/// Pairs of query and key in the tiles.
fn visible(lists: &Lists) -> usize {
    let of = |b: &[i32; 5]| {
        let runs = &lists.runs[b[3] as usize..b[4] as usize];
        b[1] as usize * runs.iter().map(|r| r[1] as usize).sum::<usize>()
    };
    lists.blocks.iter().map(of).sum()
}

/// The spans of packed rows as plain numbers.
pub(super) fn spans(plan: &Plan) -> Vec<Span> {
    let run = |r: &Run| KeyRun {
        row: r.row,
        len: r.len,
        position: r.position,
    };
    let span = |s: &Seen| Span {
        row: s.own.row,
        len: s.own.len,
        position: s.own.position,
        keys: s.seen.iter().map(run).collect(),
    };
    plan.sights.iter().map(span).collect()
}

/// dq, dk, dv.
pub fn backward(
    plan: &Plan,
    [q, k, v]: [&Tensor; 3],
    h: &Heads,
    (out, lse): (&Tensor, &Option<Tensor>),
    dout: &Tensor,
) -> Result<[Tensor; 3]> {
    let a = sizes(q, h)?;
    let sight = sight(&plan.lists, a.tokens, h.window, || spans(plan))?;
    let keys = match &mut *sight.keys.lock().unwrap_or_else(PoisonError::into_inner) {
        Some(keys) => keys.clone(),
        none => none
            .insert(Arc::new(Uploaded::new(&sight.lists.keys(k.dims()[0])?)?))
            .clone(),
    };
    let gpu = gpu()?;
    // every row is in some block of the lists, and all rows of blocks are written
    let (dq, dk, dv) = (room(q, q.dims())?, room(k, k.dims())?, room(v, v.dims())?);
    let delta = gpu.room(&[h.heads, a.tokens], DType::F32)?;
    // candle-flash-attn keeps nothing: then ours runs again
    let (out, lse) = match lse {
        Some(lse) => (out.clone(), Some(lse.clone())),
        None => by_own([q, k, v], h, &sight)?,
    };
    let lse = match &lse {
        Some(lse) => ptr(lse)?,
        None => return Err(crate::Error::rule("attention kept nothing on the GPU")),
    };
    let given = BackwardInputs {
        q: ptr(q)?,
        k: ptr(k)?,
        v: ptr(v)?,
        out: ptr(&out)?,
        lse,
        dout: ptr(dout)?,
    };
    let to = BackwardOutputs {
        q: ptr(&dq)?,
        k: ptr(&dk)?,
        v: ptr(&dv)?,
        delta: ptr(&delta)?,
    };
    crate::work::count((5 * h.heads, visible(&sight.lists), h.dim));
    a.backward(gpu, &given, sight.queries.met()?, keys.met()?, &to)?;
    Ok([dq, dk, dv])
}
