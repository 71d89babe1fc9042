//! Values that minijinja lacks: tuples, views of a mapping, generators, ranges, bound methods.
//! Lists and mappings made by a template are objects too, since each records its nesting depth.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use minijinja::State;
use minijinja::value::{Enumerator, Object, ObjectRepr, Value};

use super::arguments::Args;
use super::budget::{self, DEEPEST};
use super::values::{Kind, Outcome, called, is_namespace, items, kind, lookup, pairs, wrong};

/// Maximum nesting depth of a mapping's key.
const DEEPEST_KEY: u32 = 32;
/// Maximum number of values in a mapping's key.
const MOST_IN_KEY: usize = 10_000;

/// A list with its nesting depth.
#[derive(Debug)]
struct List {
    items: Vec<Value>,
    depth: u32,
}

/// A tuple; the groups of `groupby` have names for their two items.
#[derive(Debug)]
pub(super) struct Tuple {
    items: Vec<Value>,
    names: &'static [&'static str],
    depth: u32,
}

/// A mapping made by a template.
#[derive(Debug)]
struct Dict {
    inner: Value,
    depth: u32,
}

/// `d.keys()`, `d.values()` or `d.items()`.
#[derive(Debug)]
pub(super) struct View {
    pub(super) name: &'static str,
    pub(super) items: Vec<Value>,
    depth: u32,
}

/// The lazy result of a filter: it can be iterated once, has no length and is true.
#[derive(Debug)]
pub(super) struct Generator {
    items: Mutex<Option<Vec<Value>>>,
    depth: u32,
}

/// `range(start, stop, step)`.
#[derive(Debug)]
pub(super) struct Range {
    pub(super) start: i64,
    pub(super) stop: i64,
    pub(super) step: i64,
    pub(super) count: usize,
}

/// `cycler(…)`: its values in turn.
#[derive(Debug)]
struct Cycler {
    items: Vec<Value>,
    at: AtomicUsize,
}

/// A method that is referenced but not called.
#[derive(Debug)]
pub(super) struct Method {
    pub(super) of: Value,
    pub(super) name: String,
    depth: u32,
}

/// Nesting depth of a value; values from outside count as 1.
fn depth(value: &Value) -> Outcome<u32> {
    if is_namespace(value) {
        return wrong("a namespace, loop or macro cannot be kept in another value");
    }
    let object = value.as_object();
    Ok(object.map_or(0, |object| {
        None.or(object.downcast_ref::<List>().map(|o| o.depth))
            .or(object.downcast_ref::<Tuple>().map(|o| o.depth))
            .or(object.downcast_ref::<Dict>().map(|o| o.depth))
            .or(object.downcast_ref::<View>().map(|o| o.depth))
            .or(object.downcast_ref::<Generator>().map(|o| o.depth))
            .or(object.downcast_ref::<Method>().map(|o| o.depth))
            .unwrap_or(1)
    }))
}

fn depth_of(items: &[Value]) -> Outcome<u32> {
    budget::steps(items.len())?;
    let mut deepest = 0;
    for item in items {
        deepest = deepest.max(depth(item)?);
    }
    match deepest < DEEPEST {
        true => Ok(deepest + 1),
        false => wrong("values within values, too deep for a chat template"),
    }
}

pub(super) fn list(items: Vec<Value>) -> Outcome {
    let depth = depth_of(&items)?;
    Ok(Value::from_object(List { items, depth }))
}

pub(super) fn tuple(items: Vec<Value>) -> Outcome {
    named_tuple(items, &[])
}

pub(super) fn named_tuple(items: Vec<Value>, names: &'static [&'static str]) -> Outcome {
    let depth = depth_of(&items)?;
    Ok(Value::from_object(Tuple {
        items,
        names,
        depth,
    }))
}

pub(super) fn dict(pairs: Vec<(Value, Value)>) -> Outcome {
    let values: Vec<Value> = pairs.iter().map(|(_, value)| value.clone()).collect();
    let depth = depth_of(&values)?;
    for (key, _) in &pairs {
        hashable(key)?;
    }
    let inner = pairs.into_iter().collect::<Value>();
    Ok(Value::from_object(Dict { inner, depth }))
}

pub(super) fn view(name: &'static str, items: Vec<Value>) -> Outcome {
    let depth = depth_of(&items)?;
    Ok(Value::from_object(View { name, items, depth }))
}

pub(super) fn generator(items: Vec<Value>) -> Outcome {
    let depth = depth_of(&items)?;
    let items = Mutex::new(Some(items));
    Ok(Value::from_object(Generator { items, depth }))
}

pub(super) fn method(of: &Value, name: &str) -> Outcome {
    Ok(Value::from_object(Method {
        of: of.clone(),
        name: name.to_owned(),
        depth: depth_of(std::slice::from_ref(of))?,
    }))
}

/// `cycler(…)`
pub(super) fn cycler(args: Args) -> Outcome {
    if args.positional.is_empty() || !args.named.is_empty() {
        return wrong("`cycler` wants values, without names");
    }
    let items = args.positional;
    depth_of(&items)?;
    let at = AtomicUsize::new(0);
    Ok(Value::from_object(Cycler { items, at }))
}

/// Checks a value that a namespace is to hold.
pub(super) fn storable(value: Value) -> Outcome {
    depth(&value)?;
    Ok(value)
}

/// A string, counted against the budget.
pub(super) fn text(text: impl Into<String>) -> Outcome {
    let text = text.into();
    budget::made(text.len())?;
    Ok(Value::from(text))
}

pub(super) fn texts<T: Into<String>>(items: impl IntoIterator<Item = T>) -> Outcome {
    list(items.into_iter().map(text).collect::<Outcome<_>>()?)
}

fn hashable(key: &Value) -> Outcome<()> {
    match kind(key) {
        Kind::List | Kind::Dict => wrong(format!("{} cannot be a key", called(key))),
        _ => pay_for_key(key),
    }
}

/// Spends the steps of hashing a key, which visits every value in it: tuples of tuples share their
/// items, so visits may far exceed the values that were made.
pub(super) fn pay_for_key(key: &Value) -> Outcome<()> {
    let mut left = MOST_IN_KEY;
    pay_for_part(key, 0, &mut left)
}

fn pay_for_part(part: &Value, depth: u32, left: &mut usize) -> Outcome<()> {
    if depth > DEEPEST_KEY {
        return wrong(format!(
            "values within values in a mapping's key, more than {DEEPEST_KEY} deep"
        ));
    }
    if *left == 0 {
        return wrong(format!(
            "a mapping's key holds more than {MOST_IN_KEY} values"
        ));
    }
    *left -= 1;
    let parts: Vec<Value> = match kind(part) {
        Kind::Text(text) => return budget::reading(text.len()),
        Kind::List | Kind::Tuple => items(part)?,
        Kind::Dict => pairs(part)?.into_iter().flat_map(|(a, b)| [a, b]).collect(),
        // hashing a generator would iterate it, which it allows only once
        Kind::Series if part.downcast_object_ref::<Generator>().is_some() => {
            return wrong(format!("{} cannot be a key", called(part)));
        }
        Kind::Series => items(part)?,
        _ => return budget::steps(1),
    };
    for part in &parts {
        pay_for_part(part, depth + 1, left)?;
    }
    Ok(())
}

impl Object for List {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.items.get(key.as_usize()?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

impl Object for Tuple {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = match key.as_str() {
            Some(name) => self.names.iter().position(|known| *known == name),
            None => key.as_usize(),
        };
        self.items.get(at?).cloned()
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.items.len())
    }
}

impl Object for Dict {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        lookup(&self.inner, key)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.inner.try_iter().into_iter().flatten().collect())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        self.inner.len()
    }
}

impl Object for View {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.items.clone())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        Some(self.items.len())
    }
}

impl Object for Generator {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Iterable
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let items = self.items.lock().ok().and_then(|mut items| items.take());
        Enumerator::Values(items.unwrap_or_default())
    }

    fn enumerator_len(self: &Arc<Self>) -> Option<usize> {
        None
    }

    fn is_true(self: &Arc<Self>) -> bool {
        true
    }
}

impl Object for Range {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Seq
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = key.as_usize().filter(|at| *at < self.count)?;
        let item = i128::from(self.start) + i128::from(self.step) * at as i128;
        Some(Value::from(item as i64))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Seq(self.count)
    }
}

impl Object for Cycler {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        let at = self.at.load(Ordering::Relaxed);
        self.items
            .get(at)
            .filter(|_| key.as_str() == Some("current"))
            .cloned()
    }

    fn call_method(
        self: &Arc<Self>,
        _state: &State<'_, '_>,
        method: &str,
        args: &[Value],
    ) -> Outcome {
        let [] = Args::new(method, args)?.bind([], 0)?;
        let at = self.at.load(Ordering::Relaxed);
        let (next, answer) = match method {
            "next" => (
                (at + 1) % self.items.len(),
                self.items.get(at).cloned().unwrap_or_default(),
            ),
            "reset" => (0, Value::from(())),
            _ => return wrong(format!("a cycler has no method `{method}`")),
        };
        self.at.store(next, Ordering::Relaxed);
        Ok(answer)
    }
}

impl Object for Method {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn call(self: &Arc<Self>, state: &State<'_, '_>, args: &[Value]) -> Outcome {
        super::methods::call(state, &self.of, &self.name, args)
    }
}
