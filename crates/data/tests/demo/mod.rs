//! Folders with the demo model's tokenizer.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// A folder with the demo model's tokenizer, its config changed as `config` says (null takes a key
/// out), and files.
pub fn folder(name: &str, config: &Value, files: &[(&str, Value)]) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("special-{name}"));
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(&dir).unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../configs/demo/model");
    fs::copy(demo.join("tokenizer.json"), dir.join("tokenizer.json")).unwrap();
    let mut whole = json!({
        "tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "<|end|>", "pad_token": "<|pad|>", "bos_token": null,
    });
    for (key, value) in config.as_object().unwrap() {
        match value {
            Value::Null => _ = whole.as_object_mut().unwrap().remove(key),
            value => whole[key] = value.clone(),
        }
    }
    fs::write(dir.join("tokenizer_config.json"), whole.to_string()).unwrap();
    for (file, content) in files {
        let path = dir.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let text = content.as_str().map_or(content.to_string(), str::to_owned);
        fs::write(path, text).unwrap();
    }
    dir
}
