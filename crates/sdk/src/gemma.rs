//! What the Gemmas have in common: [`Absent::GEMMA`], [`Dense::gemma`].

use crate::{Absent, Activation, Config, Dense, Norms, Result, json::Json};

impl Absent {
    /// As in transformers' classes of Gemma 2 to 4, but for the vocabulary's size.
    pub const GEMMA: Absent = Absent {
        heads: Some(8),
        kv_heads: Some(4),
        head_dim: Some(256),
        vocab: None,
        eps: None,
        tied: true,
    };
}

impl Dense {
    /// Reads what Gemma 2 and 3 share: RMS norms of both branches' inputs and outputs, 1 added to
    /// every norm's weight; tanh GELU (`hidden_activation`; `hidden_act` is not read); scores times
    /// 1 / √`query_pre_attn_scalar`; the embedding's rows times √width; a tied head. Absent keys
    /// have the values of transformers' classes, whose vocabularies differ: `vocab`. The caller
    /// sets rotary embeddings, windows, caps, norms of heads.
    ///
    /// √width is rounded to what the configuration's `dtype` (or `torch_dtype`) holds: transformers
    /// casts it to the embedding's type, so that √3584 = 59.87 is 59.75 for a folder in bf16 that
    /// it loads as it is. Without that key (a GGUF has none) it is an f32, as in llama.cpp.
    ///
    /// # Errors
    /// A key that is missing, of another type or out of range; another activation; attention in
    /// both directions.
    pub fn gemma(c: &Config, vocab: usize) -> Result<Dense> {
        c.only("hidden_activation", &["gelu_pytorch_tanh"])?;
        if c.bool_or("use_bidirectional_attention", false)? {
            let what = "is true: only attention to earlier tokens is supported";
            return Err(c.error("use_bidirectional_attention", what));
        }
        let scalar = c.f64_or("query_pre_attn_scalar", 256.0)?;
        if scalar <= 0.0 {
            let what = format!("must be > 0, is {scalar}");
            return Err(c.error("query_pre_attn_scalar", &what));
        }
        let absent = Absent {
            vocab: Some(vocab),
            ..Absent::GEMMA
        };
        let dense = Dense::sizes(c, absent)?;
        let biases = c.bool_or("attention_bias", false)?;
        Ok(Dense {
            qkv_bias: biases,
            o_bias: biases,
            norms: Norms::AROUND,
            norm_plus: 1.0,
            activation: Activation::GeluTanh,
            embed_scale: c.held((dense.width as f64).sqrt()),
            attn_scale: Some(scalar.powf(-0.5) as f32),
            ..dense
        })
    }
}

impl Config {
    /// A value as the configuration's type of weights holds it, with 8 (bf16) or 11 (f16)
    /// significant bits; f32 of any other.
    pub fn held(&self, value: f64) -> f64 {
        let bits = match self.get("dtype").or_else(|| self.get("torch_dtype")) {
            Some(Json::Text(dtype)) if dtype == "bfloat16" => 8,
            Some(Json::Text(dtype)) if dtype == "float16" => 11,
            _ => return f64::from(value as f32),
        };
        if value == 0.0 {
            return value;
        }
        let last = 2f64.powi(value.log2().floor() as i32 + 1 - bits); // the last bit's value
        (value / last).round_ties_even() * last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scale(width: usize, more: &str) -> f64 {
        let text = format!(
            r#"{{"hidden_size": {width}, "intermediate_size": 8, "num_hidden_layers": 1{more}}}"#
        );
        Dense::gemma(&Config::parse(&text).unwrap(), 8)
            .unwrap()
            .embed_scale
    }

    #[test]
    fn the_embedding_s_factor_is_held_as_the_weights_are() {
        // torch.tensor(width ** 0.5).to(dtype)
        let bf16 = r#", "dtype": "bfloat16""#;
        let of = [
            (640, 25.25),
            (1152, 34.0),
            (2304, 48.0),
            (2560, 50.5),
            (3072, 55.5),
        ];
        for (width, want) in of
            .into_iter()
            .chain([(3584, 59.75), (3840, 62.0), (5376, 73.5)])
        {
            assert_eq!(scale(width, bf16), want, "{width}");
        }
        assert_eq!(scale(3584, r#", "torch_dtype": "bfloat16""#), 59.75);
        let both = r#", "dtype": "float32", "torch_dtype": "bfloat16""#;
        for f32s in ["", both, r#", "dtype": {"text_config": "bfloat16"}"#] {
            assert_eq!(scale(3584, f32s), f64::from(3584f32.sqrt()), "{f32s}");
        }
        assert_eq!(scale(3584, r#", "dtype": "float16""#), 59.875);
        assert_eq!(scale(640, r#", "dtype": "float16""#), 25.296875);
    }
}
