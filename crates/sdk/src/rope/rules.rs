//! [`RopeRules`]: what a family's class makes of its rotary keys.

/// What a family's class makes of its rotary keys: one value for most families, changed where a
/// family differs.
#[derive(Debug, Clone, Copy)]
pub struct RopeRules {
    /// `rope_theta` where it is absent.
    pub theta: f64,
    /// The key beside the sections that holds theta too; `None`: theta is in the section or absent.
    pub theta_key: Option<&'static str>,
    /// The share of a head that is rotated.
    pub share: Share,
    /// The type of layers these rules are for (`full_attention`), where the family keys
    /// `rope_parameters` by it; `None`: all layers rotate alike.
    pub layer_type: Option<&'static str>,
    /// Whether v4's `rope_scaling` is meant for these layers.
    pub scaled: bool,
    /// The section, in JSON, of a configuration that has none; `None`: plain frequencies.
    pub absent: Option<&'static str>,
    /// What a class with `original_max_position_embeddings` of its own has where the key is absent:
    /// such a class does not read the one inside the section. `None`: the section's counts, then
    /// `max_position_embeddings`.
    pub original: Option<usize>,
    /// The names in `rope_type` that the class takes, with what they mean.
    pub kinds: &'static [(&'static str, RopeKind)],
}

/// How a family's class reads `partial_rotary_factor`, the share of a head that is rotated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Share {
    /// Plain frequencies always rotate whole heads; a factor beside another kind is an error, since
    /// transformers cannot compute it.
    Whole,
    /// The key's value, or this one where it is absent.
    Part(f64),
}

impl RopeRules {
    /// The rules of most families: `partial_rotary_factor` counts, and is 1 where it is absent;
    /// theta is 10,000 where it is absent.
    pub const PART: RopeRules = RopeRules {
        theta: 10_000.0,
        theta_key: Some("rope_theta"),
        share: Share::Part(1.0),
        layer_type: None,
        scaled: true,
        absent: None,
        original: None,
        kinds: KINDS,
    };
    /// The same for architectures that always rotate whole heads (Llama, Mistral).
    pub const WHOLE: RopeRules = RopeRules {
        share: Share::Whole,
        ..RopeRules::PART
    };

    /// Those of layers that see everything, in families whose layers with a window have their own.
    pub const FULL: RopeRules = RopeRules {
        layer_type: Some("full_attention"),
        ..RopeRules::WHOLE
    };

    /// Those of layers with a window, whose theta is 10,000 and which nothing scales.
    pub const WINDOWED: RopeRules = RopeRules {
        theta_key: None,
        layer_type: Some("sliding_attention"),
        scaled: false,
        ..RopeRules::WHOLE
    };
}

/// How frequencies follow from theta (`rope_type`); d is the number of rotated features.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeKind {
    /// theta^(-2i/d).
    Default,
    /// All divided by one factor.
    Linear,
    /// A theta that grows with sequences longer than the model's longest.
    Dynamic,
    /// Long wavelengths divided by a factor, short ones kept, a ramp over pairs between (arXiv
    /// 2309.00071).
    Yarn,
    /// Each divided by its own number, of one of two lists by the sequence's length (arXiv
    /// 2402.13753).
    LongRope,
    /// Long wavelengths divided by a factor, short ones kept, a ramp over wavelengths between.
    Llama3,
    /// The first pairs of whole heads as plain ones of the head's size, the rest not rotated.
    Proportional,
}

/// Every kind under transformers' name.
pub(super) const KINDS: &[(&str, RopeKind)] = &[
    ("default", RopeKind::Default),
    ("linear", RopeKind::Linear),
    ("llama3", RopeKind::Llama3),
    ("yarn", RopeKind::Yarn),
    ("longrope", RopeKind::LongRope),
    ("dynamic", RopeKind::Dynamic),
    ("proportional", RopeKind::Proportional),
];
