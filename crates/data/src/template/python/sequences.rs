//! Jinja's filters on sequences. Results that are lazy in jinja2 are generators here too: true,
//! without a length, and empty once iterated.

use std::cmp::Ordering;

use minijinja::{State, Value};

use super::arguments::{Args, as_flag, as_whole};
use super::objects::{Generator, generator, list, named_tuple, text, tuple};
use super::operators::{self, holds};
use super::values::{Kind, Outcome, called, equal, items, kind, order, pairs, wrong};
use super::written::string;
use super::{budget, markup, words};

pub(super) fn call(state: &State<'_, '_>, name: &str, args: Args) -> Outcome {
    match name {
        "first" => {
            let first = items(&args.one("seq")?)?.into_iter().next();
            Ok(first.unwrap_or_default())
        }
        "last" => {
            let value = args.one("seq")?;
            if value.downcast_object_ref::<Generator>().is_some() {
                return wrong(
                    "a filter's results have no last one before they are a list: add `| list`",
                );
            }
            match kind(&value) {
                Kind::Text(_) => operators::item(&value, &Value::from(-1)),
                _ => Ok(items(&value)?.pop().unwrap_or_default()),
            }
        }
        "reverse" => reverse(args),
        "join" => join(args),
        "sum" => sum(args),
        "min" | "max" => extreme(name, args),
        "sort" => sort(args),
        "dictsort" => dictsort(args),
        "items" => {
            let value = args.one("value")?;
            let rows = match value.is_undefined() {
                true => Vec::new(),
                false => pairs(&value)?,
            };
            let rows = rows.into_iter().map(|(key, value)| tuple(vec![key, value]));
            generator(rows.collect::<Outcome<_>>()?)
        }
        "unique" => unique(args),
        "groupby" => group(args),
        "batch" => batch(args),
        "slice" => slice(args),
        "map" => map(state, args),
        "select" | "reject" | "selectattr" | "rejectattr" => select(state, name, args),
        _ => wrong(format!("the filter `{name}` is not there")),
    }
}

/// The item at a path such as `address.city` or an index.
fn under(value: &Value, path: Option<&Value>, default: Option<&Value>) -> Outcome {
    let Some(path) = path.filter(|path| !path.is_none()) else {
        return Ok(value.clone());
    };
    let Kind::Text(names) = kind(path) else {
        return operators::item(value, path);
    };
    let mut now = value.clone();
    for name in names.split('.') {
        now = match name.parse::<i64>() {
            Ok(index) if name.bytes().all(|b| b.is_ascii_digit()) => {
                operators::item(&now, &Value::from(index))?
            }
            _ => operators::item(&now, &Value::from(name))?,
        };
        if let (true, Some(default)) = (now.is_undefined(), default) {
            now = default.clone();
        }
    }
    Ok(now)
}

/// Lower-cases a string unless case matters.
fn folded(value: Value, case_sensitive: bool) -> Outcome {
    match kind(&value) {
        Kind::Text(whole) if !case_sensitive => text(words::cased(whole, "lower")),
        _ => Ok(value),
    }
}

/// Sorts by key, stably.
fn by_keys(mut rows: Vec<(Value, Value)>, reverse: bool) -> Outcome<Vec<(Value, Value)>> {
    let mut failed = None;
    rows.sort_by(|(a, _), (b, _)| match order(a, b) {
        Ok(order) => {
            let order = order.unwrap_or(Ordering::Equal);
            if reverse { order.reverse() } else { order }
        }
        Err(error) => {
            failed.get_or_insert(error);
            Ordering::Equal
        }
    });
    match failed {
        None => Ok(rows),
        Some(error) => Err(error),
    }
}

fn values(rows: Vec<(Value, Value)>) -> Vec<Value> {
    rows.into_iter().map(|(_, value)| value).collect()
}

fn reverse(args: Args) -> Outcome {
    let value = args.one("value")?;
    if let Kind::Text(whole) = kind(&value) {
        return markup::like(&value, whole.chars().rev().collect::<String>());
    }
    let mut all = items(&value)?;
    all.reverse();
    match value.downcast_object_ref::<Generator>() {
        Some(_) => list(all),
        None => generator(all),
    }
}

fn join(args: Args) -> Outcome {
    let [value, separator, path] = args.bind(["value", "d", "attribute"], 1)?;
    let separator = separator.map_or(Ok(String::new()), |separator| string(&separator))?;
    let parts = items(&value.unwrap_or_default())?;
    let parts = parts
        .iter()
        .map(|part| string(&under(part, path.as_ref(), None)?));
    let parts = parts.collect::<Outcome<Vec<_>>>()?;
    budget::made(separator.len().saturating_mul(parts.len()))?;
    text(parts.join(&separator))
}

fn sum(args: Args) -> Outcome {
    let [value, path, start] = args.bind(["iterable", "attribute", "start"], 1)?;
    let mut total = vec![start.unwrap_or(Value::from(0))];
    for item in items(&value.unwrap_or_default())? {
        total.push(Value::from("+"));
        total.push(under(&item, path.as_ref(), None)?);
    }
    if matches!(kind(&total[0]), Kind::Text(_)) {
        return wrong("`sum` does not add texts");
    }
    operators::math(&total)
}

fn extreme(name: &str, args: Args) -> Outcome {
    let [value, case, path] = args.bind(["value", "case_sensitive", "attribute"], 1)?;
    let sign = if name == "min" { "<" } else { ">" };
    let mut best: Option<(Value, Value)> = None;
    for item in items(&value.unwrap_or_default())? {
        let key = folded(under(&item, path.as_ref(), None)?, as_flag(case.as_ref()))?;
        let better = match &best {
            Some((known, _)) => holds(&key, sign, known)?,
            None => true,
        };
        if better {
            best = Some((key, item));
        }
    }
    Ok(best.map(|(_, item)| item).unwrap_or_default())
}

fn sort(args: Args) -> Outcome {
    let [value, reverse, case, path] =
        args.bind(["value", "reverse", "case_sensitive", "attribute"], 1)?;
    let case = as_flag(case.as_ref());
    let paths: Vec<Option<Value>> = match path.as_ref().map(kind) {
        Some(Kind::Text(names)) => names
            .split(',')
            .map(|name| Some(Value::from(name)))
            .collect(),
        _ => vec![path.clone()],
    };
    let rows = items(&value.unwrap_or_default())?.into_iter().map(|item| {
        let keys = paths
            .iter()
            .map(|path| folded(under(&item, path.as_ref(), None)?, case));
        Ok((list(keys.collect::<Outcome<_>>()?)?, item))
    });
    let rows = by_keys(rows.collect::<Outcome<_>>()?, as_flag(reverse.as_ref()))?;
    list(values(rows))
}

fn dictsort(args: Args) -> Outcome {
    let [value, case, by, reverse] = args.bind(["value", "case_sensitive", "by", "reverse"], 1)?;
    let case = as_flag(case.as_ref());
    let by = by.map_or(Ok("key".to_owned()), |by| string(&by))?;
    let rows = pairs(&value.unwrap_or_default())?
        .into_iter()
        .map(|(key, value)| {
            let sorted_by = match by.as_str() {
                "key" => key.clone(),
                "value" => value.clone(),
                _ => return wrong("`dictsort` sorts by `key` or `value`"),
            };
            Ok((folded(sorted_by, case)?, tuple(vec![key, value])?))
        });
    list(values(by_keys(
        rows.collect::<Outcome<_>>()?,
        as_flag(reverse.as_ref()),
    )?))
}

fn unique(args: Args) -> Outcome {
    let [value, case, path] = args.bind(["value", "case_sensitive", "attribute"], 1)?;
    let mut seen: Vec<Value> = Vec::new();
    let mut kept = Vec::new();
    for item in items(&value.unwrap_or_default())? {
        let key = folded(under(&item, path.as_ref(), None)?, as_flag(case.as_ref()))?;
        if matches!(kind(&key), Kind::List | Kind::Dict) {
            return wrong(format!("`unique` cannot tell {} from others", called(&key)));
        }
        let mut known = false;
        for other in &seen {
            known |= equal(other, &key)?;
        }
        if !known {
            seen.push(key);
            kept.push(item);
        }
    }
    generator(kept)
}

fn group(args: Args) -> Outcome {
    let [value, path, default, case] =
        args.bind(["value", "attribute", "default", "case_sensitive"], 2)?;
    let case = as_flag(case.as_ref());
    let rows = items(&value.unwrap_or_default())?.into_iter().map(|item| {
        let key = under(&item, path.as_ref(), default.as_ref())?;
        Ok((folded(key, case)?, item))
    });
    let mut groups: Vec<(Value, Vec<Value>)> = Vec::new();
    for (key, item) in by_keys(rows.collect::<Outcome<_>>()?, false)? {
        match groups.last_mut() {
            Some((known, members)) if equal(known, &key)? => members.push(item),
            _ => groups.push((key, vec![item])),
        }
    }
    let groups = groups.into_iter().map(|(_, members)| {
        // the key as spelt by the first member
        let key = under(&members[0], path.as_ref(), default.as_ref())?;
        named_tuple(vec![key, list(members)?], &["grouper", "list"])
    });
    list(groups.collect::<Outcome<_>>()?)
}

fn batch(args: Args) -> Outcome {
    let [value, size, fill] = args.bind(["value", "linecount", "fill_with"], 2)?;
    let size = as_whole(size.as_ref(), 1, "batch")?;
    let all = items(&value.unwrap_or_default())?;
    let mut rows = Vec::new();
    // jinja2 ends a row when it is full and another item follows: at size 0 the first row is empty
    if size == 0 && !all.is_empty() {
        rows.push(list(Vec::new())?);
    }
    let whole = all.len().max(1);
    let size = usize::try_from(size).map_or(whole, |size| if size == 0 { whole } else { size });
    for row in all.chunks(size) {
        let mut row = row.to_vec();
        if let Some(fill) = fill.as_ref().filter(|fill| !fill.is_none()) {
            budget::steps(size - row.len())?;
            row.resize(size, fill.clone());
        }
        rows.push(list(row)?);
    }
    generator(rows)
}

fn slice(args: Args) -> Outcome {
    let [value, count, fill] = args.bind(["value", "slices", "fill_with"], 2)?;
    let count = as_whole(count.as_ref(), 1, "slice")?;
    if count == 0 {
        return wrong("division by zero");
    }
    let all = items(&value.unwrap_or_default())?;
    let Ok(count) = usize::try_from(count) else {
        return generator(Vec::new());
    };
    budget::made(count.saturating_mul(64))?; // empty rows take their room too
    let (size, longer) = (all.len() / count, all.len() % count);
    let mut rest = all.as_slice();
    let mut rows = Vec::new();
    for at in 0..count {
        let (row, after) = rest.split_at(size + usize::from(at < longer));
        let mut row = row.to_vec();
        if at >= longer {
            row.extend(fill.clone().filter(|fill| !fill.is_none()));
        }
        rows.push(list(row)?);
        rest = after;
    }
    generator(rows)
}

/// Whether a filter's value is falsy; jinja2 then ignores the other arguments.
fn has_nothing(args: &Args) -> bool {
    args.positional
        .first()
        .is_some_and(|value| !value.is_true())
}

/// `map('filter', …)` or `map(attribute=…, default=…)`
fn map(state: &State<'_, '_>, mut args: Args) -> Outcome {
    if has_nothing(&args) {
        return generator(Vec::new());
    }
    if args.positional.len() < 2 {
        let [value, path, default] = args.bind(["value", "attribute", "default"], 1)?;
        let Some(path) = path else {
            return wrong("`map` wants the name of a filter or `attribute`");
        };
        let all = items(&value.unwrap_or_default())?.into_iter();
        let all = all.map(|item| under(&item, Some(&path), default.as_ref()));
        return generator(all.collect::<Outcome<_>>()?);
    }
    let value = args.positional.remove(0);
    let filter = string(&args.positional.remove(0))?;
    let all = items(&value)?.into_iter().map(|item| {
        budget::steps(1)?;
        state.apply_filter(&filter, &with_item(item, &args))
    });
    generator(all.collect::<Outcome<_>>()?)
}

/// The arguments of a filter or test for one item.
fn with_item(item: Value, args: &Args) -> Vec<Value> {
    let mut all = vec![item];
    all.extend(args.positional.iter().cloned());
    if !args.named.is_empty() {
        let named = args.named.iter().cloned();
        all.push(Value::from(named.collect::<minijinja::value::Kwargs>()));
    }
    all
}

fn select(state: &State<'_, '_>, name: &str, mut args: Args) -> Outcome {
    if args.positional.is_empty() {
        return wrong(format!("`{name}` wants something to select from"));
    }
    if has_nothing(&args) {
        return generator(Vec::new());
    }
    let value = args.positional.remove(0);
    let path = match name.ends_with("attr") {
        true if args.positional.is_empty() => {
            return wrong(format!("`{name}` wants the name of an attribute"));
        }
        true => Some(args.positional.remove(0)),
        false => None,
    };
    let test = match args.positional.is_empty() {
        true => None,
        false => Some(string(&args.positional.remove(0))?),
    };
    let wanted = name.starts_with("select");
    let mut kept = Vec::new();
    for item in items(&value)? {
        let tested = under(&item, path.as_ref(), None)?;
        let passes = match &test {
            Some(test) => state.perform_test(test, &with_item(tested, &args))?,
            None => tested.is_true(),
        };
        if passes == wanted {
            kept.push(item);
        }
    }
    if let Some(item) = kept.iter().find(|item| matches!(kind(item), Kind::Other)) {
        return wrong(format!("`{name}` cannot keep {}", called(item)));
    }
    generator(kept)
}
