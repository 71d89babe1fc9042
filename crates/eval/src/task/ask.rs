//! What is asked of the model for each document: contexts with few-shot examples, as lm-eval 0.4.13
//! builds them without a chat template.

use serde_json::Value;

use super::definition::{Definition, Fewshot, Output};
use super::doc::{Doc, Render, Wrong, is_space};
use super::random::PythonRandom;
use super::texts::Texts;

/// The seed of few-shot examples (lm-eval's default).
const SEED: u32 = 1234;

/// What is asked for one document.
#[derive(Debug, Clone, PartialEq)]
pub enum Question {
    /// The log-prob of each continuation of its context.
    Choices(Vec<(String, String)>),
    /// A response to a context.
    Response(String),
}

/// A document with its question and what is right.
#[derive(Debug, Clone, PartialEq)]
pub struct Item {
    /// The document's number in its split.
    pub number: usize,
    /// The document.
    pub doc: Doc,
    /// What is asked.
    pub question: Question,
    /// The texts of the choices.
    pub choices: Vec<String>,
    /// The right answer: a text, a choice's number, or a list of either.
    pub target: Value,
    /// Whether the task has several right answers.
    pub several: bool,
}

/// Which documents few-shot examples are of.
#[derive(Debug, Clone, PartialEq)]
pub enum Pool<'a> {
    /// Those of this split, made by the function that the examples are made by.
    Split(&'a str),
    /// Those of this split, made as the questions are.
    LikeQuestions(&'a str),
    /// Those in the definition.
    Samples(&'a [Value]),
}

impl Definition {
    /// The split that is asked.
    ///
    /// # Errors
    /// None is named.
    pub fn asked(&self) -> Result<&str, Wrong> {
        let split = self
            .dataset
            .test
            .as_ref()
            .or(self.dataset.validation.as_ref());
        let none = || Wrong::of("has neither test_split nor validation_split").in_task(&self.name);
        split.map(String::as_str).ok_or_else(none)
    }

    /// How many examples a question has: `asked` for those that the definition leaves open or says
    /// another number above 0 of.
    pub fn shots(&self, asked: Option<usize>) -> usize {
        match (self.shots, asked) {
            (Some(0), _) => 0,
            (own, asked) => asked.or(own).unwrap_or(0),
        }
    }

    /// Where few-shot examples come from.
    ///
    /// # Errors
    /// As [`Definition::asked`].
    pub fn pool(&self) -> Result<Pool<'_>, Wrong> {
        let of = &self.fewshot;
        Ok(match (&of.split, &of.samples, &self.dataset.training) {
            (Some(split), ..) => Pool::Split(split),
            (_, Some(samples), _) => Pool::Samples(samples),
            (.., Some(split)) => Pool::LikeQuestions(split),
            _ => match &self.dataset.validation {
                Some(split) => Pool::LikeQuestions(split),
                None => Pool::LikeQuestions(self.asked()?),
            },
        })
    }

    /// The documents of a split, made by `process_docs`, or for [`Pool::Split`] (`examples`) by
    /// that of the examples.
    ///
    /// # Errors
    /// A document that the function cannot make.
    pub fn docs(&self, rows: Vec<Doc>, examples: bool, render: Render) -> Result<Vec<Doc>, Wrong> {
        let function = match examples {
            true => self.fewshot.process_docs,
            false => self.process_docs,
        };
        match function {
            Some(function) => function
                .docs(rows, render)
                .map_err(|e| e.in_task(&self.name)),
            None => Ok(rows),
        }
    }

    /// The questions of the first `limit` documents, each with `shots` examples of `pool`.
    ///
    /// # Errors
    /// A document that has not what the definition asks for; too few examples.
    pub fn items(
        &self,
        docs: &[Doc],
        pool: &[Doc],
        shots: usize,
        limit: Option<usize>,
        render: Render,
    ) -> Result<Vec<Item>, Wrong> {
        let Some(first) = docs.first() else {
            return Err(Wrong::of("has no document").in_task(&self.name));
        };
        let columns: Vec<String> = first.keys().cloned().collect();
        let asking = Asking {
            of: self,
            pool,
            shots,
            texts: Texts {
                render,
                columns: &columns,
                chosen: self.choice.is_some(),
            },
        };
        // lm-eval takes the first document for all
        let in_context = asking.texts.text(&self.text, first);
        let target = asking.texts.target(&self.target, first);
        let wrong = |i| move |what: String| Wrong::at(i, what).in_task(&self.name);
        let in_context = in_context.map_err(wrong(0))?.is_number() && self.choice.is_some();
        let several = target.map_err(wrong(0))?.is_array();
        let mut random = PythonRandom::new(SEED);
        let asked = docs.iter().take(limit.unwrap_or(docs.len())).enumerate();
        asked
            .map(|(i, doc)| {
                let item = asking.item(i, doc, in_context, several, &mut random);
                item.map_err(wrong(i))
            })
            .collect()
    }
}

struct Asking<'a> {
    of: &'a Definition,
    pool: &'a [Doc],
    shots: usize,
    texts: Texts<'a>,
}

impl Asking<'_> {
    fn item(
        &self,
        number: usize,
        doc: &Doc,
        in_context: bool,
        several: bool,
        random: &mut PythonRandom,
    ) -> Result<Item, String> {
        let of = self.of;
        let mut context = match of.description.as_str() {
            "" => String::new(),
            description => self.texts.field(description, doc)?,
        };
        for example in self.drawn(doc, random)? {
            context += &self.example(&of.fewshot, example, in_context)?;
        }
        let choices = match &of.choice {
            Some(source) => self.texts.choices(source, doc)?,
            None => Vec::new(),
        };
        let text = self.texts.text(&of.text, doc)?;
        let mut target = self.texts.target(&of.target, doc)?;
        let prefix = of.prefix.as_deref().map(|p| self.texts.field(p, doc));
        let prefix = prefix.transpose()?.filter(|p| !p.is_empty());
        let question = match (&of.output, in_context) {
            (Output::Choices, true) => {
                let follows = format!("{}{}", of.target_delimiter, shown(&target));
                let begun = |text: &String| context.clone() + &begun(text, prefix.as_deref(), "");
                // the choices are in the contexts, and the text says which is right
                let asked = choices.iter().map(|text| (begun(text), follows.clone()));
                let asked = asked.collect();
                target = text;
                Question::Choices(asked)
            }
            (_, true) => return Err("doc_to_text must give a text, gives a number".into()),
            (output, false) => {
                let text = text.as_str().ok_or("doc_to_text must give a text")?;
                context += &begun(text, prefix.as_deref(), &of.target_delimiter);
                match output {
                    Output::Generate { .. } => Question::Response(context),
                    Output::Choices => {
                        let delimiter = &of.target_delimiter;
                        let follows = choices.iter().map(|choice| format!("{delimiter}{choice}"));
                        Question::Choices(follows.map(|f| (context.clone(), f)).collect())
                    }
                }
            }
        };
        Ok(Item {
            number,
            doc: doc.clone(),
            question,
            choices,
            target,
            several,
        })
    }

    /// The examples for a question, which is none of them where both are of the same split.
    fn drawn(&self, doc: &Doc, random: &mut PythonRandom) -> Result<Vec<&Doc>, String> {
        let (of, n, pool) = (self.of, self.shots, self.pool);
        if n == 0 {
            return Ok(Vec::new());
        }
        let few = || format!("{n} examples are asked for, there are {}", pool.len());
        // two splits that are not named are the same to lm-eval
        let same = of.fewshot.split == of.dataset.test;
        let others = || pool.iter().filter(|other| !same || *other != doc);
        if of.fewshot.first {
            let first: Vec<&Doc> = others().take(n).collect();
            return (first.len() == n).then_some(first).ok_or_else(few);
        }
        let drawn = random.sample(pool.len(), n + usize::from(same));
        let drawn = drawn.ok_or_else(few)?.into_iter().map(|at| &pool[at]);
        let mut drawn: Vec<&Doc> = drawn.filter(|other| !same || *other != doc).collect();
        drawn.truncate(n);
        if drawn.len() < n {
            // the question is there more than once
            let others: Vec<&Doc> = others().collect();
            let again = random.sample(others.len(), n).ok_or_else(few)?;
            drawn = again.into_iter().map(|at| others[at]).collect();
        }
        Ok(drawn)
    }

    /// An example with its answer.
    fn example(&self, of: &Fewshot, doc: &Doc, in_context: bool) -> Result<String, String> {
        let texts = &self.texts;
        let choices = of.choice.as_ref().map(|source| texts.choices(source, doc));
        let mut choices = choices.transpose()?.unwrap_or_default();
        let mut text = texts.text(&of.text, doc)?;
        let target = texts.target(&of.target, doc)?;
        if in_context {
            text = chosen(&choices, &text)?.into();
            choices.clear();
        }
        let text = text.as_str().ok_or("doc_to_text must give a text")?;
        let answer = match &target {
            Value::Number(_) if !choices.is_empty() => Some(chosen(&choices, &target)?),
            Value::Array(several) => several.first().and_then(Value::as_str),
            other => other.as_str(),
        };
        let no_text = || format!("an example's answer must be a text, is {target}");
        let answer = answer.ok_or_else(no_text)?;
        let prefix = of.prefix.as_deref().map(|p| texts.field(p, doc));
        let prefix = prefix.transpose()?.filter(|p| !p.is_empty());
        if answer.is_empty() && !target.is_array() {
            let begun = begun(text, prefix.as_deref(), &of.target_delimiter);
            return Ok(begun);
        }
        let delimiter = match &prefix {
            Some(prefix) if !separate(text, prefix) => "",
            _ => &of.target_delimiter,
        };
        let prefix = prefix.unwrap_or_default();
        let between = match !prefix.is_empty() && !answer.is_empty() && separate(&prefix, answer) {
            true => " ",
            false => "",
        };
        Ok(format!(
            "{text}{delimiter}{prefix}{between}{answer}{}",
            of.delimiter
        ))
    }
}

/// A question with what begins its answer.
fn begun(text: &str, prefix: Option<&str>, delimiter: &str) -> String {
    match prefix {
        None => text.to_owned(),
        Some(prefix) if separate(text, prefix) => format!("{text}{delimiter}{prefix}"),
        Some(prefix) => format!("{text}{prefix}"),
    }
}

/// Whether two texts want something between them: neither has white space where they meet.
fn separate(before: &str, after: &str) -> bool {
    !before.is_empty() && !before.ends_with(is_space) && !after.starts_with(is_space)
}

fn chosen<'a>(choices: &'a [String], number: &Value) -> Result<&'a str, String> {
    let count = choices.len() as i64;
    let at = number.as_i64().map(|n| if n < 0 { n + count } else { n });
    let choice = at.and_then(|at| choices.get(usize::try_from(at).ok()?));
    let none = || format!("the answer is choice {number}, of {count}");
    choice.map(String::as_str).ok_or_else(none)
}

/// A value in a text, as Python's `f"{value}"` for texts and numbers.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
