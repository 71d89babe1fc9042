//! A stored tensor's bytes as a tensor in memory, a piece at a time.

use candle_core::{DType, Device, Tensor, WithDType};
use half::{bf16, f16};
use randori_formats::{
    ByteSource, Columns, Dtype, Format, Stored, Swap,
    gguf::Block,
    packed::{Exact, Packed},
};
use randori_kernels::{Error, Result};
use randori_qlora::{GgufMatrix, Nf4Matrix, QuantMatrix};
use randori_sdk::dialect::Values;

/// About so many bytes of the file are held at once: they stay in the second cache until they are
/// decoded, and the allocator hands the same memory out again (a larger piece would be new, zeroed
/// pages every time).
pub(super) const CHUNK: u64 = 512 << 10;

/// Most bytes that are needed beside a dense tensor while it is read from this one.
pub(super) fn reading(stored: &Stored) -> u64 {
    let count = stored.shape.iter().product::<usize>() as u64;
    let bytes = match stored.order.is_some() || stored.columns.is_some() {
        true => stored.len,
        false => stored.len.min(CHUNK),
    };
    match &stored.format {
        Format::Bnb4(_) => 2 * stored.len + 8 * count,
        // all codes and scales, and the values of some rows
        Format::Packed(packed) => stored.len + packed.reading() + CHUNK,
        // the blocks, as read and as a matrix, and their values, dequantised and as a list; of a
        // row where rows are read one by one
        Format::Block(_) => {
            let share = match stored.order {
                Some(_) => count / stored.shape.first().map_or(1, |&r| r.max(1) as u64),
                None => (count as u128 * u128::from(bytes) / u128::from(stored.len.max(1))) as u64,
            };
            match can_keep(stored) {
                true => 2 * bytes + 8 * share,
                false => bytes + 4 * share, // no matrix is made of them
            }
        }
        _ => bytes,
    }
}

/// Whether products read a tensor's GGUF blocks, so that a base can keep them.
pub(super) fn can_keep(stored: &Stored) -> bool {
    stored.factor == 1.0
        && stored.values == Values::Same
        && !stored.order.is_some_and(|order| order.columns)
        && matches!(stored.format, Format::Block(block) if randori_qlora::dtype(block).is_some())
}

/// Whether a base keeps a tensor with [`super::Quant::Nf4`]: in bitsandbytes' 4 bits, or packed so
/// that products read exactly its values. A checkpoint with such has chosen what stays dense.
pub(super) fn is_chosen(stored: &Stored) -> bool {
    match &stored.format {
        Format::Bnb4(_) => true,
        Format::Packed(packed) => packed.exact().is_some(),
        _ => false,
    }
}

/// Reads a tensor as dense numbers of this dtype; `name` is for errors.
pub(super) fn dense(
    name: &str,
    stored: &Stored,
    place: &ByteSource,
    dtype: Dtype,
) -> Result<Tensor> {
    match dtype {
        Dtype::F32 => collect(name, stored, place, |v: f32| Some(v)),
        Dtype::Bf16 => collect(name, stored, place, |v| Some(bf16::from_f32(v))),
        // 65,504 is f16's largest number: a silent infinity would surface as NaN much later
        Dtype::F16 => collect(name, stored, place, |v| {
            Some(f16::from_f32(v)).filter(|h| h.is_finite() || !v.is_finite())
        }),
    }
}

/// Keeps a tensor's blocks as the file has them.
pub(super) fn blocks(name: &str, stored: &Stored, place: &ByteSource) -> Result<QuantMatrix> {
    if let Format::Bnb4(four) = &stored.format {
        let codes = place.read(stored.start, stored.len)?;
        let parts = four.parts(name, &stored.shape, codes)?;
        return Nf4Matrix::from_parts(parts)
            .map(QuantMatrix::Nf4)
            .map_err(|e| Error::rule(format!("{name}: {e}")));
    }
    let bytes = place.read(stored.start, stored.len)?;
    if let Format::Packed(packed) = &stored.format {
        return exact(name, packed, stored, &bytes);
    }
    let order = stored.order.map(|order| order.of_file());
    matrix(name, stored, stored.shape[0], &bytes, order.as_deref())
}

/// Keeps a packed matrix in the format of products that has exactly its values.
fn exact(name: &str, packed: &Packed, stored: &Stored, bytes: &[u8]) -> Result<QuantMatrix> {
    let reader = packed.reader(name, bytes)?;
    let kept = match packed.exact() {
        Some(Exact::Four { block }) => {
            Nf4Matrix::from_parts(reader.four(block)).map(QuantMatrix::Nf4)
        }
        Some(Exact::Eight) => {
            let blocks = Stored {
                format: Format::Block(Block::Q8_0),
                ..stored.clone()
            };
            return matrix(name, &blocks, stored.shape[0], &reader.eight(), None);
        }
        None => {
            return Err(Error::rule(format!(
                "{name} is stored as {}, which no product reads",
                stored.format
            )));
        }
    };
    kept.map_err(|e| Error::rule(format!("{name}: {e}")))
}

fn matrix(
    name: &str,
    stored: &Stored,
    rows: usize,
    bytes: &[u8],
    order: Option<&[u32]>,
) -> Result<QuantMatrix> {
    let dtype = match stored.format {
        Format::Block(block) => randori_qlora::dtype(block),
        _ => None,
    };
    let Some(dtype) = dtype else {
        return Err(Error::rule(format!(
            "{name} is stored as {}, which no product reads",
            stored.format
        )));
    };
    let columns: usize = stored.shape[1..].iter().product();
    GgufMatrix::new(dtype, rows, columns, bytes, order)
        .map(QuantMatrix::Gguf)
        .map_err(|e| Error::rule(format!("{name}: {e}")))
}

/// Decodes every value in order and keeps what `convert` makes of it.
fn collect<T: WithDType>(
    name: &str,
    stored: &Stored,
    place: &ByteSource,
    convert: impl Fn(f32) -> Option<T>,
) -> Result<Tensor> {
    let count: usize = stored.shape.iter().product();
    let rows = stored.shape.first().copied().unwrap_or(1).max(1) as u64;
    let stride = stored.len / rows;
    let mut out: Vec<T> = Vec::with_capacity(count);
    let mut push = |v: f32| {
        let Some(own) = stored.values.own(v * stored.factor) else {
            return Err(Error::rule(format!(
                "{name}: the file has {v} for a rate of decay, which is below 0"
            )));
        };
        match convert(own) {
            Some(t) => {
                out.push(t);
                Ok(())
            }
            None => Err(Error::rule(format!(
                "{name}: {own} is beyond f16; load it as bf16 or f32"
            ))),
        }
    };
    if matches!(stored.format, Format::Bnb4(_)) {
        values(blocks(name, stored, place)?)?
            .into_iter()
            .try_for_each(&mut push)?;
    } else if let Format::Packed(packed) = &stored.format {
        unpack(name, packed, stored, place, &mut push)?;
    } else if let Some(columns) = stored.columns {
        gather(name, stored, place, columns, &mut push)?;
    } else if let Some(order) = stored.order {
        ordered(name, stored, place, order, &mut push)?;
    } else {
        let step = (CHUNK / stride.max(1)).clamp(1, rows);
        for first in (0..rows).step_by(step as usize) {
            let n = step.min(rows - first);
            let bytes = place.read(stored.start + first * stride, n * stride)?;
            decode(name, stored, n as usize, &bytes, &mut push)?;
        }
    }
    Ok(Tensor::from_vec(
        out,
        stored.shape.as_slice(),
        &Device::Cpu,
    )?)
}

/// Every value of a tensor whose rows, or columns, the file has in another order. They are few and
/// small: the whole tensor at once.
fn ordered(
    name: &str,
    stored: &Stored,
    place: &ByteSource,
    order: Swap,
    push: &mut impl FnMut(f32) -> Result<()>,
) -> Result<()> {
    let bytes = place.read(stored.start, stored.len)?;
    let rows = stored.shape.first().copied().unwrap_or(1).max(1);
    let stride = bytes.len() / rows;
    let row = |row: usize| bytes.get(row * stride..(row + 1) * stride);
    let order_of_file = order.of_file();
    if !order.columns {
        for from in order_of_file {
            let row = row(from as usize).unwrap_or_default();
            decode(name, stored, 1, row, push)?;
        }
        return Ok(());
    }
    for from in 0..rows {
        let mut values = Vec::with_capacity(order_of_file.len());
        let row = row(from).unwrap_or_default();
        decode(name, stored, 1, row, &mut |v| {
            values.push(v);
            Ok(())
        })?;
        for column in &order_of_file {
            let value = values.get(*column as usize);
            push(*value.ok_or_else(|| Error::rule(format!("{name} is cut short")))?)?;
        }
    }
    Ok(())
}

/// Every value of a packed matrix, row by row.
fn unpack(
    name: &str,
    packed: &Packed,
    stored: &Stored,
    place: &ByteSource,
    push: &mut impl FnMut(f32) -> Result<()>,
) -> Result<()> {
    let codes = place.read(stored.start, stored.len)?;
    let reader = packed.reader(name, &codes)?;
    let (rows, columns) = (stored.shape[0], stored.shape[1]);
    let step = (CHUNK as usize / (4 * columns)).clamp(1, rows);
    for first in (0..rows).step_by(step) {
        let n = step.min(rows - first);
        let mut values = vec![0.0; n * columns];
        reader.fill(first..first + n, &mut values);
        values.into_iter().try_for_each(&mut *push)?;
    }
    Ok(())
}

/// Every value of a tensor whose rows are columns of what is stored, row by row.
fn gather(
    name: &str,
    stored: &Stored,
    place: &ByteSource,
    columns: Columns,
    push: &mut impl FnMut(f32) -> Result<()>,
) -> Result<()> {
    let Format::Dense(dtype) = stored.format else {
        return Err(Error::rule(format!(
            "{name} is columns of a matrix that is stored as {}",
            stored.format
        )));
    };
    let bytes = place.read(stored.start, stored.len)?;
    let (width, inputs) = (dtype.width() as usize, stored.shape[1..].iter().product());
    let mut row = Vec::with_capacity(width * inputs);
    for output in 0..stored.shape[0] {
        row.clear();
        for input in 0..inputs {
            let column = columns.first + columns.step * output;
            let at = (input * columns.total + column) * width;
            row.extend_from_slice(bytes.get(at..at + width).unwrap_or_default());
        }
        dtype.decode(&row, push)?;
    }
    Ok(())
}

/// Values of `rows` rows.
fn decode(
    name: &str,
    stored: &Stored,
    rows: usize,
    bytes: &[u8],
    push: &mut impl FnMut(f32) -> Result<()>,
) -> Result<()> {
    match &stored.format {
        Format::Dense(dtype) => dtype.decode(bytes, push),
        Format::Block(_) if can_keep(stored) => values(matrix(name, stored, rows, bytes, None)?)?
            .into_iter()
            .try_for_each(push),
        Format::Block(block) => randori_qlora::decode(*block, bytes)
            .map_err(|e| Error::rule(format!("{name}: {e}")))?
            .into_iter()
            .try_for_each(push),
        Format::Bnb4(_) | Format::Packed(_) => {
            Err(Error::rule(format!("{name} is read whole or not at all")))
        }
        Format::Other(dtype) => Err(Error::rule(format!(
            "{}; F32, F16 and BF16 can be read",
            unreadable(name, dtype)
        ))),
    }
}

fn values(matrix: QuantMatrix) -> Result<Vec<f32>> {
    let values = matrix
        .dequantise()
        .map_err(|e| Error::rule(e.to_string()))?;
    Ok(values.to_dtype(DType::F32)?.flatten_all()?.to_vec1()?)
}

pub(super) fn unreadable(name: &str, dtype: &str) -> String {
    format!("{name} has the dtype {dtype}")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use randori_formats::{Index, experts::unstack, packed, safetensors};
    use randori_sdk::dialect::{Layout, Stack};
    use serde_json::{Value, json};

    use super::*;

    /// Every packed format, decoded in pieces and as products read it (where its values are from:
    /// fixtures/packed.py of crates/formats).
    #[test]
    fn packed_matrices_have_their_packages_values() {
        let golden = include_bytes!("../../../formats/tests/fixtures/packed.safetensors");
        let configs = include_str!("../../../formats/tests/fixtures/packed.json");
        let configs: Value = serde_json::from_str(configs).unwrap();
        let flat = |t: Tensor| t.flatten_all().unwrap().to_vec1::<f32>().unwrap();
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        for (case, config) in configs.as_object().unwrap() {
            let mut index = Index::default();
            safetensors::add(&mut index, ByteSource::memory("x", golden.to_vec())).unwrap();
            let prefix = format!("{case}/");
            let own = std::mem::take(&mut index.tensors).into_iter();
            let own = own.filter_map(|(n, t)| Some((n.strip_prefix(&prefix)?.to_string(), t)));
            index.tensors = own.collect();
            let values = index.tensors.remove("values").unwrap();
            let mut wanted = values.numbers(case, &index.files[0]).unwrap();
            packed::join(&mut index, &json!({"quantization_config": config})).unwrap();
            let stack = Stack::new("experts", &["{}"], Layout::Columns);
            unstack(&mut index, &[stack]).unwrap();
            for (name, stored) in &index.tensors {
                let found = flat(dense(name, stored, &index.files[0], Dtype::F32).unwrap());
                let rest = wanted.split_off(found.len());
                assert_eq!(found, wanted, "{case} {name}");
                if is_chosen(stored) {
                    let matrix = blocks(name, stored, &index.files[0]).unwrap();
                    assert_eq!(flat(matrix.dequantise().unwrap()), wanted, "{case} {name}");
                    *kept.entry(matrix.format()).or_default() += 1;
                }
                wanted = rest;
            }
            assert!(wanted.is_empty(), "{case}");
        }
        let counts = [("int4", 8), ("mxfp4", 3), ("q8_0", 3)];
        assert_eq!(
            kept,
            counts.map(|(format, n)| (format.to_string(), n)).into()
        );
    }

    /// gpt-oss's order: (experts, in, 2 · out), gate and up taking turns; and the transpose of
    /// down.
    #[test]
    fn experts_are_read_out_of_a_stack_of_transposes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.safetensors");
        // the value is 100 · expert + 10 · input + output of the stored matrix
        let value = |e: usize, i: usize, o: usize| (100 * e + 10 * i + o) as f32;
        let values: Vec<f32> = (0..2 * 3 * 4)
            .map(|n| value(n / 12, n / 4 % 3, n % 4))
            .collect();
        for dtype in Dtype::ALL {
            let spec = safetensors::TensorSpec::dense("m.gate_up", vec![2, 3, 4], dtype);
            let mut writer = safetensors::Writer::create(&path, [&spec]).unwrap();
            writer.write(&dtype.encode("m", &values).unwrap()).unwrap();
            writer.finish().unwrap();
            for (layout, of) in [
                (Layout::Interleaved, [[0, 2], [1, 3]]),
                (Layout::Columns, [[0, 1], [2, 3]]),
            ] {
                let mut index = Index::default();
                safetensors::add(&mut index, ByteSource::open(&path).unwrap()).unwrap();
                let stack = Stack::new("gate_up", &["{}.gate", "{}.up"], layout);
                unstack(&mut index, &[stack]).unwrap();
                for (e, part, columns) in [(0, "gate", of[0]), (1, "up", of[1])] {
                    let name = format!("m.{e}.{part}");
                    let stored = &index.tensors[&name];
                    let place = index.source_of(stored).unwrap();
                    let found = dense(&name, stored, place, Dtype::F32).unwrap();
                    let wanted = columns.map(|o| [0, 1, 2].map(|i| value(e, i, o)).to_vec());
                    assert_eq!(found.to_vec2::<f32>().unwrap(), wanted, "{name} {layout:?}");
                }
            }
        }
    }
}
