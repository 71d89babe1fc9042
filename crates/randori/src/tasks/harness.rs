//! lm-evaluation-harness's definitions where the user has them: found, and looked up by the name of
//! a task, a group or a tag. Nothing of Python is run but the interpreter, once, to ask where the
//! package is.

use std::collections::{BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail, ensure};
use randori_eval::task::{Definition, FUNCTION, Function, PYTHON_FILES};
use randori_host::nearest;
use serde_json::{Map, Value};

use super::yaml;

/// The version whose behaviour is built in.
pub const VERSION: &str = "0.4.13";

/// Deepest nesting of groups.
const DEEPEST: usize = 8;

/// A folder of definitions.
pub struct Harness {
    root: PathBuf,
    /// Every definition, in lm-eval's order.
    files: Vec<File>,
}

/// A definition, or a part of some.
struct File {
    path: PathBuf,
    text: String,
    /// The names of the files that it may include.
    includes: Vec<String>,
}

/// What a name stands for.
pub enum Asked {
    /// A task.
    Task(Box<Definition>),
    /// Several, as a group or a tag.
    Group(Group),
}

/// A group of tasks.
pub struct Group {
    /// Its name.
    pub name: String,
    /// What is in it.
    pub parts: Vec<Asked>,
    /// The metrics that are averaged over all tasks in it, and whether by their sizes.
    pub averaged: Vec<(String, bool)>,
}

impl Harness {
    /// The folder at `given` (of definitions, of the package or of its repository), or else the
    /// package that Python finds.
    ///
    /// # Errors
    /// There is none.
    pub fn open(given: Option<&Path>) -> Result<Harness> {
        let root = match given {
            Some(given) => inside(given).with_context(|| {
                format!("--harness {}: no folder of definitions", given.display())
            })?,
            None => installed()?,
        };
        let mut files = Vec::new();
        below(&root, &mut files)?;
        files.sort_by_key(|path| path.to_string_lossy().into_owned());
        // lm-eval passes over what it cannot read
        let files = files.into_iter().filter_map(File::read).collect();
        Ok(Harness { root, files })
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// What a name stands for.
    ///
    /// # Errors
    /// Nothing is called so, or what is called so is not understood.
    pub fn find(&self, name: &str) -> Result<Asked> {
        self.find_in(name, 0)
    }

    fn find_in(&self, name: &str, depth: usize) -> Result<Asked> {
        ensure!(depth < DEEPEST, "{name}: groups are nested too deep");
        let mut unread = String::new();
        for path in self.naming(name) {
            // it may not be what is meant: another file decides, as with lm-eval
            let config = match load(path, &mut BTreeSet::new()) {
                Ok(config) => config,
                Err(error) => {
                    if unread.is_empty() {
                        unread = format!("; a file that names it cannot be read: {error:#}");
                    }
                    continue;
                }
            };
            let is = |key: &str| config.get(key).and_then(Value::as_str) == Some(name);
            if is("group") {
                return Ok(Asked::Group(self.group(name, &config, depth)?));
            }
            if is("task") && !config.contains_key("group") && !config.contains_key("class") {
                return Ok(Asked::Task(Box::new(definition(path, &config)?)));
            }
            if is("task") {
                bail!(
                    "task {name}: {} is a Python class, which is not built in",
                    path.display()
                );
            }
        }
        let tagged = self.tagged(name)?;
        ensure!(
            !tagged.is_empty(),
            "--tasks {name}: no task, group or tag of {} is called so{unread}{}",
            self.root.display(),
            self.like(name)
        );
        Ok(Asked::Group(Group {
            name: name.to_owned(),
            parts: tagged,
            averaged: Vec::new(),
        }))
    }

    /// The name nearest to one that is nobody's, in words.
    fn like(&self, name: &str) -> String {
        let of_file = |file: &File| -> Vec<String> {
            let lines = file.text.lines().filter(|line| !line.starts_with(' '));
            let own = lines.filter_map(|line| {
                let named = line.strip_prefix("task:").or(line.strip_prefix("group:"))?;
                let named = named.trim().trim_matches(['"', '\'']);
                (!named.is_empty()).then(|| named.to_owned())
            });
            own.collect()
        };
        let all: Vec<String> = self.files.iter().flat_map(of_file).collect();
        match nearest(name, all.iter().map(String::as_str)) {
            Some(near) => format!("; did you mean {near}?"),
            None => String::new(),
        }
    }

    fn group(&self, name: &str, config: &Map<String, Value>, depth: usize) -> Result<Group> {
        let parts = match config.get("task") {
            Some(Value::Array(parts)) => parts.clone(),
            one => one.cloned().into_iter().collect(),
        };
        let part = |part: &Value| match part.as_str() {
            Some(part) => self.find_in(part, depth + 1),
            None => bail!("group {name}: a task of its own, {part:.60}, is not built in"),
        };
        let averaged = config
            .get("aggregate_metric_list")
            .and_then(Value::as_array);
        let average = |entry: &Value| {
            let metric = entry["metric"].as_str();
            let metric = metric.ok_or_else(|| anyhow!("group {name}: a metric without a name"))?;
            let how = &entry["aggregation"];
            ensure!(
                how.is_null() || how == "mean",
                "group {name}: the aggregation {how} is not built in"
            );
            Ok((metric.to_owned(), entry["weight_by_size"] != false))
        };
        Ok(Group {
            name: name.to_owned(),
            parts: parts.iter().map(part).collect::<Result<_>>()?,
            averaged: averaged
                .into_iter()
                .flatten()
                .map(average)
                .collect::<Result<_>>()?,
        })
    }

    /// The tasks with this tag.
    fn tagged(&self, tag: &str) -> Result<Vec<Asked>> {
        let mut tasks = Vec::new();
        for path in self.naming(tag) {
            let Ok(config) = load(path, &mut BTreeSet::new()) else {
                continue;
            };
            let has = match config.get("tag") {
                Some(Value::String(one)) => one == tag,
                Some(Value::Array(several)) => several.iter().any(|one| one == tag),
                _ => false,
            };
            if has && config.contains_key("task") && !config.contains_key("group") {
                tasks.push(Asked::Task(Box::new(definition(path, &config)?)));
            }
        }
        Ok(tasks)
    }

    /// The definitions that may have this word: in their own text or in what they include.
    fn naming(&self, word: &str) -> Vec<&Path> {
        let mut found: Vec<bool> = self.files.iter().map(|f| f.text.contains(word)).collect();
        loop {
            let having = self.files.iter().zip(&found).filter(|(_, found)| **found);
            let having: HashSet<String> = having.map(|(file, _)| file.name()).collect();
            let mut more = false;
            for (file, found) in self.files.iter().zip(&mut found) {
                let new = !*found && file.includes.iter().any(|name| having.contains(name));
                *found |= new;
                more |= new;
            }
            if !more {
                break;
            }
        }
        let files = self.files.iter().zip(found).filter(|(_, found)| *found);
        let tasks = files.map(|(file, _)| file.path.as_path());
        tasks
            .filter(|path| path.extension().is_some_and(|e| e == "yaml"))
            .collect()
    }
}

impl File {
    fn read(path: PathBuf) -> Option<File> {
        let text = std::fs::read_to_string(&path).ok()?;
        let words = text.split(|c: char| c.is_whitespace() || "\"'[],".contains(c));
        let named = words.filter(|word| word.ends_with("yaml") || word.ends_with("yml"));
        let includes = match text.contains("include") {
            true => named.map(|word| last(word).to_owned()).collect(),
            false => Vec::new(),
        };
        Some(File {
            path,
            text,
            includes,
        })
    }

    fn name(&self) -> String {
        last(&self.path.to_string_lossy()).to_owned()
    }
}

fn last(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// A definition of the task in a file, whose Python is what is built in.
fn definition(path: &Path, config: &Map<String, Value>) -> Result<Definition> {
    let definition = Definition::read(config)?;
    for value in config.values() {
        let name = value.get(FUNCTION).and_then(Value::as_str);
        let Some(name) = name.filter(|name| Function::named(name).is_some()) else {
            continue;
        };
        let file = value
            .get(yaml::FILE)
            .and_then(Value::as_str)
            .unwrap_or_default();
        let known = PYTHON_FILES.iter().find(|known| {
            let stem = known.name.strip_suffix(".py").unwrap_or(known.name);
            name.strip_prefix(stem)
                .is_some_and(|rest| rest.starts_with('.'))
        });
        // without the file the name alone says what is meant
        let there = Path::new(file).is_file();
        if let Some(known) = known.filter(|_| there)
            && randori_store::hash(Path::new(file))?.sha256 != known.sha256
        {
            bail!(
                "task {} ({}): {file} is not lm-eval {VERSION}'s, whose {name} is built in; \
                 pip install lm-eval=={VERSION}, or name it with --harness",
                definition.name,
                path.display()
            );
        }
    }
    Ok(definition)
}

/// A file's keys, on top of those of the files that it includes.
fn load(path: &Path, seen: &mut BTreeSet<PathBuf>) -> Result<Map<String, Value>> {
    let at = || path.display().to_string();
    ensure!(seen.insert(path.to_path_buf()), "{} includes itself", at());
    let text = std::fs::read_to_string(path).with_context(at)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let own = yaml::mapping(&text, folder).with_context(at)?;
    let mut merged = Map::new();
    let included = match own.get("include") {
        Some(Value::String(one)) => vec![one.as_str()],
        Some(Value::Array(several)) => several.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    for file in included {
        let mut below = load(&folder.join(file), seen)?;
        below.remove("task_list");
        merged.extend(below);
    }
    merged.extend(own.into_iter().filter(|(key, _)| key != "include"));
    Ok(merged)
}

/// The folder of definitions that a folder is, or has inside.
fn inside(given: &Path) -> Result<PathBuf> {
    let places = ["lm_eval/tasks", "tasks"].map(|inside| given.join(inside));
    let found = places.into_iter().find(|place| place.is_dir());
    let root = found.unwrap_or_else(|| given.to_path_buf());
    std::path::absolute(&root)
        .ok()
        .filter(|root| root.is_dir())
        .ok_or_else(|| anyhow!("it is not there"))
}

/// The package that Python finds, by its own search: of the active environment, of the user, of the
/// machine.
fn installed() -> Result<PathBuf> {
    const ASK: &str = "import importlib.util as u\n\
        s = u.find_spec('lm_eval')\n\
        print(s.submodule_search_locations[0] if s else '')";
    for python in ["python3", "python"] {
        let asked = Command::new(python)
            .args(["-c", ASK])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output();
        let said = asked.map(|answer| answer.stdout).unwrap_or_default();
        let said = String::from_utf8_lossy(&said);
        let package = said.trim();
        if !package.is_empty()
            && let Ok(root) = inside(Path::new(package))
        {
            return Ok(root);
        }
    }
    bail!(
        "--tasks: lm-evaluation-harness, whose definitions these are, is not found by `python3`: \
         pip install lm-eval=={VERSION}, or name its folder with --harness"
    )
}

/// All definitions below a folder, and what they may include.
fn below(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let at = || folder.display().to_string();
    for entry in std::fs::read_dir(folder).with_context(at)? {
        let entry = entry.with_context(at)?;
        let path = entry.path();
        let kind = entry.file_type().with_context(at)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if kind.is_dir() && name != "__pycache__" && name != ".ipynb_checkpoints" {
            below(&path, files)?;
        } else if name.ends_with(".yaml") || name.ends_with("_yaml") || name.ends_with(".yml") {
            files.push(path);
        }
    }
    Ok(())
}
