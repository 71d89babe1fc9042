//! Operators, subscripts and attributes with Python's semantics: the `_py_…` functions that
//! translated expressions call.

use std::cmp::Ordering;

use minijinja::value::Rest;
use minijinja::{Environment, State, Value};

use super::arguments::Args;
use super::objects::{Method, Range, dict, list, method, pay_for_key, storable, text, tuple};
use super::values::{
    Kind, Number, Outcome, called, equal, items, kind, length, lookup, number, order, quotient,
    wrong,
};
use super::written::string;
use super::{budget, format, markup, methods, names};

/// Registers the functions with an environment.
pub(super) fn register(environment: &mut Environment<'_>) {
    environment.add_function("_py_same", |value: Value| value);
    environment.add_function("_py_math", |parts: Rest<Value>| math(&parts));
    environment.add_function("_py_compare", |parts: Rest<Value>| compare(&parts));
    environment.add_function("_py_join", |parts: Rest<Value>| -> Outcome {
        let parts = parts.iter().map(string).collect::<Outcome<Vec<_>>>()?;
        text(parts.concat())
    });
    environment.add_function("_py_sign", |sign: &str, value: Value| signed(sign, &value));
    environment.add_function("_py_tuple", |parts: Rest<Value>| tuple(parts.0));
    environment.add_function("_py_list", |parts: Rest<Value>| list(parts.0));
    environment.add_function("_py_dict", |parts: Rest<Value>| {
        let pairs = parts.chunks_exact(2);
        dict(
            pairs
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        )
    });
    environment.add_function("_py_item", |of: Value, key: Value| item(&of, &key));
    environment.add_function("_py_attr", |of: Value, name: &str| attribute(&of, name));
    environment.add_function("_py_slice", |of: Value, parts: Rest<Value>| {
        slice(&of, &parts)
    });
    environment.add_function("_py_held", storable);
    environment.add_function("_py_iter", |over: Value| over_items(&over));
    environment.add_function("_py_row", |over: Value| list(items(&over)?));
    environment.add_function("_py_rows", |over: Value| {
        let rows = items(&over)?.into_iter().map(|row| match kind(&row) {
            Kind::Text(_) | Kind::Series => list(items(&row)?),
            _ => Ok(row),
        });
        list(rows.collect::<Outcome<_>>()?)
    });
    environment.add_function("_py_ran", || minijinja::functions::namespace(None));
    environment.add_function("_py_pay", |bytes: usize| budget::made(bytes));
    environment.add_function(
        "_py_call",
        |state: &State, of: Value, name: &str, args: Rest<Value>| match kind(&of) {
            Kind::Other => of.call_method(state, name, &args),
            _ => methods::call(state, &of, name, &args),
        },
    );
}

/// Converts the iterable of a loop to one with a length.
fn over_items(over: &Value) -> Outcome {
    match kind(over) {
        Kind::List | Kind::Tuple => Ok(over.clone()),
        Kind::Series if over.downcast_object_ref::<Range>().is_some() => Ok(over.clone()),
        _ => list(items(over)?),
    }
}

/// Evaluates left-associative operators of one precedence.
pub(super) fn math(parts: &[Value]) -> Outcome {
    let mut parts = parts.iter();
    let mut left = parts.next().cloned().unwrap_or_default();
    while let (Some(sign), Some(right)) = (parts.next(), parts.next()) {
        budget::steps(1)?;
        left = binary(&left, sign.as_str().unwrap_or_default(), right)?;
    }
    Ok(left)
}

fn binary(left: &Value, sign: &str, right: &Value) -> Outcome {
    let (a, b) = (kind(left), kind(right));
    if let Some((a, b)) = number(a).zip(number(b)) {
        return numbers(a, sign, b);
    }
    match (a, sign, b) {
        (Kind::Text(_), "+", Kind::Text(_)) if left.is_safe() || right.is_safe() => {
            markup::safe(markup::escape(left)? + &markup::escape(right)?)
        }
        (Kind::Text(a), "+", Kind::Text(b)) => {
            budget::made(a.len() + b.len())?;
            Ok(Value::from([a, b].concat()))
        }
        (Kind::List, "+", Kind::List) => list([items(left)?, items(right)?].concat()),
        (Kind::Tuple, "+", Kind::Tuple) => tuple([items(left)?, items(right)?].concat()),
        (Kind::Text(format), "%", _) => {
            markup::like(left, format::percent(format, right, left.is_safe())?)
        }
        (Kind::Text(_) | Kind::List | Kind::Tuple, "*", Kind::Whole(_) | Kind::Bool(_)) => {
            repeated(left, right)
        }
        (Kind::Whole(_) | Kind::Bool(_), "*", Kind::Text(_) | Kind::List | Kind::Tuple) => {
            repeated(right, left)
        }
        _ => wrong(format!(
            "`{sign}` does not go with {} and {}",
            called(left),
            called(right)
        )),
    }
}

fn repeated(what: &Value, count: &Value) -> Outcome {
    let count = super::arguments::as_whole(Some(count), 0, "*")?.max(0) as usize;
    if let Kind::Text(part) = kind(what) {
        budget::made(part.len().saturating_mul(count))?;
        return Ok(markup::marked(what, part.repeat(count)));
    }
    let once = items(what)?;
    budget::steps(once.len().saturating_mul(count))?;
    let all: Vec<Value> = std::iter::repeat_n(once, count).flatten().collect();
    match kind(what) {
        Kind::Tuple => tuple(all),
        _ => list(all),
    }
}

/// The error of an integer that is too large.
pub(super) fn too_large<T>() -> Outcome<T> {
    wrong("a whole number grows past 128 bits")
}

/// Truncates a float to an integer.
pub(super) fn truncated(float: f64) -> Outcome<i128> {
    const END: f64 = -(i128::MIN as f64);
    match (-END..END).contains(&float.trunc()) {
        true => Ok(float.trunc() as i128),
        false => too_large(),
    }
}

/// Arithmetic: division rounds down, a remainder has the divisor's sign.
fn numbers(a: Number, sign: &str, b: Number) -> Outcome {
    let whole = match (a, b) {
        (Number::Whole(a), Number::Whole(b)) => Some((a, b)),
        _ => None,
    };
    let (x, y) = (a.float(), b.float());
    if y == 0.0 && matches!(sign, "/" | "//" | "%") {
        return wrong("division by zero");
    }
    let exact = |value: Option<i128>| match value {
        Some(value) => Ok(whole_value(value)),
        None => too_large(),
    };
    match (sign, whole) {
        ("+", Some((a, b))) => exact(a.checked_add(b)),
        ("-", Some((a, b))) => exact(a.checked_sub(b)),
        ("*", Some((a, b))) => exact(a.checked_mul(b)),
        ("//", Some((a, b))) => exact(floor(a, b).map(|(quotient, _)| quotient)),
        ("%", Some((a, b))) => exact(floor(a, b).map(|(_, rest)| rest)),
        ("**", Some((a, b))) if b >= 0 => {
            exact(u32::try_from(b).ok().and_then(|b| a.checked_pow(b)))
        }
        ("+", _) => Ok(Value::from(x + y)),
        ("-", _) => Ok(Value::from(x - y)),
        ("*", _) => Ok(Value::from(x * y)),
        ("/", Some((a, b))) => Ok(Value::from(quotient(a, b))),
        ("/", _) => Ok(Value::from(x / y)),
        ("//", _) => Ok(Value::from(floor_of_floats(x, y).0)),
        ("%", _) => Ok(Value::from(floor_of_floats(x, y).1)),
        ("**", _) if x == 0.0 && y < 0.0 => wrong("0 to a negative power"),
        ("**", _) if x < 0.0 && x.is_finite() && y.is_finite() && y.fract() != 0.0 => {
            wrong("a negative number to a fraction is a complex one")
        }
        ("**", _) => match x.powf(y) {
            power if power.is_infinite() && x.is_finite() && y.is_finite() => {
                wrong("a power is past what a float holds")
            }
            power => Ok(Value::from(power)),
        },
        _ => wrong(format!("unknown operator `{sign}`")),
    }
}

/// Python's quotient and remainder of floats: the remainder first, exactly, with the divisor's sign
/// even if 0; the quotient from the difference.
fn floor_of_floats(x: f64, y: f64) -> (f64, f64) {
    let mut rest = x % y;
    let mut quotient = (x - rest) / y;
    if rest == 0.0 {
        rest = 0.0_f64.copysign(y);
    } else if (rest < 0.0) != (y < 0.0) {
        rest += y;
        quotient -= 1.0;
    }
    let below = quotient.floor();
    let below = match quotient {
        0.0 => 0.0_f64.copysign(x / y),
        quotient if quotient - below > 0.5 => below + 1.0,
        _ => below,
    };
    (below, rest)
}

/// Quotient, rounded down, and remainder.
pub(super) fn floor(a: i128, b: i128) -> Option<(i128, i128)> {
    let (quotient, rest) = (a.checked_div(b)?, a.checked_rem(b)?);
    match rest != 0 && (rest < 0) != (b < 0) {
        true => Some((quotient - 1, rest + b)),
        false => Some((quotient, rest)),
    }
}

pub(super) fn whole_value(value: i128) -> Value {
    match i64::try_from(value) {
        Ok(small) => Value::from(small),
        Err(_) => Value::from(value),
    }
}

fn signed(sign: &str, value: &Value) -> Outcome {
    match (sign, number(kind(value))) {
        ("-", Some(Number::Whole(whole))) => match whole.checked_neg() {
            Some(value) => Ok(whole_value(value)),
            None => too_large(),
        },
        ("-", Some(Number::Float(float))) => Ok(Value::from(-float)),
        (_, Some(Number::Whole(whole))) => Ok(whole_value(whole)),
        (_, Some(Number::Float(float))) => Ok(Value::from(float)),
        _ => wrong(format!("`{sign}` does not go with {}", called(value))),
    }
}

/// `a < b < c`, `a in b`: whether every neighbouring pair compares true.
fn compare(parts: &[Value]) -> Outcome<bool> {
    let mut parts = parts.iter();
    let mut left = parts.next().cloned().unwrap_or_default();
    while let (Some(sign), Some(right)) = (parts.next(), parts.next()) {
        if !holds(&left, sign.as_str().unwrap_or_default(), right)? {
            return Ok(false);
        }
        left = right.clone();
    }
    Ok(true)
}

/// One comparison.
pub(super) fn holds(left: &Value, sign: &str, right: &Value) -> Outcome<bool> {
    Ok(match sign {
        "==" => equal(left, right)?,
        "!=" => !equal(left, right)?,
        "in" => contains(right, left)?,
        "not in" => !contains(right, left)?,
        "<" => order(left, right)? == Some(Ordering::Less),
        ">" => order(left, right)? == Some(Ordering::Greater),
        "<=" => matches!(order(left, right)?, Some(Ordering::Less | Ordering::Equal)),
        ">=" => matches!(
            order(left, right)?,
            Some(Ordering::Greater | Ordering::Equal)
        ),
        _ => return wrong(format!("unknown comparison `{sign}`")),
    })
}

fn contains(container: &Value, value: &Value) -> Outcome<bool> {
    match (kind(container), kind(value)) {
        (Kind::Text(whole), Kind::Text(part)) => {
            budget::steps(whole.len() / 64)?;
            Ok(whole.contains(part))
        }
        (Kind::Text(_), _) => wrong(format!("`in` a text wants a text, got {}", called(value))),
        (Kind::Dict, Kind::List | Kind::Dict) => {
            wrong(format!("{} cannot be a key", called(value)))
        }
        (Kind::Dict, _) => {
            pay_for_key(value)?;
            Ok(lookup(container, value).is_some())
        }
        (Kind::Other, _) => wrong("`in` wants something that can be looped over"),
        _ => {
            for item in items(container)? {
                if equal(&item, value)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}

fn undefined_has(key: &str) -> Outcome {
    wrong(format!("an undefined value has no `{key}`"))
}

/// `of[key]`: the item, else the attribute of that name, else undefined.
pub(super) fn item(of: &Value, key: &Value) -> Outcome {
    let index = match number(kind(key)) {
        Some(Number::Whole(whole)) => Some(whole),
        _ => None,
    };
    let name = key.as_str();
    if matches!(kind(of), Kind::Dict) {
        pay_for_key(key)?;
    }
    Ok(match (kind(of), index, name) {
        (Kind::Undefined, ..) => return undefined_has(&string(key)?),
        (Kind::Text(whole), Some(index), _) => {
            budget::reading(whole.len())?;
            match at(whole.chars().count(), index) {
                Some(at) => match whole.chars().nth(at) {
                    Some(c) => markup::marked(of, c.to_string()),
                    None => Value::UNDEFINED,
                },
                None => Value::UNDEFINED,
            }
        }
        (Kind::List | Kind::Tuple, Some(index), _) => indexed(of, index),
        (Kind::Series, Some(index), _) if of.downcast_object_ref::<Range>().is_some() => {
            indexed(of, index)
        }
        (Kind::Dict, ..) => match (lookup(of, key), name) {
            (Some(value), _) => value,
            (None, Some(name)) => return attribute(of, name),
            (None, None) => Value::UNDEFINED,
        },
        (Kind::Other, ..) => of.get_item(key).unwrap_or_default(),
        (_, _, Some(name)) => return attribute(of, name),
        _ => Value::UNDEFINED,
    })
}

fn indexed(of: &Value, index: i128) -> Value {
    at(length(of).unwrap_or(0), index)
        .and_then(|at| of.get_item_by_index(at).ok())
        .unwrap_or_default()
}

/// Resolves an index, which may count from the end; `None` out of range.
fn at(length: usize, index: i128) -> Option<usize> {
    let from_start = if index < 0 {
        index + length as i128
    } else {
        index
    };
    usize::try_from(from_start).ok().filter(|at| *at < length)
}

/// `of.name`: the type's method, else the item of that name, else undefined.
pub(super) fn attribute(of: &Value, name: &str) -> Outcome {
    let own: &[&str] = match kind(of) {
        Kind::Undefined => return undefined_has(name),
        Kind::Text(_) => &names::TEXT,
        Kind::List => &names::LIST,
        Kind::Tuple => &names::TUPLE,
        Kind::Dict => &names::DICT,
        _ => &[],
    };
    if own.contains(&name) && of.downcast_object_ref::<Method>().is_none() {
        return method(of, name);
    }
    Ok(of.get_attr(name).unwrap_or_default())
}

/// `of[start:stop:step]`
fn slice(of: &Value, parts: &[Value]) -> Outcome {
    let bound = |at: usize| -> Outcome<Option<i64>> {
        match parts.get(at) {
            Some(value) if !value.is_none() => {
                Ok(Some(super::arguments::as_whole(Some(value), 0, "[:]")?))
            }
            _ => Ok(None),
        }
    };
    let (start, stop, step) = (bound(0)?, bound(1)?, bound(2)?.unwrap_or(1));
    if step == 0 {
        return wrong("a slice's step cannot be 0");
    }
    let pick = |length: usize| places(length as i64, start, stop, step);
    match kind(of) {
        Kind::Text(whole) => {
            budget::steps(whole.len() / 64)?;
            let chars: Vec<char> = whole.chars().collect();
            let picked = pick(chars.len()).map(|at| chars[at]);
            markup::like(of, picked.collect::<String>())
        }
        Kind::List | Kind::Tuple => {
            let all = items(of)?;
            let picked = pick(all.len()).map(|at| all[at].clone()).collect();
            match kind(of) {
                Kind::Tuple => tuple(picked),
                _ => list(picked),
            }
        }
        Kind::Series if of.downcast_object_ref::<Range>().is_some() => {
            range_slice(of, start, stop, step)
        }
        _ => wrong(format!("{} cannot be sliced", called(of))),
    }
}

/// A slice of a range, which is a range.
fn range_slice(of: &Value, start: Option<i64>, stop: Option<i64>, step: i64) -> Outcome {
    let Some(range) = of.downcast_object_ref::<Range>() else {
        return wrong(format!("{} cannot be sliced", called(of)));
    };
    let length = range.count as i64;
    let (first, last) = bounds(length, start, stop, step);
    let at = |place: i64| {
        let value = i128::from(range.start) + i128::from(range.step) * i128::from(place);
        i64::try_from(value).or_else(|_| too_large())
    };
    Ok(Value::from_object(Range {
        start: at(first)?,
        stop: at(last)?,
        step: range.step.checked_mul(step).map_or_else(too_large, Ok)?,
        count: places(length, start, stop, step).count(),
    }))
}

/// Start and end of a slice, as by Python's `slice.indices`.
fn bounds(length: i64, start: Option<i64>, stop: Option<i64>, step: i64) -> (i64, i64) {
    let (low, high) = if step > 0 {
        (0, length)
    } else {
        (-1, length - 1)
    };
    let clamped = |bound: i64| {
        let from_start = if bound < 0 {
            bound.saturating_add(length)
        } else {
            bound
        };
        from_start.clamp(low, high)
    };
    let first = start.map_or(if step > 0 { low } else { high }, clamped);
    let last = stop.map_or(if step > 0 { high } else { low }, clamped);
    (first, last)
}

/// The indices in a slice.
fn places(
    length: i64,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let (mut now, last) = bounds(length, start, stop, step);
    std::iter::from_fn(move || {
        let inside = if step > 0 { now < last } else { now > last };
        let place = usize::try_from(now).ok().filter(|_| inside)?;
        now = now.saturating_add(step);
        Some(place)
    })
}

/// `range(stop)`, `range(start, stop)`, `range(start, stop, step)`: at most 100,000 items, as in
/// jinja2's sandbox.
pub(super) fn range(args: Args) -> Outcome {
    let given = args.positional.len();
    let [first, second, third] = args.bind(["start", "stop", "step"], 1)?;
    let whole =
        |value: Option<&Value>, default| super::arguments::as_whole(value, default, "range");
    let (start, stop) = match given {
        1 => (0, whole(first.as_ref(), 0)?),
        _ => (whole(first.as_ref(), 0)?, whole(second.as_ref(), 0)?),
    };
    let step = whole(third.as_ref(), 1)?;
    if step == 0 {
        return wrong("`range` cannot go in steps of 0");
    }
    let span = match step > 0 {
        true => i128::from(stop) - i128::from(start),
        false => i128::from(start) - i128::from(stop),
    };
    let size = i128::from(step).abs();
    let count = (span.max(0) + size - 1) / size;
    if count > 100_000 {
        return wrong("`range` has more than 100,000 items");
    }
    Ok(Value::from_object(Range {
        start,
        stop,
        step,
        count: count as usize,
    }))
}
