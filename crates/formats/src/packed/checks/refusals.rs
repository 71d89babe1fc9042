//! What is refused: every setting that means another arrangement, or is absent where the
//! arrangement depends on it, and every contradiction between the settings and the tensors.

use super::*;

/// A case, what becomes of its `quantization_config`, and what the error says.
pub(super) type Refusal = (&'static str, fn(&mut Value), &'static str);

pub(super) fn refused(case: &mut Case) -> String {
    let joined = join(&mut case.index, &case.config);
    joined.err().map_or(String::new(), |e| e.to_string())
}

pub(super) fn check(refusals: &[Refusal]) {
    for (name, change, says) in refusals {
        let mut case = case(name);
        change(&mut case.config["quantization_config"]);
        let said = refused(&mut case);
        assert!(
            said.contains(says),
            "{name}: {said:?} does not say {says:?}"
        );
    }
}

pub(super) fn remove(value: &mut Value, key: &str) {
    value.as_object_mut().unwrap().remove(key);
}

/// Settings of GPTQ.
const GPTQ: &[Refusal] = &[
    (
        "gptq-4-sym",
        |q| q["bits"] = json!(5),
        "bits is 5: of [2, 3, 4, 8]",
    ),
    (
        "gptq-4-sym",
        |q| remove(q, "bits"),
        "(gptq): bits is absent",
    ),
    (
        "gptq-4-sym",
        |q| q["group_size"] = json!(0),
        "group_size is 0",
    ),
    (
        "gptq-4-sym",
        |q| remove(q, "group_size"),
        "group_size is absent",
    ),
    (
        "gptq-4-sym",
        |q| remove(q, "sym"),
        "sym is absent: how codes",
    ),
    (
        "gptq-4-sym",
        |q| remove(q, "desc_act"),
        "desc_act is absent",
    ),
    (
        "gptq-4-sym",
        |q| q["sym"] = json!("yes"),
        "sym is \"yes\": it must be true",
    ),
    (
        "gptq-4-sym",
        |q| q["checkpoint_format"] = json!("marlin"),
        "checkpoint_format is \"marlin\": gptq and gptq_v2",
    ),
    (
        "gptq-4-sym",
        |q| q["format"] = json!("gptq_v2"),
        "format is \"gptq_v2\": checkpoint_format says another",
    ),
    (
        "gptq-4-sym",
        |q| q["checkpoint_format"] = json!("gptq_v2"),
        "m (gptq): sym is true, so that all zero points must be 8, and one is 7",
    ),
    (
        "gptq-4-cut",
        |q| q["sym"] = json!(true),
        "must be 8, and one is",
    ),
    (
        "gptq-4-act",
        |q| q["desc_act"] = json!(false),
        "desc_act is false, but g_idx",
    ),
    (
        "gptq-4-sym",
        |q| q["group_size"] = json!(16),
        "64 inputs in groups of 16 are not 2",
    ),
    (
        "gptq-4-sym",
        |q| q["bits"] = json!(8),
        "has the shape [8, 16] in I32, [16, 16]",
    ),
    (
        "gptq-4-sym",
        |q| q["pack_dtype"] = json!("int16"),
        "pack_dtype is \"int16\"",
    ),
    (
        "gptq-4-sym",
        |q| q["is_marlin_format"] = json!(true),
        "is_marlin_format is true",
    ),
    (
        "gptq-4-sym",
        |q| q["dynamic"] = json!({"+:x": {"bits": 8}}),
        "dynamic is {",
    ),
    (
        "gptq-4-sym",
        |q| q["modules_to_not_convert"] = json!(["m"]),
        "says that m is not quantised, but it is",
    ),
    (
        "awq-4",
        |q| q["quant_method"] = json!("fp8"),
        "(fp8): no weight of the model is in 8-bit floats",
    ),
    (
        "awq-4",
        |q| q["quant_method"] = json!("hqq"),
        "quantised by hqq",
    ),
];

#[test]
fn gptqs_settings() {
    check(GPTQ);
    let mut skipping = case("gptq-4-sym");
    skipping.config["quantization_config"]["dynamic"] = json!({"-:lm_head": {}});
    assert_eq!(refused(&mut skipping), "");
}

#[test]
fn gptqs_tensors() {
    for (part, says) in [
        ("scales", "m (gptq): the file lacks m.scales"),
        ("qzeros", "the file lacks m.qzeros"),
        ("g_idx", "desc_act is true, but the file lacks its g_idx"),
    ] {
        let mut case = case("gptq-4-act");
        case.index.tensors.remove(&format!("m.{part}"));
        let said = refused(&mut case);
        assert!(said.contains(says), "{said}");
    }
    for (name, edit, says) in [
        (
            "gptq-4-act",
            ("m.g_idx", 0, 2),
            "g_idx names a group that is not one of 2",
        ),
        ("gptq-4-act", ("m.g_idx", 3, 255), "g_idx names a group"),
        (
            "gptq-4-cut",
            ("m.qzeros", 0, 0xff),
            "a zero point is stored as 15, less one",
        ),
    ] {
        let said = refused(&mut edited(name, &[edit]));
        assert!(said.contains(says), "{said}");
    }
}

/// Settings of AWQ.
const AWQ: &[Refusal] = &[
    (
        "awq-4",
        |q| q["bits"] = json!(3),
        "(awq): bits is 3: of [4]",
    ),
    ("awq-4", |q| remove(q, "bits"), "bits is absent"),
    (
        "awq-4",
        |q| q["zero_point"] = json!(false),
        "zero_point is false",
    ),
    ("awq-4", |q| remove(q, "zero_point"), "zero_point is absent"),
    (
        "awq-4",
        |q| q["version"] = json!("gemv"),
        "version is \"gemv\": gemm can",
    ),
    (
        "awq-4",
        |q| q["checkpoint_format"] = json!("marlin"),
        "checkpoint_format is",
    ),
    (
        "awq-4",
        |q| q["backend"] = json!("llm-awq"),
        "backend is \"llm-awq\"",
    ),
    (
        "awq-4",
        |q| q["group_size"] = json!(16),
        "64 inputs are not 2 groups of 16",
    ),
    ("awq-4", |q| remove(q, "group_size"), "group_size is absent"),
    (
        "awq-4",
        |q| q["modules_to_not_convert"] = json!("m"),
        "it must be a list",
    ),
];

#[test]
fn awqs_settings() {
    check(AWQ);
}

#[test]
fn mxfp4s_tensors() {
    let mut none = case("mxfp4");
    none.index.tensors.remove("m.experts_scales");
    assert!(refused(&mut none).contains("m.experts (mxfp4): the file lacks m.experts_scales"));
    let mut other = case("mxfp4");
    other
        .index
        .tensors
        .get_mut("m.experts_scales")
        .unwrap()
        .shape = vec![3, 6, 3];
    assert!(refused(&mut other).contains("has the shape [3, 6, 3] in U8, [3, 6, 2]"));
    check(&[(
        "awq-4",
        |q| q["quant_method"] = json!("mxfp4"),
        "(mxfp4): no tensor of the model is called …_blocks",
    )]);
    let mut case = edited("mxfp4", &[("m.experts_scales", 1, 255)]);
    join(&mut case.index, &case.config).unwrap();
    let stored = &case.index.tensors["m.experts"];
    let crate::Format::Packed(packed) = &stored.format else {
        panic!("{}", stored.format);
    };
    let codes = bytes(&case.index, stored);
    let read = packed.reader("m", &codes[..stored.len as usize / 3]);
    let said = read.err().unwrap().to_string();
    assert!(
        said.contains("has the exponent 255, which is no number"),
        "{said}"
    );
}
