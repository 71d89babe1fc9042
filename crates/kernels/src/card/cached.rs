//! Attention over the paged KV cache.

use candle_core::{DType, Tensor};
use randori_cuda::ops::decode::{Pages, Sequences};

use super::{
    attention,
    memory::{gpu, ptr, room},
};
use crate::{Cache, Error, Heads, PAGE, Result, cache::Memory};

/// Most new tokens of a sequence for which the step is computed as decoding.
const FEW: usize = 4;

impl Cache {
    /// Appends the new rows of k and v, then computes attention of q over the sequences. `at` is
    /// the block and the number of the call of attention inside it; without `kv` that of a call
    /// that has appended them. With sinks or chunks, of which the kernel for decoding knows
    /// nothing, the step is computed as a prompt is.
    pub(super) fn attend(
        &mut self,
        at: (usize, usize),
        q: &Tensor,
        kv: Option<[&Tensor; 2]>,
        sinks: Option<&Tensor>,
        h: &Heads,
    ) -> Result<(Tensor, Option<Tensor>)> {
        let elsewhere = || Error::rule("this cache is not on the GPU");
        let Memory::Card(paged) = &mut self.memory else {
            return Err(elsewhere());
        };
        let a = attention::sizes(q, h)?;
        let (pool, step) = match kv {
            Some([k, _]) => paged.pool(at, &k.reshape((k.dims()[0], h.kv_heads * h.dim))?)?,
            None => paged.held(at)?,
        };
        let step = step.ok_or_else(elsewhere)?;
        let gpu = gpu()?;
        let (to_k, to_v) = (ptr(&pool.k)?, ptr(&pool.v)?);
        if let Some([k, v]) = kv {
            let (n, rows) = (k.dims()[0], ptr(&step.rows)?);
            a.append(gpu, ptr(k)?, ptr(v)?, rows, n, to_k, to_v)?;
        }
        if step.most_queries > FEW || sinks.is_some() || h.chunk.is_some() {
            let (qkv, spans) = ([q, &pool.k, &pool.v], || step.spans.clone());
            return attention::forward(qkv, sinks, h, &step.lists, spans);
        }
        let out = room(q, q.dims())?; // every row is some sequence's
        let (parts, weights) = a.decode_room(step.most_keys);
        let parts = gpu.room(&[parts.max(1)], DType::F32)?;
        let weights = gpu.room(&[weights.max(1)], DType::F32)?;
        let pages = Pages {
            k: to_k,
            v: to_v,
            tables: ptr(&step.tables)?,
            pages: step.width,
            page: PAGE,
        };
        let sequences = Sequences {
            list: ptr(&step.sequences)?,
            count: step.count,
            queries: step.most_queries,
            keys: step.most_keys,
        };
        let (parts, weights) = (ptr(&parts)?, ptr(&weights)?);
        a.decode(gpu, ptr(q)?, &pages, &sequences, ptr(&out)?, parts, weights)?;
        crate::work::count((2 * h.heads, step.most_keys * step.count, h.dim));
        Ok((out, None))
    }
}
