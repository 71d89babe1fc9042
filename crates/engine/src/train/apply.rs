//! Where parameters and moments lie while they are trained, and the step that changes them.
//!
//! On the CPU, and with [`TrainSettings::offload_optimizer`] on a GPU, they lie in the machine's
//! memory. Otherwise on a GPU they lie on the card: gradients then never leave it, and what was
//! trained comes down when it is saved or the training is over.

use std::sync::Arc;

use candle_core::{DType, Tensor};

use super::{
    TrainSettings, Trainer,
    moments::{Moment, Moments, Which},
    optim::{Update, with_floats},
};
use crate::{
    Error, Player, Result,
    player::{Grads, Params},
};

/// Moments, where the optimiser works.
pub(super) enum Kept {
    /// In the machine's memory.
    Near(Moments),
    /// On the card, as are the parameters, which nobody else holds.
    #[cfg(feature = "cuda")]
    Card(super::on_card::Moments),
}

/// Whether the optimiser works on a GPU.
pub(super) fn on_card(player: &Player, settings: &TrainSettings) -> bool {
    player.base.compute.device.is_cuda() && !settings.offload_optimizer
}

/// A player and its moments as training wants them.
pub(super) fn placed(
    player: Player,
    settings: &TrainSettings,
    moments: Moments,
) -> Result<(Player, Kept)> {
    #[cfg(feature = "cuda")]
    if on_card(&player, settings) {
        let mut player = player;
        player.params = super::on_card::own(&player)?;
        let moments = super::on_card::Moments::new(&player, &settings.optimizer, &moments)?;
        return Ok((player, Kept::Card(moments)));
    }
    let _ = settings;
    Ok((player, Kept::Near(moments)))
}

impl Kept {
    /// Parameters in the machine's memory.
    pub(super) fn near(&self, params: &Arc<Params>) -> Result<Arc<Params>> {
        match self {
            Kept::Near(_) => Ok(params.clone()),
            #[cfg(feature = "cuda")]
            Kept::Card(_) => super::on_card::down(params),
        }
    }

    /// Moments in the machine's memory.
    pub(super) fn moments(&self) -> Result<std::borrow::Cow<'_, Moments>> {
        match self {
            Kept::Near(moments) => Ok(std::borrow::Cow::Borrowed(moments)),
            #[cfg(feature = "cuda")]
            Kept::Card(moments) => Ok(std::borrow::Cow::Owned(moments.down()?)),
        }
    }
}

impl Trainer {
    /// Applies the gradients; a parameter that got none has a zero gradient. What has one axis, a
    /// norm or a bias, does not decay: that would pull it towards nothing.
    pub(super) fn update(&mut self, mut grads: Grads, step: &Update) -> Result<()> {
        self.fits(&grads)?;
        let optimizer = self.settings.optimizer;
        #[cfg(feature = "cuda")]
        if let Kept::Card(moments) = &self.moments {
            moments.step(&optimizer, &self.player.params, &grads, step)?;
            // what was made of them is old now: see `Compute::uploaded`
            self.player.params = Arc::new(self.player.params.as_ref().clone());
            return Ok(());
        }
        #[allow(irrefutable_let_patterns, reason = "there is one place without a GPU")]
        let Kept::Near(moments) = &mut self.moments else {
            return Ok(());
        };
        // the map's tensors are shared with frozen players; replacing them here leaves those
        // untouched
        let params = Arc::make_mut(&mut self.player.params);
        for (name, param) in params.iter_mut() {
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
            let step = Update { decay, ..*step };
            let mut values = with_floats(param, |w| w.to_vec())?;
            with_floats(&gradient, |g| {
                optimizer.update(&mut values, g, first, second, &step)
            })??;
            *param = Tensor::from_vec(values, param.shape(), param.device())?;
        }
        Ok(())
    }

    /// Whether every gradient is a parameter's.
    fn fits(&self, grads: &Grads) -> Result<()> {
        for (name, gradient) in grads {
            let Some(param) = self.player.params.get(name) else {
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
}
