//! A task's definition, of the keys of its YAML file. Every key is either understood or refused by
//! name: one that is passed over would change the result in silence.

use serde_json::{Map, Value};

use super::builtin::Function;
use super::doc::{FUNCTION, Wrong};
use super::filter::Step;
use super::pattern::Pattern;

/// Where a text, a target or choices come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Source {
    /// A column's name, or a template.
    Text(String),
    /// The same for every document: a number or a list.
    Fixed(Value),
    /// A function.
    Built(Function),
}

/// The data set and its splits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Dataset {
    /// On the hub, or a kind of file (`json`) with `files`.
    pub path: String,
    /// The configuration of it.
    pub name: Option<String>,
    /// Files of a split, from `dataset_kwargs.data_files`.
    pub files: Vec<(String, Vec<String>)>,
    /// `training_split`.
    pub training: Option<String>,
    /// `validation_split`.
    pub validation: Option<String>,
    /// `test_split`.
    pub test: Option<String>,
}

/// How few-shot examples are chosen and written.
#[derive(Debug, Clone, PartialEq)]
pub struct Fewshot {
    /// Whether they are the first of their split instead of drawn.
    pub first: bool,
    /// The split that they are of, where one is named.
    pub split: Option<String>,
    /// Examples in the definition itself.
    pub samples: Option<Vec<Value>>,
    /// `doc_to_text`, `doc_to_choice`, `doc_to_target` of examples.
    pub text: Source,
    /// Of choices.
    pub choice: Option<Source>,
    /// Of the answer.
    pub target: Source,
    /// What begins an answer.
    pub prefix: Option<String>,
    /// Between question and answer.
    pub target_delimiter: String,
    /// Behind an example.
    pub delimiter: String,
    /// How the documents of their split are made.
    pub process_docs: Option<Function>,
}

/// What is asked of the model.
#[derive(Debug, Clone, PartialEq)]
pub enum Output {
    /// The log-prob of each choice.
    Choices,
    /// A greedy response, up to one of these texts or this many tokens.
    Generate {
        /// Texts that end it.
        until: Vec<String>,
        /// Most tokens.
        tokens: usize,
    },
}

/// A metric.
#[derive(Debug, Clone, PartialEq)]
pub enum Metric {
    /// The most likely choice is right.
    Acc,
    /// The same by log-prob per character.
    AccNorm,
    /// The response is the target, after what is ignored is removed from both.
    ExactMatch {
        /// What is removed.
        ignored: Vec<Pattern>,
        /// Compared in small letters.
        case: bool,
        /// Compared without ASCII's punctuation.
        punctuation: bool,
        /// Compared without digits.
        digits: bool,
    },
    /// Of `process_results`, under the name that it gives.
    Processed(String),
}

/// A task.
#[derive(Debug, Clone, PartialEq)]
pub struct Definition {
    /// Its name.
    pub name: String,
    /// Its data.
    pub dataset: Dataset,
    /// How documents are made of rows.
    pub process_docs: Option<Function>,
    /// The question.
    pub text: Source,
    /// The answer.
    pub target: Source,
    /// The choices.
    pub choice: Option<Source>,
    /// What stands before everything.
    pub description: String,
    /// What begins an answer.
    pub prefix: Option<String>,
    /// Between question and answer.
    pub target_delimiter: String,
    /// Few-shot examples.
    pub fewshot: Fewshot,
    /// How many, where the definition says.
    pub shots: Option<usize>,
    /// What is asked.
    pub output: Output,
    /// What makes metrics of it instead of the metrics themselves.
    pub process_results: Option<Function>,
    /// Its metrics.
    pub metrics: Vec<Metric>,
    /// Filters by name; none for choices.
    pub filters: Vec<(String, Vec<Step>)>,
}

/// Keys that change nothing here.
const WITHOUT_EFFECT: [&str; 6] = [
    "task",
    "task_alias",
    "tag",
    "metadata",
    "should_decontaminate",
    "doc_to_decontamination_query",
];

impl Definition {
    /// Reads a definition whose includes are merged, and in which a function is an object with
    /// [`FUNCTION`] as its key.
    ///
    /// # Errors
    /// A key or value that is not understood.
    pub fn read(config: &Map<String, Value>) -> Result<Definition, Wrong> {
        let name = config.get("task").and_then(Value::as_str);
        let name = name.unwrap_or_default().to_owned();
        let wrong = |what: String| Wrong::of(what).in_task(&name);
        Keys(config.clone()).definition(name.clone()).map_err(wrong)
    }
}

/// Keys not yet read.
struct Keys(Map<String, Value>);

impl Keys {
    fn definition(mut self, name: String) -> Result<Definition, String> {
        for key in WITHOUT_EFFECT {
            self.0.remove(key);
        }
        self.refuse_else("repeats", &Value::from(1))?;
        self.refuse_else("unsafe_code", &Value::from(false))?;
        let dataset = self.dataset()?;
        let process_docs = self.function("process_docs")?;
        let text = self.source("doc_to_text")?.ok_or("has no doc_to_text")?;
        let target = self.source("doc_to_target")?;
        let target = target.ok_or("has no doc_to_target")?;
        let choice = self.source("doc_to_choice")?;
        let delimiter = self.text("fewshot_delimiter")?;
        let mut own = Fewshot {
            first: false,
            split: self.text("fewshot_split")?,
            samples: None,
            text: text.clone(),
            choice: choice.clone(),
            target: target.clone(),
            prefix: self.text("gen_prefix")?,
            target_delimiter: self.text("target_delimiter")?.unwrap_or(" ".into()),
            delimiter: delimiter.unwrap_or("\n\n".into()),
            process_docs,
        };
        let output = self.output(&own.delimiter)?;
        let (prefix, target_delimiter) = (own.prefix.clone(), own.target_delimiter.clone());
        if let Some(given) = self.take("fewshot_config") {
            own = fewshot(own, given)?;
        }
        let process_results = self.function("process_results")?;
        let definition = Definition {
            name,
            dataset,
            process_docs,
            text,
            target,
            choice,
            description: self.text("description")?.unwrap_or_default(),
            prefix,
            target_delimiter,
            fewshot: own,
            shots: self.count("num_fewshot")?,
            metrics: self.metrics(&output, process_results)?,
            filters: self.filters(&output)?,
            output,
            process_results,
        };
        if definition.output == Output::Choices && definition.choice.is_none() {
            return Err("has no doc_to_choice".into());
        }
        match self.0.iter().find(|(_, value)| !value.is_null()) {
            Some((key, _)) => Err(format!("has the key `{key}`, which is not built in")),
            None => Ok(definition),
        }
    }

    /// A key's value, where it is not null.
    fn take(&mut self, key: &str) -> Option<Value> {
        self.0.remove(key).filter(|value| !value.is_null())
    }

    fn refuse_else(&mut self, key: &str, only: &Value) -> Result<(), String> {
        match self.take(key) {
            Some(other) if other != *only => Err(format!("`{key}` must be {only}, is {other}")),
            _ => Ok(()),
        }
    }

    fn text(&mut self, key: &str) -> Result<Option<String>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(format!("`{key}` must be a text, is {other}")),
        }
    }

    fn count(&mut self, key: &str) -> Result<Option<usize>, String> {
        match self.take(key) {
            None => Ok(None),
            Some(value) => match value.as_u64() {
                Some(count) => Ok(Some(count as usize)),
                None => Err(format!("`{key}` must be a whole number, is {value}")),
            },
        }
    }

    fn function(&mut self, key: &str) -> Result<Option<Function>, String> {
        match self.source(key)? {
            None => Ok(None),
            Some(Source::Built(function)) => Ok(Some(function)),
            Some(_) => Err(format!("`{key}` must be a function")),
        }
    }

    fn source(&mut self, key: &str) -> Result<Option<Source>, String> {
        self.take(key).map(|value| source(key, value)).transpose()
    }

    fn dataset(&mut self) -> Result<Dataset, String> {
        let mut files = Vec::new();
        if let Some(given) = self.take("dataset_kwargs") {
            for (key, value) in given.as_object().into_iter().flatten() {
                match (key.as_str(), value) {
                    ("trust_remote_code", _) => {}
                    ("data_files", Value::Object(splits)) => {
                        for (split, of) in splits {
                            files.push((
                                split.clone(),
                                texts(of).ok_or("`data_files` must name files")?,
                            ));
                        }
                    }
                    _ => return Err(format!("`dataset_kwargs.{key}` is not built in")),
                }
            }
        }
        Ok(Dataset {
            path: self.text("dataset_path")?.ok_or("has no dataset_path")?,
            name: self.text("dataset_name")?,
            files,
            training: self.text("training_split")?,
            validation: self.text("validation_split")?,
            test: self.text("test_split")?,
        })
    }

    fn output(&mut self, delimiter: &str) -> Result<Output, String> {
        let given = self.take("generation_kwargs");
        match self.text("output_type")?.as_deref() {
            Some("multiple_choice") => Ok(Output::Choices),
            None | Some("generate_until") => generation(given, delimiter),
            Some(other) => Err(format!("the output_type `{other}` is not built in")),
        }
    }

    fn metrics(
        &mut self,
        output: &Output,
        process_results: Option<Function>,
    ) -> Result<Vec<Metric>, String> {
        let list = self.take("metric_list");
        let list = match (&list, output) {
            (Some(Value::Array(list)), _) => list.clone(),
            (None, Output::Choices) => ["acc", "acc_norm"].map(plain_metric).to_vec(),
            (None, Output::Generate { .. }) => vec![plain_metric("exact_match")],
            (Some(other), _) => return Err(format!("`metric_list` must be a list, is {other}")),
        };
        list.iter()
            .map(|entry| metric(entry, output, process_results))
            .collect()
    }

    fn filters(&mut self, output: &Output) -> Result<Vec<(String, Vec<Step>)>, String> {
        let given = self.take("filter_list");
        let list = match (given, output) {
            (None, Output::Choices) => return Ok(Vec::new()),
            (None, Output::Generate { .. }) => return Ok(vec![("none".into(), vec![Step::First])]),
            (Some(Value::Array(list)), Output::Generate { .. }) => list,
            (Some(_), Output::Choices) => return Err("has filters for choices".into()),
            (Some(other), _) => return Err(format!("`filter_list` must be a list, is {other}")),
        };
        let mut filters = Vec::new();
        for entry in &list {
            let name = entry["name"].as_str().ok_or("a filter has no `name`")?;
            let steps = entry["filter"].as_array();
            let steps = steps.ok_or_else(|| format!("the filter `{name}` has no steps"))?;
            let steps: Vec<Step> = steps.iter().map(Step::read).collect::<Result<_, _>>()?;
            if steps.iter().position(|s| *s == Step::First) != Some(steps.len().wrapping_sub(1)) {
                return Err(format!(
                    "the filter `{name}` must end with its one `take_first`"
                ));
            }
            filters.push((name.to_owned(), steps));
        }
        Ok(filters)
    }
}

fn plain_metric(name: &str) -> Value {
    serde_json::json!({"metric": name})
}

fn source(key: &str, value: Value) -> Result<Source, String> {
    match value {
        Value::String(text) => Ok(Source::Text(text)),
        Value::Object(map) if map.contains_key(FUNCTION) => {
            let name = map[FUNCTION].as_str().unwrap_or_default();
            match Function::named(name).filter(|function| function.is_for(key)) {
                Some(function) => Ok(Source::Built(function)),
                None => Err(format!("`{key}` calls {name}, which is not built in")),
            }
        }
        Value::Object(map) => Ok(Source::Fixed(map.into_iter().map(|(_, v)| v).collect())),
        value @ (Value::Array(_) | Value::Number(_)) => Ok(Source::Fixed(value)),
        other => Err(format!("`{key}` is {other}")),
    }
}

/// A text, or a list of them.
fn texts(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::String(text) => Some(vec![text.clone()]),
        Value::Array(list) => list.iter().map(|v| v.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

fn generation(given: Option<Value>, delimiter: &str) -> Result<Output, String> {
    let mut until = vec![delimiter.to_owned()];
    let mut tokens = 256;
    for (key, value) in given.iter().filter_map(Value::as_object).flatten() {
        let wrong = || format!("`generation_kwargs.{key}` is {value}, which is not built in");
        match key.as_str() {
            "until" => until = texts(value).ok_or_else(wrong)?,
            "max_gen_toks" | "max_new_tokens" | "max_tokens" => {
                tokens = value.as_u64().filter(|n| *n > 0).ok_or_else(wrong)? as usize;
            }
            // greedy
            "do_sample" if value == false => {}
            "temperature" if value.as_f64() == Some(0.0) => {}
            _ => return Err(wrong()),
        }
    }
    Ok(Output::Generate { until, tokens })
}

fn fewshot(own: Fewshot, given: Value) -> Result<Fewshot, String> {
    let Value::Object(map) = given else {
        return Err(format!("`fewshot_config` must be a mapping, is {given}"));
    };
    let mut keys = Keys(map);
    let first = match keys.text("sampler")?.as_deref() {
        None | Some("default") => false,
        Some("first_n") => true,
        Some(other) => return Err(format!("the sampler `{other}` is not built in")),
    };
    let samples = match keys.take("samples") {
        None => None,
        Some(Value::Array(samples)) => Some(samples),
        Some(other) => {
            return Err(format!(
                "`fewshot_config.samples` must be a list, is {other}"
            ));
        }
    };
    let read = Fewshot {
        first,
        samples,
        split: keys.text("split")?.or(own.split),
        text: keys.source("doc_to_text")?.unwrap_or(own.text),
        choice: keys.source("doc_to_choice")?.or(own.choice),
        target: keys.source("doc_to_target")?.unwrap_or(own.target),
        prefix: keys.text("gen_prefix")?.or(own.prefix),
        target_delimiter: keys
            .text("target_delimiter")?
            .unwrap_or(own.target_delimiter),
        delimiter: keys.text("fewshot_delimiter")?.unwrap_or(own.delimiter),
        process_docs: keys.function("process_docs")?.or(own.process_docs),
    };
    match keys.0.iter().find(|(_, value)| !value.is_null()) {
        Some((key, _)) => Err(format!("`fewshot_config.{key}` is not built in")),
        None => Ok(read),
    }
}

fn metric(
    entry: &Value,
    output: &Output,
    process_results: Option<Function>,
) -> Result<Metric, String> {
    let name = entry["metric"].as_str().unwrap_or_default();
    match &entry["aggregation"] {
        Value::Null => {}
        mean if mean == "mean" => {}
        other => {
            return Err(format!(
                "the aggregation {other} of `{name}` is not built in"
            ));
        }
    }
    if let Some(function) = process_results {
        return match (function, name) {
            (Function::TruthfulqaMc2, "acc") => Ok(Metric::Processed(name.to_owned())),
            _ => Err(format!(
                "the metric `{name}` is not what process_results gives"
            )),
        };
    }
    match (name, output) {
        ("acc", Output::Choices) => Ok(Metric::Acc),
        ("acc_norm", Output::Choices) => Ok(Metric::AccNorm),
        ("exact_match", Output::Generate { .. }) => exact_match(entry),
        _ => Err(format!(
            "the metric `{name}` is not built in for this output_type"
        )),
    }
}

fn exact_match(entry: &Value) -> Result<Metric, String> {
    let ignored = match &entry["regexes_to_ignore"] {
        Value::Null => Vec::new(),
        list => texts(list).ok_or("`regexes_to_ignore` must be a list of texts")?,
    };
    const KNOWN: [&str; 7] = [
        "metric",
        "aggregation",
        "higher_is_better",
        "regexes_to_ignore",
        "ignore_case",
        "ignore_punctuation",
        "ignore_numbers",
    ];
    let keys = entry.as_object().into_iter().flatten().map(|(key, _)| key);
    if let Some(key) = keys.into_iter().find(|key| !KNOWN.contains(&key.as_str())) {
        return Err(format!("exact_match has no option `{key}` here"));
    }
    let flag = |key: &str| entry[key] == true;
    let ignored = ignored.iter().map(|written| Pattern::new(written));
    Ok(Metric::ExactMatch {
        ignored: ignored.collect::<Result<_, _>>()?,
        case: flag("ignore_case"),
        punctuation: flag("ignore_punctuation"),
        digits: flag("ignore_numbers"),
    })
}
