//! [`Dialect`]: what a family of models is called outside Randori, and how other programs store it.
//!
//! A family states only what differs from Llama: parts that several share are constants of
//! [`Module`], [`Biases`] and [`Gguf`]. A dialect crosses the C ABI as JSON ([`Dialect::json`],
//! [`Dialect::parse`]), so that it can get fields without changing a struct.

mod json;
mod metadata;
mod parts;

use crate::json::Json;
use json::{Part, records, words};

records! {
    /// What a family is called elsewhere; [`crate::Arch::DIALECT`].
    pub struct Dialect {
        /// transformers' class, `Qwen3ForCausalLM`; empty: unknown.
        pub class: &'static str,
        /// `model_type`s of models of several parts (vision, audio) whose text part is of this
        /// family: `gemma3` for `gemma3_text`.
        pub wholes: &'static [&'static str],
        /// The key of such a model's configuration that holds the text part's; `text_config` where
        /// this is empty.
        pub text: &'static str,
        /// How tensors' names may begin in such a model's checkpoint.
        pub prefixes: &'static [Prefix],
        /// Tensors that checkpoints carry and no layer reads, as patterns in which `*` stands for
        /// any text: `model.vision_tower.*`. Buffers of rotary frequencies always count as such.
        pub ignored: &'static [&'static str],
        /// PEFT's default `target_modules`; empty: it has none.
        pub targets: &'static [&'static str],
        /// What transformers' class makes of absent keys, as a JSON object, where that matters to
        /// others than the architecture: `{"head_dim": 128}`; empty: nothing.
        pub defaults: &'static str,
        /// How llama.cpp stores it; `None`: not at all, or not known here.
        pub gguf: Option<Gguf>,
        /// Tensors in which checkpoints stack the matrices of all experts of a layer.
        pub stacks: &'static [Stack],
    }

    /// A tensor of a layer that stacks matrices of all experts, (experts, …), or their biases,
    /// (experts, out). It is stored so by transformers; the architecture asks for its parts.
    pub struct Stack {
        /// Its name within the layer: `mlp.experts.gate_up_proj`.
        pub stored: &'static str,
        /// Names of an expert's parts within the layer, `{}` being its number:
        /// `mlp.experts.{}.gate_proj.weight`. All have equally many outputs.
        pub parts: &'static [&'static str],
        /// How they lie in it.
        pub layout: Layout,
    }

    /// How tensors' names begin in a checkpoint, and in the text part alone.
    pub struct Prefix {
        /// `model.language_model.`
        pub stored: &'static str,
        /// `model.`
        pub name: &'static str,
    }

    /// How llama.cpp stores a family.
    pub struct Gguf {
        /// `general.architecture`, and the first part of its keys.
        pub architecture: &'static str,
        /// Other architectures that are read as this one.
        pub also: &'static [&'static str],
        /// Whether files are read as this family. Of several families of one architecture only one
        /// is, or they are told apart by `told_by`.
        pub read: bool,
        /// A file is of this family if it has this key (without the architecture) and that is not
        /// 0: `expert_count`. Empty: if no other family of its architecture is told by a key.
        pub told_by: &'static str,
        /// All modules, in groups that families share.
        pub modules: &'static [&'static [Module]],
        /// Modules, by llama.cpp's names, whose bias it adds; `None`: any.
        pub biased: Option<&'static [&'static str]>,
        /// Projections that all have biases or none.
        pub biases: &'static [Biases],
        /// The key of what norms add to the mean square, without the architecture.
        pub epsilon: &'static str,
        /// Whether heads may have another size than width / heads.
        pub any_head_dim: bool,
        /// Whether `partial_rotary_factor` may be other than 1.
        pub partial_rotary: bool,
        /// Tensors that divide the rotary frequencies.
        pub divisors: Divisors,
        /// Whether `rope.scaling.yarn_log_multiplier` counts.
        pub yarn_log: bool,
        /// Whether files are of models whose yarn ends its ramp at whole pairs (`truncate`), as
        /// llama.cpp computes it for all.
        pub yarn_truncates: bool,
        /// What becomes of sliding windows.
        pub sliding: Sliding,
        /// Keys of the configuration under other names than Llama's.
        pub renamed: &'static [Renamed],
        /// Keys beside Llama's.
        pub keys: &'static [Key],
        /// What every file of this architecture implies.
        pub implied: &'static [Implied],
        /// Layers that do not attend, of which `attention.head_count_kv` is 0; `None`: that is one
        /// number for all layers.
        pub headless: Option<Headless>,
        /// Layers with a window and layers that see everything, whose heads have different sizes;
        /// `None`: all layers have the same sizes.
        pub kinds: Option<Kinds>,
        /// Heads of values of which several share one of keys, in another order; `None`: there are
        /// none.
        pub grouped: Option<Grouped>,
        /// The module of every layer whose weight's rows are `feed_forward_length`; empty: that is
        /// the configuration's `intermediate_size`.
        pub ffn: &'static str,
        /// Whether layers may be without a group of `modules`, of which they have all or none.
        pub hybrid: bool,
        /// Whether the last `nextn_predict_layers` blocks predict further tokens: they are left
        /// unread.
        pub nextn: bool,
    }

    /// Layers that do not attend.
    pub struct Headless {
        /// What `layer_types` calls them: `conv`.
        pub kind: &'static str,
        /// The configuration's key with the numbers of all others, where it has no `layer_types`.
        pub others: &'static str,
    }

    /// Layers of two kinds, which the key `attention.sliding_window_pattern` tells apart. The
    /// configuration's `head_dim` and `num_key_value_heads` are of layers with a window. A file has
    /// the features of their heads under `attention.key_length_swa`, those of layers that see
    /// everything under `attention.key_length`, and numbers of heads, and features inside
    /// perceptrons, as lists where they differ.
    ///
    /// Of the last layers some may take over keys and values: llama.cpp lets those with a window
    /// have them from the last but one of the layers before, which must have one too, and the
    /// others from the last of these.
    pub struct Kinds {
        /// Where there is no `layer_types`, all layers have a window but every so many; 0: all
        /// have. The last layer sees everything, whatever is said.
        pub every: usize,
        /// The configuration's key with the features of a head of layers that see everything:
        /// `global_head_dim`.
        pub features: &'static str,
        /// That with the number of their heads of keys and values: `num_global_key_value_heads`.
        pub key_heads: &'static str,
        /// The flag without which `key_heads` does not count, and with which these layers have no
        /// projection to values: `attention_k_eq_v`.
        pub keys_are_values: &'static str,
        /// An object of layers' numbers, each with a `head_dim` and a `num_key_value_heads` of its
        /// own; where it is there, it counts instead of both keys: `per_layer_config`.
        pub each: &'static str,
        /// How many of the last layers take over keys and values: `num_kv_shared_layers`.
        pub shared: &'static str,
        /// The flag with which perceptrons of these have twice as many features:
        /// `use_double_wide_mlp`.
        pub doubled: &'static str,
    }

    /// Keys of a configuration with numbers of heads. transformers has all heads of values that
    /// share a head of keys beside each other; llama.cpp the first of each head of keys, then the
    /// second of each.
    pub struct Grouped {
        /// Heads of keys.
        pub keys: &'static str,
        /// Heads of values.
        pub values: &'static str,
        /// Features of a head of values.
        pub features: &'static str,
    }

    /// A module or a tensor by both names.
    pub struct Module {
        /// transformers' name: within a layer `self_attn.q_proj`, outside the layers `lm_head`.
        /// `{}` stands for an expert's number: llama.cpp stacks the matrices of all experts of a
        /// layer in one tensor.
        pub name: &'static str,
        /// A second module whose rows follow those of the first in the same tensor of a file, both
        /// of experts: `experts.{}.up_proj`; empty: none.
        pub beside: &'static str,
        /// llama.cpp's: `attn_q`, `output`.
        pub stored: &'static str,
        /// Where it is.
        pub place: Place,
        /// Rows of its weight (out), and length of its bias.
        pub rows: Size,
        /// Columns of its weight (in).
        pub columns: Size,
        /// The order in which llama.cpp has the rows.
        pub order: Order,
        /// What llama.cpp stores for a value.
        pub values: Values,
        /// Whether both names are tensors', which end neither in `.weight` nor in `.bias` on both
        /// sides: `self_attn.sinks`, `attn_sinks.weight`.
        pub raw: bool,
        /// Whether some layers, or models, are without it.
        pub optional: bool,
        /// Whether a file lacks the middle axis, of length 1, of its weight: (channels, 1, taps) of
        /// a convolution of each channel by itself.
        pub squeezed: bool,
        /// Whether llama.cpp applies an adapter's update of it otherwise than it was trained, or
        /// not at all, without a word.
        pub not_adapted: bool,
    }

    /// Projections of a module that have biases together.
    pub struct Biases {
        /// The configuration's key that says so; `None`: they have biases always.
        pub key: Option<&'static str>,
        /// The module that they are in: `self_attn`.
        pub module: &'static str,
        /// Their names there.
        pub projections: &'static [&'static str],
    }

    /// A key of the configuration that most families have under another name.
    pub struct Renamed {
        /// The usual name: `rms_norm_eps`.
        pub usual: &'static str,
        /// The family's: `norm_eps`.
        pub here: &'static str,
        /// Whether that is an older name, and a file is read under the usual one.
        pub older: bool,
    }

    /// A key of a GGUF file and the configuration's.
    pub struct Key {
        /// Without the architecture: `attention.sliding_window`.
        pub key: &'static str,
        /// The configuration's; `.` leads into an object. Of several the first that is there
        /// counts, and the first is written.
        pub config: &'static [&'static str],
        /// What both hold.
        pub form: Form,
        /// The file's number is this times the configuration's.
        pub factor: f64,
        /// The file's number is `factor` divided by the configuration's.
        pub reciprocal: bool,
        /// The configuration's key of a whole number by which a file's whole number is multiplied
        /// as well; empty: none.
        pub times: &'static str,
        /// For `Form::Slides` what `layer_types` calls the layers of which a file says false and
        /// true; empty: `full_attention` and `sliding_attention`.
        pub kinds: &'static [&'static str],
        /// Whether it is an error for a file or a configuration to be without it.
        pub required: bool,
        /// The configuration's flag without which the key is not written, and which is true where
        /// a file has the key; empty: none.
        pub only_with: &'static str,
    }

    /// What a file of an architecture means for its configuration without saying so: it becomes
    /// part of a configuration that is read; one that says otherwise cannot be written.
    pub struct Implied {
        /// The configuration's key.
        pub config: &'static str,
        /// What it is.
        pub is: Is,
        /// For `Is::Json` the values as JSON, of which a file means the first, and the others
        /// compute the same; for `Is::Cycle` the layers' kinds, again and again, each a number or
        /// text; for `Is::Other` another key.
        pub values: &'static [&'static str],
        /// Only for models of so many layers; 0: for all. Of several entries for a key the first
        /// that fits counts.
        pub layers: usize,
        /// Whether a configuration may be without the key as well, which then means the same and
        /// is how a file is read.
        pub absent: bool,
        /// Whether a configuration may say otherwise, since the tensors tell the same.
        pub lenient: bool,
    }
}

words! {
    /// Where a module is.
    pub enum Place {
        /// In a layer: `model.layers.3.` and `blk.3.` come before the names.
        Layer = "layer",
        /// Before all layers.
        Before = "before",
        /// After all layers.
        After = "after",
    }

    /// A size that a configuration gives.
    pub enum Size {
        /// None that could be checked.
        Free = "free",
        /// `hidden_size`.
        Width = "width",
        /// `num_attention_heads` · `head_dim`.
        Query = "query",
        /// `num_key_value_heads` · `head_dim`.
        Key = "key",
        /// `intermediate_size`.
        Ffn = "ffn",
        /// As many as the embedding of the file has rows.
        Vocabulary = "vocabulary",
    }

    /// How a stack holds the matrices (out, in) of an expert.
    pub enum Layout {
        /// (experts, out, in); the parts of an expert follow one another by rows.
        Rows = "rows",
        /// (experts, in, out), the transpose; the parts follow one another by columns.
        Columns = "columns",
        /// (experts, in, out); the parts take turns, column by column (gpt-oss).
        Interleaved = "interleaved",
    }

    /// The order of a matrix's rows in a file.
    pub enum Order {
        /// As in transformers.
        Same = "same",
        /// Of each head (`Size::Query` or `Size::Key` rows) the two halves take turns, since
        /// llama.cpp rotates neighbours: Llama's q and k.
        Turned = "turned",
        /// Of heads of values, `Gguf::grouped`.
        Grouped = "grouped",
        /// The same of the last rows only, behind those of queries and keys.
        GroupedLast = "grouped_last",
        /// The columns are in that order, not the rows.
        GroupedColumns = "grouped_columns",
    }

    /// What a file stores for each value.
    pub enum Values {
        /// The value.
        Same = "same",
        /// The value + 1: norms that multiply by 1 + w.
        PlusOne = "plus_one",
        /// -exp(value): rates of decay, whose logarithm is the parameter.
        MinusExp = "minus_exp",
    }

    /// Tensors that divide the rotary frequencies.
    pub enum Divisors {
        /// None are read.
        None = "none",
        /// `rope_freqs.weight`.
        One = "one",
        /// `rope_factors_long.weight` and `rope_factors_short.weight`, by the text's length.
        LongShort = "long_short",
        /// `rope_freqs.weight`, always: of layers that see everything, 1 for pairs of features that
        /// are rotated and 1e30 for the others.
        Proportional = "proportional",
    }

    /// What becomes of sliding windows, `sliding_window` tokens long.
    pub enum Sliding {
        /// Nothing is lost: there are none, or keys hold them.
        Kept = "kept",
        /// All layers lose them, or those that `layer_types` names.
        Lost = "lost",
        /// The same with `use_sliding_window`, from `max_window_layers` on.
        LostInUse = "lost_in_use",
    }

    /// What a key holds.
    pub enum Form {
        /// A number.
        Real = "real",
        /// A whole number; 0 in a file counts as absent.
        Whole = "whole",
        /// A whole number; an absent one counts as 0, on both sides.
        Count = "count",
        /// A number above 0, of which a file says 0 where there is none.
        Cap = "cap",
        /// True or false.
        Flag = "flag",
        /// Text.
        Text = "text",
        /// Of each layer which of two kinds it is, as true or false; in the configuration their
        /// names, `Key::kinds`.
        Slides = "slides",
        /// A list of whole numbers, of which a file has four: 0 where the configuration has fewer.
        Four = "four",
    }

    /// What is implied.
    pub enum Is {
        /// A value.
        Json = "json",
        /// `head_dim`.
        HeadDim = "head_dim",
        /// `hidden_size` / `num_attention_heads`.
        WidthPerHead = "width_per_head",
        /// `rope_theta`, of layers that see everything where there are two.
        Theta = "theta",
        /// A list with one number or text a layer.
        Cycle = "cycle",
        /// What another key says.
        Other = "other",
    }
}

impl Dialect {
    /// Nothing is known: the dialect of plugins that have none.
    pub const NONE: Dialect = Dialect {
        class: "",
        wholes: &[],
        text: "",
        prefixes: &[],
        ignored: &[],
        targets: &[],
        defaults: "",
        gguf: None,
        stacks: &[],
    };

    /// As JSON.
    pub fn json(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// Reads [`Dialect::json`]'s text.
    ///
    /// # Errors
    /// What is no JSON, and a field or word that is not known, by its place: one that came later.
    pub fn parse(text: &str) -> Result<Dialect, String> {
        let json = Json::parse(text).map_err(|e| e.0.replace("the configuration", "it"))?;
        let dialect = Dialect::read(&json)?;
        let texts = dialect.gguf.iter().flat_map(|gguf| gguf.implied);
        let texts = texts.filter(|i| i.is == Is::Json).flat_map(|i| i.values);
        let defaults = Some(&dialect.defaults).filter(|text| !text.is_empty());
        for text in texts.chain(defaults) {
            Json::parse(text).map_err(|_| format!("`{text}` is not JSON"))?;
        }
        Ok(dialect)
    }

    /// Whether a checkpoint's tensor may be left unread.
    pub fn ignores(&self, tensor: &str) -> bool {
        let mut patterns = self.ignored.iter().chain(&["*.rotary_emb.inv_freq"]);
        patterns.any(|pattern| fits(pattern, tensor))
    }

    /// Whether checkpoints stack experts' gate and other input so that their outputs take turns.
    pub fn takes_turns(&self) -> bool {
        let mut stacks = self.stacks.iter();
        stacks.any(|stack| stack.layout == Layout::Interleaved && stack.parts.len() == 2)
    }

    /// A tensor's name in the text part alone.
    pub fn plain<'a>(&self, tensor: &'a str) -> std::borrow::Cow<'a, str> {
        let rest = |p: &Prefix| Some((p.name, tensor.strip_prefix(p.stored)?));
        match self.prefixes.iter().find_map(rest) {
            Some((name, rest)) => format!("{name}{rest}").into(),
            None => tensor.into(),
        }
    }
}

/// Whether a text is as a pattern says, in which `*` stands for any text.
fn fits(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == text,
        Some((start, rest)) => text.strip_prefix(start).is_some_and(|left| {
            let mut ends = left.char_indices().map(|(i, _)| i).chain([left.len()]);
            ends.any(|i| fits(rest, &left[i..]))
        }),
    }
}

#[cfg(test)]
mod tests;
