//! Options of losses and samplers: declared once with type, default, bounds and doc; checked by the
//! host.

use std::ffi::c_void;

use crate::{abi, boundary::make};

/// A set of options; [`options!`](crate::options) writes the implementation.
pub trait Options: Sized + Send + Sync + 'static {
    /// One sentence.
    const DOC: &'static str;
    /// The options, in order.
    const OPTIONS: &'static [abi::Opt];
    /// Builds the set from one value per option, in order, of the declared types.
    fn from_values(values: &[abi::Value]) -> Self;
}

/// A type an option can have.
pub trait OptionType {
    /// Reads a value of the declared type.
    fn from_value(value: &abi::Value) -> Self;
}

impl OptionType for f64 {
    fn from_value(value: &abi::Value) -> Self {
        value.float_
    }
}

impl OptionType for f32 {
    fn from_value(value: &abi::Value) -> Self {
        value.float_ as f32
    }
}

impl OptionType for i64 {
    fn from_value(value: &abi::Value) -> Self {
        value.int_
    }
}

impl OptionType for u32 {
    fn from_value(value: &abi::Value) -> Self {
        value.int_ as u32 // the host has checked the bounds
    }
}

impl OptionType for usize {
    fn from_value(value: &abi::Value) -> Self {
        value.int_ as usize // the host has checked the bounds
    }
}

impl OptionType for bool {
    fn from_value(value: &abi::Value) -> Self {
        value.int_ != 0
    }
}

impl OptionType for String {
    fn from_value(value: &abi::Value) -> Self {
        // SAFETY: the host's text lives during `create`.
        unsafe { value.text.read() }.into_owned()
    }
}

impl abi::Value {
    const NONE: abi::Value = abi::Value {
        kind: 0,
        int_: 0,
        float_: 0.0,
        text: abi::Str::new(""),
    };

    /// A real number.
    pub const fn float(value: f64) -> Self {
        abi::Value {
            kind: abi::FLOAT,
            float_: value,
            ..Self::NONE
        }
    }

    /// A whole number.
    pub const fn int(value: i64) -> Self {
        abi::Value {
            kind: abi::INT,
            int_: value,
            ..Self::NONE
        }
    }

    /// True or false.
    pub const fn bool(value: bool) -> Self {
        abi::Value {
            kind: abi::BOOL,
            int_: value as i64,
            ..Self::NONE
        }
    }

    /// Text that the caller keeps alive.
    pub const fn text(value: &str) -> Self {
        abi::Value {
            kind: abi::TEXT,
            text: abi::Str::new(value),
            ..Self::NONE
        }
    }
}

/// [`abi::Item::create`] of a set of options.
pub(crate) unsafe extern "C" fn create<O: Options>(
    args: *const abi::Value,
    n_args: usize,
    _config: abi::Str,
    sink: abi::Sink,
) -> *mut c_void {
    make(sink, || {
        if n_args != O::OPTIONS.len() {
            return Err(format!("got {n_args} options of {}", O::OPTIONS.len()).into());
        }
        // SAFETY: the host passes `n_args` values that live during the call.
        Ok(O::from_values(unsafe { abi::reading::slice(args, n_args) }))
    })
}

/// Declares the options of a loss or sampler: a struct with public fields, its `Default`, and what
/// the host shows and checks. Types: `f64`, `f32`, `i64`, `u32`, `usize`, `bool`, `String`; bounds
/// `min..=max` or choices `["a", "b"]` may follow the default.
///
/// ```
/// randori_sdk::options! {
///     /// A margin loss.
///     pub struct Hinge {
///         /// How strongly the policy is held to its opponent.
///         beta: f64 = 0.1, 0.0..=100.0;
///         /// What to do with the length.
///         length: String = "keep", ["keep", "normalise"];
///     }
/// }
/// assert_eq!(Hinge::default().beta, 0.1);
/// ```
#[macro_export]
macro_rules! options {
    (
        $(#[doc = $doc:literal])*
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $option_doc:literal])*
                $option:ident : $type:ident = $default:expr
                $(, [$($choice:literal),+ $(,)?])?
                $(, $min:literal ..= $max:expr)?
            );*
            $(;)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        $vis struct $name {
            $(
                $(#[doc = $option_doc])*
                pub $option: $type,
            )*
        }

        impl ::core::default::Default for $name {
            fn default() -> Self {
                $name { $($option: $crate::__default!($type, $default),)* }
            }
        }

        impl $crate::Options for $name {
            const DOC: &'static str = ::core::concat!($($doc),*);
            const OPTIONS: &'static [$crate::abi::Opt] = &[$({
                const CHOICES: &[$crate::abi::Str] = &[$($($crate::abi::Str::new($choice)),+)?];
                let (min, max) = $crate::__bounds!($type $(, $min, $max)?);
                $crate::abi::Opt {
                    name: $crate::abi::Str::new(::core::stringify!($option)),
                    doc: $crate::abi::Str::new(::core::concat!($($option_doc),*)),
                    default_: $crate::__value!($type, $default),
                    min,
                    max,
                    choices: CHOICES.as_ptr(),
                    n_choices: CHOICES.len(),
                }
            }),*];

            #[allow(unused_variables, unused_mut)]
            fn from_values(values: &[$crate::abi::Value]) -> Self {
                let mut values = values.iter();
                $name {
                    $($option: match values.next() {
                        ::core::option::Option::Some(value) => $crate::OptionType::from_value(value),
                        ::core::option::Option::None => <$name as ::core::default::Default>::default().$option,
                    },)*
                }
            }
        }
    };
}

/// A default as the field's value.
#[doc(hidden)]
#[macro_export]
macro_rules! __default {
    (String, $default:expr) => {
        ::std::string::String::from($default)
    };
    ($type:ident, $default:expr) => {{
        let value: $type = $default;
        value
    }};
}

/// A default as a constant of the ABI.
#[doc(hidden)]
#[macro_export]
macro_rules! __value {
    (f64, $default:expr) => {
        $crate::abi::Value::float($default)
    };
    (f32, $default:expr) => {
        $crate::abi::Value::float($default as f64)
    };
    (bool, $default:expr) => {
        $crate::abi::Value::bool($default)
    };
    (String, $default:expr) => {
        $crate::abi::Value::text($default)
    };
    ($whole:ident, $default:expr) => {
        $crate::abi::Value::int($default as i64)
    };
}

/// Bounds as declared, else those of the type.
#[doc(hidden)]
#[macro_export]
macro_rules! __bounds {
    ($type:ident, $min:literal, $max:expr) => {
        ($min as f64, $max as f64)
    };
    (u32) => {
        (0.0, u32::MAX as f64)
    };
    (usize) => {
        (0.0, f64::INFINITY)
    };
    ($other:ident) => {
        (f64::NEG_INFINITY, f64::INFINITY)
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::options! {
        /// One of
        /// everything.
        pub struct Everything {
            /// A real number.
            real: f64 = 0.5, -1.0..=1.0;
            /// A smaller one.
            short: f32 = 0.25;
            /// A count.
            count: usize = 40, 1..=100;
            /// Any whole number.
            whole: i64 = -3;
            id: u32 = 7;
            flag: bool = true;
            /// A word.
            word: String = "mean", ["mean", "sum"];
            open: f64 = 1.0 / 4.0, 0.0..=f64::INFINITY
        }
    }

    crate::options! {
        struct Nothing {}
    }

    fn text(text: abi::Str) -> String {
        // SAFETY: descriptors are constants.
        unsafe { text.read() }.into_owned()
    }

    #[test]
    fn declarations_become_descriptors() {
        assert_eq!(Everything::DOC.trim(), "One of everything.");
        let names: Vec<_> = Everything::OPTIONS.iter().map(|o| text(o.name)).collect();
        assert_eq!(
            names,
            [
                "real", "short", "count", "whole", "id", "flag", "word", "open"
            ]
        );
        let bounds: Vec<_> = Everything::OPTIONS.iter().map(|o| (o.min, o.max)).collect();
        assert_eq!(bounds[0], (-1.0, 1.0));
        assert_eq!(bounds[2], (1.0, 100.0));
        assert_eq!(bounds[4], (0.0, f64::from(u32::MAX)));
        assert_eq!(bounds[7], (0.0, f64::INFINITY));
        let kinds: Vec<_> = Everything::OPTIONS
            .iter()
            .map(|o| o.default_.kind)
            .collect();
        assert_eq!(kinds, [1, 1, 2, 2, 2, 3, 4, 1]);
        assert_eq!(Everything::OPTIONS[6].n_choices, 2);
        assert!(Nothing::OPTIONS.is_empty());
    }

    #[test]
    fn values_become_fields() {
        let defaults: Vec<_> = Everything::OPTIONS.iter().map(|o| o.default_).collect();
        assert_eq!(Everything::from_values(&defaults), Everything::default());
        let mut values = defaults;
        values[2] = abi::Value::int(3);
        values[6] = abi::Value::text("sum");
        let set = Everything::from_values(&values);
        assert_eq!((set.count, set.word.as_str(), set.open), (3, "sum", 0.25));
        assert_eq!(Nothing::from_values(&[]), Nothing::default());
    }
}
