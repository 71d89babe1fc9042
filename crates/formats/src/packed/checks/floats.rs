//! What is refused of FP8.

use super::{
    refusals::{Refusal, check, refused, remove},
    *,
};

/// Settings of FP8.
const FP8: &[Refusal] = &[
    (
        "fp8-blocks",
        |q| q["fmt"] = json!("e5m2"),
        "fmt is \"e5m2\"",
    ),
    (
        "fp8-blocks",
        |q| q["scale_fmt"] = json!("int"),
        "scale_fmt is \"int\"",
    ),
    (
        "fp8-blocks",
        |q| q["expert_dtype"] = json!("fp4"),
        "expert_dtype is \"fp4\"",
    ),
    (
        "fp8-blocks",
        |q| q["activation_scheme"] = json!("no"),
        "activation_scheme is",
    ),
    (
        "fp8-blocks",
        |q| q["weight_block_size"] = json!([8]),
        "it must be two sizes",
    ),
    (
        "fp8-blocks",
        |q| q["weight_block_size"] = json!([8, 0]),
        "two sizes above 0",
    ),
    (
        "fp8-blocks",
        |q| q["weight_block_size"] = json!([16, 16]),
        "for scales of blocks of 16 x 16, a matrix of 24 x 32 has [2, 2]",
    ),
    (
        "fp8-blocks",
        |q| remove(q, "weight_block_size"),
        "names no blocks",
    ),
    (
        "fp8-blocks",
        |q| q["ignored_layers"] = json!(["m"]),
        "m is not quantised",
    ),
    (
        "fp8-powers-as-bytes",
        |q| remove(q, "scale_fmt"),
        "is stored as U8",
    ),
    (
        "fp8-tensor",
        |q| q["quant_method"] = json!("fbgemm_fp8"),
        "for scales of rows",
    ),
];

#[test]
fn fp8s_settings() {
    check(FP8);
    let mut none = case("fp8-rows");
    none.index.tensors.remove("m.weight_scale");
    assert!(refused(&mut none).contains("it has 0 of weight_scale_inv and weight_scale"));
    let mut both = case("fp8-rows");
    let scale = both.index.tensors["m.weight_scale"].clone();
    both.index
        .tensors
        .insert("m.weight_scale_inv".into(), scale);
    assert!(refused(&mut both).contains("it has 2 of"));
    let mut stack = case("fp8-rows");
    let weight = stack.index.tensors["m.weight"].clone();
    stack
        .index
        .tensors
        .insert("m.experts.gate_up_proj".into(), weight);
    assert!(refused(&mut stack).contains("m.experts.gate_up_proj is stored as F8_E4M3"));
    let mut five = case("fp8-rows");
    five.index.tensors.get_mut("m.weight").unwrap().format = crate::Format::Other("F8_E5M2".into());
    assert!(refused(&mut five).contains("in F8_E5M2, [16, 24] in F8_E4M3 is wanted"));
}
