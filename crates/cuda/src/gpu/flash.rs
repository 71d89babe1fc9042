//! Attention's forward pass by candle-flash-attn, where it applies: in bf16, for consecutive
//! queries that see all keys before them without a gap. It saves nothing for a backward pass.

use candle_core::{DType, Tensor};

use super::{Gpu, ptr};
use crate::{
    Float, Result,
    ops::{attention::Attention, layout, tiles::Span},
};

/// Attention's out (tokens, heads, dim), or `None` where this crate's own kernel must compute it.
///
/// # Errors
/// candle-flash-attn's errors.
pub fn forward(a: &Attention, [q, k, v]: [&Tensor; 3], spans: &[Span]) -> Result<Option<Tensor>> {
    if a.float != Float::Bf16 || !a.dim.is_multiple_of(8) || a.dim > 256 || !fits(a, spans) {
        return Ok(None);
    }
    let gpu = Gpu::open()?;
    // a response sees its prompt's keys, then its own: gather them into consecutive rows
    let rows: Vec<u32> = spans
        .iter()
        .flat_map(|s| s.keys.iter())
        .flat_map(|run| run.row as u32..(run.row + run.len) as u32)
        .collect();
    let lone = spans.iter().all(|s| s.keys.len() == 1) && rows.len() == a.tokens;
    let together = |t: &Tensor| -> Result<Tensor> {
        if lone {
            return Ok(t.clone());
        }
        let (all, width) = (t.dims()[0], a.kv_heads * a.dim);
        // every row is written
        let y = gpu.room(&[rows.len(), a.kv_heads, a.dim], DType::BF16)?;
        let ids = gpu.upload(&rows)?;
        let list = (ptr(&ids)?, rows.len());
        layout::gather(gpu, a.float, (ptr(t)?, all, width), list, ptr(&y)?)?;
        Ok(y)
    };
    let held = |s: &Span| s.keys.iter().map(|k| k.len).sum::<usize>();
    let ends = |len: &dyn Fn(&Span) -> usize| -> Result<Tensor> {
        let mut sum = 0;
        let next = |s: &Span| {
            sum += len(s) as u32;
            sum
        };
        let ends: Vec<u32> = std::iter::once(0).chain(spans.iter().map(next)).collect();
        gpu.upload(&ends)
    };
    let out = candle_flash_attn::flash_attn_varlen_alibi_windowed_softcap(
        &q.reshape((a.tokens, a.heads, a.dim))?,
        &together(&k.reshape(((), a.kv_heads, a.dim))?)?,
        &together(&v.reshape(((), a.kv_heads, a.dim))?)?,
        None,
        &ends(&|s| s.len)?,
        &ends(&held)?,
        spans.iter().map(|s| s.len).max().unwrap_or(0),
        spans.iter().map(held).max().unwrap_or(0),
        a.scale,
        a.window.map(|w| w - 1), // the keys before a query's own
        Some(0),
        a.softcap.unwrap_or(0.0),
    )?;
    Ok(Some(out))
}

/// Whether cumulative lengths describe the spans: rows and positions are consecutive, and each
/// span's queries are at its last keys' positions.
fn fits(a: &Attention, spans: &[Span]) -> bool {
    let mut next = 0;
    let all = spans.iter().all(|s| {
        let follows = s.row == next;
        next += s.len;
        let mut position = 0;
        let dense = s.keys.iter().all(|run| {
            let dense = run.position == position;
            position += run.len;
            dense
        });
        follows && dense && position == s.position + s.len
    });
    all && next == a.tokens
}
