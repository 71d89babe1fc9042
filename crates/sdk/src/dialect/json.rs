//! How a dialect crosses the C ABI: as JSON, in which fields that have their default are absent.

use crate::json::Json;

/// A value that can be written as JSON and read from it. Reading leaks texts and lists, as all that
/// a plugin brings stays for ever.
pub(super) trait Part: Sized + 'static {
    /// Appends the value.
    fn write(&self, out: &mut String);
    /// The value, or what is wrong with it.
    fn read(json: &Json) -> Result<Self, String>;
}

impl Part for bool {
    fn write(&self, out: &mut String) {
        out.push_str(if *self { "true" } else { "false" });
    }

    fn read(json: &Json) -> Result<Self, String> {
        match json {
            Json::Bool(value) => Ok(*value),
            other => Err(format!("must be true or false, not {}", other.kind())),
        }
    }
}

impl Part for f64 {
    fn write(&self, out: &mut String) {
        out.push_str(&format!("{self:?}"));
    }

    fn read(json: &Json) -> Result<Self, String> {
        match json {
            Json::Number(value) => Ok(*value),
            other => Err(format!("must be a number, not {}", other.kind())),
        }
    }
}

impl Part for usize {
    fn write(&self, out: &mut String) {
        out.push_str(&self.to_string());
    }

    fn read(json: &Json) -> Result<Self, String> {
        match json {
            Json::Number(v) if v.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(v) => {
                Ok(*v as usize)
            }
            Json::Number(v) => Err(format!("must be a whole number, not {v}")),
            other => Err(format!("must be a whole number, not {}", other.kind())),
        }
    }
}

impl Part for &'static str {
    fn write(&self, out: &mut String) {
        out.push('"');
        for c in self.chars() {
            match c {
                '"' | '\\' => out.extend(['\\', c]),
                '\0'..' ' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
                _ => out.push(c),
            }
        }
        out.push('"');
    }

    fn read(json: &Json) -> Result<Self, String> {
        match json {
            Json::Text(text) => Ok(text.clone().leak()),
            other => Err(format!("must be text, not {}", other.kind())),
        }
    }
}

impl<T: Part> Part for Option<T> {
    fn write(&self, out: &mut String) {
        match self {
            Some(value) => value.write(out),
            None => out.push_str("null"),
        }
    }

    fn read(json: &Json) -> Result<Self, String> {
        match json {
            Json::Null => Ok(None),
            value => T::read(value).map(Some),
        }
    }
}

impl<T: Part> Part for &'static [T] {
    fn write(&self, out: &mut String) {
        out.push('[');
        for (i, value) in self.iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            value.write(out);
        }
        out.push(']');
    }

    fn read(json: &Json) -> Result<Self, String> {
        let Json::Array(values) = json else {
            return Err(format!("must be a list, not {}", json.kind()));
        };
        let read: Result<Vec<T>, String> = values.iter().map(T::read).collect();
        Ok(read?.leak())
    }
}

/// Structs of which each field may be absent in JSON, where it then has its value in `NONE`. An
/// unknown field is an error that names it.
macro_rules! records {
    ($($(#[$about:meta])* pub struct $name:ident {
        $($(#[$doc:meta])* pub $field:ident: $type:ty,)+
    })+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)+
        }

        impl Part for $name {
            fn write(&self, out: &mut String) {
                let none = Self::NONE;
                out.push('{');
                let begun = out.len();
                $(if self.$field != none.$field {
                    if out.len() > begun {
                        out.push(',');
                    }
                    out.push_str(concat!("\"", stringify!($field), "\":"));
                    Part::write(&self.$field, out);
                })+
                out.push('}');
            }

            fn read(json: &Json) -> Result<Self, String> {
                let Json::Object(members) = json else {
                    return Err(format!("must be an object, not {}", json.kind()));
                };
                let mut read = Self::NONE;
                for (key, value) in members {
                    match key.as_str() {
                        $(stringify!($field) => {
                            read.$field = Part::read(value).map_err(|e| format!("{key}: {e}"))?;
                        })+
                        _ => return Err(format!("`{key}` is not known")),
                    }
                }
                Ok(read)
            }
        }
    )+};
}

/// Enums whose variants are words in JSON; an unknown word is an error that names it.
macro_rules! words {
    ($($(#[$about:meta])* pub enum $name:ident {
        $($(#[$doc:meta])* $variant:ident = $word:literal,)+
    })+) => {$(
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($(#[$doc])* $variant,)+
        }

        impl Part for $name {
            fn write(&self, out: &mut String) {
                let word = match self {
                    $($name::$variant => $word,)+
                };
                Part::write(&word, out);
            }

            fn read(json: &Json) -> Result<Self, String> {
                match json {
                    $(Json::Text(word) if word == $word => Ok($name::$variant),)+
                    Json::Text(word) => Err(format!("`{word}` is not known")),
                    other => Err(format!("must be text, not {}", other.kind())),
                }
            }
        }
    )+};
}

pub(super) use {records, words};
