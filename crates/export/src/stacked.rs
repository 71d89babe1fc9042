//! Tensors in which a checkpoint stacks the matrices of all experts of a layer: which weights each
//! is made of, and their bytes in its order.

use std::collections::BTreeMap;

use randori_sdk::dialect::{Layout, Stack};

use crate::{Error, Result};

/// A tensor to be written.
#[derive(Debug, PartialEq)]
pub(crate) struct Unit {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    /// The weights that it holds: one, or of a stack each expert's parts, expert by expert.
    pub(crate) weights: Vec<String>,
    /// Of a stack how many parts an expert has, and how they lie.
    stack: Option<(usize, Layout)>,
}

/// A weight of a stack: its expert, which part of it, its name and shape.
type Member = (usize, usize, String, Vec<usize>);

/// The tensors that hold these weights.
///
/// # Errors
/// A stack of which a weight is missing, or has another shape than the others.
pub(crate) fn units(list: Vec<(String, Vec<usize>)>, stacks: &[Stack]) -> Result<Vec<Unit>> {
    let mut units = Vec::new();
    let mut found: BTreeMap<String, (usize, &Stack, Vec<Member>)> = BTreeMap::new();
    for (name, shape) in list {
        let single = |name: String, shape| Unit {
            weights: vec![name.clone()],
            name,
            shape,
            stack: None,
        };
        let Some((stack, stored, expert, part)) = member(stacks, &name) else {
            units.push(single(name, shape));
            continue;
        };
        let (.., members) = found.entry(stored.clone()).or_insert_with(|| {
            units.push(single(stored, Vec::new())); // in the place of its first weight
            (units.len() - 1, stack, Vec::new())
        });
        members.push((expert, part, name, shape));
    }
    for (name, (at, stack, members)) in found {
        units[at] = stacked(name, stack, members)?;
    }
    Ok(units)
}

/// Which weight of which stack this is.
fn member<'s>(stacks: &'s [Stack], name: &str) -> Option<(&'s Stack, String, usize, usize)> {
    let one = |stack: &'s Stack, part: usize| {
        let (start, end) = stack.parts[part].split_once("{}")?;
        let start = format!(".{start}");
        let at = name.find(&start)?;
        let expert = name[at + start.len()..].strip_suffix(end)?.parse().ok()?;
        Some((
            stack,
            format!("{}.{}", &name[..at], stack.stored),
            expert,
            part,
        ))
    };
    let each = |stack: &'s Stack| (0..stack.parts.len()).find_map(|part| one(stack, part));
    stacks.iter().find_map(each)
}

fn stacked(name: String, stack: &Stack, mut members: Vec<Member>) -> Result<Unit> {
    members.sort();
    let count = stack.parts.len();
    let each = members.first().map(|(.., shape)| shape.clone());
    let each = each.unwrap_or_default();
    for (i, (expert, part, weight, shape)) in members.iter().enumerate() {
        if (*expert, *part) != (i / count, i % count) || *shape != each {
            return Err(Error::rule(format!(
                "{weight} of shape {shape:?} is not what follows in {name}, which stacks all experts' parts of shape {each:?}"
            )));
        }
    }
    let experts = members.len() / count;
    let shape = match (each.as_slice(), stack.layout) {
        _ if !members.len().is_multiple_of(count) => None,
        (&[outputs], _) => Some(vec![experts, outputs * count]),
        (&[outputs, inputs], Layout::Rows) => Some(vec![experts, outputs * count, inputs]),
        (&[outputs, inputs], _) => Some(vec![experts, inputs, outputs * count]),
        _ => None,
    };
    let Some(shape) = shape else {
        return Err(Error::rule(format!(
            "{name} stacks {count} parts of each expert, vectors or matrices, not {} of shape {each:?}",
            members.len()
        )));
    };
    Ok(Unit {
        name,
        shape,
        weights: members.into_iter().map(|(_, _, name, _)| name).collect(),
        stack: Some((count, stack.layout)),
    })
}

impl Unit {
    /// Whether it holds each weight's values in their own order, one weight after the other.
    pub(crate) fn is_plain(&self) -> bool {
        matches!(self.stack, None | Some((_, Layout::Rows)))
    }

    /// How many weights' bytes are written at a time.
    pub(crate) fn at_once(&self) -> usize {
        match self.stack {
            Some((count, _)) if !self.is_plain() => count,
            _ => 1,
        }
    }

    /// The bytes of so many weights as the tensor holds them; a value has `width` bytes.
    pub(crate) fn joined(&self, weights: &[Vec<u8>], width: usize) -> Vec<u8> {
        let (count, inputs, total) = match (self.stack, self.shape.as_slice()) {
            (Some((count, _)), &[_, inputs, total]) => (count, inputs, total),
            (Some((count, _)), &[_, total]) => (count, 1, total),
            _ => return weights.concat(),
        };
        let columns = matches!(self.stack, Some((_, Layout::Columns)));
        let mut bytes = Vec::with_capacity(inputs * total * width);
        for input in 0..inputs {
            for column in 0..total {
                let (part, output) = match columns {
                    true => (column / (total / count), column % (total / count)),
                    false => (column % count, column / count),
                };
                let at = (output * inputs + input) * width;
                let value = weights.get(part).and_then(|w| w.get(at..at + width));
                bytes.extend_from_slice(value.unwrap_or_default());
            }
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARTS: [&str; 2] = ["mlp.experts.{}.gate.weight", "mlp.experts.{}.up.weight"];

    fn list(experts: usize, shape: &[usize]) -> Vec<(String, Vec<usize>)> {
        let mut all = vec![("model.norm.weight".to_string(), vec![7])];
        for part in ["up", "gate"] {
            for e in 0..experts {
                let name = format!("model.layers.2.mlp.experts.{e}.{part}.weight");
                all.push((name, shape.to_vec()));
            }
        }
        all.push(("lm_head.weight".into(), vec![5, 3]));
        all
    }

    #[test]
    fn a_stack_stands_where_its_first_weight_stood() {
        for (layout, shape) in [
            (Layout::Rows, [11, 4, 3]),
            (Layout::Columns, [11, 3, 4]),
            (Layout::Interleaved, [11, 3, 4]),
        ] {
            let stack = Stack::new("mlp.experts.gate_up", &PARTS, layout);
            let units = units(list(11, &[2, 3]), &[stack]).unwrap();
            let names: Vec<&str> = units.iter().map(|u| u.name.as_str()).collect();
            let stored = "model.layers.2.mlp.experts.gate_up";
            assert_eq!(names, ["model.norm.weight", stored, "lm_head.weight"]);
            assert_eq!(units[1].shape, shape);
            let order = ["0.gate", "0.up", "1.gate"];
            let order = order.map(|w| format!("model.layers.2.mlp.experts.{w}.weight"));
            assert_eq!(
                (units[1].weights.len(), &units[1].weights[..3]),
                (22, &order[..])
            );
            let at_once = if layout == Layout::Rows { 1 } else { 2 };
            assert_eq!((units[0].at_once(), units[1].at_once()), (1, at_once));
        }
        assert_eq!(units(list(2, &[2, 3]), &[]).unwrap().len(), 6);
    }

    #[test]
    fn parts_are_joined_as_they_lie() {
        // gate (2, 3) and up (2, 3): a value is one byte, 10 · row + column, up's 100 more
        let gate = vec![0, 1, 2, 10, 11, 12];
        let up: Vec<u8> = gate.iter().map(|v| v + 100).collect();
        for (layout, wanted) in [
            (
                Layout::Columns,
                [0, 10, 100, 110, 1, 11, 101, 111, 2, 12, 102, 112],
            ),
            (
                Layout::Interleaved,
                [0, 100, 10, 110, 1, 101, 11, 111, 2, 102, 12, 112],
            ),
        ] {
            let stack = Stack::new("mlp.experts.gate_up", &PARTS, layout);
            let units = units(list(2, &[2, 3]), &[stack]).unwrap();
            assert_eq!(units[1].joined(&[gate.clone(), up.clone()], 1), wanted);
        }
        // one part alone is transposed too
        const UP: &[&str] = &["mlp.experts.{}.up.weight"];
        let stack = Stack::new("mlp.experts.up", UP, Layout::Columns);
        let mut all = list(2, &[2, 3]);
        all.retain(|(name, _)| !name.contains("gate"));
        let units = units(all, &[stack]).unwrap();
        assert!(!units[1].is_plain() && units[0].is_plain());
        assert_eq!(
            (units[1].at_once(), &units[1].shape[..]),
            (1, &[2, 3, 2][..])
        );
        assert_eq!(units[1].joined(&[gate], 1), [0, 10, 1, 11, 2, 12]);
    }

    #[test]
    fn what_is_no_whole_stack_is_refused() {
        let stack = [Stack::new("mlp.experts.gate_up", &PARTS, Layout::Rows)];
        let said = |change: &dyn Fn(&mut Vec<(String, Vec<usize>)>)| {
            let mut list = list(2, &[2, 3]);
            change(&mut list);
            units(list, &stack).unwrap_err().to_string()
        };
        let error = said(&|list| drop(list.remove(1)));
        assert!(error.contains("experts.1.gate.weight"), "{error}");
        let error = said(&|list| drop(list.remove(2)));
        assert!(error.contains("not 3 of shape [2, 3]"), "{error}");
        let error = said(&|list| list[2].1 = vec![3, 3]);
        assert!(
            error.contains("experts.1.up.weight of shape [3, 3]"),
            "{error}"
        );
    }
}
