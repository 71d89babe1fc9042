//! Every field of PEFT's `LoraConfig` and how it is treated; docs/reference/adapters.md has the
//! same table.

use serde_json::{Map, Value};

use super::json::{self, Read};

/// Treatment of a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    /// Read: it affects what the adapter computes.
    Read,
    /// Ignored: it does not affect what a stored adapter computes.
    Without,
    /// Must be null, false or empty: what it asks for is not supported.
    Unset(&'static str),
}

use Field::{Read as Taken, Unset, Without};

/// The dataclass fields of peft 0.21.2, in alphabetical order.
pub(super) const FIELDS: [(&str, Field); 42] = [
    (
        "alora_invocation_tokens",
        Unset("the update would begin at a token sequence"),
    ),
    ("alpha_pattern", Taken),
    ("arrow_config", Unset("it mixes several adapters by token")),
    ("auto_mapping", Without),
    ("base_model_name_or_path", Without),
    ("bias", Taken),
    ("corda_config", Without),
    ("ensure_weight_tying", Taken),
    ("eva_config", Without),
    ("exclude_modules", Taken),
    ("fan_in_fan_out", Without), // PEFT sets it to false for torch.nn.Linear
    ("inference_mode", Without),
    ("init_lora_weights", Taken),
    (
        "kasa_config",
        Unset("it takes singular values out of the base's weights"),
    ),
    (
        "layer_replication",
        Unset("it makes a model of more layers"),
    ),
    ("layers_pattern", Without), // the layers follow from the file's tensors
    ("layers_to_transform", Taken),
    ("loftq_config", Without),
    ("lora_alpha", Taken),
    ("lora_bias", Unset("B would have a bias")),
    ("lora_dropout", Taken),
    ("lora_ga_config", Without),
    (
        "megatron_config",
        Unset("it wraps Megatron's parallel layers"),
    ),
    ("megatron_core", Without),
    ("modules_to_save", Taken),
    ("monteclora_config", Unset("it adds a sampler's tensors")),
    ("peft_type", Taken),
    ("peft_version", Without),
    ("qalora_group_size", Without),
    ("r", Taken),
    ("rank_pattern", Taken),
    ("revision", Without),
    ("runtime_config", Without),
    ("target_modules", Taken),
    ("target_parameters", Taken),
    ("task_type", Without),
    (
        "trainable_token_indices",
        Unset("it updates rows of the embedding"),
    ),
    ("use_bdlora", Unset("its halves are block-diagonal")),
    ("use_dora", Taken),
    ("use_qalora", Unset("it averages inputs in groups")),
    ("use_rslora", Taken),
    (
        "velora_config",
        Unset("it keeps tensors of its training in the file"),
    ),
];

/// Refuses a field that asks for something unsupported.
pub(super) fn supported(config: &Map<String, Value>) -> Read<()> {
    for (key, field) in &FIELDS {
        let Unset(why) = field else { continue };
        let value = config.get(*key).unwrap_or(&Value::Null);
        let empty = match value {
            Value::Object(map) => map.is_empty(),
            Value::Array(list) => list.is_empty(),
            Value::Null | Value::Bool(false) => true,
            Value::Bool(_) | Value::String(_) | Value::Number(_) if is_flag(key) => {
                !json::flag(config, key)?
            }
            _ => false,
        };
        if !empty {
            return Err(format!("{key} is {value}, which is not supported: {why}"));
        }
    }
    Ok(())
}

fn is_flag(key: &str) -> bool {
    ["lora_bias", "use_qalora"].contains(&key)
}
