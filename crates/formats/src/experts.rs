//! Experts that a file has stacked, as the matrices that they are: entries of the index that are
//! slices of a stored tensor, so that one expert is read at a time.

use randori_sdk::dialect::{Layout, Stack};

use crate::{Columns, Error, Format, Index, Result, Stored, packed::Packed};

/// Replaces stacked tensors by their parts.
///
/// # Errors
/// A shape that no stack of these parts has, a format of which no part can be read alone, a part's
/// name that exists already.
pub fn unstack(index: &mut Index, stacks: &[Stack]) -> Result<()> {
    for stack in stacks {
        let end = format!(".{}", stack.stored);
        let names = index.tensors.keys().filter(|n| n.ends_with(&end));
        for name in names.cloned().collect::<Vec<_>>() {
            let Some(tensor) = index.tensors.remove(&name) else {
                continue;
            };
            let place = index.source_of(&tensor)?.name.clone();
            let parts = match &tensor.format {
                Format::Packed(packed) => packed_parts(stack, &tensor, packed),
                _ => parts(stack, &tensor),
            };
            let parts = parts.map_err(|what| Error::rule(format!("{place}: {name} {what}")))?;
            let layer = name.strip_suffix(&end).unwrap_or(&name);
            for (part, stored) in parts {
                index.add(format!("{layer}.{part}"), stored)?;
            }
        }
    }
    Ok(())
}

fn wrong(stack: &Stack, tensor: &Stored) -> String {
    let (shape, count) = (&tensor.shape, stack.parts.len());
    format!("has the shape {shape:?}, which no stack of experts in {count} parts has")
}

/// The same of a stack in few bits: (experts, out, in) whatever the layout of dense ones, so that
/// parts are rows.
fn packed_parts(
    stack: &Stack,
    tensor: &Stored,
    packed: &Packed,
) -> std::result::Result<Vec<(String, Stored)>, String> {
    let count = stack.parts.len();
    let &[experts, rows, inputs] = &tensor.shape[..] else {
        return Err(wrong(stack, tensor));
    };
    if tensor.len == 0 || count == 0 || rows % count != 0 {
        return Err(wrong(stack, tensor));
    }
    let (outputs, each) = (rows / count, tensor.len / experts as u64);
    let mut all = Vec::new();
    for expert in 0..experts {
        for (i, name) in stack.parts.iter().enumerate() {
            let (first, step) = match stack.layout {
                Layout::Interleaved => (i, count),
                Layout::Rows | Layout::Columns => (i * outputs, 1),
            };
            let part = Stored {
                start: tensor.start + expert as u64 * each,
                len: each,
                shape: vec![outputs, inputs],
                format: Format::Packed(Box::new(packed.expert(expert, first, step, outputs))),
                ..tensor.clone()
            };
            all.push((name.replace("{}", &expert.to_string()), part));
        }
    }
    Ok(all)
}

/// Every expert's parts, by their names within the layer.
fn parts(stack: &Stack, tensor: &Stored) -> std::result::Result<Vec<(String, Stored)>, String> {
    let (experts, rows, inputs) = match (tensor.shape.as_slice(), stack.layout) {
        (&[experts, rows], _) => (experts, rows, None),
        (&[experts, rows, inputs], Layout::Rows) => (experts, rows, Some(inputs)),
        (&[experts, inputs, rows], _) => (experts, rows, Some(inputs)),
        _ => return Err(wrong(stack, tensor)),
    };
    let count = stack.parts.len();
    // without values, a damaged file could claim any number of experts
    if tensor.len == 0 || count == 0 || rows % count != 0 {
        return Err(wrong(stack, tensor));
    }
    let whole = match stack.layout {
        Layout::Rows => tensor.format.block().is_some(),
        _ => matches!(tensor.format, Format::Dense(_)),
    };
    if !whole {
        return Err(format!(
            "is stored as {}, which cannot be split",
            tensor.format
        ));
    }
    let outputs = rows / count;
    let (each, mut all) = (tensor.len / experts as u64, Vec::new());
    for expert in 0..experts {
        for (i, name) in stack.parts.iter().enumerate() {
            let (start, len, columns) = match (stack.layout, inputs) {
                (Layout::Rows, _) | (Layout::Columns, None) => {
                    let len = each / count as u64;
                    (i as u64 * len, len, None)
                }
                (Layout::Columns, _) => (0, each, Some((i * outputs, 1))),
                (Layout::Interleaved, _) => (0, each, Some((i, count))),
            };
            let part = Stored {
                start: tensor.start + expert as u64 * each + start,
                len,
                shape: [outputs].into_iter().chain(inputs).collect(),
                columns: columns.map(|(first, step)| Columns {
                    total: rows,
                    first,
                    step,
                }),
                ..tensor.clone()
            };
            all.push((name.replace("{}", &expert.to_string()), part));
        }
    }
    Ok(all)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use randori_sdk::dialect::Values;

    use super::*;
    use crate::{ByteSource, Dtype, gguf::Block};

    const GATE_UP: [&str; 2] = ["experts.{}.gate.weight", "experts.{}.up.weight"];

    fn stack(layout: Layout) -> Stack {
        Stack::new("experts.gate_up", &GATE_UP, layout)
    }

    /// An index of one tensor, whose values are f32 or blocks.
    fn index(shape: &[usize], format: Format) -> Index {
        let mut tensor = Stored {
            file: 0,
            start: 64,
            len: 0,
            shape: shape.to_vec(),
            format,
            order: None,
            columns: None,
            factor: 1.0,
            values: Values::Same,
        };
        tensor.len = tensor.wanted_bytes().unwrap_or(4);
        let mut index = Index::default();
        index.files.push(ByteSource::memory("x", vec![0; 8]).into());
        index
            .add("layers.3.experts.gate_up".into(), tensor)
            .unwrap();
        index
    }

    #[test]
    fn rows_of_dense_numbers_and_of_blocks_are_slices() {
        for (format, row) in [
            (Format::Dense(Dtype::Bf16), 64),
            (Format::Block(Block::Q8_0), 34),
        ] {
            let mut index = index(&[2, 6, 32], format.clone());
            unstack(&mut index, &[stack(Layout::Rows)]).unwrap();
            let names: Vec<&String> = index.tensors.keys().collect();
            let wanted = ["0.gate", "0.up", "1.gate", "1.up"];
            let wanted = wanted.map(|n| format!("layers.3.experts.{n}.weight"));
            assert_eq!(names, wanted.iter().collect::<Vec<_>>());
            for (i, part) in index.tensors.values().enumerate() {
                assert_eq!((&part.shape[..], part.len), (&[3, 32][..], 3 * row));
                assert_eq!(part.start, 64 + i as u64 * 3 * row);
                assert_eq!(
                    (&part.format, part.wanted_bytes()),
                    (&format, Some(part.len))
                );
            }
        }
    }

    #[test]
    fn columns_are_taken_from_the_whole_matrix_of_an_expert() {
        for (layout, first, step) in [(Layout::Columns, 3, 1), (Layout::Interleaved, 1, 2)] {
            let mut index = index(&[2, 5, 6], Format::Dense(Dtype::F32));
            unstack(&mut index, &[stack(layout)]).unwrap();
            let up = &index.tensors["layers.3.experts.1.up.weight"];
            assert_eq!(
                (&up.shape[..], up.start, up.len),
                (&[3, 5][..], 64 + 120, 120)
            );
            let total = 6;
            let wanted = Columns { total, first, step };
            assert_eq!(up.columns, Some(wanted));
        }
    }

    #[test]
    fn biases_are_vectors() {
        let mut rows = index(&[2, 6], Format::Dense(Dtype::F32));
        unstack(&mut rows, &[stack(Layout::Columns)]).unwrap();
        let up = &rows.tensors["layers.3.experts.1.up.weight"];
        assert_eq!(
            (&up.shape[..], up.start, up.len),
            (&[3][..], 64 + 24 + 12, 12)
        );
        assert_eq!(up.columns, None);
    }

    #[test]
    fn what_is_no_such_stack_is_refused() {
        for (shape, format, layout, says) in [
            (
                vec![2, 5, 4],
                Format::Dense(Dtype::F32),
                Layout::Rows,
                "in 2 parts",
            ),
            (
                vec![6],
                Format::Dense(Dtype::F32),
                Layout::Rows,
                "in 2 parts",
            ),
            (
                vec![1 << 40, 0, 4],
                Format::Dense(Dtype::F32),
                Layout::Rows,
                "in 2 parts",
            ),
            (
                vec![2, 32, 64],
                Format::Block(Block::Q8_0),
                Layout::Interleaved,
                "stored as Q8_0, which cannot be split",
            ),
            (
                vec![2, 2, 4],
                Format::Other("I8".into()),
                Layout::Rows,
                "stored as I8",
            ),
        ] {
            let error = unstack(&mut index(&shape, format), &[stack(layout)]);
            let error = error.unwrap_err().to_string();
            let place = error.starts_with("x: layers.3.experts.gate_up ");
            assert!(place && error.contains(says), "{error}");
        }
    }
}
