//! The model that is checked, the tokens that it is checked on, and the checks of its own passes.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use candle_core::Tensor;
use randori_engine::weights::{self, Checkpoint, LoadOptions, Source};
use randori_engine::{Base, KvCache, Packed, Params, Player, SlotTokens, Trace, trace};
use randori_export::{FolderOptions, InMemory};
use randori_host::Host;
use randori_lora::{LoraSpec, Targets};

use super::row::Row;
use crate::watch::{Watch, notes};

/// Tokens of the prompt.
const PROMPT: usize = 12;
/// Tokens of the two responses, which share it.
const RESPONSES: [usize; 2] = [10, 7];
/// How far log-probs may lie apart that are computed in another order, in f32.
pub(super) const APART: f64 = 1e-3;

/// A model with its tokens.
pub(super) struct Subject {
    /// The architecture's name.
    pub name: String,
    base: Arc<Base>,
    trace: Trace,
    source: String,
    prompt: Vec<u32>,
    responses: Vec<Vec<u32>>,
    plan: Packed,
}

impl Subject {
    /// Loads the model at `against` with the architecture `name`. For a configuration alone every
    /// tensor is made up, and written into `scratch` first, so that it comes from a file too.
    ///
    /// # Errors
    /// A model that is not there, or that the architecture cannot load.
    pub fn open(
        host: &Host,
        name: &str,
        against: &Path,
        scratch: &Path,
        watch: &dyn Watch,
    ) -> Result<Subject> {
        let shown = against.display().to_string();
        let (source, place) = match configuration(against) {
            None => (source(against)?, shown.clone()),
            Some(path) => {
                let folder = scratch.join("made-up");
                make_up(host, name, &path, &folder).with_context(|| path.display().to_string())?;
                (Source::Folder(folder), format!("{shown}, weights made up"))
            }
        };
        let checkpoint = weights::open(source, host.families()?).with_context(|| shown.clone())?;
        notes(watch, checkpoint.notes());
        let base = load(host, name, checkpoint, watch).with_context(|| shown.clone())?;
        let trace = trace(&*base.arch)?;
        let [prompt, first, second] = tokens(trace.vocab);
        let mut plan = Packed::default();
        plan.push(&prompt, &[&first, &second]);
        Ok(Subject {
            name: name.into(),
            base: Arc::new(base),
            trace,
            source: place,
            prompt,
            responses: vec![first, second],
            plan,
        })
    }

    /// What is checked, in one line.
    pub fn described(&self) -> String {
        let count = |shape: &[usize]| shape.iter().product::<usize>() as f64;
        let weights: f64 = self.trace.weights.iter().map(|w| count(&w.shape)).sum();
        format!(
            "{} against {}: {} blocks, {:.1} M weights",
            self.name,
            self.source,
            self.base.arch.layers(),
            weights / 1e6
        )
    }

    /// The base with an adapter on every projection, whose update is no zero.
    ///
    /// # Errors
    /// Weights that no adapter fits.
    pub fn adapted(&self) -> Result<Player> {
        let spec = LoraSpec {
            rank: 4,
            alpha: 8.0,
            targets: Targets::AllLinear,
            ..LoraSpec::default()
        };
        let fresh = Player::with_lora(self.base.clone(), spec, 1)?;
        let moved = moved(&fresh.params, 0.02)?;
        Ok(Player {
            params: Arc::new(moved),
            ..fresh
        })
    }

    /// The tokens as a training pass has them.
    pub fn plan(&self) -> &Packed {
        &self.plan
    }

    /// Log-probs of all response tokens, in a packed pass.
    ///
    /// # Errors
    /// The engine's.
    pub fn logps(&self, player: &Player) -> Result<Vec<f64>> {
        Ok(player.logps(&self.plan)?)
    }

    /// The checks of the bare model's passes.
    pub fn checks(&self) -> Vec<Row> {
        let player = Player::bare(self.base.clone());
        vec![
            Row::of(
                "names and shapes",
                true,
                format!("{} tensors, each asked for", self.trace.weights.len()),
            ),
            self.targets(),
            Row::checked("log-probs", self.finite(&player)),
            Row::checked("decoding", self.decoding(&player)),
        ]
    }

    fn targets(&self) -> Row {
        let spec = LoraSpec {
            targets: Targets::AllLinear,
            ..LoraSpec::default()
        };
        match randori_engine::matched(&self.trace, &spec) {
            Ok(found) => Row::open("LoRA targets", found.to_string()),
            Err(e) => Row::of("LoRA targets", false, e.to_string()),
        }
    }

    fn finite(&self, player: &Player) -> Result<Row> {
        let logps = self.logps(player)?;
        let sum: f64 = logps.iter().sum();
        let figures = format!(
            "{} tokens, mean {:.4}",
            logps.len(),
            sum / logps.len() as f64
        );
        let right = logps.iter().all(|logp| logp.is_finite() && *logp <= 0.0);
        Ok(Row::of("log-probs", right, figures))
    }

    /// Token by token behind a cache, against the packed pass.
    fn decoding(&self, player: &Player) -> Result<Row> {
        let packed = self.logps(player)?;
        let mut alone = Vec::new();
        for response in &self.responses {
            let mut cache = KvCache::new(player, 1);
            let mut logits = step(player, &mut cache, &self.prompt)?;
            for &token in response {
                alone.push(log_prob(&logits, token)?);
                logits = step(player, &mut cache, &[token])?;
            }
        }
        let apart = apart(&packed, &alone);
        Ok(Row::of(
            "decoding",
            apart <= APART,
            format!("token by token {apart:.1e} from the packed pass (up to {APART:.0e})"),
        ))
    }
}

/// The largest distance of two lists; not a number where their lengths differ.
pub(super) fn apart(a: &[f64], b: &[f64]) -> f64 {
    match a.len() == b.len() {
        true => a
            .iter()
            .zip(b)
            .map(|(a, b)| (a - b).abs())
            .fold(0.0, f64::max),
        false => f64::NAN,
    }
}

fn step(player: &Player, cache: &mut KvCache, tokens: &[u32]) -> Result<Vec<f32>> {
    let logits = player.step(cache, &[SlotTokens { slot: 0, tokens }])?;
    Ok(logits.flatten_all()?.to_vec1()?)
}

fn log_prob(logits: &[f32], token: u32) -> Result<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|l| f64::from(l - max).exp()).sum();
    let own = logits
        .get(token as usize)
        .context("the head is shorter than the vocabulary")?;
    Ok(f64::from(own - max) - sum.ln())
}

/// A prompt and two responses, which go through the vocabulary in large steps.
fn tokens(vocab: usize) -> [Vec<u32>; 3] {
    let token = |i: usize| ((i * 7919 + 3) % vocab.max(1)) as u32;
    let run = |from: usize, n: usize| (from..from + n).map(token).collect();
    let [first, second] = RESPONSES;
    [
        run(0, PROMPT),
        run(PROMPT, first),
        run(PROMPT + first + 5, second),
    ]
}

/// The configuration that `against` is, if it is one alone.
fn configuration(against: &Path) -> Option<PathBuf> {
    if against.extension().is_some_and(|end| end == "json") {
        return Some(against.to_owned());
    }
    let weights = |entry: std::fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        name.ends_with(".safetensors") || name.ends_with(".index.json")
    };
    let alone = against.join("config.json").is_file()
        && !std::fs::read_dir(against).ok()?.flatten().any(weights);
    alone.then(|| against.join("config.json"))
}

fn source(against: &Path) -> Result<Source> {
    if against.is_dir() {
        return Ok(Source::Folder(against.to_owned()));
    }
    if against.is_file() {
        return Ok(Source::Gguf(against.to_owned()));
    }
    bail!(
        "--against {}: neither a Hugging Face folder, a GGUF file nor a config.json",
        against.display()
    )
}

fn load(host: &Host, name: &str, checkpoint: Checkpoint, watch: &dyn Watch) -> Result<Base> {
    let arch = host.architecture(name, &checkpoint.config().to_string())?;
    let mut stage = watch.stage("loading", 0, "MB");
    let base = checkpoint.load(arch, &LoadOptions::default(), &mut |read, of| {
        stage.of((of / 1_000_000) as usize);
        stage.set((read / 1_000_000) as usize, 0);
    })?;
    stage.finish();
    Ok(base)
}

/// Writes a model of this configuration with made-up weights: none is 0 or 1, so that a bias or a
/// norm that is left out or mixed up shows.
fn make_up(host: &Host, name: &str, config: &Path, folder: &Path) -> Result<()> {
    let text = std::fs::read_to_string(config)?;
    let config = serde_json::from_str(&text).context("not JSON")?;
    let checkpoint = weights::open(Source::Random { config, seed: 1 }, host.families()?)?;
    let arch = host.architecture(name, &checkpoint.config().to_string())?;
    let base = Arc::new(checkpoint.load(arch, &LoadOptions::default(), &mut |_, _| ())?);
    let full = Player::full(base)?;
    let player = Player {
        params: Arc::new(moved(&full.params, 0.05)?),
        ..full
    };
    let tensors = InMemory {
        player: &player,
        onto: None,
    };
    let options = FolderOptions {
        dtype: weights::Dtype::F32,
        ..FolderOptions::default()
    };
    randori_export::folder(
        &tensors,
        &[],
        folder,
        &options,
        &mut |_, _, _| Ok(()),
        &mut |_, _| (),
    )?;
    Ok(())
}

/// Tensors with something added to each value: up to `by` in size, and the same for the same names.
fn moved(params: &Params, by: f64) -> Result<Params> {
    let mut all = Params::new();
    let mut state = 1u64;
    for (name, tensor) in params {
        let noise: Vec<f32> = (0..tensor.elem_count())
            .map(|_| {
                // a linear congruential generator with Knuth's MMIX constants; its upper bits count
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                let unit = (state >> 11) as f64 / (1u64 << 53) as f64; // [0, 1)
                ((2.0 * unit - 1.0) * by) as f32
            })
            .collect();
        let noise = Tensor::from_vec(noise, tensor.dims(), tensor.device())?;
        all.insert(name.clone(), (tensor + noise)?);
    }
    Ok(all)
}
