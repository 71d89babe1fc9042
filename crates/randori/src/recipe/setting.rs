//! How one value is typed, bounded, printed and documented.

use std::path::PathBuf;

use randori_host::nearest;

/// A value as it stands in the recipe.
#[derive(Debug, Clone)]
pub struct Raw {
    pub(super) value: RawValue,
    /// As written.
    pub(super) text: String,
    /// `recipe.toml:14` or `--set …`.
    pub(super) place: String,
    /// Given by `--set`: relative paths then start from the working directory, as a shell user
    /// expects.
    pub(super) from_command_line: bool,
}

/// TOML's kinds.
#[derive(Debug, Clone)]
pub(super) enum RawValue {
    Text(String),
    Int(i64),
    Float(f64),
    Bool(bool),
    List(Vec<Raw>),
    Table(Vec<(String, Raw)>),
    Other,
}

/// Why a value was refused; the key's name goes in front of `rule`.
pub struct Fault {
    pub(super) rule: String,
    /// Where, if not at the value itself (an entry of a list).
    pub(super) place: Option<String>,
}

impl Raw {
    fn is_plain(&self) -> bool {
        !matches!(self.value, RawValue::List(_) | RawValue::Table(_))
    }
    pub(super) fn expected(&self, what: &str) -> Fault {
        self.fault(format!("must be {what}, got {}", self.text))
    }
    pub(super) fn fault(&self, rule: String) -> Fault {
        Fault {
            rule,
            place: Some(self.place.clone()).filter(|p| !p.is_empty()),
        }
    }
}

pub(super) fn missing(what: &str) -> Fault {
    Fault {
        rule: format!("must be given: {what}"),
        place: None,
    }
}

/// Allowed range of a number (of each number of a list).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Bound {
    min: Option<f64>,
    /// `min` itself is not allowed.
    open: bool,
    max: Option<f64>,
}

impl Bound {
    /// Any value.
    pub const ANY: Bound = Bound {
        min: None,
        open: false,
        max: None,
    };
    /// `>= min`
    pub const fn at_least(min: f64) -> Bound {
        Bound {
            min: Some(min),
            open: false,
            max: None,
        }
    }
    /// `> min`
    pub const fn above(min: f64) -> Bound {
        Bound {
            min: Some(min),
            open: true,
            max: None,
        }
    }
    /// `min..=max`
    pub const fn between(min: f64, max: f64) -> Bound {
        Bound {
            min: Some(min),
            open: false,
            max: Some(max),
        }
    }
    /// The rule in words, "" where there is none.
    pub fn words(&self) -> String {
        match (self.min, self.open, self.max) {
            (None, _, _) => String::new(),
            (Some(min), _, Some(max)) => format!("in {min}..={max}"),
            (Some(min), true, None) => format!("> {min}"),
            (Some(min), false, None) => format!(">= {min}"),
        }
    }
    fn check(&self, value: f64, raw: &Raw) -> Result<(), Fault> {
        // written so that NaN fails every rule
        let low = self
            .min
            .is_none_or(|min| if self.open { value > min } else { value >= min });
        let high = self.max.is_none_or(|max| value <= max);
        if !(low && high) {
            return Err(raw.expected(&self.words()));
        }
        if !value.is_finite() {
            return Err(raw.expected("finite"));
        }
        // it is computed with in f32, which ends sooner on both sides
        let held = value as f32;
        let above = !self.open || self.min.is_none_or(|min| f64::from(held) > min);
        if !(held.is_finite() && above) {
            let rule = match self.words() {
                none if none.is_empty() => none,
                words => format!("{words} and "),
            };
            let rule = format!("{rule}finite in f32 too, where it is {held}");
            return Err(raw.expected(&rule));
        }
        Ok(())
    }
}

/// A type a key can have.
pub trait Setting: Sized {
    /// In words, for docs/reference/recipe.md.
    fn shape() -> String;
    /// From what is given; `None`: neither given nor defaulted.
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault>;
    /// As TOML; `None`: unset.
    fn show(&self) -> Option<String>;
}

/// One declared key.
#[derive(Debug, Clone)]
pub struct Key {
    /// "" at the top.
    pub section: &'static str,
    /// Without its section.
    pub name: &'static str,
    /// Lines of documentation.
    pub doc: &'static [&'static str],
    /// As TOML; "" for unset.
    pub default: &'static str,
    /// Its type in words.
    pub shape: String,
    /// Its range.
    pub bound: Bound,
    /// Whether it may change between the start of a run and its resumption.
    pub on_resume: OnResume,
}

/// What happens to a run that is resumed with another value of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnResume {
    /// It is refused: the value decides what the stages make.
    Refused,
    /// It goes on, and the manifest notes the change: the value decides how much memory is used,
    /// and nothing else but the last digits of sums.
    Memory,
    /// It goes on: nothing that is finished depends on the value.
    Free,
}

impl Setting for f64 {
    fn shape() -> String {
        "number".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<f64, Fault> {
        let raw = raw.ok_or_else(|| missing("a number"))?;
        let value = match raw.value {
            RawValue::Float(v) => v,
            RawValue::Int(v) => v as f64,
            _ => return Err(raw.expected("a number")),
        };
        bound.check(value, raw)?;
        Ok(value)
    }
    fn show(&self) -> Option<String> {
        Some(show_float(*self))
    }
}

/// Shortest text that reads back as the same f64, always a TOML float.
pub(super) fn show_float(value: f64) -> String {
    format!("{value:?}")
}

macro_rules! whole {
    ($($ty:ty),*) => { $(
        impl Setting for $ty {
            fn shape() -> String { "whole number".into() }
            fn read(raw: Option<&Raw>, bound: &Bound) -> Result<$ty, Fault> {
                let raw = raw.ok_or_else(|| missing("a whole number"))?;
                let RawValue::Int(value) = raw.value else { return Err(raw.expected("a whole number")) };
                bound.check(value as f64, raw)?;
                <$ty>::try_from(value).map_err(|_| raw.expected("a whole number >= 0"))
            }
            fn show(&self) -> Option<String> { Some(self.to_string()) }
        }
    )* };
}
whole!(usize, u64);

impl Setting for bool {
    fn shape() -> String {
        "true or false".into()
    }
    fn read(raw: Option<&Raw>, _: &Bound) -> Result<bool, Fault> {
        match raw {
            Some(Raw {
                value: RawValue::Bool(v),
                ..
            }) => Ok(*v),
            Some(raw) => Err(raw.expected("true or false")),
            None => Err(missing("true or false")),
        }
    }
    fn show(&self) -> Option<String> {
        Some(self.to_string())
    }
}

impl Setting for String {
    fn shape() -> String {
        "text".into()
    }
    fn read(raw: Option<&Raw>, _: &Bound) -> Result<String, Fault> {
        match raw {
            Some(Raw {
                value: RawValue::Text(v),
                ..
            }) => Ok(v.clone()),
            // a shell has no quotes to spare: `--set name=nan` and `--set name=7` are texts here
            Some(raw) if raw.from_command_line && raw.is_plain() => Ok(raw.text.clone()),
            Some(raw) => Err(raw.expected("text")),
            None => Err(missing("text")),
        }
    }
    fn show(&self) -> Option<String> {
        Some(toml_text(self))
    }
}

impl Setting for PathBuf {
    fn shape() -> String {
        "path".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<PathBuf, Fault> {
        let text = String::read(raw, bound)?;
        if text.is_empty() {
            return Err(missing("a path"));
        }
        Ok(PathBuf::from(absolute_if_from_shell(raw, text)))
    }
    fn show(&self) -> Option<String> {
        Some(toml_text(&self.display().to_string()))
    }
}

/// A path given by `--set` starts from the working directory, one in the file from the recipe's
/// folder.
pub(super) fn absolute_if_from_shell(raw: Option<&Raw>, text: String) -> String {
    let from_shell = raw.is_some_and(|r| r.from_command_line);
    if !from_shell || text.contains(':') {
        return text;
    }
    match std::path::absolute(&text) {
        Ok(path) => path.display().to_string(),
        Err(_) => text,
    }
}

/// Where a model comes from, empty where nobody says; a local one given by `--set` starts from the
/// working directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelSource(pub String);

impl Setting for ModelSource {
    fn shape() -> String {
        "path, hub id or `builtin:…`".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        if raw.is_none() {
            return Ok(ModelSource(String::new())); // whoever reads the model says so
        }
        let text = String::read(raw, bound)?;
        if text.is_empty() {
            return Err(missing("a path, a hub id or builtin:demo"));
        }
        let local = std::path::Path::new(text.strip_prefix("random:").unwrap_or(&text)).exists();
        let from_shell = raw.is_some_and(|r| r.from_command_line);
        Ok(ModelSource(
            match (local && from_shell, text.strip_prefix("random:")) {
                (true, Some(config)) => {
                    format!("random:{}", absolute_if_from_shell(raw, config.to_string()))
                }
                (true, None) => absolute_if_from_shell(raw, text),
                (false, _) => text,
            },
        ))
    }
    fn show(&self) -> Option<String> {
        (!self.0.is_empty()).then(|| toml_text(&self.0))
    }
}

/// A number, or `auto`: chosen when a run begins, and a number in its folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OrAuto {
    /// Not chosen yet.
    Auto,
    /// Given, or chosen.
    Of(usize),
}

impl Setting for OrAuto {
    fn shape() -> String {
        "`auto`, or whole number".into()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        match raw {
            Some(raw) if raw.text.trim_matches('"') == "auto" => Ok(OrAuto::Auto),
            Some(raw) if !matches!(raw.value, RawValue::Int(_)) => {
                Err(raw.expected("a whole number or \"auto\""))
            }
            raw => usize::read(raw, bound).map(OrAuto::Of),
        }
    }
    fn show(&self) -> Option<String> {
        Some(match self {
            OrAuto::Auto => toml_text("auto"),
            OrAuto::Of(n) => n.to_string(),
        })
    }
}

impl<T: Setting> Setting for Option<T> {
    fn shape() -> String {
        T::shape()
    }
    fn read(raw: Option<&Raw>, bound: &Bound) -> Result<Self, Fault> {
        raw.map(|raw| T::read(Some(raw), bound)).transpose()
    }
    fn show(&self) -> Option<String> {
        self.as_ref().and_then(Setting::show)
    }
}

/// A key with a few allowed texts, in any case.
macro_rules! choice {
    ($(#[doc = $doc:literal])* $name:ident { $( $(#[doc = $vdoc:literal])* $variant:ident = $text:literal ),* $(,)? }) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $( $(#[doc = $vdoc])* $variant, )* }
        impl $crate::recipe::setting::Setting for $name {
            fn shape() -> String { [$(concat!("`", $text, "`")),*].join(" \\| ") }
            fn read(
                raw: Option<&$crate::recipe::setting::Raw>,
                bound: &$crate::recipe::setting::Bound,
            ) -> Result<Self, $crate::recipe::setting::Fault> {
                let text = String::read(raw, bound)?;
                $(
                    if text.eq_ignore_ascii_case($text) {
                        return Ok($name::$variant);
                    }
                )*
                Err($crate::recipe::setting::not_a_choice(&text, &[$($text),*], raw))
            }
            fn show(&self) -> Option<String> {
                Some(match self { $( $name::$variant => concat!("\"", $text, "\"").to_string(), )* })
            }
        }
    };
}
pub(super) use choice;

/// "must be one of a, b, got c; nearest: a", where one is near.
pub(super) fn not_a_choice(text: &str, choices: &[&str], raw: Option<&Raw>) -> Fault {
    let near = match nearest(text, choices.iter().copied()) {
        Some(near) => format!("; nearest: \"{near}\""),
        None => String::new(),
    };
    Fault {
        rule: format!(
            "must be one of {}, got \"{text}\"{near}",
            choices.join(", ")
        ),
        place: raw.map(|r| r.place.clone()),
    }
}

/// `text` as a TOML string on one line: JSON's escapes are TOML's too, but for DEL, which JSON
/// leaves as it is.
pub fn toml_text(text: &str) -> String {
    serde_json::Value::from(text)
        .to_string()
        .replace('\u{7f}', "\\u007f")
}
