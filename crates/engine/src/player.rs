//! A player: the shared base plus its own (small) set of tensors, and the passes it can run.

use std::{collections::BTreeMap, sync::Arc};

use candle_core::{DType, Tensor};

use crate::{
    Base, Error, KvCache, Packed, Result, Weight,
    adapter::{matched, trainable_in_full, untrainable},
    base::on_kernels,
    kernels::{Entry, OnCandle, Plan, host},
    tape::Pass,
    trace::trace,
};

pub(crate) mod weights;
use weights::Weights;

/// Trainable tensors by name, all f32: `model.layers.0.self_attn.q_proj.lora_A` / `.lora_B`, or, in
/// full training, `model.layers.0.self_attn.q_proj.weight`.
pub type Params = BTreeMap<String, Tensor>;
/// Their gradients, by the same names.
pub type Grads = BTreeMap<String, Tensor>;

/// Base and adapter. Cloning shares both; freezing an opponent is a clone.
#[derive(Clone)]
pub struct Player {
    /// Shared weights.
    pub base: Arc<Base>,
    /// LoRA settings; `None` in full training or for the bare base.
    pub lora: Option<Arc<randori_lora::LoraSpec>>,
    /// The player's own tensors.
    pub params: Arc<Params>,
}

/// How a training pass runs.
#[derive(Debug, Clone, Copy, Default)]
pub struct PassOptions {
    /// Keep block inputs only and recompute each block in the backward pass.
    pub checkpoint: bool,
    /// Of those inputs only what is computed on stays on the GPU: the others wait in pinned memory
    /// of the host's. Wants `checkpoint` and a base on a GPU; the results are the same to the bit.
    pub offload_inputs: bool,
    /// Seed of LoRA's dropout masks; `None` switches dropout off. A row's mask is a function of the
    /// seed, its item, response and position, and the projection: not of what else is in the plan.
    pub dropout_seed: Option<u64>,
}

/// The new tokens of one cached sequence.
pub struct SlotTokens<'a> {
    /// Which cache slot.
    pub slot: usize,
    /// Its new tokens (a whole prompt, or one token).
    pub tokens: &'a [u32],
}

impl Player {
    /// The base alone: nothing to train.
    pub fn bare(base: Arc<Base>) -> Player {
        Player {
            base,
            lora: None,
            params: Arc::new(Params::new()),
        }
    }

    /// What [`Player::with_lora`] would begin with, without making anything.
    ///
    /// # Errors
    /// As there.
    pub fn check_lora(base: &Base, spec: &randori_lora::LoraSpec) -> Result<randori_lora::Matched> {
        spec.check().map_err(|e| Error::rule(e.to_string()))?;
        let traced = trace(base.arch.as_ref())?;
        let found = matched(&traced, spec)?;
        let dense = |w: &Weight| matches!(w, Weight::Dense(_));
        trainable_in_full(&traced, &found, &|name| {
            base.weights.get(name).is_some_and(|w| !dense(w))
        })?;
        Ok(found)
    }

    /// Base with a fresh adapter (B = 0) on every projection that `spec` wants. The head is adapted
    /// only when it is asked for by name, not by "all linear". A head that shares the embedding's
    /// weight goes by `lm_head` or by the weight's name; the embedding itself gets no update.
    ///
    /// # Errors
    /// An entry of the settings that matches nothing, with names that are near.
    pub fn with_lora(base: Arc<Base>, spec: randori_lora::LoraSpec, seed: u64) -> Result<Player> {
        let wanted = crate::adapter::wanted(base.as_ref(), &spec)?;
        let mut params = Params::new();
        for p in &wanted.projections {
            let (a, b) = spec.init(p, seed).map_err(|e| Error::rule(e.to_string()))?;
            params.insert(format!("{}.lora_A", p.name), a);
            params.insert(format!("{}.lora_B", p.name), b);
            if spec.dora {
                let m = crate::adapter::magnitude(&base, &p.weight)?;
                params.insert(format!("{}.lora_magnitude_vector", p.name), m);
            }
        }
        let traced = trace(base.arch.as_ref())?;
        for weight in wanted.saved {
            let own = trainable(&base, &traced.source(&weight))?;
            params.insert(weight, own);
        }
        Ok(Player {
            base,
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
        })
    }

    /// Every weight trainable, as an f32 copy.
    ///
    /// # Errors
    /// A quantised weight: it cannot be trained.
    pub fn full(base: Arc<Base>) -> Result<Player> {
        let mut params = Params::new();
        for weight in trace(base.arch.as_ref())?.weights {
            let own = trainable(&base, &weight.name)?;
            params.insert(weight.name, own);
        }
        Ok(Player {
            base,
            lora: None,
            params: Arc::new(params),
        })
    }

    /// (tokens, width) after the last block; nothing is recorded.
    ///
    /// # Errors
    /// A plan that breaks its rules, a token outside the vocabulary, or whatever the architecture
    /// did wrong.
    pub fn hidden(&self, plan: &Packed) -> Result<Tensor> {
        in_pool(|| {
            let weights = Weights::new(self, Arc::default())?;
            let plan = plan.rows(None)?;
            on_kernels!(self.base.compute, kernels => {
                Pass::new(kernels, &weights, plan).run_blocks()
            })
        })
    }

    /// Runs each entry's new tokens behind what its slot holds, appends their keys and values, and
    /// answers (batch, vocab) f32 logits after each entry's last token.
    ///
    /// # Errors
    /// An empty batch or entry, a slot that does not exist or occurs twice, or as
    /// [`Player::hidden`].
    pub fn step(&self, cache: &mut KvCache, batch: &[SlotTokens]) -> Result<Tensor> {
        host(&self.step_where_it_runs(cache, batch)?)
    }

    /// [`Player::step`], with logits in the numbers and the place of the pass.
    pub(crate) fn step_where_it_runs(
        &self,
        cache: &mut KvCache,
        batch: &[SlotTokens],
    ) -> Result<Tensor> {
        let (mut ids, mut positions) = (Vec::new(), Vec::new());
        let mut entries: Vec<Entry> = Vec::with_capacity(batch.len());
        for SlotTokens { slot, tokens } in batch {
            if *slot >= cache.slots()
                || entries.iter().any(|e| e.slot == *slot)
                || tokens.is_empty()
            {
                return Err(Error::rule(format!(
                    "a step wants at least one token for each of different slots below {}; got {} for slot {slot}",
                    cache.slots(),
                    tokens.len()
                )));
            }
            entries.push(Entry {
                slot: *slot,
                row: ids.len(),
                len: tokens.len(),
            });
            ids.extend_from_slice(tokens);
            positions.extend((0..tokens.len()).map(|i| (cache.len(*slot) + i) as u32));
        }
        if entries.is_empty() {
            return Err(Error::rule("a step wants at least one entry"));
        }
        let plan = Plan {
            ids,
            positions,
            ..Plan::default()
        };
        in_pool(|| {
            let weights = Weights::new(self, cache.gains.clone())?;
            on_kernels!(self.base.compute, kernels => {
                cached_logits(Pass::new(kernels, &weights, plan), cache, entries)
            })
        })
    }

    /// The player's own tensors where its base computes.
    pub(crate) fn at_hand(&self) -> Result<Arc<Params>> {
        #[cfg(feature = "cuda")]
        if self.base.compute.device.is_cuda() {
            return self.base.compute.uploaded(&self.params);
        }
        Ok(self.params.clone())
    }
}

/// (entries, vocab) after each entry's last token, whose keys and values the cache then holds.
fn cached_logits<K: OnCandle>(
    pass: Pass<K>,
    cache: &mut KvCache,
    entries: Vec<Entry>,
) -> Result<Tensor> {
    let last = entries.iter().map(|e| (e.row + e.len - 1) as u32).collect();
    cache.held.begin(entries)?;
    let logits = pass.cached_logits(&mut cache.held, &last)?;
    cache.held.end();
    Ok(logits)
}

/// Runs a whole pass on one of the pool's own threads: a parallel product then is a push to that
/// thread's queue, where from outside each would be a hand-over to the pool and back, hundreds a
/// pass.
pub(crate) fn in_pool<T: Send>(pass: impl FnOnce() -> T + Send) -> T {
    rayon::scope(|_| pass())
}

/// An f32 copy of a dense weight.
fn trainable(base: &Base, name: &str) -> Result<Tensor> {
    match base.weights.get(name) {
        Some(w @ Weight::Dense(t)) => match t.dtype() {
            DType::F32 if t.device().is_cpu() => Ok(t.copy()?),
            _ => w.to_f32(),
        },
        Some(_) => Err(untrainable(name)),
        None => Err(Error::rule(format!("the model has no weight `{name}`"))),
    }
}
