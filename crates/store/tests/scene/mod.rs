//! A small game in a real run folder, with everything that can be interrupted: a growing list,
//! checkpoints, a log of steps, an artefact that is a folder. Its arithmetic is deterministic, so
//! folders can be compared byte by byte.
#![allow(clippy::unwrap_used)]
#![allow(dead_code)] // each test file uses its part

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use randori_core::{Game, Iteration, Outcome, PairLogps, Rules, Signals, StopRule, Window, play};
use randori_store::{Artefact, BoxError, Disk, Error, JsonLines, Open, Run, RunSpec, Workspace};
use serde::{Deserialize, Serialize};

/// The policy: numbers, kept as a folder of two files.
#[derive(Debug, Clone, PartialEq)]
pub struct Adapter(pub Vec<u64>);

impl Artefact for Adapter {
    fn file_name(_stage: &str) -> String {
        "adapter".into()
    }

    fn save(&self, path: &Path) -> Result<(), BoxError> {
        fs::create_dir(path)?;
        fs::write(
            path.join("config.json"),
            format!("{{\"count\": {}}}\n", self.0.len()),
        )?;
        let bytes: Vec<u8> = self.0.iter().flat_map(|n| n.to_le_bytes()).collect();
        Ok(fs::write(path.join("weights.bin"), bytes)?)
    }

    fn load(path: &Path) -> Result<Self, BoxError> {
        let bytes = fs::read(path.join("weights.bin"))?;
        Ok(Adapter(
            bytes
                .chunks(8)
                .map(|chunk| u64::from_le_bytes(chunk.try_into().unwrap()))
                .collect(),
        ))
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    pub sequence: u64,
    pub tokens: Vec<u64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Pair {
    pub answer: Answer,
    pub logp: f64,
}

pub const ANSWERS: u64 = 4;
pub const STEPS: u64 = 5;

/// Players on a run folder.
#[derive(Default)]
pub struct Scene;

impl Game for Scene {
    type Policy = Adapter;
    type Opponent = Adapter;
    type Generated = JsonLines<Answer>;
    type Pairs = JsonLines<Pair>;
    type Workspace = Workspace;
    type Error = Error;

    fn start(&mut self) -> Result<Adapter, Error> {
        Ok(Adapter(vec![1, 2, 3]))
    }

    fn freeze(&mut self, policy: &Adapter) -> Result<Adapter, Error> {
        Ok(policy.clone())
    }

    fn generate(
        &mut self,
        now: &Iteration,
        opponent: &Adapter,
        workspace: &mut Workspace,
    ) -> Result<JsonLines<Answer>, Error> {
        let (mut answers, mut log) = workspace.items::<Answer>("answers")?;
        for sequence in answers.len() as u64..ANSWERS {
            let tokens = opponent
                .0
                .iter()
                .map(|w| mix(*w, sequence + 100 * now.t as u64) % 1000)
                .collect();
            let answer = Answer { sequence, tokens };
            log.push(&answer)?;
            answers.push(answer);
        }
        Ok(JsonLines(answers))
    }

    fn score(
        &mut self,
        _: &Iteration,
        opponent: &Adapter,
        window: &Window<JsonLines<Answer>>,
        _: &mut Workspace,
    ) -> Result<JsonLines<Pair>, Error> {
        let logp = |answer: &Answer| -((mix(opponent.0[0], answer.tokens[0]) % 997) as f64) / 7.0;
        let answers = window.iter().flat_map(|(_, rows)| &rows.0);
        Ok(JsonLines(
            answers
                .map(|answer| Pair {
                    answer: answer.clone(),
                    logp: logp(answer),
                })
                .collect(),
        ))
    }

    fn train(
        &mut self,
        _: &Iteration,
        policy: Adapter,
        pairs: &JsonLines<Pair>,
        workspace: &mut Workspace,
    ) -> Result<Adapter, Error> {
        let (done, mut policy) = match workspace.latest()? {
            Some(last) => (last.step, Adapter::load(&last.path).unwrap()),
            None => (0, policy),
        };
        for step in done + 1..=STEPS {
            let pair = &pairs.0[step as usize % pairs.0.len()];
            for weight in &mut policy.0 {
                *weight = mix(*weight, pair.logp.to_bits());
            }
            workspace.row(
                step,
                &BTreeMap::from([("loss", (policy.0[0] % 1000) as f64 / 1000.0)]),
            )?;
            if step % 2 == 0 {
                workspace.checkpoint(step, |path| policy.save(path))?;
            }
        }
        Ok(policy)
    }

    fn evaluate(
        &mut self,
        now: &Iteration,
        policy: &Adapter,
        opponent: &Adapter,
        _: &JsonLines<Pair>,
        _: &mut Workspace,
    ) -> Result<Signals, Error> {
        let pair = PairLogps {
            policy_real: -((policy.0[0] % 100) as f64),
            policy_generated: -50.0,
            opponent_real: -((opponent.0[0] % 100) as f64),
            opponent_generated: -50.0,
            real_tokens: 7,
            generated_tokens: 8,
        };
        Ok(Signals::of(&[pair], now.beta))
    }
}

fn mix(a: u64, b: u64) -> u64 {
    (a ^ b.rotate_left(17))
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
        ^ b
}

pub fn rules() -> Rules {
    Rules {
        iterations: 2,
        window: 2,
        stop: StopRule::never(),
        ..Rules::paper()
    }
}

pub fn spec() -> RunSpec {
    let pairs = |list: &[(&str, &str)]| {
        list.iter()
            .map(|(k, v)| (k.to_string(), v.to_string()))
            .collect()
    };
    RunSpec {
        recipe_text: "[train]\nlr = 1e-4\n".into(),
        recipe: pairs(&[("train.lr", "1e-4"), ("game.iterations", "2")]),
        free: vec!["game.iterations".into()],
        hashes: pairs(&[("base", "aa11"), ("plugin losses", "bb22")]),
        versions: pairs(&[("randori", "0.1.0")]),
        ..RunSpec::default()
    }
}

/// A temporary folder, in memory where there is such a place: these tests sync thousands of times.
pub fn home() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm")
        .or_else(|_| tempfile::tempdir())
        .unwrap()
}

/// Plays the whole scene in `dir`.
pub fn act(disk: Disk, dir: &Path) -> Result<Outcome<Adapter>, Error> {
    let mut run = Run::open_on(disk, dir, &spec(), Open::Resume)?;
    let outcome = play(&mut Scene, &mut run, &rules())?;
    run.write_json("summary.json", &outcome.signals.len())?;
    Ok(outcome)
}

/// Every file below a folder by relative name, the lock and the time a stage took aside.
pub fn tree(dir: &Path) -> BTreeMap<PathBuf, String> {
    let mut files = BTreeMap::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let text = String::from_utf8_lossy(&fs::read(&path).unwrap()).into_owned();
            let stable: Vec<&str> = text
                .lines()
                .filter(|line| !line.contains("\"seconds\""))
                .collect();
            files.insert(
                path.strip_prefix(dir).unwrap().to_owned(),
                stable.join("\n"),
            );
        }
    }
    files.remove(Path::new(".lock"));
    files
}
