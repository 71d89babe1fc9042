//! Benchmark tasks (`eval --tasks`): definitions of our own in lm-evaluation-harness's form, with
//! the demo's model. The right values are lm_eval 0.4.13's with its `hf` model on the same folder
//! (`tests/interop/tasks.py --goldens`), item by item.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::Value;

use super::hub::variables;
use super::server::{Files, Hub, REPO};
use crate::program::World;

const TASKS: &str = "endings,blanks,truths,sums,sums_alone,science,letters";

fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}

/// The command that asks these tasks of the demo's model, with the fixture's definitions and data.
fn asked<'a>(tasks: &'a str, harness: &'a str, more: &[&'a str]) -> Vec<String> {
    let fixture = repository().join("tests/fixtures/tasks");
    let model = text(&repository().join("configs/demo/model"));
    let data = text(&fixture.join("data"));
    let given = [
        "eval",
        &model,
        "--tasks",
        tasks,
        "--harness",
        harness,
        "--data",
        &data,
    ];
    given.iter().chain(more).map(|a| (*a).to_owned()).collect()
}

fn definitions() -> String {
    text(&repository().join("tests/fixtures/tasks/definitions"))
}

fn run(world: &World, command: &[String]) -> crate::program::Out {
    world.run(&command.iter().map(String::as_str).collect::<Vec<_>>())
}

fn rows(world: &World, file: &str) -> Vec<Value> {
    let text = fs::read_to_string(world.dir().join(file)).unwrap();
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The figures of tasks and of the group are in the table.
fn figures_are_shown(goldens: &Value, printed: &str) {
    for (task, figures) in goldens.as_object().unwrap() {
        for (key, mean) in figures.as_object().unwrap() {
            let Some((metric, filter)) =
                key.split_once(',').filter(|(m, _)| !m.ends_with("_stderr"))
            else {
                continue;
            };
            let error = figures[&format!("{metric}_stderr,{filter}")]
                .as_f64()
                .unwrap();
            let figures = format!("{:.4}  {error:>10.4}", mean.as_f64().unwrap());
            let figures = figures.split_whitespace().collect::<Vec<_>>().join(" ");
            let shown = printed
                .lines()
                .skip_while(|line| line.split_whitespace().next() != Some(task));
            let shown: Vec<String> = shown
                .take(2)
                .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
                .collect();
            let found = shown.iter().any(|line| line.ends_with(&figures));
            assert!(found, "{task} {key} {figures}: {printed}");
        }
    }
}

#[test]
fn every_item_has_lm_evals_result() {
    let world = World::new();
    let out = text(&world.dir().join("items.jsonl"));
    let harness = definitions();
    let ran = run(&world, &asked(TASKS, &harness, &["--out", &out]));
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    let goldens = repository().join("tests/fixtures/tasks/goldens.json");
    let goldens: Value = serde_json::from_str(&fs::read_to_string(goldens).unwrap()).unwrap();
    let rows = rows(&world, "items.jsonl");
    let wanted = goldens["items"].as_object().unwrap();
    let count: usize = wanted
        .values()
        .map(|items| items.as_array().unwrap().len())
        .sum();
    assert_eq!(rows.len(), count);
    for row in &rows {
        let number = row["document"].as_u64().unwrap() as usize;
        let task = row["task"].as_str().unwrap();
        let want = &wanted[task][number];
        for (metric, value) in want["scores"].as_object().unwrap() {
            let (own, value) = (row["scores"][metric].as_f64(), value.as_f64().unwrap());
            assert!(
                (own.unwrap() - value).abs() < 1e-4,
                "{task} {number} {metric}: {row}"
            );
        }
        assert_eq!(row["response"], want["response"], "{task} {number}");
        assert_eq!(row["filtered"], want["filtered"], "{task} {number}");
        let logps = |of: &Value| -> Vec<f64> {
            let list = of["logps"].as_array().into_iter().flatten();
            list.map(|logp| logp.as_f64().unwrap()).collect()
        };
        let (own, want) = (logps(row), logps(want));
        assert_eq!(own.len(), want.len(), "{task} {number}");
        let near = own.iter().zip(&want).all(|(a, b)| (a - b).abs() < 1e-4);
        assert!(near, "{task} {number}: {own:?} {want:?}");
    }
    figures_are_shown(&goldens["figures"], &ran.stdout);
    // so many from the first: the same draws
    let fewer = run(
        &world,
        &asked("endings", &harness, &["--out", &out, "--limit", "2"]),
    );
    assert_eq!(fewer.code, 0, "{}", fewer.stderr);
    assert_eq!(self::rows(&world, "items.jsonl"), rows[..2]);
}

/// What is not understood is named and refused before anything is asked.
#[test]
fn what_a_task_asks_for_and_we_have_not_is_refused_by_name() {
    let world = World::new();
    let base = "dataset_path: made/science\ntest_split: test\noutput_type: multiple_choice\n\
                doc_to_text: '{{question}}'\ndoc_to_target: 0\ndoc_to_choice: '{{choices.text}}'\n";
    for (name, more, why) in [
        (
            "a",
            "process_docs: !function utils.mine",
            "calls mine/utils.mine, which is not built in",
        ),
        (
            "b",
            "process_results: !function utils.process_results_mc2",
            "mine/utils.process_results_mc2",
        ),
        (
            "c",
            "output_type: loglikelihood",
            "the output_type `loglikelihood` is not built in",
        ),
        (
            "d",
            "metric_list: [{metric: f1}]",
            "the metric `f1` is not built in",
        ),
        ("e", "use_prompt: promptsource", "has the key `use_prompt`"),
        ("f", "doc_to_text: '{{missing}}'", "document 0"),
        (
            "g",
            "num_fewshot: 100\ntraining_split: train",
            "100 examples are asked for",
        ),
        ("h", "test_split: other", "no file of the split `other`"),
        ("i", "repeats: 4", "`repeats` must be 1, is 4"),
        (
            "j",
            "fewshot_config: {sampler: balanced}",
            "the sampler `balanced`",
        ),
        ("k", "task: [x", "a file that names it cannot be read"),
        (
            "l",
            "dataset_path: made/nothing",
            "it has neither a folder made/nothing nor nothing",
        ),
        ("m", "include: m.yaml", "no task, group or tag of"),
    ] {
        fs::create_dir_all(world.dir().join("mine")).unwrap();
        let task = format!("include: _base\ntask: {name}\n{more}\n");
        world.file("mine/_base", base);
        world.file(&format!("mine/{name}.yaml"), &task);
        let harness = text(&world.dir().join("mine"));
        let ran = run(&world, &asked(name, &harness, &[]));
        assert_eq!(ran.code, 1, "{name}: {}", ran.stdout);
        assert!(ran.stderr.contains(why), "{name}: {}", ran.stderr);
    }
    let harness = definitions();
    let near = run(&world, &asked("sumz", &harness, &[]));
    assert!(
        near.stderr.contains("did you mean sums?"),
        "{}",
        near.stderr
    );
    for empty in ["", "sums,,letters_late", " "] {
        let ran = run(&world, &asked(empty, &harness, &[]));
        assert!(ran.stderr.contains("one name is empty"), "{}", ran.stderr);
    }
    let ran = run(&world, &asked("sums,absent", &harness, &[]));
    assert!(
        ran.stderr.contains("--tasks absent: no task, group or tag"),
        "{}",
        ran.stderr
    );
    let ran = world.run(&["eval", "r.toml", "--limit", "3"]);
    assert_eq!(ran.code, 2, "{}", ran.stderr); // without tasks
}

/// A target that is none of the choices counts as wrong, as with lm-eval, and is said to; a task
/// that is named twice is asked once.
#[test]
fn questions_that_nobody_can_answer_are_told() {
    let world = World::new();
    let base = "dataset_path: made/science\ntest_split: test\noutput_type: multiple_choice\n\
                doc_to_text: '{{question}}'\ndoc_to_choice: '{{choices.text}}'\n";
    fs::create_dir_all(world.dir().join("mine")).unwrap();
    let harness = text(&world.dir().join("mine"));
    let warning = "no choice is right, so every answer counts as wrong";
    for (name, target, warned) in [
        ("far", "7", Some("document 0 asks for 7 of ")),
        ("behind", "-1", Some("document 0 asks for -1 of ")),
        (
            "text",
            "'none of them'",
            Some("asks for \"none of them\" of "),
        ),
        ("first", "0", None),
    ] {
        let task = format!("{base}task: {name}\ndoc_to_target: {target}\n");
        world.file(&format!("mine/{name}.yaml"), &task);
        let ran = run(&world, &asked(&format!("{name},{name}"), &harness, &[]));
        assert_eq!(ran.code, 0, "{name}: {}", ran.stderr);
        let found = ran.stderr.contains(warning);
        assert_eq!(found, warned.is_some(), "{name}: {}", ran.stderr);
        assert!(ran.stderr.contains(warned.unwrap_or("")), "{}", ran.stderr);
        assert_eq!(ran.stdout.matches(name).count(), 1, "{}", ran.stdout);
    }
}

/// A Python file of another version is another function, whatever its name.
#[test]
fn a_function_that_was_changed_is_refused() {
    let world = World::new();
    let own = world.dir().join("own/hellaswag");
    fs::create_dir_all(&own).unwrap();
    let definition = Path::new(&definitions()).join("hellaswag/endings.yaml");
    fs::copy(definition, own.join("endings.yaml")).unwrap();
    fs::write(
        own.join("utils.py"),
        "def process_docs(docs): return docs\n",
    )
    .unwrap();
    let harness = text(&world.dir().join("own"));
    let ran = run(&world, &asked("endings", &harness, &[]));
    assert_eq!(ran.code, 1, "{}", ran.stdout);
    assert!(
        ran.stderr.contains("is not lm-eval 0.4.13's"),
        "{}",
        ran.stderr
    );
}

/// The same player by its recipe, and by its folder as a model.
#[test]
fn a_recipe_is_asked_as_its_model_is() {
    let world = World::new();
    let harness = definitions();
    let out = text(&world.dir().join("items.jsonl"));
    let more = ["--out", &out, "--limit", "3"];
    let by_model = run(&world, &asked("science", &harness, &more));
    let first = rows(&world, "items.jsonl");
    let mut command = asked("science", &harness, &more);
    command[1] = "builtin:demo".into();
    let by_recipe = run(&world, &command);
    assert_eq!(
        (by_model.code, by_recipe.code),
        (0, 0),
        "{}",
        by_recipe.stderr
    );
    assert_eq!(rows(&world, "items.jsonl"), first);
    // results of the verb are written over, something else is not
    fs::write(&out, "mine\n").unwrap();
    let refused = run(&world, &command);
    assert!(
        refused.stderr.contains("something else is there"),
        "{}",
        refused.stderr
    );
}

/// A data set of the hub by its name and configuration: the files of that folder alone.
#[test]
fn data_sets_of_the_hub_are_found_by_their_configuration() {
    let world = World::new();
    let out = text(&world.dir().join("items.jsonl"));
    let (harness, more) = (definitions(), ["--out", &out]);
    let local = run(&world, &asked("letters_late", &harness, &more));
    assert_eq!(local.code, 0, "{}", local.stderr);
    let wanted = rows(&world, "items.jsonl");
    let data = repository().join("tests/fixtures/tasks/data/made/letters");
    let file = |name: &str| fs::read(data.join(name)).unwrap();
    let files = Files::from([
        ("README.md".to_owned(), b"of letters".to_vec()),
        ("early/test.jsonl".to_owned(), file("early/test.jsonl")),
        ("late/test.jsonl".to_owned(), file("late/test.jsonl")),
        ("late/dev.jsonl".to_owned(), file("late/dev.jsonl")),
    ]);
    fs::create_dir(world.dir().join("own")).unwrap();
    for name in ["_letters_yaml", "letters_late.yaml"] {
        let text = fs::read_to_string(Path::new(&harness).join("letters").join(name)).unwrap();
        world.file(&format!("own/{name}"), &text.replace("made/letters", REPO));
    }
    let hub = Hub::serve(&[("1111111111111111111111111111111111111111", files)]);
    let home = text(&world.dir().join("home"));
    let own = text(&world.dir().join("own"));
    let mut command = asked("letters_late", &own, &more);
    let at = command.iter().position(|a| a == "--data").unwrap();
    command.drain(at..at + 2);
    let command: Vec<&str> = command.iter().map(String::as_str).collect();
    let ran = world.run_with(&variables(&home, &hub.address, ""), &command);
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    assert_eq!(rows(&world, "items.jsonl"), wanted);
}
