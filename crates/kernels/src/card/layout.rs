//! Copies: columns narrowed, padded and concatenated, rows gathered and scattered.

use candle_core::Tensor;
use randori_cuda::ops::layout::{self, Columns, DeviceScatterLists, ScatterLists};

use super::memory::{float, gpu, maybe, ptr, room};
use crate::{Error, Result, rows, tensors::with_last};

/// The columns of a tensor's rows from `start` on.
fn columns(t: &Tensor, start: usize) -> Result<Columns> {
    Ok(Columns {
        at: ptr(t)?,
        width: rows(t.dims()).1,
        start,
    })
}

/// Columns `start..start + len` of the last axis.
pub fn narrow(x: &Tensor, start: usize, len: usize) -> Result<Tensor> {
    let y = room(x, &with_last(x.dims(), len))?; // all columns are written
    let size = (rows(x.dims()).0, len);
    layout::columns(gpu()?, float(x)?, columns(x, start)?, columns(&y, 0)?, size)?;
    Ok(y)
}

/// The gradient of [`narrow`]: dy padded with zeros to `width` columns.
pub fn widen(dy: &Tensor, start: usize, width: usize) -> Result<Tensor> {
    let dx = gpu()?.zeros(&with_last(dy.dims(), width), dy.dtype())?;
    let size = rows(dy.dims());
    let to = columns(&dx, start)?;
    layout::columns(gpu()?, float(dy)?, columns(dy, 0)?, to, size)?;
    Ok(dx)
}

/// Concatenates along the last axis.
pub fn concat(xs: &[Tensor]) -> Result<Tensor> {
    let total = xs.iter().map(|x| rows(x.dims()).1).sum();
    let Some(first) = xs.first() else {
        return Err(Error::rule("nothing to join"));
    };
    let y = room(first, &with_last(first.dims(), total))?; // all columns are written
    let mut start = 0;
    for x in xs {
        let size = rows(x.dims());
        layout::columns(gpu()?, float(x)?, columns(x, 0)?, columns(&y, start)?, size)?;
        start += size.1;
    }
    Ok(y)
}

/// Gathers rows of the first axis.
pub fn gather(x: &Tensor, index: &[u32]) -> Result<Tensor> {
    let mut dims = x.dims().to_vec();
    let (all, width) = (dims[0], dims[1..].iter().product());
    if let Some(bad) = index.iter().find(|i| **i as usize >= all) {
        return Err(Error::rule(format!("row {bad} of {all}")));
    }
    dims[0] = index.len();
    let y = room(x, &dims)?; // every row is written
    let ids = gpu()?.upload(index)?;
    let (from, list) = ((ptr(x)?, all, width), (ptr(&ids)?, index.len()));
    layout::gather(gpu()?, float(x)?, from, list, ptr(&y)?)?;
    Ok(y)
}

/// onto\[index\[i\]\] += factors\[i\] · x\[i\], in order; without factors they are 1.
pub fn scatter_by(x: &Tensor, index: &[u32], factors: Option<&[f32]>, onto: &Tensor) -> Result<()> {
    if index.is_empty() {
        return Ok(());
    }
    let width = x.dims()[1..].iter().product();
    let lists = ScatterLists::new(index, onto.dims()[0])?;
    let gpu = gpu()?;
    let factors = factors.map(|f| -> Result<Tensor> {
        let sorted: Vec<f32> = lists.sources.iter().map(|s| f[*s as usize]).collect();
        Ok(gpu.upload(&sorted)?)
    });
    let factors = factors.transpose()?;
    let (rows, starts) = (gpu.upload(&lists.rows)?, gpu.upload(&lists.starts)?);
    let sources = gpu.upload(&lists.sources)?;
    let on_device = DeviceScatterLists {
        rows: ptr(&rows)?,
        count: lists.rows.len(),
        starts: ptr(&starts)?,
        sources: ptr(&sources)?,
        factors: maybe(factors.as_ref())?,
    };
    let (from, to) = (ptr(x)?, ptr(onto)?);
    Ok(layout::scatter(
        gpu,
        float(x)?,
        width,
        from,
        &on_device,
        to,
    )?)
}
