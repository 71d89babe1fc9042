//! From an open checkpoint to a base: validate all, then read tensor by tensor.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use candle_core::{DType, Tensor};
use randori_formats::{Dtype, Format, Index, Stored};
use randori_kernels::{Error, Result, Weight};
use randori_qlora::QuantMatrix;
use randori_sdk::seam::Architecture;

use super::{
    checkpoint::{Checkpoint, LoadOptions, Quant, Weights},
    convert, random,
};
use crate::{
    Base, Compute,
    trace::{Trace, TracedWeight, Use, trace},
};

impl Checkpoint {
    /// Reads the weights that `arch` asks for. `progress` hears of bytes done and bytes in all.
    ///
    /// # Errors
    /// Before anything is read: the first weight that is missing, has another shape than the
    /// configuration implies, has a dtype we cannot read, or is there but not asked for. Then: what
    /// the file or the conversion refuses.
    pub fn load(
        self,
        arch: Arc<dyn Architecture>,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Base> {
        self.load_where(arch, options, Compute::default(), progress)
    }

    /// [`Checkpoint::load`] for passes elsewhere: each weight goes where they run as soon as it is
    /// read and quantised, so that beside a GPU the machine's memory holds one of them at a time.
    ///
    /// # Errors
    /// As there; a GPU without room for a weight.
    pub fn load_where(
        self,
        arch: Arc<dyn Architecture>,
        options: &LoadOptions,
        compute: Compute,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Base> {
        let trace = trace(&*arch)?;
        self.read(arch, &trace, options, compute, progress)
    }

    /// [`Checkpoint::load`] for who has traced the architecture already.
    ///
    /// # Errors
    /// As there.
    pub fn load_traced(
        self,
        arch: Arc<dyn Architecture>,
        trace: &Trace,
        options: &LoadOptions,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Base> {
        self.read(arch, trace, options, Compute::default(), progress)
    }

    fn read(
        self,
        arch: Arc<dyn Architecture>,
        trace: &Trace,
        options: &LoadOptions,
        compute: Compute,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<Base> {
        let loader = Loader { trace, options };
        loader.check(&self.weights, &*arch)?;
        let weights = loader.read(&self.weights, &compute, progress)?;
        Ok(Base {
            arch,
            config: self.config,
            weights,
            squares: Default::default(),
            compute,
        })
    }
}

/// What is wanted of a checkpoint, and how it is to be held.
pub(super) struct Loader<'a> {
    pub(super) trace: &'a Trace,
    pub(super) options: &'a LoadOptions,
}

impl Loader<'_> {
    /// Holds the checkpoint against what the architecture and the options ask for.
    pub(super) fn check(&self, weights: &Weights, arch: &dyn Architecture) -> Result<()> {
        match weights {
            Weights::Stored(index) => self.check_file(index, arch),
            Weights::Random(_) if self.options.quant == Some(Quant::Gguf) => Err(Error::rule(
                "a base quantised as its GGUF file is needs a GGUF file; this one is random",
            )),
            Weights::Random(_) => Ok(()),
        }
    }

    fn check_file(&self, index: &Index, arch: &dyn Architecture) -> Result<()> {
        for wanted in &self.trace.weights {
            let name = &wanted.name;
            let stored = find(index, wanted)?;
            let place = &index.source_of(stored)?.name;
            if stored.shape != wanted.shape {
                return Err(Error::rule(format!(
                    "{name}: config wants {}, the file has {} ({place})",
                    tuple(&wanted.shape),
                    tuple(&stored.shape)
                )));
            }
            if let Format::Other(dtype) = &stored.format {
                return Err(Error::rule(format!(
                    "{place}: {}, which cannot be read",
                    convert::unreadable(name, dtype)
                )));
            }
        }
        let wanted = self.trace.weights.iter().map(|w| w.name.as_str());
        let (wanted, dialect): (HashSet<&str>, _) = (wanted.collect(), arch.dialect());
        let unused = |name: &&String| !wanted.contains(name.as_str()) && !dialect.ignores(name);
        for name in index.tensors.keys().filter(unused) {
            if is_bias_of_nothing(index, name)? {
                continue;
            }
            return Err(Error::rule(format!(
                "the file has {name}, which the architecture {} with this config does not use: the model would compute something else",
                arch.name()
            )));
        }
        let kept = index.tensors.values().any(convert::can_keep);
        if self.options.quant == Some(Quant::Gguf) && !kept {
            let mut few = index.tensors.values().map(|t| &t.format);
            let is_few = |format: &&Format| matches!(format, Format::Block(_) | Format::Packed(_));
            return Err(match few.find(is_few) {
                Some(Format::Packed(packed)) => Error::rule(format!(
                    "a base quantised as its GGUF file is needs a GGUF file, and these weights are in {}: take \
                         adapter.quant = \"nf4\"",
                    packed.kind()
                )),
                None => Error::rule(
                    "a base quantised as its GGUF file is needs a quantised GGUF file; these weights are dense",
                ),
                Some(format) => Error::rule(format!(
                    "a base quantised as its GGUF file is needs blocks that products read, and this file has \
                         {format} ones, which are only decoded: take adapter.quant = \"nf4\", or \
                         adapter.kind = \"lora\""
                )),
            });
        }
        Ok(())
    }

    fn read(
        &self,
        source: &Weights,
        compute: &Compute,
        progress: &mut dyn FnMut(u64, u64),
    ) -> Result<HashMap<String, Weight>> {
        let size = |wanted: &TracedWeight| match source {
            Weights::Stored(index) => index.tensors.get(&wanted.name).map_or(0, |t| t.len),
            Weights::Random(_) => 4 * wanted.shape.iter().product::<usize>() as u64,
        };
        let total = self.trace.weights.iter().map(size).sum();
        let (mut done, mut weights) = (0, HashMap::new());
        for wanted in &self.trace.weights {
            let weight = compute.place(self.weight(source, wanted)?)?;
            weights.insert(wanted.name.clone(), weight);
            done += size(wanted);
            progress(done, total);
        }
        Ok(weights)
    }

    /// One weight as the base holds it.
    pub(super) fn weight(&self, source: &Weights, wanted: &TracedWeight) -> Result<Weight> {
        match source {
            Weights::Stored(index) => self.stored(index, wanted),
            Weights::Random(seed) => {
                let t = random::tensor(wanted, *seed)?;
                match self.nf4(wanted) {
                    Some(double) => quantise(wanted, &t, double),
                    None => Ok(Weight::Dense(t.to_dtype(of_candle(self.dtype(wanted)))?)),
                }
            }
        }
    }

    fn stored(&self, index: &Index, wanted: &TracedWeight) -> Result<Weight> {
        let name = &wanted.name;
        let stored = find(index, wanted)?;
        let place = index.source_of(stored)?;
        let in_file = |e: Error| Error::rule(format!("{}: {e}", place.name));
        if self.keeps(wanted, stored) {
            let blocks = convert::blocks(name, stored, place).map_err(in_file)?;
            return Ok(Weight::Quant(Arc::new(blocks)));
        }
        // a checkpoint in few bits has chosen what stays dense
        let chosen = || index.tensors.values().any(convert::is_chosen);
        let anew = |_: &bool| matches!(stored.format, Format::Packed(_)) || !chosen();
        if let Some(double) = self.nf4(wanted).filter(anew) {
            let dense = convert::dense(name, stored, place, Dtype::F32)?;
            return quantise(wanted, &dense, double).map_err(in_file);
        }
        let dense = convert::dense(name, stored, place, self.dtype(wanted)).map_err(in_file)?;
        Ok(Weight::Dense(dense))
    }

    /// One weight's own values in f32: before any quantising or rounding of ours.
    pub(super) fn original(&self, source: &Weights, wanted: &TracedWeight) -> Result<Tensor> {
        match source {
            Weights::Random(seed) => random::tensor(wanted, *seed),
            Weights::Stored(index) => {
                let stored = find(index, wanted)?;
                let place = index.source_of(stored)?;
                convert::dense(&wanted.name, stored, place, Dtype::F32)
                    .map_err(|e| Error::rule(format!("{}: {e}", place.name)))
            }
        }
    }

    /// Whether a tensor stays as it is stored.
    pub(super) fn keeps(&self, wanted: &TracedWeight, stored: &Stored) -> bool {
        let asked = match &stored.format {
            Format::Block(_) => {
                self.options.quant == Some(Quant::Gguf) && convert::can_keep(stored)
            }
            Format::Bnb4(_) | Format::Packed(_) => {
                matches!(self.options.quant, Some(Quant::Nf4 { .. })) && convert::is_chosen(stored)
            }
            _ => false,
        };
        asked && wanted.shape.len() == 2 && wanted.used_as != Use::Param
    }

    /// Projections inside blocks only: head and embedding decide tokens and stay dense, as in
    /// QLoRA.
    pub(super) fn nf4(&self, wanted: &TracedWeight) -> Option<bool> {
        let Some(Quant::Nf4 { double }) = self.options.quant else {
            return None;
        };
        self.projection(wanted).map(|_| double)
    }

    /// The name of the projection inside a block that a weight belongs to.
    pub(super) fn projection<'w>(&self, wanted: &'w TracedWeight) -> Option<&'w str> {
        let projection = wanted.name.strip_suffix(".weight")?;
        // few are outside; of experts there are thousands inside
        let mut outside = self.trace.linears.iter().filter(|l| l.layer.is_none());
        let inside = wanted.used_as == Use::Linear && outside.all(|l| l.name != projection);
        inside.then_some(projection)
    }

    /// Vectors (norms, biases) and parameters are few and stay f32.
    pub(super) fn dtype(&self, wanted: &TracedWeight) -> Dtype {
        if wanted.shape.len() < 2 || wanted.used_as == Use::Param {
            Dtype::F32
        } else {
            self.options.dtype
        }
    }
}

/// Whether a tensor is a bias of zeros beside a packed matrix: older programs for GPTQ give one to
/// every projection.
fn is_bias_of_nothing(index: &Index, name: &str) -> Result<bool> {
    let weight = name.strip_suffix(".bias").map(|m| format!("{m}.weight"));
    let weight = weight.and_then(|weight| index.tensors.get(&weight));
    let packed = weight.is_some_and(|w| matches!(w.format, Format::Packed(_)));
    let Some(bias) = index.tensors.get(name).filter(|_| packed) else {
        return Ok(false);
    };
    let values = bias.numbers(name, index.source_of(bias)?)?;
    Ok(values.iter().all(|&v| v == 0.0))
}

fn quantise(wanted: &TracedWeight, t: &Tensor, double: bool) -> Result<Weight> {
    QuantMatrix::nf4(t, double)
        .map(|q| Weight::Quant(Arc::new(q)))
        .map_err(|e| Error::rule(format!("{}: {e}", wanted.name)))
}

/// A weight as it is stored.
fn find<'a>(index: &'a Index, wanted: &TracedWeight) -> Result<&'a Stored> {
    let stored = index.tensors.get(&wanted.name);
    stored.ok_or_else(|| missing(wanted, index))
}

fn missing(wanted: &TracedWeight, index: &Index) -> Error {
    let files: Vec<&str> = index.files.iter().map(|f| f.name.as_str()).collect();
    let place = match files.as_slice() {
        [one] => (*one).to_string(),
        many => format!("the {} files of the model", many.len()),
    };
    let module = wanted.name.strip_suffix(".weight").unwrap_or(&wanted.name);
    let has = |part: &&&str| index.tensors.contains_key(&format!("{module}.{part}"));
    let hint = match ["qweight", "weight_packed"].iter().find(has) {
        Some(part) => format!(
            " (it has {module}.{part}: which codes these are, quantization_config of config.json must say)"
        ),
        None if wanted.name == "lm_head.weight" => {
            " (should the config say tie_word_embeddings?)".into()
        }
        None => String::new(),
    };
    Error::rule(format!(
        "{}: config wants {}, {place} does not have it{hint}",
        wanted.name,
        tuple(&wanted.shape)
    ))
}

/// (1536, 576)
fn tuple(shape: &[usize]) -> String {
    let axes: Vec<String> = shape.iter().map(usize::to_string).collect();
    format!("({})", axes.join(", "))
}

/// candle's name of a dtype.
fn of_candle(dtype: Dtype) -> DType {
    match dtype {
        Dtype::F32 => DType::F32,
        Dtype::Bf16 => DType::BF16,
        Dtype::F16 => DType::F16,
    }
}
