//! What the stages of a game leave behind, as files: answers and pairs with their token ids
//! (JSONL), and what a player has learnt (a PEFT adapter, or in full training every weight).

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, Result};
use candle_core::{DType, Device, Tensor};
use randori_data::{Context, Message};
use randori_engine::train::{AsPair, PairRef};
use randori_engine::weights::weight_files;
use randori_engine::{Params, Player};
use randori_lora::{LoraSpec, mlx, peft};
use randori_sdk::Dialect;
use randori_store::{Artefact, BoxError, JsonLines};
use serde::{Deserialize, Serialize};

use crate::provenance::Provenance;

/// The opponent's answer to one prompt. `real` and `generated` are the official code's names, so
/// the file is also a data set in SPIN's own shape.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Answer {
    /// Number of the example among the usable ones.
    pub example: usize,
    /// Where the example was read.
    pub place: String,
    /// The conversation before the answer.
    pub prompt: Vec<Message>,
    /// What the row gives its chat template besides (`tools`), under the names of a data set.
    #[serde(flatten)]
    pub context: Context,
    /// The human response's text.
    pub real: String,
    /// The answer's text.
    pub generated: String,
    /// The answer was cut at the token limit; no end of turn was appended.
    pub truncated: bool,
    /// The answer's token ids, exactly as they were drawn.
    pub tokens: Vec<u32>,
    /// Summed log-prob of the answer under the model itself (temperature 1).
    pub logp: f64,
}

/// All answers of an iteration.
pub type Answers = JsonLines<Answer>;

/// One pair, with the opponent's log-probs where the loss asks for them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PairRow {
    /// Where the example was read.
    pub place: String,
    /// The iteration whose opponent answered.
    pub iteration: usize,
    /// Token ids.
    pub prompt: Vec<u32>,
    /// Token ids.
    pub real: Vec<u32>,
    /// Token ids.
    pub generated: Vec<u32>,
    /// log p_theta_t(y|x), summed; absent where nobody scored, for the loss does not ask.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_real: Option<f64>,
    /// log p_theta_t(y'|x), summed; absent likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ref_generated: Option<f64>,
    /// The data's rewards of the real and the generated response.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rewards: Option<[f64; 2]>,
}

/// All pairs of an iteration.
pub type Pairs = JsonLines<PairRow>;

impl AsPair for PairRow {
    fn as_pair(&self) -> PairRef<'_> {
        PairRef {
            prompt: &self.prompt,
            real: &self.real,
            generated: &self.generated,
            // the trainer refuses what is no number, unless its loss does not read it
            ref_real: self.ref_real.unwrap_or(f64::NAN),
            ref_generated: self.ref_generated.unwrap_or(f64::NAN),
            rewards: self.rewards,
            place: &self.place,
        }
    }
}

/// What a player has learnt beyond the base.
#[derive(Clone)]
pub struct Learnt {
    /// LoRA settings; `None` in full training.
    pub lora: Option<Arc<LoraSpec>>,
    /// Its tensors.
    pub params: Arc<Params>,
    /// The base's name, for PEFT's files.
    pub base_name: String,
    /// The trainings that made it.
    pub provenance: Provenance,
}

const WEIGHTS: &str = "model.safetensors";

impl Learnt {
    /// Of the bare base.
    pub fn nothing(base_name: &str) -> Learnt {
        Learnt {
            lora: None,
            params: Arc::new(Params::new()),
            base_name: base_name.to_string(),
            provenance: Provenance::default(),
        }
    }

    /// Of a player, whom these trainings made.
    pub fn of(player: &Player, base_name: &str, provenance: Provenance) -> Learnt {
        Learnt {
            lora: player.lora.clone(),
            params: player.params.clone(),
            base_name: base_name.to_string(),
            provenance,
        }
    }

    /// As a player on its base.
    pub fn player(&self, base: &Arc<randori_engine::Base>) -> Player {
        Player {
            base: base.clone(),
            lora: self.lora.clone(),
            params: self.params.clone(),
        }
    }

    /// Writes it into `dir`, which is made.
    pub fn write(&self, dir: &Path) -> Result<()> {
        self.written(dir, false)
    }

    /// [`Learnt::write`] as peft reads it for models of this family: of some it knows updates of
    /// all experts of a layer together only.
    pub fn write_for_peft(&self, dir: &Path, dialect: &Dialect) -> Result<()> {
        self.written(dir, dialect.takes_turns())
    }

    fn written(&self, dir: &Path, dealt: bool) -> Result<()> {
        match &self.lora {
            Some(spec) if dealt => peft::save_dealt(dir, spec, &self.params, &self.base_name)?,
            Some(spec) => peft::save(dir, spec, &self.params, &self.base_name)?,
            None => {
                std::fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
                let tensors: std::collections::HashMap<&str, &Tensor> = self
                    .params
                    .iter()
                    .map(|(name, t)| (name.as_str(), t))
                    .collect();
                let tensors: std::collections::HashMap<String, Tensor> = tensors
                    .into_iter()
                    .map(|(name, t)| (name.to_string(), t.clone()))
                    .collect();
                candle_core::safetensors::save(&tensors, dir.join(WEIGHTS))?;
            }
        }
        self.provenance.write(dir)
    }

    /// Several adapters together; one is read as it is.
    pub fn read_stack(dirs: &[std::path::PathBuf]) -> Result<Learnt> {
        if let [one] = dirs {
            return Learnt::read(one);
        }
        let mut adapters = Vec::new();
        let mut made = Vec::new();
        let mut base_name = String::new();
        for dir in dirs {
            let one = Learnt::read(dir)?;
            let Some(spec) = one.lora else {
                anyhow::bail!(
                    "{}: only adapters can be stacked; this is a whole model",
                    dir.display()
                );
            };
            base_name = one.base_name;
            made.push(one.provenance);
            adapters.push(((*spec).clone(), (*one.params).clone()));
        }
        let (spec, params) = randori_lora::stack(adapters)?;
        Ok(Learnt {
            lora: Some(Arc::new(spec)),
            params: Arc::new(params),
            base_name,
            provenance: Provenance::sum(made),
        })
    }

    /// What made the sum of the players in these folders; of none: nothing.
    ///
    /// # Errors
    /// A record that cannot be read.
    pub fn provenance_of(dirs: &[std::path::PathBuf]) -> Result<Provenance> {
        match dirs {
            [] => Ok(Provenance::default()),
            [one] => Provenance::read(one),
            several => {
                let each = several.iter().map(|dir| Provenance::read(dir));
                Ok(Provenance::sum(each.collect::<Result<_>>()?))
            }
        }
    }

    /// Whether a folder holds what [`Learnt::read`] reads; no tensor is looked at.
    ///
    /// # Errors
    /// A folder without.
    pub fn check_there(dir: &Path) -> Result<()> {
        if dir.join(peft::CONFIG).exists() || !weight_files(dir)?.is_empty() {
            return Ok(());
        }
        anyhow::bail!(
            "{}: neither {} (an adapter of PEFT or mlx-lm) nor {WEIGHTS} (full training) is there",
            dir.display(),
            peft::CONFIG
        )
    }

    /// Reads what [`Learnt::write`] wrote, any adapter of PEFT or mlx-lm, or a whole model's
    /// folder, in shards or not.
    pub fn read(dir: &Path) -> Result<Learnt> {
        Learnt::check_there(dir)?;
        let provenance = Provenance::read(dir)?;
        if dir.join(peft::CONFIG).exists() {
            let ((spec, params), base) = match mlx::is_in(dir) {
                true => (mlx::load(dir)?, "model"),
                false => (peft::load(dir)?, "base_model_name_or_path"),
            };
            let config: serde_json::Value =
                serde_json::from_slice(&std::fs::read(dir.join(peft::CONFIG))?)?;
            let base_name = config[base].as_str().unwrap_or_default().to_string();
            return Ok(Learnt {
                lora: Some(Arc::new(spec)),
                params: Arc::new(params),
                base_name,
                provenance,
            });
        }
        let mut params = Params::new();
        for file in weight_files(dir)? {
            let place = || file.display().to_string();
            let held = candle_core::safetensors::load(&file, &Device::Cpu)
                .with_context(|| format!("{} cannot be read", file.display()))?;
            for (name, t) in held {
                let t = trainable(&name, &t).with_context(place)?;
                if params.contains_key(&name) {
                    anyhow::bail!("{}: {name} is in another shard too", place());
                }
                params.insert(name, t);
            }
        }
        Ok(Learnt {
            lora: None,
            params: Arc::new(params),
            base_name: String::new(),
            provenance,
        })
    }
}

/// A tensor of a whole model as a player has it, in f32: its file may be in the base's dtype.
fn trainable(name: &str, t: &Tensor) -> Result<Tensor> {
    match t.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => {
            let t = t.to_dtype(DType::F32)?;
            randori_lora::finite(name, &t)?;
            Ok(t)
        }
        other => anyhow::bail!("{name} is {other:?}; weights trained in full are F32, F16 or BF16"),
    }
}

impl Artefact for Learnt {
    fn file_name(_stage: &str) -> String {
        "adapter".into()
    }
    fn save(&self, path: &Path) -> Result<(), BoxError> {
        self.write(path).map_err(Into::into)
    }
    fn load(path: &Path) -> Result<Self, BoxError> {
        Learnt::read(path).map_err(Into::into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A whole model's folder with one tensor of this dtype.
    fn folder(dtype: DType) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let t = Tensor::new(&[1f32, 2.0], &Device::Cpu).unwrap();
        let t = t.to_dtype(dtype).unwrap();
        let tensors = std::collections::HashMap::from([("model.norm.weight".to_string(), t)]);
        candle_core::safetensors::save(&tensors, dir.path().join(WEIGHTS)).unwrap();
        dir
    }

    #[test]
    fn a_whole_model_is_read_in_f32() {
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let learnt = Learnt::read(folder(dtype).path()).unwrap();
            let t = &learnt.params["model.norm.weight"];
            assert_eq!(t.to_vec1::<f32>().unwrap(), [1.0, 2.0], "{dtype:?}");
        }
        let Err(e) = Learnt::read(folder(DType::U32).path()) else {
            unreachable!("whole numbers are no weights");
        };
        let e = format!("{e:#}");
        assert!(
            e.contains(WEIGHTS) && e.contains("model.norm.weight is U32"),
            "{e}"
        );
    }

    #[test]
    fn a_whole_model_is_made_of_numbers() {
        let dir = folder(DType::F16);
        let t = Tensor::new(&[1f32, f32::NAN], &Device::Cpu).unwrap();
        let tensors = std::collections::HashMap::from([("model.norm.weight".to_string(), t)]);
        candle_core::safetensors::save(&tensors, dir.path().join(WEIGHTS)).unwrap();
        let Err(e) = Learnt::read(dir.path()) else {
            unreachable!("NaN is no weight");
        };
        let e = format!("{e:#}");
        assert!(e.contains("model.norm.weight holds NaN at index 1"), "{e}");
    }
}
