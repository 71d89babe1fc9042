//! Settings of an adapter, with validation.

use std::collections::BTreeMap;

use candle_core::{Device, Tensor};
use serde::{Deserialize, Serialize};

use crate::{Error, Projection, Result, Targets, splitmix, targets::pattern_key};

/// Settings of a LoRA adapter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LoraSpec {
    /// Rank of the update: columns of B and rows of A.
    pub rank: usize,
    /// Numerator of the scale, as in alpha/rank.
    pub alpha: f64,
    /// Scale by alpha/sqrt(rank) rather than alpha/rank (arXiv 2312.03732).
    #[serde(default)]
    pub rslora: bool,
    /// Dropout probability of a projection's inputs before A, in training, 0..1.
    #[serde(default)]
    pub dropout: f32,
    /// Projections that get an update.
    pub targets: Targets,
    /// Projections left out although `targets` matches them. The embedding's name leaves out a head
    /// that shares its weight only if `targets` matches the head by that name.
    #[serde(default)]
    pub exclude: Option<Targets>,
    /// Other ranks for projections whose name ends with one of these patterns (regular expressions,
    /// as in PEFT); the first match counts.
    #[serde(default)]
    pub rank_pattern: Vec<(String, usize)>,
    /// Other alphas, likewise.
    #[serde(default)]
    pub alpha_pattern: Vec<(String, f64)>,
    /// Train each output's magnitude separately from its direction (DoRA, arXiv 2402.09353).
    #[serde(default)]
    pub dora: bool,
    /// Modules trained in full, by the ends of their names (`lm_head`; as in PEFT, `norm` is every
    /// layernorm), with all their submodules.
    #[serde(default)]
    pub modules_to_save: Vec<String>,
    /// Full names of the base's weights that the adapter replaces (`model.embed_tokens.weight`):
    /// what PEFT saves of embeddings, or under `base_layer`. An update of the projection, if any,
    /// is added to the replaced values.
    #[serde(default)]
    pub replaced: Vec<String>,
    /// Whether gate's and the other input's rows of its experts come from one stored matrix, of
    /// which they were taken for halves: on a base in which they take turns,
    /// [`crate::peft::deal_out`] is to put that right.
    #[serde(skip)]
    pub halved: bool,
}

/// The update of one projection, as stored.
#[derive(Debug, Clone)]
pub struct Update {
    /// A, (rank, in)
    pub a: Tensor,
    /// B, (out, rank)
    pub b: Tensor,
    /// Factor on B·A.
    pub scale: f64,
    /// DoRA's magnitude of each output, (out).
    pub magnitude: Option<Tensor>,
}

impl Default for LoraSpec {
    /// Rank 16, alpha 32, on all linear projections but the head.
    fn default() -> Self {
        LoraSpec {
            rank: 16,
            alpha: 32.0,
            rslora: false,
            dropout: 0.0,
            targets: Targets::AllLinear,
            exclude: None,
            rank_pattern: Vec::new(),
            alpha_pattern: Vec::new(),
            dora: false,
            modules_to_save: Vec::new(),
            replaced: Vec::new(),
            halved: false,
        }
    }
}

impl LoraSpec {
    /// Validates the settings.
    ///
    /// # Errors
    /// Rank 0, an alpha that is not finite or rounds to 0 in f32, a dropout outside 0..1, targets
    /// that match nothing or are no valid pattern.
    pub fn check(&self) -> Result<()> {
        let ranks = self.rank_pattern.iter().map(|(_, rank)| *rank);
        if std::iter::once(self.rank).chain(ranks).any(|r| r == 0) {
            return Err(Error::rule("a LoRA rank must be at least 1, not 0"));
        }
        let alphas = self.alpha_pattern.iter().map(|(_, alpha)| *alpha);
        if let Some(alpha) = std::iter::once(self.alpha)
            .chain(alphas)
            .find(|alpha| !(*alpha as f32).is_finite() || *alpha as f32 == 0.0)
        {
            return Err(Error::rule(format!(
                "a LoRA alpha must be a finite number other than 0 in f32, not {alpha:?}"
            )));
        }
        let keys = self.rank_pattern.iter().map(|(key, _)| key);
        for key in keys.chain(self.alpha_pattern.iter().map(|(key, _)| key)) {
            Targets::Regex(key.clone()).check()?;
        }
        self.exclude.iter().try_for_each(Targets::check)?;
        if !(0.0..1.0).contains(&self.dropout) {
            return Err(Error::rule(format!(
                "a LoRA dropout must be in 0..1, not {}",
                self.dropout
            )));
        }
        self.targets.check()
    }

    /// The rank of this projection's update.
    pub fn rank_of(&self, projection: &str) -> usize {
        pattern_key(&self.rank_pattern, projection).unwrap_or(self.rank)
    }

    /// The alpha of this projection's update.
    pub fn alpha_of(&self, projection: &str) -> f64 {
        pattern_key(&self.alpha_pattern, projection).unwrap_or(self.alpha)
    }

    /// Factor on B·A·x of this projection: alpha/rank, or alpha/sqrt(rank) with rsLoRA.
    pub fn scale_of(&self, projection: &str) -> f64 {
        let rank = self.rank_of(projection) as f64;
        self.alpha_of(projection) / if self.rslora { rank.sqrt() } else { rank }
    }

    /// Whether the projection with this checkpoint name (without `.weight`) gets an update.
    pub fn wants(&self, projection: &str) -> bool {
        let excluded = self.exclude.as_ref().is_some_and(|e| e.wants(projection));
        self.targets.wants(projection) && !excluded && !self.saves(projection)
    }

    /// Whether this projection gets an update. A head that shares the embedding's weight is matched
    /// by its own name and by the weight's; "all-linear" matches no head.
    pub fn adapts(&self, projection: &Projection) -> bool {
        let meant =
            |name: &str| means(&self.targets, projection, name) && !self.excludes(projection, name);
        projection.names().any(meant) && !self.saves(&projection.name)
    }

    /// Whether `exclude` removes a projection that targets matched by `name`. The projection's own
    /// name always does; the name of a weight shared with the embedding does not remove a head
    /// matched by its own name, as in PEFT.
    pub(crate) fn excludes(&self, projection: &Projection, name: &str) -> bool {
        let excluded = |name: &str| {
            let exclude = self.exclude.as_ref();
            exclude.is_some_and(|exclude| means(exclude, projection, name))
        };
        excluded(name) || excluded(&projection.name)
    }

    /// Whether this module, or one that contains it, is trained in full.
    pub fn saves(&self, module: &str) -> bool {
        self.modules_to_save.iter().any(|m| saved_by(m, module))
    }

    /// Whether the adapter holds a tensor of this full name in full, rather than as part of an
    /// update.
    pub fn owns(&self, tensor: &str) -> bool {
        let module = tensor.rsplit_once('.').map_or(tensor, |(m, _)| m);
        self.saves(module) || self.replaced.iter().any(|name| name == tensor)
    }

    /// The update of a projection among an adapter's tensors; `None` if it has none.
    pub fn update(&self, params: &BTreeMap<String, Tensor>, projection: &str) -> Option<Update> {
        let get = |part: &str| params.get(&format!("{projection}.{part}")).cloned();
        Some(Update {
            a: get("lora_A")?,
            b: get("lora_B")?,
            scale: self.scale_of(projection),
            magnitude: get("lora_magnitude_vector"),
        })
    }

    /// Initial A (rank, inputs), uniform in ±1/sqrt(inputs), and B (outputs, rank), zero, so the
    /// update starts at 0.
    ///
    /// A is a pure function of `seed`, the name `{weight}.lora_A` and the index, so that any
    /// program can reproduce it ([`splitmix`]).
    ///
    /// # Errors
    /// Settings refused by [`LoraSpec::check`], or no inputs.
    pub fn init(&self, projection: &Projection, seed: u64) -> Result<(Tensor, Tensor)> {
        self.check()?;
        let Projection {
            name,
            weight,
            inputs,
            outputs,
            ..
        } = projection;
        let (inputs, outputs) = (*inputs, *outputs);
        if inputs == 0 || outputs == 0 {
            return Err(Error::rule(format!(
                "{name} has {inputs} inputs and {outputs} outputs: nothing to adapt"
            )));
        }
        let (bound, rank) = ((inputs as f64).powf(-0.5), self.rank_of(name));
        let a: Vec<f32> = splitmix(seed, &format!("{weight}.lora_A"), rank * inputs)
            .map(|u| ((2.0 * u - 1.0) * bound) as f32)
            .collect();
        let a = Tensor::from_vec(a, (rank, inputs), &Device::Cpu)?;
        let b = Tensor::zeros((outputs, rank), candle_core::DType::F32, &Device::Cpu)?;
        Ok((a, b))
    }
}

/// Whether targets match a projection by this one of its names.
fn means(targets: &Targets, projection: &Projection, name: &str) -> bool {
    let all = matches!(targets, Targets::AllLinear);
    targets.wants(name) && !(all && projection.head)
}

/// Whether an entry of `modules_to_save` matches this module: as in PEFT, every module whose name
/// ends with it, at a component boundary or not.
pub fn saved_by(entry: &str, module: &str) -> bool {
    let ends = module.match_indices('.').map(|(at, _)| at);
    ends.chain([module.len()])
        .any(|end| module[..end].ends_with(entry))
}
