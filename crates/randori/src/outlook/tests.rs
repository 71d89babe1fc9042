//! A real run goes through the stages that were planned for it, all of them and in their order.

use std::path::Path;
use std::sync::{Arc, Mutex};

use super::rest::Kind;
use super::{Ahead, Data, planned};
use crate::corpus::part;
use crate::request::{Request, Split};
use crate::session::Opened;
use crate::watch::{Progress, Silent, Watch};
use crate::{folder, play};

/// Remembers which stages began.
#[derive(Default)]
struct Heard(Mutex<Vec<(String, Kind)>>);

impl Watch for Heard {
    fn say(&self, _: String) {}
    fn note(&self, _: String) {}
    fn warn(&self, _: String) {}
    fn result(&self, _: String) {}
    fn stage(&self, label: &str, _: usize, unit: &'static str) -> Box<dyn Progress> {
        if let Some(kind) = Kind::of(unit) {
            self.0.lock().unwrap().push((label.to_string(), kind));
        }
        Box::new(Silent)
    }
}

/// The demo, small: a supervised start, some iterations, a baseline with two settings to choose
/// from, two seeds.
fn request(runs: &Path, iterations: usize, watch: Arc<dyn Watch>) -> Request {
    let iterations = format!("game.iterations={iterations}");
    let set = [
        iterations.as_str(),
        "sft.epochs=1",
        "sft.warmup=0",
        "data.limit=32",
        "eval.limit=8",
        "eval.seeds=[1]",
        "train.epochs=1",
        "compare.seeds=[1, 2]",
        "compare.lrs=[1e-3]",
        "compare.epochs=[1, 0]",
    ];
    Request {
        recipe: Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo.toml")),
        set: set.map(String::from).into(),
        linked: vec![
            &randori_plugin_llama::PLUGIN,
            &randori_plugin_losses::PLUGIN,
            &randori_plugin_sampling::PLUGIN,
        ],
        runs: runs.into(),
        watch,
        ..Request::default()
    }
}

fn plan(request: &Request) -> Vec<Ahead> {
    let (recipe, _) = folder::recipe(request).unwrap();
    let dir = folder::of(request, &recipe);
    let host = crate::session::host(&recipe, request).unwrap();
    let setting = Opened::with(recipe, host, request).unwrap().setting;
    let read = |split| {
        let (recipe, tokenizer) = (&setting.recipe, &setting.tokenizer);
        part(recipe, tokenizer, split, setting.bounds, None).unwrap()
    };
    let [train, held_out, validation] = [Split::Train, Split::HeldOut, Split::Validation].map(read);
    let data = Data {
        train: &train,
        held_out: &held_out,
        validation: Some(&validation),
    };
    let games = folder::games(&dir, &setting.recipe, false).unwrap();
    planned(&setting, &data, &games, false).unwrap()
}

/// Plays, and holds what was planned against what came.
#[track_caller]
fn follows_the_plan(runs: &Path, iterations: usize) -> Vec<(String, Kind)> {
    let heard = Arc::new(Heard::default());
    let request = request(runs, iterations, heard.clone());
    let plan = plan(&request);
    assert!(plan.iter().all(|stage| stage.tokens > 0.0), "{plan:?}");
    play(&request, false).unwrap();
    let came = heard.0.lock().unwrap().clone();
    for (planned, (label, kind)) in plan.iter().zip(&came) {
        assert!(
            planned.kind == *kind && label.starts_with(&planned.label),
            "planned {planned:?}, came {label} ({kind:?})"
        );
    }
    assert_eq!(plan.len(), came.len(), "planned {plan:?}, came {came:?}");
    came
}

#[test]
fn the_plan_is_what_a_run_does() {
    let runs = tempfile::tempdir().unwrap();
    let all = follows_the_plan(runs.path(), 1);
    assert!(all.len() > 20, "{all:?}");
    // an iteration more: the finished ones are restored, and the last opponent answers once more
    let runs_on = plan(&request(runs.path(), 2, Arc::new(Silent)));
    let next: Vec<&str> = runs_on.iter().map(|stage| stage.label.as_str()).collect();
    assert_eq!(
        next[..7],
        [
            "seed 1, iteration 1: generated",
            "seed 1, iteration 1: opponent's log-probs",
            "seed 1, iteration 1: policy",
            "seed 1, iteration 1: the opponent's: answers",
            "seed 1, iteration 1: held out: answers",
            "seed 1, iteration 1: held out: likelihood",
            "seed 1, iteration 1: opponent: likelihood",
        ]
    );
    follows_the_plan(runs.path(), 2);
}
