//! YAML as PyYAML's safe loader reads it (YAML 1.1: `yes` is true, `1e3` a text), with a function
//! (`!function utils.process_docs`) as an object of its own. The parser gives events; what a plain
//! word means is decided here.

use std::collections::HashMap;
use std::path::Path;

use anyhow::{Result, anyhow, bail};
use randori_eval::task::FUNCTION;
use saphyr_parser::{Event, Parser, ScalarStyle, StrInput, Tag};
use serde_json::{Map, Number, Value};

/// Deepest nesting that is read.
const DEEPEST: usize = 64;

/// What `!!` stands for.
const CORE: &str = "tag:yaml.org,2002:";

/// The key under which a function's object names its Python file.
pub const FILE: &str = "file";

/// Reads a file's text, whose functions are in Python files beside it, in `folder`.
///
/// # Errors
/// A text that is not YAML, or of which the first document is no mapping.
pub fn mapping(text: &str, folder: &Path) -> Result<Map<String, Value>> {
    let mut reader = Reader {
        parser: Parser::new_from_str(text),
        anchors: HashMap::new(),
        folder,
    };
    loop {
        match reader.event()? {
            Event::StreamStart | Event::DocumentStart(_) | Event::Nothing => {}
            Event::StreamEnd => bail!("is empty"),
            first => match reader.value(first, 0)? {
                Value::Object(map) => return Ok(map),
                other => bail!("must be a mapping, is {other:.40}"),
            },
        }
    }
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    anchors: HashMap<usize, Value>,
    folder: &'a Path,
}

impl<'a> Reader<'a> {
    fn event(&mut self) -> Result<Event<'a>> {
        match self.parser.next() {
            Some(Ok((event, _))) => Ok(event),
            Some(Err(error)) => bail!("line {}: {}", error.marker().line(), error.info()),
            None => bail!("ends too early"),
        }
    }

    fn value(&mut self, event: Event<'a>, depth: usize) -> Result<Value> {
        if depth > DEEPEST {
            bail!("is nested more than {DEEPEST} deep");
        }
        let (anchor, value) = match event {
            Event::Alias(anchor) => {
                let known = self.anchors.get(&anchor).cloned();
                return known.ok_or_else(|| anyhow!("names an anchor that is not there"));
            }
            Event::Scalar(text, style, anchor, tag) => {
                (anchor, self.scalar(&text, style, tag.as_deref())?)
            }
            Event::SequenceStart(anchor, tag) => {
                untagged(tag.as_deref())?;
                let mut items = Vec::new();
                loop {
                    match self.event()? {
                        Event::SequenceEnd => break,
                        next => items.push(self.value(next, depth + 1)?),
                    }
                }
                (anchor, items.into())
            }
            Event::MappingStart(anchor, tag) => {
                untagged(tag.as_deref())?;
                (anchor, self.entries(depth)?)
            }
            other => bail!("has {other:?} where a value should be"),
        };
        if anchor > 0 {
            self.anchors.insert(anchor, value.clone());
        }
        Ok(value)
    }

    fn entries(&mut self, depth: usize) -> Result<Value> {
        let (mut map, mut merged) = (Map::new(), Vec::new());
        loop {
            let (merges, key) = match self.event()? {
                Event::MappingEnd => break,
                next => {
                    let plain = matches!(&next, Event::Scalar(_, ScalarStyle::Plain, ..));
                    let key = match self.value(next, depth + 1)? {
                        Value::String(key) => key,
                        other => other.to_string(),
                    };
                    (plain && key == "<<", key)
                }
            };
            let next = self.event()?;
            let value = self.value(next, depth + 1)?;
            match (merges, value) {
                (true, Value::Array(several)) => merged.extend(several),
                (true, one) => merged.push(one),
                (false, value) => _ = map.insert(key, value),
            }
        }
        for (key, value) in merged.iter().filter_map(Value::as_object).flatten() {
            map.entry(key).or_insert_with(|| value.clone());
        }
        Ok(map.into())
    }

    fn scalar(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value> {
        match tag.map(|tag| (tag.handle.as_str(), tag.suffix.as_str())) {
            Some(("!", "function")) => {
                let (module, name) = text
                    .rsplit_once('.')
                    .ok_or_else(|| anyhow!("`!function {text}` must name a file and a function"))?;
                let module = module.replace('.', "/");
                let own = self
                    .folder
                    .file_name()
                    .unwrap_or_default()
                    .to_string_lossy();
                let file = self.folder.join(format!("{module}.py"));
                let mut map = Map::new();
                map.insert(FUNCTION.into(), format!("{own}/{module}.{name}").into());
                map.insert(FILE.into(), file.to_string_lossy().into());
                Ok(map.into())
            }
            Some((CORE, "str")) | Some(("!", "")) => Ok(text.into()),
            Some((CORE, "null" | "bool" | "int" | "float")) => Ok(plain(text)),
            Some((handle, suffix)) => bail!("has the tag {handle}{suffix}, which is not built in"),
            None if style == ScalarStyle::Plain => Ok(plain(text)),
            None => Ok(text.into()),
        }
    }
}

fn untagged(tag: Option<&Tag>) -> Result<()> {
    match tag {
        Some(tag) => bail!(
            "has the tag {}{}, which is not built in",
            tag.handle,
            tag.suffix
        ),
        None => Ok(()),
    }
}

/// What a plain word means in YAML 1.1.
fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "yes" | "Yes" | "YES" | "true" | "True" | "TRUE" | "on" | "On" | "ON" => {
            return true.into();
        }
        "no" | "No" | "NO" | "false" | "False" | "FALSE" | "off" | "Off" | "OFF" => {
            return false.into();
        }
        _ => {}
    }
    number(text).map_or_else(|| text.into(), Value::Number)
}

fn number(text: &str) -> Option<Number> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let plain = unsigned.replace('_', "");
    let sign = if text.starts_with('-') { -1 } else { 1 };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    if !unsigned.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
        return None;
    }
    let radix = |prefix: &str, radix| {
        let of = plain.strip_prefix(prefix).filter(|of| !of.is_empty())?;
        i64::from_str_radix(of, radix).ok()
    };
    let whole = match plain.strip_prefix('0') {
        None if digits(&plain) => plain.parse().ok(),
        Some("") => Some(0),
        _ => radix("0x", 16).or(radix("0b", 2)).or(radix("0", 8)),
    };
    if let Some(whole) = whole {
        return Some((whole * sign).into());
    }
    // a fraction has a point, and its exponent a sign
    let (before, after) = plain.split_once('.')?;
    let (fraction, exponent) = match after.split_once(['e', 'E']) {
        Some((fraction, exponent)) => (fraction, Some(exponent)),
        None => (after, None),
    };
    let signed = |text: &str| text.strip_prefix(['-', '+']).is_some_and(digits);
    let fits = (before.is_empty() || digits(before))
        && (fraction.is_empty() || digits(fraction))
        && !(before.is_empty() && fraction.is_empty())
        && exponent.is_none_or(signed);
    let value: f64 = format!("{before}.{fraction}0e{}", exponent.unwrap_or("0"))
        .parse()
        .ok()
        .filter(|_| fits)?;
    Number::from_f64(value * f64::from(sign as i32))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(text: &str) -> Result<Value, String> {
        let read = mapping(text, Path::new("/tasks/mine"));
        read.map(Value::Object).map_err(|e| e.to_string())
    }

    /// The values are PyYAML 6's `yaml.safe_load`.
    #[test]
    fn words_mean_what_they_mean_to_pyyaml() {
        let text = "a: yes\nb: No\nc: 1e3\nd: 1.5e+3\ne: 010\nf: 0x1f\ng: 1_000\nh: ~\ni:\nj: '1'\n\
                    k: .5\nl: -3\nm: +4.\nn: 1.0\no: null\np: n\nq: 0.0\nr: -\"x\ns: 08\nt: 1.5e3\nu: !!null ''\nv: !!str 1";
        let value = json!({
            "a": true, "b": false, "c": "1e3", "d": 1500.0, "e": 8, "f": 31, "g": 1000,
            "h": null, "i": null, "j": "1", "k": 0.5, "l": -3, "m": 4.0, "n": 1.0, "o": null,
            "p": "n", "q": 0.0, "r": "-\"x", "s": "08", "t": "1.5e3",
            "u": null, "v": "1"
        });
        assert_eq!(read(text).unwrap(), value);
    }

    #[test]
    fn texts_lists_anchors_and_functions() {
        let text = "\
# of a task
\"t\": \"a\\n\\
  \\n\"
u: 'it''s

  two'
until:
  - <|im_end|>
  - \"\\n\\n\"
same: &x {a: [1, b]}
other: *x
more:
  <<: *x
  c: 2
f: !function utils.process_docs
";
        let value = json!({
            "t": "a\n\n", "u": "it's\ntwo", "until": ["<|im_end|>", "\n\n"],
            "same": {"a": [1, "b"]}, "other": {"a": [1, "b"]},
            "more": {"c": 2, "a": [1, "b"]},
            "f": {"!function": "mine/utils.process_docs", "file": "/tasks/mine/utils.py"},
        });
        assert_eq!(read(text).unwrap(), value);
        for (wrong, why) in [
            ("", "is empty"),
            ("- a", "must be a mapping"),
            ("a: !class X", "has the tag !class"),
            ("a: [1", "line "),
            ("a: !function x", "must name a file and a function"),
        ] {
            let said = read(wrong).unwrap_err();
            assert!(said.contains(why), "{wrong}: {said}");
        }
        assert!(read(&format!("a: {}", "[".repeat(5000))).is_err());
    }
}
