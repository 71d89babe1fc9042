//! Keys of the model and of plugins.

use std::path::PathBuf;

use crate::recipe::refusal::RecipeError;
use crate::recipe::section::Section;
use crate::recipe::setting::{Bound, Key, ModelSource, OnResume, Setting, choice};
use crate::recipe::source::Entries;

choice! {
    /// How dense weights are kept in memory.
    Dtype {
        /// 4 bytes.
        F32 = "f32",
        /// 2 bytes, the range of f32.
        Bf16 = "bf16",
        /// 2 bytes, IEEE half.
        F16 = "f16",
    }
}

choice! {
    /// Where passes run.
    ComputeDevice {
        /// The processor.
        Cpu = "cpu",
        /// An NVIDIA GPU (a program built with the feature `cuda`).
        Cuda = "cuda",
    }
}

section! {
    /// The supervised fine-tuned model the game starts from.
    ["model"] Model {
        /// A Hugging Face folder, a `.gguf` file, a hub id (`org/name` or `org/name@revision`),
        /// `builtin:demo`, or `random:config.json` (fresh weights of that configuration, from
        /// `seed`). A run records the commit that a hub's revision (`main` where none is given) is
        /// when it begins, and goes on with that. It has no default.
        source: ModelSource = "";
        /// Architecture plugin; `model_type` of the model's configuration where it is not given.
        arch: Option<String> = "";
        /// How dense weights are kept. On the processor arithmetic is f32 whatever is chosen; on a
        /// GPU passes compute in it (f32 or bf16).
        dtype: Dtype = "\"f32\"";
        /// Where passes run.
        device: ComputeDevice = "\"cpu\"";
        /// Folder or GGUF file whose tokenizer is used; the model's own where it is not given.
        tokenizer: Option<PathBuf> = "";
        /// A Jinja file used instead of the tokenizer's chat template, or `plain`: prompts are
        /// taken as they are.
        chat_template: Option<String> = "";
    }
}

section! {
    /// Plugins beyond those in the binary's own folder.
    ["plugins"] Plugins {
        /// Plugin files (`librandori_plugin_NAME.so`) or folders of them. Loading a plugin runs its
        /// code, so each is loaded only after `--trust` was given once for it as it is
        /// (docs/reference/plugins.md).
        paths: Vec<PathBuf> = "[]";
    }
}
