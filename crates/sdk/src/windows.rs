//! [`Windows`]: the sliding window of each layer.

use crate::{Config, Layers, Result};

/// The sliding window of each layer in tokens: one length, in some of the layers.
pub struct Windows {
    /// `None`: all earlier tokens are seen, in every layer.
    window: Option<usize>,
    /// The layers that have the window.
    layers: Layers,
}

impl Windows {
    /// No layer has a window.
    pub const NONE: Windows = Windows {
        window: None,
        layers: Layers::ALL,
    };

    /// The same window in every layer, whatever `layer_types` says.
    ///
    /// # Errors
    /// A window of 0.
    pub fn everywhere(c: &Config, window: Option<usize>) -> Result<Windows> {
        match window {
            Some(0) => Err(c.error("sliding_window", "is 0: no token would see itself")),
            _ => Ok(Windows {
                window,
                layers: Layers::ALL,
            }),
        }
    }

    /// Those of `layers` layers where the configuration's window is `window`: in the layers that
    /// `layer_types` names, or without that key in those of `unless_named`.
    ///
    /// # Errors
    /// A window of 0; `layer_types` of another length, with another kind of layer, or with windows
    /// where there is none.
    pub fn read(
        c: &Config,
        layers: usize,
        window: Option<usize>,
        unless_named: Layers,
    ) -> Result<Windows> {
        let everywhere = Windows::everywhere(c, window)?;
        let Some(kinds) = layer_types(c, layers)? else {
            return Ok(Windows {
                layers: unless_named,
                ..everywhere
            });
        };
        let one = |kind: &&str| match (*kind, window) {
            ("full_attention" | "attention", _) => Ok(false),
            ("sliding_attention", Some(_)) => Ok(true),
            ("sliding_attention", None) => {
                let what = "asks for sliding_attention, but sliding_window is null or not in use";
                Err(c.error("layer_types", what))
            }
            (other, _) => {
                let what = format!("has \"{other}\"; supported: full_attention, sliding_attention");
                Err(c.error("layer_types", &what))
            }
        };
        let layers = Layers::Listed(kinds.iter().map(one).collect::<Result<_>>()?);
        Ok(Windows { window, layers })
    }

    /// Qwen's: only with `use_sliding_window`, whatever `sliding_window` says (4096 where it is
    /// absent), and from layer `max_window_layers` (28) on.
    ///
    /// # Errors
    /// As [`Windows::read`]; a key of another type.
    pub fn in_use(c: &Config, layers: usize) -> Result<Windows> {
        let used = c.bool_or("use_sliding_window", false)?;
        let window = c
            .usize_unless_null("sliding_window", 4096)?
            .filter(|_| used);
        let first = c.usize_or("max_window_layers", 28)?;
        Windows::read(c, layers, window, Layers::From(first))
    }

    /// Gemma's and OLMo 3's: in the layers that `layer_types` names, or without that key in all but
    /// every `n`-th; of 4096 tokens where `sliding_window` is absent.
    ///
    /// # Errors As [`Windows::read`]; a `sliding_window` of `null`, unless `layer_types` names no
    /// such layer.
    pub fn but_every(c: &Config, layers: usize, n: usize) -> Result<Windows> {
        let window = c.usize_unless_null("sliding_window", 4096)?;
        if window.is_none() && !c.has("layer_types") {
            return Err(c.error(
                "sliding_window",
                "is null, and this architecture has windows",
            ));
        }
        Windows::read(c, layers, window, Layers::ButEvery(n))
    }

    /// The window of a layer.
    pub fn of(&self, layer: usize) -> Option<usize> {
        self.window.filter(|_| self.layers.has(layer))
    }

    /// The layers that have the window, where there is one at all.
    pub fn layers(&self) -> &Layers {
        &self.layers
    }
}

/// The configuration's `layer_types`, one a layer, if it has any.
///
/// # Errors
/// Another number of them than there are layers.
pub(crate) fn layer_types(c: &Config, layers: usize) -> Result<Option<Vec<&str>>> {
    let kinds = c.strs("layer_types")?;
    match &kinds {
        Some(kinds) if kinds.len() != layers => {
            let what = format!("has {} entries for {layers} layers", kinds.len());
            Err(c.error("layer_types", &what))
        }
        _ => Ok(kinds),
    }
}
