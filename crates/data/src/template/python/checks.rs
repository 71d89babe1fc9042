//! Jinja's tests: the operator `is`.

use minijinja::{Environment, Value};

use super::arguments::Args;
use super::objects::Method;
use super::operators::{holds, math};
use super::values::{Kind, Outcome, equal, kind, length, number, wrong};
use super::written::string;
use super::{budget, words};

/// Names of all tests.
const NAMES: [&str; 39] = [
    "odd",
    "even",
    "divisibleby",
    "defined",
    "undefined",
    "none",
    "boolean",
    "true",
    "false",
    "integer",
    "float",
    "lower",
    "upper",
    "string",
    "mapping",
    "number",
    "sequence",
    "iterable",
    "callable",
    "sameas",
    "escaped",
    "filter",
    "test",
    "in",
    "==",
    "eq",
    "equalto",
    "!=",
    "ne",
    "<",
    "lt",
    "lessthan",
    "<=",
    "le",
    ">",
    "gt",
    "greaterthan",
    ">=",
    "ge",
];

/// Registers the tests with an environment.
pub(super) fn register(environment: &mut Environment<'_>) {
    for name in NAMES {
        environment.add_test(name, move |args: minijinja::value::Rest<Value>| {
            call(name, &args)
        });
    }
}

fn call(name: &str, args: &[Value]) -> Outcome<bool> {
    let args = Args::new(name, args)?;
    if let Some(sign) = comparison(name) {
        let [left, right] = args.bind(["a", "b"], 2)?;
        return holds(&left.unwrap_or_default(), sign, &right.unwrap_or_default());
    }
    match name {
        "divisibleby" => {
            let [value, by] = args.bind(["value", "num"], 2)?;
            leaves(&value.unwrap_or_default(), by.unwrap_or_default(), 0)
        }
        "sameas" => {
            let [value, other] = args.bind(["value", "other"], 2)?;
            let (value, other) = (value.unwrap_or_default(), other.unwrap_or_default());
            let same =
                std::mem::discriminant(&kind(&value)) == std::mem::discriminant(&kind(&other));
            Ok(same && equal(&value, &other)?)
        }
        "filter" | "test" => {
            let wanted = string(&args.one("value")?)?;
            Ok(match name {
                "test" => NAMES.contains(&wanted.as_str()),
                _ => super::filters::NAMES.contains(&wanted.as_str()),
            })
        }
        _ => about(name, &args.one("value")?),
    }
}

fn comparison(name: &str) -> Option<&'static str> {
    Some(match name {
        "==" | "eq" | "equalto" => "==",
        "!=" | "ne" => "!=",
        "<" | "lt" | "lessthan" => "<",
        "<=" | "le" => "<=",
        ">" | "gt" | "greaterthan" => ">",
        ">=" | "ge" => ">=",
        "in" => "in",
        _ => return None,
    })
}

/// Whether a division has this remainder, computed as by the operator `%`.
fn leaves(value: &Value, by: Value, rest: i64) -> Outcome<bool> {
    let left = math(&[value.clone(), Value::from("%"), by])?;
    equal(&left, &Value::from(rest))
}

fn about(name: &str, value: &Value) -> Outcome<bool> {
    let kind = kind(value);
    if let (Kind::Text(text), "lower" | "upper") = (kind, name) {
        budget::reading(text.len())?;
    }
    Ok(match name {
        "odd" => leaves(value, Value::from(2), 1)?,
        "even" => leaves(value, Value::from(2), 0)?,
        "defined" => !value.is_undefined(),
        "undefined" => value.is_undefined(),
        "none" => matches!(kind, Kind::None),
        "boolean" => matches!(kind, Kind::Bool(_)),
        "true" => matches!(kind, Kind::Bool(true)),
        "false" => matches!(kind, Kind::Bool(false)),
        "integer" => matches!(kind, Kind::Whole(_)),
        "float" => matches!(kind, Kind::Float(_)),
        "number" => number(kind).is_some(),
        "string" => matches!(kind, Kind::Text(_)),
        "mapping" => matches!(kind, Kind::Dict),
        "lower" => words::about(&string(value)?, "islower").unwrap_or(false),
        "upper" => words::about(&string(value)?, "isupper").unwrap_or(false),
        "escaped" => value.is_safe(),
        "sequence" => match kind {
            Kind::Undefined | Kind::Text(_) | Kind::List | Kind::Tuple | Kind::Dict => true,
            Kind::Series => value.kind() == minijinja::value::ValueKind::Seq,
            _ => false,
        },
        "iterable" => match kind {
            Kind::None | Kind::Bool(_) | Kind::Whole(_) | Kind::Float(_) => false,
            Kind::Other => value.try_iter().is_ok() && length(value).is_some(),
            _ => true,
        },
        "callable" => match kind {
            // jinja2's undefined value is callable, though the call fails
            Kind::Undefined => true,
            Kind::Other => value.downcast_object_ref::<Method>().is_some() || is_function(value),
            _ => false,
        },
        _ => return wrong(format!("the test `{name}` is not there")),
    })
}

/// Whether a value is a function or macro; namespaces are objects that cannot be called.
fn is_function(value: &Value) -> bool {
    let name = value
        .as_object()
        .map_or("", minijinja::value::DynObject::type_name);
    !name.ends_with("::Namespace")
}
