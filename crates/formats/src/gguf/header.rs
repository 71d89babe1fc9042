//! The GGUF header: magic, version, counts, metadata, tensor infos. Every count is bounded by the
//! file's size.

use std::collections::{BTreeMap, HashMap};

use randori_sdk::dialect::Values;

use super::{
    Kind, Value,
    bytes::{Bytes, Read},
    value::text,
};
use crate::{ByteSource, Error, Format, Result, Stored};

/// Alignment of the tensors we write, in bytes from the start of the data.
pub(super) const ALIGNMENT: u64 = 32;

/// Contents of a GGUF header.
#[derive(Debug, Default)]
pub(super) struct Header {
    pub metadata: HashMap<String, Value>,
    /// Tensors by llama.cpp's names, ranges checked against the file.
    pub tensors: BTreeMap<String, Stored>,
}

/// A tensor to be written.
#[derive(Debug, Clone)]
pub struct TensorSpec {
    /// llama.cpp's name.
    pub name: String,
    /// Shape as in PyTorch, slowest axis first; the file reverses it.
    pub shape: Vec<usize>,
    /// Its number format.
    pub kind: Kind,
}

impl TensorSpec {
    /// A tensor with this name, shape and format.
    pub fn new(name: &str, shape: &[usize], kind: Kind) -> Self {
        TensorSpec {
            name: name.to_string(),
            shape: shape.to_vec(),
            kind,
        }
    }

    /// Size of its data, in bytes.
    pub fn bytes(&self) -> u64 {
        self.kind.bytes(self.shape.iter().product())
    }
}

/// Encodes everything up to the data, padded with zeros to the alignment.
///
/// # Errors
/// An integer that exceeds 32 bits.
pub(super) fn write(metadata: &[(String, Value)], tensors: &[TensorSpec]) -> Result<Vec<u8>> {
    let mut out = b"GGUF".to_vec();
    out.extend(3u32.to_le_bytes());
    out.extend((tensors.len() as u64).to_le_bytes());
    out.extend((metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        text(&mut out, key);
        value.write(key, &mut out)?;
    }
    let mut offset = 0u64;
    for t in tensors {
        text(&mut out, &t.name);
        out.extend((t.shape.len() as u32).to_le_bytes());
        for n in t.shape.iter().rev() {
            out.extend((*n as u64).to_le_bytes());
        }
        out.extend(t.kind.id().to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + t.bytes()).next_multiple_of(ALIGNMENT);
    }
    out.resize(out.len().next_multiple_of(ALIGNMENT as usize), 0);
    Ok(out)
}

impl Header {
    pub fn read(source: &ByteSource) -> Result<Header> {
        header(source).map_err(|what| Error::rule(format!("{}: {what}", source.name)))
    }
}

fn header(source: &ByteSource) -> Read<Header> {
    let mut bytes = Bytes::of(source);
    if source.size() < 4 || bytes.take(4)? != b"GGUF" {
        return Err("no GGUF file: it does not begin with GGUF".into());
    }
    match bytes.u32()? {
        2 | 3 => {}
        v if v.swap_bytes() <= 3 => {
            return Err("a big-endian GGUF file, which is not supported".into());
        }
        v => return Err(format!("GGUF version {v} is not supported; 2 and 3 are")),
    }
    let (tensors, entries) = (bytes.u64()?, bytes.u64()?);
    // the smallest metadata entry has 13 bytes, the smallest tensor info 24
    let least = entries
        .saturating_mul(13)
        .saturating_add(tensors.saturating_mul(24));
    if least > bytes.left() {
        return Err(format!(
            "the header declares {tensors} tensors and {entries} entries, more than the file can hold"
        ));
    }
    let mut header = Header::default();
    for _ in 0..entries {
        let key = bytes.text("a metadata key")?;
        let value = Value::read(&mut bytes, &key)?;
        header.metadata.insert(key, value);
    }
    let mut infos = Vec::new();
    for _ in 0..tensors {
        infos.push(info(&mut bytes)?);
    }
    let align = header.whole("general.alignment")?.unwrap_or(32) as u64;
    if !align.is_power_of_two() || align > 1 << 20 {
        return Err(format!(
            "general.alignment is {align}; it must be a power of two"
        ));
    }
    let data = bytes.at.next_multiple_of(align);
    for (name, mut tensor) in infos {
        locate(source, &name, &mut tensor, data)?;
        if header.tensors.insert(name.clone(), tensor).is_some() {
            return Err(format!("{name} is there twice"));
        }
    }
    Ok(header)
}

/// Reads a tensor info; `start` is still relative to the data.
fn info(bytes: &mut Bytes) -> Read<(String, Stored)> {
    let name = bytes.text("a tensor's name")?;
    let axes = bytes.u32()?;
    if axes == 0 || axes > 4 {
        return Err(format!("{name} has {axes} axes; 1 to 4 are possible"));
    }
    let mut shape = Vec::new();
    for _ in 0..axes {
        shape.push(usize::try_from(bytes.u64()?).map_err(|e| format!("{name}: {e}"))?);
    }
    shape.reverse(); // the file has the fastest axis first
    let id = bytes.u32()?;
    let format = Kind::of(id).map_or_else(|| Format::Other(Kind::unknown(id)), Format::from);
    let start = bytes.u64()?;
    Ok((
        name,
        Stored {
            file: 0,
            start,
            len: 0,
            shape,
            format,
            order: None,
            columns: None,
            factor: 1.0,
            values: Values::Same,
        },
    ))
}

/// Converts the offset to one from the start of the file and checks that the tensor lies within the
/// file.
fn locate(source: &ByteSource, name: &str, tensor: &mut Stored, data: u64) -> Read<()> {
    if matches!(tensor.format, Format::Other(_)) {
        return Ok(()); // an error only if the tensor is read
    }
    let len = tensor.wanted_bytes().ok_or_else(|| {
        format!(
            "{name} has the shape {:?}, which {} cannot hold",
            tensor.shape, tensor.format
        )
    })?;
    let start = data.checked_add(tensor.start);
    match start.and_then(|s| Some((s, s.checked_add(len)?))) {
        Some((start, end)) if end <= source.size() => {
            (tensor.start, tensor.len) = (start, len);
            Ok(())
        }
        _ => Err(format!(
            "{name} needs {len} bytes at {data} + {}, but the file ends at {}: it is cut short or damaged",
            tensor.start,
            source.size()
        )),
    }
}

macro_rules! looks {
    ($($name:ident: $kind:ident as $type:ty, $what:literal;)*) => {
        /// Accessors of metadata whose values need no conversion.
        impl Header {$(
            pub fn $name(&self, key: &str) -> Read<Option<&$type>> {
                self.get::<&$type>(key, $what, |v| match v {
                    Value::$kind(found) => Some(found),
                    _ => None,
                })
            }
        )*}
    };
}

looks! {
    text: Text as str, "a text";
    flag: Bool as bool, "true or false";
    texts: Texts as [String], "a list of texts";
    ints: Ints as [i64], "a list of whole numbers";
    floats: Floats as [f32], "a list of numbers";
}

/// Typed accessors of metadata; a value of another type is an error.
impl Header {
    pub fn whole(&self, key: &str) -> Read<Option<usize>> {
        self.get(key, "a whole number", |v| match v {
            Value::Int(i) => usize::try_from(*i).ok(),
            _ => None,
        })
    }

    /// An integer, or a list that holds the same integer for each of `layers` layers.
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

    /// Whether a key is there and not 0 or false.
    pub fn is_set(&self, key: &str) -> bool {
        match self.metadata.get(key) {
            None | Some(Value::Int(0) | Value::Bool(false)) => false,
            Some(Value::Ints(list)) => list.iter().any(|n| *n != 0),
            Some(_) => true,
        }
    }

    pub fn float(&self, key: &str) -> Read<Option<f64>> {
        self.get(key, "a number", |v| match v {
            Value::Float(f) => Some(*f),
            Value::Int(i) => Some(*i as f64),
            _ => None,
        })
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

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::{Dtype, gguf::Block};

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let metadata = [
            ("general.name", Value::Text("small".into())),
            ("llama.block_count", Value::Int(2)),
            ("tokenizer.ggml.scores", Value::Floats(vec![0.0, -1.5])),
        ]
        .map(|(key, value)| (key.to_string(), value));
        let coming = [
            ("a.weight", vec![3, 64], Kind::Block(Block::Q4_0)),
            ("b.weight", vec![5], Kind::Dense(Dtype::F32)),
            ("c.weight", vec![2, 256], Kind::Block(Block::Q6K)),
        ]
        .map(|(name, shape, kind)| TensorSpec::new(name, &shape, kind));
        let mut bytes = write(&metadata, &coming).unwrap();
        let data = bytes.len() as u64;
        assert!(data.is_multiple_of(ALIGNMENT));
        // 108 bytes and 20 zeros, 20 bytes and 12 zeros, 420 bytes
        bytes.resize(bytes.len() + 128 + 32 + 420, 0);
        let header = Header::read(&ByteSource::memory("x", bytes.clone())).unwrap();
        assert_eq!(header.metadata, metadata.into_iter().collect());
        for (coming, start) in coming.iter().zip([0, 128, 160]) {
            let stored = &header.tensors[&coming.name];
            assert_eq!((stored.start, stored.len), (data + start, coming.bytes()));
            assert_eq!(
                (&stored.shape, &stored.format),
                (&coming.shape, &coming.kind.into())
            );
        }
        bytes.pop();
        let e = Header::read(&ByteSource::memory("x", bytes)).unwrap_err();
        assert!(e.to_string().contains("c.weight needs 420 bytes"), "{e}");
    }
}
