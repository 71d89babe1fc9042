//! Jinja with Python's semantics: minijinja runs a template's statements; whatever jinja2 3.1, in
//! transformers' sandbox, computes differently (operators, methods, filters, tests, how values
//! print) is implemented here.
//!
//! A template is translated before minijinja parses it (`source`, `expressions`): operators become
//! calls of functions (`operators`), so that `'%s' % x`, `-7 // 2` or `none in 'x'` give Python's
//! results.

mod arguments;
mod budget;
mod checks;
mod day;
mod expressions;
mod filters;
mod format;
mod markup;
mod methods;
mod names;
mod objects;
mod operators;
mod reader;
mod sequences;
mod source;
mod spec;
#[cfg(test)]
mod tests;
mod tokens;
mod values;
mod words;
mod written;

use minijinja::value::{Rest, Value};
use minijinja::{Environment, ErrorKind, State, UndefinedBehavior};

use crate::error::shortened;
use arguments::Args;
pub(crate) use budget::Budget;
pub(crate) use day::Day;
use values::{Outcome, wrong};
pub(crate) use written::float;

const NAME: &str = "chat_template";

/// Maximum depth of macros and recursive loops, as minijinja counts them (a macro's call is 5), so
/// that a thread's stack suffices.
const MOST_CALLS: usize = 200;

/// Maximum length of an error message in characters: `raise_exception` may give any.
const MOST_SAID: usize = 300;

/// A compiled template.
#[derive(Debug)]
pub(crate) struct Program {
    environment: Environment<'static>,
    budget: Budget,
}

impl Program {
    /// Compiles a chat template, set up as in transformers.
    ///
    /// # Errors
    /// What is wrong with it, and on which line.
    pub(crate) fn new(source: &str, budget: Budget) -> Result<Self, String> {
        Self::with(source, budget, |environment| {
            environment.set_trim_blocks(true);
            environment.set_lstrip_blocks(true);
        })
    }

    /// Compiles a template of a task, set up as in lm-eval: white space stays, and a variable that
    /// is not there is an error where it is printed.
    ///
    /// # Errors
    /// What is wrong with it, and on which line.
    pub(crate) fn of_task(source: &str, budget: Budget) -> Result<Self, String> {
        Self::with(source, budget, |environment| {
            environment.set_keep_trailing_newline(true);
            environment.set_undefined_behavior(UndefinedBehavior::Strict);
        })
    }

    fn with(
        source: &str,
        budget: Budget,
        set_up: impl FnOnce(&mut Environment<'static>),
    ) -> Result<Self, String> {
        let translated =
            source::translate(source).map_err(|fault| at_line(fault.what, fault.line))?;
        // without minijinja's own filters, tests and functions: some are not jinja2's
        let mut environment = Environment::empty();
        set_up(&mut environment);
        environment.set_recursion_limit(MOST_CALLS);
        environment.set_fuel(Some(budget.steps));
        environment.set_formatter(written::write);
        for name in filters::NAMES {
            environment.add_filter(name, move |state: &State, args: Rest<Value>| {
                filters::call(state, name, &args)
            });
        }
        checks::register(&mut environment);
        operators::register(&mut environment);
        functions(&mut environment);
        environment
            .add_template_owned(NAME, translated)
            .map_err(|error| describe(&error))?;
        Ok(Self {
            environment,
            budget,
        })
    }

    /// Sets the day of `strftime_now`.
    pub(crate) fn set_day(&mut self, day: Day) {
        self.environment
            .add_function("strftime_now", move |format: String| -> Outcome {
                match day.format(&format) {
                    Ok(text) => objects::text(text),
                    Err(what) => wrong(what),
                }
            });
    }

    /// Renders the template with these variables.
    ///
    /// # Errors
    /// The template refuses them, fails, or exceeds the budget.
    pub(crate) fn render(&self, variables: Value) -> Result<String, String> {
        let template = self.environment.get_template(NAME);
        let template = template.map_err(|error| describe(&error))?;
        budget::begin(self.budget);
        let mut out = budget::Limited {
            text: Vec::new(),
            most: self.budget.output,
        };
        let rendered = template.render_captured_to(variables, &mut out);
        rendered.map_err(|error| match error.kind() {
            ErrorKind::WriteFailure => describe(&budget::output_is_full()),
            _ => describe(&error),
        })?;
        String::from_utf8(out.text).map_err(|_| "the text is not UTF-8".to_owned())
    }
}

/// Registers jinja2's global functions, and `raise_exception`.
fn functions(environment: &mut Environment<'_>) {
    environment.add_function("range", |args: Rest<Value>| {
        operators::range(Args::new("range", &args)?)
    });
    environment.add_function("dict", |args: Rest<Value>| mapping("dict", &args));
    environment.add_function("namespace", |args: Rest<Value>| namespace(&args));
    environment.add_function("cycler", |args: Rest<Value>| {
        objects::cycler(Args::new("cycler", &args)?)
    });
    environment.add_function("joiner", minijinja_contrib::globals::joiner);
    environment.add_function("raise_exception", |message: Value| -> Outcome {
        wrong(written::string(&message)?)
    });
}

/// A namespace; as in transformers, its names must not begin with an underscore.
fn namespace(args: &[Value]) -> Outcome {
    let start = mapping("namespace", args)?;
    let mut names = values::items(&start)?.into_iter();
    match names.find(|name| name.as_str().is_some_and(|name| name.starts_with('_'))) {
        Some(name) => wrong(format!("`{name}` begins with an underscore")),
        None => minijinja::functions::namespace(Some(start)),
    }
}

/// A mapping made from another, from pairs, or from keyword arguments.
fn mapping(of: &str, args: &[Value]) -> Outcome {
    let mut args = Args::new(of, args)?;
    let named = std::mem::take(&mut args.named);
    let [from] = args.bind(["from"], 0)?;
    let mut pairs = match from {
        None => Vec::new(),
        Some(from) if matches!(values::kind(&from), values::Kind::Dict) => values::pairs(&from)?,
        Some(from) => {
            let rows = values::items(&from)?.into_iter().map(|row| {
                match values::items(&row)?.as_slice() {
                    [key, value] => Ok((key.clone(), value.clone())),
                    _ => wrong(format!("`{of}` wants pairs")),
                }
            });
            rows.collect::<Outcome<Vec<_>>>()?
        }
    };
    pairs.extend(
        named
            .into_iter()
            .map(|(name, value)| (Value::from(name), value)),
    );
    objects::dict(pairs)
}

/// Formats an error with its line, without the kind that minijinja repeats.
fn describe(error: &minijinja::Error) -> String {
    let what = match (error.kind(), error.detail()) {
        (_, Some(detail)) => detail.to_owned(),
        (ErrorKind::OutOfFuel, None) => "it takes more steps than a chat template may".to_owned(),
        (kind, None) => kind.to_string(),
    };
    match error.line() {
        Some(line) => at_line(what, line),
        None => shortened(what, MOST_SAID),
    }
}

fn at_line(what: String, line: usize) -> String {
    let what = shortened(what, MOST_SAID);
    format!("{what} (line {line} of the template)")
}
