//! Methods of Python's strings, lists, tuples and mappings. Methods that modify a value are
//! refused, as in transformers' sandbox.

use minijinja::{State, Value};

use super::arguments::{Args, as_flag, as_text, as_whole};
use super::objects::{dict, list, pay_for_key, text, texts, tuple, view};
use super::values::{Kind, Outcome, called, equal, items, kind, lookup, pairs, wrong};
use super::{budget, format, markup, names, words};

/// `of.name(arguments)`
pub(super) fn call(state: &State<'_, '_>, of: &Value, name: &str, args: &[Value]) -> Outcome {
    let known: &[&str] = match kind(of) {
        Kind::Text(_) => &names::TEXT,
        Kind::List => &names::LIST,
        Kind::Tuple => &names::TUPLE,
        Kind::Dict => &names::DICT,
        Kind::Undefined => return wrong(format!("an undefined value has no `{name}`")),
        _ => &[],
    };
    if !known.contains(&name) {
        // a callable item, such as a macro in a mapping
        return match of.get_attr(name) {
            Ok(item) if !item.is_undefined() => item.call(state, args),
            _ => wrong(format!("{} has no method `{name}`", called(of))),
        };
    }
    let args = Args::new(name, args)?;
    match kind(of) {
        Kind::Text(whole) if of.is_safe() => markup::method(whole, name, args),
        Kind::Text(whole) => of_text(whole, name, args, false),
        Kind::Dict => of_dict(of, name, args),
        _ => of_list(of, name, args),
    }
}

fn refused(name: &str) -> Outcome {
    wrong(format!(
        "`{name}` would change a value, which a chat template may not"
    ))
}

fn of_dict(of: &Value, name: &str, args: Args) -> Outcome {
    let columns = |args: Args| -> Outcome<Vec<(Value, Value)>> {
        let [] = args.bind([], 0)?;
        pairs(of)
    };
    match name {
        "get" => {
            if let Some((given, _)) = args.named.first() {
                return wrong(format!("`get` takes no argument by name, got `{given}`"));
            }
            let [key, default] = args.bind(["key", "default"], 1)?;
            let key = key.unwrap_or_default();
            pay_for_key(&key)?;
            Ok(lookup(of, &key).unwrap_or(default.unwrap_or(Value::from(()))))
        }
        "keys" => view(
            "dict_keys",
            columns(args)?.into_iter().map(|(key, _)| key).collect(),
        ),
        "values" => view(
            "dict_values",
            columns(args)?.into_iter().map(|(_, value)| value).collect(),
        ),
        "items" => {
            let rows = columns(args)?
                .into_iter()
                .map(|(key, value)| tuple(vec![key, value]));
            view("dict_items", rows.collect::<Outcome<_>>()?)
        }
        "copy" => dict(columns(args)?),
        _ => refused(name),
    }
}

fn of_list(of: &Value, name: &str, args: Args) -> Outcome {
    match name {
        "count" | "index" => {
            let wanted = args.one("value")?;
            let mut count = 0;
            for (at, item) in items(of)?.iter().enumerate() {
                if equal(item, &wanted)? {
                    if name == "index" {
                        return Ok(Value::from(at));
                    }
                    count += 1;
                }
            }
            match name {
                "count" => Ok(Value::from(count)),
                _ => wrong("the value is not in the list"),
            }
        }
        "copy" => list(items(of)?),
        _ => refused(name),
    }
}

/// Calls a string method; with `safe`, arguments of `format` are escaped.
pub(super) fn of_text(whole: &str, name: &str, args: Args, safe: bool) -> Outcome {
    budget::made(whole.len())?;
    budget::reading(whole.len())?;
    if let Some(answer) = words::about(whole, name) {
        let [] = args.bind([], 0)?;
        return Ok(Value::from(answer));
    }
    match name {
        "upper" | "lower" | "title" | "capitalize" | "swapcase" | "casefold" => {
            let [] = args.bind([], 0)?;
            text(words::cased(whole, name))
        }
        "strip" | "lstrip" | "rstrip" => {
            let [chars] = args.bind(["chars"], 0)?;
            text(stripped(whole, chars, name)?)
        }
        "split" | "rsplit" => split(whole, name, args),
        "splitlines" => {
            let [keep] = args.bind(["keepends"], 0)?;
            texts(words::lines(whole, as_flag(keep.as_ref())))
        }
        "partition" | "rpartition" => partition(whole, name, args),
        "startswith" | "endswith" => ends(whole, name, args),
        "removeprefix" | "removesuffix" => {
            let part = args.one("part")?;
            let part = as_text(&part, name)?;
            let rest = match name {
                "removeprefix" => whole.strip_prefix(part),
                _ => whole.strip_suffix(part),
            };
            text(rest.unwrap_or(whole))
        }
        "replace" => {
            let [old, new, count] = args.bind(["old", "new", "count"], 2)?;
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            let count = as_whole(count.as_ref(), -1, name)?;
            replaced(whole, as_text(&old, name)?, as_text(&new, name)?, count)
        }
        "find" | "rfind" | "index" | "rindex" | "count" => search(whole, name, args),
        "center" | "ljust" | "rjust" | "zfill" => padded(whole, name, args),
        "expandtabs" => {
            let [size] = args.bind(["tabsize"], 0)?;
            let size = as_whole(size.as_ref(), 8, name)?.max(0) as usize;
            budget::made(size.saturating_mul(whole.matches('\t').count()))?;
            text(words::without_tabs(whole, size))
        }
        "join" => {
            let parts = items(&args.one("parts")?)?;
            let parts = parts.iter().map(|part| as_text(part, name));
            let parts = parts.collect::<Outcome<Vec<_>>>()?;
            budget::made(whole.len().saturating_mul(parts.len()))?;
            text(parts.join(whole))
        }
        "format" => text(format::braces(whole, &args.positional, &args.named, safe)?),
        "format_map" => {
            let named = pairs(&args.one("map")?)?.into_iter();
            let named = named.filter_map(|(key, value)| Some((key.as_str()?.to_owned(), value)));
            let named: Vec<_> = named.collect();
            text(format::braces(whole, &[], &named, safe)?)
        }
        _ => wrong(format!("the method `{name}` of a text is not there")),
    }
}

/// Strips white space, or the characters of `chars`, from both ends of a text, or from the one that
/// the method strips.
pub(super) fn stripped<'a>(whole: &'a str, chars: Option<Value>, name: &str) -> Outcome<&'a str> {
    let chars = chars.filter(|chars| !chars.is_none());
    let chars = chars.as_ref().map(|chars| as_text(chars, name));
    let (left, right) = (name != "rstrip", name != "lstrip");
    Ok(words::stripped(whole, chars.transpose()?, left, right))
}

/// Replaces at most `count` occurrences; a negative count means all.
pub(super) fn replaced(whole: &str, old: &str, new: &str, count: i64) -> Outcome {
    let most = usize::try_from(count).unwrap_or(usize::MAX);
    let found = whole.matches(old).take(most).count();
    budget::made(new.len().saturating_mul(found))?;
    text(whole.replacen(old, new, most))
}

fn split(whole: &str, name: &str, args: Args) -> Outcome {
    let [separator, most] = args.bind(["sep", "maxsplit"], 0)?;
    let most = usize::try_from(as_whole(most.as_ref(), -1, name)?).unwrap_or(usize::MAX);
    let from_right = name == "rsplit";
    match separator.filter(|separator| !separator.is_none()) {
        None => texts(words::split_at_space(whole, most, from_right)),
        Some(separator) => {
            let separator = as_text(&separator, name)?;
            if separator.is_empty() {
                return wrong(format!("`{name}` wants a separator that is not empty"));
            }
            let most = most.saturating_add(1);
            if !from_right {
                return texts(whole.splitn(most, separator));
            }
            let mut parts: Vec<&str> = whole.rsplitn(most, separator).collect();
            parts.reverse();
            texts(parts)
        }
    }
}

fn partition(whole: &str, name: &str, args: Args) -> Outcome {
    let separator = args.one("sep")?;
    let separator = as_text(&separator, name)?;
    if separator.is_empty() {
        return wrong(format!("`{name}` wants a separator that is not empty"));
    }
    let parts = match name {
        "partition" => whole.split_once(separator),
        _ => whole.rsplit_once(separator),
    };
    let parts = match (parts, name) {
        (Some((before, after)), _) => [before, separator, after],
        (None, "partition") => [whole, "", ""],
        (None, _) => ["", "", whole],
    };
    tuple(parts.into_iter().map(text).collect::<Outcome<_>>()?)
}

/// The part of a text between two character indices, and the number of characters before it; `None`
/// if the start is past the end.
fn span<'a>(
    whole: &'a str,
    start: Option<&Value>,
    end: Option<&Value>,
    name: &str,
) -> Outcome<Option<(&'a str, usize)>> {
    let length = whole.chars().count() as i64;
    let place = |value: Option<&Value>, default: i64| -> Outcome<i64> {
        let given = as_whole(value.filter(|value| !value.is_none()), default, name)?;
        Ok(if given < 0 {
            (given + length).max(0)
        } else {
            given
        })
    };
    let (start, end) = (place(start, 0)?, place(end, length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |at: i64| {
        let mut places = whole.char_indices().map(|(byte, _)| byte);
        places.nth(at as usize).unwrap_or(whole.len())
    };
    Ok(Some((&whole[byte(start)..byte(end)], start as usize)))
}

fn ends(whole: &str, name: &str, args: Args) -> Outcome {
    let [wanted, start, end] = args.bind(["part", "start", "end"], 1)?;
    let wanted = wanted.unwrap_or_default();
    let choices = match kind(&wanted) {
        Kind::Tuple => items(&wanted)?,
        _ => vec![wanted],
    };
    let part = span(whole, start.as_ref(), end.as_ref(), name)?;
    for choice in &choices {
        let choice = as_text(choice, name)?;
        budget::reading(choice.len().min(whole.len()))?;
        let found = part.is_some_and(|(part, _)| match name {
            "startswith" => part.starts_with(choice),
            _ => part.ends_with(choice),
        });
        if found {
            return Ok(Value::from(true));
        }
    }
    Ok(Value::from(false))
}

fn search(whole: &str, name: &str, args: Args) -> Outcome {
    let [wanted, start, end] = args.bind(["part", "start", "end"], 1)?;
    let wanted = wanted.unwrap_or_default();
    let wanted = as_text(&wanted, name)?;
    let part = span(whole, start.as_ref(), end.as_ref(), name)?;
    if name == "count" {
        let count = part.map_or(0, |(part, _)| part.matches(wanted).count());
        return Ok(Value::from(count));
    }
    let found = part.and_then(|(part, before)| {
        let byte = match name {
            "find" | "index" => part.find(wanted),
            _ => part.rfind(wanted),
        };
        byte.map(|byte| before + part[..byte].chars().count())
    });
    match (found, name) {
        (Some(at), _) => Ok(Value::from(at)),
        (None, "find" | "rfind") => Ok(Value::from(-1)),
        (None, _) => wrong("the part is not in the text"),
    }
}

fn padded(whole: &str, name: &str, args: Args) -> Outcome {
    let [width, fill] = args.bind(["width", "fillchar"], 1)?;
    let width = as_whole(width.as_ref(), 0, name)?.max(0) as usize;
    let fill = match &fill {
        Some(fill) => as_text(fill, name)?,
        None => " ",
    };
    let mut one = fill.chars();
    let (Some(fill), None) = (one.next(), one.next()) else {
        return wrong(format!("`{name}` fills with one character"));
    };
    budget::made(width.saturating_mul(fill.len_utf8()))?;
    text(words::padded(whole, name, width, fill))
}
