//! Whose model a file is by its architecture, that architecture's keys, and what a configuration
//! says where its family's class has defaults.

use randori_sdk::{
    dialect::{Gguf, Sliding},
    seam::Family,
};
use serde_json::Value;

use crate::{
    Error, Result,
    gguf::{self, bytes::Read, header::Header},
};

/// A family and its GGUF dialect.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spoken<'a> {
    pub family: &'a Family,
    pub gguf: Gguf,
}

impl<'a> Spoken<'a> {
    /// A family's.
    ///
    /// # Errors
    /// One that GGUF is not known to store.
    pub fn of(family: &'a Family) -> Result<Self> {
        match family.dialect.gguf {
            Some(gguf) => Ok(Spoken { family, gguf }),
            None => Err(Error::rule(format!(
                "the plugin of the architecture {:?} does not say how GGUF stores it; export a Hugging Face folder",
                family.name
            ))),
        }
    }

    /// That of a file: of the families that read its architecture the one that a key tells, or
    /// else the one that no key tells.
    ///
    /// # Errors
    /// A file that names no architecture, or one that no family reads.
    pub fn of_file(header: &Header, families: &'a [Family]) -> Read<Self> {
        let arch = header
            .text("general.architecture")?
            .ok_or("general.architecture is missing")?;
        let known = families.iter().filter_map(|family| Spoken::of(family).ok());
        let mut untold = None;
        for spoken in known.clone().filter(|s| s.gguf.read) {
            let gguf = &spoken.gguf;
            if gguf.architecture != arch && !gguf.also.contains(&arch) {
                continue;
            }
            if gguf.told_by.is_empty() {
                untold = untold.or(Some(spoken));
            } else if header.is_set(&format!("{arch}.{}", gguf.told_by)) {
                return Ok(spoken);
            }
        }
        untold.ok_or_else(|| {
            let mut all: Vec<String> = known
                .map(|s| match s.gguf.architecture == s.family.name {
                    true => s.family.name.clone(),
                    false => format!("{} ({})", s.gguf.architecture, s.family.name),
                })
                .collect();
            all.sort();
            format!(
                "the GGUF architecture {arch} is not supported; those of the loaded plugins are: {}",
                all.join(", ")
            )
        })
    }

    /// What transformers' class makes of a key that is absent; null where it makes nothing.
    pub fn default(&self, key: &str) -> Value {
        let all: Value = serde_json::from_str(self.family.dialect.defaults).unwrap_or_default();
        at(&all, key).cloned().unwrap_or_default()
    }

    /// A configuration's value, or its class's for an absent one; `.` leads into an object.
    pub fn value(&self, config: &Value, path: &str) -> Value {
        match at(config, path) {
            Some(value) => value.clone(),
            None => self.default(path),
        }
    }

    /// The longest a text can be for a model of this configuration without a window cutting
    /// anything off that the file does not say; `None`: no window is lost.
    pub fn within(&self, window: Option<usize>, config: &Value) -> Option<usize> {
        let layers = |key: &str| {
            let there = config.get(key).and_then(Value::as_u64);
            there.or(self.default(key).as_u64()).unwrap_or(0)
        };
        let named = config.get("layer_types").and_then(Value::as_array);
        let used = config.get("use_sliding_window") == Some(&Value::Bool(true));
        // a class that has no default of the key does not read it
        let everywhere = self.default("max_window_layers").is_null();
        let any = match (self.gguf.sliding, named) {
            (Sliding::Kept, _) => false,
            (Sliding::LostInUse, _) if !used => false,
            (Sliding::LostInUse, _) if everywhere => true,
            (_, Some(kinds)) => kinds.iter().any(|kind| kind == "sliding_attention"),
            (Sliding::Lost, None) => true,
            (Sliding::LostInUse, None) => layers("num_hidden_layers") > layers("max_window_layers"),
        };
        window.filter(|_| any)
    }
}

/// A value of a configuration by its path, in which `.` leads into an object.
pub(super) fn at<'v>(config: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.')
        .try_fold(config, |value, key| value.get(key))
}

/// A file's keys of its architecture: `block_count` is `llama.block_count`, say.
pub(super) struct Keys<'a> {
    pub header: &'a Header,
    architecture: &'a str,
}

impl<'a> Keys<'a> {
    /// Those of a file.
    pub fn new(header: &'a Header) -> Read<Self> {
        let architecture = header.text("general.architecture")?.unwrap_or_default();
        Ok(Keys {
            header,
            architecture,
        })
    }

    /// A key's whole name.
    pub fn name(&self, key: &str) -> String {
        format!("{}.{key}", self.architecture)
    }

    /// A whole number.
    pub fn whole(&self, key: &str) -> Read<Option<usize>> {
        self.header.whole(&self.name(key))
    }

    /// A whole number that is one, or a list of `layers` equal ones.
    pub fn alike(&self, key: &str, layers: usize) -> Read<Option<usize>> {
        self.header.alike(&self.name(key), layers)
    }

    /// A list of whole numbers; `None` for one number, or none.
    pub fn each(&self, key: &str) -> Option<&'a [i64]> {
        match self.header.metadata.get(&self.name(key)) {
            Some(gguf::Value::Ints(list)) => Some(list),
            _ => None,
        }
    }

    /// A number.
    pub fn float(&self, key: &str) -> Read<Option<f64>> {
        self.header.float(&self.name(key))
    }

    /// A text.
    pub fn text(&self, key: &str) -> Read<Option<&'a str>> {
        self.header.text(&self.name(key))
    }

    /// True or false.
    pub fn flag(&self, key: &str) -> Read<Option<bool>> {
        Ok(self.header.flag(&self.name(key))?.copied())
    }
}
