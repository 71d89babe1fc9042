//! Logits of candle-transformers' Llama and Mistral at every position, from growing prefixes
//! without a cache (these models return the last position only).

use std::collections::HashMap;

use candle_core::{DType, Device, Tensor};
use candle_nn::{Activation, VarBuilder};
use candle_transformers::models::{llama, mistral};

use crate::model::{EPS, Rows, Shape, Weights, rows};

/// The family's own implementation.
pub fn logits(shape: &Shape, weights: &Weights, tokens: &[u32]) -> Rows {
    let map: HashMap<String, Tensor> = weights
        .iter()
        .map(|(n, t)| (n.clone(), t.clone()))
        .collect();
    let vb = VarBuilder::from_tensors(map, DType::F32, &Device::Cpu);
    let prefix = |n: usize| {
        Tensor::new(&tokens[..n], &Device::Cpu)
            .unwrap()
            .unsqueeze(0)
            .unwrap()
    };
    match shape.family {
        "llama" => {
            let config = llama(shape);
            let model = llama::Llama::load(vb, &config).unwrap();
            let last = |n: usize| {
                let mut cache =
                    llama::Cache::new(false, DType::F32, &config, &Device::Cpu).unwrap();
                rows(&model.forward(&prefix(n), 0, &mut cache).unwrap()).remove(0)
            };
            (1..=tokens.len()).map(last).collect()
        }
        "mistral" => {
            let mut model = mistral::Model::new(&mistral(shape), vb).unwrap();
            let last = |n: usize| {
                model.clear_kv_cache();
                rows(&model.forward(&prefix(n), 0).unwrap().squeeze(1).unwrap()).remove(0)
            };
            (1..=tokens.len()).map(last).collect()
        }
        other => panic!("no oracle for {other}"),
    }
}

fn llama(shape: &Shape) -> llama::Config {
    assert_eq!(
        shape.head_dim,
        shape.width / shape.heads,
        "candle's Llama has no head_dim"
    );
    let rope_scaling = shape.llama3.map(|l| llama::Llama3RopeConfig {
        factor: l.factor as f32,
        low_freq_factor: l.low as f32,
        high_freq_factor: l.high as f32,
        original_max_position_embeddings: l.original,
        rope_type: llama::Llama3RopeType::Llama3,
    });
    llama::Config {
        hidden_size: shape.width,
        intermediate_size: shape.ffn,
        vocab_size: shape.vocab,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads,
        num_key_value_heads: shape.kv_heads,
        use_flash_attn: false,
        rms_norm_eps: EPS,
        rope_theta: shape.theta as f32,
        bos_token_id: None,
        eos_token_id: None,
        rope_scaling,
        max_position_embeddings: shape.context,
        tie_word_embeddings: shape.tied,
    }
}

fn mistral(shape: &Shape) -> mistral::Config {
    mistral::Config {
        vocab_size: shape.vocab,
        hidden_size: shape.width,
        intermediate_size: shape.ffn,
        num_hidden_layers: shape.layers,
        num_attention_heads: shape.heads,
        head_dim: Some(shape.head_dim),
        num_key_value_heads: shape.kv_heads,
        hidden_act: Activation::Silu,
        max_position_embeddings: shape.context,
        rms_norm_eps: EPS,
        rope_theta: shape.theta,
        sliding_window: shape.window,
        use_flash_attn: false,
    }
}
