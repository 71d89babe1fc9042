//! Python's view of values: types, items, lengths, equality and order.

use std::cmp::Ordering;

use minijinja::value::{DynObject, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::budget;
use super::objects::{Generator, Range, Tuple, list, pay_for_key};

pub(super) type Outcome<T = Value> = Result<T, Error>;

/// An error with this message.
pub(super) fn wrong<T>(what: impl Into<String>) -> Outcome<T> {
    Err(Error::new(ErrorKind::InvalidOperation, what.into()))
}

/// A value by its Python type.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind<'a> {
    Undefined,
    None,
    Bool(bool),
    Whole(i128),
    Float(f64),
    Text(&'a str),
    List,
    Tuple,
    Dict,
    /// A view, generator, range or other iterable.
    Series,
    /// A function, namespace, loop, macro.
    Other,
}

pub(super) fn kind(value: &Value) -> Kind<'_> {
    match value.kind() {
        ValueKind::Undefined => Kind::Undefined,
        ValueKind::None => Kind::None,
        ValueKind::Bool => Kind::Bool(value.is_true()),
        ValueKind::Number => match i128::try_from(value.clone()) {
            Ok(whole) if value.is_integer() => Kind::Whole(whole),
            _ => Kind::Float(f64::try_from(value.clone()).unwrap_or(f64::NAN)),
        },
        ValueKind::String => Kind::Text(value.as_str().unwrap_or_default()),
        ValueKind::Map if is_namespace(value) => Kind::Other,
        ValueKind::Map => Kind::Dict,
        ValueKind::Seq if value.downcast_object_ref::<Tuple>().is_some() => Kind::Tuple,
        ValueKind::Seq if value.downcast_object_ref::<Range>().is_some() => Kind::Series,
        ValueKind::Seq => Kind::List,
        ValueKind::Iterable => Kind::Series,
        _ => Kind::Other,
    }
}

/// Whether a value is a namespace, loop or keyword arguments, which minijinja treats as mappings.
pub(super) fn is_namespace(value: &Value) -> bool {
    let name = value.as_object().map_or("", DynObject::type_name);
    ["Namespace", "Loop", "Macro", "Closure", "Module"]
        .iter()
        .any(|own| name.ends_with(&format!("::{own}")))
}

/// Name of a value's type, for errors.
pub(super) fn called(value: &Value) -> &'static str {
    match kind(value) {
        Kind::Undefined => "an undefined value",
        Kind::None => "none",
        Kind::Bool(_) => "a boolean",
        Kind::Whole(_) | Kind::Float(_) => "a number",
        Kind::Text(_) => "a text",
        Kind::List => "a list",
        Kind::Tuple => "a tuple",
        Kind::Dict => "a mapping",
        Kind::Series => "a series",
        Kind::Other => "an object",
    }
}

/// The items of an iterable.
pub(super) fn items(value: &Value) -> Outcome<Vec<Value>> {
    let items: Vec<Value> = match kind(value) {
        Kind::Undefined => Vec::new(),
        Kind::Text(text) => {
            budget::made(text.len())?;
            text.chars().map(Value::from).collect()
        }
        Kind::None | Kind::Bool(_) | Kind::Whole(_) | Kind::Float(_) => {
            return wrong(format!("{} cannot be looped over", called(value)));
        }
        _ => match value.try_iter() {
            Ok(items) => items.collect(),
            Err(_) => return wrong(format!("{} cannot be looped over", called(value))),
        },
    };
    budget::steps(items.len())?;
    Ok(items)
}

/// Keys and values of a mapping.
pub(super) fn pairs(value: &Value) -> Outcome<Vec<(Value, Value)>> {
    let object = value
        .as_object()
        .filter(|_| matches!(kind(value), Kind::Dict));
    let Some(pairs) = object.and_then(DynObject::try_iter_pairs) else {
        return wrong(format!("{} is no mapping", called(value)));
    };
    let pairs: Vec<_> = pairs.collect();
    budget::steps(pairs.len())?;
    Ok(pairs)
}

/// Python's `len`; `None` for a value without a length.
pub(super) fn length(value: &Value) -> Option<usize> {
    match kind(value) {
        Kind::Undefined => Some(0),
        Kind::Text(text) => Some(text.chars().count()),
        Kind::List | Kind::Tuple | Kind::Dict => value.len(),
        Kind::Series if value.downcast_object_ref::<Generator>().is_none() => value.len(),
        _ => None,
    }
}

/// Python's `==`.
pub(super) fn equal(a: &Value, b: &Value) -> Outcome<bool> {
    budget::steps(1)?;
    Ok(match (kind(a), kind(b)) {
        (Kind::Undefined, Kind::Undefined) | (Kind::None, Kind::None) => true,
        (Kind::Text(a), Kind::Text(b)) if a.len() == b.len() => {
            budget::reading(a.len())?;
            a == b
        }
        (Kind::Text(_), Kind::Text(_)) => false,
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (items(a)?, items(b)?);
            if a.len() != b.len() {
                return Ok(false);
            }
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return Ok(false);
                }
            }
            true
        }
        (Kind::Dict, Kind::Dict) => {
            let (left, right) = (pairs(a)?, length(b));
            if Some(left.len()) != right {
                return Ok(false);
            }
            for (key, value) in left {
                pay_for_key(&key)?;
                match lookup(b, &key) {
                    Some(other) if equal(&value, &other)? => {}
                    _ => return Ok(false),
                }
            }
            true
        }
        (Kind::Series, Kind::Series) if length(a).is_some() && length(b).is_some() => {
            return equal(&list(items(a)?)?, &list(items(b)?)?);
        }
        (Kind::Other | Kind::Series, Kind::Other | Kind::Series) => a == b,
        (left, right) => match numbers(left, right) {
            Some((a, b)) => a.partial_cmp(&b) == Some(Ordering::Equal),
            None => false,
        },
    })
}

/// A mapping's value for a key, if present.
pub(super) fn lookup(of: &Value, key: &Value) -> Option<Value> {
    of.as_object().and_then(|object| object.get_value(key))
}

/// Two comparable numbers: integers if both are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Number {
    Whole(i128),
    Float(f64),
}

impl Number {
    pub(super) fn float(self) -> f64 {
        match self {
            Self::Whole(whole) => whole as f64,
            Self::Float(float) => float,
        }
    }
}

/// Compares an integer with a float exactly, without rounding it to a float.
fn beside(whole: i128, float: f64) -> Option<Ordering> {
    match (whole as f64).partial_cmp(&float)? {
        // 2^127, to which the largest integers are rounded
        Ordering::Equal if float >= i128::MAX as f64 => Some(Ordering::Less),
        Ordering::Equal => Some(whole.cmp(&(float as i128))),
        order => Some(order),
    }
}

impl PartialEq for Number {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Whole(a), Self::Whole(b)) => Some(a.cmp(b)),
            (Self::Whole(whole), Self::Float(float)) => beside(*whole, *float),
            (Self::Float(float), Self::Whole(whole)) => {
                beside(*whole, *float).map(Ordering::reverse)
            }
            (Self::Float(a), Self::Float(b)) => a.partial_cmp(b),
        }
    }
}

/// The float nearest to the quotient of two integers, as by Python: one rounding, though the
/// integers may be no floats themselves. `b` is not 0.
pub(super) fn quotient(a: i128, b: i128) -> f64 {
    const EXACT: u128 = 1 << f64::MANTISSA_DIGITS;
    let (over, under) = (a.unsigned_abs(), b.unsigned_abs());
    if a == 0 || over.max(under) <= EXACT {
        return a as f64 / b as f64;
    }
    // binary digits by long division, more than a float holds
    let (mut digits, mut rest, mut places) = (over / under, over % under, 0);
    while digits <= 2 * EXACT {
        rest *= 2;
        digits = 2 * digits + u128::from(rest >= under);
        rest -= if rest >= under { under } else { 0 };
        places += 1;
    }
    // the last digit stands for all that are left out: whether they are 0 decides a tie
    let digits = digits | u128::from(rest > 0);
    let size = digits as f64 * 0.5_f64.powi(places);
    if (a < 0) != (b < 0) { -size } else { size }
}

/// A number; booleans are 0 and 1.
pub(super) fn number(kind: Kind<'_>) -> Option<Number> {
    match kind {
        Kind::Bool(value) => Some(Number::Whole(i128::from(value))),
        Kind::Whole(value) => Some(Number::Whole(value)),
        Kind::Float(value) => Some(Number::Float(value)),
        _ => None,
    }
}

fn numbers(a: Kind<'_>, b: Kind<'_>) -> Option<(Number, Number)> {
    number(a).zip(number(b))
}

/// Python's `<`, `>` and `==` in one; `None` if numbers are not ordered (NaN).
pub(super) fn order(a: &Value, b: &Value) -> Outcome<Option<Ordering>> {
    budget::steps(1)?;
    let (left, right) = (kind(a), kind(b));
    if let Some((a, b)) = numbers(left, right) {
        return Ok(a.partial_cmp(&b));
    }
    match (left, right) {
        (Kind::Text(a), Kind::Text(b)) => {
            budget::reading(a.len().min(b.len()))?;
            Ok(Some(a.cmp(b)))
        }
        (Kind::List, Kind::List) | (Kind::Tuple, Kind::Tuple) => {
            let (a, b) = (items(a)?, items(b)?);
            for (a, b) in a.iter().zip(&b) {
                if !equal(a, b)? {
                    return order(a, b);
                }
            }
            Ok(Some(a.len().cmp(&b.len())))
        }
        _ => wrong(format!("{} and {} have no order", called(a), called(b))),
    }
}
