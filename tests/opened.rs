//! Models opened as the program opens them: with the architecture that the plugin of their
//! `model_type` makes.
#![allow(dead_code)] // each test program uses a part

use std::sync::{Arc, LazyLock};

use randori_engine::{
    Base,
    weights::{Checkpoint, LoadOptions, Source, open},
};
use randori_host::{Host, SearchPath};
use randori_sdk::seam::{Architecture, Family};
use serde_json::Value;

/// Every plugin beside the test program, loaded once.
pub static HOST: LazyLock<Host> =
    LazyLock::new(|| Host::discover(&SearchPath::standard()).expect("the stock plugins load"));

/// The families of these plugins.
pub fn families() -> &'static [Family] {
    HOST.families().expect("the stock plugins' dialects")
}

/// The family of this name.
pub fn family(name: &str) -> &'static Family {
    let found = families().iter().find(|family| family.name == name);
    found.expect("a stock plugin has it")
}

/// The architecture of a configuration.
pub fn architecture(config: &Value) -> Arc<dyn Architecture> {
    let family = config["model_type"].as_str().expect("a model_type");
    HOST.architecture(family, &config.to_string()).unwrap()
}

/// Opens a source, with its architecture.
pub fn opened(source: Source) -> (Checkpoint, Arc<dyn Architecture>) {
    let checkpoint = open(source, families()).unwrap();
    let arch = architecture(checkpoint.config());
    (checkpoint, arch)
}

/// Opens a source and loads it.
pub fn load(source: Source, options: &LoadOptions) -> Arc<Base> {
    let (checkpoint, arch) = opened(source);
    Arc::new(checkpoint.load(arch, options, &mut |_, _| ()).unwrap())
}
