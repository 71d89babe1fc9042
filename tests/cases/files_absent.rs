//! Configuration keys that are absent or null where transformers' class needs a value. Expected
//! values as in `files`: transformers 5.24.0 on the same weights with the key set to its default.

use serde_json::{Value, json};

use super::files::{PLAIN, computed, plain};
use super::seeded::{SEEDED, Seeded, Shape, refused};
use crate::program::World;

/// transformers makes a 7B of them, whatever the tensors are.
#[test]
fn absent_sizes_are_refused_by_name() {
    let w = World::new();
    for kind in ["llama", "mistral"] {
        for size in [
            "hidden_size",
            "intermediate_size",
            "num_attention_heads",
            "num_hidden_layers",
            "vocab_size",
        ] {
            let whole = plain().with(json!({"model_type": kind}));
            let null = whole.clone().with(json!({size: null}));
            for model in [whole.without(size), null] {
                model.write(&w, "model");
                refused(&w, "model", &format!("`{size}` is missing"));
            }
        }
    }
}

/// transformers 5 fails at these nulls; transformers 4 took them as here.
#[test]
fn null_counts_as_absent_where_the_class_wants_a_value() {
    let mistral = json!({"model_type": "mistral", "sliding_window": null});
    let four = Seeded::llama(&Shape {
        heads: 4,
        kv_heads: 4,
        head_dim: 8,
        ..SEEDED
    });
    let as_many = [-55.09298, -69.05487];
    let small_eps = [-56.09306, -65.00995];
    let mut rows = vec![(
        "Mistral's key-value heads",
        four.with(mistral.clone())
            .with(json!({"num_key_value_heads": null})),
        as_many,
    )];
    for kind in [json!({}), mistral] {
        let null = |key: &str| plain().with(kind.clone()).with(json!({key: Value::Null}));
        rows.push(("hidden_act", null("hidden_act"), PLAIN));
        rows.push(("rms_norm_eps", null("rms_norm_eps"), small_eps));
    }
    computed(rows);
}
