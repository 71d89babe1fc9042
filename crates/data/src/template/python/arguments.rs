//! Arguments of filters, tests, methods and functions, bound to names as in Python.

use minijinja::Value;
use minijinja::value::{Kwargs, from_args};

use super::values::{Kind, Number, Outcome, called, kind, number, wrong};

/// The arguments of a call, not yet bound to names.
#[derive(Debug)]
pub(super) struct Args {
    of: String,
    pub(super) positional: Vec<Value>,
    pub(super) named: Vec<(String, Value)>,
}

impl Args {
    pub(super) fn new(of: &str, values: &[Value]) -> Outcome<Self> {
        let (positional, named): (&[Value], Kwargs) = from_args(values)?;
        let named = named
            .args()
            .map(|name| Ok((name.to_owned(), named.get::<Value>(name)?)))
            .collect::<Outcome<_>>()?;
        Ok(Self {
            of: of.to_owned(),
            positional: positional.to_vec(),
            named,
        })
    }

    /// Binds the only argument, which must be given.
    pub(super) fn one(self, name: &str) -> Outcome<Value> {
        let [value] = self.bind([name], 1)?;
        Ok(value.unwrap_or_default())
    }

    /// Binds the arguments to these names, the first `required` of which must be given.
    pub(super) fn bind<const N: usize>(
        self,
        names: [&str; N],
        required: usize,
    ) -> Outcome<[Option<Value>; N]> {
        let of = self.of;
        if self.positional.len() > N {
            let given = self.positional.len();
            return wrong(format!("`{of}` takes at most {N} arguments, got {given}"));
        }
        let mut bound = [const { None }; N];
        for (slot, value) in bound.iter_mut().zip(self.positional) {
            *slot = Some(value);
        }
        for (name, value) in self.named {
            let slot = names.iter().position(|known| *known == name);
            match slot.and_then(|at| bound.get_mut(at)) {
                Some(slot) if slot.is_none() => *slot = Some(value),
                Some(_) => return wrong(format!("`{of}` got `{name}` twice")),
                None => return wrong(format!("`{of}` has no argument `{name}`")),
            }
        }
        match bound.iter().take(required).position(Option::is_none) {
            Some(at) => wrong(format!("`{of}` lacks its argument `{}`", names[at])),
            None => Ok(bound),
        }
    }
}

/// An argument that must be a string.
pub(super) fn as_text<'a>(value: &'a Value, of: &str) -> Outcome<&'a str> {
    match kind(value) {
        Kind::Text(text) => Ok(text),
        _ => wrong(format!("`{of}` wants a text, got {}", called(value))),
    }
}

/// An argument that must be an integer; `default` if absent.
pub(super) fn as_whole(value: Option<&Value>, default: i64, of: &str) -> Outcome<i64> {
    let Some(value) = value else {
        return Ok(default);
    };
    match number(kind(value)) {
        Some(Number::Whole(whole)) => {
            Ok(whole.clamp(i128::from(i64::MIN), i128::from(i64::MAX)) as i64)
        }
        _ => wrong(format!(
            "`{of}` wants a whole number, got {}",
            called(value)
        )),
    }
}

/// The truth value of an argument; false if absent.
pub(super) fn as_flag(value: Option<&Value>) -> bool {
    value.is_some_and(Value::is_true)
}
