//! Where an op's weights come from: the player's own tensors first, then the base.

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{Arc, Mutex},
};

use candle_core::Tensor;
use randori_kernels::{Gain, OnCandle, Result, Weight};
use randori_sdk::seam::{Architecture, Id};

use super::{Player, probe::Probe};
use crate::{
    Params,
    head::{self, HEAD},
    tape::{Matrix, Model, Update, Vector},
    trace::{TracedCarried, call::last_uses},
};

/// The gains of one player's projections (DoRA): they hold for as long as its parameters do, one
/// training pass or one generation.
#[derive(Default)]
pub(crate) struct Gains(pub(crate) Mutex<HashMap<String, Arc<Gain>>>);

/// The weights of one player in a pass, on the device that the pass runs on.
pub(crate) struct PassWeights<'a> {
    pub(crate) player: &'a Player,
    /// The player's own tensors, where the pass runs.
    params: Arc<Params>,
    pub(crate) gains: Arc<Gains>,
    /// The embedding that the head shares in the base, where the player may have learnt something
    /// of one of the two.
    tied: Option<String>,
    /// Keeps what the projections multiply.
    probe: Option<Rc<Probe>>,
}

impl<'a> PassWeights<'a> {
    /// A player's weights, with the DoRA gains that are known of it already.
    pub(crate) fn new(player: &'a Player, gains: Arc<Gains>) -> Result<Self> {
        let spec = player.lora.as_deref();
        let tied = head::embedding_of(player.base.arch.as_ref(), spec, &player.params)?;
        Ok(PassWeights {
            player,
            params: player.params_on_device()?,
            gains,
            tied,
            probe: None,
        })
    }

    /// The same with a probe, which keeps what the projections multiply.
    pub(crate) fn with_probe(mut self, probe: Option<Rc<Probe>>) -> Self {
        self.probe = probe;
        self
    }

    /// The player's own or the base's weight of this name.
    fn either<K: OnCandle>(&self, name: &str, shape: (usize, usize)) -> Result<Matrix<K>, String> {
        let full = format!("{name}.weight");
        match self.params.get(&full) {
            Some(own) => owned(own, full, shape),
            None => self.bases(full, shape),
        }
    }

    /// The base's weight of this full name.
    fn bases<K: OnCandle>(&self, full: String, shape: (usize, usize)) -> Result<Matrix<K>, String> {
        let weight = match self.player.base.weights.get(&full) {
            Some(Weight::Dense(w)) => Weight::Dense(self.on_device(w)?),
            Some(other) => other.clone(),
            None => return Err(format!("the model has no weight `{full}`")),
        };
        check(&full, &weight.shape(), &[shape.0, shape.1])?;
        Ok(Matrix { weight, own: None })
    }

    /// The player's own or the base's tensor of this full name, which is never quantised.
    fn dense<K: OnCandle>(&self, full: String, shape: &[usize]) -> Result<Vector<K>, String> {
        let known = self.player.base.weights.get(&full);
        let (values, own) = match (self.params.get(&full), known) {
            (Some(own), _) => (own.clone(), Some(full.clone())),
            (None, Some(Weight::Dense(w))) => (self.on_device(w)?, None),
            (None, Some(_)) => {
                return Err(format!(
                    "`{full}` is quantised, but norms, biases and parameters must be dense"
                ));
            }
            (None, None) => return Err(format!("the model has no weight `{full}`")),
        };
        check(&full, values.dims(), shape)?;
        Ok(Vector { values, own })
    }

    fn on_device(&self, w: &Tensor) -> Result<Tensor, String> {
        self.player
            .base
            .compute
            .on_device(w)
            .map_err(|e| e.to_string())
    }
}

impl<K: OnCandle> Model<K> for PassWeights<'_> {
    fn arch(&self) -> &dyn Architecture {
        self.player.base.arch.as_ref()
    }

    /// Traces the block once more, on shapes: worth it where values are large.
    fn last_uses(
        &self,
        layer: usize,
        width: usize,
        carried: &[TracedCarried],
    ) -> Option<Arc<[Vec<Id>]>> {
        let arch = self.player.base.arch.as_ref();
        last_uses(arch, layer, width, carried).map(Arc::from)
    }

    fn matrix(&self, _: &K, name: &str, shape: (usize, usize)) -> Result<Matrix<K>, String> {
        self.either(name, shape)
    }

    fn projection(&self, _: &K, name: &str, shape: (usize, usize)) -> Result<Matrix<K>, String> {
        if self.tied.as_deref() != Some(name) {
            return self.either(name, shape);
        }
        let (own, shared) = (head::weight(HEAD), head::weight(name));
        if let Some(t) = self.params.get(&own) {
            return owned(t, own, shape);
        }
        let spec = self.player.lora.as_ref();
        match spec.is_some_and(|spec| spec.replaced.contains(&shared)) {
            true => self.either::<K>(name, shape),
            false => self.bases::<K>(shared, shape),
        }
    }

    fn vector(&self, _: &K, full: String, shape: &[usize]) -> Result<Vector<K>, String> {
        self.dense(full, shape)
    }

    fn param(&self, _: &K, full: &str, shape: &[usize]) -> Result<Vector<K>, String> {
        let Vector { values, own } = self.dense::<K>(full.to_string(), shape)?;
        let values = self.player.base.compute.activation(&values);
        let values = values.map_err(|e| e.to_string())?;
        Ok(Vector { values, own })
    }

    fn goes_by<'n>(&self, name: &'n str) -> &'n str {
        if self.tied.as_deref() == Some(name) {
            HEAD
        } else {
            name
        }
    }

    fn update(&self, name: &str) -> Option<Update<K>> {
        let spec = self.player.lora.as_ref()?;
        Some(Update {
            lora: spec.update(&self.params, name)?,
            dropout: spec.dropout,
        })
    }

    fn gain(
        &self,
        kernels: &K,
        name: &str,
        matrix: &Matrix<K>,
        update: &Update<K>,
    ) -> Result<Option<Arc<Gain>>> {
        self.known_gain(kernels, name, matrix, &update.lora)
    }

    fn see(&self, kernels: &K, projection: &str, x: &Tensor) -> Result<()> {
        match &self.probe {
            Some(probe) => probe.see(kernels, projection, x),
            None => Ok(()),
        }
    }
}

/// A player's own weight.
fn owned<K: OnCandle>(
    own: &Tensor,
    full: String,
    shape: (usize, usize),
) -> Result<Matrix<K>, String> {
    check(&full, own.dims(), &[shape.0, shape.1])?;
    Ok(Matrix {
        weight: Weight::Dense(own.clone()),
        own: Some(full),
    })
}

fn check(name: &str, found: &[usize], wanted: &[usize]) -> Result<(), String> {
    if found == wanted {
        return Ok(());
    }
    Err(format!(
        "weight `{name}` has the shape {found:?}, but the architecture wants {wanted:?}"
    ))
}
