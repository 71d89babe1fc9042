//! A GGUF metadata value: its type's id, then its content.

use super::bytes::{Bytes, Read};
use crate::{Error, Result};

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An integer of any width; written in 32 bits.
    Int(i128),
    /// A float of either width; written as f32.
    Float(f64),
    /// A boolean.
    Bool(bool),
    /// A string.
    Text(String),
    /// A list of integers; written as signed 32-bit.
    Ints(Vec<i64>),
    /// A list of floats (f32).
    Floats(Vec<f32>),
    /// A list of strings.
    Texts(Vec<String>),
    /// A list of booleans.
    Bools(Vec<bool>),
    /// An array of arrays or of f64, which no key we read or write has.
    Skipped,
}

/// Maximum length of an array; none that describes a model is longer.
const LONGEST_ARRAY: u64 = 1 << 24;
const DEEPEST: usize = 8;

impl Value {
    pub(super) fn read(bytes: &mut Bytes, key: &str) -> Read<Value> {
        let kind = bytes.u32()?;
        Value::read_kind(bytes, kind, key, 0)
    }

    fn read_kind(bytes: &mut Bytes, kind: u32, key: &str, depth: usize) -> Read<Value> {
        Ok(match kind {
            6 => Value::Float(f64::from(bytes.f32()?)),
            12 => Value::Float(f64::from_le_bytes(bytes.array()?)),
            7 => match bytes.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [b] => return Err(format!("{key} is neither true nor false but {b}")),
            },
            8 => Value::Text(bytes.text(key)?),
            9 => Value::list(bytes, key, depth)?,
            _ => Value::Int(Value::int(bytes, kind, key)?),
        })
    }

    fn int(bytes: &mut Bytes, kind: u32, key: &str) -> Read<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(bytes.array()?).into(),
            1 => i8::from_le_bytes(bytes.array()?).into(),
            2 => u16::from_le_bytes(bytes.array()?).into(),
            3 => i16::from_le_bytes(bytes.array()?).into(),
            4 => u32::from_le_bytes(bytes.array()?).into(),
            5 => i32::from_le_bytes(bytes.array()?).into(),
            10 => u64::from_le_bytes(bytes.array()?).into(),
            11 => i64::from_le_bytes(bytes.array()?).into(),
            _ => return Err(format!("{key} has the unknown value type {kind}")),
        })
    }

    fn list(bytes: &mut Bytes, key: &str, depth: usize) -> Read<Value> {
        if depth > DEEPEST {
            return Err(format!("{key} nests arrays more than {DEEPEST} deep"));
        }
        let (kind, n) = (bytes.u32()?, bytes.u64()?);
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 => 12,
            _ => return Err(format!("{key} has the unknown value type {kind}")),
        };
        if n > LONGEST_ARRAY || n.saturating_mul(smallest) > bytes.left() {
            return Err(format!(
                "{key} declares {n} entries, more than the file can hold or a model can need"
            ));
        }
        match kind {
            8 => (0..n)
                .map(|_| bytes.text(key))
                .collect::<Read<_>>()
                .map(Value::Texts),
            6 => (0..n)
                .map(|_| bytes.f32())
                .collect::<Read<_>>()
                .map(Value::Floats),
            7 => {
                let mut all = Vec::new();
                for _ in 0..n {
                    match Value::read_kind(bytes, kind, key, depth + 1)? {
                        Value::Bool(value) => all.push(value),
                        other => return Err(format!("{key} holds {other:?}")),
                    }
                }
                Ok(Value::Bools(all))
            }
            9 | 12 => {
                for _ in 0..n {
                    Value::read_kind(bytes, kind, key, depth + 1)?;
                }
                Ok(Value::Skipped)
            }
            _ => (0..n)
                .map(|_| {
                    i64::try_from(Value::int(bytes, kind, key)?).map_err(|e| format!("{key}: {e}"))
                })
                .collect::<Read<_>>()
                .map(Value::Ints),
        }
    }

    /// Writes the value with the types that llama.cpp expects: numbers in 32 bits.
    pub(super) fn write(&self, key: &str, out: &mut Vec<u8>) -> Result<()> {
        let beyond = |n: &dyn std::fmt::Display| {
            Error::rule(format!("{key} is {n}, which 32 bits do not hold"))
        };
        let list = |out: &mut Vec<u8>, kind: u32, n: usize| {
            out.extend(9u32.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((n as u64).to_le_bytes());
        };
        match self {
            Value::Int(v) => {
                out.extend(4u32.to_le_bytes());
                out.extend(u32::try_from(*v).map_err(|_| beyond(v))?.to_le_bytes());
            }
            Value::Float(v) => {
                out.extend(6u32.to_le_bytes());
                out.extend((*v as f32).to_le_bytes());
            }
            Value::Bool(v) => {
                out.extend(7u32.to_le_bytes());
                out.push(u8::from(*v));
            }
            Value::Text(v) => {
                out.extend(8u32.to_le_bytes());
                text(out, v);
            }
            Value::Texts(v) => {
                list(out, 8, v.len());
                v.iter().for_each(|t| text(out, t));
            }
            Value::Floats(v) => {
                list(out, 6, v.len());
                v.iter().for_each(|n| out.extend(n.to_le_bytes()));
            }
            Value::Ints(v) => {
                list(out, 5, v.len());
                for n in v {
                    out.extend(i32::try_from(*n).map_err(|_| beyond(n))?.to_le_bytes());
                }
            }
            Value::Bools(v) => {
                list(out, 7, v.len());
                out.extend(v.iter().map(|b| u8::from(*b)));
            }
            Value::Skipped => {
                return Err(Error::rule(format!("{key} is a list that is not written")));
            }
        }
        Ok(())
    }
}

/// Writes a string preceded by its length.
pub(super) fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::ByteSource;

    #[test]
    fn values_are_read_as_they_were_written() {
        for value in [
            Value::Int(0),
            Value::Int(u32::MAX.into()),
            Value::Float(f64::from(1e-5f32)),
            Value::Bool(true),
            Value::Text("Où est 練習\n".into()),
            Value::Ints(vec![-1, 0, i32::MAX.into()]),
            Value::Floats(vec![0.1, -7.0]),
            Value::Bools(vec![true, false]),
            Value::Texts(vec![String::new(), "a b".into()]),
        ] {
            let mut out = Vec::new();
            value.write("key", &mut out).unwrap();
            let source = ByteSource::memory("x", out);
            let mut bytes = Bytes::of(&source);
            assert_eq!(Value::read(&mut bytes, "key").unwrap(), value);
            assert_eq!(bytes.left(), 0);
        }
        for beyond in [
            Value::Int(-1),
            Value::Int(1 << 32),
            Value::Ints(vec![1 << 31]),
        ] {
            let e = beyond.write("llama.key", &mut Vec::new()).unwrap_err();
            assert!(e.to_string().contains("llama.key is"), "{e}");
        }
    }
}
