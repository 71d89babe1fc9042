//! GGUF of families with other layers than attention, and of gpt-oss: what is written is what
//! llama.cpp's converter makes, by hand, and is read again as it was.

use std::{collections::BTreeMap, fs::File, path::Path, sync::Arc};

use candle_core::{Device, Tensor, quantized::gguf_file};
use randori_engine::{
    Base, Player, Weight,
    weights::{Dtype, LoadOptions, Quant, Source},
};
use randori_export::{GgufLoraOptions, GgufQuant, gguf_lora};
use randori_formats::gguf::{Value as Meta, model::keys};
use randori_lora::{LoraSpec, Targets};
use serde_json::{Value, json};

use crate::{
    gguf::{difference, export, hf_folder, load, logps, of_family},
    model,
    opened::family,
};

/// What distinguishes each family from the small Llama; heads of values share heads of keys, and
/// perceptrons are narrower than the configuration says.
fn families() -> [(&'static str, Value); 3] {
    let yarn = json!({"rope_type": "yarn", "factor": 4.0, "truncate": false,
        "original_max_position_embeddings": 16, "rope_theta": 900.0});
    [
        (
            "lfm2",
            json!({"norm_eps": 1e-5, "layer_types": ["conv", "full_attention"], "conv_L_cache": 4,
                "block_ff_dim": 100, "block_multiple_of": 16, "rope_theta": 900.0}),
        ),
        (
            "qwen3_5_text",
            json!({"linear_num_key_heads": 2, "linear_num_value_heads": 6,
                "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 3,
                "layer_types": ["linear_attention", "full_attention"], "head_dim": 16,
                "partial_rotary_factor": 0.5, "rope_theta": 900.0}),
        ),
        (
            "gpt_oss",
            json!({"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 4,
                "layer_types": ["sliding_attention", "full_attention"], "head_dim": 16,
                "tie_word_embeddings": false, "attention_bias": true, "rope_parameters": yarn}),
        ),
    ]
}

/// A model of this family with all weights at random.
pub fn base(name: &str, more: &Value) -> Arc<Base> {
    let config = of_family(name, more);
    let mut base = load(Source::Random { config, seed: 5 });
    for (name, weight) in &mut base.weights {
        let Weight::Dense(t) = weight else { continue };
        let noise: Vec<f32> = randori_lora::splitmix(6, name, t.elem_count())
            .map(|u| 2.0 * u as f32 - 1.0)
            .collect();
        let noise = Tensor::from_vec(noise, t.shape(), t.device()).unwrap();
        let inputs = t.dims()[1..].iter().product::<usize>().max(1);
        *t = match t.dims().len() {
            1 => (&*t + (noise * 0.5).unwrap()).unwrap(),
            _ => (noise * (2.0 / (inputs as f64).sqrt())).unwrap(),
        };
    }
    Arc::new(base)
}

/// A tensor of a file by candle's reader.
pub fn stored(path: &Path, name: &str) -> Tensor {
    let mut file = File::open(path).unwrap();
    let content = gguf_file::Content::read(&mut file).unwrap();
    let tensor = content.tensor(&mut file, name, &Device::Cpu).unwrap();
    tensor.dequantize(&Device::Cpu).unwrap()
}

/// Largest difference between two tensors of one shape.
pub fn apart(a: &Tensor, b: &Tensor) -> f32 {
    assert_eq!(a.dims(), b.dims());
    let off = (a - b).unwrap().abs().unwrap().flatten_all().unwrap();
    off.max(0).unwrap().to_scalar().unwrap()
}

#[test]
fn hybrids_are_read_as_they_were_written() {
    let dir = tempfile::tempdir().unwrap();
    for (name, more) in families() {
        let base = base(name, &more);
        let player = Player::bare(base.clone());
        let out = dir.path().join(format!("{name}.gguf"));
        export(&player, None, &out, GgufQuant::F32);
        let again = load(Source::Gguf(out));
        assert_eq!(again.config["model_type"], name);
        let folder = dir.path().join(name);
        hf_folder(&player, &folder);
        let from_folder = load(Source::Folder(folder));
        for (key, value) in more.as_object().unwrap() {
            let now = &again.config[key];
            match key.as_str() {
                // 2/3 of 100, up to a multiple of 16
                "block_ff_dim" => assert_eq!(again.config["intermediate_size"], 80),
                "block_multiple_of" => assert_eq!(again.config["block_auto_adjust_ff_dim"], false),
                _ => assert_eq!(now, value, "{name}: {key}"),
            }
        }
        assert_eq!(again.weights.len(), base.weights.len());
        for (weight, ours) in &base.weights {
            let off = apart(
                &again.weights[weight].to_f32().unwrap(),
                &ours.to_f32().unwrap(),
            );
            // norms have 1 added, rates of decay are powers of e
            assert!(off < 1e-6, "{name}: {weight} differs by {off}");
            let found = from_folder.weights[weight].to_f32().unwrap();
            let off = apart(&found, &ours.to_f32().unwrap());
            assert_eq!(off, 0.0, "{name}: {weight} of a folder");
        }
        let off = difference(&logps(&Player::bare(Arc::new(again))), &logps(&player));
        assert!(off < 2e-5, "{name}: {off}");
    }
}

/// By llama.cpp's converter (conversion/qwen.py): heads of values (keys, several) become (several,
/// keys).
#[test]
fn a_delta_rule_s_tensors_are_as_the_converter_makes_them() {
    let dir = tempfile::tempdir().unwrap();
    let [_, (name, more), _] = families();
    let base = base(name, &more);
    let out = dir.path().join("x.gguf");
    export(&Player::bare(base.clone()), None, &out, GgufQuant::F32);
    let own = |part: &str| {
        let weight = &base.weights[&format!("model.layers.0.{part}")];
        weight.to_f32().unwrap()
    };
    // rows of 2 heads of keys, 3 of values for each, of so many features
    let dealt = |t: Tensor, features: usize| {
        let shape = t.dims().to_vec();
        let columns: usize = shape[1..].iter().product();
        let t = t.reshape((2, 3, features, columns)).unwrap();
        t.transpose(0, 1)
            .unwrap()
            .contiguous()
            .unwrap()
            .reshape(shape)
            .unwrap()
    };
    let behind = |t: Tensor| {
        let (qk, v) = (t.narrow(0, 0, 32).unwrap(), t.narrow(0, 32, 48).unwrap());
        Tensor::cat(&[qk, dealt(v, 8)], 0).unwrap()
    };
    let rate = (own("linear_attn.A_log").exp().unwrap() * -1.0).unwrap();
    let out_proj = own("linear_attn.out_proj.weight").t().unwrap();
    for (part, wanted) in [
        (
            "attn_qkv.weight",
            behind(own("linear_attn.in_proj_qkv.weight")),
        ),
        (
            "attn_gate.weight",
            dealt(own("linear_attn.in_proj_z.weight"), 8),
        ),
        (
            "ssm_alpha.weight",
            dealt(own("linear_attn.in_proj_a.weight"), 1),
        ),
        (
            "ssm_beta.weight",
            dealt(own("linear_attn.in_proj_b.weight"), 1),
        ),
        ("ssm_a", dealt(rate, 1)),
        ("ssm_dt.bias", dealt(own("linear_attn.dt_bias"), 1)),
        (
            "ssm_conv1d.weight",
            behind(own("linear_attn.conv1d.weight")).squeeze(1).unwrap(),
        ),
        ("ssm_norm.weight", own("linear_attn.norm.weight")),
        (
            "ssm_out.weight",
            dealt(out_proj.contiguous().unwrap(), 8).t().unwrap(),
        ),
        (
            "attn_norm.weight",
            (own("input_layernorm.weight") + 1.0).unwrap(),
        ),
    ] {
        let off = apart(&stored(&out, &format!("blk.0.{part}")), &wanted);
        assert!(off < 1e-6, "{part} differs by {off}");
    }
}

#[test]
fn sizes_of_hybrids_are_written_under_llama_cpp_s_keys() {
    let wanted: [&[(&str, Meta)]; 3] = [
        &[
            ("lfm2.attention.head_count_kv", Meta::Ints(vec![0, 2])),
            ("lfm2.shortconv.l_cache", Meta::Int(4)),
        ],
        &[
            ("qwen35.ssm.state_size", Meta::Int(8)),
            ("qwen35.ssm.inner_size", Meta::Int(48)),
            ("qwen35.ssm.time_step_rank", Meta::Int(6)),
            ("qwen35.ssm.group_count", Meta::Int(2)),
            ("qwen35.ssm.conv_kernel", Meta::Int(3)),
            ("qwen35.full_attention_interval", Meta::Int(4)),
            (
                "qwen35.attention.recurrent_layers",
                Meta::Bools(vec![true, false]),
            ),
            ("qwen35.rope.dimension_count", Meta::Int(8)),
            (
                "qwen35.rope.dimension_sections",
                Meta::Ints(vec![11, 11, 10, 0]),
            ),
        ],
        &[
            ("gpt-oss.expert_count", Meta::Int(4)),
            ("gpt-oss.expert_used_count", Meta::Int(2)),
            ("gpt-oss.expert_feed_forward_length", Meta::Int(128)),
            ("gpt-oss.attention.sliding_window", Meta::Int(4)),
            ("gpt-oss.rope.scaling.type", Meta::Text("yarn".into())),
        ],
    ];
    for ((name, more), wanted) in families().into_iter().zip(wanted) {
        let there = keys(&of_family(name, &more), family(name), 96).unwrap();
        for (key, value) in wanted {
            let found = there.iter().find(|(name, _)| name == key);
            assert_eq!(found.map(|(_, value)| value), Some(value), "{key}");
        }
    }
}

#[test]
fn what_llama_cpp_cannot_say_of_a_hybrid_is_refused() {
    for (at, key, value, says) in [
        (0, "conv_bias", json!(true), "GGUF's lfm2 means false"),
        (
            0,
            "layer_types",
            json!(["conv"]),
            "layer_types of the model's configuration has 1 entries for 2 layers",
        ),
        (
            1,
            "linear_value_head_dim",
            json!(16),
            "linear_value_head_dim of the model's configuration is 16; GGUF's qwen35 means 8",
        ),
        (
            1,
            "linear_num_value_heads",
            json!(5),
            "is 5, no multiple of linear_num_key_heads (2)",
        ),
        (
            1,
            "attention_bias",
            json!(true),
            "GGUF's qwen35 means false",
        ),
        (2, "swiglu_limit", json!(6.0), "GGUF's gpt-oss means 7.0"),
        (
            2,
            "attention_bias",
            json!(false),
            "GGUF's gpt-oss means true",
        ),
        (
            2,
            "rope_parameters",
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16}),
            "truncate of the rope scaling is true; GGUF's gpt-oss means false",
        ),
    ] {
        let (name, mut more) = families()[at].clone();
        more[key] = value;
        let e = keys(&of_family(name, &more), family(name), 96).unwrap_err();
        assert!(e.to_string().contains(says), "{e}");
    }
}

/// Numbers of layers that attend, as LFM2's first checkpoints name them; and gpt-oss's class, which
/// means yarn where nothing is said.
#[test]
fn what_a_class_makes_of_absent_keys_is_written() {
    let of = |at: usize, change: &dyn Fn(&mut Value)| {
        let (name, mut more) = families()[at].clone();
        change(&mut more);
        let mut config = of_family(name, &more);
        for gone in ["rope_theta", "rope_scaling"] {
            config.as_object_mut().unwrap().remove(gone);
        }
        keys(&config, family(name), 96).unwrap()
    };
    let lfm2 = of(0, &|c| {
        c["full_attn_idxs"] = json!([0]);
        c.as_object_mut().unwrap().remove("layer_types");
    });
    let heads = Meta::Ints(vec![2, 0]);
    assert!(lfm2.contains(&("lfm2.attention.head_count_kv".into(), heads)));
    assert!(lfm2.contains(&("lfm2.rope.freq_base".into(), Meta::Float(1e6))));
    let gpt_oss = of(2, &|c| {
        c.as_object_mut().unwrap().remove("rope_parameters");
    });
    for (key, value) in [
        ("rope.freq_base", Meta::Float(150_000.0)),
        ("rope.scaling.factor", Meta::Float(32.0)),
        ("rope.scaling.original_context_length", Meta::Int(4096)),
    ] {
        let wanted = (format!("gpt-oss.{key}"), value);
        assert!(gpt_oss.contains(&wanted), "{wanted:?}");
    }
}

/// Columns of a head of values lie apart in a file, and rows of 48 in one and a half blocks of 32.
#[test]
fn a_matrix_with_other_columns_holds_what_is_said_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let [_, (name, mut more), _] = families();
    more["linear_num_value_heads"] = json!(8); // rows of 64
    let base = base(name, &more);
    let out = dir.path().join("x.gguf");
    let (report, held) = export(&Player::bare(base), None, &out, GgufQuant::Q8_0);
    assert!(report.kinds["Q8_0"] > 0, "{report:?}");
    let again = load(Source::Gguf(out.clone()));
    for (weight, values) in &held {
        let found = again.weights[weight].to_f32().unwrap().flatten_all();
        let found: Vec<f32> = found.unwrap().to_vec1().unwrap();
        let off = found.iter().zip(values).map(|(a, b)| (a - b).abs());
        assert!(off.fold(0.0, f32::max) < 1e-6, "{weight}");
    }
    // blocks stay blocks but where they hold columns of several heads
    let options = LoadOptions {
        quant: Some(Quant::Gguf),
        dtype: Dtype::F32,
    };
    let kept = model::load(Source::Gguf(out), &options);
    for (part, is_kept) in [
        ("in_proj_z", true),
        ("in_proj_qkv", true),
        ("out_proj", false),
    ] {
        let weight = &kept.weights[&format!("model.layers.0.linear_attn.{part}.weight")];
        assert_eq!(matches!(weight, Weight::Quant(_)), is_kept, "{part}");
    }
    let off = difference(
        &logps(&Player::bare(kept)),
        &logps(&Player::bare(Arc::new(again))),
    );
    assert!(off < 0.05, "{off}"); // products with blocks round what they multiply
}

#[test]
fn an_update_s_rows_and_columns_go_with_the_matrix_s() {
    let dir = tempfile::tempdir().unwrap();
    let [_, (name, more), _] = families();
    let base = base(name, &more);
    let targets = ["in_proj_qkv", "out_proj"].map(str::to_string);
    let spec = LoraSpec {
        rank: 2,
        alpha: 4.0,
        targets: Targets::Names(targets.into()),
        ..LoraSpec::default()
    };
    let player = Player::with_lora(base.clone(), spec.clone(), 1).unwrap();
    let moved: BTreeMap<String, Tensor> = (player.params.iter())
        .map(|(name, t)| {
            let values: Vec<f32> = randori_lora::splitmix(2, name, t.elem_count())
                .map(|u| u as f32 - 0.5)
                .collect();
            let t = Tensor::from_vec(values, t.shape(), t.device()).unwrap();
            (name.clone(), t)
        })
        .collect();
    let out = dir.path().join("lora.gguf");
    let options = GgufLoraOptions {
        replace: true,
        name: "lora".into(),
    };
    let scale = |projection: &str| spec.scale_of(projection);
    gguf_lora(&moved, &base.config, family(name), &scale, &out, &options).unwrap();
    let own = |half: &str| &moved[&format!("model.layers.0.linear_attn.{half}")];
    let a = own("out_proj.lora_A").reshape((2, 2, 3, 8)).unwrap();
    let a = a.transpose(1, 2).unwrap().contiguous().unwrap();
    let b = own("in_proj_qkv.lora_B");
    let v = b.narrow(0, 32, 48).unwrap().reshape((2, 3, 8, 2)).unwrap();
    let v = v.transpose(0, 1).unwrap().contiguous().unwrap();
    let b = Tensor::cat(
        &[b.narrow(0, 0, 32).unwrap(), v.reshape((48, 2)).unwrap()],
        0,
    );
    for (part, wanted) in [
        ("ssm_out.weight.lora_a", a.reshape((2, 48)).unwrap()),
        ("ssm_out.weight.lora_b", own("out_proj.lora_B").clone()),
        ("attn_qkv.weight.lora_a", own("in_proj_qkv.lora_A").clone()),
        ("attn_qkv.weight.lora_b", b.unwrap()),
    ] {
        assert_eq!(apart(&stored(&out, &format!("blk.0.{part}")), &wanted), 0.0);
    }
}
