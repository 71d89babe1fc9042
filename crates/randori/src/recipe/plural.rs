//! Values that are several: lists, one or many texts, one per iteration, a plugin's options.

use randori_core::PerIteration;
use randori_sdk::seam::Value as OptionScalar;

use super::hub_name::Named;
use super::setting::{
    Bound, Fault, Raw, RawValue, Setting, absolute_if_from_shell, missing, show_float, toml_text,
};

impl<T: Setting> Setting for Vec<T> {
    fn shape() -> String {
        format!("list of {}s", T::shape())
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        let raw = raw.ok_or_else(|| missing("a list"))?;
        let RawValue::List(list) = &raw.value else {
            return Err(raw.expected(&format!("a {}", Self::shape())));
        };
        list.iter()
            .map(|one| {
                let one = Raw {
                    from_command_line: raw.from_command_line,
                    ..one.clone()
                };
                T::read(Some(&one), bound)
            })
            .collect()
    }
    fn show(&self) -> Option<String> {
        let each: Vec<String> = self.iter().filter_map(Setting::show).collect();
        Some(format!("[{}]", each.join(", ")))
    }
}

/// One text or a list of them. In a path's place, each may be a path or `builtin:…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Texts(pub Vec<String>);

impl Setting for Texts {
    fn shape() -> String {
        "text or list of texts".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        match raw {
            Some(Raw {
                value: RawValue::List(_),
                ..
            }) => Vec::read(raw, bound).map(Texts),
            Some(Raw {
                value: RawValue::Text(_),
                ..
            }) => Ok(Texts(vec![String::read(raw, bound)?])),
            Some(raw) => Err(raw.expected("text or a list of texts")),
            None => Ok(Texts(Vec::new())),
        }
    }
    fn show(&self) -> Option<String> {
        match &self.0[..] {
            [one] => Some(toml_text(one)),
            _ => self.0.show(),
        }
    }
}

/// Files to read: like [`Texts`], but `--set` paths start from the working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Files(pub Vec<String>);

impl Setting for Files {
    fn shape() -> String {
        "path or list of paths".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        let Texts(texts) = Texts::read(raw, bound)?;
        Ok(Files(
            texts
                .into_iter()
                .map(|t| absolute_if_from_shell(raw, t))
                .collect(),
        ))
    }
    fn show(&self) -> Option<String> {
        Texts(self.0.clone()).show()
    }
}

/// Data to read: files as in [`Files`], or data sets of the hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSets(pub Vec<String>);

impl Setting for DataSets {
    fn shape() -> String {
        "path or hub id, or a list of them".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        let Texts(texts) = Texts::read(raw, bound)?;
        let of_hub = |text: &String| {
            let here = std::path::Path::new(text).exists();
            !here && Named::parse(text).is_some()
        };
        let each = texts.into_iter().map(|text| match of_hub(&text) {
            true => text,
            false => absolute_if_from_shell(raw, text),
        });
        Ok(DataSets(each.collect()))
    }
    fn show(&self) -> Option<String> {
        Texts(self.0.clone()).show()
    }
}

/// Validation data: data sets, or `none`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Validation {
    /// `none`: no training data is kept aside either.
    Off,
    /// These; an empty list where the key is not given.
    Sets(DataSets),
}

impl Validation {
    /// The data sets that are named.
    pub fn sets(&self) -> &[String] {
        match self {
            Validation::Off => &[],
            Validation::Sets(sets) => &sets.0,
        }
    }
}

impl Setting for Validation {
    fn shape() -> String {
        format!("{}, or `none`", DataSets::shape())
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        match raw.map(|raw| &raw.value) {
            Some(RawValue::Text(text)) if text == "none" => Ok(Validation::Off),
            Some(RawValue::Int(_) | RawValue::Float(_)) => {
                let got = raw.map_or("", |raw| raw.text.as_str());
                Err(Fault {
                    rule: format!(
                        "must be data sets or \"none\", got {got}; a share of the training data \
                         is data.validation_share"
                    ),
                    place: raw.map(|raw| raw.place.clone()),
                })
            }
            _ => DataSets::read(raw, bound).map(Validation::Sets),
        }
    }
    fn show(&self) -> Option<String> {
        match self {
            Validation::Off => Some(toml_text("none")),
            Validation::Sets(sets) => sets.show(),
        }
    }
}

impl<T: Setting> Setting for PerIteration<T> {
    fn shape() -> String {
        format!("{}, or a list: one per iteration", T::shape())
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        let raw = raw.ok_or_else(|| missing(&T::shape()))?;
        let values = match raw.value {
            RawValue::List(_) => Vec::read(Some(raw), bound)?,
            _ => vec![T::read(Some(raw), bound)?],
        };
        if values.is_empty() {
            return Err(raw.fault("must have at least one value, got []".into()));
        }
        Ok(PerIteration(values))
    }
    fn show(&self) -> Option<String> {
        match &self.0[..] {
            [one] => one.show(),
            list => {
                let each: Vec<String> = list.iter().filter_map(Setting::show).collect();
                Some(format!("[{}]", each.join(", ")))
            }
        }
    }
}

/// An option that a plugin declares; numbers may be lists, one per iteration.
#[derive(Debug, Clone)]
pub struct PluginOption {
    /// Its key.
    pub name: String,
    /// One value, or one per iteration.
    pub values: Vec<OptionScalar>,
    /// Where it stands.
    pub place: String,
}

impl PluginOption {
    pub(super) fn read(name: &str, raw: &Raw) -> Result<PluginOption, String> {
        let scalar = |raw: &Raw| match &raw.value {
            RawValue::Text(v) => Ok(OptionScalar::Str(v.clone())),
            RawValue::Int(v) => Ok(OptionScalar::Int(*v)),
            RawValue::Float(v) => Ok(OptionScalar::Float(*v)),
            RawValue::Bool(v) => Ok(OptionScalar::Bool(*v)),
            _ => Err(format!(
                "must be a number, text, true or false, got {}",
                raw.text
            )),
        };
        let values = match &raw.value {
            RawValue::List(list) if list.is_empty() => {
                return Err("must have at least one value, got []".into());
            }
            RawValue::List(list) => list.iter().map(scalar).collect::<Result<_, _>>()?,
            _ => vec![scalar(raw)?],
        };
        Ok(PluginOption {
            name: name.to_string(),
            values,
            place: raw.place.clone(),
        })
    }

    /// Its value in iteration `t`.
    pub fn at(&self, t: usize) -> OptionScalar {
        self.values[t.min(self.values.len() - 1)].clone()
    }

    /// As TOML.
    pub fn show(&self) -> String {
        let each: Vec<String> = self
            .values
            .iter()
            .map(|v| match v {
                OptionScalar::Float(v) => show_float(*v),
                OptionScalar::Int(v) => v.to_string(),
                OptionScalar::Bool(v) => v.to_string(),
                OptionScalar::Str(v) => toml_text(v),
            })
            .collect();
        match &each[..] {
            [one] => one.clone(),
            _ => format!("[{}]", each.join(", ")),
        }
    }
}

/// A plugin's item with its options: `{name = "temperature", value = 0.8}`.
#[derive(Debug, Clone)]
pub struct PluginChoice {
    /// Which item.
    pub name: String,
    /// Its options.
    pub options: Vec<PluginOption>,
    /// Where it stands.
    pub place: String,
}

impl Setting for PluginChoice {
    fn shape() -> String {
        "{name, options…} table".into()
    }
    fn read(raw: Option<&Raw>, _: &Bound) -> Result<Self, Fault> {
        let raw = raw.ok_or_else(|| missing("a table"))?;
        let rows = match &raw.value {
            RawValue::Table(rows) => rows,
            RawValue::Text(name) => {
                return Ok(PluginChoice {
                    name: name.clone(),
                    options: Vec::new(),
                    place: raw.place.clone(),
                });
            }
            _ => return Err(raw.expected("a table {name = …, options…} or a name")),
        };
        let mut name = None;
        let mut options = Vec::new();
        for (key, value) in rows {
            match (key.as_str(), &value.value) {
                ("name", RawValue::Text(text)) => name = Some(text.clone()),
                ("name", _) => {
                    return Err(value.fault(format!("needs `name` to be text, got {}", value.text)));
                }
                _ => options.push(
                    PluginOption::read(key, value)
                        .map_err(|rule| value.fault(format!("option `{key}` {rule}")))?,
                ),
            }
        }
        let name = name.ok_or_else(|| raw.fault(format!("needs a `name` in {}", raw.text)))?;
        Ok(PluginChoice {
            name,
            options,
            place: raw.place.clone(),
        })
    }
    fn show(&self) -> Option<String> {
        let mut parts = vec![format!("name = {}", toml_text(&self.name))];
        parts.extend(
            self.options
                .iter()
                .map(|o| format!("{} = {}", toml_edit::Key::new(&o.name), o.show())),
        );
        Some(format!("{{ {} }}", parts.join(", ")))
    }
}
