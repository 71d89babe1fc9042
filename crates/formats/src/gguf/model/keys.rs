//! Metadata beside Llama's keys, by a family's dialect: keys that hold what a configuration says,
//! and what a file implies without saying so.

use randori_sdk::dialect::{Form, Implied, Is, Key};
use serde_json::{Value, json};

use super::dialect::{Keys, Spoken};
use crate::{
    Error, Result,
    gguf::{self, bytes::Read, header::Header},
};

/// The key that holds the rotary base of layers with a window.
const WINDOWED_BASE: &str = "rope.freq_base_swa";
/// Kinds of layers in `layer_types` that a list of true and false tells apart, unless a key has
/// others.
const SLIDES: [&str; 2] = ["full_attention", "sliding_attention"];

/// Sizes of a model, from which implied numbers follow.
pub(super) struct Sizes {
    pub layers: usize,
    pub width: usize,
    pub heads: usize,
    pub head_dim: usize,
    /// The rotary base, of layers that see everything where there are two.
    pub theta: f64,
}

/// The keys of a configuration's values, without the architecture.
///
/// # Errors
/// A required value that is not there, or one of another form.
pub(super) fn written(spoken: &Spoken, config: &Value) -> Result<Vec<(String, gguf::Value)>> {
    let mut all = Vec::new();
    for key in spoken.gguf.keys {
        if !key.only_with.is_empty() && spoken.value(config, key.only_with) != Value::Bool(true) {
            continue;
        }
        let there = key.config.iter().map(|path| spoken.value(config, path));
        let found = there.into_iter().find(|value| !value.is_null());
        let or_zero = matches!(key.form, Form::Count | Form::Cap);
        let found = found.or(or_zero.then(|| json!(0)));
        let Some(value) = found else {
            match key.required {
                true => return Err(lacks(key)),
                false => continue,
            }
        };
        let times = match key.times {
            "" => Some(1),
            times => spoken.value(config, times).as_u64(),
        };
        let written = times.and_then(|times| stored(key, &value, times));
        let written = written.ok_or_else(|| {
            Error::rule(format!(
                "{} of the model's configuration is {value}, which GGUF's {} cannot hold",
                key.config.join(" or "),
                key.key
            ))
        })?;
        all.push((key.key.to_string(), written));
    }
    Ok(all)
}

fn lacks(key: &Key) -> Error {
    Error::rule(format!(
        "the model's configuration has no {}, which a GGUF needs",
        key.config.join(" or ")
    ))
}

/// What a file holds for a value; `times` is what a whole number is multiplied by.
fn stored(key: &Key, value: &Value, times: u64) -> Option<gguf::Value> {
    Some(match key.form {
        Form::Real | Form::Cap => {
            let value = value.as_f64()?;
            gguf::Value::Float(match key.reciprocal {
                true => key.factor / value,
                false => key.factor * value,
            })
        }
        Form::Whole | Form::Count => gguf::Value::Int(value.as_u64()?.checked_mul(times)?.into()),
        Form::Flag => gguf::Value::Bool(value.as_bool()?),
        Form::Text => gguf::Value::Text(value.as_str()?.into()),
        Form::Slides => {
            let [_, slides] = kinds_of(key);
            let kinds = value.as_array()?.iter();
            let slides = kinds.map(|kind| Some(kind.as_str()? == slides));
            gguf::Value::Bools(slides.collect::<Option<_>>()?)
        }
        Form::Four => {
            let mut all = value.as_array()?.iter().map(Value::as_i64);
            let all: [i64; 4] =
                std::array::from_fn(|_| all.next().unwrap_or(Some(0)).unwrap_or(-1));
            let fits = value.as_array()?.len() <= 4 && all.iter().all(|n| *n >= 0);
            gguf::Value::Ints(fits.then(|| all.to_vec())?)
        }
    })
}

/// Puts the values of a file's keys into its configuration.
///
/// # Errors
/// A required key that is not there, or one of another form.
pub(super) fn read(spoken: &Spoken, keys: &Keys, layers: usize, config: &mut Value) -> Read<()> {
    for key in spoken.gguf.keys {
        let value = match key.form {
            Form::Real => keys.float(key.key)?.map(|v| json!(own(key, v))),
            Form::Cap => {
                let there = keys.float(key.key)?.filter(|v| *v != 0.0);
                there.map(|v| json!(own(key, v)))
            }
            Form::Whole => {
                let there = keys.whole(key.key)?.filter(|n| *n > 0);
                there
                    .map(|n| one_of(spoken, keys, key, n, config))
                    .transpose()?
            }
            Form::Count => Some(json!(keys.whole(key.key)?.unwrap_or(0))),
            Form::Flag => keys.flag(key.key)?.map(|v| json!(v)),
            Form::Text => keys.text(key.key)?.map(|v| json!(v)),
            Form::Slides => kinds(keys.header, &keys.name(key.key), layers, kinds_of(key))?,
            Form::Four => keys.each(key.key).map(four),
        };
        match (value, key.config.first()) {
            (Some(value), Some(path)) => {
                set(config, path, value);
                if !key.only_with.is_empty() {
                    set(config, key.only_with, json!(true));
                }
            }
            (None, _) if key.required && key.only_with.is_empty() => {
                return Err(format!("{} is missing", keys.name(key.key)));
            }
            _ => {}
        }
    }
    Ok(())
}

/// The configuration's whole number for a file's, which may be several times as large.
fn one_of(spoken: &Spoken, keys: &Keys, key: &Key, n: usize, config: &Value) -> Read<Value> {
    if key.times.is_empty() {
        return Ok(json!(n));
    }
    let times = spoken.value(config, key.times).as_u64().unwrap_or(0);
    let one = (n as u64)
        .checked_div(times)
        .filter(|one| one * times == n as u64);
    one.map(|one| json!(one)).ok_or_else(|| {
        format!(
            "{} is {n}, no multiple of {times} ({} of its configuration)",
            keys.name(key.key),
            key.times
        )
    })
}

/// A list without the zeros at its end.
fn four(list: &[i64]) -> Value {
    let used = list.iter().rposition(|n| *n != 0).map_or(0, |at| at + 1);
    json!(list[..used])
}

/// What a key's false and true mean in `layer_types`.
fn kinds_of(key: &Key) -> [&'static str; 2] {
    match key.kinds {
        &[no, yes] => [no, yes],
        _ => SLIDES,
    }
}

/// The configuration's number for a file's.
fn own(key: &Key, stored: f64) -> f64 {
    let stored = shortest(stored);
    match key.reciprocal {
        true => key.factor / stored,
        false => stored / key.factor,
    }
}

/// The shortest decimal number that gives the same f32: 1e-5, not 9.999999747378752e-6.
pub(super) fn shortest(v: f64) -> f64 {
    format!("{}", v as f32).parse().unwrap_or(v)
}

/// A positive integer; null counts as absent.
pub(super) fn whole(value: &Value, key: &str) -> Result<Option<usize>> {
    if value.is_null() {
        return Ok(None);
    }
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok());
    number.filter(|n| *n > 0).map(Some).ok_or_else(|| {
        Error::rule(format!(
            "{key} of the model's configuration must be a whole number above 0, not {value}"
        ))
    })
}

/// What false and true mean in `layer_types` by the key of this name.
pub(super) fn kind_names(spoken: &Spoken, key: &str) -> [&'static str; 2] {
    let mut keys = spoken.gguf.keys.iter();
    keys.find(|known| known.key == key).map_or(SLIDES, kinds_of)
}

/// Each layer's kind of these two.
fn kinds(header: &Header, key: &str, layers: usize, names: [&str; 2]) -> Read<Option<Value>> {
    let kinds = slides(header, key, layers)?.map(|slides| {
        let kinds = slides.into_iter().map(|slides| names[usize::from(slides)]);
        kinds.collect()
    });
    Ok(kinds)
}

/// Which layers slide, by a list, or by a number: all but every so many.
pub(super) fn slides(header: &Header, key: &str, layers: usize) -> Read<Option<Vec<bool>>> {
    let slides: Vec<bool> = match header.metadata.get(key) {
        None => return Ok(None),
        Some(gguf::Value::Bools(list)) => list.clone(),
        Some(gguf::Value::Ints(list)) => list.iter().map(|n| *n != 0).collect(),
        Some(gguf::Value::Int(every)) => {
            let every = usize::try_from(*every).unwrap_or(0);
            let full = |layer: usize| every > 0 && (layer + 1).is_multiple_of(every);
            (0..layers).map(|layer| !full(layer)).collect()
        }
        Some(other) => return Err(format!("{key} must be a list or a number, not {other:?}")),
    };
    if slides.len() != layers {
        return Err(format!(
            "{key} has {} entries for {layers} layers",
            slides.len()
        ));
    }
    Ok(Some(slides))
}

/// Sets a value of a configuration by its path.
fn set(config: &mut Value, path: &str, value: Value) {
    let mut place = config;
    for key in path.split('.') {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[key];
    }
    *place = value;
}

/// Whether layers with a window have a rotary base of their own.
pub(super) fn two_bases(spoken: &Spoken) -> bool {
    spoken.gguf.keys.iter().any(|key| key.key == WINDOWED_BASE)
}

/// The rotary base of layers with a window, if a file or the family's class has one.
pub(super) fn windowed_base(spoken: &Spoken, keys: &Keys) -> Read<Option<f64>> {
    let paths = spoken.gguf.keys.iter().filter(|k| k.key == WINDOWED_BASE);
    let mut paths = paths.flat_map(|key| key.config);
    let absent = paths.find_map(|path| spoken.default(path).as_f64());
    Ok(keys.float(WINDOWED_BASE)?.map(shortest).or(absent))
}

/// What an entry means for a model of these sizes and this configuration.
fn meant(implied: &Implied, spoken: &Spoken, config: &Value, sizes: &Sizes) -> Vec<Value> {
    let per_head = sizes.width as f64 / sizes.heads as f64;
    match implied.is {
        Is::Json => {
            let texts = implied.values.iter();
            texts
                .filter_map(|text| serde_json::from_str(text).ok())
                .collect()
        }
        Is::HeadDim => vec![json!(sizes.head_dim)],
        Is::WidthPerHead if per_head.fract() == 0.0 => vec![json!(per_head as usize)],
        Is::WidthPerHead => vec![json!(per_head)],
        Is::Theta => vec![json!(sizes.theta)],
        Is::Other => {
            let others = implied.values.iter();
            others.map(|key| spoken.value(config, key)).collect()
        }
        Is::Cycle => {
            // a number, or else text
            let one = |text: &&str| serde_json::from_str(text).unwrap_or_else(|_| json!(text));
            let kinds: Vec<Value> = implied.values.iter().map(one).collect();
            vec![kinds.iter().cycle().take(sizes.layers).cloned().collect()]
        }
    }
}

/// The entries that hold for a model of so many layers, one a key.
fn holding(spoken: &Spoken, layers: usize) -> Vec<&'static Implied> {
    let mut all: Vec<&'static Implied> = Vec::new();
    for implied in spoken.gguf.implied {
        let known = all.iter().any(|other| other.config == implied.config);
        if !known && [0, layers].contains(&implied.layers) {
            all.push(implied);
        }
    }
    all
}

/// Refuses a configuration that says something else than a file of it would mean.
///
/// # Errors
/// The key, its value and the file's.
pub(super) fn check(spoken: &Spoken, config: &Value, sizes: &Sizes) -> Result<()> {
    for implied in holding(spoken, sizes.layers) {
        let (key, value) = (implied.config, spoken.value(config, implied.config));
        if value.is_null() || implied.lenient {
            continue;
        }
        let meant = meant(implied, spoken, config, sizes);
        if !meant.iter().any(|meant| same(meant, &value)) {
            return Err(Error::rule(format!(
                "{key} of the model's configuration is {value}; GGUF's {} means {} and cannot say otherwise: export a Hugging \
                 Face folder",
                spoken.gguf.architecture,
                meant.first().unwrap_or(&Value::Null)
            )));
        }
    }
    Ok(())
}

/// Whether two values are equal, a whole number and a real one too.
fn same(a: &Value, b: &Value) -> bool {
    match (a.as_f64(), b.as_f64()) {
        (Some(a), Some(b)) => a == b,
        _ => a == b,
    }
}

/// Puts what a file implies into its configuration.
pub(super) fn imply(spoken: &Spoken, sizes: &Sizes, config: &mut Value) {
    for implied in holding(spoken, sizes.layers) {
        let meant = meant(implied, spoken, config, sizes).into_iter().next();
        if let Some(meant) = meant.filter(|_| !implied.absent) {
            set(config, implied.config, meant);
        }
    }
}
