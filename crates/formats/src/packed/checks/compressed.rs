//! What is refused of compressed-tensors.

use super::{
    refusals::{Refusal, check, refused, remove},
    *,
};

fn weights(q: &mut Value) -> &mut Value {
    &mut q["config_groups"]["group_0"]["weights"]
}

/// Settings of the whole model.
const MODEL: &[Refusal] = &[
    (
        "ct-pack-4",
        |q| q["quantization_status"] = json!("frozen"),
        "is \"frozen\"",
    ),
    (
        "ct-pack-4",
        |q| remove(q, "quantization_status"),
        "quantization_status is absent",
    ),
    (
        "ct-pack-4",
        |q| q["transform_config"] = json!({"a": 1}),
        "rotated weights",
    ),
    (
        "ct-pack-4",
        |q| q["sparsity_config"] = json!({"format": "sparse-24-bitmask"}),
        "sparsity_config: format is \"sparse-24-bitmask\"",
    ),
    (
        "ct-pack-4",
        |q| q["format"] = json!("marlin-24"),
        "format \"marlin-24\" of weights",
    ),
    (
        "ct-pack-4",
        |q| q["format"] = json!("nvfp4-pack-quantized"),
        "cannot be read",
    ),
    (
        "ct-pack-4",
        |q| remove(q, "format"),
        "format \"\" of weights of the type int",
    ),
    (
        "ct-float",
        |q| q["format"] = json!("pack-quantized"),
        "of the type float cannot",
    ),
    (
        "ct-pack-4",
        |q| remove(q, "config_groups"),
        "config_groups is absent",
    ),
    (
        "ct-pack-4",
        |q| q["config_groups"] = json!({}),
        "no group has weights",
    ),
    (
        "ct-pack-4",
        |q| {
            q["config_groups"]["b"] = q["config_groups"]["group_0"].clone();
            q["config_groups"]["b"]["weights"]["num_bits"] = json!(8);
        },
        "groups whose weights are stored in different ways",
    ),
    (
        "ct-pack-4",
        |q| q["ignore"] = json!(["m"]),
        "ignore of the configuration names it",
    ),
];

#[test]
fn compressed_tensors_settings() {
    check(MODEL);
}

/// Settings of a group of modules.
const WEIGHTS: &[Refusal] = &[
    (
        "ct-pack-4",
        |q| remove(weights(q), "type"),
        "type is absent",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["num_bits"] = json!(16),
        "num_bits is 16",
    ),
    (
        "ct-float",
        |q| weights(q)["num_bits"] = json!(4),
        "num_bits is 4: of [8]",
    ),
    (
        "ct-pack-4",
        |q| remove(weights(q), "symmetric"),
        "symmetric is absent",
    ),
    (
        "ct-float",
        |q| weights(q)["symmetric"] = json!(false),
        "floats with zero points",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["dynamic"] = json!(true),
        "dynamic is true",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["actorder"] = json!("group"),
        "actorder is \"group\"",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["actorder"] = json!(true),
        "actorder is true",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["strategy"] = json!("tensor_group"),
        "strategy is",
    ),
    (
        "ct-pack-4",
        |q| remove(weights(q), "strategy"),
        "strategy is absent",
    ),
    (
        "ct-pack-4",
        |q| remove(weights(q), "group_size"),
        "group_size is absent",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["group_size"] = json!(24),
        "groups of 24 columns do not divide",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["group_size"] = json!(64),
        "for scales of 64 columns",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["strategy"] = json!("channel"),
        "for scales of rows",
    ),
    (
        "ct-float",
        |q| weights(q)["strategy"] = json!("block"),
        "block_structure is absent",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["num_bits"] = json!(8),
        "which are not 64 codes of 8",
    ),
    (
        "ct-pack-4",
        |q| weights(q)["symmetric"] = json!(false),
        "lacks its weight_zero_point",
    ),
    (
        "ct-int-asym",
        |q| weights(q)["symmetric"] = json!(true),
        "is not 0",
    ),
];

#[test]
fn compressed_tensors_weights() {
    check(WEIGHTS);
    let mut none = case("ct-pack-4");
    none.index.tensors.remove("m.weight_shape");
    assert!(refused(&mut none).contains("m (compressed-tensors): the file lacks m.weight_shape"));
    // 8 rows of 65 codes would be as many words, but not these
    let said = refused(&mut edited("ct-pack-4", &[("m.weight_shape", 8, 65)]));
    assert!(
        said.contains("rows of 8 words, which are not 65 codes of 4 bits"),
        "{said}"
    );
    // 20 codes of 3 bits take two words in either arrangement
    let said = refused(&mut edited("ct-pack-3", &[("m.weight_shape", 8, 20)]));
    assert!(said.contains("are not 20 codes"), "{said}");
}

/// Rows of 20 codes of 3 bits take two words as a stream and with ten codes in each.
#[test]
fn words_that_may_be_either_are_refused() {
    let mut case = edited("ct-pack-3", &[("m.weight_shape", 8, 20)]);
    let packed = case.index.tensors.get_mut("m.weight_packed").unwrap();
    packed.shape = vec![8, 2];
    packed.len = 64;
    let q = &mut case.config["quantization_config"];
    weights(q)["strategy"] = json!("channel");
    let scale = case.index.tensors.get_mut("m.weight_scale").unwrap();
    scale.shape = vec![8, 1];
    scale.len = 16;
    let said = refused(&mut case);
    assert!(said.contains("which it is cannot be told"), "{said}");
}
