//! The header of a safetensors file, read by hand so that each fault is named: 8 bytes of length, then JSON
//! `{name: {dtype, shape, data_offsets}}`, then the data.

use serde_json::Value;

use super::index::{Data, Format, Index, Place, Stored};
use crate::{Error, Result};

/// The format's own limit on its header.
const LONGEST_HEADER: u64 = 100_000_000;

/// Adds a file's tensors to the index.
pub(super) fn add(index: &mut Index, name: &str, data: Data) -> Result<()> {
    add_place(index, Place::new(name, data)?)
}

/// Adds a file's tensors to the index.
pub(super) fn add_place(index: &mut Index, place: Place) -> Result<()> {
    let (header, data_start) = header(&place)?;
    let (file, name, data_len) = (
        index.files.len(),
        place.name.clone(),
        place.len() - data_start,
    );
    index.files.push(place.into());
    for (tensor, entry) in &header {
        if tensor != "__metadata__" {
            let stored = stored(entry, file, data_start, data_len)
                .map_err(|what| Error::rule(format!("{name}: {tensor} {what}")))?;
            index.add(tensor.clone(), stored)?;
        }
    }
    Ok(())
}

fn header(place: &Place) -> Result<(serde_json::Map<String, Value>, u64)> {
    let name = &place.name;
    if place.len() < 8 {
        return Err(Error::rule(format!(
            "{name} is no safetensors file: it has {} bytes",
            place.len()
        )));
    }
    let mut length = [0; 8];
    length.copy_from_slice(&place.read(0, 8)?);
    let length = u64::from_le_bytes(length);
    if length > LONGEST_HEADER {
        return Err(Error::rule(format!(
            "{name} is no safetensors file: its header would be {length} bytes long"
        )));
    }
    if length > place.len() - 8 {
        return Err(Error::rule(format!(
            "{name} is cut short: its header needs {length} bytes and {} follow",
            place.len() - 8
        )));
    }
    let text = place.read(8, length)?;
    match serde_json::from_slice(&text) {
        Ok(Value::Object(map)) => Ok((map, 8 + length)),
        Ok(_) => Err(Error::rule(format!(
            "{name} is no safetensors file: its header is not a JSON object"
        ))),
        Err(e) => Err(Error::rule(format!(
            "{name} is damaged or no safetensors file: its header is not JSON: {e}"
        ))),
    }
}

fn stored(
    entry: &Value,
    file: usize,
    data_start: u64,
    data_len: u64,
) -> std::result::Result<Stored, String> {
    let dtype = entry
        .get("dtype")
        .and_then(Value::as_str)
        .ok_or("has no dtype")?;
    let format = match dtype {
        "F32" => Format::F32,
        "F16" => Format::F16,
        "BF16" => Format::Bf16,
        other => Format::Other(other.to_string()),
    };
    let numbers = |key: &str| -> Option<Vec<u64>> {
        entry
            .get(key)?
            .as_array()?
            .iter()
            .map(Value::as_u64)
            .collect()
    };
    let shape = numbers("shape").ok_or("has no shape")?;
    let shape: Vec<usize> = shape
        .into_iter()
        .map(usize::try_from)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| e.to_string())?;
    let offsets = numbers("data_offsets")
        .filter(|o| o.len() == 2)
        .ok_or("has no data_offsets")?;
    let (begin, end) = (offsets[0], offsets[1]);
    if begin > end || end > data_len {
        return Err(format!(
            "lies at bytes {begin}..{end} of {data_len} bytes of data: it leaves the file (is the file cut short?)"
        ));
    }
    let stored = Stored {
        file,
        start: data_start + begin,
        len: end - begin,
        shape,
        format,
        permuted: None,
    };
    // a format we cannot read is an error only where the tensor is wanted
    if !matches!(stored.format, Format::Other(_)) && stored.wanted_bytes() != Some(stored.len) {
        return Err(format!(
            "has the shape {:?} in {dtype} but {} bytes",
            stored.shape, stored.len
        ));
    }
    Ok(stored)
}
