//! The bytes of a GGUF header: magic, version, counts, metadata, tensor infos. Everything is bounded by the file's size.

use std::collections::{BTreeMap, HashMap};

use candle_core::quantized::GgmlDType;

use super::super::index::{Format, Place, Stored};
use crate::{Error, Result};

/// What stands before the tensors.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub metadata: HashMap<String, Value>,
    /// By llama.cpp's names, ranges checked against the file.
    pub tensors: BTreeMap<String, Stored>,
}

/// A metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Value {
    Int(i128),
    Float(f64),
    Bool(bool),
    Text(String),
    Ints(Vec<i64>),
    Floats(Vec<f32>),
    Texts(Vec<String>),
    /// Arrays of arrays or of truth values: nobody asks for them.
    Skipped,
}

/// Parts of the file are fetched so many bytes at a time.
const PAGE: u64 = 1 << 20;
/// Nothing that describes a model is longer.
const LONGEST_ARRAY: u64 = 1 << 24;
const LONGEST_TEXT: u64 = 1 << 26;
const DEEPEST: usize = 8;

pub(super) fn read(place: &Place) -> Result<Header> {
    Reader {
        place,
        at: 0,
        page: Vec::new(),
        page_start: 0,
    }
    .header()
    .map_err(|what| Error::rule(format!("{}: {what}", place.name)))
}

type Read<T> = std::result::Result<T, String>;

struct Reader<'a> {
    place: &'a Place,
    at: u64,
    page: Vec<u8>,
    page_start: u64,
}

impl Reader<'_> {
    fn header(&mut self) -> Read<Header> {
        if self.place.len() < 4 || self.take(4)? != b"GGUF" {
            return Err("no GGUF file: it does not begin with GGUF".into());
        }
        match self.u32()? {
            2 | 3 => {}
            v if v.swap_bytes() <= 3 => {
                return Err("a big-endian GGUF file, which is not supported".into());
            }
            v => return Err(format!("GGUF version {v} is not supported; 2 and 3 are")),
        }
        let (tensors, entries) = (self.u64()?, self.u64()?);
        // the smallest entry has 13 bytes, the smallest tensor info 24
        let least = entries
            .saturating_mul(13)
            .saturating_add(tensors.saturating_mul(24));
        if least > self.left() {
            return Err(format!(
                "the header declares {tensors} tensors and {entries} entries, more than the file can hold"
            ));
        }
        let mut header = Header::default();
        for _ in 0..entries {
            let key = self.text("a metadata key")?;
            let kind = self.u32()?;
            let value = self.value(kind, &key, 0)?;
            header.metadata.insert(key, value);
        }
        let mut infos = Vec::new();
        for _ in 0..tensors {
            infos.push(self.info()?);
        }
        let align = header.whole("general.alignment")?.unwrap_or(32) as u64;
        if !align.is_power_of_two() || align > 1 << 20 {
            return Err(format!(
                "general.alignment is {align}; it must be a power of two"
            ));
        }
        let data = self.at.next_multiple_of(align);
        for (name, mut tensor) in infos {
            self.locate(&name, &mut tensor, data)?;
            if header.tensors.insert(name.clone(), tensor).is_some() {
                return Err(format!("{name} is there twice"));
            }
        }
        Ok(header)
    }

    /// A tensor info; `start` is still relative to the data.
    fn info(&mut self) -> Read<(String, Stored)> {
        let name = self.text("a tensor's name")?;
        let axes = self.u32()?;
        if axes == 0 || axes > 4 {
            return Err(format!("{name} has {axes} axes; 1 to 4 are possible"));
        }
        let mut shape = Vec::new();
        for _ in 0..axes {
            shape.push(usize::try_from(self.u64()?).map_err(|e| format!("{name}: {e}"))?);
        }
        shape.reverse(); // the file has the fastest axis first
        let format = format(self.u32()?);
        let start = self.u64()?;
        Ok((
            name,
            Stored {
                file: 0,
                start,
                len: 0,
                shape,
                format,
                permuted: None,
            },
        ))
    }

    /// Turns the offset into a place in the file and checks that the tensor lies within it.
    fn locate(&self, name: &str, tensor: &mut Stored, data: u64) -> Read<()> {
        if matches!(tensor.format, Format::Other(_)) {
            return Ok(()); // an error only if somebody wants it
        }
        let len = tensor.wanted_bytes().ok_or_else(|| {
            format!(
                "{name} has the shape {:?}, which {:?} cannot hold",
                tensor.shape, tensor.format
            )
        })?;
        let start = data.checked_add(tensor.start);
        match start.and_then(|s| Some((s, s.checked_add(len)?))) {
            Some((start, end)) if end <= self.place.len() => {
                (tensor.start, tensor.len) = (start, len);
                Ok(())
            }
            _ => Err(format!(
                "{name} needs {len} bytes at {data} + {}, but the file ends at {}: it is cut short or damaged",
                tensor.start,
                self.place.len()
            )),
        }
    }

    fn value(&mut self, kind: u32, key: &str, depth: usize) -> Read<Value> {
        Ok(match kind {
            6 => Value::Float(f64::from(self.f32()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            7 => match self.array::<1>()? {
                [0] => Value::Bool(false),
                [1] => Value::Bool(true),
                [b] => return Err(format!("{key} is neither true nor false but {b}")),
            },
            8 => Value::Text(self.text(key)?),
            9 => self.list(key, depth)?,
            _ => Value::Int(self.int(kind, key)?),
        })
    }

    fn int(&mut self, kind: u32, key: &str) -> Read<i128> {
        Ok(match kind {
            0 => u8::from_le_bytes(self.array()?).into(),
            1 => i8::from_le_bytes(self.array()?).into(),
            2 => u16::from_le_bytes(self.array()?).into(),
            3 => i16::from_le_bytes(self.array()?).into(),
            4 => u32::from_le_bytes(self.array()?).into(),
            5 => i32::from_le_bytes(self.array()?).into(),
            10 => u64::from_le_bytes(self.array()?).into(),
            11 => i64::from_le_bytes(self.array()?).into(),
            _ => return Err(format!("{key} has the unknown value type {kind}")),
        })
    }

    fn list(&mut self, key: &str, depth: usize) -> Read<Value> {
        if depth > DEEPEST {
            return Err(format!("{key} nests arrays more than {DEEPEST} deep"));
        }
        let (kind, n) = (self.u32()?, self.u64()?);
        let smallest = match kind {
            0 | 1 | 7 => 1,
            2 | 3 => 2,
            4..=6 => 4,
            8 | 10 | 11 | 12 => 8,
            9 => 12,
            _ => return Err(format!("{key} has the unknown value type {kind}")),
        };
        if n > LONGEST_ARRAY || n.saturating_mul(smallest) > self.left() {
            return Err(format!(
                "{key} declares {n} entries, more than the file can hold or a model can need"
            ));
        }
        match kind {
            8 => (0..n)
                .map(|_| self.text(key))
                .collect::<Read<_>>()
                .map(Value::Texts),
            6 => (0..n)
                .map(|_| self.f32())
                .collect::<Read<_>>()
                .map(Value::Floats),
            7 | 9 | 12 => {
                for _ in 0..n {
                    self.value(kind, key, depth + 1)?;
                }
                Ok(Value::Skipped)
            }
            _ => (0..n)
                .map(|_| i64::try_from(self.int(kind, key)?).map_err(|e| format!("{key}: {e}")))
                .collect::<Read<_>>()
                .map(Value::Ints),
        }
    }

    fn text(&mut self, what: &str) -> Read<String> {
        let n = self.u64()?;
        if n > LONGEST_TEXT || n > self.left() {
            return Err(format!(
                "{what} declares {n} characters, more than the file can hold or a text can need"
            ));
        }
        // some writers end a text with zeros
        let bytes = self.take(n)?;
        Ok(String::from_utf8_lossy(&bytes)
            .trim_end_matches('\0')
            .to_string())
    }

    fn left(&self) -> u64 {
        self.place.len() - self.at
    }

    fn take(&mut self, n: u64) -> Read<Vec<u8>> {
        if n > self.left() {
            return Err(format!("the header is cut short at byte {}", self.at));
        }
        let start = self.at;
        self.at += n;
        if n > PAGE {
            return self.place.read(start, n).map_err(|e| e.to_string());
        }
        let within =
            |r: &Self| start >= r.page_start && start + n <= r.page_start + r.page.len() as u64;
        if !within(self) {
            let len = PAGE.min(self.place.len() - start);
            self.page = self.place.read(start, len).map_err(|e| e.to_string())?;
            self.page_start = start;
        }
        let first = (start - self.page_start) as usize;
        Ok(self
            .page
            .get(first..first + n as usize)
            .unwrap_or_default()
            .to_vec())
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        self.take(N as u64)?
            .try_into()
            .map_err(|_| format!("the header is cut short at byte {}", self.at))
    }

    fn u32(&mut self) -> Read<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Read<u64> {
        self.array().map(u64::from_le_bytes)
    }

    fn f32(&mut self) -> Read<f32> {
        self.array().map(f32::from_le_bytes)
    }
}

/// ggml's number of a format.
fn format(id: u32) -> Format {
    Format::Block(match id {
        0 => return Format::F32,
        1 => return Format::F16,
        30 => return Format::Bf16,
        2 => GgmlDType::Q4_0,
        3 => GgmlDType::Q4_1,
        6 => GgmlDType::Q5_0,
        7 => GgmlDType::Q5_1,
        8 => GgmlDType::Q8_0,
        12 => GgmlDType::Q4K,
        13 => GgmlDType::Q5K,
        14 => GgmlDType::Q6K,
        10 => return Format::Other("Q2_K".into()),
        11 => return Format::Other("Q3_K".into()),
        other => return Format::Other(format!("number {other} of ggml")),
    })
}

/// Typed looks at the metadata; another type than asked for is an error.
impl Header {
    pub fn text(&self, key: &str) -> Read<Option<&str>> {
        self.get(key, "a text", |v| {
            if let Value::Text(t) = v {
                Some(t.as_str())
            } else {
                None
            }
        })
    }

    pub fn whole(&self, key: &str) -> Read<Option<usize>> {
        self.get(key, "a whole number", |v| {
            if let Value::Int(i) = v {
                usize::try_from(*i).ok()
            } else {
                None
            }
        })
    }

    /// A whole number, or a list with the same for each of so many layers.
    pub fn alike(&self, key: &str, layers: usize) -> Read<Option<usize>> {
        let Some(Value::Ints(list)) = self.metadata.get(key) else {
            return self.whole(key);
        };
        if list.len() != layers {
            return Err(format!(
                "{key} has {} entries for {layers} layers",
                list.len()
            ));
        }
        match list.iter().find(|n| Some(*n) != list.first()) {
            Some(other) => Err(format!(
                "{key} differs between layers ({} and {other}), which is not supported: all layers are alike",
                list[0]
            )),
            None => list
                .first()
                .map(|n| usize::try_from(*n))
                .transpose()
                .map_err(|e| format!("{key}: {e}")),
        }
    }

    pub fn float(&self, key: &str) -> Read<Option<f64>> {
        self.get(key, "a number", |v| match v {
            Value::Float(f) => Some(*f),
            Value::Int(i) => Some(*i as f64),
            _ => None,
        })
    }

    pub fn flag(&self, key: &str) -> Read<Option<bool>> {
        self.get(key, "true or false", |v| {
            if let Value::Bool(b) = v {
                Some(*b)
            } else {
                None
            }
        })
    }

    /// Empty where there is none.
    pub fn texts(&self, key: &str) -> Read<Vec<String>> {
        let list = |v: &Value| {
            if let Value::Texts(t) = v {
                Some(t.clone())
            } else {
                None
            }
        };
        self.get(key, "a list of texts", list)
            .map(Option::unwrap_or_default)
    }

    /// Empty where there is none.
    pub fn ints(&self, key: &str) -> Read<Vec<i64>> {
        let list = |v: &Value| {
            if let Value::Ints(t) = v {
                Some(t.clone())
            } else {
                None
            }
        };
        self.get(key, "a list of whole numbers", list)
            .map(Option::unwrap_or_default)
    }

    /// Empty where there is none.
    pub fn floats(&self, key: &str) -> Read<Vec<f32>> {
        let list = |v: &Value| {
            if let Value::Floats(t) = v {
                Some(t.clone())
            } else {
                None
            }
        };
        self.get(key, "a list of numbers", list)
            .map(Option::unwrap_or_default)
    }

    fn get<'a, T>(
        &'a self,
        key: &str,
        what: &str,
        pick: impl Fn(&'a Value) -> Option<T>,
    ) -> Read<Option<T>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(v) => pick(v)
                .map(Some)
                .ok_or_else(|| format!("{key} must be {what}, not {}", shown(v))),
        }
    }
}

fn shown(v: &Value) -> String {
    let text = format!("{v:?}");
    if text.len() > 60 {
        format!("{}…", text.chars().take(60).collect::<String>())
    } else {
        text
    }
}
