//! A checkpoint that stays on disk: each weight is read when it is asked for, as
//! [`Checkpoint::load`] would hold it.

use std::{collections::HashMap, sync::Arc};

use candle_core::Tensor;
use randori_kernels::{Error, Result, Weight};
use randori_sdk::seam::Architecture;

use super::{
    checkpoint::{Checkpoint, LoadOptions, Weights},
    load::Loader,
};
use crate::{
    Base,
    base::RowSquares,
    trace::{Trace, TracedWeight, trace},
};

/// A checkpoint with its architecture, validated, of which no weight is in memory.
pub struct Stream {
    arch: Arc<dyn Architecture>,
    config: serde_json::Value,
    weights: Weights,
    trace: Trace,
    options: LoadOptions,
}

impl Checkpoint {
    /// Validates as [`Checkpoint::load`] does, and reads nothing yet.
    ///
    /// # Errors
    /// What `load` finds before it reads.
    pub fn stream(self, arch: Arc<dyn Architecture>, options: &LoadOptions) -> Result<Stream> {
        let trace = trace(&*arch)?;
        self.stream_traced(arch, trace, options)
    }

    /// [`Checkpoint::stream`] for who has traced the architecture already.
    ///
    /// # Errors
    /// As there.
    pub fn stream_traced(
        self,
        arch: Arc<dyn Architecture>,
        trace: Trace,
        options: &LoadOptions,
    ) -> Result<Stream> {
        let loader = Loader {
            trace: &trace,
            options,
        };
        loader.check(&self.weights, &*arch)?;
        Ok(Stream {
            arch,
            config: self.config,
            weights: self.weights,
            trace,
            options: *options,
        })
    }
}

impl Stream {
    /// The configuration in Hugging Face's spelling.
    pub fn config(&self) -> &serde_json::Value {
        &self.config
    }

    /// What runs it.
    pub fn arch(&self) -> &Arc<dyn Architecture> {
        &self.arch
    }

    /// What the architecture asks for.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    /// How weights would be held.
    pub fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// Every weight's full name and shape, sorted by name.
    pub fn list(&self) -> Vec<(String, Vec<usize>)> {
        let each = self.trace.weights.iter();
        let mut all: Vec<_> = each.map(|w| (w.name.clone(), w.shape.clone())).collect();
        all.sort();
        all
    }

    /// Exactly what `load` would hold under this name: dense in the load dtype, or NF4 or GGUF
    /// blocks.
    ///
    /// # Errors
    /// A name that is not in the list, or what the file or the conversion refuses.
    pub fn weight(&self, name: &str) -> Result<Weight> {
        self.loader().weight(&self.weights, self.wanted(name)?)
    }

    /// The file's own values in f32 (out, in), before any quantising or rounding of ours.
    ///
    /// # Errors
    /// A name that is not in the list, or what the file refuses.
    pub fn original(&self, name: &str) -> Result<Tensor> {
        self.loader().original(&self.weights, self.wanted(name)?)
    }

    /// A base that holds these weights only.
    pub(crate) fn some(&self, wanted: &[TracedWeight]) -> Result<Arc<Base>> {
        let mut weights = HashMap::new();
        for w in wanted {
            weights.insert(w.name.clone(), self.weight(&w.name)?);
        }
        Ok(Arc::new(Base {
            arch: self.arch.clone(),
            config: self.config.clone(),
            weights,
            squares: RowSquares::default(),
            compute: Default::default(),
        }))
    }

    fn loader(&self) -> Loader<'_> {
        Loader {
            trace: &self.trace,
            options: &self.options,
        }
    }

    fn wanted(&self, name: &str) -> Result<&TracedWeight> {
        let found = self.trace.weights.iter().find(|w| w.name == name);
        found.ok_or_else(|| Error::rule(format!("the base has no {name}")))
    }
}
