//! Numbers of heads: by which a file has rows and columns in another order than transformers, and
//! of which layers there are none.

use randori_sdk::dialect::{Module, Order, Size};
use serde_json::{Value, json};

use super::dialect::{Keys, Spoken};
use crate::{Error, Result, Swap, gguf::bytes::Read};

/// The key of the numbers of key-value heads.
pub(super) const KEY_HEADS: &str = "attention.head_count_kv";

/// Numbers of heads, by which a fused tensor is split into q, k and v and rows are ordered.
#[derive(Debug, Clone)]
pub(super) struct Heads {
    /// Of queries.
    pub query: usize,
    /// Of keys and values.
    pub key: usize,
    /// Features of each.
    pub features: usize,
    /// Where there is no attention: heads of keys, heads of values and their features, if several
    /// of those share one of keys.
    grouped: Option<[usize; 3]>,
}

impl Heads {
    /// Those of a configuration that has all three numbers.
    ///
    /// # Errors
    /// Heads of values that do not fit those of keys.
    pub fn of(config: &Value, spoken: &Spoken) -> Result<Self> {
        let number = |key: &str| {
            let n = config.get(key).and_then(Value::as_u64);
            n.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
        };
        let [query, key, features] =
            ["num_attention_heads", "num_key_value_heads", "head_dim"].map(number);
        Heads::new([query, key, features], config, spoken)
    }

    /// [`Heads::of`] with numbers of query and key-value heads, and of their features.
    pub fn new(
        [query, key, features]: [usize; 3],
        config: &Value,
        spoken: &Spoken,
    ) -> Result<Self> {
        Ok(Heads {
            query,
            key,
            features,
            grouped: grouped(config, spoken)?,
        })
    }

    /// In which other order a file has the rows or columns of a module's tensor.
    ///
    /// # Errors
    /// A size that is not that of its heads, to be told after the tensor's name.
    pub fn order(&self, module: &Module, shape: &[usize]) -> Read<Option<Swap>> {
        let columns = module.order == Order::GroupedColumns;
        let found = shape.get(usize::from(columns)).copied().unwrap_or(0);
        match module.order {
            Order::Same => Ok(None),
            Order::Turned => {
                let heads = match module.rows {
                    Size::Key => self.key,
                    _ => self.query,
                };
                Swap::turned(found, heads).map(Some).ok_or_else(|| {
                    format!("has {found} rows, which {heads} heads of pairs do not divide")
                })
            }
            Order::Grouped | Order::GroupedLast | Order::GroupedColumns => {
                let Some([keys, values, features]) = self.grouped else {
                    return Ok(None);
                };
                let size = match module.order {
                    Order::GroupedLast => features,
                    _ => found / values,
                };
                let first = found.checked_sub(values.saturating_mul(size));
                let whole = first.is_some_and(|n| n == 0 || module.order == Order::GroupedLast);
                match first.filter(|_| whole && size > 0) {
                    Some(first) => Ok(Some(Swap {
                        columns,
                        first,
                        groups: 1,
                        outer: keys,
                        inner: values / keys,
                        size,
                    })),
                    None => {
                        let what = if columns { "columns" } else { "rows" };
                        Err(format!(
                            "has {found} {what}, which do not hold {values} heads of {features} features"
                        ))
                    }
                }
            }
        }
    }
}

/// Heads of keys, heads of values and their features, if several of those share one of keys.
fn grouped(config: &Value, spoken: &Spoken) -> Result<Option<[usize; 3]>> {
    let Some(named) = spoken.gguf.grouped else {
        return Ok(None);
    };
    let number = |key: &str| {
        let value = spoken.value(config, key);
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
        number.filter(|n| *n > 0).ok_or_else(|| {
            Error::rule(format!(
                "{key} of the model's configuration must be a whole number above 0, not {value}"
            ))
        })
    };
    let (keys, values) = (number(named.keys)?, number(named.values)?);
    if !values.is_multiple_of(keys) {
        return Err(Error::rule(format!(
            "{} of the model's configuration is {values}, no multiple of {} ({keys})",
            named.values, named.keys
        )));
    }
    let features = number(named.features)?;
    Ok((values > keys).then_some([keys, values, features]))
}

/// Which layers of a configuration attend; `None`: all of them.
///
/// # Errors
/// A list of another length than there are layers.
pub(super) fn attending(
    config: &Value,
    spoken: &Spoken,
    layers: usize,
) -> Result<Option<Vec<bool>>> {
    let Some(headless) = spoken.gguf.headless else {
        return Ok(None);
    };
    let list = |key: &str| config.get(key).and_then(Value::as_array);
    let attends: Vec<bool> = match (list("layer_types"), list(headless.others)) {
        (Some(kinds), _) => {
            let kinds = kinds.iter().map(Value::as_str);
            kinds.map(|kind| kind != Some(headless.kind)).collect()
        }
        (None, Some(others)) => (0..layers as u64)
            .map(|layer| others.iter().any(|n| n.as_u64() == Some(layer)))
            .collect(),
        (None, None) => return Ok(None),
    };
    if attends.len() != layers {
        return Err(Error::rule(format!(
            "layer_types of the model's configuration has {} entries for {layers} layers",
            attends.len()
        )));
    }
    Ok(attends.contains(&false).then_some(attends))
}

/// A file's number of key-value heads, if it has one, and its layers' kinds where some have none.
///
/// # Errors
/// Layers with different numbers, a list of another length than there are layers.
pub(super) fn key_heads(
    keys: &Keys,
    spoken: &Spoken,
    layers: usize,
) -> Read<(Option<usize>, Option<Value>)> {
    let (Some(headless), Some(each)) = (spoken.gguf.headless, keys.each(KEY_HEADS)) else {
        return Ok((keys.alike(KEY_HEADS, layers)?, None));
    };
    let name = keys.name(KEY_HEADS);
    if each.len() != layers {
        return Err(format!(
            "{name} has {} entries for {layers} layers",
            each.len()
        ));
    }
    let mut some = each.iter().filter(|n| **n != 0);
    let first = some.next();
    if let (Some(first), Some(other)) = (first, some.find(|n| Some(*n) != first)) {
        return Err(format!(
            "{name} differs between layers ({first} and {other}), which is not supported: those that attend are alike"
        ));
    }
    let heads = first.map(|n| usize::try_from(*n)).transpose();
    let heads = heads.map_err(|e| format!("{name}: {e}"))?;
    let kind = |n: &i64| match n {
        0 => json!(headless.kind),
        _ => json!("full_attention"),
    };
    Ok((heads, Some(each.iter().map(kind).collect())))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn heads_of_values_are_ordered_wherever_they_lie() {
        let mut heads = Heads {
            query: 4,
            key: 2,
            features: 16,
            grouped: Some([2, 6, 8]),
        };
        let of = |heads: &Heads, order: Order, shape: &[usize]| {
            heads.order(&Module::new("a", "b").ordered(order), shape)
        };
        let swap = |columns, first, size| Swap {
            columns,
            first,
            groups: 1,
            outer: 2,
            inner: 3,
            size,
        };
        for (order, shape, wanted) in [
            (Order::Grouped, vec![6], swap(false, 0, 1)),
            (Order::Grouped, vec![48, 5], swap(false, 0, 8)),
            (Order::GroupedLast, vec![80, 1, 4], swap(false, 32, 8)),
            (Order::GroupedColumns, vec![5, 48], swap(true, 0, 8)),
        ] {
            assert_eq!(of(&heads, order, &shape), Ok(Some(wanted)), "{shape:?}");
        }
        for (order, shape, says) in [
            (Order::Grouped, vec![50, 5], "has 50 rows"),
            (Order::Grouped, vec![3], "has 3 rows"),
            (
                Order::GroupedLast,
                vec![40, 5],
                "which do not hold 6 heads of 8 features",
            ),
            (Order::GroupedColumns, vec![48, 47], "has 47 columns"),
            (
                Order::Turned,
                vec![6, 5],
                "which 4 heads of pairs do not divide",
            ),
        ] {
            let e = of(&heads, order, &shape).unwrap_err();
            assert!(e.contains(says), "{e}");
        }
        assert_eq!(of(&heads, Order::Same, &[7]), Ok(None));
        heads.grouped = None; // each head of values has its own of keys
        assert_eq!(of(&heads, Order::Grouped, &[7]), Ok(None));
    }
}
