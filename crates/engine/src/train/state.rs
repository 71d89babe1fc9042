//! Where parameters and moments lie while they are trained, and the update that changes them.
//!
//! On the CPU, and with [`TrainSettings::offload_optimizer`] on a GPU, they lie in the machine's
//! memory. Otherwise on a GPU they lie on the card: gradients then never leave it, and what was
//! trained comes down when it is saved or the training is over.

use std::{borrow::Cow, sync::Arc};

use candle_core::{DType, Tensor};
use randori_kernels::{Error, Result};

use super::{
    moments::{Moment, Moments, Which},
    optim::{Optimizer, OptimizerStep, with_floats},
    settings::TrainSettings,
};
use crate::{
    params::{Grads, Params},
    player::Player,
};

/// The optimiser's moments, on the device on which it works.
pub(super) enum OptimizerState {
    /// In the machine's memory.
    Host(Moments),
    /// On the card, as are the parameters, which nobody else holds.
    #[cfg(feature = "cuda")]
    Device(super::on_card::DeviceMoments),
}

/// Whether the optimiser works on a GPU.
pub(super) fn optimises_on_gpu(player: &Player, settings: &TrainSettings) -> bool {
    player.base.compute.device.is_cuda() && !settings.offload_optimizer
}

impl OptimizerState {
    /// Moments of steps before (none: zeros) on the optimiser's device, whither the player's
    /// parameters are moved.
    ///
    /// # Errors
    /// A GPU without memory for them.
    pub(super) fn new(
        player: &mut Player,
        settings: &TrainSettings,
        moments: Moments,
    ) -> Result<Self> {
        #[cfg(feature = "cuda")]
        if optimises_on_gpu(player, settings) {
            use super::on_card::{DeviceMoments, upload_params};
            player.params = upload_params(player)?;
            let moments = DeviceMoments::new(player, &settings.optimizer, &moments)?;
            return Ok(OptimizerState::Device(moments));
        }
        let _ = (player, settings);
        Ok(OptimizerState::Host(moments))
    }

    /// Parameters in the machine's memory.
    pub(super) fn download_params(&self, params: &Arc<Params>) -> Result<Arc<Params>> {
        match self {
            OptimizerState::Host(_) => Ok(params.clone()),
            #[cfg(feature = "cuda")]
            OptimizerState::Device(_) => super::on_card::download_params(params),
        }
    }

    /// Moments in the machine's memory.
    pub(super) fn download_moments(&self) -> Result<Cow<'_, Moments>> {
        match self {
            OptimizerState::Host(moments) => Ok(Cow::Borrowed(moments)),
            #[cfg(feature = "cuda")]
            OptimizerState::Device(moments) => Ok(Cow::Owned(moments.download()?)),
        }
    }

    /// Applies the gradients; a parameter that got none has a zero gradient. What has one axis, a
    /// norm or a bias, does not decay: that would pull it towards nothing.
    pub(super) fn update(
        &mut self,
        optimizer: &Optimizer,
        params: &mut Arc<Params>,
        mut grads: Grads,
        step: &OptimizerStep,
    ) -> Result<()> {
        check(params, &grads)?;
        #[cfg_attr(
            not(feature = "cuda"),
            allow(
                clippy::infallible_destructuring_match,
                reason = "there is another kind with the feature"
            )
        )]
        let moments = match self {
            #[cfg(feature = "cuda")]
            OptimizerState::Device(moments) => {
                moments.step(optimizer, params, &grads, step)?;
                // what was made of them is old now: see `Compute::upload_params`
                *params = Arc::new(Params::clone(params));
                return Ok(());
            }
            OptimizerState::Host(moments) => moments,
        };
        // the map's tensors are shared with frozen players; replacing them here leaves those
        // untouched
        for (name, param) in Arc::make_mut(params).iter_mut() {
            let n = param.elem_count();
            let gradient = match grads.remove(name) {
                Some(gradient) => gradient,
                None => Tensor::zeros(param.shape(), DType::F32, param.device())?,
            };
            let in_8_bits = optimizer.in_8_bits(n);
            let zeros = |which| move || Moment::new(which, n, in_8_bits);
            let second = moments.second.entry(name.clone());
            let second = second.or_insert_with(zeros(Which::Second));
            let mut none = Moment::new(Which::First, 0, false);
            let first = match optimizer.moments().0 {
                true => moments
                    .first
                    .entry(name.clone())
                    .or_insert_with(zeros(Which::First)),
                false => &mut none,
            };
            let decay = param.rank() > 1;
            let step = OptimizerStep { decay, ..*step };
            let mut values = with_floats(param, |w| w.to_vec())?;
            with_floats(&gradient, |g| {
                optimizer.update(&mut values, g, first, second, &step)
            })??;
            *param = Tensor::from_vec(values, param.shape(), param.device())?;
        }
        Ok(())
    }
}

/// Refuses a gradient that is no parameter's.
fn check(params: &Params, grads: &Grads) -> Result<()> {
    for (name, gradient) in grads {
        let Some(param) = params.get(name) else {
            return Err(Error::rule(format!(
                "a gradient came back for `{name}`, which is no parameter of the player"
            )));
        };
        if gradient.shape() != param.shape() {
            return Err(Error::rule(format!(
                "the gradient of `{name}` has shape {:?}, the parameter {:?}",
                gradient.dims(),
                param.dims()
            )));
        }
    }
    Ok(())
}
