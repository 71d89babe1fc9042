//! Keys that are given and that no verb reads beside the others: they say how something would be
//! done that the recipe does not choose. (A key that asks for a thing which cannot be had beside
//! the others, as `train.offload_inputs` without a GPU, is refused instead.)

use super::{AdapterKind, OptimizerKind, Recipe, Validation};

/// Keys that are read with one choice alone.
struct Belongs {
    keys: &'static [&'static str],
    /// Whether the recipe makes that choice, for some verb.
    chosen: fn(&Recipe) -> bool,
    /// The choice, in a recipe's words.
    to: &'static str,
}

const BELONGS: [Belongs; 7] = [
    Belongs {
        keys: &[
            "adapter.rank",
            "adapter.alpha",
            "adapter.rslora",
            "adapter.dropout",
            "adapter.targets",
            "adapter.exclude",
            "adapter.rank_pattern",
            "adapter.alpha_pattern",
            "adapter.dora",
            "adapter.modules_to_save",
        ],
        chosen: |r| r.adapter.kind != AdapterKind::Full,
        to: "adapter.kind = \"lora\" or \"qlora\"",
    },
    // `double_quant` is read by an export to bitsandbytes too, whatever the kind
    Belongs {
        keys: &["adapter.quant"],
        chosen: |r| r.adapter.kind == AdapterKind::Qlora,
        to: "adapter.kind = \"qlora\"",
    },
    Belongs {
        keys: &["train.beta1", "train.beta2"],
        chosen: |r| optimizers(r).iter().any(|o| *o != OptimizerKind::RmsProp),
        to: "train.optimizer or sft.optimizer = \"adamw\" or \"adamw_8bit\"",
    },
    Belongs {
        keys: &["train.alpha", "train.momentum"],
        chosen: |r| optimizers(r).contains(&OptimizerKind::RmsProp),
        to: "train.optimizer or sft.optimizer = \"rmsprop\"",
    },
    Belongs {
        keys: &["game.stop_noise", "game.stop_margin"],
        chosen: |r| r.game.stop_patience > 0,
        to: "game.stop_patience above 0",
    },
    Belongs {
        keys: &["compare.choose", "compare.lrs", "compare.epochs"],
        chosen: |r| r.compare.continued_sft,
        to: "compare.continued_sft = true",
    },
    Belongs {
        keys: &["data.validation_share"],
        chosen: |r| r.data.validation != Validation::Off && r.data.validation.sets().is_empty(),
        to: "an empty data.validation",
    },
];

fn optimizers(recipe: &Recipe) -> [OptimizerKind; 2] {
    [recipe.train.optimizer, recipe.sft.optimizer]
}

impl Recipe {
    /// Keys given with another value than their default that nothing reads, a sentence each.
    pub fn unread(&self) -> Vec<String> {
        let values = self.values();
        let defaults = Recipe::without_file(&[]).map(|recipe| recipe.values());
        let defaults = defaults.unwrap_or_default();
        let mut unread = Vec::new();
        for belongs in BELONGS.iter().filter(|belongs| !(belongs.chosen)(self)) {
            for key in belongs.keys {
                let value = values.get(*key).filter(|v| defaults.get(*key) != Some(*v));
                if let Some(value) = value.filter(|_| self.places.contains_key(*key)) {
                    let (place, to) = (self.place(key), belongs.to);
                    let line = format!("{place}: {key} = {value} is not read: it belongs to {to}");
                    unread.push(line);
                }
            }
        }
        unread
    }
}
